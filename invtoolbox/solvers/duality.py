"""Bound the distance of an objective to its minimum by duality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from invtoolbox.core.pytrees import tree_map
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import expand, inner, item_norm
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.solvers.base import Solver, nonconvex_reason
from invtoolbox.solvers.linear_systems import quotient, relative
from invtoolbox.solvers.splitting import DataSummand, PriorSummand

#: The least scale of a gap, in units of the misfit at 0: noise of 0.1 % of the measurements.
_FLOOR = 1e-6
#: The objective of a converged item is within this share of its minimum, unless the tolerance is
#: larger.
LARGEST_GAP = 1e-3
#: Steps of conjugate gradients that look for a decrease of the misfit.
_LOOKAHEAD = 20
#: Factor on the distance of gradient methods, chosen on `benchmarks/convex_problems.py`, even half.
SAFETY = 10.0


def has_gap(objective: Objective, splits_misfit: bool = False) -> bool:
    """Whether `objective_gap` is defined: a convex objective, and a gradient of the misfit.

    Auxiliary variables and priors without an energy are excluded.

    Args:
        objective: what is minimized.
        splits_misfit: whether the solver has a dual for a misfit without such a gradient.
    """
    return (
        objective.has_value
        and nonconvex_reason(objective) is None
        and (splits_misfit or objective.problem.data_term.is_smooth)
    )


def has_lipschitz_misfit(objective: Objective) -> bool:
    """Whether the gradient of the misfit exists everywhere and has a Lipschitz constant."""
    D, y = objective.problem.data_term, objective.problem.y
    return D.is_smooth and not D.is_for_nonnegative and D.curvature(y) is not None


def data_floor(objective: Objective) -> Tensor:
    """Return the least scale of a dual residual, 0.1 % of the misfit's gradient at 0, ``(batch,)``.

    The gradient at the minimizer, to which such a residual is compared, vanishes without noise. Zero
    if the misfit has no Lipschitz gradient, because its gradient at 0 then has no meaning.
    """
    if (of_counts := objective.slope_of_counts()) is not None:
        return _FLOOR**0.5 * of_counts
    if not objective.problem.is_linear or not has_lipschitz_misfit(objective):
        return torch.zeros_like(objective.regularization)
    return _FLOOR**0.5 * item_norm(objective.data(objective.problem.zeros()).gradient)


def objective_gap(
    objective: Objective,
    x: Tensor,
    distance: Tensor,
    primal: PriorSummand | DataSummand | None,
    step: Tensor,
    duals: Sequence[tuple[PriorSummand | DataSummand, Tensor, Tensor]] = (),
    smooth: Sequence[tuple[Tensor, ExplicitPrior]] = (),
) -> Tensor:
    r"""Bound ``(F(x) - min F) / F(x)`` of the objective F, ``(batch,)``.

    ``F = f + G + sum_j F_j(K_j .)``, f the misfit and the smooth priors. A misfit whose gradient is
    not Lipschitz is G or one of the F_j instead. Every ``q_j`` in the
    domain of the conjugate ``F_j^*``, and every g in ``dG(u)``, give the bound::

        F(x) - F(x*) <= G(x) - G(u) - <g, x - u>
                        + sum_j (F_j(K_j x) + F_j^*(q_j) - <q_j, K_j x>) + <s, x - x*>
        s = grad f(x) + g + sum_j K_j^T q_j

    by the subgradient inequalities of f and G at x and u, and that of Fenchel and Young. Here
    ``q_j = prox_{sigma F_j^*}(p_j + sigma K_j x)``, and ``u = prox_{t G}(x - t (s - g))``. The last
    product is at most ``|s| distance``. It takes one A, one adjoint, and one prox per prior.

    This is a bound if ``distance`` is one; the loop estimates it (`Travel`). The gap is relative to F,
    but at least to ``1e-6 f(0)``, so that measurements without noise,
    where F vanishes, have one. The rounding of F is subtracted. Of a quadratic misfit without a
    prior, the gap is at least the decrease that a few steps of conjugate gradients attain.

    Args:
        objective: objective for which `has_gap` is true.
        x: images at which the objective is bounded, the answers of a solver.
        distance: bound or estimate of ``|x - x*|``, ``(batch,)``.
        primal: the summand G, if there is one.
        step: the step t of its prox, ``(batch,)``.
        duals: every summand ``F_j(K_j .)`` with its dual ``p_j`` and its step sigma.
        smooth: the smooth priors with their weights.
    """
    D, y, A = objective.problem.data_term, objective.problem.y, objective.linear_operator
    prediction = A(x)
    floor = _FLOOR * D.value(tree_map(torch.zeros_like, prediction), y)
    if (fit := D.fitting_prediction(y)) is not None:
        # Counts whose value at 0 is infinite: half of the prediction that fits takes its place.
        half = D.value(tree_map(lambda t: t / 2, fit), y)
        floor = torch.where(floor.isfinite(), floor, _FLOOR * half)
    floor = torch.where(floor.isfinite(), floor, torch.zeros_like(floor))
    # `value` sums F(x), `gap` the Fenchel-Young terms, and `pull` is s without the g of the primal
    # summand.
    if any(isinstance(summand, DataSummand) for summand in (primal, *(row[0] for row in duals))):
        value, pull = torch.zeros_like(floor), torch.zeros_like(x)
    else:
        value = D.value(prediction, y)
        pull = A.adjoint(D.least_subgradient(prediction, y))
    gap = torch.zeros_like(value)
    for weight, prior in smooth:
        value = value + weight * prior.energy(x)
        pull = torch.addcmul(pull, expand(weight, x), prior.gradient(x))
    for summand, p, sigma in duals:
        # Moreau: q = prox_{sigma F^*}(p + sigma K x) is in dF(z), so that F^*(q) = <q, z> - F(z).
        image = summand.apply(x)
        q, z = _dual_and_point(summand, p, image, sigma)
        here = _energy(summand, image)
        value = value + here
        gap = gap + (here - _energy(summand, z) + inner(q, z - image))
        pull = pull + summand.adjoint(q)
    size = item_norm(pull)
    if primal is not None:
        # u = prox_{t G}(x - t pull) has the subgradient g = (x - u) / t - pull of G, so that s is
        # pull + g = (x - u) / t.
        u = primal.prox(torch.addcmul(x, expand(-step, x), pull), step)
        slope = (x - u) / expand(step, x)
        # A difference below the rounding of x does not show the slope, which is at most the pull.
        unseen = 0.25 * torch.finfo(step.dtype).eps * item_norm(x) / step
        size = item_norm(slope).maximum(unseen.minimum(size))
        here = _energy(primal, x)
        value = value + here
        gap = gap + (here - _energy(primal, u) + inner(pull - slope, x - u))
    # <s, x - x*> <= |s| |x - x*|; what may be rounding of F is no gap.
    rounding = 8 * torch.finfo(value.dtype).eps * value.abs()
    gap = (gap - rounding).clamp_min(0) + size * distance
    # Where F is infinite, nothing bounds its distance to the minimum.
    gap = relative(gap, value.abs() + floor).masked_fill(~value.isfinite(), torch.inf)
    if objective.terms or not D.is_quadratic:
        return gap
    is_small = gap <= LARGEST_GAP
    if gap.device.type == "cpu" and not bool(is_small.any()):  # a GPU does not wait for the host
        return gap
    # Without a prior a gradient near its rounding may be that of a direction without curvature.
    excess = relative(_attainable_decrease(objective, pull), value.abs() + floor)
    return torch.where(is_small, gap.maximum(excess), gap)


def _attainable_decrease(objective: Objective, gradient: Tensor) -> Tensor:
    """Return by how much conjugate gradients lower a quadratic misfit, ``(batch,)``.

    ``F(x) - min F`` is at least that, ``sum_k alpha_k |r_k|^2 / 2`` (Hestenes and Stiefel 1952), and
    it needs no estimate of a curvature or a distance. It takes `_LOOKAHEAD` A and adjoints.
    """
    A, D = objective.linear_operator, objective.problem.data_term
    residual = direction = -gradient
    squared = inner(residual, residual)
    decrease = torch.zeros_like(squared)
    for _ in range(_LOOKAHEAD):
        forward = A(direction)
        weighted = D.weighted(forward)
        alpha = quotient(squared, inner(forward, weighted))
        decrease = decrease + alpha * squared / 2
        residual = torch.addcmul(residual, expand(-alpha, residual), A.adjoint(weighted))
        before, squared = squared, inner(residual, residual)
        beta = expand(quotient(squared, before), direction)
        direction = torch.addcmul(residual, beta, direction)
    return decrease


def has_gradient_gap(objective: Objective) -> bool:
    """Whether `gradient_gap` is defined."""
    smooth = all(p.smooth and "gradient" in p.offers for _, p in objective.terms)
    return smooth and has_gap(objective)


def gradient_gap(
    objective: Objective, x: Tensor, distance: Tensor, safety: float = SAFETY
) -> Tensor:
    """Return `objective_gap` of a differentiable objective, ``|grad F| distance / F``, ``(batch,)``.

    If the objective is ill-conditioned, iterates travel further than the estimate of the distance,
    which is multiplied by ``safety``.
    """
    ones = torch.ones_like(distance)
    return objective_gap(objective, x, safety * distance, None, ones, smooth=objective.terms)


@dataclass(frozen=True)
class GradientSolver(Solver):
    """Base of solvers whose certificate is a gradient norm; `gradient_gap` bounds their answer.

    Attributes:
        safety: factor on the estimated distance to the minimizer.
    """

    safety: ClassVar[float] = SAFETY

    def has_gap(self, objective: Objective) -> bool:
        return has_gradient_gap(objective)

    def gap(self, objective: Objective, state: Any, distance: Tensor) -> Tensor:
        return gradient_gap(objective, state.x, distance, self.safety)


def _dual_and_point(
    summand: PriorSummand | DataSummand, p: Tensor, image: Tensor, sigma: Tensor
) -> tuple[Tensor, Tensor]:
    """Return ``q = prox_{sigma F^*}(p + sigma K x)``, and a z with q in ``dF(z)``."""
    factor = expand(sigma, p)
    if isinstance(summand, DataSummand):
        # z fits y exactly where F has its kink; z from q, as below, has the rounding of K x, which
        # may be larger than the misfit.
        z = summand.prox(image + p / factor, 1 / sigma)
        return torch.addcmul(p, factor, image - z), z
    q = summand.prox_conjugate(torch.addcmul(p, factor, image), sigma)
    return q, image + (p - q) / factor


def _energy(summand: PriorSummand | DataSummand, z: Tensor) -> Tensor:
    """Return the value of a summand, where constraints count as met, ``(batch,)``."""
    if isinstance(summand, PriorSummand) and summand.function.is_constraint:
        return torch.zeros_like(summand.weight)
    return summand.value(z)
