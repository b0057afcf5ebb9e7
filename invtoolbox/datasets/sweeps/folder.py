"""A folder of point files, one a sweep, with or without poses and times.

Ouster frames as NumPy archives: points, nanoseconds, rings and reflectivities.
"""

from __future__ import annotations

import collections
import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from invtoolbox.core.checks import decoding, require_file
from invtoolbox.datasets.sweeps.point_files import SUFFIXES, column_names, read_points
from invtoolbox.datasets.sweeps.pose_files import read_poses, read_times
from invtoolbox.datasets.sweeps.sweep_files import (
    WITHOUT_POSES,
    SweepFiles,
    at_rate,
    files_in_order,
    number_poses,
    pose_at,
    require_folder,
    time_at,
)
from invtoolbox.errors import InputError
from invtoolbox.geometry.sweeps import Sweep

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
        InputError: for a folder without point files or with several formats, and for another number of poses or times than of
            sweeps; when a sweep is read, for its file, for its time that is out of order, and for another format than the others'.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        poses: str | os.PathLike[str] | None = None,
        calibration: str | os.PathLike[str] | None = None,
        times: str | os.PathLike[str] | None = None,
        rate: float = 10.0,
        columns: int | Sequence[str] | None = None,
        deskewed: bool | None = None,
    ) -> None:
        folder = require_folder(path, "sweeps")
        super().__init__(sweep_files_of(folder))
        self.suffix = _usual(self.files)
        self.columns, self.deskewed = columns, deskewed
        if columns is not None:
            column_names(columns, 4)
        self.pose_file = poses if poses is not None else _beside(folder, _POSES)
        self.poses = number_poses(self.pose_file, calibration, self.files, by_name=False)
        self.times, self.time_file = self._times(folder, times, rate)

    def _times(
        self, folder: Path, times: str | os.PathLike[str] | None, rate: float
    ) -> tuple[np.ndarray, str | os.PathLike[str] | None]:
        file = times if times is not None else _beside(folder, _TIMES)
        if file is not None:
            found = read_times(file)
            if len(found) != len(self):
                raise InputError(
                    f"{file}: {len(found)} times for {len(self)} sweeps in {folder}; give one a sweep"
                )
            return found, file
        if self.poses is not None and self.pose_file not in (None, WITHOUT_POSES):
            assert self.pose_file is not None
            stated = read_poses(self.pose_file).times
            if stated is not None:
                return stated, self.pose_file
        return at_rate(len(self), rate), None

    def _read(self, index: int) -> Sweep:
        file = self.files[index]
        if file.suffix.lower() != self.suffix:
            raise InputError(
                f"{file}: the other sweeps of the folder are {self.suffix} files, and this is none; write it as they are"
            )
        time = time_at(self.times, index, file, self.time_file)
        read = read_points(file, self.columns)
        return Sweep(
            read.points,
            time,
            read.time,
            read.intensity,
            read.ring,
            pose_at(self.poses, index, file, self.pose_file),
            self.deskewed,
            source=str(file),
            meta={"reader": "lidar-folder"},
        )


class OusterFrames(SweepFiles):
    """Sweeps from a folder of `.npz` files, each with ``xyz`` (N, 3) in metres in the sensor's frame, ``t_ns`` (N,), ``ring`` (N,)
    and ``reflectivity`` (N,), as they are saved from the scans of Ouster's SDK.

    A sweep's timestamp is the least of its ``t_ns``; points are as they were measured, so `deskewed` is false.

    Args:
        poses: the sensor's poses, one a sweep (see `read_poses`); the format has none of its own.

    Raises:
        InputError: for a folder without such files, and another number of poses than of sweeps; when a sweep is read, for its file,
            and its time that is out of order.
    """

    def __init__(
        self, path: str | os.PathLike[str], poses: str | os.PathLike[str] | None = None
    ) -> None:
        folder = require_folder(path, "Ouster frames")
        super().__init__(files_in_order(folder, (".npz",), "Ouster frames"))
        self.pose_file = poses
        self.poses = number_poses(poses, None, self.files, by_name=False)

    def _read(self, index: int) -> Sweep:
        file = self.files[index]
        require_file(file)
        with decoding(file, "Ouster frame"), zipfile.ZipFile(file) as archive:
            missing = [name for name in ("xyz", "t_ns") if f"{name}.npy" not in archive.namelist()]
        if missing:
            raise InputError(
                f"{file}: an Ouster frame needs the array{'s' * (len(missing) > 1)} {' and '.join(missing)}; save it again"
            )
        before, now = first_time(self.files[index - 1]) if index else None, first_time(file)
        if before is not None and now is not None:
            time_at(np.array([before, now]) / 1e9, 1, file, file)
        read = read_points(file)
        return Sweep(
            read.points,
            read.start or 0.0,
            read.time,
            read.intensity,
            read.ring,
            pose_at(self.poses, index, file, self.pose_file),
            deskewed=False,
            source=str(file),
            meta={"reader": "ouster"},
        )


def sweep_files_of(folder: Path) -> list[Path]:
    """The point files of a folder, or an `InputError` that counts their formats.

    A file of another format that is named as the sweeps are takes the place of one, and is refused when that is read.
    """
    files = [
        file
        for file in files_in_order(folder, SUFFIXES, "sweeps")
        if file.name not in (*_POSES, *_TIMES)
    ]
    kinds = collections.Counter(file.suffix.lower() for file in files)
    usual = _usual(files) if files else ""
    words = {_word(file) for file in files if file.suffix.lower() == usual}
    if len(kinds) > 1 and (
        2 * kinds[usual] <= len(files) or any(_word(file) not in words for file in files)
    ):
        first = {
            kind: next(file.name for file in files if file.suffix.lower() == kind) for kind in kinds
        }
        listed = ", ".join(f"{count} {kind} ({first[kind]})" for kind, count in kinds.items())
        raise InputError(
            f"{folder}: the folder holds point files of several formats, {listed}; keep the sweeps of one sequence in one"
        )
    if not files:
        raise InputError(
            f"{folder}: the folder holds no sweeps, only poses or times; give the folder of the sweeps"
        )
    if len({file.stem for file in files}) < len(files):
        raise InputError(
            f"{folder}: two sweeps have one name but for its suffix; rename one, or leave it out"
        )
    return files


def first_time(file: Path) -> int | None:
    """The first ``t_ns`` of a frame, of which only the beginning is unpacked; None where the file has none that can be read.

    What is wrong with such a file is said when its sweep is read.
    """
    try:
        with (
            decoding(file, "Ouster frame"),
            zipfile.ZipFile(file) as archive,
            archive.open("t_ns.npy") as stream,
        ):
            version = np.lib.format.read_magic(stream)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            _, _, dtype = read(stream)
            return (
                int(np.frombuffer(stream.read(dtype.itemsize), dtype)[0])
                if dtype.kind in "iu"
                else None
            )
    except InputError:
        return None


def _usual(files: Sequence[Path]) -> str:
    """The suffix that most files have."""
    return collections.Counter(file.suffix.lower() for file in files).most_common(1)[0][0]


def _word(file: Path) -> str:
    """What the names of the sweeps of a sequence have in common: all but the numbers."""
    return re.sub(r"\d+", "0", file.stem)


def _beside(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)
