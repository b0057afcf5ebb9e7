"""EulerFlow on simulated sweeps of few points: its parts, and pairwise NSFP; errors of the flow.

    python benchmarks/euler.py --parts [--sweeps 10] [--points 2048] [--iterations 200]
    python benchmarks/euler.py [--sweeps 20] [--points 4096] [--minutes 30] [--field voxels]
                               [--paper] [--no-nsfp] [--out build/euler]

``--parts`` solves with the objective of `euler_flow`, without each of its parts, and with the
objective of the paper, and prints the errors along the iterations. The weights were chosen on
seed 3 (8 and 10 sweeps of 1,024 and 2,048 points), and seed 2 is reported.

A later call continues after a kill: the parts and NSFP from what is finished, the field from its
checkpoint.
Points are not ground, lie within 35 m, and each sweep is an independent draw; the simulator's poses
remove the sensor's motion. Dynamic EPE: over the points of all pairs that move in the world.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from common import Kept, machine, run_script, verdict
from torch import Tensor

from invtoolbox.geometry.rigid import transform
from invtoolbox.jobs.flow.published import EulerSettings, Fit, euler_flow, nsfp
from invtoolbox.loop.checkpoint import Checkpoint
from invtoolbox.loop.run import Progress
from invtoolbox.simulation.lidar import SimulatedSequence, SpinningLidar
from invtoolbox.simulation.town import random_town

#: The objective of `euler_flow`, without each of its parts, and the one of the paper.
PARTS: dict[str, dict[str, Any]] = {
    "all parts": {},
    "one step instead of three": {"steps": 1},
    "without the cycle": {"cycle": 0.0},
    "without rigidity and rest": {"rigid": 0.0, "still": 0.0},
    "without these and the cycle": {"cycle": 0.0, "rigid": 0.0, "still": 0.0},
    "objective of the paper": {"cycle": 0.01, "rigid": 0.0, "still": 0.0},
}


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


def solve_with(
    changes: dict[str, Any], truth: list[tuple[Tensor, Tensor, Tensor]], iterations: int
) -> dict[str, Any]:
    """Return the errors of the flow along the iterations, and the seconds of the processor."""
    clouds, rows = [points for points, _, _ in truth], {}

    def evaluate(progress: Progress) -> None:
        if progress.iteration % 25 == 0:
            with torch.no_grad():
                flows = [progress.x.flow(p[None], float(t))[0] for t, p in enumerate(clouds[:-1])]
            rows[str(progress.iteration)] = errors(flows, truth)

    began = time.process_time()
    settings = EulerSettings(max_iterations=iterations, **changes)
    rows["end"] = errors(euler_flow(clouds, settings, callbacks=[evaluate]), truth)
    return {"errors": rows, "seconds": time.process_time() - began}


def compare_parts(options: argparse.Namespace) -> None:
    """Print the errors with and without each part of the objective."""
    truth = world_sweeps(options.sweeps, options.points, options.reach, options.seed)
    rest = errors([torch.zeros_like(points) for points, _, _ in truth[:-1]], truth)
    print(machine())
    print(
        f"seed {options.seed}, {options.sweeps} sweeps of {options.points} points, "
        f"{options.iterations} iterations; {rest['moving_points']} moving points; without a flow: "
        f"dynamic {rest['dynamic']:.3f} m",
        flush=True,
    )
    kept = Kept(options.out / "parts.json")
    key = f"{options.seed}/{options.sweeps}/{options.points}/{options.iterations}"
    ends: dict[str, dict[str, float]] = {}
    for name in options.only or PARTS:
        found = kept.result(
            f"{key}/{name}", lambda n=name: solve_with(PARTS[n], truth, options.iterations)
        )
        ends[name] = found["errors"]["end"]
        ways = ", ".join(
            f"{at}: {row['dynamic']:.3f} and {row['static']:.3f}"
            for at, row in found["errors"].items()
        )
        print(
            f"{name:27} dynamic and static error, m: {ways}; {found['seconds']:.0f} s", flush=True
        )
    for name, base in (
        ("one step instead of three", "all parts"),
        ("without the cycle", "all parts"),
        ("without these and the cycle", "without rigidity and rest"),
    ):
        if {name, base} <= ends.keys():
            ratio = ends[name]["dynamic"] / ends[base]["dynamic"]
            print(
                f"{name}: {ratio:.2f} of the dynamic error of {base!r} "
                f"{verdict(ratio >= 1.15, '1.15')}"
            )
    if "all parts" in ends:
        still = ends["all parts"]["static"]
        print(f"static error {still:.3f} m {verdict(still < 0.05, '0.05 m')}")


def main(
    parts: bool = False,
    only: Sequence[Annotated[str, list(PARTS)]] | None = None,
    sweeps: int | None = None,
    points: int | None = None,
    minutes: float = 30.0,
    iterations: int | None = None,
    field: Literal["voxels", "network"] = "voxels",
    rate: float | None = None,
    reach: float = 35.0,
    paper: bool = False,
    nsfp_: bool = True,
    nsfp_iterations: int = 500,
    seed: int = 2,
    out: Path = Path("build/euler"),
) -> None:
    """Run the benchmark.

    Args:
        parts: compare the parts of the objective
        only: some of the parts
        minutes: time limit of the field
        paper: take the objective of the paper
        nsfp_: solve for the field only
    """
    small = parts
    sweeps = sweeps or (10 if small else 20)
    points = points or (2048 if small else 4096)
    iterations = iterations or (200 if small else 150)
    out.mkdir(parents=True, exist_ok=True)
    if parts:
        compare_parts(argparse.Namespace(**locals()))
        return
    truth = world_sweeps(sweeps, points, reach, seed)
    clouds = [points for points, _, _ in truth]
    rest = [torch.zeros_like(points) for points in clouds[:-1]]
    print(
        f"{len(clouds)} sweeps of {[len(p) for p in clouds][:3]}... points; no flow: "
        f"{errors(rest, truth)}",
        flush=True,
    )

    settings = EulerSettings(
        field=field,
        learning_rate=rate,
        max_iterations=iterations,
        **(PARTS["objective of the paper"] if paper else {}),
    )
    began = time.monotonic()

    def shown(progress: Progress) -> None:
        iteration, field = progress.iteration, progress.x
        if iteration % 50 == 0:
            with torch.no_grad():
                flows = [field.flow(p[None], float(t))[0] for t, p in enumerate(clouds[:-1])]
            print(
                f"euler {iteration}: {time.monotonic() - began:.0f} s, {errors(flows, truth)}",
                flush=True,
            )

    name = field + ("_paper" if paper else "")
    checkpoint = Checkpoint(out / f"{name}.checkpoint", every=50)
    flows = euler_flow(
        clouds,
        settings,
        time_limit=60 * minutes,
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
    for k in range(len(clouds) - 1 if nsfp_ else 0):
        path = out / f"nsfp_{k:03d}.pt"
        if not path.exists():
            start = time.monotonic()
            fit = Fit(patience=100, max_iterations=nsfp_iterations)
            flow = nsfp(clouds[k], clouds[k + 1], fit)
            part = path.with_suffix(".part")
            torch.save({"flow": flow, "seconds": time.monotonic() - start}, part)
            part.rename(path)
        kept = torch.load(path, weights_only=True)
        pairs.append(kept["flow"])
        seconds += kept["seconds"]
        print(f"nsfp {k}: {errors(pairs, truth)}, {seconds:.0f} s in all", flush=True)
    if pairs:
        figures["nsfp"] = {**errors(pairs, truth), "seconds": seconds}
    figures["no flow"] = errors(rest, truth)
    (out / f"figures_{name}.json").write_text(
        json.dumps(figures, indent=1) + "\n", encoding="utf-8"
    )
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    run_script(main)
