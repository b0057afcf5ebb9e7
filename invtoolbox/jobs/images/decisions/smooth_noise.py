"""Pictures whose noise is smooth, as a camera or a JPEG makes it, and their denoising.

A camera interpolates the colors of its sensor, and a JPEG stores colors at half the size. The noise
then has little energy at the finest scale, where `estimate_noise_std` measures it, and a denoiser
for white noise takes it for texture. Here its level is measured in whole windows. Texture is
separated from noise by three properties: noise is about the same in all windows, it is not much
weaker at the finer scale than in the window, and a denoiser that is called at a larger level
removes nearly all of it. The spread of the windows was tightened after a close view of sand in the
other half of the pictures had been taken for noise.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from invtoolbox.core.decision import ITEM
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.jobs.images.decisions.case import (
    HAS_NO_SOLVER,
    HAS_PRIOR,
    IS_FREE,
    IS_KNOWN,
    IS_OPEN,
    IS_REAL,
    IS_SQUARES,
    IS_WHOLE,
    STAY,
    Case,
    Proposal,
    Step,
    Trait,
)
from invtoolbox.jobs.images.decisions.thresholds import (
    CLIPPED_SHARE,
    CLIPPED_TOLERANCE,
    FINE_LEVEL,
    FLATTEST_SHARE,
    LEAST_NOISE,
    NOISE_SIDE,
    NOISE_SPREAD,
    NOISE_WINDOW,
    NOISE_WINDOW_STEP,
    NOISE_WINDOWS,
    REMOVED_RESIDUAL,
    SMOOTH_LEVELS,
    WHITE_RESIDUAL,
)
from invtoolbox.measurements import report_findings
from invtoolbox.operators.elementary import Identity
from invtoolbox.parameter_choice.noise import estimate_or_nan
from invtoolbox.priors.base import Prior
from invtoolbox.priors.images.total_variation import TotalVariation
from invtoolbox.priors.learned.denoiser import Denoiser
from invtoolbox.solvers.half_quadratic import HalfQuadratic


class SmoothNoise(Step):
    """Call a denoiser for white noise at twice the level of smooth noise."""

    name = "smooth-noise"
    question = "is the noise smooth, as a camera or a JPEG makes it?"
    price = "2 calls of the denoiser"
    needs = (
        IS_FREE,
        HAS_NO_SOLVER,
        HAS_PRIOR,
        IS_SQUARES,
        IS_KNOWN,
        IS_REAL,
        Trait(
            "no picture of one or three channels under a denoiser, without a stated level",
            lambda case: _is_denoised(case),
        ),
    )

    def propose(self, case: Case) -> list[Proposal]:
        return self.propose_each(case, _propose_one)


def _is_denoised(case: Case) -> bool:
    term, y, terms = case.problem.data_term, case.problem.y0, case.sum_of_priors.as_sum().terms
    return (
        len(terms) == 1
        and not terms[0].chosen
        and isinstance(terms[0].prior, Denoiser)
        and type(case.problem.operator) is Identity
        and isinstance(term, LeastSquares)
        and term.noise_std is None
        and term.weights is None
        and y.ndim == 4
        and y.shape[1] in (1, 3)
    )


def _propose_one(case: Case) -> Proposal:
    """Propose the level of smooth noise for one picture."""
    problem, prior = case.problem, case.sum_of_priors
    if problem.skipped is not None and bool(problem.skipped.any()):
        return STAY
    level = smooth_noise_std(problem.y0, prior.as_sum().terms[0].prior)
    if not level > 0:
        return STAY
    findings = report_findings(problem, prior) if case.settings.get("check", True) else ()
    noisy = problem.with_data_term(LeastSquares(noise_std=SMOOTH_LEVELS * level))
    # The usual weight is not corrected by the estimated level of white noise, nor is it compared.
    settings = {**case.settings, "regularization": usual_weight(prior), "check": False}
    changed = dataclasses.replace(case, problem=noisy, settings=settings, is_settled=True)
    sentence = (
        f"the noise{ITEM}, {level:.3g}, is smooth, as a camera or a JPEG makes it: the denoiser "
        f"was called at {SMOOTH_LEVELS:g} times its level; if it may be fine texture, give noise_std"
    )
    return Proposal(changed, sentence, records=findings)


class ConstantPicture(Step):
    """Take any weight for a constant picture, which total variation keeps at every weight."""

    name = "constant-picture"
    question = "is the picture constant?"
    price = "none"
    needs = (
        IS_OPEN,
        IS_FREE,
        HAS_NO_SOLVER,
        HAS_PRIOR,
        IS_SQUARES,
        IS_WHOLE,
        Trait(
            "no picture under total variation alone",
            lambda case: (
                isinstance(case.problem.operator, Identity)
                and case.sum_of_priors.as_sum().implicit is None
                and [type(term.prior) for term in case.sum_of_priors.as_sum().terms]
                == [TotalVariation]
            ),
        ),
    )

    def propose(self, case: Case) -> list[Proposal]:
        pixels = case.problem.y0.flatten(2)
        is_constant = (pixels == pixels[..., :1]).flatten(1).all(1).tolist()
        settings = {**case.settings, "regularization": 1.0}
        changed = dataclasses.replace(case, settings=settings, is_settled=True)
        sentence = "the picture is constant, which total variation keeps at every weight"
        return [Proposal(changed, sentence) if alike else STAY for alike in is_constant]


def usual_weight(prior: Prior) -> float | None:
    """Return the usual weight of a denoiser if the misfit is in units of the noise.

    Args:
        prior: sum of one denoiser and of constraints.

    Returns:
        None for other sums, and if the user wrote a weight.
    """
    terms = [term for term in prior.as_sum().terms if not term.prior.is_constraint]
    if len(terms) != 1 or terms[0].chosen:
        return None
    one = torch.ones(1, dtype=torch.float64)
    usual = terms[0].prior.usual_weight(one, HalfQuadratic.denoiser_strength)
    return None if usual is None else float(usual[0])


def smooth_noise_std(y: Tensor, denoiser: Any) -> float:
    """Return the standard deviation of the noise of a picture if it is smooth, else NaN.

    Args:
        y: picture ``(1, channel, row, column)``.
        denoiser: prior with ``denoise``.
    """
    sample = _sample(y.detach().float())
    span = float(sample.max() - sample.min())
    flat, typical = _window_levels(sample)
    if not flat > LEAST_NOISE * span or typical > NOISE_SPREAD * flat:
        return float("nan")
    # White noise keeps its density when 2 x 2 pixels are averaged; the mean halves its deviation.
    finer = 2 * float(estimate_or_nan(F.avg_pool2d(sample, 2)))
    if not finer >= FINE_LEVEL * flat:
        return float("nan")
    denoiser = denoiser.to(device=sample.device, dtype=sample.dtype)
    with torch.no_grad():
        removed = [
            float((denoiser.denoise(sample, sample.new_tensor([level])) - sample).std()) / flat
            for level in (flat, SMOOTH_LEVELS * flat)
        ]
    is_smooth = removed[0] < WHITE_RESIDUAL and removed[1] >= REMOVED_RESIDUAL
    return flat if is_smooth else float("nan")


def _sample(y: Tensor) -> Tensor:
    """Return a small picture, or nine pieces of a large one below each other."""
    rows, columns = y.shape[-2:]
    if max(rows, columns) <= NOISE_SIDE:
        return y
    sides = [min(n, NOISE_SIDE // 3 // NOISE_WINDOW * NOISE_WINDOW) for n in (rows, columns)]
    starts = [[(n - side) * k // 2 for k in range(3)] for n, side in zip((rows, columns), sides)]
    pieces = [y[..., r : r + sides[0], c : c + sides[1]] for r in starts[0] for c in starts[1]]
    return torch.cat(pieces, -2)


def _window_levels(y: Tensor) -> tuple[float, float]:
    """Return the deviation in the flattest tenth of the windows, and in the median one.

    It is that of the residual of a quadratic polynomial, over all channels. Windows with clipped
    pixels are left out. NaN if there are too few.
    """
    if min(y.shape[-2:]) < NOISE_WINDOW:
        return float("nan"), float("nan")
    place = torch.linspace(-1, 1, NOISE_WINDOW, dtype=torch.float64)
    powers, _ = torch.linalg.qr(torch.stack([place**0, place, place**2], 1))
    degrees = [(i, j) for i in range(3) for j in range(3 - i)]
    basis = torch.stack([torch.outer(powers[:, i], powers[:, j]).flatten() for i, j in degrees])
    windows = F.unfold(
        y.transpose(0, 1), NOISE_WINDOW, stride=NOISE_WINDOW_STEP
    )  # (channel, pixel, window)
    fit = torch.einsum("kp,cpw->ckw", basis.to(windows), windows)
    rest = windows.square().sum(1) - fit.square().sum(1)
    variance = rest.clamp_min(0).mean(0) / (NOISE_WINDOW**2 - len(degrees))
    end = CLIPPED_TOLERANCE * (y.max() - y.min())
    clipped = (windows <= y.min() + end) | (windows >= y.max() - end)
    used = variance[(clipped.to(y).mean(1) <= CLIPPED_SHARE).all(0)].sort().values
    if len(used) < NOISE_WINDOWS:
        return float("nan"), float("nan")
    return float(used[int(FLATTEST_SHARE * len(used))].sqrt()), float(used[len(used) // 2].sqrt())
