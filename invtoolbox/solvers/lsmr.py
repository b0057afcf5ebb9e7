"""Krylov methods for least squares: CGLS, with early stopping as the regularizer, and LSMR.

LSMR is based on Golub-Kahan bidiagonalization.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from invtoolbox.core.pytrees import where_items
from invtoolbox.core.rare_branches import is_any
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import expand, inner, item_norm
from invtoolbox.solvers.base import State, implicit_reason
from invtoolbox.solvers.conjugate_gradient import Curvatures, quadratic_gap, quadratic_reason
from invtoolbox.solvers.duality import GradientSolver
from invtoolbox.solvers.linear_systems import quotient


@dataclass(kw_only=True)
class CGLSState(State):
    """Residual, direction and stopping discrepancy of CGLS."""

    residual: Tensor  # y - A x, in the space of the measurements
    direction: Tensor
    squared: Tensor  # (batch,) |A^T W residual|^2
    scale: Tensor  # (batch,) |A^T W y|
    target: Tensor  # (batch,) stop at this discrepancy; 0 if the noise level is unknown
    curvatures: Curvatures  # of the directions so far


@dataclass(frozen=True)
class CGLS(GradientSolver):
    r"""CGLS (Bjorck 1996, algorithm 7.4.1) for ``min 1/2 <Ax - y, W (Ax - y)>``, started at 0.

    It keeps the residual in the space of the measurements, which squares no condition number in
    finite precision. Its iterates first approach the true image and then fit the noise (Hanke
    1995), so if the data term knows the noise level, an item ends, with the status
    ``early_stopping``, once its discrepancy is ``tau`` times the expected one. Converges to the
    solution of least norm; the residual decreases monotonically. Certificate:
    ``|A^T W (y - Ax)| / |A^T W y|``, and a bound of the objective by its gradient (`Solver.gap`).

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
    per_iteration: ClassVar[tuple[str, ...] | None] = ()
    starts_at_zero: ClassVar[bool] = True

    def unsupported_reason(self, objective: Objective) -> str | None:
        if objective.terms:
            return (
                "CGLS takes no prior, it regularizes by stopping early, and "
                f"{objective.terms[0][1]!r} is one"
            )
        return implicit_reason(objective, "CGLS") or quadratic_reason(objective, "CGLS")

    def init(self, objective: Objective, start: Tensor) -> CGLSState:
        problem = objective.problem
        A, D = objective.linear_operator, problem.data_term
        # r_0 = y - A x_0, s_0 = p_0 = A^T W r_0, gamma_0 = |s_0|^2 (Bjorck 1996, algorithm 7.4.1).
        residual = problem.y - A(start)
        gradient = A.adjoint(D.weighted(residual))
        scale = item_norm(A.adjoint(D.weighted(problem.y)))
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        # Stop at tau times the expected discrepancy; 0 is never reached.
        expected = D.expected_discrepancy(problem.y)
        target = torch.zeros_like(scale) if expected is None else self.tau * expected.to(scale)
        squared = inner(gradient, gradient)
        prediction = problem.y - residual
        return CGLSState(
            x=start,
            value=D.value(prediction, problem.y),
            discrepancy=D.discrepancy(prediction, problem.y),
            certificate=squared.sqrt() / scale,
            residual=residual,
            direction=gradient,
            squared=squared,
            scale=scale,
            target=target,
            curvatures=Curvatures.none_yet(scale),
        )

    def step(self, objective: Objective, state: CGLSState) -> CGLSState:
        A, D, y = objective.linear_operator, objective.problem.data_term, objective.problem.y
        # q = A p, alpha = gamma / <q, W q>, x <- x + alpha p, r <- r - alpha q.
        forward = A(state.direction)
        curvature = inner(forward, D.weighted(forward))
        alpha = quotient(state.squared, curvature)
        x = torch.addcmul(state.x, expand(alpha, state.direction), state.direction)
        residual = torch.addcmul(state.residual, expand(-alpha, forward), forward)
        # s = A^T W r, beta = |s|^2 / gamma, p <- s + beta p.
        gradient = A.adjoint(D.weighted(residual))
        squared = inner(gradient, gradient)
        beta = quotient(squared, state.squared)
        direction = torch.addcmul(gradient, expand(beta, gradient), state.direction)
        prediction = y - residual
        return replace(
            state,
            x=x,
            value=D.value(prediction, y),
            discrepancy=D.discrepancy(prediction, y),
            certificate=squared.sqrt() / state.scale,
            residual=residual,
            direction=direction,
            squared=squared,
            curvatures=state.curvatures.update(curvature, state.direction),
        )

    def gap(self, objective: Objective, state: CGLSState, distance: Tensor) -> Tensor:
        return quadratic_gap(objective, state.x, distance, state.curvatures.least)

    def gives_up(self, state: CGLSState) -> Tensor:
        # Without a target the steps end at the rounding of the gradient.
        hidden = state.curvatures.hide(state.x, state.certificate * state.scale)
        return (state.discrepancy <= state.target) | (hidden & (state.target == 0))

    def stops_early(self, objective: Objective) -> bool:
        problem = objective.problem
        has_target = problem.data_term.expected_discrepancy(problem.y) is not None
        return (self.tau > 0 and has_target) or super().stops_early(objective)


