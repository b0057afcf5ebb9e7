"""The standard tables: a part of each, an own prior and function, and resumption after a kill.

    python benchmarks/standard_tables.py [--folder FOLDER] [--only normals,resume]

Runs `it.benchmark` on the rows and the first items below, one call per table, with an own prior and an
own function joined to the denoising table. The figures are those of the tables' pages; seconds are of
the methods on this machine. The last section kills a table by SIGKILL in the middle, resumes it, and
compares its result files with those of one whole run and of two workers, byte by byte.

With ``--folder``, the results are kept, and a later call continues from them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import machine, run_script, verdict

import invtoolbox as it

#: Rows and number of items of each table.
PARTS = {
    "normals": (None, 6),
    "registration": (None, 5),
    "flow": (None, 5),
    "denoising": (["set12 at 25"], 5),
    "deblurring": (["set12 at 7.65"], 5),
    "chest-ct": (["128"], 5),
    "mri": (["4x"], 5),
    "limited-angle": (["90 degrees"], 1),
}
TABLE, ROWS, METHODS, LIMIT = "registration", "heart", "diffusion,bending", 4
OWN = """
import torch

import invtoolbox as it

prior = it.priors.HuberTV(0.02)


def mean_filter(y, physics):
    A = it.operators.Blur(torch.ones(3, 3) / 9, tuple(y.shape[-2:]))
    return A(y)
"""


def main(folder: str = "", only: str = "", threads: int = 1) -> None:
    """Run the parts of the tables, and print them.

    Args:
        folder: folder that keeps the results
        only: names of tables, and "resume", separated by commas; all by default
        threads: number of torch's threads
    """
    torch.set_num_threads(threads)
    print(f"{machine()}; load average {os.getloadavg()[0]:.1f}")
    chosen = only.split(",") if only else [*PARTS, "resume"]
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(folder or temporary).absolute()
        place.mkdir(parents=True, exist_ok=True)
        (place / "own_methods.py").write_text(OWN)
        for name in chosen:
            if name != "resume":
                show(name, place, threads)
        if "resume" in chosen:
            resume(place / "resume")


def show(name: str, place: Path, threads: int) -> None:
    """Run the part of one table, and print it."""
    rows, limit = PARTS[name]
    own = [f"{place / 'own_methods.py'}:{method}" for method in ("prior", "mean_filter")]
    began = time.perf_counter()
    result = it.benchmark(
        name,
        extra={"huber": own[0], "mean": own[1]} if name == "denoising" else (),
        rows=rows,
        limit=limit,
        output=place / name,
        resume=(place / name).exists(),
        threads=threads,
        progress=False,
    )
    print(f"\n{name}, {time.perf_counter() - began:.0f} s in all\n{result}")
    for row in result.rows:
        simple, *methods = row.methods
        metric, system = result.table.system.metric, result.table.system
        for method in methods:
            if not system.is_better(method.mean(metric), simple.mean(metric)):
                print(f"  {row.row.name}: {method.name} is not better than {simple.name}")


def resume(place: Path) -> None:
    """Kill a table, resume it, and compare its files with those of whole runs."""
    words = [TABLE, "--rows", ROWS, "--methods", METHODS, "--limit", str(LIMIT), "--quiet"]
    command = [sys.executable, "-m", "invtoolbox", "benchmark", *words]
    total = LIMIT * (1 + len(METHODS.split(",")))
    cut = subprocess.Popen([*command, "--output", str(place / "cut")])
    while cut.poll() is None and len(files(place / "cut")) < total // 2:
        time.sleep(0.05)
    cut.send_signal(signal.SIGKILL)
    cut.wait()
    at_kill = len(files(place / "cut"))
    subprocess.run([*command, "--output", str(place / "cut"), "--resume"], check=True)
    subprocess.run([*command, "--output", str(place / "whole")], check=True)
    subprocess.run([*command, "--output", str(place / "two"), "--workers", "2"], check=True)
    whole = files(place / "whole")
    print(f"\nresumption: {TABLE}, {total} result files, killed with {at_kill} of them")
    resumed, spread = (files(place / name) == whole for name in ("cut", "two"))
    print(f"  after the kill {verdict(resumed and at_kill < total, 'equal bytes')}")
    print(f"  two workers {verdict(spread, 'equal bytes')}")


def files(folder: Path) -> dict[str, bytes]:
    """Return the result files of a folder by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.h5"))}


if __name__ == "__main__":
    run_script(main)
