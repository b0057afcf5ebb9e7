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
        usual = (
            everything
            if settings_too
            else tuple(name for name in everything if name in (NETWORK, WEIGHT))
        )
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
            own = may_differ if per_iteration else ()
        elif per_iteration is None:
            own = tuple(name for name in may_differ if name != NETWORK)
        else:
            own = _check_names(
                per_iteration,
                may_differ,
                "per_iteration",
                f"what {type(solver).__name__} learns here",
            )
        self.logarithms = nn.ParameterDict(
            {
                name: nn.Parameter(
                    torch.zeros(iterations if name in own else 1, dtype=objective.nan().dtype)
                )
                for name in chosen
                if name != NETWORK
            }
        )
        bases = [
            Held(part) if isinstance(part, nn.Parameter) else part for part in modules_of(prior)
        ]
        for module in bases:
            module.requires_grad_(NETWORK in chosen)
        # If every iteration has the same networks, these are the prior's own.
        layers = [copy.deepcopy(bases) for _ in range(iterations)] if NETWORK in own else [bases]
        self.networks = nn.ModuleList([nn.ModuleList(layer) for layer in layers])

    def _available(self, solver: Solver, prior: PriorSum, objective: Objective) -> tuple[str, ...]:
        names = (
            [NETWORK]
            if any(
                isinstance(part, nn.Parameter) or any(True for _ in part.parameters())
                for part in modules_of(prior)
            )
            else []
        )
        weighable = any(
            not term.prior.fixed_level and not term.prior.is_constraint
            for term in objective.prior.terms
        )
        names += [WEIGHT] if weighable else []
        # A prox that is known at one step alone leaves the step to the weight.
        return (*names, *(() if self.fixed_step else solver.adjustable))

    def forward(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Return ``work(*arguments)``, with the parameters that this module has during the call."""
        return work(*arguments)

    def factor(self, name: str, iteration: int) -> Tensor | None:
        """Return the factor on a number at an iteration; ``None`` if it is not learned."""
        if name not in self.logarithms:
            return None
        values = self.logarithms[name].exp()
        return values[iteration if len(values) > 1 else 0]

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
        parts = list(modules_of(base))
        if len(self.networks) > 1 or any(isinstance(part, nn.Parameter) for part in parts):
            own = {id(old): new for old, new in zip(parts, self._layer(iteration))}
            objective = dataclasses.replace(
                objective,
                prior=with_modules(objective.prior, lambda module: own.get(id(module), module)),
            )
        return objective

    def _layer(self, iteration: int) -> Iterator[Part]:
        layer = self.networks[iteration if len(self.networks) > 1 else 0]
        assert isinstance(layer, nn.ModuleList)
        return (each.value if isinstance(each, Held) else each for each in layer)


class Held(nn.Module):
    """Module of one parameter, which a prior holds without a module."""

    def __init__(self, value: nn.Parameter) -> None:
        super().__init__()
        self.value = value


Part = nn.Module | nn.Parameter


def modules_of(settings: Any) -> Iterator[Part]:
    """Return every module and every bare parameter that priors hold, once each."""
    found: dict[int, Part] = {}

    def note(module: Part) -> Part:
        found.setdefault(id(module), module)
        return module

    with_modules(settings, note)
    return iter(found.values())


def with_modules(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a copy of priors, sums and their terms with other modules and bare parameters.

    Everything else is shared.
    """
    if isinstance(value, (nn.Module, nn.Parameter)):
        return change(value)
    if isinstance(value, (tuple, list)):
        return (
            type(value)(with_modules(part, change) for part in value)
            if not hasattr(value, "_fields")
            else value
        )
    if isinstance(value, dict):
        return {key: with_modules(part, change) for key, part in value.items()}
    if (
        isinstance(value, type)
        or not (isinstance(value, Settings) or dataclasses.is_dataclass(value))
        or not hasattr(value, "__dict__")
    ):
        return value
    other = copy.copy(value)
    for name, part in vars(value).items():
        object.__setattr__(other, name, with_modules(part, change))
    return other


def _check_names(
    names: Sequence[str], known: Sequence[str], setting: str, what: str
) -> tuple[str, ...]:
    for name in (names,) if isinstance(names, str) else names:
        if name not in known:
            raise InputError(
                f"{setting}= names {name!r}, which is none of what can be learned of {what}: "
                f"{', '.join(known) or 'nothing'}; a setting can be learned if it was given as a "
                "number"
            )
    return (names,) if isinstance(names, str) else tuple(names)
