"""Cone beam in 3D: processor time per projection, share of the arithmetic limit, growth, and memory.

The share: an *interpolation* is one ray on one plane of voxels inside the volume, bilinear between
four of them. It counts as 10 floating-point operations (three linear interpolations of a
subtraction and a fused multiply-add, and the sum), although the kernels need fewer when
neighbouring rays share them. The set-up of rays, their positions and memory accesses are not
counted. The limit is the rate of fused multiply-adds in registers (two operations each) that a
plain loop reaches on one thread. The exponent is that of the processor time in the side between
neighbouring sizes; 4 is proportional to the work. All on one thread.

    python benchmarks/cone.py [--sizes 128 192 256 384] [--rounds 3] [--no-memory]
"""

import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence

import torch
from common import alternating, machine, run_script, verdict

from invtoolbox.kernels.native import address, warp
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
    across = 1.5 * (torch.arange(columns) - (columns - 1) / 2)
    up = 1.5 * (torch.arange(rows)[:, None] - (rows - 1) / 2)
    total = 0.0
    for view in range(views):
        sine, cosine = (f(view * 2 * math.pi / views) for f in (math.sin, math.cos))
        dx, dy = across * cosine - 4.5 * size * sine, across * sine + 4.5 * size * cosine
        longest = torch.maximum(torch.maximum(dx.abs(), dy.abs()), up.abs())
        length = (dx**2 + dy**2 + up**2).sqrt() / longest
        total += float((y[view] / length).sum(dtype=torch.float64))
    return total


def peak() -> float:
    """Measure the rate of fused multiply-adds in registers, operations per second of processor time."""
    wp = warp()

    @wp.func_native(snippet=_FUSED)
    def run_task(values: wp.uint64, repeats: int, task: int): ...

    @wp.kernel(module="unique", enable_backward=False)
    def kernel(values: wp.uint64, repeats: int):
        run_task(values, repeats, wp.tid())

    tasks, repeats = 8, 200_000
    values = torch.full((tasks, 256), 0.5)
    inputs = [address(values), repeats]
    times = []
    for _ in range(6):
        began = time.process_time()
        wp.launch(kernel, dim=tasks, inputs=inputs, device="cpu")
        times.append(time.process_time() - began)
    # The first launch compiles.
    return 2.0 * 256 * repeats * tasks / min(times[1:])


def timed(A: ConeBeam, rounds: int) -> tuple[float, float]:
    x, y = torch.rand(1, *A.domain_shape), torch.rand(1, *A.range_shape)
    calls = {"forward": lambda: A(x), "adjoint": lambda: A.adjoint(y)}
    times = alternating(calls, rounds, time.process_time)
    return times["forward"], times["adjoint"]


def memory() -> tuple[float, float, float]:
    """Measure the peak memory of a fresh process at 256^3 with 240 views of 384x384.

    Returns the MB of the projection and of the back-projection beyond volume and projections, and
    the MB of the larger of volume and projections.
    """
    code = f"""
import resource, sys, torch
sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r})
from cone import scan
torch.set_num_threads(1)
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


def main(
    sizes: Sequence[int] = (128, 192, 256, 384), rounds: int = 3, memory_: bool = True
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(machine())
    if memory_:
        # First: on Linux a process inherits the peak of its parent.
        *extra, larger = memory()
        share = max(extra) / larger
        print(
            f"256^3, 240 views of 384x384: forward {extra[0]:.1f} MB, adjoint {extra[1]:.1f} MB "
            f"beyond volume and projections, {share:.1%} of the larger ({larger:.0f} MB) "
            f"{verdict(share < 0.1, 'under 10 %')}"
        )
    limit = peak()
    print(f"limit {limit / 1e9:.0f} Gflop/s; {OPERATIONS} operations per interpolation")
    print("side  interpolations  way        time     share  exponent")
    last: dict[str, float] = {}
    least, steepest = math.inf, 0.0
    for before, size in zip((None, *sizes), sizes):
        A = scan(size)
        count = interpolations(A)
        for way, seconds in zip(("forward", "adjoint"), timed(A, rounds)):
            share = OPERATIONS * count / limit / seconds
            least = min(least, share)
            line = f"{size:4d}  {count:14.3g}  {way}  {seconds:8.3f} s  {share:6.1%}"
            if before:
                exponent = math.log(seconds / last[way]) / math.log(size / before)
                steepest = max(steepest, exponent)
                line += f"  {exponent:.2f}"
            print(line, flush=True)
            last[way] = seconds
    print(verdict(least >= 0.15, "share at least 15 %"))
    print(verdict(steepest <= 4.1, "exponent at most 4.1"))
    tilted = timed(scan(128, tilt=0.3), rounds)
    print(
        f"128^3 tilted by 0.3 (no rows along z): forward {tilted[0]:.3f} s, adjoint {tilted[1]:.3f} s"
    )
    print(f"load average {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    run_script(main)
