"""The rules for the weight: their loss in dB compared with the best weight, and their work.

    python benchmarks/parameter_choice.py [--threads 2] [--jobs 2] [--rules "sure;gcv"]
                                          [--problems 1,2,13] [--analytic] [--level 1.3]
                                          [--best OUTPUT] [--noise]

Problems 1 to 12 are deblurring, 128x128 parts of scikit-image's pictures and of Set12, with Levin's
kernels or a Gaussian; 13 to 20 are CT of COULE images, 128x128 (means of 2x2 pixels), 60 angles
over half a turn. With ``--analytic`` the data do not come from the operator: problems 1 to 10 are
other pictures, blurred at twice the resolution and averaged over 2x2 pixels, and 11 to 18 are
ellipses, whose line integrals have a closed form; the truth are means over pixels. The prior is
total variation, or squared differences (Tikhonov). The truth determines the best weight, on a grid
of 0.2 decades and its parabola. Rules that need the noise level (discrepancy, compensated, sure) receive it;
``--level`` multiplies it by a factor, and rules such as "discrepancy, estimated" do not receive it.
The work is the number of applications of the operator and its adjoint, one per item of a batch,
over the number of one solve with the chosen weight. The default, ``validation``, was designed on
other problems: 64x64 and 72x72 pixels, pictures of BSD68, COULE 10 to 16 and other ellipses.
"compensated" is `CompensatedDiscrepancy`, which subtracts the degrees of freedom of the image; "tau
0.98" is the discrepancy principle with a target slightly below the noise (its default is 1.01),
"curvature" Hansen's corner of the L-curve. ``--jobs`` works on several problems at a time: the
seconds then belong to a busy machine, the decibels do not change. ``--noise`` tests the estimate of
the noise level alone: bias and spread over draws, on pictures and on sinograms.
"""

from __future__ import annotations

import argparse
import copy
import math
import multiprocessing
import re
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import data_folder, kernels, machine, run_script, verdict
from scipy.io import loadmat
from torch import Tensor

import invtoolbox as it

