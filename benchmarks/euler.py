"""EulerFlow's objective and pairwise NSFP on simulated sweeps of few points: dynamic errors.

    python benchmarks/euler.py [--sweeps 20] [--points 4096] [--minutes 30] [--field voxels]
                               [--priors] [--out benchmarks/results/euler]

A later call continues after a kill: the field from its checkpoint, NSFP from the finished pairs.
Points are not ground, lie within 35 m, and each sweep is an independent draw; the simulator's poses
remove the sensor's motion. Dynamic EPE: over the points of all pairs that move in the world.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor

from invtoolbox.geometry.rigid import transform
from invtoolbox.loop.checkpoint import Checkpoint
from invtoolbox.motion.euler import EulerSettings, euler_flow
from invtoolbox.motion.published import nsfp
from invtoolbox.priors import ARAP, AlongField, StaticWorld
from invtoolbox.simulation.lidar import SimulatedSequence, SpinningLidar
from invtoolbox.simulation.town import random_town


def world_sweeps(
    count: int, points: int, reach: float, seed: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return points, true flow and the mask of moving points in the first sweep's static frame."""
    sequence = SimulatedSequence(random_town(seed=seed), SpinningLidar(), sweeps=count, seed=seed)
    home, found = torch.linalg.inv(sequence.pose(0)), []
    for k in range(count):
        sweep = sequence[k]
        labels = sweep.labels
        assert labels is not None and labels.ground is not None
        near = (sweep.points[:, :2].norm(dim=1) < reach) & ~labels.ground
        index = near.nonzero()[:, 0]
        generator = torch.Generator().manual_seed(seed * 1000 + k)
        index = index[torch.randperm(len(index), generator=generator)[:points].sort().values]
        here, there = (
            sweep.points[index].double(),
            (sweep.points[index] + labels.flow[index]).double(),
        )
        start, end = (
            transform(home @ sequence.pose(k), here),
            transform(home @ sequence.pose(k + 1), there),
        )
        found.append((start.float(), (end - start).float(), labels.dynamic[index]))
    return found


def errors(flows: list[Tensor], truth: list[tuple[Tensor, Tensor, Tensor]]) -> dict[str, float]:
    error = torch.cat([(flow - true).norm(dim=1) for flow, (_, true, _) in zip(flows, truth)])
    moves = torch.cat([dynamic for _, _, dynamic in truth[: len(flows)]])
    return {
        "dynamic": float(error[moves].mean()),
        "static": float(error[~moves].mean()),
        "moving_points": int(moves.sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweeps", type=int, default=20)
    parser.add_argument("--points", type=int, default=4096)
    parser.add_argument("--minutes", type=float, default=30.0, help="time limit of the field")
    parser.add_argument("--iterations", type=int, default=3000)
    parser.add_argument("--field", choices=("voxels", "network"), default="voxels")
    parser.add_argument(
        "--priors",
        action="store_true",
        help="add rigidity and a static world, which EulerFlow's objective lacks",
    )
    parser.add_argument("--rate", type=float, default=None)
    parser.add_argument("--reach", type=float, default=35.0)
    parser.add_argument("--nsfp-iterations", type=int, default=500)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/euler"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    truth = world_sweeps(options.sweeps, options.points, options.reach, options.seed)
    clouds = [points for points, _, _ in truth]
    rest = [torch.zeros_like(points) for points in clouds[:-1]]
    print(
        f"{len(clouds)} sweeps of {[len(p) for p in clouds][:3]}... points; no flow: "
        f"{errors(rest, truth)}",
        flush=True,
    )

    settings = EulerSettings(
        field=options.field, learning_rate=options.rate, max_iterations=options.iterations
    )
    began = time.monotonic()

    def shown(progress: object) -> None:
        iteration = progress.iteration  # type: ignore[attr-defined]
        if iteration % 50 == 0:
            field = progress.x  # type: ignore[attr-defined]
            with torch.no_grad():
                flows = [field.flow(p[None], float(t))[0] for t, p in enumerate(clouds[:-1])]
            print(
                f"euler {iteration}: {time.monotonic() - began:.0f} s, {errors(flows, truth)}",
                flush=True,
            )

    name = options.field + ("_priors" if options.priors else "")
    priors = (
        10.0 * AlongField(ARAP(8, radius=1.5)) + 0.02 * AlongField(StaticWorld())
        if options.priors
        else None
    )
    checkpoint = Checkpoint(options.out / f"{name}.checkpoint", every=50)
    flows = euler_flow(
        clouds,
        settings,
        priors=priors,
        time_limit=60 * options.minutes,
        checkpoint=checkpoint,
        callbacks=[shown],
    )
    figures = {
        "euler": {
            **errors(flows, truth),
            "seconds_of_this_run": time.monotonic() - began,
            "field": name,
        }
    }
    pairs, seconds = [], 0.0
    for k in range(len(clouds) - 1):
        path = options.out / f"nsfp_{k:03d}.pt"
        if not path.exists():
            start = time.monotonic()
            flow = nsfp(
                clouds[k], clouds[k + 1], patience=100, max_iterations=options.nsfp_iterations
            )
            part = path.with_suffix(".part")
            torch.save({"flow": flow, "seconds": time.monotonic() - start}, part)
            part.rename(path)
        kept = torch.load(path, weights_only=True)
        pairs.append(kept["flow"])
        seconds += kept["seconds"]
        print(f"nsfp {k}: {errors(pairs, truth)}, {seconds:.0f} s in all", flush=True)
    figures["nsfp"] = {**errors(pairs, truth), "seconds": seconds}
    figures["no flow"] = errors(rest, truth)
    (options.out / f"figures_{name}.json").write_text(
        json.dumps(figures, indent=1) + "\n", encoding="utf-8"
    )
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
