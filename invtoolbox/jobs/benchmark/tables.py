"""Tables as TOML files of the shelf ``tables/``: rows, methods, splits and published figures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import Field

from invtoolbox.catalogue import shelves
from invtoolbox.catalogue.documents import Table, as_changes, change_content, check, locate, texts
from invtoolbox.core.checks import missing_path
from invtoolbox.errors import InputError, require_name, unknown_name
from invtoolbox.jobs.benchmark.case import Row, System
from invtoolbox.jobs.benchmark.systems import names, system_named

R = TypeVar("R", bound=Row)
#: Key of `TableFile.chosen_on` for the methods that have no key of their own.
OTHERS = "others"


class Published(Table):
    """Figure that others published, shown next to the rows of this run and marked as published."""

    method: str = Field(description="name of the method")
    row: str = Field(description="name of the row")
    mean: float = Field(description="mean of the metric over all items of the row")
    worst: float | None = Field(None, description="worst value of the metric")
    source: str = Field(description="publication of the figure")


class TableFile(Table, Generic[R]):
    """Content of a table's file."""

    title: str = Field(description="title of the page")
    text: str = Field("", description="description of data, noise and metric")
    system: str = Field(description="name of the system, a module of jobs/benchmark/systems")
    methods: list[str] = Field(min_length=1, description="methods that run by default")
    automatic: str = Field(
        "none",
        description="steps that are decided automatically, as in `invtoolbox list decisions`",
    )
    chosen_on: dict[str, list[str]] = Field(
        description=f"what the settings of a method were chosen on; {OTHERS} for all others"
    )
    rows: list[R] = Field(min_length=1, description="the rows")
    published: list[Published] = Field(default_factory=list, description="published figures")


@dataclass(frozen=True)
class BenchmarkTable:
    """Table that was read and checked.

    Attributes:
        name: name of the table.
        content: content of its file.
        system: its system.
    """

    name: str
    content: TableFile[Any]
    system: System

    def split(self, method: str) -> list[str] | None:
        """Return what the settings of a method were chosen on; None for a method of the user.

        Args:
            method: name of a method of the toolbox, or of a user's method.
        """
        if method == self.system.simple:
            return []
        if ":" in method:
            return None
        return self.content.chosen_on.get(method, self.content.chosen_on[OTHERS])


def read_table(
    table: str | Path, overrides: Mapping[str, Any] | Iterable[str] = ()
) -> BenchmarkTable:
    """Read a table by its name or from a file.

    Args:
        table: name of ``invtoolbox list tables``, or path of a TOML file.
        overrides: changed keys, such as ``{"rows.0.path": "pictures"}``.

    Raises:
        InputError: if there is no such table, or its content is wrong; the sentence names file and
            key.

    >>> read_table("denoising").content.rows[0].name
    'BSD68 at 15'
    """
    path, changes = Path(table).expanduser(), as_changes(overrides)
    if path.suffix != ".toml":
        path = shelves.find("tables", str(table)).path
    elif not path.is_file():
        raise InputError(missing_path(table))
    raw = change_content(path, shelves.read_toml(path), changes)
    if "system" not in raw:
        raise InputError(f"{path}: a table needs the key system, one of {', '.join(names())}")
    system = system_named(str(raw["system"]))
    content: TableFile[Any] = check(TableFile[system.row], path, raw)  # type: ignore[name-defined]
    if OTHERS not in content.chosen_on:
        raise InputError(
            f"{path}: [chosen_on] needs the key {OTHERS}: what settings were chosen on; [] if they "
            "follow from a publication or from the measurements"
        )
    written = frozenset(texts(changes))
    rows = [
        row.located(lambda name: str(locate(path, name, written).absolute()))
        for row in content.rows
    ]
    row_names = [row.name for row in rows]
    if len(set(row_names)) < len(row_names):
        raise InputError(f"{path}: two rows have one name; every row needs its own")
    for published in content.published:
        if published.row not in row_names:
            raise unknown_name(f"row in published of {path}", published.row, row_names)
    return BenchmarkTable(path.stem, content.model_copy(update={"rows": rows}), system)


def choose_rows(table: BenchmarkTable, patterns: Sequence[str] | None) -> list[Row]:
    """Return the rows whose names match one of several patterns.

    Args:
        table: the table.
        patterns: names or parts of names, in any case, with ``*`` for any text; None for all rows.

    Raises:
        InputError: if no row matches a pattern; the sentence lists the names.
    """
    rows: list[Row] = table.content.rows
    if patterns is None:
        return rows
    chosen = set()
    for pattern in patterns:
        matching = [
            row.name for row in rows if fnmatchcase(row.name.lower(), f"*{pattern.lower()}*")
        ]
        if not matching:
            require_name(f"row of the table {table.name}", pattern, [row.name for row in rows])
        chosen |= set(matching)
    return [row for row in rows if row.name in chosen]


def overlap(chosen_on: Iterable[str], reported_on: Iterable[str]) -> bool:
    """Return whether settings were chosen on an item that is reported, or on unknown items.

    Args:
        chosen_on: identifiers; ``"set12:1..3"`` are three items, ``"set12"`` is the whole set, and
            ``"unknown"`` stands for items that cannot be found out any more.
        reported_on: identifiers.

    >>> overlap(["set12:1..3"], ["set12:4..6"]), overlap(["set12"], ["set12:4"])
    (False, True)
    """
    chosen, reported = ([_span(name) for name in names] for names in (chosen_on, reported_on))
    return any(name == "unknown" for name, _, _ in chosen) or any(
        name == reporter and first <= end and start <= last
        for name, first, last in chosen
        for reporter, start, end in reported
    )


def _span(identifier: str) -> tuple[str, float, float]:
    """Return the set of an identifier, and its first and last item; a whole set has no ends."""
    match = re.fullmatch(r"(.+):(\d+)(?:\.\.(\d+))?", identifier)
    if match is None:
        return identifier, float("-inf"), float("inf")
    return match[1], float(match[2]), float(match[3] or match[2])
