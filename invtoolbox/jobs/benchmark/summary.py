"""Means and worst values of a table, as text, Markdown, plain values, and a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from invtoolbox.core.environment import versions
from invtoolbox.errors import InputError
from invtoolbox.jobs.benchmark.case import Row, System
from invtoolbox.jobs.benchmark.tables import BenchmarkTable, Published, overlap
from invtoolbox.jobs.study import Report, Study
from invtoolbox.plotting import page

#: Mark of a method whose settings were chosen on items of the row.
TUNED = "tuned here"


@dataclass(frozen=True)
class Outcome:
    """How one method ended on one item.

    Attributes:
        row: the row.
        number: number of the item.
        method: name of the method.
        report: report of the study.
        seconds: seconds of the method; None if they are unknown.
    """

    row: Row
    number: int
    method: str
    report: Report
    seconds: float | None


@dataclass(frozen=True)
class MethodResult:
    """Measures of one method in one row.

    Attributes:
        name: name of the method.
        chosen_on: what its settings were chosen on; None for a method of the user.
        is_tuned_here: whether settings were chosen on items of the row, or on unknown items.
        items: names of the measured items.
        scores: measures of these items by name.
        seconds: seconds of these items that are known.
        failures: names of the items on which the method failed, with the reason.
        better: whether higher or lower values of the first measure are better.
        files: names of the result files of the measured items.
    """

    name: str
    chosen_on: list[str] | None
    is_tuned_here: bool
    items: list[str]
    scores: dict[str, list[float]]
    seconds: list[float]
    failures: dict[str, str]
    better: str
    files: list[str]

    def mean(self, metric: str) -> float:
        """Return the mean of a measure over the items that have it; NaN without any.

        Args:
            metric: name of the measure.
        """
        values = [value for value in self.scores.get(metric, ()) if not math.isnan(value)]
        return mean(values) if values else math.nan

    def worst(self, metric: str) -> tuple[float, str]:
        """Return the worst value of a measure, and the name of its item.

        Args:
            metric: name of the measure.
        """
        values = [
            (value, item)
            for value, item in zip(self.scores.get(metric, ()), self.items)
            if not math.isnan(value)
        ]
        if not values:
            return math.nan, ""
        return (min if self.better == "higher" else max)(values, key=lambda pair: pair[0])

    @property
    def split(self) -> str:
        """Data on which the settings were chosen, in words."""
        if self.chosen_on is None:
            return "not stated"
        return ", ".join(self.chosen_on) or "nothing"

    @property
    def marks(self) -> str:
        """Remarks on the figures for a reader; empty without a remark."""
        failed = f"failed on {len(self.failures)} of {len(self.items) + len(self.failures)}"
        return "; ".join([TUNED] * self.is_tuned_here + [failed] * bool(self.failures))


@dataclass(frozen=True)
class RowResult:
    """Results of all methods in one row, and published figures.

    Attributes:
        row: the row.
        count: number of measured items.
        total: number of items that the row has.
        methods: results of the methods, the simple answer first.
        published: published figures of the row.
    """

    row: Row
    count: int
    total: int
    methods: list[MethodResult]
    published: list[Published]

    @property
    def split(self) -> str:
        """Items of the row, in words."""
        number = "" if self.count == 1 else f"{self.count} "
        first = "" if self.count == self.total else f"the first {number}of "
        return f"reported on {first}{self.total} items ({', '.join(self.row.reported_on)})"

    def splits(self) -> Iterator[tuple[str, str]]:
        """Yield what settings were chosen on, and the methods of which."""
        for split in dict.fromkeys(method.split for method in self.methods[1:]):
            yield split, ", ".join(m.name for m in self.methods[1:] if m.split == split)

    def best(self, system: System) -> MethodResult | None:
        """Return the method with the best mean among those that have no mark.

        Args:
            system: system of the table.
        """
        best = None
        for method in self.methods:
            score = method.mean(system.metric)
            if method.marks or math.isnan(score):
                continue
            if best is None or system.is_better(score, best.mean(system.metric)):
                best = method
        return best


@dataclass(frozen=True)
class Benchmark:
    """Results of a table.

    Attributes:
        table: the table.
        rows: results of its rows.
        study: the study of all items, for result files and failures.
    """

    table: BenchmarkTable
    rows: list[RowResult]
    study: Study

    @property
    def folder(self) -> Path:
        """Folder of the results."""
        return self.study.folder

    @property
    def metrics(self) -> list[str]:
        """Names of all measures, the one that ranks first."""
        every = [name for row in self.rows for m in row.methods for name in m.scores]
        return list(dict.fromkeys([self.table.system.metric, *every]))

    def cells(self, row: RowResult) -> Iterator[tuple[str, list[str]]]:
        """Yield the name of every method, and its cells, in the order of `columns`.

        Args:
            row: the row.
        """
        metric, *others = self.metrics
        for method in row.methods:
            values = [method.mean(metric), method.worst(metric)[0]]
            values += [method.mean(name) for name in others]
            seconds = f"{mean(method.seconds):.2f}" if method.seconds else ""
            texts = [*(number(value) for value in values), seconds, str(len(method.items))]
            yield method.name, [*texts, method.split, method.marks]
        for entry in row.published:
            values = [entry.mean, math.nan if entry.worst is None else entry.worst]
            texts = [*(number(value) for value in values), *[""] * len(others), "", ""]
            whole = "" if row.count == row.total else f", all {row.total} items"
            yield entry.method, [*texts, "", f"published{whole}: {entry.source}"]

    @property
    def columns(self) -> list[str]:
        """Headings of the cells."""
        metric, *others = self.metrics
        return [
            f"{metric}, mean",
            "worst",
            *others,
            "seconds",
            "items",
            "settings chosen on",
            "mark",
        ]

    def markdown(self) -> str:
        """Return all rows as tables of Markdown."""
        content = self.table.content
        lines = [f"# {content.title}", "", *([content.text, ""] if content.text else ())]
        for row in self.rows:
            lines += [f"## {row.row.name}", "", f"{sentence(row.split)}.", ""]
            heads = ["method", *self.columns]
            lines += [_line(heads), _line(["---", *["---:"] * (len(heads) - 3), "---", "---"])]
            lines += [_line([name, *texts]) for name, texts in self.cells(row)]
            lines.append("")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return all rows as plain values of JSON."""
        metric = self.table.system.metric
        rows = [
            {
                "row": row.row.name,
                "reported_on": row.row.reported_on,
                "items": row.count,
                "items of the row": row.total,
                "methods": [
                    {
                        "method": method.name,
                        "settings chosen on": method.chosen_on,
                        TUNED: method.is_tuned_here,
                        "mean": {name: plain(method.mean(name)) for name in method.scores},
                        "worst": plain(method.worst(metric)[0]),
                        "worst item": method.worst(metric)[1],
                        "scores": {
                            name: [plain(value) for value in values]
                            for name, values in method.scores.items()
                        },
                        "items": method.items,
                        "failed": method.failures,
                        "seconds": plain(mean(method.seconds)) if method.seconds else None,
                    }
                    for method in row.methods
                ],
                "published": [entry.model_dump(mode="json") for entry in row.published],
            }
            for row in self.rows
        ]
        return {
            "table": self.table.name,
            "title": self.table.content.title,
            "metric": metric,
            "better": self.table.system.better,
            "rows": rows,
            "versions": versions(),
        }

    def __str__(self) -> str:
        """Return all rows as aligned text; the splits stand below the figures."""
        heads = [*self.columns[:-2], "mark"]
        lines = []
        for row in self.rows:
            cells = [(name, [*texts[:-2], texts[-1]]) for name, texts in self.cells(row)]
            table = [("", heads), *cells]
            widths = [max(len(texts[k]) for _, texts in table) for k in range(len(heads))]
            first = max(len(name) for name, _ in table)
            lines.append(f"{row.row.name}: {row.split}")
            for name, texts in table:
                figures = "  ".join(text.rjust(w) for text, w in zip(texts[:-1], widths))
                lines.append(f"  {name:<{first}}  {figures}  {texts[-1]}".rstrip())
            lines += [f"  settings chosen on: {split} ({names})" for split, names in row.splits()]
            lines.append("")
        return "\n".join(lines).rstrip()


