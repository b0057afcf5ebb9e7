"""What every reduction stands on."""

from __future__ import annotations

import pytest
import torch

from invtoolbox.operators.base import inner


@pytest.mark.parametrize("n", [1000, 5_550, 20_003, 1 << 18, 3_000_001])
def test_inner_products_are_accurate_and_do_not_depend_on_the_batch(n: int) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(3, n, generator=generator), torch.rand(3, n, generator=generator)
    exact = (a.double() * b.double()).sum(1)
    assert float(((inner(a, b).double() - exact) / exact).abs().max()) < 5e-7
    for k in range(3):
        assert torch.equal(inner(a[k : k + 1].clone(), b[k : k + 1].clone())[0], inner(a, b)[k])


def test_inner_products_have_derivatives() -> None:
    a = torch.rand(2, 5000, dtype=torch.float64, requires_grad=True)
    b = torch.rand(2, 5000, dtype=torch.float64)
    (slope,) = torch.autograd.grad(inner(a, b).sum(), a)
    assert torch.equal(slope, b)
