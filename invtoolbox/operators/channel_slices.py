"""A part of the channels of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from invtoolbox.operators.base import LinearOperator


class ChannelSlices(LinearOperator):
    """Some of the channels of an image, one slice behind the other; the adjoint puts zeros in place of all others.

    Args:
        image_shape: ``(channel, *space)`` of the whole.
        slices: ``(start, stop)`` of every slice, ``stop`` not included; they do not overlap.

    >>> ChannelSlices((3, 2), ((0, 1), (2, 3)))(torch.tensor([[[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]]]))
    tensor([[[0., 0.],
             [3., 4.]]])
    """

    def __init__(self, image_shape: Sequence[int], slices: Sequence[tuple[int, int]]) -> None:
        channels, *space = image_shape
        self.slices = tuple(slices)
        self.domain_shape = (channels, *space)
        self.range_shape = (sum(stop - start for start, stop in self.slices), *space)

    def _forward(self, x: Tensor) -> Tensor:
        parts = [x[:, start:stop] for start, stop in self.slices]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.replaced(y.new_zeros(y.shape[0], *self.domain_shape), y)

    def replaced(self, x: Tensor, part: Tensor) -> Tensor:
        """``x``, overwritten, with its slices replaced by ``part``."""
        for (start, stop), piece in zip(
            self.slices, part.split([stop - start for start, stop in self.slices], 1)
        ):
            x[:, start:stop] = piece
        return x

    def norm(
        self,
        *,
        tolerance: float = 1e-4,
        max_iterations: int = 100,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """1: it leaves out and changes nothing."""
        return torch.ones(1, dtype=torch.zeros((), dtype=dtype).real.dtype, device=device)
