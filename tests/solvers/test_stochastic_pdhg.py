"""Stochastic PDHG: PDHG's answers, its steps within the theorem, the same draws for every item."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.operators.base import item_norm
from invtoolbox.solve import bind
from invtoolbox.solvers import PDHG, StochasticPDHG
from invtoolbox.testing import check_solver


def phantom() -> Tensor:
    x = torch.zeros(2, 1, 24, 24)
    x[0, :, 6:16, 5:14], x[1, :, 9:20, 8:18] = 1.0, 0.5
    return x


def scan() -> it.Problem:
    A = it.operators.ParallelBeam((24, 24), torch.linspace(0, torch.pi, 31)[:-1], 35)
    return it.Problem(
        A.simulate(phantom(), 0.05, seed=0), A, it.data_terms.LeastSquares(noise_std=0.05)
    )


def counts() -> it.Problem:
    A = 20 * it.operators.ParallelBeam((24, 24), torch.linspace(0, torch.pi, 31)[:-1], 35)
    return it.Problem(
        torch.poisson(A(phantom()) + 5, generator=torch.Generator().manual_seed(0)),
        A,
        it.data_terms.Poisson(5.0),
    )


def objective(problem: it.Problem, prior: it.priors.PriorSum, x: Tensor) -> Tensor:
    return problem.data_term.value(problem.operator(x), problem.y) + prior.energy(x)


@pytest.mark.parametrize(
    ("problem", "weight"), [(scan(), 10.0), (counts(), 3.0)], ids=["gaussian", "poisson"]
)
def test_agrees_with_pdhg(problem: it.Problem, weight: float) -> None:
    prior = weight * it.priors.TotalVariation() + it.priors.NonNegative()
    theirs = it.solve(problem, prior, PDHG(), max_iterations=2000, tolerance=1e-3).x
    ours = it.solve(problem, prior, StochasticPDHG(subset_size=5), tolerance=1e-3)
    assert ours.status == ("converged",) * 2 and float(ours.x.min()) >= 0
    torch.testing.assert_close(
        objective(problem, prior, ours.x), objective(problem, prior, theirs), rtol=3e-3, atol=0
    )
    assert bool((item_norm(ours.x - theirs) < 0.02 * item_norm(theirs)).all())


def test_a_consistent_system_against_its_solution() -> None:
    generator = torch.Generator().manual_seed(0)
    M, x = torch.rand(12, 4, generator=generator), torch.rand(2, 1, 4, generator=generator)
    problem = it.Problem(x @ M.T, it.operators.Matrix(M))
    for size in (1, 5, 12):
        solution = it.solve(
            problem, solver=StochasticPDHG(subset_size=size, max_iterations=5000), tolerance=1e-5
        )
        assert solution.status == ("converged",) * 2
        torch.testing.assert_close(solution.x, x, atol=5e-3, rtol=0)


def test_a_pass_by_hand() -> None:
    # One subset and no prior behind an operator: no draw matters, and it is PDHG with the
    # extrapolation on the dual side.
    M = torch.tensor([[1.0, 0.5], [0.0, 2.0], [1.0, 1.0]], dtype=torch.float64)
    y = torch.tensor([[[1.0, 2.0, 3.0]]], dtype=torch.float64)
    problem = it.Problem(y, it.operators.Matrix(M))
    solver = StochasticPDHG(subset_size=3)
    bound, _, _ = bind(problem, it.priors.NonNegative().as_sum(), 1.0)
    state = solver.init(bound, torch.zeros(1, 1, 2, dtype=torch.float64))
    tau, sigma = float(state.tau), float(state.sigmas)
    x, dual, ahead = (
        torch.zeros(2, dtype=torch.float64),
        torch.zeros(3, dtype=torch.float64),
        torch.zeros(2, dtype=torch.float64),
    )
    for _ in range(4):
        x = (x - tau * ahead).clamp_min(0)
        new = (dual + sigma * (M @ x) - sigma * y[0, 0]) / (1 + sigma)
        ahead = M.T @ new + M.T @ (new - dual)
        dual = new
    ours = it.solve(
        problem,
        it.priors.NonNegative(),
        solver,
        1.0,
        initial=torch.zeros(1, 1, 2),
        max_iterations=4,
        tolerance=0.0,
    )
    torch.testing.assert_close(ours.x[0, 0], x)


def test_the_steps_obey_the_theorem() -> None:
    problem = scan()
    bound, _, _ = bind(problem, (10.0 * it.priors.TotalVariation()).as_sum(), 1.0)
    for ratio in (0.1, 1.0, 10.0):
        state = StochasticPDHG(subset_size=5, ratio=ratio).init(bound, phantom())
        for s in range(6):
            norm = float(
                problem.subset(torch.arange(s, 30, 6)).operator.norm(
                    tolerance=1e-6, max_iterations=500
                )
            )  # type: ignore[attr-defined]
            assert bool((state.tau * state.sigmas[:, s] * 2 * norm**2 < 1 / 6).all())
        assert bool((state.tau * state.sigmas[:, 6] * 2 * 8 < 1).all())


def test_another_seed_is_another_run_to_the_same_answer() -> None:
    problem, prior = scan(), 10.0 * it.priors.TotalVariation()
    early = [
        it.solve(
            problem,
            prior,
            StochasticPDHG(subset_size=5),
            max_iterations=3,
            tolerance=0.0,
            seed=seed,
        ).x
        for seed in (0, 0, 1)
    ]
    assert torch.equal(early[0], early[1]) and not torch.equal(early[0], early[2])
    late = [
        it.solve(problem, prior, StochasticPDHG(subset_size=5), tolerance=3e-3, seed=seed).x
        for seed in (0, 1)
    ]
    torch.testing.assert_close(
        objective(problem, prior.as_sum(), late[0]),
        objective(problem, prior.as_sum(), late[1]),
        rtol=3e-3,
        atol=0,
    )


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(it.InputError, match="fall into blocks"):
        it.solve(
            it.Problem(torch.ones(1, 1, 4), it.operators.Identity((1, 4))),
            it.priors.L1(),
            StochasticPDHG(),
            1.0,
        )


def test_check_solver() -> None:
    prior = 10.0 * it.priors.TotalVariation() + it.priors.NonNegative()
    assert check_solver(StochasticPDHG(subset_size=6), scan(), prior, iterations=10).ok
