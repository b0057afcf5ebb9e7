"""Intervals of VBLE and VBLE-xz with conformal calibration on the other 58 pictures of BSD68.

For each selected problem of ``vble.py``: coverage of nominal 95 % intervals on the first ten
pictures (centre, 5 pixels along the border left out), of VBLE and of VBLE-xz without calibration,
and after split conformal calibration on the pictures 11 to 68. ``unit="picture"``, the default,
bounds the coverage from below for any number of pictures and takes the quantile at 0.95 times
59/58; ``unit="pixel"`` takes it at 0.95. Means and standard deviations are kept in a folder, so
that the pictures may be computed in pieces.

    python benchmarks/vble_calibration.py [--problems g1-7.65,motion-7.65] [--methods VBLE-xz]
                                          [--crop 256] [--at-once 4] [--cache FOLDER]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from common import data_folder, machine, run_script, verdict
from torch import Tensor
from vble import SETTINGS, case, inner, pictures

import invtoolbox as it
from invtoolbox.posteriors.base import Posterior
from invtoolbox.posteriors.conformal import coverage_curve, residual_scores

TESTED, LEARNED = range(1, 11), range(11, 69)


def fill(problem: str, method: str, chosen: argparse.Namespace, folder: Path) -> None:
    """Solve for the missing pictures."""
    left = [
        n
        for n in (*TESTED, *LEARNED)
        if n <= chosen.pictures and not _file(problem, method, chosen, n).exists()
    ]
    scale, weight = SETTINGS[problem]
    prior = it.priors.load("cae-natural", {"rate_scale": scale})
    for k in range(0, len(left), chosen.at_once):
        part = left[k : k + chosen.at_once]
        this = case(problem, pictures(folder, part, chosen.crop), part, folder)
        solver = it.solvers.VariationalLatent(
            pixels=method == "VBLE-xz", max_iterations=chosen.iterations
        )
        posterior = it.solve(
            this.problem, prior, solver, regularization=weight, progress=False
        ).posterior
        for number, mean, std, truth in zip(part, posterior.mean, posterior.std, this.truth):
            torch.save(
                {"mean": mean, "std": std, "truth": truth}, _file(problem, method, chosen, number)
            )
        print(f"# {problem} {method}: pictures {part} done", flush=True)


def _file(problem: str, method: str, chosen: argparse.Namespace, number: int) -> Path:
    return chosen.cache / f"{problem}-{method}-{chosen.crop}-{chosen.iterations}-{number}.pt"


def kept(
    problem: str, method: str, chosen: argparse.Namespace, numbers: range
) -> Iterator[tuple[Posterior, Tensor]]:
    for number in numbers:
        if number <= chosen.pictures:
            one = torch.load(_file(problem, method, chosen, number), weights_only=True)
            yield (
                it.MeanFieldPosterior(inner(one["mean"])[None], inner(one["std"])[None]),
                inner(one["truth"])[None],
            )


def main(
    problems: str = "g1-7.65,motion-7.65",
    methods: str = "VBLE,VBLE-xz",
    crop: int = 256,
    at_once: int = 4,
    iterations: int = 150,
    pictures: int = 68,
    cache: Path = Path(tempfile.gettempdir()) / "invtoolbox-vble-calibration",
) -> None:
    """Run the benchmark.

    Args:
        pictures: number of pictures
    """
    chosen = argparse.Namespace(**locals())
    cache.mkdir(parents=True, exist_ok=True)
    folder = data_folder()
    print(f"# {machine()}; {crop}x{crop}, {iterations} steps")
    for problem in problems.split(","):
        for method in methods.split(","):
            fill(problem, method, chosen, folder)
            learned, tested = (
                [list(part) for part in zip(*kept(problem, method, chosen, numbers))]
                for numbers in (LEARNED, TESTED)
            )
            before = residual_scores(*tested)
            print(
                f"{problem} {method}: coverage of nominal 95 % on pictures 1 to 10 "
                f"{100 * before.below(1.959964):.1f} %, of 50 % "
                f"{100 * float(coverage_curve(before, torch.tensor([0.5]))[1]):.1f} %"
            )
            for unit in ("picture", "pixel"):
                calibration = it.calibrate_posteriors(*learned, unit=unit)
                each = torch.tensor([float(calibration.coverage(p, x)) for p, x in zip(*tested)])
                middle = float(coverage_curve(before, torch.tensor([0.5]), calibration)[1])
                held = (
                    verdict(0.93 <= float(each.mean()) <= 0.97, "93 to 97 %")
                    if method == "VBLE-xz" and unit == "picture"
                    else ""
                )
                print(
                    f"{problem} {method}: conformal, unit {unit!r}, factor "
                    f"{calibration.factor():.2f}: {100 * float(each.mean()):.1f} % (pictures "
                    f"{100 * float(each.min()):.1f} to {100 * float(each.max()):.1f} %), of 50 % "
                    f"{100 * middle:.1f} % {held}",
                    flush=True,
                )


if __name__ == "__main__":
    run_script(main)
