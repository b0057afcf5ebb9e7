"""Scale the kernel of a blur that is too wide or too narrow, if an image shows it as well."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from invtoolbox.catalogue.presets import prior_named
from invtoolbox.errors import InputError, MeasurementWarning, warn_user
from invtoolbox.jobs.images.decisions.case import (
    IS_BLUR,
    IS_KNOWN,
    IS_UNMENDED,
    IS_WHOLE,
    STAY,
    Case,
    Proposal,
    Step,
)
from invtoolbox.jobs.images.decisions.thresholds import (
    WIDTH_SIDE,
)
from invtoolbox.measurements.kernel_width import describe_width, propose_width, with_width
from invtoolbox.operators.base import Operator
from invtoolbox.operators.imaging.blur import Blur
from invtoolbox.parameter_choice.noise import estimate_noise_std
from invtoolbox.problem import Problem
from invtoolbox.solve import inner_solve
from invtoolbox.solvers.half_quadratic import HalfQuadratic


class KernelWidth(Step):
    """Scale the kernel of a picture if both its spectrum and an image ask for it, and warn of it.

    `propose_width` proposes a width. Compression, clipped values and very smooth pictures change
    spectra too, so the middle of the picture is deblurred with both kernels by the shipped denoiser. A
    wrong kernel makes edges ring, so the other kernel has to leave an image of less total variation.
    A sharp picture under a wider kernel has more of it.
    """

    name = "kernel-width"
    question = "does a wider or narrower kernel explain the picture better?"
    evidence = "total variation of the deblurred middle"
    price = "2 solves of 256 x 256 pixels by a denoiser, if the spectrum proposes a width"
    needs = (IS_UNMENDED, IS_BLUR, IS_KNOWN, IS_WHOLE)

    def propose(self, case: Case) -> list[Proposal]:
        return self.propose_each(case, _scale)


def _scale(case: Case) -> Proposal:
    """Propose another kernel for one picture."""
    problem = case.problem
    width = propose_width(problem) if isinstance(problem.y, Tensor) else None
    if width is None:
        return STAY
    changed = with_width(problem, width.factor)
    try:
        before, after = (_ringing(problem.y0, trial.operator) for trial in (problem, changed))
    except InputError:  # the middle of the picture is constant, or has no noise level
        return STAY
    if not after < before:
        return Proposal(before=before, after=after)
    sentence = (
        f"{describe_width(width)}, and edges ring less in an image deblurred with it: the kernel was "
        "scaled; automatic='-kernel-width' keeps it"
    )
    warn_user(sentence, MeasurementWarning)
    mended = dataclasses.replace(case, problem=changed, is_mended=True)
    return Proposal(mended, sentence, before, after)


def _ringing(y: Tensor, blur: Operator) -> float:
    """Return the total variation per pixel of the middle of a picture, deblurred with a kernel."""
    assert isinstance(blur, Blur)
    sides = [min(n, WIDTH_SIDE) for n in y.shape[-2:]]
    top, left = ((n - side) // 2 for n, side in zip(y.shape[-2:], sides))
    middle = y[..., top : top + sides[0], left : left + sides[1]].float().mean(1, keepdim=True)
    low, high = middle.min(), middle.max()
    if not bool(high > low):
        raise InputError("the middle of the picture is constant")
    middle = (middle - low) / (high - low)
    kernel = blur.kernel.float() / blur.kernel.float().sum()
    shape = [side + n - 1 for side, n in zip(sides, kernel.shape[-2:])]
    A = Blur(kernel, shape, "valid")
    prior = prior_named("denoiser-natural").to(y.device)
    variance = estimate_noise_std(middle, A).square()
    denoiser = prior.as_sum().terms[0].prior
    usual = denoiser.usual_weight(variance, HalfQuadratic.denoiser_strength)
    assert usual is not None
    solution = inner_solve(Problem(middle, A), prior, None, usual[0], progress=False)
    x = A.crop(solution.x)
    return float(x.diff(dim=-1).abs().mean() + x.diff(dim=-2).abs().mean())
