"""Ouster frames as NumPy archives: points, nanoseconds, rings and reflectivities."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np

from invtoolbox.datasets.files import decoding, require_file
from invtoolbox.datasets.point_files import read_points
from invtoolbox.datasets.sweep_files import (
    SweepFiles,
    files_in_order,
    numbered_poses,
    pose_at,
    require_folder,
    time_at,
)
from invtoolbox.errors import InputError
from invtoolbox.scenes.sweep import Sweep


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
        self.poses = numbered_poses(poses, None, self.files, by_name=False)

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
