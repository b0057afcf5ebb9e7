"""Kernels of event pictures against the same sums by torch: values and derivatives."""

from __future__ import annotations

import pytest
import torch

import invtoolbox as it
from tests.operators.test_event_warp import drawn


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-4), (torch.float64, 1e-6)])
def test_pictures_and_derivatives_equal_those_of_torch(dtype: torch.dtype, limit: float) -> None:
    items = [drawn(1, 60), drawn(2, 45)]
    A = it.operators.EventWarp(items, references=3, grid=(3, 4, 5), margin=2)
    generator = torch.Generator().manual_seed(3)
    x = 4 * torch.randn(2, *A.domain_shape, generator=generator, dtype=dtype)
    x.requires_grad_()
    weights = torch.randn(2, *A.range_shape, generator=generator, dtype=dtype)
    pairs = []
    for call in (A, A._compose):
        pictures = call(x)
        (slope,) = torch.autograd.grad((pictures.square() * weights).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(slope.square().sum(), x)
        pairs.append((pictures, slope, second))
    for ours, torchs in zip(*pairs):
        scale = float(torchs.abs().max())
        assert float((ours - torchs).abs().max()) < limit * scale


def test_events_that_leave_the_picture_have_no_vote() -> None:
    A = it.operators.EventWarp(drawn(1, 60), references=2, grid=(2, 2, 2), margin=0)
    x = torch.full((1, *A.domain_shape), 1e9).requires_grad_()
    pictures = A(x)
    # Only the last event at the last time, and the first one at the first, stay.
    assert 0 < float(pictures.detach().sum()) <= 2
    pictures.sum().backward()
    assert bool(x.grad.isfinite().all())  # type: ignore[union-attr]


def test_the_bits_depend_neither_on_the_threads_nor_on_vmap() -> None:
    A = it.operators.EventWarp(drawn(1, 3000, (30, 40)), references=5, grid=(3, 5, 5))
    x = 3 * torch.randn(4, 1, *A.domain_shape, generator=torch.Generator().manual_seed(1))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        several = [A(one) for one in x]
        torch.set_num_threads(1)
        alone = [A(one) for one in x]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, two) for one, two in zip(several, alone))
    assert torch.equal(torch.vmap(A._forward)(x), torch.stack(alone))
