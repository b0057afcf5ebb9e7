"""State and step sizes of the primal-dual hybrid gradient method, their balance and bounds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.solvers.base import State
from invtoolbox.solvers.linear_systems import relative
from invtoolbox.solvers.splitting import (
    DataSummand,
    GradientSummand,
    PriorSummand,
    Splitting,
    first_curvature,
)


@dataclass(kw_only=True)
class PDHGState(State):
    """Relaxed iterates and duals, their products with the operators, and the steps of PDHG."""

    regularization: Tensor  # (batch,) given, or equivalent to the discrepancy constraint
    target: Tensor  # (batch,) the discrepancy to meet; NaN if the weight is given
    ratio: Tensor  # (batch,) primal over dual step
    norms: Tensor  # (batch, summands) norms of the operators of the dual summands
    curvatures: Tensor  # (batch, misfits and smooth priors); infinite if unbounded
    start: Tensor  # the start of x
    point: Tensor  # the relaxed x
    pull: Tensor  # sum_j K_j^T p_j
    duals: tuple[Tensor, ...]  # p_j, relaxed
    images: tuple[Tensor, ...]  # K_j point
    spare: tuple[Tensor, ...]  # a buffer for every summand, and one for the image
    floor: Tensor  # (batch,) least scale of the primal residual


def step_sizes(splitting: Splitting, state: PDHGState) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return tau and every sigma, each ``(batch,)``."""
    # sigma_j = 1 / (J tau |K_j|^2) for J summands (Pock and Chambolle 2011), with tau = ratio.
    count = len(splitting.dual)
    squares = state.norms[:, :count].square().clamp_min(torch.finfo(state.norms.dtype).tiny)
    sigmas = (1 / (count * state.ratio.unsqueeze(1) * squares)).unbind(1) if count else ()
    if not splitting.smooth:
        return state.ratio, sigmas
    # The Lipschitz constant of grad f is the sum of curvature |A|^2 over the smooth summands.
    bounds = zip(
        splitting.smooth,
        state.norms[:, count:].unbind(1),
        state.curvatures[:, -len(splitting.smooth) :].unbind(1),
    )
    lipschitz = _total([L * norm.square() for _, norm, L in bounds])
    # 1 / tau - sum_j sigma_j |K_j|^2 >= L / 2 (Condat 2013, theorem 3.1) with sum_j = 1 / ratio.
    # Without duals it is a gradient step, tau = 1 / L.
    return 1 / (1 / state.ratio + lipschitz / 2 if count else lipschitz), sigmas


def find_curvatures(splitting: Splitting, like: Tensor, start: Tensor) -> Tensor:
    """Return the curvature of every misfit and smooth prior, ``(batch, misfits and priors)``.

    The columns of ``splitting.smooth`` are the last ones.
    """
    # A misfit states a bound of its curvature in the prediction; everything else is estimated.
    columns = []
    for summand in (*splitting.all, splitting.primal):
        if isinstance(summand, GradientSummand):
            columns.append(first_curvature(summand, start))
        if not isinstance(summand, DataSummand):
            continue
        bound = summand.data_term.curvature(summand.y)
        columns.append(
            torch.full_like(like, torch.inf)
            if bound is None
            else (summand.weight * bound.to(like)).expand_as(like)
        )
    return torch.stack(columns, 1) if columns else like.new_zeros(len(like), 0)


def balance_steps(
    splitting: Splitting, state: PDHGState, distance: Tensor, sizes: list[Tensor]
) -> Tensor:
    r"""Return the ratio of primal to dual step for these sizes of ``x - start`` and of every dual.

    It is the geometric mean of two rules. The worst case: the bound of Chambolle and Pock (2011,
    theorem 1) is least if ``x - start`` and the duals of the priors are of equal size in the metric
    of the method. Strong convexity: the dual of a misfit of curvature L forgets its start at the
    rate ``sigma / L``, and its image at ``tau L``, which should not be small. Over three decades of
    the weight this was within 3 of the best ratio on CT, deblurring and denoising.
    """
    # The sum over j of |p_j|^2 / sigma_j = tau J |K_j|^2 |p_j|^2 equals |x - start|^2 / tau at
    # tau = distance / (sum_j J |K_j|^2 |p_j|^2)^(1/2).
    count, norms = len(splitting.dual), state.norms.unbind(1)
    squares = [count * (size * norm).square() for size, norm in zip(sizes, norms)]
    priors = [
        square
        for summand, square in zip(splitting.dual, squares)
        if isinstance(summand, PriorSummand)
    ]
    curvatures = state.curvatures.unbind(1)
    if splitting.ball is not None:
        # Its dual is equivalent to the dual of a misfit with this curvature.
        curvatures = (sizes[0] / splitting.ball.radius,)
    if isinstance(splitting.primal, DataSummand):
        # For denoising the misfit is strongly convex in x itself.
        rates = [10 * curvatures[0]]
    else:
        rates = [
            count * norm.square() * L for norm, L in zip(norms, curvatures[: count - len(priors)])
        ]
    # The stiffest misfit decides; one whose curvature is not bounded has no rate.
    rate = (
        torch.stack([torch.where(r.isfinite(), r, torch.zeros_like(r)) for r in rates]).amax(0)
        if rates
        else torch.zeros_like(distance)
    )
    every = _total(squares).sqrt()
    of_priors = _total(priors).sqrt() if priors else every
    ratio = torch.where(rate > 0, (distance / (of_priors * rate)).sqrt(), distance / every)
    return torch.where(ratio.isfinite() & (ratio > 0), ratio, state.ratio)


def raise_norm(norm: Tensor, image_length: Tensor, length: Tensor, size: Tensor) -> Tensor:
    """Return the norm of an operator, raised if ``|K d| > norm |d|`` for a step d of the image.

    A power method ends below the norm, by much if it is slow. Over-relaxed steps that are too long
    let exactly those directions grow that the estimate has missed, so they show. A change that may
    be rounding is left out: it has no bound once the image of norm ``size`` has stopped moving.
    """
    stretch = relative(image_length, length)
    # K d is the difference of two images of length |K| |u|, each a few roundings off.
    is_sure = image_length > 256 * torch.finfo(norm.dtype).eps * norm * size
    is_larger = is_sure & (stretch > norm) & stretch.isfinite()
    return torch.where(is_larger, 1.01 * stretch, norm).detach()


def is_milestone(iteration: int) -> bool:
    """Return whether an iteration is 10, 20, 40, 80, ... (or 0), at which steps are balanced."""
    count, rest = divmod(iteration, 10)
    return rest == 0 and count & (count - 1) == 0


def _total(splitting: list[Tensor]) -> Tensor:
    return torch.stack(splitting).sum(0)
