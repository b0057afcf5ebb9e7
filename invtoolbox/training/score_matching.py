"""Denoising score matching: the pairs and the loss of a diffusion prior.

`DiffusionPairs` draws noisy crops of every level, and `ScoreMatching` weighs the levels so that
each of them matters alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from invtoolbox.core.guards import check_range
from invtoolbox.training.losses import Loss
from invtoolbox.training.pairs import LevelPairs


class DiffusionPairs(LevelPairs):
    """Crops with Gaussian noise of every level, for the denoiser of a diffusion prior.

    The input is the noisy crop followed by its noise map as an additional channel, as in
    `LevelPairs`, and colors become grey as there. The logarithm of a level is the mean of two
    uniform draws over the range, so levels in the middle, at which the content of a picture is
    decided, come most often.

    Args:
        images: clean images ``(1, channel, rows, columns)`` with 1 or 3 channels, of any sizes.
        noise_std: range ``(low, high)`` of the standard deviation, in the units of the images.
        crop: side of the crops, pixels.

    >>> pairs = DiffusionPairs([torch.rand(1, 3, 20, 30)], noise_std=(0.001, 20.0), crop=8)
    >>> inputs, targets = pairs.draw(4, torch.Generator().manual_seed(0))
    >>> inputs.shape, targets.shape
    (torch.Size([4, 2, 8, 8]), torch.Size([4, 1, 8, 8]))
    """

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        clean = self._grey(count, generator)
        share = torch.rand(count, 2, generator=generator, dtype=clean.dtype, device=clean.device)
        low, high = self.noise_std
        sigma = (low * (high / low) ** share.mean(1)).view(-1, 1, 1, 1)
        noise = torch.randn(
            clean.shape, generator=generator, dtype=clean.dtype, device=clean.device
        )
        return torch.cat([clean + sigma * noise, sigma.expand_as(clean)], 1), clean


@dataclass(frozen=True)
class ScoreMatching(Loss):
    """Squared error of a denoiser, weighted by ``(sigma^2 + s^2) / (sigma s)^2``.

    The weight makes the loss of an untrained network about 1 at every level (Karras et al., NeurIPS
    2022, equation 8). The minimizer is the posterior mean ``E[x | y]`` at every level, which gives
    the score of the noisy images as ``(E[x | y] - y) / sigma^2`` (Vincent, Neural Computation 23,
    2011). The input's last channel is the noise map, as `DiffusionPairs` draws it.

    Args:
        sigma_data: root mean square s of the pictures, the one of `DiffusionUNet`.

    >>> inputs, clean = torch.ones(2, 2, 4, 4), torch.zeros(2, 1, 4, 4)
    >>> loss = ScoreMatching(sigma_data=0.5)
    >>> loss.of_network(lambda x: 0.5 * x[:, :1], inputs, clean, torch.Generator())
    tensor([1.2500, 1.2500])
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        check_range(self, "(0, inf]", "sigma_data")

    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor:
        return (result - wanted).flatten(1).square().mean(1)

    def of_network(
        self, network: nn.Module, shown: Tensor, wanted: Tensor, generator: Generator
    ) -> Tensor:
        level, s = shown[:, -1].reshape(len(shown), -1)[:, 0], self.sigma_data
        weight = 1 / level.square() + 1 / s**2
        return weight * self(network(shown).to(wanted.dtype), wanted)
