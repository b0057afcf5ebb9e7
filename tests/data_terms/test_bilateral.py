"""Bilateral weights: which side of a jump counts, and least squares without sharpness."""

from __future__ import annotations

import pytest
import torch

from invtoolbox.data_terms import Bilateral
from invtoolbox.errors import InputError


def drawn(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 4, 3, 5, generator=generator, dtype=torch.float64)


def test_the_weights_of_a_pair_add_up_to_one_and_prefer_the_smaller_difference() -> None:
    p, y = drawn(0), drawn(1)
    w = Bilateral(k=3.0).residual_weights(p, y)
    next_, before = w[:, 0::2], w[:, 1::2]
    assert torch.allclose(next_ + before, torch.ones_like(next_))
    assert torch.equal(next_ > before, p[:, 0::2].abs() < p[:, 1::2].abs())
    assert torch.allclose(Bilateral(k=3.0).grad(p, y), w * (p - y))


def test_without_sharpness_it_is_half_of_least_squares() -> None:
    p, y = drawn(0), drawn(1)
    assert torch.allclose(Bilateral(k=0.0).value(p, y), 0.25 * (p - y).square().flatten(1).sum(1))


def test_bad_settings_are_named() -> None:
    with pytest.raises(InputError, match="k of Bilateral"):
        Bilateral(k=-1.0)
    with pytest.raises(InputError, match="pairs"):
        Bilateral().value(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2))
