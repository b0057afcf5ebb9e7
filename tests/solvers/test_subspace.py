"""The quadratic of a subspace: its minimizer, its weight for a discrepancy, and a change of basis."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.solvers.subspace import SubspaceProblem, discrepancy_weight, minimize

SIZE, M = 4, 9


def drawn() -> tuple[SubspaceProblem, Tensor, Tensor, Tensor]:
    """Return ``|A y - b|^2`` and ``|L y|^2 / 2`` around 0 for three items, and A, b and L."""
    generator = torch.Generator().manual_seed(0)
    A, L = (
        torch.randn(3, M, SIZE, generator=generator, dtype=torch.float64),
        torch.randn(3, SIZE, SIZE, generator=generator, dtype=torch.float64),
    )
    b = torch.randn(3, M, generator=generator, dtype=torch.float64)
    small = SubspaceProblem(
        data_matrix=A.mT @ A,
        prior_matrix=L.mT @ L,
        data_gradient=-(A.mT @ b[..., None])[..., 0],
        prior_gradient=torch.zeros(3, SIZE, dtype=torch.float64),
        squared=b.square().sum(1),
        coefficients=torch.zeros(3, SIZE, dtype=torch.float64),
    )
    return small, A, b, L


def discrepancy(A: Tensor, b: Tensor, y: Tensor) -> Tensor:
    return ((A @ y[..., None])[..., 0] - b).norm(dim=1)


def test_the_step_minimizes_data_term_and_majorant() -> None:
    small, A, b, L = drawn()
    eta = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    exact = torch.linalg.solve(
        A.mT @ A + eta.view(3, 1, 1) * (L.mT @ L), (A.mT @ b[..., None])[..., 0]
    )
    torch.testing.assert_close(minimize(small, eta), exact, rtol=1e-5, atol=1e-6)


def test_the_weight_leaves_the_wanted_discrepancy_or_is_the_nearer_end() -> None:
    small, A, b, _ = drawn()
    low, high = (torch.full((3,), end, dtype=torch.float64) for end in (1e-6, 1e6))
    least, most = (discrepancy(A, b, minimize(small, end)) for end in (low, high))
    for start in (1e-5, 1.0, 1e5):
        for share in (0.1, 0.5, 0.9):
            target = least + share * (most - least)
            eta = discrepancy_weight(small, target, torch.full_like(low, start), low, high)
            reached = discrepancy(A, b, minimize(small, eta))
            torch.testing.assert_close(reached, target, rtol=2e-6, atol=0)
    mixed = torch.stack([0.5 * least[0], 2 * most[1], 0.5 * (least[2] + most[2])])
    eta = discrepancy_weight(small, mixed, torch.ones_like(low), low, high)
    torch.testing.assert_close(eta[:2], torch.stack([low[0], high[1]]), rtol=1e-6, atol=0)
    alone = discrepancy_weight(item(small, 2), mixed[2:], torch.ones(1), low[2:], high[2:])
    assert torch.equal(alone[0], eta[2])


def item(small: SubspaceProblem, k: int) -> SubspaceProblem:
    return SubspaceProblem(*(tensor[k : k + 1] for tensor in vars(small).values()))


def test_a_change_of_basis_keeps_the_problem_in_the_new_vectors() -> None:
    small, A, _, L = drawn()
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(3, SIZE, 2, generator=generator, dtype=torch.float64)).Q
    small.coefficients = (basis @ torch.ones(3, 2, 1, dtype=torch.float64))[..., 0]
    small.change_basis(basis, SIZE)
    torch.testing.assert_close(small.coefficients[:, :2], torch.ones(3, 2, dtype=torch.float64))
    torch.testing.assert_close(small.data_matrix[:, :2, :2], basis.mT @ A.mT @ A @ basis)
    torch.testing.assert_close(small.prior_matrix[:, :2, :2], basis.mT @ L.mT @ L @ basis)
    assert not bool(small.data_matrix[:, 2:].any() or small.coefficients[:, 2:].any())
    first = small.first(2)
    assert first.data_matrix.shape == (3, 2, 2) and first.squared is small.squared
