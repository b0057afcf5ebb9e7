"""The default rule: held-out measurements and a white residual."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.parameter_choice import Trials, Validation
from invtoolbox.parameter_choice.base import WeightCurve
from invtoolbox.parameter_choice.held_out import hold_out
from invtoolbox.parameter_choice.validation import whiteness
from invtoolbox.parameter_choice.walk import Walk

N = 32


def noise(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def picture() -> Tensor:
    grid = torch.linspace(-1, 1, N)
    x = ((grid[:, None] ** 2 + grid**2) < 0.6) * (1 + 0.4 * grid)
    return torch.stack([x, x + (grid > 0.3) * 0.5])[:, None]


def blurred(std: tuple[float, ...] = (0.02, 0.1)) -> it.Problem:
    A = it.operators.Blur(torch.ones(3, 3) / 9, (N, N), boundary="periodic")
    level = torch.tensor(std).view(-1, 1, 1, 1)
    n = len(std)
    return it.Problem(A(picture()[:n]) + level * noise((n, 1, N, N)), A)


def loss(
    problem: it.Problem, truth: Tensor, prior: it.priors.ExplicitPrior, found: Tensor
) -> Tensor:
    """The decibels that a solution lies below the best weight, per item."""
    factor = 10 ** torch.linspace(-0.9, 0.9, 7)
    psnr = torch.stack(
        [
            it.metrics.psnr(
                it.solve(problem, prior, regularization=found * f, progress=False).x, truth
            )
            for f in factor
        ]
    )
    return psnr.amax(0) - psnr[3]


def test_it_is_the_default_and_close_to_the_best_weight() -> None:
    problem, prior = blurred(), it.priors.Tikhonov("gradient")
    solution = it.solve(problem, prior, progress=False)
    assert any("no weight was given: validation chooses" in n for n in solution.notes)
    assert bool((loss(problem, picture(), prior, solution.regularization) < 0.8).all())


def test_it_survives_a_model_that_is_not_quite_right() -> None:
    """The line integrals of a disc, not of its pixels, and a stated noise level that is 30 % off."""
    n = 32
    A = it.operators.ParallelBeam((1, n, n), torch.arange(20) * math.pi / 20, 46)
    t = torch.arange(20)[:, None] * math.pi / 20
    s = torch.arange(46) - 22.5 - 3.3 * t.cos() - 1.7 * t.sin()
    clean = 2 * ((0.55 * n / 2) ** 2 - s.square()).clamp_min(0).sqrt()[None, None]
    std = 0.02 * float(clean.square().mean().sqrt())
    fine = (torch.arange(8 * n) + 0.5) / 8 - n / 2
    disc = ((-fine[:, None] - 1.7) ** 2 + (fine - 3.3) ** 2 < (0.55 * n / 2) ** 2).float()
    truth = disc.reshape(n, 8, n, 8).mean((1, 3))[None, None]
    y = clean + std * noise((1, 1, 20, 46))
    prior = it.priors.TotalVariation()
    problem = it.Problem(y, A, it.data_terms.LeastSquares(0.7 * std))
    solution = it.solve(problem, prior, progress=False)
    # One item per weight.
    pair = it.Problem(y.expand(2, -1, -1, -1), A, problem.data_term)
    weights = torch.tensor([0.3, 3.0]) * solution.regularization
    others = it.solve(pair, prior, regularization=weights, progress=False).x
    best = max(float(it.metrics.psnr(x[None], truth)) for x in (solution.x[0], *others))
    assert float(it.metrics.psnr(solution.x, truth)) > best - 1.0


def test_the_stated_noise_level_changes_nothing() -> None:
    problem, prior = blurred((0.05, 0.05)), it.priors.TotalVariation(periodic=True)
    without = it.solve(problem, prior, progress=False)
    for level in (0.035,):
        stated = it.Problem(problem.y, problem.operator, it.data_terms.LeastSquares(level))
        solution = it.solve(stated, prior, progress=False)
        assert torch.allclose(solution.regularization * level**2, without.regularization, rtol=0.02)
        assert torch.allclose(solution.x, without.x, atol=3e-3)


@pytest.mark.parametrize("level", [0.02, 0.17, 0.05])
def test_a_wrong_noise_level_is_noted(level: float) -> None:
    problem = blurred((0.05, 0.05))
    stated = it.Problem(problem.y, problem.operator, it.data_terms.LeastSquares(level))
    notes = it.solve(stated, it.priors.Tikhonov("gradient"), progress=False).notes
    about = [n for n in notes if f"noise_std = {level:.3g} does not fit the residual" in n]
    assert len(about) == (0 if level == 0.05 else 2)
    assert not any("noise does not explain" in n or "is too large" in n for n in notes)


def test_a_wrong_noise_level_of_a_scan_is_no_doubt_about_its_image() -> None:
    """A white residual, whatever the user states; the note names the level, and no other reason."""
    angles = torch.arange(48) * torch.pi / 48
    A = it.operators.ParallelBeam((24, 24), angles, 36)
    image = torch.zeros(1, 1, 24, 24)
    image[..., 6:17, 8:19] = 1
    y = A.simulate(image, 0.3, seed=0)
    for level in (0.1, 0.3, 0.9):
        problem = it.Problem(y, A, it.data_terms.LeastSquares(level))
        notes = it.solve(problem, "tv", progress=False, check=False).notes
        about = [n for n in notes if f"noise_std = {level:.3g} does not fit the residual" in n]
        assert len(about) == (level != 0.3), notes
        assert not any("noise does not explain" in n for n in notes)


def test_a_wrong_operator_is_noted() -> None:
    problem = blurred((0.01, 0.01)).select(torch.tensor([0]))
    wide = it.operators.Blur(torch.ones(9, 9) / 81, (N, N), boundary="periodic")
    wrong = it.Problem(problem.y, wide, it.data_terms.LeastSquares(0.01))
    notes = it.solve(wrong, it.priors.Tikhonov("gradient"), progress=False).notes
    assert any("noise does not explain the residual" in n for n in notes)


def test_a_slightly_wrong_kernel_and_what_lies_beyond_the_edges_are_no_doubt() -> None:
    """At low noise they leave a residual that is not white, and a good image."""
    rows = torch.linspace(0, 9, 64)
    scene = (torch.sin(rows)[:, None] + torch.cos(0.7 * rows) > 0.2).float()[None, None]
    kernel = torch.ones(5, 5)
    exact = it.operators.Blur(kernel / 25, (1, 64, 64), boundary="periodic")
    y = exact.simulate(scene, 0.001, seed=0)[..., 8:56, 8:56]
    kernel[[0, 0, -1, -1], [0, -1, 0, -1]] = 0.8
    A = it.operators.Blur(kernel / kernel.sum(), (1, 48, 48))
    problem = it.Problem(y.contiguous(), A, it.data_terms.LeastSquares(0.001))
    notes = it.solve(problem, it.priors.Tikhonov("gradient"), progress=False).notes
    assert not any("noise does not explain" in n or "does not fit" in n for n in notes)


def test_an_item_chooses_alone_as_in_company() -> None:
    y, prior = blurred().y, it.priors.Tikhonov("gradient")
    problem = it.Problem(y, it.operators.Identity((1, N, N)))
    both = it.solve(problem, prior, progress=False)
    for k in range(2):
        one = it.solve(problem.select(torch.tensor([k])), prior, progress=False)
        assert torch.equal(one.regularization, both.regularization[k : k + 1])
        assert torch.equal(one.x, both.x[k : k + 1])


def test_the_weight_does_not_depend_on_max_iterations(tmp_path: Path) -> None:
    """A run that was stopped early and resumed equals the run that was not."""
    problem, prior = blurred((0.02,)), it.priors.Tikhonov("gradient")
    settings: dict[str, Any] = {"progress": False}
    whole = it.solve(problem, prior, **settings)
    path = tmp_path / "run.ckpt"
    part = it.solve(problem, prior, max_iterations=2, checkpoint=path, **settings)
    rest = it.solve(problem, prior, checkpoint=path, **settings)
    assert torch.equal(part.regularization, whole.regularization)
    assert torch.equal(rest.x, whole.x) and rest.status == ("converged",)


def test_whiteness() -> None:
    white = noise((4, 1, 64, 64))
    assert bool((whiteness(white).abs() < 0.5).all())
    assert torch.allclose(whiteness(1e-6 * white), whiteness(white), atol=1e-3)
    smooth = it.operators.Blur(torch.ones(3, 3) / 9, (64, 64), boundary="periodic")(white)
    assert bool((whiteness(smooth) > 0.5).all())
    assert bool((whiteness(torch.complex(white, white.flip(-1))).abs() < 0.5).all())


def test_views_are_held_out_as_a_whole() -> None:
    A = it.operators.ParallelBeam((1, 8, 8), torch.arange(30) * math.pi / 30, 12)
    weights = torch.ones(1, 1, 30, 12)
    weights[..., 0] = 0
    problem = it.Problem(torch.zeros(2, 1, 30, 12), A, it.data_terms.LeastSquares(0.1, weights))
    term = hold_out(problem, 0)
    assert term.weights is not None and torch.equal(term.weights + term.held, weights)
    assert (
        bool((term.held.amax(3) == term.held[..., 1]).all()) and int(term.held[..., 1].sum()) == 5
    )
    picked = term.select(torch.tensor([1]))
    assert torch.equal(picked.held, term.held)
    pixels = hold_out(blurred(), 0)
    assert 0.1 < float(pixels.held.mean()) < 0.24


def test_the_rows_of_a_matrix_are_predicted() -> None:
    """Compressed sensing: the rows are in no order, so that the residual is always white."""
    generator = torch.Generator().manual_seed(0)
    A = it.operators.Matrix(torch.randn(300, 64, generator=generator) / 64**0.5)
    truth = torch.zeros(1, 1, 64)
    truth[..., ::9] = 1.0
    problem = it.Problem(A(truth) + 0.05 * noise((1, 1, 300)), A)
    solution = it.solve(problem, it.priors.L1(), progress=False)
    assert any("held-out" in note for note in solution.notes)
    assert float((solution.x - truth).norm()) < 0.3


def test_the_walk_goes_to_either_side() -> None:
    """Scores that are parabolas about given weights, far below and above the first."""
    wanted = torch.tensor([-6.0, 5.0])

    class Parabola(Validation):
        def choose(self, trials: Trials) -> WeightCurve:
            def measure(objective: it.objective.Objective, x: Tensor) -> Tensor:
                t = objective.regularization.log()
                goal = wanted[(t > 0).long()] if len(t) == 1 else wanted
                return torch.stack([(t - goal).square(), t], 1)

            walk = Walk(torch.tensor([-1.0, 1.0]), trials.every, measure, 1e-2, 10, spacing=1.0)
            trials.follow(walk, trials.every, max_iterations=500)
            tried = torch.cat([t for items, t, _ in walk.judged for t in [t[items == 1]]])
            assert float(tried.max()) == pytest.approx(6.0, abs=1e-3)
            assert float(tried.min()) == pytest.approx(0.0, abs=1e-3)
            lowest = torch.cat([t[items == 0] for items, t, _ in walk.judged]).min()
            assert float(lowest) == pytest.approx(-7.0, abs=1e-3)
            return WeightCurve("parabola", torch.ones(2, 1), torch.ones(2, 1), torch.ones(2))

    it.solve(blurred(), it.priors.Tikhonov(), regularization=Parabola(), progress=False)


def test_where_it_does_not_apply() -> None:
    y = torch.full((1, 1, 16, 16), 4.0)
    counts = it.Problem(y, it.operators.Identity((1, 16, 16)), it.data_terms.Poisson())
    solution = it.solve(counts, it.priors.TotalVariation(), max_iterations=2, progress=False)
    assert any("count splitting" in note for note in solution.notes)
    with pytest.raises(InputError, match="for LeastSquares"):
        it.solve(counts, it.priors.TotalVariation(), regularization="validation", progress=False)
    with pytest.raises(InputError, match="coloured"):
        Validation(coloured=0.0)
    with pytest.raises(InputError, match="one weight"):
        Validation(separate=True)


def test_few_measurements_keep_the_discrepancy_principle() -> None:
    problem = it.Problem(
        torch.ones(1, 1, 7, 7), it.operators.Identity((1, 7, 7)), it.data_terms.LeastSquares(0.1)
    )
    notes = it.solve(problem, it.priors.Tikhonov(), progress=False).notes
    assert any("discrepancy principle" in note for note in notes)


def test_the_weight_of_k_space_follows_its_noise() -> None:
    """Samples of k-space do not predict each other: held out, they choose a weight of almost 0."""
    mask = (torch.rand(1, N, generator=torch.Generator().manual_seed(0)) < 0.35).float()
    mask[:, N // 2 - 3 : N // 2 + 3] = 1.0
    A = it.operators.CartesianMRI(mask, (N, N))
    truth = picture()[:1].to(torch.complex64)
    y = A(truth) + 0.05 * mask * torch.complex(noise((1, 1, N, N)), noise((1, 1, N, N), 1))
    found = it.reconstruct(y, A, prior="tv", max_iterations=100, progress=False)
    assert "generalized cross-validation" in found.notes[0]
    squares = it.reconstruct(y, A, prior="tikhonov", progress=False)
    assert "the discrepancy principle" in squares.notes[0]
    zero_filled = A.pseudo_inverse(y)
    assert quality(found.x, truth) > quality(zero_filled, truth) + 1


def quality(x: Tensor, truth: Tensor) -> float:
    return -20 * math.log10(float((x - truth).norm()))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_mask_of_the_same_seed_keeps_pixels_to_hold_out(seed: int) -> None:
    """A user's ``torch.rand(shape) > 0.5`` and the draw of held-out pixels are not the same numbers."""
    drawn = torch.rand(32, 32, generator=torch.Generator().manual_seed(seed))
    A = it.operators.Inpainting((drawn > 0.5).float(), (32, 32))
    problem = it.Problem(A(torch.ones(1, 1, 32, 32)), A)
    known = float((drawn > 0.5).sum())
    assert 0.1 < float(hold_out(problem, seed).held.sum()) / known < 0.25


