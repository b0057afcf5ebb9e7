"""Studies of a function: every slice of a volume, or every item of any data set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from invtoolbox.core.content import digest
from invtoolbox.datasets.measurement import DataSet, Measurement
from invtoolbox.errors import InputError, naming_arguments
from invtoolbox.jobs.study.driver import Items, Study, run_study
from invtoolbox.jobs.study.results import Answer
from invtoolbox.solution import Solution

_REMEDY = 'give `map_slices(..., key="...")` with a key that changes whenever it changes'


@naming_arguments
def map_slices(
    data: str | Path | DataSet,
    work: Callable[[Measurement], Solution | Tensor | Answer],
    folder: str | Path,
    slices: Sequence[int] | None = None,
    workers: int = 1,
    cluster: str | None = None,
    threads: int = 1,
    geometry: Any = None,
    reader: str | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    key: str | None = None,
) -> Study:
    """Apply a function to every slice of a volume, or item of a data set; `it.map_slices`.

    Args:
        data: a path, which every worker opens itself and must see under that name, or a data set,
            whose items are sent to the workers. A data set is read once in advance, because a
            folder is resumed only with the same content; of a path, names, sizes and dates of its
            files are compared.
        work: function of a `Measurement` that returns a `Solution`, an image or an `Answer`. In a
            script with several workers, the call must stand under ``if __name__ == "__main__":``.
        folder: folder for the result files, one per item.
        slices: numbers of the items; all by default.
        workers: number of processes; with 1 and no cluster, Dask is not needed.
        cluster: address of a Dask scheduler, as in `invtoolbox.jobs.study.driver.run_study`.
        threads: number of threads per worker.
        geometry: geometry of a scan, as in `it.datasets.open`, for a path.
        reader: name of a reader, as in `it.datasets.open`, for a path.
        settings: settings that the result depends on in addition to the data; a folder is resumed
            only with equal ones.
        resume: keep the whole results in the folder. The content of `work` must be equal: its code
            and the values that it refers to (`invtoolbox.core.content`).
        overwrite: replace the results in the folder.
        progress: show a bar on a terminal.
        key: text that stands for `work` and a data set, whose contents are then not compared. With
            it, a folder is resumed with a corrected function, a function may refer to an object
            whose content cannot be read, and a data set is not read in advance.

    Raises:
        InputError: if the content of `work` cannot be read, and there is no key.

    Returns:
        A `Study`, which reports the items that failed by name; all other items are done.

    >>> import tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as place:
    ...     np.save(place + "/volume.npy", np.arange(24.0).reshape(2, 3, 4))
    ...     map_slices(place + "/volume.npy", lambda item: 2 * item.y, place + "/out", progress=False).stack().shape
    torch.Size([2, 1, 3, 4])
    """
    from invtoolbox import datasets

    description: dict[str, Any] = {
        "settings": dict(settings or {}),
        "work": {
            "name": getattr(work, "__qualname__", type(work).__name__),
            "content": digest(work, "work", remedy=_REMEDY) if key is None else f"key {key}",
        },
    }
    if isinstance(data, (str, Path)):
        path = Path(data).expanduser().resolve()
        opened = datasets.open_measurements(path, geometry, reader=reader)
        description |= {"data": str(path), "reader": reader, "stamp": stamp(path)}
        source: Any = (path, geometry, reader)
    else:
        if geometry is not None or reader is not None:
            raise InputError(
                "geometry and reader are for a path; open the data set with them instead"
            )
        opened, source = data, None
        description["data"] = _content_of(data) if key is None else f"key {key}"
    chosen = range(len(opened)) if slices is None else slices
    for k in chosen:
        if not 0 <= k < len(opened):
            raise InputError(f"slice {k} is asked for, and there are {len(opened)}, counted from 0")
    # An item of a data set is read when its work starts, so memory holds one item per worker.
    items = Items(
        [f"slice-{k:04d}" for k in chosen], lambda n: (work, source or opened[chosen[n]], chosen[n])
    )
    return run_study(
        _do_slice,
        items,
        folder,
        description,
        workers=workers,
        cluster=cluster,
        threads=threads,
        resume=resume,
        overwrite=overwrite,
        progress=progress,
    )


def _content_of(data: DataSet) -> str:
    """Return the digest of all items of a data set, which are read one by one."""
    total = hashlib.sha256()
    for k in range(len(data)):
        total.update(digest(data[k], f"data[{k}]", remedy=_REMEDY).encode())
    return total.hexdigest()


def _do_slice(work: Callable[[Measurement], Any], source: Any, index: int) -> Any:
    if isinstance(source, Measurement):
        return work(source)
    from invtoolbox import datasets

    path, geometry, reader = source
    return work(datasets.open_measurements(path, geometry, reader=reader)[index])


def stamp(path: Path) -> list[int] | str:
    """Return the size and the time of the last change of a file, to detect changes.

    Of a folder, a digest of the names, sizes and times of all its files is returned.

    Args:
        path: the file or folder.
    """
    if not path.is_dir():
        status = path.stat()
        return [status.st_size, status.st_mtime_ns]
    return digest(
        {
            str(file.relative_to(path)): (file.stat().st_size, file.stat().st_mtime_ns)
            for file in path.rglob("*")
            if file.is_file()
        }
    )
