"""Run the zoo, an item and a prior at a time, and print the losses."""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from invtoolbox.errors import InputError
from zoo import JOBS, item
from zoo.fresh import first_index, full_hash, measured_code, results_file
from zoo.items import DEFAULT, WORST, Answer, Item

#: The floor, in dB: mean, loss of 99 % of the items, largest loss without a mark; and the largest
#: shares of marks, among all items and among those with a loss below 0.
MEAN, MOST, UNMARKED = 0.0, 0.3, 1.0
MARKS, GOOD_MARKS = 0.10, 0.05
RESULTS = Path(__file__).parents[2] / "build" / "zoo.jsonl"

#: Parts of notes that say why an answer is in doubt; they mark it, as its warnings do.
DOUBTS = ("noise does not explain the residual", "is too large: held-out")

Record = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Hold every default against a simple answer; see benchmarks/zoo/__init__.py.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--jobs", help="names of jobs or their beginnings, separated by commas")
    parser.add_argument("--priors", default="tv", help="names separated by commas, or 'all'")
    parser.add_argument("--half", choices=("even", "odd", "both"), default="even")
    parser.add_argument("--fresh", action="store_true", help="new kinds, drawn for a commit")
    parser.add_argument("--commit", default="HEAD", help="commit that fresh items are drawn for")
    parser.add_argument("--compare", type=Path, nargs=2, help="files of two fresh runs; only print")
    parser.add_argument("--limit", type=int, help="number of items per job")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, help=f"file that is continued; {RESULTS} if none")
    parser.add_argument("--again", action="store_true", help="solve items that are in the file")
    parser.add_argument("--only-print", action="store_true", help="print the file")
    options = parser.parse_args()
    if options.compare:
        print(compare(*(list(read(path).values()) for path in options.compare)))
        return
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads, load average {os.getloadavg()[0]:.2f}")
    first, path = None, options.results or RESULTS
    if options.fresh:
        commit = full_hash(options.commit)
        first, path = first_index(commit), options.results or results_file(commit)
        print(f"items drawn for commit {commit}, solved by the code of {measured_code()}")
    wanted = plan(options.jobs, options.priors, options.half, options.limit, first)
    records = read(path)
    if not options.only_print:
        path.parent.mkdir(parents=True, exist_ok=True)
        for key in wanted:
            if key not in records or options.again:
                records[key] = measure(*key)
                with path.open("a") as file:
                    file.write(json.dumps(records[key]) + "\n")
    print(table([records[key] for key in wanted if key in records]))


def plan(
    jobs: str | None, priors: str, half: str, limit: int | None, fresh: int | None = None
) -> list[tuple[str, int, str]]:
    """Return job, index and prior of what is to be done, the first prior of all jobs first.

    Args:
        jobs: beginnings of the names of jobs; all of them if None, without slow ones. They are the
            new kinds for fresh items, and the others otherwise.
        priors: names of priors, or ``"all"``.
        half: ``"even"``, ``"odd"`` or ``"both"``.
        limit: largest number of items per job.
        fresh: index of the first fresh item; None if they are not fresh.
    """
    starts = [name.strip() for name in jobs.split(",")] if jobs else None
    names = [
        name
        for name, job in JOBS.items()
        if (
            any(name.startswith(start) for start in starts)
            if starts
            else not job.is_slow and job.is_new == (fresh is not None)
        )
    ]
    if not names:
        raise SystemExit(f"no job begins with {jobs}; the jobs are {', '.join(JOBS)}")
    chosen = None if priors == "all" else [name.strip() for name in priors.split(",")]
    first, step = {"even": (0, 2), "odd": (1, 2), "both": (0, 1)}[half]
    keys = []
    for name in names:
        job = JOBS[name]
        taken = [
            prior
            for prior in job.priors
            if chosen is None or prior in chosen or (job.priors == (DEFAULT,) and "tv" in chosen)
        ]
        indices = range(first, job.count, step)
        if fresh is not None:
            indices = range(fresh, fresh + job.count)
        indices = indices if limit is None else indices[:limit]
        keys += [
            (job.priors.index(prior), name, index, prior) for prior in taken for index in indices
        ]
    order = list(JOBS)
    keys.sort(key=lambda key: (key[0], order.index(key[1]), key[2]))
    return [(name, index, prior) for _, name, index, prior in keys]


def measure(job: str, index: int, prior: str) -> Record:
    """Solve an item with a prior, and return what the results file holds."""
    problem = item(job, index)
    began = time.process_time()
    try:
        answer = problem.compute(prior)
    except InputError as error:
        answer = Answer(torch.empty(0), "refused", (), (str(error),))
    except Exception as error:  # a crash is a result, and no reason for a user
        place = traceback.extract_tb(error.__traceback__)[-1].name
        sentence = f"{type(error).__name__} in {place}: {error}"
        answer = Answer(torch.empty(0), "crashed", (sentence,))
    return record(job, index, prior, problem, answer, began)


def record(job: str, index: int, prior: str, problem: Item, answer: Answer, began: float) -> Record:
    """Return a line of the results file."""
    seconds = time.process_time() - began
    is_there = answer.x.numel() > 0
    warned = dict.fromkeys((*problem.warned, *answer.marks))
    # A refusal leaves the user with the simple answer, and with a reason.
    unanswered = WORST if answer.status == "crashed" else 0.0
    asks = any("give noise_std" in note for note in (*answer.notes, *warned))
    return {
        "job": job,
        "index": index,
        "prior": prior,
        "loss": round(problem.loss(answer.x), 3) if is_there else unanswered,
        "error": _short(problem.error(answer.x)) if is_there else None,
        "simple": _short(problem.error(problem.simple)),
        "finest": _short(problem.finest),
        "status": answer.status,
        "marks": list(warned),
        "notes": [note for note in answer.notes if note not in warned],
        "left_out": problem.without_level and asks,
        "seconds": round(seconds, 2),
        "about": problem.about,
        "fault": problem.fault,
    }


