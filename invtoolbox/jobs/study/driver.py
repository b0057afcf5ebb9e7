"""Run a study: do every item without a whole result file, in this process or on Dask workers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.environment import versions
from invtoolbox.core.guards import check_range
from invtoolbox.core.interrupts import Interrupted, terminate_as_interrupt
from invtoolbox.core.threads import limit_torch_threads
from invtoolbox.datasets.output import lock, locking, make_folder, remove_stale
from invtoolbox.datasets.volumes.volume import Volume
from invtoolbox.errors import InputError
from invtoolbox.geometry.grids import Grid
from invtoolbox.jobs.job import check_folder, differences, read_json, write_json
from invtoolbox.jobs.study.results import Hdf5Results, ResultFormat
from invtoolbox.jobs.study.workers import spread

#: Folder of the locks of items, inside the folder of the results.
LOCKS = ".locks"


@dataclass(frozen=True)
class Item:
    """Item of a study.

    Attributes:
        name: name of the item, and of its result file.
        arguments: arguments of the work.
    """

    name: str
    arguments: tuple[Any, ...]


class Items(Sequence[Item]):
    """Items that are made when they are read.

    Args:
        names: names of all items.
        arguments: function that returns the arguments of the item with a given number.
    """

    def __init__(self, names: list[str], arguments: Callable[[int], tuple[Any, ...]]) -> None:
        self.names, self._arguments = names, arguments

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        return Item(self.names[index], self._arguments(index))


def parse_items(items: str | Sequence[int], count: int, where: str) -> list[int]:
    """Return the numbers of the chosen items.

    Args:
        items: ``"all"``, a slice of Python, numbers joined by commas, or numbers.
        count: number of items.
        where: name of the data, for error messages.

    >>> parse_items("0:10:4", 9, "here"), parse_items("5,2", 9, "here")
    ([0, 4, 8], [5, 2])
    """
    if isinstance(items, str):
        try:
            if items == "all":
                numbers = list(range(count))
            elif ":" in items:
                ends = [int(p) if p.strip() else None for p in items.split(":")]
                numbers = list(range(count)[slice(*ends)])
            else:
                numbers = [int(p) for p in items.split(",")]
        except (ValueError, TypeError):
            raise InputError(
                "items are all, START:STOP, START:STOP:STEP or numbers joined by commas, got "
                f"{items!r}"
            ) from None
    else:
        numbers = [int(k) for k in items]
    for k in numbers:
        if not 0 <= k < count:
            raise InputError(f"item {k} is asked for, and {where} has {count}, counted from 0")
    if not numbers:
        raise InputError(f"the items {items!r} are none of the {count} of {where}")
    return numbers


@dataclass(frozen=True)
class Report:
    """How one item ended.

    Attributes:
        name: name of the item.
        outcome: ``done``, ``kept`` (a whole result file existed already) or ``failed``.
        seconds: seconds of work.
        facts: facts in the result file.
        error: reason of a failure, one sentence.
        trace: traceback of a failure.
    """

    name: str
    outcome: str
    seconds: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    trace: str = ""


@dataclass(frozen=True)
class Study:
    """Finished study: one report per item, in the order of the items, and the result files.

    Attributes:
        folder: folder of the result files.
        reports: reports of all items.
        results: format of the result files.

    >>> study = Study(Path("results"), (Report("slice-0000", "done"),))
    >>> len(study), study.failed, str(study.file(0))
    (1, (), 'results/slice-0000.h5')
    """

    folder: Path
    reports: tuple[Report, ...]
    results: ResultFormat = field(default_factory=Hdf5Results)

    @property
    def failed(self) -> tuple[Report, ...]:
        """Reports of the items that failed."""
        return tuple(r for r in self.reports if r.outcome == "failed")

    def file(self, index: int) -> Path:
        """Return the path of an item's result file."""
        return self.folder / f"{self.reports[index].name}{self.results.suffix}"

    def __len__(self) -> int:
        return len(self.reports)

    def __getitem__(self, index: int) -> Any:
        """Read an item's result file: an `Answer`, or the type of the format of the results.

        Raises:
            InputError: if the item failed, with its reason, or if its file is missing.
        """
        report = self.reports[index]
        if report.outcome == "failed" and not self.file(index).exists():
            raise InputError(f"{report.name} has no result, because it failed: {report.error}")
        return self.results.read(self.file(index))

    def volume(self) -> Volume:
        """Return the images of all items as the slices of a volume, for `it.datasets.write`.

        The slices are read one by one.
        """
        return _Slices(self)

    def stack(self) -> Tensor:
        """Return the images of all items, ``(items, channel, *space)``."""
        return torch.cat(
            [torch.as_tensor(np.asarray(self[k].arrays["x"])) for k in range(len(self))]
        )


