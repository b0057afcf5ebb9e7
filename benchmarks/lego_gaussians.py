"""The NeRF scene 'lego' at 200 x 200 pixels as Gaussians, on a CPU: ten minutes of two cores.

    python benchmarks/lego_gaussians.py [--threads 2] [--strategy mcmc] [--start 8000]
                                        [--most 16000] [--iterations 8000] [--folder WORK]

90 pictures; every tenth view is held out (r_5, r_15, ...). White background. One stage, as in the
scene lego-gaussians, from Gaussians on the visual hull (``--random``: at random places of a box),
by Adam on one picture per step; the misfit is the mean modulus. Printed during the run: seconds by
the clock without evaluations, and the mean PSNR of the held-out views. Printed at the end:
processor time of all threads together, evaluations included. The bar applies to processor time,
which does not depend on other processes of the machine: ten minutes of two cores are 1200 s. With a
folder, the next call continues a run that ``--minutes`` ended.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Literal

import torch
from common import data_folder, machine, run_script, verdict

import invtoolbox as it
from invtoolbox.datasets import open_views
from invtoolbox.jobs.photographs import GaussianModel, Stage, solve_in_stages, split_views
from invtoolbox.metrics import psnr

LOW, HIGH = (-1.3, -1.3, -1.0), (1.3, 1.3, 1.3)


def main(
    minutes: float = 1e6,
    folder: Path | None = None,
    random: bool = False,
    threads: int = 2,
    strategy: Literal["mcmc", "default"] = "mcmc",
    start: int = 8000,
    most: int = 16_000,
    iterations: int = 8_000,
    degree: int = 2,
    similarity: float = 0.0,
    views: int = 1,
    every: float = 60.0,
) -> None:
    """Run the benchmark.

    Args:
        minutes: time limit of the whole run, by the clock
        start: initial number of Gaussians
        most: largest number of Gaussians
        iterations: iterations in which the steps of the means fall to a hundredth
        views: pictures per step
        every: seconds between two lines
    """
    torch.set_num_threads(threads)
    print(machine(), flush=True)
    photographs = split_views(open_views(data_folder() / "nerf_lego_200"), 10)
    model = GaussianModel(
        LOW,
        HIGH,
        1.0,
        count=start,
        most=most,
        degree=degree,
        strategy=strategy,
        length=iterations,
        carve=not random,
        opacity=0.1 if random else 0.5,
    )
    solver = it.solvers.Adam(subset_size=views, epsilon=1e-15)
    found = solve_in_stages(
        model,
        photographs,
        [Stage(iterations)],
        solver,
        data_term=it.data_terms.Photometric(similarity),
        seconds=60 * minutes,
        every=every,
        watched=len(photographs.held),
        progress=sys.stderr.isatty(),
        folder=folder,
    )
    seconds = time.process_time()
    if folder is not None:  # seconds of earlier calls
        spent = folder / "processor.json"
        seconds += json.loads(spent.read_text()) if spent.exists() else 0.0
        spent.write_text(json.dumps(seconds))
    for sample in found.samples:
        print(f"{sample.iteration:6} {sample.seconds:6.0f} s  {sample.psnr:.2f} dB")
    quality, steps = (
        psnr(model.look(found.x, photographs.held.cameras).color, photographs.held.on(1.0)),
        found.reports[0].iterations,
    )
    print(
        f"{strategy}: {model.describe(found.x)}, {steps} iterations, {found.seconds:.0f} "
        f"s by the clock, {seconds:.0f} s of processor time, {1e3 * seconds / steps:.1f} ms each; "
        f"held out {float(quality.mean()):.2f} dB ({float(quality.min()):.2f} to "
        f"{float(quality.max()):.2f})",
        verdict(
            float(quality.mean()) >= 29 and seconds <= 1200, "29 dB in ten minutes of two cores"
        ),
    )


if __name__ == "__main__":
    run_script(main)
