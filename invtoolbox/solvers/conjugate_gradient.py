"""Conjugate gradients for quadratic problems."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from invtoolbox.core.pytrees import where_items
from invtoolbox.core.rare_branches import is_any
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import expand, inner, item_norm
from invtoolbox.solvers.base import State, implicit_reason
from invtoolbox.solvers.duality import SAFETY, GradientSolver, gradient_gap
from invtoolbox.solvers.learned_direction import LearnedDirection, Recent, mask_pairs
from invtoolbox.solvers.linear_systems import quotient
from invtoolbox.solvers.preconditioner import Kind, Preconditioner, preconditioner


class Curvatures(NamedTuple):
    """Smallest and largest curvature ``<p, H p> / <p, p>`` of the directions so far, ``(batch,)``.

    They are estimates, from within, of the eigenvalues of H that matter to the solution (the Ritz
    values of Lanczos' method lie within these eigenvalues too).
    """

    least: Tensor
    largest: Tensor

    @classmethod
    def none_yet(cls, like: Tensor) -> Self:
        return cls(torch.full_like(like, torch.inf), torch.zeros_like(like))

    def update(self, bend: Tensor, direction: Tensor) -> Self:
        """Return the curvatures, extended by a direction with ``bend = <p, H p>``."""
        curvature = quotient(bend, inner(direction, direction))
        is_one = curvature > 0
        least = torch.where(is_one, self.least.minimum(curvature), self.least)
        return type(self)(least, torch.where(is_one, self.largest.maximum(curvature), self.largest))

    def hide(self, x: Tensor, residual: Tensor) -> Tensor:
        """Return where a residual is within the rounding of ``H x``, ``(batch,)``."""
        # A product of n terms is a few roundings off. A rule sets the curvature to 0: never there.
        return residual < 8 * torch.finfo(residual.dtype).eps * self.largest * item_norm(x)


@dataclass(kw_only=True)
class CGState(State):
    """Residual and direction of the normal equations ``H x = b``."""

    residual: Tensor  # b - H x
    direction: Tensor
    weight: Tensor  # (batch,) the regularization of the residual
    prediction: Tensor  # A x, carried along
    scale: Tensor  # (batch,) |b|
    curvatures: Curvatures  # of the directions so far
    inverse: Preconditioner | None
    recent: Recent = ()  # the last directions, if a network proposes them


@dataclass(frozen=True)
class ConjugateGradient(GradientSolver):
    r"""Conjugate gradients (Hestenes and Stiefel 1952) on the normal equations.

    ``(A^T W A + sum_i w_i L_i^T L_i) x = A^T W y + sum_i w_i L_i^T b_i``

    of a quadratic data term and quadratic priors ``w_i / 2 |L_i x - b_i|^2``. Each item has its own
    step lengths, and restarts when its weight changes. Converges to the minimizer (of least norm
    from 0) for every linear A; the error decreases monotonically in the norm of the system.
    Certificate: ``|b - H x| / |b|``, b the right-hand side, and a bound of the objective by its
    gradient at x (`Solver.gap`): if H is ill-conditioned, a small residual is no small excess, and
    float32 may not reach the bound at all.

    Args:
        preconditioner: ``"fourier"`` for systems next to a convolution (a blur of any boundary),
            ``"diagonal"`` for weights that differ much from pixel to pixel or ray to ray,
            ``"auto"`` for the first of these that exists; none by default. See `preconditioner`.
        direction: network that proposes the next direction in place of the (preconditioned)
            residual, trained for systems of this kind; see `LearnedDirection`. The error still
            decreases monotonically for every proposal.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.ones(1, 1, 4), it.operators.Identity((1, 4)))
    >>> it.solve(problem, prior=it.priors.Tikhonov(), regularization=3.0, progress=False).x
    tensor([[[0.2500, 0.2500, 0.2500, 0.2500]]])
    """

    max_iterations: int = 500
    tolerance: float = 1e-5
    preconditioner: Kind | None = None
    direction: LearnedDirection | None = None
    certificate_name: ClassVar[str] = "relative residual of the normal equations"
    per_iteration: ClassVar[tuple[str, ...] | None] = ()

    def unsupported_reason(self, objective: Objective) -> str | None:
        if self.preconditioner not in (None, "auto", "diagonal", "fourier"):
            return (
                "the preconditioner of ConjugateGradient is 'auto', 'diagonal', 'fourier' or "
                f"None, got {self.preconditioner!r}"
            )
        if self.direction is not None:
            if not isinstance(self.direction, LearnedDirection):
                return (
                    "the direction of ConjugateGradient is a LearnedDirection or None, got "
                    f"{type(self.direction).__name__}"
                )
            if self.preconditioner is not None:
                return "ConjugateGradient takes a preconditioner or a direction, and has both"
            if objective.problem.image_dtype.is_complex:
                return (
                    "the network of a LearnedDirection sees real images, and here they are complex"
                )
        return implicit_reason(objective, "ConjugateGradient") or quadratic_reason(
            objective, "ConjugateGradient"
        )

    def suits(self, objective: Objective) -> bool:
        return bool(objective.terms)

    def init(self, objective: Objective, start: Tensor) -> CGState:
        right = right_side(objective)
        prediction = objective.problem.operator(start)
        # r = b - H x and the first direction p = M r (Saad 2003, algorithm 9.1, line 1).
        residual = right - apply_hessian(objective, start, prediction)
        scale = item_norm(right)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        inverse = preconditioner(objective, self.preconditioner)
        recent = () if self.direction is None else self.direction.none_yet(residual)
        value, discrepancy = objective.value_at(start, prediction)
        return CGState(
            x=start,
            value=value,
            discrepancy=discrepancy,
            certificate=item_norm(residual) / scale,
            residual=residual,
            direction=_precondition(inverse, residual),
            weight=objective.regularization,
            prediction=prediction,
            scale=scale,
            curvatures=Curvatures.none_yet(scale),
            inverse=inverse,
            recent=recent,
        )

    def step(self, objective: Objective, state: CGState) -> CGState:
        residual, direction, inverse = state.residual, state.direction, state.inverse
        recent, curvatures = state.recent, state.curvatures
        changed = objective.regularization != state.weight
        # Without a rule the weight stays that of the start, although its tensor may be another one.
        test = (lambda flags: bool(flags.any())) if objective.has_rule else is_any
        if objective.regularization is not state.weight and test(changed):
            # Another weight is another system: its items begin again from their x.
            fresh = right_side(objective) - apply_hessian(objective, state.x, state.prediction)
            mask = changed.view(-1, *[1] * (fresh.ndim - 1))
            if inverse is not None:
                inverse = where_items(
                    changed, preconditioner(objective, self.preconditioner), inverse
                )
            residual, direction = (
                torch.where(mask, fresh, residual),
                torch.where(mask, _precondition(inverse, fresh), direction),
            )
            recent = mask_pairs(recent, ~changed)
            curvatures = where_items(changed, Curvatures.none_yet(state.scale), curvatures)
        if self.direction is not None:
            direction = self.direction.next(residual, recent)
        forward = objective.problem.operator(direction)
        product = apply_hessian(objective, direction, forward)
        # For the direction of conjugate gradients <residual, direction> is <residual, inverse
        # residual>, which rounds less.
        squared = inner(
            residual, _precondition(inverse, residual) if self.direction is None else direction
        )
        # Saad 2003, algorithm 9.1: alpha = <r, M r> / <p, H p> (line 3), x <- x + alpha p (4),
        # r <- r - alpha H p (5); by linearity A x <- A x + alpha A p.
        bend = inner(direction, product)
        alpha = quotient(squared, bend)
        curvatures = curvatures.update(bend, direction)
        if objective.has_rule:  # the run goes on with other weights
            curvatures = curvatures._replace(largest=torch.zeros_like(curvatures.largest))
        x = torch.addcmul(state.x, expand(alpha, direction), direction)
        prediction = torch.addcmul(state.prediction, expand(alpha, forward), forward)
        residual = torch.addcmul(residual, expand(-alpha, product), product)
        if self.direction is not None:
            recent = self.direction.remember(direction, product, recent)
        else:
            # z = M r (line 6), beta = <r, z> / <r, z>_before (7), p <- z + beta p (8).
            conditioned = _precondition(inverse, residual)
            beta = quotient(inner(residual, conditioned), squared)
            direction = torch.addcmul(conditioned, expand(beta, direction), direction)
        value, discrepancy = objective.value_at(x, prediction)
        return replace(
            state,
            x=x,
            value=value,
            discrepancy=discrepancy,
            certificate=item_norm(residual) / state.scale,
            residual=residual,
            direction=direction,
            weight=objective.regularization,
            prediction=prediction,
            curvatures=curvatures,
            inverse=inverse,
            recent=recent,
        )

    def gap(self, objective: Objective, state: CGState, distance: Tensor) -> Tensor:
        return quadratic_gap(objective, state.x, distance, state.curvatures.least)

    def gives_up(self, state: CGState) -> Tensor:
        # The rest is rounding of H x, which the updated residual does not contain.
        return state.curvatures.hide(state.x, state.certificate * state.scale)

    def fixed_point(self, state: CGState) -> tuple[Tensor, ...]:
        return (state.x,)

    def apply_map(
        self, objective: Objective, state: CGState, point: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        # At the solution a step of conjugate gradients is 0 / 0; Richardson's has the same fixed
        # point.
        (x,) = point
        return (
            x + right_side(objective) - apply_hessian(objective, x, objective.problem.operator(x)),
        )


def _precondition(inverse: Preconditioner | None, residual: Tensor) -> Tensor:
    return residual if inverse is None else inverse(residual)


def quadratic_reason(objective: Objective, name: str) -> str | None:
    """Return why the normal equations do not exist, or ``None``."""
    problem = objective.problem
    if not problem.is_linear:
        return f"{name} needs a linear operator, and {problem.operator} is not"
    if not problem.data_term.is_quadratic:
        return f"{name} needs a quadratic data term, and {problem.data_term!r} is not"
    for _, prior in objective.terms:
        if "quadratic" not in prior.offers:
            return f"{name} needs quadratic priors, and {prior!r} is not"
    return None


def apply_hessian(objective: Objective, x: Tensor, prediction: Tensor) -> Tensor:
    """Return ``(A^T W A + sum_i w_i L_i^T L_i) x``, given ``prediction = A x``."""
    problem = objective.problem
    product = objective.linear_operator.adjoint(problem.data_term.weighted(prediction))
    for weight, prior in objective.terms:
        L, _ = prior.quadratic()
        LTLx = x if L is None else L.normal(x)
        product = torch.addcmul(product, expand(weight, LTLx), LTLx)
    return product


def right_side(objective: Objective) -> Tensor:
    """Return ``A^T W y + sum_i w_i L_i^T b_i``."""
    problem = objective.problem
    right = objective.linear_operator.adjoint(problem.data_term.weighted(problem.y))
    for weight, prior in objective.terms:
        L, b = prior.quadratic()
        if b is not None:
            LTb = b if L is None else L.adjoint(b)
            right = right + expand(weight, LTb) * LTb
    return right


def quadratic_gap(objective: Objective, x: Tensor, distance: Tensor, curvature: Tensor) -> Tensor:
    """Return a bound of the excess of a quadratic objective, relative to F, ``(batch,)``.

    ``F(x) - min F <= |grad F|^2 / (2 mu)`` with mu the smallest eigenvalue of H whose eigenvector
    has a share in x. With a prior, the larger of this estimate and `gradient_gap` is returned.
    Without one, the least excess may be 0, and the steps end before their lengths show a distance.

    Args:
        objective: quadratic objective.
        x: images at which it is bounded.
        distance: estimate of ``|x - x*|``, ``(batch,)``.
        curvature: estimate of mu, ``(batch,)``.
    """
    gradient = right_side(objective) - apply_hessian(objective, x, objective.problem.operator(x))
    newton = item_norm(gradient) / (2 * SAFETY * curvature)
    return gradient_gap(objective, x, distance.maximum(newton) if objective.terms else newton)
