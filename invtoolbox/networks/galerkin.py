"""Galerkin transformer: attention without a softmax, whose cost grows linearly with the length."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invtoolbox.core.pytrees import map_items
from invtoolbox.errors import InputError

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d}


class GalerkinAttention(nn.Module):
    r"""Attention :math:`Q \, (\tilde K^T \tilde V) / n` of n positions, without a softmax.

    K and V are normalized over the features of a head, before the product (:math:`\tilde K`,
    :math:`\tilde V`). The product of K and V is an integral over the positions and comes first, so
    cost and memory are linear in n, and a finer sampling of the same functions gives the same
    result. The coordinates of the positions are appended to Q, K and V of every head.

    Source: Cao, "Choose a transformer: Fourier or Galerkin" (NeurIPS 2021), also for the first
    weights of Q, K and V, see `shrink`.

    Args:
        width: number of features, a multiple of ``heads``.
        heads: number of heads.
        coordinates: number of coordinates of a position.

    >>> x, places = torch.rand(2, 6, 8), torch.rand(1, 6, 1)
    >>> attention = GalerkinAttention(8, heads=2)
    >>> q, k, v = attention.project(x, places)
    >>> explicit = (q @ k.mT) @ v / 6
    >>> torch.allclose(attention(x, places), attention.join(explicit), atol=1e-6)
    True
    """

    def __init__(self, width: int, heads: int, coordinates: int = 1) -> None:
        super().__init__()
        if min(width, heads, coordinates) < 1 or width % heads:
            raise InputError(
                "GalerkinAttention needs a width that is a multiple of heads, and at least one "
                f"coordinate, got {width}, {heads} and {coordinates}"
            )
        self.heads, features = heads, width // heads
        self.projections = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.scales = nn.ParameterList(
            nn.Parameter(torch.ones(heads, 1, features)) for _ in range(2)
        )
        self.shifts = nn.ParameterList(
            nn.Parameter(torch.zeros(heads, 1, features)) for _ in range(2)
        )
        self.last = nn.Linear(heads * (features + coordinates), width)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        """Mix the features of all positions, ``(batch, n, width)``.

        Args:
            x: features, ``(batch, n, width)``.
            places: coordinates, ``(1 or batch, n, coordinates)``.
        """
        q, k, v = self.project(x, places)
        return self.join(q @ ((k.mT @ v) / x.shape[1]))

    def project(self, x: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return Q and normalized K and V, ``(batch, heads, n, width / heads + coordinates)``."""
        q, k, v = (p(x).unflatten(2, (self.heads, -1)).movedim(2, 1) for p in self.projections)
        k, v = (
            F.layer_norm(features, features.shape[-1:]) * scale + shift
            for features, scale, shift in zip((k, v), self.scales, self.shifts)
        )
        where = places[:, None].expand(len(x), self.heads, -1, -1)
        q, k, v = (torch.cat([where, features], 3) for features in (q, k, v))
        return q, k, v

    def shrink(self) -> None:
        """Make the weights of Q, K and V 100 times smaller, and add 0.01 on their diagonals."""
        with torch.no_grad():
            for layer in self.projections:
                weight = cast(nn.Linear, layer).weight
                weight.mul_(1e-2).add_(1e-2 * torch.eye(len(weight), device=weight.device))

    def join(self, mixed: Tensor) -> Tensor:
        """Join the heads, ``(batch, heads, n, features) -> (batch, n, width)``."""
        return self.last(mixed.movedim(1, 2).flatten(2))


class GalerkinTransformer(nn.Module):
    """Transformer between functions on a grid, as a learned inverse or a learned operator.

    A convolution lifts the samples to features. Layers of `GalerkinAttention` and of dense networks
    at every position follow, each added to its input. A last dense network returns the samples of
    the result. Positions have coordinates between 0 and 1, so the network takes grids of any size;
    the convolution sees ``kernel`` samples, so keep the spacing of the training.

    Args:
        channels: number of channels of the input.
        outputs: number of channels of the result.
        dimensions: number of spatial axes, 1 or 2.
        width: number of features, a multiple of ``heads``.
        heads: number of heads.
        depth: number of layers.
        kernel: odd number of samples that the first convolution sees along each axis.
        seed: seed of the first weights.

    >>> network = GalerkinTransformer(width=8, heads=2, depth=1).eval()
    >>> x = torch.rand(3, 1, 20)
    >>> network(x).shape, torch.equal(network(x)[1:2], network(x[1:2]))
    (torch.Size([3, 1, 20]), True)
    """

    def __init__(
        self,
        channels: int = 1,
        outputs: int = 1,
        dimensions: int = 1,
        width: int = 32,
        heads: int = 4,
        depth: int = 4,
        kernel: int = 9,
        seed: int = 0,
    ) -> None:
        super().__init__()
        least = min(channels, outputs, depth, kernel)
        if dimensions not in _CONVOLUTIONS or least < 1 or kernel % 2 != 1:
            raise InputError(
                "GalerkinTransformer needs 1 or 2 dimensions, positive channels, outputs and "
                f"depth, and an odd kernel, got {dimensions}, {channels}, {outputs}, {depth} and "
                f"{kernel}"
            )
        self.channels, self.dimensions = channels, dimensions
        self.lift = _CONVOLUTIONS[dimensions](channels, width, kernel, padding=kernel // 2)
        self.place = nn.Linear(dimensions, width)
        self.attention = nn.ModuleList(
            GalerkinAttention(width, heads, dimensions) for _ in range(depth)
        )
        self.dense = nn.ModuleList(_dense(width, 2 * width, width) for _ in range(depth))
        self.last = _dense(width, 2 * width, outputs)
        self._draw(seed)

    def forward(self, x: Tensor) -> Tensor:
        """Map functions ``(batch, channels, *space)`` to functions ``(batch, outputs, *space)``."""
        dtype = next(self.parameters()).dtype
        if x.ndim != self.dimensions + 2 or x.shape[1] != self.channels or x.dtype != dtype:
            raise InputError(
                f"this GalerkinTransformer takes {dtype} functions of {self.channels} channels and "
                f"{self.dimensions} spatial axes, got {x.dtype} of shape {tuple(x.shape)}"
            )
        return self._transform(x) if self.training else map_items(self._transform, x)

    def _transform(self, x: Tensor) -> Tensor:
        space = x.shape[2:]
        axes = [(torch.arange(n, dtype=x.dtype, device=x.device) + 0.5) / n for n in space]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)[None]
        features = self.lift(x).flatten(2).mT + self.place(places)
        for attention, dense in zip(self.attention, self.dense):
            features = features + attention(features, places)
            features = features + dense(features)
        result: Tensor = self.last(features).mT
        return result.unflatten(2, space)

    def _draw(self, seed: int) -> None:
        """Draw the first weights of all layers; those of Q, K and V as published."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in self.modules():
                if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
                    count = layer.weight[0].numel()
                    layer.weight.normal_(0, 1 / math.sqrt(count), generator=generator)
                    assert layer.bias is not None
                    layer.bias.zero_()
            for attention in self.modules():
                if isinstance(attention, GalerkinAttention):
                    attention.shrink()

    def extra_repr(self) -> str:
        return f"channels={self.channels}, dimensions={self.dimensions}"


def _dense(before: int, hidden: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(before, hidden), nn.GELU(), nn.Linear(hidden, after))
