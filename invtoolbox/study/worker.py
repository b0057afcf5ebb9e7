"""What a worker does with one item of a study: claim it, do it, write its result file, note it in the log."""

from __future__ import annotations

import contextlib
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from invtoolbox.errors import InputError
from invtoolbox.study.results import ResultFormat
from invtoolbox.study.spread import limited_threads

#: The folder of claims inside that of the results.
LOCKS = ".locks"


@dataclass(frozen=True)
class Item:
    """One piece of a study: its name, which is that of its result file, and the arguments of the work."""

    name: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Report:
    """How one item ended: ``done``, ``kept`` (it was there already) or ``failed``, with the reason."""

    name: str
    outcome: str
    seconds: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    trace: str = ""


@dataclass(frozen=True)
class Task:
    """What a worker is told: the item, where its result goes, and with how many threads it is computed."""

    item: Item
    work: Callable[..., Any]
    folder: Path
    fingerprint: str
    threads: int
    results: ResultFormat


def perform(task: Task) -> Report:
    """Do one item and write its result file; what goes wrong is reported, not raised."""
    name, path = task.item.name, task.folder / f"{task.item.name}{task.results.suffix}"
    began = time.monotonic()
    with _claimed(task.folder / LOCKS / name), limited_threads(task.threads):
        # Another driver's worker, whose driver was killed, may have finished it in the meantime.
        with contextlib.suppress(InputError):
            return Report(name, "kept", facts=task.results.facts(path, task.fingerprint))
        _log(task.folder, name, "begun")
        try:
            facts = task.results.write(
                path, task.work(*task.item.arguments), name, task.fingerprint
            )
        except (
            Exception
        ) as error:  # a user's function may raise anything; the item's report carries it
            _log(task.folder, name, "failed")
            sentence = " ".join(str(error).split()) or type(error).__name__
            if not isinstance(error, InputError):
                sentence = f"{type(error).__name__}: {sentence}"
            return Report(
                name,
                "failed",
                time.monotonic() - began,
                error=sentence,
                trace=traceback.format_exc(),
            )
        _log(task.folder, name, "done")
    return Report(name, "done", time.monotonic() - began, facts)


@contextmanager
def _claimed(path: Path) -> Iterator[None]:
    """Only one process at a time holds an item; a process that dies lets it go."""
    try:
        import fcntl
    except ImportError:  # not a Unix system
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _log(folder: Path, name: str, event: str) -> None:
    line = (
        json.dumps(
            {"item": name, "event": event, "time": round(time.time(), 3), "process": os.getpid()}
        )
        + "\n"
    )
    # One write at the end of the file: lines of several workers do not mix.
    handle = os.open(folder / "study.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)
