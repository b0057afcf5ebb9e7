"""Diffusion posterior sampling (DPS), by deepinv."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Generator, Tensor

from invtoolbox.objective import Objective
from invtoolbox.solvers.deepinv_sampling import Measured, Network, RandomNumbers
from invtoolbox.solvers.diffusion import DiffusionSampler, the_prior


@dataclass(frozen=True)
class DPS(DiffusionSampler):
    r"""The reverse diffusion, pulled towards the measurements through the denoiser: ``grad_{x_t} |A(denoise(x_t)) - y|^2``.

    Chung, Kim, Mccann, Klasky and Ye, "Diffusion posterior sampling for general noisy inverse problems" (ICLR 2023); the sampling is
    deepinv's, on the variance-preserving schedule with ancestral steps. The operator may be nonlinear; each step differentiates the
    denoiser. Mean and spread are approximate even where the score is exact (benchmarks/samplers.py): what the denoiser is unsure about is
    taken for known.

    Args:
        steps: of the diffusion, each an evaluation of the denoiser and its derivative.
        weight: of the pull.
        guidance: ``"annealed"`` divides the squared misfit by twice the variance of noise and diffusion, so that a weight of 1 is about
            the likelihood; on Gaussians the mean is nearest at 1.5. ``"norm"`` takes the norm of the misfit, as the paper, and wants
            weights in the hundreds, by problem.
        intensity_range: the values ``(low, high)`` of the image that the diffusion sees as 0 and 1; no denoised value above is believed.

    >>> import torch, invtoolbox as it
    >>> problem = it.Problem(torch.full((1, 1, 50), 0.6), it.operators.Identity((1, 50)), it.data_terms.LeastSquares(noise_std=0.1))
    >>> prior = it.priors.Gaussian(torch.full((1, 50), 0.4), 0.01)
    >>> solution = it.solve(problem, prior, DPS(steps=100, max_iterations=2), progress=False)
    >>> round(float(solution.x.mean()), 1)
    0.5
    """

    steps: int = 1000
    weight: float = 1.5
    guidance: Literal["annealed", "norm"] = "annealed"
    intensity_range: tuple[float, float] = (0.0, 1.0)

    def draws(self, objective: Objective, generators: list[Generator]) -> Tensor:
        from deepinv.sampling import DPS as Sampler

        low, high = self.intensity_range
        measured = Measured(objective, len(generators), low, high, normalised=True)
        device = measured.y.device
        sampler = Sampler(
            Network(the_prior(objective), measured.y, low, high),
            num_steps=self.steps,
            weight=self.weight,
            guidance=self.guidance,
            device=device,
        )
        with RandomNumbers(generators):
            u = sampler(measured.y, measured, x_init=measured.shape)
        return (low + (high - low) * u.to(measured.y)).unflatten(0, (len(generators), -1))
