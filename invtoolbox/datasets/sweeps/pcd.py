"""PCD point clouds of the Point Cloud Library: ascii, binary, and binary packed by LZF."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from invtoolbox.core.checks import decoding, require_file
from invtoolbox.errors import InputError

_LONGEST_HEADER = 2**14
_KEYS = (
    "VERSION",
    "FIELDS",
    "SIZE",
    "TYPE",
    "COUNT",
    "WIDTH",
    "HEIGHT",
    "VIEWPOINT",
    "POINTS",
    "DATA",
)
# LZF makes at most 264 bytes of three.
_LARGEST_RATIO = 88


def read_pcd(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The fields of a PCD file, an array ``(N,)`` each by its name; fields of several numbers, and padding, are left out.

    Format: pointclouds.org/documentation/tutorials/pcd_file_format.html, version 0.7.

    Raises:
        InputError: for a damaged header, too few values, and packed values that do not unpack.
    """
    path = require_file(path)
    with decoding(path, "PCD"):
        header = _header(path)
        if header.encoding == "ascii":
            columns = _ascii(path, header)
        elif header.encoding == "binary":
            columns = _binary(path, header)
        else:
            columns = _packed(path, header)
        return {
            name: array[:, 0]
            for (name, _, count), array in zip(header.columns, columns, strict=True)
            if count == 1 and name != "_"
        }


