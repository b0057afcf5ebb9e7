"""Simulated noise: the right size, and a draw that depends on the seed alone."""

from __future__ import annotations

import pytest
import torch

import invtoolbox as it
from invtoolbox.operators import Identity, stack
from invtoolbox.operators.noise import Gaussian, Poisson, RelativeGaussian

A = Identity((1, 64, 64))


@pytest.fixture()
def x() -> torch.Tensor:
    return torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(0)) + 0.5


@pytest.mark.parametrize("noise", [0.1, Gaussian(0.1), RelativeGaussian(0.05), Poisson(50.0)])
def test_an_item_gets_the_same_noise_alone_and_in_company(noise: object, x: torch.Tensor) -> None:
    y = A.simulate(x, noise, seed=7)
    assert torch.equal(y, A.simulate(x, noise, seed=7)) and not torch.equal(
        y, A.simulate(x, noise, seed=8)
    )
    for k in range(3):
        assert torch.equal(y[k : k + 1], A.simulate(x[k : k + 1], noise, seed=7))
    state = torch.get_rng_state()
    A.simulate(x, noise)
    assert torch.equal(torch.get_rng_state(), state)


def test_one_seed_an_item(x: torch.Tensor) -> None:
    y = A.simulate(x, 0.1, seed=[3, 4, 3]) - x
    torch.testing.assert_close(y[0], y[2])
    assert not torch.allclose(y[0], y[1])
    with pytest.raises(it.InputError, match="2 seeds for a batch of 3"):
        A.simulate(x, 0.1, seed=[1, 2])


def test_sizes(x: torch.Tensor) -> None:
    y = A.simulate(x, torch.tensor([0.1, 0.2, 0.0])) - x
    for k, std in enumerate((0.1, 0.2, 0.0)):
        assert float(y[k].std()) == pytest.approx(std, rel=0.05)
    level = torch.tensor([0.02, 0.01, 0.3])
    e = (A.simulate(x, RelativeGaussian(level)) - x).flatten(1).norm(dim=1) / x.flatten(1).norm(
        dim=1
    )
    torch.testing.assert_close(e, level, rtol=1e-5, atol=0)
    flat = torch.full_like(x, 0.8)
    counted = A.simulate(flat, Poisson(200.0), seed=1)
    assert float(counted.mean()) == pytest.approx(0.8, rel=0.01)
    assert float(counted[0].var()) == pytest.approx(0.8 / 200, rel=0.1)
    torch.testing.assert_close(counted * 200, (counted * 200).round(), rtol=0, atol=1e-3)


def test_precision_changes_the_draw_by_rounding_only(x: torch.Tensor) -> None:
    torch.testing.assert_close(A.simulate(x.double(), 0.1).float(), A.simulate(x, 0.1))


def test_tuples_and_complex_measurements(x: torch.Tensor) -> None:
    y = stack([A, 2 * A]).simulate(x, RelativeGaussian(0.1))
    for part, clean in zip(y, (x, 2 * x)):
        torch.testing.assert_close(
            (part - clean).flatten(1).norm(dim=1), 0.1 * clean.flatten(1).norm(dim=1)
        )
    z = A.simulate(torch.complex(x, x), 0.1) - torch.complex(x, x)
    assert z.real.std() == pytest.approx(0.1, rel=0.05) and z.imag.std() == pytest.approx(
        0.1, rel=0.05
    )


def test_wrong_noise_gets_one_sentence(x: torch.Tensor) -> None:
    with pytest.raises(it.InputError, match="nonnegative"):
        A.simulate(x, -1.0)
    with pytest.raises(it.InputError, match="positive"):
        Poisson(0.0)
    with pytest.raises(it.InputError, match="not negative"):
        A.simulate(-x, Poisson(10.0))
    with pytest.raises(it.InputError, match="2 values of std for a batch of 3"):
        A.simulate(x, torch.tensor([0.1, 0.2]))
