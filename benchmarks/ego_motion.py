"""Preparation of pairs of sweeps: ego motion without poses, and ground without a map.

    python benchmarks/ego_motion.py [--quick]

Ego motion from the points alone is compared with the poses, on five real KITTI sweeps (kitti_raw5),
on the real Argoverse 2 pair (av2_pair) and on simulated streets, deskewed or not, with exact E.
Three real Ouster sweeps without poses are compared with each other: 0 to 1 and 1 to 2 against 0 to
2. Ground is compared with the labels of the pair and of the simulated streets. `--quick` takes one
simulated street.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import data_folder, machine, run_script, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox import simulation
from invtoolbox.geometry.rigid import inverse, relative_motion, rotation_vector, transform
from invtoolbox.geometry.sweeps import Sweep
from invtoolbox.jobs.flow.ego_motion import ego_motion
from invtoolbox.jobs.flow.ground import ground
from invtoolbox.jobs.flow.preparation import prepare_pair


def apart(found: Tensor, true: Tensor) -> tuple[float, float]:
    """Compute metres and degrees between two motions."""
    off = inverse(true) @ found
    return float(off[:3, 3].norm()), math.degrees(float(rotation_vector(off[:3, :3]).norm()))


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    call()
    began = time.perf_counter()
    result = call()
    return result, time.perf_counter() - began


def kitti(folder: Path) -> None:
    """Read the sweeps with poses of the lidar.

    The poses of the files belong to the left camera; its calibration maps them to the lidar.
    """
    sweeps = it.datasets.open_sweeps(folder)
    to_camera, *cameras = (
        torch.cat([torch.tensor(row).reshape(3, 4), torch.tensor([[0.0, 0, 0, 1]])]).double()
        for row in [
            np.array((folder / "calib_Tr_04-10.txt").read_text().split()[1:], dtype=float),
            *np.loadtxt(folder / "poses_odometry07_first10.txt")[: len(sweeps)],
        ]
    )
    poses = [inverse(to_camera) @ camera @ to_camera for camera in cameras]
    errors = []
    for k in range(len(sweeps) - 1):
        found, seconds = timed(
            lambda first=sweeps[k], second=sweeps[k + 1]: ego_motion(first, second, "icp")
        )
        errors.append(apart(found.matrix, relative_motion(poses[k], poses[k + 1])))
        print(
            f"kitti_raw5, {k} to {k + 1}: {100 * errors[-1][0]:.2f} cm and {errors[-1][1]:.3f} "
            f"degree off the poses, {seconds:.2f} s"
        )
    metres, degrees = (max(values) for values in zip(*errors))
    print(
        f"kitti_raw5: at most {100 * metres:.2f} cm and {degrees:.3f} degree a frame "
        f"{verdict(metres < 0.02 and degrees < 0.1, '2 cm and 0.1 degree')}"
    )


def argoverse(folder: Path) -> None:
    sweeps = it.datasets.open_sweeps(folder)
    first, second = sweeps[0], sweeps[1]
    true = relative_motion(first.pose, second.pose)
    found, seconds = timed(lambda: ego_motion(first, second, "icp"))
    static = first.points[~first.labels.dynamic & first.labels.valid].double()
    off = (transform(found.matrix, static) - transform(true, static)).norm(dim=1)
    near = static[:, :2].norm(dim=1) < 35
    metres, degrees = apart(found.matrix, true)
    print(
        f"av2_pair: {100 * metres:.2f} cm and {degrees:.3f} degree off the poses; static points "
        f"{1000 * float(off.mean()):.1f} mm, within 35 m {1000 * float(off[near].mean()):.1f} mm, "
        f"{seconds:.2f} s {verdict(float(off[near].mean()) < 0.005, '5 mm')}"
    )
    for name, motion in (("the poses' motion", true), ("the motion found", found.matrix)):
        ground_off, wall_off = surface_offsets(first, second, motion)
        print(
            f"av2_pair: after {name} the ground within 20 m lies {ground_off:+.1f} mm above the "
            f"second sweep's ground on average, and walls {wall_off:+.1f} mm to the left"
        )
    judge_ground("av2_pair", first)


def surface_offsets(first: Sweep, second: Sweep, motion: Tensor) -> tuple[float, float]:
    """Measure the distances of static points from a plane of the other sweep.

    The plane fits the twelve nearest points. The values are the mean, unsigned and with sign, in
    millimetres: along z for the ground within 20 m, along y for walls. The true motion leaves only
    noise.
    """
    from scipy.spatial import cKDTree

    cloud = second.points.double().numpy()
    tree, distance, low = cKDTree(cloud), first.points[:, :2].norm(dim=1), ground(first.points)
    offsets = []
    for rows, axis in (
        (low & (distance > 3) & (distance < 20), 2),
        (~low & ~first.labels.dynamic & (distance < 60), 1),
    ):
        points = transform(motion, first.points[rows].double()).numpy()
        reach, nearest = tree.query(points, 12)
        near = reach[:, -1] < 0.6
        patch = cloud[nearest[near]]
        centre = patch.mean(axis=1)
        _, size, axes = np.linalg.svd(patch - centre[:, None], full_matrices=False)
        normal = axes[:, 2] * np.sign(axes[:, 2, axis])[:, None]
        off = ((points[near] - centre) * normal).sum(axis=1)
        plane = (size[:, 2] < 0.2 * size[:, 1]) & (normal[:, axis] > 0.9) & (np.abs(off) < 0.1)
        offsets.append(1000 * float(off[plane].mean()))
    return offsets[0], offsets[1]


def ouster(folder: Path) -> None:
    sweeps = it.datasets.open_sweeps(folder)
    steps = [prepare_pair(sweeps[k], sweeps[m]).ego_motion for k, m in ((0, 1), (1, 2), (0, 2))]
    metres, degrees = apart(steps[1] @ steps[0], steps[2])
    print(
        f"ouster_frames: {float(steps[0][:3, 3].norm()):.3f} m and "
        f"{float(steps[1][:3, 3].norm()):.3f} m; the circle closes within {100 * metres:.2f} cm "
        f"and {degrees:.3f} degree"
    )
    sweep = sweeps[0]
    found, seconds = timed(lambda: ground(sweep.points))
    print(
        f"ouster_frames: {float(found.float().mean()):.0%} of {len(sweep)} points are called "
        f"ground in {seconds:.3f} s"
    )


def simulated(seeds: int) -> None:
    for deskew in (True, False):
        off, refused = [], 0
        for seed in range(seeds):
            sequence = simulation.street(sweeps=22, seed=seed, deskew=deskew)
            first, second = sequence[20], sequence[21]
            true = relative_motion(first.pose, second.pose)
            try:
                pair = prepare_pair(replace(first, pose=None), replace(second, pose=None))
            except it.InputError as error:
                print(f"street {seed}: {error}")
                refused += 1
                continue
            static = first.points[~first.labels.dynamic].double()
            off.append(
                float(
                    (transform(pair.ego_motion, static) - transform(true, static))
                    .norm(dim=1)
                    .mean()
                )
            )
        print(
            f"simulated streets, {'deskewed' if deskew else 'not deskewed'}: static points "
            f"{1000 * sum(off) / len(off):.2f} mm, at most {1000 * max(off):.2f} mm, {refused} of "
            f"{seeds} refused {verdict(max(off) < 0.005, '5 mm')}"
        )
    for seed in range(seeds):
        judge_ground(f"street {seed}", simulation.street(sweeps=21, seed=seed)[20])


def judge_ground(name: str, sweep: Sweep) -> None:
    labels = sweep.labels
    found, seconds = timed(lambda: ground(sweep.points))
    moving = labels.dynamic & ~labels.ground
    removed, right = (
        float(found[labels.ground].float().mean()),
        float(labels.ground[found].float().mean()),
    )
    kept = float((~found)[moving].float().mean())
    print(
        f"{name}: ground of {len(sweep)} points in {seconds:.3f} s; {removed:.3f} of the labelled "
        f"ground removed, {right:.3f} of the removed is labelled ground; of what moves above it "
        f"{kept:.4f} kept {verdict(removed > 0.9 and kept > 0.97, '0.9 and 0.97')}"
    )


def main(quick: bool = False) -> None:
    """Run the benchmark.

    Args:
        quick: one simulated street
    """
    print(machine())
    data = data_folder()
    kitti(data / "kitti_raw5")
    argoverse(data / "av2_pair")
    ouster(data / "ouster_frames")
    simulated(1 if quick else 12)


if __name__ == "__main__":
    run_script(main)
