"""SIRT: simultaneous reconstruction with the weights of row and column sums."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import inner
from invtoolbox.solvers.base import Solver, State, implicit_reason
from invtoolbox.solvers.linear_systems import relative
from invtoolbox.solvers.preconditioner import inverse_or_zero, row_sums, with_moduli


@dataclass(kw_only=True)
class SIRTState(State):
    """Weights of rows and columns, and the stopping discrepancy."""

    prediction: Tensor  # A x
    rows: Tensor  # R
    columns: Tensor  # C
    scale: Tensor  # (batch,) the length of the first step from 0
    target: Tensor  # (batch,) stop at this discrepancy; 0 if the noise level is unknown


@dataclass(frozen=True)
class SIRT(Solver):
    r"""SIRT (Gilbert 1972; Gregor and Benson, IEEE TMI 27, 2008), with constraints.

    The iteration is::

        x = P(x + relaxation C A^T R W (y - A x))

    R holds the inverse row sums of A, and C the inverse column sums of the transpose of ``R W A``,
    that is of ``A^T W``. W are the weights of the least squares data term (its noise level
    cancels), and P projects onto the constraints: `Box` or `NonNegative` as priors. A ray that
    misses the image and a pixel that no ray meets get the weight 0. For an operator without
    negative entries; a `Matrix` enters the sums by its moduli.

    It minimizes ``<Ax - y, R W (Ax - y)>``, which is not the data term: every ray has the same
    influence, whatever its length inside the image. Its early iterates are smooth and the later
    ones fit the noise, so it starts at 0. If the data term knows the noise level, an item stops
    once its discrepancy is ``tau`` times the expected one.

    Converges for relaxations in (0, 2), because the eigenvalues of ``C A^T R W A`` are at most 1
    (ibid., section 3). This includes bounds (projected Landweber in the metric ``C^-1``, in which a
    box keeps its projection). Certificate: the length of the step over the length of the first step
    from 0, in the metric ``C^-1``.

    Args:
        relaxation: relaxation in (0, 2).
        tau: stop at ``tau`` times the expected discrepancy; 0 never stops early.

    >>> import invtoolbox as it
    >>> A = it.operators.Matrix(torch.tensor([[1.0, 1.0], [0.0, 2.0]]))
    >>> problem = it.Problem(torch.tensor([[[3.0, 2.0]]]), A)
    >>> it.solve(problem, solver=it.solvers.SIRT(), tolerance=1e-6, progress=False).x.round(
    ...     decimals=3
    ... )
    tensor([[[2., 1.]]])
    """

    max_iterations: int = 200
    tolerance: float = 1e-4
    relaxation: float = 1.0
    tau: float = 1.01

    certificate_name: ClassVar[str] = "relative length of the step"
    per_iteration: ClassVar[tuple[str, ...] | None] = ()
    starts_at_zero: ClassVar[bool] = True

    def unsupported_reason(self, objective: Objective) -> str | None:
        if not 0 < self.relaxation < 2:
            return f"SIRT needs a relaxation between 0 and 2, got {self.relaxation}"
        return implicit_reason(objective, "SIRT") or algebraic_reason(objective, "SIRT")

    def init(self, objective: Objective, start: Tensor) -> SIRTState:
        problem = objective.problem
        A, D = objective.linear_operator, problem.data_term
        sums = row_sums(problem)
        rows = inverse_or_zero(sums)
        # A row whose sum is 0 has the weight 0, so the column sums leave it out.
        columns = inverse_or_zero(with_moduli(A).adjoint(D.weighted(rows * sums)))
        # C A^T R W y, the step from 0.
        first = columns * A.adjoint(rows * D.weighted(problem.y))
        # Stop at tau times the expected discrepancy; 0 is never reached.
        expected = D.expected_discrepancy(problem.y)
        target = (
            torch.zeros_like(objective.regularization)
            if expected is None
            else self.tau * expected.to(objective.regularization)
        )
        x = constrain(objective, start)
        prediction = A(x)
        value, discrepancy = objective.value_at(x, prediction)
        return SIRTState(
            x=x,
            value=value,
            discrepancy=discrepancy,
            certificate=torch.full_like(target, torch.inf),
            prediction=prediction,
            rows=rows,
            columns=columns,
            scale=_length(first, columns),
            target=target,
        )

    def step(self, objective: Objective, state: SIRTState) -> SIRTState:
        problem = objective.problem
        A, D, y = objective.linear_operator, problem.data_term, problem.y
        # x = P(x + relaxation C A^T R W (y - A x))
        residual = D.weighted(y - state.prediction)
        update = A.adjoint(state.rows * residual).mul_(state.columns)
        x = constrain(objective, torch.add(state.x, update, alpha=self.relaxation))
        prediction = A(x)
        # |x_new - x| / relaxation in the metric C^-1, over its value at the first step.
        length = _length(x - state.x, state.columns) / self.relaxation
        value, discrepancy = objective.value_at(x, prediction)
        return replace(
            state,
            x=x,
            value=value,
            discrepancy=discrepancy,
            certificate=relative(length, state.scale),
            prediction=prediction,
        )

    def converged(self, state: SIRTState, tolerance: float) -> Tensor:
        return (state.certificate <= tolerance) | (state.discrepancy <= state.target)

    def remark(self, objective: Objective) -> str | None:
        return weighted_note("SIRT")


def algebraic_reason(objective: Objective, name: str) -> str | None:
    """Return why an algebraic method (SIRT, SART) does not fit, or ``None``."""
    problem = objective.problem
    if not problem.is_linear:
        return f"{name} needs a linear operator, and {problem.operator} is not"
    if not isinstance(problem.data_term, LeastSquares) or not isinstance(problem.y, Tensor):
        return (
            f"{name} needs least squares of one tensor of measurements, and the data term is "
            f"{problem.data_term!r}"
        )
    if problem.y.is_complex():
        return f"{name} needs real measurements"
    for prior in objective.explicit_priors:
        if not prior.is_constraint or "prox" not in prior.offers:
            return (
                f"{name} takes constraints only as priors, such as NonNegative or Box, and "
                f"{prior!r} is none"
            )
    return None


def weighted_note(name: str) -> str:
    """Return the note on the objective of an algebraic method, see `SIRT`."""
    return (
        f"{name} minimized another objective: every ray is weighted by the inverse of its sum of "
        "the operator's entries; ConjugateGradient and FISTA minimize the data term itself"
    )


def constrain(objective: Objective, x: Tensor) -> Tensor:
    """Project x onto the constraints of the objective."""
    for weight, prior in objective.terms:
        x = prior.prox(x, weight)
    return x


def _length(step: Tensor, columns: Tensor) -> Tensor:
    """Return the norm of a step in the metric ``C^-1``, ``(batch,)``."""
    return inner(step, step * inverse_or_zero(columns)).clamp_min(0).sqrt()
