"""Page of a table: figures per row, and the pictures of two of its items."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.errors import InputError
from invtoolbox.jobs.benchmark.summary import (
    Benchmark,
    MethodResult,
    RowResult,
    number,
    sentence,
)
from invtoolbox.plotting import page


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
