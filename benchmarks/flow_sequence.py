"""The flow of a simulated sequence: memory, seconds, errors, resumption after kills, two workers.

    python benchmarks/flow_sequence.py [--sweeps 100] [--points 60000] [--kills 10]
                                       [--kill-sweeps 24] [--kill-points 20000] [--workers 2]

`flow_sequence` runs in processes of its own, whose peak memory is read at their end: one process
with a fifth of the sweeps, one with all. On every tenth pair, NSFP gets the same number of seconds
as the default method, and its ego motion and ground. Several numbers of points are tried, because
fewer points allow more iterations, and the best of them counts. A killed run is a process group
that gets SIGKILL at a random moment of its work.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from common import machine, run_script, verdict

from invtoolbox.jobs.flow.estimation import estimate
from invtoolbox.jobs.flow.preparation import Preparation, prepare_pair
from invtoolbox.jobs.flow.published import Fit, nsfp
from invtoolbox.jobs.flow.results import FlowStudy
from invtoolbox.jobs.flow.sequence import flow_sequence
from invtoolbox.jobs.flow.source import SequencePath
from invtoolbox.metrics import FlowErrors, evaluate, pool

PREPARATION = Preparation(ego_motion="poses")
#: Numbers of points for NSFP; None for all.
NSFP_POINTS = (2048, 8192, None)
#: Allowed growth of a child's memory from a fifth of the sweeps to all, in MiB: results of other
#: lengths, and allocators.
SPARE = 64.0


def street(sweeps: int, points: int) -> SequencePath:
    return SequencePath.of("street", options={"sweeps": sweeps, "points": points})


def flow(
    sweeps: int, points: int, folder: Path, workers: int = 1, threads: int = 1, resume: bool = False
) -> FlowStudy:
    study = flow_sequence(
        street(sweeps, points),
        folder,
        preparation=PREPARATION,
        workers=workers,
        threads=threads,
        resume=resume,
        progress=False,
    )
    if study.failed:
        raise SystemExit(f"{study.failed[0].name} failed: {study.failed[0].error}")
    return study


def command(sweeps: int, points: int, folder: Path, workers: int = 1) -> list[str]:
    return [
        sys.executable,
        __file__,
        "--folder",
        str(folder),
        "--sweeps",
        str(sweeps),
        "--points",
        str(points),
        "--workers",
        str(workers),
    ]


def peak_of(sweeps: int, points: int, folder: Path) -> tuple[float, float]:
    """Run a sequence in a process of its own; return its peak memory in MiB and processor time."""
    process = subprocess.Popen(command(sweeps, points, folder))
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the run of {sweeps} sweeps ended with {process.returncode}")
    return usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def events(folder: Path) -> list[dict[str, object]]:
    path = folder / "study.log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def spans(folder: Path) -> list[float]:
    """Read the seconds of each sweep from the log."""
    begun = {str(e["item"]): float(str(e["time"])) for e in events(folder) if e["event"] == "begun"}
    return [
        float(str(e["time"])) - begun[str(e["item"])]
        for e in events(folder)
        if e["event"] == "done"
    ]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.npz"))}


def memory_and_seconds(sweeps: int, points: int, place: Path) -> float:
    few = max(3, sweeps // 5)
    low, least = peak_of(few, points, place / "few")
    high, most = peak_of(sweeps, points, place / "all")
    seconds = sorted(spans(place / "all"))
    middle = seconds[len(seconds) // 2]
    print(
        f"{sweeps} sweeps of {points:,} points: {middle:.2f} s a sweep (median; fastest "
        f"{seconds[0]:.2f}, slowest {seconds[-1]:.2f}) and {(most - least) / (sweeps - few):.2f} s "
        "of processor time, with the ray-casting of all sweeps of the window, and writing, one "
        "thread"
    )
    print(
        f"peak of memory {low:.0f} MiB for {few} sweeps, {high:.0f} MiB for {sweeps} "
        f"{verdict(high < low + SPARE, f'no more than {SPARE:.0f} MiB more')}",
        flush=True,
    )
    return middle


def against_nsfp(sweeps: int, points: int, place: Path) -> None:
    study, opened = flow(sweeps, points, place / "all", resume=True), street(sweeps, points).open()
    ours: list[FlowErrors] = []
    theirs: dict[int | None, list[FlowErrors]] = {count: [] for count in NSFP_POINTS}
    spent: list[float] = []
    for k in range(0, len(study), 10):
        source, target = opened[k], opened[k + 1]
        found = estimate(
            source, target, "default", PREPARATION
        )  # to measure its seconds without the ray-casting
        ours.append(evaluate(study[k], source, next_pose=target.pose))
        spent.append(found.seconds)
        pair = prepare_pair(source, target, PREPARATION)
        for count in NSFP_POINTS:
            fit = Fit(points=count, patience=100, time_limit=found.seconds)
            fitted = nsfp(pair.source, pair.target, fit)
            theirs[count].append(evaluate(pair.flow(fitted), source, next_pose=target.pose))
    mine = pool(ours)
    print(
        f"every tenth pair, {len(ours)} of them, {mine.dynamic_points:,} dynamic points: default "
        f"{sum(spent) / len(spent):.2f} s, dynamic EPE {mine.dynamic:.3f} m, static EPE "
        f"{mine.static:.4f} m"
    )
    best = float("inf")
    for count, errors in theirs.items():
        total = pool(errors)
        best = min(best, total.dynamic)
        print(
            f"  NSFP, {'all' if count is None else f'{count:,}'} points, the same seconds: dynamic "
            f"EPE {total.dynamic:.3f} m, static EPE {total.static:.4f} m"
        )
    print(
        f"  dynamic EPE against the best NSFP: {mine.dynamic / best:.2f} "
        f"{verdict(mine.dynamic < 0.5 * best, 'under half')}",
        flush=True,
    )


def workers_against_one(sweeps: int, points: int, workers: int, place: Path) -> None:
    began = time.perf_counter()
    flow(sweeps, points, place / "one")
    one = time.perf_counter() - began
    began = time.perf_counter()
    flow(sweeps, points, place / "two", workers=workers)
    two = time.perf_counter() - began
    times = [float(str(e["time"])) for e in events(place / "two")]
    same = content(place / "one") == content(place / "two")
    print(
        f"{sweeps} sweeps of {points:,} points: 1 worker {one:.1f} s, {workers} Dask workers "
        f"{two:.1f} s with their start, {max(times) - min(times):.1f} s without: speed-up "
        f"{one / two:.2f} and {one / (max(times) - min(times)):.2f}; files identical "
        f"{verdict(same, 'all')}",
        flush=True,
    )


def killed_and_resumed(sweeps: int, points: int, kills: int, place: Path) -> None:
    """Kill and resume runs, and compare them with the undisturbed run in `place / "one"`."""
    folder, draw = place / "killed", random.Random(0)
    span = sum(spans(place / "one")) / max(kills, 1)
    for _ in range(kills):
        done = sum(e["event"] == "done" for e in events(folder))
        before = len(events(folder))
        process = subprocess.Popen(command(sweeps, points, folder), start_new_session=True)
        # The clock runs from the first sweep of the process: before, there is no work to disturb.
        while process.poll() is None and len(events(folder)) == before:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 1.6 * span))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        now = sum(e["event"] == "done" for e in events(folder))
        print(
            f"  killed after {now} of {sweeps - 1} were done, {now - done} of them since the last "
            "kill",
            flush=True,
        )
    subprocess.run(command(sweeps, points, folder), check=True)
    done = Counter(str(e["item"]) for e in events(folder) if e["event"] == "done")
    same = content(folder) == content(place / "one")
    print(
        f"killed {kills} times and resumed: {len(content(folder))} of {sweeps - 1} files, "
        f"{sum(n > 1 for n in done.values())} done twice; the bytes of an undisturbed run "
        f"{verdict(same and max(done.values()) == 1, 'identical, nothing lost, nothing done twice')}"
    )


def main(
    sweeps: int = 100,
    points: int = 60_000,
    kills: int = 10,
    kill_sweeps: int = 24,
    kill_points: int = 20_000,
    workers: int = 2,
    folder: Path | None = None,
) -> None:
    torch.set_num_threads(1)
    if folder:
        flow(sweeps, points, folder, workers, resume=True)
        return
    print(machine())
    place = Path(tempfile.mkdtemp(prefix="flow_sequence_"))
    memory_and_seconds(sweeps, points, place)
    against_nsfp(sweeps, points, place)
    workers_against_one(kill_sweeps, kill_points, workers, place)
    killed_and_resumed(kill_sweeps, kill_points, kills, place)
    shutil.rmtree(place)


if __name__ == "__main__":
    run_script(main)
