r"""Composite sorted splats into images, with the derivative.

A pixel at ``p`` goes through the splats of its tile from front to back,

.. math:: \alpha_i = \min(0.999,\ o_i \exp(-\tfrac12 (p - m_i)^T Q_i (p - m_i))), \qquad
          I = \sum_i f_i \alpha_i T_i, \quad T_i = \prod_{j < i} (1 - \alpha_j),

where an alpha below 1/255 counts as 0. The pixel ends before the splat that would take the
transmittance T to 1e-4 or below (Kerbl et al., "3D Gaussian splatting for real-time radiance field
rendering", 2023).

There are three sets of kernels. ``splat_compositing_tile*.cpp`` has one task per tile, for the CPU.
``splat_compositing_block*.cpp``, for CUDA, has a block of 256 threads per tile, one for each pixel,
that read the splats from the memory they share (Kerbl et al.). ``splat_compositing_pixel*.cpp`` has
one thread per pixel or ray that cooperates with no other. The tests compare the blocks with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from invtoolbox.errors import InputError
from invtoolbox.kernels.native import REAL, Int64, Kernel, launch, native_kernel
from invtoolbox.kernels.rendering.splat_binning import TILE, Tiles
from invtoolbox.kernels.rendering.splat_projection import GEOMETRY

#: Splats per task of the sum over pairs, on a CPU and on CUDA.
_PART, _PART_ON_CUDA = 1024, 8

#: What a tile is divided into: nothing, single pixels, or the threads of a block.
Tasks = Literal["tile", "pixel", "block"]


@dataclass(frozen=True, eq=False)
class Rays:
    """R rays in place of pixels, in the order of the tiles that they lie in.

    Attributes:
        places: column and row of each ray in the pixel coordinates of its view, ``(R, 2)``.
        begins: index of the first ray of each tile, and R at the end, ``(V * tiles + 1,)``.
        owners: tile of each ray, ``(R,)`` int32.
        order: index of each ray among the given rays, ``(R,)``.
    """

    places: Tensor
    begins: Tensor
    owners: Tensor
    order: Tensor

    @classmethod
    def sort(cls, view: Tensor, places: Tensor, views: int, width: int, height: int) -> Rays:
        """Sort rays of views by tile, and within a tile by block of 4 x 4 pixels.

        Args:
            view: index of the view of each ray, ``(R,)``.
            places: column and row of each ray, ``(R, 2)``, inside of the view.
            views: number of views V.
            width: width of the views in pixels.
            height: height of the views in pixels.
        """
        across, down = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
        block = (places / 4).floor().long()
        # A tile has 4 x 4 blocks: 16 tile + 4 row + column is the number of a block.
        column, row = block[:, 0].clamp(0, 4 * across - 1), block[:, 1].clamp(0, 4 * down - 1)
        tile = (view * down + row // 4) * across + column // 4
        order = torch.argsort(16 * tile + 4 * (row % 4) + column % 4, stable=True)
        owners = tile[order]
        begins = torch.searchsorted(
            owners, torch.arange(views * across * down + 1, device=view.device)
        )
        return cls(places[order].contiguous(), begins, owners.int(), order)


@dataclass
class TileArguments:
    """Arguments that the kernels share: the splats, and the lists of the tiles."""

    splats: Tensor  # (V, N, GEOMETRY + features)
    reaches: Tensor  # (V, N, 2)
    entries: Tensor  # this and the next one as in `Tiles`
    starts: Tensor
    splats_of_view: int  # N
    across: int
    down: int
    width: int
    height: int


@dataclass
class CompositingArguments(TileArguments):
    """Arguments of the compositing; the last three are for the gradient alone."""

    images: Tensor  # (V, planes, height, width), or (planes, R) for rays
    last: Tensor  # place in the tile's list behind the last splat that counts, int32
    median: Tensor  # place in the tile's list of the splat at the median depth, -1 for none, int32
    boxes: Tensor  # (V, N, 4) int32
    places: Tensor | None  # this and the next two as in `Rays`; None for pixels
    begins: Tensor | None
    owners: Tensor | None
    rays: int  # number of rays R, 0 for pixels
    bases: Tensor | None = None  # as in `Tiles`
    dpairs: Tensor | None = None  # (P, GEOMETRY + features), and two more for absolute sums
    dimages: Tensor | None = None  # of the shape of the images


@dataclass
class SumArguments:
    """Arguments of ``splat_compositing_sum.cpp``."""

    dsplats: Tensor  # (V, N, row)
    dpairs: Tensor  # (P, row)
    pairs: Tensor  # this and the next one as in `Tiles`
    shares: Tensor
    splats: Int64  # V N


@cache
def composite_kernel(
    dtype: torch.dtype,
    features: int,
    median: int | None,
    rays: bool,
    tasks: Tasks,
    gradient: bool,
    absolute: bool = False,
) -> Kernel:
    """Return the kernel that composites, or the kernel of its gradient.

    Args:
        dtype: precision.
        features: number of features of a splat.
        median: index of the feature that holds the depth, for the median depth; None for no median
            depth.
        rays: composite rays in place of pixels.
        tasks: what a task is.
        gradient: add the gradient of the images to every pair of a splat and a tile.
        absolute: for the gradient, add the sums of the absolute derivatives in the mean.

    Raises:
        InputError: if there are no such tasks.
    """
    if tasks not in get_args(Tasks):
        raise InputError(f"tasks of compositing are 'tile', 'pixel' or 'block', got {tasks!r}")
    definitions: dict[str, str | int] = {
        "REAL": REAL[dtype],
        "TILE": TILE,
        "GEOMETRY": GEOMETRY,
        "FEATURES": features,
        "MEDIAN": -1 if median is None else median,
        "RAYS": rays,
    }
    if gradient:
        definitions["ABSOLUTE"] = absolute
    return native_kernel(
        f"rendering/splat_compositing_{tasks}{'_gradient' if gradient else ''}.cpp",
        definitions,
        CompositingArguments,
        task="tile" if tasks == "tile" else "task",
        block=TILE * TILE if tasks == "block" else 1,
    )


@dataclass
class ContributorArguments(TileArguments):
    """Arguments of ``splat_contributors.cpp``."""

    ids: Tensor  # (V, height, width, number) int32
    weights: Tensor  # (V, height, width, number)


@cache
def contributor_kernel(dtype: torch.dtype, features: int, number: int) -> Kernel:
    """Return the kernel that finds the ``number`` largest weights of every pixel."""
    definitions: dict[str, str | int] = {
        "REAL": REAL[dtype],
        "TILE": TILE,
        "GEOMETRY": GEOMETRY,
        "FEATURES": features,
        "MEDIAN": -1,
        "RAYS": False,
        "NUMBER": number,
    }
    return native_kernel("rendering/splat_contributors.cpp", definitions, ContributorArguments)


@cache
def sum_kernel(dtype: torch.dtype, features: int, part: int) -> Kernel:
    """Return the kernel that sums the gradients of the pairs of ``part`` splats per task.

    Absolute derivatives count as two more features.
    """
    definitions = {"REAL": REAL[dtype], "ROW": str(GEOMETRY + features), "PART": part}
    return native_kernel(
        "rendering/splat_compositing_sum.cpp", definitions, SumArguments, task="part"
    )


def composite(
    splats: Tensor,
    boxes: Tensor,
    reaches: Tensor,
    tiles: Tiles,
    width: int,
    height: int,
    median: int | None = None,
    tasks: Tasks | None = None,
    rays: Rays | None = None,
    absolute: Tensor | None = None,
) -> Tensor:
    """Composite splats into images, differentiable in the splats.

    Args:
        splats: splats of V views, as `splat_projection.project` returns them, with ``anywhere`` for
            rays.
        boxes: boxes of the splats, as `splat_projection.project` returns them.
        reaches: reaches of the splats, as `splat_projection.project` returns them.
        tiles: lists of the tiles, as `splat_binning.bin_splats` returns them.
        width: width of the views in pixels.
        height: height of the views in pixels.
        median: index of the feature that holds the depth, to add the median depth: the depth of the
            splat that takes the transmittance below 1/2.
        tasks: what the kernels divide a tile into; by default nothing on a CPU, and the threads of
            a block on CUDA. "block" needs Warp 1.19 on a CPU, and is slow there.
        rays: places to render in place of the centres of the pixels.
        absolute: zeros ``(V, N, 2)``. Their derivative is the sum over the pixels of the absolute
            values of each pixel's derivative in the mean, where a derivative in the splats is their
            sum.

    Returns:
        ``(V, features + 1, height, width)``, or ``(features + 1, R)`` for rays, in their given
        order: the features and the remaining transmittance. With ``median`` one plane more: the
        median depth, 0 if the transmittance stays above 1/2.
    """
    setup = _Setup(
        boxes=boxes,
        reaches=reaches,
        tiles=tiles,
        width=width,
        height=height,
        median=median,
        tasks=tasks or ("block" if splats.is_cuda else "tile"),
        rays=rays,
    )
    result: Tensor = _Composite.apply(splats, absolute, setup)[0]
    return result if rays is None else torch.empty_like(result).index_copy(1, rays.order, result)


def composite_with_ids(
    splats: Tensor,
    boxes: Tensor,
    reaches: Tensor,
    tiles: Tiles,
    width: int,
    height: int,
    median: int,
    tasks: Tasks | None = None,
    absolute: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Composite splats into images, and return the splat at the median depth of every pixel.

    The arguments are those of `composite`.

    Returns:
        the images of `composite`, and the index of the splat in its view, ``(V, height, width)``
        int64; -1 if the transmittance stays above 1/2.
    """
    setup = _Setup(
        boxes=boxes,
        reaches=reaches,
        tiles=tiles,
        width=width,
        height=height,
        median=median,
        tasks=tasks or ("block" if splats.is_cuda else "tile"),
    )
    result, place = _Composite.apply(splats, absolute, setup)
    # The kernel returns the place in the list of the pixel's tile.
    rows = torch.arange(height, device=splats.device) // TILE
    columns = torch.arange(width, device=splats.device) // TILE
    views = torch.arange(len(splats), device=splats.device)
    tile = (views[:, None, None] * tiles.down + rows[:, None]) * tiles.across + columns
    entry = (tiles.starts[tile] + place).clamp(0, max(len(tiles.entries) - 1, 0))
    if not len(tiles.entries):
        return result, place.long()
    return result, torch.where(place >= 0, tiles.entries[entry, 0].long(), -1)


