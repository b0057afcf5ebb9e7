"""Interpolate a periodic grid at samples, and spread samples onto it, by separable weights.

The kernels run on a CPU; elsewhere, and for derivatives in the weights, `NonUniformFourier` adds the
cells one by one with torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.settings import Settings
from invtoolbox.kernels.native import REAL, Kernel, launch, native_kernel

#: Samples that one task interpolates.
_BLOCK = 1024
#: Cells along an axis of a tile: samples are visited tile by tile, which stays near the core.
_TILE = 8


@dataclass
class GriddingArguments:
    """Arguments of ``gridding_gather.cpp`` and ``gridding_scatter.cpp``."""

    grid: Tensor  # (size_0, size_1, size_2), complex
    values: Tensor  # (samples,), complex
    corners: Tensor  # first cell of every sample, (samples, 3) int32
    weights: Tensor  # weights of the three axes, (samples, span_0 + span_1 + span_2)
    order: Tensor  # place of every sample in `values`, (samples,) int32
    samples: int
    size_0: int
    size_1: int
    size_2: int


@cache
def gridding_kernel(name: str, dtype: torch.dtype, spans: tuple[int, int, int]) -> Kernel:
    """Return the kernel "gather" or "scatter" for a precision and numbers of weights per axis."""
    definitions: dict[str, Any] = {"REAL": REAL[dtype], "BLOCK": _BLOCK}
    definitions |= {f"SPAN_{axis}": span for axis, span in enumerate(spans)}
    return native_kernel(f"grids/gridding_{name}.cpp", definitions, GriddingArguments)


class Gridding(Settings):
    """Cells and weights of samples on a grid of up to three axes.

    Args:
        corners: first cell of every sample along every axis, ``(items, samples)`` integers each.
        weights: weights of that cell and the next ones, ``(items, samples, span)`` each, float64.
        grid: number of cells along every axis, at least the span.

    >>> corners, weights = torch.tensor([[3]]), torch.tensor([[[0.5, 0.25]]], dtype=torch.float64)
    >>> P = Gridding([corners], [weights], (4,))
    >>> grid = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.complex64)
    >>> P.gather(grid, torch.empty(1, dtype=torch.complex64))  # it wraps around
    tensor([2.2500+0.j])
    >>> P.scatter(torch.ones(1, dtype=torch.complex64)).real
    tensor([0.2500, 0.0000, 0.0000, 0.5000])
    """

    def __init__(
        self, corners: Sequence[Tensor], weights: Sequence[Tensor], grid: Sequence[int]
    ) -> None:
        missing = 3 - len(grid)
        first = [torch.zeros_like(corners[0])] * missing + list(corners)
        taps = [torch.ones_like(weights[0][..., :1])] * missing + list(weights)
        self.spans = (taps[0].shape[-1], taps[1].shape[-1], taps[2].shape[-1])
        self.grid = tuple(grid)
        self.sizes = (*[1] * missing, *self.grid)
        tiles = [corner.long() // _TILE for corner in first]
        key = (tiles[0] * self.sizes[1] + tiles[1]) * self.sizes[2] + tiles[2]
        order = key.argsort(dim=1, stable=True)
        self.order = order.int().contiguous()
        self.corners = _sort(torch.stack(first, -1), order).int()
        self.weights = _sort(torch.cat(taps, -1).double(), order)
        self.single_weights = self.weights.float()

    def gather(self, grid: Tensor, values: Tensor, item: int = 0) -> Tensor:
        """Interpolate one complex grid at the samples of an item.

        Args:
            grid: contiguous, with as many cells as the grid.
            values: contiguous; receives one value per sample.
            item: number of the item, modulo the number of items that differ.

        Returns:
            The values.
        """
        samples = self.order.shape[1]
        blocks = -(-samples // _BLOCK)
        self._run("gather", grid, values, item, blocks)
        return values

    def scatter(self, values: Tensor, item: int = 0) -> Tensor:
        """Apply the transpose of `gather` to contiguous values; returns the grid."""
        grid = values.new_zeros(self.grid)
        self._run("scatter", grid, values, item, 1)
        return grid

    def _run(self, name: str, grid: Tensor, values: Tensor, item: int, blocks: int) -> None:
        place = item % len(self.order)
        real = values.real.dtype
        weights = self.single_weights if real == torch.float32 else self.weights
        arguments = GriddingArguments(
            grid=grid,
            values=values,
            corners=self.corners[place],
            weights=weights[place].to(real),
            order=self.order[place],
            samples=self.order.shape[1],
            size_0=self.sizes[0],
            size_1=self.sizes[1],
            size_2=self.sizes[2],
        )
        work = float(self.order.shape[1] * self.spans[0] * self.spans[1])
        launch(gridding_kernel(name, real, self.spans), blocks, arguments, work)


def _sort(values: Tensor, order: Tensor) -> Tensor:
    """Return ``(items, samples, k)`` in another order of the samples."""
    return values.gather(1, order.unsqueeze(-1).expand(-1, -1, values.shape[-1])).contiguous()
