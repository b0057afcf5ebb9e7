"""Galerkin transformer: the explicit product, any sampling, the same bits alone, and learning."""

from __future__ import annotations

import pytest
import torch

from invtoolbox.errors import InputError
from invtoolbox.networks.galerkin import GalerkinAttention
from invtoolbox.training import L2, Examples, GalerkinTransformer, Stage, train


def test_the_cheap_order_of_the_product_equals_the_explicit_one() -> None:
    torch.manual_seed(0)
    attention, x, places = GalerkinAttention(12, 3, 2), torch.randn(2, 50, 12), torch.rand(1, 50, 2)
    q, k, v = attention.project(x, places)
    explicit = attention.join((q @ k.mT) @ v / 50)
    error = (attention(x, places) - explicit).norm() / explicit.norm()
    assert float(error.detach()) < 1e-5
    # K and V of each head have mean 0 and variance 1 behind the coordinates.
    assert float(k.detach()[..., 2:].mean(-1).abs().max()) < 1e-5
    assert float((v.detach()[..., 2:].var(-1, unbiased=False) - 1).abs().max()) < 1e-2


def test_a_finer_sampling_gives_the_same_function() -> None:
    network = GalerkinTransformer(width=8, heads=2, depth=2, kernel=1).eval()

    def sample(n: int) -> torch.Tensor:
        return torch.sin(5 * (torch.arange(n) + 0.5) / n)[None, None]

    with torch.no_grad():
        coarse, fine = network(sample(100)), network(sample(300))
    assert float((fine[..., 1::3] - coarse).norm() / coarse.norm()) < 1e-3


def test_pictures_and_items_alone() -> None:
    network = GalerkinTransformer(2, 3, dimensions=2, width=8, heads=2, depth=1, kernel=3).eval()
    x = torch.rand(3, 2, 7, 9, generator=torch.Generator().manual_seed(0))
    assert network(x).shape == (3, 3, 7, 9)
    assert torch.equal(network(x)[2:], network(x[2:]))


def test_it_learns_a_mean() -> None:
    draw = torch.Generator().manual_seed(0)
    u = torch.randn(64, 1, 1, generator=draw) + torch.randn(64, 1, 20, generator=draw)
    truth = u.mean(2, keepdim=True).expand(-1, -1, 20)
    network = GalerkinTransformer(width=8, heads=2, depth=1, kernel=1)
    trained = train(network, Examples(u, truth), [Stage(L2(), 50, 1e-2, 16)], progress=False)
    assert float(trained.losses[-5:].mean()) < 0.2 * float(truth.square().mean())


def test_bad_input() -> None:
    with pytest.raises(InputError, match="multiple of heads"):
        GalerkinAttention(9, heads=2)
    with pytest.raises(InputError, match="odd kernel"):
        GalerkinTransformer(kernel=4)
    with pytest.raises(InputError, match="1 channels and 1 spatial axes"):
        GalerkinTransformer(width=8, heads=2, depth=1)(torch.zeros(1, 2, 9))
    with pytest.raises(InputError, match="takes torch.float32 functions .* got torch.complex64"):
        GalerkinTransformer(width=8, heads=2, depth=1)(torch.zeros(1, 1, 9, dtype=torch.complex64))
