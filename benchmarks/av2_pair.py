"""The real pair of sweeps of the scene-flow benchmarks: Argoverse 2 with its ground truth.

The data are in INVTOOLBOX_DATA/av2_pair.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from common import data_folder
from torch import Tensor

#: Height above the ground's surface, in metres, up to which Argoverse labels a point as ground.
GROUND = 0.3


@dataclass(frozen=True, eq=False)
class Pair:
    """Sweep 0 moved by the sensor's motion, sweep 1, and the ground truth of sweep 0's points."""

    source: Tensor  # (N, 3) in the frame of sweep 1, so that static points have no flow
    target: Tensor  # (M, 3)
    flow: Tensor  # (N, 3) the true flow without the sensor's motion
    dynamic: Tensor  # (N,) bool, as labelled
    near: Tensor  # (N,) bool, within 35 m of the sensor

    def errors(self, flow: Tensor, index: Tensor | None = None) -> tuple[float, float]:
        """Compute the mean end-point error of the points labelled dynamic and of the other points.

        Points count within 35 m; with an index, only the points of the index count.
        """
        index = torch.arange(len(self.source)) if index is None else index
        error = (flow - self.flow[index]).double().norm(dim=1)
        near, dynamic = self.near[index], self.dynamic[index]
        return float(error[near & dynamic].mean()), float(error[near & ~dynamic].mean())


def load(reach: float = 35.0) -> Pair:
    """Load the pair without ground, with x and y within ``reach`` metres.

    The map's height raster defines the ground of both sweeps.
    """
    import pyarrow.feather as feather

    folder = next(p for p in (data_folder() / "av2_pair").iterdir() if p.is_dir())
    files = sorted((folder / "sensors" / "lidar").glob("*.feather"))
    points = [_columns(feather.read_table(f), "x", "y", "z") for f in files]
    labels = feather.read_table(folder / "flow_labels.feather")
    poses = feather.read_table(folder / "city_SE3_egovehicle.feather")
    world = [_pose(poses, int(f.stem)) for f in files]
    motion = np.linalg.inv(world[1]) @ world[0]
    ground = [_ground(folder / "map", p, w) for p, w in zip(points, world)]
    labelled = labels["is_ground_0"].to_numpy().astype(bool)
    print(
        "ground by the map's raster agrees with the labels of sweep 0 at "
        f"{100 * (ground[0] == labelled).mean():.2f} % of the points"
    )
    moved = points[0] @ motion[:3, :3].T + motion[:3, 3]
    flow = _columns(labels, "flow_tx_m", "flow_ty_m", "flow_tz_m") - (moved - points[0])
    kept = [~g & (np.abs(p[:, :2]) <= reach).all(1) for g, p in zip((labelled, ground[1]), points)]
    return Pair(
        source=torch.from_numpy(moved[kept[0]]).float(),
        target=torch.from_numpy(points[1][kept[1]]).float(),
        flow=torch.from_numpy(flow[kept[0]]).float(),
        dynamic=torch.from_numpy(labels["dynamic"].to_numpy().astype(bool)[kept[0]]),
        near=torch.from_numpy(np.hypot(points[0][kept[0], 0], points[0][kept[0], 1]) <= 35.0),
    )


def _columns(table: object, *names: str) -> np.ndarray:
    return np.stack([table[name].to_numpy() for name in names], axis=1).astype(np.float64)  # type: ignore[index]


def _pose(poses: object, timestamp: int) -> np.ndarray:
    row = int(np.flatnonzero(poses["timestamp_ns"].to_numpy() == timestamp)[0])  # type: ignore[index]
    w, x, y, z = (float(poses[f"q{k}"][row].as_py()) for k in "wxyz")  # type: ignore[index]
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = [float(poses[f"t{k}_m"][row].as_py()) for k in "xyz"]  # type: ignore[index]
    return pose


def _ground(folder: Path, points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Compute which points lie on the ground or below it, by the map's raster of heights."""
    raster = np.load(next(folder.glob("*ground_height_surface*.npy"))).astype(np.float64)
    place = json.loads(next(folder.glob("*Sim2*.json")).read_text())
    world = points @ pose[:3, :3].T + pose[:3, 3]
    cells = (world[:, :2] @ np.array(place["R"]).reshape(2, 2).T + np.array(place["t"])) * place[
        "s"
    ]
    column, row = (np.clip(cells[:, k].astype(int), 0, raster.shape[1 - k] - 1) for k in (0, 1))
    height = world[:, 2] - raster[row, column]
    return height <= GROUND
