"""SIRT: the formula, the weighted least squares it converges to, bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.solvers import SIRT
from invtoolbox.testing import check_solver


def dense(consistent: bool = False) -> tuple[it.Problem, Tensor]:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.rand(20, 8, generator=generator, dtype=torch.float64)
    matrix[matrix < 0.4] = 0
    matrix[3] = 0  # a ray that misses the image
    matrix[:, 5] = 0  # a pixel that nothing sees
    x = torch.randn(2, 1, 8, generator=generator, dtype=torch.float64)
    x[..., 5] = 0
    A = it.operators.Matrix(matrix)
    noise = 0.0 if consistent else 0.3
    return it.Problem(
        A(x) + noise * torch.randn(2, 1, 20, generator=generator, dtype=torch.float64), A
    ), matrix


def scan(views: int = 30) -> it.Problem:
    x = torch.zeros(2, 1, 24, 24)
    x[0, :, 6:16, 5:14], x[1, :, 9:20, 8:18] = 1.0, 0.5
    A = it.operators.ParallelBeam((24, 24), torch.linspace(0, torch.pi, views + 1)[:-1], 35)
    return it.Problem(A.simulate(x, 0.05, seed=0), A)


def inverse(sums: Tensor) -> Tensor:
    return torch.where(sums > 0, 1 / sums, 0.0)


def test_three_steps_by_hand() -> None:
    problem, M = dense()
    weights = torch.rand(2, 1, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    term = it.data_terms.LeastSquares(noise_std=torch.tensor([0.1, 1.0]), weights=weights)
    ours = it.solve(
        it.Problem(problem.y, problem.operator, term),
        solver=SIRT(relaxation=1.3, tau=0),
        max_iterations=3,
        tolerance=0.0,
    ).x
    R = inverse(M.sum(1))
    for k in range(2):
        W, x = weights[k, 0], torch.zeros(8, dtype=torch.float64)
        for _ in range(3):
            x = x + 1.3 * inverse(M.T @ (W * (R > 0))) * (M.T @ (R * W * (problem.y[k, 0] - M @ x)))
        torch.testing.assert_close(ours[k, 0], x)


def test_converges_to_least_squares_in_the_metric_of_the_row_sums_within_bounds() -> None:
    from scipy.optimize import lsq_linear

    problem, M = dense()
    root = inverse(M.sum(1)).sqrt()
    seen = [k for k in range(8) if k != 5]
    for prior, bounds in (
        (None, (-np.inf, np.inf)),
        (it.priors.Box(-0.2, 0.5), (-0.2, 0.5)),
        (it.priors.NonNegative(), (0, np.inf)),
    ):
        solution = it.solve(
            problem, prior, SIRT(relaxation=1.9), 1.0, max_iterations=5000, tolerance=1e-10
        )
        assert solution.status == ("converged",) * 2
        for k in range(2):
            theirs = lsq_linear(
                (root[:, None] * M)[:, seen].numpy(),
                (root * problem.y[k, 0]).numpy(),
                bounds,
                tol=1e-14,
            ).x
            np.testing.assert_allclose(solution.x[k, 0, seen].numpy(), theirs, atol=1e-6)
        assert bool((solution.x[..., 5] == 0).all())


def test_it_stops_at_the_noise_item_by_item() -> None:
    problem = scan()
    noisy = it.Problem(
        problem.y,
        problem.operator,
        it.data_terms.LeastSquares(noise_std=torch.tensor([0.05, 0.25])),
    )
    solution = it.solve(noisy, solver=SIRT(), max_iterations=500)
    assert (
        solution.status == ("converged",) * 2
        and int(solution.iterations[1]) < int(solution.iterations[0]) < 500
    )
    expected = 1.01 * (30 * 35) ** 0.5
    assert bool(
        (noisy.data_term.discrepancy(noisy.operator(solution.x), noisy.y) <= expected).all()
    )


def test_what_does_not_fit_is_said() -> None:
    problem = scan()
    with pytest.raises(it.InputError, match="takes constraints only"):
        it.solve(problem, it.priors.TotalVariation(), SIRT(), 1.0)
    with pytest.raises(it.InputError, match="relaxation between 0 and 2"):
        it.solve(problem, solver=SIRT(relaxation=2.0))
    gradient = it.operators.FiniteDifference((1, 5))
    with pytest.raises(it.InputError, match="negative entries"):
        it.solve(
            it.Problem(torch.ones(1, 1, 5), -1.0 * it.operators.Identity((1, 5))), solver=SIRT()
        )
    # An operator with negative entries and row sums of 0 moves nothing, and is reported.
    assert (
        it.solve(it.Problem(torch.ones(1, 1, 5), gradient), solver=SIRT(), max_iterations=3)
        .x.abs()
        .max()
        == 0
    )


def test_check_solver() -> None:
    assert check_solver(SIRT(), scan(), it.priors.NonNegative()).ok
