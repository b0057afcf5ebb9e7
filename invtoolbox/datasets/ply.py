"""Reader and writers of PLY point clouds.

`read_ply` reads ascii and binary files of either byte order. `write_ply` writes little-endian
binary; `ply_stream` writes a cloud piece by piece, for clouds that are larger than memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.core.checks import reading
from invtoolbox.datasets.output import Written, writing
from invtoolbox.errors import InputError

_TYPES = {
    "char": "i1",
    "int8": "i1",
    "uchar": "u1",
    "uint8": "u1",
    "short": "i2",
    "int16": "i2",
    "ushort": "u2",
    "uint16": "u2",
    "int": "i4",
    "int32": "i4",
    "uint": "u4",
    "uint32": "u4",
    "float": "f4",
    "float32": "f4",
    "double": "f8",
    "float64": "f8",
}
_ORDER = {"binary_little_endian": "<", "binary_big_endian": ">"}
_LONGEST_HEADER = 2**16


#: Name in PLY of each type by its name in NumPy.
PROPERTY_NAMES = {
    "i1": "char",
    "u1": "uchar",
    "i2": "short",
    "u2": "ushort",
    "i4": "int",
    "u4": "uint",
    "f4": "float",
    "f8": "double",
}
# Number of characters reserved for the number of points, which is known at the end.
_DIGITS = 12
_HEAD = b"ply\nformat binary_little_endian 1.0\nelement vertex "

Append = Callable[[Mapping[str, np.ndarray]], None]


def read_ply(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the properties of the vertices of a PLY file: arrays ``(N,)`` by name.

    Names are x, y, z, red, ... Faces and other elements after the vertices are not read.

    Raises:
        InputError: for a damaged header, too few values, vertices with lists, or elements before
            the vertices.
    """
    with reading(path, "PLY") as file:
        header = _read_header(file)
        names = [name for name, _ in header.fields]
        if header.encoding == "ascii":
            return _read_ascii(file, header, names)
        dtype = np.dtype([(name, _ORDER[header.encoding] + kind) for name, kind in header.fields])
        complete = (file.stat().st_size - header.start) // dtype.itemsize
        if complete < header.count:
            raise InputError(
                f"{path}: truncated, it holds {max(complete, 0):,} of {header.count:,} vertices; "
                "fetch or export it again"
            )
        table = np.fromfile(file, dtype=dtype, count=header.count, offset=header.start)
        return {name: table[name].astype(table[name].dtype.newbyteorder("=")) for name in names}


