"""Sort the splats of views into the tiles that they touch, front to back.

On the CPU, ``splat_binning_count.cpp`` and ``splat_binning_sort.cpp`` sort, one view per task; on
CUDA, PyTorch sorts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from invtoolbox.kernels.launch import Kernel, launch
from invtoolbox.kernels.native import REAL, native_kernel
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

    totals: Tensor
    shares: Tensor
    sizes: Tensor
    boxes: Tensor
    count: int
    across: int
    down: int


@dataclass
class SortArguments:
    """Arguments of ``splat_binning_sort.cpp``."""

    entries: Tensor
    starts: Tensor
    pairs: Tensor
    sizes: Tensor
    shares: Tensor
    boxes: Tensor
    reaches: Tensor
    bases: Tensor
    scratch_keys: Tensor
    scratch_ids: Tensor
    count: int
    across: int
    down: int


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
    whole, short = torch.int64, torch.int32
    totals, shares = torch.empty(views, dtype=whole), torch.empty(views, count, dtype=short)
    sizes = torch.empty(views, across * down, dtype=short)
    counting = CountArguments(totals, shares, sizes, boxes, count, across, down)
    launch(count_kernel(), views, counting, 10.0 * boxes.numel())
    bases = torch.zeros(views + 1, dtype=whole)
    torch.cumsum(totals, 0, out=bases[1:])
    total = int(bases[-1])
    entries = torch.empty(total, 2, dtype=short)
    starts = torch.empty(views * across * down + 1, dtype=whole)
    starts[-1] = total
    pairs = torch.empty(views, count, dtype=whole)
    keys = torch.empty(views, 2, count, dtype=short if reaches.dtype == torch.float32 else whole)
    ids = torch.empty(views, 2, count, dtype=short)
    sorting = SortArguments(
        entries,
        starts,
        pairs,
        sizes,
        shares,
        boxes,
        reaches,
        bases,
        keys,
        ids,
        count,
        across,
        down,
    )
    launch(sort_kernel(reaches.dtype), views, sorting, 10.0 * boxes.numel())
    return Tiles(entries, starts, bases[:-1].contiguous(), pairs, shares, across, down)


def _bin_by_torch(boxes: Tensor, reaches: Tensor, across: int, down: int) -> Tiles:
    """Return the result of `bin_splats`, computed by torch's sort, for a GPU.

    If the buffer is larger than the number of pairs, the lists end before the entries do. If it is
    smaller, the last pairs are missing.
    """
    views, count = boxes.shape[:2]
    tiles = views * across * down
    box = boxes.long()
    first = torch.div(box, TILE, rounding_mode="floor")
    past = torch.div(box - 1, TILE, rounding_mode="floor") + 1
    visible = (box[..., 0] < box[..., 1]).flatten()
    wide = (past[..., 1] - first[..., 0]).flatten() * visible
    shares = wide * (past[..., 3] - first[..., 2]).flatten()
    ends = shares.cumsum(0)
    total = ends[-1] if len(ends) else ends.sum()
    size = buffer_size((views, count, across, down), total)
    ends = ends.clamp_max(size)
    pairs = torch.cat([ends.new_zeros(1), ends])[: len(ends)]
    place = torch.arange(size, device=boxes.device)
    # The splat of every pair; places without a pair take the last one, and sort behind all tiles.
    splat = torch.searchsorted(ends, place, right=True).clamp_max(max(views * count - 1, 0))
    own = place - pairs[splat]
    row = torch.div(own, wide[splat].clamp_min(1), rounding_mode="floor")
    column = own - row * wide[splat]
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
        entries,
        starts,
        bases.contiguous(),
        pairs.view(views, count),
        (ends - pairs).view(views, count).int(),
        across,
        down,
    )


def _order(tile: Tensor, depth: Tensor) -> Tensor:
    """Return the stable order by tile, then by depth."""
    if depth.dtype == torch.float32:
        # The bits of a positive number grow with it, so that one key holds both. The sign is
        # cleared, because places without a pair have any depth.
        bits = depth.view(torch.int32).long() & 0x7FFFFFFF
        return torch.sort((tile << 32) | bits, stable=True).indices
    order = torch.sort(depth, stable=True).indices
    return order[torch.sort(tile[order], stable=True).indices]
