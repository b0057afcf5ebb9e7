"""Gradient descent: steps by formulas, Armijo's condition per item, and the map of its fixed point."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import invtoolbox as it
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import inner, item_norm
from invtoolbox.solve import bind
from invtoolbox.solvers import GradientDescent
from invtoolbox.solvers.gradient_descent import backtrack, gradient_scale


def ridge(batch: int = 2) -> tuple[Objective, torch.Tensor]:
    """Return ``1/2 |A x - y|^2 + 1/2 |x|^2``, and its minimizer."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(8, 5, dtype=torch.float64, generator=generator)
    y = torch.randn(batch, 1, 8, dtype=torch.float64, generator=generator)
    problem = it.Problem(y, it.as_operator(matrix))
    prior = it.priors.Tikhonov()
    objective = bind(problem, prior.as_sum(), 1.0)[0]
    normal = matrix.T @ matrix + torch.eye(5, dtype=torch.float64)
    return objective, torch.linalg.solve(normal, (y @ matrix).mT).mT


def test_the_minimizer_is_the_fixed_point_of_its_map() -> None:
    objective, minimizer = ridge()
    solver = GradientDescent(tolerance=1e-12)
    state = solver.init(objective, minimizer)
    assert solver.fixed_point(state) == (state.x,)
    torch.testing.assert_close(solver.apply_map(objective, state, (minimizer,))[0], minimizer)
    other = torch.ones_like(minimizer)
    moved = solver.apply_map(objective, state, (other,))[0]
    torch.testing.assert_close(moved, other - objective.evaluate(other).gradient)


def test_the_next_step_is_that_of_barzilai_and_borwein() -> None:
    objective, minimizer = ridge()
    solver = GradientDescent()
    before = solver.init(objective, torch.zeros_like(minimizer))
    after = solver.step(objective, before)
    s, change = after.x - before.x, after.gradient - before.gradient
    torch.testing.assert_close(after.trial, inner(s, s) / inner(s, change))
    torch.testing.assert_close(after.certificate, item_norm(after.gradient) / before.scale)


def test_without_curvature_the_step_doubles() -> None:
    class Slope(it.data_terms.DataTerm):
        def value(self, prediction: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return -prediction.flatten(1).sum(1)

    problem = it.Problem(torch.zeros(1, 1, 1), it.operators.Identity((1, 1)), Slope())
    objective = bind(problem, (0.0 * it.priors.Tikhonov()).as_sum(), 1.0)[0]
    solver = GradientDescent()
    state = solver.init(objective, torch.zeros(1, 1, 1))
    lengths = []
    for _ in range(3):
        state = solver.step(objective, state)
        lengths.append(float(state.trial))
    assert lengths == [2.0, 4.0, 8.0]


def test_every_item_halves_its_own_step_and_stays_if_none_improves() -> None:
    objective, minimizer = ridge(3)
    x = torch.ones_like(minimizer)
    value, gradient, _ = objective.evaluate(x)
    direction = -gradient
    direction[2] = gradient[2]  # uphill
    slope = -inner(gradient, gradient)
    trial = torch.tensor([1e-3, 1.0, 1.0], dtype=torch.float64)
    point, new, step = backtrack(objective, x, value, direction, slope, trial, 1e-4)
    assert step[0] == 1e-3 and 0 < step[1] < 1 and step[2] == 0
    assert torch.equal(point[2], x[2]) and bool((new.value[:2] < value[:2]).all())
    assert bool((new.value <= value + 1e-4 * step * slope).all())
    # Twice the step does not meet the condition.
    longer = objective.value(x + 2 * step.view(3, 1, 1) * direction)
    assert longer[1] > value[1] + 2e-4 * step[1] * slope[1]
    assert float(torch.log2(step[1])) == round(float(torch.log2(step[1])))


def test_the_scale_is_the_larger_norm_of_start_and_zero() -> None:
    objective, minimizer = ridge()
    at_zero = item_norm(objective.data(torch.zeros_like(minimizer)).gradient)
    torch.testing.assert_close(gradient_scale(objective, 0.5 * at_zero), at_zero)
    torch.testing.assert_close(gradient_scale(objective, 2 * at_zero), 2 * at_zero)
    bounded = gradient_scale(objective, 0 * at_zero, it.priors.Box(1.0, 2.0))
    at_one = item_norm(objective.data(torch.ones_like(minimizer)).gradient)
    torch.testing.assert_close(bounded, at_one)


def test_a_fixed_step_is_taken_as_it_is() -> None:
    objective, minimizer = ridge()
    solver = dataclasses.replace(GradientDescent(), step_size=0.01)
    state = solver.init(objective, torch.zeros_like(minimizer))
    after = solver.step(objective, state)
    torch.testing.assert_close(after.x, -0.01 * state.gradient)
    assert torch.equal(after.trial, state.trial) and float(after.trial[0]) == pytest.approx(0.01)
