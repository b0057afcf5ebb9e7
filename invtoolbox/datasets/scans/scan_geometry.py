"""Base class of the geometries of 2D and 3D scans, and the fields of their files."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np

from invtoolbox.core.checks import decoding, open_arrays, require_file, require_keys, sniff
from invtoolbox.core.guards import check_choice
from invtoolbox.errors import InputError, check_name

if TYPE_CHECKING:
    from invtoolbox.operators.base import LinearOperator

_ANGLE_FIELDS = ("unit", "start", "stop", "count", "endpoint", "values", "file")


class ScanGeometry(ABC):
    """Description of how a scan was made: plain numbers that are checked and can be compared.

    A geometry is written to a TOML file and read from it.
    """

    #: Number of axes of one item's measurements: 2 for (view, detector cell), 3 for (view, panel
    #: row, panel column).
    axes: ClassVar[int]
    kind: str
    angles: tuple[float, ...]
    length_unit: str

    @property
    @abstractmethod
    def view_count(self) -> int:
        """Number of views."""

    @abstractmethod
    def operator(self) -> LinearOperator:
        """Build the forward operator of this scan."""

    @abstractmethod
    def check_measured(self, shape: tuple[int, ...], source: str) -> None:
        """Raise an `InputError` if measurements of this shape do not belong to this scan.

        Args:
            shape: shape of the measurements, ``(1, channel, *space)``.
            source: name of the measurements for the error message.
        """

    @abstractmethod
    def with_views(self, chosen: slice) -> Self:
        """Return a copy of the geometry with the chosen views only."""

    @abstractmethod
    def with_axis_column(self, column: float) -> Self:
        """Return a copy whose axis of rotation is seen at a given detector column.

        Columns are counted from 0 at the centre of the first column.
        """

    @property
    @abstractmethod
    def columns(self) -> int:
        """Number of detector cells per row."""

    @abstractmethod
    def to_toml(self) -> str:
        """Return the text of a geometry file.

        `geometry_from_mapping` reads the text back to an equal geometry.
        """

    def write(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Write the geometry file atomically; replace an existing file only with `overwrite`."""
        from invtoolbox.datasets.output import write_bytes

        return write_bytes(path, self.to_toml().encode(), overwrite)

    def __repr__(self) -> str:
        """Return the settings that are not the defaults; long tuples of numbers are summarized."""
        settings = []
        for field in dataclasses.fields(cast(Any, self)):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            text = repr(value)
            if isinstance(value, tuple) and len(value) > 3:
                text = f"<{len(value)} views>"
                if field.name == "angles":
                    low, high = math.degrees(min(value)), math.degrees(max(value))
                    text = f"<{len(value)} views, {low:.4g} to {high:.4g} degrees>"
            settings.append(f"{field.name}={text}".replace(" ", "\0"))
        # Lines break between settings, because the spaces inside of them are replaced.
        lines = textwrap.wrap(
            f"{type(self).__name__}({', '.join(settings)})", 96, break_on_hyphens=False
        )
        return "\n    ".join(lines).replace("\0", " ")


def axes_of_item(path: Any, items: str, geometry: ScanGeometry | None) -> int:
    """Return the number of axes of one item of an array.

    It is 2 for ``items="slices"``, and 3 for ``items="volume"`` and for the projections of a 3D
    scan.
    """
    check_choice(str(path), ("slices", "volume"), items=items)
    return 3 if items == "volume" or (geometry is not None and geometry.axes == 3) else 2


def read_angles(table: Any, folder: Path | None = None) -> tuple[float, ...]:
    """Return the angles in radians that an `[angles]` table describes.

    The path of a ``file`` in the table is relative to ``folder``.
    """
    if not isinstance(table, Mapping):
        raise InputError(
            "geometry: angles must be a table with a unit, for example "
            '[angles] unit = "degrees", start = 0, stop = 180, count = 181'
        )
    for key in table:
        check_name("field of [angles]", key, _ANGLE_FIELDS)
    scale = angle_unit(table)
    if "values" in table or "file" in table:
        if len(table) > 2:
            raise InputError(
                "geometry: give either the values of the angles, a file of them, or start, stop "
                "and count, not both"
            )
        angles = (
            read_numbers(table["file"], folder, "the angles").ravel().tolist()
            if "file" in table
            else table["values"]
        )
        if not isinstance(angles, (list, tuple)):
            raise InputError("geometry: the values of the angles must be a list of numbers")
        values = tuple(check_number("an angle", angle) for angle in angles)
    else:
        require_keys(
            "geometry: [angles] lacks",
            ("start", "stop", "count"),
            table,
            "give start, stop and count, or values",
        )
        start, stop = (check_number(key, table[key]) for key in ("start", "stop"))
        endpoint = check_flag("endpoint", table.get("endpoint", True))
        values = _space_evenly(start, stop, check_count("count", table["count"]), endpoint)
    return tuple(math.radians(v) for v in values) if scale != 1 else values