def summarize(
    table: BenchmarkTable,
    counts: Sequence[tuple[Row, int]],
    outcomes: Sequence[Outcome],
    study: Study,
) -> Benchmark:
    """Return the results of a table from the outcomes of its items.

    Args:
        table: the table.
        counts: rows with their numbers of items.
        outcomes: outcomes of all items and methods.
        study: the study.
    """
    rows = []
    for row, total in counts:
        of_row = [outcome for outcome in outcomes if outcome.row.name == row.name]
        names = list(dict.fromkeys(outcome.method for outcome in of_row))
        published = [entry for entry in table.content.published if entry.row == row.name]
        results = [_summarize_method(table, row, name, of_row) for name in names]
        count = len({outcome.number for outcome in of_row})
        rows.append(RowResult(row, count, total, results, published))
    return Benchmark(table, rows, study)


def _summarize_method(
    table: BenchmarkTable, row: Row, name: str, outcomes: Sequence[Outcome]
) -> MethodResult:
    """Return the results of one method in one row."""
    items, files, seconds, failures = [], [], [], {}
    scores: dict[str, list[float]] = {}
    of_method = [outcome for outcome in outcomes if outcome.method == name]
    for outcome in of_method:
        if outcome.report.outcome == "failed":
            failures[f"item {outcome.number}"] = outcome.report.error
            continue
        facts = outcome.report.facts
        items.append(str(facts["item"]))
        files.append(outcome.report.name)
        for metric, value in facts["scores"].items():
            scores.setdefault(metric, []).append(float(value))
        if outcome.seconds is not None:
            seconds.append(outcome.seconds)
    chosen_on = table.split(name)
    return MethodResult(
        name=name,
        chosen_on=chosen_on,
        is_tuned_here=chosen_on is not None and overlap(chosen_on, row.reported_on),
        items=items,
        scores=scores,
        seconds=seconds,
        failures=failures,
        better=table.system.better,
        files=files,
    )


