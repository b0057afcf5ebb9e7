"""Where the sensor stood and when: files of poses, of times and of calibrations, as text or NumPy arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.checks import decoding, require_file
from invtoolbox.errors import InputError

# A text of poses or times; what is larger is no such file.
_LARGEST_TEXT = 2**28


def read_poses(path: str | os.PathLike[str]) -> Poses:
    """Poses, sensor to world, one a line: the 12 numbers of a 3 by 4 matrix by rows (KITTI), 16 of a 4 by 4 matrix, or
    ``time x y z qx qy qz qw`` (TUM); or a `.npy` array ``(n, 3, 4)`` or ``(n, 4, 4)``.

    Rotations are made exact: text carries six or seven digits. A pose of NaN is one that is not known, and stays so.

    Raises:
        InputError: naming the file and the line for another number of numbers, and what is no rotation.

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
    rows = _rows(path)
    widths = {len(row) for row in rows}
    width = len(rows[0])
    if len(widths) > 1 or width not in (8, 12, 16):
        line = next((k for k, row in enumerate(rows) if len(row) != width), 0)
        raise InputError(
            f"{path}: line {line + 1} holds {len(rows[line])} numbers; a pose is 12 or 16 (a matrix by rows) or 8 "
            "(time x y z qx qy qz qw), the same in every line"
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
    """Poses of a file: ``matrices`` ``(n, 4, 4)`` float64, and ``times`` ``(n,)`` in seconds where the file has them."""

    matrices: Tensor
    times: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.matrices)


def from_quaternion(
    translation: Sequence[float] | np.ndarray, quaternion: Sequence[float] | np.ndarray, what: str
) -> Tensor:
    """A motion ``(4, 4)``, or several ``(n, 4, 4)``, from translations and quaternions w, x, y, z of any length but zero."""
    t, q = np.asarray(translation, dtype=np.float64), np.asarray(quaternion, dtype=np.float64)
    if t.shape[-1:] != (3,) or q.shape[-1:] != (4,) or t.shape[:-1] != q.shape[:-1]:
        raise InputError(f"{what}: a pose needs 3 numbers of translation and 4 of rotation")
    top = _from_quaternions(t.reshape(-1, 3), q.reshape(-1, 4), what)
    return _square(torch.from_numpy(top)).reshape(*t.shape[:-1], 4, 4)


def read_calibration(
    path: str | os.PathLike[str], names: Sequence[str] = ("Tr", "Tr_velo_to_cam")
) -> Tensor:
    """A motion ``(4, 4)`` from a KITTI calibration: a line ``Tr: 12 numbers``, or the lines ``R: 9 numbers`` and ``T: 3 numbers``."""
    path = require_file(path)
    found: dict[str, list[float]] = {}
    for number, line in enumerate(_text(path).splitlines()):
        name, colon, rest = line.partition(":")
        if colon and name.strip() in (*names, "R", "T"):
            found[name.strip()] = _numbers(path, number, rest)
    for name in names:
        if len(found.get(name, ())) == 12:
            return _motions(path, np.array(found[name]).reshape(1, 3, 4))[0]
    if len(found.get("R", ())) == 9 and len(found.get("T", ())) == 3:
        top = np.concatenate(
            [np.reshape(found["R"], (3, 3)), np.reshape(found["T"], (3, 1))], axis=1
        )
        return _motions(path, top[None])[0]
    raise InputError(
        f"{path}: no line '{names[0]}:' with 12 numbers, nor 'R:' with 9 and 'T:' with 3; give the calibration of the lidar"
    )


