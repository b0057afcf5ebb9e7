"""Deblurring of large color photographs by tiles: peak memory and seconds against the number of pixels.

    python benchmarks/large_pictures.py [--iterations 100]

A photograph is enlarged to 3 and 12 megapixels, blurred by a Gaussian of 2 pixels, written as PNG,
and deblurred by ``invtoolbox deblur`` in a process of its own, which gets nothing but the picture
and the kernel. The number of iterations per tile may be limited; the seconds per pixel are compared
for the same limit, on the clock and of the processor, which other work on the machine delays less.
Prints the largest resident memory of the process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import torch
from common import machine, run_script, verdict

import invtoolbox as it
from invtoolbox.jobs.images.kernels import gaussian_kernel

SIZES = {3: (1500, 2000), 12: (3000, 4000)}


def write_photograph(path: Path, shape: tuple[int, int]) -> None:
    small = it.datasets.photograph("coffee")
    truth = torch.nn.functional.interpolate(small, shape, mode="bicubic").clamp(0, 1)
    A = it.operators.Blur(gaussian_kernel(2.0, "kernel"), shape)
    noise = 0.01 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    it.datasets.write_png(path, (A(truth) + noise).clamp(0, 1)[0], (0.0, 1.0))


def deblur(path: Path, iterations: int | None) -> tuple[float, float, float]:
    """Return the seconds, the processor's seconds, and the largest memory in GB of one command."""
    limit = [] if iterations is None else ["--max-iterations", str(iterations)]
    command = [sys.executable, "-m", "invtoolbox", "deblur", str(path), "--kernel", "gaussian:2"]
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, *limit, "--output", str(path.with_name("sharp.png")), "--overwrite"],
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"invtoolbox deblur ended with status {status}")
    processor = usage.ru_utime + usage.ru_stime
    return time.perf_counter() - began, processor, usage.ru_maxrss * 1024 / 1e9


def main(iterations: int | None = None) -> None:
    """Run the benchmark.

    Args:
        iterations: largest number of iterations per tile
    """
    print(machine())
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for megapixels, shape in SIZES.items():
            path = Path(folder) / f"photograph-{megapixels}.png"
            # In a process of its own: a child begins with the largest memory of its parent.
            writer = get_context("spawn").Process(target=write_photograph, args=(path, shape))
            writer.start()
            writer.join()
            found[megapixels] = deblur(path, iterations)
            seconds, processor, memory = found[megapixels]
            limit = "" if iterations is None else f", at most {iterations} iterations per tile"
            print(
                f"{megapixels} megapixels: {seconds:.0f} s, {processor:.0f} s of the processor, "
                f"{memory:.2f} GB{limit}",
                flush=True,
            )
    print(f"12 megapixels {verdict(found[12][2] < 2, 'under 2 GB')}")
    seconds, processor = (found[12][k] / found[3][k] for k in range(2))
    print(
        f"12 over 3 megapixels: {seconds:.2f} times the seconds, {processor:.2f} times those of the "
        f"processor {verdict(processor <= 4.6, 'at most 4.6')}"
    )


if __name__ == "__main__":
    run_script(main)
