"""Kinks next to networks, nonlinear operators and robust misfits; energies in splitting methods."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.priors import ExplicitPrior
from invtoolbox.solve import bind
from invtoolbox.solvers import ADMM, LBFGS, PDHG, CondatVu, NonlinearADMM, choice
from invtoolbox.testing import check_prior, check_solver

SHAPE = (1, 8, 8)


class Energy(ExplicitPrior):
    is_convex = True

    def energy(self, x: Tensor) -> Tensor:
        return (1 + (x - 0.5).square()).sqrt().flatten(1).sum(1)


def problem(data_term: it.data_terms.DataTerm | None = None, cube: float = 0.0) -> it.Problem:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, *SHAPE, generator=generator) * torch.tensor([1.0, 0.5]).view(2, 1, 1, 1)
    A: it.operators.Operator = it.operators.Blur(torch.ones(3, 3) / 9, SHAPE[1:])
    if cube:
        A = it.as_operator(lambda u: u + cube * u**3, domain_shape=SHAPE, range_shape=SHAPE)
    y = A(x) + 0.02 * torch.randn(2, *SHAPE, generator=generator)
    return it.Problem(y, A, data_term)


def value(p: it.Problem, prior: it.priors.PriorSum, x: Tensor) -> Tensor:
    return p.data_term.value(p.operator(x), p.y) + prior.energy(x)


TV = 0.05 * it.priors.TotalVariation()


@pytest.mark.parametrize(
    ("data_term", "tolerance"),
    [(None, 1e-3), pytest.param(it.data_terms.L1(), 5e-3, marks=pytest.mark.slow)],
    ids=["squares", "l1"],
)
def test_a_convex_problem_has_the_minimum_of_pdhg(
    data_term: it.data_terms.DataTerm | None, tolerance: float
) -> None:
    p, prior = problem(data_term), 0.1 * Energy() + TV
    ours = it.solve(p, prior, NonlinearADMM(), progress=False)
    assert ours.status == ("converged",) * 2
    least = value(p, prior, it.solve(p, prior, PDHG(), max_iterations=400, progress=False).x)
    assert bool((value(p, prior, ours.x) <= least * (1 + tolerance)).all())


def test_a_nonlinear_operator_with_variation_and_bounds() -> None:
    p, prior = problem(cube=0.3), TV + it.priors.Box(0.2, 0.6)
    split = it.solve(p, prior, tolerance=1e-4, progress=False)
    assert "NonlinearADMM was chosen" in split.reason
    primal_dual = it.solve(p, prior, CondatVu(), tolerance=1e-4, progress=False)
    for solution in (split, primal_dual):
        assert solution.status == ("converged",) * 2
        assert torch.equal(solution.x, solution.x.clamp(0.2, 0.6))
    torch.testing.assert_close(split.x, primal_dual.x, rtol=0, atol=2e-3)


def test_a_network_with_variation_finds_the_same_image_as_pixels() -> None:
    p = problem()
    network = it.priors.CoordinateNetwork(features=16, width=32, depth=1, bandwidth=2.0)
    solution = it.solve(p, network + TV, max_iterations=30, progress=False)
    assert "NonlinearADMM was chosen" in solution.reason
    pixels = it.solve(p, TV, progress=False).x
    assert bool((value(p, TV, solution.x) <= 1.05 * value(p, TV, pixels)).all())


def test_an_energy_enters_every_splitting_method() -> None:
    p, prior = problem(), 0.1 * Energy()
    least = value(p, prior, it.solve(p, prior, LBFGS(), progress=False).x)
    for solver in (PDHG(), CondatVu(), ADMM()):
        solution = it.solve(p, prior, solver, tolerance=1e-4, progress=False)
        assert solution.status == ("converged",) * 2, solution
        torch.testing.assert_close(value(p, prior, solution.x), least, rtol=1e-4, atol=0)
        told = any("found numerically" in note for note in solution.notes)
        assert told is isinstance(solver, ADMM)


def test_the_numerical_prox_keeps_the_contract() -> None:
    from invtoolbox.priors.numerical_prox import NumericalProx

    assert check_prior(NumericalProx(Energy(), tolerance=1e-6), torch.rand(3, 1, 6, 5)).ok


def test_contract() -> None:
    assert check_solver(
        NonlinearADMM(),
        problem(cube=0.3),
        TV + it.priors.NonNegative(),
        iterations=6,
        max_iterations=20,
    ).ok


class Kink(ExplicitPrior):
    is_smooth = False

    def energy(self, x: Tensor) -> Tensor:
        return x.abs().flatten(1).sum(1)


def test_a_refusal_names_the_nearest_change() -> None:
    with pytest.raises(it.InputError, match=r"write prox\(x, step\) for Kink\(\), and \w+ solves"):
        it.solve(problem(), Kink(), regularization=1.0)
    with pytest.raises(it.InputError, match=r"LBFGS needs .*; these would work: .*PDHG"):
        it.solve(problem(), TV, LBFGS())
    network = it.priors.CoordinateNetwork(features=4, width=4)
    with pytest.raises(it.InputError, match=r"HuberTV\(\) in place of|these would work: Nonl"):
        it.solve(problem(), network + TV, it.solvers.Adam())


class Mine(it.solvers.GradientDescent):
    """A plug-in that states what it takes: any kink."""

    def unsupported_reason(self, objective: object) -> str | None:
        return None


class Silent(Mine):
    unsupported_reason = it.solvers.Solver.unsupported_reason  # type: ignore[assignment]


class Point:
    def __init__(self, name: str, kind: type) -> None:
        self.name, self.value, self.kind = name, f"{name}:Solver", kind

    def load(self) -> type:
        if self.name == "broken":
            raise ImportError("gone")
        return self.kind


def test_a_solver_of_a_plug_in_is_a_candidate_if_it_states_support(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points = [Point("silent", Silent), Point("broken", Mine), Point("mine", Mine)]
    monkeypatch.setattr(choice, "entry_points", lambda group: points)
    choice.plugins.cache_clear()
    try:
        bound = bind(problem(), Kink().as_sum(), 1.0)[0]
        solver, reason = choice.choose(bound)
        assert isinstance(solver, Mine) and not isinstance(solver, Silent) and "mine" in reason
        # What our solvers solve stays with them.
        kept, _ = choice.choose(bind(problem(), TV.as_sum(), 1.0)[0])
        assert isinstance(kept, PDHG)
    finally:
        choice.plugins.cache_clear()
