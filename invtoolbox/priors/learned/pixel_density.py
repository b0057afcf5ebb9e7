"""Likelihood of an image, pixel by pixel, as a prior."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.networks.pixel_network import PixelNetwork, mixture_log_probability
from invtoolbox.priors.base import ExplicitPrior


class PixelDensity(ExplicitPrior):
    r"""Negative logarithm of a learned density, ``R(x) = -sum_i log p(x_i | x_1, ..., x_{i-1})``.

    Every factor is a mixture of logistic densities, whose parameters a `PixelNetwork` computes from
    the pixels before, so that R is known exactly and without a normalization. R is smooth, and not
    convex. It counts the probability of an interval of ``1 / (levels - 1)`` around each value, as
    for the pixels of a picture, in natural units. Channels count as separate pictures. Train the
    network with `training.BitsPerPixel`; it runs in its own precision.

    Args:
        network: the network.
        levels: number of levels of a pixel.

    >>> prior = PixelDensity(PixelNetwork(width=4, depth=2))
    >>> prior.energy(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2])
    """

    is_convex = False
    is_smooth = True

    def __init__(self, network: PixelNetwork, levels: int = 256) -> None:
        check_range(self, "[2, inf)", levels=levels)
        self.network, self.levels = network, levels

    def energy(self, x: Tensor) -> Tensor:
        return -self._log_probability(x, edges=False)

    def bits(self, x: Tensor) -> Tensor:
        """Return the bits per pixel of pictures whose values are levels in [0, 1], ``(batch,)``.

        The intervals of black and white reach to infinity here, so that all levels together have
        the probability 1.
        """
        return -self._log_probability(x, edges=True) / (math.log(2) * x[0].numel())

    def _log_probability(self, x: Tensor, edges: bool) -> Tensor:
        if x.ndim != 4 or x.is_complex():
            raise InputError(
                f"{self!r} takes real images (batch, channel, rows, columns), got {tuple(x.shape)} of "
                f"{x.dtype}"
            )
        width = 1 / (self.levels - 1)
        sums = []
        # Item by item, because convolutions round differently in a batch.
        for item in x.to(next(self.network.parameters()).dtype).unsqueeze(2):
            pixels = mixture_log_probability(self.network(item), item, width, edges)
            sums.append(pixels.double().sum())
        return torch.stack(sums).to(x.dtype)

    def __repr__(self) -> str:
        return f"PixelDensity({self.levels} levels)"
