"""Page of a table: figures per row, and the pictures of two of its items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.errors import InputError
from invtoolbox.jobs.benchmark.summary import Benchmark, MethodResult, RowResult, number
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
    lines, best = list(result.cells(row)), row.best(result.table.system)
    bold = {1: [name for name, _ in lines].index(best.name)} if best is not None else None
    body = [
        page.section(row.row.name, f"{row.split.capitalize()}."),
        page.numbers(["Method", *result.columns], lines, bold),
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
            body += [f"<h3>{page.escape(heading)}</h3>", page.row(figures, min(len(figures), 4))]
    return body


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
            words = f"{number(score)} {system.metric}"
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
