"""Proximal gradient and FISTA: closed forms, monotonicity, and the same minimiser as other methods."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator, Operator
from invtoolbox.priors import ExplicitPrior
from invtoolbox.solvers import FISTA, LBFGS, ProximalGradient


class Matrix(LinearOperator):
    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.range_shape, self.domain_shape = (1, matrix.shape[0]), (1, matrix.shape[1])

    def _forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix.T

    def _adjoint(self, y: Tensor) -> Tensor:
        return y @ self.matrix


def lasso(batch: int = 3) -> it.Problem:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(20, 30, generator=generator, dtype=torch.float64)
    y = (
        torch.randn(batch, 1, 20, generator=generator, dtype=torch.float64)
        * torch.tensor([1.0, 10.0, 0.1])[:batch, None, None]
    )
    return it.Problem(y, Matrix(matrix))


@pytest.mark.parametrize("solver", [ProximalGradient(), FISTA()], ids=lambda s: type(s).__name__)
def test_lasso_meets_its_optimality_conditions(solver: it.solvers.Solver) -> None:
    problem, weight = lasso(), torch.tensor([1.0, 20.0, 0.3], dtype=torch.float64)
    solution = it.solve(
        problem, it.priors.L1(), solver, regularization=weight, tolerance=1e-9, max_iterations=20000
    )
    assert solution.status == ("converged",) * 3
    slope = problem.operator.adjoint(problem.y - problem.operator(solution.x))
    bound = weight.view(-1, 1, 1)
    active = solution.x.abs() > 1e-8
    assert bool(
        ((slope.abs() - bound).clamp_min(0) <= 1e-5 * bound).all()
    )  # |A^T r| <= w everywhere,
    difference = torch.where(active, slope - bound * solution.x.sign(), torch.zeros_like(slope))
    assert float((difference.abs() / bound).max()) < 1e-5  # and w sign(x) where x is not 0
    assert bool(active.flatten(1).any(1).all())


def test_proximal_gradient_never_increases_the_objective() -> None:
    values = it.solve(
        lasso(), it.priors.L1(), ProximalGradient(), regularization=1.0, max_iterations=200
    ).history["objective"]
    steps = values.diff(dim=0)
    assert bool((steps[~steps.isnan()] <= 1e-10).all())


def test_acceleration_pays() -> None:
    counts = [
        it.solve(
            lasso(),
            it.priors.L1(),
            solver,
            regularization=0.1,
            tolerance=1e-6,
            max_iterations=20000,
        ).iterations.max()
        for solver in (ProximalGradient(), FISTA())
    ]
    assert 3 * counts[1] < counts[0]


def test_smooth_priors_join_the_gradient() -> None:
    class LogCosh(ExplicitPrior):
        is_convex = True

        def energy(self, x: Tensor) -> Tensor:
            return torch.log(torch.cosh(x)).flatten(1).sum(1)

    problem = lasso()
    reference = it.solve(problem, LogCosh(), LBFGS(tolerance=1e-9), regularization=0.5).x
    for solver in (ProximalGradient(tolerance=1e-8, max_iterations=20000), FISTA(tolerance=1e-8)):
        x = it.solve(problem, LogCosh(), solver, regularization=0.5).x
        assert float((x - reference).norm() / reference.norm()) < 1e-5


def test_items_alone_and_in_company() -> None:
    problem, weight = lasso(), torch.tensor([1.0, 20.0, 0.3], dtype=torch.float64)
    whole = it.solve(
        problem, it.priors.L1(), FISTA(), regularization=weight, max_iterations=40, tolerance=0
    )
    again = it.solve(
        problem, it.priors.L1(), FISTA(), regularization=weight, max_iterations=40, tolerance=0
    )
    assert torch.equal(whole.x, again.x)
    for k in range(3):
        lone = it.solve(
            problem.select(torch.tensor([k])),
            it.priors.L1(),
            FISTA(),
            regularization=weight[k],
            max_iterations=40,
            tolerance=0,
        )
        assert float((lone.x[0] - whole.x[k]).norm() / lone.x.norm()) < 1e-10


def test_a_nonlinear_operator_is_searched_too() -> None:
    class Square(Operator):
        domain_shape = range_shape = (1, 4)

        def _forward(self, x: Tensor) -> Tensor:
            return x.square()

    y = torch.tensor([[[4.0, 9.0, 1.0, 0.25]]])
    for solver in (ProximalGradient(), FISTA()):
        x = it.solve(
            it.Problem(y, Square()),
            it.priors.NonNegative(),
            solver,
            initial=torch.ones(1, 1, 4),
            tolerance=1e-6,
        ).x
        torch.testing.assert_close(x, y.sqrt(), rtol=1e-3, atol=1e-3)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(InputError, match="TotalVariation has bounds of its own"):
        it.solve(lasso(), it.priors.L1() + it.priors.NonNegative(), FISTA(), regularization=1.0)


def test_the_search_is_not_lost_in_rounding() -> None:
    # A misfit of many thousand hides a bend of 1e-4 in float32; the step must not shrink because of
    # it.
    x = torch.zeros(1, 1, 24, 20)
    x[..., 5:15, 4:12] = 1.0
    A = it.operators.Blur(torch.ones(5, 3) / 15, (24, 20))
    problem = it.Problem(A.simulate(x, 0.02, seed=0), A, it.data_terms.LeastSquares(noise_std=0.02))
    solution = it.solve(
        problem,
        it.priors.WaveletL1("haar", 2),
        FISTA(),
        regularization=2.0,
        tolerance=1e-6,
        progress=False,
    )
    assert solution.status == ("converged",)
