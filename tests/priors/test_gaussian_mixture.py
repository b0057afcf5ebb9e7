"""Gaussian mixtures: what is exact about them, against numerical integration, closed forms and each other."""

from __future__ import annotations

import pytest
import torch

import invtoolbox as it
from invtoolbox.errors import InputError


def matrices(count: int, n: int) -> torch.Tensor:
    root = torch.randn(count, n, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return root @ root.mT / n + 0.1 * torch.eye(n, dtype=torch.float64)


def mixture(kind: str = "matrices") -> it.priors.GaussianMixture:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(3, 1, 2, 3, generator=generator, dtype=torch.float64)
    covariances = {
        "number": 0.3,
        "pixels": 0.1 + torch.rand(3, 1, 2, 3, generator=generator),
        "matrices": matrices(3, 6),
    }[kind]
    return it.priors.GaussianMixture(means, covariances, torch.tensor([0.5, 0.2, 0.3]))


@pytest.mark.parametrize("kind", ["number", "pixels", "matrices"])
def test_a_mixture_is_the_prior_that_it_says_it_is(kind: str) -> None:
    x = torch.randn(3, 1, 2, 3, generator=torch.Generator().manual_seed(2))
    it.testing.check_prior(mixture(kind), x)


def test_a_gaussian_has_a_prox_and_is_quadratic() -> None:
    prior = it.priors.Gaussian(torch.ones(1, 6, dtype=torch.float64), matrices(1, 6)[0])
    assert {"prox", "quadratic"} <= prior.offers
    it.testing.check_prior(prior, torch.randn(3, 1, 6, generator=torch.Generator().manual_seed(2)))


def test_energy_is_that_of_torch_and_the_score_its_gradient_at_every_noise_level() -> None:
    prior, x = (
        mixture(),
        torch.randn(4, 1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)),
    )
    sigma = torch.tensor([0.1, 0.5, 1.0, 3.0], dtype=torch.float64)
    for k, s in enumerate(sigma.tolist()):
        noisy = torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(
                probs=torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
            ),
            torch.distributions.MultivariateNormal(
                prior.means.flatten(1), prior.covariances() + s**2 * torch.eye(6)
            ),
        )
        free = x[k].flatten().requires_grad_(True)
        (expected,) = torch.autograd.grad(noisy.log_prob(free), free)
        torch.testing.assert_close(prior.score(x, sigma)[k].flatten(), expected)
        torch.testing.assert_close(
            prior.denoise(x, sigma)[k], x[k].detach() + s**2 * expected.view(1, 2, 3)
        )
    clean = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(probs=torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)),
        torch.distributions.MultivariateNormal(prior.means.flatten(1), prior.covariances()),
    )
    difference = prior.energy(x.detach()) + clean.log_prob(x.detach().flatten(1))
    torch.testing.assert_close(difference, difference[:1].expand(4))


def test_the_denoiser_is_the_posterior_mean_by_integration() -> None:
    prior = it.priors.GaussianMixture(
        torch.tensor([[[-1.0]], [[0.5]]], dtype=torch.float64),
        torch.tensor([[[0.2]], [[0.05]]]).double(),
    )
    u = torch.linspace(-8, 8, 20001, dtype=torch.float64)
    density = (-prior.energy(u.view(-1, 1, 1)) - (u - 0.2).square() / (2 * 0.7**2)).exp()
    expected = float((density * u).sum() / density.sum())
    assert float(prior.denoise(torch.tensor([[[0.2]]], dtype=torch.float64), 0.7)) == pytest.approx(
        expected, rel=1e-6
    )


def test_draws_have_the_moments_of_the_mixture() -> None:
    prior = mixture()
    draws = prior.sample(40000, torch.Generator().manual_seed(0)).flatten(1)
    weights = prior.log_weights.exp()
    mean = weights @ prior.means.flatten(1)
    second = torch.einsum(
        "k,kij->ij",
        weights,
        prior.covariances() + prior.means.flatten(1)[:, :, None] * prior.means.flatten(1)[:, None],
    )
    torch.testing.assert_close(draws.mean(0), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(draws.T.cov(), second - mean[:, None] * mean, atol=0.06, rtol=0)


def test_what_is_no_mixture_is_refused() -> None:
    means = torch.zeros(2, 1, 3)
    for covariances, weights, words in (
        (-1.0, None, "positive definite"),
        (torch.ones(2, 5, 5), None, "covariances are a number"),
        (torch.ones(1, 3, 3).triu(), None, "symmetric"),
        (1.0, torch.tensor([1.0, 0.0]), "2 positive"),
    ):
        with pytest.raises(InputError, match=words):
            it.priors.GaussianMixture(means, covariances, weights)
    with pytest.raises(InputError, match=r"takes images \(1, 3\), got \(1, 4\)"):
        it.priors.GaussianMixture(means, 1.0).energy(torch.zeros(1, 1, 4))


@pytest.mark.parametrize("kind", ["number", "pixels", "matrices"])
def test_a_mixture_takes_other_precisions_complex_images_and_any_batch(kind: str) -> None:
    prior = mixture(kind)
    x = torch.randn(5, 1, 2, 3, generator=torch.Generator().manual_seed(2))
    clean = prior.denoise(x, 0.2)
    assert clean.dtype == prior.score(x).dtype == prior.energy(x).dtype == torch.float32
    wide = prior.to(torch.float32).denoise(x.double(), 0.2)
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide, clean.double(), rtol=1e-4, atol=1e-5)
    one = x[3:4]  # alone, bit by bit
    assert torch.equal(prior.denoise(one, 0.2), clean[3:4])
    assert torch.equal(prior.energy(one), prior.energy(x)[3:4])
    assert torch.equal(prior.score(one), prior.score(x)[3:4])
    # With one component, the real and the imaginary part are denoised alike.
    single = it.priors.GaussianMixture(torch.zeros(1, 1, 2, 3), 0.3)
    z = single.denoise(torch.complex(x, x.flip(0)), 0.2)
    torch.testing.assert_close(z.real, single.denoise(x, 0.2))
    torch.testing.assert_close(z.imag, z.real.flip(0))
