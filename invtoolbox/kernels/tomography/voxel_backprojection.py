r"""Voxel-driven back-projection of 3D scans, the last step of Feldkamp's method.

For each voxel and view, the kernel computes the place where the voxel is seen on the panel,
interpolates linearly between the four cells there (zero outside the panel) and adds the value with
its distance weight. The result is smoother than the transpose of the projector, which is why
analytic inversion uses it. Its own transpose serves automatic differentiation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from invtoolbox.core.checks import check_input
from invtoolbox.kernels.linear_map import linear_map
from invtoolbox.kernels.native import REAL, Kernel, launch, native_kernel

#: Block of the volume that a task of the CPU treats, (slices, rows, columns); its sums stay in the
#: nearest cache.
_BLOCK = (4, 4, 16)
#: Block of upright lines, (most slices, rows, columns), and zeros behind the rows of a panel, of
#: which vectors are read.
_UPRIGHT, _TAIL = (128, 8, 8), 36


@dataclass(frozen=True, eq=False)
class VoxelViews:
    r"""Places where the voxels of a volume (D, H, W) are seen on a panel (R, C), view by view.

    With a voxel's column ``c``, row ``r`` and slice ``s`` counted from the volume's centre, each of
    ``across``, ``along`` and ``depth`` is ``t_0 c + t_1 r + t_2 s + t_3``, with the first, second
    and third four of the table's numbers:

    - flat panel: column ``across / depth``, row ``along / depth``, weight ``1 / depth^2`` (a
      parallel beam has depth 1);
    - curved panel: with ``far = sqrt(across^2 + depth^2)``, column
      ``t_12 + t_13 arctan(across / depth)``, row ``t_14 + along / far``, weight ``1 / far^2``.

    Voxels at or behind the source (depth <= 0) are not seen.

    Attributes:
        table: the numbers t of every view, shape (V, 15), float64.
        volume: (D, H, W).
        panel: (R, C).
        curved: whether the panel is curved.
    """

    table: Tensor
    volume: tuple[int, int, int]
    panel: tuple[int, int]
    curved: bool = False


@dataclass
class VoxelArguments:
    """Arguments of the kernels.

    Attributes:
        projections: (items, V, R, C), or (items, V, C + 2, stride) with a border of zeros for the
            upright kernel.
        volume: (items, D, H, W).
        table: `VoxelViews.table` in the precision of the volume.
        depth, height, width, views, rows, columns: the sizes D, H, W, V, R and C.
        stride: length of a column of an upright panel.
        block: slices of a task of the upright kernel.
    """

    projections: Tensor
    volume: Tensor
    table: Tensor
    depth: int
    height: int
    width: int
    views: int
    rows: int
    columns: int
    stride: int
    block: int


@cache
def voxel_kernel(name: str, dtype: torch.dtype, curved: bool, **further: int) -> Kernel:
    """Return the kernel of the file ``voxel_{name}.cpp``.

    Args:
        name: "backproject", "backproject_upright" or "project".
        dtype: precision of the volume.
        curved: see `VoxelViews`.
        further: further definitions, see the files.
    """
    definitions = {"REAL": REAL[dtype], "CURVED": curved} | further
    return native_kernel(f"tomography/voxel_{name}.cpp", definitions, VoxelArguments)


def voxel_backproject(projections: Tensor, views: VoxelViews) -> Tensor:
    """Back-project ``(N, V, R, C) -> (N, D, H, W)``, differentiably in the projections.

    Raises:
        InputError: wrong shape or dtype.

    >>> table = torch.zeros(1, 15)
    >>> table[0, 0] = table[0, 3] = table[0, 11] = 1  # column c is seen in row 0 and cell 1 + c
    >>> voxel_backproject(torch.tensor([[[[1.0, 2.0, 4.0]]]]), VoxelViews(table, (1, 1, 5), (1, 3)))
    tensor([[[[0., 1., 2., 4., 0.]]]])
    """
    check_input(
        projections,
        (views.table.shape[0], *views.panel),
        "back-projection takes projections",
        "view, row, column",
        False,
    )
    return linear_map(
        projections, lambda y: _backproject(y, views), lambda x: _project(x.contiguous(), views)
    )


def _backproject(projections: Tensor, views: VoxelViews) -> Tensor:
    volume = projections.new_empty(projections.shape[0], *views.volume)
    depth = views.volume[0]
    cuda = projections.device.type == "cuda"
    # On a CPU a line of voxels along the slices that is seen in one column is treated at once.
    upright = not cuda and float(views.table[:, [2, 10]].abs().max()) * depth < 1e-9
    # On a GPU neighbouring threads read neighbouring cells: one voxel each.
    block = (1, 1, 1) if cuda else _BLOCK
    stride = views.panel[0]
    sizes = dict(zip(("BZ", "BY", "BX"), block))
    if upright:
        sizes = dict(zip(("BZ", "BY", "BX"), _UPRIGHT))
        sizes["SINGLE"] = volume.dtype == torch.float32
        # With a border of zeros, cells outside of the panel need no test.
        projections = torch.nn.functional.pad(projections.transpose(2, 3), (1, _TAIL, 1, 1))
        stride = projections.shape[3]
        # Blocks of equal size, of whole vectors.
        slices = -(-depth // -(-depth // _UPRIGHT[0]))
        block = (-(-slices // 16) * 16, *_UPRIGHT[1:])
    tasks = math.prod(-(-size // step) for size, step in zip(views.volume, block))
    name = "backproject_upright" if upright else "backproject"
    kernel = voxel_kernel(name, volume.dtype, views.curved, **sizes)
    _launch(kernel, tasks, projections.contiguous(), volume, views, stride=stride, block=block[0])
    return volume


def _project(volume: Tensor, views: VoxelViews) -> Tensor:
    count, (depth, height, _) = views.table.shape[0], views.volume
    projections = volume.new_zeros(volume.shape[0], count, *views.panel)
    # With atomic additions, a task is a row of voxels in a view.
    atomic = volume.device.type == "cuda" and not torch.are_deterministic_algorithms_enabled()
    # Otherwise a task is a view, to whose panel no other task writes.
    kernel = voxel_kernel("project", volume.dtype, views.curved, ATOMIC=atomic)
    _launch(kernel, count * (depth * height if atomic else 1), projections, volume, views)
    return projections


def _launch(
    kernel: Kernel,
    tasks: int,
    projections: Tensor,
    volume: Tensor,
    views: VoxelViews,
    stride: int = 0,
    block: int = 0,
) -> None:
    """Run a kernel with ``tasks`` tasks per item."""
    table = views.table.to(projections).contiguous()
    arguments = VoxelArguments(
        projections, volume, table, *views.volume, table.shape[0], *views.panel, stride, block
    )
    launch(kernel, tasks * volume.shape[0], arguments, float(volume.numel()) * table.shape[0])
