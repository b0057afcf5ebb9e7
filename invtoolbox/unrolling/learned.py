"""The learned parts of a solver: networks of the priors, weight, and settings such as steps."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from invtoolbox.core.settings import Settings
from invtoolbox.errors import InputError
from invtoolbox.objective.objective import Objective
from invtoolbox.priors.base import PriorSum
from invtoolbox.solvers.base import Solver

NETWORK, WEIGHT = "network", "regularization"


class LearnedParameters(nn.Module):
    """Factors on the numbers of a solver, and networks.

    One for all iterations, or one per iteration.

    By default everything available is learned, including the settings of the solver if
    ``settings_too``. A factor is the exponential of a parameter that starts at 0: a learned number
    starts at the user's value and stays positive.

    Attributes:
        logarithms: logarithms of the factors by the name of the setting, ``(iterations,)``, or
            ``(1,)`` if all iterations share one.
        networks: networks and bare parameters of the priors, in the order of `modules_of`; one list
            per iteration, or one list for all.
    """

    def __init__(
        self,
        solver: Solver,
        prior: PriorSum,
        objective: Objective,
        iterations: int,
        learn: Sequence[str] | None,
        per_iteration: Sequence[str] | bool | None,
        settings_too: bool,
    ) -> None:
        super().__init__()
        self.fixed_step = any(term.prior.unit_step for term in objective.prior.terms)
        everything = self._available(solver, prior, objective)
        usual = tuple(n for n in everything if settings_too or n in (NETWORK, WEIGHT))
        chosen = (
            usual
            if learn is None
            else _check_names(learn, everything, "learn", f"{solver!r} with {prior!r}")
        )
        may_differ = tuple(
            n for n in chosen if n != WEIGHT or WEIGHT in (solver.per_iteration or ())
        )
        settings = [name for name in solver.per_iteration or () if name != WEIGHT]
        if learn is None and not chosen:
            raise InputError(
                f"there is nothing to learn: {prior!r} holds no network and takes no weight, and "
                f"{type(solver).__name__} was given none of "
                f"{', '.join(settings) or 'its settings'} as a number; learn=() makes a layer "
                "without weights of its own"
            )
        if isinstance(per_iteration, bool):
            differing = may_differ if per_iteration else ()
        elif per_iteration is None:
            differing = tuple(name for name in may_differ if name != NETWORK)
        else:
            differing = _check_names(
                per_iteration,
                may_differ,
                "per_iteration",
                f"what {type(solver).__name__} learns here",
            )
        self.logarithms = nn.ParameterDict(
            {
                name: nn.Parameter(
                    torch.zeros(iterations if name in differing else 1, dtype=objective.nan().dtype)
                )
                for name in chosen
                if name != NETWORK
            }
        )
        bases = [
            Held(module) if isinstance(module, nn.Parameter) else module
            for module in modules_of(prior)
        ]
        for module in bases:
            module.requires_grad_(NETWORK in chosen)
        # If every iteration has the same networks, these are the prior's own.
        layers = (
            [copy.deepcopy(bases) for _ in range(iterations)] if NETWORK in differing else [bases]
        )
        self.networks = nn.ModuleList([nn.ModuleList(layer) for layer in layers])

    def _available(self, solver: Solver, prior: PriorSum, objective: Objective) -> tuple[str, ...]:
        has_network = any(
            isinstance(module, nn.Parameter) or any(True for _ in module.parameters())
            for module in modules_of(prior)
        )
        weighable = any(
            not term.prior.fixed_level and not term.prior.is_constraint
            for term in objective.prior.terms
        )
        # A prox that is known at one step alone leaves the step to the weight.
        settings = () if self.fixed_step else solver.adjustable
        network, weight = (NETWORK,) if has_network else (), (WEIGHT,) if weighable else ()
        return (*network, *weight, *settings)

    def forward(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Return ``work(*arguments)``, with the parameters that this module has during the call."""
        return work(*arguments)

    def factor(self, name: str, iteration: int) -> Tensor | None:
        """Return the factor on a number at an iteration; ``None`` if it is not learned."""
        if name not in self.logarithms:
            return None
        factors = self.logarithms[name].exp()
        return factors[iteration if len(factors) > 1 else 0]

    def solver_at(self, solver: Solver, iteration: int) -> Solver:
        """Return the solver with the settings of an iteration."""
        changes: dict[str, Any] = dict.fromkeys(solver.adjustable) if self.fixed_step else {}
        for name in solver.adjustable:
            factor = self.factor(name, iteration)
            if factor is not None:
                changes[name] = getattr(solver, name) * factor
        return dataclasses.replace(solver, **changes) if changes else solver

    def objective_at(self, objective: Objective, base: PriorSum, iteration: int) -> Objective:
        """Return the objective with weight and networks of an iteration.

        ``base`` holds the networks that they replace.
        """
        factor = self.factor(WEIGHT, iteration)
        if factor is not None:
            # If a prior is known to converge above a least weight only, the excess over it is
            # learned.
            floor = torch.zeros_like(objective.regularization)
            for term in objective.prior.terms:
                if term.prior.least_weight is not None:
                    floor = torch.maximum(
                        floor, term.prior.least_weight / torch.as_tensor(term.weight).to(floor)
                    )
            weight = objective.regularization
            objective = objective.with_regularization(
                torch.where(floor > 0, floor + (weight - floor) * factor, weight * factor)
            )
        modules = list(modules_of(base))
        if len(self.networks) > 1 or any(isinstance(module, nn.Parameter) for module in modules):
            layer = {id(old): new for old, new in zip(modules, self._layer(iteration))}
            objective = dataclasses.replace(
                objective,
                prior=with_modules(objective.prior, lambda module: layer.get(id(module), module)),
            )
        return objective

    def _layer(self, iteration: int) -> Iterator[Part]:
        layer = self.networks[iteration if len(self.networks) > 1 else 0]
        assert isinstance(layer, nn.ModuleList)
        return (module.value if isinstance(module, Held) else module for module in layer)


