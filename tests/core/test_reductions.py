"""Sums of the items of a batch: the same bits alone, in a batch, and with any number of threads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from invtoolbox.core.reductions import mean_items, norm_items, sum_items
from invtoolbox.core.threads import limit_torch_threads
from invtoolbox.operators.base import inner


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("reduction", [sum_items, mean_items, norm_items])
def test_bits_depend_neither_on_the_batch_nor_on_threads(
    reduction: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype
) -> None:
    x = torch.rand(3, 1, 190, 257, dtype=dtype, generator=torch.Generator().manual_seed(0))
    with limit_torch_threads(1):
        expected = reduction(x)
    torch.testing.assert_close(
        expected, reduction(x.to(torch.complex128)).to(expected), rtol=1e-4, atol=0
    )
    for threads in (1, 2, 3):
        with limit_torch_threads(threads):
            alone = torch.cat([reduction(item) for item in x.split(1)])
            assert torch.equal(reduction(x), expected) and torch.equal(alone, expected)


def test_the_sum_has_a_gradient() -> None:
    x = torch.rand(1, 1, 190, 190, dtype=torch.float64, requires_grad=True)
    with limit_torch_threads(2):
        sum_items(x.square()).backward()
    assert torch.equal(x.grad, 2 * x.detach())


@pytest.mark.parametrize("mixed", [False, True])
def test_complex_inner_products_do_not_depend_on_the_batch(mixed: bool) -> None:
    # The last values of a tensor are multiplied one by one, with other roundings than vectors are.
    draw = torch.Generator().manual_seed(3)
    for _ in range(60):
        x = torch.randn(3, 21, 21, dtype=torch.complex64, generator=draw)
        y = x.real.clone() if mixed else torch.randn(x.shape, dtype=x.dtype, generator=draw)
        together = inner(x, y)
        assert torch.equal(
            together, torch.cat([inner(x[k : k + 1], y[k : k + 1]) for k in range(3)])
        )
        expected = (x.to(torch.complex128) * y.conj()).sum((1, 2)).real
        torch.testing.assert_close(together.double(), expected, rtol=1e-4, atol=1e-3)


def test_the_norm_of_a_volume_is_accurate_in_float32() -> None:
    x = torch.randn(2, 3_000_001, generator=torch.Generator().manual_seed(0))
    expected = x.double().norm(dim=1)
    assert float((norm_items(x) / expected - 1).abs().max()) < 1e-6
    assert torch.equal(norm_items(x[1:]), norm_items(x)[1:])