def disc_scan(level: float, views: int = 72) -> tuple[it.Problem, Tensor]:
    """Line integrals of a disc, not of its pixels, in which the error of the pixels is the largest."""
    n, cells = 32, 46
    A = it.operators.ParallelBeam((1, n, n), torch.arange(views) * math.pi / views, cells)
    t = torch.arange(views)[:, None] * math.pi / views
    s = torch.arange(cells) - (cells - 1) / 2 - 3.3 * t.cos() - 1.7 * t.sin()
    clean = 2 * ((0.55 * n / 2) ** 2 - s.square()).clamp_min(0).sqrt()[None, None]
    fine = (torch.arange(8 * n) + 0.5) / 8 - n / 2
    disc = ((-fine[:, None] - 1.7) ** 2 + (fine - 3.3) ** 2 < (0.55 * n / 2) ** 2).float()
    std = level * float(clean.square().mean().sqrt())
    y = clean + std * noise((1, 1, views, cells))
    return it.Problem(y, A), disc.reshape(n, 8, n, 8).mean((1, 3))[None, None]


# The rule treats priors alike; total variation is tested above on a model that is not right.
@pytest.mark.parametrize(
    "prior",
    [
        pytest.param(it.priors.TotalVariation(), marks=pytest.mark.slow),
        it.priors.Tikhonov("gradient"),
    ],
    ids=["tv", "tikhonov"],
)
def test_the_weight_of_a_scan_does_not_fit_the_error_of_the_pixels(
    prior: it.priors.ExplicitPrior,
) -> None:
    problem, truth = disc_scan(0.002)
    solution = it.solve(problem, prior, progress=False)
    weights = 10 ** torch.linspace(-1.5, 1.5, 7) * solution.regularization
    # One item per weight.
    y = problem.y0.expand(len(weights), -1, -1, -1)
    every = it.Problem(y, problem.operator, problem.data_term)
    x = it.solve(every, prior, regularization=weights, progress=False).x
    best = float(it.metrics.psnr(x, truth.expand_as(x)).max())
    assert float(it.metrics.psnr(solution.x, truth)) > best - 1.0
    assert not any("noise does not explain" in note for note in solution.notes)