#: The measurements and the rows of every prior.
Rows = tuple[Tensor, ...]


@dataclass(kw_only=True)
class LSMRState(State):
    """The bidiagonalization and the two rotations of LSMR (Fong and Saunders, algorithm LSMR)."""

    residual: Rows  # b - K x
    left: Rows  # u of the bidiagonalization
    right: Tensor  # v
    image: Rows  # K h
    image_bar: Rows  # K hbar
    h: Tensor
    h_bar: Tensor
    mix: Tensor  # (batch,) like all fields below; h is v - mix times the previous h
    alpha: Tensor
    alpha_bar: Tensor
    zeta_bar: Tensor
    rho: Tensor
    rho_bar: Tensor
    cosine: Tensor
    sine: Tensor
    squared_norm: Tensor  # squared Frobenius norm of K, as far as it is known
    least: Tensor  # estimate of the smallest singular value of K, infinite before the first step
    weight: Tensor  # regularization of the bidiagonalization
    scale: Tensor  # |b|


@dataclass(frozen=True)
class LSMR(GradientSolver):
    r"""LSMR (Fong and Saunders, SIAM J. Sci. Comput. 33, 2011) for least squares, also with priors.

    Quadratic priors are further rows: it minimizes
    ``1/2 <Ax - y, W (Ax - y)> + sum_i w_i / 2 |L_i x - b_i|^2``, that is ``1/2 |K x - b|^2`` with
    ``K = (A, L_1, L_2, ...)`` in the inner product ``<u, W u> + sum_i w_i |u_i|^2`` (Arioli 2013
    for the weighted bidiagonalization, which needs no square root of W). Damping is the prior
    `Tikhonov`.

    In exact arithmetic the iterates are the iterates of MINRES on the normal equations: ``|K^T r|``
    decreases monotonically, whereas it oscillates for conjugate gradients (CGLS, LSQR), so LSMR may
    be stopped early safely. Converges for every linear A, from 0 to the solution of least norm. An
    item whose weight changes starts again from its current iterate.

    Certificate: the backward error ``|K^T r| / (|K| |r|)`` (ibid., 4.2; K in the norm of Frobenius,
    as far as it is known so far), or ``|r| / (|b| + |K| |x|)`` if that is smaller: a system that
    has an exact solution leaves no residual to compare with.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.ones(1, 1, 4), it.operators.Identity((1, 4)))
    >>> it.solve(
    ...     problem, it.priors.Tikhonov(), it.solvers.LSMR(), regularization=3.0, progress=False
    ... ).x
    tensor([[[0.2500, 0.2500, 0.2500, 0.2500]]])
    """

    max_iterations: int = 500
    tolerance: float = 1e-6
    certificate_name: ClassVar[str] = "backward error of the least-squares problem"
    per_iteration: ClassVar[tuple[str, ...] | None] = ()

    def unsupported_reason(self, objective: Objective) -> str | None:
        return implicit_reason(objective, "LSMR") or quadratic_reason(objective, "LSMR")

    def init(self, objective: Objective, start: Tensor) -> LSMRState:
        residual = _residual(objective, start)
        scale = _norm(objective, _residual(objective, torch.zeros_like(start)))
        return self._begin(objective, start, residual, scale)

    def step(self, objective: Objective, state: LSMRState) -> LSMRState:
        # Another weight is another inner product: its items begin again from their x.
        changed = objective.regularization != state.weight
        # Without a rule the weight stays that of the start.
        test = (lambda flags: bool(flags.any())) if objective.has_rule else is_any
        if test(changed):
            state = where_items(
                changed,
                self._begin(objective, state.x, _residual(objective, state.x), state.scale),
                state,
            )
        s = state
        # Algorithm LSMR (Fong and Saunders, 2.8), step 3: continue the bidiagonalization,
        # beta u = K v - alpha u and alpha v = K^T u - beta v; K h <- K v - mix K h by linearity.
        forward = _forward(objective, s.right)
        image = _plus(forward, -s.mix, s.image)
        left, beta = _normalize(objective, _plus(forward, -s.alpha, s.left))
        right = torch.addcmul(_adjoint(objective, left), expand(-beta, s.right), s.right)
        alpha = item_norm(right)
        right = right * expand(_inverse(alpha), right)
        # Steps 4 and 5, the rotations of the bidiagonal matrix (rho, theta) and of its transpose
        # (rho_bar, theta_bar).
        cos, sin, rho = _rotation(s.alpha_bar, beta)
        theta = sin * alpha
        theta_bar = s.sine * rho
        cosine, sine, rho_bar = _rotation(s.cosine * rho, theta)
        zeta, zeta_bar = cosine * s.zeta_bar, -sine * s.zeta_bar
        # Step 6: h_bar <- h - theta_bar rho / (rho rho_bar)_before h_bar,
        #         x <- x + zeta / (rho rho_bar) h_bar,   h <- v - theta / rho h.
        # The residual follows from K h_bar.
        back = theta_bar * rho * _inverse(s.rho * s.rho_bar)
        h_bar = torch.addcmul(s.h, expand(-back, s.h), s.h_bar)
        image_bar = _plus(image, -back, s.image_bar)
        along = zeta * _inverse(rho * rho_bar)
        x = torch.addcmul(s.x, expand(along, h_bar), h_bar)
        mix = theta * _inverse(rho)
        h = torch.addcmul(right, expand(-mix, s.h), s.h)
        return self._evaluate(
            objective,
            replace(
                state,
                x=x,
                residual=_plus(s.residual, -along, image_bar),
                left=left,
                right=right,
                image=image,
                image_bar=image_bar,
                h=h,
                h_bar=h_bar,
                mix=mix,
                alpha=alpha,
                alpha_bar=cos * alpha,
                zeta_bar=zeta_bar,
                rho=rho,
                rho_bar=rho_bar,
                cosine=cosine,
                sine=sine,
                squared_norm=s.squared_norm + s.alpha.square() + beta.square(),
                least=torch.where(rho_bar > 0, s.least.minimum(rho_bar), s.least),
            ),
        )

    def gap(self, objective: Objective, state: LSMRState, distance: Tensor) -> Tensor:
        # The least diagonal entry rho_bar estimates the smallest singular value (ibid., 3.4).
        return quadratic_gap(objective, state.x, distance, state.least.square())

    def _begin(self, objective: Objective, x: Tensor, residual: Rows, scale: Tensor) -> LSMRState:
        # Step 1: beta u = b - K x, alpha v = K^T u. Steps 3 to 6 start from rho = rho_bar = 1,
        # cos = 1, sin = 0, zeta_bar = alpha beta and h = v.
        left, beta = _normalize(objective, residual)
        right = _adjoint(objective, left)
        alpha = item_norm(right)
        right = right * expand(_inverse(alpha), right)
        zeros, ones = torch.zeros_like(alpha), torch.ones_like(alpha)
        empty = tuple(torch.zeros_like(r) for r in residual)
        return self._evaluate(
            objective,
            LSMRState(
                x=x,
                value=objective.nan(),
                discrepancy=objective.nan(),
                certificate=zeros,
                residual=residual,
                left=left,
                right=right,
                image=empty,
                image_bar=empty,
                h=right,
                h_bar=torch.zeros_like(right),
                mix=zeros,
                alpha=alpha,
                alpha_bar=alpha,
                zeta_bar=alpha * beta,
                rho=ones,
                rho_bar=ones,
                cosine=ones,
                sine=zeros,
                squared_norm=zeros,
                least=torch.full_like(alpha, torch.inf),
                weight=objective.regularization.clone(),
                scale=scale,
            ),
        )

    def _evaluate(self, objective: Objective, state: LSMRState) -> LSMRState:
        """Return the state with value, discrepancy and certificate."""
        # |K^T r| = |zeta_bar| (Fong and Saunders), and F = 1/2 |r|^2.
        D, y = objective.problem.data_term, objective.problem.y
        left = _norm(objective, state.residual)
        state.value = 0.5 * left.square()
        state.discrepancy = D.discrepancy(y - state.residual[0], y)
        norm = state.squared_norm.sqrt()
        # Before the first step the norm of K is not known, but |K| >= alpha_1.
        norm = torch.where(norm > 0, norm, state.alpha)
        slope = state.zeta_bar.abs() * _inverse(norm * left)
        state.certificate = torch.minimum(
            slope, left * _inverse(state.scale + norm * item_norm(state.x))
        )
        return state


