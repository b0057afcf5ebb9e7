"""A thousand damaged files through every reader: an InputError or a valid result, and nothing else.

    python benchmarks/reader_fuzz.py [--count 1000] [--only volume.nii ...] [--seed 0]
    python benchmarks/reader_fuzz.py --count 4 --sparse

Memory and time are bounded: files are opened in child processes with limited memory. A child that
dies, or is silent for a minute, is replaced, and the file is kept under --keep. More than 10 seconds
of processor time for a file, and more than 300 MB for all files of a child, are faults. Printed
for each seed file: the numbers of files that were read and refused; results with another shape than
the whole file, by kind of damage (legitimate only if the damage hit a declared size that still fits
the bytes); the slowest file; the largest memory.

``--sparse``: files of 5 GB without bytes on the disk, which follow a whole file or replace it. Reading one
may take the memory of its bytes.
"""

from __future__ import annotations

import collections
import json
import os
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import run_script

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

#: Bytes of address space beyond a child's imports.
MEMORY = 1_500_000_000
#: Most seconds of processor time for one file; and seconds after which a silent child hangs.
MOST_SECONDS, PATIENCE = 10.0, 60.0
#: Kilobytes that all files of a child, each a few kilobytes long, may need beyond its imports.
MOST_GROWN = 300 * 1024


