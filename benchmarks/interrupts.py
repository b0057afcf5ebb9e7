"""Stop long commands with SIGTERM or Ctrl-C at random moments: seconds until they end, and their bits after --resume.

    python benchmarks/interrupts.py [--stops 3] [--only scan sampler ...] [--seed 0]

A job is a command of ``invtoolbox`` in a process of its own. A signal arrives at a moment between the
end of the first imports and the usual end of the command. The seconds until the process has ended are measured, and of
these the seconds of processor time that it used. At the end the command runs once more with
``--resume``, and its numbers are compared, bit by bit, with those of an undisturbed run. A job that
keeps nothing on the way starts anew.

``--limit SECONDS`` measures ``--time-limit`` instead, for jobs that have one.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from common import machine, run_script, verdict
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[1]

#: Words after ``invtoolbox``. They write everything to the folder ``out``.
JOBS = {
    "scan": "run ct-small --set regularization.rule=validation",
    "sampler": "run deblur-diffusion --set solver.steps=3 --set measurements.simulate.crop.rows=96 "
    "--set measurements.simulate.crop.columns=96",
    "posterior": "run ct-vble --set solver.max_iterations=20",
    "weight": "deblur large.npy --kernel gaussian:2 --tile 0 --regularization sure",
    "flow": "flow street --option sweeps=3 --option points=4000",
    "views": "run lego-gaussians --set preset=short",
    "registration": "run registration-simulated",
    "normals": "run normals-simulated",
    "events": "run events-simulated",
    "waves": "run marmousi --set preset=short",
    "deform": "run bending-bar --set motion.simulate.times=2",
    "depths": "run depths-livingroom",
    "study": "run ct-small deblur-camera --workers 2",
}
#: Jobs whose whole run has a limit in seconds, and the words that set it.
LIMITS = {
    "scan": "--set solver.time_limit={}",
    "sampler": "--set solver.time_limit={}",
    "posterior": "--set solver.time_limit={}",
    "weight": "--time-limit {}",
    "deform": "--set solver.time_limit={}",
}
#: The longest time between signal and end.
BAR = 2.0


def prepare(place: Path) -> None:
    """Make the folder of a job, with the large picture."""
    place.mkdir(parents=True)
    rows, columns = np.mgrid[0:600, 0:600] / 600
    picture = 0.5 + 0.4 * np.sin(40 * rows * columns) * (columns > rows)
    noise = np.random.default_rng(0).normal(0, 0.02, picture.shape)
    np.save(place / "large.npy", (picture + noise).astype(np.float32))


def start(job: str, place: Path, *more: str) -> subprocess.Popen:
    words = [*JOBS[job].split(), *more, "--output", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (place / "log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "invtoolbox", *words],
            cwd=place,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
            # A shell lets the commands that it starts in the background ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )


def processor_seconds(process: int) -> float:
    """Return the processor time of a process so far; 0 after its end."""
    try:
        words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def wait_for_imports(process: subprocess.Popen) -> None:
    """Wait until the command catches SIGTERM: torch is imported, and the command begins."""
    bit = 1 << (signal.SIGTERM - 1)
    while process.poll() is None:
        lines = dict(
            line.split(":", 1)
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
        )
        if int(lines.get("SigCgt", "0"), 16) & bit:
            return
        time.sleep(0.01)


def run(job: str, place: Path, *more: str) -> float:
    """Run a job to its end, and return its seconds after the first imports."""
    process = start(job, place, *more)
    wait_for_imports(process)
    began = time.monotonic()
    code = process.wait()
    assert code == 0, (job, code, (place / "log").read_text()[-2000:])
    return time.monotonic() - began


def stop(job: str, place: Path, number: signal.Signals, after: float) -> tuple[float, float] | None:
    """Start or resume a job and send a signal; return the seconds until its end, and of processor time."""
    process = start(job, place, "--resume")
    wait_for_imports(process)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        pass
    else:
        return None
    used, sent = processor_seconds(process.pid), time.monotonic()
    os.kill(process.pid, number)
    last = used
    while process.poll() is None:
        last = max(last, processor_seconds(process.pid))
        time.sleep(0.005)
    if process.returncode in (0, -number):  # the results were written, and Python was ending
        return None
    assert process.returncode == 130, (job, process.returncode)
    return time.monotonic() - sent, last - used


def numbers(place: Path) -> dict[str, bytes]:
    """Return the arrays in the files of a job, by file and name; times and dates are left out."""
    arrays: dict[str, bytes] = {}
    for path in sorted((place / "out").rglob("*")):
        name = str(path.relative_to(place))
        if path.suffix == ".h5":
            with h5py.File(path) as file:
                keys: list[str] = []
                file.visit(keys.append)
                entries = {f"{name}/{key}": file[key] for key in keys}
                arrays |= {
                    key: entry[()].tobytes()
                    for key, entry in entries.items()
                    if isinstance(entry, h5py.Dataset) and entry.dtype.kind in "fiuc"
                }
        elif path.suffix in (".npz", ".npy"):
            content = np.load(path)
            named = content.items() if path.suffix == ".npz" else [("", content)]
            arrays |= {f"{name}/{key}": array.tobytes() for key, array in named}
        elif path.suffix == ".safetensors":  # the order of its words is random
            arrays |= {f"{name}/{k}": array.tobytes() for k, array in load_file(path).items()}
        elif path.suffix in (".ply", ".obj", ".nii", ".gz", ".tif"):
            arrays[name] = path.read_bytes()
    return {name: content for name, content in arrays.items() if "seconds" not in name}


def stop_often(job: str, stops: int, place: Path, draw: random.Random) -> bool:
    """Print what a job does after its signals; return whether it holds."""
    prepare(place / "whole")
    length = run(job, place / "whole")
    whole = numbers(place / "whole")
    assert whole, job
    prepare(place / "stopped")
    waits = []
    while len(waits) < stops:
        kind = draw.choice([signal.SIGTERM, signal.SIGINT])
        seconds = stop(job, place / "stopped", kind, draw.uniform(0.0, 0.7) * length)
        if seconds is None:  # it ended before the signal, from what it kept
            shutil.rmtree(place / "stopped" / "out")
            continue
        waits.append((kind.name, *seconds))
    run(job, place / "stopped", "--resume")
    same = numbers(place / "stopped") == whole
    each = ", ".join(f"{name} {wall:.2f} s ({used:.2f} s)" for name, wall, used in waits)
    holds = same and max(wall for _, wall, _ in waits) <= BAR
    print(
        f"{job}: {length:.0f} s; {each}; {'the same bits' if same else 'OTHER BITS'} after --resume "
        f"{verdict(holds, f'{BAR:g} s, same bits')}",
        flush=True,
    )
    return holds


def stop_once(job: str, place: Path, after: float) -> None:
    """Print how long a job takes to end after one SIGTERM; nothing is compared."""
    prepare(place)
    ended = stop(job, place, signal.SIGTERM, after)
    if ended is None:
        print(f"{job}: ended within {after:.0f} s by itself", flush=True)
        return
    print(
        f"{job}: SIGTERM after {after:.0f} s, {ended[0]:.2f} s ({ended[1]:.2f} s) "
        f"{verdict(ended[0] <= BAR, f'{BAR:g} s')}",
        flush=True,
    )


def main(
    stops: int = 3,
    only: Sequence[str] = tuple(JOBS),
    seed: int = 0,
    limit: float = 0.0,
    once: float = 0.0,
) -> None:
    """Stop or limit the jobs.

    Args:
        stops: number of signals per job.
        only: names of jobs.
        seed: seed of the moments.
        limit: measure this time limit in seconds instead of signals.
        once: send one SIGTERM after so many seconds instead, and compare no bits.
    """
    print(machine())
    print(f"seed {seed}; seconds from the signal to the end of the process (of processor time)")
    draw = random.Random(seed)
    for job in only:
        with tempfile.TemporaryDirectory() as folder:
            if once:
                stop_once(job, Path(folder) / "once", once)
            elif not limit:
                stop_often(job, stops, Path(folder), draw)
            elif job in LIMITS:
                prepare(Path(folder) / "limited")
                words = LIMITS[job].format(limit).split()
                seconds = run(job, Path(folder) / "limited", *words)
                text = (Path(folder) / "limited" / "log").read_text()
                status = "stopped" if "stopped" in text else "converged"
                print(f"{job}: time limit {limit:g} s, ended after {seconds:.1f} s, {status}")


if __name__ == "__main__":
    run_script(main)