def unpack_lzf(packed: bytes, size: int) -> bytes:
    """What LZF packed (Lehmann's liblzf): runs of up to 32 bytes as they are, and copies of up to 264 from up to 8 KiB before.

    Raises:
        InputError: where the result has another size, or copies from before its beginning.

    >>> unpack_lzf(bytes([1]) + b"ab" + bytes([0b010_00000, 1]), 6)
    b'ababab'
    """
    out = bytearray()
    place, end = 0, len(packed)
    while place < end and len(out) <= size:
        control = packed[place]
        place += 1
        if control < 32:
            out += packed[place : place + control + 1]
            place += control + 1
            continue
        length = control >> 5
        if length == 7 and place < end:
            length += packed[place]
            place += 1
        if place >= end:
            break
        start = len(out) - ((control & 31) << 8) - packed[place] - 1
        place += 1
        length += 2
        if start < 0:
            raise InputError("the packed values refer to what lies before their beginning")
        if start + length <= len(out):
            out += out[start : start + length]
        else:
            # The copy overlaps what it writes: the end repeats.
            period = bytes(out[start:])
            out += (period * (length // len(period) + 1))[:length]
    if len(out) != size or place > end:
        raise InputError(f"the packed values unpack to {len(out):,} bytes instead of {size:,}")
    return bytes(out)


@dataclass(frozen=True)
class _Header:
    """What stands before the values: the columns (name, NumPy type, how many), the number of points, where the values begin."""

    columns: tuple[tuple[str, str, int], ...]
    points: int
    encoding: str
    start: int

    @property
    def dtype(self) -> np.dtype:
        # Names may repeat: PCL pads with fields named "_".
        return np.dtype(
            [(f"{k}", kind, (count,)) for k, (_, kind, count) in enumerate(self.columns)]
        )


def _header(path: Path) -> _Header:
    with path.open("rb") as stream:
        head = stream.read(_LONGEST_HEADER)
    found: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in found:
        end = head.find(b"\n", start)
        if end < 0:
            raise InputError(
                f"{path}: the header of the PCD file has no line DATA; fetch or export it again"
            )
        words = head[start:end].decode("ascii", errors="replace").split()
        start = end + 1
        if not words or words[0].startswith("#"):
            continue
        if words[0] not in _KEYS:
            raise InputError(
                f"{path}: the header holds the line {' '.join(words)[:60]!r}, which PCD does not know; it is none, or damaged"
            )
        found[words[0]] = words[1:]
    missing = [key for key in ("FIELDS", "SIZE", "TYPE", "WIDTH", "DATA") if not found.get(key)]
    if missing:
        raise InputError(f"{path}: the header lacks {', '.join(missing)}; fetch or export it again")
    names, sizes, kinds = found["FIELDS"], found["SIZE"], [kind.lower() for kind in found["TYPE"]]
    counts = found.get("COUNT") or ["1"] * len(names)
    if not len(names) == len(sizes) == len(kinds) == len(counts):
        raise InputError(
            f"{path}: FIELDS, SIZE, TYPE and COUNT of the header name {len(names)}, {len(sizes)}, {len(kinds)} and "
            f"{len(counts)} fields; export it again"
        )
    if any(
        f"{kind}{size}" not in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8")
        for kind, size in zip(kinds, sizes)
    ) or any(not count.isdigit() or not 0 < int(count) < 2**16 for count in counts):
        raise InputError(
            f"{path}: the header declares fields of sizes, types or counts that PCD does not know; export it again"
        )
    shape = [*found["WIDTH"][:1], *(found.get("HEIGHT") or ["1"])[:1]]
    if not all(word.isdigit() and len(word) < 12 for word in [*shape, *found.get("POINTS", [])]):
        raise InputError(
            f"{path}: WIDTH, HEIGHT and POINTS of the header must be whole numbers; export it again"
        )
    points = int(shape[0]) * int(shape[1])
    if found.get("POINTS") and int(found["POINTS"][0]) != points:
        raise InputError(
            f"{path}: the header declares {found['POINTS'][0]} points, but {shape[0]} times {shape[1]}; export it again"
        )
    if found["DATA"][0] not in ("ascii", "binary", "binary_compressed"):
        raise InputError(
            f"{path}: values are encoded as {found['DATA'][0][:40]!r}; known are ascii, binary and binary_compressed"
        )
    columns = tuple(
        (name, f"<{kind}{size}", int(count))
        for name, size, kind, count in zip(names, sizes, kinds, counts)
    )
    return _Header(columns, points, found["DATA"][0], start)


def _ascii(path: Path, header: _Header) -> list[np.ndarray]:
    width = sum(count for _, _, count in header.columns)
    if header.points * width > path.stat().st_size:
        raise _truncated(path, 0, header.points)
    with path.open("rb") as stream:
        stream.seek(header.start)
        table = (
            np.loadtxt(stream, dtype=np.float64, max_rows=header.points, ndmin=2)
            if header.points
            else np.empty((0, width))
        )
    if table.shape != (header.points, width):
        raise _truncated(path, len(table) if table.shape[1] == width else 0, header.points)
    ends = np.cumsum([count for _, _, count in header.columns])
    parts = np.split(table, ends[:-1], axis=1)
    return [_as_type(part, kind) for part, (_, kind, _) in zip(parts, header.columns, strict=True)]


def _as_type(values: np.ndarray, kind: str) -> np.ndarray:
    if np.dtype(kind).kind == "f":
        return values.astype(kind)
    if not np.isfinite(values).all():
        raise InputError("a field of whole numbers holds one that is not finite")
    return values.astype(kind)


def _binary(path: Path, header: _Header) -> list[np.ndarray]:
    dtype = header.dtype
    there = (path.stat().st_size - header.start) // dtype.itemsize
    if there < header.points:
        raise _truncated(path, max(there, 0), header.points)
    table = np.fromfile(path, dtype=dtype, count=header.points, offset=header.start)
    return [np.ascontiguousarray(table[name]) for name in dtype.names or ()]


def _packed(path: Path, header: _Header) -> list[np.ndarray]:
    """Two sizes, then the packed columns one after another (not point by point)."""
    with path.open("rb") as stream:
        stream.seek(header.start)
        sizes = stream.read(8)
        packed = stream.read()
    wanted = header.points * header.dtype.itemsize
    packed_size, size = (
        (int(n) for n in np.frombuffer(sizes, "<u4")) if len(sizes) == 8 else (0, -1)
    )
    if len(sizes) < 8 or len(packed) < packed_size:
        raise _truncated(path, 0, header.points)
    if size != wanted or size > _LARGEST_RATIO * max(packed_size, 1):
        raise InputError(
            f"{path}: {header.points:,} points have {wanted:,} bytes, but {size:,} are packed into {packed_size:,}; the "
            "header is damaged, fetch or export it again"
        )
    content = unpack_lzf(packed[:packed_size], size)
    columns, start = [], 0
    for _, kind, count in header.columns:
        part = np.frombuffer(content, kind, header.points * count, start)
        columns.append(part.reshape(header.points, count))
        start += part.nbytes
    return columns


def _truncated(path: Path, there: int, wanted: int) -> InputError:
    return InputError(
        f"{path}: truncated, {there:,} of {wanted:,} points are there; fetch or export it again"
    )