def test_scans_with_and_without_an_error_of_the_model_choose_as_if_alone() -> None:
    wrong, truth = disc_scan(0.002)
    right = wrong.operator(truth)
    right = right + 0.05 * float(right.square().mean().sqrt()) * noise(tuple(right.shape), 1)
    both = wrong.with_measurements(torch.cat([wrong.y0, right]))
    prior = it.priors.Tikhonov("gradient")
    together = it.solve(both, prior, progress=False)
    for k in range(2):
        alone = it.solve(both.select(torch.tensor([k])), prior, progress=False)
        assert torch.equal(alone.regularization, together.regularization[k : k + 1])
        assert torch.equal(alone.x, together.x[k : k + 1])


def test_the_inverse_of_held_out_views_needs_enough_of_them() -> None:
    problem, truth = disc_scan(0.0)
    image = hold_out(problem, 0).image
    assert image is not None and float((image - truth).norm() / truth.norm()) < 0.35
    few, _ = disc_scan(0.0, views=54)
    assert hold_out(few, 0).image is None
    dead = torch.ones(46)
    dead[20] = 0
    spoiled = problem.with_measurements(torch.where(dead > 0, problem.y0, 1e4))
    repaired = hold_out(spoiled.with_data_term(it.data_terms.LeastSquares(weights=dead)), 0).image
    assert repaired is not None
    assert float((repaired - image).norm() / image.norm()) < 0.05


