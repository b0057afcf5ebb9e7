"""Statuses that are true: the objective of converged items, and notes on other objectives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.loop.stopping import Travel
from invtoolbox.solve import bind
from invtoolbox.solvers import (
    ADMM,
    FISTA,
    PDHG,
    SIRT,
    DouglasRachford,
    HalfQuadratic,
    KrylovMM,
    Solver,
)
from invtoolbox.solvers.duality import objective_gap
from invtoolbox.solvers.linear_systems import quotient
from invtoolbox.solvers.splitting import data_summands

A = it.operators.Blur(torch.ones(3, 3) / 9, (10, 10))


def measurements(dtype: torch.dtype = torch.float64) -> Tensor:
    x = torch.zeros(1, 1, 10, 10)
    x[..., 3:8, 4:9] = 1.0
    return A.simulate(x, 0.02, seed=0).to(dtype)


def objective(x: Tensor, y: Tensor, prior: Any = None, weight: float = 0.0) -> float:
    misfit = 0.5 * (A.to(x.dtype)(x) - y).square().sum()
    return float(misfit if prior is None else misfit + weight * prior.energy(x).sum())


@pytest.mark.parametrize("solver", [ADMM(), PDHG()], ids=repr)
def test_a_vanishing_gradient_is_converged(solver: Solver) -> None:
    y, variation = measurements(), it.priors.TotalVariation()
    problem = it.Problem(y, A.to(torch.float64))
    solution = it.solve(problem, variation, solver, 10.0, progress=False)
    # The answer is the constant that fits best.
    response = A.to(torch.float64)(torch.ones_like(y))
    constant = (response * y).sum() / response.square().sum()
    least = objective(constant * torch.ones_like(y), y)
    assert solution.status == ("converged",)
    assert objective(solution.x, y, variation, 10.0) <= 1.001 * least
    assert float(solution.history["certificate"][-1]) <= solver.tolerance


@pytest.mark.parametrize("solver", [ADMM(), PDHG(), FISTA(), DouglasRachford()], ids=repr)
def test_the_answer_zero_is_converged(solver: Solver) -> None:
    problem = it.Problem(measurements(torch.float32), A)
    solution = it.solve(problem, it.priors.L1(), solver, 10.0, progress=False)
    assert solution.status == ("converged",)
    assert int(solution.iterations) < 100
    assert float(solution.x.abs().max()) == 0


@pytest.mark.parametrize("solver", [ADMM(), FISTA(), PDHG(), DouglasRachford()], ids=repr)
def test_converged_bounds_the_objective_of_a_constraint(solver: Solver) -> None:
    y = measurements()
    problem = it.Problem(y, A.to(torch.float64))
    solution = it.solve(problem, it.priors.NonNegative(), solver, 1.0, progress=False)
    exact = it.solve(
        problem,
        it.priors.NonNegative(),
        FISTA(),
        tolerance=1e-8,
        max_iterations=5000,
        progress=False,
    )
    assert solution.status == exact.status == ("converged",)
    assert objective(solution.x, y) <= 1.001 * objective(exact.x, y)


def test_a_strong_weight_and_a_constraint_are_within_a_thousandth() -> None:
    y, variation = measurements(), it.priors.TotalVariation()
    problem = it.Problem(y, A.to(torch.float64))
    prior = variation + it.priors.NonNegative()
    found = it.solve(problem, prior, ADMM(), 10.0, progress=False)
    exact = it.solve(problem, prior, ADMM(), 10.0, tolerance=1e-6, progress=False)
    assert found.status == exact.status == ("converged",)
    values = [objective(s.x, y, variation, 10.0) for s in (found, exact)]
    assert values[0] <= 1.001 * values[1]


def test_a_converged_item_does_not_depend_on_its_batch() -> None:
    y = torch.cat([measurements(torch.float32) * factor for factor in (1.0, 0.3, 5.0)])
    weight, prior = torch.tensor([0.1, 10.0, 1.0]), it.priors.TotalVariation()
    together = it.solve(it.Problem(y, A), prior, PDHG(), weight, progress=False)
    for k in range(3):
        alone = it.solve(
            it.Problem(y[k : k + 1], A), prior, PDHG(), weight[k : k + 1], progress=False
        )
        assert torch.equal(alone.x, together.x[k : k + 1])
        assert alone.iterations[0] == together.iterations[k]


@pytest.mark.parametrize("solver", [ADMM(), PDHG()], ids=repr)
def test_the_gap_bounds_the_excess_at_every_iterate(solver: Solver) -> None:
    y, prior = measurements(), it.priors.TotalVariation() + it.priors.NonNegative()
    problem = it.Problem(y, A.to(torch.float64))
    least = it.solve(problem, prior, ADMM(), 0.1, tolerance=1e-5, progress=False)
    minimum = objective(least.x, y, it.priors.TotalVariation(), 0.1)
    working, _, _ = bind(problem, prior, 0.1)
    state = solver.init(working, torch.zeros_like(y))
    for k in range(40):
        state = solver.step(working.at(k), state)
        x = solver.result(state)
        distance = (x - least.x).flatten(1).norm(dim=1)
        gap = float(solver.gap(working, state, distance))
        value = objective(x, y, it.priors.TotalVariation(), 0.1)
        assert (value - minimum) / value <= gap + 1e-5


def test_travel_bounds_errors_that_fall_like_one_over_k() -> None:
    error = torch.ones(1, 1, 4)
    travel = Travel.start(2 * error)
    for k in range(1, 50):
        x = error / k
        c = torch.tensor([1 / k])
        travel = travel.update(x, c, k)
        assert float(travel.distance(x, c, k)) >= 0.99 * float((error / k).norm())


@pytest.mark.parametrize(
    ("solver", "words"), [(HalfQuadratic(), "Moreau envelope"), (KrylovMM(), "smoothed at 0.1")]
)
def test_another_objective_is_noted(solver: Solver, words: str) -> None:
    problem = it.Problem(measurements(torch.float32), A)
    variation = it.priors.TotalVariation()
    solution = it.solve(problem, variation, solver, 0.01, max_iterations=2, progress=False)
    assert any("another objective" in note and words in note for note in solution.notes)
    exact = it.solve(problem, variation, PDHG(), 0.01, max_iterations=2, progress=False)
    assert not any("another objective" in note for note in exact.notes)


def test_sirt_notes_its_weights() -> None:
    problem = it.Problem(measurements(torch.float32), A)
    notes = it.solve(problem, solver=SIRT(), max_iterations=2, progress=False).notes
    assert any("inverse of its sum" in note for note in notes)


@pytest.mark.parametrize("factor", [1e-30, 1e20])
@pytest.mark.parametrize("solver", ["admm", "pdhg", "cg"])
def test_measurements_of_any_scale_have_the_same_answer(factor: float, solver: str) -> None:
    y = measurements(torch.float32)
    problems = it.Problem(y, A), it.Problem(factor * y, A)
    plain, scaled = (
        it.solve(p, it.priors.Tikhonov(), solver, 0.1, tolerance=1e-5, progress=False)
        for p in problems
    )
    assert plain.status == scaled.status == ("converged",)
    assert scaled.x.dtype == torch.float32
    assert scaled.problem is not None and scaled.problem.y0.dtype == torch.float32
    torch.testing.assert_close(scaled.x / factor, plain.x, rtol=1e-3, atol=1e-4)
    assert any("float64" in note for note in scaled.notes)


def test_overflow_returns_the_last_finite_iterate() -> None:
    problem = it.Problem(1e20 * measurements(torch.float32), A)
    # Measurements of several kinds stay in float32.
    stacked = it.Problem(
        (problem.y0, problem.y0),
        it.operators.stack([A, A]),
        it.data_terms.Stack(it.data_terms.LeastSquares(), it.data_terms.LeastSquares()),
    )
    solution = it.solve(stacked, it.priors.Tikhonov(), "pdhg", 0.1, progress=False)
    assert solution.status != ("converged",)
    assert bool(solution.x.isfinite().all())


def test_items_of_very_different_scale_are_refused_by_number() -> None:
    y = measurements(torch.float32).repeat(2, 1, 1, 1) * torch.tensor([1.0, 1e-30]).view(2, 1, 1, 1)
    with pytest.raises(it.InputError, match=r"items \[1\] leave the range.*float64"):
        it.solve(it.Problem(y, A), it.priors.Tikhonov(), progress=False)


@pytest.mark.parametrize("solver", [ADMM(), PDHG(), DouglasRachford(), FISTA()], ids=repr)
def test_an_exact_fit_without_noise_is_converged(solver: Solver) -> None:
    # The gradient of the misfit vanishes at the answer, so nothing may be relative to it alone.
    x = torch.zeros(1, 1, 6, 6)
    x[..., 2:5, 1:4] = 1.0
    kernel = torch.rand(3, 3, generator=torch.Generator().manual_seed(0))
    blur = it.operators.Blur(kernel / kernel.sum(), (6, 6), "periodic")
    solution = it.solve(
        it.Problem(blur(x), blur), it.priors.NonNegative(), solver, 1.0, progress=False, check=False
    )
    assert solution.status == ("converged",)
    assert float((solution.x - x).norm() / x.norm()) < 0.05


def test_a_misfit_without_a_gradient_has_a_gap_by_its_dual() -> None:
    y = torch.tensor([[[0.0, 4.0, 1.0, 1.0]]], dtype=torch.float64)
    identity = it.operators.Matrix(torch.eye(4, dtype=torch.float64))
    problem = it.Problem(y, identity, it.data_terms.L1())
    of_image = it.Problem(y, it.operators.Identity((1, 4)), it.data_terms.L1())
    solvers = (
        (PDHG(), problem),
        (it.solvers.NonlinearADMM(), problem),
        (DouglasRachford(), of_image),
    )
    for solver, task in solvers:
        working, _, _ = bind(task, it.priors.TotalVariation(tolerance=1e-8).as_sum(), 0.4)
        assert solver.has_gap(working)
        state = solver.init(working, torch.zeros_like(y))
        for k in range(30):
            state = solver.step(working.at(k), state)
            # The minimizer is y without half of its outlier, or with it at this weight: F = 2.8.
            x = solver.result(state)
            value = (x - y).abs().sum() + 0.4 * (x[..., 1:] - x[..., :-1]).abs().sum()
            gap = float(solver.gap(working, state, (x - y).norm().view(1)))
            assert float((value - 2.8) / value) <= gap + 1e-6


def test_the_gap_of_a_misfit_with_a_kink_sees_one_rounding_of_the_prediction() -> None:
    y = torch.full((1, 1, 4), 5.3)
    x = torch.nextafter(y, 9 * y)
    problem = it.Problem(y, it.operators.Identity((1, 4)), it.data_terms.L1())
    working, _, _ = bind(problem, it.priors.TotalVariation().as_sum(), 1e-5)
    (misfit,) = data_summands(working)
    # F(x) - min F = |x - y|_1, and the least scale of a gap is 1e-6 |y|_1.
    excess = (x - y).abs().sum() / ((x - y).abs().sum() + 1e-6 * y.abs().sum())
    zero = torch.zeros(1)
    gap = objective_gap(working, x, zero, None, zero + 1, [(misfit, 1e-4 * y, zero + 10)])
    assert float(gap) == pytest.approx(float(excess), rel=1e-2)


def test_the_copy_of_a_splitting_is_within_a_thousandth_at_small_weights() -> None:
    # The iterate of the misfit is at the minimizer long before the copy of the prior is, the answer.
    y = torch.zeros(1, 1, 6, 7, dtype=torch.float64)
    y[..., 1:4, 2:6], y[..., 3:, 4:] = 0.7, -0.2
    weights = torch.logspace(-6, -3, 13, dtype=torch.float64)
    problem = it.Problem(y.repeat(13, 1, 1, 1), it.operators.Identity((1, 6, 7)))
    solution = it.solve(problem, it.priors.L1(), ADMM(), weights, progress=False, check=False)

    def value(x: Tensor) -> Tensor:
        return 0.5 * (x - y).square().flatten(1).sum(1) + weights * x.abs().flatten(1).sum(1)

    shrunk = y.sign() * (y.abs() - weights.view(-1, 1, 1, 1)).clamp_min(0)
    assert solution.status == ("converged",) * 13
    least = value(shrunk)
    floor = least.maximum(0.5e-6 * y.square().sum())
    assert float(((value(solution.x) - least) / floor).max()) <= 1e-3


def test_the_first_steps_are_no_estimate_of_the_distance() -> None:
    x = torch.ones(1, 1, 4)
    falling = [torch.tensor([2.0**-k]) for k in range(10)]
    travel = Travel.start(0.99 * x).update(x, falling[1], 1).update(x, falling[2], 2)
    assert float(travel.distance(x, falling[3], 3)) >= float(x.norm())
    settled = travel.update(x, falling[4], 4).update(1.01 * x, falling[8], 8)
    end = 1.01 * x + 0.001
    assert 0 < float(settled.distance(end, falling[9], 9)) < 0.1 * float(x.norm())
    # Small moves under which the certificate has not fallen have not measured a distance either.
    assert float(settled.distance(end, falling[4], 9)) == float(end.norm())
    # Of an iterate that does not move at all, the last move counts: 0.01 per fall of 0.5.
    still = travel.update(x, falling[4], 4).update(x, falling[8], 8)
    assert float(still.distance(x, falling[9], 9)) == pytest.approx(0.02 * 2 * 2.0**-9, rel=1e-3)
    assert float(Travel.start(x).distance(x, falling[9], 9)) == float(x.norm())
    # A start at the minimizer has no move to measure; its certificate is the rounding of that of 0.
    rounding = torch.tensor([2e-8])
    exact = Travel.start(x).update(x, rounding, 1).update(x, rounding, 8)
    assert float(exact.distance(x, rounding, 9)) == pytest.approx(2e-8 * float(x.norm()))


def test_values_in_gaps_that_drift_are_not_converged() -> None:
    # A weight of 1e-4 moves the values in the gaps by 1e-4 per step, with the same gradient.
    y = torch.randn(1, 1, 9, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.rand(9, 7, generator=torch.Generator().manual_seed(1)) > 0.4
    A = it.operators.Inpainting(mask, (1, 9, 7)).to(torch.float64)
    problem, prior = it.Problem(A(y), A), it.priors.TotalVariation()
    settings: dict[str, Any] = {"regularization": 1e-4, "progress": False, "check": False}
    best = it.solve(problem, prior, ADMM(), tolerance=1e-7, max_iterations=5000, **settings)
    least = float(best.history["objective"][-1, 0])
    for solver in (FISTA(max_iterations=100), it.solvers.ProximalGradient(max_iterations=100)):
        solution = it.solve(problem, prior, solver, **settings)
        value = float(solution.history["objective"][-1, 0])
        assert solution.status != ("converged",) or value <= 1.001 * least


@pytest.mark.parametrize("solver", ["conjugate-gradient", "cgls", "lsmr"])
def test_a_small_residual_of_an_ill_conditioned_system_is_no_small_excess(solver: str) -> None:
    # Singular values from 1 to 1e-4, and no noise: F vanishes at the answer.
    size = 16
    left, right = (
        torch.linalg.qr(
            torch.randn(size, size, generator=torch.Generator().manual_seed(k)).double()
        )[0]
        for k in (0, 1)
    )
    matrix = (left * torch.logspace(0, -4, size, dtype=torch.float64)) @ right.T
    x = torch.ones(1, 1, size, dtype=torch.float64)
    for dtype in (torch.float32, torch.float64):
        A = it.operators.Matrix(matrix).to(dtype)
        problem = it.Problem(A(x.to(dtype)), A)
        solution = it.solve(problem, solver=solver, progress=False, check=False)
        residual = it.operators.Matrix(matrix)(solution.x.double()) - problem.y0.double()
        excess = residual.square().sum() / problem.y0.double().square().sum()
        assert solution.status != ("converged",) or float(excess) <= 2e-9
        if solution.status != ("converged",):
            assert "may be more than 0.1 % above" in solution.explain() or float(
                solution.history["certificate"][-1, 0]
            ) > float(solution.tolerance)


def test_a_gradient_near_its_rounding_may_hide_an_excess() -> None:
    # In float32, 1e-6 of the misfit at 0 has a gradient of 6e-7 along the least singular value.
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.linalg.qr(torch.randn(36, 36, generator=generator).double())[0] for _ in range(2)
    )
    values = torch.cat([torch.logspace(0, -0.5, 35), torch.tensor([6e-4])]).double()
    shares = torch.cat([torch.ones(35), torch.tensor([6e-3])]).double()
    A = it.operators.Matrix(((left * values) @ right.T).float())
    problem = it.Problem((left @ shares).float().view(1, 1, 36), A)
    for solver in ("conjugate-gradient", "cgls", "lsmr", "fista"):
        solution = it.solve(problem, solver=solver, max_iterations=200, progress=False, check=False)
        residual = A.to(torch.float64)(solution.x.double()) - problem.y0.double()
        excess = residual.square().sum() / problem.y0.double().square().sum()
        assert solution.status != ("converged",) or float(excess) <= 2e-9, solver


@pytest.mark.parametrize("solver", ["conjugate-gradient", "cgls"])
def test_a_well_conditioned_system_is_solved_before_rounding_takes_over(solver: str) -> None:
    # F vanishes at the answer. Beyond the rounding of H x, directions leave the range of A^T, and
    # the iterates grow.
    generator = torch.Generator().manual_seed(0)
    for rows, columns in ((4, 8), (30, 60), (60, 30), (500, 1000)):
        A = it.operators.Matrix(torch.randn(rows, columns, generator=generator))
        problem = it.Problem(A(torch.randn(1, 1, columns, generator=generator)), A)
        solution = it.solve(problem, solver=solver, progress=False, check=False)
        residual = A(solution.x) - problem.y0
        assert solution.status == ("converged",), (rows, columns)
        assert float(residual.norm() / problem.y0.norm()) < 3e-5


def test_counts_of_an_empty_picture_are_converged_at_zero() -> None:
    A = it.operators.Downsampling((6, 8), 2).to(torch.float64)
    problem = it.Problem(torch.zeros(1, 1, 3, 4).double(), A, it.data_terms.Poisson())
    solution = it.solve(
        problem, it.priors.TotalVariation(), "nonlinear-admm", 0.1, progress=False, check=False
    )
    assert solution.status == ("converged",)
    assert float(solution.x.abs().max()) <= 1e-12


def test_a_constant_answer_is_converged_without_a_linear_first_line() -> None:
    y = 10 + 0.1 * torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    problem = it.Problem(y, it.operators.Identity((1, 8, 8)))
    solution = it.solve(
        problem, it.priors.TotalVariation(), "nonlinear-admm", 50.0, progress=False, check=False
    )
    assert solution.status == ("converged",) and int(solution.iterations) < 100
    assert float((solution.x - y.mean()).abs().max()) < 1e-3


# A background between the two others is no case of its own.
@pytest.mark.parametrize("background", [0.0, pytest.param(1.0, marks=pytest.mark.slow), 10.0])
def test_counts_end_at_a_finite_optimum(background: float) -> None:
    x = torch.zeros(2, 1, 16, 16)
    x[:, :, 4:10, 5:12] = torch.tensor([20.0, 3.0])[:, None, None, None]
    blur = it.operators.Blur(torch.ones(3, 3) / 9, (16, 16))
    mean = (blur(x) + background).clamp_min(0)
    y = torch.poisson(mean, generator=torch.Generator().manual_seed(0))
    assert background == 10 or bool((y == 0).any())  # these means are at the end of the domain
    problem = it.Problem(y, blur, it.data_terms.Poisson(background))
    prior, settings = it.priors.TotalVariation(), {"regularization": 0.1, "progress": False}
    quick = it.solve(problem, prior, PDHG(2000), **settings)
    assert quick.status == ("converged", "converged")
    best = it.solve(problem, prior, PDHG(3000, 1e-4), **settings)
    values = [
        problem.data_term.value(blur(s.x), y) + 0.1 * prior.energy(s.x) for s in (quick, best)
    ]
    assert bool(values[0].isfinite().all())
    assert bool((values[0] - values[1] <= 1e-3 * values[1]).all())


@pytest.mark.parametrize("solver", [FISTA(max_iterations=40), PDHG(max_iterations=1)], ids=repr)
def test_an_infinite_objective_is_never_converged(solver: Solver) -> None:
    # No constant image has positive means, so the answer cannot move into the domain.
    A = it.operators.Matrix(torch.tensor([[1.0, -2.0], [-2.0, 1.0]]), (1, 1, 2))
    problem = it.Problem(torch.tensor([[[3.0, 2.0]]]), A, it.data_terms.Poisson())
    solution = it.solve(
        problem,
        it.priors.NonNegative(),
        solver,
        1.0,
        initial=torch.ones(1, 1, 1, 2),
        tolerance=1e30,
        progress=False,
    )
    assert float(problem.data_term.value(A(solution.x), problem.y)) == float("inf")
    assert solution.status == ("diverged",)


def test_gradient_methods_are_not_converged_above_a_thousandth() -> None:
    A = it.operators.ParallelBeam((9, 9), torch.linspace(0, torch.pi, 7)[:-1], 12)
    x = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    problem = it.Problem(A.simulate(x, 0.02, seed=0), A)
    prior, settings = it.priors.HuberTV(0.05), {"progress": False, "check": False}
    best = it.solve(problem, prior, it.solvers.LBFGS(), 1e-3, tolerance=1e-7, **settings)
    least = float(best.history["objective"][-1, 0])
    for solver in (KrylovMM(), it.solvers.GradientDescent(), it.solvers.Reweighted()):
        found = it.solve(problem, prior, solver, 1e-3, **settings)
        misfit = 0.5 * float((A(found.x) - problem.y0).double().square().sum())
        value = misfit + 1e-3 * float(prior.energy(found.x))
        assert found.status != ("converged",) or value <= 1.001 * least, solver


def test_no_step_divides_by_a_subnormal_number() -> None:
    """Conjugate gradients reach such numbers some steps after their residual has vanished."""
    smallest = torch.finfo(torch.float32).tiny
    b = torch.tensor([smallest / 1024, smallest, 0.0, -1.0])
    steps = quotient(torch.full((4,), 0.25), b)
    assert steps.isfinite().all() and steps[1] == 0.25 / smallest
    assert steps[0] == steps[2] == steps[3] == 0
