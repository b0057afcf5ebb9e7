"""Readers of KITTI's lidar data: odometry sequences, raw drives and scene flow pairs.

Scene flow pairs are NumPy archives with two clouds and the flow of the first cloud, the form in
which the KITTI scene flow set is distributed.
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

from invtoolbox.core.checks import open_arrays, reading, require_file
from invtoolbox.core.guards import check_choice
from invtoolbox.datasets.measurement import check_index
from invtoolbox.datasets.pose_files import read_calibration, read_numbers, read_times
from invtoolbox.datasets.sweeps.point_files import read_member, read_points, require_measurements
from invtoolbox.datasets.sweeps.sweep_files import (
    WITHOUT_POSES,
    SweepFiles,
    files_in_order,
    number_of,
    number_poses,
    pose_at,
    require_folder,
    time_at,
    times_at_rate,
)
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import inverse, rigid
from invtoolbox.geometry.sweeps import FlowLabels, Sweep

# Radius of the earth in the devkit's Mercator projection, in metres.
_EARTH = 6378137.0
# Number of values in a packet; the first six are latitude, longitude, altitude, roll, pitch and
# yaw.
_OXTS = 30

#: Names in an archive of the first cloud, the second cloud and the flow.
FIRST, SECOND, FLOW = (
    ("pc1", "pos1", "pc0"),
    ("pc2", "pos2", "pc1"),
    ("flow", "gt", "gt_flow", "sf", "gt_flow_0_1"),
)


class KittiOdometry(SweepFiles):
    """Sequence of the KITTI odometry benchmark.

    Its files are ``velodyne/*.bin``, ``calib.txt``, ``times.txt``, and ``../../poses/XX.txt`` or
    ``poses.txt``. The number in a file's name is the number of its line in the poses and in the
    times. Poses of the files are the left camera's. `Sweep.pose` is the lidar's pose,
    ``Tr^-1 P Tr``, in the frame of the lidar at the identity pose of the camera. The scans of the
    benchmark have the sensor's motion removed (`deskewed`), and no times of points or rings.

    Args:
        path: path of the folder of the sequence, or of a folder with the `.bin` files themselves.
        poses: file of the camera's poses; by default the file in the layout of the data set, if it
            exists. "none" reads no poses.
        calibration: file with the line ``Tr`` (or ``Tr_velo_to_cam``); by default ``calib.txt`` of
            the sequence.
        times: file of seconds, one per line; by default ``times.txt`` of the sequence, or 10 sweeps
            per second without such a file.

    Raises:
        InputError: for a folder without `.bin` files, poses without a calibration, or fewer poses
            or times than the last file's number. When a sweep is read: for a damaged file, or a
            time that is out of order.
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
        folder_of_scans = scans if scans.is_dir() else folder
        super().__init__(
            files_in_order(folder_of_scans, (".bin",), "a KITTI odometry sequence", numbered=True)
        )
        if poses is None and scans.is_dir():
            benchmark = folder.parent.parent / "poses" / f"{folder.name}.txt"
            poses = next((f for f in (benchmark, folder / "poses.txt") if f.is_file()), None)
        if calibration is None and (folder / "calib.txt").is_file():
            calibration = folder / "calib.txt"
        if poses not in (None, WITHOUT_POSES) and calibration is None:
            raise InputError(
                f"{poses}: these are poses of a camera, and {folder} holds no calib.txt with the "
                "place of the lidar; give calibration=, or poses='none'"
            )
        self.pose_file = poses
        self.poses = number_poses(poses, calibration, self.files, by_name=True)
        if times is None and (folder / "times.txt").is_file():
            times = folder / "times.txt"
        self.time_file = times
        self.times = _times_by_name(times, self.files)

    def _read(self, index: int) -> Sweep:
        file = self.files[index]
        read = read_points(file, 4)
        return Sweep(
            read.points,
            time_at(self.times, index, file, self.time_file),
            intensity=read.intensity,
            deskewed=True,
            source=str(file),
            pose=pose_at(self.poses, index, file, self.pose_file),
            meta={"reader": "kitti-odometry"},
        )


class KittiRaw(SweepFiles):
    """Drive of the KITTI raw data.

    Its files are ``velodyne_points/data/*.bin`` and ``timestamps.txt``, and optionally ``oxts``.
    `Sweep.pose` is the lidar's pose. It is computed from the pose of the GPS and inertial unit by
    the devkit's Mercator projection, scaled at the latitude of the first packet, and from
    ``calib_imu_to_velo.txt``, which lies in the folder of the drive or in the folder of the day
    above it. The world is the unit's frame at the first packet. In a ``_sync`` drive, sweeps and
    packets of the same number belong together.

    Sweeps of the raw data contain the sensor's motion, unlike sweeps of the odometry benchmark (its
    readme: points have to be untwisted). They have no times of points.

    Args:
        path: path of the folder of the drive, or of a folder with the `.bin` files themselves.
        poses: file of the camera's poses (KITTI, with `calibration` Tr), which replace the poses
            from ``oxts``; "none" reads no poses.
        calibration: the file ``calib_imu_to_velo.txt`` for ``oxts``, or the file with ``Tr`` for
            `poses`.

    Raises:
        InputError: for a folder without `.bin` files, ``oxts`` without its calibration, or fewer
            times or poses than the last file's number. When a sweep is read: for a damaged file, a
            time that is out of order, or a missing or damaged packet.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        poses: str | os.PathLike[str] | None = None,
        calibration: str | os.PathLike[str] | None = None,
    ) -> None:
        folder = require_folder(path, "a KITTI raw drive")
        scans = folder / "velodyne_points" / "data"
        folder_of_scans = scans if scans.is_dir() else folder
        super().__init__(
            files_in_order(folder_of_scans, (".bin",), "a KITTI raw drive", numbered=True)
        )
        self.time_file = stamps = folder / "velodyne_points" / "timestamps.txt"
        self.times = _times_by_name(stamps if stamps.is_file() else None, self.files)
        self.pose_file, self.poses, self.packets = poses, None, None
        if poses is not None and poses != WITHOUT_POSES:
            if calibration is None:
                raise InputError(
                    f"{poses}: these are poses of a camera; give calibration= with the place of "
                    "the lidar (Tr)"
                )
            self.poses = number_poses(poses, calibration, self.files, by_name=True)
        elif poses is None and (folder / "oxts" / "data").is_dir():
            name = "calib_imu_to_velo.txt"
            if calibration is None:
                calibration = (folder if (folder / name).is_file() else folder.parent) / name
            file = Path(calibration)
            if not file.is_file():
                raise InputError(
                    f"{file}: missing, and without it the poses of {folder / 'oxts'} are not the "
                    "lidar's; fetch the calibration of the day, or give poses='none'"
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
            scale = math.cos(math.radians(self.origin[0]))
            unit = unit_pose(read_packet(self.packets / f"{file.stem}.txt"), scale)
            first = unit_pose(self.origin, scale)
            pose = inverse(first) @ unit @ inverse(self.unit_to_lidar)
        return Sweep(
            read.points,
            time_at(self.times, index, file, self.time_file),
            intensity=read.intensity,
            deskewed=False,
            source=str(file),
            pose=pose,
            meta={"reader": "kitti-raw"},
        )


class KittiSceneFlow:
    """Pairs of clouds with their flow, from a folder of `.npz` files or from one file per pair.

    Each file is an independent pair. ``data.pair(k)`` returns its two sweeps, the first with its
    labels; ``data[k]`` returns the first sweep. The flow includes the sensor's own motion. The set
    has no labels of motion and of categories: no point is labelled dynamic, and the category is -1.

    Args:
        path: path of a folder or of a file.
        frame: "camera" for the axes in which the set is distributed (Liu et al. 2019: x left, y up,
            z forward), which are rotated to x forward, y left, z up; "lidar" for axes that need no
            rotation.

    Raises:
        InputError: for a folder without `.npz` files. When a pair is read: for a damaged file, and
            for arrays that are missing or have other shapes.
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
        check_choice(self, ("camera", "lidar"), frame=frame)
        self.frame = frame
        self.names = [file.stem for file in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sweep:
        return self.pair(index)[0]

    def pair(self, index: int) -> tuple[Sweep, Sweep]:
        """Read the first sweep with its flow labels, and the second sweep 0.1 s later."""
        file = self.files[check_index(index, len(self))]
        with reading(file, "scene flow"), open_arrays(file) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(f"{file}: not a .npz archive; save the pair again")
            names = _choose_names(file, archive.files)
            first, second, flow = (
                self._rotate(file, name, read_member(file, archive, name)) for name in names
            )
        if len(flow) != len(first):
            raise InputError(
                f"{file}: {len(flow):,} flows for {len(first):,} points of {names[0]}; save one "
                "flow per point"
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

    def _rotate(self, file: Path, name: str, array: np.ndarray) -> torch.Tensor:
        if array.ndim != 2 or array.shape[1] != 3:
            raise InputError(f"{file}: {name} has the shape {array.shape}; expected (N, 3)")
        array = array[:, [2, 0, 1]] if self.frame == "camera" else array
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def read_packet(path: Path) -> list[float]:
    """Read one packet of the GPS and inertial unit: 30 numbers on one line."""
    numbers = read_numbers(require_file(path))
    if len(numbers) != _OXTS or not np.isfinite(numbers[:6]).all():
        raise InputError(
            f"{path}: {len(numbers)} numbers; a packet of the unit has {_OXTS}, the first six "
            "finite; fetch it again"
        )
    return numbers


def unit_pose(packet: Sequence[float], scale: float) -> Tensor:
    """Compute the pose of the unit (x forward, y left, z up) on the map (x east, y north, z up).

    The position is the Mercator projection ``s R (lon, ln tan(pi/4 + lat/2))`` with the scale
    ``s = cos(latitude of the first packet)``. The rotation is ``Rz(yaw) Ry(pitch) Rx(roll)``, with
    yaw 0 to the east (KITTI raw devkit, convertOxtsToPose). The pose is ``(4, 4)``.
    """
    latitude, longitude, altitude, roll, pitch, yaw = packet[:6]
    if not abs(latitude) < 89:
        raise InputError(f"the latitude {latitude} has no place on the map; fetch the packet again")
    north = math.log(math.tan(math.pi / 4 + math.radians(latitude) / 2))
    position = [scale * _EARTH * math.radians(longitude), scale * _EARTH * north, altitude]
    return rigid(
        _rotation_about(2, yaw) @ _rotation_about(1, pitch) @ _rotation_about(0, roll),
        torch.tensor(position, dtype=torch.float64),
    )


def _rotation_about(axis: int, angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    turn = torch.eye(3, dtype=torch.float64)
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
    return turn


def _times_by_name(path: str | os.PathLike[str] | None, files: Sequence[Path]) -> np.ndarray:
    """Return the time of each file, whose name is the number of its line (from 0).

    Without a file of times, there are 10 sweeps per second.
    """
    numbers = [number_of(file) for file in files]
    times = times_at_rate(numbers[-1] + 1, 10.0) if path is None else read_times(path)
    if max(numbers) >= len(times):
        raise InputError(
            f"{path}: {len(times)} times, but the sweep {files[-1].name} needs time number "
            f"{max(numbers)} (counted from 0); give the times of this sequence"
        )
    return times[numbers]


def _choose_names(file: Path, names: Sequence[str]) -> tuple[str, str, str]:
    first = next((name for name in FIRST if name in names), None)
    # "pc1" is the second cloud if there is a "pc0".
    second = next((name for name in SECOND if name in names and name != first), None)
    if first == "pc1" and "pc0" in names:
        first, second = "pc0", "pc1"
    flow = next((name for name in FLOW if name in names), None)
    if first is None or second is None or flow is None:
        raise InputError(
            f"{file}: a pair needs two clouds ({', '.join(FIRST[:2])}; {', '.join(SECOND[:2])}) "
            f"and the flow ({', '.join(FLOW[:3])}), but the file holds "
            f"{', '.join(names) or 'nothing'}"
        )
    return first, second, flow
