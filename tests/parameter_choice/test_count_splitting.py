"""Count splitting: a weight near the best, the same alone and in a batch, refusals, the default."""

from __future__ import annotations

import pytest
import torch

import invtoolbox as it
from invtoolbox.parameter_choice import CountSplitting
from invtoolbox.solvers import RichardsonLucy

KERNEL = torch.ones(1, 3, 3) / 9
SOLVER = RichardsonLucy(tau=0, accelerated=True, max_iterations=100)


def counts(peaks: tuple[float, ...] = (20.0, 200.0)) -> tuple[it.Problem, torch.Tensor]:
    x = torch.zeros(1, 1, 1, 24, 24)
    x[..., 5:15, 4:12], x[..., 12:20, 14:20] = 1.0, 0.4
    x = torch.cat([peak * (x + 0.05) for peak in peaks])
    A = it.operators.Blur3D(KERNEL, (1, 24, 24))
    draws = [torch.poisson(A(item[None]), generator=torch.Generator().manual_seed(0)) for item in x]
    return it.Problem(torch.cat(draws), A, it.data_terms.Poisson()), x


def test_the_weight_is_near_the_best() -> None:
    problem, truth = counts()
    prior = it.priors.TotalVariation()
    settings = {"solver": SOLVER, "progress": False}
    chosen = it.solve(problem, prior, regularization=CountSplitting(iterations=60), **settings)
    error = (chosen.x - truth).flatten(1).norm(dim=1)
    others = torch.stack(
        [
            (it.solve(problem, prior, regularization=w, **settings).x - truth)
            .flatten(1)
            .norm(dim=1)
            for w in (1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
        ]
    )
    assert bool((error < 1.15 * others.amin(0)).all())
    assert bool((error < 0.8 * others[0]).all())


def test_an_item_alone_has_the_weight_of_the_batch() -> None:
    problem, _ = counts()
    prior, rule = it.priors.TotalVariation(), CountSplitting(iterations=20, sections=1)
    both = it.solve(problem, prior, SOLVER, rule, max_iterations=2, progress=False)
    one = it.solve(
        problem.select(torch.tensor([1])), prior, SOLVER, rule, max_iterations=2, progress=False
    )
    assert torch.equal(one.regularization, both.regularization[1:])
    assert torch.equal(one.x, both.x[1:])


def test_photons_are_split_by_default() -> None:
    problem, _ = counts((20.0,))
    solution = it.solve(problem, it.priors.TotalVariation(), max_iterations=2, progress=False)
    assert "count splitting" in solution.weight_choice
    assert "RichardsonLucy" in solution.solver


@pytest.mark.slow
def test_a_graph_is_made_from_the_photons_that_are_fitted() -> None:
    truth = torch.full((1, 1, 24, 24), 10.0)
    truth[..., 6:16, 6:16] = 60.0
    y = torch.poisson(truth, generator=torch.Generator().manual_seed(0))
    problem = it.Problem(y, it.operators.Identity((1, 24, 24)), it.data_terms.Poisson())
    solution = it.solve(problem, it.priors.GraphLaplacian(), max_iterations=50, progress=False)
    assert "count splitting" in solution.weight_choice
    assert float((solution.x - truth).norm()) < 0.7 * float((y - truth).norm())


def test_what_does_not_fit_is_said() -> None:
    problem, _ = counts((20.0,))
    scaled = problem.with_measurements(problem.y / 30)
    with pytest.raises(it.InputError, match="whole numbers of photons"):
        it.solve(scaled, it.priors.TotalVariation(), SOLVER, "count-splitting", progress=False)
    with pytest.raises(it.InputError, match="share"):
        CountSplitting(share=1.0)