def find_contributors(
    splats: Tensor, reaches: Tensor, tiles: Tiles, width: int, height: int, number: int
) -> tuple[Tensor, Tensor]:
    """Find the splats of every pixel with the largest weights ``alpha T``, the largest first.

    Args:
        splats: splats of V views, see `composite`.
        reaches: reaches of the splats, see `composite`.
        tiles: lists of the tiles, see `composite`.
        width: width of the views in pixels.
        height: height of the views in pixels.
        number: number of splats per pixel.

    Returns:
        indices of the splats in their view, int64, -1 if there are fewer, and weights, 0 then,
        ``(V, height, width, number)`` each.
    """
    splats = splats.detach().contiguous()
    shape = (len(splats), height, width, number)
    ids = torch.empty(shape, dtype=torch.int32, device=splats.device)
    weights = splats.new_empty(shape)
    arguments = ContributorArguments(
        ids=ids,
        weights=weights,
        splats=splats,
        reaches=reaches,
        entries=tiles.entries,
        starts=tiles.starts,
        splats_of_view=splats.shape[1],
        across=tiles.across,
        down=tiles.down,
        width=width,
        height=height,
    )
    kernel = contributor_kernel(splats.dtype, splats.shape[2] - GEOMETRY, number)
    tasks = len(splats) * tiles.across * tiles.down * TILE * TILE
    launch(kernel, tasks, arguments, work=100.0 * len(tiles.entries) + ids.numel())
    return ids.long(), weights


