"""Posteriors from a compressive autoencoder: VBLE and VBLE-xz on the problems of their papers.

    python benchmarks/vble.py [--part table|tune|steps|print] [--pictures 1,2]
                              [--problems g1-7.65,x2] [--methods VBLE,MAP-z] [--crop 256]
                              [--minutes 9]

The first 10 pictures of BSD68, grey, their centre 256x256: Gaussian blur of standard deviation 1
and 3 and a motion blur, noise 2.55 and 7.65 (units of 1/255), mirrored borders; super-resolution by
2 and 4 (bicubic, no noise; the data term receives 0.004); half of the pixels missing, noise 2.55.
PSNR has peak 1 and leaves out 5 pixels along the border, as the papers do. ``priors/cae-natural``
was not trained on any of these pictures.

``tune`` compares weights and rate scales on BSD68's last pictures, which are not part of the table;
the table uses the values in `SETTINGS`. ``steps`` compares the solver's steps with the paper's 300
of one size, whose last iterate is the answer. Every finished cell is kept in ``results/vble.json``, so that the table may be computed in
pieces: a later call skips finished cells. ``print`` writes ``results/vble.txt`` from the finished
cells.

PnP-DnCNN is ADMM with ``priors/dncnn-natural``, which was trained on the same photographs, and the
penalty (noise / level)^2, 24 steps; PnP-KAIR is ADMM with KAIR's network of level 25/255.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from common import data_folder, machine, run_script, verdict
from skimage.io import imread
from torch import Tensor

import invtoolbox as it
from invtoolbox.datasets.output import write_bytes
from invtoolbox.solvers import ADMM, VariationalLatent

RESULTS = Path(__file__).parent / "results"
#: Rate scale and weight of every problem, from ``--part tune`` or between its values. "half" has
#: the weight 2, at which samples spread more; the mean at 1 is better by 0.02 dB.
SETTINGS = {
    "g1-2.55": (0.6, 0.7),
    "g3-2.55": (0.5, 0.7),
    "motion-2.55": (0.3, 0.7),
    "g1-7.65": (0.6, 0.7),
    "g3-7.65": (0.8, 0.7),
    "motion-7.65": (0.3, 0.7),
    "x2": (1.0, 1.0),
    "x4": (1.0, 1.0),
    "half": (0.7, 2.0),
}
#: Number of steps; the papers take 300 steps of constant size, and 400 for missing pixels.
ITERATIONS = 150
METHODS = ("MAP-z", "VBLE", "VBLE-xz", "PnP-DnCNN")
#: Networks of plug-and-play; the second was trained on many more pictures, including BSD's.
NETWORKS = ("PnP-DnCNN", "PnP-KAIR")


@dataclass(frozen=True)
class Case:
    """A problem with its pictures."""

    name: str
    problem: it.Problem
    truth: Tensor
    shown: Tensor  # the measurements as a picture


def case(name: str, truth: Tensor, seeds: list[int], folder: Path) -> Case:
    size = (int(truth.shape[-2]), int(truth.shape[-1]))
    if name == "half":
        mask = torch.from_numpy(
            np.load(folder / "kernels" / "vble_inpainting50.npy")[0, : size[0], : size[1]]
        )
        A = it.operators.Inpainting(mask, size)
        y = A.simulate(truth, 2.55 / 255, seeds) * mask
        return Case(name, it.Problem(y, A, it.data_terms.LeastSquares(2.55 / 255)), truth, y)
    if name.startswith("x"):
        factor = int(name[1:])
        down = it.operators.Downsampling(size, factor)
        y = down(truth)
        shown = torch.nn.functional.interpolate(y, scale_factor=factor, mode="bicubic")
        return Case(name, it.Problem(y, down, it.data_terms.LeastSquares(0.004)), truth, shown)
    blur, noise = name.split("-")
    file = {"g1": "vble_gaussian_std1", "g3": "vble_gaussian_std3", "motion": "vble_levin09_0"}[
        blur
    ]
    kernel = torch.from_numpy(np.load(folder / "kernels" / f"{file}.npy").astype(np.float32))
    blurred = it.operators.Blur(kernel / kernel.sum(), size)
    std = float(noise) / 255
    y = blurred.simulate(truth, std, seeds)
    return Case(name, it.Problem(y, blurred, it.data_terms.LeastSquares(std)), truth, y)


def pictures(folder: Path, numbers: list[int], crop: int) -> Tensor:
    images = []
    for number in numbers:
        image = torch.from_numpy(
            imread(folder / "bsd68_gray" / f"test{number:03d}.png").astype(np.float32) / 255
        )
        top, left = ((n - crop) // 2 for n in image.shape)
        images.append(image[None, top : top + crop, left : left + crop])
    return torch.stack(images)


def inner(x: Tensor) -> Tensor:
    return x[..., 5:-5, 5:-5]


def psnr(x: Tensor, truth: Tensor) -> Tensor:
    return it.metrics.psnr(inner(x), inner(truth))


def cells(
    method: str, this: Case, rate_scale: float, weight: float, folder: Path
) -> list[dict[str, float]]:
    """Solve for the pictures with one method; return one dict per picture."""
    began = time.perf_counter()
    columns = {"measured": psnr(this.shown, this.truth)}
    if method in NETWORKS:
        if method == "PnP-KAIR":
            denoiser = it.priors.Denoiser(
                it.priors.load_dncnn(folder / "weights" / "kair_dncnn" / "dncnn_25.pth"),
                25 / 255,
                level="none",
            )
        else:
            denoiser = it.priors.load("dncnn-natural")
        noise = float(this.problem.data_term.noise_std)  # type: ignore[attr-defined]
        bare = it.Problem(this.problem.y, this.problem.operator)
        # Missing pixels start as smooth as possible: from black pixels a denoiser of one level
        # would need hundreds of steps.
        start = (
            it.solve(
                bare, 1e-4 * it.priors.Tikhonov("gradient"), regularization=1.0, progress=False
            ).x
            if this.name == "half"
            else None
        )
        x = torch.cat(
            [
                it.solve(
                    bare.select(torch.tensor([k])),
                    denoiser,
                    ADMM(rho=(noise / float(denoiser.sigma)) ** 2),
                    initial=None if start is None else start[k : k + 1],
                    max_iterations=24,
                    progress=False,
                ).x
                for k in range(bare.batch)
            ]
        )
        columns["x"] = psnr(x, this.truth)
    else:
        prior = it.priors.load("cae-natural", {"rate_scale": rate_scale})
        solver = VariationalLatent(
            family="dirac" if method == "MAP-z" else "uniform",
            pixels=method == "VBLE-xz",
            max_iterations=ITERATIONS,
        )
        solution = it.solve(this.problem, prior, solver, regularization=weight, progress=False)
        columns["x"] = psnr(solution.x, this.truth)
        columns["optimised"] = torch.full_like(
            columns["x"], (time.perf_counter() - began) / len(this.truth)
        )
        if solution.posterior is not None:
            columns |= uncertainty(solution, this.truth)
    columns["seconds"] = torch.full_like(
        columns["x"], (time.perf_counter() - began) / len(this.truth)
    )
    return [
        {name: round(float(values[k]), 4) for name, values in columns.items()}
        for k in range(len(this.truth))
    ]


def uncertainty(solution: it.Solution, truth: Tensor) -> dict[str, Tensor]:
    """Evaluate the mean over samples, and its standard deviation as an estimate of the error."""
    posterior = solution.posterior
    mean, std = posterior.mean, posterior.std
    error, spread = inner((mean - truth).abs()).flatten(1), inner(std).flatten(1)
    correlation = torch.stack(
        [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(error, spread)]
    )
    cv = spread.std(1) / spread.mean(1)
    return {
        "mean": psnr(mean, truth),
        "sample": psnr(posterior.sample(1, seed=1)[0], truth),
        "correlation": correlation,
        "calibrated": 0.80 / (1 + 0.36 / cv.square()).sqrt(),
        "coverage": posterior.coverage(truth),
        "std": spread.mean(1),
        "error": error.mean(1),
    }


def fill(
    done: dict[str, Any],
    options: argparse.Namespace,
    folder: Path,
    keys: list[tuple[str, str, float, float]],
    numbers: list[int],
) -> None:
    """Compute all problems of some pictures, then of the next, until ``options.minutes``."""
    end = time.monotonic() + 60 * options.minutes
    for k in range(0, len(numbers), options.at_once):
        for problem, method, rate_scale, weight in keys:
            name = f"{problem}/{method}{_setting(method, rate_scale, weight)}"
            part = [
                n
                for n in numbers[k : k + options.at_once]
                if options.again or f"{options.crop}/{n}/{name}" not in done
            ]
            if not part or time.monotonic() > end:
                continue
            this = case(problem, pictures(folder, part, options.crop), part, folder)
            for number, cell in zip(part, cells(method, this, rate_scale, weight, folder)):
                done[f"{options.crop}/{number}/{name}"] = cell
                print(
                    f"{number:3d} {name:28} " + ", ".join(f"{n} {v:.4g}" for n, v in cell.items()),
                    flush=True,
                )
            write_bytes(
                options.results / "vble.json", json.dumps(done, indent=1).encode(), overwrite=True
            )


def _setting(method: str, rate_scale: float, weight: float) -> str:
    return "" if method in NETWORKS else f"/{rate_scale:g}/{weight:g}"


def mean_of(
    done: dict[str, Any], crop: int, problem: str, method: str, field: str, numbers: list[int]
) -> float:
    setting = _setting(method, *SETTINGS[problem])
    values = [
        done[key][field]
        for n in numbers
        if (key := f"{crop}/{n}/{problem}/{method}{setting}") in done and field in done[key]
    ]
    return float(np.mean(values)) if values else math.nan


def report(done: dict[str, Any], crop: int, numbers: list[int]) -> str:
    """Format the table over the finished pictures, and compare it with the bars."""

    def row(problem: str, method: str, field: str) -> float:
        return mean_of(done, crop, problem, method, field, shared[problem])

    # All columns of a row have the same pictures; only VBLE-xz, with its own columns, may have
    # fewer.
    wanted = {
        p: [m for m in METHODS if m != "VBLE-xz" and (m != "PnP-DnCNN" or "-" in p)]
        for p in SETTINGS
    }
    shared = {
        p: [
            n
            for n in numbers
            if all(f"{crop}/{n}/{p}/{m}{_setting(m, *SETTINGS[p])}" in done for m in wanted[p])
        ]
        for p in SETTINGS
    }

    heads = [
        "measured",
        "MAP-z",
        "MMSE-z",
        "MMSE-x",
        "sample",
        "xz MMSE-x",
        "PnP-DnCNN",
        "corr/calibrated",
        "xz",
        "cover",
        "xz",
    ]
    lines = [
        machine(),
        f"{crop}x{crop}, PSNR in dB, number of pictures by method ({', '.join(METHODS)}); "
        "correlation of the standard deviation with |error|, divided by its value for an exactly "
        "calibrated Gaussian; coverage of nominal 95 %",
        "",
        f"{'problem':12} {'scale, weight':14} {'pictures':>9} "
        + " ".join(f"{h:>15}" for h in heads),
    ]
    for problem, (scale, weight) in SETTINGS.items():
        ends = {m: _setting(m, scale, weight) for m in METHODS}
        counts = "/".join(
            str(sum(f"{crop}/{n}/{problem}/{m}{end}" in done for n in numbers))
            for m, end in ends.items()
        )
        values = [
            row(problem, "VBLE", "measured"),
            row(problem, "MAP-z", "x"),
            row(problem, "VBLE", "x"),
            row(problem, "VBLE", "mean"),
            row(problem, "VBLE", "sample"),
            row(problem, "VBLE-xz", "mean"),
            row(problem, "PnP-DnCNN", "x"),
            row(problem, "VBLE", "correlation") / row(problem, "VBLE", "calibrated"),
            row(problem, "VBLE-xz", "correlation") / row(problem, "VBLE-xz", "calibrated"),
            row(problem, "VBLE", "coverage"),
            row(problem, "VBLE-xz", "coverage"),
        ]
        lines.append(
            f"{problem:12} {f'{scale:g}, {weight:g}':14} {counts:>9} "
            + " ".join(f"{v:15.2f}" for v in values)
        )
    lines.append("")
    bars = {"-7.65": {"g1": 1.3, "g3": 1.3, "motion": 2.5}}
    behind = []
    for problem in SETTINGS:
        x, z, sample, point, measured = (
            row(problem, "VBLE", "mean"),
            row(problem, "VBLE", "x"),
            row(problem, "VBLE", "sample"),
            row(problem, "MAP-z", "x"),
            row(problem, "VBLE", "measured"),
        )
        if math.isnan(x):
            continue
        said = [
            f"MMSE-x less MMSE-z {x - z:+.2f} {verdict(abs(x - z) < 0.1, '0.1')}",
            f"over a sample {x - sample:+.2f} {verdict(x - sample >= 0.5, '0.5')}",
        ]
        if not math.isnan(point):
            said.append(f"over MAP-z {x - point:+.2f} {verdict(x - point >= 0.2, '0.2')}")
        blur, _, noise = problem.partition("-")
        if noise == "7.65":
            bar = bars["-7.65"][blur]
            said.append(
                f"over the measurement {x - measured:+.2f} {verdict(x - measured >= bar, f'{bar}')}"
            )
        pnp = row(problem, "PnP-DnCNN", "x")
        if noise and not math.isnan(pnp):
            behind.append(pnp - x)
        ratio = row(problem, "VBLE", "correlation") / row(problem, "VBLE", "calibrated")
        said.append(
            f"correlation {ratio:.2f} of a calibrated Gaussian's {verdict(ratio >= 0.7, '0.7')}"
        )
        lines.append(f"{problem}: " + ", ".join(said))
    if behind:
        gap = float(np.mean(behind))
        lines.append(
            f"behind PnP-DnCNN on average over deblurring: {gap:.2f} dB "
            f"{verdict(gap <= 0.7, '0.7')}"
        )
    lines += compare_pixels(done, crop, numbers)
    tried: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for key, cell in done.items():
        where, number, problem, method, *setting = key.split("/")
        if method == "VBLE" and int(where) == crop and int(number) > 58 and setting:
            tried.setdefault((problem, "/".join(setting)), []).append((int(number), cell["mean"]))
    if tried:
        lines += [
            "",
            "weights and rate scales compared (rate scale/weight: mean MMSE-x, pictures from the "
            "end of BSD68):",
        ]
        for problem in dict.fromkeys(p for p, _ in tried):
            found = {
                s: float(np.mean([v for _, v in cells_]))
                for (p, s), cells_ in tried.items()
                if p == problem
            }
            lines.append(
                f"  {problem}: "
                + ", ".join(
                    f"{s} {v:.2f}" for s, v in sorted(found.items(), key=lambda pair: -pair[1])
                )
            )
    return "\n".join(lines)


def compare_pixels(done: dict[str, Any], crop: int, numbers: list[int]) -> list[str]:
    """Compare VBLE-xz with VBLE on the pictures that both have: mean, and coverage of 95 %."""
    lines, every = [], []
    for problem, setting in SETTINGS.items():
        pairs = {}
        for n in numbers:
            z, xz = (
                done.get(f"{crop}/{n}/{problem}/{method}{_setting(method, *setting)}")
                for method in ("VBLE", "VBLE-xz")
            )
            if z is not None and xz is not None:
                pairs[n] = (xz["mean"] - z["mean"], z["coverage"], xz["coverage"])
        if not pairs:
            continue
        every.append(np.mean(list(pairs.values()), axis=0))
        gap, before, after = every[-1]
        lines.append(
            f"VBLE-xz, {problem}, pictures {', '.join(map(str, pairs))}: MMSE-x less VBLE's "
            f"{gap:+.2f} {verdict(abs(gap) <= 0.1, '0.1')}, coverage {before:.3f} to {after:.3f}"
        )
    if every:
        gap, before, after = np.mean(every, axis=0)
        lines.append(
            f"VBLE-xz, mean over {len(every)} problems: MMSE-x less VBLE's {gap:+.2f} "
            f"{verdict(abs(gap) <= 0.1, '0.1')}, coverage {before:.3f} to {after:.3f} "
            f"{verdict(after - before >= 0.05, '5 points')}"
        )
    return lines


def steps(folder: Path, numbers: list[int], crop: int) -> str:
    """Compare the solver's steps with the paper's: the bound from 30 draws, and the pictures.

    A smaller bound is better.
    """
    lines = [f"{machine()}; pictures {numbers}, {crop}x{crop}, rate scale 1, weight 0.7"]
    ways = {
        "300 equal steps, the last": VariationalLatent(
            max_iterations=300, iterate="last", decay=0.0
        ),
        f"{ITERATIONS} shrinking steps, averaged": VariationalLatent(max_iterations=ITERATIONS),
    }
    for name in ("g1-7.65", "g3-2.55", "half"):
        this = case(name, pictures(folder, numbers, crop), numbers, folder)
        problem, prior = this.problem, it.priors.load("cae-natural")
        for way, solver in ways.items():
            solution = it.solve(problem, prior, solver, regularization=0.7, progress=False)
            posterior, bound = solution.posterior, torch.zeros(len(numbers))
            with torch.no_grad():
                for seed in range(30):
                    x, energy = posterior.distribution.decode_and_energy(
                        posterior.parameters, torch.Generator().manual_seed(1000 + seed)
                    )
                    bound += (problem.data_term.value(problem.operator(x), problem.y) + energy) / 30
            found = {
                "MMSE-z": solution.x,
                "MMSE-x": posterior.mean,
                "sample": posterior.sample(1, seed=1)[0],
            }
            lines.append(
                f"{name:8} {way:30} bound {float(bound.mean()):.0f}, "
                + ", ".join(
                    f"{what} {float(psnr(x, this.truth).mean()):.2f}" for what, x in found.items()
                )
            )
    return "\n".join(lines)


def main(
    part: Literal["table", "tune", "steps", "print"] = "table",
    pictures: str = "1,2,3,4,5,6,7,8,9,10",
    problems: str = ",".join(SETTINGS),
    methods: str = ",".join(METHODS),
    scales: str = "1,0.5,0.25",
    weights: str = "0.3,0.5,0.7,1",
    crop: int = 256,
    at_once: int = 5,
    minutes: float = math.inf,
    again: bool = False,
    results: Path = RESULTS,
) -> None:
    """Run the benchmark.

    Args:
        scales: values for --part tune
        weights: values for --part tune
        minutes: time limit for starting new cells; a later call continues
    """
    options = argparse.Namespace(**locals())
    folder = data_folder()
    results.mkdir(parents=True, exist_ok=True)
    kept = results / "vble.json"
    done: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    numbers = [int(n) for n in pictures.split(",")]
    problems, methods = problems.split(","), methods.split(",")
    if part == "steps":
        text = steps(folder, [66, 68], crop)
        print(text)
        write_bytes(results / "vble_steps.txt", (text + "\n").encode(), overwrite=True)
        return
    if part == "tune":
        keys = [
            (p, m, float(s), float(w))
            for p in problems
            for m in methods
            if m not in NETWORKS
            for s in scales.split(",")
            for w in weights.split(",")
        ]
        fill(done, options, folder, keys, [n for n in numbers if n > 58] or [67, 68])
    if part == "table":
        fill(
            done,
            options,
            folder,
            [(p, m, *SETTINGS[p]) for p in problems for m in methods],
            numbers,
        )
    text = report(done, crop, list(range(1, 11)))
    print(f"\n{text}")
    write_bytes(results / "vble.txt", (text + "\n").encode(), overwrite=True)


if __name__ == "__main__":
    run_script(main)
