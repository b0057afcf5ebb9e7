r"""Voxel-driven back-projection of 3D scans, the last step of Feldkamp's method.

Each voxel looks up, in every view, the place where it is seen on the panel, interpolates linearly between the four cells there (zero
outside the panel) and adds the value with its distance weight. Smoother than the transpose of the projector, which is why analytic
inversion uses it; it has a transpose of its own for automatic differentiation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.core.checks import check_input
from invtoolbox.kernels.launch import address, launch
from invtoolbox.kernels.linear_map import linear_map
from invtoolbox.kernels.tomography.voxel_kernels import voxel_kernel

#: A task of the CPU treats a block of the volume, (slices, rows, columns), whose sums stay close at hand.
_BLOCK = (4, 4, 16)
#: Slices of a block of upright lines; the one that fits the volume is taken.
_LINES = (64, 32, 8)


@dataclass(frozen=True, eq=False)
class VoxelViews:
    r"""Where the voxels of a volume (D, H, W) are seen on a panel (R, C), view by view.

    With a voxel's column ``c``, row ``r`` and slice ``s`` counted from the volume's centre, each of ``across``, ``along`` and ``depth`` is
    ``t_0 c + t_1 r + t_2 s + t_3``, with the first, second and third four of the table's numbers:

    - flat panel: column ``across / depth``, row ``along / depth``, weight ``1 / depth^2`` (a parallel beam has depth 1);
    - curved panel: with ``far = sqrt(across^2 + depth^2)``, column ``t_12 + t_13 arctan(across / depth)``, row ``t_14 + along / far``,
      weight ``1 / far^2``.

    Voxels at or behind the source (depth <= 0) are not seen.

    Attributes:
        table: t, shape (V, 15), float64.
        volume: (D, H, W).
        panel: (R, C).
        curved: which of the two.
    """

    table: Tensor
    volume: tuple[int, int, int]
    panel: tuple[int, int]
    curved: bool = False


def voxel_backproject(projections: Tensor, views: VoxelViews) -> Tensor:
    """Back-project ``(N, V, R, C) -> (N, D, H, W)``, differentiable in the projections.

    >>> table = torch.zeros(1, 15)
    >>> table[0, 0] = table[0, 3] = table[0, 11] = 1      # the voxel of column c is seen in row 0 and cell 1 + c
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
        projections,
        lambda y: _run(y, y.new_empty(y.shape[0], *views.volume), views, False),
        lambda x: _run(
            x.new_zeros(x.shape[0], views.table.shape[0], *views.panel), x.contiguous(), views, True
        ),
    )


def _run(projections: Tensor, volume: Tensor, views: VoxelViews, transpose: bool) -> Tensor:
    """Fill the volume from the projections or, transposed, the projections from the volume; returns what was filled."""
    projections = projections.contiguous()
    cuda = projections.device.type == "cuda"
    items, count = projections.shape[:2]
    depth, height, width = views.volume
    # On a CPU a line of voxels along the slices that is seen in one column is treated at once.
    upright = not (cuda or transpose) and float(views.table[:, [2, 10]].abs().max()) * depth < 1e-9
    if upright:
        projections = torch.nn.functional.pad(projections.transpose(2, 3), (1, 1, 1, 1))
    # On a GPU neighbouring threads read neighbouring cells: one voxel each, and the transpose with atomics, a row of voxels a task.
    block = (1, 1, 1) if cuda else _BLOCK
    if upright:
        block = (min(_LINES, key=lambda slices: -(-depth // slices) * (slices + 4)), 4, 4)
    atomic = cuda and not torch.are_deterministic_algorithms_enabled()
    table = views.table.to(projections).contiguous()
    filled, read = (projections, volume) if transpose else (volume, projections)
    if transpose:
        tasks = items * count * (depth * height if atomic else 1)
    else:
        tasks = items
        for size, step in zip((depth, height, width), block):
            tasks *= -(-size // step)
    kernel = voxel_kernel(projections.dtype, block, views.curved, transpose, upright, atomic)
    tensors = [filled, read, table]
    launch(
        kernel,
        tasks,
        [*map(address, tensors), depth, height, width, count, *views.panel],
        tensors,
        float(items * depth * height * width) * count,
    )
    return filled
