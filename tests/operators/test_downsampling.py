"""Down-sampling: the sampling phase, agreement with torch and Pillow, exact adjoint, norm and inverses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import invtoolbox as it
from invtoolbox.operators import Blur, Downsampling

FILTERS = ("bicubic", "gaussian", "box", None)


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_the_sample_lies_in_the_middle_of_the_area_that_it_covers(
    filter: str | None, factor: int
) -> None:
    n = 20 * factor
    ramp = torch.arange(n, dtype=torch.float64).expand(1, 1, n, n)
    y = Downsampling((n, n), factor, filter)(ramp)[0, 0]
    expected = factor * torch.arange(20) + ((factor - 1) / 2 if filter else 0.0)
    torch.testing.assert_close(y[10, 5:15], expected[5:15].double())
    torch.testing.assert_close(
        Downsampling((n, n), factor, filter)(ramp.mT)[0, 0, 5:15, 10], expected[5:15].double()
    )


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_bicubic_is_that_of_torch_and_pillow(factor: int) -> None:
    from PIL import Image

    x = torch.rand(1, 1, 24 * factor, 20 * factor, generator=torch.Generator().manual_seed(0))
    y = Downsampling(x.shape[1:], factor)(x)
    peer = torch.nn.functional.interpolate(
        x, scale_factor=1 / factor, mode="bicubic", antialias=True
    )
    pillow = np.asarray(Image.fromarray(x[0, 0].numpy()).resize((20, 24), Image.Resampling.BICUBIC))
    # They shorten the filter at the edge, where this one mirrors the image.
    inside = (..., slice(3, -3), slice(3, -3))
    torch.testing.assert_close(y[inside], peer[inside], rtol=0, atol=1e-6)
    torch.testing.assert_close(y[0, 0][inside], torch.tensor(pillow)[inside], rtol=0, atol=1e-6)


@pytest.mark.parametrize("boundary", ["reflect", "periodic", "zero"])
@settings(max_examples=20, deadline=None)
@given(
    factor=st.integers(1, 4),
    rows=st.integers(1, 7),
    columns=st.integers(1, 7),
    filter=st.sampled_from(FILTERS),
)
def test_exact_adjoint_norm_and_inverses(
    boundary: str, factor: int, rows: int, columns: int, filter: str | None
) -> None:
    A = Downsampling((rows * factor, columns * factor), factor, filter, boundary)
    x, y = _random(2, 3, *A.domain_shape[1:], seed=1), _random(2, 3, *A.range_shape[1:], seed=2)
    left, right = float((A(x) * y).sum()), float((x * A.adjoint(y)).sum())
    assert abs(left - right) <= 1e-13 * float(A(x).norm() * y.norm())
    n = A.domain_shape[1] * A.domain_shape[2]
    matrix = A(torch.eye(n, dtype=torch.float64).reshape(n, 1, *A.domain_shape[1:])).flatten(1).T
    assert float(A.norm(dtype=torch.float64)) == pytest.approx(
        float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-10
    )
    rho, weight = torch.tensor([0.1, 3.0]), torch.tensor([2.0, 0.5])
    solved = A.normal_resolvent(x, rho, weight)
    back = (
        weight.double().view(2, 1, 1, 1) * A.normal(solved) + rho.double().view(2, 1, 1, 1) * solved
    )
    torch.testing.assert_close(back, x)
    least = torch.linalg.lstsq(
        matrix, y.flatten(0, 1).flatten(1).T, driver="gelsd"
    ).solution.T.reshape(x.shape)
    torch.testing.assert_close(A.pseudo_inverse(y), least, rtol=1e-6, atol=1e-8)


def test_constant_brightness_is_kept() -> None:
    for filter in FILTERS:
        for boundary in ("reflect", "periodic"):
            y = Downsampling((12, 16), 4, filter, boundary)(
                torch.full((1, 1, 12, 16), 0.7, dtype=torch.float64)
            )
            torch.testing.assert_close(y, torch.full_like(y, 0.7))


def test_a_kernel_of_ones_own_is_a_composition() -> None:
    kernel, x = torch.rand(5, 5, dtype=torch.float64), _random(1, 3, 12, 12)
    A = Downsampling((12, 12), 3, filter=None) @ Blur(kernel, (12, 12))
    torch.testing.assert_close(A(x), Blur(kernel, (12, 12))(x)[..., ::3, ::3])


def test_dtype_is_kept() -> None:
    A = Downsampling((8, 8), 2)
    for dtype in (torch.float32, torch.float64, torch.complex64):
        x = torch.ones(1, 1, 8, 8, dtype=dtype)
        assert A(x).dtype == A.adjoint(A(x)).dtype == dtype
        assert A.pseudo_inverse(A(x)).dtype == A.normal_resolvent(x, 1.0).dtype == dtype


@pytest.mark.parametrize(
    ("shape", "factor", "keywords", "message"),
    [
        ((9, 8), 2, {}, "does not divide the 9 rows of the image; crop it to 8"),
        ((8, 9), 2, {}, "columns"),
        ((8, 8), 2, {"filter": "cubic"}, "'bicubic', 'gaussian', 'box' or None"),
        ((8, 8), 2, {"boundary": "wrap"}, "'reflect', 'periodic' or 'zero'"),
        ((8, 8), 0, {}, "positive integer"),
    ],
)
def test_wrong_settings_get_one_sentence(
    shape: tuple[int, int], factor: int, keywords: dict[str, str], message: str
) -> None:
    with pytest.raises(it.InputError, match=message):
        Downsampling(shape, factor, **keywords)
