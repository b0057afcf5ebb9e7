"""Condat-Vu: agreement with methods of another kind, and its promises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.solvers import FISTA, PDHG, CondatVu
from invtoolbox.testing import check_solver


def blurred() -> it.Problem:
    x = torch.zeros(2, 1, 24, 20)
    x[0, :, 5:15, 4:12], x[1, :, 8:20, 8:18] = 1.0, 0.5
    kernel = torch.outer(torch.tensor([0.1, 0.8, 0.1]), torch.tensor([0.05, 0.15, 0.6, 0.15, 0.05]))
    A = it.operators.Blur(kernel, (24, 20))
    return it.Problem(A.simulate(x, 0.02, seed=1), A, it.data_terms.LeastSquares(noise_std=0.02))


def objective(problem: it.Problem, prior: it.priors.PriorSum, x: Tensor) -> Tensor:
    return problem.data_term.value(problem.operator(x), problem.y) + prior.energy(x)


def test_several_priors_agree_with_fista_and_with_pdhg() -> None:
    problem = blurred()
    prior = 30.0 * it.priors.TotalVariation() + it.priors.Box(0.0, 0.9)
    ours = it.solve(problem, prior, CondatVu(max_iterations=5000), tolerance=3e-4)
    assert (
        ours.status == ("converged",) * 2
        and float(ours.x.min()) >= 0
        and float(ours.x.max()) <= 0.9
    )
    bounded = 30.0 * it.priors.TotalVariation(lower=0.0, upper=0.9, tolerance=1e-6)
    for theirs in (
        it.solve(problem, bounded, FISTA(max_iterations=3000), tolerance=1e-4),
        it.solve(problem, prior, PDHG(max_iterations=5000), tolerance=3e-4),
    ):
        torch.testing.assert_close(
            objective(problem, prior, ours.x),
            objective(problem, prior, theirs.x),
            rtol=1e-3,
            atol=0,
        )


def test_two_split_priors_in_one_dimension_against_a_linear_program() -> None:
    # min 1/2 |x - y|^2 + 2 |x|_1 + |D x|_1: soft thresholding of the TV prox (Friedman et al.
    # 2007).
    y = torch.randn(2, 1, 15, generator=torch.Generator().manual_seed(0)) * 3
    problem = it.Problem(y, it.operators.Identity((1, 15)))
    eye = it.operators.Matrix(torch.eye(15), (1, 15), (1, 15))
    prior = 2.0 * (it.priors.L1() @ eye) + it.priors.TotalVariation()
    solution = it.solve(problem, prior, CondatVu(max_iterations=10000), tolerance=1e-6)
    expected = it.priors.L1().prox(it.priors.TotalVariation(tolerance=1e-7).prox(y, 1.0), 2.0)
    torch.testing.assert_close(solution.x, expected, atol=2e-3, rtol=0)


def test_without_a_split_prior_it_is_the_proximal_gradient_method() -> None:
    problem = blurred()
    ours = it.solve(problem, 10.0 * it.priors.L1(), CondatVu(max_iterations=3000), tolerance=1e-5)
    theirs = it.solve(problem, 10.0 * it.priors.L1(), FISTA(max_iterations=3000), tolerance=1e-5)
    prior = (10.0 * it.priors.L1()).as_sum()
    torch.testing.assert_close(
        objective(problem, prior, ours.x), objective(problem, prior, theirs.x), rtol=1e-3, atol=0
    )


def test_what_does_not_fit_is_said() -> None:
    poisson = it.Problem(
        torch.ones(1, 1, 4), it.operators.Identity((1, 4)), it.data_terms.Poisson()
    )
    with pytest.raises(it.InputError, match="Lipschitz gradient"):
        it.solve(poisson, it.priors.TotalVariation(), CondatVu(), 1.0)


def test_check_solver() -> None:
    assert check_solver(
        CondatVu(max_iterations=3000),
        blurred(),
        30.0 * it.priors.TotalVariation() + it.priors.NonNegative(),
    ).ok
