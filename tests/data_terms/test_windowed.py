"""Windowed data terms: weights of least squares, muted samples without influence, subsets."""

from __future__ import annotations

import pytest
import torch

import invtoolbox as it
from invtoolbox.data_terms import LeastSquares, Sobolev, Wasserstein, Windowed


def numbers(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 1, 3, 4, 16, generator=generator, dtype=torch.float64)


def window() -> torch.Tensor:
    weights = torch.rand(1, 1, 3, 4, 16, generator=torch.Generator().manual_seed(9)).double()
    weights[..., 10:] = 0.0
    return weights


def test_least_squares_has_the_same_weights() -> None:
    p, y, v = numbers(0), numbers(1), numbers(2)
    term, plain = Windowed(LeastSquares(0.5), window()), LeastSquares(0.5, weights=window())
    assert torch.allclose(term.value(p, y), plain.value(p, y))
    assert torch.allclose(term.grad(p, y), plain.grad(p, y))
    assert torch.allclose(term.weighted(v), plain.weighted(v))
    index = torch.tensor([2, 0])
    part, whole = term.subset(index, y), plain.subset(index, y)
    assert torch.allclose(
        part.value(p[:, :, index], y[:, :, index]), whole.value(p[:, :, index], y[:, :, index])
    )


@pytest.mark.parametrize("inner", [Sobolev(-1.0, 4.0, axes=(-1,), unit="sample"), Wasserstein()])
def test_muted_samples_have_no_influence(inner: it.data_terms.DataTerm) -> None:
    p, y = numbers(0).requires_grad_(True), numbers(1)
    term = Windowed(inner, window())
    changed = y.clone()
    changed[..., 10:] += 5.0
    assert torch.equal(term.value(p, y), term.value(p, changed))
    (slope,) = torch.autograd.grad(term.value(p, y).sum(), p)
    assert not slope[..., 10:].any() and slope[..., :10].any()
    assert torch.allclose(term.grad(p.detach(), y), slope)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(it.InputError, match="weights"):
        Windowed(LeastSquares(), torch.tensor([[[-1.0]]]))
