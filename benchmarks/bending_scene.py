"""A Gaussian scene that bends, seen by three cameras over time, under every prior of rigidity.

    python benchmarks/bending_scene.py [--cameras 3] [--steps 60] [--threads 1] [--again]

A bar of 256 Gaussians of random colors is known at rest. It then moves over 8 times: in the first
sequence it bends by 100 degrees, in the second it bends to an S, twists by 90 degrees and shifts.
The pictures
have noise of 0.02. Each Gaussian moves and turns independently (`priors.PointMotion`), so that only the prior of
rigidity joins them. The times are solved one after the other, each from the result before. The
weight of a prior is searched by factors of 10 on the first sequence and judged there; the printed
values are of the second sequence: PSNR of 6 cameras that took no part, mean over all times, and the
mean distance of the Gaussians from the truth in per cent of the length of the bar.

Finished runs are kept in ``results/bending_scene.json``; with ``--again`` they are not.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from common import Kept, machine, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.geometry import Cameras, Moving, NeighbourGraph, Splats, look_at
from invtoolbox.metrics import psnr
from invtoolbox.operators import GaussianRenderer, OverTime
from invtoolbox.priors import (
    ARAP,
    AsIsometricAsPossible,
    Deformation,
    ExplicitPrior,
    Isometry,
    LocalRigidity,
    PointMotion,
)

RESULTS = Path(__file__).parent / "results"
LENGTH, WIDTH, TIMES, SIZE, NOISE = 4.0, 0.8, 8, (40, 48), 0.02
SEQUENCES = ("bend", "S and twist")
PRIORS: dict[str, tuple[Callable[..., ExplicitPrior], int] | None] = {
    "none": None,
    "ARAP, 10 neighbours": (ARAP, 10),
    "local rigidity, 20 neighbours": (LocalRigidity, 20),
    "isometry, 20 neighbours": (Isometry, 20),
    "AIAP, 5 neighbours": (AsIsometricAsPossible, 5),
}
EXPONENTS = (-1.0, 0.0, 1.0)


def bar() -> Splats:
    """Return the bar at rest, 16 by 4 by 4 Gaussians along x around the origin."""
    steps = [(torch.arange(n) + 0.5) / n - 0.5 for n in (16, 4, 4)]
    points = torch.cartesian_prod(*steps) * torch.tensor([LENGTH, WIDTH, WIDTH])
    colors = torch.rand(len(points), 3, generator=torch.Generator().manual_seed(0))
    return Splats.of_points(points[None], colors[None], 0.11, 0.9)


def moved(points: Tensor, sequence: str, share: float) -> Tensor:
    """Return the points ``(N, 3)`` of a sequence at a share of its time."""

    def slope(along: Tensor) -> Tensor:
        """Compute the angle of the centre line, which keeps its length."""
        if sequence == "bend":
            return share * 1.75 * along
        return share * 0.9 * torch.sin(2 * torch.pi * along)

    along = points[:, 0] / LENGTH
    twist = share * (0.0 * along if sequence == "bend" else torch.pi / 2 * (along + 0.5))
    y = twist.cos() * points[:, 1] - twist.sin() * points[:, 2]
    z = twist.sin() * points[:, 1] + twist.cos() * points[:, 2]
    fine = slope(torch.linspace(-0.5, 0.5, 2001))
    line = torch.stack([fine.cos(), fine.sin()], 1).cumsum(0) * LENGTH / 2000
    place = (line - line[1000])[((along + 0.5) * 2000).round().long()]
    shift = 0.0 if sequence == "bend" else 0.5 * share
    angle = slope(along)
    return torch.stack([place[:, 0] - angle.sin() * y, place[:, 1] + angle.cos() * y + shift, z], 1)


def around(count: int, height: float, first: float) -> Cameras:
    angle = first + torch.arange(count) * 2 * torch.pi / count
    places = torch.stack([6 * angle.sin(), torch.full_like(angle, height), -6 * angle.cos()], 1)
    return look_at(places, size=SIZE, field_of_view=55.0)


def tracked(sequence: str, name: str, weight: float, cameras: int, steps: int) -> dict[str, float]:
    """Estimate the motion of a sequence; return the PSNR of unseen views and the error."""
    rest, chosen = bar(), PRIORS[name]
    rigid = None
    if chosen is not None:
        rigid = chosen[0](graph=NeighbourGraph.of_points(rest.means[0], chosen[1]))
    seen, unseen = around(cameras, -2.0, 0.4), around(6, -1.0, 0.0)
    A = OverTime([GaussianRenderer(seen)])
    start: dict[str, Tensor] | None = None
    quality, distance = [], []
    for k in range(1, TIMES + 1):
        goal = moved(rest.means[0], sequence, k / TIMES) - rest.means[0]
        truth = Moving(goal[None, None], None, rest)  # round Gaussians need no rotations
        y = A(truth)
        noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(k))
        problem = it.Problem(y + NOISE * noise, A, it.data_terms.Photometric(0.0))
        prior = Deformation(rest, PointMotion(times=1))
        solution = it.solve(
            problem,
            prior if rigid is None else prior + weight * rigid,
            it.solvers.Adam(learning_rate=3e-3, epsilon=1e-15),
            regularization=1.0,
            initial=start,
            max_iterations=steps,
            tolerance=0.0,
            progress=False,
        )
        start = solution.parameters
        view = OverTime([GaussianRenderer(unseen)])
        with torch.no_grad():
            pictures = [view(x)[0].transpose(0, 1).clamp(0, 1) for x in (solution.x, truth)]
        quality.append(float(psnr(*pictures).mean()))
        off = (solution.x.displacements[0, 0] - goal).norm(dim=1)
        distance.append(100 * float(off.mean()) / LENGTH)
    return {"psnr": sum(quality) / TIMES, "error": sum(distance) / TIMES}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cameras", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--again", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine(), flush=True)
    kept = Kept(RESULTS / "bending_scene.json", arguments.again)
    rows = {}
    for name, make in PRIORS.items():

        def run(sequence: str, exponent: float, name: str = name) -> dict[str, float]:
            key = f"{arguments.cameras} cameras, {arguments.steps} steps, {sequence}, {name}, 10^{exponent:g}"
            return kept.result(
                key,
                lambda: tracked(sequence, name, 10**exponent, arguments.cameras, arguments.steps),
            )

        tried = {e: run(SEQUENCES[0], e)["psnr"] for e in (EXPONENTS if make else (0.0,))}
        best = max(tried, key=lambda e: tried[e])
        rows[name] = (run(SEQUENCES[1], best), best, tried[best])
    print(f"\n{arguments.cameras} cameras, 'S and twist', weights from 'bend'")
    for name, (found, best, other) in sorted(rows.items(), key=lambda row: -row[1][0]["psnr"]):
        weight = f"weight 10^{best:g}" if name != "none" else ""
        print(
            f"  {name:32} {found['psnr']:6.2f} dB  {found['error']:6.2f} % of the length  {weight} "
            f"({other:.2f} dB on 'bend')"
        )
    gain = max(row[0]["psnr"] for row in rows.values()) - rows["none"][0]["psnr"]
    print(f"the best over none: {gain:.1f} dB", verdict(gain >= 10, "10 dB"))


if __name__ == "__main__":
    main()
