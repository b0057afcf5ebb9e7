"""Cone beam in 3D: seconds per projection, share of the arithmetic limit, growth, and memory.

The share: an *interpolation* is one ray on one plane of voxels inside the volume, bilinear between
four of them. It counts as 10 floating-point operations (three linear interpolations of a
subtraction and a fused multiply-add, and the sum), although the kernels need fewer when
neighbouring rays share them. The set-up of rays, their positions and memory accesses are not
counted. The limit is the rate of fused multiply-adds in registers (two operations each) that a
plain loop reaches on the same number of threads.

    python benchmarks/cone.py [--threads 2] [--rounds 5] [--no-memory]
"""

import math
import os
import subprocess
import sys
import time

import torch
from common import alternating, machine, run_script, verdict

from invtoolbox.kernels.launch import address, launch, warp
from invtoolbox.operators import ConeBeam

OPERATIONS = 10
_FUSED = """
#pragma clang fp contract(fast)
        float sums[256];
        float* out = (float*)values + 256 * task;
        for (int k = 0; k < 256; ++k)
            sums[k] = out[k];
        const float factor = out[0], addend = out[1];
        for (int n = 0; n < repeats; ++n)
            for (int k = 0; k < 256; ++k)
                sums[k] = sums[k] * factor + addend;
        for (int k = 0; k < 256; ++k)
            out[k] = sums[k];
"""


def scan(size: int, tilt: float = 0.0) -> ConeBeam:
    """Create a scan of size^3 voxels of unit length.

    It has a full turn of 120 / 128 size views of (1.5 size)^2 cells, magnified 1.5 times.
    """
    views, cells = size * 120 // 128, 3 * size // 2
    return ConeBeam(
        (size,) * 3,
        torch.arange(views, dtype=torch.float64) * 2 * math.pi / views,
        (cells, cells),
        source_origin=3.0 * size,
        source_detector=4.5 * size,
        detector_spacing=1.5,
        tilt=tilt,
    )


def interpolations(A: ConeBeam) -> float:
    """Count the planes inside the volume, summed over the rays.

    The count is the projections of a volume of ones divided by each ray's length between planes.
    """
    size, (views, rows, columns) = A.domain_shape[-1], A.range_shape[-3:]
    y = A(torch.ones(1, *A.domain_shape))[0, 0]
    angle = torch.arange(views)[:, None, None] * 2 * math.pi / views
    across = 1.5 * (torch.arange(columns) - (columns - 1) / 2)
    up = 1.5 * (torch.arange(rows)[:, None] - (rows - 1) / 2)
    dx, dy = (
        across * angle.cos() - 4.5 * size * angle.sin(),
        across * angle.sin() + 4.5 * size * angle.cos(),
    )
    length = (dx**2 + dy**2 + up**2).sqrt() / torch.maximum(
        torch.maximum(dx.abs(), dy.abs()), up.abs()
    )
    return float((y / length).sum(dtype=torch.float64))


def peak() -> float:
    """Measure the rate of fused multiply-adds in registers, on all threads.

    The unit is floating-point operations per second.
    """
    wp = warp()

    @wp.func_native(snippet=_FUSED)
    def run_task(values: wp.uint64, repeats: int, task: int): ...

    @wp.kernel(module="unique", enable_backward=False)
    def kernel(values: wp.uint64, repeats: int, first_task: int):
        run_task(values, repeats, wp.tid() + first_task)

    tasks, repeats = 8 * torch.get_num_threads(), 200_000
    values = torch.full((tasks, 256), 0.5)

    def run() -> None:
        launch(kernel, tasks, [address(values), repeats], [values], 1e9)

    best = math.inf
    for _ in range(5):
        began = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - began)
    return 2.0 * 256 * repeats * tasks / best


def timed(A: ConeBeam, rounds: int) -> tuple[float, float]:
    x, y = torch.rand(1, *A.domain_shape), torch.rand(1, *A.range_shape)
    times = alternating({"forward": lambda: A(x), "adjoint": lambda: A.adjoint(y)}, rounds)
    return times["forward"], times["adjoint"]


def memory(threads: int) -> tuple[float, float, float]:
    """Measure the peak memory of a fresh process at 256^3 with 240 views of 384x384.

    Returns the MB of the projection and of the back-projection beyond volume and projections, and
    the MB of the larger of volume and projections.
    """
    code = f"""
import resource, sys, torch
sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r})
from cone import scan
torch.set_num_threads({threads})
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
small = scan(16)
small.adjoint(small(torch.rand(1, *small.domain_shape)))
A = scan(256)
for name in ("forward", "adjoint"):
    value = torch.rand(1, *(A.domain_shape if name == "forward" else A.range_shape))
    before = peak()
    result = A(value) if name == "forward" else A.adjoint(value)
    print(peak() - before - result.numel() * 4 / 2**20)
print(max(value.numel(), result.numel()) * 4 / 2**20)
"""
    # One process per direction: in a single process the memory that the first direction frees would
    # hide the peak of the second.
    parts = [
        code.replace('("forward", "adjoint")', f'("{name}",)') for name in ("forward", "adjoint")
    ]
    lines = [
        subprocess.run(
            [sys.executable, "-c", part], capture_output=True, text=True, check=True
        ).stdout.split()
        for part in parts
    ]
    return float(lines[0][0]), float(lines[1][0]), float(lines[1][1])


def main(threads: int = os.cpu_count(), rounds: int = 5, memory_: bool = True) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    print(machine())
    if memory_:
        # First: on Linux a process inherits the peak of its parent.
        *extra, larger = memory(threads)
        share = max(extra) / larger
        print(
            f"256^3, 240 views of 384x384: forward {extra[0]:.1f} MB, adjoint {extra[1]:.1f} MB "
            f"beyond volume and projections, {share:.1%} of the larger ({larger:.0f} MB) "
            f"{verdict(share < 0.1, 'under 10 %')}"
        )

    A = scan(128)
    began = time.perf_counter()
    A.adjoint(A(torch.rand(1, *A.domain_shape)))
    print(
        f"first call of both: {time.perf_counter() - began:.2f} s (compiles the kernels where this "
        "machine has not yet)"
    )
    forward, adjoint = timed(A, rounds)
    count, limit = interpolations(A), peak()
    print(
        f"128^3, 120 views of 192x192: forward {forward:.3f} s, adjoint {adjoint:.3f} s, both "
        f"{forward + adjoint:.3f} s"
    )
    print(
        f"  {count:.3g} interpolations of {OPERATIONS} operations; limit {limit / 1e9:.0f} "
        f"Gflop/s; share of the limit: forward {OPERATIONS * count / limit / forward:.1%}, adjoint "
        f"{OPERATIONS * count / limit / adjoint:.1%}"
    )
    slow = timed(scan(128, tilt=0.3), rounds)
    print(
        f"  the same, tilted by 0.3 (no rows along z): forward {slow[0]:.3f} s, adjoint "
        f"{slow[1]:.3f} s"
    )

    sizes = (32, 64, 128, 192)
    times = {
        size: sum((forward, adjoint) if size == 128 else timed(scan(size), rounds))
        for size in sizes
    }
    print("size   both       exponent in the size (4 is proportional to the work)")
    for last, size in zip((None, *sizes), sizes):
        exponent = (
            f"{math.log(times[size] / times[last]) / math.log(size / last):.2f}" if last else ""
        )
        print(f"{size:4d} {times[size]:9.4f} s  {exponent}")
    print(f"load average {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    run_script(main)
