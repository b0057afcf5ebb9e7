"""Compare a prior with the filtered back-projection on views that neither has seen."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.jobs.images.decisions.judge import Again, Verdict, judge
from invtoolbox.jobs.images.decisions.thresholds import (
    EVEN_STEPS,
    HALVED_LARGEST,
    HALVINGS,
    LEAST_PANELS,
    LEAST_VIEWS,
    VIEW_ERRORS,
)
from invtoolbox.objective.initial_guess import first_guess
from invtoolbox.operators.base import Operator
from invtoolbox.operators.tomography.scan_2d import Scan
from invtoolbox.parameter_choice.held_out import ONE_OF, in_norm_of_image, quadratic_model
from invtoolbox.problem import Problem


def compare_views(
    problem: Problem,
    again: Again,
    image: Tensor | None = None,
    has_edges: bool | Tensor = True,
    must_win: bool | Tensor = False,
) -> Verdict:
    """Predict held-out views by the prior and by the filtered back-projection of the others.

    Counts of photons are compared as weighted logarithms. Residuals are compared a second time in the
    norm of the image, see `compare_in_norm_of_image`. The prior loses if it loses either comparison.

    The pixels of an image do not follow edges, which views see, and an answer that fits the views may
    have wrong values for that. Therefore both answers get the detail within pixels that the filtered
    back-projection has on smaller ones, without its means: what they differ by then are the values.

    Args:
        problem: a scan.
        again: solves another problem in the same way.
        image: image of the prior by `solve_without_views`, if it is known.
        has_edges: whether the image may have the edges of an object that is made of pixels, which has no
            detail within them, also per item; both answers get the detail if it may not.
        must_win: whether the prior must be clearly better in the norm of the image, also per item.
    """
    edges, must = (
        torch.as_tensor(flag, device=problem.y0.device).expand(problem.batch)
        for flag in (has_edges, must_win)
    )
    model, _ = quadratic_model(problem)
    fitted, held = _split_views(problem)
    unseen = model.subset(held)

    def invert(scan: Problem) -> Tensor:
        return first_guess(scan.with_data_term(LeastSquares()), inverse=True)

    def invert_fitted(scan: Problem) -> Tensor:
        return invert(fill_views(scan, held) or scan.subset(fitted))

    if image is None:
        image = solve_without_views(problem, again)
    finer, levels = problem, 0
    while math.prod(finer.image_shape) << (image.ndim - 2) <= HALVED_LARGEST and levels < HALVINGS:
        if (operator := _refine(finer.operator)) is None:
            break
        finer, levels = finer.with_operator(operator), levels + 1
    detail: Tensor | float = 0.0
    if levels:
        small = invert_fitted(quadratic_model(finer)[0])
        detail = small - enlarge_pixels(average_pixels(small, levels), levels)

    def predict(x: Tensor) -> Tensor:
        plain = predict_views(problem, x)
        if not levels:
            return plain
        detailed = predict_views(finer, enlarge_pixels(x, levels) + detail)
        # An object that is made of pixels has no detail.
        pair = [_sum_views(in_norm_of_image(trial)).sum(1) for trial in (plain, detailed)]
        is_detailed = ((pair[1] < pair[0]) | ~edges).view(-1, *[1] * (plain.ndim - 1))
        return torch.where(is_detailed, detailed, plain)

    residual, by_simple = predict(image), predict(invert_fitted(model))
    weights = _weights_of(unseen)
    squares = [residual.square(), by_simple.square(), (weights > 0).to(weights)]
    wins, errors = judge(torch.stack(squares, 1), VIEW_ERRORS)
    least = torch.where(must, LEAST_PANELS, LEAST_VIEWS if image.ndim == 4 else LEAST_PANELS)
    margin = torch.where(must, -VIEW_ERRORS, VIEW_ERRORS)
    wins = wins | compare_in_norm_of_image(residual, by_simple, margin)[0] & (len(held) >= least)

    def reason(k: int) -> str:
        prior, back_projection = (float(error[k]) for error in errors)
        compared = "not clearly better" if bool(must[k]) else "worse"
        return (
            "the filtered back-projection predicts held-out views to "
            f"{back_projection:.3g}, and the prior to {prior:.3g}"
            + (f", but {compared} in the norm of the image" if prior < back_projection else "")
            + ": x is the filtered back-projection"
        )

    return Verdict(
        wins, lambda k: invert(model.select(held.new_tensor([k]))), reason, errors[0], errors[1]
    )


def fill_views(problem: Problem, missing: Tensor) -> Problem | None:
    """Return the scan whose missing views are interpolated from their neighbours, without these views.

    Cubic interpolation, linear next to the last view; the last view itself is its neighbour. None if the
    views are not in the order of evenly spaced angles.

    Args:
        problem: views of a scan.
        missing: places of views, none of them within two steps of another one or of the first view.
    """
    angles, y = getattr(problem.operator, "angles", None), problem.y0
    if angles is None or angles.ndim != 1 or len(angles) != y.shape[2]:
        return None
    steps = angles.detach().diff()
    if not bool((steps * steps.median() > 0).all()):
        return None
    if float(steps.abs().max()) > EVEN_STEPS * float(steps.abs().min()):
        return None
    filled, last = y.clone(), y.shape[2] - 1
    for k in missing.tolist():
        after = y[:, :, k + 1] if k < last else y[:, :, k - 1]
        filled[:, :, k] = (y[:, :, k - 1] + after) / 2
        if k + 2 <= last:
            # The cubic polynomial through the neighbours at one and two steps.
            bend = y[:, :, k - 1] + after - y[:, :, k - 2] - y[:, :, k + 2]
            filled[:, :, k] += bend / 6
    return problem.with_measurements(filled)


def average_pixels(image: Tensor, halvings: int = 1) -> Tensor:
    """Return the means over blocks of pixels.

    Args:
        image: ``(batch, channel, *space)``.
        halvings: logarithm to base 2 of the number of pixels along a side of a block.
    """
    pool = F.avg_pool2d if image.ndim == 4 else F.avg_pool3d
    return pool(image, 1 << halvings) if halvings else image


def enlarge_pixels(image: Tensor, halvings: int = 1) -> Tensor:
    """Return an image every pixel of which is repeated.

    Args:
        image: ``(batch, channel, *space)``.
        halvings: logarithm to base 2 of the number of repetitions along a side.
    """
    return F.interpolate(image, scale_factor=1 << halvings, mode="nearest") if halvings else image


def _refine(A: Operator) -> Scan | None:
    return A.refine() if isinstance(A, Scan) else None


def solve_without_views(problem: Problem, again: Again) -> Tensor:
    """Return the image of the views of a scan that are not held out.

    Args:
        problem: a scan.
        again: solves the problem of some views.
    """
    return again(problem.subset(_split_views(problem)[0]))


def predict_views(problem: Problem, x: Tensor) -> Tensor:
    """Return the weighted residuals of the held-out views, ``(batch, channel, view, ...)``.

    Args:
        problem: a scan; counts of photons are compared as weighted logarithms.
        x: images of the other views.
    """
    unseen = quadratic_model(problem)[0].subset(_split_views(problem)[1])
    return _weights_of(unseen).sqrt() * (unseen.operator(x) - unseen.y0)


def compare_in_norm_of_image(
    first: Tensor, second: Tensor, errors: float | Tensor = VIEW_ERRORS
) -> tuple[Tensor, Tensor]:
    """Compare two answers by their residuals in views that neither has seen.

    See `in_norm_of_image`. Errors of the cells of a view depend on each other, hence sums over views
    are compared.

    Args:
        first: residuals of the first answer by `predict_views`.
        second: residuals of the second one.
        errors: number of standard errors by which the second answer must be better, also per item. If
            the number is negative, the first answer must be better by its size.

    Returns:
        Whether the second answer is better, or the only one that is finite, and its error relative to
        the error of the first; ``(batch,)`` each.
    """
    views = torch.stack([_sum_views(in_norm_of_image(residual)) for residual in (first, second)], 1)
    wins, sizes = judge(torch.cat([views, torch.ones_like(views[:, :1])], 1), errors)
    return wins & sizes[1].isfinite(), sizes[1] / sizes[0]


def number_held(problem: Problem) -> int:
    """Return the number of views of a scan that `predict_views` holds out."""
    return len(_split_views(problem)[1])


def _split_views(problem: Problem) -> tuple[Tensor, Tensor]:
    """Return the indices of the views that are fitted, and of those that are held out."""
    is_held = torch.arange(problem.operator.blocks or 0, device=problem.y0.device) % ONE_OF
    is_held = is_held == ONE_OF // 2
    return (~is_held).nonzero().squeeze(1), is_held.nonzero().squeeze(1)


def _weights_of(problem: Problem) -> Tensor:
    weights = getattr(problem.data_term, "weights", None)
    return torch.ones_like(problem.y0) if weights is None else weights.expand_as(problem.y0)


def _sum_views(residual: Tensor) -> Tensor:
    """Return the sums of squares of every view, ``(batch, view)``."""
    return residual.square().double().transpose(1, 2).flatten(2).sum(2)
