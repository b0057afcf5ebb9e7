"""Denoising diffusion restoration models (DDRM), by deepinv."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Generator, Tensor

from invtoolbox.objective import Objective
from invtoolbox.solvers.deepinv_sampling import (
    Decomposed,
    Measured,
    Network,
    RandomNumbers,
    undecomposed_reason,
)
from invtoolbox.solvers.diffusion import DiffusionSampler, the_prior


@dataclass(frozen=True)
class DDRM(DiffusionSampler):
    r"""Diffusion in the coordinates of the singular value decomposition, each pulled as far as its own noise allows.

    Kawar, Elad, Ermon and Song, "Denoising diffusion restoration models" (NeurIPS 2022); the sampling is deepinv's. For masks, periodic
    convolutions and images of at most 1024 pixels.

    Args:
        steps: noise levels, from 1 to 0 in equal steps; 20 as in the paper.
        eta: the share of fresh noise in coordinates that are not measured, or less well than the level.
        eta_measured: how far the others go to their measurement; eta_b of the paper.
        intensity_range: the values ``(low, high)`` of the image that the diffusion sees as 0 and 1.
    """

    steps: int = 20
    eta: float = 0.85
    eta_measured: float = 1.0
    intensity_range: tuple[float, float] = (0.0, 1.0)

    linear_only: ClassVar[bool] = True

    def misfit(self, objective: Objective) -> str | None:
        return super().misfit(objective) or undecomposed_reason(objective)

    def draws(self, objective: Objective, generators: list[Generator]) -> Tensor:
        from deepinv.sampling import DDRM as Sampler

        low, high = self.intensity_range
        measured = Measured(objective, len(generators), low, high)
        sampler = Sampler(
            Network(the_prior(objective), measured.y, low, high),
            sigmas=np.linspace(1, 0, self.steps),
            eta=self.eta,
            etab=self.eta_measured,
        )
        # deepinv divides every number by sqrt(2), which would be right for the real part of complex ones; these are real.
        with RandomNumbers(generators, math.sqrt(2)):
            u = sampler(measured.y, Decomposed(measured))
        return (low + (high - low) * u.to(measured.y)).unflatten(0, (len(generators), -1))
