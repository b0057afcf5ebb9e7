"""Gaussians as the unknown: where they start, how they split, move and vanish, and that they learn a scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.geometry import Splats, look_at
from invtoolbox.geometry.gaussians import effective_rank
from invtoolbox.geometry.rotations import rotation_matrices
from invtoolbox.loop.checkpoint import Checkpoint
from invtoolbox.operators import GaussianRenderer
from invtoolbox.priors import DefaultStrategy, Gaussians, MCMCStrategy
from invtoolbox.priors.implicit.gaussian_strategies import DEAD, shared_opacity
from tests.emulated_cuda import emulate_cuda


def leaves(opacities: list[float], scale: float = 0.1, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    n = len(opacities)
    opacity = torch.tensor([opacities])
    return {
        "means": torch.randn(1, n, 3, generator=g),
        "quats": torch.randn(1, n, 4, generator=g),
        "log_scales": torch.full((1, n, 3), scale).log(),
        "logit_opacities": torch.logit(opacity).clamp_min(DEAD),
        "colors": torch.randn(1, n, 1, 3, generator=g),
    }


def target(
    batch: int = 1, views: int = 6, size: tuple[int, int] = (24, 24)
) -> tuple[GaussianRenderer, Tensor]:
    """Views of a few blobs."""
    g = torch.Generator().manual_seed(7)
    centres = 3 * torch.nn.functional.normalize(torch.randn(views, 3, generator=g), dim=1)
    A = GaussianRenderer(look_at(centres, size=size), background=1.0)
    points, colors = (
        0.4 * torch.randn(batch, 8, 3, generator=g),
        torch.rand(batch, 8, 3, generator=g),
    )
    return A, A(Splats.of_points(points, colors, 0.25, 0.95))


def test_points_start_as_wide_as_their_neighbours_are_far() -> None:
    line = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]])
    prior = Gaussians(line, torch.tensor([[1.0, 0, 0]]).expand(4, 3), degree=1)
    x = prior.decode(prior.initial())
    assert torch.allclose(x.scales[0, :, 0], torch.tensor([2.0, 4 / 3, 4 / 3, 2.0]))
    assert torch.allclose(x.opacities, torch.tensor(0.1))
    A = GaussianRenderer(look_at(torch.tensor([[0.0, 0, -9]]), size=(16, 16)))
    picture = A(x)
    assert float(picture[:, 0].max()) > 0.05 and float(picture[:, 1:].abs().max()) < 1e-6


@pytest.mark.parametrize(
    "strategy",
    [
        DefaultStrategy(start=20, every=20, stop=200, least_pull=1e-5, reset_every=10**9),
        MCMCStrategy(start=20, every=20, growth=0.3, most=120),
    ],
)
def test_a_scene_is_learned_while_gaussians_come_and_go(strategy: Any) -> None:
    A, y = target()
    prior = Gaussians.random(
        40,
        (-0.8, -0.8, -0.8),
        (0.8, 0.8, 0.8),
        degree=1,
        strategy=strategy,
        degree_every=50,
        decay_over=200,
        rates={"means": 5.0},
    )
    counts: list[int] = []
    solution = it.solve(
        it.Problem(y, A, it.data_terms.Photometric(0.0)),
        prior,
        it.solvers.Adam(subset_size=2, epsilon=1e-15),
        seed=1,
        max_iterations=200,
        tolerance=0.0,
        progress=False,
        callbacks=[lambda p: counts.append(len(p.x)) and None],
    )
    start = it.metrics.psnr(A(prior.decode(prior.initial())).flatten(2, 3), y.flatten(2, 3))
    end = it.metrics.psnr(A(solution.x).flatten(2, 3), y.flatten(2, 3))
    assert float(end) > 22 > float(start) + 5
    assert len(set(counts)) > 2 and max(counts) > 40


def test_needles_become_wider() -> None:
    A, y = target()
    sides = torch.tensor([0.2, 0.01, 0.005]).log()
    prior = Gaussians.random(40, (-0.8, -0.8, -0.8), (0.8, 0.8, 0.8), 0, None, needles=1.0)
    start = {**prior.initial(), "log_scales": sides.expand(1, 40, 3).contiguous()}
    wide = {**start, "log_scales": torch.zeros(1, 40, 3)}
    assert float(prior.energy(wide, prior.decode(wide))) == 0
    dead = torch.full((1, 40), -20.0)
    dead[:, :1] = 0
    alone = {**start, "logit_opacities": dead}
    assert torch.allclose(prior.energy(alone, None), prior.energy(start, None))
    ranks = []
    for weight in (0.0, 1.0):
        prior.needles = weight
        problem = it.Problem(y, A, it.data_terms.Photometric(0.0))
        settings = {"max_iterations": 40, "tolerance": 0.0, "progress": False, "initial": start}
        x = it.solve(problem, prior, it.solvers.Adam(epsilon=1e-15), **settings).x
        ranks.append(float(effective_rank(x.scales.log()).mean()))
    assert ranks[1] > ranks[0] + 0.02
    with pytest.raises(InputError, match="must not be negative"):
        Gaussians(torch.zeros(1, 3), needles=-1.0)


def test_absolute_gradients_let_more_gaussians_grow() -> None:
    A, y = target()
    counts = {}
    for absolute in (False, True):
        strategy = DefaultStrategy(
            start=1, every=8, stop=10, least_pull=1e-2, reset_every=10**9, absolute=absolute
        )
        box = (-0.8, -0.8, -0.8), (0.8, 0.8, 0.8)
        prior = Gaussians.random(40, *box, degree=0, strategy=strategy)
        A.absgrad = absolute
        problem = it.Problem(y, A, it.data_terms.Photometric(0.0))
        settings = {"max_iterations": 9, "tolerance": 0.0, "progress": False}
        counts[absolute] = len(it.solve(problem, prior, it.solvers.Adam(), **settings).x)
    assert counts[True] > counts[False]
    A.absgrad = False
    with pytest.raises(InputError, match="absgrad=True"):
        it.solve(problem, prior, it.solvers.Adam(), **settings)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_resumed_run_and_items_alone_are_the_same(tmp_path: Path, dropout: float) -> None:
    A, y = target(2)
    strategy = MCMCStrategy(start=2, every=4, growth=0.2, most=60)
    prior = Gaussians.random(
        30,
        (-0.8, -0.8, -0.8),
        (0.8, 0.8, 0.8),
        degree=0,
        strategy=strategy,
        decay_over=10,
        dropout=dropout,
    )
    problem = it.Problem(y, A, it.data_terms.Photometric(0.0))

    def run(its: int, chosen: it.Problem = problem, **more: Any) -> it.Solution:
        solution: it.Solution = it.solve(
            chosen,
            prior,
            it.solvers.Adam(subset_size=2),
            max_iterations=its,
            tolerance=0.0,
            progress=False,
            **more,
        )
        return solution

    whole = run(14)
    run(9, checkpoint=Checkpoint(tmp_path / "run.ckpt", 0.0))
    resumed = run(14, checkpoint=Checkpoint(tmp_path / "run.ckpt", 0.0))
    assert torch.equal(whole.x.means, resumed.x.means) and len(whole.x) > 30
    for k in range(2):
        alone = run(14, problem.select(torch.tensor([k])))
        n = len(alone.x)
        assert torch.allclose(alone.x.means[0], whole.x.means[k, :n], atol=1e-5)
        assert bool((whole.x.opacities[k, n:] < 1e-6).all())


def test_steps_leave_out_a_share_that_grows_and_the_others_make_up_for_it() -> None:
    p = leaves([0.1, 0.3, 0.9] * 200)
    prior = Gaussians(p["means"], degree=0, strategy=MCMCStrategy(), decay_over=100, dropout=0.25)
    whole = prior.decode(p).opacities
    assert torch.equal(
        prior.at(0).decode(p, Generator().manual_seed(1)).opacities, whole
    )  # nothing is left out yet

    def drawn(seed: int, iteration: int, parameters: dict[str, Tensor] = p) -> Tensor:
        return prior.at(iteration).decode(parameters, Generator().manual_seed(seed)).opacities

    for iteration, share in ((40, 0.1), (100, 0.25), (10_000, 0.25)):
        one = drawn(1, iteration)
        left_out = one == 0
        assert torch.allclose(one[~left_out], (whole[~left_out] / (1 - share)).clamp_max(1))
        many = torch.cat([drawn(seed, iteration) for seed in range(200)])
        assert float((many == 0).float().mean()) == pytest.approx(share, abs=0.005)
        faint = whole[0] < 0.5
        assert float(many[:, faint].mean()) == pytest.approx(
            float(whole[:, faint].mean()), rel=0.01
        )
    assert torch.equal(drawn(1, 100), drawn(1, 100)) and not torch.equal(
        drawn(1, 100), drawn(2, 100)
    )
    fewer = {name: leaf[:, :37] for name, leaf in p.items()}
    assert torch.equal(
        drawn(1, 100, fewer), drawn(1, 100)[:, :37]
    )  # the same rows, however many others there are
    both = {name: torch.cat([leaf, leaf]) for name, leaf in p.items()}
    assert torch.equal(drawn(1, 100, both)[1:], drawn(1, 100))
    # What the strategy says about opacities is said of all of them.
    assert torch.equal(
        prior.energy(p, prior.at(100).decode(p, Generator().manual_seed(1))),
        prior.energy(p, prior.decode(p)),
    )
    with pytest.raises(InputError, match=r"dropout of Gaussians must lie in \[0, 1\)"):
        Gaussians(p["means"], dropout=1.0)


def test_the_pulled_are_copied_or_split_and_the_transparent_vanish() -> None:
    old = leaves([0.5, 0.5, 0.001, 0.5, 0.5])
    old["log_scales"][0, 1] = torch.tensor([0.5, 0.02, 0.02]).log()
    statistics = {
        "pull": torch.tensor([[4.0, 4.0, 4.0, 0.0, 4.0]]),
        "views": torch.tensor([[2.0, 2.0, 2.0, 2.0, 4e6]]),
    }
    strategy = DefaultStrategy(least_pull=1.0, small=0.2)
    new, transfer = strategy.adapt(old, statistics, 600, Generator().manual_seed(0), 1.0)
    # Kept: 0, 3, 4; the copy of 0; two in the place of 1.
    assert new["means"].shape == (1, 6, 3)
    assert torch.equal(new["means"][0, :4], old["means"][0, [0, 3, 4, 0]])
    assert torch.allclose(new["log_scales"][0, 4:].exp(), old["log_scales"][0, 1].exp() / 1.6)
    apart = rotation_matrices(old["quats"][0, 1]).T @ (new["means"][0, 4:] - old["means"][0, 1]).T
    assert (
        bool((apart.abs() < 4 * old["log_scales"][0, 1].exp()[:, None]).all())
        and float(apart.abs().max()) > 0.05
    )
    moved = transfer("means", torch.ones(1, 5, 3))
    assert moved[0, :, 0].tolist() == [1, 1, 1, 0, 0, 0]
    few, _ = DefaultStrategy(least_pull=1.0, small=0.2, most=4).adapt(
        old, statistics, 600, Generator().manual_seed(0), 1.0
    )
    assert int((few["logit_opacities"] > DEAD + 1).sum()) <= 5


def test_opacities_are_reset_and_forget_their_moments() -> None:
    old = leaves([0.9, 0.004, 0.3])
    statistics = DefaultStrategy().statistics(old)
    new, transfer = DefaultStrategy(reset_every=600).adapt(
        old, statistics, 600, Generator().manual_seed(0), 1.0
    )
    assert torch.allclose(new["logit_opacities"].sigmoid(), torch.tensor([[0.01, 0.01]]))
    assert (
        not transfer("logit_opacities", torch.ones(1, 3)).any()
        and transfer("means", torch.ones(1, 3, 3)).all()
    )


def test_the_dead_move_to_the_living_and_the_picture_hardly_changes() -> None:
    old = leaves([0.9, 0.001, 0.001, 0.6, 0.8], scale=0.6)
    old["means"][0, :, 2] = torch.arange(5.0)
    strategy = MCMCStrategy(growth=0.4)
    new, transfer = strategy.adapt(old, {}, 600, Generator().manual_seed(3), 1.0)
    assert new["means"].shape == (1, 7, 3)
    living = old["means"][0, [0, 3, 4]]
    assert bool((torch.cdist(new["means"][0], living).min(1).values == 0).all())
    assert torch.equal(
        transfer("means", torch.ones(1, 5, 3)).any(-1)[0, [1, 2, 5, 6]],
        torch.zeros(4, dtype=torch.bool),
    )
    A = GaussianRenderer(look_at(torch.tensor([[0.0, 0, -6]]), size=(40, 40)))

    def picture(p: dict[str, Tensor]) -> Tensor:
        return A(
            Splats(
                p["means"],
                p["quats"],
                p["log_scales"].exp(),
                p["logit_opacities"].sigmoid(),
                p["colors"],
            )
        )

    # Copies that did not share would be three times as far from what was there.
    rows = torch.cdist(new["means"][0], old["means"][0]).argmin(1)
    naive = {name: leaf[:, rows] for name, leaf in old.items()}
    error, unshared = ((picture(p) - picture(old)).abs().mean() for p in (new, naive))
    assert error < 0.35 * unshared


def test_shared_opacities_composite_to_what_one_showed() -> None:
    for n in (1, 2, 5):
        opacity, factor = shared_opacity(torch.tensor([0.8]), torch.tensor([n]))
        assert torch.allclose(1 - (1 - opacity) ** n, torch.tensor([0.8]))
        # Along a line through the middle, the composited profile has the same area.
        r = torch.linspace(-8, 8, 4001)
        profile = 1 - (1 - opacity * torch.exp(-0.5 * (r / factor) ** 2)) ** n
        assert abs(float(torch.trapezoid(profile, r)) / (0.8 * (2 * torch.pi) ** 0.5) - 1) < 2e-3


def test_a_gpu_adds_terms_that_are_zero_to_the_same_shared_opacity() -> None:
    opacity = torch.linspace(0.01, 0.99, 7)
    for counts in ([1, 2, 3, 1, 5, 2, 1], [1, 60, 51, 7, 2, 30, 1]):
        on_cpu = shared_opacity(opacity, torch.tensor(counts))
        with emulate_cuda() as tally:
            on_cuda = shared_opacity(opacity.to("cuda"), torch.tensor(counts).to("cuda"))
            assert all(torch.equal(a.cpu(), b) for a, b in zip(on_cuda, on_cpu, strict=True))
            assert not tally.synchronizations


def test_noise_moves_the_transparent_along_their_covariance() -> None:
    p = leaves([0.005, 0.9], scale=0.1)
    p["log_scales"][0, 0] = torch.tensor([1.0, 0.01, 0.01]).log()
    p["quats"][0, 0] = torch.tensor([1.0, 0, 0, 0])
    moved = MCMCStrategy(noise=1.0).perturb(p, 0.1, Generator().manual_seed(0)) - p["means"]
    assert float(moved[0, 0, 0].abs()) > 1000 * float(moved[0, 0, 1:].abs().max())
    assert float(moved[0, 1].abs().max()) < 1e-6


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(InputError, match="a color for every point"):
        Gaussians(torch.rand(5, 3), torch.rand(4, 3))
    with pytest.raises(InputError, match="rates of Gaussians names size"):
        Gaussians(torch.rand(5, 3), rates={"size": 1.0})
    A = GaussianRenderer(look_at(torch.tensor([[0.0, 0, -4]]), size=(4, 4)))
    with pytest.raises(InputError, match="takes Splats"):
        A(torch.zeros(1, 3))
