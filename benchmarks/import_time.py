"""Seconds of `import invtoolbox` beyond `import torch`: fresh processes, alternated.

    python benchmarks/import_time.py

Aim: at most 0.3 s. The first round, which fills the page cache, is not counted.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

from common import machine

ROUNDS = 7


def seconds(module: str) -> float:
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    return float(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
    )


def main() -> None:
    taken: dict[str, list[float]] = {"torch": [], "invtoolbox": []}
    for _ in range(ROUNDS + 1):
        for module, times in taken.items():
            times.append(seconds(module))
    torch, own = (statistics.median(times[1:]) for times in taken.values())
    print(machine())
    print(f"import torch       {torch:.3f} s   (first {taken['torch'][0]:.3f})")
    print(f"import invtoolbox  {own:.3f} s   (first {taken['invtoolbox'][0]:.3f})")
    print(f"difference         {own - torch:.3f} s   (aim: at most 0.3)")


if __name__ == "__main__":
    main()
