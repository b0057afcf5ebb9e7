"""Change one input of 500 random runs and resume: refused every time; unchanged: bitwise the same.

    python benchmarks/resume.py [--count 500]

Every run draws an operator, a data term, a prior, a solver and their settings (tests/random_runs.py),
is stopped after 3 of 5 steps, and is resumed from its checkpoint: once with one changed input,
drawn among all of them, and once unchanged, which is compared with an uninterrupted run. At the
end: the time of the digest of 100 MB.
"""

from __future__ import annotations

import argparse
import collections
import random
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import machine, verdict

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    from invtoolbox.core.content import digest
    from tests.random_runs import inputs_of, random_run, try_resumption

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    count = parser.parse_args().count
    torch.set_num_threads(1)
    print(machine())
    inputs: collections.Counter[str] = collections.Counter()
    kinds: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            run = random_run(number)
            name = random.Random(number).choice(inputs_of(run))
            inputs[name] += 1
            kinds.update((run["operator"], f"prior {run['prior']}", run["solver"]))
            found = try_resumption(run, name, number, Path(folder) / "run.ckpt")
            if found:
                wrong.append(f"run {number} ({run['operator']}, {run['prior']}): {found}")
    for title, counter in (("changed inputs", inputs), ("kinds", kinds)):
        print(f"{title}: {', '.join(f'{name} {n}' for name, n in sorted(counter.items()))}")
    print("\n".join(wrong) if wrong else "nothing went wrong")
    print(
        f"{count - len(wrong)} of {count} runs: refused with a changed input, accepted unchanged and "
        f"bit-identical to the uninterrupted run {verdict(not wrong, 'all')}, "
        f"{time.monotonic() - began:.0f} s"
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
    main()
