"""The generated CUDA source of every kernel, run on a CPU with the grid of CUDA.

    python benchmarks/generated_cuda.py [--no-sanitizers] [--only images]

The jobs of benchmarks/device_jobs.py and the calls of tests/kernels/device_calls.py run on an
emulated GPU, once by default and once with torch's deterministic algorithms. The first launch of
each variant of a kernel is run again: as CUDA source in the order of its threads; in a random order
on two threads; as the CPU's source by the same compiler; as Warp compiles it for the CPU; in order
under AddressSanitizer and UndefinedBehaviorSanitizer; in random order on two threads under
ThreadSanitizer. No time is measured, and no card is needed.
"""

from __future__ import annotations

import sys
import warnings
from collections import defaultdict
from pathlib import Path

from common import machine, run_script, verdict

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.kernels.cuda_variants import CPU_ONLY, variants
from tests.kernels.device_launches import NAMES, record
from tests.kernels.generated_cuda import why_not
from tests.kernels.recorded_launches import Comparison, Launch, Variant, compare, same_bits, variant


def main(sanitizers: bool = True, only: str = "") -> None:
    """Print one row per source, and the verdicts.

    Args:
        sanitizers: run the launches without sanitizers only
        only: jobs and calls whose names contain this text; all if empty
    """
    for build in ("plain", *(["addresses", "threads"] if sanitizers else [])):
        if (reason := why_not(build)) is not None:
            raise SystemExit(reason)
    print(machine())
    warnings.simplefilter("ignore")
    rows: dict[str, list[Comparison]] = defaultdict(list)
    reached: set[Variant] = set()
    reports: list[str] = []
    for name in (name for name in NAMES if only in name):
        for ordered in (False, True):
            for launch in record(name, ordered):
                result = compare(launch, double=True)
                rows[launch.kernel.file].append(result)
                if ordered and (result.additions or not result.orders):
                    reports.append(f"{name}: {launch.kernel.file}: depends on an order")
                if sanitizers and result.variant not in reached:
                    reports += check(launch)
                reached.add(result.variant)
        print(f"    {name}: {len(reached)} variants so far", file=sys.stderr, flush=True)
    show(rows)
    conclude(rows, len(reached), reports, complete=not only)


def check(launch: Launch) -> list[str]:
    """Return the reports of the sanitizers about a launch, and differences of its bits."""
    lines, results = [], launch.on_grid()[0]
    for build, seed, threads in (("addresses", 0, 1), ("threads", 1, 2)):
        report, after = launch.alone(build, seed=seed, threads=threads)
        if report:
            lines.append(f"{variant(launch.kernel)}, {build}: {report.splitlines()[0]}")
        elif build == "addresses" and not same_bits(after, results):
            lines.append(f"{variant(launch.kernel)}, {build}: other bits")
    return lines


def show(rows: dict[str, list[Comparison]]) -> None:
    """Print the worst figures of every source; a launch is listed once per job or call."""
    print("\ndifferences: largest difference over largest value, the worst of the launches")
    print("order: random order from order of the threads; sums: from sums in float64;")
    print("float64: from the whole kernel in float64; Warp: from Warp's compiler for the CPU")
    columns = ("variants", "launches", "additions", "order", "sums", "float64", "Warp")
    print(f"{'source':48s}" + "".join(f"{name:>10s}" for name in columns))
    for file, results in sorted(rows.items()):
        figures = [
            max((value for value in values if value is not None), default=None)
            for values in (
                [r.order for r in results],
                [r.sums for r in results],
                [r.double for r in results],
                [r.cpu for r in results],
            )
        ]
        shown = "".join(f"{'' if f is None else f'{f:.1e}' if f else '0':>10s}" for f in figures)
        counts = len({r.variant for r in results}), len(results), sum(r.additions for r in results)
        print(f"{file:48s}" + "".join(f"{n:10d}" for n in counts) + shown)


def conclude(
    rows: dict[str, list[Comparison]], reached: int, reports: list[str], complete: bool
) -> None:
    """Print the number of variants, and whether the rules hold."""
    results = [result for launches in rows.values() for result in launches]
    listed = len(list(variants()))
    sources = {make().file for _, make in variants()}
    print(f"\n{reached} variants reached; tests/kernels/cuda_variants.py lists {listed}")
    enough = reached >= 60 and set(rows) == sources and not sources & CPU_ONLY
    if complete:
        print(verdict(enough, f"at least 60 variants, and all {len(sources)} sources of CUDA"))
    bits = all(r.host and (r.orders or r.additions) for r in results)
    print(verdict(bits, "without atomic additions of floats: the CPU's bits, in any order"))
    sums = max((r.sums for r in results if r.sums is not None), default=0.0)
    print(f"sums by atomics from float64: {sums:.1e} {verdict(sums <= 1e-6, 'at most 1e-6')}")
    equal = sum(r.cpu == 0 for r in results)
    print(f"{equal} of {len(results)} launches have the values of Warp's compiler for the CPU too")
    print(f"{len(reports)} reports {verdict(not reports, 'no report')}")
    print("\n".join(f"    {line}" for line in reports))


if __name__ == "__main__":
    run_script(main)
