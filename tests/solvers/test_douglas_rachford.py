"""Douglas-Rachford: closed forms, agreement with FISTA, and its promises."""

from __future__ import annotations

import pytest
import torch

import invtoolbox as it
from invtoolbox.solvers import FISTA, PDHG, DouglasRachford
from invtoolbox.testing import check_solver


def blurred(boundary: str = "periodic") -> it.Problem:
    x = torch.zeros(2, 1, 24, 20)
    x[0, :, 5:15, 4:12], x[1, :, 8:20, 8:18] = 1.0, 0.5
    kernel = torch.outer(torch.tensor([0.1, 0.8, 0.1]), torch.tensor([0.05, 0.15, 0.6, 0.15, 0.05]))
    A = it.operators.Blur(kernel, (24, 20), boundary=boundary)
    return it.Problem(A.simulate(x, 0.02, seed=1), A, it.data_terms.LeastSquares(noise_std=0.02))


def test_lasso_with_an_orthogonal_operator() -> None:
    Q, _ = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(0)))
    A = it.operators.Matrix(Q)
    y = torch.randn(2, 1, 12, generator=torch.Generator().manual_seed(1))
    weight = torch.tensor([0.3, 1.0])
    solution = it.solve(it.Problem(y, A), it.priors.L1(), DouglasRachford(), weight, tolerance=1e-6)
    torch.testing.assert_close(
        solution.x, it.priors.L1().prox(A.adjoint(y), weight), atol=1e-5, rtol=0
    )
    assert bool((solution.x == 0).any())  # the answer is on the side of the prior


# The prox of total variation does not depend on the boundary of the blur.
@pytest.mark.parametrize(
    ("prior", "boundary"),
    [
        pytest.param(
            prior,
            boundary,
            marks=pytest.mark.slow if (name, boundary) == ("tv", "periodic") else (),
        )
        for name, prior in {
            "l1": it.priors.L1(),
            "tv": it.priors.TotalVariation(tolerance=1e-5),
            "box": it.priors.Box(0.0, 0.9),
        }.items()
        for boundary in ("periodic", "reflect")
    ],
    ids=str,
)
def test_agrees_with_fista(prior: it.priors.ExplicitPrior, boundary: str) -> None:
    problem, weight = blurred(boundary), torch.tensor([30.0, 100.0])
    values = []
    for solver in (
        FISTA(max_iterations=3000, tolerance=1e-4),
        DouglasRachford(max_iterations=3000, tolerance=1e-3),
    ):
        solution = it.solve(problem, prior, solver, regularization=weight)
        assert solution.status == ("converged",) * 2
        energy = 0.0 if prior.is_constraint else weight * prior.energy(solution.x)
        values.append(problem.data_term.value(problem.operator(solution.x), problem.y) + energy)
    torch.testing.assert_close(values[1], values[0], rtol=2e-3, atol=0)


def test_counts_behind_the_identity() -> None:
    clean = torch.full((2, 1, 16, 12), 4.0)
    clean[0, :, 4:10, 3:9], clean[1, :, 6:14, 2:7] = 30.0, 12.0
    problem = it.Problem(
        torch.poisson(clean, generator=torch.Generator().manual_seed(0)),
        it.operators.Identity((1, 16, 12)),
        it.data_terms.Poisson(),
    )
    ours = it.solve(
        problem, it.priors.TotalVariation(tolerance=1e-5), DouglasRachford(), 0.5, tolerance=1e-3
    )
    theirs = it.solve(
        problem, it.priors.TotalVariation(), PDHG(max_iterations=5000), 0.5, tolerance=1e-4
    )
    torch.testing.assert_close(ours.x, theirs.x, atol=0.05, rtol=0)


def test_relaxation_and_step_do_not_change_the_answer() -> None:
    problem = blurred()
    reference = it.solve(
        problem, it.priors.L1(), DouglasRachford(max_iterations=5000), 30.0, tolerance=1e-5
    ).x
    for solver in (
        DouglasRachford(max_iterations=5000, relaxation=1.8),
        DouglasRachford(max_iterations=5000, step_size=1e-3),
    ):
        x = it.solve(problem, it.priors.L1(), solver, 30.0, tolerance=1e-5).x
        torch.testing.assert_close(
            problem.operator(x), problem.operator(reference), atol=1e-3, rtol=0
        )


def test_items_stop_by_themselves() -> None:
    solution = it.solve(
        blurred(), it.priors.L1(), DouglasRachford(), torch.tensor([3.0, 300.0]), tolerance=1e-3
    )
    assert solution.status == ("converged",) * 2 and len(set(solution.iterations.tolist())) == 2


def test_check_solver_and_what_does_not_fit() -> None:
    assert check_solver(DouglasRachford(), blurred("reflect"), 10.0 * it.priors.L1()).ok
    for prior, words in (
        (it.priors.L1() + it.priors.NonNegative(), "takes one prior"),
        (it.priors.Tikhonov("gradient"), "needs the proximal operator"),
    ):
        with pytest.raises(it.InputError, match=words):
            it.solve(blurred(), prior, DouglasRachford(), 1.0)
