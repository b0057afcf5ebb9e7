"""Rank statistics of samplers on an exact Gaussian posterior: right ones pass, wrong ones fail.

    python benchmarks/posterior_checks.py [--seeds 20] [--first 1] [--repetitions 500] [--draws 9]

64 unknowns (8 x 8), a periodic blur with 5 % noise, a Gaussian prior of pixels with their own
variances; the posterior is Gaussian, and the blur correlates its pixels. The five functionals are
the defaults of `check_posterior`, fixed before any run; p is that of Bonferroni over the five.
``exact`` are exact draws. ULA has steps of 1/20 and of 1.5 over the largest curvature; the draws
are 9 of its 16 kept states. EDM has 80 levels from 5 to 0.003: 20 and 40 levels from 2 failed on
seed 0 (roughness too low, misfit too high). The power is that of the chi-square test of the same
bins for a scalar whose posterior has a wrong deviation or a shift, at p < 0.01 over five
functionals.
"""

from __future__ import annotations

import time

import torch
from common import machine, run_script, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.testing.posteriors import PosteriorCheck

N = 8


def main(
    seeds: int = 20,
    first: int = 1,
    repetitions: int = 500,
    draws: int = 9,
    samplers: str = "EDM,ULA small step,DDRM,ULA large step,exact",
    threads: int = 1,
) -> None:
    """Print the p-values of every sampler.

    Args:
        seeds: number of seeds
        first: first seed; the levels of EDM were chosen on seed 0
        repetitions: number of repetitions per seed
        draws: number of draws per repetition
        samplers: names of samplers, separated by commas
        threads: number of torch's threads
    """
    torch.set_num_threads(threads)
    print(
        f"{machine()}; seeds {first} to {first + seeds - 1}, {repetitions} repetitions, {draws} draws"
    )
    print(f"power: {power(repetitions, draws)}", flush=True)
    problem, prior, stiffest = posed()
    methods = {
        "exact": ("cg", True),
        "EDM": (it.solvers.EDM(steps=80, levels=(5.0, 0.003), max_iterations=1), True),
        "ULA small step": (chain(0.05 / stiffest, 8192), True),
        "DDRM": (it.solvers.DDRM(max_iterations=1), False),
        "ULA large step": (chain(1.5 / stiffest, 1024), False),
    }
    for name in samplers.split(","):
        solver, is_right = methods[name]
        begun, values, coverages = time.perf_counter(), [], []
        for seed in range(first, first + seeds):
            check = it.check_posterior(
                problem, prior, solver, draws=draws, repetitions=repetitions, seed=seed
            )
            values.append(check.p_value)
            coverages.append(check.coverage_p_value)
        seconds = (time.perf_counter() - begun) / seeds
        passed = sum(p > 0.01 for p in values)
        failed = sum(p < 1e-3 for p in values)
        if is_right:
            needed = round(0.95 * seeds)
            bar = verdict(passed >= needed, f"p > 0.01 in {needed} of {seeds}")
            words = f"p > 0.01 in {passed} of {seeds} seeds, least {min(values):.2g} {bar}"
        else:
            bar = verdict(failed == seeds, "p < 1e-3 in all")
            words = f"p < 1e-3 in {failed} of {seeds} seeds, largest {max(values):.2g} {bar}"
        covered = sum(p > 0.01 for p in coverages)
        print(
            f"{name}: {words}; expected coverage p > 0.01 in {covered}; {seconds:.1f} s per seed",
            flush=True,
        )


def chain(step_size: float, states: int) -> it.solvers.UnadjustedLangevin:
    """Return a chain of ``states`` states, after a burn-in of a sixth of that number."""
    return it.solvers.UnadjustedLangevin(
        burn_in=states // 6,
        max_iterations=states + states // 6,
        step_size=step_size,
        tolerance=0.0,
        blocks=16,
    )


def posed() -> tuple[it.Problem, it.priors.Gaussian, float]:
    """Return the problem, the prior, and the largest curvature of the posterior."""
    # Deviations of the pixels from 0.1 to 0.2, in a fixed order; the blur correlates them.
    places = torch.randperm(N * N, generator=torch.Generator().manual_seed(0))
    variances = torch.linspace(0.1, 0.2, N * N)[places].square().view(1, N, N)
    prior = it.priors.Gaussian(torch.full((1, N, N), 0.5), variances)
    kernel = torch.tensor([[0.0, 0.1, 0.0], [0.1, 0.6, 0.1], [0.0, 0.1, 0.0]])
    A = it.operators.Blur(kernel, (N, N), boundary="periodic")
    noise_std = 0.05
    problem = it.Problem(
        torch.full((1, 1, N, N), 0.5), A, it.data_terms.LeastSquares(noise_std=noise_std)
    )
    stiffest = float(A.norm()) ** 2 / noise_std**2 + 1 / float(variances.min())
    return problem, prior, stiffest


def power(repetitions: int, draws: int, experiments: int = 400) -> str:
    """Return how often the test finds scalars with a wrong deviation or a shift."""
    generator = torch.Generator().manual_seed(0)
    words = []
    for name, ratio, shift in (
        ("deviation 10 % too small", 0.9, 0.0),
        ("20 % too small", 0.8, 0.0),
        ("a third too small", 2 / 3, 0.0),
        ("mean off by a tenth of a deviation", 1.0, 0.1),
        ("by a fifth", 1.0, 0.2),
        ("nothing wrong", 1.0, 0.0),
    ):
        hits = 0
        for _ in range(experiments):
            truth = torch.randn(repetitions, generator=generator)
            samples: Tensor = shift + ratio * torch.randn(draws, repetitions, generator=generator)
            ranks = (samples < truth).sum(0)
            check = PosteriorCheck({"scalar": ranks}, ranks, draws)
            hits += min(1.0, 5 * check.p_value) < 0.01
        words.append(f"{name} {100 * hits / experiments:.0f} %")
    return ", ".join(words)


if __name__ == "__main__":
    run_script(main)