def read_times(path: str | os.PathLike[str]) -> np.ndarray:
    """Seconds, one a line, as numbers or as dates ``2011-09-30 12:40:25.076320000``, float64; dates count from the first.

    Raises:
        InputError: naming the line that is neither. Whether they grow is looked at when a sweep is read (`sweep_files.time_at`).
    """
    path = require_file(path)
    lines = [line.strip() for line in _text(path).splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{path}: the file holds no times; give one a line")
    if "-" in lines[0][1:] and ":" in lines[0]:
        dates = []
        for number, line in enumerate(lines):
            try:
                dates.append(np.datetime64(line.replace(" ", "T", 1), "ns").astype(np.int64))
            except ValueError:
                raise InputError(
                    f"{path}: line {number + 1} is no date; write 2011-09-30 12:40:25.076320000"
                ) from None
        # Whole nanoseconds since 1970 do not fit a float64; those since the first do.
        times = (np.array(dates) - dates[0]) / 1e9
    else:
        times = np.array([_numbers(path, number, line, 1)[0] for number, line in enumerate(lines)])
    return times


def read_numbers(path: Path) -> list[float]:
    """The numbers of a text of one line."""
    lines = [line for line in _text(path).splitlines() if line.strip()]
    if len(lines) != 1:
        raise InputError(f"{path}: {len(lines)} lines; expected one of numbers")
    return _numbers(path, 0, lines[0])


def in_frame_of(poses: Tensor, calibration: Tensor) -> Tensor:
    """Poses of the lidar from those of a camera: ``Tr^-1 P Tr``, where Tr takes points of the lidar to the camera.

    The world becomes the lidar's frame where the camera's pose is the identity, so that z is up as in the sweeps.
    """
    from invtoolbox.geometry.rigid import inverse

    return inverse(calibration) @ poses @ calibration


def _from_quaternions(t: np.ndarray, q: np.ndarray, what: str) -> np.ndarray:
    """(n, 3, 4) from (n, 3) and (n, 4): w, x, y, z."""
    length = np.linalg.norm(q, axis=1)
    wrong = np.flatnonzero(length <= 1e-6)
    if len(wrong):
        raise InputError(
            f"{what}: pose {wrong[0] + 1} holds a quaternion of length zero, which is no rotation"
        )
    w, x, y, z = (q / length[:, None]).T
    rotation = np.stack(
        [
            1 - 2 * (y * y + z * z),
            2 * (x * y - w * z),
            2 * (x * z + w * y),
            2 * (x * y + w * z),
            1 - 2 * (x * x + z * z),
            2 * (y * z - w * x),
            2 * (x * z - w * y),
            2 * (y * z + w * x),
            1 - 2 * (x * x + y * y),
        ],
        axis=1,
    )
    return np.concatenate([rotation.reshape(-1, 3, 3), t[:, :, None]], axis=2)


def _motions(path: Path, top: np.ndarray) -> Tensor:
    """(n, 4, 4) with exact rotations from (n, 3, 4), NaN where they are; an InputError that names a pose that is none."""
    # A line of NaN stands for a pose that is not known; who reads that sweep is told.
    missing = torch.from_numpy(~np.isfinite(top).all((1, 2)))
    top = np.where(missing.numpy()[:, None, None], np.eye(3, 4), top)
    R = torch.from_numpy(top[:, :, :3].copy())
    off = (R @ R.mT - torch.eye(3, dtype=R.dtype)).abs().amax((1, 2)) + (
        torch.linalg.det(R) - 1
    ).abs()
    if len(off) and float(off.max()) > 1e-3:
        raise InputError(
            f"{path}: pose {int(off.argmax()) + 1} does not turn and move only, its 3 by 3 part is no rotation"
        )
    # The nearest rotation (Kabsch): what follows takes the inverse for the transpose.
    U, _, V = torch.linalg.svd(R)
    matrices = _square(torch.cat([U @ V, torch.from_numpy(top[:, :, 3:].copy())], dim=2))
    return torch.where(missing[:, None, None], torch.nan, matrices)


def _square(top: Tensor) -> Tensor:
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=top.dtype).expand(len(top), 1, 4)
    return torch.cat([top, bottom], dim=1)


def _rows(path: Path) -> list[list[float]]:
    rows = [
        _numbers(path, number, line)
        for number, line in enumerate(_text(path).splitlines())
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not rows:
        raise InputError(f"{path}: the file holds no poses; give one a line")
    return rows


def _numbers(path: Path, number: int, line: str, count: int | None = None) -> list[float]:
    try:
        values = [float(word) for word in line.replace(",", " ").split()]
    except ValueError:
        raise InputError(f"{path}: line {number + 1} holds something that is no number") from None
    if count is not None and len(values) != count:
        raise InputError(f"{path}: line {number + 1} holds {len(values)} numbers, expected {count}")
    return values


def _text(path: Path) -> str:
    if path.stat().st_size > _LARGEST_TEXT:
        raise InputError(
            f"{path}: {path.stat().st_size:,} bytes are too many for a text of poses or times"
        )
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise InputError(
            f"{path}: not a text file; give poses, times or a calibration as text"
        ) from None
