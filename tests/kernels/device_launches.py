"""Launches of the jobs and calls that reach every kernel of CUDA, recorded on the emulated device."""

from __future__ import annotations

from functools import cache

import torch

from tests.device_jobs import JOBS, deterministic
from tests.emulated_cuda import emulate_cuda
from tests.kernels.device_calls import CALLS
from tests.kernels.recorded_launches import Launch, Recorder

#: Jobs that launch kernels of this package.
JOBS_WITH_KERNELS = (
    "CT, fan beam, TV, PDHG",
    "CT, cone beam, Tikhonov, CG",
    "voxels",
    "Gaussians",
    "Gaussians that split",
    "deformation, ARAP",
)
TYPES = {"float32": torch.float32, "float64": torch.float64}
NAMES = (*JOBS_WITH_KERNELS, *(f"{name}, {dtype}" for name in CALLS for dtype in TYPES))


@cache
def record(name: str, ordered: bool) -> tuple[Launch, ...]:
    """Return the first launch of every variant of a job or a call.

    Args:
        name: a name of `NAMES`.
        ordered: whether torch's deterministic algorithms are demanded.
    """
    recorder = Recorder()
    with deterministic(ordered), emulate_cuda(recorder):
        if name in JOBS:
            JOBS[name]("cuda", 3)
        else:
            call, _, dtype = name.rpartition(", ")
            CALLS[call]("cuda", TYPES[dtype])
    return tuple(recorder.launches.values())
