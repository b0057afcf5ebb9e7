"""Scans whose pixels are too coarse: solve on pixels of half the size, and average blocks of them.

The edges of an object do not lie on the edges of pixels, so an image of few pixels explains its views
only up to an error that is no noise: neighbouring views share it. A prior that follows the views fits
this error. An image of smaller pixels explains the views better, and the means over blocks of its pixels
are the answer. Views that neither image has seen decide between the two. Numbers here were chosen on the
even half of `benchmarks/zoo.py`, and on squares, rings, ellipses and photographs of the same sizes.

A volume has eight times as many voxels of half the size, and few held-out panels limit their weight.
Therefore volumes take the weight of total variation from the grid of the user.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.interrupts import OutOfTime, budget
from invtoolbox.core.reductions import sum_items
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.jobs.images.held_out import may_give_way, repeat
from invtoolbox.jobs.images.held_out_views import (
    WithoutViews,
    average_pixels,
    compare_in_norm_of_image,
    enlarge_pixels,
    number_held,
    predict_views,
    solve_without_views,
)
from invtoolbox.jobs.images.join import NO_POSTERIOR, join, take
from invtoolbox.jobs.images.trained_range import needs_unit
from invtoolbox.operators.tomography.scan_2d import Scan
from invtoolbox.posteriors.base import MappedPosterior
from invtoolbox.priors.base import Prior
from invtoolbox.priors.images.total_variation import TotalVariation
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solve import solve
from invtoolbox.solvers.base import Solver

#: Largest number of pixels of an image that is solved on a finer grid too, in general and if its views
#: are smooth, and least number of views that are held out for the comparison. Only smooth objects gain
#: above the first number. The larger grid of an image of 64 pixels per side has 105.
_LARGEST, _LARGEST_SMOOTH, _LEAST_VIEWS = 1 << 13, 3 << 12, 10
#: Standard errors by which the means of small pixels must predict held-out views better, and by which
#: they do not if the object is made of large pixels; and least weight of the finer grid, relative to the
#: weight of the grid of the user: below, no held-out view limits it, and the small pixels fit the noise.
_MEAN_ERRORS, _CERTAIN_ERRORS, _LEAST_WEIGHT = 1.5, 3.0, 1e-4
#: Ratio of the errors of small and of large pixels on held-out views above which an object may be made
#: of large pixels.
_OF_PIXELS = 1.1
#: The same numbers for volumes: largest number of voxels, and least number of held-out panels.
_LARGEST_VOLUME, _LEAST_PANELS = 1 << 15, 6
#: Weight of total variation on voxels of half the size, relative to its weight on those of the user. Equal
#: energies of an edge have the ratio 1/4, and equal energies of noise about 1.
_SHARE_OF_WEIGHT = 0.5
#: Orders of two differences along the cells, largest ratio of their variances in smooth views whose
#: noise they show, and least ratio of what exceeds the noise in others; and number of views, or of
#: columns of cells, whose differences are computed at once.
_ORDERS, _SMOOTH, _DECREASE, _AT_ONCE = (6, 8), 1.1, 2.2, 16
#: Statuses of answers that are compared.
_USABLE = ("converged", "early_stopping", "limit")


def refine(problem: Problem, solution: Solution, prior: Prior | None) -> Problem | None:
    """Return the problem on pixels of half the size, or None if these are not tried.

    They are tried for line integrals in at least 60 views of an image of at most 8,192 pixels, 12,288
    if the views are smooth, and for total variation of a volume of at most 32,768 voxels in at least
    36 views. They are not tried if the prior was trained on CT slices, whose pixels have a size, or if
    a sampler drew the answer.

    Args:
        problem: measurements, operator and data term.
        solution: its solution.
        prior: sum of the priors.
    """
    A = problem.operator
    if (
        not isinstance(A, Scan)
        or type(problem.data_term) is not LeastSquares
        or problem.unknown
        or problem.y0.is_complex()
        or prior is None
        or not may_give_way(solution, prior)
        or needs_unit(prior)
    ):
        return None
    is_volume = len(problem.image_shape) == 4
    largest, least = (
        (_LARGEST_VOLUME, _LEAST_PANELS) if is_volume else (_LARGEST_SMOOTH, _LEAST_VIEWS)
    )
    if math.prod(problem.image_shape) > largest or number_held(problem) < least:
        return None
    if is_volume and not _is_total_variation(prior):
        return None
    finer = A.refine()
    return None if finer is None else problem.with_operator(finer)


def _is_total_variation(prior: Prior) -> bool:
    """Return whether a prior is total variation, which bounds of the values may accompany."""
    priors = [term.prior for term in prior.as_sum().terms if not term.prior.is_constraint]
    return len(priors) == 1 and type(priors[0]) is TotalVariation


def solve_finer(
    problem: Problem,
    solution: Solution,
    candidates: Tensor,
    prior: Prior | None,
    solver: Solver | str | None,
    settings: Mapping[str, Any],
) -> tuple[Solution, WithoutViews | None]:
    """Solve a scan on pixels of half the size, and take the answer that predicts held-out views.

    Args:
        problem: measurements, operator and data term.
        solution: its solution, with ``regularization="auto"``.
        candidates: items that may be taken from the finer grid, ``(batch,)`` booleans.
        prior: the prior of the solution.
        solver: the solver of the solution.
        settings: further keywords of `invtoolbox.solve`.

    Returns:
        The solution on the grid of the problem, and its image of the views that are not held out;
        None if nothing was compared.
    """
    valid = problem.without_skipping().to(device=solution.x.device, dtype=solution.x.real.dtype)
    finer = refine(valid, solution, prior)
    if finer is None or settings.get("max_iterations") == 0:
        return solution, None
    is_smooth = has_smooth_views(valid)
    if len(problem.image_shape) == 3 and math.prod(problem.image_shape) > _LARGEST:
        candidates = candidates.to(is_smooth.device) & is_smooth
    if not bool(candidates.any()):
        return solution, None
    limit = settings.get("max_iterations")
    try:
        if budget().is_spent:
            raise OutOfTime
        fine = _solve_small(finer, solution, prior, solver, settings)
        if budget().is_spent:
            raise OutOfTime
        large = solve_without_views(valid, repeat(solution, prior, solver, limit))
        small = solve_without_views(finer, repeat(fine, prior, solver, limit))
    except OutOfTime:
        late = "the time limit left no time for a comparison with smaller pixels"
        return dataclasses.replace(solution, notes=(*solution.notes, late)), None
    except Exception as error:  # a prior of the user that takes images of one size raises any error
        reason = f"smaller pixels were not compared: {str(error).partition(chr(10))[0]}"
        return dataclasses.replace(solution, notes=(*solution.notes, reason)), None
    large_residual, small_residual = predict_views(valid, large), predict_views(finer, small)
    wins, ratio = compare_in_norm_of_image(large_residual, small_residual)
    # Residuals of large pixels are not errors of their values alone. Small pixels with the means of the
    # large ones have these values and none of the other errors.
    mixed = small + enlarge_pixels(large - average_pixels(small))
    mixed_residual = predict_views(finer, mixed)
    is_mean_better, is_mean_certain = (
        compare_in_norm_of_image(mixed_residual, small_residual, errors)[0]
        for errors in (_MEAN_ERRORS, _CERTAIN_ERRORS)
    )
    is_large_better, _ = compare_in_norm_of_image(small_residual, large_residual)
    # Large pixels of a smooth object fit as many errors of views as small ones do, with wrong values. An
    # object that is made of large pixels has edges, and means of small ones are no better.
    is_of_pixels = is_large_better & (ratio > _OF_PIXELS) & ~is_mean_certain & ~is_smooth
    if large.ndim == 4:
        is_fine = is_mean_better & (wins | is_smooth)
    else:
        # Large voxels fit errors of panels in the same way, so the values decide unless large voxels
        # predict panels better, as those that an object is made of do.
        is_fine = wins | is_mean_better & (is_smooth | ~is_large_better)
    usable = [a in _USABLE and b in _USABLE for a, b in zip(solution.status, fine.status)]
    is_fine &= torch.tensor(usable, device=wins.device)
    is_fine &= fine.regularization.to(wins.device) > _LEAST_WEIGHT * solution.regularization
    is_fine &= candidates.to(wins.device)
    places, parts = torch.arange(problem.batch, device=is_fine.device), []
    for choice in (False, True):
        items = places[is_fine == choice]
        if not len(items):
            continue
        answer = solution
        if choice:
            answer = _reduce(problem, solution, fine, {int(k): float(ratio[k]) for k in items})
        parts.append((items, answer if len(items) == problem.batch else take(answer, items)))
    joined = join(problem, parts, is_renumbered=False)
    if len(parts) > 1 and solution.posterior is not None:
        joined = dataclasses.replace(joined, notes=(*joined.notes, NO_POSTERIOR))
    column = is_fine.reshape(-1, *[1] * (large.ndim - 1))
    image = torch.where(column, average_pixels(small), large)
    return joined, WithoutViews(image, is_of_pixels & ~is_fine)


def has_smooth_views(problem: Problem) -> Tensor:
    """Return per item whether views have no edges above their noise, ``(batch,)`` booleans.

    Differences of high order of white noise have the variance of the noise, times a binomial
    coefficient, in all orders and directions. What exceeds this noise decreases slowly with the
    order if it is an edge, and fast if it is a smooth peak, which low noise does not hide.

    Args:
        problem: a scan.
    """
    y = problem.y0

    def variance(order: int, axis: int) -> Tensor:
        total, count = y.new_zeros(len(y), dtype=torch.float64), 0
        # Copies of all views of a volume in double precision would take the memory of many volumes.
        for part in y.split(_AT_ONCE, 2 if axis == -1 else -1):
            squares = part.double().diff(order, axis).square()
            total, count = total + sum_items(squares), count + squares[:1].numel()
        return total / count / math.comb(2 * order, order)

    low, high = (variance(order, -1) for order in _ORDERS)
    noise = variance(_ORDERS[0], 2)
    is_hidden = low <= _SMOOTH * torch.minimum(high, noise)
    return is_hidden | (low > noise) & (low - noise > _DECREASE * (high - noise))


def _solve_small(
    finer: Problem,
    solution: Solution,
    prior: Prior | None,
    solver: Solver | str | None,
    settings: Mapping[str, Any],
) -> Solution:
    """Return the solution on smaller pixels, whose weight is chosen for planes, and taken for volumes."""
    some = {key: settings[key] for key in ("max_iterations", "tolerance") if key in settings}
    more: dict[str, Any] = {"seed": solution.seed, "progress": False, "check": False}
    if len(finer.image_shape) < 4:
        return solve(finer, prior, solver, **some, **more)
    weight = torch.where(solution.regularization.isfinite(), solution.regularization, 1)
    fine = solve(finer, prior, solver, _SHARE_OF_WEIGHT * weight, **some, **more)
    return dataclasses.replace(
        fine, weight_choice=solution.weight_choice, weight_search=solution.weight_search
    )


def _reduce(
    problem: Problem, solution: Solution, fine: Solution, ratios: Mapping[int, float]
) -> Solution:
    """Return the solution of a finer grid on the grid of a problem, with a note per item.

    Args:
        problem: the problem of the user.
        solution: its solution.
        fine: solution on pixels of half the size.
        ratios: errors of the finer grid on held-out views, relative to those of the grid of the user,
            by the places of the items.
    """
    size = " by ".join(map(str, fine.x.shape[2:]))
    reasons = [
        f"pixels of half the size predict held-out views{'' if problem.batch == 1 else f' of item {k}'} "
        f"with {ratio:.0%} of the error{'' if ratio < 1 else ', and large ones have wrong values'}: x is "
        f"the mean over blocks of pixels of a solution on {size}; regularization= a number keeps the grid"
        for k, ratio in ratios.items()
    ]
    # Remarks on the residual are those of the answer that is returned.
    remarks = [text for text in solution.notes if "the residual" not in text]
    notes = dict.fromkeys((*fine.notes, *remarks, *reasons))
    posterior = fine.posterior
    return dataclasses.replace(
        fine,
        x=average_pixels(fine.x),
        posterior=None
        if posterior is None
        else MappedPosterior(posterior, average_pixels, by_value=False),
        problem=problem,
        notes=tuple(notes),
        seconds=solution.seconds + fine.seconds,
    )
