"""Phase retrieval: derivatives, deepinv's own figures, the spectral start, and images that come back up to a phase."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import invtoolbox as it
from invtoolbox.operators import (
    Fourier,
    GaussianSensing,
    Inpainting,
    PhaseRetrieval,
    align_phase,
    spectral_initialization,
)
from invtoolbox.testing import check_operator


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(
        *shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed)
    )


@pytest.mark.parametrize(
    "B",
    [
        GaussianSensing((3, 4), 30, complex=True),
        GaussianSensing((3, 4), 30),
        Fourier((1, 5, 6)),
        Fourier((1, 5, 6)) @ Inpainting(torch.arange(30).view(5, 6) % 3 > 0, (1, 5, 6)),
    ],
    ids=repr,
)
def test_keeps_the_contract(B: Any) -> None:
    A = PhaseRetrieval(B)
    x = noise(3, *B.domain_shape)
    assert check_operator(A, x).ok
    assert check_operator(PhaseRetrieval(B, complex=False)).ok
    assert not A(x).is_complex() and float(A(x).min()) >= 0
    torch.testing.assert_close(A(1j * x), A(x))


def test_the_derivative_is_twice_the_real_part_of_a_product() -> None:
    B = GaussianSensing((2, 3), 9, complex=True).to(torch.float64)
    A, x, v = PhaseRetrieval(B), noise(2, 1, 2, 3), noise(2, 1, 2, 3, seed=1)
    J = A.linearize(x)
    torch.testing.assert_close(J(v), 2 * (B(x).conj() * B(v)).real)
    w = torch.randn(2, 1, 9, dtype=torch.float64)
    torch.testing.assert_close(J.adjoint(w), 2 * B.adjoint(w * B(x)))


def test_agrees_with_deepinv() -> None:
    import deepinv

    physics = deepinv.physics.RandomPhaseRetrieval(
        m=20, img_size=(1, 3, 4), rng=torch.Generator().manual_seed(0)
    )
    A, x = it.as_operator(physics), noise(2, 1, 3, 4).to(torch.complex64)
    assert A.complex_images
    matrix = physics.B._A
    ours = PhaseRetrieval(
        it.operators.Matrix(matrix, (1, 3, 4), (20,) if len(A.range_shape) == 1 else (1, 20))
    )
    torch.testing.assert_close(ours(x).flatten(), A(x).flatten(), rtol=1e-5, atol=1e-6)


def test_the_spectral_start_points_at_the_image_for_every_item_alike() -> None:
    x = noise(3, 1, 6, 6)
    A = PhaseRetrieval(GaussianSensing((6, 6), 36 * 10, seed=1, complex=True))
    y = A(x)
    start = spectral_initialization(A, y)
    overlap = (start.conj() * x).flatten(1).sum(1).abs() / (
        start.flatten(1).norm(dim=1) * x.flatten(1).norm(dim=1)
    )
    assert float(overlap.min()) > 0.6  # 0.17 without any knowledge
    torch.testing.assert_close(A(start).flatten(1).sum(1), y.flatten(1).sum(1))
    torch.testing.assert_close(spectral_initialization(A, y[1:2])[0], start[1])
    real = PhaseRetrieval(GaussianSensing((6, 6), 360, seed=1), complex=False)
    assert not spectral_initialization(real, real(x.real)).is_complex()


@pytest.mark.parametrize(
    "solver",
    [it.solvers.GradientDescent(tolerance=1e-6), it.solvers.LBFGS(tolerance=1e-6)],
    ids=repr,
)
def test_the_image_comes_back_up_to_its_phase(solver: Any) -> None:
    x = noise(2, 1, 6, 6)
    A = PhaseRetrieval(GaussianSensing((6, 6), 36 * 8, seed=1, complex=True))
    y = A(x)
    solution = it.solve(
        it.Problem(y, A),
        solver=solver,
        initial=spectral_initialization(A, y),
        max_iterations=3000,
        progress=False,
    )
    assert solution.x.dtype == torch.complex128
    error = (align_phase(solution.x, x) - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
    assert float(error.max()) < 1e-3


def test_real_images_and_wrong_parts() -> None:
    x = torch.randn(1, 1, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    A = PhaseRetrieval(GaussianSensing((5, 5), 200), complex=False)
    y = A(x)
    solution = it.solve(
        it.Problem(y, A),
        solver=it.solvers.LBFGS(tolerance=1e-7),
        initial=spectral_initialization(A, y),
        progress=False,
    )
    assert solution.x.dtype == torch.float64
    assert float((align_phase(solution.x, x) - x).norm() / x.norm()) < 1e-3
    with pytest.raises(it.InputError, match="linear operator"):
        PhaseRetrieval(A)  # type: ignore[arg-type]