def write_ply(
    path: str | os.PathLike[str],
    points: Any,
    colors: Any = None,
    scalars: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Written:
    """Write a cloud as little-endian binary PLY, completely or not at all.

    Args:
        path: path of the file.
        points: positions in metres, ``(N, 3)``, written as float32, or as float64 if they are
            float64.
        colors: red, green and blue of each point, ``(N, 3)``: whole numbers up to 255, or numbers
            in [0, 1].
        scalars: further numbers of each point by name, ``(N,)`` each, in their own type. Float64
            is written as float32; int64 is written as int32 if the numbers fit.
        overwrite: replace an existing file.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_ply(folder + "/cloud.ply", torch.ones(2, 3), scalars={"speed": [0.5, 1.5]})
    ...     read_ply(folder + "/cloud.ply")["speed"]
    array([0.5, 1.5], dtype=float32)
    """
    xyz = _numbers(path, points, "points")
    if xyz.ndim != 2 or xyz.shape[1] != 3:
        raise InputError(f"{path}: points have the shape {xyz.shape}; a cloud is (N, 3)")
    kind = "f8" if xyz.dtype == np.float64 else "f4"
    columns = {axis: xyz[:, k].astype(kind) for k, axis in enumerate("xyz")}
    if colors is not None:
        rgb = _numbers(path, colors, "colors")
        if rgb.shape != xyz.shape or not bool(
            ((rgb >= 0) & (rgb <= (1 if rgb.dtype.kind == "f" else 255))).all()
        ):
            raise InputError(
                f"{path}: colors of {len(xyz)} points are (N, 3), whole numbers up to 255 or "
                "numbers in [0, 1]; correct them"
            )
        codes = np.rint(rgb * 255.0).astype("u1") if rgb.dtype.kind == "f" else rgb.astype("u1")
        columns |= {name: codes[:, k] for k, name in enumerate(("red", "green", "blue"))}
    for name, values in (scalars or {}).items():
        array = _numbers(path, values, name)
        if array.shape != (len(xyz),) or not name.isidentifier() or name in columns:
            raise InputError(
                f"{path}: the scalar {name!r} of shape {array.shape} needs one number for each of "
                f"{len(xyz)} points, and a name of its own without spaces"
            )
        columns[name] = array.astype(_storage_type(path, name, array))
    fields = {name: array.dtype.str[1:] for name, array in columns.items()}
    with writing(path, overwrite) as stream:
        stream.write(_HEAD + str(len(xyz)).encode("ascii") + _format_properties(fields))
        stream.write(_interleave(columns, fields).tobytes())
    return Written(Path(path).expanduser())


@contextmanager
def ply_stream(
    path: str | os.PathLike[str], fields: Mapping[str, str], overwrite: bool = False
) -> Iterator[Append]:
    """Open a function that appends points to a binary PLY file.

    The file appears under `path` when the block ends without an error.

    Args:
        path: path of the file.
        fields: type of each property by its name, in NumPy's notation:
            ``{"x": "f4", "red": "u1"}``.
        overwrite: replace an existing file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with ply_stream(folder + "/a.ply", {"x": "f4"}) as append:
    ...         append({"x": np.zeros(2)})
    ...         append({"x": np.ones(1)})
    ...     Path(folder, "a.ply").read_bytes().splitlines()[2]
    b'element vertex 3           '
    """
    unknown = [kind for kind in fields.values() if kind not in PROPERTY_NAMES]
    if unknown or not fields:
        fault = f"PLY has no type {unknown[0]!r}" if unknown else "a cloud needs fields"
        raise InputError(f"{path}: {fault}; use {', '.join(PROPERTY_NAMES)}")
    count = 0
    with writing(path, overwrite) as stream:
        stream.write(_HEAD + b" " * _DIGITS + _format_properties(fields))

        def append(columns: Mapping[str, np.ndarray]) -> None:
            nonlocal count
            sizes = {len(columns[name]) for name in fields if name in columns}
            if set(columns) != set(fields) or len(sizes) != 1:
                raise InputError(
                    f"{path}: a piece has {', '.join(columns) or 'nothing'}; expected "
                    f"{', '.join(fields)}, of one length"
                )
            stream.write(_interleave(columns, fields).tobytes())
            count += sizes.pop()

        yield append
        stream.seek(len(_HEAD))
        # Readers split the line at blanks, so blanks may follow the number.
        stream.write(str(count).ljust(_DIGITS).encode("ascii"))
        stream.seek(0, os.SEEK_END)


@dataclass(frozen=True)
class _Header:
    """Header of a PLY file: encoding, start of the values, number and fields of the vertices."""

    encoding: str
    start: int
    count: int
    fields: tuple[tuple[str, str], ...]


def _format_properties(fields: Mapping[str, str]) -> bytes:
    """Return the part of a header after the number of vertices."""
    lines = (f"property {PROPERTY_NAMES[kind]} {name}\n" for name, kind in fields.items())
    return f"\n{''.join(lines)}end_header\n".encode("ascii")


def _interleave(columns: Mapping[str, np.ndarray], fields: Mapping[str, str]) -> np.ndarray:
    """Return a table with one little-endian row per vertex."""
    dtype = np.dtype([(name, "<" + kind) for name, kind in fields.items()])
    table = np.empty(len(columns[next(iter(fields))]), dtype)
    for name in fields:
        table[name] = columns[name]
    return table


def read_ascii_table(path: Path, start: int, rows: int, width: int) -> np.ndarray:
    """Read up to `rows` lines of numbers from a position of a file, float64 ``(rows, columns)``."""
    with path.open("rb") as stream:
        stream.seek(start)
        if not rows:
            return np.empty((0, width))
        return np.loadtxt(stream, dtype=np.float64, max_rows=rows, ndmin=2)


def _read_header(path: Path) -> _Header:
    with path.open("rb") as stream:
        head = stream.read(_LONGEST_HEADER)
    if not head.startswith(b"ply"):
        raise InputError(f"{path}: the file does not begin with 'ply'; not a PLY file, or damaged")
    end = head.find(b"end_header")
    newline = head.find(b"\n", end)
    if end < 0 or newline < 0:
        raise InputError(f"{path}: the header of the PLY file has no end; fetch or export it again")
    encoding, element, count = "", "", 0
    before_vertices: list[str] = []
    fields: list[tuple[str, str]] = []
    for line in head[:end].decode("ascii", errors="replace").splitlines()[1:]:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format" and len(words) == 3:
            encoding = words[1]
        elif words[0] == "element" and len(words) == 3 and words[2].isdigit():
            element = words[1]
            if element == "vertex":
                count = int(words[2])
            elif not fields and words[2] != "0":
                before_vertices.append(element)
        elif words[0] == "property" and element == "vertex":
            if len(words) != 3 or words[1] not in _TYPES:
                raise InputError(
                    f"{path}: the vertices' property {line.strip()!r} is not a number of a known "
                    "type; only numbers are read"
                )
            fields.append((words[2], _TYPES[words[1]]))
        elif words[0] != "property":
            raise InputError(
                f"{path}: the header holds the line {line.strip()[:60]!r}, which PLY does not "
                "define; export it again"
            )
    if encoding != "ascii" and encoding not in _ORDER:
        raise InputError(
            f"{path}: the PLY file is encoded as {encoding[:40]!r}; the encodings are ascii, "
            f"{', '.join(_ORDER)}"
        )
    if before_vertices:
        raise InputError(
            f"{path}: elements {', '.join(before_vertices)[:80]} stand before the vertices; write "
            "the vertices first"
        )
    if len({name for name, _ in fields}) < len(fields) or not fields:
        fault = "two properties of one name" if fields else "no properties"
        raise InputError(f"{path}: the vertices have {fault}; export it again")
    return _Header(encoding, newline + 1, count, tuple(fields))


def _read_ascii(path: Path, header: _Header, names: list[str]) -> dict[str, np.ndarray]:
    # A number and its separator have at least two characters.
    if header.count * len(names) > path.stat().st_size:
        raise InputError(
            f"{path}: truncated, {header.count:,} vertices do not fit {path.stat().st_size:,} "
            "bytes; fetch or export it again"
        )
    table = read_ascii_table(path, header.start, header.count, len(names))
    if table.shape != (header.count, len(names)):
        raise InputError(
            f"{path}: truncated, it holds {table.shape[0]:,} vertices of {table.shape[1]} numbers "
            f"instead of {header.count:,} of {len(names)}; fetch or export it again"
        )
    return {name: table[:, k].astype(kind) for k, (name, kind) in enumerate(header.fields)}


def _storage_type(path: Any, name: str, array: np.ndarray) -> str:
    if array.dtype.kind == "b":
        return "u1"
    if array.dtype.kind == "f":
        return "f4"
    if array.dtype.itemsize <= 4:
        return array.dtype.str[1:]
    if array.size and not (int(array.min()) >= -(2**31) and int(array.max()) < 2**31):
        raise InputError(
            f"{path}: the scalar {name!r} holds whole numbers beyond 32 bits, which PLY does not "
            "store; give floats"
        )
    return "i4"


def _numbers(path: Any, values: Any, what: str) -> np.ndarray:
    array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{path}: {what} of type {array.dtype} are not real numbers; convert them")
    return array