def _residual(objective: Objective, x: Tensor) -> Rows:
    """Return ``b - K x``."""
    problem = objective.problem
    rows = [problem.y - problem.operator(x)]
    for _, prior in objective.terms:
        L, target = prior.quadratic()
        image = x if L is None else L(x)
        rows.append(-image if target is None else target.to(image.dtype) - image)
    return tuple(rows)


def _forward(objective: Objective, x: Tensor) -> Rows:
    """Return ``K x``."""
    operators = [prior.quadratic()[0] for _, prior in objective.terms]
    return (objective.problem.operator(x), *(x if L is None else L(x) for L in operators))


def _adjoint(objective: Objective, rows: Rows) -> Tensor:
    """Return ``A^T W u_0 + sum_i w_i L_i^T u_i``."""
    D = objective.problem.data_term
    pull = objective.linear_operator.adjoint(D.weighted(rows[0]))
    for (weight, prior), row in zip(objective.terms, rows[1:]):
        L, _ = prior.quadratic()
        LTu = row if L is None else L.adjoint(row)
        pull = torch.addcmul(pull, expand(weight, LTu), LTu)
    return pull


def _norm(objective: Objective, rows: Rows) -> Tensor:
    """Return the norm of the inner product ``<u_0, W u_0> + sum_i w_i |u_i|^2``, ``(batch,)``."""
    total = inner(rows[0], objective.problem.data_term.weighted(rows[0]))
    for (weight, _), row in zip(objective.terms, rows[1:]):
        total = total + weight * inner(row, row)
    return total.clamp_min(0).sqrt()


def _normalize(objective: Objective, rows: Rows) -> tuple[Rows, Tensor]:
    size = _norm(objective, rows)
    return tuple(row * expand(_inverse(size), row) for row in rows), size


def _plus(rows: Rows, factor: Tensor, addends: Rows) -> Rows:
    """Return ``rows + factor addends``."""
    return tuple(torch.addcmul(u, expand(factor, v), v) for u, v in zip(rows, addends))


def _rotation(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``(c, s, r)`` with ``c a + s b = r`` and ``c b - s a = 0``.

    The identity if both are 0.
    """
    r = torch.hypot(a, b)
    return torch.where(r > 0, a * _inverse(r), torch.ones_like(r)), b * _inverse(r), r


def _inverse(value: Tensor) -> Tensor:
    """Return ``1 / value``, and 0 for 0: an item that has its solution moves no more."""
    return torch.where(
        value != 0,
        1 / torch.where(value != 0, value, torch.ones_like(value)),
        torch.zeros_like(value),
    )
