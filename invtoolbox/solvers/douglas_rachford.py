"""Douglas-Rachford splitting with the prox of the misfit and the prox of one prior."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import expand, item_norm
from invtoolbox.operators.elementary import Identity
from invtoolbox.solvers.base import (
    Solver,
    State,
    implicit_reason,
)
from invtoolbox.solvers.duality import data_floor, has_gap, has_lipschitz_misfit, objective_gap
from invtoolbox.solvers.linear_systems import relative, solve_quadratic
from invtoolbox.solvers.splitting import (
    PriorSummand,
    data_summands,
    first_penalty,
    unit_step_reason,
    unit_step_term,
)


@dataclass(kw_only=True)
class DouglasRachfordState(State):
    """The point v that the iteration contracts, and the answer z."""

    point: Tensor  # v, which the iteration contracts
    answer: Tensor  # z
    step_size: Tensor  # (batch,)
    prediction: Tensor  # A x
    floor: Tensor  # (batch,) least scale of the gradient of the misfit


@dataclass(frozen=True)
class DouglasRachford(Solver):
    r"""Douglas-Rachford splitting for the misfit f and one prior R, or none.

    Lions and Mercier 1979; Combettes and Pesquet 2007, algorithm 17::

        x = prox_{t f}(v)
        z = prox_{t w R}(2 x - v)
        v = v + relaxation (z - x)

    The first line solves ``(A^T W A + 1 / t) x = A^T W y + v / t`` like `ADMM`: closed if the
    operator allows it, otherwise by ``inner_iterations`` warm-started conjugate gradient steps. A
    misfit that is not quadratic needs a prox, and the identity as operator. With a denoiser as the
    prior this is PnP-DRS (Ryu et al. 2019).

    Converges to a minimizer for convex f and R, every ``t > 0`` and relaxation in (0, 2), if both
    lines are exact (it is the proximal point method in v, Eckstein and Bertsekas 1992). The answer
    is z: it satisfies constraints and has the look of the prior. Certificate: the fixed-point
    residual ``|x - z|``, relative to x and to ``|v - x|``, the larger. ``(x - z) / t`` is the
    distance to ``0 in df(x) + d(w R)(z)``, and ``(v - x) / t`` is one part of that sum. The duality
    gap of a convex objective joins it (`Solver.gap`).

    Args:
        step_size: t; by default thresholds ``t w`` are 10 % of the intensity range, and a denoiser
            works at its own level.
        relaxation: over-relaxation in (0, 2); 1 is none.
        inner_iterations: conjugate gradient steps per iteration, if the first line is not closed.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.tensor([[[3.0, 0.5, -2.0]]]), it.operators.Identity((1, 3)))
    >>> solver = it.solvers.DouglasRachford(tolerance=1e-6)
    >>> it.solve(problem, it.priors.L1(), solver, regularization=1.0, progress=False).x.round(
    ...     decimals=4
    ... )
    tensor([[[ 2.,  0., -1.]]])
    """

    max_iterations: int = 1000
    tolerance: float = 1e-4
    step_size: float | None = None
    relaxation: float = 1.0
    inner_iterations: int = 5

    certificate_name: ClassVar[str] = "relative fixed-point residual"
    per_iteration: ClassVar[tuple[str, ...] | None] = ("step_size", "regularization")
    takes_unit_step: ClassVar[bool] = True

    def unsupported_reason(self, objective: Objective) -> str | None:
        if reason := implicit_reason(objective, "DouglasRachford"):
            return reason
        problem = objective.problem
        if not problem.is_linear:
            return f"DouglasRachford needs a linear operator, and {problem.operator} is not"
        if not problem.data_term.is_quadratic and not _is_direct(objective):
            return (
                "DouglasRachford needs a quadratic data term, or the identity and a data term "
                f"with a proximal operator, and {problem.data_term!r} behind {problem.operator} is "
                "neither"
            )
        if len(objective.terms) > 1:
            return (
                f"DouglasRachford takes one prior, and there are {len(objective.terms)}; ADMM and "
                "PDHG take several"
            )
        for _, prior in objective.terms:
            if "prox" not in prior.offers:
                return (
                    f"DouglasRachford needs the proximal operator of {prior!r}, and it has none; "
                    "ADMM and PDHG split it"
                )
        if not 0 < self.relaxation < 2:
            return f"DouglasRachford needs a relaxation between 0 and 2, got {self.relaxation}"
        if self.step_size is not None and not self.step_size > 0:
            return f"DouglasRachford needs a positive step_size, got {self.step_size}"
        return unit_step_reason(objective, "DouglasRachford", self.step_size)

    def init(self, objective: Objective, start: Tensor) -> DouglasRachfordState:
        D, y = objective.problem.data_term, objective.problem.y
        prediction = objective.problem.operator(start)
        value = D.value(prediction, y)
        # prox_{t w R} is the prox of a penalty rho = 1 / t.
        usual = torch.ones_like(value)
        if self.step_size is None:
            usual = 1 / first_penalty(objective, start).detach()
        return DouglasRachfordState(
            x=start,
            value=value,
            discrepancy=D.discrepancy(prediction, y),
            certificate=torch.full_like(value, torch.inf),
            point=start,
            answer=start,
            step_size=self._step_size(objective, usual),
            prediction=prediction,
            floor=data_floor(objective),
        )

    def step(self, objective: Objective, state: DouglasRachfordState) -> DouglasRachfordState:
        problem, v = objective.problem, state.point
        state = replace(state, step_size=self._step_size(objective, state.step_size))
        t = state.step_size
        D, y = problem.data_term, problem.y
        # x = prox_{t f}(v),   z = prox_{t w R}(2 x - v),   v = v + relaxation (z - x)
        x, left = self._data_prox(objective, state)
        z = torch.sub(2 * x, v)
        energy = torch.zeros_like(t)
        for weight, prior in objective.terms:
            z, at_z = prior.prox_and_energy(z, t * weight)
            energy = weight * at_z
        gap = z - x
        # (x - z) / t is in df(x) + d(w R)(z), and (v - x) / t = grad f(x), up to the residual
        # `left` of the first line.
        residual = item_norm(gap)
        certificate = torch.maximum(
            relative(residual, torch.maximum(item_norm(x), item_norm(z))),
            relative(residual + t * left, torch.maximum(item_norm(v - x), t * state.floor)),
        )
        # If everything is 0, there is nothing to compare with.
        certificate = torch.where(residual + left > 0, certificate, residual)
        prediction = problem.operator(x)
        # The constraint holds at z; the misfit is evaluated at x.
        value = D.value(prediction, y) + energy
        return DouglasRachfordState(
            x=x,
            value=value,
            discrepancy=D.discrepancy(prediction, y),
            certificate=certificate,
            point=v + self.relaxation * gap,
            answer=z,
            step_size=t,
            prediction=prediction,
            floor=state.floor,
        )

    def result(self, state: DouglasRachfordState) -> Tensor:
        return state.answer

    def with_result(self, state: DouglasRachfordState, x: Tensor) -> DouglasRachfordState:
        return replace(state, answer=x)

    def has_gap(self, objective: Objective) -> bool:
        return has_gap(objective, splits_misfit=_is_direct(objective))

    def gap(self, objective: Objective, state: DouglasRachfordState, distance: Tensor) -> Tensor:
        priors = [PriorSummand(weight, prior, None) for weight, prior in objective.terms]
        primal = priors[0] if priors else None
        duals, z, t = [], state.answer, state.step_size
        if not has_lipschitz_misfit(objective):
            # (v - prox_{t f}(v)) / t is a subgradient of f: the dual is that of the next x.
            misfit = data_summands(objective)[0]
            duals.append((misfit, (state.point - z) / expand(t, z), 1 / t))
        return objective_gap(objective, z, distance, primal, t, duals)

    def _step_size(self, objective: Objective, usual: Tensor) -> Tensor:
        """Return the given step, or the step of the current weight, or else the usual one."""
        if self.step_size is not None:
            return torch.ones_like(usual) * self.step_size
        fixed = unit_step_term(objective)
        # Such a prox is known at t w = 1 alone.
        return usual if fixed is None else 1 / fixed[0]

    def fixed_point(self, state: DouglasRachfordState) -> tuple[Tensor, ...]:
        return (state.x, state.point)

    def at_point(
        self, objective: Objective, state: DouglasRachfordState, point: tuple[Tensor, ...]
    ) -> DouglasRachfordState:
        x, v = point
        # At the fixed point z = x, because v = v + relaxation (z - x).
        return replace(state, x=x, point=v, prediction=objective.problem.operator(x), answer=x)

    def _data_prox(
        self, objective: Objective, state: DouglasRachfordState
    ) -> tuple[Tensor, Tensor]:
        """Return the prox of the misfit at v, and the norm of its residual.

        The residual is ``grad f(x) + (x - v) / t``.
        """
        problem, t = objective.problem, state.step_size
        if _is_direct(objective):
            return problem.data_term.prox(state.point, problem.y, t), torch.zeros_like(t)
        # (A^T W A + 1 / t) d = A^T W (y - A x) + (v - x) / t for the change d of x.
        A = objective.linear_operator
        missing = state.point - state.x
        right = torch.addcmul(
            A.adjoint(problem.data_term.weighted(problem.y - state.prediction)),
            expand(1 / t, missing),
            missing,
        )
        change, left = solve_quadratic(objective, [(1 / t, None)], right, self.inner_iterations)
        return state.x + change, left


def _is_direct(objective: Objective) -> bool:
    """Whether the data term's own prox is the prox of the misfit."""
    return (
        isinstance(objective.problem.operator, Identity)
        and "prox" in objective.problem.data_term.offers
    )
