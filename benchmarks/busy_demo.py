"""``invtoolbox demo`` on a free machine and next to a busy program: seconds and processor time.

    python benchmarks/busy_demo.py

The demo runs in new processes: one that compiles the kernels, then in turn alone and next to one
``yes`` process that occupies a processor. There, the demo also runs with all threads of torch,
which was the behavior before the number of threads followed the free processors. Needs a machine
that is idle otherwise.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from statistics import median

from common import machine, verdict

REPEATS = 3
LONGEST = 600.0


def demo(**environment: str) -> tuple[float, float]:
    """Return the seconds of one demo and its processor time."""
    inherited = {k: v for k, v in os.environ.items() if not k.endswith("_THREADS")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "invtoolbox", "demo", "--output", folder],
            env=inherited | environment,
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=LONGEST,
        )
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, used


def busy_demo(**environment: str) -> tuple[float, float]:
    """Return the same figures next to one process that never waits."""
    other = subprocess.Popen(["yes"], stdout=subprocess.DEVNULL)
    try:
        time.sleep(1)
        return demo(**environment)
    finally:
        other.kill()
        other.wait()


def main() -> None:
    print(machine())
    demo()
    runs: dict[str, list[tuple[float, float]]] = {"alone": [], "next to one process": []}
    for _ in range(REPEATS):
        runs["alone"].append(demo())
        runs["next to one process"].append(busy_demo())
    for name, found in runs.items():
        print(
            f"demo {name}: {median(s for s, _ in found):.1f} s, "
            f"{median(used for _, used in found):.1f} s of processor time"
        )
    ratio = median(s for s, _ in runs["next to one process"]) / median(s for s, _ in runs["alone"])
    print(f"ratio {ratio:.2f} {verdict(ratio <= 2.5, 'at most 2.5 times the idle time')}")
    one, _ = busy_demo(INVTOOLBOX_THREADS="1")
    print(f"for comparison, next to one process: 1 thread {one:.1f} s", end=", ")
    count = str(os.cpu_count() or 1)
    try:
        every, used = busy_demo(INVTOOLBOX_THREADS=count)
        print(f"{count} threads {every:.1f} s, {used:.1f} s of processor time")
    except subprocess.TimeoutExpired:
        print(f"{count} threads more than {LONGEST:.0f} s")


if __name__ == "__main__":
    main()
