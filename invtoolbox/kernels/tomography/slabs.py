"""Projection and back-projection of volumes on the CPU, slab by slab. See `volume_slab_kernels`."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.kernels.launch import address, launch
from invtoolbox.kernels.tomography.rays import Views, views_by_axis
from invtoolbox.kernels.tomography.slab_backprojection import backproject_slab_kernel
from invtoolbox.kernels.tomography.slab_kernels import COLS, PLANES, TAIL, move_slab_kernel
from invtoolbox.kernels.tomography.slab_projection import project_slab_kernel

#: The share of the larger of volume and projections that a slab may take, and what it may take in any case (bytes).
_SHARE, _SMALL = 0.04, 4 * 2**20
#: Planes of a slab that one task of the back-projection owns, at most.
_BLOCK = 32


def project(volume: Tensor, table: Tensor, views: Views) -> Tensor:
    """``(N, D, H, W) -> (N, V, R, C)``; both contiguous."""
    projections = volume.new_zeros(volume.shape[0], table.shape[0], *views.panel)
    for axis, chosen in enumerate(views_by_axis(table, views)):
        if not chosen.numel() or not volume.shape[0]:
            continue
        slab, planes = _slab(volume, projections, axis)
        move = move_slab_kernel(volume.dtype, axis, False)
        kernel = project_slab_kernel(volume.dtype, views.parallel, views.curved, axis)
        tasks = chosen.numel() * -(-views.panel[1] // COLS)
        for item in range(volume.shape[0]):
            for first in range(0, _length(volume, axis), planes):
                here = min(planes, _length(volume, axis) - first)
                _move(move, slab, volume[item], first, here)
                tensors = [slab, projections[item], table, chosen]
                numbers = [
                    *views.panel,
                    *views.volume,
                    *views.voxel_size[::-1],
                    slab.shape[2],
                    first,
                    here,
                ]
                launch(
                    kernel,
                    tasks,
                    [*map(address, tensors), *numbers],
                    tensors,
                    float(chosen.numel()) * _cells(views) * here,
                )
    return projections


def backproject(projections: Tensor, table: Tensor, views: Views) -> Tensor:
    """The transpose, ``(N, V, R, C) -> (N, D, H, W)``; both contiguous."""
    volume = projections.new_zeros(projections.shape[0], *views.volume)
    for axis, chosen in enumerate(views_by_axis(table, views)):
        if not chosen.numel() or not volume.shape[0]:
            continue
        slab, planes = _slab(volume, projections, axis)
        move = move_slab_kernel(volume.dtype, axis, True)
        kernel = backproject_slab_kernel(volume.dtype, views.parallel, views.curved, axis)
        for item in range(volume.shape[0]):
            for first in range(0, _length(volume, axis), planes):
                here = min(planes, _length(volume, axis) - first)
                block = min(_BLOCK, -(-here // torch.get_num_threads()))
                tensors = [slab, projections[item], table, chosen]
                numbers = [
                    *views.panel,
                    *views.volume,
                    *views.voxel_size[::-1],
                    slab.shape[2],
                    first,
                    here,
                    chosen.numel(),
                    block,
                ]
                launch(
                    kernel,
                    -(-here // block),
                    [*map(address, tensors), *numbers],
                    tensors,
                    float(chosen.numel()) * _cells(views) * here,
                )
                _move(move, slab, volume[item], first, here)
    return volume


def _slab(volume: Tensor, projections: Tensor, axis: int) -> tuple[Tensor, int]:
    """An empty slab (planes, lines, stride) across the axis, and its number of planes.

    It depends on the shapes of one item alone, so that nothing else can alter the order of the sums.
    """
    depth, height, width = volume.shape[1:]
    lines, line = ((height, depth), (width, depth), (height, width))[axis]
    stride = -(-(line + 4 + TAIL) // 16) * 16
    plane_bytes = (lines + 4) * stride * volume.element_size()
    larger = max(volume[0].numel(), projections[0].numel()) * volume.element_size()
    planes = max(
        1, min(PLANES, _length(volume, axis), int(max(_SHARE * larger, _SMALL)) // plane_bytes)
    )
    return volume.new_zeros(planes, lines + 4, stride), planes


def _move(kernel: object, slab: Tensor, volume: Tensor, first: int, planes: int) -> None:
    tensors = [slab, volume]
    numbers = [*volume.shape, slab.shape[2], first, planes]
    launch(
        kernel,
        -(-(slab.shape[1] - 4) // 16),
        [*map(address, tensors), *numbers],
        tensors,
        float(planes * slab.shape[1] * slab.shape[2]),
    )


def _length(volume: Tensor, axis: int) -> int:
    return int(volume.shape[3 - axis])


def _cells(views: Views) -> int:
    return views.panel[0] * views.panel[1]
