"""The driver of a study: what is done, in which order, what is there already, and how each item ended."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.environment import versions
from invtoolbox.core.interrupts import Interrupted
from invtoolbox.datasets.volumes.volume import Grid, Volume
from invtoolbox.errors import InputError
from invtoolbox.runs.folder import differences, read_json, write_json
from invtoolbox.runs.study.results import Hdf5Results, ResultFormat
from invtoolbox.runs.study.workers import LOCKS, Item, Report, Task, perform, spread


@dataclass(frozen=True)
class Study:
    """A finished study: a report an item, in the order of the items, and the result files.

    >>> study = Study(Path("results"), (Report("slice-0000", "done"),))
    >>> len(study), study.failed, str(study.file(0))
    (1, (), 'results/slice-0000.h5')
    """

    folder: Path
    reports: tuple[Report, ...]
    results: ResultFormat = field(default_factory=Hdf5Results)

    @property
    def failed(self) -> tuple[Report, ...]:
        return tuple(r for r in self.reports if r.outcome == "failed")

    def file(self, index: int) -> Path:
        """The result file of an item."""
        return self.folder / f"{self.reports[index].name}{self.results.suffix}"

    def __len__(self) -> int:
        return len(self.reports)

    def __getitem__(self, index: int) -> Any:
        """What came of an item, read from its file: an `Answer`, or what the format of the results says."""
        return self.results.read(self.file(index))

    def volume(self) -> Volume:
        """The images of all items as the slices of a volume, read one by one; for `it.datasets.write`."""
        return _Slices(self)

    def stack(self) -> Tensor:
        """The images of all items, ``(items, channel, *space)``."""
        return torch.cat(
            [torch.as_tensor(np.asarray(self[k].arrays["x"])) for k in range(len(self))]
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
) -> Study:
    """Do the work of every item that has no whole result file yet.

    Args:
        work: takes the arguments of an item and gives a `Solution`, an image or an `Answer` (or what else `results` can keep).
        items: with names that differ.
        description: plain values that say what is computed; a folder is resumed only with an equal one.
        clear: removes what else an item of that name left, where results are replaced.
        results: how they are kept; in HDF5 files by default.

    Raises:
        InputError: results are there and neither `resume` nor `overwrite` is given, or they are those of another study.
        Interrupted: Ctrl-C; results that are done stay.
    """
    folder, kept = Path(folder).expanduser().absolute(), results or Hdf5Results()
    names = [
        items.names[k] if isinstance(items, Items) else items[k].name for k in range(len(items))
    ]
    _check_names(names)
    fingerprint = _prepare(folder, names, description, resume, overwrite, clear, kept.suffix)
    reports: dict[int, Report] = {}
    for k, name in enumerate(names):
        with contextlib.suppress(InputError):
            reports[k] = Report(
                name, "kept", facts=kept.facts(folder / f"{name}{kept.suffix}", fingerprint)
            )
    pending = [k for k in range(len(items)) if k not in reports]
    if not pending:
        return _finished(folder, names, reports, kept)
    tasks = _Tasks(pending, items, work, folder, fingerprint, threads, kept)
    with _bar(len(items), len(reports), progress) as tell:
        try:
            for number, ended in spread(perform, tasks, workers, cluster, threads):
                k = pending[number]
                reports[k] = (
                    ended
                    if isinstance(ended, Report)
                    else Report(
                        names[k],
                        "failed",
                        error=f"its worker was lost ({' '.join(str(ended).split())[:200]}); it may have needed more "
                        "memory than there is",
                    )
                )
                tell(reports[k])
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped; {len(reports)} of {len(items)} results are in {folder}, and --resume (resume=True) goes on "
                "from them"
            ) from None
    return _finished(folder, names, reports, kept)


class _Slices(Volume):
    """The result files of a study as a volume."""

    format_name = "result"

    def __init__(self, study: Study) -> None:
        self._study = study
        first = np.asarray(study[0].arrays["x"])
        if first.ndim != 4 or first.shape[:2] != (1, 1):
            raise InputError(
                f"{study.file(0)}: an image of shape {first.shape} is no slice of a volume; give a folder as --output"
            )
        super().__init__(
            study.folder,
            (len(study), first.shape[2], first.shape[3]),
            Grid(unit="voxel"),
            "as computed",
        )

    def _read(self, frame: int, start: int, stop: int) -> np.ndarray:
        return np.concatenate(
            [np.asarray(self._study[k].arrays["x"])[0] for k in range(start, stop)]
        )


class Items(Sequence[Item]):
    """Items that are made when they are asked for."""

    def __init__(self, names: list[str], arguments: Callable[[int], tuple[Any, ...]]) -> None:
        self.names, self._arguments = names, arguments

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        return Item(self.names[index], self._arguments(index))


class _Tasks(Sequence[Task]):
    """The tasks of the pending items, made one by one."""

    def __init__(
        self,
        pending: list[int],
        items: Sequence[Item],
        work: Callable[..., Any],
        folder: Path,
        fingerprint: str,
        threads: int,
        results: ResultFormat,
    ) -> None:
        self._pending, self._items = pending, items
        self._rest = (work, folder, fingerprint, threads, results)

    def __len__(self) -> int:
        return len(self._pending)

    def __getitem__(self, index: Any) -> Any:
        if index >= len(self._pending):
            raise IndexError(index)
        return Task(self._items[self._pending[index]], *self._rest)


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
    """Make the folder, and give the fingerprint that its result files carry."""
    if resume and overwrite:
        raise InputError(
            "resume goes on from earlier results and overwrite replaces them; give one of them"
        )
    if folder.exists() and not folder.is_dir():
        raise InputError(f"the output {folder} is a file; give a folder")
    # The number of items may grow; what each of them is may not change.
    content = json.loads(json.dumps(dict(description), sort_keys=True))
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    notes = folder / "study.json"
    known = read_json(notes) if notes.exists() and not overwrite else {}
    there = [
        n
        for n in dict.fromkeys([*names, *known.get("items", ())])
        if (folder / f"{n}{suffix}").exists()
    ]
    if known and there:
        if not resume:
            raise InputError(
                f"{folder} holds a study already ({len(there)} of {len(known.get('items', names))} results); give "
                "--resume to go on from it, --overwrite to replace it, or another --output"
            )
        before = known.get("description")
        if before != content:
            first = differences(before, content, within_lists=False)[0] or "the description"
            raise InputError(
                f"{folder} holds another study ({first} differs); resume it with the same settings and data, or give "
                "--overwrite to start anew"
            )
    elif there and not overwrite:
        raise InputError(
            f"{folder / there[0]}{suffix} is there, and no study.json says what it is; give another --output, or "
            "--overwrite to replace it"
        )
    if overwrite:
        notes.unlink(missing_ok=True)
        for name in names:
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
            if clear is not None:
                clear(name)
        (folder / "study.log").unlink(missing_ok=True)
    (folder / LOCKS).mkdir(parents=True, exist_ok=True)
    write_json(notes, {"description": content, "items": names, "versions": versions()})
    return fingerprint


def _finished(
    folder: Path, names: list[str], reports: Mapping[int, Report], results: ResultFormat
) -> Study:
    ordered = tuple(reports[k] for k in range(len(names)))
    if not any(r.outcome == "failed" for r in ordered):
        shutil.rmtree(folder / LOCKS, ignore_errors=True)
        # All results are there, so nobody writes any more: hidden files are those of workers that were killed as they wrote.
        for left in folder.glob(f".*{results.suffix}.*.tmp"):
            if left.name[1:].rsplit(f"{results.suffix}.", 1)[0] in names:
                left.unlink(missing_ok=True)
    return Study(folder, ordered, results)


@contextmanager
def _bar(total: int, done: int, enabled: bool) -> Iterator[Callable[[Report], None]]:
    from tqdm.auto import tqdm

    # `disable=None` lets tqdm look whether the output is a terminal.
    with tqdm(
        total=total, initial=done, unit="item", leave=False, disable=None if enabled else True
    ) as bar:

        def tell(report: Report) -> None:
            if report.outcome == "failed":
                bar.write(f"{report.name} failed: {report.error}")
            bar.set_postfix_str(f"{report.name} {report.outcome}", refresh=False)
            bar.update()

        yield tell
