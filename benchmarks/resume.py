"""Change one input of 1,000 random jobs and resume: refused every time; unchanged: bitwise the same.

    python benchmarks/resume.py [--count 1000] [--first 0]

Every job is one of the kinds of tests/random_jobs.py: solves with any operator, data term, prior, solver
and rule, trainings, schedules of photographs, studies, sequences and scene files. It is stopped in its
middle and resumed: once with one changed input, drawn among all of them, and once unchanged, which is
compared with an undisturbed job. A sequence does anew the pairs whose sweeps have changed, and its
files are compared with those of a new sequence. At the end: the time of the digest of 100 MB.
"""

from __future__ import annotations

import collections
import random
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import torch
from common import machine, run_script, verdict

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

#: Shares of the kinds among the jobs; solves are the cheapest, and have the most inputs.
SHARES = {"solve": 30, "any parts": 40, "training": 6, "photographs": 5}


def main(count: int = 1000, first: int = 0) -> None:
    """Run the benchmark.

    Args:
        first: number of the first job
    """
    from invtoolbox.core.content import digest
    from tests.random_jobs import KINDS, attempt

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(machine())
    inputs: collections.Counter[str] = collections.Counter()
    kinds: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    began = time.process_time()
    weights = [SHARES.get(kind, 2) for kind in KINDS]
    for number in range(first, first + count):
        kind = random.Random(number).choices(list(KINDS), weights)[0]
        with tempfile.TemporaryDirectory() as folder:
            try:
                name, fault = attempt(kind, number, Path(folder))
            except Exception:
                name, fault = "?", traceback.format_exc(limit=-3)
        inputs[name if kind == "solve" else f"{kind}: {name}"] += 1
        kinds[kind] += 1
        if fault:
            wrong.append(f"{number} ({kind}, {name}): {fault}")
            print(wrong[-1], flush=True)
    print(f"kinds: {', '.join(f'{name} {n}' for name, n in sorted(kinds.items()))}")
    print(f"{len(inputs)} different inputs were changed, the most frequent of them: ", end="")
    print(", ".join(f"{name} {n}" for name, n in inputs.most_common(20)))
    print("\n".join(wrong) if wrong else "nothing went wrong")
    print(
        f"{count - len(wrong)} of {count} jobs: refused with a changed input, "
        "accepted unchanged and bit-identical to the undisturbed job "
        f"{verdict(not wrong, 'all')}, {time.process_time() - began:.0f} s of processor time"
    )
    values = torch.rand(25_000_000)
    for title, tensor in (
        ("contiguous", values),
        ("transposed", values.view(5000, 5000).T),
    ):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            digest(tensor)
            times.append(time.perf_counter() - start)
        seconds = sorted(times)[2]
        print(f"digest of 100 MB, {title}: {seconds:.2f} s {verdict(seconds < 0.5, '0.5 s')}")


if __name__ == "__main__":
    run_script(main)
