"""The bound of rays that nothing absorbs."""

from __future__ import annotations

import pytest
import torch

import invtoolbox as it
from invtoolbox.priors import TangentBound
from invtoolbox.priors.images.total_variation import merge_bounds


def scan() -> tuple[it.operators.ParallelBeam, torch.Tensor]:
    A = it.operators.ParallelBeam((32, 32), torch.linspace(-0.5, 0.5, 41), 48)
    x = torch.zeros(1, 1, 32, 32)
    x[..., 10:20, 8:22] = 0.1
    return A, x


def test_the_object_lies_inside_and_air_does_not() -> None:
    A, x = scan()
    noise = 0.01
    y = A.simulate(x, noise, seed=0)
    bound = TangentBound(1.5 * noise).prepare(it.Problem(y, A), it.solve)
    inside = bound.prox(torch.ones_like(x), 1.0)
    assert bool((inside >= (x > 0).float()).all())
    assert float(inside.mean()) < 0.7
    assert float(bound.prox(-torch.ones_like(x), 1.0).abs().max()) == 0


def test_rays_without_weight_are_no_evidence() -> None:
    """Changed measurements that are held out change no bit of the bound."""
    A, x = scan()
    y = A.simulate(x, 0.01, seed=0)
    weights = torch.ones(1, 1, 41, 1)
    weights[:, :, ::3] = 0
    changed = torch.where(weights > 0, y, 1 - y)
    term = it.data_terms.LeastSquares(weights=weights)
    bounds = [
        TangentBound(0.015).prepare(it.Problem(t, A, term), it.solve).upper for t in (y, changed)
    ]
    assert bounds[0] is not None and bounds[1] is not None
    assert torch.equal(*bounds) and not bool(bounds[0].isinf().all())


def test_items_have_bounds_of_their_own() -> None:
    A, x = scan()
    y = A.simulate(torch.cat([x, x.flip(-1).roll(3, -2)]), 0.01, seed=0)
    both = TangentBound(torch.tensor([0.015, 0.03])).prepare(it.Problem(y, A), it.solve)
    for k, level in enumerate((0.015, 0.03)):
        alone = TangentBound(level).prepare(it.Problem(y[k : k + 1], A), it.solve)
        picked = both.select(torch.tensor([k]))
        assert alone.upper is not None and picked.upper is not None
        assert torch.equal(alone.upper, picked.upper)


def test_a_coarser_grid_has_a_bound_of_its_own() -> None:
    """The grids of a large scan each prepare the bound anew, and the answer keeps to it."""
    A = it.operators.ParallelBeam((128, 128), torch.linspace(-0.5, 0.5, 21), 160)
    x = torch.zeros(1, 1, 128, 128)
    x[..., 40:80, 32:88] = 0.1
    y = A.simulate(x, 0.01, seed=0)
    prior = 0.1 * it.priors.TotalVariation() + TangentBound(0.015)
    solution = it.solve(it.Problem(y, A), prior, max_iterations=5, progress=False)
    assert solution.solver.startswith("FISTA")
    bound = TangentBound(0.015).prepare(it.Problem(y, A), it.solve)
    assert torch.equal(bound.prox(solution.x, 1.0), solution.x)
    assert len(merge_bounds(prior.prepare(it.Problem(y, A), it.solve)).terms) == 1


def test_a_level_is_not_negative() -> None:
    with pytest.raises(it.errors.InputError, match="empty"):
        TangentBound(-1.0)
