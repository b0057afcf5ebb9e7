"""Compare the enlargement of a small picture with bicubic interpolation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from invtoolbox.jobs.images.decisions.judge import Again, Verdict
from invtoolbox.jobs.images.decisions.thresholds import (
    BARELY,
    MOST_DETAIL,
    REDUCED_SMALLEST,
)
from invtoolbox.objective.gaps import measured
from invtoolbox.operators.imaging.downsampling import Downsampling
from invtoolbox.parameter_choice.residual_notes import COLOURED
from invtoolbox.parameter_choice.validation import whiteness
from invtoolbox.problem import Problem


def compare_at_half_size(problem: Problem, again: Again) -> Verdict | None:
    """Reduce a small picture once more, and predict it by the prior and by bicubic interpolation.

    Pictures look alike at neighbouring scales, so the error of an enlargement is that of the next
    smaller one. None if the picture is too small for that.

    Args:
        problem: a small picture under `Downsampling`, without gaps.
        again: solves another problem in the same way.
    """
    A: Any = problem.operator
    rows, columns = (n // A.factor * A.factor for n in problem.y0.shape[-2:])
    if min(rows, columns) < REDUCED_SMALLEST * A.factor:
        return None
    truth = problem.y0[..., :rows, :columns]
    smaller = Downsampling((A.domain_shape[0], rows, columns), A.factor, A.filter, A.boundary)
    y = smaller(truth)

    answers = again(Problem(y, smaller, problem.data_term)), _enlarge(y, (rows, columns))
    by_prior, by_simple = ((x - truth).double().square().flatten(1).mean(1) for x in answers)

    def reason(k: int) -> str:
        pair = [float(error[k].sqrt()) for error in (by_simple, by_prior)]
        return (
            f"a bicubic interpolation predicts the picture from a smaller one to {pair[0]:.3g}, and "
            f"the prior to {pair[1]:.3g}: x is the interpolation"
        )

    size = tuple(problem.image_shape[1:])
    return Verdict(
        ~(by_prior <= by_simple),
        lambda k: _enlarge(problem.y0[k : k + 1], size),
        reason,
        by_prior.sqrt(),
        by_simple.sqrt(),
    )


def doubt_structure(problem: Problem, x: Tensor, verdict: Verdict) -> Verdict:
    """Take the interpolation, too, where the prior leaves structure of a small picture as its residual.

    All of a small picture may be texture, which is then taken for noise. An answer is too smooth if its
    residual is not white, and larger than that of the interpolation.

    Args:
        problem: a small picture under `Downsampling`.
        x: the prior's answer.
        verdict: the comparison by measurements that were held out.
    """
    every = range(problem.batch)
    simple = torch.cat([verdict.simple(k) for k in every]) if every else x
    known = measured(problem)
    by_prior, by_simple = (problem.operator(image) - problem.y0 for image in (x, simple))
    if known is not None:
        by_prior, by_simple = by_prior * known, by_simple * known
    sizes = [r.square().flatten(1).double().mean(1).sqrt() for r in (by_prior, by_simple)]
    leaves = (sizes[0] > sizes[1]) & (whiteness(by_prior) > COLOURED)

    def reason(k: int) -> str:
        if bool(verdict.wins[k]):
            return verdict.reason(k)
        return (
            f"the prior leaves a residual of {float(sizes[0][k]):.3g} that is not white, and a bicubic "
            f"interpolation {float(sizes[1][k]):.3g}: x is the interpolation"
        )

    return verdict._replace(wins=verdict.wins | leaves, reason=reason)


def doubt_detail(problem: Problem, x: Tensor, verdict: Verdict) -> Verdict:
    """Take the interpolation, too, where the prior adds more detail than a small picture has itself.

    Detail of most pictures decreases from scale to scale. Where it increases, the prior has to predict
    held-out pixels clearly better than the interpolation does: texture that the pixels of a small
    picture hardly resolve may have been sharpened at wrong frequencies.

    Args:
        problem: a small picture under `Downsampling`.
        x: the prior's answer.
        verdict: the comparison by measurements that were held out.
    """
    A: Any = problem.operator
    small = A(x)
    rows, columns = (n // 2 * 2 for n in small.shape[-2:])
    if min(rows, columns) < 4 or A.filter is None:
        return verdict
    half = Downsampling((A.domain_shape[0], rows, columns), 2, A.filter, A.boundary)
    even = small[..., :rows, :columns]
    added, present = (
        (image - _enlarge(reduced, tuple(image.shape[-2:]))).double().square().flatten(1).mean(1)
        for image, reduced in ((x, small), (even, half(even)))
    )
    exceeds = (added > MOST_DETAIL**2 * present) & ~(verdict.by_prior < BARELY * verdict.by_simple)

    def reason(k: int) -> str:
        if bool(verdict.wins[k]):
            return verdict.reason(k)
        return (
            f"the prior adds detail of {float(added[k].sqrt()):.3g} to the small picture, whose own is "
            f"{float(present[k].sqrt()):.3g}: x is the bicubic interpolation"
        )

    return verdict._replace(wins=verdict.wins | exceeds, reason=reason)


def _enlarge(image: Tensor, size: tuple[int, ...]) -> Tensor:
    return torch.nn.functional.interpolate(image, size, mode="bicubic", align_corners=False)