class _Slices(Volume):
    """Result files of a study as a volume."""

    format_name = "result"

    def __init__(self, study: Study) -> None:
        self._study = study
        first = np.asarray(study[0].arrays["x"])
        if first.ndim != 4 or first.shape[:2] != (1, 1):
            raise InputError(
                f"{study.file(0)}: an image of shape {first.shape} is no slice of a volume; give a "
                "folder as --output"
            )
        shape = (len(study), first.shape[2], first.shape[3])
        super().__init__(study.folder, shape, Grid(unit="voxel"), "as computed")

    def _read(self, frame: int, start: int, stop: int) -> np.ndarray:
        return np.concatenate(
            [np.asarray(self._study[k].arrays["x"])[0] for k in range(start, stop)]
        )


def run_study(
    work: Callable[..., Any],
    items: Sequence[Item],
    folder: str | Path,
    description: Mapping[str, Any],
    workers: int = 1,
    cluster: str | None = None,
    threads: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    clear: Callable[[str], None] | None = None,
    results: ResultFormat | None = None,
    is_current: Callable[[int, Mapping[str, Any]], bool] | None = None,
) -> Study:
    """Do the work of every item that has no whole result file yet.

    Args:
        work: function of an item's arguments that returns a `Solution`, an image or an `Answer`, or
            another type that `results` can write.
        items: items with distinct names.
        folder: folder for the result files.
        description: plain values that describe the computation; a folder is resumed only with equal
            ones.
        workers: number of processes; with 1 and no cluster, the work is done in this process,
            without Dask.
        cluster: address of a Dask scheduler, such as ``tcp://host:8786``; `workers` is then
            ignored.
        threads: number of threads per worker, for the arithmetic of one item.
        resume: keep the whole result files in the folder.
        overwrite: replace earlier results.
        progress: show a bar on a terminal.
        clear: function of an item's name that removes its other files if earlier results are
            replaced.
        results: format of the result files, HDF5 by default.
        is_current: function of an item's number and the facts of its earlier result that returns
            whether the item's data are still the same; a result of other data is removed, and the
            item is done anew.

    Raises:
        InputError: results exist and neither `resume` nor `overwrite` is given, or they belong to
            another study.
        Interrupted: Ctrl-C or SIGTERM; finished results stay.
    """
    folder, results = Path(folder).expanduser().absolute(), results or Hdf5Results()
    names = [
        items.names[k] if isinstance(items, Items) else items[k].name for k in range(len(items))
    ]
    _check_names(names)
    with locking(folder):
        fingerprint = _prepare(
            folder,
            names,
            description,
            resume=resume,
            overwrite=overwrite,
            clear=clear,
            suffix=results.suffix,
        )
        reports: dict[int, Report] = {}
        for k, name in enumerate(names):
            path = folder / f"{name}{results.suffix}"
            # A file that is missing, not whole or of another study raises, and its item is pending.
            with contextlib.suppress(InputError):
                facts = results.facts(path, fingerprint)
                if is_current is None or is_current(k, facts):
                    reports[k] = Report(name, "kept", facts=facts)
                else:
                    path.unlink()
        pending = [k for k in range(len(items)) if k not in reports]
        if not pending:
            return _finish(folder, names, reports, results)
        check_range("run_study", "[1, inf)", workers=workers, threads=threads)
        remaining = Items(
            [names[k] for k in pending], lambda number: items[pending[number]].arguments
        )
        perform = partial(perform_item, work, folder, fingerprint, threads, results)
        outcomes = (
            _perform_here(perform, remaining, threads)
            if cluster is None and workers == 1
            else spread(perform, remaining, workers, cluster, threads)
        )
        with terminate_as_interrupt(), _bar(len(items), len(reports), progress) as update:
            try:
                for number, outcome in outcomes:
                    k = pending[number]
                    # In place of the report of a worker that was lost comes an exception.
                    reports[k] = (
                        outcome if isinstance(outcome, Report) else _report_loss(names[k], outcome)
                    )
                    update(reports[k])
            except KeyboardInterrupt:
                raise Interrupted(
                    f"stopped; {len(reports)} of {len(items)} results are in {folder}, and --resume "
                    "(resume=True) goes on from them"
                ) from None
        return _finish(folder, names, reports, results)


def perform_item(
    work: Callable[..., Any],
    folder: Path,
    fingerprint: str,
    threads: int,
    results: ResultFormat,
    item: Item,
) -> Report:
    """Do one item and write its result file; a failure is reported, not raised.

    Args:
        work: function of the item's arguments.
        folder: folder of the result files.
        fingerprint: fingerprint of the study, which the result file carries.
        threads: number of threads.
        results: format of the result file.
        item: the item.
    """
    name, path = item.name, folder / f"{item.name}{results.suffix}"
    start = time.monotonic()
    try:
        with _lock(folder / LOCKS / name), limit_threads(threads):
            # A worker whose driver was killed may have finished the item in the meantime.
            with contextlib.suppress(InputError):
                return Report(name, "kept", facts=results.facts(path, fingerprint))
            _log(folder, name, "begun")
            facts = results.write(path, work(*item.arguments), name, fingerprint)
    except Exception as error:  # the work is a user's function and may raise anything
        _log(folder, name, "failed")
        sentence = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, InputError):
            sentence = f"{type(error).__name__}: {sentence}"
        seconds, trace = time.monotonic() - start, traceback.format_exc()
        return Report(name, "failed", seconds, error=sentence, trace=trace)
    _log(folder, name, "done")
    return Report(name, "done", time.monotonic() - start, facts)


