"""Derivatives of answers by the implicit function theorem, against differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.solvers import ADMM, FISTA, PDHG, ConjugateGradient, DouglasRachford, Solver

SHAPE = (4, 4)
A = it.operators.Blur(torch.tensor([[0.0, 0.1, 0.0], [0.1, 0.6, 0.1], [0.0, 0.1, 0.0]]), SHAPE).to(
    torch.float64
)


def measurements() -> Tensor:
    x = torch.zeros(2, 1, *SHAPE, dtype=torch.float64)
    x[0, :, 1:, 1:3], x[1, :, 2:, 2:] = 1.0, 0.7
    return A.simulate(x, 0.05, seed=0)


def answer(y: Tensor, weight: Tensor, prior: Any, solver: Solver, **settings: Any) -> Tensor:
    x: Tensor = it.solve(
        it.Problem(y, A),
        prior,
        solver,
        weight,
        tolerance=1e-8,
        max_iterations=20_000,
        progress=False,
        **settings,
    ).x
    return x


TV, L1, POSITIVE = it.priors.TotalVariation(), it.priors.L1(), it.priors.NonNegative()


@pytest.mark.parametrize(
    ("prior", "solver"),
    [
        (TV, PDHG()),
        # As over PDHG, and unrolling/test_unrolled.py differentiates these steps too.
        pytest.param(TV, ADMM(), marks=pytest.mark.slow),
        (L1, FISTA()),
        # The steps of this solver are differentiated in unrolling/test_unrolled.py too.
        pytest.param(L1, DouglasRachford(), marks=pytest.mark.slow),
        (POSITIVE, PDHG()),
        pytest.param(TV + POSITIVE, ADMM(), marks=pytest.mark.slow),
    ],
    ids=lambda value: repr(value).split("(")[0],
)
def test_derivatives_of_rough_objectives_agree_with_differences(prior: Any, solver: Solver) -> None:
    y, weight = measurements(), torch.full((2,), 0.05, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    v = torch.randn(y.shape, generator=generator, dtype=y.dtype)
    direction = torch.randn(y.shape, generator=generator, dtype=y.dtype)
    free, w = y.clone().requires_grad_(True), weight.clone().requires_grad_(True)
    x = answer(free, w, prior, solver, differentiate="implicit")
    slope_y, slope_w = torch.autograd.grad((v * x).sum(), (free, w), materialize_grads=True)
    step = 1e-4

    def difference(dy: Tensor, dw: Tensor) -> Tensor:
        high, low = (answer(y + s * dy, weight + s * dw, prior, solver) for s in (step, -step))
        return (v * (high - low)).flatten(1).sum(1) / (2 * step)

    along = (slope_y * direction).flatten(1).sum(1)
    zero = torch.zeros_like(weight)
    torch.testing.assert_close(along, difference(direction, zero), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        slope_w, difference(torch.zeros_like(y), zero + 1), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(
    ("prior", "solver"), [(it.priors.Tikhonov(), ConjugateGradient()), (TV, PDHG())]
)
def test_unconverged_answers_warn_with_the_residual(prior: Any, solver: Solver) -> None:
    y = measurements().requires_grad_(True)
    with pytest.warns(UserWarning, match=r"2 of 2 items have not converged \(the .* up to \d"):
        it.solve(
            it.Problem(y, A),
            prior,
            solver,
            0.01,
            tolerance=1e-12,
            max_iterations=2,
            differentiate="implicit",
            progress=False,
        )


def test_a_solver_without_a_fixed_point_is_refused() -> None:
    y = torch.ones(1, 1, 16, dtype=torch.float64, requires_grad=True)
    problem = it.Problem(y, it.operators.Matrix(torch.eye(16, dtype=torch.float64), (1, *SHAPE)))
    solver = it.solvers.StochasticPDHG(subset_size=5)
    with pytest.raises(InputError, match="StochasticPDHG has none; give"):
        it.solve(problem, TV, solver, 0.1, differentiate="implicit", progress=False)