def child(names: list[str], start: int, stop: int, seed: int, sparse: bool) -> None:
    """Open damaged files and print one line before and one line after each."""
    import logging
    import warnings

    import numpy as np

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    from tests.datasets import fuzzing

    place = Path(tempfile.mkdtemp(prefix="fuzz_"))
    seeds = {name: fuzzing.SEEDS[name][1](place / name) for name in names}
    others = []
    for other, (_, make) in fuzzing.SEEDS.items():
        path = make(place / f"other_{other}")
        files = (
            sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        )
        others.append(files[0].read_bytes())
    # Data sets are opened by their content, other files by their reader.
    own = {
        name: reader if reader in fuzzing.FILE_READERS else None
        for name, (reader, _) in fuzzing.SEEDS.items()
    }
    expected = {name: fuzzing.outcome(whole, own[name]) for name, whole in seeds.items()}
    readers = [*fuzzing.datasets.READERS, *fuzzing.FILE_READERS]
    kinds = fuzzing.SPARSE_KINDS if sparse else fuzzing.KINDS
    _limit_memory(MEMORY + sparse * fuzzing.SPARSE_BYTES)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, number in [(n, k) for n in seeds for k in range(start if n == names[0] else 0, stop)]:
        whole = seeds[name]
        if number == (start if name == names[0] else 0):
            print(json.dumps({"seed": name, "whole": expected[name]}), flush=True)
        generator = np.random.default_rng([seed, number])
        kind = kinds[number % len(kinds)]
        path = fuzzing.damage(whole, place / "damaged", kind, generator, others)
        # Every tenth file goes through a named reader, of any format.
        named = readers[number // 10 % len(readers)] if number % 10 == 9 else None
        print(
            json.dumps({"begin": number, "kind": kind, "reader": named, "path": str(path)}),
            flush=True,
        )
        began = time.process_time()
        try:
            result: Any = fuzzing.outcome(path, named or own[name])
            line: dict[str, Any] = (
                {"refused": result} if isinstance(result, str) else {"shapes": result}
            )
        except BaseException as error:
            line = {
                "raised": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
                "trace": traceback.format_exc().splitlines()[-4:],
            }
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(
            json.dumps(
                {**line, "seconds": round(time.process_time() - began, 3), "grown_kb": grown}
            ),
            flush=True,
        )
    shutil.rmtree(place, ignore_errors=True)


def _limit_memory(memory: int) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class Watched:
    """A child process, its lines, and its time limit between lines."""

    def __init__(self, names: list[str], start: int, stop: int, seed: int, sparse: bool) -> None:
        command = [
            sys.executable,
            __file__,
            "--child",
            str(start),
            str(stop),
            "--seed",
            str(seed),
            *(["--sparse"] if sparse else []),
            "--only",
            *names,
        ]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def lines(self) -> Any:
        """Yield the child's lines; None if it was silent for too long."""
        waiting = b""
        patience = 120.0  # imports
        assert self.process.stdout is not None
        while True:
            ready, _, _ = select.select([self.process.stdout], [], [], patience)
            if not ready:
                yield None
                return
            part = os.read(self.process.stdout.fileno(), 65536)
            if not part:
                return
            patience = PATIENCE
            *whole, waiting = (waiting + part).split(b"\n")
            yield from (json.loads(line) for line in whole)

    def end(self) -> int:
        self.process.kill()
        return self.process.wait()


class Seed:
    """Results for the damaged copies of one file."""

    def __init__(self, name: str, sparse: bool) -> None:
        from tests.datasets.fuzzing import SPARSE_BYTES, UNDECLARED

        self.most_grown = MOST_GROWN + sparse * SPARSE_BYTES // 1024
        self.undeclared = name in UNDECLARED
        self.name, self.read, self.refused, self.slowest, self.most = name, 0, 0, 0.0, 0
        self.other: collections.Counter[str] = collections.Counter()
        self.faults: list[str] = []
        self.expected: Any = None

    def take(self, begun: dict[str, Any], line: dict[str, Any]) -> None:
        self.slowest, self.most = (
            max(self.slowest, line["seconds"]),
            max(self.most, line["grown_kb"]),
        )
        if line["grown_kb"] > self.most_grown or line["seconds"] > MOST_SECONDS:
            self.faults.append(
                f"{begun['begin']} ({begun['kind']}): +{line['grown_kb'] // 1024} MB, "
                f"{line['seconds']:.1f} s"
            )
        if "raised" in line:
            self.faults.append(
                f"{begun['begin']} ({begun['kind']}, reader {begun['reader']}): {line['raised']} "
                f"{line['trace']}"
            )
        elif "refused" in line:
            self.refused += 1
        else:
            self.read += 1
            if line["shapes"] != self.expected and begun["reader"] is None:
                self.other[begun["kind"]] += 1
                if begun["kind"] == "truncate" and not self.undeclared:
                    self.faults.append(
                        f"{begun['begin']}: truncated, and read as {line['shapes']} instead of "
                        f"{self.expected}"
                    )
                elif "-v" in sys.argv:
                    print(f"    {begun['begin']} {begun['kind']}: {line['shapes']}")

    def __str__(self) -> str:
        shapes = ", ".join(f"{kind} {n}" for kind, n in self.other.items()) or "none"
        lines = [
            f"{self.name:<14} {self.read:5d} read, {self.refused:5d} refused, {len(self.faults)} "
            f"faults; other shapes: {shapes}; slowest {self.slowest:.2f} s, memory "
            f"+{self.most / 1024:.0f} MB"
        ]
        return "\n    FAULT ".join([*lines, *self.faults[:20]])


def fuzz(names: list[str], count: int, seed: int, keep: Path, sparse: bool = False) -> int:
    """Read `count` damaged copies of each file by the readers; return the number of faults."""
    faults = 0
    while names:
        start, one = 0, Seed(names[0], sparse)
        while start < count:
            watched, begun = Watched(names, start, count, seed, sparse), None
            hung = False
            for line in watched.lines():
                if line is None:
                    hung = True
                    break
                if "whole" in line:
                    if line["seed"] != one.name:
                        print(one, flush=True)
                        faults += len(one.faults)
                        names, one = names[names.index(line["seed"]) :], Seed(line["seed"], sparse)
                    one.expected = line["whole"]
                elif "begin" in line:
                    begun = line
                else:
                    assert begun is not None
                    start = begun["begin"] + 1
                    one.take(begun, line)
                    begun = None
            code = watched.end()
            if begun is None and (hung or code or start < count):
                one.faults.append(f"{start}: the child ended early (exit code {code})")
                break
            if begun is not None:
                number, start = begun["begin"], begun["begin"] + 1
                one.faults.append(
                    f"{number}: {'HUNG' if hung else f'DIED (exit code {code})'} {begun}"
                )
                keep.mkdir(parents=True, exist_ok=True)
                source = Path(begun["path"])
                (shutil.copytree if source.is_dir() else shutil.copy)(
                    source, keep / f"{one.name}-{number}{source.suffix}"
                )
        print(one, flush=True)
        faults += len(one.faults)
        names = names[1:]
    return faults


def main(
    count: int = 1000,
    seed: int = 0,
    only: Sequence[str] | None = None,
    keep: Path = Path("results/fuzz"),
    v: bool = False,
    sparse: bool = False,
    child_: tuple[int, int] | None = None,
) -> None:
    """Run the benchmark.

    Args:
        v: print every result of another shape
        sparse: sparse files of 5 GB in place of damaged ones
    """
    if child_:
        child(only, *child_, seed, sparse)
        return
    from tests.datasets import fuzzing

    names = only or list(fuzzing.SEEDS)
    total = fuzz(names, count, seed, keep, sparse)
    print(
        f"{len(names)} seeds, {len(names) * count} damaged files, {total} faults; seed "
        f"{seed}, bounds {MOST_SECONDS:.0f} s and {MOST_GROWN // 1024} MB"
    )
    sys.exit(1 if total else 0)


if __name__ == "__main__":
    run_script(main)
