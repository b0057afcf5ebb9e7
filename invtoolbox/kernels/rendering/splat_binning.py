"""Splats of views, sorted into the tiles that they touch, front to back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.kernels.launch import address, launch
from invtoolbox.kernels.rendering.splat_binning_kernels import TILE, count_kernel, fill_kernel


@dataclass(frozen=True, eq=False)
class Tiles:
    """The lists of the tiles of V views, N splats each, and P pairs of a splat and a tile that it touches.

    Attributes:
        entries: of every pair, tile by tile and front to back, the splat in its view and the pair's number in it, ``(P, 2)`` int32.
        starts: where the list of each tile begins, and P, ``(V * tiles + 1,)``.
        bases: where the pairs of each view begin, ``(V,)``.
        pairs: the number of the first pair of each splat; the others follow, ``(V, N)``.
        shares: how many tiles each splat touches, ``(V, N)`` int32.
        across, down: tiles of a view.
    """

    entries: Tensor
    starts: Tensor
    bases: Tensor
    pairs: Tensor
    shares: Tensor
    across: int
    down: int


def binned(boxes: Tensor, reaches: Tensor, width: int, height: int) -> Tiles:
    """Sort splats by depth into tiles; those of one depth stay in the order that they came in.

    Args:
        boxes: the pixels that a splat may touch, first and past the last, columns and rows, ``(V, N, 4)`` int32; empty for none.
        reaches: depth, above zero, and another number, ``(V, N, 2)``.

    >>> boxes = torch.tensor([[[0, 20, 0, 5], [3, 4, 3, 4]]], dtype=torch.int32)
    >>> tiles = binned(boxes, torch.tensor([[[2.0, 0], [1.0, 0]]]), 32, 16)
    >>> tiles.entries[:, 0], tiles.starts
    (tensor([1, 0, 0], dtype=torch.int32), tensor([0, 2, 3]))
    """
    across, down = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    if boxes.device.type == "cuda":
        return _binned_by_torch(boxes, reaches, across, down)
    views, count = boxes.shape[:2]
    whole, short = torch.int64, torch.int32
    totals, shares = torch.empty(views, dtype=whole), torch.empty(views, count, dtype=short)
    sizes = torch.empty(views, across * down, dtype=short)
    tensors = [totals, shares, sizes, boxes]
    launch(
        count_kernel(),
        views,
        [*map(address, tensors), count, across, down],
        tensors,
        10.0 * boxes.numel(),
    )
    bases = torch.zeros(views + 1, dtype=whole)
    torch.cumsum(totals, 0, out=bases[1:])
    total = int(bases[-1])
    entries = torch.empty(total, 2, dtype=short)
    starts = torch.empty(views * across * down + 1, dtype=whole)
    starts[-1] = total
    pairs = torch.empty(views, count, dtype=whole)
    keys = torch.empty(views, 2, count, dtype=short if reaches.dtype == torch.float32 else whole)
    ids = torch.empty(views, 2, count, dtype=short)
    tensors = [entries, starts, pairs, sizes, shares, boxes, reaches, bases, keys, ids]
    launch(
        fill_kernel(reaches.dtype),
        views,
        [*map(address, tensors), count, across, down],
        tensors,
        10.0 * boxes.numel(),
    )
    return Tiles(entries, starts, bases[:-1].contiguous(), pairs, shares, across, down)


def _binned_by_torch(boxes: Tensor, reaches: Tensor, across: int, down: int) -> Tiles:
    """The same by torch's sort, for a GPU."""
    views, count = boxes.shape[:2]
    box = boxes.long()
    first = torch.div(box, TILE, rounding_mode="floor")
    past = torch.div(box - 1, TILE, rounding_mode="floor") + 1
    seen = (box[..., 0] < box[..., 1]).flatten()
    wide = (past[..., 1] - first[..., 0]).flatten() * seen
    shares = wide * (past[..., 3] - first[..., 2]).flatten()
    pairs = shares.cumsum(0) - shares
    splat = torch.repeat_interleave(torch.arange(views * count, device=boxes.device), shares)
    own = torch.arange(len(splat), device=boxes.device) - pairs[splat]
    row = torch.div(own, wide[splat].clamp_min(1), rounding_mode="floor")
    column = own - row * wide[splat]
    view = torch.div(splat, max(count, 1), rounding_mode="floor")
    tile = (
        (view * down + first[..., 2].flatten()[splat] + row) * across
        + first[..., 0].flatten()[splat]
        + column
    )
    # First by depth, then, stably, by tile.
    order = torch.sort(reaches[..., 0].flatten()[splat], stable=True).indices
    order = order[torch.sort(tile[order], stable=True).indices]
    bases = pairs.view(views, count)[:, 0] if count else pairs.new_zeros(views)
    number = torch.arange(len(splat), device=boxes.device) - bases[view]
    entries = torch.stack([splat - view * count, number], 1)[order].int().contiguous()
    starts = torch.searchsorted(
        tile[order].contiguous(), torch.arange(views * across * down + 1, device=boxes.device)
    )
    return Tiles(
        entries,
        starts,
        bases.contiguous(),
        pairs.view(views, count),
        shares.view(views, count).int(),
        across,
        down,
    )
