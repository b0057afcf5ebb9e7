"""The default method of scene flow on real sweeps of Argoverse 2 and Ouster: errors and seconds.

    python benchmarks/scene_flow.py [--threads 2] [--methods default,icp-flow,voxel]

Errors as the metrics define them: points labelled dynamic (or static), not ground, within 35 m of
the sensor, ego motion removed. Seconds are for the whole warm call with its preparation; the first
call's time is printed too. The Ouster sweeps have no ground truth; printed is the median speed over
all points that are not ground.
"""

from __future__ import annotations

import resource
import time
from statistics import median

import torch
from common import data_folder, machine, run_script, verdict

import invtoolbox as it
from invtoolbox.geometry.rigid import relative_motion
from invtoolbox.jobs.flow import Preparation, estimate
from invtoolbox.jobs.flow.methods import METHODS, Motion, Pair


def argoverse(methods: list[str], repeats: int) -> None:
    sweeps = it.datasets.open_sweeps(
        next(p for p in (data_folder() / "av2_pair").iterdir() if p.is_dir())
    )
    first, second = sweeps[0], sweeps[1]
    motion = relative_motion(first.pose, second.pose)
    standing = it.metrics.evaluate(
        estimate(first, second, lambda pair, seed: _nothing(pair)), first, ego_motion=motion
    )
    print(
        f"av2_pair, zero flow: dynamic {standing.dynamic:.4f}, static {standing.static:.4f} m, "
        f"{standing.dynamic_points} dynamic points"
    )
    base = None
    for method in methods:
        for name, preparation in (
            ("ego motion and ground of the data set", Preparation(ground="labels")),
            ("its ego motion, ground found", Preparation()),
            ("neither: both found", Preparation(ego_motion="icp")),
        ):
            seconds = []
            for _ in range(repeats + 1):
                began = time.perf_counter()
                found = estimate(first, second, method, preparation)
                seconds.append(time.perf_counter() - began)
            errors = it.metrics.evaluate(found, first, ego_motion=motion)
            line = (
                f"av2_pair, {method:9} {name:38}: dynamic {errors.dynamic:.4f}, static "
                f"{errors.static:.4f} m, EPE {errors.epe:.4f}, three-way "
                f"{errors.three_way.pool().mean:.4f}, {median(seconds[1:]):.2f} s (first call "
                f"{seconds[0]:.2f} s)"
            )
            if method == "default" and base is None:
                base = errors
                holds = (
                    errors.dynamic <= 0.17 and errors.static <= 0.005 and median(seconds[1:]) < 10
                )
                line += " " + verdict(holds, "0.17, 0.005, 10 s")
            elif method == "default" and base is not None:
                line += " " + verdict(
                    errors.dynamic <= base.dynamic + 0.02 and errors.static <= base.static + 0.02,
                    "within 0.02 of that",
                )
            print(line, flush=True)


def ouster() -> None:
    sweeps = it.datasets.open_sweeps(data_folder() / "ouster_frames")
    for k in range(len(sweeps) - 1):
        found = estimate(sweeps[k], sweeps[k + 1])
        counts = found.valid & ~found.ground
        speed = found.residual(sweeps[k].points)[counts].norm(dim=1)
        middle = float(speed.median())
        print(
            f"ouster {sweeps.names[k]}: median speed {middle:.4f} m a sweep over "
            f"{int(counts.sum())} points, {int(found.dynamic.sum())} dynamic in "
            f"{int(found.instance.max()) + 1} bodies, {found.seconds:.2f} s "
            + verdict(middle < 0.02, "0.02")
        )


def _nothing(pair: Pair) -> Motion:
    return Motion(torch.zeros_like(pair.source), torch.full((len(pair.source),), -1))


def main(threads: int = 2, repeats: int = 5, methods: str = "default,icp-flow,voxel") -> None:
    torch.set_num_threads(threads)
    methods = methods.split(",")
    for name in methods:
        if name not in METHODS:
            raise SystemExit(f"there is no method {name!r}; there are {', '.join(METHODS)}")
    print(machine())
    argoverse(methods, repeats)
    ouster()
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    run_script(main)
