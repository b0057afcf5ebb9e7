"""Gradient origin networks and variational autoencoders: their latents, their training on the one loop, and what they are as priors."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor, nn

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.training import L2, Stage, train
from invtoolbox.training.pairs import Pairs

ORIGIN, VAE = it.priors.GradientOriginNetwork, it.priors.AutoencoderNetwork


class Bumps(Pairs):
    """Bumps of random place and height on 8 pixels, and themselves."""

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        place, height = (torch.rand(count, 1, 1, generator=generator) for _ in range(2))
        x = (0.5 + height) * torch.exp(-(torch.linspace(0, 1, 8) - place).square() / 0.05)
        return x, x

    def __repr__(self) -> str:
        return "Bumps()"


def decoder(latents: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Linear(latents, 16), nn.ELU(), nn.Linear(16, 8), nn.Unflatten(1, (1, 8))
    )


def images(count: int) -> Tensor:
    return Bumps().draw(count, torch.Generator().manual_seed(7))[0]


def test_the_origin_is_the_gradient_of_an_items_own_misfit() -> None:
    torch.manual_seed(0)
    network, x = ORIGIN(decoder(), 3).double(), images(6).double()
    z = network.origin(x)
    h = 1e-5
    for k in range(3):
        step = torch.zeros(6, 3, dtype=torch.float64)
        step[:, k] = h
        up, down = (
            (x - network.decoder(sign * step)).square().flatten(1).sum(1) for sign in (1, -1)
        )
        torch.testing.assert_close(z[:, k], -(up - down) / (2 * h), rtol=1e-6, atol=1e-8)
    # Whatever the batch, unlike a mean over it.
    torch.testing.assert_close(torch.cat([network.origin(one) for one in x.split(1)]), z)


def test_training_goes_through_the_origin() -> None:
    torch.manual_seed(0)
    network = ORIGIN(decoder(), 3)
    trained = train(network, Bumps(), [Stage(L2(), 150, 1e-2, 32, "last")], progress=False)
    assert float(trained.losses[-20:].mean()) < 0.2 * float(trained.losses[:5].mean())
    weight = network.decoder[0].weight
    loss = (network(images(4)) - images(4)).square().sum()
    (whole,) = torch.autograd.grad(loss, weight)
    z = network.origin(images(4)).detach()
    (apart,) = torch.autograd.grad((network.decoder(z) - images(4)).square().sum(), weight)
    assert float((whole - apart).norm()) > 0.1 * float(apart.norm())


def priors() -> dict[str, it.priors.ImplicitPrior]:
    torch.manual_seed(0)
    vae = VAE(nn.Sequential(nn.Flatten(), nn.Linear(8, 6)), decoder())
    return {
        "origin": it.priors.GradientOrigin.fit(ORIGIN(decoder(), 3), images(50)),
        "vae": it.priors.VariationalAutoencoder(vae, 3),
    }


@pytest.mark.parametrize("kind", ["origin", "vae"])
def test_they_are_implicit_priors_as_promised(kind: str) -> None:
    it.testing.check_prior(priors()[kind], images(3))


@pytest.mark.parametrize("kind", ["origin", "vae"])
def test_the_mode_of_the_latents_is_found_from_measurements(kind: str) -> None:
    prior = priors()[kind]
    assert isinstance(prior, (it.priors.GradientOrigin, it.priors.VariationalAutoencoder))
    truth = prior.sample(2, torch.Generator().manual_seed(1))
    A = it.operators.Matrix(torch.eye(8)[[0, 1, 3, 5, 6]])
    problem = it.Problem(A.simulate(truth, 0.01), A, it.data_terms.LeastSquares(noise_std=0.01))
    solution = it.solve(
        problem, prior, "lbfgs", initial=prior.encode(truth), max_iterations=100, progress=False
    )
    assert float((solution.x - truth).abs().max()) < 0.15
    assert solution.parameters is not None and solution.parameters["w"].shape == (2, 3)


def test_the_density_is_that_of_the_latents_it_was_fitted_to() -> None:
    torch.manual_seed(0)
    network, x = ORIGIN(decoder(), 3), images(400)
    prior = it.priors.GradientOrigin.fit(network, x)
    energies = prior.energy(prior.encode(x), None)
    assert float(energies.mean()) == pytest.approx(
        1.5, rel=0.02
    )  # half of three squared standard normal numbers
    z = network.origin(x).detach().double()
    expected = torch.distributions.MultivariateNormal(z.mean(0), z.T.cov()).log_prob(z)
    torch.testing.assert_close(
        (energies.double() + expected).diff(),
        torch.zeros(399, dtype=torch.float64),
        atol=1e-2,
        rtol=0,
    )
    assert prior.sample(5, torch.Generator().manual_seed(0)).shape == (5, 1, 8)


def test_what_mixes_items_or_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="batch normalization"):
        it.priors.GaussianLatents(nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4)), torch.zeros(2))
    with pytest.raises(InputError, match="positive definite"):
        it.priors.GaussianLatents(nn.Linear(2, 4), torch.zeros(2), -torch.eye(2))
    with pytest.raises(InputError, match="a mean \\(n,\\) and a covariance"):
        it.priors.GaussianLatents(nn.Linear(2, 4), torch.zeros(2), torch.eye(3))
    with pytest.raises(InputError, match="more images than that, got 3"):
        it.priors.GradientOrigin.fit(ORIGIN(decoder(), 3), images(3))
