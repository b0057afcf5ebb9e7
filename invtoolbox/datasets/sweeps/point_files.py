"""Reader of one cloud of points: raw rows of float32 or float64, LAS, LAZ, PCD, PLY or NumPy arrays.

The module also defines the meaning of the names of columns.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.checks import (
    Bounded,
    decoding,
    open_arrays,
    require_bytes,
    require_file,
    require_plausible,
)
from invtoolbox.core.environment import optional_package
from invtoolbox.datasets.output import write_bytes
from invtoolbox.datasets.ply import read_ply
from invtoolbox.datasets.sweeps.clocks import Clock, Ticks, clock_name, decide, ticks_of
from invtoolbox.datasets.sweeps.columns import COLUMNS, column_names, read_rows
from invtoolbox.datasets.sweeps.pcd import read_fields
from invtoolbox.errors import InputError

_INTENSITY = (
    "intensity",
    "reflectivity",
    "reflectance",
    "scalar_intensity",
    "scalar_Intensity",
    "i",
    "remission",
)
_RING = ("ring", "laser_number", "laser_id", "channel", "line", "scalar_ring")
#: Metres from which float32 is coarser than half a millimetre.
_FAR = 4096.0
_POINTS = ("xyz", "points", "pos", "positions", "pc", "lidar")


@dataclass(frozen=True, eq=False)
class Points:
    """Points of one file.

    Attributes:
        points: positions in metres, float32 ``(N, 3)``.
        time: time of each point in seconds, ``(N,)``, or None. It counts from `start` if there is
            one.
        intensity: intensity of each point, ``(N,)``, or None.
        ring: ring of each point, int64 ``(N,)``, or None.
        start: first time of the file in seconds, if its times come from a clock.
        origin: place that the points are relative to, float64 ``(3,)``, if the coordinates of the
            file lie on a map, which float32 cannot hold.
        turns: number of turns of the lidar by the times of the points, or None.
        notes: choices that were made, with their evidence.
    """

    points: Tensor
    time: Tensor | None = None
    intensity: Tensor | None = None
    ring: Tensor | None = None
    start: float | None = None
    origin: Tensor | None = None
    turns: float | None = None
    notes: tuple[str, ...] = ()


def read_points(
    path: Path, columns: int | Sequence[str] | None = None, clock: Clock | None = None
) -> Points:
    """Read the points of a `.bin`, `.las`, `.laz`, `.pcd`, `.ply`, `.npy` or `.npz` file.

    Args:
        path: path of the file.
        columns: number of columns of `.bin` and `.npy` (`COLUMNS`), or their names, also in one
            string; by default 5 for the `.pcd.bin` of nuScenes, the width of the array for `.npy`,
            and from the values for `.bin` (`columns.read_rows`), 4 if there are few of them. The
            names are x, y, z, intensity, ring and time; columns with other names are skipped.
        clock: meaning of the times; by default, the file alone decides.

    Raises:
        InputError: if the size is not a whole number of points, if the file is damaged, or if it
            has no finite point.
    """
    read, notes = read_columns(path, columns)
    with decoding(path, f"{path.suffix[1:].upper()} point"):
        points = points_of_columns(path, read, clock)
    return replace(points, notes=(*notes, *points.notes))


def read_columns(
    path: Path, columns: int | Sequence[str] | None = None
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Read the columns of a file by their names, and notes; the arguments are those of `read_points`."""
    require_file(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"{path}: points cannot be read from {path.suffix or 'a file without suffix'}; the "
            f"formats are {', '.join(_READERS)}"
        )
    with decoding(path, f"{path.suffix[1:].upper()} point"):
        if path.suffix.lower() == ".pcd":
            return read_fields(path)
        return reader(path, columns), ()


def file_ticks(path: Path, columns: int | Sequence[str] | None = None) -> Ticks | None:
    """Return the times of the points of a file as they are stored; None without such a column."""
    read, _ = read_columns(path, columns)
    with decoding(path, f"{path.suffix[1:].upper()} point"):
        return ticks_of(read, centered(positions(path, read)))


