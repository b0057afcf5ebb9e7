"""A solver whose settings come from what is learned, so that the one loop of `invtoolbox.loop` runs it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from invtoolbox.errors import InputError
from invtoolbox.objective import Objective
from invtoolbox.priors.base import PriorSum
from invtoolbox.solvers.base import Solver
from invtoolbox.tree import tree_leaves
from invtoolbox.unrolling.learned import Learned


@dataclass(frozen=True)
class Layered(Solver):
    """A solver with the settings, the weight and the networks of every iteration.

    Args:
        solver: what is run.
        base: the priors before they were prepared.
        recomputed: a step keeps nothing but its state, and is run again on the way back.
        settles: items end once they have converged, and their whole state is written down then.
    """

    solver: Solver = dataclasses.field(kw_only=True)
    learned: Learned = dataclasses.field(kw_only=True)
    base: PriorSum = dataclasses.field(kw_only=True)
    recomputed: bool = False
    settles: bool = False

    def at(self, objective: Objective, iteration: int) -> tuple[Solver, Objective]:
        """Both of an iteration."""
        return self.learned.solver_at(self.solver, iteration), self.learned.objective_at(
            objective, self.base, iteration
        )

    def init(self, objective: Objective, start: Tensor) -> Any:
        solver, objective = self.at(objective, 0)
        return solver.init(objective, start)

    def step(self, objective: Objective, state: Any) -> Any:
        if not (self.recomputed and torch.is_grad_enabled()):
            return self._step(objective, state)
        # By the time of the way back somebody may have put other parameters into the module (`torch.func.functional_call` does), so the
        # step takes those of now along.
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

    def summary(self, state: Any) -> Any:
        return state if self.settles else None


def check_differentiable(solver: Solver, objective: Objective, state: Any) -> None:
    """Raise an `InputError` where the graph ends inside of a step: a prox that is itself iterated gives numbers, not a function."""
    if all(
        tensor.requires_grad
        for name, tensor in tree_leaves(state)
        if name == "x" or name.startswith("splits")
    ):
        return
    iterated = next((prior for _, prior in objective.terms if not prior.has_exact_prox), None)
    why = (
        f"the prox of {iterated!r} is iterated to a tolerance"
        if iterated is not None
        else "a prior or the operator gives no graph"
    )
    raise InputError(
        f"a step of {type(solver).__name__} cannot be differentiated here, because {why}; ADMM and PDHG split priors behind "
        "linear operators, and those steps can be"
    )
