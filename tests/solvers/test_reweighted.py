"""Reweighted least squares: known robust estimates, the minimizer of other solvers, and an objective that never increases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.data_terms import L1, DataTerm, Huber, LeastSquares, Student
from invtoolbox.errors import InputError
from invtoolbox.priors import (
    ExplicitPrior,
    GroupL1,
    HuberNorm,
    HuberTV,
    SmoothedNorm,
    Tikhonov,
    TotalVariation,
)
from invtoolbox.solve import bind
from invtoolbox.solvers import LBFGS, Reweighted
from invtoolbox.testing import check_solver

SHAPE = (1, 10, 12)


def problem(
    term: DataTerm, dtype: torch.dtype = torch.float64, complex_: bool = False
) -> it.Problem:
    """Two blurred pictures with outliers."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.zeros(2, *SHAPE, dtype=torch.float64)
    truth[..., 3:7, 2:9] = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    A = it.operators.Blur(torch.ones(3, 3, dtype=torch.float64) / 9, SHAPE)
    y = A(truth) + 0.05 * torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)
    y = torch.where(torch.rand(2, *SHAPE, generator=generator) < 0.1, 5.0, y)
    return it.Problem(torch.complex(y, y.flip(-1)) if complex_ else y, A, term).to(dtype)


TERMS: dict[str, DataTerm] = {
    "huber": Huber(noise_std=torch.tensor([0.05, 0.1])),
    "student": Student(2.0, noise_std=0.1, weights=torch.linspace(0, 1, 120).view(1, *SHAPE)),
    "squares": LeastSquares(noise_std=0.1),
}
PRIORS: dict[str, ExplicitPrior] = {
    "huber-tv": HuberTV(0.05),
    "quadratic": Tikhonov("gradient"),
    "norm": SmoothedNorm(1.0, 0.1),
    "groups": HuberNorm(0.05, GroupL1(2)) @ it.operators.FiniteDifference(SHAPE),
}


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("prior", PRIORS)
def test_the_objective_falls_to_a_stationary_point(term: str, prior: str) -> None:
    whole = problem(TERMS[term])
    how: dict[str, Any] = {"initial": whole.zeros(), "tolerance": 1e-5, "progress": False}
    exact, inexact = (
        it.solve(whole, PRIORS[prior], solver, 3.0, max_iterations=steps, **how)
        for steps, solver in ((500, Reweighted()), (20, Reweighted(inner_iterations=1)))
    )
    for solution in (exact, inexact):
        values = solution.history["objective"].nan_to_num(nan=-torch.inf)
        assert bool((values[1:] <= values[:-1] * (1 + 1e-12)).all())
    assert exact.status == ("converged", "converged")
    objective, _, _ = bind(whole, PRIORS[prior].as_sum(), 3.0)
    x = exact.x
    slope, first = objective.evaluate(x).gradient, objective.evaluate(whole.zeros()).gradient
    assert bool((slope.flatten(1).norm(dim=1) <= 1.1e-5 * first.flatten(1).norm(dim=1)).all())


@pytest.mark.parametrize("complex_", [False, True])
def test_agrees_with_lbfgs(complex_: bool) -> None:
    prior = HuberTV(0.05)
    whole = problem(Huber(noise_std=0.05), complex_=complex_)
    ours = it.solve(
        whole, prior, Reweighted(), 3.0, tolerance=1e-7, max_iterations=2000, progress=False
    ).x
    if complex_:
        reference = it.solve(
            whole,
            prior,
            it.solvers.PDHG(),
            3.0,
            tolerance=1e-7,
            max_iterations=20000,
            progress=False,
        ).x
    else:
        reference = it.solve(
            whole, prior, LBFGS(), 3.0, tolerance=1e-9, max_iterations=5000, progress=False
        ).x
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-5)


# Student's weights take the path of Huber's.
@pytest.mark.parametrize("term", ["huber", pytest.param("student", marks=pytest.mark.slow)])
def test_keeps_the_contracts(term: str) -> None:
    check_solver(
        Reweighted(), problem(TERMS[term], torch.float32), HuberTV(0.05), regularization=3.0
    )