class Held(nn.Module):
    """Module of one parameter, which a prior holds without a module."""

    def __init__(self, value: nn.Parameter) -> None:
        super().__init__()
        self.value = value


Part = nn.Module | nn.Parameter


def modules_of(settings: Any) -> Iterator[Part]:
    """Return every module and every bare parameter that priors hold, once each."""
    modules: dict[int, Part] = {}

    def note(module: Part) -> Part:
        modules.setdefault(id(module), module)
        return module

    with_modules(settings, note)
    return iter(modules.values())


def with_modules(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a copy of priors, sums and their terms with other modules and bare parameters.

    Everything else is shared.
    """
    if isinstance(value, (nn.Module, nn.Parameter)):
        return change(value)
    if isinstance(value, (tuple, list)):
        return (
            type(value)(with_modules(entry, change) for entry in value)
            if not hasattr(value, "_fields")
            else value
        )
    if isinstance(value, dict):
        return {key: with_modules(entry, change) for key, entry in value.items()}
    if (
        isinstance(value, type)
        or not (isinstance(value, Settings) or dataclasses.is_dataclass(value))
        or not hasattr(value, "__dict__")
    ):
        return value
    # Settings are frozen, and their __init__ may compute or check.
    changed = copy.copy(value)
    for name, attribute in vars(value).items():
        object.__setattr__(changed, name, with_modules(attribute, change))
    return changed


def _check_names(
    names: Sequence[str], available: Sequence[str], setting: str, what: str
) -> tuple[str, ...]:
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in available:
            raise InputError(
                f"{setting}= names {name!r}, which is none of what can be learned of {what}: "
                f"{', '.join(available) or 'nothing'}; a setting can be learned if it was given as a "
                "number"
            )
    return names
