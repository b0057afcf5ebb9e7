"""L-BFGS with bounds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

import invtoolbox as it
from invtoolbox.operators.base import item_norm
from invtoolbox.priors import Box, NonNegative
from invtoolbox.solve import bind
from invtoolbox.solvers import FISTA, LBFGS
from invtoolbox.solvers.gradient_descent import gradient_scale
from invtoolbox.solvers.lbfgs import Pairs


def problem(batch: int = 2, dtype: torch.dtype = torch.float64) -> it.Problem:
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(40, 30, dtype=dtype, generator=generator)
    return it.Problem(
        torch.randn(batch, 1, 40, dtype=dtype, generator=generator), it.as_operator(matrix)
    )


@pytest.mark.parametrize("prior", [NonNegative(), Box(-0.1, 0.1), Box(upper=0.05)], ids=repr)
def test_the_bounded_minimum_is_that_of_fista(prior: it.Prior) -> None:
    found = it.solve(problem(), prior, LBFGS(tolerance=1e-9), progress=False)
    reference = it.solve(
        problem(), prior, FISTA(tolerance=1e-10, max_iterations=5000), progress=False
    )
    assert found.status == ("converged", "converged")
    assert torch.allclose(found.x, reference.x, atol=1e-7)
    assert bool((prior.energy(found.x) == 0).all())


def test_no_objective_increases_and_items_are_independent() -> None:
    A = it.operators.Blur(torch.tensor([[0.2, 0.5, 0.3]]), (6, 9))
    generator = torch.Generator().manual_seed(2)
    p = it.Problem(A(torch.randn(3, 1, 6, 9, generator=generator)), A)
    found = it.solve(p, NonNegative(), LBFGS(), progress=False)
    for k in range(3):
        values = found.history["objective"][:, k]
        values = values[values.isfinite()]
        assert bool((values.diff() <= 1e-6 * values[0].abs()).all())
        alone = it.solve(p.select(torch.tensor([k])), NonNegative(), LBFGS(), progress=False)
        assert torch.equal(alone.x[0], found.x[k])


def test_bounds_join_a_smooth_prior_of_a_nonlinear_problem() -> None:
    A = it.as_operator(lambda x: x**3, domain_shape=(1, 5))
    y = torch.tensor([[[8.0, -8.0, 1.0, 0.0, 27.0]]])
    found = it.solve(
        it.Problem(y, A), 0.0 * it.priors.Tikhonov() + Box(-1, 2.5), initial=torch.ones(1, 1, 5)
    )
    assert "LBFGS" in found.reason
    assert torch.allclose(
        found.x[0, 0, [0, 1, 2, 4]], torch.tensor([2.0, -1.0, 1.0, 2.5]), atol=1e-2
    )


def test_a_checkpoint_knows_the_scale(tmp_path: Path) -> None:
    size = torch.ones(1, 1, 30, dtype=torch.float64)
    path, p = tmp_path / "run.pt", problem()
    it.solve(p, solver=LBFGS(scale=size), checkpoint=path, max_iterations=3, progress=False)
    with pytest.raises(it.InputError, match="another problem, prior, solver"):
        it.solve(p, solver=LBFGS(scale=2 * size), checkpoint=path, progress=False)
    assert "scale" not in repr(LBFGS(scale=size))


@pytest.mark.parametrize("scale", [torch.ones(2, 1, 30), torch.ones(7), torch.zeros(30)])
def test_a_scale_is_positive_and_the_same_for_all_items(scale: torch.Tensor) -> None:
    with pytest.raises(it.InputError, match="the scale of LBFGS is positive"):
        it.solve(problem(), solver=LBFGS(scale=scale), progress=False)


def test_only_one_prior_may_bound() -> None:
    with pytest.raises(it.InputError, match="LBFGS takes one prior of bounds"):
        it.solve(problem(), NonNegative() + Box(0, 1), LBFGS(), progress=False)


def test_a_scale_helps_where_the_measurements_see_badly() -> None:
    p = problem()
    size = torch.logspace(-0.7, 0.7, 30, dtype=torch.float64).view(1, 1, 30)
    A = it.as_operator(lambda x: p.operator(x / size), domain_shape=(1, 30), linear=True)
    uneven = it.Problem(p.y, A)
    scaled = it.solve(uneven, NonNegative(), LBFGS(scale=size, tolerance=1e-6), progress=False)
    plain = it.solve(uneven, NonNegative(), LBFGS(tolerance=1e-6), progress=False)
    assert scaled.status == plain.status == ("converged", "converged")
    assert torch.allclose(scaled.x, plain.x, rtol=1e-3, atol=1e-3)
    assert bool((2 * scaled.iterations < plain.iterations).all())


def test_a_start_of_infinite_misfit_is_not_called_converged() -> None:
    """The prediction is 0 and the counts are not; the rectifier has the derivative 0 there."""
    A = it.as_operator(torch.relu, (1, 4), (1, 4))
    counts = it.Problem(torch.ones(1, 1, 4), A, it.data_terms.Poisson())
    found = it.solve(
        counts,
        solver=LBFGS(max_iterations=3),
        initial=-torch.ones(1, 1, 4),
        progress=False,
        check=False,
    )
    assert found.status == ("diverged",)


def test_a_spoiled_metric_falls_back_to_the_negative_gradient() -> None:
    class Uphill:
        empty = torch.zeros(2, dtype=torch.bool)

        def multiply(self, gradient: torch.Tensor, metric: object) -> torch.Tensor:
            return gradient * torch.tensor([-1.0, 1.0]).view(2, 1, 1)  # the first item goes up

        def remember(self, step: torch.Tensor, change: torch.Tensor) -> None: ...

        def forget(self, items: torch.Tensor) -> None: ...

    p, solver = problem(), LBFGS()
    objective = bind(p, it.priors.Tikhonov().as_sum(), 1.0)[0]
    state = solver.init(objective, torch.ones(2, 1, 30, dtype=torch.float64))
    after = solver.step(objective, dataclasses.replace(state, pairs=Uphill()))
    assert bool((after.value < state.value).all())


def test_the_latest_of_more_pairs_than_the_memory_holds_meets_the_secant_equation() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = Pairs.blank(torch.zeros(2, 7, dtype=torch.float64), 3)
    curvature = torch.rand(7, generator=generator, dtype=torch.float64) + 0.5
    for _ in range(5):
        move = torch.randn(2, 7, generator=generator, dtype=torch.float64)
        pairs.remember(move, curvature * move)
        torch.testing.assert_close(pairs.multiply(curvature * move), move)
    assert not bool(pairs.empty.any())


def test_the_first_certificate_is_the_norm_over_the_scale() -> None:
    objective = bind(problem(), it.priors.Tikhonov().as_sum(), 1.0)[0]
    start = torch.ones(2, 1, 30, dtype=torch.float64)
    state = LBFGS().init(objective, start)
    gradient = objective.evaluate(start).gradient
    scale = gradient_scale(objective, item_norm(gradient))
    torch.testing.assert_close(state.certificate, item_norm(gradient) / scale)


class WrongSign(it.priors.ExplicitPrior):
    """A prior whose gradient has the wrong sign."""

    def energy(self, x: torch.Tensor) -> torch.Tensor:
        return x.square().flatten(1).sum(1)

    def gradient(self, x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        return -x


def test_a_direction_that_leads_uphill_ends_the_run() -> None:
    for dtype in (torch.float32, torch.float64):
        solution = it.solve(
            problem(dtype=dtype),
            WrongSign(),
            LBFGS(),
            regularization=500.0,
            progress=False,
            check=False,
        )
        assert solution.status == ("stopped", "stopped")
        assert int(solution.iterations.max()) < 20
        assert "check_prior" in solution.explain()
