"""Denoiser for every noise level: a small U-Net of residual blocks without biases."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invtoolbox.errors import InputError


class ResidualUNet(nn.Module):
    """Denoiser ``x + F(x, sigma)``, F a U-Net of residual blocks with a noise map as a channel.

    The blocks are those of DRUNet (Zhang et al., IEEE TPAMI 44, 2022), and the finest level works
    on 2x2 pixels at a time, as in FFDNet (Zhang, Zuo and Zhang, IEEE TIP 27, 2018), so that its
    convolutions are evaluated at a quarter of the places. There are no biases, so
    ``f(a x, a sigma) = a f(x, sigma)`` for a > 0: intensities need no scale, and levels that
    training did not cover are denoised as well as the others (Mohan et al., "Robust and
    interpretable blind image denoising via bias-free convolutional neural networks", ICLR 2020).

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
        super().__init__()
        if not widths or min(channels, blocks, *widths) < 1:
            raise InputError(
                "ResidualUNet needs positive channels and blocks and at least one width, "
                f"got {channels}, {blocks} and {tuple(widths)}"
            )
        self.channels, self.factor = channels, 2 ** len(widths)
        levels = list(itertools.pairwise(widths))
        self.head = _convolution(4 * (channels + 1), widths[0])
        self.down = nn.ModuleList(_blocks(width, blocks) for width, _ in levels)
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, 2, bias=False) for a, b in levels)
        self.middle = _blocks(widths[-1], blocks)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2, bias=False) for a, b in levels)
        self.up = nn.ModuleList(_blocks(width, blocks) for width, _ in levels)
        self.tail = _convolution(widths[0], 4 * channels)
        self._draw(seed)

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
        if not self.training and x.device.type == "cpu":
            # The convolutions of small images round differently in a batch.
            return torch.cat([self._clean(item) for item in x.split(1)])
        return self._clean(x)

    def _clean(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[-2:]
        noisy = x[:, :-1]
        x = F.pad(x, (0, -columns % self.factor, 0, -rows % self.factor), mode="replicate")
        x = F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)
        # In bfloat16 the sums of the finest level would round weak noise away.
        with torch.autocast(x.device.type, enabled=False):
            first = self.head(x)
        x, passed = first, []
        for blocks, shrink in zip(self.down, self.shrink):
            x = blocks(x)
            passed.append(x)
            x = shrink(x)
        x = self.middle(x)
        for blocks, grow, fine in zip(reversed(self.up), reversed(self.grow), reversed(passed)):
            x = blocks(grow(x) + fine)
        return noisy + F.pixel_shuffle(self.tail(x + first), 2)[..., :rows, :columns]

    def _draw(self, seed: int) -> None:
        """Draw normal weights; the last one of a residual branch, and of F, is a tenth as large."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                inputs = weight[0].numel() if "grow" not in name else weight.shape[0]
                small = 0.1 if name.startswith("tail") or name.endswith("last.weight") else 1.0
                weight.normal_(0, small * math.sqrt(2 / inputs), generator=generator)

    def extra_repr(self) -> str:
        return f"channels={self.channels}, factor={self.factor}"


class _Block(nn.Module):
    """Residual block ``x + last(relu(first(x)))``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = _convolution(width, width), _convolution(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(F.relu(self.first(x), inplace=True))


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(width) for _ in range(count)))


def _convolution(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1, bias=False)
