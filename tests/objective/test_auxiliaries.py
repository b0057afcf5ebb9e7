"""Priors that are minima over auxiliary variables: the solvers that find both together keep every promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.objective.auxiliaries import with_auxiliaries, with_auxiliary_variables
from invtoolbox.operators.elementary import ChannelSlices
from invtoolbox.operators.finite_difference import FiniteDifference
from invtoolbox.priors import (
    ExplicitPrior,
    GroupL1,
    NonNegative,
    PriorSum,
    Tikhonov,
    TotalGeneralizedVariation,
    TotalVariation,
)
from invtoolbox.priors.base import Term
from invtoolbox.solve import bind
from invtoolbox.solvers import ADMM, FISTA, PDHG, CondatVu, Solver, StochasticPDHG
from invtoolbox.testing import check_operator, check_solver

TGV = TotalGeneralizedVariation()
N = 12


def picture(n: int = N) -> Tensor:
    """Two of them: affine pieces with jumps, ``(2, 1, n, n)``."""
    row, column = torch.meshgrid(torch.linspace(-1, 1, n), torch.linspace(-1, 1, n), indexing="ij")
    first = torch.where(
        row**2 + column**2 < 0.4, 0.6 - 0.4 * column, 0.4 + 0.2 * column + 0.15 * row
    )
    return torch.stack([first, first.flip(0) * 0.5 + 0.2])[:, None]


def blurred(noise_std: float | None = None, dtype: torch.dtype = torch.float32) -> it.Problem:
    A = it.operators.Blur(torch.ones(3, 3) / 9, (1, N, N)).to(dtype)
    return it.Problem(
        A.simulate(picture().to(dtype), 0.03, seed=0), A, it.data_terms.LeastSquares(noise_std)
    )


def test_channel_slices_are_an_operator() -> None:
    for slices in (((0, 1),), ((0, 1), (2, 4))):
        check_operator(ChannelSlices((4, 5, 6), slices))


def test_the_objective_with_auxiliaries_is_least_at_that_of_the_prior() -> None:
    objective = bind(
        blurred(), (2.0 * TGV + 0.1 * Tikhonov()).as_sum(), torch.tensor([0.01, 0.02])
    )[0]
    lifted = with_auxiliaries(objective)
    assert with_auxiliaries(lifted) is lifted and lifted.problem.image_shape == (3, N, N)
    x = picture()
    variable = with_auxiliary_variables(lifted, x)
    assert torch.equal(lifted.decode(variable), x)
    # With w = 0 it is total variation, with w = D x what bends cost.
    torch.testing.assert_close(
        lifted.value(variable),
        bind(
            blurred(),
            (2.0 * TotalVariation() + 0.1 * Tikhonov()).as_sum(),
            torch.tensor([0.01, 0.02]),
        )[0].value(x),
    )
    variable[:, 1:] = FiniteDifference((1, N, N))(x)
    for value in (lifted.value(variable), lifted.value(with_auxiliary_variables(lifted, x))):
        assert bool((value >= objective.value(x) * (1 - 2e-3)).all())
    assert (
        with_auxiliaries(bind(blurred(), TotalVariation().as_sum(), 1.0)[0]).image_channels is None
    )


# Condat and Vu's method sees the same variables as PDHG, which is the reference.
@pytest.mark.parametrize(
    ("solver", "steps"),
    [(ADMM(), 120), pytest.param(CondatVu(), 500, marks=pytest.mark.slow)],
    ids=["admm", "condat-vu"],
)
def test_solvers_find_what_the_prox_finds(solver: Solver, steps: int) -> None:
    problem, weight = blurred(), torch.tensor([0.01, 0.03])
    settings: dict[str, Any] = {"regularization": weight, "tolerance": 1e-4, "progress": False}
    solution = it.solve(problem, TGV, PDHG(), max_iterations=400, **settings)
    assert solution.x.shape == (2, 1, N, N)
    ours = it.solve(problem, TGV, solver, max_iterations=steps, **settings)
    torch.testing.assert_close(ours.x, solution.x, rtol=0, atol=5e-3)
    direct = it.solve(problem, TGV, FISTA(), max_iterations=1, initial=solution.x, **settings)
    torch.testing.assert_close(solution.x, direct.x, rtol=0, atol=5e-3)
    # History ends with the value that the prior's own energy gives.
    last = torch.stack(
        [column[torch.isfinite(column)][-1] for column in solution.history["objective"].T]
    )
    torch.testing.assert_close(
        last, bind(problem, TGV.as_sum(), weight)[0].value(solution.x), rtol=2e-3, atol=0
    )


def test_stochastic_pdhg_too() -> None:
    A = it.operators.ParallelBeam((1, N, N), torch.arange(12) * (torch.pi / 12), 18)
    problem = it.Problem(A.simulate(picture(), 0.05, seed=0), A)
    settings: dict[str, Any] = {
        "regularization": 0.1,
        "tolerance": 1e-4,
        "max_iterations": 300,
        "progress": False,
    }
    a, b = (
        it.solve(problem, TGV, solver, **settings).x
        for solver in (StochasticPDHG(subset_size=4), PDHG())
    )
    torch.testing.assert_close(a, b, rtol=0, atol=5e-3)


def test_the_promises_of_a_solver_hold() -> None:
    check_solver(PDHG(), blurred(), TGV + NonNegative(), regularization=0.01, max_iterations=100)


def test_the_discrepancy_principle_is_met() -> None:
    problem = blurred(0.03)
    settings: dict[str, Any] = {"max_iterations": 150, "tolerance": 1e-2, "progress": False}
    morozov = it.solve(problem, TGV, regularization="discrepancy", **settings)
    residual = (problem.operator(morozov.x) - problem.y).flatten(1).norm(dim=1)
    torch.testing.assert_close(residual, torch.full((2,), 1.01 * 0.03 * N), rtol=0.02, atol=0)
    assert "PDHG" in morozov.reason


@pytest.mark.slow  # docs/how_do_i/which_prior_deblurs.md runs this rule with this prior
def test_a_rule_that_compares_weights() -> None:
    problem, rule = blurred(0.03), it.parameter_choice.SURE(points=6, sections=0)
    sure = it.solve(
        problem, TGV, regularization=rule, max_iterations=150, tolerance=1e-2, progress=False
    )
    assert bool(
        (it.metrics.psnr(sure.x, picture()) > it.metrics.psnr(problem.y, picture()) + 2).all()
    )


def test_callbacks_and_checkpoints_see_images(tmp_path: Path) -> None:
    problem, seen = blurred(), []
    settings: dict[str, Any] = {"regularization": 0.01, "tolerance": 0.0, "progress": False}
    whole = it.solve(
        problem,
        TGV,
        callbacks=[lambda p: seen.append(tuple(p.x.shape)) is True],
        max_iterations=30,
        **settings,
    )
    assert set(seen) == {(2, 1, N, N)}
    it.solve(problem, TGV, checkpoint=tmp_path / "run.h5", max_iterations=12, **settings)
    resumed = it.solve(problem, TGV, checkpoint=tmp_path / "run.h5", max_iterations=30, **settings)
    assert torch.equal(whole.x, resumed.x) and resumed.iterations.tolist() == [30, 30]
    # A start is an image, and a good one stays so.
    settings["tolerance"] = 1e-3
    first = it.solve(problem, TGV, max_iterations=300, **settings)
    again = it.solve(problem, TGV, initial=first.x, max_iterations=300, **settings)
    torch.testing.assert_close(again.x, first.x, rtol=0, atol=0.01)


class InfimalConvolution(ExplicitPrior):
    """``min_w sum |D (x - w)| + 2 |w|^2``, known by its joint form alone."""

    is_convex = True

    def joint(self, image_shape: tuple[int, ...]) -> tuple[int, PriorSum]:
        channels, *space = image_shape
        whole = (2 * channels, *space)
        first, second = (
            ChannelSlices(whole, (part,)) for part in ((0, channels), (channels, 2 * channels))
        )
        edges = GroupL1(len(space)) @ (FiniteDifference(image_shape) @ (first - second))
        return channels, PriorSum((Term(1.0, edges), Term(4.0, Tikhonov() @ second)))


@pytest.mark.slow
def test_several_priors_with_auxiliaries_and_one_of_a_users_own() -> None:
    problem = blurred()
    alone = it.solve(
        problem, InfimalConvolution(), regularization=0.02, max_iterations=400, progress=False
    )
    assert (
        alone.x.shape == (2, 1, N, N)
        and "PDHG" in alone.solver
        and bool(alone.history["objective"][0].isfinite().all())
    )
    settings: dict[str, Any] = {"tolerance": 1e-4, "max_iterations": 600, "progress": False}
    twice = it.solve(problem, 0.004 * TGV + 0.006 * TGV, **settings)
    once = it.solve(problem, 0.01 * TGV, **settings)
    torch.testing.assert_close(twice.x, once.x, rtol=0, atol=5e-3)
    both = it.solve(problem, 0.01 * TGV + 0.02 * InfimalConvolution(), **settings)
    assert both.x.shape == (2, 1, N, N) and bool(both.x.isfinite().all())


def test_complex_images() -> None:
    phase = torch.polar(torch.tensor(1.0), torch.tensor(0.7))
    A = it.operators.Identity((1, N, N))
    settings: dict[str, Any] = {
        "regularization": 0.05,
        "max_iterations": 200,
        "tolerance": 1e-4,
        "progress": False,
    }
    real = it.solve(it.Problem(picture(), A), TGV, PDHG(), **settings).x
    turned = it.solve(it.Problem(phase * picture(), A), TGV, PDHG(), **settings).x
    torch.testing.assert_close(turned, phase * real, rtol=0, atol=1e-3)
