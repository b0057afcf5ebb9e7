"""Scans whose pixels are too coarse: solve on pixels of half the size, and average blocks of them.

The edges of an object do not lie on the edges of pixels, so an image of few pixels explains its views
only up to an error that is no noise: neighbouring views share it. A prior that follows the views fits
this error. An image of smaller pixels explains the views better, and the means over blocks of its pixels
are the answer. Views that neither image has seen decide between the two.

A volume has eight times as many voxels of half the size, and few held-out panels limit their weight.
Therefore volumes take the weight of total variation from the grid of the user.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.decision import ITEM
from invtoolbox.core.interrupts import OutOfTime
from invtoolbox.core.reductions import sum_items
from invtoolbox.jobs.images.decisions.case import (
    IS_KNOWN,
    IS_REAL,
    IS_SCAN,
    IS_SQUARES,
    ITERATES,
    MAY_CHANGE,
    STAY,
    USABLE,
    Case,
    Proposal,
    Step,
    Trait,
    require_time,
)
from invtoolbox.jobs.images.decisions.held_out_views import (
    average_pixels,
    compare_in_norm_of_image,
    enlarge_pixels,
    number_held,
    predict_views,
    solve_without_views,
)
from invtoolbox.jobs.images.decisions.thresholds import (
    DIFFERENCES_AT_ONCE,
    FINER_CERTAIN_ERRORS,
    FINER_ERRORS,
    FINER_LARGEST,
    FINER_LARGEST_SMOOTH,
    FINER_LARGEST_VOLUME,
    FINER_LEAST_PANELS,
    FINER_LEAST_VIEWS,
    FINER_LEAST_WEIGHT,
    FINER_WEIGHT,
    OF_PIXELS_RATIO,
    SMOOTH_DECREASE,
    SMOOTH_ORDERS,
    SMOOTH_RATIO,
)
from invtoolbox.jobs.images.decisions.trained_range import needs_unit
from invtoolbox.posteriors.base import MappedPosterior
from invtoolbox.priors.base import Prior
from invtoolbox.priors.images.total_variation import TotalVariation
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solve import solve


class FinerGrid(Step):
    """Solve a scan on pixels of half the size, and average them where they predict held-out views."""

    name = "finer-grid"
    question = "do means over pixels of half the size predict held-out views better?"
    evidence = "relative error of held-out views, in the norm of the image"
    price = "1 solve with its own weight on 4 or 8 times the pixels, 2 without held-out views"
    needs = (
        *MAY_CHANGE,
        ITERATES,
        IS_SCAN,
        IS_SQUARES,
        IS_KNOWN,
        IS_REAL,
        Trait("the views were continued by a guess", lambda case: not case.is_continued),
        Trait("the prior was trained on pixels", lambda case: not needs_unit(case.prior)),
        Trait("the image is large, or has few views", lambda case: _is_small(case)),
    )

    def propose(self, case: Case) -> list[Proposal]:
        problem, smooth = case.posed, has_smooth_views(case.posed)
        is_volume = len(problem.image_shape) == 4
        candidates = torch.ones_like(smooth)
        if not is_volume and math.prod(problem.image_shape) > FINER_LARGEST:
            candidates = smooth
        finer = problem.operator.refine()  # type: ignore[attr-defined]
        if finer is None or not bool(candidates.any()):
            return [STAY] * case.batch
        require_time()
        fine_problem = problem.with_operator(finer)
        try:
            fine = _solve_small(fine_problem, case)
            require_time()
            large = solve_without_views(problem, case.again)
            small = solve_without_views(fine_problem, case.with_answer(fine).again)
        except OutOfTime:
            raise
        except (
            Exception
        ) as error:  # a prior of the user that takes images of one size raises any error
            sentence = f"smaller pixels were not compared: {str(error).partition(chr(10))[0]}"
            return [Proposal(sentence=sentence)] * case.batch
        is_fine, ratio, is_of_pixels = _compare(problem, fine_problem, large, small, smooth)
        usable = case.usable & torch.tensor([status in USABLE for status in fine.status])
        is_fine &= usable.to(is_fine.device) & candidates
        weight = case.answer.regularization
        is_fine &= fine.regularization.to(is_fine.device) > FINER_LEAST_WEIGHT * weight
        without = (average_pixels(small), torch.zeros_like(is_fine))
        taken = case.with_answer(_reduce(fine), without_views=without)
        stays = dataclasses.replace(case, without_views=(large, is_of_pixels))
        size = " by ".join(map(str, fine.x.shape[2:]))
        return [
            Proposal(
                taken if is_taken else stays,
                _describe(float(ratio[k]), size) if is_taken else "",
                before=1.0,
                after=float(ratio[k]),
                is_kept=not is_taken,
            )
            for k, is_taken in enumerate(is_fine.tolist())
        ]


def _is_small(case: Case) -> bool:
    """Return whether pixels of half the size are affordable, and enough views can be held out.

    At least 60 views of at most 8,192 pixels, 12,288 if the views are smooth, or for total variation
    at least 36 views of at most 32,768 voxels.
    """
    problem = case.problem
    is_volume = len(problem.image_shape) == 4
    largest, least = (
        (FINER_LARGEST_VOLUME, FINER_LEAST_PANELS)
        if is_volume
        else (FINER_LARGEST_SMOOTH, FINER_LEAST_VIEWS)
    )
    if math.prod(problem.image_shape) > largest or number_held(problem) < least:
        return False
    return not is_volume or _is_total_variation(case.sum_of_priors)


def _is_total_variation(prior: Prior) -> bool:
    """Return whether a prior is total variation, which bounds of the values may accompany."""
    priors = [term.prior for term in prior.as_sum().terms if not term.prior.is_constraint]
    return len(priors) == 1 and type(priors[0]) is TotalVariation


def _compare(
    problem: Problem, finer: Problem, large: Tensor, small: Tensor, is_smooth: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compare large and small pixels by the views that neither has seen.

    Returns where the small ones are better, their error relative to that of the large ones, and where
    the object may be made of large pixels; ``(batch,)`` each.
    """
    large_residual, small_residual = predict_views(problem, large), predict_views(finer, small)
    wins, ratio = compare_in_norm_of_image(large_residual, small_residual)
    # Residuals of large pixels are not errors of their values alone. Small pixels with the means of the
    # large ones have these values and none of the other errors.
    mixed = small + enlarge_pixels(large - average_pixels(small))
    mixed_residual = predict_views(finer, mixed)
    is_mean_better, is_mean_certain = (
        compare_in_norm_of_image(mixed_residual, small_residual, errors)[0]
        for errors in (FINER_ERRORS, FINER_CERTAIN_ERRORS)
    )
    is_large_better, _ = compare_in_norm_of_image(small_residual, large_residual)
    # Large pixels of a smooth object fit as many errors of views as small ones do, with wrong values. An
    # object that is made of large pixels has edges, and means of small ones are no better.
    is_of_pixels = is_large_better & (ratio > OF_PIXELS_RATIO) & ~is_mean_certain & ~is_smooth
    if large.ndim == 4:
        return is_mean_better & (wins | is_smooth), ratio, is_of_pixels
    # Large voxels fit errors of panels in the same way, so the values decide unless large voxels
    # predict panels better, as those that an object is made of do.
    return wins | is_mean_better & (is_smooth | ~is_large_better), ratio, is_of_pixels


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
        for part in y.split(DIFFERENCES_AT_ONCE, 2 if axis == -1 else -1):
            squares = part.double().diff(order, axis).square()
            total, count = total + sum_items(squares), count + squares[:1].numel()
        return total / count / math.comb(2 * order, order)

    low, high = (variance(order, -1) for order in SMOOTH_ORDERS)
    noise = variance(SMOOTH_ORDERS[0], 2)
    is_hidden = low <= SMOOTH_RATIO * torch.minimum(high, noise)
    return is_hidden | (low > noise) & (low - noise > SMOOTH_DECREASE * (high - noise))


