"""Rank statistics of samplers on an exact Gaussian posterior: right ones pass, wrong ones fail.

    python benchmarks/posterior_checks.py [--seeds 20] [--first 1] [--repetitions 500] [--draws 9]

64 unknowns (8 x 8), a periodic blur with 5 % noise, a Gaussian prior of pixels with their own
variances; the posterior is Gaussian, and the blur correlates its pixels. The five functionals are
the defaults of `check_posterior`, fixed before any run; p is that of Bonferroni over the five.
``exact`` are exact draws. EDM has its default settings, 40 levels from 2 to 0.003. ULA has steps of
1/20 and of 1.5 over the largest curvature; the draws are 9 of its 16 kept states.

``closed form``  Every step of EDM maps a Gaussian to a Gaussian, and ULA is an autoregressive
process along every eigenvector, so the draws that each settles on are known without rounding, inner
iterations and chance. Printed is how often exact draws from there are rejected at p < 0.01: EDM with
the noise of its first level about a grey image (the sampler before it began at the posterior mean),
and about the posterior mean. The settings of EDM and ULA were chosen from this part.

The power is that of the chi-square test of the same bins for a scalar whose posterior has a wrong
deviation or a shift, at p < 0.01 over five functionals.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import torch
from common import machine, run_script, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.testing.posteriors import PosteriorCheck

N = 8
#: Draws ``(count, repetitions, n)`` for right-hand sides b ``(repetitions, n)``.
Draw = Callable[[Tensor, int, torch.Generator], Tensor]


def main(
    seeds: int = 20,
    first: int = 1,
    repetitions: int = 500,
    draws: int = 9,
    samplers: str = "EDM,ULA small step,DDRM,ULA large step,exact",
    experiments: int = 200,
    threads: int = 1,
) -> None:
    """Print the p-values of every sampler.

    Args:
        seeds: number of seeds
        first: first seed
        repetitions: number of repetitions per seed
        draws: number of draws per repetition
        samplers: names of samplers, separated by commas
        experiments: number of experiments of the closed form; 0 leaves it out
        threads: number of torch's threads
    """
    torch.set_num_threads(threads)
    print(
        f"{machine()}; seeds {first} to {first + seeds - 1}, {repetitions} repetitions, {draws} draws"
    )
    print(f"power: {power(repetitions, draws)}", flush=True)
    problem, prior, stiffest = posed()
    if experiments:
        closed_forms(problem, prior, stiffest, repetitions, draws, experiments)
    methods = {
        "exact": ("cg", True),
        "EDM": (it.solvers.EDM(max_iterations=1), True),
        "ULA small step": (chain(0.05 / stiffest, 4096), True),
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


class ClosedForm:
    """The Gaussian posterior, and draws from the limits of samplers; matrices in float64.

    Images are rows ``(n,)`` of the 64 pixels, and ``b = A^T y / s^2 + C^-1 m`` is the right-hand
    side of the posterior mean ``H^-1 b``.
    """

    def __init__(self, problem: it.Problem, prior: it.priors.Gaussian) -> None:
        A = problem.operator(torch.eye(N * N).view(-1, 1, N, N)).flatten(1).T.double()
        self.A, self.noise = A, float(problem.data_term.noise_std)
        self.mean = prior.means[0].flatten().double()
        self.variances = prior.spectrum[0].double()
        self.H = A.T @ A / self.noise**2 + torch.diag(1 / self.variances)
        self.covariance = torch.linalg.inv(self.H)

    def guided(self, level: float) -> tuple[Tensor, Tensor]:
        """Return M and P of the posterior mean ``M x + P b`` of a noisy image x."""
        eye = torch.eye(len(self.H), dtype=self.H.dtype)
        P = torch.linalg.inv(self.H + eye / level**2)
        return P / level**2, P

    def edm(self, solver: it.solvers.EDM, about_mean: bool) -> Draw:
        """Return draws ``F x + G b`` of EDM from noise x, the composition of its Heun steps."""
        levels = solver.schedule()
        F, G = torch.eye(len(self.H), dtype=self.H.dtype), torch.zeros_like(self.H)
        for level, following in itertools.pairwise(levels):
            M, P = self.guided(level)
            slopes = [(F - M @ F) / level, (G - M @ G - P) / level]
            step = following - level
            ends = [F + step * slopes[0], G + step * slopes[1]]
            if following:
                M, P = self.guided(following)
                later = [
                    (ends[0] - M @ ends[0]) / following,
                    (ends[1] - M @ ends[1] - P) / following,
                ]
                ends = [
                    old + step / 2 * (slope + end) for old, slope, end in zip((F, G), slopes, later)
                ]
            F, G = ends
        M, P = self.guided(levels[0])
        grey = torch.full_like(self.mean, sum(solver.intensity_range) / 2)

        def draw(b: Tensor, count: int, numbers: torch.Generator) -> Tensor:
            centre = grey @ M.T + b @ P.T if about_mean else grey.expand_as(b)
            noise = torch.randn(count, *b.shape, generator=numbers, dtype=b.dtype)
            return (centre + levels[0] * noise) @ F.T + b @ G.T

        return draw

    def ula(self, step_size: float, spacing: int, blocks: int = 16) -> Draw:
        """Return random ones of ``blocks`` states of ULA, ``spacing`` steps apart."""
        curvature, basis = torch.linalg.eigh(self.H)
        # x <- (1 - t c) x + sqrt(2 t) n has the variance 1 / (c (1 - t c / 2)).
        deviation = (curvature * (1 - step_size * curvature / 2)).rsqrt()
        correlation = (1 - step_size * curvature) ** spacing

        def draw(b: Tensor, count: int, numbers: torch.Generator) -> Tensor:
            noise = torch.randn(blocks, *b.shape, generator=numbers, dtype=b.dtype)
            for k in range(1, blocks):
                fresh = (1 - correlation**2).sqrt() * noise[k]
                noise[k] = correlation * noise[k - 1] + fresh
            chosen = torch.randperm(blocks, generator=numbers)[:count]
            return b @ self.covariance + (deviation * noise[chosen]) @ basis.T

        return draw

    def check(self, draw: Draw, repetitions: int, draws: int, seed: int) -> PosteriorCheck:
        """Return the ranks of truths among draws, as `check_posterior` finds them."""
        numbers = torch.Generator().manual_seed(seed)
        shape = (repetitions, len(self.mean))
        normal = torch.randn(2, *shape, generator=numbers, dtype=self.H.dtype)
        truths = self.mean + self.variances.sqrt() * normal[0]
        y = truths @ self.A.T + self.noise * normal[1]
        b = y @ self.A / self.noise**2 + self.mean / self.variances
        samples = torch.cat([draw(b, draws, numbers), truths[None]])
        functionals = {
            "mean": samples.mean(-1),
            "energy": samples.square().mean(-1),
            "roughness": samples.unflatten(-1, (N, N)).diff(dim=-1).square().mean((-2, -1)),
            "centre": samples[..., N * N // 2],
            "misfit": (samples @ self.A.T - y).square().sum(-1),
        }
        ranks = {name: (f[:-1] < f[-1]).sum(0) for name, f in functionals.items()}
        return PosteriorCheck(ranks, ranks["mean"], draws)


def closed_forms(
    problem: it.Problem,
    prior: it.priors.Gaussian,
    stiffest: float,
    repetitions: int,
    draws: int,
    experiments: int,
) -> None:
    """Print how often draws from the limits of EDM and ULA are rejected."""
    form, solver = ClosedForm(problem, prior), it.solvers.EDM()
    exact = torch.linalg.cholesky(form.covariance)

    def right(b: Tensor, count: int, numbers: torch.Generator) -> Tensor:
        noise = torch.randn(count, *b.shape, generator=numbers, dtype=b.dtype)
        return b @ form.covariance + noise @ exact.T

    for name, draw in (
        ("exact draws", right),
        ("EDM about a grey image", form.edm(solver, about_mean=False)),
        ("EDM about the posterior mean", form.edm(solver, about_mean=True)),
        ("ULA small step", form.ula(0.05 / stiffest, 256)),
    ):
        checks = [form.check(draw, repetitions, draws, seed) for seed in range(experiments)]
        rejected = sum(check.p_value < 0.01 for check in checks)
        print(f"closed form, {name}: {rejected} of {experiments} experiments rejected", flush=True)


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
