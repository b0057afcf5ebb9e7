"""Denoiser for every noise level: a small U-Net of residual blocks without biases."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.pytrees import map_items
from invtoolbox.errors import InputError
from invtoolbox.networks.unet import UNet


class ResidualUNet(UNet):
    """Denoiser ``x + F(x, sigma)``, F a `UNet` with a noise map as a channel.

    There are no biases, so ``f(a x, a sigma) = a f(x, sigma)`` for a > 0: intensities need no scale,
    and levels that training did not cover are denoised as well as the others (Mohan et al., "Robust
    and interpretable blind image denoising via bias-free convolutional neural networks", ICLR 2020).

    Args:
        channels: number of channels of the image.
        widths: number of features of each level, the coarsest last.
        blocks: number of residual blocks per level and direction.
        seed: seed of the first weights.

    >>> network = ResidualUNet(widths=(8, 16), blocks=1).eval()
    >>> x = torch.rand(2, 1, 9, 14)
    >>> clean = network(x, torch.tensor([0.1, 0.2]))
    >>> clean.shape, torch.equal(clean[1:], network(x[1:], torch.tensor([0.2])))
    (torch.Size([2, 1, 9, 14]), True)
    >>> torch.allclose(network(2 * x, torch.tensor([0.2, 0.4])), 2 * clean)
    True
    """

    def __init__(
        self,
        channels: int = 1,
        widths: Sequence[int] = (48, 96, 128),
        blocks: int = 2,
        seed: int = 0,
    ) -> None:
        check_range(
            self, "[1, inf)", channels=channels, blocks=blocks, widths=min(widths, default=0)
        )
        super().__init__(channels + 1, channels, widths, blocks)
        self.channels = channels
        self.draw(seed)

    def forward(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Return the clean images.

        Args:
            x: images ``(batch, channels, rows, columns)``; without ``sigma`` their last channel,
                an additional one, is the noise level of each pixel.
            sigma: noise levels ``(batch,)``, in the units of the image.
        """
        if sigma is not None:
            x = torch.cat([x, sigma.view(-1, 1, 1, 1).expand_as(x[:, :1])], 1)
        if x.ndim != 4 or x.shape[1] != self.channels + 1:
            raise InputError(
                f"this ResidualUNet takes images (batch, {self.channels}, rows, columns) and a "
                f"level, or images with their noise map, got {tuple(x.shape)}"
            )
        return self._clean(x) if self.training else map_items(self._clean, x)

    def _clean(self, x: Tensor) -> Tensor:
        return x[:, :-1] + self.transform(x)

    def extra_repr(self) -> str:
        return f"channels={self.channels}, factor={self.factor}"
