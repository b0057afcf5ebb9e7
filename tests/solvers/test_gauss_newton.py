"""Gauss-Newton and Levenberg-Marquardt."""

from __future__ import annotations

import pytest
import torch

import invtoolbox as it
from invtoolbox.objective.linearization import Linearization
from invtoolbox.solve import bind
from invtoolbox.testing import check_solver

SOLVERS = [
    it.solvers.GaussNewton(),
    it.solvers.LevenbergMarquardt(),
    it.solvers.LevenbergMarquardt(inner="dual"),
]


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_contract(solver: it.solvers.Solver) -> None:
    generator = torch.Generator().manual_seed(0)
    A = it.operators.Matrix(torch.randn(12, 8, generator=generator))
    problem = it.Problem(torch.randn(3, 1, 12, generator=generator), A)
    assert check_solver(solver, problem, prior=it.priors.Tikhonov()).ok


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
def test_one_step_solves_a_quadratic_problem(solver: it.solvers.Solver) -> None:
    generator = torch.Generator().manual_seed(0)
    M = torch.randn(12, 8, generator=generator, dtype=torch.float64)
    y = torch.randn(2, 1, 12, generator=generator, dtype=torch.float64)
    solution = it.solve(
        it.Problem(y, it.operators.Matrix(M)),
        it.priors.Tikhonov(),
        solver,
        regularization=0.5,
        progress=False,
    )
    expected = torch.linalg.solve(
        M.T @ M + 0.5 * torch.eye(8, dtype=torch.float64), M.T @ y[:, 0].T
    ).T
    torch.testing.assert_close(solution.x[:, 0], expected, rtol=1e-4, atol=1e-4)
    assert int(solution.iterations.max()) <= 4


def test_rosenbrock() -> None:
    # The classic valley: r = (1 - a, 10 (b - a^2)), its minimizer (1, 1).
    def valley(x: torch.Tensor) -> torch.Tensor:
        a, b = x[:, 0, 0], x[:, 0, 1]
        return torch.stack([a, 10 * (b - a**2)], 1)[:, None]

    A = it.as_operator(valley, domain_shape=(1, 2), range_shape=(1, 2))
    y = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64).expand(2, 1, 2)
    start = torch.tensor([[[-1.2, 1.0]], [[3.0, -2.0]]], dtype=torch.float64)
    solution = it.solve(
        it.Problem(y, A),
        solver=it.solvers.LevenbergMarquardt(tolerance=1e-9),
        initial=start,
        progress=False,
    )
    torch.testing.assert_close(
        solution.x, torch.ones(2, 1, 2, dtype=torch.float64), rtol=1e-6, atol=1e-6
    )
    assert bool((solution.history["objective"].diff(dim=0).nan_to_num() <= 1e-12).all())


def test_the_matrix_is_the_hessian_where_the_operator_is_linear() -> None:
    generator = torch.Generator().manual_seed(0)
    M = torch.rand(6, 5, generator=generator, dtype=torch.float64)
    y = torch.rand(1, 1, 6, generator=generator, dtype=torch.float64) + 1
    for data_term in (
        it.data_terms.LeastSquares(noise_std=0.5),
        it.data_terms.Poisson(background=1.0),
    ):
        prior = it.priors.SmoothedNorm(power=1.0, smoothing=0.1)
        objective, _, _ = bind(
            it.Problem(y, it.operators.Matrix(M), data_term), prior.as_sum(), 0.3
        )
        x = torch.rand(1, 1, 5, generator=generator, dtype=torch.float64)
        v = torch.randn(1, 1, 5, generator=generator, dtype=torch.float64)
        product = Linearization(objective, x).product(v)
        h = 1e-5
        expected = (
            objective.evaluate(x + h * v).gradient - objective.evaluate(x - h * v).gradient
        ) / (2 * h)
        torch.testing.assert_close(product, expected, rtol=1e-6, atol=1e-6)


def test_phase_retrieval_like_problems_need_no_linear_operator() -> None:
    generator = torch.Generator().manual_seed(3)
    M = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    x = torch.randn(1, 1, 6, generator=generator, dtype=torch.float64)
    A = it.as_operator(
        lambda z: (z[:, 0] @ M.T).square()[:, None], domain_shape=(1, 6), range_shape=(1, 40)
    )
    problem = it.Problem(A(x), A)
    solution = it.solve(
        problem, solver="levenberg-marquardt", initial=x + 0.3, tolerance=1e-8, progress=False
    )
    torch.testing.assert_close(solution.x, x, rtol=1e-5, atol=1e-5)


def test_the_mean_curvature_of_the_misfit_leaves_out_the_prior() -> None:
    x = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    problem = it.Problem(x, it.operators.Identity((1, 8, 8)), it.data_terms.LeastSquares(0.5))
    objective = bind(problem, (3 * it.priors.Tikhonov("gradient")).as_sum(), 1.0)[0]
    solver = it.solvers.GaussNewton(preconditioner="fourier")
    inverse = solver._precondition(objective, Linearization(objective, x), x, torch.zeros(1))
    assert inverse is not None
    # The prior has the eigenvalue 0 for a constant, the misfit 1 / 0.5^2.
    torch.testing.assert_close(inverse(x), x / 4)