class _Setup(NamedTuple):
    """Arguments of `composite` that have no derivative."""

    boxes: Tensor
    reaches: Tensor
    tiles: Tiles
    width: int
    height: int
    median: int | None
    tasks: Tasks
    rays: Rays | None = None


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, splats: Tensor, absolute: Tensor | None, setup: _Setup
    ) -> tuple[Tensor, Tensor]:
        ctx.absolute = absolute is not None and absolute.requires_grad
        splats = splats.detach().contiguous()
        # The features, the transmittance and the median depth.
        planes = splats.shape[2] - GEOMETRY + 1 + (setup.median is not None)
        if setup.rays is None:
            shape: tuple[int, ...] = (len(splats), setup.height, setup.width)
            images = splats.new_empty(len(splats), planes, *shape[1:])
        else:
            shape = (len(setup.rays.places),)
            images = splats.new_empty(planes, *shape)
        last = torch.empty(shape, dtype=torch.int32, device=splats.device)
        middle = torch.empty_like(last) if setup.median is not None else last
        ctx.setup = setup
        ctx.save_for_backward(images, last, middle, splats)
        arguments = _arguments(setup, images, last, middle, splats)
        work = 100.0 * len(setup.tiles.entries) + images.numel()
        _run(arguments, setup, gradient=False, work=work)
        ctx.mark_non_differentiable(middle)
        return images, middle

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor, *_: Any) -> Any:
        images, _, _, splats = ctx.saved_tensors
        setup: _Setup = ctx.setup
        tiles = setup.tiles
        arguments = _arguments(setup, *ctx.saved_tensors)
        views, count, row = splats.shape
        # The last two numbers are the sums of |dL/dx| and |dL/dy| over the pixels.
        numbers = row + 2 * ctx.absolute
        dpairs = splats.new_zeros(len(tiles.entries), numbers)
        arguments.bases, arguments.dpairs, arguments.dimages = (
            tiles.bases,
            dpairs,
            slope.contiguous(),
        )
        # Single pixels of a tile write to the same places: with atomic additions on CUDA, and on a
        # single thread of the CPU.
        work = 0.0 if setup.tasks == "pixel" else 300.0 * len(tiles.entries) + images.numel()
        _run(arguments, setup, gradient=True, work=work, absolute=ctx.absolute)
        # A second kernel sums the pairs of a splat, which lie next to each other, in a fixed order.
        dsplats = splats.new_empty(views, count, numbers)
        splats_per_task = _PART_ON_CUDA if splats.is_cuda else _PART
        kernel = sum_kernel(splats.dtype, numbers - GEOMETRY, splats_per_task)
        sums = SumArguments(dsplats, dpairs, tiles.pairs, tiles.shares, Int64(views * count))
        launch(kernel, -(-views * count // splats_per_task), sums, float(dpairs.numel()))
        if not ctx.absolute:
            return dsplats, None, None
        return dsplats[..., :row], dsplats[..., row:], None


def _arguments(
    setup: _Setup, images: Tensor, last: Tensor, median: Tensor, splats: Tensor
) -> CompositingArguments:
    tiles, rays = setup.tiles, setup.rays
    return CompositingArguments(
        images=images,
        last=last,
        median=median,
        splats=splats,
        boxes=setup.boxes,
        reaches=setup.reaches,
        entries=tiles.entries,
        starts=tiles.starts,
        places=None if rays is None else rays.places,
        begins=None if rays is None else rays.begins,
        owners=None if rays is None else rays.owners,
        rays=0 if rays is None else len(rays.places),
        splats_of_view=splats.shape[1],
        across=tiles.across,
        down=tiles.down,
        width=setup.width,
        height=setup.height,
    )


def _run(
    arguments: CompositingArguments,
    setup: _Setup,
    gradient: bool,
    work: float,
    absolute: bool = False,
) -> None:
    views, _, row = arguments.splats.shape
    tasks = setup.tasks
    if tasks == "pixel" and gradient and torch.are_deterministic_algorithms_enabled():
        tasks = "block"  # sums of pixels by atomic additions have no fixed order
    kernel = composite_kernel(
        arguments.splats.dtype,
        row - GEOMETRY,
        setup.median,
        rays=setup.rays is not None,
        tasks=tasks,
        gradient=gradient,
        absolute=absolute,
    )
    # The pixels of a tile beyond the edge of the view are tasks too.
    number = views * arguments.across * arguments.down
    if tasks == "pixel" and setup.rays is not None:
        number = arguments.rays
    elif tasks != "tile":
        number *= TILE * TILE
    launch(kernel, number, arguments, work)
