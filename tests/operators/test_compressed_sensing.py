"""Random projections: the contract, the seed, the isometry, and what they are for: a sparse image comes back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import invtoolbox as it
from invtoolbox.operators import GaussianSensing, HadamardSensing
from invtoolbox.testing import check_operator


@pytest.mark.parametrize(
    "A",
    [
        GaussianSensing((5, 6), 17),
        GaussianSensing((2, 3, 4), 40),
        HadamardSensing((4, 8), 20),
        HadamardSensing((3, 5, 5), 30),
        HadamardSensing((1, 1, 1), 1),
    ],
    ids=repr,
)
def test_keeps_the_contract(A: Any) -> None:
    assert check_operator(A).ok
    x = torch.randn(
        2, *A.domain_shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(0)
    )
    assert check_operator(A, x).ok


def test_a_complex_matrix() -> None:
    A = GaussianSensing((4, 4), 12, complex=True)
    x = torch.randn(2, 1, 4, 4, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    assert check_operator(A, x).ok and A.matrix.is_complex()


@pytest.mark.parametrize("kind", [GaussianSensing, HadamardSensing])
def test_the_draw_is_a_function_of_the_seed_and_keeps_lengths(kind: Any) -> None:
    x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.manual_seed(1)
    first = kind((32, 32), 400, seed=3)(x)
    torch.manual_seed(2)
    assert torch.equal(first, kind((32, 32), 400, seed=3)(x))
    lengths = torch.stack([kind((32, 32), 400, seed=k)(x).norm() / x.norm() for k in range(20)])
    assert float(lengths.square().mean()) == pytest.approx(1.0, abs=0.05)
    assert float(lengths.std()) > 0.005


def test_hadamard_is_the_textbook_matrix() -> None:
    import scipy.linalg

    A = HadamardSensing((4, 4), 16)
    matrix = A(torch.eye(16, dtype=torch.float64).view(16, 1, 4, 4))[:, 0].T
    wanted = torch.tensor(scipy.linalg.hadamard(16), dtype=torch.float64) / 4 * A.signs
    torch.testing.assert_close(matrix, wanted[A.index])


@pytest.mark.parametrize(
    "A", [HadamardSensing((16, 16), 96), GaussianSensing((16, 16), 96)], ids=repr
)
def test_a_sparse_image_comes_back_from_three_eighths_of_its_pixels(A: Any) -> None:
    x = torch.zeros(1, 1, 16, 16)
    where = torch.randperm(256, generator=torch.Generator().manual_seed(1))[:15]
    x.view(-1)[where] = torch.rand(15, generator=torch.Generator().manual_seed(2)) + 0.5
    found = it.solve(
        it.Problem(A(x), A),
        it.priors.L1(),
        it.solvers.FISTA(tolerance=1e-6),
        regularization=1e-3,
        max_iterations=4000,
        progress=False,
    ).x
    assert float((found - x).norm() / x.norm()) < 0.02
    assert float((A.pseudo_inverse(A(x)) - x).norm() / x.norm()) > 0.5


def test_wrong_numbers_get_one_sentence() -> None:
    with pytest.raises(it.InputError, match="at most 16"):
        HadamardSensing((4, 4), 17)
    with pytest.raises(it.InputError, match="number of measurements"):
        GaussianSensing((4, 4), 0)
