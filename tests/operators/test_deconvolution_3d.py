"""Deconvolution of volumes: the contract, SciPy's convolution, closed forms, a measured point spread function."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch

import invtoolbox as it
from invtoolbox.operators import Blur3D, measured_psf
from invtoolbox.testing import check_operator

SCIPY_MODES = {"reflect": "mirror", "periodic": "wrap", "zero": "constant"}


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("boundary", ["reflect", "periodic", "zero", "valid"])
@pytest.mark.parametrize("kernel", [rand(3, 4, 5), rand(3, 2, 3, 1), rand(1, 1, 1), rand(6, 7, 8)])
def test_keeps_the_contract(boundary: str, kernel: torch.Tensor) -> None:
    A = Blur3D(kernel, (6, 7, 8), boundary)
    assert check_operator(A).ok
    assert check_operator(A, torch.complex(rand(3, 2, 6, 7, 8), rand(3, 2, 6, 7, 8, seed=1))).ok


@pytest.mark.parametrize("boundary", ["reflect", "periodic", "zero", "valid"])
@pytest.mark.parametrize("size", [(3, 3, 3), (2, 4, 5)])
def test_agrees_with_scipy(boundary: str, size: tuple[int, int, int]) -> None:
    kernel, x = rand(*size), rand(1, 1, 7, 9, 8, seed=1)
    if boundary == "valid":
        wanted = scipy.signal.convolve(
            x[0, 0].numpy(), kernel.numpy(), mode="valid", method="direct"
        )
    else:
        wanted = scipy.ndimage.convolve(x[0, 0].numpy(), kernel.numpy(), mode=SCIPY_MODES[boundary])
    np.testing.assert_allclose(
        Blur3D(kernel, (7, 9, 8), boundary)(x)[0, 0].numpy(), wanted, atol=1e-12
    )


def test_closed_forms_and_preconditioner() -> None:
    kernel = 0.02 * rand(3, 3, 3)
    kernel[1, 1, 1] = 1
    A = Blur3D(kernel, (8, 8, 8), "periodic")
    x = rand(2, 1, 8, 8, 8, seed=1)
    torch.testing.assert_close(A.pseudo_inverse(A(x), 1e-12), x, rtol=1e-3, atol=1e-3)
    for boundary in ("periodic", "reflect"):
        B = Blur3D(A.kernel[0, 0], (8, 8, 8), boundary)
        solution = it.solve(
            it.Problem(B(x), B),
            it.priors.TotalVariation(periodic=boundary == "periodic"),
            it.solvers.ADMM(),
            regularization=1e-4,
            progress=False,
        )
        assert float((solution.x - x).norm() / x.norm()) < 0.05


def test_a_measured_kernel() -> None:
    line = torch.arange(15.0)
    bead = (
        3
        * torch.exp(
            -((line[:, None, None] - 6) ** 2 + (line[:, None] - 8) ** 2 + (line - 5) ** 2) / 4
        )
        + 10
    )
    psf = measured_psf(bead, size=(7, 6, 20))
    assert psf.shape == (7, 6, 20) and float(psf.sum()) == pytest.approx(1.0, abs=1e-6)
    assert psf.argmax() == psf[:3].numel() + 3 * 20 + 10 and float(psf.min()) >= 0
    with pytest.raises(it.InputError, match="background"):
        measured_psf(bead, background=20.0)
    with pytest.raises(it.InputError, match="larger than the image of 8x8x8"):
        Blur3D(psf, (8, 8, 8))


@pytest.mark.data
def test_the_bars_of_flowdec_become_sharper(data_dir: Path) -> None:
    from skimage.io import imread

    folder = data_dir / "microscopy_flowdec"
    data, kernel, truth = (
        torch.from_numpy(imread(folder / f"bars-25pct_{name}.tif").astype(np.float32))
        for name in ("data", "kernel", "actual")
    )
    # The stacks have scales of their own, and were made smaller after the blur, so that 15 % stay
    # unexplained.
    A, y = (
        Blur3D(kernel / kernel.sum(), tuple(data.shape), "periodic"),
        data[None, None] / data.max(),
    )
    blurred = A(truth[None, None])
    x = truth[None, None] * float((blurred * y).sum() / blurred.square().sum())
    assert float((A(x) - y).norm() / y.norm()) < 0.16
    for shift in (-1, 1):  # the kernel's centre is where the convention has it
        moved = Blur3D(
            kernel.roll((shift,) * 3, (0, 1, 2)) / kernel.sum(), tuple(data.shape), "periodic"
        )
        assert float((moved(x) - y).norm() / y.norm()) > 0.17
    found = it.solve(
        it.Problem(y, A),
        1e-3 * it.priors.TotalVariation() + it.priors.NonNegative(),
        max_iterations=100,
        progress=False,
    ).x
    wiener = A.pseudo_inverse(y, 1e-2)
    error = {
        name: float((image - x).norm() / x.norm())
        for name, image in (("data", y), ("wiener", wiener), ("tv", found))
    }
    assert error["tv"] < error["wiener"] < error["data"]
