"""Ordered subsets: SIRT's iterates with one subset, formulas by hand, answers of other methods."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.operators.base import item_norm
from invtoolbox.solvers import OSEM, OSSART, PDHG, SIRT
from invtoolbox.testing import check_solver


def phantom() -> Tensor:
    x = torch.zeros(2, 1, 24, 24)
    x[0, :, 6:16, 5:14], x[1, :, 9:20, 8:18] = 1.0, 0.5
    return x


def scan(noise: float = 0.0, views: int = 30) -> it.Problem:
    A = it.operators.ParallelBeam((24, 24), torch.linspace(0, torch.pi, views + 1)[:-1], 35)
    return it.Problem(A.simulate(phantom(), noise, seed=0), A)


def counts(background: float = 0.0) -> it.Problem:
    A = it.operators.ParallelBeam((24, 24), torch.linspace(0, torch.pi, 31)[:-1], 35)
    y = torch.poisson(20 * A(phantom()) + background, generator=torch.Generator().manual_seed(0))
    return it.Problem(y, 20 * A, it.data_terms.Poisson(background))


# -- OS-SART ---------------------------------------------------------------------------------------


def test_one_subset_is_sirt() -> None:
    problem = scan(0.1)
    ours = it.solve(
        problem,
        it.priors.NonNegative(),
        OSSART(subset_size=30, relaxation=1.5),
        max_iterations=7,
        tolerance=0.0,
    ).x
    theirs = it.solve(
        problem, it.priors.NonNegative(), SIRT(relaxation=1.5), max_iterations=7, tolerance=0.0
    ).x
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_a_pass_by_hand_in_the_order_that_the_seed_draws() -> None:
    generator = torch.Generator().manual_seed(3)
    M = torch.rand(7, 4, generator=generator, dtype=torch.float64)
    y = torch.rand(2, 1, 7, generator=generator, dtype=torch.float64)
    problem = it.Problem(y, it.operators.Matrix(M))
    ours = it.solve(
        problem, solver=OSSART(subset_size=3, decay=0.5), max_iterations=2, tolerance=0.0, seed=5
    ).x
    subsets = [[0, 3, 6], [1, 4], [2, 5]]
    C, R = 1 / torch.stack([M[s].sum(0) for s in subsets]).amax(0), 1 / M.sum(1)
    x = torch.zeros(2, 4, dtype=torch.float64)
    for iteration in range(2):
        draw = torch.Generator().manual_seed(5 * 1_000_003 + iteration)
        for k in torch.randperm(3, generator=draw).tolist():
            s = subsets[k]
            x = x + C * (((y[:, 0, s] - x @ M[s].T) * R[s]) @ M[s]) / (1 + 0.5 * iteration)
    torch.testing.assert_close(ours[:, 0], x)


def test_subsets_are_as_many_times_faster() -> None:
    problem = scan()

    def error(solver: it.solvers.Solver, passes: int) -> float:
        return float(
            item_norm(
                it.solve(problem, solver=solver, max_iterations=passes, tolerance=0.0).x - phantom()
            ).max()
        )

    assert error(OSSART(subset_size=3), 5) < error(SIRT(tau=0), 40)
    assert error(OSSART(subset_size=1), 5) < error(SIRT(tau=0), 40)


def test_with_a_decay_it_converges_to_what_sirt_does() -> None:
    generator = torch.Generator().manual_seed(0)
    A = it.operators.Matrix(torch.rand(40, 6, generator=generator))
    problem = it.Problem(torch.randn(2, 1, 40, generator=generator), A)
    prior = it.priors.Box(-0.3, 0.3)
    theirs = it.solve(problem, prior, SIRT(relaxation=1.9), max_iterations=5000, tolerance=1e-7).x
    errors = [
        float(
            item_norm(
                it.solve(
                    problem,
                    prior,
                    OSSART(subset_size=10, decay=decay),
                    max_iterations=600,
                    tolerance=0.0,
                ).x
                - theirs
            ).max()
        )
        for decay in (0.0, 0.1)
    ]
    assert errors[1] < 0.02 < errors[0]


def test_pixels_that_few_views_see_are_not_pushed_too_far() -> None:
    # One row of seven sees the last pixel: the mean over the subsets would take steps seven times
    # as long.
    M = torch.rand(7, 4, generator=torch.Generator().manual_seed(0))
    M[:-1, -1] = 0
    x = torch.rand(2, 1, 4, generator=torch.Generator().manual_seed(1))
    solution = it.solve(
        it.Problem(x @ M.T, it.operators.Matrix(M)),
        solver=OSSART(subset_size=1, relaxation=1.5),
        max_iterations=3000,
        tolerance=1e-5,
    )
    torch.testing.assert_close(solution.x, x, atol=1e-2, rtol=0)


# -- OSEM ------------------------------------------------------------------------------------------


def test_expectation_maximization_by_hand() -> None:
    generator = torch.Generator().manual_seed(3)
    M = torch.rand(9, 5, generator=generator, dtype=torch.float64)
    M[:, 2] = 0  # a pixel that nothing sees
    y = torch.poisson(
        10 * torch.rand(2, 1, 9, generator=generator, dtype=torch.float64), generator=generator
    )
    problem = it.Problem(y, it.operators.Matrix(M), it.data_terms.Poisson(0.7))
    start = torch.rand(2, 1, 5, generator=generator, dtype=torch.float64)
    ours = it.solve(problem, solver=OSEM(), initial=start, max_iterations=3, tolerance=0.0).x
    x, seen = start[:, 0].clone(), M.sum(0)
    for _ in range(3):
        factor = (y[:, 0] / (x @ M.T + 0.7)) @ M
        x = torch.where(seen > 0, x * factor / seen, x)
    torch.testing.assert_close(ours[:, 0], x)


def test_mlem_never_increases_the_objective_and_keeps_the_counts() -> None:
    problem = counts()
    solution = it.solve(problem, solver=OSEM(), max_iterations=60, tolerance=0.0)
    values = solution.history["objective"]
    assert (
        bool((values[1:] <= values[:-1] + 1e-5 * values[:-1].abs()).all())
        and float(solution.x.min()) >= 0
    )
    torch.testing.assert_close(
        problem.operator(solution.x).flatten(1).sum(1),
        problem.y.flatten(1).sum(1),
        rtol=1e-4,
        atol=0,
    )


def test_mlem_agrees_with_pdhg() -> None:
    generator = torch.Generator().manual_seed(0)
    M = torch.rand(40, 5, generator=generator)
    x = 50 * torch.rand(2, 1, 5, generator=generator)
    problem = it.Problem(
        torch.poisson(x @ M.T, generator=generator), it.operators.Matrix(M), it.data_terms.Poisson()
    )
    ours = it.solve(problem, solver=OSEM(), max_iterations=2000, tolerance=1e-5).x
    theirs = it.solve(
        problem, it.priors.NonNegative(), PDHG(), max_iterations=2000, tolerance=1e-5
    ).x
    torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.3)


def test_osem_is_faster_and_a_start_keeps_its_zeros() -> None:
    problem = counts(2.0)
    few = it.solve(problem, solver=OSEM(subset_size=5), max_iterations=4, tolerance=0.0)
    many = it.solve(problem, solver=OSEM(), max_iterations=20, tolerance=0.0)
    assert bool((few.history["objective"][-1] < 1.02 * many.history["objective"][-1]).all())
    mask = (phantom() > 0).float()
    inside = it.solve(
        problem, solver=OSEM(subset_size=10), initial=mask, max_iterations=5, tolerance=0.0
    ).x
    assert bool((inside[mask == 0] == 0).all()) and bool((inside[mask > 0] > 0).all())


# -- what both promise -----------------------------------------------------------------------------


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(it.InputError, match="fall into blocks"):
        it.solve(it.Problem(torch.ones(1, 1, 4), it.operators.Identity((1, 4))), solver=OSSART())
    with pytest.raises(it.InputError, match="subset_size from 1 to the 30 blocks"):
        it.solve(scan(), solver=OSSART(subset_size=31))
    with pytest.raises(it.InputError, match="Poisson data term of emission"):
        it.solve(scan(), solver=OSEM())
    with pytest.raises(it.InputError, match="no prior but NonNegative"):
        it.solve(counts(), it.priors.TotalVariation(), OSEM(), 1.0)


@pytest.mark.parametrize(
    ("solver", "problem"),
    [
        (OSSART(subset_size=5, tolerance=1e-3, max_iterations=200), scan()),
        (OSEM(tolerance=1e-3), counts()),
        (OSEM(subset_size=6, tolerance=1e-2), counts(1.0)),
    ],
    ids=["os-sart", "mlem", "osem"],
)
def test_check_solver(solver: it.solvers.Solver, problem: it.Problem) -> None:
    assert check_solver(solver, problem, it.priors.NonNegative(), iterations=12).ok


def test_items_stop_by_themselves() -> None:
    problem = scan()
    y = problem.y.clone()
    y[1] = 0  # nothing to find
    solution = it.solve(
        it.Problem(y, problem.operator),
        solver=OSSART(subset_size=5),
        tolerance=5e-3,
        max_iterations=300,
    )
    assert solution.status == ("converged",) * 2 and int(solution.iterations[1]) < int(
        solution.iterations[0]
    )
