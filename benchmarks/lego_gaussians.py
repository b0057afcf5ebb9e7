"""The NeRF scene 'lego' at 200 x 200 pixels as Gaussians, on a CPU: ten minutes for 90 pictures.

    python benchmarks/lego_gaussians.py [--minutes 10] [--threads 2] [--strategy mcmc] [--most 30000] [--iterations 12000]

Every tenth view is held out (r_0, r_10, ...). White background. One solve from Gaussians at random places of a box, by Adam on one
picture a step; the misfit is the mean modulus. Printed on the way, the time for it not counted: Gaussians, seconds, and the mean of the
PSNR of the held-out views.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from common import data_folder, machine, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.datasets.cameras_blender import PosedPictures, open_blender
from invtoolbox.loop import Progress
from invtoolbox.metrics import psnr
from invtoolbox.operators import GaussianRenderer
from invtoolbox.priors import DefaultStrategy, Gaussians, MCMCStrategy
from invtoolbox.scenes import Splats

LOW, HIGH = (-1.3, -1.3, -1.0), (1.3, 1.3, 1.3)


def views() -> tuple[PosedPictures, PosedPictures]:
    """Those to train from, and those held out."""
    pictures = open_blender(data_folder() / "nerf_lego_200" / "transforms_train.json")
    held = torch.tensor([int(Path(name).stem.removeprefix("r_")) % 10 == 0 for name in pictures.cameras.names])
    return pictures[~held], pictures[held]


def held_out_psnr(x: Splats, pictures: PosedPictures) -> Tensor:
    """Of each picture."""
    with torch.no_grad():
        seen = GaussianRenderer(pictures.cameras, background=1.0)(x)[0].transpose(0, 1).clamp(0, 1)
    return psnr(seen, pictures.on(1.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--strategy", choices=("mcmc", "default"), default="mcmc")
    parser.add_argument("--start", type=int, default=5000, help="Gaussians at the start")
    parser.add_argument("--most", type=int, default=30_000, help="Gaussians at most")
    parser.add_argument("--iterations", type=int, default=12_000, help="over which the steps of the means fall to a hundredth")
    parser.add_argument("--degree", type=int, default=2)
    parser.add_argument("--similarity", type=float, default=0.0)
    parser.add_argument("--views", type=int, default=1, help="pictures a step")
    parser.add_argument("--every", type=int, default=1000, help="steps between two lines")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine(), flush=True)
    train, held = views()
    A = GaussianRenderer(train.cameras, background=1.0)
    problem = it.Problem(train.on(1.0).transpose(0, 1)[None], A, it.data_terms.Photometric(arguments.similarity))
    length = arguments.iterations
    strategy = MCMCStrategy(stop=int(0.9 * length), most=arguments.most) if arguments.strategy == "mcmc" else \
        DefaultStrategy(stop=length // 2, most=arguments.most)
    prior = Gaussians.random(arguments.start, LOW, HIGH, degree=arguments.degree, strategy=strategy, decay_over=length,
                             degree_every=max(1, length // 12))
    spent = 0.0
    began = time.monotonic()

    def report(progress: Progress) -> bool:
        nonlocal spent
        now = time.monotonic()
        if progress.iteration % arguments.every == 0:
            x = progress.x
            count = int((x.opacities > 1 / 255).sum())
            quality = float(held_out_psnr(x, held).mean())
            print(f"{progress.iteration:6} {now - began - spent:6.0f} s  {count:6} Gaussians  {quality:.2f} dB", flush=True)
            spent += time.monotonic() - now
        return now - began - spent > 60 * arguments.minutes

    solution = it.solve(problem, prior, it.solvers.Adam(subset_size=arguments.views, epsilon=1e-15), max_iterations=length, tolerance=0.0,
                        callbacks=[report], progress=False)
    seconds, quality = time.monotonic() - began - spent, held_out_psnr(solution.x, held)
    steps = int(solution.iterations[0])
    print(f"{strategy}: {steps} iterations, {seconds:.0f} s, {1e3 * seconds / steps:.1f} ms each; "
          f"held out {float(quality.mean()):.2f} dB ({float(quality.min()):.2f} to {float(quality.max()):.2f})",
          verdict(float(quality.mean()) >= 29 and seconds < 605, "29 dB in 10 minutes on two cores"))


if __name__ == "__main__":
    main()
