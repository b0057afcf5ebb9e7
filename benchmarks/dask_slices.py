"""Slices of a volume over Dask workers: identical files, speed-up, and five kills without a loss.

    python benchmarks/dask_slices.py [--slices 64] [--size 128] [--workers 2] [--kills 5]

Each slice is a parallel-beam CT problem (180 views) with total variation, 60 iterations of PDHG,
one thread per worker. Workers take seconds to start (they import torch), so the speed-up is printed
with and without the start. A killed run is a whole process group that gets SIGKILL; the log of the
workers shows that no work is lost or repeated.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, run_script, verdict

import invtoolbox as it

ITERATIONS = 60


def problem(size: int) -> it.operators.ParallelBeam:
    return it.operators.ParallelBeam(
        (size, size), torch.arange(180) * torch.pi / 180, size * 3 // 2
    )


def write_volume(path: Path, slices: int, size: int) -> None:
    """Write sinograms of ellipses that change from slice to slice, with 1 % noise."""
    A, generator = problem(size), np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    centres, radii = generator.uniform(-0.5, 0.5, (8, 2)), generator.uniform(0.05, 0.3, (8, 2))
    images = []
    for k in range(slices):
        image = 0.02 * ((x / 0.8) ** 2 + (y / 0.9) ** 2 < 1)
        for (cx, cy), (a, b) in zip(centres + 0.002 * k, radii):
            image = image + 0.01 * (((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1)
        images.append(image)
    truth = torch.as_tensor(np.stack(images), dtype=torch.float32)[:, None]
    np.save(
        path,
        torch.cat([A.simulate(t[None], noise=0.01, seed=k) for k, t in enumerate(truth)])[
            :, 0
        ].numpy(),
    )


def reconstruct(item: it.datasets.Measurement) -> it.Solution:
    return it.reconstruct(
        item.y,
        problem(item.y.shape[-1] * 2 // 3),
        "tv",
        regularization=0.05,
        solver="pdhg",
        max_iterations=ITERATIONS,
        noise_std=0.02,
        progress=False,
    )


def events(folder: Path) -> list[dict[str, object]]:
    path = folder / "study.log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def timed(volume: Path, folder: Path, workers: int) -> tuple[Any, float, float]:
    """Run the study; return it, its seconds, and the seconds from first to last item."""
    began = time.perf_counter()
    study = it.map_slices(volume, reconstruct, folder, workers=workers, progress=False)
    seconds = time.perf_counter() - began
    times = [float(str(e["time"])) for e in events(folder)]
    return study, seconds, max(times) - min(times)


def kill_and_resume(volume: Path, folder: Path, workers: int, kills: int, slices: int) -> None:
    command = [
        sys.executable,
        __file__,
        "--resume-in",
        str(folder),
        "--volume",
        str(volume),
        "--workers",
        str(workers),
    ]
    for number in range(kills):
        wanted = (number + 1) * slices // (kills + 1)
        process = subprocess.Popen(command, start_new_session=True)
        while process.poll() is None and sum(e["event"] == "done" for e in events(folder)) < wanted:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print(
            f"  killed after {sum(e['event'] == 'done' for e in events(folder))} of {slices} were "
            "done",
            flush=True,
        )
    subprocess.run(command, check=True)


def main(
    slices: int = 64,
    size: int = 128,
    workers: int = 2,
    kills: int = 5,
    resume_in: Path | None = None,
    volume: Path | None = None,
) -> None:
    if resume_in:
        it.map_slices(
            volume,
            reconstruct,
            resume_in,
            workers=workers,
            resume=True,
            progress=False,
        )
        return
    torch.set_num_threads(1)
    print(machine())
    place = Path(tempfile.mkdtemp(prefix="dask_slices_"))
    volume = place / "volume.npy"
    write_volume(volume, slices, size)
    reconstruct(it.datasets.open(volume)[0])  # warm up the kernels
    one, seconds_one, work_one = timed(volume, place / "one", 1)
    _, seconds_two, work_two = timed(volume, place / "two", workers)
    names = [one.file(k).name for k in range(len(one))]
    same = [
        n for n in names if (place / "one" / n).read_bytes() == (place / "two" / n).read_bytes()
    ]
    print(
        f"{len(names)} slices of {size}x{size}, {ITERATIONS} iterations; "
        f"status {dict(Counter(str(r.facts['status'][0]) for r in one.reports))}"
    )
    print(
        f"1 worker: {seconds_one:.1f} s; {workers} workers: {seconds_two:.1f} s with "
        f"their start, {work_two:.1f} s of work; speed-up {seconds_one / seconds_two:.2f} with the "
        f"start, {work_one / work_two:.2f} without"
    )
    print(f"identical files: {len(same)} of {len(names)} {verdict(len(same) == len(names), 'all')}")
    folder = place / "killed"
    kill_and_resume(volume, folder, workers, kills, slices)
    log = events(folder)
    done = Counter(str(e["item"]) for e in log if e["event"] == "done")
    begun = Counter(str(e["item"]) for e in log if e["event"] == "begun")
    lost = [
        n
        for n in names
        if not (folder / n).exists()
        or (folder / n).read_bytes() != (place / "one" / n).read_bytes()
    ]
    finished: set[str] = set()
    again = []
    for e in log:
        if str(e["item"]) in finished:
            again.append(e)
        if e["event"] == "done":
            finished.add(str(e["item"]))
    cut = sum(begun.values()) - sum(done.values())
    print(
        f"killed {kills} times and resumed: {len(lost)} lost or different, {len(again)} "
        f"begun after they were done, {sum(n > 1 for n in done.values())} done twice; {cut} cut "
        "short by the kills and begun anew "
        f"{verdict(not lost and not again and max(done.values()) == 1, 'nothing lost, nothing done twice')}"
    )
    shutil.rmtree(place)


if __name__ == "__main__":
    run_script(main)
