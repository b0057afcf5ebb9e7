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

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from common import data_folder, machine, verdict

import invtoolbox as it
from invtoolbox.datasets import open_views
from invtoolbox.jobs.photographs import GaussianModel, Stage, solve_in_stages, split_views
from invtoolbox.metrics import psnr

LOW, HIGH = (-1.3, -1.3, -1.0), (1.3, 1.3, 1.3)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=float, default=1e6, help="time limit of the whole run, by the clock"
    )
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--strategy", choices=("mcmc", "default"), default="mcmc")
    parser.add_argument("--start", type=int, default=8000, help="initial number of Gaussians")
    parser.add_argument("--most", type=int, default=16_000, help="largest number of Gaussians")
    parser.add_argument(
        "--iterations",
        type=int,
        default=8_000,
        help="iterations in which the steps of the means fall to a hundredth",
    )
    parser.add_argument("--degree", type=int, default=2)
    parser.add_argument("--similarity", type=float, default=0.0)
    parser.add_argument("--views", type=int, default=1, help="pictures per step")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two lines")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine(), flush=True)
    photographs = split_views(open_views(data_folder() / "nerf_lego_200"), 10)
    model = GaussianModel(
        LOW,
        HIGH,
        1.0,
        count=arguments.start,
        most=arguments.most,
        degree=arguments.degree,
        strategy=arguments.strategy,
        length=arguments.iterations,
        carve=not arguments.random,
        opacity=0.1 if arguments.random else 0.5,
    )
    solver = it.solvers.Adam(subset_size=arguments.views, epsilon=1e-15)
    found = solve_in_stages(
        model,
        photographs,
        [Stage(arguments.iterations)],
        solver,
        data_term=it.data_terms.Photometric(arguments.similarity),
        seconds=60 * arguments.minutes,
        every=arguments.every,
        watched=len(photographs.held),
        progress=sys.stderr.isatty(),
        folder=arguments.folder,
    )
    seconds = time.process_time()
    if arguments.folder is not None:  # seconds of earlier calls
        spent = arguments.folder / "processor.json"
        seconds += json.loads(spent.read_text()) if spent.exists() else 0.0
        spent.write_text(json.dumps(seconds))
    for sample in found.samples:
        print(f"{sample.iteration:6} {sample.seconds:6.0f} s  {sample.psnr:.2f} dB")
    quality, steps = (
        psnr(model.look(found.x, photographs.held.cameras).color, photographs.held.on(1.0)),
        found.reports[0].iterations,
    )
    print(
        f"{arguments.strategy}: {model.describe(found.x)}, {steps} iterations, {found.seconds:.0f} "
        f"s by the clock, {seconds:.0f} s of processor time, {1e3 * seconds / steps:.1f} ms each; "
        f"held out {float(quality.mean()):.2f} dB ({float(quality.min()):.2f} to "
        f"{float(quality.max()):.2f})",
        verdict(
            float(quality.mean()) >= 29 and seconds <= 1200, "29 dB in ten minutes of two cores"
        ),
    )


if __name__ == "__main__":
    main()
