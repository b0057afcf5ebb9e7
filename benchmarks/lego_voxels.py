"""The NeRF scene 'lego' at 200 x 200 pixels in a grid of voxels, coarse to fine, on a CPU: ten minutes for 90 pictures.

    python benchmarks/lego_voxels.py [--minutes 10] [--threads 2] [--degree 1] [--stages 48:600 96:900 128:inf]

Every tenth view is held out (r_0, r_10, ...). White background. Each stage is one solve from the last one's answer, on a finer grid
without the cells that turned out to be empty; ``inf`` iterations end with the time. Printed for every stage: nodes, seconds an
iteration, and the mean of the PSNR of the held-out views. The scene is kept in build/lego_voxels.safetensors, whose depths serve
lego_8_views.py as an oracle.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from common import data_folder, machine, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.datasets.cameras_blender import PosedPictures, open_blender
from invtoolbox.metrics import psnr
from invtoolbox.priors import VoxelGrid, VoxelVariation
from invtoolbox.scenes.voxels import Voxels, VoxelSpace

#: What is kept of the last stage.
MODEL = Path(__file__).resolve().parents[1] / "build" / "lego_voxels.safetensors"
LOW, HIGH = (-0.75, -1.25, -0.65), (0.75, 1.25, 1.1)


def views() -> tuple[PosedPictures, PosedPictures]:
    """Those to train from, and those held out."""
    pictures = open_blender(data_folder() / "nerf_lego_200" / "transforms_train.json")
    held = torch.tensor([int(Path(name).stem.removeprefix("r_")) % 10 == 0 for name in pictures.cameras.names])
    return pictures[~held], pictures[held]


def renderer(pictures: PosedPictures) -> it.operators.VoxelRenderer:
    return it.operators.VoxelRenderer(pictures.cameras, background=1.0, least_alpha=1e-4, stop=1e-3)


def held_out_psnr(x: Voxels, pictures: PosedPictures) -> Tensor:
    """Of each picture."""
    A = renderer(pictures)
    with torch.no_grad():
        seen = A.pictures(A(x))[0].clamp(0, 1)
    return psnr(seen, pictures.on(1.0))


def keep(x: Voxels) -> None:
    from safetensors.torch import save_file

    assert x.space.clearance is not None
    MODEL.parent.mkdir(exist_ok=True)
    save_file({"density": x.density, "colour": x.colour.contiguous(), "occupied": x.space.clearance == 0,
               "scale": torch.tensor(x.space.scale, dtype=torch.float64)}, MODEL)


def kept() -> Voxels:
    """The scene of the last run of this script."""
    from safetensors.torch import load_file

    if not MODEL.is_file():
        raise SystemExit(f"no scene of 90 pictures at {MODEL}; run benchmarks/lego_voxels.py first")
    leaves = load_file(MODEL)
    shape = [n + 1 for n in leaves["occupied"].shape]
    space = VoxelSpace.box(shape, LOW, HIGH, float(leaves["scale"])).keeping(leaves["occupied"])
    return Voxels(leaves["density"], leaves["colour"], space)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--degree", type=int, default=1)
    parser.add_argument("--rays", type=int, default=8192)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--decay", type=float, default=0.01)
    parser.add_argument("--variation", type=float, nargs=2, default=(1e-5, 1e-5),
                        help="weights of density and colour, beside the mean squared error")
    parser.add_argument("--stages", nargs="+", default=["48:500", "96:600", "128:inf"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine(), flush=True)
    train, held = views()
    A = renderer(train)
    y = A.measurements(train.on(1.0)[None])
    problem = it.Problem(y, A)
    one = y[0].numel()  # weights stand beside the mean over all values, of which the problem has the sum
    density, colour = arguments.variation
    smooth = 0.5 * one * density * VoxelVariation("density") + 0.5 * one * colour * VoxelVariation("colour")
    began = time.monotonic()
    grid, start = VoxelGrid(VoxelSpace.box(16, LOW, HIGH, scale=128 / 2.5), degree=arguments.degree), None
    for k, stage in enumerate(arguments.stages):
        resolution, iterations = stage.split(":")
        space = VoxelSpace.box(int(resolution), LOW, HIGH, scale=128 / 2.5)
        if start is None:
            grid = VoxelGrid(space, degree=arguments.degree)
        else:
            grid, start = grid.refined(start, space.shape)
        left = 60 * arguments.minutes - (time.monotonic() - began)
        if left <= 0:
            break
        steps = 10**6 if iterations == "inf" else int(iterations)
        solver = it.solvers.Adam(learning_rate=arguments.rate, beta_square=0.99, decay=arguments.decay if iterations == "inf" else 0.0,
                                 subset_size=arguments.rays, tolerance=0.0)
        solution = it.solve(problem, grid + smooth, solver, initial=start, max_iterations=steps, time_limit=left, seed=k, progress=False)
        start = solution.parameters
        if k:
            keep(solution.x)
        quality = held_out_psnr(solution.x, held)
        fit = 10 * math.log10(1 / (2 * float(solution.history["objective"][-50:].mean()) / (3 * arguments.rays)))
        print(f"{grid}: {int(solution.iterations[0])} iterations, {solution.seconds / max(1, int(solution.iterations[0])):.3f} s each, "
              f"training {fit:.2f} dB, held out {float(quality.mean()):.2f} dB ({float(quality.min()):.2f} to {float(quality.max()):.2f})",
              flush=True)
    seconds = time.monotonic() - began
    print(f"{float(quality.mean()):.2f} dB after {seconds:.0f} s", verdict(float(quality.mean()) >= 29, "29 dB in 10 minutes on two cores"))


if __name__ == "__main__":
    main()
