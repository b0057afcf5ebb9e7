"""Noise level and weight of the prior drawn by Gibbs sampling, against their true values.

    python benchmarks/gibbs.py [--seeds 20] [--iterations 2500] [--only noise,gaussian,tv]

noise    deblurring (box of 3 pixels) of 20 parts of 32x32 pixels of photographs, noise 0.02, total
         variation: mean of the noise level over the true one.
weight   32x32 images drawn from the prior itself, of weights between 3 and 30, noise 0.5 of a
         neighbour's difference: share of the images in whose 90 % interval the true weight lies.
         ``gaussian`` are differences, drawn exactly; ``tv`` is total variation, drawn by 400 steps
         of the chain without measurements (noise of 1e3).
mean     the same images: PSNR of the posterior mean over that with the true weight and noise level.

Every item has random numbers of its own. The part ``gaussian`` was run on draws of other seeds before,
on which the tolerance of `Gibbs` was chosen.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from common import machine, run_script, verdict
from skimage import data
from torch import Tensor

import invtoolbox as it
from invtoolbox.core.reductions import independent_items

SIDE = 32
#: Numbers added to the seeds of a part. The tolerance of `Gibbs` was chosen on gaussian + 0.
FIRST = {"gaussian": 100, "tv": 0}


def main(
    seeds: int = 20,
    iterations: int = 2500,
    only: str = "noise,gaussian,tv",
    threads: int = 1,
) -> None:
    """Print one row per part.

    Args:
        seeds: number of images of every part
        iterations: largest number of states of every chain
        only: parts, separated by commas
        threads: number of torch's threads
    """
    torch.set_num_threads(threads)
    print(
        f"{machine()}; {threads} thread; {seeds} images of {SIDE}x{SIDE}, at most {iterations} states"
    )
    for name in only.split(","):
        if name == "noise":
            noise_level(seeds, iterations)
        else:
            weights(name, seeds, iterations)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample(problem: it.Problem, prior: Any, solver: Any) -> Any:
    with independent_items():
        return it.solve(problem, prior, solver, progress=False)


def noise_level(count: int, iterations: int) -> None:
    """Print how far the mean noise level is from the true one."""
    pictures = [data.camera(), data.coins(), data.moon(), data.page(), data.text()]
    parts = []
    for k in range(count):
        picture = torch.from_numpy(pictures[k % len(pictures)]).float() / 255
        height, width = picture.shape
        row, column = (
            int(torch.randint(0, n - 2 * SIDE, (1,), generator=generator(100 + k + n)))
            for n in (height, width)
        )
        part = picture[row : row + 2 * SIDE, column : column + 2 * SIDE]
        parts.append(torch.nn.functional.avg_pool2d(part[None, None], 2))
    truth = torch.cat(parts)
    A = it.operators.Blur(torch.ones(3, 3) / 9, (SIDE, SIDE))
    y = A(truth) + 0.02 * torch.randn(truth.shape, generator=generator(7))
    solver = it.solvers.Gibbs(max_iterations=iterations)
    found = sample(it.Problem(y, A), it.priors.TotalVariation(), solver).posterior.noise_std
    error = found / 0.02 - 1
    mean, worst = float(error.abs().mean()), float(error.abs().max())
    print(
        f"noise: off by {mean:.1%} in the mean, {float(error.mean()):+.1%} with its sign, {worst:.1%} "
        f"at worst {verdict(mean <= 0.03, '3 %')}"
    )


def weights(name: str, count: int, iterations: int) -> None:
    """Print coverage of the weight, and the loss of the posterior mean."""
    true = 3 * 10 ** torch.rand(count, generator=generator(FIRST[name] + 11))
    A: Any = it.operators.Identity((1, SIDE, SIDE))
    prior: Any
    if name == "gaussian":
        prior = it.priors.Tikhonov(operator="gradient")
        truth = differences(true, generator(FIRST[name] + 12))
        level = 0.5 / true.sqrt()
    else:
        prior = it.priors.TotalVariation()
        truth = torch.cat([draw(prior, float(w), seed) for seed, w in enumerate(true)])
        level = 0.5 / true
    noise = torch.randn(truth.shape, generator=generator(FIRST[name] + 13))
    y = truth + level.view(-1, 1, 1, 1) * noise
    both = sample(it.Problem(y, A), prior, it.solvers.Gibbs(max_iterations=iterations))
    low, high = both.posterior.interval_of("weight", 0.9)
    covered = float(((low <= true) & (true <= high)).float().mean())
    print(
        f"weight, {name}: {covered:.0%} of the 90 % intervals hold the true weight, whose mean is "
        f"off by a factor of {float((both.posterior.weight / true).log().mean().exp()):.2f} "
        f"{verdict(0.8 <= covered <= 0.97, '80 to 97 %')}"
    )
    means = []
    for k in range(count):
        problem = it.Problem(y[k : k + 1], A, it.data_terms.LeastSquares(noise_std=float(level[k])))
        solver = it.solvers.Gibbs(max_iterations=iterations // 3, fixed_weight=float(true[k]))
        means.append(it.solve(problem, prior, solver, seed=k, progress=False).x)
    span = (truth.flatten(1).amax(1) - truth.flatten(1).amin(1)).view(-1, 1, 1, 1)
    loss = psnr(torch.cat(means), truth, span) - psnr(both.x, truth, span)
    print(
        f"mean, {name}: {float(loss.mean()):.2f} dB below the known weight's in the mean, "
        f"{float(loss.max()):.2f} at worst {verdict(float(loss.mean()) <= 0.2, '0.2 dB')}"
    )


def differences(weight: Tensor, numbers: torch.Generator) -> Tensor:
    """Return draws of ``exp(-w/2 |D x|^2)`` without a mean, by the eigenvectors of D^T D."""
    k = torch.arange(SIDE)
    basis = torch.cos(math.pi * (k[:, None] + 0.5) * k / SIDE)  # of the cosine transform
    basis = basis / basis.norm(dim=0)
    values = 2 - 2 * torch.cos(math.pi * k / SIDE)
    eigenvalues = values[:, None] + values
    noise = torch.randn(len(weight), SIDE, SIDE, generator=numbers)
    noise = noise / (weight.view(-1, 1, 1) * eigenvalues.clamp_min(1e-12)).sqrt()
    noise[:, 0, 0] = 0
    return (basis @ noise @ basis.T)[:, None]


def draw(prior: Any, weight: float, seed: int) -> Tensor:
    """Return a state of the chain of the prior alone."""
    problem = it.Problem(
        torch.zeros(1, 1, SIDE, SIDE),
        it.operators.Identity((1, SIDE, SIDE)),
        it.data_terms.LeastSquares(noise_std=1e3),
    )
    solver = it.solvers.Gibbs(max_iterations=400, burn_in=399, fixed_weight=weight)
    x = it.solve(problem, prior, solver, seed=1000 + seed, progress=False).x
    return x - x.mean()


def psnr(x: Tensor, truth: Tensor, span: Tensor) -> Tensor:
    error = (x - truth).square().flatten(1).mean(1).sqrt()
    return 20 * (span.flatten() / error).log10()


if __name__ == "__main__":
    run_script(main)
