"""Products with sparse matrices: against dense ones, with their derivatives."""

from __future__ import annotations

import pytest
import torch

from invtoolbox.errors import InputError
from invtoolbox.kernels.points.sparse_product import SparseProduct


def example(dtype: torch.dtype = torch.float64) -> tuple[SparseProduct, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows, columns = (
        torch.randint(0, 7, (20,), generator=generator),
        torch.randint(0, 5, (20,), generator=generator),
    )
    values = torch.randn(20, generator=generator, dtype=dtype)
    dense = torch.zeros(7, 5, dtype=dtype).index_put_((rows, columns), values, accumulate=True)
    return SparseProduct(rows, columns, values, (7, 5)), dense


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_is_the_dense_product(dtype: torch.dtype) -> None:
    A, dense = example(dtype)
    x, y = torch.randn(2, 3, 5, 4, dtype=dtype), torch.randn(7, 2, dtype=dtype)
    assert torch.allclose(A(x), dense @ x, atol=1e-6)
    assert torch.allclose(A.T(y), dense.T @ y, atol=1e-6)
    assert A(x).dtype == dtype and A.to(torch.float32)(x.float()).dtype == torch.float32


def test_has_the_derivatives() -> None:
    A, _ = example()
    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(A, (x,))
    assert torch.autograd.gradgradcheck(lambda u: A(u).square(), (x,))


def test_may_be_empty() -> None:
    none = torch.zeros(0, dtype=torch.long)
    A = SparseProduct(none, none, torch.zeros(0), (3, 2))
    assert torch.equal(A(torch.ones(2, 4)), torch.zeros(3, 4))


def test_says_what_does_not_fit() -> None:
    with pytest.raises(InputError, match="no column"):
        SparseProduct(torch.tensor([0]), torch.tensor([5]), torch.ones(1), (2, 2))
    with pytest.raises(InputError, match="as many rows"):
        SparseProduct(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), (2, 2))
    with pytest.raises(InputError, match="takes"):
        example()[0](torch.ones(4, 1))
