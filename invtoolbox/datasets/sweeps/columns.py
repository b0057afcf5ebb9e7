"""Columns of files: of Arrow tables (feather, Parquet), and of raw sweeps.

Arrow tables need only pyarrow. The number, type and names of the columns of a raw sweep are found from
the distribution of the values.

A raw file (`.bin`) holds numbers alone. In the right layout the columns have distributions of their
own: heights are smaller than distances, intensities are positive, rings are whole. In a wrong layout
every column is a mixture of all of them, and all columns are alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.core.checks import reading
from invtoolbox.core.environment import optional_package
from invtoolbox.core.trust import check_declared
from invtoolbox.errors import InputError

#: Names of the columns if only their number is known: KITTI has 4, nuScenes 5.
COLUMNS: dict[int, tuple[str, ...]] = {
    3: ("x", "y", "z"),
    4: ("x", "y", "z", "intensity"),
    5: ("x", "y", "z", "intensity", "ring"),
    6: ("x", "y", "z", "intensity", "ring", "time"),
}
#: Number of values below which distributions are too rough.
_FEWEST = 1000
#: Number of values at the beginning of a file that decide.
_MOST = 120_000
#: Least share of finite values of a plausible size, and the bounds of that size. Of doubles read as
#: float32, at least 4 % are outside if one column of six has fractions.
_PLAUSIBLE = 0.99
_LEAST, _LARGEST = 1e-15, 1e10
#: Least share of the variance that the right number of columns explains; wrong ones explain 0.0001.
_EXPLAINED = 0.01
#: Share of the best number at which a smaller one explains as much: it divides the best one.
_AS_GOOD = 0.8


def column_names(columns: int | Sequence[str] | None, width: int) -> tuple[str, ...]:
    """Return the names of columns, from their number or as given.

    >>> column_names("x y z ring", 4)
    ('x', 'y', 'z', 'ring')
    """
    if columns is None:
        columns = width
    if isinstance(columns, str):
        words = columns.replace(",", " ").split()
        columns = int(words[0]) if len(words) == 1 and words[0].isdigit() else words
    names = COLUMNS.get(columns) if isinstance(columns, int) else tuple(columns)
    if names is None or not {"x", "y", "z"} <= set(names):
        raise InputError(
            f"columns={columns!r}: give a number from {min(COLUMNS)} to {max(COLUMNS)}, or names "
            "that include x, y and z"
        )
    return names


def read_rows(
    path: Path, columns: int | Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read the rows of a raw file, and the names of their columns.

    Args:
        path: the file.
        columns: number or names of the columns; by default, the values decide.

    Raises:
        InputError: the size is not a whole number of rows; the values are neither float32 nor
            float64; or they fit several layouts.
    """
    size = path.stat().st_size
    if columns is None and path.name.lower().endswith(".pcd.bin"):  # of nuScenes
        columns = 5
    numbers = np.fromfile(path, "<f4")
    # `require_measurements` refuses a sweep without a measurement.
    is_clear = len(numbers) >= _FEWEST and bool((np.isfinite(numbers) & (numbers != 0)).any())
    if is_clear and _is_double(path, numbers):
        numbers = np.fromfile(path, "<f8")
    if columns is not None or not is_clear:
        names = column_names(columns, 4)
    else:
        names = COLUMNS[_width(path, numbers[:_MOST])]
    kind = f"float{8 * numbers.itemsize}"
    row = numbers.itemsize * len(names)
    if size % row:
        fitting = [str(n) for n in COLUMNS if size % (numbers.itemsize * n) == 0]
        advice = (
            f"give columns={' or '.join(fitting)} if its points have as many columns"
            if fitting
            else "fetch it again"
        )
        raise InputError(
            f"{path}: {size:,} bytes are not a whole number of points of {len(names)} {kind} "
            f"({', '.join(names)}), {row} bytes each; the file is truncated, or of another format: "
            f"{advice}"
        )
    rows = numbers.reshape(-1, len(names))
    return rows, _name_by_content(path, rows, names) if columns is None and is_clear else names


def _is_double(path: Path, numbers: np.ndarray) -> bool:
    """Return whether values that were read as float32 are float64."""
    # The lower halves of doubles are random, or zero if the numbers have few digits.
    halves = numbers[:_MOST]
    if (halves[::2] != 0).any() and _share_of_plausible(halves, _LEAST) >= _PLAUSIBLE:
        return False
    doubles = np.fromfile(path, "<f8", count=_MOST)
    if _share_of_plausible(doubles, 0) < _PLAUSIBLE:
        raise InputError(
            f"{path}: the values are neither float32 nor float64 of a lidar (infinite, or larger "
            "than 1e10); the file is damaged, or no raw sweep; convert it to .pcd, .ply or .npy"
        )
    return True


def _share_of_plausible(values: np.ndarray, least: float) -> float:
    size = np.abs(values[np.isfinite(values)])
    is_plausible = (size == 0) | ((size > least) & (size < _LARGEST))
    return float(is_plausible.mean()) if len(size) else 1.0


