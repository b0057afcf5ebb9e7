"""Preconditioners of conjugate gradients: the same answer in fewer steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.solve import bind
from invtoolbox.solvers import ConjugateGradient
from invtoolbox.solvers.preconditioner import preconditioner, row_sums
from invtoolbox.testing import check_solver


def blurred(boundary: str = "reflect", weights: Tensor | None = None) -> it.Problem:
    x = torch.zeros(2, 1, 32, 28, dtype=torch.float64)
    x[0, :, 5:15, 4:12], x[1, :, 8:20, 8:18] = 1.0, 0.5
    A = it.operators.Blur(torch.ones(5, 3, dtype=torch.float64) / 15, (32, 28), boundary=boundary)
    return it.Problem(A.simulate(x, 0.01, seed=1), A, it.data_terms.LeastSquares(weights=weights))


def uneven() -> it.Problem:
    """Rows and columns whose scales differ by three decades."""
    generator = torch.Generator().manual_seed(0)
    M = torch.rand(40, 20, generator=generator, dtype=torch.float64) * torch.logspace(
        0, 3, 20, dtype=torch.float64
    )
    M = M * (0.5 * M.amax(0) <= M)
    weights = torch.logspace(-2, 2, 40, dtype=torch.float64).view(1, 1, 40)
    return it.Problem(
        torch.randn(2, 1, 40, generator=generator, dtype=torch.float64),
        it.operators.Matrix(M),
        it.data_terms.LeastSquares(weights=weights),
    )


@pytest.mark.parametrize(
    ("problem", "prior", "kind", "factor"),
    [
        (blurred(), 0.03 * it.priors.Tikhonov("gradient"), "fourier", 1.2),
        (blurred("periodic"), 1e-3 * it.priors.Tikhonov(), "auto", 5.0),
        (uneven(), 1e-3 * it.priors.Tikhonov(), "diagonal", 1.4),
        (uneven(), 1e-3 * it.priors.Tikhonov("gradient"), "auto", 1.4),
    ],
    ids=["reflect", "periodic", "rows", "rows-gradient"],
)
def test_the_answer_is_the_same_and_comes_sooner(
    problem: it.Problem, prior: Any, kind: Any, factor: float
) -> None:
    plain = it.solve(problem, prior, ConjugateGradient(max_iterations=2000), tolerance=1e-9)
    fast = it.solve(
        problem, prior, ConjugateGradient(max_iterations=2000, preconditioner=kind), tolerance=1e-9
    )
    assert fast.status == ("converged",) * 2
    assert bool((factor * fast.iterations < plain.iterations).all()), (
        fast.iterations,
        plain.iterations,
    )
    torch.testing.assert_close(
        problem.operator(fast.x), problem.operator(plain.x), rtol=1e-5, atol=1e-5
    )


def test_the_fourier_preconditioner_of_a_periodic_system_is_its_inverse() -> None:
    from invtoolbox.solvers.conjugate_gradient import apply_hessian

    problem = blurred("periodic")
    objective, _, _ = bind(problem, (0.1 * it.priors.Tikhonov()).as_sum(), torch.tensor([1.0, 3.0]))
    inverse = preconditioner(objective, "fourier")
    assert inverse is not None
    x = torch.randn(
        problem.y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    torch.testing.assert_close(inverse(apply_hessian(objective, x, problem.operator(x))), x)


def test_the_diagonal_is_that_of_the_system_where_operators_know_theirs() -> None:
    A = it.operators.Matrix(torch.eye(12, dtype=torch.float64), (1, 4, 3), (1, 4, 3))
    problem = it.Problem(torch.ones(2, 1, 4, 3, dtype=torch.float64), A)
    objective, _, _ = bind(
        problem, it.priors.Tikhonov("gradient").as_sum(), torch.tensor([1.0, 3.0])
    )
    inverse = preconditioner(objective, "diagonal")
    D = it.operators.FiniteDifference((1, 4, 3))
    unit = torch.eye(12, dtype=torch.float64).view(12, 1, 4, 3)
    exact = 1 + torch.tensor([1.0, 3.0]).view(2, 1) * D(unit).flatten(1).square().sum(1)
    assert inverse is not None and inverse.diagonal is not None
    torch.testing.assert_close(1 / inverse.diagonal.flatten(1), exact.to(torch.float64))


def test_pixels_that_little_determines_have_a_floor() -> None:
    scales = torch.tensor([1.0, 1e-4, 2.0, 0.0], dtype=torch.float64)
    problem = it.Problem(
        torch.ones(1, 1, 1, 4, dtype=torch.float64),
        it.operators.Matrix(scales.diag(), (1, 1, 4), (1, 1, 4)),
    )
    objective = bind(problem, (0.0 * it.priors.Tikhonov()).as_sum(), 1.0)[0]
    inverse = preconditioner(objective, "diagonal")
    assert inverse is not None and inverse.diagonal is not None
    expected = torch.tensor([1.0, 250.0, 0.25, 250.0], dtype=torch.float64)  # 1 / (1e-3 * 4)
    torch.testing.assert_close(inverse.diagonal.flatten(), expected)


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_row_sums_below_rounding_are_no_negative_entries(size: float) -> None:
    def operator(low: float) -> it.operators.LinearOperator:
        scale = size * torch.tensor([1.0, low])
        return it.as_operator(lambda x: scale * x, domain_shape=(1, 2), linear=True)

    y = torch.zeros(1, 1, 2)
    assert row_sums(it.Problem(y, operator(-1e-6))).shape == (1, 1, 2)
    with pytest.raises(it.InputError, match="has negative entries"):
        row_sums(it.Problem(y, operator(-1e-2)))


def test_a_weight_that_a_rule_moves_takes_its_preconditioner_along() -> None:
    problem = it.Problem(
        blurred().y, blurred().operator, it.data_terms.LeastSquares(noise_std=0.01)
    )
    plain, fast = (
        it.solve(
            problem,
            it.priors.Tikhonov("gradient"),
            ConjugateGradient(preconditioner=kind),
            tolerance=1e-6,
        )
        for kind in (None, "fourier")
    )
    assert fast.status == ("converged",) * 2
    torch.testing.assert_close(fast.x, plain.x, atol=5e-3, rtol=0)


def test_check_solver_and_what_does_not_fit() -> None:
    problem = blurred()
    for kind in ("fourier", "diagonal"):
        assert check_solver(
            ConjugateGradient(preconditioner=kind),
            problem.to(dtype=torch.float32),  # type: ignore[arg-type]
            0.1 * it.priors.Tikhonov("gradient"),
        ).ok
    with pytest.raises(it.InputError, match="no Fourier preconditioner here"):
        it.solve(uneven(), it.priors.Tikhonov(), ConjugateGradient(preconditioner="fourier"), 1.0)
    with pytest.raises(it.InputError, match="'auto', 'diagonal', 'fourier' or None"):
        it.solve(problem, it.priors.Tikhonov(), ConjugateGradient(preconditioner="ilu"), 1.0)  # type: ignore[arg-type]
