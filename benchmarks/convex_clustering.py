"""Bodies of a street from noisy flows of its points, by a sum of norms.

    python benchmarks/convex_clustering.py [--seeds 10]

Points of simulated sweeps within 35 m that do not belong to the ground, with their true flow without
ego motion plus noise of 5 cm per coordinate. `SumOfNorms` over 8 neighbours, Gaussian weights, and
the weight 0.1, chosen on seed 0, smooths the flows; its groups are those of neighbours
whose flows differ by at most 2 cm. A point that moves is right if most points of its group belong to
its body, and this group is the largest of the body. The same share is printed for groups of
the noisy flows themselves. Reported on the seeds from 900 on.
"""

from __future__ import annotations

import torch
from common import machine, run_script, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.geometry import NeighbourGraph
from invtoolbox.geometry.rigid import transform
from invtoolbox.priors import SumOfNorms

NOISE, WEIGHT, TOLERANCE = 0.05, 0.1, 0.02


def right(groups: Tensor, bodies: Tensor, moving: Tensor) -> Tensor:
    """Return which of the moving points are in the largest group of their body."""
    found = torch.zeros_like(moving)
    for body in bodies[moving].unique():
        own = (bodies == body) & moving
        group = groups[own].mode().values
        if int(bodies[groups == group].mode().values) == int(body):
            found |= own & (groups == group)
    return found[moving]


def main(seeds: int = 10, first: int = 900) -> None:
    torch.set_num_threads(1)
    print(machine(), flush=True)
    ours, plain = [], []
    for seed in range(first, first + seeds):
        street = it.simulation.street(sweeps=10, seed=seed, points=30_000)
        sweep, after = street[8], street[9]
        labels = sweep.labels
        kept = (sweep.points[:, :2].norm(dim=1) < 35) & ~labels.ground & labels.valid
        points = sweep.points[kept]
        still = transform(after.pose.inverse() @ sweep.pose, points.double()) - points
        flow = labels.flow[kept].double() - still
        noise = torch.randn(flow.shape, generator=torch.Generator().manual_seed(seed)).double()
        noisy = (flow + NOISE * noise).T[None].contiguous()
        graph = NeighbourGraph.of_points(points, 8, radius=1.5, weights="gaussian")
        prior = SumOfNorms(graph)
        A = it.operators.Identity(tuple(noisy.shape[1:]))
        problem = it.Problem(noisy, A)
        x = it.solve(problem, prior, regularization=WEIGHT, max_iterations=600, progress=False).x
        bodies, moving = labels.instance[kept], labels.dynamic[kept]
        ours.append(right(prior.groups(x, TOLERANCE)[0], bodies, moving))
        plain.append(right(prior.groups(noisy, TOLERANCE)[0], bodies, moving))
        print(
            f"  seed {seed}: {int(moving.sum())} points move, in their bodies "
            f"{float(ours[-1].float().mean()):.1%}, without the prior "
            f"{float(plain[-1].float().mean()):.1%}",
            flush=True,
        )
    share = float(torch.cat(ours).float().mean())
    print(
        f"all: {share:.1%}, without the prior {float(torch.cat(plain).float().mean()):.1%}",
        verdict(share >= 0.9, "90 % of the points"),
    )


if __name__ == "__main__":
    run_script(main)
