"""Registers, local memory, shared memory and occupancy of every kernel on three cards, without a card.

    python benchmarks/kernel_resources.py [--architectures 80,90,100] [--seconds 1200] [--again]

Every variant of a kernel that may run on CUDA (tests/kernels/cuda_variants.py) is compiled by
NVIDIA's compiler, which Warp contains, for the A100 (80), the H100 (90) and the B200 (100). Read from
the machine code: registers per thread; bytes of the stack per thread; instructions that read or
write local memory, which are spilled registers and arrays with an index known at run time only;
bytes of static shared memory per block. Occupancy: resident threads over the largest number, at 256
threads per block, by NVIDIA's published limits (tests/kernels/kernel_resources.py). A second call
continues. No time is measured.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from dataclasses import astuple
from pathlib import Path

from common import Kept, machine, run_script, verdict

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from invtoolbox.kernels.native import Kernel
from tests.kernels.cuda_variants import variants
from tests.kernels.kernel_resources import (
    EXCEPTIONS,
    MULTIPROCESSORS,
    Resources,
    breaks_rule,
    measure,
    name_of,
    occupancy,
    programs,
)

RESULTS = Path(__file__).parent / "results" / "kernel_resources.json"


def main(
    architectures: str = "80,90,100", seconds: float = float("inf"), again: bool = False
) -> None:
    """Print one row per variant, and the variants that break the rule.

    Args:
        architectures: compute capabilities times ten, separated by commas
        seconds: time after which no further kernel is compiled
        again: measure what an earlier call measured
    """
    if programs() is None:
        raise SystemExit(
            "cuobjdump or nvdisasm is missing; pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"
        )
    listed = {str(number) for number in MULTIPROCESSORS}
    if not set(architectures.split(",")) <= listed:
        raise SystemExit(
            f"--architectures {architectures}: choose from {', '.join(sorted(listed))}"
        )
    began, kept = time.monotonic(), Kept(RESULTS, again)
    kernels = {name_of(kernel): kernel for kernel in (make() for _, make in variants())}
    # Float32 first, which jobs use by default.
    names = sorted(kernels, key=lambda name: ("double" in name, name))
    numbers = [int(architecture) for architecture in architectures.split(",")]
    measured: dict[str, dict[int, Resources]] = defaultdict(dict)
    for name in names:
        for number in numbers:
            key = f"{name}, sm_{number}"
            if key not in kept.known and time.monotonic() - began > seconds:
                continue
            figures = kept.result(key, lambda n=name, a=number: measured_words(kernels[n], a))
            measured[name][number] = Resources(*map(int, figures.split()))
    print(machine())
    show(measured, numbers)
    judge(measured, len(kernels) * len(numbers))


def measured_words(kernel: Kernel, architecture: int) -> str:
    """Return registers, stack, shared memory and local instructions of a kernel as one text."""
    return " ".join(map(str, astuple(measure(kernel, architecture))))


def show(measured: dict[str, dict[int, Resources]], numbers: list[int]) -> None:
    """Print the rows: registers / stack / local instructions / shared memory / occupancy."""
    print("\nper architecture: registers, stack, local instructions, shared memory, occupancy in %")
    print(f"{'variant':100s}" + "".join(f"{f'sm_{number}':>26s}" for number in numbers))
    for name, columns in measured.items():
        row = ""
        for number in numbers:
            r = columns.get(number)
            figures = (
                ""
                if r is None
                else f"{r.registers:5d}{r.stack:6d}{r.local:6d}{r.shared:6d}"
                f"{100 * occupancy(r, number):4.0f}"
            )
            row += f"{figures:>26s}"
        print(f"{name:100s}{row}")


def judge(measured: dict[str, dict[int, Resources]], total: int) -> None:
    """Print the exceptions from the rule, and whether all are listed."""
    pairs = [(name, a, r) for name, columns in measured.items() for a, r in columns.items()]
    broken = [(name, a, r) for name, a, r in pairs if breaks_rule(r)]
    print(f"\n{len(pairs)} of {total} pairs of variant and architecture measured")
    print(f"{len(pairs) - len(broken)} keep the rule: 64 registers, no stack, no local memory")
    print("exceptions, with their largest registers and stack, least occupancy, and reason:")
    for exception in EXCEPTIONS:
        group = [(r, occupancy(r, a)) for name, a, r in broken if exception.covers(name)]
        if group:
            print(
                f"    {exception.pattern}: {len(group)} pairs, "
                f"{max(r.registers for r, _ in group)} registers, {max(r.stack for r, _ in group)} "
                f"bytes, {100 * min(share for _, share in group):.1f} %: {exception.reason}"
            )
    unlisted = [
        f"{name}, sm_{a}: {r}"
        for name, a, r in broken
        if not any(exception.allows(name, r) for exception in EXCEPTIONS)
    ]
    print(f"{len(unlisted)} are not listed {verdict(not unlisted, 'every exception is listed')}")
    print("\n".join(f"    {line}" for line in unlisted))


if __name__ == "__main__":
    run_script(main)