def angle_unit(table: Mapping[str, Any]) -> float:
    """Return the size of the unit of an `[angles]` table, in radians."""
    unit = table.get("unit")
    if unit not in ("degrees", "radians"):
        raise InputError(
            f'geometry: the unit of the angles is {unit!r}; set unit = "degrees" or "radians"'
        )
    return math.pi / 180 if unit == "degrees" else 1.0


def angle_table(angles: tuple[float, ...]) -> dict[str, Any]:
    """Return the shortest `[angles]` table from which the same angles are read to the last bit."""
    first, last, number_of = angles[0], angles[-1], len(angles)
    end = first + (last - first) * number_of / max(number_of - 1, 1)  # the angle after the last
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
    """Read the numbers of a ``.npy`` file or of a text file.

    A text file has one row per line, with numbers separated by spaces or commas; ``#`` begins a
    comment.
    """
    if not isinstance(name, str):
        raise InputError(f"geometry: the file of {what} is {name!r}; give a path in quotes")
    file = Path(name).expanduser()
    path = require_file(file if file.is_absolute() or folder is None else folder / file)
    if sniff(path) == "npy":
        with decoding(path, "NumPy"):
            array = open_arrays(path)
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
            f"{path}: {what} cannot be read ({error}); give a .npy file, or numbers separated by "
            "spaces or commas"
        ) from None
    if not rows or len({len(row) for row in rows}) != 1:
        raise InputError(
            f"{path}: {what} need the same number of columns in every line, and at least one line"
        )
    return np.array(rows, dtype=np.float64)


def check_number(name: str, value: Any) -> float:
    """Return the value of a field as a float, or raise an error unless it is a finite number."""
    if (
        isinstance(value, (bool, str))
        or not hasattr(value, "__float__")
        or not math.isfinite(float(value))
    ):
        raise InputError(f"geometry: {name} is {value!r}; it must be a finite number")
    return float(value)


def check_length(name: str, value: Any) -> float:
    """Return the value of a field as a float, or raise an error unless it is above zero."""
    if check_number(name, value) <= 0:
        raise InputError(f"geometry: {name} is {value!r}; it must be greater than zero")
    return float(value)


def check_count(name: str, value: Any) -> int:
    """Return the value of a field as an int, or raise an error unless it is at least 1."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise InputError(f"geometry: {name} is {value!r}; it must be a whole number of at least 1")
    return int(value)


def check_flag(name: str, value: Any) -> bool:
    """Return the value of a field, or raise an error unless it is true or false."""
    if not isinstance(value, bool):
        raise InputError(f"geometry: {name} is {value!r}; it must be true or false")
    return value


def format_toml(value: Any) -> str:
    """Format a value in the syntax of TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON escapes characters as TOML does, except for the delete character.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return "[" + ", ".join(format_toml(v) for v in value) + "]"
    return repr(value)


def format_tables(fields: Mapping[str, Any], angles: Mapping[str, Any]) -> str:
    """Return the text of a geometry file with these fields and, if not empty, this `[angles]`."""
    lines = [f"{key} = {format_toml(value)}" for key, value in fields.items()]
    if angles:
        lines += ["", "[angles]", *(f"{key} = {format_toml(v)}" for key, v in angles.items())]
    return "\n".join(lines) + "\n"


def _space_evenly(start: float, stop: float, count: int, endpoint: bool) -> tuple[float, ...]:
    parts = count - 1 if endpoint else count
    if parts <= 0:
        return (start,)
    # start + i * step would miss `stop` by rounding.
    return tuple(start + (stop - start) * (i / parts) for i in range(count))