# Without noise the search is the same, and takes three times as long.
@pytest.mark.parametrize("level", [pytest.param(0.0, marks=pytest.mark.slow), 1e-3])
def test_a_scan_made_by_its_operator_is_not_smoothed_like_a_back_projection(level: float) -> None:
    """The image of held-out views is blurred, so it serves no model that is right."""
    n, views = 48, 90
    grid = (torch.arange(n) + 0.5) / n * 2 - 1
    radius = (grid[:, None] ** 2 + grid**2).sqrt()
    truth = (radius < 0.8).float() + 0.5 * ((grid[:, None] - 0.2).abs() + grid.abs() < 0.3)
    truth = (truth - 0.7 * (radius < 0.15))[None, None]
    A = it.operators.ParallelBeam((1, n, n), torch.arange(views) * math.pi / views, 70)
    y = A(truth)
    y = y + level * float(y.square().mean().sqrt()) * noise(tuple(y.shape))
    solution = it.reconstruct(y, A, prior="tv", progress=False)
    simple = it.metrics.psnr(A.pseudo_inverse(y), truth)
    assert float(it.metrics.psnr(solution.x, truth) - simple) > 10


def test_white_measurements_have_no_whitest_residual() -> None:
    transform = torch.linalg.qr(noise((256, 256)))[0]
    matrix = it.operators.Matrix(transform, (1, 16, 16), (1, 16, 16))
    truth = torch.zeros(1, 1, 16, 16)
    truth[..., 4:12, 3:11] = 1
    std = 0.02
    problem = it.Problem(
        matrix(truth) + std * noise(truth.shape, 1),
        matrix,
        it.data_terms.LeastSquares(noise_std=std),
    )
    solution = it.solve(
        problem, it.priors.TotalVariation(), regularization=Validation(), progress=False
    )
    assert float((solution.x - truth).square().mean().sqrt()) < std
    assert not any("noise does not explain" in note for note in solution.notes)
