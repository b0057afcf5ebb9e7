"""Every variant of a kernel that may run on CUDA, and the kernels that run on a CPU alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import torch

from invtoolbox.kernels.grids.eikonal import derivative_kernel, eikonal_kernel
from invtoolbox.kernels.native import Kernel
from invtoolbox.kernels.points.rotations import fit_kernel, gradient_kernel
from invtoolbox.kernels.rendering import voxel_rendering
from invtoolbox.kernels.rendering.raycast import raycast_kernel
from invtoolbox.kernels.rendering.splat_compositing import (
    Tasks,
    composite_kernel,
    contributor_kernel,
    sum_kernel,
)
from invtoolbox.kernels.rendering.splat_projection import projection_kernel
from invtoolbox.kernels.rendering.window_blur import blur_kernel
from invtoolbox.kernels.tomography.joseph import joseph_kernel
from invtoolbox.kernels.tomography.pixel_backprojection import pixel_kernel
from invtoolbox.kernels.tomography.volume import volume_kernel
from invtoolbox.kernels.tomography.voxel_backprojection import voxel_kernel

#: Files of kernels that only run on a CPU: CUDA takes another path.
CPU_ONLY = {
    "grids/grid_solve.cpp",
    "grids/gridding_gather.cpp",
    "grids/gridding_scatter.cpp",
    "points/event_votes.cpp",
    "points/event_votes_gradient.cpp",
    "rendering/splat_binning_count.cpp",
    "rendering/splat_binning_sort.cpp",
    "rendering/splat_compositing_tile.cpp",
    "rendering/splat_compositing_tile_gradient.cpp",
    "tomography/slab_move.cpp",
    "tomography/slab_project.cpp",
    "tomography/slab_backproject.cpp",
    "tomography/voxel_backproject_upright.cpp",
}

#: Definitions that are sizes. A kernel accepts any; the list below holds some of each.
SIZES = {"BASES", "CHANNELS", "FEATURES", "MEDIAN", "ROW"}

Maker = Callable[[], Kernel]
_BOTH = (False, True)
#: What a task of the compositing may be on CUDA.
TASKS_ON_CUDA: tuple[Tasks, ...] = ("pixel", "block")


def variants() -> Iterator[tuple[str, Maker]]:
    """Yield the name of a group and a function that returns the kernel, for every variant."""
    for real in (torch.float32, torch.float64):
        yield from _rendering(real)
        yield from _tomography(real)
        for make in (fit_kernel, gradient_kernel):
            yield "rotations", lambda make=make, real=real: make(real)
        yield "rays", lambda real=real: raycast_kernel(real)
        yield "blur", lambda real=real: blur_kernel(real, 11, cuda=True)
    for axes, name in product((2, 3), ("sweep", "march")):
        yield "travel times", lambda a=axes, n=name: eikonal_kernel(n, a)
    for axes, adjoint in product((2, 3), _BOTH):
        yield "travel times", lambda a=axes, b=adjoint: derivative_kernel(a, b)


def _rendering(real: torch.dtype) -> Iterator[tuple[str, Maker]]:
    for degree, *switches in product((-1, 0, 1, 2, 3), _BOTH, _BOTH, _BOTH, _BOTH):
        yield "projection", lambda d=degree, s=switches: projection_kernel(real, 3, d, *s, 4)
    for gradient, channels in product(_BOTH, (0, 1, 16)):
        yield (
            "projection",
            lambda c=channels, g=gradient: projection_kernel(real, c, -1, True, False, False, g, 4),
        )
    for gradient, degree in product(_BOTH, (-1, 0, 3)):
        yield (
            "projection",
            lambda d=degree, g=gradient: projection_kernel(
                real, 3, d, True, True, False, g, 4, True
            ),
        )
    shapes = (
        (3, None, False),
        (3, None, True),
        (1, 0, True),
        (4, 3, False),
        (7, 3, False),
        (9, 3, False),
        (32, None, False),
    )
    for shape, tasks, gradient in product(shapes, TASKS_ON_CUDA, _BOTH):
        yield (
            "compositing",
            lambda s=shape, t=tasks, g=gradient: composite_kernel(real, *s, t, g),
        )
    for tasks in TASKS_ON_CUDA:
        yield (
            "compositing",
            lambda t=tasks: composite_kernel(real, 32, None, False, t, True, True),
        )
    for number in (1, 4):
        yield "compositing", lambda n=number: contributor_kernel(real, 3, n)
    for features in (1, 3, 4, 5, 7, 9, 32):
        yield "compositing", lambda f=features: sum_kernel(real, f, 8)
    for bases, channels in ((1, 0), (1, 1), (1, 3), (4, 3), (9, 3)):
        yield (
            "voxels",
            lambda b=bases, c=channels: voxel_rendering.render_kernel(real, b, c),
        )
        for rays, atomic in product(_BOTH, _BOTH):
            yield (
                "voxels",
                lambda b=bases, c=channels, r=rays, a=atomic: voxel_rendering.gradient_kernel(
                    real, b, c, r, a
                ),
            )
    yield "voxels", lambda: voxel_rendering.render_kernel(real, 1, 3, True)
    for rays, atomic in product(_BOTH, _BOTH):
        yield (
            "voxels",
            lambda r=rays, a=atomic: voxel_rendering.gradient_kernel(real, 1, 3, r, a, True),
        )


def _tomography(real: torch.dtype) -> Iterator[tuple[str, Maker]]:
    for mode in range(3):
        yield "images", lambda m=mode: joseph_kernel("project", real, 1, m, GROUP=1)
    for mode, name in product(range(2), ("backproject", "scatter")):
        yield "images", lambda m=mode, n=name: joseph_kernel(n, real, 1, m, LINES=1)
    for curved in _BOTH:
        yield "images", lambda c=curved: pixel_kernel("backproject", real, 1, c, GROUP=1)
        yield "volumes", lambda c=curved: voxel_kernel("backproject", real, c, BZ=1, BY=1, BX=1)
        for atomic in _BOTH:
            yield "images", lambda c=curved, a=atomic: pixel_kernel("project", real, 1, c, ATOMIC=a)
            yield "volumes", lambda c=curved, a=atomic: voxel_kernel("project", real, c, ATOMIC=a)
    for scan in ((True, False), (False, False), (False, True)):
        yield "volumes", lambda s=scan: volume_kernel("geometry", real, *s)
        yield "volumes", lambda s=scan: volume_kernel("scatter", real, *s, fixed=True)
        for name, tangent in product(("project", "scatter", "backproject"), _BOTH):
            yield "volumes", lambda n=name, s=scan, t=tangent: volume_kernel(n, real, *s, t)
