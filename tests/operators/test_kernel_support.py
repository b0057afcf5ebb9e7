"""Kernels whose arrays are mostly empty are cropped, and others are not."""

from __future__ import annotations

import pytest
import torch

import invtoolbox as it
from invtoolbox.geometry.tiles import cut
from invtoolbox.operators.imaging.kernel_support import LOST, crop_kernel


def gaussian(sizes: tuple[int, ...], width: float) -> torch.Tensor:
    """Return a Gaussian with the sum 1 whose middle lies at n // 2."""
    square = torch.zeros(sizes)
    for axis, n in enumerate(sizes):
        shape = [1] * len(sizes)
        shape[axis] = n
        square = square + (torch.arange(n) - n // 2).view(shape).square()
    kernel = torch.exp(-square / (2 * width**2))
    return kernel / kernel.sum()


@pytest.mark.parametrize("sizes", [(64, 64), (65, 41), (32, 48, 50)])
def test_a_crop_hardly_changes_what_a_blur_measures(sizes: tuple[int, ...]) -> None:
    whole = gaussian(sizes, 2.0)
    kernel = crop_kernel(whole)
    assert kernel.numel() < whole.numel() / 2 and all(n % 2 for n in kernel.shape)
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-5)
    blur = it.operators.Blur if len(sizes) == 2 else it.operators.Blur3D
    picture = torch.rand(1, 1, *sizes, generator=torch.Generator().manual_seed(0))
    answers = [blur(k, sizes, boundary="periodic")(picture) for k in (whole, kernel)]
    assert float((answers[0] - answers[1]).abs().max()) <= 2 * LOST


def test_small_wide_and_shifted_kernels_stay() -> None:
    for kernel in (gaussian((9, 9), 2.0), gaussian((32, 32), 20.0), torch.eye(16)):
        assert crop_kernel(kernel) is kernel
    shifted = torch.zeros(33, 33)
    shifted[28, 16] = 1  # a delta 12 rows below the middle
    assert crop_kernel(shifted).shape == (25, 1) and crop_kernel(shifted)[24, 0] == 1


def test_an_axis_that_a_tile_sees_is_not_cut() -> None:
    """A kernel as large as the stack made every tile as large as the stack."""
    assert len(list(cut((50, 300, 300), (64, 192, 192), (57, 160, 160)))) == 1
    assert len(list(cut((50, 900, 300), (64, 192, 192), (57, 160, 160)))) == 5
    assert len(list(cut((50, 300, 300), (64, 192, 192), (8, 40, 40)))) == 4
