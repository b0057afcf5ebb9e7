"""Run a standard table: one study of all items, rows and methods; `it.benchmark`."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.core.content import digest
from invtoolbox.core.guards import check_range
from invtoolbox.datasets.output import refuse_inputs, write_bytes
from invtoolbox.errors import InputError, warn_user
from invtoolbox.jobs.benchmark.case import Row
from invtoolbox.jobs.benchmark.methods import Method, choose_methods
from invtoolbox.jobs.benchmark.summary import Benchmark, Outcome, summarize, write_page
from invtoolbox.jobs.benchmark.systems import system_named
from invtoolbox.jobs.benchmark.tables import BenchmarkTable, choose_rows, read_table
from invtoolbox.jobs.job import write_json
from invtoolbox.jobs.study import Answer, Item, run_study
from invtoolbox.jobs.study.slices import stamp
from invtoolbox.plotting.pixels import shrink, to_bytes, window_of

#: Seconds of the method per item, one JSON object per line; result files hold no times, so that
#: they can be compared.
SECONDS = "seconds.log"
#: Largest number of rows and columns of a picture in a result file.
_LARGEST = 320


@dataclass(frozen=True)
class _Task:
    """One method on one item of a row."""

    row: Row
    number: int
    method: Method
    simple: str
    content: str

    @property
    def name(self) -> str:
        """Name of the result file."""
        words = [
            re.sub(r"[^\w.]+", "-", word).strip("-.") for word in (self.row.name, self.method.name)
        ]
        return f"{words[0]}-{self.number:04d}-{words[1]}".lower()


def benchmark(
    table: str | Path,
    methods: Sequence[str] | None = None,
    extra: Any = (),
    *,
    rows: Sequence[str] | None = None,
    limit: int | None = None,
    automatic: str | None = None,
    overrides: Mapping[str, Any] | Iterable[str] = (),
    output: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    workers: int = 1,
    cluster: str | None = None,
    threads: int = 1,
    progress: bool = True,
) -> Benchmark:
    """Measure methods on a standard table, and write ``table.json``, ``table.md`` and a page.

    Every method computes every item by one call, and each row states on what the settings of a
    method were chosen and what is reported. A row whose data are missing is left out, with a note
    that names its folder and its address.

    Args:
        table: name of ``invtoolbox list tables``, or path of a TOML file.
        methods: names of methods in place of the usual ones of the table. The simple answer of the
            table is always the first one.
        extra: methods of the user: ``"package.module:name"`` or ``"file.py:name"``, an object, a
            list of these, or a mapping from names to them. An object is a prior, a solver (which
            runs with the prior ``"tv"``), or a function; for images, ``(y, physics) -> x`` with the
            physics of deepinv, such as a model of `as_reconstructor`.
        rows: names of rows, or parts of names; all rows by default.
        limit: number of items per row, the first ones; all items by default.
        automatic: steps that are decided automatically, as in `reconstruct`, in place of those of the
            table. These are ``"none"`` or what a prior by name belongs to, such as its unit: a table
            measures the priors that it names.
        overrides: changed keys of the table, ``{"rows.0.path": "pictures"}``.
        output: folder of the results, ``results/benchmark-TABLE`` by default. It holds one result
            file per item and method, `SECONDS`, ``study.json`` and the table.
        resume: keep the whole result files of an earlier run whose row, method and data are the
            same; rows, methods and items may be added. Result files of an interrupted run and its
            resumption are equal, bit for bit, to those of one run.
        overwrite: replace earlier results.
        workers: number of processes, as in `invtoolbox.jobs.study.driver.run_study`.
        cluster: address of a Dask scheduler, as in `invtoolbox.jobs.study.driver.run_study`.
        threads: number of threads per worker.
        progress: show a bar on a terminal.

    Raises:
        InputError: an unknown table, row, method or step; an object that cannot be imported or is no
            method; no row has its data. A method that raises on an item marks this item alone.

    >>> import tempfile, torch, invtoolbox as it
    >>> mine = {"mine": lambda moving, fixed: torch.zeros(1, 2, 96, 96)}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = it.benchmark("registration", [], mine, rows=["ring"], limit=1, output=folder)
    >>> [(method.name, method.items) for method in result.rows[0].methods]
    [('no motion', ['ring 10']), ('own:mine', ['ring 10'])]
    """
    described = read_table(table, overrides)
    system = described.system
    word = described.content.automatic if automatic is None else automatic
    chosen = choose_methods(system, described.content.methods, methods, extra, word)
    if limit is not None:
        check_range("benchmark", "[1, inf)", limit=limit)
    counts = _count_items(described, choose_rows(described, rows))
    folder = Path(output or Path("results") / f"benchmark-{described.name}").expanduser().absolute()
    sources = [path for row, _ in counts for path in system.files(row)]
    refuse_inputs([folder], sources)
    tasks = _tasks(described, chosen, counts, limit)
    study = run_study(
        _do_task,
        [Item(task.name, (described.content.system, task, folder)) for task in tasks],
        folder,
        {"benchmark": described.name, "system": described.content.system},
        workers=workers,
        cluster=cluster,
        threads=threads,
        resume=resume,
        overwrite=overwrite,
        progress=progress,
        is_current=lambda k, facts: facts.get("content") == tasks[k].content,
    )
    seconds = read_seconds(folder)
    outcomes = [
        Outcome(task.row, task.number, task.method.name, report, seconds.get(task.name))
        for task, report in zip(tasks, study.reports)
    ]
    result = summarize(described, counts, outcomes, study)
    write_json(folder / "table.json", result.to_dict())
    write_bytes(folder / "table.md", result.markdown().encode(), overwrite=True)
    write_page(folder / "report.html", result)
    return result


def _count_items(table: BenchmarkTable, rows: Sequence[Row]) -> list[tuple[Row, int]]:
    """Return the rows whose data exist, with their numbers of items."""
    counts, refusals = [], []
    for row in rows:
        try:
            counts.append((row, table.system.count(row)))
        except InputError as error:
            refusals.append((row, error))
    if not counts:
        raise refusals[0][1]
    for message in dict.fromkeys(str(error) for _, error in refusals):
        left_out = [f"{row.name!r}" for row, error in refusals if str(error) == message]
        warn_user(f"rows {', '.join(left_out)} are left out: {message}")
    return counts


def _tasks(
    table: BenchmarkTable,
    methods: Sequence[Method],
    counts: Sequence[tuple[Row, int]],
    limit: int | None,
) -> list[_Task]:
    """Return all tasks: item by item, so that an interrupted table has all methods."""
    # A source that several rows read is stamped once.
    stamps: dict[Path, Any] = {}
    texts = {method.name: method.content() for method in methods}
    tasks = []
    for row, count in counts:
        for path in table.system.files(row):
            stamps.setdefault(path, stamp(path))
        data = [stamps[path] for path in table.system.files(row)]
        settings = row.model_dump(mode="json", exclude={"name", "reported_on", "path"})
        for number in range(count if limit is None else min(limit, count)):
            for method in methods:
                content = digest([settings, data, number, method.name, texts[method.name]])
                tasks.append(_Task(row, number, method, table.system.simple, content))
    return tasks


def _do_task(system_name: str, task: _Task, folder: Path) -> Answer:
    """Compute one item by one method, measure it, and log the seconds of the method."""
    case = system_named(system_name).open(task.row, task.number)
    compute = task.method.bind(case, task.simple)
    began = time.perf_counter()
    answer, notes = compute()
    seconds = time.perf_counter() - began
    facts = {
        "content": task.content,
        "row": task.row.name,
        "item": case.label,
        "method": task.method.name,
        "scores": {name: float(value) for name, value in case.scores(answer).items()},
        "notes": list(notes),
    }
    # All pictures of an item have the window of its truth.
    window = None if case.truth is None else window_of(case.truth)
    arrays = {"x": np.zeros((0, 0), np.uint8)}
    picture = case.picture(answer)
    if picture is not None:
        arrays["x"] = shrink(to_bytes(picture, window or window_of(picture)), _LARGEST)
    if case.truth is not None and task.method.name == task.simple:
        arrays["truth"] = shrink(to_bytes(case.truth, window), _LARGEST)  # type: ignore[arg-type]
    _log_seconds(folder, task.name, seconds)
    return Answer(arrays, facts)


def _log_seconds(folder: Path, name: str, seconds: float) -> None:
    """Append a line to the log of seconds; one write, so that lines of workers do not mix."""
    line = json.dumps({"item": name, "seconds": round(seconds, 4)}) + "\n"
    handle = os.open(folder / SECONDS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


def read_seconds(folder: Path) -> dict[str, float]:
    """Return the seconds of every item that a run or an earlier one has logged.

    Args:
        folder: folder of the results.
    """
    path, seconds = folder / SECONDS, {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else ()
    for line in lines:
        try:
            entry = json.loads(line)
            seconds[str(entry["item"])] = float(entry["seconds"])
        except (ValueError, KeyError, TypeError):  # a line that a full disk cut short
            continue
    return seconds
