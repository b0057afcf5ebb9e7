"""What the geometries of 2D and 3D scans have in common, and the fields of their files."""

from __future__ import annotations

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from invtoolbox.core.checks import decoding, require_file, sniff
from invtoolbox.errors import InputError, unknown_name

if TYPE_CHECKING:
    from invtoolbox.operators.base import LinearOperator

_ANGLE_FIELDS = ("unit", "start", "stop", "count", "endpoint", "values", "file")


class ScanGeometry(ABC):
    """How a scan was made: plain numbers, checked, comparable, written to and read from TOML."""

    #: Of one item's measurements: (view, detector cell), or (view, panel row, panel column).
    axes: ClassVar[int]
    kind: str
    angles: tuple[float, ...]
    length_unit: str

    @property
    @abstractmethod
    def view_count(self) -> int:
        """The number of views."""

    @abstractmethod
    def operator(self) -> LinearOperator:
        """The forward operator of this scan."""

    @abstractmethod
    def check_measured(self, shape: tuple[int, ...], source: str) -> None:
        """Raise an `InputError` where measurements ``(1, channel, *space)`` of that shape are not of this scan."""

    @abstractmethod
    def with_views(self, chosen: slice) -> Self:
        """The scan of some of the views."""

    @abstractmethod
    def with_axis_column(self, column: float) -> Self:
        """The same scan with the axis of rotation seen at a detector column, counted from 0 at the centre of the first."""

    @property
    @abstractmethod
    def columns(self) -> int:
        """Detector cells in a row."""

    @abstractmethod
    def to_toml(self) -> str:
        """The text of a geometry file that `geometry_from_mapping` reads back to an equal geometry."""

    def write(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Write the geometry file, atomically, and never over another one unless told to."""
        from invtoolbox.datasets.output import write_bytes

        return write_bytes(path, self.to_toml().encode(), overwrite)


def axes_of_item(path: Any, items: str, geometry: ScanGeometry | None) -> int:
    """How many axes one item of an array has: 2 for ``items="slices"``, 3 for ``"volume"`` and for the projections of a 3D scan."""
    if items not in ("slices", "volume"):
        raise InputError(f"{path}: items is {items!r}; choose 'slices' or 'volume'")
    return 3 if items == "volume" or (geometry is not None and geometry.axes == 3) else 2


def read_angles(table: Any, folder: Path | None = None) -> tuple[float, ...]:
    """The angles in radians that an `[angles]` table describes; a ``file`` lies in ``folder``."""
    if not isinstance(table, Mapping):
        raise InputError(
            "geometry: angles must be a table with a unit, for example "
            '[angles] unit = "degrees", start = 0, stop = 180, count = 181'
        )
    for key in table:
        if key not in _ANGLE_FIELDS:
            raise unknown_name("field of [angles]", key, _ANGLE_FIELDS)
    scale = angle_unit(table)
    if "values" in table or "file" in table:
        if len(table) > 2:
            raise InputError(
                "geometry: give either the values of the angles, a file of them, or start, stop and count, not "
                "both"
            )
        given = (
            read_numbers(table["file"], folder, "the angles").ravel().tolist()
            if "file" in table
            else table["values"]
        )
        if not isinstance(given, (list, tuple)):
            raise InputError("geometry: the values of the angles must be a list of numbers")
        values = tuple(number("an angle", v) for v in given)
    else:
        missing = [k for k in ("start", "stop", "count") if k not in table]
        if missing:
            raise InputError(
                f"geometry: [angles] lacks {', '.join(missing)}; give start, stop and count, or "
                "values"
            )
        start, stop = number("start", table["start"]), number("stop", table["stop"])
        endpoint = table.get("endpoint", True)
        if not isinstance(endpoint, bool):
            raise InputError(f"geometry: endpoint is {endpoint!r}; it must be true or false")
        values = _evenly_spaced(start, stop, count("count", table["count"]), endpoint)
    return tuple(math.radians(v) for v in values) if scale != 1 else values


def angle_unit(table: Mapping[str, Any]) -> float:
    """Radians in the unit of an `[angles]` table."""
    unit = table.get("unit")
    if unit not in ("degrees", "radians"):
        raise InputError(
            f'geometry: the unit of the angles is {unit!r}; say unit = "degrees" or "radians"'
        )
    return math.pi / 180 if unit == "degrees" else 1.0


def angle_table(angles: tuple[float, ...]) -> dict[str, Any]:
    """The shortest table that gives back the same angles to the last bit."""
    first, last, number_of = angles[0], angles[-1], len(angles)
    end = first + (last - first) * number_of / max(number_of - 1, 1)  # where the next one would be
    ends: list[tuple[float, dict[str, Any]]] = [(last, {}), (end, {"endpoint": False})]
    for stop, options in ends:
        for unit in ("degrees", "radians"):
            limits = [round(math.degrees(a), 9) if unit == "degrees" else a for a in (first, stop)]
            table = {
                "unit": unit,
                "start": limits[0],
                "stop": limits[1],
                "count": number_of,
                **options,
            }
            if number_of > 2 and read_angles(table) == angles:
                return table
    return {"unit": "radians", "values": angles}


def read_numbers(name: Any, folder: Path | None, what: str) -> np.ndarray:
    """The numbers of a ``.npy`` file, or of a text file with a row a line, parted by spaces or commas; ``#`` begins a comment."""
    if not isinstance(name, str):
        raise InputError(f"geometry: the file of {what} is {name!r}; give a path in quotes")
    given = Path(name).expanduser()
    path = require_file(given if given.is_absolute() or folder is None else folder / given)
    if sniff(path) == "npy":
        with decoding(path, "NumPy"):
            array = np.load(path, allow_pickle=False)
        if array.dtype.kind not in "iuf":
            raise InputError(
                f"{path}: {what} are stored as {array.dtype}; they must be real numbers"
            )
        return np.asarray(array, dtype=np.float64)
    try:
        lines = [
            line.split("#")[0].replace(",", " ").split()
            for line in path.read_text(encoding="utf-8").splitlines()
        ]
        rows = [[float(word) for word in line] for line in lines if line]
    except (UnicodeDecodeError, ValueError) as error:
        raise InputError(
            f"{path}: {what} are not read ({error}); give a .npy file, or numbers parted by spaces or commas"
        ) from None
    if not rows or len({len(row) for row in rows}) != 1:
        raise InputError(
            f"{path}: {what} need the same number of columns in every line, and at least one line"
        )
    return np.array(rows, dtype=np.float64)


def number(name: str, value: Any) -> float:
    if (
        isinstance(value, (bool, str))
        or not hasattr(value, "__float__")
        or not math.isfinite(float(value))
    ):
        raise InputError(f"geometry: {name} is {value!r}; it must be a finite number")
    return float(value)


def length(name: str, value: Any) -> float:
    if number(name, value) <= 0:
        raise InputError(f"geometry: {name} is {value!r}; it must be greater than zero")
    return float(value)


def count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise InputError(f"geometry: {name} is {value!r}; it must be a whole number of at least 1")
    return int(value)


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON escapes as TOML does, but for the delete character.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return "[" + ", ".join(toml(v) for v in value) + "]"
    return repr(value)


def _evenly_spaced(start: float, stop: float, count: int, endpoint: bool) -> tuple[float, ...]:
    parts = count - 1 if endpoint else count
    if parts <= 0:
        return (start,)
    # start + i * step would miss `stop` by rounding.
    return tuple(start + (stop - start) * (i / parts) for i in range(count))
