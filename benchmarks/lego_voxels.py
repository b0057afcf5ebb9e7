"""The NeRF scene 'lego' at 200 x 200 pixels as voxels, coarse to fine, on a CPU: ten minutes.

    python benchmarks/lego_voxels.py [--minutes 10] [--threads 2] [--degree 1]
                                     [--stages 48:500 96:600 128:inf]

90 pictures; every tenth view is held out (r_5, r_15, ...). White background. The stages are those
of the scene lego-voxels: each is one solve from the last result, on a finer grid without the empty
cells; ``inf`` iterations end with the time. Printed for every stage: nodes, seconds per iteration,
and the mean PSNR of the held-out views, whose evaluation does not count as time. The scene is kept
in build/lego_voxels.safetensors; lego_8_views.py uses its depths as an oracle.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from common import data_folder, machine, run_script, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.datasets import PosedPictures, open_views, read_voxels, write_voxels
from invtoolbox.geometry.voxels import Voxels
from invtoolbox.jobs.photographs import Stage, VoxelModel, solve_in_stages, split_views
from invtoolbox.jobs.photographs.stages import StageReport
from invtoolbox.metrics import psnr
from invtoolbox.priors import VoxelVariation

#: The file of the last stage.
MODEL = Path(__file__).resolve().parents[1] / "build" / "lego_voxels.safetensors"
LOW, HIGH = (-0.75, -1.25, -0.65), (0.75, 1.25, 1.1)
RENDERER = {"least_alpha": 1e-4, "stop": 1e-3}


def renderer(pictures: PosedPictures) -> it.operators.VoxelRenderer:
    return it.operators.VoxelRenderer(pictures.cameras, background=1.0, **RENDERER)


def held_out_psnr(x: Voxels, pictures: PosedPictures) -> Tensor:
    """Compute the PSNR of each picture."""
    A = renderer(pictures)
    with torch.no_grad():
        seen = A.pictures(A(x))[0].clamp(0, 1)
    return psnr(seen, pictures.on(1.0))


def kept() -> Voxels:
    """Read the scene of the last run of this script."""
    if not MODEL.is_file():
        raise SystemExit(f"no scene of 90 pictures at {MODEL}; run benchmarks/lego_voxels.py first")
    return read_voxels(MODEL)


def told(report: StageReport) -> None:
    print(
        f"{report.prior}: {report.iterations} iterations, "
        f"{report.seconds / max(1, report.iterations):.3f} s each, held out {report.psnr:.2f} dB",
        flush=True,
    )


def main(
    minutes: float = 10.0,
    threads: int = 2,
    degree: int = 1,
    rays: int = 8192,
    rate: float = 0.1,
    decay: float = 0.01,
    variation: tuple[float, float] = (1e-5, 1e-5),
    stages: Sequence[str] = ("48:500", "96:600", "128:inf"),
) -> None:
    """Run the benchmark.

    Args:
        variation: weights of density and color, relative to the mean squared error
    """
    torch.set_num_threads(threads)
    print(machine(), flush=True)
    photographs = split_views(open_views(data_folder() / "nerf_lego_200"), 10)
    plan = [stage.split(":") for stage in stages]
    stages = [
        Stage(
            None if steps == "inf" else int(steps),
            prior={"resolution": int(nodes)},
            solver={"decay": decay} if steps == "inf" else {},
        )
        for nodes, steps in plan
    ]
    model = VoxelModel(LOW, HIGH, 1.0, RENDERER, resolution=128, degree=degree)
    solver = it.solvers.Adam(learning_rate=rate, beta_square=0.99, subset_size=rays)
    density, color = variation
    found = solve_in_stages(
        model,
        photographs,
        stages,
        solver,
        density * VoxelVariation("density") + color * VoxelVariation("color"),
        seconds=60 * minutes,
        every=float("inf"),
        watched=len(photographs.held),
        report=told,
        progress=sys.stderr.isatty(),
    )
    MODEL.parent.mkdir(exist_ok=True)
    write_voxels(MODEL, found.x, overwrite=True)
    quality = held_out_psnr(found.x, photographs.held)
    print(
        f"{float(quality.mean()):.2f} dB ({float(quality.min()):.2f} to "
        f"{float(quality.max()):.2f}) after {found.seconds:.0f} s",
        verdict(float(quality.mean()) >= 29, "29 dB in 10 minutes on two cores"),
    )


if __name__ == "__main__":
    run_script(main)
