"""The ablation: what every automatic step, and every doubt of the comparisons, gains and costs.

    python benchmarks/decisions.py [--half even] [--fresh] [--jobs ct,deblurring] [--priors tv,default]
        [--limit N] [--only-print]

Items of the zoo (`benchmarks/zoo.py`), fresh ones as well with `--fresh`, are solved by all steps. Each
step that changed something is left out in another solve (`automatic="-step"`). So is each doubt: a rule
inside a comparison, which is replaced by one that never doubts where the simple answer was taken.

Gain = loss without the rule - loss with it, in dB against the simple answer. A rule fails if it gains
less than 0.1 dB in the mean of the items that it changed, and no item above 1 dB appears unmarked without
it; or if the comparison lengthens the runs in which it is made by more than half, for less than 0.3 dB
in their mean. Both means are over at least 30 items, or the verdict is open. Seconds are those of the
records, a median over the runs in which the step was asked. Results: results/decisions.txt.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import inspect
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from common import machine
from zoo import item
from zoo.fresh import first_index, full_hash
from zoo.run import UNMARKED, Record, marks, measure, plan, record

import invtoolbox as it
from invtoolbox.jobs.images.decisions import by_noise, enlargement, finer_grid, simple_answer
from invtoolbox.jobs.images.decisions.order import STEPS
from invtoolbox.jobs.images.reconstruct import reconstruct
from invtoolbox.solution import Solution

FILE = Path(__file__).parents[1] / "build" / "decisions.jsonl"
#: Least gain of the items that a rule changed, in dB; least gain and share of time of a dear one.
LEAST_GAIN, DEAR_GAIN, DEAR_SHARE = 0.1, 0.3, 0.5
#: Items that a verdict needs.
ENOUGH = 30


def _nowhere(*values: Any) -> torch.Tensor:
    """Return a doubt of no item."""
    return torch.zeros(len(values[0].y0), dtype=torch.bool)


#: Doubts: the module that calls them, the name, and what takes their place.
DOUBTS: dict[str, tuple[Any, str, Any]] = {
    "invented detail": (by_noise, "_invents_detail", _nowhere),
    "misfit": (
        by_noise,
        "_misfit",
        lambda problem, residual, bias: (residual, torch.zeros_like(residual, dtype=torch.bool)),
    ),
    "coarse noise": (by_noise, "COARSE", math.inf),
    "removed half": (by_noise, "LEAST_RESIDUAL", 0.0),
    "structure": (simple_answer, "doubt_structure", lambda problem, x, verdict: verdict),
    "detail": (simple_answer, "doubt_detail", lambda problem, x, verdict: verdict),
    "half size": (simple_answer, "compare_at_half_size", lambda problem, again: None),
    "smooth views": (simple_answer, "has_smooth_views", _nowhere),
    "smooth views, grid": (finer_grid, "has_smooth_views", _nowhere),
}
#: Where the code of a doubt stands; a number counts as one statement.
CODE = {
    "invented detail": (by_noise._invents_detail, by_noise.expected_detail),
    "misfit": (by_noise._misfit,),
    "structure": (enlargement.doubt_structure,),
    "detail": (enlargement.doubt_detail,),
    "half size": (enlargement.compare_at_half_size,),
    "smooth views": (finer_grid.has_smooth_views,),
}


@contextlib.contextmanager
def solved_with(automatic: str) -> Iterator[list[Solution]]:
    """Give all calls of `it.reconstruct` the word of the steps, and list their solutions."""
    solutions: list[Solution] = []

    def call(*values: Any, **named: Any) -> Solution:
        solutions.append(reconstruct(*values, **{**named, "automatic": automatic}))
        return solutions[-1]

    with mock.patch.object(it, "reconstruct", call):
        yield solutions


def ablate(job: str, index: int, prior: str) -> Record:
    """Return the record of an item with all rules, and with one rule less each in ``without``."""
    problem, began = item(job, index), time.process_time()
    with solved_with("all") as solutions, counted() as called:
        try:
            answer = problem.compute(prior)
        except Exception:  # a crash and a refusal are results of the zoo
            return {**measure(job, index, prior), "asked": {}, "without": {}}
    row = record(job, index, prior, problem, answer, began)
    decisions = [d for s in solutions for d in s.decisions]
    total = sum(s.seconds for s in solutions)
    row["asked"] = {
        d.step: d.seconds / max(total - d.seconds, 1e-9)
        for d in decisions
        if d.step in STEPS and d.outcome in ("taken", "kept", "late")
    }
    taken = {d.step for d in decisions if d.outcome == "taken" and d.step in STEPS}
    row["taken"], row["without"] = sorted(taken), {}
    for step in sorted(taken):
        with solved_with(f"-{step}"):
            row["without"][step] = measure(job, index, prior)
    for name in [name for name in called if {"simple-answer", "finer-grid"} & taken]:
        with solved_with("all"), mock.patch.object(*DOUBTS[name]):
            row["without"][name] = measure(job, index, prior)
    return row


@contextlib.contextmanager
def counted() -> Iterator[set[str]]:
    """Collect the names of the doubts that are called; numbers count if their comparison is called."""
    called: set[str] = set()

    def watch(names: tuple[str, ...], function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any, **named: Any) -> Any:
            called.update(names)
            return function(*values, **named)

        return call

    with contextlib.ExitStack() as stack:
        for name, (module, attribute, _) in DOUBTS.items():
            if callable(function := getattr(module, attribute)):
                stack.enter_context(mock.patch.object(module, attribute, watch((name,), function)))
        numbers = tuple(name for name, (_, a, _) in DOUBTS.items() if a.isupper())
        compare = watch(numbers, simple_answer.compare_with_measurements)
        stack.enter_context(mock.patch.object(simple_answer, "compare_with_measurements", compare))
        yield called


def statements(name: str) -> int:
    """Return the number of statements of a rule, without docstrings."""
    sources = [inspect.getsource(function) for function in CODE.get(name, ())]
    if name in STEPS:
        sources = [inspect.getsource(inspect.getmodule(type(STEPS[name])))]  # type: ignore[arg-type]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    return max(1, sum(isinstance(n, ast.stmt) and not _is_docstring(n) for n in nodes))


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def table(rows: list[Record]) -> str:
    """Return a row per rule."""
    lines = [
        f"{'rule':20s} asked  tried  changed   gain  least   most  unmarked  alarms  time  "
        "statements  verdict"
    ]
    for name in (*STEPS, *DOUBTS):
        asked = [row for row in rows if name in row["asked"]]
        pairs = [(row, row["without"][name]) for row in rows if name in row["without"]]
        changed = [(row, other) for row, other in pairs if _differs(row, other)]
        gains = [other["loss"] - row["loss"] for row, other in changed]
        unmarked = sum(_is_unmarked(b) for _, b in pairs) - sum(_is_unmarked(a) for a, _ in pairs)
        alarms = sum(_is_alarm(b) for _, b in pairs) - sum(_is_alarm(a) for a, _ in pairs)
        share = statistics.median([row["asked"][name] for row in asked] or [0.0])
        gain = statistics.mean(gains or [0.0])
        lines.append(
            f"{name:20s} {len(asked):5d} {len(pairs):6d} {len(changed):8d} {gain:6.2f} "
            f"{min(gains, default=0.0):6.2f} {max(gains, default=0.0):6.2f} {unmarked:+9d} "
            f"{alarms:+7d} {share:5.2f} {statements(name):11d}  "
            f"{_verdict(gains, unmarked, share, len(asked))}"
        )
    worst = [
        (other["loss"] - row["loss"], name, row)
        for row in rows
        for name, other in row["without"].items()
    ]
    lines.append("The largest harm:")
    lines += [
        f"{gain:7.2f} dB {name}: {row['job']} {row['index']}, {row['prior']}: {row['about']}"
        for gain, name, row in sorted(worst, key=lambda entry: entry[0])[:12]
        if gain < 0
    ]
    return "\n".join(lines)


def _differs(row: Record, other: Record) -> bool:
    return bool(row["error"] != other["error"])


def _is_unmarked(row: Record) -> bool:
    return bool(row["loss"] > UNMARKED and not row["left_out"] and not marks(row))


def _is_alarm(row: Record) -> bool:
    return bool(marks(row) and not row["fault"])


def _verdict(gains: list[float], unmarked: int, share: float, asked: int) -> str:
    """Return whether a rule stays."""
    if not gains:
        return "changed nothing"
    if statistics.mean(gains) < LEAST_GAIN and unmarked <= 0:
        return "goes" if len(gains) >= ENOUGH else "gains too little, on few items"
    if share > DEAR_SHARE and sum(gains) / max(asked, 1) < DEAR_GAIN:
        return "too dear" if asked >= ENOUGH else "too dear, on few items"
    return "stays" if len(gains) >= ENOUGH else "stays, on few items"


def main() -> None:
    parser = argparse.ArgumentParser(description="Leave out one automatic rule at a time.")
    parser.add_argument("--jobs", help="names of jobs or their beginnings, separated by commas")
    parser.add_argument("--priors", default="tv", help="names separated by commas, or 'all'")
    parser.add_argument("--half", choices=("even", "odd", "both"), default="even")
    parser.add_argument("--fresh", action="store_true", help="new kinds, drawn for a commit")
    parser.add_argument("--commit", default="HEAD", help="commit that fresh items are drawn for")
    parser.add_argument("--limit", type=int, help="number of items per job")
    parser.add_argument(
        "--results", type=Path, nargs="+", default=[FILE], help="the first continues"
    )
    parser.add_argument("--only-print", action="store_true", help="print the files")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        json.loads(line)
        for path in options.results
        if path.exists()
        for line in path.read_text().splitlines()
    ]
    rows = {(row["job"], row["index"], row["prior"]): row for row in lines}
    if not options.only_print:
        print(machine())
        first = first_index(full_hash(options.commit)) if options.fresh else None
        path = options.results[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        for key in plan(options.jobs, options.priors, options.half, options.limit, first):
            if key not in rows:
                rows[key] = ablate(*key)
                with path.open("a") as file:
                    file.write(json.dumps(rows[key]) + "\n")
    print(f"{len(rows)} items and priors")
    print(table(list(rows.values())))


if __name__ == "__main__":
    main()
