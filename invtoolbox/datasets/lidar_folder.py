"""A folder of point files, one a sweep, with or without poses and times."""

from __future__ import annotations

import collections
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from invtoolbox.datasets.point_files import SUFFIXES, column_names, read_points
from invtoolbox.datasets.pose_files import read_poses, read_times, require_rising
from invtoolbox.datasets.sweep_files import WITHOUT_POSES, SweepFiles, at_rate, files_in_order, numbered_poses, pose_at, require_folder
from invtoolbox.errors import InputError
from invtoolbox.scenes.sweep import Sweep

# What lies beside the sweeps in the folder, found by its name.
_POSES = ("poses.txt", "poses.npy")
_TIMES = ("times.txt", "timestamps.txt")


class LidarFolder(SweepFiles):
    """Sweeps from a folder of `.bin`, `.pcd`, `.ply`, `.npy` or `.npz` files, in the order of the numbers in their names.

    Args:
        path: the folder; all point files in it have one format.
        poses: the sensor's poses in the world, one a sweep (see `read_poses`); by default ``poses.txt`` or ``poses.npy`` in the
            folder, where there is one. "none" reads none.
        calibration: where the poses are a camera's, a file with what takes points of the lidar into its frame (``Tr``).
        times: seconds or dates, one a sweep; by default ``times.txt`` or ``timestamps.txt`` in the folder, then the times of a
            TUM file of poses, then those of `rate`.
        rate: sweeps a second, where no times are known.
        columns: of `.bin` and `.npy`: the number of columns, or their names (see `read_points`).
        deskewed: whether the sensor's motion within the sweeps has been removed, for who knows it.

    Raises:
        InputError: for a folder without point files or with several formats, times out of order, another number of poses or
            times than of sweeps.
    """

    def __init__(self, path: str | os.PathLike[str], poses: str | os.PathLike[str] | None = None,
                 calibration: str | os.PathLike[str] | None = None, times: str | os.PathLike[str] | None = None, rate: float = 10.0,
                 columns: int | Sequence[str] | None = None, deskewed: bool | None = None) -> None:
        folder = require_folder(path, "sweeps")
        super().__init__(sweep_files_of(folder))
        self.columns, self.deskewed = columns, deskewed
        if columns is not None:
            column_names(columns, 4)
        self.pose_file = poses if poses is not None else _beside(folder, _POSES)
        self.poses = numbered_poses(self.pose_file, calibration, self.files, by_name=False)
        self.times = self._times(folder, times, rate)

    def _times(self, folder: Path, times: str | os.PathLike[str] | None, rate: float) -> np.ndarray:
        file = times if times is not None else _beside(folder, _TIMES)
        if file is not None:
            found = read_times(file)
            if len(found) != len(self):
                raise InputError(f"{file}: {len(found)} times for {len(self)} sweeps in {folder}; give one a sweep")
            return found
        if self.poses is not None and self.pose_file not in (None, WITHOUT_POSES):
            assert self.pose_file is not None
            stated = read_poses(self.pose_file).times
            if stated is not None:
                require_rising(self.pose_file, stated)
                return stated
        return at_rate(len(self), rate)

    def _read(self, index: int) -> Sweep:
        file = self.files[index]
        read = read_points(file, self.columns)
        return Sweep(read.points, float(self.times[index]), read.time, read.intensity, read.ring,
                     pose_at(self.poses, index, file, self.pose_file), self.deskewed, source=str(file), meta={"reader": "lidar-folder"})


def sweep_files_of(folder: Path) -> list[Path]:
    """The point files of a folder, all of one format, or an `InputError` that counts the formats."""
    files = [file for file in files_in_order(folder, SUFFIXES, "sweeps") if file.name not in (*_POSES, *_TIMES)]
    kinds = collections.Counter(file.suffix.lower() for file in files)
    if len(kinds) > 1:
        first = {kind: next(file.name for file in files if file.suffix.lower() == kind) for kind in kinds}
        listed = ", ".join(f"{count} {kind} ({first[kind]})" for kind, count in kinds.items())
        raise InputError(f"{folder}: the folder holds point files of several formats, {listed}; keep the sweeps of one sequence in one")
    if not files:
        raise InputError(f"{folder}: the folder holds no sweeps, only poses or times; give the folder of the sweeps")
    if len({file.stem for file in files}) < len(files):
        raise InputError(f"{folder}: two sweeps have one name but for the case of its suffix; rename one")
    return files


def _beside(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)
