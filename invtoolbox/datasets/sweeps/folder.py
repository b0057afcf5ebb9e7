"""Readers of folders of point files, with one file per sweep.

`LidarFolder` reads sweeps of any known format, with or without poses and times. `OusterFrames`
reads frames saved from Ouster's SDK as NumPy archives: points, nanoseconds, rings and
reflectivities.
"""

from __future__ import annotations

import collections
import functools
import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from invtoolbox.core.checks import decoding, reading
from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.datasets.pose_files import read_poses, read_times
from invtoolbox.datasets.sweeps.clocks import UNITS, WITHOUT_CLOCK, Clock
from invtoolbox.datasets.sweeps.columns import column_names
from invtoolbox.datasets.sweeps.folder_times import SEVERAL, Timing, find_timing, stamps_of_names
from invtoolbox.datasets.sweeps.point_files import SUFFIXES, read_npy_header, read_points
from invtoolbox.datasets.sweeps.sweep_files import (
    WITHOUT_POSES,
    SweepFiles,
    files_in_order,
    number_poses,
    pose_at,
    require_folder,
    time_at,
)
from invtoolbox.errors import InputError
from invtoolbox.geometry.sweeps import Sweep

# Names of the files of poses and of times in the folder of the sweeps.
_POSES = ("poses.txt", "poses.npy")
_TIMES = ("times.txt", "timestamps.txt")
#: Value of `times` for reading a folder without its file of times.
WITHOUT_TIMES = "none"
# Names of the folder of the sweeps of one of several sensors.
_LIDAR = ("lidar", "velodyne", "points", "sweeps", "pointcloud", "scans")


