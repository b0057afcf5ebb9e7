"""LSMR: SciPy's iterates, dense least squares, its certificate."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.operators.base import item_norm
from invtoolbox.solvers import LSMR, ConjugateGradient
from invtoolbox.testing import check_solver


def dense(batch: int = 2, rows: int = 30, columns: int = 12) -> tuple[it.Problem, Tensor]:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(rows, columns, generator=generator, dtype=torch.float64) * torch.logspace(
        0, -2, columns, dtype=torch.float64
    )
    y = torch.randn(batch, 1, rows, generator=generator, dtype=torch.float64) * torch.tensor(
        [1.0, 5.0]
    ).view(2, 1, 1)
    return it.Problem(y, it.operators.Matrix(matrix)), matrix


@pytest.mark.parametrize("steps", [1, 3, 7])
@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_every_iterate_is_that_of_scipy(steps: int, damping: float) -> None:
    from scipy.sparse.linalg import lsmr

    problem, matrix = dense()
    prior = it.priors.Tikhonov() if damping else None
    solution = it.solve(
        problem,
        prior,
        LSMR(),
        damping**2 if damping else "auto",
        initial=torch.zeros(1, 1, 12),
        max_iterations=steps,
        tolerance=0.0,
    )
    for k in range(2):
        theirs = lsmr(
            matrix.numpy(),
            problem.y[k, 0].numpy(),
            damp=damping,
            atol=0,
            btol=0,
            conlim=0,
            maxiter=steps,
        )
        # Rounding grows with the steps, as the vectors lose their orthogonality.
        np.testing.assert_allclose(solution.x[k, 0].numpy(), theirs[0], rtol=1e-6, atol=1e-9)
        norm_r, norm_ar, norm_a = theirs[3], theirs[4], theirs[5]
        assert float(solution.history["objective"][-1, k]) == pytest.approx(
            0.5 * norm_r**2, rel=1e-9
        )
        if not damping:  # with damping their norm of A leaves the damping out
            assert float(solution.history["certificate"][-1, k]) == pytest.approx(
                norm_ar / (norm_a * norm_r), rel=1e-7
            )


def test_weights_noise_and_priors_with_operators_and_references() -> None:
    problem, matrix = dense()
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(2, 1, 30, generator=generator, dtype=torch.float64)
    noise_std = torch.tensor([0.5, 2.0])
    data_term = it.data_terms.LeastSquares(noise_std=noise_std, weights=weights)
    reference = torch.randn(2, 1, 12, generator=generator, dtype=torch.float64)
    lam = torch.tensor([0.2, 3.0], dtype=torch.float64)
    solution = it.solve(
        it.Problem(problem.y, problem.operator, data_term),
        it.priors.Tikhonov("gradient", reference=reference) + 0.5 * it.priors.Tikhonov(),
        LSMR(),
        lam,
        tolerance=1e-13,
    )
    D = (torch.eye(12, dtype=torch.float64).roll(1, 1) - torch.eye(12, dtype=torch.float64))[:-1]
    for k in range(2):
        W = torch.diag(weights[k, 0]) / float(noise_std[k]) ** 2
        H = (
            matrix.T @ W @ matrix
            + lam[k] * D.T @ D
            + 0.5 * lam[k] * torch.eye(12, dtype=torch.float64)
        )
        right = matrix.T @ W @ problem.y[k, 0] + lam[k] * D.T @ D @ reference[k, 0]
        torch.testing.assert_close(
            solution.x[k, 0], torch.linalg.solve(H, right), rtol=1e-8, atol=1e-10
        )


def test_an_exact_solution_and_a_right_side_that_nothing_explains_both_stop() -> None:
    A = it.operators.Matrix(torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]))
    y = torch.tensor([[[3.0, 4.0, 0.0]], [[0.0, 0.0, 5.0]], [[0.0, 0.0, 0.0]]])
    solution = it.solve(it.Problem(y, A), solver=LSMR(), tolerance=1e-6)
    assert solution.status == ("converged",) * 3
    torch.testing.assert_close(solution.x[:, 0], torch.tensor([[3.0, 2.0], [0.0, 0.0], [0.0, 0.0]]))


def test_the_gradient_falls_monotonically_and_items_stop_by_themselves() -> None:
    problem, matrix = dense()
    solution = it.solve(problem, solver=LSMR(), tolerance=1e-10)
    assert solution.status == ("converged",) * 2
    gradients = []
    for steps in range(1, 9):
        x = it.solve(problem, solver=LSMR(), max_iterations=steps, tolerance=0.0).x
        gradients.append(item_norm((x[:, 0] @ matrix.T - problem.y[:, 0]) @ matrix))
    assert all(bool((after <= before * (1 + 1e-12)).all()) for before, after in pairwise(gradients))
    loose = it.solve(
        problem, it.priors.Tikhonov(), LSMR(), torch.tensor([10.0, 1e-6]), tolerance=1e-8
    )
    assert int(loose.iterations[0]) < int(loose.iterations[1])


def test_complex_measurements() -> None:
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(9, 4, generator=generator, dtype=torch.complex128)
    y = torch.randn(2, 1, 9, generator=generator, dtype=torch.complex128)
    x = it.solve(it.Problem(y, it.operators.Matrix(matrix)), solver=LSMR(), tolerance=1e-13).x
    torch.testing.assert_close(x[:, 0].T, torch.linalg.lstsq(matrix, y[:, 0].T).solution)


def test_a_weight_that_a_rule_moves_is_followed() -> None:
    x = torch.zeros(2, 1, 24, 20)
    x[0, :, 5:15, 4:12], x[1, :, 8:20, 8:18] = 1.0, 0.5
    A = it.operators.Blur(torch.ones(3, 3) / 9, (24, 20))
    problem = it.Problem(A.simulate(x, 0.05, seed=1), A, it.data_terms.LeastSquares(noise_std=0.05))
    ours, theirs = (
        it.solve(problem, it.priors.Tikhonov("gradient"), solver, tolerance=1e-6)
        for solver in (LSMR(), ConjugateGradient())
    )
    torch.testing.assert_close(ours.x, theirs.x, atol=5e-3, rtol=0)


def test_check_solver_and_what_does_not_fit() -> None:
    problem, _ = dense()
    assert check_solver(
        LSMR(), problem.to(dtype=torch.float32), it.priors.Tikhonov(), regularization=0.1
    ).ok
    with pytest.raises(it.InputError, match="LSMR needs quadratic priors"):
        it.solve(problem, it.priors.L1(), LSMR(), 1.0)
