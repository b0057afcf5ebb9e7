"""Solvers as torch modules: learned settings per iteration, run by `invtoolbox.loop.run`.

`LayeredSolver` is a solver whose settings are learned. `SolverNetwork` is the common base of an
unrolled solver and its fixed point: its measurements come with each call.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from invtoolbox.catalogue.presets import prior_named, solver_named
from invtoolbox.core.pytrees import blank_items
from invtoolbox.core.settings import Settings
from invtoolbox.errors import InputError
from invtoolbox.loop.differentiation import check_differentiable
from invtoolbox.objective.initial_guess import first_guess
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import Operator
from invtoolbox.priors.base import Prior, PriorSum
from invtoolbox.problem import Problem
from invtoolbox.solve import bind
from invtoolbox.solvers.base import Solver, implicit_reason
from invtoolbox.solvers.choice import check_fits
from invtoolbox.unrolling.learned import Held, LearnedParameters, modules_of, with_modules


@dataclass(frozen=True)
class LayeredSolver(Solver):
    """A solver with the settings, the weight and the networks of every iteration.

    Args:
        solver: the solver that runs.
        learned: the learned parameters.
        base: the priors before they were prepared.
        recomputed: whether a step keeps nothing but its state, and is run again in the backward
            pass.
        settles: whether items end once they have converged.
    """

    solver: Solver = dataclasses.field(kw_only=True)
    learned: LearnedParameters = dataclasses.field(kw_only=True)
    base: PriorSum = dataclasses.field(kw_only=True)
    recomputed: bool = False
    settles: bool = False

    def at(self, objective: Objective, iteration: int) -> tuple[Solver, Objective]:
        """Return solver and objective of an iteration."""
        return self.learned.solver_at(self.solver, iteration), self.learned.objective_at(
            objective, self.base, iteration
        )

    def init(self, objective: Objective, start: Tensor) -> Any:
        solver, objective = self.at(objective, 0)
        return solver.init(objective, start)

    def step(self, objective: Objective, state: Any) -> Any:
        # Gradient checkpointing (Chen et al. 2016), one iteration per segment.
        if not (self.recomputed and torch.is_grad_enabled()):
            return self._step(objective, state)
        # Before the backward pass the parameters of the module may be replaced
        # (`torch.func.functional_call` does so), so the step keeps the current ones.
        parameters: dict[str, Tensor] = dict(self.learned.named_parameters())

        def again(objective: Objective, state: Any) -> Any:
            return torch.func.functional_call(
                self.learned, parameters, (self._step, objective, state)
            )

        return checkpoint(again, objective, state, use_reentrant=False)

    def _step(self, objective: Objective, state: Any) -> Any:
        solver, objective = self.at(objective, objective.iteration)
        state = solver.step(objective, state)
        if torch.is_grad_enabled():
            check_differentiable(self.solver, objective, state)
        return state

    def result(self, state: Any) -> Tensor:
        return self.solver.result(state)

    def converged(self, state: Any, tolerance: float) -> Tensor:
        return (
            self.solver.converged(state, tolerance)
            if self.settles
            else torch.zeros_like(state.certificate, dtype=torch.bool)
        )

    def gives_up(self, state: Any) -> Tensor | None:
        return self.solver.gives_up(state) if self.settles else None

    def has_gap(self, objective: Objective) -> bool:
        return self.settles and self.solver.has_gap(objective)

    def gap(self, objective: Objective, state: Any, distance: Tensor) -> Tensor:
        solver, objective = self.at(objective, 0)
        return solver.gap(objective, state, distance)


Weight = float | Tensor | str


class SolverNetwork(nn.Module):
    """A solver as a module: ``network(y) -> x``. Abstract; see `Unrolled` and `Equilibrium`.

    The networks of the prior are copied, so that training leaves the caller's networks unchanged;
    `prior` holds the copies that learn.
    """

    def __init__(
        self,
        solver: Solver | str,
        problem: Problem,
        prior: Prior | str | None,
        iterations: int,
        regularization: Weight,
        learn: Sequence[str] | None,
        per_iteration: Sequence[str] | bool | None,
        settings_too: bool,
    ) -> None:
        super().__init__()
        self.solver = solver_named(solver) if isinstance(solver, str) else solver
        if not isinstance(self.solver, Solver):
            raise InputError(f"solver must be one of it.solvers, got {type(solver).__name__}")
        if not isinstance(problem, Problem):
            raise InputError(
                "problem must be an it.Problem, whose measurements show the shape of those to "
                f"come, got {type(problem).__name__}"
            )
        prior = prior_named(prior) if isinstance(prior, str) else prior
        priors = PriorSum() if prior is None else prior.as_sum()
        if isinstance(regularization, str) and regularization != "auto":
            raise InputError(
                f"a weight that is learned starts from a number, and {regularization!r} is a rule; "
                "give a number, or 'auto' for 1"
            )
        with torch.no_grad():
            self.problem, self.regularization = problem, regularization
            self.prior: PriorSum = with_modules(priors, copy.deepcopy)
            objective = self._bound(problem)
            self._check(objective)
            self.learned = LearnedParameters(
                self.solver,
                self.prior,
                objective,
                iterations=iterations,
                learn=learn,
                per_iteration=per_iteration,
                settings_too=settings_too,
            )

    def _check(self, objective: Objective) -> None:
        """Raise an `InputError` if solver or objective cannot be differentiated."""
        name = type(self.solver).__name__
        if reason := implicit_reason(objective, f"a solver as a network ({name})"):
            raise InputError(reason)
        if self.solver.per_iteration is None:
            raise InputError(
                f"the steps of {name} cannot be differentiated; those of "
                f"{solver_names(lambda kind: kind.per_iteration is not None)} can"
            )
        check_fits(self.solver, objective)

    def with_operator(self, operator: Operator) -> Self:
        """Return the network of another operator, with the same parameters.

        Args:
            operator: operator from images to measurements.
        """
        network = copy.copy(self)
        network.problem = self.problem.with_operator(operator)
        return network

    def objective_of(self, y: Any) -> Objective:
        """Return the objective of measurements, before anything that is learned.

        Items with NaN hold the measurements of another one, see `Problem.skipped`, until
        `blank_skipped`.
        """
        problem = Problem(y, self.problem.operator, self.problem.data_term)
        _check_batch(problem, self.prior)
        with torch.no_grad():
            return self._bound(problem)

    def _bound(self, problem: Problem) -> Objective:
        unrestricted = isinstance(self.regularization, str) and not any(
            term.prior.unit_step for term in self.prior.terms
        )
        weight: Any = 1.0 if unrestricted else self.regularization
        objective, rule, _ = bind(problem, self.prior, weight)
        # Binding finds the least weight of a prox that is known at one step; other automatic
        # weights are no numbers.
        return objective if rule is None else bind(problem, self.prior, 1.0)[0]

    @staticmethod
    def blank_skipped(objective: Objective, x: Tensor) -> Tensor:
        """Return the images with NaN for the items whose measurements are not finite."""
        skipped = objective.problem.skipped
        return x if skipped is None else blank_items(skipped, x)

    def start_of(self, objective: Objective, initial: Tensor | None = None) -> Tensor:
        """Return the image at which the solver starts."""
        problem = objective.problem
        if initial is not None:
            if (
                initial.shape[0] not in (1, problem.batch)
                or tuple(initial.shape[1:]) != problem.image_shape
            ):
                raise InputError(
                    f"initial is an image {(problem.batch, *problem.image_shape)}, got "
                    f"{tuple(initial.shape)}"
                )
            return initial.to(problem.zeros()).expand(problem.batch, *problem.image_shape).clone()
        return problem.zeros() if self.solver.starts_at_zero else first_guess(problem)

    def records(self, objective: Objective, *inputs: Tensor | None) -> bool:
        """Whether learned parameters, inputs, measurements or the operator require a graph."""
        y = objective.problem.y
        tensors = [
            *self.parameters(),
            *(y if isinstance(y, tuple) else (y,)),
            *objective.problem.operator.parameters().values(),
            *inputs,
        ]
        return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move problem and prior together with the parameters."""
        super()._apply(fn, recurse)
        # A real number of the problem shows to which device and precision everything moves.
        first = self.problem.y0
        real = first.real.dtype if first.is_complex() else first.dtype
        sample = fn(torch.zeros((), dtype=real, device=first.device))
        networks = list(modules_of(self.prior))
        registered = {id(module) for module in (*self.modules(), *self.parameters())}
        for module in networks:
            if id(module) not in registered:
                # A bare parameter keeps its identity, as the parameters of modules do.
                holder = Held(module) if isinstance(module, nn.Parameter) else module
                holder._apply(fn, recurse)
        # Moving copies the settings, but a module must stay the registered one.
        places = {id(module): _Place(k) for k, module in enumerate(networks)}
        hollow = with_modules(self.prior, lambda module: places[id(module)]).to(
            device=sample.device, dtype=sample.dtype
        )
        self.problem = self.problem.to(device=sample.device, dtype=sample.dtype)
        self.prior = with_modules(hollow, lambda place: networks[cast(_Place, place).index])
        return self

    def extra_repr(self) -> str:
        return f"{self.solver!r}, {self.problem!r}, {self.prior!r}"


class _Place(nn.Module):
    """Place of a network in a prior, while the prior is copied."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index


def solver_names(holds: Callable[[type[Solver]], bool]) -> str:
    """Return the names of the solvers with a property, for a sentence."""
    from invtoolbox import solvers

    public = [getattr(solvers, name) for name in solvers.__all__]
    kinds = [kind for kind in public if isinstance(kind, type) and issubclass(kind, Solver)]
    names = (kind.__name__ for kind in kinds if kind is not Solver and holds(kind))
    return ", ".join(sorted(names))


def _check_batch(problem: Problem, prior: PriorSum) -> None:
    """Raise an `InputError` if a tensor belongs to other items than the measured ones."""
    batch = problem.batch
    owners: list[Settings] = [
        problem.operator,
        problem.data_term,
        *(term.prior for term in prior.terms),
    ]
    for owner in owners:
        for name in owner.item_fields:
            setting = getattr(owner, name, None)
            if isinstance(setting, Tensor) and setting.ndim and len(setting) not in (1, batch):
                raise InputError(
                    f"the network was called with {batch} measurements, and {name} of "
                    f"{owner!r} belongs to {len(setting)} items"
                )