class LidarFolder(SweepFiles):
    """Sweeps from a folder of `.bin`, `.las`, `.laz`, `.pcd`, `.ply`, `.npy` or `.npz` files.

    The numbers in the names of the files give the order. Coordinates of a map (beyond 4 km) become
    relative to a place of each sweep, which its pose holds.

    Args:
        path: path of the folder, or of the folder around it; all point files in it have one format.
        poses: file of the sensor's poses in the world, one pose per sweep (see `read_poses`). The
            default is ``poses.txt`` or ``poses.npy`` in one of these folders, if it exists; "none"
            reads no poses. Poses with times, of another number than the sweeps, are interpolated at
            the times of a file of times.
        calibration: file of the calibration ``Tr`` that maps points of the lidar to a camera's
            frame, if the poses are the camera's.
        times: file of times or dates, one per sweep. The default is ``times.txt`` or
            ``timestamps.txt`` in the folder, then the times of a TUM file of poses, then `rate`,
            then the clock of the points if it counts on from sweep to sweep, then stamps in the
            names of the files, then the length of a turn; if nothing is known, 10 sweeps per
            second. "none" reads no file of times. ``meta["notes"]`` of a sweep states the choice.
        rate: number of sweeps per second; numbers that are missing among those of the names leave a
            gap in time.
        clock: unit of the times of the points: "s", "ms", "us" or "ns"; "none" leaves them out. By
            default the values, the name of the column and the neighbours decide
            (`clocks.decide`).
        columns: number of columns of `.bin` and `.npy`, or their names (see `read_points`).
        deskewed: whether the sensor's motion within the sweeps has been removed, if known.

    Raises:
        InputError: for a folder without point files or with several formats, and for a number of
            poses or times that differs from the number of sweeps. When a sweep is read: for a
            damaged file, a time that is out of order, or a format that differs from the others.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        poses: str | os.PathLike[str] | None = None,
        calibration: str | os.PathLike[str] | None = None,
        times: str | os.PathLike[str] | None = None,
        rate: float | None = None,
        columns: int | Sequence[str] | None = None,
        deskewed: bool | None = None,
        clock: str | None = None,
    ) -> None:
        check_range("a lidar sequence", "(0, inf]", rate=rate)
        if clock is not None:
            check_choice("a lidar sequence", (*UNITS, WITHOUT_CLOCK), clock=clock)
        around = require_folder(path, "sweeps")
        folder = folder_of_sweeps(around) or around
        self.folders = (folder, around)
        files = list_sweeps(folder)
        stamps, _ = stamps_of_names(files)
        if stamps is not None:  # 100.05 is before 100.1
            files = [files[k] for k in np.argsort(stamps, kind="stable")]
        super().__init__(files)
        self.suffix = _most_common_suffix(self.files)
        self.columns, self.deskewed = columns, deskewed
        if columns is not None:
            column_names(columns, 4)
        self.pose_file = poses if poses is not None else self._find(_POSES)
        self.folder, self.rate, self.clock = folder, rate, clock
        self.times, self.time_file = self._times(folder, times)
        self.is_found = times is None
        stated = None if self.time_file in (None, self.pose_file) else self.times
        self.poses = number_poses(self.pose_file, calibration, self.files, False, stated)

    def _times(
        self, folder: Path, times: str | os.PathLike[str] | None
    ) -> tuple[np.ndarray | None, str | os.PathLike[str] | None]:
        if times == WITHOUT_TIMES:
            return None, None
        file = times if times is not None else self._find(_TIMES)
        if file is not None:
            listed = read_times(file)
            if len(listed) != len(self):
                raise InputError(
                    f"{file}: {len(listed)} times for {len(self)} sweeps in {folder}; give one time "
                    "per sweep"
                )
            return listed, file
        if self.pose_file is not None and self.pose_file != WITHOUT_POSES:
            stored = read_poses(self.pose_file).times
            if stored is not None and len(stored) == len(self):
                return stored, self.pose_file
        return None, None

    @functools.cached_property
    def timing(self) -> Timing:
        """Source of the timestamps, found in the first sweeps."""
        # Sweeps that are missing between the others leave a gap in the numbers.
        numbers = _frame_numbers(self.files)
        return find_timing(
            self.folder,
            self.files,
            np.arange(len(self)) if numbers is None else numbers,
            self.columns,
            self.times,
            self.time_file,
            self.is_found,
            self.rate,
            self.clock,
        )

    def _find(self, names: Sequence[str]) -> Path | None:
        places = (folder / name for folder in self.folders for name in names)
        return next((place for place in places if place.is_file()), None)

    def _read(self, index: int) -> Sweep:
        file = self.files[index]
        if file.suffix.lower() != self.suffix:
            raise InputError(
                f"{file}: the other sweeps of the folder are {self.suffix} files; write this sweep "
                "in the same format"
            )
        if self.times is not None:
            time_at(self.times, index, file, self.time_file)
        timing = self.timing
        read = read_points(file, self.columns, timing.clock)
        if read.turns is not None and read.turns >= SEVERAL:
            raise InputError(
                f"{file}: the file holds {read.turns:.1f} turns of the lidar; open it by its own path, "
                "which cuts it into sweeps, or give clock='none' if it is one sweep"
            )
        timestamp, shift_of_time = timing.place(index, read)
        pose = pose_at(self.poses, index, file, self.pose_file)
        if read.origin is not None:
            # The sweep has its own origin in the map, of which float32 holds the rest exactly.
            shift = torch.eye(4, dtype=torch.float64)
            shift[:3, 3] = read.origin
            pose = shift if pose is None else pose @ shift
        return Sweep(
            read.points,
            timestamp,
            time=None if read.time is None else read.time + shift_of_time,
            intensity=read.intensity,
            ring=read.ring,
            pose=pose,
            deskewed=self.deskewed,
            source=str(file),
            meta={"reader": "lidar-folder", "notes": (*timing.notes, *read.notes)},
        )


class OusterFrames(SweepFiles):
    """Sweeps from a folder of `.npz` files that are saved from scans of Ouster's SDK.

    Each file has the arrays ``xyz`` (N, 3) in metres in the sensor's frame, ``t_ns`` (N,), ``ring``
    (N,) and ``reflectivity`` (N,). The timestamp of a sweep is the least of its ``t_ns``. Points
    are stored as measured, so `deskewed` is false.

    Args:
        path: path of the folder.
        poses: file of the sensor's poses, one pose per sweep (see `read_poses`); the format itself
            has no poses.

    Raises:
        InputError: for a folder without such files, and for a number of poses that differs from the
            number of sweeps. When a sweep is read: for a damaged file, or a time that is out of
            order.
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
        with reading(file, "Ouster frame"), zipfile.ZipFile(file) as archive:
            missing = [name for name in ("xyz", "t_ns") if f"{name}.npy" not in archive.namelist()]
        if missing:
            raise InputError(
                f"{file}: an Ouster frame needs the array{'s' * (len(missing) > 1)} "
                f"{' and '.join(missing)}; save it again"
            )
        before, now = first_time(self.files[index - 1]) if index else None, first_time(file)
        if before is not None and now is not None:
            time_at(np.array([before, now]) / 1e9, 1, file, file)
        read = read_points(file, clock=Clock(1e-9, True))
        return Sweep(
            read.points,
            read.start or 0.0,
            time=read.time,
            intensity=read.intensity,
            ring=read.ring,
            pose=pose_at(self.poses, index, file, self.pose_file),
            deskewed=False,
            source=str(file),
            meta={"reader": "ouster"},
        )


