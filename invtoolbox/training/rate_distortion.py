"""What a compressive autoencoder learns from: few bits for its latents, and little between the pictures and what comes back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from invtoolbox.errors import InputError
from invtoolbox.training.losses import Loss


@dataclass(frozen=True)
class RateDistortion(Loss):
    r"""``bitrate * 255^2 * MSE + bits per pixel``, for pictures in [0, 1] and latents blurred by uniform noise.

    Times the number of pixels and ``log 2`` it is the negative evidence bound of a variational autoencoder whose posterior is uniform of
    width 1 and whose decoder has the noise `decoder_std` (Balle et al. 2018, section 2).

    Args:
        bitrate: alpha; 0.0035 to 0.18 are usual, larger ones for finer pictures and more bits.

    >>> round(255 * RateDistortion(0.0483).decoder_std, 2)
    3.86
    """

    bitrate: float

    def __post_init__(self) -> None:
        if not self.bitrate > 0:
            raise InputError(f"RateDistortion needs a positive bitrate, got {self.bitrate}")

    @property
    def decoder_std(self) -> float:
        """The standard deviation of a pixel around what is decoded for which the loss is the evidence bound."""
        return 1 / (255 * math.sqrt(2 * math.log(2) * self.bitrate))

    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor:
        """The distortion alone."""
        return self.bitrate * 255**2 * (result - wanted).flatten(1).square().mean(1)

    def of_network(
        self, network: nn.Module, shown: Tensor, wanted: Tensor, generator: Generator
    ) -> Tensor:
        coded = network(shown, generator)
        pixels = wanted.shape[-2] * wanted.shape[-1]
        return self(coded.x.to(wanted.dtype), wanted) + coded.nats / (math.log(2) * pixels)


@dataclass(frozen=True)
class PixelLikelihood(Loss):
    """``-log N(wanted; decoded, std^2)`` a value, in nats, of which the second decoder alone learns: how far what comes back is off."""

    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor:
        """Of a standard deviation of 1."""
        return 0.5 * (result - wanted).flatten(1).square().mean(1)

    def of_network(
        self, network: nn.Module, shown: Tensor, wanted: Tensor, generator: Generator
    ) -> Tensor:
        coded = network(shown, generator)
        log_std = coded.log_std.to(wanted.dtype)
        away = (coded.x.detach().to(wanted.dtype) - wanted) * torch.exp(-log_std)
        return (0.5 * away.square() + log_std).flatten(1).mean(1)
