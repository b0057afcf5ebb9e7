"""Space-varying blur: the contract, the plain blur where nothing varies, deepinv's own figures, weights that add up."""

from __future__ import annotations

import pytest
import torch

import invtoolbox as it
from invtoolbox.operators import Blur, SpaceVaryingBlur, grid_weights
from invtoolbox.testing import check_operator


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("boundary", ["reflect", "periodic", "zero", "valid"])
@pytest.mark.parametrize("order", ["weights first", "kernels first"])
@pytest.mark.parametrize("items", [1, 3])
def test_keeps_the_contract(boundary: str, order: str, items: int) -> None:
    space = (9, 11) if order == "weights first" or boundary != "valid" else (7, 8)
    A = SpaceVaryingBlur(rand(items, 2, 3, 4), rand(2, *space, seed=1), (2, 9, 11), boundary, order)
    assert check_operator(A).ok


@pytest.mark.parametrize("order", ["weights first", "kernels first"])
def test_equal_kernels_are_a_plain_blur(order: str) -> None:
    kernel, x = rand(5, 4), rand(2, 3, 20, 18, seed=1)
    weights = grid_weights((2, 3), (20, 18)).double()
    torch.testing.assert_close(
        weights.sum(0), torch.ones(20, 18, dtype=torch.float64), rtol=0, atol=1e-6
    )
    A = SpaceVaryingBlur(kernel.expand(6, 5, 4), weights, (20, 18), order=order)
    torch.testing.assert_close(A(x), Blur(kernel, (20, 18))(x), rtol=0, atol=1e-6)


def test_a_point_becomes_the_interpolated_kernel() -> None:
    kernels, weights = rand(4, 3, 3), grid_weights((2, 2), (20, 20)).double()
    A = SpaceVaryingBlur(kernels, weights, (20, 20), "zero")
    x = torch.zeros(1, 1, 20, 20, dtype=torch.float64)
    x[0, 0, 8, 13] = 1
    torch.testing.assert_close(
        A(x)[0, 0, 7:10, 12:15], (weights[:, 8, 13, None, None] * kernels).sum(0)
    )
    # In the middle of a tile it is the tile's own.
    single = SpaceVaryingBlur(kernels, grid_weights((2, 2), (21, 21)).double(), (21, 21), "zero")
    x = torch.zeros(1, 1, 21, 21, dtype=torch.float64)
    x[0, 0, 3, 17] = 1
    torch.testing.assert_close(single(x)[0, 0, 2:5, 16:19], kernels[1])


@pytest.mark.parametrize("order", ["weights first", "kernels first"])
def test_agrees_with_deepinv(order: str) -> None:
    from deepinv.physics import SpaceVaryingBlur as Theirs

    kernels, weights, x = rand(3, 5, 5), rand(3, 16, 17, seed=1), rand(2, 1, 16, 17, seed=2)
    physics = Theirs(
        kernels[None, None],
        weights[None, None],
        padding="reflect",
        mask_first=order == "weights first",
    )
    torch.testing.assert_close(
        SpaceVaryingBlur(kernels, weights, (16, 17), order=order)(x), physics.A(x)
    )


def test_gradients_in_kernels_and_weights() -> None:
    A, x = SpaceVaryingBlur(rand(2, 3, 3), rand(2, 5, 6), (5, 6)), rand(1, 1, 5, 6)
    kernels, weights = (
        rand(1, 2, 3, 3, seed=3).requires_grad_(),
        rand(1, 2, 5, 6, seed=4).requires_grad_(),
    )
    assert torch.autograd.gradcheck(
        lambda k, w: A.with_parameters(kernels=k, weights=w)(x), (kernels, weights)
    )


def test_what_does_not_fit_gets_one_sentence() -> None:
    for weights, message in (
        (rand(3, 9, 9), "expected real weights"),
        (rand(2, 8, 9), "expected real weights"),
    ):
        with pytest.raises(it.InputError, match=message):
            SpaceVaryingBlur(rand(2, 3, 3), weights, (9, 9))
    with pytest.raises(it.InputError, match="does not fit"):
        grid_weights((3, 3), (2, 9))
    with pytest.raises(it.InputError, match="order"):
        SpaceVaryingBlur(rand(2, 3, 3), rand(2, 9, 9), (9, 9), order="both")
