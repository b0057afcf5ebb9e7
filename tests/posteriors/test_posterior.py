"""`Solution.posterior` of linear problems with Gaussian noise and quadratic priors."""

from __future__ import annotations

from statistics import NormalDist

import pytest
import torch

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.posteriors.base import MappedPosterior, Posterior


def solved(weights: torch.Tensor | None = None, batch: int = 1) -> tuple[it.Solution, torch.Tensor]:
    """A small problem, and its covariance in closed form."""
    generator = torch.Generator().manual_seed(0)
    M = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    noise = torch.tensor([0.3, 0.6])[:batch].double()
    y = torch.stack(
        [torch.randn(1, 8, generator=generator, dtype=torch.float64) for _ in range(batch)]
    )
    L = it.operators.FiniteDifference((1, 5))
    prior = 2.0 * it.priors.Tikhonov(
        reference=torch.ones(1, 1, 5, dtype=torch.float64)
    ) + 3.0 * it.priors.Tikhonov("gradient")
    problem = it.Problem(
        y, it.operators.Matrix(M), it.data_terms.LeastSquares(noise_std=noise, weights=weights)
    )
    solution = it.solve(problem, prior, regularization=1.5, tolerance=1e-9, progress=False)
    D = torch.stack([L(e.view(1, 1, 5))[0].flatten() for e in torch.eye(5, dtype=torch.float64)], 1)
    W = (
        torch.eye(8, dtype=torch.float64)
        if weights is None
        else torch.diag(weights.flatten().double())
    )
    H = torch.stack(
        [
            M.T @ W @ M / s**2 + 1.5 * (2 * torch.eye(5, dtype=torch.float64) + 3 * D.T @ D)
            for s in noise
        ]
    )
    return solution, torch.linalg.inv(H)


@pytest.mark.parametrize(
    "weights", [None, torch.tensor([[[0.0, 1, 2, 1, 1, 0.5, 1, 3]]])], ids=["plain", "weighted"]
)
def test_mean_and_covariance_are_those_of_the_closed_form(weights: torch.Tensor | None) -> None:
    solution, covariance = solved(weights, batch=2)
    samples = solution.posterior.sample(4000)
    assert samples.shape == (4000, 2, 1, 5)
    for k in range(2):
        x = samples[:, k, 0]
        standard_error = covariance[k].diagonal().sqrt() / 4000**0.5
        assert bool(((x.mean(0) - solution.x[k, 0]).abs() < 4.5 * standard_error).all())
        assert (
            float(
                torch.linalg.matrix_norm(torch.cov(x.T) - covariance[k])
                / torch.linalg.matrix_norm(covariance[k])
            )
            < 0.08
        )
        torch.testing.assert_close(
            solution.posterior.std[k, 0], covariance[k].diagonal().sqrt(), rtol=0.25, atol=0
        )


def test_the_interval_holds_what_it_says() -> None:
    solution, _ = solved()
    low, high = solution.posterior.interval(0.9)
    samples = solution.posterior.sample(1000, seed=7)
    share = ((samples > low) & (samples < high)).double().mean()
    assert 0.84 < float(share) < 0.95
    with pytest.raises(InputError, match=r"level of interval must lie in \(0, 1\)"):
        solution.posterior.interval(95)


def test_samples_are_a_function_of_their_number_and_an_item_is_alone() -> None:
    solution, _ = solved(batch=2)
    assert torch.equal(solution.posterior.sample(3), solution.posterior.sample(3))
    torch.testing.assert_close(
        solution.posterior.sample(3)[1:],
        solution.posterior.sample(2, first=1),
        rtol=1e-4,
        atol=1e-5,
    )
    alone, _ = solved(batch=1)
    torch.testing.assert_close(
        alone.posterior.sample(2)[:, 0], solution.posterior.sample(2)[:, 0], rtol=1e-4, atol=1e-5
    )


def test_there_is_none_where_the_method_has_none() -> None:
    problem = it.Problem(torch.ones(1, 1, 4), it.operators.Identity((1, 4)))
    assert (
        it.solve(problem, it.priors.Tikhonov(), regularization=1.0, progress=False).posterior
        is None
    )  # no noise level
    known = it.Problem(
        torch.ones(1, 1, 4),
        it.operators.Identity((1, 4)),
        it.data_terms.LeastSquares(noise_std=0.1),
    )
    assert (
        it.solve(known, it.priors.TotalVariation(), regularization=1.0, progress=False).posterior
        is None
    )
    assert (
        it.solve(known, it.priors.Tikhonov(), regularization=1.0, progress=False).posterior
        is not None
    )


