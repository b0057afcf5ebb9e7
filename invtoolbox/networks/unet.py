"""The U-Net of residual blocks that `ResidualUNet` and `DiffusionUNet` share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class UNet(nn.Module):
    """U-Net of residual blocks, whose finest level works on 2x2 pixels at a time.

    The blocks are those of DRUNet (Zhang et al., IEEE TPAMI 44, 2022), and the finest level is that
    of FFDNet (Zhang, Zuo and Zhang, IEEE TIP 27, 2018): its convolutions are evaluated at a quarter
    of the places. Convolutions have no biases. Images of any size are padded to a multiple of
    ``factor`` pixels.

    Args:
        inputs: number of channels of the input.
        outputs: number of channels of the output.
        widths: number of features of each level, the coarsest last.
        blocks: number of residual blocks per level and direction.

    >>> UNet(2, 1, (4, 8), 1).transform(torch.ones(1, 2, 5, 6)).shape
    torch.Size([1, 1, 5, 6])
    """

    def __init__(self, inputs: int, outputs: int, widths: Sequence[int], blocks: int) -> None:
        super().__init__()
        self.factor = 2 ** len(widths)
        levels = list(itertools.pairwise(widths))
        self.head = _convolution(4 * inputs, widths[0])
        self.down = nn.ModuleList(_Blocks(width, blocks) for width, _ in levels)
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, 2, bias=False) for a, b in levels)
        self.middle = _Blocks(widths[-1], blocks)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2, bias=False) for a, b in levels)
        self.up = nn.ModuleList(_Blocks(width, blocks) for width, _ in levels)
        self.tail = _convolution(widths[0], 4 * outputs)
        #: Number of features of each block, in the order in which the blocks are applied.
        self.block_widths = [w for w in (*widths, *reversed(widths[:-1])) for _ in range(blocks)]

    def transform(self, x: Tensor, modulation: Sequence[Tensor] = ()) -> Tensor:
        """Return the output of the network.

        Args:
            x: input, ``(batch, inputs, rows, columns)``.
            modulation: scales and shifts of each block, ``(batch, 2 * width)``; by default none.
        """
        remaining = iter(modulation)
        rows, columns = x.shape[-2:]
        x = F.pad(x, (0, -columns % self.factor, 0, -rows % self.factor), mode="replicate")
        x = F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)
        # In bfloat16 the sums of the finest level would round weak noise away.
        with torch.autocast(x.device.type, enabled=False):
            first = self.head(x)
        x, passed = first, []
        for blocks, shrink in zip(self.down, self.shrink):
            x = blocks(x, remaining)
            passed.append(x)
            x = shrink(x)
        x = self.middle(x, remaining)
        for blocks, grow, fine in zip(reversed(self.up), reversed(self.grow), reversed(passed)):
            x = blocks(grow(x) + fine, remaining)
        return F.pixel_shuffle(self.tail(x + first), 2)[..., :rows, :columns]

    def draw(self, seed: int) -> None:
        """Draw normal weights, a tenth as large in the last layer of a residual branch and of the net.

        Biases begin at 0.

        Args:
            seed: seed of the weights.
        """
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if name.endswith("bias"):
                    weight.zero_()
                    continue
                inputs = weight[0].numel() if "grow" not in name else weight.shape[0]
                small = 0.1 if name.startswith("tail") or name.endswith("last.weight") else 1.0
                weight.normal_(0, small * math.sqrt(2 / inputs), generator=generator)


class _Block(nn.Module):
    """Residual block ``x + last(relu((1 + scale) first(x) + shift))``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = _convolution(width, width), _convolution(width, width)

    def forward(self, x: Tensor, modulation: Tensor | None) -> Tensor:
        inner = self.first(x)
        if modulation is not None:
            scale, shift = modulation.to(inner.dtype)[..., None, None].chunk(2, 1)
            inner = torch.addcmul(shift, inner, 1 + scale)
        return x + self.last(F.relu(inner, inplace=True))


class _Blocks(nn.ModuleList):
    """Residual blocks one after the other, each with the next scales and shifts, if there are any."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__(_Block(width) for _ in range(count))

    def forward(self, x: Tensor, modulation: Iterator[Tensor]) -> Tensor:
        for block in self:
            x = block(x, next(modulation, None))
        return x


def _convolution(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1, bias=False)
