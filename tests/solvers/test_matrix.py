"""Every combination of operator, misfit and two priors is solved, or refused with a remedy."""

from __future__ import annotations

import itertools
import textwrap
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

import invtoolbox as it
from invtoolbox.operators.base import expand
from invtoolbox.priors import ExplicitPrior, PriorSum
from invtoolbox.solve import bind
from invtoolbox.solvers.choice import choose

SHAPE = (1, 8, 8)


class SmoothEnergy(ExplicitPrior):
    """An energy alone, as a user would write it."""

    is_convex = True

    def energy(self, x: Tensor) -> Tensor:
        return (1 + (x - 0.5).square()).sqrt().flatten(1).sum(1)


class Unstated(SmoothEnergy):
    """The same, by an author who states nothing."""

    is_convex = None


class Kink(ExplicitPrior):
    """An energy that is not differentiable, without a prox."""

    is_convex, is_smooth = True, False

    def energy(self, x: Tensor) -> Tensor:
        return x.abs().flatten(1).sum(1)


class ProxOnly(ExplicitPrior):
    is_convex = True

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        return x / (1 + 0.5 * expand(step, x))


class GradientOnly(ExplicitPrior):
    def gradient(self, x: Tensor, generator: Generator | None = None) -> Tensor:
        return x - 0.5


def local_means(x: Tensor, sigma: float | Tensor) -> Tensor:
    around = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
    return 0.5 * x + 0.5 * torch.nn.functional.avg_pool2d(around, 3, 1)


P, D = it.priors, it.data_terms
OPERATORS = {
    "linear": it.operators.Blur(torch.ones(3, 3) / 9, SHAPE[1:]),
    "nonlinear": it.as_operator(lambda x: x + 0.3 * x**3, domain_shape=SHAPE, range_shape=SHAPE),
}
TERMS = {
    "least squares": D.LeastSquares(),
    "sobolev": D.Sobolev(-0.5),
    "poisson": D.Poisson(background=0.5),
    "huber": D.Huber(0.1),
    "l1": D.L1(),
    "student": D.Student(1.0),
}
PRIORS: dict[str, Any] = {
    "none": PriorSum(),
    "quadratic": 0.1 * P.Tikhonov(),
    "energy": 0.1 * SmoothEnergy(),
    "unstated": 0.1 * Unstated(),
    "kink": 0.1 * Kink(),
    "gradient": 0.1 * GradientOnly(),
    "tv": 0.05 * P.TotalVariation(),
    "huber-tv": 0.05 * P.HuberTV(),
    "tgv": 0.05 * P.TotalGeneralizedVariation(),
    "l1": 0.05 * P.L1(),
    "nonnegative": 1.0 * P.NonNegative(),
    "box": 1.0 * P.Box(0.1, 0.9),
    "prox": 0.1 * ProxOnly(),
    "denoiser": 0.1 * P.Denoiser(local_means, sigma=0.05),
    "network": P.CoordinateNetwork(features=8, width=16, depth=1, bandwidth=2.0),
}
CASES = [
    (operator, term, *pair)
    for operator in OPERATORS
    for term in TERMS
    for pair in itertools.combinations(PRIORS, 2)
]


def objective_of(operator: str, term: str, first: str, second: str) -> tuple[it.Problem, PriorSum]:
    generator = torch.Generator().manual_seed(0)
    A = OPERATORS[operator]
    y = A(torch.rand(2, *SHAPE, generator=generator))
    if term == "poisson":
        y = (50 * (y + 0.5)).round() / 50
    else:
        y = y + 0.02 * torch.randn(y.shape, generator=generator)
    return it.Problem(y, A, TERMS[term]), PRIORS[first].as_sum() + PRIORS[second].as_sum()


def test_every_combination_has_a_solver_or_a_remedy() -> None:
    refused = []
    for case in CASES:
        problem, prior = objective_of(*case)
        bound = bind(problem, prior, 1.0)[0]
        try:
            choose(bound)
        except it.InputError as error:
            lines = textwrap.wrap(str(error), 100)
            assert len(lines) <= 3 and "solves it" in str(error), (case, lines)
            refused.append(case)
    assert all(map(may_be_refused, refused)), [c for c in refused if not may_be_refused(c)]


def may_be_refused(case: tuple[str, ...]) -> bool:
    """Whether no method of first order can follow the objective.

    It has an energy with a kink and no prox, or a misfit with a kink and a gradient without energy.
    """
    return "kink" in case or {"gradient", "l1"} <= set(case)


def value_at(problem: it.Problem, prior: PriorSum, x: Tensor) -> Tensor:
    total = problem.data_term.value(problem.operator(x), problem.y)
    for term in prior.terms:
        if "energy" in term.prior.offers and not term.prior.is_constraint:
            total = total + term.weight * term.prior.energy(x)
    return total


def check(case: tuple[str, str, str, str], iterations: int, against_longer: bool) -> None:
    problem, prior = objective_of(*case)
    try:
        solution = it.solve(
            problem, prior, regularization=1.0, max_iterations=iterations, progress=False
        )
    except it.InputError:
        assert may_be_refused(case), case
        return
    assert bool(torch.isfinite(solution.x).all()), (case, solution.solver)
    assert set(solution.status) <= {"converged", "limit"}, (case, solution)
    if {"prox", "denoiser", "gradient", "network"} & set(case):
        return  # there is no objective to compare, or another solver would start elsewhere
    value = value_at(problem, prior, solution.x)
    start = value_at(problem, prior, solution.x * 0 + 0.5)
    assert bool((value <= start * (1 + 1e-4)).all()), (case, solution.solver, value, start)
    if not against_longer:
        return
    longer = it.solve(
        problem, prior, regularization=1.0, max_iterations=1000, tolerance=1e-6, progress=False
    )
    least = value_at(problem, prior, longer.x)
    for k, status in enumerate(solution.status):
        if status == "converged":
            gain = float((start - least)[k])
            assert float((value - least)[k]) <= 1e-2 * max(gain, 1e-6), (case, solution, k)


@pytest.mark.parametrize("case", CASES[5::97], ids="-".join)
def test_a_sample_is_solved(case: tuple[str, str, str, str]) -> None:
    check(case, 40, against_longer=False)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_every_combination_is_solved(case: tuple[str, str, str, str]) -> None:
    check(case, 150, against_longer=True)
