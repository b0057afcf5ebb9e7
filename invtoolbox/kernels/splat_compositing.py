r"""Sorted splats composited into images, with their derivative.

A pixel at ``p`` goes through the splats of its tile from front to back,

.. math:: \alpha_i = \min(0.999,\ o_i \exp(-\tfrac12 (p - m_i)^T Q_i (p - m_i))), \qquad
          I = \sum_i f_i \alpha_i T_i, \quad T_i = \prod_{j < i} (1 - \alpha_j),

where an alpha below 1/255 counts as 0, and the pixel ends in front of the splat that would take the transmittance T to 1e-4 or below
(Kerbl et al., "3D Gaussian splatting for real-time radiance field rendering", 2023).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from invtoolbox.kernels.launch import address, launch
from invtoolbox.kernels.splat_binning import Tiles


def composite(splats: Tensor, boxes: Tensor, reaches: Tensor, tiles: Tiles, width: int, height: int, median: int | None = None,
              pixelwise: bool | None = None) -> Tensor:
    """Images of splats, differentiable in them.

    Args:
        splats, boxes, reaches: as `splat_projection.project` gives them.
        median: which feature is the depth, where the median depth is wanted: that of the splat that takes the transmittance below 1/2.
        pixelwise: use the kernels of a GPU; on CUDA, unless said.

    Returns:
        ``(V, features + 1, height, width)``, or one plane more: the features, the transmittance that is left, and the median depth, 0
        where the transmittance stays above 1/2.
    """
    result: Tensor = _Composite.apply(splats, boxes, reaches, tiles, width, height, median,
                                      splats.is_cuda if pixelwise is None else pixelwise)
    return result


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, splats: Tensor, boxes: Tensor, reaches: Tensor, tiles: Tiles, width: int, height: int,
                median: int | None, pixelwise: bool) -> Tensor:
        from invtoolbox.kernels.splat_pixel_kernels import composite_pixel_kernel
        from invtoolbox.kernels.splat_projection_kernels import GEOMETRY
        from invtoolbox.kernels.splat_tile_kernels import composite_kernel

        splats = splats.detach().contiguous()
        views, count, row = splats.shape
        features = row - GEOMETRY
        planes = features + 1 + (median is not None)
        images = splats.new_empty(views, planes, height, width)
        last = torch.empty(views, height, width, dtype=torch.int32, device=splats.device)
        middle = torch.empty_like(last) if median is not None else last
        tensors = [images, last, middle, splats, boxes, reaches, tiles.entries, tiles.starts]
        sizes = [count, tiles.across, tiles.down, width, height]
        kernel = (composite_pixel_kernel if pixelwise else composite_kernel)(splats.dtype, features, median)
        launch(kernel, _tasks(tiles, views, pixelwise), [*map(address, tensors), *sizes], tensors,
               100.0 * len(tiles.entries) + images.numel())
        ctx.save_for_backward(images, last, middle, splats, boxes, reaches)
        ctx.tiles, ctx.sizes, ctx.median, ctx.pixelwise = tiles, sizes, median, pixelwise
        return images

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Any:
        from invtoolbox.kernels.splat_pixel_kernels import composite_pixel_pull_kernel
        from invtoolbox.kernels.splat_tile_kernels import composite_pull_kernel, gather_kernel

        images, last, middle, splats, boxes, reaches = ctx.saved_tensors
        tiles: Tiles = ctx.tiles
        views, count, row = splats.shape
        features = images.shape[1] - 1 - (ctx.median is not None)
        dpairs = splats.new_zeros(len(tiles.entries), row)
        tensors = [dpairs, slope.contiguous(), images, last, middle, splats, boxes, reaches, tiles.entries, tiles.starts, tiles.bases]
        kernel = (composite_pixel_pull_kernel if ctx.pixelwise else composite_pull_kernel)(splats.dtype, features, ctx.median)
        # Pixels of a tile write to the same places: by atomic additions on CUDA, and one after the other elsewhere.
        work = 0.0 if ctx.pixelwise else 300.0 * len(tiles.entries) + images.numel()
        launch(kernel, _tasks(tiles, views, ctx.pixelwise), [*map(address, tensors), *ctx.sizes], tensors, work)
        dsplats = torch.empty_like(splats)
        total = views * count
        tensors = [dsplats, dpairs, tiles.pairs, tiles.shares]
        launch(gather_kernel(splats.dtype, features), (total + 1023) // 1024, [*map(address, tensors), total], tensors,
               float(dpairs.numel()))
        return dsplats, *[None] * 7


def _tasks(tiles: Tiles, views: int, pixelwise: bool) -> int:
    from invtoolbox.kernels.splat_binning_kernels import TILE

    return views * tiles.across * tiles.down * (TILE * TILE if pixelwise else 1)
