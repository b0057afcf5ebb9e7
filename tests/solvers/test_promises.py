"""`is_provably_convergent` of every solver, both ways: which condition holds, or which one fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import invtoolbox as it
from invtoolbox.catalogue.registry import lookup, names
from invtoolbox.solve import bind
from invtoolbox.solvers import (
    FISTA,
    LBFGS,
    PDHG,
    Adam,
    ConjugateGradient,
    GradientDescent,
    KrylovMM,
    ProximalGradient,
    Solver,
)

KERNEL = torch.ones(3, 3) / 9


def objective(prior: Any = None, data_term: Any = None, boundary: str = "periodic") -> Any:
    A = it.operators.Blur(KERNEL, (8, 8), boundary=boundary)
    problem = it.Problem(torch.ones(1, 1, 8, 8), A, data_term)
    return bind(problem, it.priors.PriorSum() if prior is None else prior.as_sum(), 1.0)[0]


def square() -> Any:
    problem = it.Problem(
        torch.ones(1, 1, 4), it.as_operator(lambda x: x**2, domain_shape=(1, 4), range_shape=(1, 4))
    )
    return bind(problem, it.priors.PriorSum(), 1.0)[0]


DENOISER = it.priors.Denoiser(lambda x, sigma: x)


@pytest.mark.parametrize(
    ("solver", "bound", "holds", "words"),
    [
        (GradientDescent(), objective(it.priors.Tikhonov()), True, "step is searched for"),
        (GradientDescent(step_size=0.1), objective(), False, "step_size"),
        (GradientDescent(), square(), False, "not linear"),
        (LBFGS(), objective(it.priors.Tikhonov()), True, "positive curvature"),
        (LBFGS(), square(), False, "stationary point only"),
        (Adam(), objective(), False, "Reddi"),
        (ConjugateGradient(), objective(it.priors.Tikhonov()), True, "semidefinite"),
        (FISTA(), objective(it.priors.L1()), True, "searched for"),
        (FISTA(), objective(it.priors.TotalVariation()), False, "itself iterated"),
        (ProximalGradient(), objective(DENOISER), False, "not known to be convex"),
        (ProximalGradient(step_size=0.1), objective(it.priors.L1()), False, "step_size"),
        (PDHG(), objective(it.priors.TotalVariation()), True, "tau sum_j sigma_j"),
        (PDHG(), objective(it.priors.TotalVariation(lower=0.0)), False, "itself iterated"),
        (KrylovMM(), objective(it.priors.TotalVariation()), True, "convex norm"),
    ],
    ids=str,
)
def test_the_condition_that_holds_or_fails_is_named(
    solver: Solver, bound: Any, holds: bool, words: str
) -> None:
    answer, reason = solver.is_provably_convergent(bound)
    assert answer is holds and words in reason


def test_every_registered_solver_says_something_of_its_own() -> None:
    for name in names("solvers"):
        kind = lookup("solvers", name)
        if kind.__module__.startswith("invtoolbox."):
            assert kind.is_provably_convergent is not Solver.is_provably_convergent, name