def test_a_fourier_preconditioner_changes_the_way_and_not_the_goal() -> None:
    row, column = torch.meshgrid(torch.arange(10.0), torch.arange(10.0), indexing="ij")
    image = torch.sin(row / 3) * torch.cos(column / 4)
    A = it.operators.ImageWarp(image[None, None].double(), interpolation="cubic")
    shift = torch.ones(2, 2, 10, 10, dtype=torch.float64)
    problem = it.Problem(A(torch.tensor([0.5, -1.0]).view(2, 1, 1, 1) * shift), A)
    runs = [
        it.solve(
            problem,
            0.5 * it.priors.Bending(),
            it.solvers.GaussNewton(preconditioner=kind, inner_iterations=40, inner_tolerance=1e-2),
            initial=0 * shift,
            tolerance=1e-3,
            progress=False,
            check=False,
        )
        for kind in (None, "fourier")
    ]
    assert all(run.status == ("converged", "converged") for run in runs)
    assert torch.allclose(runs[0].x, runs[1].x, atol=0.02)
    alone = it.solve(
        it.Problem(problem.y[1:], A),
        0.5 * it.priors.Bending(),
        it.solvers.GaussNewton(preconditioner="fourier", inner_iterations=40, inner_tolerance=1e-2),
        initial=0 * shift[:1],
        tolerance=1e-3,
        progress=False,
        check=False,
    )
    assert torch.equal(alone.x, runs[1].x[1:])


@pytest.mark.parametrize(
    "term", [it.data_terms.LeastSquares(0.5), it.data_terms.Student()], ids=repr
)
def test_the_dual_step_is_that_of_conjugate_gradients(term: it.data_terms.DataTerm) -> None:
    # Seven measurements of a picture that a network of 193 weights draws.
    generator = torch.Generator().manual_seed(0)
    A = it.operators.Matrix(
        torch.randn(7, 16, generator=generator, dtype=torch.float64), domain_shape=(1, 4, 4)
    )
    y = torch.randn(2, 1, 7, generator=generator, dtype=torch.float64)
    network = it.priors.CoordinateNetwork(features=4, width=8, depth=2)

    def step(**settings: object) -> torch.Tensor:
        solver = it.solvers.LevenbergMarquardt(damping=0.1, **settings)  # type: ignore[arg-type]
        return it.solve(it.Problem(y, A, term), network, solver, max_iterations=1, progress=False).x

    exact = step(inner_tolerance=1e-12, inner_iterations=400)
    dual = step(inner="dual")
    assert float((dual - exact).norm() / exact.norm()) < 1e-9
    assert float((step(inner_iterations=2) - exact).norm() / exact.norm()) > 1e-4


def test_without_damping_the_dual_step_is_the_shortest() -> None:
    generator = torch.Generator().manual_seed(1)
    M = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    problem = it.Problem(torch.ones(1, 1, 4, dtype=torch.float64), it.operators.Matrix(M))
    solution = it.solve(
        problem,
        solver=it.solvers.GaussNewton(inner="dual"),
        initial=torch.zeros(1, 1, 9, dtype=torch.float64),
        progress=False,
    )
    expected = torch.linalg.pinv(M) @ problem.y[0, 0]
    torch.testing.assert_close(solution.x[0, 0], expected, rtol=1e-9, atol=1e-9)


def test_an_item_without_a_finite_dual_system_diverges_alone() -> None:
    A = it.as_operator(lambda x: x[..., :2].exp(), (1, 3), (1, 2))
    start = torch.tensor([1.0, 95.0]).view(2, 1, 1).expand(2, 1, 3).clone()
    solver = it.solvers.GaussNewton(inner="dual")
    found = it.solve(
        it.Problem(torch.ones(2, 1, 2), A), solver=solver, initial=start, progress=False
    )
    assert found.status == ("converged", "diverged")


def test_the_dual_system_takes_real_numbers() -> None:
    A = it.operators.Fourier((1, 4))
    for operator in (A, it.operators.PhaseRetrieval(A)):
        y = operator(torch.arange(4.0).view(1, 1, 4).to(torch.complex64))
        with pytest.raises(it.InputError, match="takes real numbers"):
            it.solve(it.Problem(y, operator), solver=it.solvers.GaussNewton(inner="dual"))


def test_settings_with_a_typing_error_are_refused() -> None:
    for settings, words in (
        ({"inner": "duall"}, "inner of LevenbergMarquardt must be 'cg' or 'dual', got 'duall'"),
        ({"preconditioner": "furier"}, "must be None or 'fourier', got 'furier'"),
    ):
        with pytest.raises(it.InputError, match=words):
            it.solvers.LevenbergMarquardt(**settings)  # type: ignore[arg-type]


def test_the_dual_system_takes_no_other_prior() -> None:
    problem = it.Problem(torch.ones(1, 1, 4), it.operators.Identity((1, 4)))
    for prior in (it.priors.Tikhonov("gradient"), it.priors.SmoothedNorm()):
        with pytest.raises(it.InputError, match="inner='dual'"):
            it.solve(problem, prior, it.solvers.GaussNewton(inner="dual"), progress=False)
