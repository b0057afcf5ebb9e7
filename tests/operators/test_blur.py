"""Blur: the right convolution, the exact adjoint, tiles that change nothing, closed forms, plain errors."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import invtoolbox as it
from invtoolbox.operators import Blur

SCIPY_MODES = {"reflect": "mirror", "periodic": "wrap", "zero": "constant"}


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def _dot_test(A: Blur, dtype: torch.dtype, channels: int, batch: int = 2) -> float:
    x = _random(batch, channels, *A.domain_shape[1:], seed=1, dtype=dtype)
    Ax = A(x)
    y = _random(*Ax.shape, seed=2, dtype=dtype)
    left, right = (Ax.double() * y.double()).sum(), (x.double() * A.adjoint(y).double()).sum()
    return float((left - right).abs() / (Ax.double().norm() * y.double().norm()))


def test_a_point_becomes_the_kernel_the_right_way_round() -> None:
    kernel = torch.arange(1.0, 13.0, dtype=torch.float64).reshape(3, 4)
    A = Blur(kernel, (9, 10))
    x = torch.zeros(1, 1, 9, 10, dtype=torch.float64)
    x[0, 0, 4, 5] = 1
    y = A(x)[0, 0]
    # The kernel's centre (3 // 2, 4 // 2) = (1, 2) lies at the point (4, 5).
    torch.testing.assert_close(y[3:6, 3:7], kernel)
    assert float(y[4, 5]) == pytest.approx(float(kernel[1, 2]))
    assert float(y.sum()) == pytest.approx(float(kernel.sum()))


@pytest.mark.parametrize("boundary", ["reflect", "periodic", "zero", "valid"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_agrees_with_scipy_and_has_an_exact_adjoint(boundary: str, data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 24)), data.draw(st.integers(1, 60))
    kh, kw = data.draw(st.integers(1, rows)), data.draw(st.integers(1, columns))
    tile = data.draw(st.sampled_from([None, 8, 16]))
    kernel = _random(kh, kw, seed=3)
    A = Blur(kernel, (rows, columns), boundary, tile=tile)
    x = _random(2, 2, rows, columns, seed=4)
    if boundary == "valid":
        expected = [
            scipy.signal.convolve2d(p, kernel, mode="valid") for p in x.flatten(0, 1).numpy()
        ]
    else:
        mode = SCIPY_MODES[boundary]
        expected = [
            scipy.ndimage.convolve(p, kernel.numpy(), mode=mode) for p in x.flatten(0, 1).numpy()
        ]
    wanted = torch.tensor(np.stack(expected)).reshape(2, 2, *A.range_shape[1:])
    scale = float(kernel.abs().sum() * x.abs().max())
    torch.testing.assert_close(A(x), wanted, rtol=0, atol=1e-14 * scale)
    assert _dot_test(A, torch.float64, channels=3) < 1e-13
    assert _dot_test(A, torch.float32, channels=1) < 1e-5


@pytest.mark.parametrize("boundary", ["reflect", "periodic", "zero", "valid"])
def test_tiles_change_nothing(boundary: str) -> None:
    kernel = _random(11, 8, seed=1).abs()
    x = _random(1, 3, 140, 97, seed=2, dtype=torch.float32)
    whole, tiled = Blur(kernel, (140, 97), boundary), Blur(kernel, (140, 97), boundary, tile=32)
    y = whole(x)
    torch.testing.assert_close(tiled(x), y, rtol=0, atol=2e-6 * float(kernel.sum()))
    torch.testing.assert_close(
        tiled.adjoint(y), whole.adjoint(y), rtol=0, atol=2e-6 * float(kernel.sum() * y.abs().max())
    )


def test_a_large_photograph_takes_tiles_by_itself_and_agrees_with_the_whole() -> None:
    kernel = torch.rand(19, 19, generator=torch.Generator().manual_seed(0))
    x = torch.rand(1, 1, 1100, 1000, generator=torch.Generator().manual_seed(1))
    A = Blur(kernel / kernel.sum(), (1100, 1000))
    whole = Blur(kernel / kernel.sum(), (1100, 1000), tile=4096)
    torch.testing.assert_close(A(x), whole(x), rtol=0, atol=2e-6)
    # Only tiles' and kernels' transforms are kept, none of the whole image.
    assert all(value.numel() < 384 * 384 for value in A._spectra.values())


@pytest.mark.parametrize("boundary", ["reflect", "periodic", "zero", "valid"])
def test_one_kernel_an_item(boundary: str) -> None:
    kernels = _random(3, 5, 4, seed=1)
    A, x = Blur(kernels, (1, 20, 18), boundary), _random(3, 2, 20, 18, seed=2)
    alone = torch.cat([Blur(kernels[k], (1, 20, 18), boundary)(x[k : k + 1]) for k in range(3)])
    torch.testing.assert_close(A(x), alone)
    assert _dot_test(A, torch.float64, channels=2, batch=3) < 1e-14
    chosen = A.select(torch.tensor([2, 0]))
    assert chosen.items == 2 and A.items == 3
    torch.testing.assert_close(chosen(x[[2, 0]]), alone[[2, 0]])
    with pytest.raises(it.InputError, match="batch of 3"):
        A(x[:2])


def test_one_kernel_a_channel() -> None:
    kernels = _random(1, 3, 3, 3, seed=1)
    A, x = Blur(kernels, (3, 12, 12)), _random(2, 3, 12, 12, seed=2)
    assert not A.channelwise and A.items is None
    for c in range(3):
        torch.testing.assert_close(
            A(x)[:, c : c + 1], Blur(kernels[0, c], (12, 12))(x[:, c : c + 1])
        )
    with pytest.raises(it.InputError, match=r"axis 1 \(channel\)"):
        A(x[:, :1])


def test_calling_twice_is_bitwise_equal_and_changes_nothing() -> None:
    A, x = Blur(torch.rand(7, 7), (1, 50, 41)), torch.rand(2, 3, 50, 41)
    before = A.kernel.clone(), x.clone()
    assert torch.equal(A(x), A(x)) and torch.equal(A.adjoint(x), A.adjoint(x))
    assert torch.equal(A.kernel, before[0]) and torch.equal(x, before[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("boundary", ["reflect", "periodic"])
def test_an_item_alone_is_bitwise_what_it_is_in_company(boundary: str, dtype: torch.dtype) -> None:
    # Rounding that depends on the batch is amplified by line searches.
    for shape in ((16, 16), (32, 30), (64, 64), (300, 200)):
        A = Blur(torch.rand(3, 3, dtype=dtype), shape, boundary)
        x = torch.rand(4, 1, *shape, dtype=dtype)
        for k in range(4):
            torch.testing.assert_close(A(x)[k : k + 1], A(x[k : k + 1]), rtol=0, atol=0)
            torch.testing.assert_close(
                A.adjoint(x)[k : k + 1], A.adjoint(x[k : k + 1]), rtol=0, atol=0
            )


def test_a_kernel_written_to_or_replaced_is_seen() -> None:
    x = _random(1, 1, 12, 12)
    A = Blur(_random(3, 3, seed=1), (12, 12))
    A(x)
    B = A.with_parameters(kernel=_random(3, 3, seed=2))
    torch.testing.assert_close(B(x), Blur(_random(3, 3, seed=2), (12, 12))(x))
    A.kernel.copy_(_random(3, 3, seed=3))
    torch.testing.assert_close(A(x), Blur(_random(3, 3, seed=3), (12, 12))(x))
    with pytest.raises(it.InputError, match="new Blur"):
        A.with_parameters(kernel=torch.ones(5, 5))


def test_dtypes() -> None:
    A, x = Blur(torch.rand(3, 5, dtype=torch.float64), (12, 13)), torch.rand(1, 1, 12, 13)
    for dtype in (
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.complex64,
        torch.complex128,
    ):
        assert A(x.to(dtype)).dtype == A.adjoint(x.to(dtype)).dtype == dtype
    z = torch.complex(_random(1, 1, 12, 13, seed=1), _random(1, 1, 12, 13, seed=2))
    torch.testing.assert_close(A(z), torch.complex(A(z.real), A(z.imag)))
    single = A.to(torch.float32)
    assert single.kernel.dtype == torch.float32 and A.kernel.dtype == torch.float64
    # Cast to single and back, the kernel keeps single precision; the double operator does not.
    assert (
        _dot_test(A, torch.float64, 1) < 1e-15
        and _dot_test(single.to(torch.float64), torch.float64, 1) < 1e-15
    )


@pytest.mark.parametrize("boundary", ["reflect", "periodic", "zero", "valid"])
@pytest.mark.parametrize("tile", [None, 8])
def test_gradients_in_image_and_kernel(boundary: str, tile: int | None) -> None:
    blur = Blur(torch.ones(3, 2), (6, 9), boundary, tile=tile)

    def forward(x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return blur.with_parameters(kernel=k)(x)

    def backward(y: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return blur.with_parameters(kernel=k).adjoint(y)

    x = _random(1, 2, 6, 9, seed=1).requires_grad_()
    k = _random(1, 1, 3, 2, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(forward, (x, k), check_forward_ad=True, fast_mode=True)
    y = forward(x, k).detach().requires_grad_()
    assert torch.autograd.gradcheck(backward, (y, k), fast_mode=True)


def test_functional_transforms() -> None:
    kernels, x = _random(3, 1, 1, 3, 3, seed=1), _random(1, 1, 10, 10, seed=2)
    base = Blur(torch.ones(3, 3, dtype=torch.float64), (10, 10), tile=8)
    mapped = torch.func.vmap(lambda k: base.with_parameters(kernel=k)(x))(kernels)
    torch.testing.assert_close(
        mapped, torch.stack([base.with_parameters(kernel=k)(x) for k in kernels])
    )
    _, tangent = torch.func.jvp(
        lambda k: base.with_parameters(kernel=k)(x), (kernels[0],), (kernels[1],)
    )
    torch.testing.assert_close(tangent, base.with_parameters(kernel=kernels[1])(x))


def test_closed_forms_of_the_periodic_blur() -> None:
    kernels = _random(2, 4, 3, seed=1)
    A, v = Blur(kernels, (8, 7), "periodic"), _random(2, 1, 8, 7, seed=2)
    basis = torch.eye(56, dtype=torch.float64).reshape(56, 1, 8, 7)
    for k in range(2):
        matrix = Blur(kernels[k], (8, 7), "periodic")(basis).flatten(1).T
        assert float(A.norm(dtype=torch.float64)[k]) == pytest.approx(
            float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-12
        )
        rho, weight = [0.3, 2.0][k], [1.0, 0.5][k]
        solved = torch.linalg.solve(
            weight * matrix.T @ matrix + rho * torch.eye(56, dtype=torch.float64), v[k].flatten()
        )
        answer = A.normal_resolvent(v, torch.tensor([0.3, 2.0]), torch.tensor([1.0, 0.5]))
        torch.testing.assert_close(answer[k].flatten(), solved)
        y = v[k : k + 1]
        ridge = 1e-3 * torch.linalg.matrix_norm(matrix, 2) ** 2
        wiener = torch.linalg.solve(
            matrix.T @ matrix + ridge * torch.eye(56, dtype=torch.float64), matrix.T @ y.flatten()
        )
        torch.testing.assert_close(A.pseudo_inverse(v)[k].flatten(), wiener)
    assert A.has_normal_resolvent and not Blur(kernels, (8, 7)).has_normal_resolvent
    with pytest.raises(it.InputError, match="closed form"):
        Blur(kernels, (8, 7)).normal_resolvent(v, 1.0)


def test_the_norm_of_other_boundaries() -> None:
    kernel = _random(3, 3, seed=5)
    basis = torch.eye(72, dtype=torch.float64).reshape(72, 1, 8, 9)
    for boundary in ("reflect", "zero", "valid"):
        A = Blur(kernel, (8, 9), boundary)
        exact = float(torch.linalg.matrix_norm(A(basis).flatten(1), 2))
        estimate = float(A.norm(dtype=torch.float64, tolerance=1e-10, max_iterations=3000))
        assert estimate == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("boundary", ["reflect", "periodic", "zero", "valid"])
def test_the_wiener_filter_sharpens(boundary: str) -> None:
    from skimage.data import camera

    x = torch.tensor(camera()[100:260, 180:340] / 255.0)[None, None]
    t = torch.arange(9, dtype=torch.float64) - 4
    kernel = torch.exp(-(t[:, None] ** 2 + t**2) / 4)
    A = Blur(kernel / kernel.sum(), (160, 160), boundary)
    y = A(x) + 2e-3 * _random(*A.range_shape, seed=1)[None]
    restored = A.pseudo_inverse(y, 1e-3)
    assert restored.shape == x.shape
    inside = (..., slice(20, -20), slice(20, -20))
    blurred = torch.nn.functional.pad(y, (4, 4, 4, 4)) if boundary == "valid" else y
    assert float((restored - x)[inside].square().mean()) < 0.4 * float(
        (blurred - x)[inside].square().mean()
    )


def test_memory_stays_bounded() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        made = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = function(*args, **(kwargs or {}))
            for t in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(t, torch.Tensor) and not t._is_view():
                    self.made = max(self.made, t.untyped_storage().nbytes())
            return result

    A, x = Blur(torch.rand(9, 9), (3, 1200, 1000)), torch.rand(2, 3, 1200, 1000)
    for call in (A, A.adjoint):
        with Largest() as largest:
            call(x)
        # The answer itself is the largest; everything else is at most one padded plane of one
        # channel.
        assert largest.made == x.nbytes


@pytest.mark.parametrize(
    ("kernel", "shape", "message"),
    [
        (torch.zeros(3, 3), (8, 8), "zero everywhere"),
        (torch.stack([torch.ones(3, 3), torch.zeros(3, 3)]), (8, 8), "item 1"),
        (torch.tensor([[1.0, float("nan")]]), (8, 8), "1 entries that are NaN or infinite"),
        (torch.ones(9, 3), (8, 8), "9x3 pixels, which is larger than the image of 8x8"),
        (torch.ones(3), (8, 8), r"got shape \(3,\)"),
        (torch.ones(1, 2, 3, 3), (3, 8, 8), "2 channels and the image 3"),
        (torch.ones(3, 3, dtype=torch.complex64), (8, 8), "complex"),
        (torch.ones(3, 3), (8,), "image_shape"),
    ],
)
def test_wrong_kernels_get_one_sentence(
    kernel: torch.Tensor, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(it.InputError, match=message) as error:
        Blur(kernel, shape)
    assert "\n" not in str(error.value)


def test_an_unknown_boundary_names_the_known_ones() -> None:
    with pytest.raises(
        it.InputError, match="boundary of Blur must be 'reflect', 'periodic', 'valid' or 'zero'"
    ):
        Blur(torch.ones(3, 3), (8, 8), boundary="mirror")