def _solve_small(finer: Problem, case: Case) -> Solution:
    """Return the solution on smaller pixels, whose weight is chosen for planes, and taken for volumes."""
    solution = case.answer
    some = {
        key: case.settings[key] for key in ("max_iterations", "tolerance") if key in case.settings
    }
    more: dict[str, Any] = {"seed": solution.seed, "progress": False, "check": False}
    if len(finer.image_shape) < 4:
        return solve(finer, case.prior, case.solver, **some, **more)
    weight = torch.where(solution.regularization.isfinite(), solution.regularization, 1)
    fine = solve(finer, case.prior, case.solver, FINER_WEIGHT * weight, **some, **more)
    choice = [d for d in solution.decisions if d.step == "weight"]
    return dataclasses.replace(fine.note(*choice), weight_search=solution.weight_search)


def _reduce(fine: Solution) -> Solution:
    """Return the solution of a finer grid on pixels of twice the size."""
    posterior = fine.posterior
    return dataclasses.replace(
        fine,
        x=average_pixels(fine.x),
        posterior=None
        if posterior is None
        else MappedPosterior(posterior, average_pixels, by_value=False),
    )


def _describe(ratio: float, size: str) -> str:
    return (
        f"pixels of half the size predict held-out views{ITEM} with {ratio:.0%} of the error"
        f"{'' if ratio < 1 else ', and large ones have wrong values'}: x is the mean over blocks of "
        f"pixels of a solution on {size}; automatic='-finer-grid' keeps the grid"
    )
