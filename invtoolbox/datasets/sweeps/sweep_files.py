"""Base class of the readers of lidar sweeps; names, order, times and poses of their files."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.datasets.measurement import check_index
from invtoolbox.datasets.pose_files import poses_of_lidar, read_calibration, read_poses
from invtoolbox.datasets.sweeps.point_files import require_measurements
from invtoolbox.errors import InputError, check_name
from invtoolbox.geometry.sweeps import Sweep

#: Value of `poses` for reading a data set without its poses.
WITHOUT_POSES = "none"

Entry = TypeVar("Entry")


class SweepFiles(ABC):
    """Sweeps with one file per sweep; `_read` of a subclass reads one file as a `Sweep`.

    The constructor examines only the names of the files. An error in a file is raised when its
    sweep is read, so that the other sweeps can be read.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self.names = [file.stem for file in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sweep:
        index = check_index(index, len(self))
        sweep = self._read(index)
        require_measurements(sweep.source, sweep.points)
        return sweep

    @abstractmethod
    def _read(self, index: int) -> Sweep: ...

    def __repr__(self) -> str:
        where = f" in {self.files[0].parent}" if self.files else ""
        return f"{type(self).__name__}: {len(self)} sweeps{where}"


class Recording(SweepFiles):
    """Sweeps of one file, which have their numbers as names.

    Args:
        file: the file, or a folder that one program wrote.
        count: number of sweeps.
        poses: file of the sensor's poses, one per sweep (see `read_poses`), or None.

    Raises:
        InputError: no sweep, or a number of poses that differs from the number of sweeps.
    """

    def __init__(self, file: Path, count: int, poses: str | os.PathLike[str] | None = None) -> None:
        if not count:
            raise InputError(f"{file}: the recording holds no sweep of the lidar; record it again")
        super().__init__([file] * count)
        self.names = [f"{k:06d}" for k in range(count)]
        self.file, self.pose_file = file, poses
        self.poses = number_poses(poses, None, self.files, by_name=False)

    def sweep(self, index: int, points: Tensor, timestamp: float, **columns: Any) -> Sweep:
        """Return a sweep as it was measured, with its pose.

        Args:
            index: its number.
            points: points ``(N, 3)``.
            timestamp: time in seconds.
            columns: further fields of `Sweep`.
        """
        return Sweep(
            points,
            timestamp,
            source=f"{self.file}, sweep {self.names[index]}",
            **{
                "deskewed": False,
                "pose": pose_at(self.poses, index, self.file, self.pose_file),
                **columns,
            },
        )


def require_folder(path: str | os.PathLike[str], what: str) -> Path:
    """Return the path of an existing folder, or raise an `InputError`."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        fault = "this is a file" if folder.exists() else "there is no such folder"
        raise InputError(f"{folder}: {fault}; give the folder of {what}")
    return folder


def files_in_order(
    folder: Path, suffixes: Sequence[str], what: str, numbered: bool = False
) -> list[Path]:
    """List the files of a folder with one of the suffixes, in the order of numbers in their names.

    It is an error if there is no such file, or if `numbered` is true and a name is not a number.
    """
    files = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in suffixes and not file.name.startswith(".") and file.is_file()
    ]
    if not files:
        raise InputError(
            f"{folder}: the folder holds no {' or '.join(suffixes)} file; give the folder of {what}"
        )
    if numbered:
        return sorted(files, key=number_of)
    return sorted(files, key=lambda file: _split_numbers(file.name))


def number_of(file: Path) -> int:
    """Return the number that is the name of a file."""
    if not file.stem.isdigit():
        raise InputError(
            f"{file}: the name is not a number; files of this data set have their number or time "
            "as name"
        )
    return int(file.stem)


def number_poses(
    poses: str | os.PathLike[str] | None,
    calibration: str | os.PathLike[str] | None,
    files: Sequence[Path],
    by_name: bool,
    times: np.ndarray | None = None,
) -> Tensor | None:
    """Read the pose of each file ``(n, 4, 4)`` from a file of poses; None without such a file.

    Args:
        poses: path of the file of poses, "none", or None.
        calibration: path of the calibration that maps points of the lidar to the camera's frame, if
            the poses are the camera's.
        files: files of the sweeps.
        by_name: whether the name of a file is the number of its pose (KITTI); otherwise there is
            one pose per file, in order.
        times: times of the sweeps, at which poses of another rate are interpolated; None if no file
            states them.
    """
    if poses is None or poses == WITHOUT_POSES:
        return None
    listed = read_poses(poses)
    matrices = listed.matrices
    if by_name:
        numbers = [number_of(file) for file in files]
        if numbers and max(numbers) >= len(matrices):
            raise InputError(
                f"{poses}: {len(matrices)} poses, but the sweep {files[-1].name} needs pose number "
                f"{max(numbers)} (counted from 0); give the poses of this sequence"
            )
        matrices = matrices[numbers]
    elif len(matrices) != len(files) and times is not None and listed.times is not None:
        matrices = listed.at(times, poses)
    elif len(matrices) != len(files):
        raise InputError(
            f"{poses}: {len(matrices)} poses for {len(files)} sweeps in {files[0].parent}; give "
            "one pose per sweep, poses and sweeps with times (lines time x y z qx qy qz qw, and "
            "times.txt), or poses='none'"
        )
    if calibration is None:
        return matrices
    return poses_of_lidar(matrices, read_calibration(calibration))


def pose_at(
    poses: Tensor | None, index: int, file: Path, source: str | os.PathLike[str] | None
) -> Tensor | None:
    """Return one of the poses, or raise an `InputError` if it is unknown (its numbers are NaN)."""
    if poses is None:
        return None
    if not bool(poses[index].isfinite().all()):
        raise InputError(
            f"{source}: the pose of {file.name} is missing (its numbers are not finite); give the "
            "pose, or poses='none'"
        )
    return poses[index]


def time_at(
    times: np.ndarray, index: int, file: Path, source: str | os.PathLike[str] | None
) -> float:
    """Return one of the times, or raise an `InputError` if it is not after the previous time."""
    if index and not times[index] > times[index - 1]:
        raise InputError(
            f"{source}: the times are out of order, the time of {file.name} ({times[index]:.9g} s) "
            f"is not after the time of the sweep before ({times[index - 1]:.9g} s); sort the "
            "sweeps by their time"
        )
    return float(times[index])


def times_at_rate(count: int, rate: float) -> np.ndarray:
    """Return the times of sweeps from their rate, in seconds from the first sweep."""
    check_range("a lidar sequence", "(0, inf]", rate=rate)
    return np.arange(count) / rate


def to_int64(array: np.ndarray) -> Tensor:
    """Convert an array of whole numbers to an int64 tensor."""
    return torch.from_numpy(array.astype(np.int64))


def choose(
    entries: Mapping[str, Entry], name: str | None, kind: str, folder: Path, option: str
) -> Entry:
    """Return the entry of this name, or the only entry if no name is given."""
    if name is not None:
        check_name(f"{kind} in {folder}", name, entries)
        return entries[name]
    if len(entries) != 1:
        raise InputError(
            f"{folder}: there are {len(entries)} entries ({', '.join(list(entries)[:3])}, ...); "
            f"choose a {kind} with {option}="
        )
    return next(iter(entries.values()))


def _split_numbers(name: str) -> list[tuple[int, str]]:
    """Return a sort key by which frame_9 comes before frame_10."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in re.split(r"(\d+)", name)]