def number(value: float) -> str:
    """Return a figure with four digits; empty for NaN.

    >>> number(31.2634), number(0.30219), number(math.nan)
    ('31.26', '0.3022', '')
    """
    return "" if math.isnan(value) else f"{value:.4g}"


def sentence(words: str) -> str:
    """Return words that begin with a capital letter; names within keep theirs.

    >>> sentence("reported on A046441")
    'Reported on A046441'
    """
    return words[:1].upper() + words[1:]


def plain(value: float) -> float | None:
    """Return a figure as JSON holds it, None for one that is not finite."""
    return value if math.isfinite(value) else None


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write_page(path: Path, result: Benchmark) -> Path:
    """Write a page with figures, splits, failures and pictures of every row.

    Args:
        path: the file; it is replaced.
        result: results of the table.
    """
    content, body = result.table.content, []
    for row in result.rows:
        body += _section(result, row)
    metric = result.table.system.metric
    lead = (
        f"{content.text} Methods are ranked by the mean of {metric}, {result.table.system.better} "
        "values are better. The best method without a mark is bold. A method is marked as tuned "
        f"here if its settings were chosen on reported items. {page.date()}."
    )
    return page.write_page(path, content.title, lead, body)


def _section(result: Benchmark, row: RowResult) -> list[str]:
    """Return the figures and pictures of a row."""
    best = row.best(result.table.system)
    lines = [(name, [*texts[:-2], texts[-1]]) for name, texts in result.cells(row)]
    # Column 0 holds the mean, by which methods are ranked.
    bold = {0: [name for name, _ in lines].index(best.name)} if best is not None else None
    splits = [f"Settings of {names} were chosen on: {split}." for split, names in row.splits()]
    body = [
        page.section(row.row.name, f"{sentence(row.split)}."),
        *_verdict(result, row, best),
        page.numbers(["Method", *result.columns[:-2], "mark"], lines, bold),
        *(f"<p>{page.escape(split)}</p>" for split in splits),
    ]
    failures = {
        f"{method.name}, {item}": reason
        for method in row.methods
        for item, reason in method.failures.items()
    }
    if failures:
        body += ["<h3>Failures</h3>", page.facts(failures)]
    for item, heading in _shown(result, row, best).items():
        figures = _pictures(result, row, item)
        if figures:
            columns = len(figures) if len(figures) <= 4 else -(-len(figures) // 2)
            body += [f"<h3>{page.escape(heading)}</h3>", page.row(figures, columns)]
    return body


def _verdict(result: Benchmark, row: RowResult, best: MethodResult | None) -> list[str]:
    """Return how the best method compares with the simple answer, on the mean."""
    system, simple = result.table.system, row.methods[0]
    score = simple.mean(system.metric)
    if best is None or math.isnan(score) or len(row.methods) < 2:
        return []
    if best is simple:
        return [page.verdict(f"No unmarked method is better than {simple.name}.", "", False)]
    head = f"{best.name}: {_with_unit(best.mean(system.metric), system.metric)}."
    return [page.verdict(head, f"{simple.name}: {_with_unit(score, system.metric)}.", True)]


def _with_unit(value: float, metric: str) -> str:
    """Return a figure with its measure: "PSNR 30.2 dB" of the measure "PSNR [dB]"."""
    name, _, unit = metric.partition(" [")
    return f"{name} {number(value)} {unit.rstrip(']')}".rstrip()


def _shown(result: Benchmark, row: RowResult, best: MethodResult | None) -> dict[str, str]:
    """Return the items whose pictures are shown: the first one, and the worst of the best method."""
    simple = row.methods[0]
    if not simple.items:
        return {}
    shown = {}
    if best is not None:
        shown[best.worst(result.table.system.metric)[1]] = f"worst item of {best.name}"
    shown[simple.items[0]] = "first item"
    return {item: f"{item}, the {words}" for item, words in sorted(shown.items())}


def _pictures(result: Benchmark, row: RowResult, item: str) -> list[str]:
    """Return the figures of an item: every method that has a picture of it, then the truth."""
    system = result.table.system
    figures, truth, before = [], None, ""
    for method in row.methods:
        if item not in method.items:
            continue
        place = method.items.index(item)
        arrays = _arrays(result, method.files[place])
        truth = arrays.get("truth", truth)
        if arrays.get("x", np.zeros(0)).size:
            score = method.scores[system.metric][place]
            words = _with_unit(score, system.metric)
            shown = page.picture(arrays["x"], method.name, system.pictured, words, swipe=before)
            figures.append(shown)
            before = method.name
    if truth is not None:
        figures.append(page.picture(truth, "Truth", system.pictured, swipe=before))
    return figures


def _arrays(result: Benchmark, name: str) -> Any:
    """Return the arrays of a result file; none if it was removed meanwhile."""
    try:
        return result.study.results.read(
            result.folder / f"{name}{result.study.results.suffix}"
        ).arrays
    except InputError:
        return {}
