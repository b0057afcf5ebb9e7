"""Readers of poses, times and calibrations of a sensor, as text or NumPy arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.checks import decoding, require_file
from invtoolbox.core.trust import refuse_special
from invtoolbox.errors import InputError

# Largest size in bytes of a text of poses or times; a larger file is something else.
_LARGEST_TEXT = 2**28
# Longest time between two poses over which poses are interpolated, in seconds.
_LONGEST_GAP = 1.0


def read_poses(path: str | os.PathLike[str]) -> Poses:
    """Read poses that map the sensor's frame to the world.

    A text has one pose per line: the 12 numbers of a 3 by 4 matrix by rows (KITTI), the 16 numbers
    of a 4 by 4 matrix, or ``time x y z qx qy qz qw`` (TUM). A `.npy` array has the shape
    ``(n, 3, 4)`` or ``(n, 4, 4)``.

    Rotations are made exact, because texts have only six or seven digits. A pose of NaN is unknown
    and remains NaN.

    Raises:
        InputError: for a line with a wrong number of numbers, or a matrix that is not a rotation;
            the error names the file and the line.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "poses.txt").write_text("1 0 0 5  0 1 0 6  0 0 1 7")
    ...     read_poses(folder + "/poses.txt").matrices[0, :3, 3]
    tensor([5., 6., 7.], dtype=torch.float64)
    """
    path = require_file(path)
    if path.suffix.lower() == ".npy":
        with decoding(path, "NumPy"):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if (
                array.ndim != 3
                or array.shape[1:] not in ((3, 4), (4, 4))
                or array.dtype.kind not in "iuf"
            ):
                raise InputError(
                    f"{path}: poses have the shape {array.shape}; expected (n, 3, 4) or (n, 4, 4)"
                )
            return Poses(_motions(path, np.array(array[:, :3], dtype=np.float64)))
    rows = [
        _parse_numbers(path, number, line)
        for number, line in enumerate(_read_text(path).splitlines())
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not rows:
        raise InputError(f"{path}: the file holds no poses; give one per line")
    widths = {len(row) for row in rows}
    width = len(rows[0])
    if len(widths) > 1 or width not in (8, 12, 16):
        line = next((k for k, row in enumerate(rows) if len(row) != width), 0)
        raise InputError(
            f"{path}: line {line + 1} holds {len(rows[line])} numbers; a pose has 12 or 16 (a "
            "matrix by rows) or 8 (time x y z qx qy qz qw), the same number in every line"
        )
    values = np.array(rows)
    if width == 8:
        return Poses(
            _motions(path, _from_quaternions(values[:, 1:4], values[:, [7, 4, 5, 6]], str(path))),
            values[:, 0],
        )
    return Poses(_motions(path, values.reshape(len(values), -1, 4)[:, :3]))


@dataclass(frozen=True, eq=False)
class Poses:
    """Poses of a file.

    Attributes:
        matrices: poses, float64 ``(n, 4, 4)``.
        times: times in seconds, ``(n,)``, or None if the file has none.
    """

    matrices: Tensor
    times: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.matrices)

    def at(self, times: np.ndarray, source: str | os.PathLike[str]) -> Tensor:
        """Return the poses at other times, on straight lines and about one axis, ``(n, 4, 4)``.

        A pose is NaN before the first time, after the last one, and in gaps of more than a second.

        Args:
            times: times in seconds, ``(n,)``.
            source: file of the poses, for messages.

        Raises:
            InputError: the poses have no times, or times that do not increase or do not fit.
        """
        from invtoolbox.geometry.rigid import part_of, relative_motion

        stamps = self.times
        if stamps is None or len(stamps) < 2 or bool((np.diff(stamps) <= 0).any()):
            raise InputError(
                f"{source}: poses between which to interpolate need times that increase, in lines "
                "time x y z qx qy qz qw"
            )
        if not bool(((times >= stamps[0]) & (times <= stamps[-1])).any()):
            raise InputError(
                f"{source}: the poses are of {stamps[0]:.9g} to {stamps[-1]:.9g} s, and the sweeps of "
                f"{times[0]:.9g} to {times[-1]:.9g} s; give both times of one clock"
            )
        poses = torch.full((len(times), 4, 4), torch.nan, dtype=torch.float64)
        for n, time in enumerate(times):
            k = int(stamps[1:-1].searchsorted(time))
            gap = stamps[k + 1] - stamps[k]
            if stamps[0] <= time <= stamps[-1] and gap <= _LONGEST_GAP:
                share = torch.tensor([(time - stamps[k]) / gap], dtype=torch.float64)
                step = relative_motion(self.matrices[k + 1], self.matrices[k])
                poses[n] = self.matrices[k] @ part_of(step, share)[0]
        return poses


def from_quaternion(
    translation: Sequence[float] | np.ndarray, quaternion: Sequence[float] | np.ndarray, what: str
) -> Tensor:
    """Build one motion ``(4, 4)`` or several ``(n, 4, 4)`` from translations and quaternions.

    Args:
        translation: translations ``(3,)`` or ``(n, 3)``.
        quaternion: quaternions w, x, y, z, ``(4,)`` or ``(n, 4)``, of any length except zero.
        what: name of the data, for error messages.
    """
    t, q = np.asarray(translation, dtype=np.float64), np.asarray(quaternion, dtype=np.float64)
    if t.shape[-1:] != (3,) or q.shape[-1:] != (4,) or t.shape[:-1] != q.shape[:-1]:
        raise InputError(f"{what}: a pose needs 3 numbers of translation and 4 of rotation")
    top = _from_quaternions(t.reshape(-1, 3), q.reshape(-1, 4), what)
    return _square(torch.from_numpy(top)).reshape(*t.shape[:-1], 4, 4)


def read_calibration(
    path: str | os.PathLike[str], names: Sequence[str] = ("Tr", "Tr_velo_to_cam")
) -> Tensor:
    """Read a motion ``(4, 4)`` from a KITTI calibration.

    The file has a line ``Tr: 12 numbers``, or the lines ``R: 9 numbers`` and ``T: 3 numbers``.

    Args:
        path: path of the file.
        names: names of the line of 12 numbers, in the order of preference.
    """
    path = require_file(path)
    matrices: dict[str, list[float]] = {}
    for number, line in enumerate(_read_text(path).splitlines()):
        name, colon, rest = line.partition(":")
        if colon and name.strip() in (*names, "R", "T"):
            matrices[name.strip()] = _parse_numbers(path, number, rest)
    for name in names:
        if len(matrices.get(name, ())) == 12:
            return _motions(path, np.array(matrices[name]).reshape(1, 3, 4))[0]
    if len(matrices.get("R", ())) == 9 and len(matrices.get("T", ())) == 3:
        top = np.concatenate(
            [np.reshape(matrices["R"], (3, 3)), np.reshape(matrices["T"], (3, 1))], axis=1
        )
        return _motions(path, top[None])[0]
    raise InputError(
        f"{path}: no line '{names[0]}:' with 12 numbers, nor 'R:' with 9 and 'T:' with 3; give the "
        "calibration of the lidar"
    )


def read_times(path: str | os.PathLike[str]) -> np.ndarray:
    """Read times in seconds, one per line, float64.

    A time is a number, or a date such as ``2011-09-30 12:40:25.076320000``; dates count from the
    first date. The order of the times is checked later, when a sweep is read
    (`sweep_files.time_at`).

    Raises:
        InputError: for a line that is neither; the error names the line.
    """
    path = require_file(path)
    lines = [line.strip() for line in _read_text(path).splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{path}: the file holds no times; give one per line")
    if "-" in lines[0][1:] and ":" in lines[0]:
        dates = []
        for number, line in enumerate(lines):
            try:
                dates.append(np.datetime64(line.replace(" ", "T", 1), "ns").astype(np.int64))
            except ValueError:
                raise InputError(
                    f"{path}: line {number + 1} is not a date; write 2011-09-30 12:40:25.076320000"
                ) from None
        # A float64 cannot hold whole nanoseconds since 1970, but can hold those since the first.
        times = (np.array(dates) - dates[0]) / 1e9
    else:
        times = np.array(
            [_parse_numbers(path, number, line, 1)[0] for number, line in enumerate(lines)]
        )
    return times


def read_numbers(path: Path) -> list[float]:
    """Read the numbers of a text of one line."""
    lines = [line for line in _read_text(path).splitlines() if line.strip()]
    if len(lines) != 1:
        raise InputError(f"{path}: {len(lines)} lines; expected one line of numbers")
    return _parse_numbers(path, 0, lines[0])


def poses_of_lidar(poses: Tensor, calibration: Tensor) -> Tensor:
    """Compute the poses of the lidar from poses of a camera, ``Tr^-1 P Tr``.

    The calibration ``Tr`` maps points of the lidar to the camera. The world becomes the lidar's
    frame at the identity pose of the camera, so that z is up as in the sweeps.
    """
    from invtoolbox.geometry.rigid import inverse

    return inverse(calibration) @ poses @ calibration


def _from_quaternions(t: np.ndarray, q: np.ndarray, what: str) -> np.ndarray:
    """Build motions ``(n, 3, 4)`` from translations ``(n, 3)`` and quaternions w, x, y, z."""
    from invtoolbox.geometry.rotations import rotation_matrices

    length = np.linalg.norm(q, axis=1)
    wrong = np.flatnonzero(length <= 1e-6)
    if len(wrong):
        raise InputError(
            f"{what}: pose {wrong[0] + 1} holds a quaternion of length zero; correct the pose"
        )
    R = rotation_matrices(torch.from_numpy(q)).numpy()
    return np.concatenate([R, t[:, :, None]], axis=2)


def _motions(path: Path, top: np.ndarray) -> Tensor:
    """Build motions ``(n, 4, 4)`` with exact rotations from ``(n, 3, 4)``; NaN remains NaN.

    An `InputError` names a pose that is not a motion.
    """
    # A line of NaN is an unknown pose; `pose_at` raises an error when its sweep is read.
    missing = torch.from_numpy(~np.isfinite(top).all((1, 2)))
    top = np.where(missing.numpy()[:, None, None], np.eye(3, 4), top)
    off = rotation_errors(torch.from_numpy(top))
    if len(off) and float(off.max()) > 1e-3:
        raise InputError(
            f"{path}: pose {int(off.argmax()) + 1} is not a rigid motion, because its 3 by 3 part "
            "is not a rotation; give poses without scale"
        )
    matrices = nearest_motions(torch.from_numpy(top))
    return torch.where(missing[:, None, None], torch.nan, matrices)


def rotation_errors(top: Tensor) -> Tensor:
    """Return the deviation from a rotation of matrices ``(n, 3, 4)``: ``(n,)``."""
    R = top[:, :, :3]
    errors = (R @ R.mT - torch.eye(3, dtype=R.dtype)).abs().amax((1, 2))
    return errors + (torch.linalg.det(R) - 1).abs()


def nearest_motions(top: Tensor) -> Tensor:
    """Return the rigid motions ``(n, 4, 4)`` nearest to matrices ``(n, 3, 4)``.

    The nearest rotation (Kabsch) makes rotations exact, because later code uses the transpose as
    the inverse.
    """
    U, _, V = torch.linalg.svd(top[:, :, :3])
    return _square(torch.cat([U @ V, top[:, :, 3:]], dim=2))


def _square(top: Tensor) -> Tensor:
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=top.dtype).expand(len(top), 1, 4)
    return torch.cat([top, bottom], dim=1)


def _parse_numbers(path: Path, number: int, line: str, count: int | None = None) -> list[float]:
    try:
        values = [float(word) for word in line.replace(",", " ").split()]
    except ValueError:
        raise InputError(
            f"{path}: line {number + 1} holds a word that is not a number; correct the line"
        ) from None
    if count is not None and len(values) != count:
        raise InputError(f"{path}: line {number + 1} holds {len(values)} numbers, expected {count}")
    return values


def _read_text(path: Path) -> str:
    refuse_special(path)
    if path.stat().st_size > _LARGEST_TEXT:
        raise InputError(
            f"{path}: {path.stat().st_size:,} bytes are too many for a text of poses or times; "
            "check the path"
        )
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise InputError(
            f"{path}: not a text file; give poses, times or a calibration as text"
        ) from None
