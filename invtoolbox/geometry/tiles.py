"""Overlapping tiles of pictures and volumes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from invtoolbox.errors import InputError


@dataclass(frozen=True)
class Tile:
    """A tile: the pixels it writes and the larger part of the measurements it is solved from.

    Attributes:
        kept: slices of the picture or volume that this tile determines, one per axis.
        seen: slices of the measurements.
        inner: slices of the tile's solution that become ``kept``.
        shape: lengths of the axes of the tile's solution.
    """

    kept: tuple[slice, ...]
    seen: tuple[slice, ...]
    inner: tuple[slice, ...]
    shape: tuple[int, ...]


def cut(
    shape: Sequence[int],
    tile: int | Sequence[int],
    margin: int | Sequence[int],
    kernel: Sequence[int] = (1, 1, 1),
    factor: int = 1,
) -> Iterator[Tile]:
    """Yield the tiles of a picture or volume, the last axis first; all have nearly the same size.

    An axis is not cut if a tile would see all of it, because of wide margins.

    Args:
        shape: lengths of the axes: rows and columns, or slices, rows and columns.
        tile: largest number of rows, columns, ... that a tile determines; one number or one per
            axis.
        margin: width of the margin on all sides within the picture; one number or one per axis.
        kernel: lengths of the kernel if the measurements are smaller than the picture by its size
            less one (the boundary "valid").
        factor: number of rows of the picture per row of the measurements.

    >>> [t.kept[1] for t in cut((4, 10), 5, 2)]
    [slice(0, 5, None), slice(5, 10, None)]
    >>> [t.seen[1] for t in cut((4, 10), 5, 2)], [t.inner[1] for t in cut((4, 10), 5, 2)]
    ([slice(0, 7, None), slice(3, 10, None)], [slice(0, 5, None), slice(2, 7, None)])
    """
    tiles, margins = (
        [value] * len(shape) if isinstance(value, int) else value for value in (tile, margin)
    )
    if min(tiles) < 1 or min(margins) < 0:
        raise InputError(f"a tile has at least one pixel and no negative margin, got {tile}")
    axes = [list(_cut_axis(*axis, factor)) for axis in zip(shape, kernel, tiles, margins)]
    for parts in itertools.product(*axes):
        yield Tile(
            tuple(interval.kept for interval in parts),
            tuple(interval.seen for interval in parts),
            tuple(interval.inner for interval in parts),
            tuple(interval.size for interval in parts),
        )


class _Interval(NamedTuple):
    """A tile along one axis, as in `Tile`."""

    kept: slice
    seen: slice
    inner: slice
    size: int


def _cut_axis(length: int, kernel: int, tile: int, margin: int, factor: int) -> Iterator[_Interval]:
    count, small, margin = math.ceil(length / tile), length // factor, math.ceil(margin / factor)
    ends = [(small * k // count, small * (k + 1) // count) for k in range(count)]
    reached = [(max(0, first - margin), min(small, last + margin)) for first, last in ends]
    if (0, small) in reached:
        # One tile that sees the whole axis needs no more memory, and spares the others.
        ends = reached = [(0, small)]
    for (first, last), (low, high) in zip(ends, reached):
        # With "valid", n pixels are measured by n - kernel + 1 values.
        measured = slice(low, high - kernel + 1)
        inside, inner = slice(first * factor, last * factor), (first - low, last - low)
        yield _Interval(
            inside, measured, slice(inner[0] * factor, inner[1] * factor), (high - low) * factor
        )
