"""Columns of Arrow tables (feather, Parquet) as arrays, by pyarrow alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.core.checks import decoding, require_file
from invtoolbox.errors import InputError, MissingDependency


def read_feather(
    path: Path, columns: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Columns of a feather file, each an array of one entry a row; those of `optional` are left out where the file lacks them.

    Numbers are arrays of their type, words arrays of objects.

    Raises:
        InputError: for a missing or damaged file, a column that is missing, and missing entries.
    """
    feather = pyarrow("feather")
    ipc = pyarrow("ipc")
    require_file(path)
    with decoding(path, "feather"), within_memory(path):
        with path.open("rb") as stream:
            if stream.read(6) != b"ARROW1":
                raise InputError(
                    f"{path}: the file does not begin as a feather file (version 2) does; fetch it again"
                )
        with ipc.open_file(str(path)) as opened:
            names = opened.schema.names
        missing = [name for name in columns if name not in names]
        if missing:
            raise InputError(
                f"{path}: the table lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; it has "
                f"{', '.join(names) or 'none'}"
            )
        wanted = [*columns, *(name for name in optional if name in names)]
        table = feather.read_table(str(path), columns=wanted, memory_map=False)
        return {name: _array(path, table, name) for name in wanted}


def require_numbers(path: Path, columns: dict[str, np.ndarray], names: Sequence[str]) -> None:
    """Refuse columns that hold words where numbers are meant."""
    for name in names:
        if name in columns and columns[name].dtype.kind not in "biuf":
            raise InputError(
                f"{path}: the column {name} holds words instead of numbers; write the table again"
            )


@contextmanager
def within_memory(path: Path) -> Iterator[None]:
    """Say of a table that asks for more memory than there is that it does: damaged sizes do."""
    try:
        yield
    except MemoryError as error:
        raise InputError(
            f"{path}: the table declares more than memory holds ({error}); it is damaged, or read it on a larger "
            "machine"
        ) from None


def pyarrow(module: str) -> Any:
    """A module of pyarrow, or `MissingDependency` naming the extra that brings it."""
    import importlib

    try:
        return importlib.import_module(f"pyarrow.{module}")
    except ImportError as error:
        from invtoolbox.core.environment import how_to_get

        raise MissingDependency(
            f"Argoverse 2 and Waymo files need pyarrow, which is not installed; {how_to_get('lidar')}"
        ) from error


def _array(path: Path, table: Any, name: str) -> np.ndarray:
    column = table[name].combine_chunks()
    column.validate(full=True)
    if column.null_count:
        raise InputError(
            f"{path}: {column.null_count} entries of the column {name} are missing; write the table again"
        )
    array = np.asarray(column.to_numpy(zero_copy_only=False))
    if array.ndim != 1 or array.dtype.kind not in "biufO":
        raise InputError(
            f"{path}: the column {name} holds {column.type}, neither numbers nor words"
        )
    return array
