"""The standard tables: a part of each, an own prior and function, and resumption after a kill.

    python benchmarks/standard_tables.py [--folder FOLDER] [--only normals,resume]

Runs `it.benchmark` on the rows and the first items of `PARTS`, one call per part, with an own prior and
an own function joined to a part of the denoising table. The figures are those of the tables' pages; seconds are of
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
from dataclasses import dataclass
from pathlib import Path

import torch
from common import machine, run_script, verdict

import invtoolbox as it


@dataclass(frozen=True)
class Part:
    """Rows and methods of a table.

    Attributes:
        table: name of the table.
        limit: number of items per row, the first ones; None for all.
        rows: parts of the names of the rows; None for all.
        methods: names of the methods; None for those of the table.
        own: whether the own prior and the own function join.
    """

    table: str
    limit: int | None = None
    rows: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    own: bool = False


#: Whole rows if one core computes them in about ten minutes, and the first items of slower ones.
PARTS = (
    Part("normals"),
    Part("registration", limit=5),
    Part("flow", limit=5),
    Part("chest-ct"),
    Part("mri"),
    Part("denoising", rows=("set12",)),
    Part("denoising", limit=5, rows=("set12 at 25",), methods=("tv",), own=True),
    Part("deblurring", limit=5, rows=("set12 at 7.65",)),
    Part("limited-angle", limit=1, rows=("90 degrees", "60 degrees")),
)
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
    chosen = only.split(",") if only else [*(part.table for part in PARTS), "resume"]
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(folder or temporary).absolute()
        place.mkdir(parents=True, exist_ok=True)
        (place / "own_methods.py").write_text(OWN)
        for part in PARTS:
            if part.table in chosen:
                show(part, place, threads)
        if "resume" in chosen:
            resume(place / "resume")


def show(part: Part, place: Path, threads: int) -> None:
    """Run a part of a table, and print it."""
    own = [f"{place / 'own_methods.py'}:{method}" for method in ("prior", "mean_filter")]
    began = time.perf_counter()
    result = it.benchmark(
        part.table,
        part.methods,
        {"huber": own[0], "mean": own[1]} if part.own else (),
        rows=part.rows,
        limit=part.limit,
        output=place / part.table,
        resume=(place / part.table).exists(),
        threads=threads,
        progress=False,
    )
    print(f"\n{part.table}, {time.perf_counter() - began:.0f} s in all\n{result}")
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