class Skewed(Posterior):
    """Squares of uniform numbers, one sequence for both items."""

    number = 300

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        one = torch.stack(
            [
                torch.rand(1, 1, 4, 5, generator=generator, dtype=torch.float64).square()
                for _ in range(count)
            ]
        )
        return torch.cat([one, 2 * one], 1)


def test_moments_and_quantiles_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Skewed()
    samples = whole.sample(300)
    torch.testing.assert_close(whole.mean, samples.mean(0))
    torch.testing.assert_close(whole.std, samples.std(0))
    low, high = whole.interval(0.9, shape="quantile")
    torch.testing.assert_close(high, samples.quantile(0.95, 0))
    monkeypatch.setattr(
        "invtoolbox.posteriors.base._AT_ONCE", 7 * 40
    )  # seven samples a chunk; blocks of three pixels
    parts = Skewed()
    assert torch.equal(parts.sample(300), samples)
    torch.testing.assert_close(parts.std, whole.std)
    torch.testing.assert_close(parts.interval(0.9, shape="quantile"), (low, high))


def test_kept_moments_are_a_posterior_of_independent_pixels() -> None:
    generator = torch.Generator().manual_seed(3)
    mean, std = torch.randn(2, 1, 5, generator=generator), torch.rand(2, 1, 5, generator=generator)
    posterior, alone = it.MeanFieldPosterior(mean, std), it.MeanFieldPosterior(mean[1:], std[1:])
    samples = posterior.sample(2000)
    torch.testing.assert_close(samples.mean(0), mean, atol=0.08, rtol=0)
    torch.testing.assert_close(samples.std(0), std, atol=0, rtol=0.08)
    assert torch.equal(alone.sample(3), samples[:3, 1:])
    assert torch.equal(posterior.interval(0.5)[1], mean + NormalDist().inv_cdf(0.75) * std)
    for wrong in (std[:1], -std):
        with pytest.raises(InputError, match="a mean and a standard deviation of one shape"):
            it.MeanFieldPosterior(mean, wrong)


def test_coverage_is_the_share_of_pixels_within() -> None:
    posterior = Skewed()
    low, high = posterior.interval(0.5)
    x = (low + high) / 2
    x[0, 0, 0, :] = 9.0
    torch.testing.assert_close(
        posterior.coverage(x, 0.5), torch.tensor([0.75, 1.0], dtype=torch.float64)
    )
    fresh = posterior.sample(30, seed=5)
    held = torch.stack([posterior.coverage(x, 0.8, shape="quantile") for x in fresh]).mean()
    assert 0.75 < float(held) < 0.83
    with pytest.raises(InputError, match="images"):
        posterior.coverage(torch.zeros(1, 1, 3, 3))
    for number in (0, -3, 2.5):
        with pytest.raises(InputError, match="whole number of at least 1"):
            posterior.sample(number)  # type: ignore[arg-type]
    for level in (0.0, 1.0, 95):
        with pytest.raises(InputError, match=r"level of interval must lie in \(0, 1\)"):
            posterior.interval(level)
    with pytest.raises(InputError, match="'normal' or 'quantile'"):
        posterior.interval(0.5, shape="box")  # type: ignore[arg-type]


def test_the_deviation_of_averages_is_not_the_average_of_deviations() -> None:
    """Means over four independent pixels have half of their deviation."""
    fine = it.MeanFieldPosterior(torch.ones(1, 1, 8, 8), torch.full((1, 1, 8, 8), 2.0), number=4000)
    coarse = MappedPosterior(fine, lambda x: torch.nn.functional.avg_pool2d(x, 2), by_value=False)
    assert torch.equal(coarse.mean, torch.ones(1, 1, 4, 4))
    assert bool((coarse.std - 1).abs().max() < 0.06)
    cropped = MappedPosterior(fine, lambda x: x[..., 2:, :])
    assert torch.equal(cropped.std, torch.full((1, 1, 6, 8), 2.0))


def test_the_exact_posterior_of_another_prior_is_named() -> None:
    problem = it.Problem(
        torch.zeros(1, 1, 4),
        it.operators.Identity((1, 4)),
        it.data_terms.LeastSquares(noise_std=0.5),
    )
    with pytest.raises(it.InputError, match=r"it\.solve\(problem, prior\)\.posterior"):
        it.exact_posterior(problem, it.priors.Tikhonov())
