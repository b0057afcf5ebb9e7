"""Dense products give an item of a batch the bits that it has alone, wherever its memory begins."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import invtoolbox as it
from invtoolbox.core.pytrees import align, map_items

#: Odd numbers of values, so that no item but the first begins with a cache line.
SIDE, ROWS, ITEMS = 13, 41, 3


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


OPERATORS: dict[str, tuple[it.operators.LinearOperator, tuple[int, ...]]] = {
    "matrix": (it.operators.Matrix(draw(ROWS, SIDE**2), (1, SIDE, SIDE)), (1, SIDE, SIDE)),
    "matrices": (
        it.operators.Matrix(draw(ITEMS, ROWS, SIDE**2), (1, SIDE, SIDE)),
        (1, SIDE, SIDE),
    ),
    "downsampling": (it.operators.Downsampling((15, 21), 3), (1, 15, 21)),
    "unmixing": (it.operators.Unmixing(draw(31, 5), (SIDE, SIDE)), (5, SIDE, SIDE)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OPERATORS)
def test_an_item_is_the_same_alone_and_in_a_batch(name: str, dtype: torch.dtype) -> None:
    A, shape = OPERATORS[name]
    x = draw(ITEMS, *shape).to(dtype)
    y = A(x)
    for k in range(ITEMS):
        B = A.select(torch.tensor([k])) if name == "matrices" else A
        assert torch.equal(B(x[k : k + 1]), y[k : k + 1])
        assert torch.equal(B.adjoint(y[k : k + 1]), A.adjoint(y)[k : k + 1])
        assert torch.equal(B.pseudo_inverse(y[k : k + 1]), A.pseudo_inverse(y)[k : k + 1])


def test_derivatives_of_an_item_are_the_same_alone_and_in_a_batch() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(SIDE, ROWS), nn.Tanh(), nn.Linear(ROWS, SIDE)).double()
    x, v = draw(2, ITEMS, SIDE)

    def derivatives(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clone().requires_grad_()
        y = map_items(layers, x)
        (first,) = torch.autograd.grad((y * v).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad((first * v).sum(), x)
        return first.detach(), second

    whole = derivatives(x, v)
    for k in range(ITEMS):
        alone = derivatives(x[k : k + 1], v[k : k + 1])
        assert all(torch.equal(a, b[k : k + 1]) for a, b in zip(alone, whole))


def test_align_copies_only_what_begins_inside_a_cache_line() -> None:
    x = torch.zeros(32)
    assert align(x) is x and align(x[16:]).data_ptr() == x[16:].data_ptr()
    assert align(x[1:]).data_ptr() % 64 == 0
    assert torch.equal(torch.vmap(align)(x.view(2, 16)), x.view(2, 16))
