"""Conjugate gradients for least squares, with early stopping as the regulariser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invtoolbox.objective import Objective
from invtoolbox.operators.base import LinearOperator, expand, inner, item_norm
from invtoolbox.solvers.base import Solver, State, implicit_reason
from invtoolbox.solvers.conjugate_gradient import quadratic_reason


@dataclass
class CGLSState(State):
    residual: Tensor  # y - A x, in the space of the measurements
    direction: Tensor
    squared: Tensor  # (batch,) |A^T W residual|^2
    scale: Tensor  # (batch,) |A^T W y|
    target: Tensor  # (batch,) the discrepancy to stop at; 0 where the noise level is unknown


@dataclass(frozen=True)
class CGLS(Solver):
    r"""CGLS (Bjorck 1996, algorithm 7.4.1) for ``min 1/2 <Ax - y, W (Ax - y)>``, started at 0.

    It keeps the residual in the space of the measurements, which squares no condition number in finite precision.
    Its iterates first approach the true image and then fit the noise (Hanke 1995), so where the data term knows the
    noise level an item stops once its discrepancy is ``tau`` times the expected one.
    Converges to the solution of least norm; the residual decreases monotonically.
    Certificate: ``|A^T W (y - Ax)| / |A^T W y|``.

    Args:
        tau: stop at ``tau`` times the expected discrepancy; 0 never stops early.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.ones(1, 1, 4), it.operators.Identity((1, 4)))
    >>> it.solve(problem, solver=it.solvers.CGLS(), progress=False).x
    tensor([[[1., 1., 1., 1.]]])
    """

    max_iterations: int = 200
    tolerance: float = 1e-5
    tau: float = 1.01
    certificate_name: ClassVar[str] = "relative residual of the normal equations"
    unrolls: ClassVar[bool] = True
    weight_per_iteration: ClassVar[bool] = False
    starts_at_zero: ClassVar[bool] = True

    def misfit(self, objective: Objective) -> str | None:
        if objective.terms:
            return f"CGLS takes no prior, it regularises by stopping early, and {objective.terms[0][1]!r} is one"
        return implicit_reason(objective, "CGLS") or quadratic_reason(objective, "CGLS")

    def init(self, objective: Objective, start: Tensor) -> CGLSState:
        problem = objective.problem
        A, D = problem.operator, problem.data_term
        assert isinstance(A, LinearOperator)
        residual = problem.y - A(start)
        gradient = A.adjoint(D.weighted(residual))
        scale = item_norm(A.adjoint(D.weighted(problem.y)))
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        expected = D.expected_discrepancy(problem.y)
        target = torch.zeros_like(scale) if expected is None else self.tau * expected.to(scale)
        return self._state(
            objective, start, residual, gradient, inner(gradient, gradient), scale, target
        )

    def step(self, objective: Objective, state: CGLSState) -> CGLSState:
        A, D = objective.problem.operator, objective.problem.data_term
        assert isinstance(A, LinearOperator)
        forward = A(state.direction)
        curvature = inner(forward, D.weighted(forward))
        alpha = torch.where(
            curvature > 0,
            state.squared / torch.where(curvature > 0, curvature, torch.ones_like(curvature)),
            torch.zeros_like(curvature),
        )
        x = torch.addcmul(state.x, expand(alpha, state.direction), state.direction)
        residual = torch.addcmul(state.residual, expand(-alpha, forward), forward)
        gradient = A.adjoint(D.weighted(residual))
        squared = inner(gradient, gradient)
        beta = torch.where(
            state.squared > 0,
            squared / torch.where(state.squared > 0, state.squared, torch.ones_like(squared)),
            torch.zeros_like(squared),
        )
        direction = torch.addcmul(gradient, expand(beta, gradient), state.direction)
        return self._state(objective, x, residual, direction, squared, state.scale, state.target)

    def _state(
        self,
        objective: Objective,
        x: Tensor,
        residual: Tensor,
        direction: Tensor,
        squared: Tensor,
        scale: Tensor,
        target: Tensor,
    ) -> CGLSState:
        D, y = objective.problem.data_term, objective.problem.y
        prediction = y - residual
        return CGLSState(
            x,
            D.value(prediction, y),
            D.discrepancy(prediction, y),
            squared.sqrt() / scale,
            residual,
            direction,
            squared,
            scale,
            target,
        )

    def converged(self, state: CGLSState, tolerance: float) -> Tensor:
        return (state.certificate <= tolerance) | (state.discrepancy <= state.target)

    def is_provably_convergent(self, objective: Objective) -> tuple[bool, str]:
        return True, "the operator is linear and the data term quadratic"