def _short(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None


def read(path: Path) -> dict[tuple[str, int, str], Record]:
    """Return the lines of a results file; of lines for one item and prior, the last."""
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return {(line["job"], line["index"], line["prior"]): line for line in lines}


def marks(row: Record) -> list[str]:
    """Return the warnings and the notes that name a reason to doubt an answer."""
    return row["marks"] + [n for n in row["notes"] if any(doubt in n for doubt in DOUBTS)]


def failures(records: Iterable[Record]) -> list[str]:
    """Return what a job and prior lack of the floor, in words."""
    rows = [row for row in records if not row["left_out"]]
    losses = sorted(row["loss"] for row in rows)
    if not losses:
        return []
    lacks = []
    if statistics.mean(losses) > MEAN:
        lacks.append("mean")
    if quantile(losses, 0.99) > MOST:
        lacks.append("99 %")
    if any(row["loss"] > UNMARKED and not marks(row) for row in rows):
        lacks.append("unmarked")
    if sum(bool(marks(row)) for row in rows) > MARKS * len(rows):
        lacks.append("marks")
    good = [row for row in rows if row["loss"] < 0]
    if sum(bool(marks(row)) for row in good) > GOOD_MARKS * len(good):
        lacks.append("good marked")
    return lacks


def quantile(losses: list[float], share: float) -> float:
    """Return the least loss that a share of the items does not exceed."""
    return sorted(losses)[max(0, math.ceil(share * len(losses)) - 1)]


def table(records: list[Record]) -> str:
    """Return a row per job and prior, a row per prior, and the worst ten items."""
    lines = [
        f"{'job':20s} {'prior':17s} items   mean    99 %   worst  >1 dB unmarked  marked  s each"
    ]
    for prior in dict.fromkeys(row["prior"] for row in records):
        of_prior = [row for row in records if row["prior"] == prior]
        jobs = list(dict.fromkeys(row["job"] for row in of_prior))
        lines += [line(job, prior, [r for r in of_prior if r["job"] == job]) for job in jobs]
        if len(jobs) > 1:
            lines.append(line("all jobs", prior, of_prior))
    left_out = sum(row["left_out"] for row in records)
    total = sum(row["seconds"] for row in records)
    lines.append(
        f"{len(records)} solves in {total:.0f} s of processor time; {left_out} are left out, whose "
        "notes ask for noise_std"
    )
    lines.append("The worst ten:")
    for row in sorted(records, key=lambda row: -row["loss"])[:10]:
        mark = "marked" if marks(row) else "unmarked"
        lines.append(
            f"{row['loss']:7.2f} dB {row['job']} {row['index']}, {row['prior']}, {row['status']}, "
            f"{mark}: {row['about']}"
        )
    return "\n".join(lines)


def compare(before: list[Record], after: list[Record]) -> str:
    """Return a row per prior and run of the items that two runs share, and the largest changes."""
    runs = [
        {(row["job"], row["index"], row["prior"]): row for row in rows} for rows in (before, after)
    ]
    keys = [
        key for key in runs[0] if key in runs[1] and not any(rows[key]["left_out"] for rows in runs)
    ]
    lines = [
        f"{'prior':10s} {'run':6s} items   mean  > 0.3 dB  > 1 dB unmarked  false alarms  "
        "faults named  median s"
    ]
    for prior in dict.fromkeys(prior for *_, prior in keys):
        for name, rows_of in zip(("before", "after"), runs):
            rows = [rows_of[key] for key in keys if key[2] == prior]
            losses = [row["loss"] for row in rows]
            faulty = [row for row in rows if row["fault"]]
            lines.append(
                f"{prior:10s} {name:6s} {len(rows):5d} {statistics.mean(losses):6.2f} "
                f"{sum(loss > MOST for loss in losses):9d} "
                f"{sum(row['loss'] > UNMARKED and not marks(row) for row in rows):16d} "
                f"{sum(bool(marks(row)) and not row['fault'] for row in rows):13d} "
                f"{sum(bool(marks(row)) for row in faulty):5d} of {len(faulty):3d} "
                f"{statistics.median(row['seconds'] for row in rows):9.2f}"
            )
    changes = sorted(keys, key=lambda key: -abs(runs[1][key]["loss"] - runs[0][key]["loss"]))
    lines.append("The largest changes:")
    lines += [
        f"{old['loss']:7.2f} to {new['loss']:7.2f} dB, {old['job']}, {old['prior']}: {old['about']}"
        for old, new in ((runs[0][key], runs[1][key]) for key in changes[:10])
        if old["loss"] != new["loss"]
    ]
    return "\n".join(lines)


def line(job: str, prior: str, rows: list[Record]) -> str:
    """Return the row of the table for the items of a job and prior."""
    counted = [row for row in rows if not row["left_out"]]
    losses = [row["loss"] for row in counted] or [0.0]
    alone = sum(row["loss"] > UNMARKED and not marks(row) for row in counted)
    marked = sum(bool(marks(row)) for row in counted)
    seconds = statistics.mean(row["seconds"] for row in rows)
    lacks = failures(rows)
    return (
        f"{job:20s} {prior:17s} {len(counted):5d} {statistics.mean(losses):6.2f} "
        f"{quantile(losses, 0.99):7.2f} {max(losses):7.2f} {alone:15d} {marked:7d} "
        f"{seconds:7.2f}  {'FALLS SHORT: ' + ', '.join(lacks) if lacks else 'holds'}"
    )
