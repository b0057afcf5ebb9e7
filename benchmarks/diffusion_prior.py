"""Diffusion priors of photographs and of CT slices, as denoisers of every level and as priors.

    python benchmarks/diffusion_prior.py [--again] [--pictures 10]

``priors/diffusion-natural``:

denoise   the first pictures of BSD68, their centre 256x256, five noise levels: compared with
          ``denoiser-natural`` (1.56 M weights, trained on the same pictures for the same time), with
          ``dncnn-natural``, the recipe of one level (0.05), and with KAIR's DnCNN of its level
          25/255, which was trained on BSD. Also large levels, compared with the mean of the picture
          as the answer.
colour    pictures of gb82 that the recipe holds out, noise 0.1.
deblur    g1-7.65 of vble.py: Gaussian blur of standard deviation 1, noise 7.65/255. Posterior mean
          and standard deviation of 8 draws of `solvers.EDM` with the settings below, which were
          chosen on the pictures 60 to 65, not among the ten. PSNR without 5 pixels along the border,
          and raw coverage of the interval of 95 %, which allows for the number of draws (Student's
          distribution). Next to it DPIR with both networks, and RED-diff, whose weight is the best
          of 300, 500 and 800 on the pictures 60 to 62.

``priors/diffusion-ct``, one slice of each patient of lpn_ct.py, none of whom was trained on:

denoise   256x256 pixels in [0, 1] (-1024 to 1024 HU), the same five levels: compared with
          ``lpn-ct`` at 0.1, its level, and with ``diffusion-natural``.
few views 128x128 pixels, 30 views in parallel beam, noise of 1 % of the largest line integral.
          Mean and raw coverage of 8 draws of EDM with the settings of the deblurring above; DPIR;
          total variation with the weight that its rule chooses for each slice, and with the best
          common weight by the true slices.

BSD68 is read, and nothing was trained on it. Finished results are kept in
``results/diffusion_prior.json``.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import Kept, best_exponent, data_folder, machine, run_script, verdict
from lpn_ct import slices
from torch import Tensor
from vble import case, pictures, psnr

import invtoolbox as it
from invtoolbox.posteriors.base import share_within

RESULTS = Path(__file__).parent / "results" / "diffusion_prior.json"
LEVELS = (0.01, 0.03, 0.05, 0.1, 0.2)
LARGE = (0.5, 1.0, 3.0, 10.0)
SAMPLER = it.solvers.EDM(
    steps=5, levels=(0.2, 0.01), begin="restored", inner=3, at_once=8, max_iterations=1
)


def main(again: bool = False, pictures_: int = 10) -> None:
    kept = Kept(RESULTS, again)
    numbers = list(range(1, pictures_ + 1))
    print(f"# {machine()}; {len(numbers)} pictures")
    _denoise(kept, pictures(data_folder(), numbers, 256))
    _colour(kept)
    _deblur(kept, numbers)
    _red_diff(kept, numbers)
    _denoise_slices(kept, slices(4))
    _few_views(kept, F.avg_pool2d(slices(4), 2))


def noisy(x: Tensor, level: float) -> Tensor:
    return x + level * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))


def _denoise(kept: Kept, x: Tensor) -> None:
    names = ("diffusion-natural", "denoiser-natural", "dncnn-natural", "KAIR's DnCNN")

    def quality(name: str, level: float) -> float:
        prior: Any = (
            it.priors.Denoiser.from_kair(data_folder() / "weights" / "kair_dncnn" / "dncnn_25.pth")
            if name.startswith("KAIR")
            else it.priors.load(name)
        )
        with torch.no_grad():
            clean = prior.denoise(noisy(x, level), level)
        return round(float(it.metrics.psnr(clean, x).mean()), 3)

    of_one_level = {"dncnn-natural": (0.05,), "KAIR's DnCNN": (25 / 255,)}
    for level in (*LEVELS, 25 / 255):
        row = {
            name: kept.result(
                f"denoise/{len(x)}/{level:.3g}/{name}", lambda n=name, s=level: quality(n, s)
            )
            for name in names
            if level in of_one_level.get(name, (*LEVELS, 25 / 255))
        }
        ours = row["diffusion-natural"]
        others = [value - ours for name, value in row.items() if not name.startswith("KAIR")]
        print(
            f"denoise {level:5.3f}: "
            + ", ".join(f"{name} {value:.2f}" for name, value in row.items())
            + f" dB; behind the better of the same pictures {max(others):+.2f} "
            + verdict(max(others) <= 0.3, "0.3 dB"),
            flush=True,
        )
    flat = float(it.metrics.psnr(x.mean((1, 2, 3), keepdim=True).expand_as(x), x).mean())
    found = [
        kept.result(f"denoise/{len(x)}/{level:g}", lambda s=level: quality("diffusion-natural", s))
        for level in LARGE
    ]
    print(
        "large levels: "
        + ", ".join(f"{level:g} {value:.2f} dB" for level, value in zip(LARGE, found))
        + f"; the mean of each picture itself {flat:.2f} dB"
    )


def _colour(kept: Kept) -> None:
    def quality(name: str, opponent: bool) -> float:
        prior: Any = it.priors.load(name, {"opponent": opponent})
        values = []
        for file in ("city", "flowers", "guitar"):
            path = data_folder() / "gb82_cc0" / f"{file}-lossless.png"
            x = it.datasets.open(path, reader="pictures")[0].y[..., 100:356, 100:356]
            with torch.no_grad():
                values.append(float(it.metrics.psnr(prior.denoise(noisy(x, 0.1), 0.1), x).mean()))
        return round(sum(values) / len(values), 3)

    row = {
        (name, opponent): kept.result(
            f"colour/{name}/{opponent}", lambda n=name, o=opponent: quality(n, o)
        )
        for name in ("diffusion-natural", "denoiser-natural")
        for opponent in (True, False)
    }
    print(
        "colour 0.1: "
        + ", ".join(
            f"{name} {'luminance and chrominance' if opponent else 'by channel'} {value:.2f} dB"
            for (name, opponent), value in row.items()
        )
    )


def normal_interval(posterior: Any) -> tuple[Tensor, Tensor]:
    """Return ``mean -+ 1.96 std``, as if mean and deviation were known and not of eight draws."""
    return posterior.mean - 1.96 * posterior.std, posterior.mean + 1.96 * posterior.std


def _deblur(kept: Kept, numbers: list[int]) -> None:
    def sample(number: int) -> dict[str, float]:
        this = case("g1-7.65", pictures(data_folder(), [number], 256), [number], data_folder())
        prior = it.priors.load("diffusion-natural")
        began, processor = time.perf_counter(), time.process_time()
        posterior: Any = it.solve(this.problem, prior, SAMPLER, progress=False).posterior
        found = {
            "mean": float(psnr(posterior.mean, this.truth)),
            "coverage": float(posterior.coverage(this.truth)),
            "seconds": time.perf_counter() - began,
            "processor": time.process_time() - processor,
            "std": float(posterior.std.mean()),
            "normal": float(share_within(this.truth, *normal_interval(posterior))),
        }
        for name in ("diffusion-natural", "denoiser-natural"):
            x = it.solve(this.problem, name, progress=False).x
            found[f"dpir, {name}"] = float(psnr(x, this.truth))
        return {key: round(value, 4) for key, value in found.items()}

    cells = [kept.result(f"deblur/{n}", lambda k=n: sample(k)) for n in numbers]
    average = {key: sum(cell[key] for cell in cells) / len(cells) for key in cells[0]}
    print(
        f"deblur g1-7.65: posterior mean {average['mean']:.2f} dB "
        f"{verdict(average['mean'] >= 27.4, '27.4 dB')}, raw coverage of 95 % "
        f"{average['coverage']:.3f} {verdict(average['coverage'] >= 0.85, '0.85')} (pictures "
        f"{min(c['coverage'] for c in cells):.2f} to {max(c['coverage'] for c in cells):.2f}; of mean -+ 1.96 std "
        f"{average['normal']:.3f}), "
        f"{average['seconds']:.0f} s of wall and {average['processor']:.0f} s of processor time "
        f"{verdict(average['seconds'] <= 60, '60 s')}; DPIR with diffusion-natural "
        f"{average['dpir, diffusion-natural']:.2f}, with denoiser-natural "
        f"{average['dpir, denoiser-natural']:.2f} dB; VBLE 27.35 dB, coverage 0.87 (vble.py)"
    )


def _red_diff(kept: Kept, numbers: list[int]) -> None:
    """RED-diff: score distillation by the prior, and the misfit, from large to small levels."""

    def quality(number: int) -> float:
        this = case("g1-7.65", pictures(data_folder(), [number], 256), [number], data_folder())
        pull = it.priors.ScoreDistillation(
            it.priors.DenoiserScore(it.priors.load("diffusion-natural")),
            steps=(0.0, 0.6),
            weight=lambda alpha: ((1 - alpha) / alpha).sqrt(),
            shrink=(0, 1, 0.98, 0.02),
        )
        solution = it.solve(
            this.problem,
            500 * pull,
            it.solvers.Adam(learning_rate=0.02, iterate="average"),
            max_iterations=200,
            tolerance=0.0,
            progress=False,
            check=False,
        )
        return round(float(psnr(solution.x, this.truth)), 4)

    cells = [kept.result(f"red-diff/{n}", lambda k=n: quality(k)) for n in numbers]
    print(f"deblur g1-7.65 by RED-diff, one image: {sum(cells) / len(cells):.2f} dB")


def _denoise_slices(kept: Kept, x: Tensor) -> None:
    def quality(name: str, level: float) -> float:
        prior: Any = it.priors.load(name)
        with torch.no_grad():
            clean = prior.denoise(noisy(x, level), level)
        return round(float(it.metrics.psnr(clean, x).mean()), 3)

    for level in LEVELS:
        names = ("diffusion-ct", "diffusion-natural", *(("lpn-ct",) if level == 0.1 else ()))
        row = {
            name: kept.result(f"ct/denoise/{level:g}/{name}", lambda n=name, s=level: quality(n, s))
            for name in names
        }
        found = row.pop("diffusion-ct")
        print(
            f"denoise slices {level:5.3f}: diffusion-ct {found:.2f}, "
            + ", ".join(f"{name} {value:.2f}" for name, value in row.items())
            + f" dB {verdict(found >= max(row.values()), 'at least the others')}"
        )


def _few_views(kept: Kept, truth: Tensor) -> None:
    A = it.operators.ParallelBeam((128, 128), torch.arange(30) * (math.pi / 30), 192)

    def problem(x: Tensor, seeds: list[int]) -> it.Problem:
        level = 0.01 * float(A(x).max())
        y = A.simulate(x, level, seed=seeds)
        return it.Problem(y, A, it.data_terms.LeastSquares(noise_std=level))

    def sample(k: int) -> dict[str, float]:
        x = truth[k : k + 1]
        this, prior = problem(x, [k]), it.priors.load("diffusion-ct")
        began = time.process_time()
        posterior: Any = it.solve(this, prior, SAMPLER, progress=False).posterior
        found = {
            "mean": float(it.metrics.psnr(posterior.mean, x)),
            "coverage": float(posterior.coverage(x)),
            "processor": time.process_time() - began,
            "dpir": float(it.metrics.psnr(it.solve(this, prior, progress=False).x, x)),
            "tv": float(it.metrics.psnr(it.solve(this, "tv", progress=False).x, x)),
        }
        return {key: round(value, 4) for key, value in found.items()}

    def best_tv() -> float:
        problems = [problem(truth[k : k + 1], [k]) for k in range(len(truth))]

        def error(exponent: float) -> float:
            results = [
                it.solve(p, "tv", regularization=10**exponent, progress=False).x for p in problems
            ]
            return -float(it.metrics.psnr(torch.cat(results), truth).mean())

        return round(-error(best_exponent(error, 1.0)), 3)

    cells = [kept.result(f"ct/few views/{k}", lambda n=k: sample(n)) for k in range(len(truth))]
    average = {key: sum(cell[key] for cell in cells) / len(cells) for key in cells[0]}
    best = kept.result("ct/few views/tv", best_tv)
    print(
        f"30 views of slices: posterior mean {average['mean']:.2f} dB "
        f"{verdict(average['mean'] >= max(best, average['tv']) + 1, '1 dB above total variation')}, raw "
        f"coverage of 95 % {average['coverage']:.3f} "
        f"{verdict(average['coverage'] >= 0.85, '0.85')} (slices "
        f"{min(c['coverage'] for c in cells):.2f} to {max(c['coverage'] for c in cells):.2f}), "
        f"{average['processor']:.0f} s of processor time; DPIR {average['dpir']:.2f}, total "
        f"variation {average['tv']:.2f}, at its best common weight {best:.2f} dB"
    )


if __name__ == "__main__":
    run_script(main)
