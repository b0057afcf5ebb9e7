"""Two sets of Gaussians for one scene: alone when nothing ties them, alike where they are told to be, and rid of what only one has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.geometry import Splats, look_at
from invtoolbox.loop.checkpoint import Checkpoint
from invtoolbox.operators import GaussianRenderer, OnBoth
from invtoolbox.priors import (
    DefaultStrategy,
    Disagreement,
    GaussianPair,
    Gaussians,
    MCMCStrategy,
    ThroughOperator,
)
from invtoolbox.priors.implicit.gaussian_strategies import DEAD

LOW, HIGH = (-0.8, -0.8, -0.8), (0.8, 0.8, 0.8)


def target(batch: int = 1, views: int = 4) -> tuple[GaussianRenderer, Tensor, Splats]:
    """Views of a few blobs."""
    g = torch.Generator().manual_seed(7)
    centres = 3 * torch.nn.functional.normalize(torch.randn(views, 3, generator=g), dim=1)
    A = GaussianRenderer(look_at(centres, size=(16, 16)), background=1.0)
    points, colors = (
        0.4 * torch.randn(batch, 8, 3, generator=g),
        torch.rand(batch, 8, 3, generator=g),
    )
    x = Splats.of_points(points, colors, 0.25, 0.95)
    return A, A(x), x


def two(strategy: Any = None, **more: Any) -> list[Gaussians]:
    return [
        Gaussians.random(count, LOW, HIGH, degree=0, strategy=strategy, seed=seed, **more)
        for seed, count in ((0, 30), (1, 25))
    ]


def solved(y: Tensor, A: Any, prior: Any, its: int = 12, **more: Any) -> it.Solution:
    adam = it.solvers.Adam(subset_size=2, epsilon=1e-20)
    solution: it.Solution = it.solve(
        it.Problem(y, A, it.data_terms.Photometric(0.0)),
        prior,
        adam,
        max_iterations=its,
        tolerance=0.0,
        progress=False,
        **more,
    )
    return solution


def test_an_operator_on_both_predicts_what_it_does_of_each() -> None:
    A, y, x = target()
    other = Splats.of_points(torch.zeros(1, 3, 3), torch.ones(1, 3, 3), 0.3, 0.5)
    both = OnBoth(A)
    seen = both((x, other))
    assert both.range_shape == (6, 4, 16, 16) and torch.equal(seen, torch.cat([A(x), A(other)], 1))
    assert torch.equal(both.subset([2, 0])((x, other)), seen[:, :, [2, 0]]) and both.blocks == 4
    again, info = both.with_info((x, other))
    assert torch.equal(again, seen) and info["second.splats"].shape[2] == 3
    assert torch.equal(both.measurements(y)[:, 3:], y)
    assert float(Disagreement().energy(seen)) == pytest.approx(
        float((A(x) - A(other)).abs().mean())
    )
    with pytest.raises(InputError, match="takes two scenes"):
        both(x)


def test_a_pair_that_nothing_ties_is_two_scenes_found_alone() -> None:
    A, y, _ = target()
    members = two(DefaultStrategy(start=2, every=8, stop=9, least_pull=2e-3, small=1.0))
    both = OnBoth(A)
    for its in (7, 8):
        pair = solved(both.measurements(y), both, GaussianPair(*members), its)
        for x, member, before in zip(pair.x, members, (30, 25)):
            alone = solved(y, A, member, its)
            assert torch.allclose(x.means, alone.x.means, atol=1e-5) and torch.allclose(
                x.colors, alone.x.colors, atol=1e-5
            )
            assert (
                (before < len(x) < 2 * before) if its == 8 else len(x) == before
            )  # some are copied, where they are pulled


def test_a_resumed_pair_and_items_alone_are_the_same(tmp_path: Path) -> None:
    A, y, _ = target(2)
    both = OnBoth(A)
    members = two(MCMCStrategy(start=2, every=4, growth=0.2, most=40), dropout=0.2, decay_over=10)
    unseen = GaussianRenderer(
        look_at(torch.tensor([[3.0, 0.0, 0.1], [0.0, 0.5, 3.0]]), size=(16, 16)), background=1.0
    )
    prior = GaussianPair(*members, apart=0.5, prune_every=8) + 4.0 * ThroughOperator(
        Disagreement(), OnBoth(unseen), subset_size=1
    )
    y = both.measurements(y)
    whole = solved(y, both, prior)
    solved(y, both, prior, 7, checkpoint=Checkpoint(tmp_path / "run.ckpt", 0.0))
    resumed = solved(y, both, prior, checkpoint=Checkpoint(tmp_path / "run.ckpt", 0.0))
    for k in range(2):
        assert torch.equal(whole.x[k].means, resumed.x[k].means)
    assert len(whole.x[0]) > 30 and len(whole.x[1]) > 25
    for item in range(2):
        alone = solved(y[item : item + 1], both, prior)
        for k in range(2):
            n = len(alone.x[k])
            assert torch.allclose(alone.x[k].means[0], whole.x[k].means[item, :n], atol=1e-5)
            assert bool((whole.x[k].opacities[item, n:] < 1e-6).all())


def test_two_differ_where_they_are_wrong_and_less_where_they_are_told_not_to() -> None:
    A, y, truth = target(2, views=3)
    both = OnBoth(A)
    g = torch.Generator().manual_seed(5)
    unseen = look_at(
        3 * torch.nn.functional.normalize(torch.randn(24, 3, generator=g), dim=1), size=(16, 16)
    )
    B = GaussianRenderer(unseen, background=1.0)
    pair = GaussianPair(
        *(Gaussians.random(100, LOW, HIGH, 0, None, seed, rates={"means": 5.0}) for seed in (0, 1))
    )
    tie = ThroughOperator(Disagreement(), OnBoth(B), subset_size=1)
    free, tied = (
        solved(both.measurements(y), both, prior, 100).x for prior in (pair, pair + 0.2 * tie)
    )
    apart = [Disagreement().energy(OnBoth(B)(x)) for x in (free, tied)]
    assert bool((apart[1] < 0.7 * apart[0]).all())
    one, other = (B(x) for x in free)
    for k in range(2):
        pixels = torch.stack(
            [
                (one[k] - other[k]).abs().mean(0).flatten(),
                (one[k] - B(truth)[k]).abs().mean(0).flatten(),
            ]
        )
        assert float(torch.corrcoef(pixels)[0, 1]) > 0.4


def test_what_only_one_of_them_has_is_pruned() -> None:
    pair = GaussianPair(*two(), apart=0.2, prune_every=10)
    assert pair.is_adaptive and pair.adapts(10) and not pair.adapts(5)
    p = {name: leaf.repeat(2, *[1] * (leaf.ndim - 1)) for name, leaf in pair.initial().items()}
    p["second.means"] = (
        p["first.means"][:, :25] + 0.1 / 3**0.5
    )  # 0.1 from those of the first, but for five of these
    p["second.means"][1, 24] = 7.0
    new, transfer = pair.adapt(p, {}, 10, Generator().manual_seed(0))
    distance = torch.cdist(p["first.means"][0, 25:], p["second.means"][0]).amin(1)
    assert bool((distance > 0.2).any())
    assert torch.equal(new["first.logit_opacities"][0, 25:] == DEAD, distance > 0.2)
    assert not bool((new["first.logit_opacities"][:, :24] == DEAD).any())
    assert (new["second.logit_opacities"] == DEAD).nonzero().tolist() == [[1, 24]]
    assert torch.equal(
        transfer("second.means", torch.ones(2, 25, 3))[..., 0] == 0,
        new["second.logit_opacities"] == DEAD,
    )
    kept = pair.adapt(p, {}, 5, Generator().manual_seed(0))[0]
    assert all(torch.equal(kept[name], p[name]) for name in p)


def test_what_does_not_fit_is_said() -> None:
    first, second = two()
    with pytest.raises(InputError, match="the same strategy"):
        GaussianPair(first, two(DefaultStrategy())[1])
    with pytest.raises(InputError, match="multiple of the 100 steps"):
        GaussianPair(*two(DefaultStrategy()), apart=0.1, prune_every=150)
    with pytest.raises(InputError, match="apart of GaussianPair must be positive"):
        GaussianPair(first, second, apart=0.0)
    A, y, _ = target()
    with pytest.raises(InputError, match=r"operators\.OnBoth"):
        solved(y, A, GaussianPair(first, second))
    with pytest.raises(InputError, match="two halves"):
        Disagreement().energy(torch.zeros(1, 3, 1, 4, 4))
