"""Samplers with the exact score of a Gaussian and of a mixture, and the posterior in closed form.

Images of 8 x 8 with mean 0.5, standard deviation 0.1, exponential correlation; denoising (noise
0.1), half of the pixels (0.05), a periodic blur (0.05). Printed for each sampler: the error of the
posterior mean relative to the mean itself (the bar: 5 %), and, stricter, relative to its distance
from the prior's mean; the Monte-Carlo part of this error; the total variance divided by the exact
one (the bar for DAPS, PiGDM and EDM: 0.9 to 1.1); and the least and largest eigenvalue of the samples'
covariance in units of the exact one, next to those of the same number of exact samples; and the
2-Wasserstein distance of the two Gaussians, relative to the deviation of the exact one.
The mixture has two components that the measurements leave undetermined: printed is the share of the
samples in each.

    python benchmarks/samplers.py [--samples 512] [--only EDM,PiGDM]
"""

from __future__ import annotations

import time

import torch
from common import machine, run_script, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.core.pytrees import items_together

N = 8


def correlated(scale: float = 0.01) -> Tensor:
    row = torch.exp(-(torch.arange(N)[:, None] - torch.arange(N)[None]).abs() / 3)
    return scale * torch.kron(row, row)


def problems() -> dict[str, it.Problem]:
    prior = it.priors.Gaussian(torch.full((1, N, N), 0.5), correlated())
    mask = (torch.rand(1, N, N, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    cases = {
        "denoising": (it.operators.Identity((1, N, N)), 0.1),
        "inpainting": (it.operators.Inpainting(mask, (1, N, N)), 0.05),
        "blur": (it.operators.Blur(kernel, (N, N), boundary="periodic"), 0.05),
    }
    truth = prior.sample(1, torch.Generator().manual_seed(5))
    return {
        name: it.Problem(A.simulate(truth, noise), A, it.data_terms.LeastSquares(noise_std=noise))
        for name, (A, noise) in cases.items()
    }


def samplers(count: int, only: str = "") -> dict[str, it.solvers.Solver]:
    """Return the samplers by their labels.

    Args:
        count: number of draws of a diffusion sampler.
        only: names of samplers, separated by commas; empty for all.
    """
    whole = {"at_once": count, "max_iterations": 1}
    every = {
        "ULA": it.solvers.UnadjustedLangevin(burn_in=1000, max_iterations=30_000, tolerance=0.03),
        "DPS": it.solvers.DPS(steps=500, **whole),
        "DPS, weight 1": it.solvers.DPS(steps=500, weight=1.0, **whole),
        "DPS, paper's norm, weight 100": it.solvers.DPS(
            steps=500, weight=100.0, guidance="norm", **whole
        ),
        "DiffPIR": it.solvers.DiffPIR(**whole),
        "DiffPIR, fresh 1": it.solvers.DiffPIR(fresh=1.0, **whole),
        "DiffPIR, deepinv's settings": it.solvers.DiffPIR(strength=3.5, fresh=0.1, **whole),
        "DDRM": it.solvers.DDRM(**whole),
        "DAPS": it.solvers.DAPS(**whole),
        "PiGDM": it.solvers.PiGDM(**whole),
        "EDM": it.solvers.EDM(**whole),
        "PiGDM, isotropic": it.solvers.PiGDM(covariance="isotropic", **whole),
    }
    names = only.split(",") if only else [label.split(",")[0] for label in every]
    return {label: solver for label, solver in every.items() if label.split(",")[0] in names}


def main(samples: int = 512, only: str = "") -> None:
    """Print one row per problem and sampler.

    Args:
        samples: number of draws of a diffusion sampler
        only: names of samplers, separated by commas; all by default
    """
    count = samples
    print(f"# {machine()}; {count} draws of each diffusion sampler")
    # Draws need no bits that are those of one draw alone.
    with items_together():
        _gaussian(count, only)
        _mixture(count, only)


def _gaussian(count: int, only: str) -> None:
    prior = it.priors.Gaussian(torch.full((1, N, N), 0.5), correlated())
    for name, problem in problems().items():
        exact = it.exact_posterior(problem, prior)
        for label, solver in samplers(count, only).items():
            began = time.perf_counter()
            solution = it.solve(problem, prior, solver, progress=False)
            seconds = time.perf_counter() - began
            _print(name, label, problem, prior, solution, exact, seconds, solver, count)


def _print(
    name: str,
    label: str,
    problem: it.Problem,
    prior: it.priors.Gaussian,
    solution: it.Solution,
    exact: it.posterior.Posterior,
    seconds: float,
    solver: it.solvers.Solver,
    count: int,
) -> None:
    away = solution.x - exact.mean
    relative = float(away.norm() / exact.mean.norm())
    moved = float((exact.mean - 0.5).norm())
    chain = isinstance(solver, it.solvers.UnadjustedLangevin)
    independent = float(solution.posterior.effective_number) if chain else count
    chance = float(exact.std.norm()) / independent**0.5
    variance = float(solution.posterior.std.square().sum() / exact.std.square().sum())
    spectrum = ""
    if not chain:
        drawn = solution.posterior.sample(min(count, 512)).flatten(1)
        root = torch.linalg.cholesky(exact.covariance[0])
        white = torch.linalg.solve_triangular(root, (drawn - drawn.mean(0)).T, upper=False).T
        values = torch.linalg.eigvalsh(white.T.cov())
        spectrum = f", eigenvalues {float(values[0]):.2f} to {float(values[-1]):.2f}"
        distance = wasserstein(drawn, exact)
        samples = drawn.view(-1, 1, 1, N, N)
        score = torch.stack([_score(problem, prior, x) for x in samples])
        stein = float(it.metrics.kernel_stein_discrepancy(samples, score))
        spectrum += f", W2 {distance:.2f} of the deviation, Stein discrepancy {stein:.2f}"
    if label in ("DAPS", "PiGDM", "EDM"):
        spectrum += " " + verdict(0.9 < variance < 1.1, "variance 0.9 to 1.1")
    held = (
        verdict(relative < 0.05, "mean within 5 %")
        if label in ("ULA", "DPS", "DiffPIR", "DDRM", "DAPS", "PiGDM", "EDM")
        else ""
    )
    print(
        f"{name:10s} {label:30s} mean off by {100 * relative:4.1f} %, "
        f"{100 * float(away.norm()) / moved:4.0f} % of what the measurements move it "
        f"({100 * chance / moved:.0f} % by chance); variance x {variance:.2f}{spectrum}; "
        f"{seconds:.1f} s {held}",
        flush=True,
    )


def wasserstein(drawn: Tensor, exact: it.posterior.Posterior) -> float:
    """Return the 2-Wasserstein distance of two Gaussians, relative to the exact deviation."""
    mean, own = drawn.mean(0), drawn.T.cov()
    right = exact.covariance[0].to(own)
    values, vectors = torch.linalg.eigh(right)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    both = torch.linalg.eigvalsh(root @ own @ root).clamp_min(0).sqrt().sum()
    squared = (mean - exact.mean.flatten()).square().sum() + own.trace() + right.trace() - 2 * both
    return float((squared.clamp_min(0) / right.trace()).sqrt())


def _score(problem: it.Problem, prior: it.priors.Gaussian, x: Tensor) -> Tensor:
    A, D = problem.operator, problem.data_term
    return -A.adjoint(D.grad(A(x), problem.y)) - prior.density_gradient(x)


def _mixture(count: int, only: str) -> None:
    """Create two faces of equal weight, and measure a quarter of the pixels with much noise.

    The measurements do not determine the face.
    """
    generator = torch.Generator().manual_seed(3)
    means = 0.5 + 0.15 * torch.randn(2, 1, N, N, generator=generator)
    prior = it.priors.GaussianMixture(means, correlated(0.004)[None], torch.tensor([0.5, 0.5]))
    A = it.operators.Inpainting(
        (torch.rand(1, N, N, generator=generator) > 0.85).float(), (1, N, N)
    )
    y = A(0.6 * means[:1] + 0.4 * means[1:])
    problem = it.Problem(y, A, it.data_terms.LeastSquares(noise_std=0.3))
    exact = it.exact_posterior(problem, prior)
    print(f"mixture: exact shares {[round(float(v), 2) for v in exact.shares[0]]}")
    for label, solver in samplers(count, only).items():
        solution = it.solve(problem, prior, solver, progress=False)
        shares = prior.log_shares(solution.posterior.sample(min(count, 512))[:, 0]).exp().mean(0)
        off = float((solution.x - exact.mean).norm() / exact.mean.norm())
        print(
            f"mixture    {label:30s} shares {[round(float(v), 2) for v in shares]}, mean off by "
            f"{100 * off:.1f} %, variance x "
            f"{float(solution.posterior.std.square().sum() / exact.std.square().sum()):.2f}",
            flush=True,
        )


if __name__ == "__main__":
    run_script(main)
