"""Check the mistakes and their twins, and print a table."""

from __future__ import annotations

import itertools
import re
import time
import warnings
from dataclasses import dataclass, field

import numpy as np
import torch
from common import data_folder, machine, verdict
from torch import Tensor
from zoo.items import tensor

import invtoolbox as it
from invtoolbox.operators import Inpainting, Operator
from mistakes import RECORDS
from mistakes.blurs import Blurred, blurred, clipped, dead_line, hot
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


def _faulty_blurs(seed: int) -> tuple[Blurred, dict[str, Case], Tensor, slice]:
    """Return a blurred picture, its faults, the true middle, and the pixels that are compared."""
    b = blurred(seed, ("drawn", "shaking hand")[seed % 2], ("natural",))
    margin = max(b.kernel.shape)
    inside = slice(margin, -margin)
    factors = 1 + 0.05 * np.random.default_rng(0).standard_normal(b.y.shape[-1])
    cases = {
        "clean": b.case(b.y),
        "one dead column": dead_line(b, -1),
        "1 % hot pixels": hot(b),
        "2 % clipped": clipped(b, 0.0, 0.98),
        "gains of 5 % per column": b.case(b.y * tensor(factors)),
    }
    return b, cases, b.entire[..., inside, inside][..., inside, inside], inside


def _faulty_kspace(seed: int) -> dict[str, Tensor]:
    """Return k-space with faults: a line that is 0, spikes, a clipped receiver, gains per line."""
    k = kspace(seed, seed % 2 == 0, "lines")
    draw, y = np.random.default_rng(seed), k.y
    taken = y.abs().sum((0, 1, 3)).nonzero().flatten()
    dead, spikes = y.clone(), (tensor(draw.uniform(size=tuple(y.shape))) < 0.01) & (y != 0)
    dead[..., int(taken[len(taken) // 3]), :] = 0
    modulus = y.abs()
    top = modulus[modulus > 0].quantile(0.98)
    gains = tensor(1 + 0.05 * draw.standard_normal((y.shape[-2], 1)))
    return {
        "clean": y,
        "one dead line": dead,
        "1 % spikes": torch.where(spikes, y + 0.3 * modulus.max(), y),
        "2 % clipped": y * (top / modulus.clamp_min(1e-30)).clamp_max(1.0),
        "gains of 5 % per line": y * gains,
    }


def repairs(seeds: str) -> None:
    """Print how much faults of pictures and k-space lose against the clean data's answer."""
    first, last = map(int, seeds.split(".."))
    losses: dict[str, list[float]] = {}

    def measure(what: str, scores: dict[str, float]) -> None:
        for name, score in scores.items():
            if name != "clean":
                losses.setdefault(f"{what}, {name}", []).append(scores["clean"] - score)

    for seed in range(first, last + 1):
        _, cases, truth, inside = _faulty_blurs(seed)
        for repair in (None, True, False):
            scores = {}
            for name, case in cases.items():
                A = case.A if isinstance(case.A, Operator) else case.A()
                x = it.reconstruct(case.y, A, prior="tv", progress=False, repair=repair).x
                scores[name] = float(it.metrics.psnr(x[..., inside, inside], truth, data_range=1.0))
            by = "nothing chosen" if repair is None else f"repair={repair}"
            measure(f"blur, {by}", scores)
        k = kspace(seed, seed % 2 == 0, "lines")
        A = k.case(k.y).A()
        measure(
            "k-space, nothing chosen",
            {
                name: float(
                    it.metrics.psnr(
                        it.reconstruct(y, A, prior="tv", progress=False).x.abs(),
                        k.x.abs(),
                        data_range=float(k.x.abs().max()),
                    )
                )
                for name, y in _faulty_kspace(seed).items()
            },
        )
        print(
            f"  seed {seed}: { ({name: round(v[-1], 1) for name, v in losses.items()}) }",
            flush=True,
        )
    for name, values in losses.items():
        print(
            f"  {name}: mean loss {np.mean(values):.2f} dB, worst {max(values):.2f} dB "
            f"{verdict(max(values) <= 1.5, 'at most 1.5')}"
        )


def main(
    names: str = "", /, seeds: str = "100..109", real: bool = False, repair: bool = False
) -> None:
    """Check the records and print a table.

    Args:
        names: pattern of the names of records.
        seeds: first and last seed.
        real: check the real data and the zoo (even items for low seeds, else odd) in place of the records.
        repair: solve problems of blurred pictures and k-space with faults instead.
    """
    warnings.simplefilter("ignore")
    print(machine())
    if repair:
        repairs(seeds)
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
