"""Sort the splats of views into the tiles that they touch, front to back.

On the CPU, ``splat_binning_count.cpp`` and ``splat_binning_sort.cpp`` sort, one view per task; on
CUDA, PyTorch sorts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from invtoolbox.kernels.native import REAL, Kernel, launch, native_kernel
from invtoolbox.kernels.rendering.pair_buffer import buffer_size

#: Side of a tile in pixels.
TILE = 16


@dataclass(frozen=True, eq=False)
class Tiles:
    """Lists of the tiles of V views with N splats each: P pairs of a splat and a touched tile.

    Attributes:
        entries: for every pair, tile by tile and front to back, the index of the splat in its view
            and the number of the pair in the view, ``(P, 2)`` int32.
        starts: start of the list of each tile, and P at the end, ``(V * tiles + 1,)``.
        bases: number of the first pair of each view, ``(V,)``.
        pairs: number of the first pair of each splat, followed by its other pairs, ``(V, N)``.
        shares: number of tiles that each splat touches, ``(V, N)`` int32.
        across: number of tiles of a view per row.
        down: number of tiles of a view per column.
    """

    entries: Tensor
    starts: Tensor
    bases: Tensor
    pairs: Tensor
    shares: Tensor
    across: int
    down: int


@dataclass
class CountArguments:
    """Arguments of ``splat_binning_count.cpp``."""

    totals: Tensor  # number of pairs of every view, (V,) int64
    shares: Tensor  # (V, N) int32
    sizes: Tensor  # number of splats in every tile, (V, tiles) int32
    boxes: Tensor  # (V, N, 4) int32
    count: int  # number of splats N
    across: int
    down: int


@dataclass
class SortArguments(CountArguments):
    """Arguments of ``splat_binning_sort.cpp``, which overwrites the sizes."""

    entries: Tensor  # this and the next two as in `Tiles`
    starts: Tensor
    pairs: Tensor
    reaches: Tensor  # (V, N, 2)
    bases: Tensor  # (V + 1,) int64
    scratch_keys: Tensor  # bits of the depths, before and after a pass of the sort, (V, 2, N)
    scratch_ids: Tensor  # numbers of the splats, (V, 2, N) int32


@cache
def count_kernel() -> Kernel:
    """Return the kernel that counts the splats per tile, and the tiles per splat and per view."""
    definitions = {"TILE": TILE}
    return native_kernel(
        "rendering/splat_binning_count.cpp", definitions, CountArguments, task="view"
    )


@cache
def sort_kernel(dtype: torch.dtype) -> Kernel:
    """Return the kernel that writes the lists of the tiles, for depths of a precision."""
    bits = "unsigned int" if dtype == torch.float32 else "unsigned long long"
    definitions: dict[str, str | int] = {"TILE": TILE, "REAL": REAL[dtype], "BITS": bits}
    return native_kernel(
        "rendering/splat_binning_sort.cpp", definitions, SortArguments, task="view"
    )


def bin_splats(boxes: Tensor, reaches: Tensor, width: int, height: int) -> Tiles:
    """Sort splats by depth into tiles; splats of equal depth keep their order.

    Args:
        boxes: pixels that a splat may touch, as the first column and the column past the last, then
            the rows, ``(V, N, 4)`` int32; an empty box for an invisible splat.
        reaches: depth, which is positive, and a second number, which is not read, ``(V, N, 2)``.
        width: width of the views in pixels.
        height: height of the views in pixels.

    >>> boxes = torch.tensor([[[0, 20, 0, 5], [3, 4, 3, 4]]], dtype=torch.int32)
    >>> tiles = bin_splats(boxes, torch.tensor([[[2.0, 0], [1.0, 0]]]), 32, 16)
    >>> tiles.entries[:, 0], tiles.starts
    (tensor([1, 0, 0], dtype=torch.int32), tensor([0, 2, 3]))
    """
    across, down = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    if boxes.device.type == "cuda":
        return _bin_by_torch(boxes, reaches, across, down)
    views, count = boxes.shape[:2]
    totals = torch.empty(views, dtype=torch.int64)
    shares = torch.empty(views, count, dtype=torch.int32)
    sizes = torch.empty(views, across * down, dtype=torch.int32)
    counting = CountArguments(
        totals=totals,
        shares=shares,
        sizes=sizes,
        boxes=boxes,
        count=count,
        across=across,
        down=down,
    )
    launch(count_kernel(), views, counting, 10.0 * boxes.numel())
    # Counting first gives every view its place in the lists, so that the views sort side by side.
    bases = torch.zeros(views + 1, dtype=torch.int64)
    torch.cumsum(totals, 0, out=bases[1:])
    total = int(bases[-1])
    entries = torch.empty(total, 2, dtype=torch.int32)
    starts = torch.empty(views * across * down + 1, dtype=torch.int64)
    starts[-1] = total
    pairs = torch.empty(views, count, dtype=torch.int64)
    # A key has as many bits as a depth.
    bits = torch.int32 if reaches.dtype == torch.float32 else torch.int64
    sorting = SortArguments(
        entries=entries,
        starts=starts,
        pairs=pairs,
        reaches=reaches,
        bases=bases,
        scratch_keys=torch.empty(views, 2, count, dtype=bits),
        scratch_ids=torch.empty(views, 2, count, dtype=torch.int32),
        **vars(counting),
    )
    launch(sort_kernel(reaches.dtype), views, sorting, 10.0 * boxes.numel())
    return Tiles(
        entries=entries,
        starts=starts,
        bases=bases[:-1].contiguous(),
        pairs=pairs,
        shares=shares,
        across=across,
        down=down,
    )


def _bin_by_torch(boxes: Tensor, reaches: Tensor, across: int, down: int) -> Tiles:
    """Return the result of `bin_splats`, computed by torch's sort, for a GPU.

    If the buffer is larger than the number of pairs, the lists end before the entries do. If it is
    smaller, the last pairs are missing.
    """
    views, count = boxes.shape[:2]
    tiles = views * across * down
    box = boxes.long()
    # The first tile and the tile past the last one along x and y.
    first = torch.div(box, TILE, rounding_mode="floor")
    past = torch.div(box - 1, TILE, rounding_mode="floor") + 1
    visible = (box[..., 0] < box[..., 1]).flatten()
    wide = (past[..., 1] - first[..., 0]).flatten() * visible
    shares = wide * (past[..., 3] - first[..., 2]).flatten()
    # The pairs of splat n are pairs[n] to ends[n] - 1.
    ends = shares.cumsum(0)
    total = ends[-1] if len(ends) else ends.sum()
    # Splats that split change their number, not the key: the margin of a size covers their growth.
    size = buffer_size((views, across, down), total)
    ends = ends.clamp_max(size)
    pairs = torch.cat([ends.new_zeros(1), ends])[: len(ends)]
    place = torch.arange(size, device=boxes.device)
    # The splat of every pair; places without a pair take the last one, and sort behind all tiles.
    splat = torch.searchsorted(ends, place, right=True).clamp_max(max(views * count - 1, 0))
    # A splat counts its tiles row by row.
    number = place - pairs[splat]
    row = torch.div(number, wide[splat].clamp_min(1), rounding_mode="floor")
    column = number - row * wide[splat]
    view = torch.div(splat, max(count, 1), rounding_mode="floor")
    tile = (
        (view * down + first[..., 2].flatten()[splat] + row) * across
        + first[..., 0].flatten()[splat]
        + column
    )
    tile = torch.where(place < total, tile, tiles)
    order = _order(tile, reaches[..., 0].flatten()[splat])
    bases = pairs.view(views, count)[:, 0] if count else pairs.new_zeros(views)
    entries = torch.stack([splat - view * count, place - bases[view]], 1)[order].int().contiguous()
    starts = torch.searchsorted(tile[order], torch.arange(tiles + 1, device=boxes.device))
    return Tiles(
        entries=entries,
        starts=starts,
        bases=bases.contiguous(),
        pairs=pairs.view(views, count),
        shares=(ends - pairs).view(views, count).int(),
        across=across,
        down=down,
    )


def _order(tile: Tensor, depth: Tensor) -> Tensor:
    """Return the stable order by tile, then by depth."""
    if depth.dtype == torch.float32:
        # The bits of a positive number grow with it, so that one key holds both. The sign is
        # cleared, because places without a pair have any depth.
        bits = depth.view(torch.int32).long() & 0x7FFFFFFF
        return torch.sort((tile << 32) | bits, stable=True).indices
    # Float64 leaves no bits for the tile: two stable sorts, the last key first.
    order = torch.sort(depth, stable=True).indices
    return order[torch.sort(tile[order], stable=True).indices]