@contextmanager
def limit_threads(threads: int) -> Iterator[None]:
    """Set the number of threads of torch and NumPy within a block.

    Sums depend on it in the last bit.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(threads), limit_torch_threads(threads):
        yield


def _perform_here(
    perform: Callable[[Item], Report], items: Items, threads: int
) -> Iterator[tuple[int, Report]]:
    """Do items in this process, one after another."""
    with limit_threads(threads):
        for number in range(len(items)):
            yield number, perform(items[number])


def _report_loss(name: str, error: object) -> Report:
    """Return the report of an item whose worker died."""
    reason = " ".join(str(error).split())[:200]
    sentence = f"its worker was lost ({reason}); it may have needed more memory than there is"
    return Report(name, "failed", error=sentence)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Let only one process at a time work on an item.

    The lock of a process that dies is released.
    """
    make_folder(path.parent)
    with path.open("ab") as file:
        lock(file.fileno())
        yield


def _log(folder: Path, name: str, event: str) -> None:
    """Append a line to the log; a line that does not fit on the disk is dropped."""
    entry = {"item": name, "event": event, "time": round(time.time(), 3), "process": os.getpid()}
    with contextlib.suppress(OSError):
        # One write at the end of the file: lines of several workers do not mix.
        handle = os.open(folder / "study.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, (json.dumps(entry) + "\n").encode())
        finally:
            os.close(handle)


def _check_names(names: list[str]) -> None:
    if not names:
        raise InputError("there is nothing to do: no items were chosen")
    for name in names:
        if not re.fullmatch(r"[^/\\\0.][^/\\\0]*", name):
            raise InputError(f"{name!r} cannot be the name of a result file")
    if len(set(names)) < len(names):
        twice = next(n for k, n in enumerate(names) if n in names[:k])
        raise InputError(f"two items are named {twice!r}; their results would be one file")


def _prepare(
    folder: Path,
    names: list[str],
    description: Mapping[str, Any],
    resume: bool,
    overwrite: bool,
    clear: Callable[[str], None] | None,
    suffix: str,
) -> str:
    """Make the folder and return the fingerprint that its result files carry."""
    check_folder(folder, resume, overwrite)
    # The number of items may grow; the computation of each item may not change.
    content = json.loads(json.dumps(dict(description), sort_keys=True))
    notes = folder / "study.json"
    earlier = read_json(notes) if notes.exists() and not overwrite else {}
    if notes.exists() and not overwrite and "description" not in earlier:
        raise InputError(f"{notes} is of no study; give another --output, or --overwrite")
    existing = [
        n
        for n in dict.fromkeys([*names, *earlier.get("items", ())])
        if (folder / f"{n}{suffix}").exists()
    ]
    if earlier and existing:
        if not resume:
            raise InputError(
                f"{folder} holds a study already ({len(existing)} of "
                f"{len(earlier.get('items', names))} results); give --resume to go on from it, "
                "--overwrite to replace it, or another --output"
            )
        if earlier.get("description") != content:
            changed = differences(earlier.get("description"), content, within_lists=False)
            if changed:
                raise InputError(
                    f"{folder} holds another study ({changed[0] or 'the description'} differs); resume "
                    "it with the same settings and data, or give --overwrite to start anew"
                )
            # Only keys without a value are new, which a later version of the toolbox may have.
            content = earlier["description"]
    elif existing and not overwrite:
        raise InputError(
            f"{folder / existing[0]}{suffix} exists, and no study.json describes it; give another "
            "--output, or --overwrite to replace it"
        )
    if overwrite:
        notes.unlink(missing_ok=True)
        for name in names:
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
            if clear is not None:
                clear(name)
        (folder / "study.log").unlink(missing_ok=True)
    make_folder(folder / LOCKS)
    remove_stale(folder)
    write_json(notes, {"description": content, "items": names, "versions": versions()})
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _finish(
    folder: Path, names: list[str], reports: Mapping[int, Report], results: ResultFormat
) -> Study:
    """Return the finished study, and remove the locks if no item failed."""
    ordered = tuple(reports[k] for k in range(len(names)))
    if not any(r.outcome == "failed" for r in ordered):
        shutil.rmtree(folder / LOCKS, ignore_errors=True)
    return Study(folder, ordered, results)


@contextmanager
def _bar(total: int, done: int, enabled: bool) -> Iterator[Callable[[Report], None]]:
    from tqdm.auto import tqdm

    # With `disable=None` tqdm shows the bar on a terminal only.
    with tqdm(
        total=total, initial=done, unit="item", leave=False, disable=None if enabled else True
    ) as bar:

        def update(report: Report) -> None:
            if report.outcome == "failed":
                bar.write(f"{report.name} failed: {report.error}")
            bar.set_postfix_str(f"{report.name} {report.outcome}", refresh=False)
            bar.update()

        yield update
