r"""Sorted splats composited into images, with their derivative.

A pixel at ``p`` goes through the splats of its tile from front to back,

.. math:: \alpha_i = \min(0.999,\ o_i \exp(-\tfrac12 (p - m_i)^T Q_i (p - m_i))), \qquad
          I = \sum_i f_i \alpha_i T_i, \quad T_i = \prod_{j < i} (1 - \alpha_j),

where an alpha below 1/255 counts as 0, and the pixel ends in front of the splat that would take the transmittance T to 1e-4 or below
(Kerbl et al., "3D Gaussian splatting for real-time radiance field rendering", 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from invtoolbox.kernels.launch import address, launch
from invtoolbox.kernels.rendering.splat_binning import Tiles
from invtoolbox.kernels.rendering.splat_binning_kernels import TILE
from invtoolbox.kernels.rendering.splat_pixel_kernels import (
    composite_pixel_kernel,
    composite_pixel_pull_kernel,
)
from invtoolbox.kernels.rendering.splat_projection_kernels import GEOMETRY
from invtoolbox.kernels.rendering.splat_tile_kernels import (
    composite_kernel,
    composite_pull_kernel,
    gather_kernel,
)


@dataclass(frozen=True, eq=False)
class Rays:
    """R rays in the place of pixels, in the order of the tiles that they lie in.

    Attributes:
        places: in the pixel coordinates of the view of each, ``(R, 2)``: column and row.
        begins: where the rays of each tile begin, and R, ``(V * tiles + 1,)``.
        owners: the tile of each ray, ``(R,)`` int32.
        order: which of the rays that were given each one is, ``(R,)``.
    """

    places: Tensor
    begins: Tensor
    owners: Tensor
    order: Tensor

    @classmethod
    def sorted(cls, view: Tensor, places: Tensor, views: int, width: int, height: int) -> Rays:
        """Rays of views in the order of the tiles, within a tile in that of its blocks of 4 x 4 pixels.

        Args:
            view: the view of each ray, ``(R,)``.
            places: ``(R, 2)``, inside of the view.
        """
        across, down = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
        block = (places / 4).floor().long()
        column, row = block[:, 0].clamp(0, 4 * across - 1), block[:, 1].clamp(0, 4 * down - 1)
        tile = (view * down + row // 4) * across + column // 4
        order = torch.argsort(16 * tile + 4 * (row % 4) + column % 4, stable=True)
        owners = tile[order]
        begins = torch.searchsorted(
            owners, torch.arange(views * across * down + 1, device=view.device)
        )
        return cls(places[order].contiguous(), begins, owners.int(), order)


def composite(
    splats: Tensor,
    boxes: Tensor,
    reaches: Tensor,
    tiles: Tiles,
    width: int,
    height: int,
    median: int | None = None,
    pixelwise: bool | None = None,
    rays: Rays | None = None,
) -> Tensor:
    """Images of splats, differentiable in them.

    Args:
        splats, boxes, reaches: as `splat_projection.project` gives them, with ``anywhere`` where there are rays.
        median: which feature is the depth, where the median depth is wanted: that of the splat that takes the transmittance below 1/2.
        pixelwise: use the kernels of a GPU; on CUDA, unless said.
        rays: look along these, and not through the centres of the pixels.

    Returns:
        ``(V, features + 1, height, width)``, or ``(features + 1, R)`` of rays, in the order that they were given in; or one plane more: the
        features, the transmittance that is left, and the median depth, 0 where the transmittance stays above 1/2.
    """
    result: Tensor = _Composite.apply(
        splats,
        boxes,
        reaches,
        tiles,
        width,
        height,
        median,
        splats.is_cuda if pixelwise is None else pixelwise,
        rays,
    )
    return result if rays is None else torch.empty_like(result).index_copy(1, rays.order, result)


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        splats: Tensor,
        boxes: Tensor,
        reaches: Tensor,
        tiles: Tiles,
        width: int,
        height: int,
        median: int | None,
        pixelwise: bool,
        rays: Rays | None,
    ) -> Tensor:
        splats = splats.detach().contiguous()
        views, count, row = splats.shape
        features = row - GEOMETRY
        planes = features + 1 + (median is not None)
        shape = (views, height, width) if rays is None else (len(rays.places),)
        images = (
            splats.new_empty(views, planes, height, width)
            if rays is None
            else splats.new_empty(planes, *shape)
        )
        last = torch.empty(shape, dtype=torch.int32, device=splats.device)
        middle = torch.empty_like(last) if median is not None else last
        where = _where(rays, pixelwise, splats)
        tensors = [
            images,
            last,
            middle,
            splats,
            boxes,
            reaches,
            tiles.entries,
            tiles.starts,
            *where,
        ]
        sizes = [len(where[0]), count, tiles.across, tiles.down, width, height]
        kernel = (composite_pixel_kernel if pixelwise else composite_kernel)(
            splats.dtype, features, median, rays is not None
        )
        launch(
            kernel,
            _tasks(tiles, views, pixelwise, rays),
            [*map(address, tensors), *sizes],
            tensors,
            100.0 * len(tiles.entries) + images.numel(),
        )
        ctx.save_for_backward(images, last, middle, splats, boxes, reaches)
        ctx.tiles, ctx.sizes, ctx.median, ctx.pixelwise, ctx.rays = (
            tiles,
            sizes,
            median,
            pixelwise,
            rays,
        )
        return images

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Any:
        images, last, middle, splats, boxes, reaches = ctx.saved_tensors
        tiles: Tiles = ctx.tiles
        views, count, row = splats.shape
        features = row - GEOMETRY
        dpairs = splats.new_zeros(len(tiles.entries), row)
        tensors = [
            dpairs,
            slope.contiguous(),
            images,
            last,
            middle,
            splats,
            boxes,
            reaches,
            tiles.entries,
            tiles.starts,
            tiles.bases,
            *_where(ctx.rays, ctx.pixelwise, splats),
        ]
        kernel = (composite_pixel_pull_kernel if ctx.pixelwise else composite_pull_kernel)(
            splats.dtype, features, ctx.median, ctx.rays is not None
        )
        # Pixels of a tile write to the same places: by atomic additions on CUDA, and one after the other elsewhere.
        work = 0.0 if ctx.pixelwise else 300.0 * len(tiles.entries) + images.numel()
        launch(
            kernel,
            _tasks(tiles, views, ctx.pixelwise, ctx.rays),
            [*map(address, tensors), *ctx.sizes],
            tensors,
            work,
        )
        dsplats = torch.empty_like(splats)
        total = views * count
        tensors = [dsplats, dpairs, tiles.pairs, tiles.shares]
        launch(
            gather_kernel(splats.dtype, features),
            (total + 1023) // 1024,
            [*map(address, tensors), total],
            tensors,
            float(dpairs.numel()),
        )
        return dsplats, *[None] * 8


def _where(rays: Rays | None, pixelwise: bool, like: Tensor) -> tuple[Tensor, Tensor]:
    """Where the rays are, and which kernels want to know whose: tiles their rays, rays their tiles. Of pixels, nothing."""
    if rays is None:
        return like.new_empty(0), like.new_empty(0)
    return rays.places, rays.owners if pixelwise else rays.begins


def _tasks(tiles: Tiles, views: int, pixelwise: bool, rays: Rays | None) -> int:
    if pixelwise and rays is not None:
        return len(rays.places)
    return views * tiles.across * tiles.down * (TILE * TILE if pixelwise else 1)
