"""Reader of columns of Arrow tables (feather, Parquet) as arrays; it needs only pyarrow."""

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
