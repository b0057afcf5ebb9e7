"""Wasserstein distance of traces: the contract, exact values, and its basin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

import invtoolbox as it
from invtoolbox.data_terms import LeastSquares, Wasserstein
from invtoolbox.data_terms.wasserstein import squared_distance
from invtoolbox.errors import InputError


def traces(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_contract_of_a_data_term() -> None:
    it.testing.check_data_term(Wasserstein(), traces(2, 1, 2, 9), traces(2, 1, 2, 9, seed=1))


def test_the_gradient_is_exact() -> None:
    # Samples far below 0 have hardly any mass, and differences of 1e-6 are too long for them.
    p, y = (0.5 * traces(2, 1, 1, 6)).requires_grad_(True), traces(2, 1, 1, 6, seed=1)
    assert torch.autograd.gradcheck(lambda p: Wasserstein().value(p, y), p)
    assert float(Wasserstein().grad(y, y).abs().max()) < 1e-10


def test_the_distance_is_the_integral_over_the_quantiles() -> None:
    p, q = traces(2, 8).softmax(-1)
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    edges = torch.arange(9.0, dtype=torch.float64).numpy()
    ends = [np.concatenate([[0.0], part.cumsum(-1).numpy()]) for part in (p, q)]
    gap = np.interp(u.numpy(), ends[0], edges) - np.interp(u.numpy(), ends[1], edges)
    assert float(squared_distance(p, q)) == pytest.approx(float((gap**2).mean()), rel=1e-6)
    # The first moment is a lower bound, and is equal for a delay.
    place = np.arange(8.0)
    assert float(squared_distance(p, q)) > wasserstein_distance(place, place, p, q) ** 2 * 0.99
    moved = torch.cat([torch.full((3,), 1e-14, dtype=torch.float64), p])
    still = torch.cat([p, torch.full((3,), 1e-14, dtype=torch.float64)])
    assert float(squared_distance(moved, still)) == pytest.approx(9.0, abs=1e-6)


def test_it_grows_with_the_delay_when_least_squares_no_longer_does() -> None:
    wave = it.simulation.ricker(5.0, 0.005, 400, delay=1.0).double().view(1, 1, -1)
    values = {
        name: [float(term.value(wave.roll(k, -1), wave)) for k in range(0, 100, 10)]
        for name, term in (("plain", LeastSquares()), ("transport", Wasserstein()))
    }
    assert values["transport"] == sorted(values["transport"])
    assert values["plain"] != sorted(values["plain"])


def test_predictions_far_below_the_measurements_stay_finite() -> None:
    y = traces(1, 1, 1, 9)
    for place in (0, 4, 8):
        p = traces(1, 1, 1, 9, seed=1)
        p[..., place:] -= 40.0
        p[..., place] = -1e4
        p.requires_grad_(True)
        value = Wasserstein().value(p, y)
        assert 0 < float(value.detach()) < 41
        assert bool(torch.autograd.grad(value.sum(), p)[0].isfinite().all())


def test_silent_traces_and_bad_input() -> None:
    p, y = traces(1, 1, 2, 9), traces(1, 1, 2, 9, seed=1)
    y[:, :, 1] = 0
    term = Wasserstein()
    assert torch.equal(term.value(p, y), term.value(p[:, :, :1], y[:, :, :1]))
    assert not bool(term.grad(p, y)[:, :, 1].any())
    with pytest.raises(InputError, match="sharpness of Wasserstein must be positive"):
        Wasserstein(0.0)
    with pytest.raises(InputError, match="at least two samples"):
        term.check(torch.zeros(2, 1, 3, 1))
