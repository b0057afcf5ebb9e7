"""Files of points in mm: tables (.csv), PLY, and the legacy format of VTK (.vtk)."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np

from invtoolbox.core.checks import reading
from invtoolbox.datasets.output import write_bytes
from invtoolbox.datasets.ply import read_ply, write_ply
from invtoolbox.errors import InputError

#: Suffixes of files of points.
SUFFIXES = (".csv", ".vtk", ".ply")
_VTK = re.compile(rb"POINTS\s+(\d+)\s+(float|double)[ \t]*\r?\n")


def read_points(path: str | Path) -> np.ndarray:
    """Read the coordinates of points, ``(N, 2 or 3)``, in float64.

    Args:
        path: a table with columns x, y and perhaps z, named in its first line or else the first
            ones; a PLY file; or a polydata or grid of VTK's legacy format.

    Raises:
        InputError: no such file, another format, no coordinates, or numbers that are not finite.
    """
    path = Path(path)
    with reading(path, "points") as file:
        if path.suffix.lower() == ".csv":
            rows, columns = _table(file)
            points = np.array([[float(row[k]) for k in columns] for row in rows[1:]])
        elif path.suffix.lower() == ".vtk":
            points = _vtk(file.read_bytes())[0]
        elif path.suffix.lower() == ".ply":
            vertices = read_ply(file)
            points = np.stack([vertices[axis] for axis in "xyz"], 1).astype(np.float64)
        else:
            raise InputError(f"no format of points; use {', '.join(SUFFIXES)}")
        if not len(points) or not np.isfinite(points).all():
            raise InputError("it holds no points, or some that are NaN or infinite")
        return points


def write_points(path: Path, points: np.ndarray, source: Path, overwrite: bool = False) -> None:
    """Write points with everything else that a file of as many points holds, in its format.

    Args:
        path: the file.
        points: coordinates, ``(N, 2 or 3)``; further columns stay.
        source: the file of the other points.
        overwrite: replace an existing file.
    """
    if source.suffix.lower() == ".ply":
        vertices = read_ply(source)
        scalars = {name: values for name, values in vertices.items() if name not in "xyz"}
        write_ply(path, points, scalars=scalars, overwrite=overwrite)
        return
    if source.suffix.lower() == ".vtk":
        content = source.read_bytes()
        _, start, stop, dtype = _vtk(content)
        if dtype is None:
            block = "\n".join(" ".join(map(repr, p.tolist())) for p in points).encode() + b"\n"
        else:
            block = points.astype(dtype).tobytes()
        write_bytes(path, content[:start] + block + content[stop:], overwrite)
        return
    (head, *rows), columns = _table(source)
    for row, point in zip(rows, points):
        for k, coordinate in zip(columns, point.tolist()):
            row[k] = repr(coordinate)
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([head, *rows] if head else rows)
    write_bytes(path, stream.getvalue().encode(), overwrite)


def _table(path: Path) -> tuple[list[list[str]], list[int]]:
    """Return the rows of a table, of which the first is the header or empty, and the columns."""
    rows = [row for row in csv.reader(path.read_text().splitlines()) if row]
    names = [word.strip().lower() for word in rows[0]]
    columns = [names.index(axis) for axis in "xyz" if axis in names]
    if names[0].lstrip("+-.")[:1].isdigit():  # without a header, the first columns
        columns, rows = list(range(min(len(names), 3))), [[], *rows]
    if len(columns) < 2 or len(rows) < 2:
        raise InputError(f"no columns x and y with numbers, but {', '.join(names)[:80]}")
    return rows, columns


def _vtk(content: bytes) -> tuple[np.ndarray, int, int, np.dtype | None]:
    """Return the points, their first and last byte, and their type, None for text."""
    match = _VTK.search(content)
    if not content.startswith(b"# vtk DataFile") or match is None:
        raise InputError("no points in VTK's legacy format; save the file as a legacy .vtk")
    count, start = 3 * int(match[1]), match.end()
    if b"\nASCII" in content[: match.start()]:
        words = [word for _, word in zip(range(count), re.finditer(rb"\S+", content[start:]))]
        numbers = np.array([float(word[0]) for word in words])
        if len(words) == count:
            stop = start + words[-1].end() + 1 if words else start
            return numbers.reshape(-1, 3), start, stop, None
    dtype = np.dtype({b"float": ">f4", b"double": ">f8"}[match[2]])
    stop = start + count * dtype.itemsize
    if stop > len(content):
        raise InputError(f"truncated: {match[1].decode()} points are declared")
    points = np.frombuffer(content[start:stop], dtype).astype(np.float64)
    return points.reshape(-1, 3), start, stop, dtype
