"""Project and back-project volumes on the CPU: many rays at a time through a slab of planes.

This is Joseph's method in 3D (`invtoolbox.kernels.tomography.volume`). A slab holds some
neighbouring planes across the main axis ``m``, each as lines along ``b`` (z, or x for the main axis
z), which lie next to each other along ``a``: (planes, n_a + 4, stride). Two zeros in front of the
voxels and behind them stand for the outside: positions are clamped onto them instead of tested.
More zeros at the end of the lines allow vectors to be read past the end. Slabs are copied from the
volume and added to it, so that no second copy of the volume is ever held.

If a panel's rows are stacked along z (``v`` parallel to z: circular and helical scans), the rays of
one column of cells share their path in the x-y plane. On one plane they lie between the same two
lines, equally spaced along them. So the whole column costs as much as weighing the two lines into
one and resampling that line. Neighbouring cells need neighbouring voxels, so vectors are loaded and
permuted, never gathered.

Other rays are followed in groups of a column's neighbours, voxel by voxel.

The weights are the same as in `volume`; main axes are decided by the same floating-point
operations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from invtoolbox.core.interrupts import check_time
from invtoolbox.kernels.native import REAL, Kernel, launch, native_kernel
from invtoolbox.kernels.tomography.rays import ScanArguments, Views, views_by_axis

#: Columns of cells that a task of the projection treats together.
_COLS = 16
#: Largest number of planes of a slab: more of them would not stay near the cores.
_PLANES = 32
#: Zeros in front of a line, beyond the two that stand for the outside. Those of the next line are
#: at its end.
_FRONT = 46
#: Share of the larger of volume and projections that a slab may take, and size that it may take in
#: any case (bytes).
_SHARE, _SMALL = 0.08, 6 * 2**20
#: Largest number of planes of a slab that one task of the back-projection owns.
_BLOCK = 32


@dataclass
class SlabArguments(ScanArguments):
    """Arguments of the kernels, for one item.

    Attributes:
        slab: (planes, lines + 4, stride).
        chosen: numbers of the views that may have rays along the axis, int32.
        listed: number of ``chosen`` views.
        stride: length of a line of the slab.
        slab_first, slab_planes: first plane and number of planes of the slab.
    """

    slab: Tensor
    chosen: Tensor
    listed: int
    stride: int
    slab_first: int
    slab_planes: int


@cache
def slab_kernel(name: str, dtype: torch.dtype, axis: int, **switches: bool) -> Kernel:
    """Return the kernel of the file ``slab_{name}.cpp``.

    Args:
        name: "move" (planes of the volume to the slab, or the transpose), "project" (the slab,
            added to the projections) or "backproject" (the transpose, which overwrites the slab).
        dtype: precision of the volume.
        axis: main axis.
        switches: ``ADDS``, whether to move to the volume; ``PARALLEL`` and ``CURVED``, see `Views`.
    """
    definitions = {"REAL": REAL[dtype], "SINGLE": dtype == torch.float32, "AXIS": axis}
    sizes = {"COLS": _COLS, "PLANES": _PLANES, "FRONT": _FRONT}
    return native_kernel(
        f"tomography/slab_{name}.cpp", definitions | sizes | switches, SlabArguments
    )


def project(volume: Tensor, table: Tensor, views: Views) -> Tensor:
    """Project ``(N, D, H, W) -> (N, V, R, C)``; both are contiguous."""
    projections = volume.new_zeros(volume.shape[0], table.shape[0], *views.panel)
    for axis, arguments in _each_slab(volume, projections, table, views):
        _move(arguments, axis, adds=False)
        # A task is a tile of columns of a view.
        tasks = arguments.listed * -(-arguments.columns // _COLS)
        _follow("project", tasks, arguments, axis, views)
    return projections


def backproject(projections: Tensor, table: Tensor, views: Views) -> Tensor:
    """Apply the transpose of `project`, ``(N, V, R, C) -> (N, D, H, W)``; both are contiguous."""
    volume = projections.new_zeros(projections.shape[0], *views.volume)
    for axis, arguments in _each_slab(volume, projections, table, views):
        # A task owns some planes of the slab.
        tasks = -(-arguments.slab_planes // arguments.block)
        _follow("backproject", tasks, arguments, axis, views)
        _move(arguments, axis, adds=True)
    return volume


def _each_slab(
    volume: Tensor, projections: Tensor, table: Tensor, views: Views
) -> Iterator[tuple[int, SlabArguments]]:
    """Yield the main axis and the kernels' arguments for every slab of every item."""
    if not volume.shape[0]:
        return
    shapes = [_slab_shape(volume, projections, axis) for axis in range(3)]
    # One piece of memory serves all axes; the zeros behind it are those at the end of the last line.
    memory = volume.new_empty(max(map(math.prod, shapes)) + _FRONT + 2)
    for axis, chosen in enumerate(views_by_axis(table, views)):
        if not chosen.numel():
            continue
        # `length` planes lie across the axis; they are taken slab by slab.
        slab = memory.zero_()[: math.prod(shapes[axis])].view(shapes[axis])
        length = int(volume.shape[3 - axis])
        for item, values in zip(volume, projections):
            for first in range(0, length, slab.shape[0]):
                check_time()
                planes = min(slab.shape[0], length - first)
                arguments = SlabArguments(
                    slab=slab,
                    volume=item,
                    projections=values,
                    table=table,
                    chosen=chosen,
                    listed=chosen.numel(),
                    stride=slab.shape[2],
                    slab_first=first,
                    slab_planes=planes,
                    block=min(_BLOCK, -(-planes // torch.get_num_threads())),
                    **views.sizes,
                )
                yield axis, arguments


def _slab_shape(volume: Tensor, projections: Tensor, axis: int) -> tuple[int, int, int]:
    """Return the shape (planes, lines + 4, stride) of a slab across the axis.

    It depends on the shapes of one item alone, so that nothing else can alter the order of the
    sums.
    """
    depth, height, width = volume.shape[1:]
    # Number of lines and of voxels in a line, for the main axes x, y and z.
    lines, line = ((height, depth), (width, depth), (height, width))[axis]
    # Whole cache lines of 16 numbers.
    stride = -(-(line + 2 + _FRONT) // 16) * 16
    plane_bytes = (lines + 4) * stride * volume.element_size()
    larger = max(volume[0].numel(), projections[0].numel()) * volume.element_size()
    fitting = int(max(_SHARE * larger, _SMALL)) // plane_bytes
    planes = max(1, min(_PLANES, int(volume.shape[3 - axis]), fitting))
    # Squares of 16 voxels are moved at once.
    return planes // 16 * 16 or planes, lines + 4, stride


def _move(arguments: SlabArguments, axis: int, adds: bool) -> None:
    """Copy the planes of a slab from the volume, or add them to it."""
    slab = arguments.slab
    kernel = slab_kernel("move", slab.dtype, axis, ADDS=adds)
    # A task moves 16 lines of every plane.
    work = float(arguments.slab_planes * slab.shape[1] * slab.shape[2])
    launch(kernel, -(-(slab.shape[1] - 4) // 16), arguments, work)


def _follow(name: str, tasks: int, arguments: SlabArguments, axis: int, views: Views) -> None:
    """Project or back-project one slab."""
    switches = {"PARALLEL": views.parallel, "CURVED": views.curved}
    kernel = slab_kernel(name, arguments.slab.dtype, axis, **switches)
    rays = float(arguments.listed) * (arguments.rows * arguments.columns)
    launch(kernel, tasks, arguments, rays * arguments.slab_planes)
