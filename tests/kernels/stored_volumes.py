"""Launches of the projection of volumes with the volume in half precision, and sums in float32."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from invtoolbox.kernels.native import native_kernel
from invtoolbox.kernels.tomography.volume import VolumeArguments
from invtoolbox.operators.tomography.scan_3d import Scan3D
from tests.emulated_cuda import emulate_cuda
from tests.kernels.recorded_launches import Launch, Recorder

#: The C++ types of voxels.
STORED = {torch.float16: "wp::half", torch.float32: "float"}


def projection_launch(operator: Scan3D, volume: Tensor, stored: torch.dtype) -> Launch:
    """Return the launch of the projection of a float32 volume that is stored in another precision.

    Args:
        operator: scan of volumes.
        volume: the volume, ``(batch, 1, depth, height, width)``.
        stored: a key of `STORED`.
    """
    recorder = Recorder()
    with emulate_cuda(recorder):
        operator.to("cuda")(volume.to("cuda"))
    (launch,) = (v for v in recorder.launches.values() if "_project" in v.kernel.file)
    definitions = {**launch.kernel.definitions, "STORED": STORED[stored]}
    kernel = native_kernel(launch.kernel.file, definitions, VolumeArguments)
    halved = launch.arguments["volume"].to(stored)
    return replace(launch, kernel=kernel, arguments={**launch.arguments, "volume": halved})
