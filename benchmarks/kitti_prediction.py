"""Tracks from four real scans predict the fifth: nearest-point error on moving bodies.

    python benchmarks/kitti_prediction.py

Five consecutive scans of KITTI without poses or times of points. The flow from the third to the
fourth scan is estimated with the first two as further sweeps of the window, and in a pair alone. The
points of every moving body keep their velocity for one more period; their mean distance from the
nearest points of the fifth scan, in the frame of the fourth, is compared with that of bodies that
stand still from the fourth scan on (zero flow). The fifth scan is used for the comparison only.
"""

from __future__ import annotations

from dataclasses import replace

from common import data_folder, machine, verdict

import invtoolbox as it
from invtoolbox.geometry.rigid import inverse, transform
from invtoolbox.jobs.flow import estimate
from invtoolbox.jobs.flow.ego_motion import ego_motion
from invtoolbox.kernels.points.nearest import Tree


def main() -> None:
    print(machine())
    sweeps = it.datasets.open_sweeps(data_folder() / "kitti_raw5")
    scans = [replace(sweeps[k], timestamp=0.1 * k) for k in range(5)]
    last = ego_motion(scans[3], scans[4], "icp").matrix
    tree = Tree(transform(inverse(last), scans[4].points.double()).float())
    for window in ((), (scans[0], scans[1])):
        found = estimate(scans[2], scans[3], window=window)
        residual = found.residual(scans[2].points)
        moving = found.instance >= 0
        # Static points of the third scan move by the ego motion alone; bodies also by their own.
        at_fourth = (scans[2].points + found.flow)[moving]
        bodies = int(found.instance.max()) + 1
        kept = float(tree.query(at_fourth + residual[moving])[0].mean())
        still = float(tree.query(at_fourth)[0].mean())
        speed = residual[moving].norm(dim=1) / 0.1
        print(
            f"window of {len(window) + 2}: {bodies} bodies, {int(moving.sum())} points, median "
            f"speed {float(speed.median()):.1f} m/s; error predicted {kept:.3f} m, standing still "
            f"{still:.3f} m, ratio {kept / still:.2f} {verdict(kept < 0.5 * still, '0.5')}; "
            f"{found.seconds:.1f} s"
        )
        for note in found.notes:
            print(f"  {note}")
        for body in range(bodies):
            rows = found.instance[moving] == body
            place, speed_of = at_fourth[rows].mean(0), float(speed[rows].median())
            before = float(tree.query(at_fourth[rows])[0].mean())
            after = float(tree.query((at_fourth + residual[moving])[rows])[0].mean())
            print(
                f"  body {body}: {int(rows.sum())} points at ({place[0]:.0f}, {place[1]:.0f}) m, "
                f"{speed_of:.1f} m/s, {before:.3f} m standing still, {after:.3f} m predicted"
            )


if __name__ == "__main__":
    main()
