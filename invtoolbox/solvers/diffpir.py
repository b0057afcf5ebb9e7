"""Diffusion as a plug-and-play prior (DiffPIR), by deepinv."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from invtoolbox.objective import Objective
from invtoolbox.solvers.deepinv_sampling import Measured, Network, RandomNumbers
from invtoolbox.solvers.diffusion import DiffusionSampler, the_prior


@dataclass(frozen=True)
class DiffPIR(DiffusionSampler):
    r"""At every noise level: denoise, a proximal step on the misfit, noise again.

    Zhu, Zhang, Liang, Cao, Wen, Timofte and Van Gool, "Denoising diffusion models for plug-and-play image restoration" (CVPR workshops
    2023); the sampling is deepinv's, the proximal step ours. Linear operators; no derivative of the denoiser.

    Args:
        steps: of the diffusion.
        strength: lambda of the paper: the proximal step minimises ``D(A(u), y) + strength / (2 s^2) |u - x_0|^2`` at noise level s, so that
            larger believes the denoiser more. 1 is right for a denoiser that is off by s; the paper takes 3 to 25, by network and problem.
        fresh: zeta of the paper, the share of fresh noise in what is added back, 0 to 1. More of it brings the mean nearer, and makes the
            draws more alike.
        intensity_range: the values ``(low, high)`` of the image that the diffusion sees as 0 and 1; denoised ones are clipped to it.
    """

    steps: int = 100
    strength: float = 1.0
    fresh: float = 0.3
    intensity_range: tuple[float, float] = (0.0, 1.0)

    linear_only: ClassVar[bool] = True

    def draws(self, objective: Objective, generators: list[Generator]) -> Tensor:
        from deepinv.sampling import DiffPIR as Sampler

        low, high = self.intensity_range
        measured = Measured(objective, len(generators), low, high)
        # In deepinv's units of noise, which are halved between images in [-1, 1] and [0, 1], and of the step, which counts |.|^2 twice.
        sampler = Sampler(
            Network(the_prior(objective), measured.y, low, high),
            measured,
            sigma=measured.sigma,
            max_iter=self.steps,
            zeta=self.fresh,
            lambda_=2 * self.strength,
            device=measured.y.device,
        )
        start = measured.y.new_zeros(measured.shape) + 0.5
        with RandomNumbers(generators):
            u = sampler(measured.y, measured, x_init=start)
        return (low + (high - low) * u.to(measured.y)).unflatten(0, (len(generators), -1))
