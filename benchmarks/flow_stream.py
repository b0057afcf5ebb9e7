"""`it.FlowStream` on simulated streets: errors per class, seconds per sweep, memory, stream and batch.

    python benchmarks/flow_stream.py [--seeds 900-909] [--latencies 0,1,2] [--sources 8,20]
        [--points 60000,106000] [--timed 5] [--pushes 500] [--small 8000] [--no-errors] [--cache FOLDER]

Streets of 42 sweeps with true poses; windows of five sweeps. None of them is later than the sweep
whose flow is estimated (latency 0), or one is (latency 1, the next sweep), or two are (latency 2, as
many as are earlier). Errors are those of `scene_flow_simulated.py`. Seconds are processor time of one thread per push, in streams whose
window is full; the first push of the process is left out. Memory is the resident set of the process
at the 50th and at the last push of one stream, which goes up and down a street. Stream and batch are
the flows of `FlowStream` and of the files of `flow_sequence`, compared bit for bit.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
from common import machine, run_script, verdict
from scene_flow_simulated import Cached, Score, numbers, score

import invtoolbox as it
from invtoolbox.geometry.rigid import relative_motion
from invtoolbox.geometry.sweeps import Sweeps

WINDOW = 5


def street(seed: int, points: int, cache: Path | None) -> Sweeps:
    return Cached(it.simulation.street(sweeps=42, seed=seed, points=points), seed, points, cache)


def accuracy(
    seeds: list[int], sources: list[int], points: int, latency: int, cache: Path | None
) -> Score:
    """Pool the errors of the flow of some sweeps, which `flow_sequence` estimates alone."""
    total = Score()
    for seed in seeds:
        sweeps = street(seed, points, cache)
        with tempfile.TemporaryDirectory() as folder:
            study = it.flow_sequence(
                sweeps, folder, window=WINDOW, latency=latency, items=sources, progress=False
            )
            for k, source in enumerate(sources):
                sweep, later, file = sweeps[source], sweeps[source + 1], study[k]
                assert sweep.pose is not None and later.pose is not None
                ego = relative_motion(sweep.pose, later.pose)
                total.add(score(file.residual.double(), file.instance, sweep, ego, 0.0))
    return total


def seconds_per_sweep(
    seed: int, points: int, latency: int, count: int, cache: Path | None
) -> list[float]:
    """Measure the processor time of pushes to a stream whose window is full."""
    sweeps = [street(seed, points, cache)[k] for k in range(WINDOW + count)]
    stream, seconds = it.FlowStream(window=WINDOW, latency=latency), []
    for sweep in sweeps:
        began = time.process_time()
        stream.push(sweep)
        seconds.append(time.process_time() - began)
    return seconds[WINDOW:]


def resident() -> float:
    """Return the resident set of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def growth(seed: int, points: int, pushes: int, cache: Path | None) -> tuple[float, float]:
    """Return the resident set at push 50 and at the last one, MB."""
    sweeps = [street(seed, points, cache)[k] for k in range(42)]
    stream, early = it.FlowStream(window=WINDOW, latency=1), 0.0
    for n in range(pushes):
        # Up and down the street: 0, 1, ..., 41, 40, ..., 0, 1, ...
        k = n % 82
        stream.push(replace(sweeps[min(k, 82 - k)], timestamp=0.1 * n))
        if n == 49:
            early = resident()
    return early, resident()


def equal_to_batch(seed: int, points: int, latency: int, cache: Path | None) -> tuple[int, int]:
    """Return the number of sweeps whose flow a stream and a sequence estimate, and of equal ones."""
    sweeps = Cached(it.simulation.street(sweeps=9, seed=seed, points=points), seed, points, cache)
    with tempfile.TemporaryDirectory() as folder:
        study = it.flow_sequence(sweeps, folder, window=WINDOW, latency=latency, progress=False)
        stream, equal, compared = it.FlowStream(window=WINDOW, latency=latency), 0, 0
        for k in range(len(sweeps)):
            found = stream.push(sweeps[k])
            if found is None or found.index >= len(study):
                continue
            file, compared = study[found.index], compared + 1
            equal += (
                torch.equal(found.flow.nan_to_num(7e9), file.flow.nan_to_num(7e9))
                and torch.equal(found.dynamic, file.dynamic)
                and torch.equal(found.instance >= 0, file.instance >= 0)
            )
    return compared, equal


def main(
    seeds: Annotated[list[int], numbers] = numbers("900-909"),
    latencies: Annotated[list[int], numbers] = numbers("0,1,2"),
    sources: Annotated[list[int], numbers] = numbers("8,20"),
    points: Annotated[list[int], numbers] = numbers("60000,106000"),
    timed: int = 5,
    pushes: int = 500,
    small: int = 8000,
    errors: bool = True,
    cache: Path | None = None,
) -> None:
    """Run the benchmark.

    Args:
        timed: number of pushes whose seconds are measured per size and latency
        pushes: number of pushes of the stream whose memory is measured; 0 to leave it out
        errors: whether errors are measured
        small: number of points of the sweeps of that stream, and of those compared with the batch
        cache: folder that keeps simulated sweeps
    """
    torch.set_num_threads(1)
    print(machine())
    for latency in latencies if errors else ():
        total = accuracy(seeds, sources, points[0], latency, cache)
        classes = ", ".join(f"{name} {value:.3f}" for name, value in total.dynamic().items())
        sweeps = len(total.seconds)
        print(
            f"latency {latency}, {sweeps} sweeps of {points[0]:,} points, seeds {seeds[0]} to "
            f"{seeds[-1]}: {classes}; mean {total.mean():.3f}; static "
            f"{total.static / max(total.static_points, 1):.4f} m; "
            f"{total.false_movers / sweeps:.2f} false movers and {total.bodies / sweeps:.1f} bodies a "
            f"sweep\n  " + verdict(total.mean() <= 0.22, "mean 0.22"),
            flush=True,
        )
    for count, bar in zip(points, (1.0, 1.8)):
        for latency in latencies:
            seconds = seconds_per_sweep(3, count, latency, timed, cache)
            middle = statistics.median(seconds)
            print(
                f"latency {latency}, {count:,} points: median {middle:.2f} s, longest "
                f"{max(seconds):.2f} s of processor time a sweep (one thread, seed 3)\n  "
                + verdict(middle <= bar, f"{bar} s"),
                flush=True,
            )
    if pushes:
        early, late = growth(3, small, pushes, cache)
        print(
            f"memory: {early:.0f} MB at sweep 50, {late:.0f} MB at sweep {pushes} of {small:,} points\n"
            "  " + verdict(late - early <= 64, "64 MB of growth"),
            flush=True,
        )
    for latency in latencies:
        compared, equal = equal_to_batch(4, small, latency, cache)
        print(
            f"latency {latency}: {equal} of {compared} flows of the stream are those of the batch, bit "
            "for bit\n  " + verdict(equal == compared > 0, "all"),
            flush=True,
        )


if __name__ == "__main__":
    run_script(main)