SIZE, ANGLES = 128, 60
RULES = (
    "validation",
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
BLIND = ("validation", "gcv", "l-curve", "quasi-optimality", "curvature")
BARS = {
    "validation": 0.3,
    "discrepancy": 0.5,
    "compensated": 0.5,
    "sure": 0.5,
    "gcv": 1.0,
    "l-curve": 1.0,
}


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


#: Data that the operator has not made; nothing of this was seen when the default was designed.
ANALYTIC = (
    Case("gb82 baby", "gauss 1.5", 0.01),
    Case("gb82 city", "levin 1", 0.02),
    Case("gb82 flowers", "levin 4", 0.01),
    Case("gb82 guitar", "gauss 2.5", 0.02),
    Case("gb82 house", "levin 2", 0.03),
    Case("gb82 mc1", "gauss 1.5", 0.003),
    Case("gb82 path", "levin 3", 0.05),
    Case("gb82 prudential", "levin 1", 0.005),
    Case("gb82 reflect", "levin 4", 0.02, "tikhonov"),
    Case("gb82 waves", "gauss 2.5", 0.01, "tikhonov"),
    Case("ellipses 0", "CT", 0.005),
    Case("ellipses 1", "CT", 0.01),
    Case("ellipses 2", "CT", 0.02),
    Case("ellipses 3", "CT", 0.05),
    Case("ellipses 4", "CT", 0.1),
    Case("ellipses 5", "CT", 0.02),
    Case("ellipses 6", "CT", 0.01, "tikhonov"),
    Case("ellipses 7", "CT", 0.05, "tikhonov"),
)


def fine_picture(name: str) -> Tensor:
    """Read the middle 256x256 pixels of a picture of about 300 pixels, ``(1, 1, row, column)``."""
    from skimage.color import rgb2gray
    from skimage.io import imread

    whole = torch.from_numpy(
        rgb2gray(imread(data_folder() / "gb82_cc0" / f"{name}-lossless.png")[..., :3])
    ).float()
    small = torch.nn.functional.avg_pool2d(whole[None, None], max(1, min(whole.shape) // 300))
    rows, columns = ((n - 2 * SIZE) // 2 for n in small.shape[2:])
    return small[..., rows : rows + 2 * SIZE, columns : columns + 2 * SIZE].contiguous()


def ellipses(seed: int) -> list[tuple[float, ...]]:
    """Draw a body with 5 to 11 ellipses inside: centre, semi-axes, angle, density."""
    draw, R = np.random.default_rng(seed), SIZE / 2

    def one(
        x: float, y: float, least: float, most: float, low: float, high: float
    ) -> tuple[float, ...]:
        a, b = R * draw.uniform(least, most, 2)
        return x, y, a, b, draw.uniform(0, math.pi), draw.uniform(low, high)

    shapes = [one(0.0, 0.0, 0.6, 0.9, 0.2, 0.5)]
    for _ in range(draw.integers(5, 12)):
        distance, angle = 0.5 * R * draw.uniform() ** 0.5, draw.uniform(0, 2 * math.pi)
        shapes.append(
            one(distance * math.cos(angle), distance * math.sin(angle), 0.04, 0.3, -0.2, 0.5)
        )
    return shapes


def pixel_means(shapes: list[tuple[float, ...]], part: int = 8) -> Tensor:
    """Return the means of ellipses over pixels, by ``part``-fold supersampling."""
    line = (torch.arange(SIZE * part, dtype=torch.float64) + 0.5) / part - SIZE / 2
    x, y, image = line[None], -line[:, None], torch.zeros(SIZE * part, SIZE * part)
    for x0, y0, a, b, angle, density in shapes:
        along = (x - x0) * math.cos(angle) + (y - y0) * math.sin(angle)
        across = (y - y0) * math.cos(angle) - (x - x0) * math.sin(angle)
        image += density * ((along / a) ** 2 + (across / b) ** 2 <= 1)
    return image.reshape(SIZE, part, SIZE, part).mean((1, 3))[None, None]


def line_integrals(shapes: list[tuple[float, ...]], detectors: int) -> Tensor:
    """Return the line integrals of ellipses along the rays of `ParallelBeam`."""
    t = (torch.arange(ANGLES, dtype=torch.float64) * math.pi / ANGLES)[:, None]
    s = (torch.arange(detectors, dtype=torch.float64) - (detectors - 1) / 2)[None]
    y = torch.zeros(ANGLES, detectors, dtype=torch.float64)
    for x0, y0, a, b, angle, density in shapes:
        width = (a * (t - angle).cos()) ** 2 + (b * (t - angle).sin()) ** 2
        distance = s - x0 * t.cos() - y0 * t.sin()
        y += 2 * density * a * b * (width - distance.square()).clamp_min(0).sqrt() / width
    return y.float()[None, None]


def fine_kernel(blur: str) -> Tensor:
    """Return a kernel at twice the resolution, centred on a pixel pair as the averages are."""
    kind, _, number = blur.partition(" ")
    if kind == "levin":
        coarse = kernels(data_folder(), (int(number),))[0]
        fine = torch.nn.functional.interpolate(coarse[None, None], scale_factor=2, mode="bilinear")
        # An even number of pixels has no middle one; a mean over 2x2 pixels makes it odd.
        fine = torch.nn.functional.avg_pool2d(fine, 2, stride=1, padding=1)[0, 0]
    else:
        fine = gaussian(2 * float(number), 25)
    return fine / fine.sum()


def gaussian(std: float, reach: int) -> Tensor:
    line = torch.exp(-torch.arange(-float(reach), reach + 1.0).square() / (2 * std**2))
    return torch.outer(line, line) / line.sum() ** 2


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
    return it.operators.Blur(gaussian(float(number), 12), (SIZE, SIZE), boundary="periodic")


def problem(case: Case, seed: int) -> tuple[it.Problem, Tensor, float]:
    """Return the problem without a noise level, its true image, and the noise level."""
    A, (kind, _, name) = operator(case.blur), case.picture.partition(" ")
    if kind == "ellipses":
        shapes = ellipses(int(name))
        truth, clean = pixel_means(shapes), line_integrals(shapes, A.range_shape[-1])
    elif kind == "gb82":
        fine = fine_picture(name)
        B = it.operators.Blur(fine_kernel(case.blur), (2 * SIZE, 2 * SIZE), boundary="periodic")
        truth, clean = (torch.nn.functional.avg_pool2d(z, 2) for z in (fine, B(fine)))
    else:
        truth = picture(case.picture)
        clean = A(truth)
    std = case.noise * float(clean.square().mean().sqrt()) if case.blur == "CT" else case.noise
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    return it.Problem(clean + std * noise, A), truth, std


def prior(case: Case) -> it.priors.ExplicitPrior:
    periodic = case.blur != "CT"
    if case.prior == "tv":
        return it.priors.TotalVariation(periodic=periodic)
    return it.priors.Tikhonov("gradient")


def counted(A: it.operators.base.LinearOperator) -> Any:
    """Return a copy of an operator that counts its applications, one per item of a batch."""

    class Counted(type(A)):  # type: ignore[misc]
        count = 0

        def __call__(self, x: Tensor) -> Tensor:
            Counted.count += len(x)
            return super().__call__(x)

        def adjoint(self, y: Tensor) -> Tensor:
            Counted.count += len(y)
            return super().adjoint(y)

    other = copy.copy(A)
    other.__class__ = Counted
    return other


def best(
    task: it.Problem, truth: Tensor, R: it.priors.ExplicitPrior, near: float
) -> tuple[float, float]:
    """Return the best weight near a first one, and its PSNR: a grid of 0.2 decades, a parabola."""
    known: dict[int, float] = {}
    new = list(range(-2, 3))
    while new:
        many = it.Problem(task.y.expand(len(new), *task.y.shape[1:]), task.operator)
        weights = near * 10 ** (0.2 * torch.tensor(new, dtype=torch.float64))
        found = it.solve(many, R, regularization=weights.float(), progress=False).x
        known |= dict(zip(new, it.metrics.psnr(found, truth.expand_as(found)).tolist()))
        top = max(known, key=lambda k: known[k])
        low, high = top == min(known), top == max(known)
        new = list(range(top - 3, top) if low else range(top + 1, top + 4) if high else ())
    below, peak, above = (known[top + k] for k in (-1, 0, 1))
    offset = 0.5 * (below - above) / min(below - 2 * peak + above, -1e-6)
    return near * 10 ** (0.2 * (top + offset)), peak - 0.25 * (below - above) * offset


def known_best(path: str) -> dict[int, float]:
    """Read the best PSNR of each problem from an earlier output of this script."""
    lines = re.findall(r"^ *(\d+) .*? (\d+\.\d\d) dB", Path(path).read_text(), re.MULTILINE)
    return {int(number): float(value) for number, value in reversed(lines)}


@dataclass(frozen=True)
class Row:
    """Losses and work of the rules on one problem."""

    line: str
    losses: tuple[float, ...]
    work: tuple[float, ...]
    notes: str


def compare(k: int, rules: tuple[str, ...], options: argparse.Namespace) -> Row:
    """Compare the rules on problem ``k``, counted from 1."""
    torch.set_num_threads(options.threads)
    case = (ANALYTIC if options.analytic else CASES)[k - 1]
    bare, truth, std = problem(case, options.seed + k)
    informed = it.Problem(bare.y, bare.operator, it.data_terms.LeastSquares(options.level * std))
    R, A = prior(case), counted(bare.operator)
    solutions, work = [], []
    for rule in rules:
        name, _, estimated = rule.partition(", ")
        blind = estimated or name in BLIND
        task = it.Problem(bare.y, A, (bare if blind else informed).data_term)
        type(A).count, marks = 0, []
        solutions.append(
            it.solve(
                task,
                R,
                regularization=SETTINGS.get(name, name),
                callbacks=[lambda _, marks=marks: marks.append(type(A).count)],
                progress=False,
            )
        )
        # The callbacks belong to the last solve, which is one solve with the chosen weight.
        one = type(A).count - marks[0] + 2
        scale = 1.0 if blind else (options.level * std) ** 2
        work.append((type(A).count / one, float(solutions[-1].regularization) * scale))
    earlier = known_best(options.best).get(k) if options.best else None
    weight, top = best(bare, truth, R, work[0][1]) if earlier is None else (math.nan, earlier)
    losses = [top - float(it.metrics.psnr(solution.x, truth)) for solution in solutions]
    cells = (
        f"{loss:11.2f} ({chosen / weight:5.3g}, {count:4.1f})"
        for loss, (count, chosen) in zip(losses, work)
    )
    noise = [n for n in solutions[0].notes if "noise does not" in n or "too large" in n]
    return Row(
        f"{k:3} {case} {top:10.2f} dB {one:5}" + "".join(cells),
        tuple(losses),
        tuple(count for count, _ in work),
        "; ".join(noise),
    )


def run(rules: tuple[str, ...], chosen: list[int], options: argparse.Namespace) -> None:
    print(
        "\nThe best PSNR, the operator applications of one solve, and what each rule loses to the "
        "best; in brackets its weight over the best one, and its work over that of one solve"
    )
    print(" " * 47 + f"{'best':>12}" + "".join(f"{rule:>24}" for rule in rules))
    rows = []
    with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for row in pool.map(compare, chosen, repeat(rules), repeat(options)):
            print(row.line, row.notes and f"[{row.notes}]", flush=True)
            rows.append(row)
    print()
    for j, rule in enumerate(rules):
        values, work = ([getattr(row, name)[j] for row in rows] for name in ("losses", "work"))
        worst, bar = int(np.argmax(values)), BARS.get(rule)
        print(
            f"{rule:23}: median loss {np.median(values):5.2f} dB, worst {values[worst]:5.2f} dB "
            f"(problem {chosen[worst]}); work {np.median(work):.1f} solves in the median, "
            f"{max(work):.1f} at most "
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


def main(
    threads: int = torch.get_num_threads(),
    jobs: int = 1,
    rules: str = ";".join(RULES),
    problems: str | None = None,
    analytic: bool = False,
    best: str | None = None,
    level: float = 1.0,
    seed: int = 0,
    noise: bool = False,
) -> None:
    """Run the benchmark.

    Args:
        jobs: number of problems at a time
        rules: rules, separated by semicolons
        problems: numbers, separated by commas; all by default
        analytic: data of closed forms
        best: earlier output with the best PSNR of the same problems
        level: factor of the given noise level
        noise: only the estimate of the noise level
    """
    options = argparse.Namespace(**locals())
    torch.set_num_threads(threads)
    print(machine())
    if noise:
        noise_levels()
        return
    began = time.perf_counter()
    every = range(1, len(ANALYTIC if analytic else CASES) + 1)
    chosen = [int(k) for k in problems.split(",")] if problems else list(every)
    run(tuple(rules.split(";")), chosen, options)
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    run_script(main)
