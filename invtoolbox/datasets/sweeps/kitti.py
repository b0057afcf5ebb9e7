"""KITTI's lidar: odometry sequences and raw drives. (Its scene flow pairs: lidar_kitti_flow.py.)

Scene flow pairs as NumPy archives: two clouds and the flow of the first, as the KITTI scene flow set is handed around.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.checks import decoding, require_file
from invtoolbox.datasets.measurement import check_index
from invtoolbox.datasets.sweeps.point_files import member, read_points, require_measurements
from invtoolbox.datasets.sweeps.pose_files import read_calibration, read_numbers, read_times
from invtoolbox.datasets.sweeps.sweep_files import (
    WITHOUT_POSES,
    SweepFiles,
    at_rate,
    files_in_order,
    number_of,
    number_poses,
    pose_at,
    require_folder,
    time_at,
)
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import inverse, rigid
from invtoolbox.geometry.sweeps import FlowLabels, Sweep

_EARTH = 6378137.0  # metres: the radius of the devkit's Mercator projection
_OXTS = 30  # numbers of a packet, of which the first six are latitude, longitude, altitude, roll, pitch and yaw


#: Names under which archives hold the first cloud, the second, and the flow.
FIRST, SECOND, FLOW = (
    ("pc1", "pos1", "pc0"),
    ("pc2", "pos2", "pc1"),
    ("flow", "gt", "gt_flow", "sf", "gt_flow_0_1"),
)


class KittiOdometry(SweepFiles):
    """A sequence of the KITTI odometry benchmark: ``velodyne/*.bin``, ``calib.txt``, ``times.txt``, and
    ``../../poses/XX.txt`` or ``poses.txt``.

    The number in a file's name is that of its line in the poses and the times. Poses are the left camera's; `Sweep.pose` is the
    lidar's, ``Tr^-1 P Tr``, in the frame of the lidar where the camera's pose is the identity. The scans of the benchmark have
    the sensor's motion removed (`deskewed`), and no times of points or rings.

    Args:
        path: the folder of the sequence, or a folder with the `.bin` files themselves.
        poses: the camera's poses; by default those of the data set's layout, where they are there. "none" reads none.
        calibration: with the line ``Tr`` (or ``Tr_velo_to_cam``); by default ``calib.txt`` of the sequence.
        times: seconds, one a line; by default ``times.txt`` of the sequence, and 10 sweeps a second without.

    Raises:
        InputError: for a folder without `.bin` files, poses without a calibration, fewer poses or times than the last file's
            number; when a sweep is read, for its file, and its time that is out of order.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        poses: str | os.PathLike[str] | None = None,
        calibration: str | os.PathLike[str] | None = None,
        times: str | os.PathLike[str] | None = None,
    ) -> None:
        folder = require_folder(path, "a KITTI odometry sequence")
        scans = folder / "velodyne"
        super().__init__(
            sorted(
                files_in_order(
                    scans if scans.is_dir() else folder, (".bin",), "a KITTI odometry sequence"
                ),
                key=number_of,
            )
        )
        laid_out = (
            (folder.parent.parent / "poses" / f"{folder.name}.txt", folder / "poses.txt")
            if scans.is_dir()
            else ()
        )
        self.pose_file = (
            poses
            if poses is not None
            else next((file for file in laid_out if file.is_file()), None)
        )
        if calibration is None and (folder / "calib.txt").is_file():
            calibration = folder / "calib.txt"
        if self.pose_file not in (None, WITHOUT_POSES) and calibration is None:
            raise InputError(
                f"{self.pose_file}: these are poses of a camera, and {folder} holds no calib.txt with the lidar's place; give "
                "calibration=, or poses='none'"
            )
        self.poses = number_poses(self.pose_file, calibration, self.files, by_name=True)
        file = (
            times
            if times is not None
            else (folder / "times.txt" if (folder / "times.txt").is_file() else None)
        )
        self.time_file = file
        self.times = (
            _times_by_name(file, self.files)
            if file is not None
            else at_rate(number_of(self.files[-1]) + 1, 10.0)[[number_of(f) for f in self.files]]
        )

    def _read(self, index: int) -> Sweep:
        file = self.files[index]
        read = read_points(file, 4)
        time = time_at(self.times, index, file, self.time_file)
        return Sweep(
            read.points,
            time,
            intensity=read.intensity,
            deskewed=True,
            source=str(file),
            pose=pose_at(self.poses, index, file, self.pose_file),
            meta={"reader": "kitti-odometry"},
        )


class KittiRaw(SweepFiles):
    """A drive of the KITTI raw data: ``velodyne_points/data/*.bin`` and ``timestamps.txt``, and ``oxts`` where it is there.

    Poses are the lidar's: the GPS and inertial unit's by the devkit's Mercator projection, scaled at the first packet's
    latitude, then ``calib_imu_to_velo.txt`` (in the drive's folder, or beside it in that of the day). The world is the unit's frame at
    the first packet. The packets of a ``_sync`` drive are those of the same number. Sweeps of the raw data, unlike those of
    the odometry benchmark, hold the sensor's motion (its readme: points have to be untwisted); they have no times of points.

    Args:
        path: the folder of the drive, or a folder with the `.bin` files themselves.
        poses: the camera's poses (KITTI, with `calibration` Tr) in place of those from ``oxts``; "none" reads none.
        calibration: for ``oxts`` the file ``calib_imu_to_velo.txt``; for `poses` the file with ``Tr``.

    Raises:
        InputError: for a folder without `.bin` files, ``oxts`` without its calibration, fewer times or poses than the last file's
            number; when a sweep is read, for its file, its time that is out of order, and its packet that is missing or damaged.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        poses: str | os.PathLike[str] | None = None,
        calibration: str | os.PathLike[str] | None = None,
    ) -> None:
        folder = require_folder(path, "a KITTI raw drive")
        scans = folder / "velodyne_points" / "data"
        super().__init__(
            sorted(
                files_in_order(scans if scans.is_dir() else folder, (".bin",), "a KITTI raw drive"),
                key=number_of,
            )
        )
        self.time_file = stamps = folder / "velodyne_points" / "timestamps.txt"
        self.times = (
            _times_by_name(stamps, self.files)
            if stamps.is_file()
            else at_rate(number_of(self.files[-1]) + 1, 10.0)[[number_of(f) for f in self.files]]
        )
        self.pose_file, self.poses, self.packets = poses, None, None
        if poses is not None and poses != WITHOUT_POSES:
            if calibration is None:
                raise InputError(
                    f"{poses}: these are poses of a camera; give calibration= with the lidar's place (Tr)"
                )
            self.poses = number_poses(poses, calibration, self.files, by_name=True)
        elif poses is None and (folder / "oxts" / "data").is_dir():
            here = folder / "calib_imu_to_velo.txt"
            file = (
                Path(calibration)
                if calibration is not None
                else here
                if here.is_file()
                else folder.parent / here.name
            )
            if not file.is_file():
                raise InputError(
                    f"{file}: missing, and without it the poses of {folder / 'oxts'} are not the lidar's; fetch the "
                    "calibration of the day, or say poses='none'"
                )
            self.packets = folder / "oxts" / "data"
            self.unit_to_lidar = read_calibration(file, ("Tr_imu_to_velo",))
            self.origin = read_packet(
                files_in_order(self.packets, (".txt",), "packets of the unit")[0]
            )

    def _read(self, index: int) -> Sweep:
        file = self.files[index]
        read = read_points(file, 4)
        pose = pose_at(self.poses, index, file, self.pose_file)
        if self.packets is not None:
            unit = unit_pose(
                read_packet(self.packets / f"{file.stem}.txt"),
                math.cos(math.radians(self.origin[0])),
            )
            first = unit_pose(self.origin, math.cos(math.radians(self.origin[0])))
            pose = inverse(first) @ unit @ inverse(self.unit_to_lidar)
        time = time_at(self.times, index, file, self.time_file)
        return Sweep(
            read.points,
            time,
            intensity=read.intensity,
            deskewed=False,
            source=str(file),
            pose=pose,
            meta={"reader": "kitti-raw"},
        )


class KittiSceneFlow:
    """Pairs of clouds with their flow: a folder of `.npz` files, or one such file; each file is a pair of its own.

    ``data.pair(k)`` gives the two sweeps, the first with its labels; ``data[k]`` is that first one. The flow includes the
    sensor's own motion. The set does not say who moves: no point is labelled dynamic, and the category is -1.

    Args:
        frame: "camera", as the set is handed around (Liu et al. 2019: x left, y up, z forward), turned here to x forward, y left,
            z up; or "lidar", which leaves the axes as they are.

    Raises:
        InputError: for a folder without `.npz` files; when a pair is read, for a damaged one, and for arrays that are missing or
            of other shapes.
    """

    def __init__(
        self, path: str | os.PathLike[str], frame: Literal["camera", "lidar"] = "camera"
    ) -> None:
        path = Path(path).expanduser()
        self.files = (
            [require_file(path)]
            if path.is_file()
            else files_in_order(require_folder(path, "pairs"), (".npz",), "pairs")
        )
        if frame not in ("camera", "lidar"):
            raise InputError(f"frame must be 'camera' or 'lidar', got {frame!r}")
        self.frame = frame
        self.names = [file.stem for file in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sweep:
        return self.pair(index)[0]

    def pair(self, index: int) -> tuple[Sweep, Sweep]:
        """The first sweep with its flow labels, and the second; 0.1 s apart."""
        file = require_file(self.files[check_index(index, len(self))])
        with decoding(file, "scene flow"), np.load(file, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(f"{file}: not a .npz archive; save the pair again")
            names = _names(file, archive.files)
            first, second, flow = (
                self._turned(file, name, member(file, archive, name)) for name in names
            )
        if len(flow) != len(first):
            raise InputError(
                f"{file}: {len(flow):,} flows for {len(first):,} points of {names[0]}; save one a point"
            )
        for cloud in (first, second):
            require_measurements(file, cloud)
        unknown = torch.full((len(first),), -1, dtype=torch.int64)
        labels = FlowLabels(
            flow, flow.isfinite().all(1), torch.zeros(len(first), dtype=torch.bool), unknown, ()
        )
        meta = {"reader": "kitti-scene-flow", "frame": self.frame}
        return (
            Sweep(first, 0.0, labels=labels, source=f"{file} ({names[0]})", meta=meta),
            Sweep(second, 0.1, source=f"{file} ({names[1]})", meta=meta),
        )

    def _turned(self, file: Path, name: str, array: np.ndarray) -> torch.Tensor:
        if array.ndim != 2 or array.shape[1] != 3:
            raise InputError(f"{file}: {name} has the shape {array.shape}; expected (N, 3)")
        turned = array[:, [2, 0, 1]] if self.frame == "camera" else array
        return torch.from_numpy(np.ascontiguousarray(turned, dtype=np.float32))


def read_packet(path: Path) -> list[float]:
    """The numbers of one packet of the GPS and inertial unit, 30 on one line."""
    numbers = read_numbers(require_file(path))
    if len(numbers) != _OXTS or not np.isfinite(numbers[:6]).all():
        raise InputError(
            f"{path}: {len(numbers)} numbers; a packet of the unit has {_OXTS}, the first six finite"
        )
    return numbers


def unit_pose(packet: Sequence[float], scale: float) -> Tensor:
    """The unit's frame (x forward, y left, z up) on the map (x east, y north, z up), ``(4, 4)``.

    Position: Mercator, ``s R (lon, ln tan(pi/4 + lat/2))`` with the scale s = cos(latitude of the first packet); rotation:
    ``Rz(yaw) Ry(pitch) Rx(roll)``, yaw 0 to the east (KITTI raw devkit, convertOxtsToPose).
    """
    latitude, longitude, altitude, roll, pitch, yaw = packet[:6]
    if not abs(latitude) < 89:
        raise InputError(f"the latitude {latitude} has no place on the map")
    north = math.log(math.tan(math.pi / 4 + math.radians(latitude) / 2))
    position = [scale * _EARTH * math.radians(longitude), scale * _EARTH * north, altitude]
    return rigid(
        _about(2, yaw) @ _about(1, pitch) @ _about(0, roll),
        torch.tensor(position, dtype=torch.float64),
    )


def _about(axis: int, angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    turn = torch.eye(3, dtype=torch.float64)
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
    return turn


def _times_by_name(path: str | os.PathLike[str], files: Sequence[Path]) -> np.ndarray:
    """The time of each file, whose name is the number of its line (from 0)."""
    times = read_times(path)
    numbers = [number_of(file) for file in files]
    if max(numbers) >= len(times):
        raise InputError(
            f"{path}: {len(times)} times, but the sweep {files[-1].name} needs that of number {max(numbers)} (from 0); give "
            "the times of this sequence"
        )
    return times[numbers]


def _names(file: Path, there: Sequence[str]) -> tuple[str, str, str]:
    first = next((name for name in FIRST if name in there), None)
    # "pc1" is the second cloud where there is a "pc0".
    second = next((name for name in SECOND if name in there and name != first), None)
    if first == "pc1" and "pc0" in there:
        first, second = "pc0", "pc1"
    flow = next((name for name in FLOW if name in there), None)
    if first is None or second is None or flow is None:
        raise InputError(
            f"{file}: a pair needs two clouds ({', '.join(FIRST[:2])}; {', '.join(SECOND[:2])}) and the flow "
            f"({', '.join(FLOW[:3])}); there is {', '.join(there) or 'nothing'}"
        )
    return first, second, flow
