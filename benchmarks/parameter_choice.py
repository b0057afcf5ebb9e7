"""The rules for the weight on 20 problems: their loss in dB compared with the best weight.

    python benchmarks/parameter_choice.py [--threads 2] [--jobs 2] [--rules "sure;gcv"]
                                          [--problems 1,2,13] [--noise]

Problems 1 to 12 are deblurring, 128x128 parts of scikit-image's pictures and of Set12, with Levin's
kernels or a Gaussian; 13 to 20 are CT of COULE images, 128x128 (means of 2x2 pixels), 60 angles
over half a turn. The prior is total variation, or squared differences (Tikhonov). The truth
determines the best weight, on a grid of tenths of a decade. Rules that need the noise level
(discrepancy, compensated, sure) receive it; rules such as "discrepancy, estimated" do not.
"compensated" is `CompensatedDiscrepancy`, which subtracts the degrees of freedom of the image; "tau
0.98" is the discrepancy principle with a target slightly below the noise (its default is 1.01),
"curvature" Hansen's corner of the L-curve. ``--jobs`` works on several problems at a time: the
seconds then belong to a busy machine, the decibels do not change. ``--noise`` tests the estimate of
the noise level alone: bias and spread over draws, on pictures and on sinograms.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import torch
from common import data_folder, kernels, machine, verdict
from scipy.io import loadmat
from torch import Tensor

import invtoolbox as it

SIZE, ANGLES = 128, 60
RULES = (
    "discrepancy",
    "compensated",
    "two rounds",
    "sure",
    "gcv",
    "l-curve",
    "quasi-optimality",
    "tau 0.98",
    "curvature",
    "discrepancy, estimated",
    "compensated, estimated",
    "sure, estimated",
)
SETTINGS = {
    "tau 0.98": it.parameter_choice.DiscrepancyPrinciple(tau=0.98),
    "curvature": it.parameter_choice.LCurve(corner="curvature"),
    "compensated": it.parameter_choice.CompensatedDiscrepancy(),
    "two rounds": it.parameter_choice.CompensatedDiscrepancy(rounds=2),
}
BLIND = ("gcv", "l-curve", "quasi-optimality", "curvature")
BARS = {"discrepancy": 0.5, "compensated": 0.5, "sure": 0.5, "gcv": 1.0, "l-curve": 1.0}


@dataclass(frozen=True)
class Case:
    """A problem: a picture and its blur, or a COULE image.

    ``noise`` is a standard deviation, or relative for CT.
    """

    picture: str
    blur: str
    noise: float
    prior: str = "tv"

    def __str__(self) -> str:
        return f"{self.picture:14} {self.blur:9} noise {self.noise:<5g} {self.prior:8}"


CASES = (
    Case("camera", "gauss 1.5", 0.01),
    Case("camera", "levin 1", 0.03),
    Case("astronaut", "gauss 2.5", 0.02),
    Case("astronaut", "levin 4", 0.01),
    Case("coins", "levin 1", 0.01),
    Case("coins", "gauss 1.5", 0.05),
    Case("set12 01", "levin 4", 0.03),
    Case("set12 05", "levin 1", 0.05),
    Case("set12 08", "gauss 1.5", 0.003),
    Case("camera", "levin 4", 0.02, "tikhonov"),
    Case("set12 05", "gauss 2.5", 0.01, "tikhonov"),
    Case("coins", "levin 1", 0.05, "tikhonov"),
    Case("coule 0", "CT", 0.01),
    Case("coule 1", "CT", 0.02),
    Case("coule 2", "CT", 0.05),
    Case("coule 3", "CT", 0.02),
    Case("coule 4", "CT", 0.005),
    Case("coule 5", "CT", 0.1),
    Case("coule 0", "CT", 0.02, "tikhonov"),
    Case("coule 1", "CT", 0.05, "tikhonov"),
)


def picture(name: str) -> Tensor:
    """Read 128x128 pixels in [0, 1], ``(1, 1, row, column)``."""
    kind, _, number = name.partition(" ")
    if kind == "coule":
        stored = loadmat(data_folder() / "coule" / "COULE_test" / f"{number}.mat")
        (array,) = (value for key, value in stored.items() if not key.startswith("__"))
        return torch.nn.functional.avg_pool2d(
            torch.from_numpy(array).float()[None, None], array.shape[0] // SIZE
        )
    if kind == "set12":
        from skimage.io import imread

        whole = imread(data_folder() / "set12" / f"{number}.png").astype(np.float32) / 255
    else:
        from skimage import color, data

        whole = getattr(data, kind)()
        whole = (color.rgb2gray(whole) if whole.ndim == 3 else whole / 255).astype(np.float32)
    corner = [(n - SIZE) // 2 for n in whole.shape]
    return torch.from_numpy(
        whole[corner[0] : corner[0] + SIZE, corner[1] : corner[1] + SIZE].copy()
    )[None, None]


def operator(blur: str) -> it.operators.base.LinearOperator:
    kind, _, number = blur.partition(" ")
    if kind == "CT":
        angles = torch.arange(ANGLES) * math.pi / ANGLES
        return it.operators.ParallelBeam((1, SIZE, SIZE), angles, math.floor(math.sqrt(2) * SIZE))
    if kind == "levin":
        return it.operators.Blur(
            kernels(data_folder(), (int(number),))[0], (SIZE, SIZE), boundary="periodic"
        )
    reach = torch.arange(-12.0, 13.0)
    line = torch.exp(-reach.square() / (2 * float(number) ** 2))
    return it.operators.Blur(
        torch.outer(line, line) / line.sum() ** 2, (SIZE, SIZE), boundary="periodic"
    )


def problem(case: Case, seed: int, tell: bool = True) -> tuple[it.Problem, Tensor]:
    """Return the problem and its true image."""
    truth, A = picture(case.picture), operator(case.blur)
    std = case.noise * float(A(truth).square().mean().sqrt()) if case.blur == "CT" else case.noise
    return it.Problem(
        A.simulate(truth, std, seed=seed), A, it.data_terms.LeastSquares(std if tell else None)
    ), truth


def prior(case: Case) -> it.priors.ExplicitPrior:
    periodic = case.blur != "CT"
    if case.prior == "tv":
        return it.priors.TotalVariation(periodic=periodic)
    return it.priors.Tikhonov("gradient")


@dataclass(frozen=True)
class Truth(it.parameter_choice.ScoreSearch):
    """Rule that knows the true image."""

    image: Any = None

    def score(
        self, trials: it.parameter_choice.Trials, log_weight: Tensor, items: Tensor
    ) -> Tensor:
        return trials(
            log_weight,
            lambda _, solution: -it.metrics.psnr(solution.x, self.image.expand_as(solution.x)),
            items,
        )

    def describe(self, objective: Any) -> str:
        return "the true image chooses the weight"


def best(task: it.Problem, truth: Tensor, R: it.priors.ExplicitPrior) -> tuple[float, float]:
    """Return the best weight of a fine grid, and its PSNR."""
    coarse = it.solve(task, R, regularization=Truth(sections=0, image=truth), progress=False)
    grid = float(coarse.regularization) * torch.logspace(-0.6, 0.6, 13)
    many = it.Problem(task.y.expand(13, *task.y.shape[1:]), task.operator, task.data_term)
    psnr = it.metrics.psnr(
        it.solve(many, R, regularization=grid, progress=False).x, truth.expand(13, *truth.shape[1:])
    )
    k = int(psnr.argmax())
    return float(grid[k]), float(psnr[k])


@dataclass(frozen=True)
class Row:
    """Losses and seconds of the rules on one problem."""

    line: str
    losses: tuple[float, ...]
    seconds: tuple[float, ...]


def compare(k: int, rules: tuple[str, ...], seed: int, threads: int) -> Row:
    """Compare the rules on problem ``k``, counted from 1."""
    torch.set_num_threads(threads)
    case = CASES[k - 1]
    informed, truth = problem(case, seed + k)
    uninformed = it.Problem(informed.y, informed.operator)
    R = prior(case)
    weight, top = best(informed, truth, R)
    line, losses, seconds = f"{k:3} {case} {top:19.2f} dB", [], []
    for rule in rules:
        name, _, estimated = rule.partition(", ")
        began = time.perf_counter()
        task = uninformed if estimated or name in BLIND else informed
        solution = it.solve(task, R, regularization=SETTINGS.get(name, name), progress=False)
        seconds.append(time.perf_counter() - began)
        losses.append(top - float(it.metrics.psnr(solution.x, truth)))
        scale = 1.0 if task is informed else float(informed.data_term.noise_std) ** 2
        line += f"{losses[-1]:11.2f} ({float(solution.regularization) / scale / weight:8.3g})"
    return Row(line, tuple(losses), tuple(seconds))


def run(rules: tuple[str, ...], chosen: list[int], seed: int, threads: int, jobs: int) -> None:
    print(
        "\nThe best PSNR, and what each rule loses to it; in brackets its weight over the best one"
    )
    print(
        " " * 46 + "".join(f"{rule.replace('estimated', 'est.'):>22}" for rule in ("best", *rules))
    )
    rows = []
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for row in pool.map(compare, chosen, repeat(rules), repeat(seed), repeat(threads)):
            print(row.line, flush=True)
            rows.append(row)
    losses = {rule: [row.losses[j] for row in rows] for j, rule in enumerate(rules)}
    seconds = {rule: sum(row.seconds[j] for row in rows) for j, rule in enumerate(rules)}
    print()
    for rule, values in losses.items():
        worst = int(np.argmax(values))
        bar = BARS.get(rule)
        print(
            f"{rule:23}: median loss {np.median(values):5.2f} dB, worst {values[worst]:5.2f} dB "
            f"(problem {chosen[worst]}), {seconds[rule] / len(values):.1f} s a problem "
            f"{verdict(float(np.median(values)) <= bar, f'median within {bar:g} dB') if bar else ''}"
        )


def noise_levels() -> None:
    """Measure bias and spread of the estimated noise level over pictures, in per cent.

    Each picture has three draws of the noise.
    """
    photographs = [
        picture(n) for n in ("camera", "astronaut", "coins", "set12 01", "set12 05", "set12 08")
    ]
    blurs = [operator(b) for b in ("levin 1", "levin 4", "gauss 1.5")]
    scan = operator("CT")
    sets: dict[str, tuple[list[Tensor], Any, tuple[float, ...]]] = {
        "sharp pictures": (photographs, None, (0.005, 0.01, 0.02, 0.05, 0.1)),
        "blurred pictures": (
            [A(x) for x in photographs for A in blurs],
            None,
            (0.003, 0.01, 0.02, 0.05, 0.1),
        ),
        "sinograms of COULE, relative noise": (
            [scan(picture(f"coule {k}")) for k in range(6)],
            scan,
            (0.005, 0.01, 0.02, 0.05, 0.1),
        ),
    }
    print("\nEstimated over true noise level: mean error (standard deviation; worst)")
    for name, (clean, A, levels) in sets.items():
        line = f"{name:36}"
        for level in levels:
            errors = []
            for k, signal in enumerate(clean):
                std = level * float(signal.square().mean().sqrt()) if A is not None else level
                for draw in range(3):
                    noise = torch.randn(
                        signal.shape, generator=torch.Generator().manual_seed(100 * k + draw)
                    )
                    errors.append(
                        100
                        * (
                            float(it.parameter_choice.estimate_noise_std(signal + std * noise, A))
                            / std
                            - 1
                        )
                    )
            line += (
                f"  {level:g}: {np.mean(errors):+.1f} % ({np.std(errors):.1f}; "
                f"{max(errors, key=abs):+.1f})"
            )
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--jobs", type=int, default=1, help="number of problems at a time")
    parser.add_argument("--rules", default=";".join(RULES), help="rules, separated by semicolons")
    parser.add_argument("--problems", default=",".join(str(k + 1) for k in range(len(CASES))))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", action="store_true", help="only the estimate of the noise level")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    if options.noise:
        noise_levels()
        return
    began = time.perf_counter()
    run(
        tuple(options.rules.split(";")),
        [int(k) for k in options.problems.split(",")],
        options.seed,
        options.threads,
        options.jobs,
    )
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
