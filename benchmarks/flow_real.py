"""The default method of scene flow on every real set of the data folder that has a truth.

    python benchmarks/flow_real.py

`av2_pair` has labels: of each moving object with at least five points within 35 m, the mean error is
divided by that of zero flow, which is its speed. `kitti_raw5` has no labels, poses or times: the bodies of
a pair, or of a window with all earlier scans, keep their velocity for one more period, and their mean
distance from the nearest points of the scan that follows is divided by that of bodies that stand still.
That scan is used for nothing else. `ddf_sceneflow` is a pair of rendered clouds without sensor, ground or
times; its flow with the motion of the sensor is compared with the truth, in shares of zero flow. The other
lidar sets of the folder have no truth of moving things.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from common import data_folder, machine

import invtoolbox as it
from invtoolbox.geometry.rigid import inverse, relative_motion, transform
from invtoolbox.geometry.sweeps import Sweep
from invtoolbox.jobs.flow import estimate
from invtoolbox.jobs.flow.ego_motion import ego_motion
from invtoolbox.kernels.points.nearest import Tree


def summary(name: str, shares: Sequence[float], what: str) -> None:
    print(
        f"{name}: {len(shares)} {what}, error in shares of zero flow's: mean "
        f"{statistics.mean(shares):.2f}, worst {max(shares):.2f}\n",
        flush=True,
    )


def argoverse() -> None:
    first, second = (it.datasets.open_sweeps(data_folder() / "av2_pair")[k] for k in (0, 1))
    for name, strip in (
        ("poses and times", lambda sweep: sweep),
        ("points alone", lambda sweep: replace(sweep, pose=None, time=None)),
    ):
        answer = estimate(strip(first), strip(second))
        motion, labels = relative_motion(first.pose, second.pose), first.labels
        points = first.points.double()
        truth = labels.flow.double() - (transform(motion, points) - points)
        error = (answer.residual(first.points).double() - truth).norm(dim=1)
        rows = labels.dynamic & labels.valid & ~labels.ground
        rows &= points[:, :2].norm(dim=1) < 35
        shares = []
        for thing in labels.instance[rows].unique().tolist():
            mask = rows & (labels.instance == thing)
            if int(mask.sum()) >= 5:
                shares.append(float(error[mask].mean() / truth[mask].norm(dim=1).mean()))
                middle = points[mask].mean(0)
                print(
                    f"  {labels.categories[int(labels.category[mask][0])]}, {int(mask.sum())} points at "
                    f"({middle[0]:.0f}, {middle[1]:.0f}) m: {shares[-1]:.2f}"
                )
        errors = it.metrics.evaluate(answer, first, ego_motion=motion)
        print(f"  dynamic {errors.dynamic:.3f} m, static {errors.static:.4f} m")
        summary(f"av2_pair, {name}", shares, "moving objects")


def kitti() -> None:
    sweeps = it.datasets.open_sweeps(data_folder() / "kitti_raw5")
    scans = [replace(sweeps[k], timestamp=0.1 * k) for k in range(5)]
    shares = []
    for source, window in ((0, ()), (1, ()), (1, (0,)), (2, ()), (2, (0, 1))):
        share, text = predict(scans[source : source + 3], [scans[k] for k in window])
        shares += [] if share is None else [share]
        print(f"  scans {[*window, source, source + 1]} predict {source + 2}: {text}")
    summary("kitti_raw5", shares, "predictions")


def predict(scans: Sequence[Sweep], window: Sequence[Sweep]) -> tuple[float | None, str]:
    """Return the error of bodies that go on, in shares of the error if they stand still."""
    source, target, last = scans
    answer = estimate(source, target, window=window)
    moving = answer.instance >= 0
    if not bool(moving.any()):
        return None, "no body"
    arrived = (source.points + answer.flow)[moving]
    back = inverse(ego_motion(target, last, "icp").matrix)
    tree = Tree(transform(back, last.points.double()).float())
    gone = arrived + answer.residual(source.points)[moving]
    going, standing = (float(tree.query(places)[0].mean()) for places in (gone, arrived))
    return going / standing, (
        f"{int(answer.instance.max()) + 1} bodies of {int(moving.sum())} points, {going:.3f} m in place "
        f"of {standing:.3f} m"
    )


def rendered() -> None:
    folder = data_folder() / "ddf_sceneflow"
    first, second, truth = (
        # A camera's axes (right, down, front) become those of a vehicle (front, left, up).
        torch.from_numpy(np.loadtxt(folder / f"{name}.xyz")[:, [2, 0, 1]] * [1, -1, -1]).float()
        for name in ("pc1", "pc2", "gt_flow")
    )
    answer = estimate(Sweep(first), Sweep(second))
    errors = (answer.flow - truth).norm(dim=1)
    share = float(errors.mean() / truth.norm(dim=1).mean())
    print(f"  {'; '.join(answer.notes)}")
    summary("ddf_sceneflow", [share], "pair")


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(machine(), "\n")
    argoverse()
    kitti()
    rendered()
