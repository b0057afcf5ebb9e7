"""Deconvolution of microscopy: point spread functions, Richardson-Lucy, total variation, stacks on disk.

    python benchmarks/microscopy.py [models | recursion | bars | disk] [--peer PYTHON]

`bars`: the truth of the bars of DeconvolutionLab2, at a quarter of its size (32 x 64 x 64), is
convolved with its kernel (periodic), and Poisson noise is drawn for three peaks of the blurred
stack. The best iterate of Richardson-Lucy is chosen with the truth, of 2,000 plain and of 300
accelerated ones. PSNR refers to the largest value of the truth.

`models`: the point spread functions against ``scipy.integrate.quad`` in float64, and against
psfmodels, which is imported by another interpreter, ``--peer``. psfmodels averages over voxels and
interpolates between radii, so both average 9 x 9 points per voxel.

`recursion`: Richardson-Lucy against its recursion in float64, and against scikit-image.

`disk`: a stack of 128 x 512 x 512 from OME-Zarr to OME-Zarr in tiles, in a process of its own: its
memory; killed and resumed, its bits. The seams, on a stack that is also deconvolved as a whole.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from common import data_folder, machine, run_script, verdict
from torch import Tensor

import invtoolbox as it

PEAKS, SEEDS = (20, 200, 2000), range(5)
#: Aperture, immersion and sample.
OBJECTIVES = {"air": (0.5, 1.0, 1.33), "water": (1.1, 1.333, 1.38), "oil": (1.4, 1.515, 1.47)}
#: Planes, pixels, spacings and points per voxel of the comparison with psfmodels.
PLANES, SIDE, SPACING, FINER = 41, 65, (0.15, 0.05), 9


def bars() -> tuple[Tensor, it.operators.Blur3D]:
    """Return the truth ``(1, 1, slice, row, column)``, and the blur."""
    from skimage.io import imread

    folder = data_folder() / "microscopy_flowdec"
    truth, kernel = (
        torch.from_numpy(imread(folder / f"bars-25pct_{name}.tif").astype(np.float32))
        for name in ("actual", "kernel")
    )
    return truth[None, None], it.operators.Blur3D(kernel / kernel.sum(), truth.shape, "periodic")


def compare_bars() -> None:
    """Compare TV, whose weight is chosen without the truth, with iterates of Richardson-Lucy."""
    truth, A = bars()
    blurred = A(truth)
    names = ("best iterate", "best accelerated iterate", "stopped by itself", "TV without truth")
    print("bars 32 x 64 x 64, PSNR in dB, mean (least) of five seeds; TV is nonnegative by itself")
    print(f"| peak | {' | '.join(names)} | seconds of TV |\n|---|---|---|---|---|---|")
    everything = []
    for peak in PEAKS:
        x = truth * (peak / float(blurred.max()))
        rows = []
        for seed in SEEDS:
            generator = torch.Generator().manual_seed(seed)
            y = torch.poisson(A(x).clamp_min(0), generator=generator)
            problem = it.Problem(y, A, it.data_terms.Poisson())

            def psnr(image: Tensor, x: Tensor = x) -> float:
                return float(it.metrics.psnr(image, x, data_range=float(x.max())))

            settings: dict[str, Any] = {"progress": False, "check": False}
            own = it.solve(problem, solver=it.solvers.RichardsonLucy(), **settings)
            scores = [best_iterate(problem, psnr, accelerated) for accelerated in (False, True)]
            began = time.perf_counter()
            prior = it.priors.TotalVariation(periodic=True) + it.priors.NonNegative()
            tv = it.solve(problem, prior, **settings)
            seconds = time.perf_counter() - began
            rows.append((*scores, psnr(own.x), psnr(tv.x), seconds))
        columns = torch.tensor(rows).T
        cells = [f"{c.mean():.2f} ({c.min():.2f})" for c in columns[:4]]
        print(f"| {peak} | {' | '.join(cells)} | {columns[4].mean():.0f} |", flush=True)
        everything += rows
    best, accelerated, own_rule, ours, _ = torch.tensor(everything).T
    for name, other, bar in (
        (names[0], best, 0.0), (names[1], accelerated, 0.0), (names[2], own_rule, 1.0)
    ):  # fmt: skip
        gain = ours - other
        words = f"mean {gain.mean():+.2f} dB, worst {gain.min():+.2f} dB"
        print(
            f"TV over Richardson-Lucy, {name}: {words} {verdict(bool(gain.mean() >= bar), f'mean at least {bar:g} dB')}"
        )


def best_iterate(problem: it.Problem, psnr: Any, accelerated: bool) -> float:
    """Return the largest PSNR of 300 accelerated iterates, or of 2,000 plain ones."""
    scores: list[float] = []

    def note(progress: Any) -> None:
        if accelerated or progress.iteration % 5 == 0:
            scores.append(psnr(progress.x))

    solver = it.solvers.RichardsonLucy(tau=0, accelerated=accelerated)
    it.solve(
        problem, solver=solver, max_iterations=300 if accelerated else 2000, tolerance=0.0,
        callbacks=[note], progress=False, check=False,
    )  # fmt: skip
    return max(scores)


def main(
    part: Annotated[str, ("all", "models", "recursion", "bars", "disk")] = "all",
    /,
    peer: str | None = None,
) -> None:
    """Run the benchmark.

    Args:
        part: part to run.
        peer: interpreter of an environment with psfmodels.
    """
    torch.set_num_threads(1)
    print(f"{machine()}\n")
    if part in ("all", "bars"):
        compare_bars()


if __name__ == "__main__":
    run_script(main)
