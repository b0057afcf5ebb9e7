"""Tables of the sources and receivers of a seismic survey, as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from invtoolbox.core.checks import reading
from invtoolbox.errors import InputError

_ENDS = ("source", "receiver")
_COLUMNS = (
    "shot",
    *(f"{end}_{name}" for end in _ENDS for name in ("x", "y", "depth", "elevation")),
)


@dataclass(frozen=True, eq=False)
class SurveyPlaces:
    """Places of the source and of the receiver of every trace.

    Attributes:
        sources: depth, x and y in metres, ``(traces, 3)``.
        receivers: places of the receivers, in the same form.
        names: number of the shot of every trace, ``(traces,)``; all equal if there are none.
    """

    sources: np.ndarray
    receivers: np.ndarray
    names: np.ndarray


def read_survey_table(path: str | Path) -> SurveyPlaces:
    """Read a CSV table with one row per trace, in metres.

    The first line names the columns, in any order, separated by commas or semicolons: ``source_x``
    and ``receiver_x``; ``source_y`` and ``receiver_y``, 0 by default; ``shot``, a whole number;
    and either ``source_depth`` and ``receiver_depth``, which count from the top of the model, or
    ``source_elevation`` and ``receiver_elevation``, from the highest of which depths then count.

    Args:
        path: path of the table.

    Raises:
        InputError: a column is missing, unknown or named twice, a row has another number of values,
            or a value is no finite number.
    """
    with reading(path, "CSV") as file:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
        rows = [line for line in lines if line.strip()]
        if len(rows) < 2:
            raise InputError(f"the table has no rows below its names; name {', '.join(_COLUMNS)}")
        separator = ";" if ";" in rows[0] else ","
        names, *values = csv.reader(rows, delimiter=separator)
        names = [name.strip().lower() for name in names]
        _check_names(names)
        table = np.array([_numbers(line, row, names) for line, row in enumerate(values, start=2)])
        columns = dict(zip(names, table.T))
        zero = np.zeros(len(table))
        heights = [columns.get(f"{end}_elevation") for end in _ENDS]
        depths = [columns.get(f"{end}_depth", zero) for end in _ENDS]
        if heights[0] is not None and heights[1] is not None:
            highest = max(heights[0].max(), heights[1].max())
            depths = [highest - height for height in heights]
    sources, receivers = (
        np.stack([depth, columns[f"{end}_x"], columns.get(f"{end}_y", zero)], 1)
        for end, depth in zip(_ENDS, depths)
    )
    return SurveyPlaces(sources, receivers, columns.get("shot", zero).astype(np.int64))


def _check_names(names: Sequence[str]) -> None:
    missing = [f"{end}_x" for end in _ENDS if f"{end}_x" not in names]
    strange = [name for name in names if name not in _COLUMNS]
    if missing or strange or len(set(names)) < len(names):
        fault = f"there is no column {missing[0]!r}" if missing else "a column is named twice"
        fault = f"the column {strange[0]!r} is unknown" if strange else fault
        raise InputError(f"{fault}; the columns of a survey are {', '.join(_COLUMNS)}")
    for name in ("depth", "elevation"):
        if (f"source_{name}" in names) != (f"receiver_{name}" in names):
            raise InputError(
                f"the {name} is stated of one end alone; give source_{name} and receiver_{name}"
            )
    if "source_depth" in names and "source_elevation" in names:
        raise InputError("the table has depths and elevations; leave one of them out")


def _numbers(line: int, row: Sequence[str], names: Sequence[str]) -> list[float]:
    if len(row) != len(names):
        raise InputError(f"row {line} has {len(row)} values for {len(names)} columns; complete it")
    try:
        numbers = [float(value) for value in row]
    except ValueError:
        numbers = [float("nan")]
    if not np.isfinite(numbers).all():
        raise InputError(f"row {line} holds a value that is no finite number: {', '.join(row)}")
    return numbers
