"""What readers of lidar sweeps share: one file a sweep, read when it is asked for; names, order, times and poses."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invtoolbox.datasets.measurement import check_index
from invtoolbox.datasets.sweeps.point_files import require_measurements
from invtoolbox.datasets.sweeps.pose_files import in_frame_of, read_calibration, read_poses
from invtoolbox.errors import InputError
from invtoolbox.geometry.sweeps import Sweep

#: What to say for `poses` in order to read a data set without those that it has.
WITHOUT_POSES = "none"


class SweepFiles(ABC):
    """Sweeps of one file each; a subclass says in `_read` how one becomes a `Sweep`.

    Opening looks at names only. What is wrong with a file is said when its sweep is read, so that the others can be.
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


def require_folder(path: str | os.PathLike[str], what: str) -> Path:
    """The path of a folder that is there, else an `InputError`."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        found = "this is a file" if folder.exists() else "there is no such folder"
        raise InputError(f"{folder}: {found}; give the folder of {what}")
    return folder


def files_in_order(folder: Path, suffixes: Sequence[str], what: str) -> list[Path]:
    """The files of a folder with one of the suffixes, those with numbers in their names by these; an `InputError` if none."""
    found = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in suffixes and not file.name.startswith(".") and file.is_file()
    ]
    if not found:
        raise InputError(
            f"{folder}: the folder holds no {' or '.join(suffixes)} file; give the folder of {what}"
        )
    return sorted(found, key=lambda file: _by_numbers(file.name))


def number_of(file: Path) -> int:
    """The number that a file is named by."""
    if not file.stem.isdigit():
        raise InputError(
            f"{file}: the name is no number; files of this data set are named by their number or time"
        )
    return int(file.stem)


def number_poses(
    poses: str | os.PathLike[str] | None,
    calibration: str | os.PathLike[str] | None,
    files: Sequence[Path],
    by_name: bool,
) -> Tensor | None:
    """The pose of each file ``(n, 4, 4)`` from a file of poses, or None without one.

    Args:
        calibration: what takes points of the lidar into the camera's frame, where the poses are the camera's.
        by_name: the name of a file is the number of its pose (KITTI); else there is one pose a file, in order.
    """
    if poses is None or poses == WITHOUT_POSES:
        return None
    matrices = read_poses(poses).matrices
    if by_name:
        numbers = [number_of(file) for file in files]
        if numbers and max(numbers) >= len(matrices):
            raise InputError(
                f"{poses}: {len(matrices)} poses, but the sweep {files[-1].name} needs that of number {max(numbers)} (from "
                "0); give the poses of this sequence"
            )
        matrices = matrices[numbers]
    elif len(matrices) != len(files):
        raise InputError(
            f"{poses}: {len(matrices)} poses for {len(files)} sweeps in {files[0].parent}; give one a sweep, or poses='none'"
        )
    return matrices if calibration is None else in_frame_of(matrices, read_calibration(calibration))


def pose_at(
    poses: Tensor | None, index: int, file: Path, source: str | os.PathLike[str] | None
) -> Tensor | None:
    """One of the poses; an `InputError` where it is not known (its numbers are NaN)."""
    if poses is None:
        return None
    if not bool(poses[index].isfinite().all()):
        raise InputError(
            f"{source}: the pose of {file.name} is missing (its numbers are not finite); give it, or poses='none'"
        )
    return poses[index]


def time_at(
    times: np.ndarray, index: int, file: Path, source: str | os.PathLike[str] | None
) -> float:
    """One of the times; an `InputError` where it does not come after that of the sweep before."""
    if index and not times[index] > times[index - 1]:
        raise InputError(
            f"{source}: the times are out of order, that of {file.name} ({times[index]:.9g} s) does not come after that of "
            f"the sweep before ({times[index - 1]:.9g} s); sort the sweeps by their time"
        )
    return float(times[index])


def at_rate(count: int, rate: float) -> np.ndarray:
    """The times of sweeps of which only their rate is known, seconds from the first."""
    if not rate > 0:
        raise InputError(f"rate must be a positive number of sweeps a second, got {rate}")
    return np.arange(count) / rate


def as_whole(array: np.ndarray) -> Tensor:
    """Whole numbers as int64."""
    return torch.from_numpy(array.astype(np.int64))


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """A key by which frame_9 comes before frame_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
