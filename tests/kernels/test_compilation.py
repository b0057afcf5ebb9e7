"""The kernels of rendering and of points compile for CUDA, and importing them does not start Warp."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from invtoolbox.kernels.launch import Kernel, warp
from invtoolbox.kernels.points import distance_field, rotations
from invtoolbox.kernels.rendering import (
    raycast,
    splat_compositing,
    splat_projection,
    voxel_rendering,
)

F32, F64 = torch.float32, torch.float64


def project(dtype: torch.dtype, degree: int, extras: bool, gradient: bool) -> Kernel:
    return splat_projection.projection_kernel(
        dtype, 3 if degree >= 0 else 5, degree, extras, extras, extras, gradient
    )


def composite(dtype: torch.dtype, median: int | None, rays: bool, gradient: bool) -> Kernel:
    return splat_compositing.composite_kernel(dtype, 4, median, rays, True, gradient)


KERNELS: dict[str, list[Callable[[], Kernel]]] = {
    "projection": [
        lambda: project(F32, 3, True, False),
        lambda: project(F64, -1, False, False),
        lambda: project(F32, 3, True, True),
        lambda: project(F64, -1, False, True),
    ],
    "compositing": [
        lambda: composite(F32, 3, False, False),
        lambda: composite(F64, None, True, False),
        lambda: composite(F32, None, True, True),
        lambda: composite(F64, 3, False, True),
        lambda: splat_compositing.sum_kernel(F32, 4),
    ],
    "voxels": [
        lambda: voxel_rendering.render_kernel(F32, 4, 3),
        lambda: voxel_rendering.render_kernel(F64, 1, 0),
        lambda: voxel_rendering.gradient_kernel(F32, 4, 3, True, True),
        lambda: voxel_rendering.gradient_kernel(F64, 1, 0, False, False),
    ],
    "rays": [lambda: raycast.raycast_kernel(F32), lambda: raycast.raycast_kernel(F64)],
    "distances": [
        lambda: distance_field.sweep_kernel(0, 2),
        lambda: distance_field.sweep_kernel(2, 2),
        lambda: distance_field.nearby_kernel(3, True),
        lambda: distance_field.interpolation_kernel(F32),
        lambda: distance_field.interpolation_kernel(F64),
    ],
    "rotations": [lambda: rotations.fit_kernel(F32), lambda: rotations.gradient_kernel(F64)],
}


@pytest.mark.parametrize("group", KERNELS)
def test_kernels_compile_for_cuda(group: str, tmp_path: Path) -> None:
    """NVIDIA's compiler, which Warp brings along, needs no GPU."""
    wp = warp()
    if not hasattr(wp, "compile_aot_module") or not wp._src.context.runtime.is_cuda_enabled:
        pytest.skip("this Warp was built without CUDA")
    for make in KERNELS[group]:
        wp.compile_aot_module(make().entry.module, arch=75, module_dir=tmp_path, use_ptx=True)
    assert len(list(tmp_path.glob("*.ptx"))) == len(KERNELS[group])


def test_importing_kernels_does_not_start_warp() -> None:
    modules = sorted(
        f"invtoolbox.kernels.{path.parent.name}.{path.stem}"
        for folder in ("points", "rendering")
        for path in (Path(distance_field.__file__).parents[1] / folder).glob("[a-z]*.py")
    )
    code = f"import sys, {', '.join(modules)}; print('warp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(modules) > 8 and done.stdout.strip() == "False"
