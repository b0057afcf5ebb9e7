"""Printing of outcomes on the terminal, shared by all jobs."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from invtoolbox.jobs.study import Study
    from invtoolbox.solution import Solution


def report_divergence(solution: Solution) -> int:
    """Report a solution whose iteration diverged; the exit code is then 1."""
    if "diverged" not in solution.status:
        return 0
    print(
        "invtoolbox: the iteration diverged, and the last finite image was written; try another "
        "solver",
        file=sys.stderr,
    )
    return 1


def report_study(study: Study, quiet: bool) -> int:
    """Report a study; the exit code is 1 if an item failed or diverged."""
    diverged = [item.name for item in study.reports if "diverged" in item.facts.get("status", ())]
    if not quiet:
        print(f"{len(study)} items: {count_outcomes(study)}; in {study.folder}")
    failed = report_failures(study)
    if diverged:
        names = ", ".join(diverged[:8])
        names += f" and {len(diverged) - 8} more" if len(diverged) > 8 else ""
        print(
            f"invtoolbox: the iteration diverged in {names}, whose last finite images were written",
            file=sys.stderr,
        )
    return 1 if failed or diverged else 0


def print_notes(notes: Iterable[str]) -> None:
    """Print notes for a reader of the result, one per line."""
    for note in notes:
        print(f"  note: {note}")


def print_metrics(metrics: Mapping[str, float | Sequence[float]], units: Mapping[str, str]) -> None:
    """Print metrics, numbers or one number per item, with their units, one metric per line."""
    width = max([15, *(len(name) + 1 for name in metrics)])
    for name, value in metrics.items():
        numbers = ", ".join(f"{v:.4g}" for v in np.atleast_1d(value))
        print(f"  {name:<{width}}{numbers} {units.get(name, '')}".rstrip())


def print_files(files: Sequence[Path], folder: Path) -> None:
    """Print the files that were written; without files, an earlier run was finished."""
    if files:
        print("written:", *files, sep="\n  ")
    else:
        print(f"the run in {folder} was finished already; nothing was done")


def count_outcomes(study: Study) -> str:
    """Return the numbers of items that were done, kept and failed, in words."""
    counts = Counter(report.outcome for report in study.reports)
    return ", ".join(
        f"{counts[name]} {name}" for name in ("done", "kept", "failed") if counts[name]
    )


def report_failures(study: Study) -> int:
    """Print the errors of failed items; the exit code is 1 if there are any."""
    for failure in study.failed:
        print(f"invtoolbox: {failure.name} failed: {failure.error}", file=sys.stderr)
    return 1 if study.failed else 0