def _width(path: Path, values: np.ndarray) -> int:
    """Return the number of columns whose distributions differ the most."""
    finite = np.where(np.isfinite(values), values, 0).astype(np.float64)
    features = (np.log1p(np.abs(finite)), np.sign(finite))
    explained = {}
    for width in COLUMNS:
        rows = [feature[: len(feature) // width * width].reshape(-1, width) for feature in features]
        # Variance of the means of the columns, as a share of the variance of all values.
        explained[width] = sum(row.mean(0).var() / max(row.var(), 1e-12) for row in rows)
    best = max(explained.values())
    fitting = [width for width, share in explained.items() if share >= _AS_GOOD * best]
    if best < _EXPLAINED or any(width % fitting[0] for width in fitting):
        named = fitting if best >= _EXPLAINED else list(COLUMNS)
        raise InputError(
            f"{path}: the values do not determine the number of columns ({', '.join(map(str, named))}); "
            "give it with columns= (--option columns=4 on the command line)"
        )
    return fitting[0]


def _name_by_content(path: Path, rows: np.ndarray, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the columns behind x, y and z, from their values.

    An intensity is not negative, a ring is a whole number, and a time is within a second.
    """
    rest = rows[:, 3:]
    fits = {
        "intensity": lambda column: (column >= 0).all(),
        "ring": lambda column: (column >= 0).all() and (column % 1 == 0).all(),
        "time": lambda column: (np.abs(column) <= 1).all(),
    }
    orders = [names, ("x", "y", "z", "intensity", "time", "ring")[: len(names)]]
    for order in orders:
        if all(fits[name](rest[:, k]) for k, name in enumerate(order[3:])):
            return order
    raise InputError(
        f"{path}: the values have {len(names)} columns, and those behind x, y and z are neither "
        f"{' nor '.join(', '.join(order[3:]) for order in orders)}; give their names, such as "
        'columns="x y z time"'
    )


def read_feather(
    path: Path, columns: Sequence[str], optional: Sequence[str] = (), words: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Read columns of a feather file as arrays with one entry per row.

    Columns of numbers keep their type; columns of words become arrays of objects.

    Args:
        path: path of the file.
        columns: names of the columns of numbers.
        optional: names of columns of numbers that are left out if the file lacks them.
        words: names of the columns of words.

    Raises:
        InputError: for a missing or damaged file, a missing column, missing entries, or words
            instead of numbers.
    """
    ipc = pyarrow("ipc")
    with reading(path, "feather"), within_memory(path):
        with path.open("rb") as stream:
            if stream.read(6) != b"ARROW1":
                raise InputError(
                    f"{path}: not a feather file (version 2), by its first bytes; fetch it again"
                )
        with ipc.open_file(str(path)) as opened:
            names = opened.schema.names
        missing = [name for name in (*columns, *words) if name not in names]
        if missing:
            raise InputError(
                f"{path}: the table lacks the column{'s' * (len(missing) > 1)} "
                f"{', '.join(missing)}; it has {', '.join(names) or 'none'}"
            )
        included = [*columns, *words, *(name for name in optional if name in names)]
        options = ipc.IpcReadOptions(included_fields=[names.index(name) for name in included])
        with ipc.open_file(str(path), options=options) as opened:
            batches: list[Any] = []
            for k in range(opened.num_record_batches):
                batches.append(opened.get_batch(k))
                check_declared(path, sum(batch.nbytes for batch in batches))
            table = pyarrow("lib").Table.from_batches(batches, opened.schema)
        arrays = {name: _array(path, table, name) for name in included}
    for name, array in arrays.items():
        if name not in words and array.dtype.kind not in "biuf":
            raise InputError(
                f"{path}: the column {name} holds words instead of numbers; write the table again"
            )
    return arrays


@contextmanager
def within_memory(path: Path) -> Iterator[None]:
    """Turn a MemoryError into an `InputError`: a table with damaged sizes needs too much memory."""
    try:
        yield
    except MemoryError as error:
        raise InputError(
            f"{path}: the table declares more than memory holds ({error}); it is damaged, or needs "
            "a larger machine"
        ) from None


def pyarrow(module: str) -> Any:
    """Import a module of pyarrow, or raise a `MissingDependency` that names the extra."""
    need = "Argoverse 2 and Waymo files need pyarrow, which is not installed;"
    return optional_package(f"pyarrow.{module}", need, "lidar")


def _array(path: Path, table: Any, name: str) -> np.ndarray:
    column = table[name].combine_chunks()
    column.validate(full=True)
    if column.null_count:
        raise InputError(
            f"{path}: {column.null_count} entries of the column {name} are missing; write the "
            "table again"
        )
    array = np.asarray(column.to_numpy(zero_copy_only=False))
    if array.ndim != 1 or array.dtype.kind not in "biufO":
        raise InputError(
            f"{path}: the column {name} holds {column.type}, neither numbers nor words; write the "
            "table again"
        )
    return array
