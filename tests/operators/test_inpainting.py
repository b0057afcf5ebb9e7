"""Inpainting: the mask's sense, masks that differ from item to item, closed forms, plain errors."""

from __future__ import annotations

import pytest
import torch

import invtoolbox as it
from invtoolbox.operators import Inpainting


def test_one_means_known() -> None:
    mask = torch.tensor([[True, False], [False, True]])
    x = torch.arange(1.0, 5.0).reshape(1, 1, 2, 2)
    assert Inpainting(mask, (1, 2, 2))(x).flatten().tolist() == [1.0, 0.0, 0.0, 4.0]


def test_a_color_photograph_passes_through_a_mask_of_one_channel() -> None:
    A, x = Inpainting(torch.rand(5, 6) > 0.5, (1, 5, 6)), torch.rand(2, 3, 5, 6)
    assert A.channelwise and torch.equal(A(x), A.mask * x)
    color = Inpainting(torch.rand(3, 5, 6) > 0.5, (3, 5, 6))
    assert not color.channelwise and torch.equal(color(x), color.mask * x)
    with pytest.raises(it.InputError, match="channel"):
        color(x[:, :1])


def test_one_mask_an_item() -> None:
    masks = torch.rand(3, 1, 4, 4) > 0.3
    A, x = Inpainting(masks, (2, 4, 4)), torch.rand(3, 2, 4, 4)
    assert A.items == 3
    for k in range(3):
        assert torch.equal(A(x)[k], masks[k] * x[k])
        assert torch.equal(A.select(torch.tensor([k]))(x[k : k + 1])[0], masks[k] * x[k])
    with pytest.raises(it.InputError, match="batch of 3"):
        A(x[:1])
    with pytest.raises(it.InputError, match="item 1"):
        Inpainting(torch.stack([torch.ones(1, 4, 4), torch.zeros(1, 4, 4)]), (1, 4, 4))


def test_closed_forms() -> None:
    mask = torch.tensor([[[0.0, 0.5, 2.0]], [[1.0, 1.0, 0.0]]], dtype=torch.float64)[:, None]
    A = Inpainting(mask, (1, 1, 3))
    x, rho = torch.randn(2, 1, 1, 3, dtype=torch.float64), torch.tensor([0.5, 3.0])
    assert A.norm(dtype=torch.float64).tolist() == [2.0, 1.0]
    solved = A.normal_resolvent(x, rho, 2.0)
    torch.testing.assert_close(2.0 * A.normal(solved) + rho.double().view(2, 1, 1, 1) * solved, x)
    torch.testing.assert_close(A.pseudo_inverse(A(x)), torch.where(mask != 0, x, 0))


def test_dtypes_are_kept() -> None:
    A = Inpainting(torch.rand(4, 4) > 0.5, (4, 4))
    for dtype in (torch.float16, torch.float32, torch.float64, torch.complex64):
        x = torch.ones(1, 1, 4, 4, dtype=dtype)
        assert A(x).dtype == A.adjoint(x).dtype == A.pseudo_inverse(x).dtype == dtype


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(4, 5), "does not broadcast"),
        (torch.ones(1, 1, 1, 4, 4), "does not broadcast"),
        (torch.zeros(4, 4), "zero everywhere"),
        (torch.full((4, 4), float("nan")), "NaN"),
    ],
)
def test_wrong_masks_get_one_sentence(mask: torch.Tensor, message: str) -> None:
    with pytest.raises(it.InputError, match=message):
        Inpainting(mask, (1, 4, 4))
