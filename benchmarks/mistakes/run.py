"""Check the mistakes and their twins, and print a table."""

from __future__ import annotations

import itertools
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from common import data_folder, machine
from zoo.items import tensor

import invtoolbox as it
from invtoolbox.operators import Inpainting, Operator
from mistakes import RECORDS
from mistakes.blurs import Blurred, blurred, dead_line, hot
from mistakes.cases import Case, findings, is_named
from mistakes.kspace import kspace
from mistakes.masks import gap_case
from mistakes.real import real_blurs, real_data, zoo_items


@dataclass
class Score:
    """Counts of a record over its seeds."""

    named: int = 0
    alarms: int = 0
    count: int = 0
    sentences: list[str] = field(default_factory=list)


def cost() -> None:
    """Print the seconds of the checks, and those of the one-liner that runs them, by total variation."""
    blur, gaps, spectrum = (
        blurred(100, "shaking hand", inner=192),
        gap_case(100, "pixels"),
        kspace(100, True, "lines"),
    )
    cases = {
        "blur, 192x192": blur.case(blur.y),
        "gaps, 96x96": Case(gaps[0], Inpainting(gaps[1], (96, 96))),
        "k-space, 96x80, 4 coils": spectrum.case(spectrum.y),
    }
    for name, case in cases.items():
        times = []
        for _ in range(3):
            began = time.perf_counter()
            findings(case)
            times.append(time.perf_counter() - began)
        A = case.A if isinstance(case.A, Operator) else case.A()
        began = time.perf_counter()
        it.reconstruct(case.y, A, prior="tv", progress=False)
        seconds = time.perf_counter() - began
        check = sorted(times)[1]
        print(f"  {name}: {1e3 * check:.0f} ms of {seconds:.1f} s, {check / seconds:.1%}")


def repairs() -> None:
    """Print how much faults of a blurred picture lose against the clean data's answer, and repaired."""

    def gains(b: Blurred) -> Case:
        factors = 1 + 0.05 * np.random.default_rng(0).standard_normal(b.y.shape[-1])
        return b.case(b.y * tensor(factors))

    faults: dict[str, Callable[[Blurred], Case]] = {
        "one dead column": lambda b: dead_line(b, -1),
        "1 % hot pixels": hot,
        "gains of 5 % per column": gains,
    }
    for name, fault in faults.items():
        losses = []
        for seed in (110, 111, 112):
            b = blurred(seed, "drawn", ("natural",))
            margin = max(b.kernel.shape)
            inside = slice(margin, -margin)
            truth = b.entire[..., inside, inside][..., inside, inside]
            cases = (b.case(b.y), False), (fault(b), False), (fault(b), True)
            scores = []
            for case, repair in cases:
                A = case.A if isinstance(case.A, Operator) else case.A()
                x = it.reconstruct(case.y, A, prior="tv", progress=False, repair=repair).x
                scores.append(float(it.metrics.psnr(x[..., inside, inside], truth, data_range=1.0)))
            losses.append((scores[0] - scores[1], scores[0] - scores[2]))
        plain, repaired = ([round(pair[k], 1) for pair in losses] for k in (0, 1))
        print(f"  {name}: loss {plain} dB, {repaired} dB with repair=True", flush=True)


def main(
    names: str = "", /, seeds: str = "100..109", real: bool = False, repair: bool = False
) -> None:
    """Check the records and print a table.

    Args:
        names: pattern of the names of records.
        seeds: first and last seed.
        real: check the real data and the zoo (even items for low seeds, else odd) in place of the records.
        repair: solve some faults of blurred pictures with and without ``repair=True`` instead.
    """
    warnings.simplefilter("ignore")
    print(machine())
    if repair:
        repairs()
        return
    if real:
        cost()
        alarms = count = 0
        half = int(seeds.startswith("1"))
        for name, case in itertools.chain(
            real_data(data_folder()), real_blurs(data_folder()), zoo_items(half)
        ):
            found, sentences = findings(case)
            alarms, count = alarms + bool(found), count + 1
            for text in sentences:
                print(f"  {name}: {text}")
        print(f"real data, and half {half} of the zoo: {alarms} false alarms in {count} cases")
        return
    first, last = map(int, seeds.split(".."))
    began = time.perf_counter()
    scores: dict[str, Score] = {}
    for record in RECORDS:
        if not re.search(names, record.name):
            continue
        score = scores[record.name] = Score()
        for seed in range(first, last + 1):
            wrong, right = record.make(seed)
            (found, texts), (alarm, alarms) = findings(wrong), findings(right)
            named = is_named(found, record.causes)
            score.count += 1
            score.named += named
            score.alarms += bool(alarm)
            score.sentences += [f"seed {seed}, not named: {'; '.join(texts)}"] if not named else []
            score.sentences += [f"seed {seed}, false alarm: {text}" for text in alarms]
        print(
            f"  {record.name:<60} named {score.named:>3} of {score.count}, "
            f"{score.alarms} false alarms"
        )
        for text in score.sentences[:4]:
            print(f"      {text}")
    total = sum(s.count for s in scores.values())
    print(
        f"{len(scores)} mistakes, seeds {seeds}: {sum(s.named for s in scores.values())} of {total} "
        f"named, {sum(s.alarms for s in scores.values())} false alarms on the right twins; "
        f"{sum(s.named > s.count / 2 for s in scores.values())} of {len(scores)} mistakes are named "
        f"in most draws; {time.perf_counter() - began:.0f} s"
    )