def positions(path: Path, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the columns x, y and z, ``(N, 3)``, or raise an `InputError` that names the columns."""
    if any(axis not in columns for axis in "xyz"):
        raise InputError(
            f"{path}: no columns x, y and z among {', '.join(columns) or 'none'}; rename them or "
            "give columns="
        )
    return np.stack([np.asarray(columns[axis]) for axis in "xyz"], axis=1)


def points_of_columns(
    path: Path, columns: Mapping[str, np.ndarray], clock: Clock | None = None
) -> Points:
    """Build points from columns with known names.

    Rows without a measurement (not finite, or zero) stay, and nothing is computed from their times
    and rings. A measurement without a time becomes such a row if most others have one.

    Args:
        path: path of the file, for messages.
        columns: the columns.
        clock: meaning of the times; by default, this sweep alone decides (`clocks.decide`).
    """
    places, origin = positions(path, columns), None
    notes: tuple[str, ...] = ()
    finite = np.isfinite(places).all(1)
    measured = finite & (places != 0).any(1)
    around = centered(places)
    if places.dtype == np.float64 and np.abs(places[finite]).max(initial=0) > _FAR:
        origin = places[finite].min(0).round()
        places = places - origin
    points = torch.from_numpy(places.astype(np.float32))
    require_measurements(path, points)
    intensity, ring = _first(columns, _INTENSITY), _first(columns, _RING)
    ticks, time, start, turns = ticks_of(columns, around), None, None, None
    if ticks is not None and ticks.usable.any():
        clock = decide([ticks], path) if clock is None else clock
        seconds, start = clock.seconds(ticks)
        time = seconds
        turns = ticks.winding.turns if clock.unit is not None and ticks.winding else None
        lost = measured & ~ticks.usable
        if seconds is not None and lost.any() and 2 * lost.sum() <= measured.sum():
            points[torch.from_numpy(lost)] = torch.nan
            notes = (f"{int(lost.sum()):,} points have no time and are left out",)
    if ring is not None and ring.dtype.kind == "f":
        if not (ring[measured] % 1 == 0).all():
            raise InputError(
                f"{path}: the ring of a point is not a whole number; the columns are probably not "
                f"{', '.join(columns)}, so give columns="
            )
        ring = np.where(np.isfinite(ring), ring, -1)
    return Points(
        points,
        None if time is None else torch.from_numpy(time),
        None if intensity is None else torch.from_numpy(intensity.astype(np.float32)),
        None if ring is None else torch.from_numpy(ring.astype(np.int64)),
        start,
        None if origin is None else torch.from_numpy(origin),
        turns,
        notes,
    )


def centered(places: np.ndarray) -> np.ndarray:
    """Return places in the frame of a map relative to their median, other places as they are."""
    measured = places[np.isfinite(places).all(1) & (places != 0).any(1)]
    middle = np.median(measured, axis=0) if len(measured) else np.zeros(3)
    return places - middle if np.abs(middle).max() > _FAR else places


def require_measurements(path: str | Path, points: Tensor) -> None:
    """Raise an error unless a sweep has a finite point away from the sensor's origin."""
    if not len(points):
        raise InputError(f"{path}: the sweep holds no points; leave it out, or record it again")
    finite = points.isfinite().all(1)
    if not bool((finite & (points != 0).any(1)).any()):
        kind = "finite" if not bool(finite.any()) else "a measurement (all are zero)"
        raise InputError(
            f"{path}: none of the {len(points):,} points of the sweep is {kind}; leave it out, or "
            "record it again"
        )


def columns_of_archive(path: Path, archive: np.lib.npyio.NpzFile) -> dict[str, np.ndarray]:
    """Read x, y, z and the known columns of an open archive.

    The array `xyz` (or `points`, ...) has the shape ``(N, 3)``, or more columns as in `COLUMNS`.
    """
    key = next((name for name in _POINTS if name in archive.files), None)
    if key is None:
        if not {"x", "y", "z"} <= set(archive.files):
            raise InputError(
                f"{path}: no array {', '.join(_POINTS[:3])} among "
                f"{', '.join(archive.files) or 'none'}; save (N, 3) as xyz"
            )
        columns = {axis: read_member(path, archive, axis) for axis in "xyz"}
    else:
        array = read_member(path, archive, key)
        if array.ndim != 2 or array.shape[1] < 3:
            raise InputError(f"{path}: {key} has the shape {array.shape}; expected (N, 3)")
        columns = _split_columns(array, COLUMNS.get(array.shape[1], COLUMNS[3]))
    for name in archive.files:
        if name in (*_INTENSITY, *_RING) or clock_name(name) is not None:
            columns[name] = read_member(path, archive, name)
    for name, values in columns.items():
        if values.shape != columns["x"].shape or values.ndim != 1:
            raise InputError(
                f"{path}: {name} has the shape {values.shape} for {len(columns['x'])} points; save "
                "one entry per point"
            )
    return columns


def read_member(path: Path, archive: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    """Read an array of numbers of an archive; its size is checked before memory is allocated."""
    assert archive.zip is not None
    with archive.zip.open(f"{name}.npy") as stream:
        shape, dtype = read_npy_header(stream)
    if dtype.kind not in "biuf":
        raise InputError(f"{path}: {name} holds {dtype} instead of numbers; save it again")
    if 0 not in shape:
        require_plausible(path, shape or (1,), dtype)
    return np.asarray(archive[name])


def read_npy_header(stream: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Read the header of a `.npy` stream: the shape and the type of its array."""
    version = np.lib.format.read_magic(stream)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(stream)
    return shape, dtype


def _first(columns: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray | None:
    return next((np.asarray(columns[name]) for name in names if name in columns), None)


#: Number of layers of a chunk of LAZ, and bytes of a point, by the format of points. Every further
#: byte of a point has a layer.
_LAYERS = {6: (9, 30), 7: (10, 36), 8: (11, 38), 9: (10, 59), 10: (12, 67)}


def read_las(path: Path) -> dict[str, np.ndarray]:
    """Read places, intensities, times and rings of LAS or LAZ (ASPRS LAS 1.4), by laspy ([lidar]).

    Args:
        path: path of the file.
    """
    laspy = optional_package("laspy", "LAS and LAZ need laspy and lazrs;", "lidar")
    _check_las(path)
    stream = Bounded(path)
    with stream, laspy.open(stream, laz_backend=laspy.LazBackend.Lazrs, closefd=False) as file:
        header = file.header
        kind = header.point_format.dtype()
        require_plausible(path, (header.point_count,), kind)
        cloud = file.read()
        names = ["x", "y", "z", *(n for n in ("intensity", "gps_time") if n in kind.names)]
        extra = header.point_format.extra_dimension_names
        names += [name for name in extra if name in _RING or clock_name(name) is not None]
        return {name: np.asarray(cloud[name]) for name in names}


def write_las(
    path: str | os.PathLike[str],
    points: np.ndarray,
    scalars: Mapping[str, np.ndarray] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a cloud as LAS 1.4 or LAZ, completely or not at all, in steps of a millimetre.

    Args:
        path: path that ends in ``.las`` or ``.laz``.
        points: positions in metres, ``(N, 3)``.
        scalars: further numbers of each point by name, ``(N,)`` each, in their own type.
        overwrite: replace an existing file.
    """
    laspy = optional_package("laspy", "LAS and LAZ need laspy and lazrs;", "lidar")
    header = laspy.LasHeader(point_format=6, version="1.4")
    header.scales = [0.001] * 3
    header.offsets = np.floor(points.min(0)) if len(points) else np.zeros(3)
    for name, column in (scalars or {}).items():
        header.add_extra_dim(laspy.ExtraBytesParams(name, column.dtype))
    cloud = laspy.LasData(header)
    cloud.x, cloud.y, cloud.z = points.T.astype(np.float64)
    for name, column in (scalars or {}).items():
        cloud[name] = column
    stream = io.BytesIO()
    cloud.write(stream, do_compress=str(path).lower().endswith(".laz"))
    return write_bytes(path, stream.getvalue(), overwrite)


def _check_las(path: Path) -> None:
    """Refuse a LAS or LAZ file that declares more than it holds; laspy would allocate it."""
    size = path.stat().st_size
    with Bounded(path) as file:
        head = file.read(375)
        start, records, kind, length, points = struct.unpack_from("<IIBHI", head, 96)
        later = 0
        if head[25] >= 4:
            later, points = struct.unpack_from("<IQ", head, 243)
        # Records of variable length have at least 54 bytes, and 60 behind the points.
        is_whole = 54 * records <= start <= size and 60 * later <= size
        if kind < 128:
            is_whole &= start + points * length <= size
        elif is_whole:  # LAZ: the table of the chunks of points
            file.seek(start)
            (table,) = struct.unpack("<q", file.read(8))
            file.seek(table if table > 0 else size - 8)
            chunks = struct.unpack("<II", file.read(8))[1] if table != -1 else 0
            is_whole = chunks <= points + 1
            place, layers = start + 8, _LAYERS.get(kind & 63, (0, length))
            for _ in range(chunks if is_whole and layers[0] else 0):
                # A chunk is its first point, the number of points, and the sizes of the layers.
                file.seek(place + length)
                sizes = file.read(4 + 4 * (layers[0] + length - layers[1]))
                place += length + len(sizes) + int(np.frombuffer(sizes, "<u4")[1:].sum(dtype=int))
                is_whole &= place <= size
    if not is_whole:
        raise InputError(
            f"{path}: truncated or damaged, the header declares more than the {size:,} bytes of the "
            "file; fetch or export it again"
        )


def _read_npy(path: Path, columns: int | Sequence[str] | None) -> dict[str, np.ndarray]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype.names is not None:
        return {
            name: np.array(array[name])
            for name in array.dtype.names
            if array[name].dtype.kind in "iuf"
        }
    if array.ndim != 2 or array.dtype.kind not in "iuf":
        raise InputError(
            f"{path}: an array of shape {array.shape} and type {array.dtype} is not a cloud; save "
            "numbers (N, 3), or more columns"
        )
    if array.shape[0] <= max(COLUMNS) < array.shape[1]:
        raise InputError(
            f"{path}: an array of shape {array.shape} has one column per point; save array.T, with one "
            "row per point"
        )
    if array.size:
        require_bytes(path, int(array.offset), array.shape, array.dtype)
    if columns is None and array.shape[1] > max(COLUMNS):
        columns = ("x", "y", "z", *(f"_{n}" for n in range(3, array.shape[1])))
    names = column_names(columns, array.shape[1])
    if len(names) != array.shape[1]:
        raise InputError(
            f"{path}: the array has {array.shape[1]} columns, but columns= gives {len(names)}"
        )
    return _split_columns(np.array(array), names)


def _read_npz(path: Path, columns: int | Sequence[str] | None) -> dict[str, np.ndarray]:
    with open_arrays(path) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError(f"{path}: not a .npz archive; save it again with NumPy")
        return columns_of_archive(path, archive)


def _split_columns(array: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    return {name: array[:, k] for k, name in enumerate(names)}


_READERS: dict[str, Callable[[Path, int | Sequence[str] | None], dict[str, np.ndarray]]] = {
    ".bin": lambda path, columns: _split_columns(*read_rows(path, columns)),
    ".pcd": lambda path, columns: read_fields(path)[0],
    ".ply": lambda path, columns: read_ply(path),
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".las": lambda path, columns: read_las(path),
    ".laz": lambda path, columns: read_las(path),
}


#: Suffixes of files that `read_points` reads.
SUFFIXES = tuple(_READERS)
