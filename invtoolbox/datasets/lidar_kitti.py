"""KITTI's lidar: odometry sequences and raw drives. (Its scene flow pairs: lidar_kitti_flow.py.)"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invtoolbox.datasets.files import require_file
from invtoolbox.datasets.point_files import read_points
from invtoolbox.datasets.pose_files import read_calibration, read_numbers, read_times
from invtoolbox.datasets.sweep_files import (
    WITHOUT_POSES,
    SweepFiles,
    at_rate,
    files_in_order,
    number_of,
    numbered_poses,
    pose_at,
    require_folder,
    time_at,
)
from invtoolbox.errors import InputError
from invtoolbox.scenes.rigid import inverse, rigid
from invtoolbox.scenes.sweep import Sweep

_EARTH = 6378137.0  # metres: the radius of the devkit's Mercator projection
_OXTS = 30  # numbers of a packet, of which the first six are latitude, longitude, altitude, roll, pitch and yaw


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
        self.poses = numbered_poses(self.pose_file, calibration, self.files, by_name=True)
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
            self.poses = numbered_poses(poses, calibration, self.files, by_name=True)
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
