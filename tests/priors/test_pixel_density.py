"""The likelihood of an image, pixel by pixel: a probability that training raises."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.networks.pixel_network import mixture_log_probability
from invtoolbox.priors import PixelDensity, PixelNetwork
from invtoolbox.training import BitsPerPixel, Pairs, Stage, train


def test_the_probabilities_of_all_levels_sum_to_one() -> None:
    network = PixelNetwork(width=4, depth=1, mixture=2)
    levels = torch.linspace(0, 1, 16).view(-1, 1, 1, 1)
    parameters = network(torch.zeros(1, 1, 1, 1))
    found = mixture_log_probability(parameters, levels, 1 / 15, edges=True)
    assert float(found.detach().exp().sum()) == pytest.approx(1, abs=1e-5)


def test_it_is_a_prior_whose_energy_has_the_right_gradient() -> None:
    prior = PixelDensity(PixelNetwork(width=4, depth=2), levels=16)
    x = torch.rand(2, 1, 7, 6, generator=Generator().manual_seed(0))
    it.testing.check_prior(prior, x, raise_error=True)
    assert torch.equal(prior.energy(x)[1:], prior.energy(x[1:]))
    torch.testing.assert_close(prior.energy(x.double()), prior.energy(x).double())
    with pytest.raises(InputError, match="real images"):
        prior.energy(x + 0j)
    with pytest.raises(InputError, match="grey images"):
        PixelNetwork(4, 1)(x.expand(-1, 3, -1, -1))
    with pytest.raises(InputError, match="levels of BitsPerPixel must be at least 2"):
        BitsPerPixel(levels=1)
    with pytest.raises(InputError, match="levels of PixelDensity must be at least 2"):
        PixelDensity(PixelNetwork(4, 1), levels=1)
    with pytest.raises(InputError, match="rows, columns"):
        prior.energy(x[0])


class Stripes(Pairs):
    """Stripes of two grey levels."""

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        first = torch.randint(0, 2, (count, 1, 1, 1), generator=generator)
        x = ((first + torch.arange(6)) % 2).expand(-1, 1, 6, 6).float()
        return x, x


def test_training_lowers_the_bits_and_noise_raises_the_energy() -> None:
    network = PixelNetwork(width=6, depth=1, mixture=2)
    x, _ = Stripes().draw(8, Generator().manual_seed(0))
    before = float(PixelDensity(network).bits(x).detach().mean())
    stage = Stage(BitsPerPixel(), 60, 1e-2, 8)
    density = PixelDensity(train(network, Stripes(), [stage], progress=False).network)
    with torch.no_grad():
        assert float(density.bits(x).mean()) < 0.5 * before
        noise = torch.randn(x.shape, generator=Generator().manual_seed(1))
        found = torch.stack([density.energy(x + s * noise).mean() for s in (0, 0.05, 0.2, 0.5)])
    assert bool((found.diff() > 0).all())
