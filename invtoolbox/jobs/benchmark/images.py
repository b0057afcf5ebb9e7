"""Cases of images: measurements, an operator, and a truth that PSNR and SSIM compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from invtoolbox import metrics
from invtoolbox.jobs.benchmark.case import Case, Solved, check_answer
from invtoolbox.jobs.images.reconstruct import reconstruct
from invtoolbox.operators.base import Operator
from invtoolbox.plotting.pixels import plane
from invtoolbox.priors.adapters import to_deepinv
from invtoolbox.solvers.base import Solver

#: Fewest rows and columns of an image that SSIM takes.
_SSIM = 11


def image_case(
    label: str,
    truth: Tensor,
    y: Tensor,
    A: Operator,
    noise_std: float | None,
    *,
    simple: Callable[[], Tensor],
    peak: Tensor,
    score: Callable[[Tensor], Mapping[str, float]] | None = None,
) -> Case:
    """Return the case of one image.

    A method of the toolbox is ``it.reconstruct(y, A, prior=..., noise_std=...)``. A user's function
    gets the measurements and a physics of deepinv, whose noise model is Gaussian with the stated
    level.

    Args:
        label: name of the item.
        truth: true image, ``(1, channel, *space)``.
        y: its measurements.
        A: operator of the measurements.
        noise_std: noise level that methods know; None if they do not.
        simple: function that returns the simple answer.
        peak: peak of the PSNR.
        score: function of the image that returns its measures; PSNR and SSIM by default.
    """

    def solve(prior: Any, solver: Solver | None) -> Solved:
        solution = reconstruct(
            y, A, prior=prior, noise_std=noise_std, solver=solver, progress=False
        )
        return solution.x, solution.notes

    def arguments() -> tuple[Any, ...]:
        from deepinv.physics import GaussianNoise

        physics = to_deepinv(A)
        if noise_std is not None:
            physics.noise_model = GaussianNoise(noise_std)
        return y, physics

    def scores(answer: Any) -> Mapping[str, float]:
        x = check_answer(answer, truth.shape, "the image")
        return image_scores(x, truth, peak) if score is None else score(x)

    return Case(
        label=label,
        arguments=arguments,
        solve=solve,
        simple=simple,
        scores=scores,
        picture=picture,
        truth=picture(truth),
    )


def picture(image: Tensor | np.ndarray) -> np.ndarray | None:
    """Return an image ``(1, channel, *space)`` as a picture, complex values by their magnitude."""
    return plane(image[0])


def image_scores(x: Tensor, truth: Tensor, peak: Tensor) -> dict[str, float]:
    """Return PSNR in dB and SSIM; of complex images, the PSNR of the complex error alone.

    Args:
        x: image, ``(1, channel, *space)``.
        truth: true image of the same shape.
        peak: peak of both measures, ``(1,)``.
    """
    if x.is_complex() or truth.is_complex():
        error = (x - truth).abs().double().square().mean().sqrt().clamp_min(1e-30)
        return {"PSNR [dB]": float(20 * (peak.double() / error).log10())}
    scores = {"PSNR [dB]": float(metrics.psnr(x, truth, data_range=peak))}
    if x.ndim == 4 and min(x.shape[-2:]) >= _SSIM:
        scores["SSIM"] = float(metrics.ssim(x, truth, data_range=peak))
    return scores
