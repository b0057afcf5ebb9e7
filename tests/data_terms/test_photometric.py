"""The photometric misfit: the modulus and structural similarity, picture by picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from invtoolbox.data_terms import Photometric
from invtoolbox.data_terms.rendered_views import similarity_map
from invtoolbox.errors import InputError
from invtoolbox.kernels.rendering.window_blur import blur_planes


def pair(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 2, 3, 2, 17, 14, generator=g, dtype=torch.float64).to(dtype)
    return a, b


def test_similarity_is_that_of_scikit_image_with_zeros_beyond_the_edge() -> None:
    from skimage.metrics import structural_similarity

    a, b = pair()
    found = similarity_map(a, b)
    padded = [np.pad(t[1, 2, 0].numpy(), 5) for t in (a, b)]
    _, expected = structural_similarity(
        *padded,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1.0,
        full=True,
    )
    assert np.abs(found[1, 2, 0].numpy() - expected[5:-5, 5:-5]).max() < 1e-7


def test_the_gradient_of_similarity_in_either_picture_is_that_of_differences() -> None:
    a, b = (t[0, 0, 0, :, :13].clone().requires_grad_(True) for t in pair())
    assert torch.autograd.gradcheck(similarity_map, (a, b))
    # Planes of more than one block of 256 pixels, against the sums of their definition.
    wide = torch.rand(1, 3, 600, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    offset = torch.arange(11, dtype=torch.float64) - 5
    window = torch.exp(-0.5 * (offset / 1.5) ** 2)
    window = window / window.sum()
    expected = torch.nn.functional.conv2d(
        wide[None], (window[:, None] * window)[None, None], padding=5
    )
    torch.testing.assert_close(blur_planes(wide, window), expected[0])


def test_it_is_a_sum_over_pictures_of_means_and_has_a_derivative() -> None:
    a, b = pair()
    term = Photometric(0.3)
    single = sum(term.value(a[:, :, k : k + 1], b[:, :, k : k + 1]) for k in range(2))
    torch.testing.assert_close(term.value(a, b), single)
    torch.testing.assert_close(Photometric(0.0).value(a, b), (a - b).abs().mean((1, 3, 4)).sum(1))
    assert torch.allclose(term.value(b, b), torch.zeros(2, dtype=torch.float64))
    small = (a[:1, :1, :1, :6, :5], b[:1, :1, :1, :6, :5])
    assert torch.autograd.gradcheck(
        lambda p: term.value(p, small[1]), small[0].clone().requires_grad_(True)
    )


def test_it_takes_pictures_only() -> None:
    with pytest.raises(InputError, match="picture, row, column"):
        Photometric().check(torch.zeros(1, 3, 4, 4))
    with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
        Photometric(2.0)