def location(term: DataTerm, y: Tensor) -> float:
    n = y.numel()
    whole = it.Problem(
        y.view(1, 1, n), it.operators.Matrix(torch.ones(n, 1, dtype=y.dtype), (1, 1), (1, n)), term
    )
    return float(it.solve(whole, solver=Reweighted(), tolerance=1e-10, progress=False).x)


def test_robust_means_of_numbers() -> None:
    """Huber's estimate in closed form: the mean of what is near, moved by delta for every outlier."""
    y = torch.tensor([0.9, 1.0, 1.1, 1.2, 30.0], dtype=torch.float64)
    assert location(Huber(1.0), y) == pytest.approx((0.9 + 1.0 + 1.1 + 1.2 + 1.0) / 4)
    assert location(LeastSquares(), y) == pytest.approx(6.84)
    assert location(Student(1.0, noise_std=0.1), y) == pytest.approx(1.05, abs=0.01)
    symmetric = torch.tensor([-7.0, -1.0, 0.0, 1.0, 7.0], dtype=torch.float64)
    assert abs(location(Student(1.0), symmetric)) < 1e-8


# The estimate of the noise counts the zingers.
@pytest.mark.filterwarnings("ignore:noise_std = 0.02 of item 0 is 1 / 18 of the noise estimated")
@pytest.mark.filterwarnings("ignore:69% of the cells differ from both neighbours")
def test_robust_tomography_with_zingers() -> None:
    """One measurement in twenty is wild: the robust terms do not need to be told which."""
    truth = torch.zeros(1, 1, 32, 32)
    truth[..., 8:22, 10:25] = 0.1
    A = it.operators.ParallelBeam((32, 32), torch.arange(40) * torch.pi / 40, 47)
    y = A.simulate(truth, 0.02)
    y = torch.where(
        torch.rand(y.shape, generator=torch.Generator().manual_seed(0)) < 0.05, y + 3, y
    )

    def error(term: DataTerm) -> float:
        weights = torch.tensor([30.0, 300.0, 3000.0, 30000.0])
        whole = it.Problem(y.expand(4, -1, -1, -1), A, term)
        x = it.solve(
            whole, HuberTV(0.005), Reweighted(), weights, max_iterations=30, progress=False
        ).x
        return float(((x - truth).flatten(1).norm(dim=1) / truth.norm()).min())

    squares = error(LeastSquares(0.02))
    assert error(Huber(noise_std=0.02)) < 0.5 * squares
    assert error(Student(noise_std=0.02)) < 0.3 * squares


def test_it_is_chosen_for_robust_misfits_and_smooth_norms() -> None:
    assert (
        "Reweighted"
        in it.solve(
            problem(TERMS["huber"]),
            HuberTV(0.05),
            regularization=1.0,
            max_iterations=1,
            progress=False,
        ).reason
    )
    assert (
        "PDHG"
        in it.solve(
            problem(TERMS["huber"]),
            TotalVariation(),
            regularization=1.0,
            max_iterations=1,
            progress=False,
        ).reason
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: it.solve(problem(L1()), HuberTV(0.1), Reweighted(), 1.0, progress=False),
        lambda: it.solve(problem(Huber()), TotalVariation(), Reweighted(), 1.0, progress=False),
        lambda: it.solve(
            problem(Huber()), it.priors.NonNegative(), Reweighted(), 1.0, progress=False
        ),
    ],
)
def test_what_has_no_weights_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InputError, match="weights"):
        make()


_REFERENCES: tuple[Literal["residual", "scale"], ...] = ("residual", "scale")


def test_inner_steps_may_stop_relative_to_the_certificate() -> None:
    """Relative to its first residual a step goes on near the solution; relative to the scale not."""
    whole, prior = problem(Huber(noise_std=0.05)), HuberTV(0.05)
    near = it.solve(
        whole, prior, Reweighted(), 0.1, tolerance=5e-2, max_iterations=400, progress=False
    )
    assert near.status == ("converged",) * 2
    moved = [
        it.solve(
            whole,
            prior,
            Reweighted(inner_tolerance=1e-1, inner_reference=reference),
            0.1,
            initial=near.x,
            tolerance=0.0,
            max_iterations=1,
            progress=False,
        ).x
        for reference in _REFERENCES
    ]
    assert not torch.equal(moved[0], near.x) and torch.equal(moved[1], near.x)
