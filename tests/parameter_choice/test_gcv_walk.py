"""The weight of k-space by generalized cross-validation along one walk."""

from __future__ import annotations

import math

import pytest
import torch

import invtoolbox as it
from invtoolbox.operators import CartesianMRI
from invtoolbox.parameter_choice import GCVWalk


def scan(levels: tuple[float, ...] = (0.05,)) -> tuple[it.Problem, torch.Tensor]:
    """Return k-space of a piecewise constant image, one item per noise level."""
    draw = torch.Generator().manual_seed(0)
    x = torch.zeros(1, 1, 32, 32, dtype=torch.complex64)
    x[..., 8:24, 6:20], x[..., 12:16, 10:28] = 1, 0.5 + 0.5j
    mask = torch.rand(32, 32, generator=draw) < 0.5
    mask[14:18, 14:18] = True
    A = CartesianMRI(mask, (32, 32))
    y = torch.cat([A.simulate(x, level, seed=3) for level in levels])
    return it.Problem(y, A), x


def solve(problem: it.Problem, weight: object) -> it.Solution:
    return it.solve(
        problem, it.priors.TotalVariation(), regularization=weight, progress=False, check=False
    )


def test_the_weight_is_near_the_best_one() -> None:
    problem, x = scan()
    chosen = solve(problem, "auto")
    assert chosen.weight_search is not None and chosen.weight_search.rule == "gcv-walk"
    # One item per weight.
    weights = chosen.regularization * 10 ** (torch.tensor([-4.0, -2.0, -1.0, 1.0, 2.0]) / 2)
    every = it.Problem(problem.y0.expand(len(weights), -1, -1, -1), problem.operator)
    errors = (solve(every, weights).x - x).flatten(1).norm(dim=1).tolist()
    assert float((chosen.x - x).norm()) < 1.06 * min(errors)  # 0.5 dB
    assert max(errors) > 1.3 * min(errors)  # the weight matters here


def test_items_have_their_own_weights_and_bits() -> None:
    problem, _ = scan((0.02, 0.2))
    both = solve(problem, GCVWalk())
    assert float(both.regularization[1]) > 3 * float(both.regularization[0])
    for k in (0, 1):
        alone = solve(problem.select(torch.tensor([k])), GCVWalk())
        assert torch.equal(alone.regularization, both.regularization[k : k + 1])
        assert torch.equal(alone.x, both.x[k : k + 1])


def test_the_weight_follows_the_units() -> None:
    problem, _ = scan()
    louder = problem.with_measurements(1000 * problem.y0)
    ratio = float(
        solve(louder, GCVWalk()).regularization / solve(problem, GCVWalk()).regularization
    )
    assert math.log10(ratio) == pytest.approx(3, abs=0.1)


def test_wrong_problems_and_settings_get_one_sentence() -> None:
    problem, _ = scan()
    with pytest.raises(it.InputError, match="beyond"):
        GCVWalk(beyond=0)
    with pytest.raises(it.InputError, match="needs an explicit prior"):
        it.solve(problem, None, regularization=GCVWalk(), progress=False)
    blurred = it.Problem(torch.ones(1, 1, 8, 8), it.operators.Identity((1, 8, 8)))
    counts = blurred.with_data_term(it.data_terms.Poisson())
    with pytest.raises(it.InputError, match="white noise"):
        it.solve(counts, it.priors.TotalVariation(), regularization=GCVWalk(), progress=False)