def folder_of_sweeps(folder: Path) -> Path | None:
    """Return the folder of the point files: a folder, or the folder within it, or within that.

    None if there is none.

    Raises:
        InputError: several folders hold point files, and none has the name of a lidar.
    """
    level = [folder]
    for _ in range(3):
        holding = [place for place in level if _holds_points(place)]
        named = [place for place in holding if place.name.lower() in _LIDAR]
        if len(holding) > 1 and len(named) != 1:
            raise InputError(
                f"{folder}: {len(holding)} folders hold point files "
                f"({', '.join(str(place.relative_to(folder)) for place in holding[:4])}); give one of "
                "them"
            )
        if holding:
            return (named or holding)[0]
        level = [
            inner
            for place in level
            for inner in sorted(place.iterdir())
            if inner.is_dir() and not inner.name.startswith(".")
        ]
    return None


def _holds_points(folder: Path) -> bool:
    return any(
        file.suffix.lower() in SUFFIXES and file.name not in (*_POSES, *_TIMES) and file.is_file()
        for file in folder.iterdir()
        if not file.name.startswith(".")
    )


def list_sweeps(folder: Path) -> list[Path]:
    """List the point files of a folder, or raise an `InputError` that counts their formats.

    A file of another format whose name fits the sweeps counts as a sweep; reading it is an error.
    """
    files = [
        file
        for file in files_in_order(folder, SUFFIXES, "sweeps")
        if file.name not in (*_POSES, *_TIMES)
    ]
    kinds = collections.Counter(file.suffix.lower() for file in files)
    suffix = _most_common_suffix(files) if files else ""
    words = {_mask_numbers(file) for file in files if file.suffix.lower() == suffix}
    if len(kinds) > 1 and (
        2 * kinds[suffix] <= len(files) or any(_mask_numbers(file) not in words for file in files)
    ):
        first = {
            kind: next(file.name for file in files if file.suffix.lower() == kind) for kind in kinds
        }
        listed = ", ".join(f"{count} {kind} ({first[kind]})" for kind, count in kinds.items())
        raise InputError(
            f"{folder}: the folder holds point files of several formats, {listed}; keep the sweeps "
            "of one sequence in one format"
        )
    if not files:
        raise InputError(
            f"{folder}: the folder holds only poses or times, but no sweeps; give the folder of "
            "the sweeps"
        )
    if len({file.stem for file in files}) < len(files):
        raise InputError(
            f"{folder}: two sweeps have one name with different suffixes; rename one, or leave it "
            "out"
        )
    return files


def first_time(file: Path) -> int | None:
    """Return the first ``t_ns`` of a frame, or None if it cannot be read.

    Only the beginning of the array is decompressed. An error in the file is raised when its sweep
    is read.
    """
    try:
        with (
            decoding(file, "Ouster frame"),
            zipfile.ZipFile(file) as archive,
            archive.open("t_ns.npy") as stream,
        ):
            _, dtype = read_npy_header(stream)
            if dtype.kind not in "iu":
                return None
            return int(np.frombuffer(stream.read(dtype.itemsize), dtype)[0])
    except InputError:
        return None


def _frame_numbers(files: Sequence[Path]) -> np.ndarray | None:
    """Return the numbers of frames in the names, counted from the first; None for other names."""
    matches = [re.fullmatch(r"(.*?)(\d{1,9})", file.stem) for file in files]
    words = {match[1] for match in matches if match is not None}
    if len(words) != 1 or any(match is None for match in matches):
        return None
    numbers = np.array([int(match[2]) for match in matches if match is not None])
    steps = np.diff(numbers)
    if not len(steps) or not (steps > 0).all() or np.median(steps) != 1:
        return None
    return numbers - numbers[0]


def _most_common_suffix(files: Sequence[Path]) -> str:
    return collections.Counter(file.suffix.lower() for file in files).most_common(1)[0][0]


def _mask_numbers(file: Path) -> str:
    """Replace the numbers in a name by 0; the rest is common to the sweeps of a sequence."""
    return re.sub(r"\d+", "0", file.stem)
