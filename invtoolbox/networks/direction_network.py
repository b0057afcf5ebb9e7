"""A small network that maps a residual to a search direction, on several scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.errors import InputError
from invtoolbox.networks.denoisers import draw_weights

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_AVERAGES = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class DirectionNetwork(nn.Module):
    """Network from residuals ``(batch, channel, *space)`` to directions of the same shape.

    Features go down ``levels`` scales by averages over pairs of pixels and up again, with a
    residual step ``x + K_2 relu(K_1 x)`` on both ways of each scale. There are no biases, so a
    residual of another size changes only the length of the direction. Outside of its borders an
    image is 0. The network follows Kaneda et al., "A deep conjugate direction method for
    iteratively solving linear systems", ICML 2023, with more scales.

    Args:
        channels: number of channels of the image.
        width: number of features on every scale.
        levels: number of scales; a scale reaches twice as far as the one before.
        dimensions: number of spatial axes, 1, 2 or 3.
        seed: seed of the first weights.

    >>> DirectionNetwork(width=4, levels=2)(torch.zeros(2, 1, 9, 12)).shape
    torch.Size([2, 1, 9, 12])
    """

    def __init__(
        self,
        channels: int = 1,
        width: int = 16,
        levels: int = 4,
        dimensions: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_range(self, "[1, inf)", channels=channels, width=width, levels=levels)
        check_choice(self, _CONVOLUTIONS, dimensions=dimensions)
        self.channels, self.levels, self.dimensions = channels, levels, dimensions

        def filters(before: int, after: int) -> nn.Module:
            return _CONVOLUTIONS[dimensions](before, after, 3, padding=1, bias=False)

        self.first, self.last = filters(channels, width), filters(width, channels)
        self.inner = nn.ModuleList([filters(width, width) for _ in range(2 * levels - 1)])
        self.outer = nn.ModuleList([filters(width, width) for _ in range(2 * levels - 1)])
        draw_weights(self, seed)

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor]) -> Self:
        """Create the network of some weights, which define its width and depth."""
        first = weights.get("first.weight")
        steps = sum(name.startswith("inner.") for name in weights)
        if first is None or steps % 2 == 0:
            raise InputError(
                "these are not the weights of a DirectionNetwork: "
                f"{', '.join(list(weights)[:5])}, ..."
            )
        network = cls(first.shape[1], first.shape[0], (steps + 1) // 2, first.ndim - 2)
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise InputError(
                "these are not the weights of a DirectionNetwork: "
                f"{' '.join(str(error).split())[:200]}"
            ) from error
        return network.eval().requires_grad_(False)

    def forward(self, residual: Tensor) -> Tensor:
        if residual.ndim != self.dimensions + 2 or residual.shape[1] != self.channels:
            raise InputError(
                f"this DirectionNetwork takes residuals of {self.channels} channels and "
                f"{self.dimensions} spatial axes, got the shape {tuple(residual.shape)}"
            )
        x: Tensor = self.first(residual)
        passed: list[Tensor] = []
        for k in range(self.levels - 1):
            x = self._step(x, k)
            passed.append(x)
            x = _AVERAGES[self.dimensions](x, 2, ceil_mode=True, count_include_pad=False)
        x = self._step(x, self.levels - 1)
        for k in range(self.levels - 2, -1, -1):
            finer = passed[k]
            x = self._step(finer + _repeat(x, finer.shape), 2 * self.levels - 2 - k)
        return self.last(x)

    def _step(self, x: Tensor, k: int) -> Tensor:
        change: Tensor = self.outer[k](F.relu(self.inner[k](x)))
        return x + change

    def extra_repr(self) -> str:
        return f"channels={self.channels}, levels={self.levels}, dimensions={self.dimensions}"


def _repeat(x: Tensor, shape: torch.Size) -> Tensor:
    """Repeat every pixel twice along each axis, up to this shape."""
    for axis in range(2, x.ndim):
        x = x.repeat_interleave(2, axis).narrow(axis, 0, shape[axis])
    return x
