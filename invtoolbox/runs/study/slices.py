"""One thing done to every slice of a volume, or to every item of any data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from invtoolbox.datasets.measurement import DataSet, Measurement
from invtoolbox.errors import InputError
from invtoolbox.runs.study.driver import Items, Study, run_study
from invtoolbox.runs.study.results import Answer
from invtoolbox.solution import Solution


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
) -> Study:
    """Do one thing to every slice of a volume, or to every item of any data set; `it.map_slices`.

    Args:
        data: a path, which is opened where the work is done (every worker sees it under that name), or a data set, whose
            items travel to the workers.
        work: takes a `Measurement` and gives a `Solution`, an image or an `Answer`. In a script, several workers need the
            call to stand under ``if __name__ == "__main__":``.
        folder: for the result files, one an item.
        slices: which items; all by default.
        workers, cluster, threads: as in `invtoolbox.runs.study.workers.spread`. With one worker and no cluster Dask is not needed.
        geometry, reader: as in `it.datasets.open`, for a path.
        settings: what the result depends on besides the data; a folder is resumed only with the same ones.
        resume: go on from the results in the folder.
        overwrite: replace them.

    Returns:
        a `Study`. Items that failed are reported in it, by name; the others are done all the same.

    >>> import tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as place:
    ...     np.save(place + "/volume.npy", np.arange(24.0).reshape(2, 3, 4))
    ...     map_slices(place + "/volume.npy", lambda item: 2 * item.y, place + "/out", progress=False).stack().shape
    torch.Size([2, 1, 3, 4])
    """
    from invtoolbox import datasets

    description: dict[str, Any] = {
        "settings": dict(settings or {}),
        "work": getattr(work, "__qualname__", type(work).__name__),
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
    chosen = range(len(opened)) if slices is None else slices
    for k in chosen:
        if not 0 <= k < len(opened):
            raise InputError(f"slice {k} is asked for, and there are {len(opened)}, counted from 0")
    # A data set's item is read when it is its turn, so that memory holds no more than the workers do.
    items = Items(
        [f"slice-{k:04d}" for k in chosen], lambda n: (work, source or opened[chosen[n]], chosen[n])
    )
    return run_study(
        _do_slice,
        items,
        folder,
        description,
        workers,
        cluster,
        threads,
        resume,
        overwrite,
        progress,
    )


def _do_slice(work: Callable[[Measurement], Any], source: Any, index: int) -> Any:
    if isinstance(source, Measurement):
        return work(source)
    from invtoolbox import datasets

    path, geometry, reader = source
    return work(datasets.open_measurements(path, geometry, reader=reader)[index])


def stamp(path: Path) -> list[int] | None:
    """Size and time of a file's last change, which tell whether it is the same; None for a folder."""
    status = path.stat()
    return None if path.is_dir() else [status.st_size, status.st_mtime_ns]
