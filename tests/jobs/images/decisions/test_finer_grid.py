"""Scans whose pixels are too coarse are solved on pixels of half the size, if these predict more."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.core.interrupts import limit
from invtoolbox.jobs.images.decisions import finer_grid
from invtoolbox.jobs.images.decisions.case import YIELDS
from invtoolbox.jobs.images.decisions.finer_grid import FinerGrid, has_smooth_views
from invtoolbox.jobs.images.decisions.held_out_views import average_pixels, compare_in_norm_of_image
from invtoolbox.jobs.images.decisions.join import NO_POSTERIOR, join
from invtoolbox.jobs.images.decisions.order import ask
from invtoolbox.jobs.images.decisions.simple_answer import SimpleAnswer
from invtoolbox.operators.tomography.scan_2d import Scan
from invtoolbox.posteriors.base import MappedPosterior, MeanFieldPosterior
from invtoolbox.posteriors.exact import GaussianPosterior
from tests.jobs.images.decisions.helpers import case_of
from tests.operators.scan_helpers import bells, cells, parallel_distance, turn


def bars(noise: float) -> tuple[it.operators.ParallelBeam, Tensor, Tensor]:
    """Return the scan of turned bars, whose measurements are those of a much finer image."""
    A = it.operators.ParallelBeam((20, 20), turn(60, 0.1, math.pi), 30, detector_spacing=0.8)
    finest = A.refine().refine().refine()
    axis = (torch.arange(160) + 0.5) / 8 - 10
    along = axis[None] * 0.8 + axis[:, None] * 0.6
    fine = ((along.remainder(3.3) < 1.4) & (axis[None] ** 2 + axis[:, None] ** 2 < 64)).float()
    y = finest.simulate(fine[None, None], noise, seed=0)
    return A, y, torch.nn.functional.avg_pool2d(fine[None, None], 8)


def rmse(x: Tensor, truth: Tensor) -> float:
    return float((x - truth).square().mean().sqrt())


def is_finer(solution: it.Solution) -> bool:
    return any(d.step == "finer-grid" and d.outcome == "taken" for d in solution.decisions)


@pytest.fixture(scope="module")
def both() -> it.Solution:
    """Solution of a batch: bars between pixels, and an image of pixels."""
    A, y, truth = bars(0.05)
    pixels = A.simulate(truth, 0.05, seed=0)
    return it.reconstruct(torch.cat([y, pixels]), A, "tv", progress=False)


def test_an_edge_between_pixels_is_found_on_smaller_ones(both: it.Solution) -> None:
    A, y, truth = bars(0.05)
    coarse = it.solve(it.Problem(y, A), "tv", progress=False)
    assert is_finer(both) and both.x[:1].shape == truth.shape
    assert rmse(both.x[:1], truth) < 0.5 * rmse(coarse.x, truth)
    assert both.problem.image_shape == (1, 20, 20)


def test_an_image_of_the_grid_itself_stays_on_its_grid(both: it.Solution) -> None:
    """The scan of an image of pixels has no error of the pixels."""
    A, _, truth = bars(0.05)
    y = A.simulate(truth, 0.05, seed=0)
    assert torch.equal(both.x[1:], it.solve(it.Problem(y, A), "tv", progress=False).x)


def test_an_item_is_solved_alone_as_in_a_batch(both: it.Solution) -> None:
    """The other item, which stays on its grid, has the bits of `solve` alone above."""
    A, y, _ = bars(0.05)
    alone = it.reconstruct(y, A, "tv", progress=False)
    assert sum("half the size" in note for note in both.notes) == 1 and is_finer(alone)
    assert torch.equal(both.x[:1], alone.x)
    assert torch.equal(both.regularization[:1], alone.regularization)
    assert both.status[0] == alone.status[0]


def test_a_batch_on_two_grids_states_that_it_has_no_posterior() -> None:
    A, y, truth = bars(0.01)
    pair = torch.cat([y, A.simulate(truth, 0.01, seed=0)])
    prior = it.priors.Tikhonov("gradient")
    problem = it.Problem(pair, A, it.data_terms.LeastSquares(0.01))
    large = it.solve(problem, prior, progress=False)
    cases = ask(FinerGrid(), case_of(problem, large, prior), {})
    together = join(problem, [(case.places, case.restore()) for case in cases])
    finer = sum("half the size" in note for note in together.notes)
    assert finer == 1 and together.posterior is None
    assert NO_POSTERIOR in together.notes
    # Squares may have the edges of an object that is made of pixels, and lost 20 dB here.
    unseen = {int(k): case.without_views for case in cases for k in case.places}
    assert [bool(unseen[k][1]) for k in range(2)] == [False, True]
    (kept,) = ask(SimpleAnswer(), cases[1], {})
    assert torch.equal(kept.answer.x[0], together.x[1]) and rmse(kept.answer.x, truth) < 0.01


def test_views_of_a_smooth_object_are_smooth_and_those_of_pixels_are_not() -> None:
    A = it.operators.ParallelBeam((24, 24), turn(72, 0.1, math.pi), 28)
    s = cells(28, 1.0, 0.0)
    blobs = [((1.0, 2.0), 5.0, 1.0), ((-4.0, -1.0), 2.0, 0.7), ((3.0, -4.0), 2.2, -0.8)]
    smooth = sum(v * bells(parallel_distance(A.angles, s, c), w) for c, w, v in blobs)
    disc = torch.zeros(1, 1, 24, 24)
    disc[..., 6:15, 9:19] = 1
    noise = torch.randn(smooth.shape, generator=torch.Generator().manual_seed(0))
    for level in (0.05, 0.005, 0.0):  # low noise hides no smooth peak
        y = torch.cat([smooth[None, None], A(disc)]) + level * noise
        assert has_smooth_views(it.Problem(y.float(), A)).tolist() == [True, False]


def test_smooth_views_are_found_in_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans of every size are examined, and copies of all their views do not fit a GPU."""
    sizes = []

    def record(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor.to(torch.float64)

    A = it.operators.ParallelBeam((24, 24), turn(200, 0.0, math.pi), 100)
    problem = it.Problem(torch.ones(1, 1, 200, 100), A)
    monkeypatch.setattr(Tensor, "double", record)
    has_smooth_views(problem)
    assert max(sizes) < problem.y0.numel() / 5
    few = it.operators.ParallelBeam((4, 4), turn(5, 0.0, math.pi), 6)
    assert not bool(has_smooth_views(it.Problem(torch.ones(1, 1, 5, 6), few)).any())


def test_squares_on_smaller_pixels_are_compared_as_those_on_large_ones() -> None:
    """The posterior of means over blocks was taken for draws, which no other answer replaces."""
    A, y, _ = bars(0.01)
    prior = it.priors.Tikhonov("gradient")
    problem = it.Problem(y, A, it.data_terms.LeastSquares(0.01))
    solution = it.solve(problem, prior, progress=False)
    assert isinstance(solution.posterior, GaussianPosterior)
    means = MappedPosterior(solution.posterior, average_pixels, by_value=False)
    mapped = dataclasses.replace(solution, posterior=means)
    assert YIELDS.holds(case_of(problem, mapped, prior))
    draws = MappedPosterior(
        MeanFieldPosterior(solution.x, 0 * solution.x), average_pixels, by_value=False
    )
    drawn = dataclasses.replace(solution, posterior=draws)
    assert not YIELDS.holds(case_of(problem, drawn, prior))


def test_large_images_with_edges_are_not_solved_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finer_grid, "FINER_LARGEST", 399)
    monkeypatch.setattr(finer_grid, "_solve_small", None)  # would raise, which a note would state
    A, y, _ = bars(0.05)
    solution = it.reconstruct(y, A, "tv", progress=False)
    assert not is_finer(solution)
    assert not any("smaller pixels" in note for note in solution.notes)


def test_a_weight_keeps_the_grid() -> None:
    A, y, _ = bars(0.01)
    solution = it.reconstruct(y, A, "tv", regularization=0.1, progress=False)
    assert torch.equal(
        solution.x, it.solve(it.Problem(y, A), "tv", regularization=0.1, progress=False).x
    )


class OneSize(it.priors.ExplicitPrior):
    """Penalty of the squares, for images of 20 x 20 pixels."""

    def energy(self, x: Tensor) -> Tensor:
        if x.shape[-1] != 20:
            raise ValueError("images have 20 columns")
        return 0.5 * x.square().flatten(1).sum(1)

    def prox(self, x: Tensor, step: Tensor) -> Tensor:
        return x / (1 + torch.as_tensor(step).reshape(-1, 1, 1, 1))


@pytest.mark.parametrize("is_voxels", [False, True], ids=["ellipsoid", "voxels"])
def test_a_volume_is_solved_on_smaller_voxels_unless_it_is_made_of_its_own(is_voxels: bool) -> None:
    """The weight of its grid serves smaller voxels, and its choice is stated."""
    A = it.operators.ConeBeam((6, 8, 8), turn(36), (8, 12), 40.0, 60.0, detector_spacing=1.5)
    z, y, x = ((torch.arange(4 * n) + 0.5) / 4 - n / 2 for n in (6, 8, 8))
    depth = (z / 2.1).square()[:, None, None] + ((y + 0.4) / 2.7).square()[:, None]
    fine = (depth + ((x - 0.3) / 3.1).square() < 1).float()[None, None]
    truth = torch.nn.functional.avg_pool3d(fine, 4)
    body, finest = (truth, A) if is_voxels else (fine, A.refine().refine())
    problem, prior = it.Problem(finest.simulate(body, 0.1, seed=0), A), it.priors.TotalVariation()
    coarse = it.solve(problem, prior, progress=False)
    (case,) = ask(FinerGrid(), case_of(problem, coarse, prior), {})
    solution = case.restore()
    assert is_finer(solution) != is_voxels
    if not is_voxels:
        assert torch.equal(solution.regularization, 0.5 * coarse.regularization)
        assert "validation" in solution.weight_choice
        assert rmse(solution.x, truth) < 0.6 * rmse(coarse.x, truth)
        (simple,) = ask(SimpleAnswer(), case, {})
        notes = simple.answer.notes
        assert any("x is the filtered back-projection" in note for note in notes)
        # A note on pixels of an answer that is not returned.
        assert not any("pixels of half the size" in note for note in notes)


def test_a_prior_of_one_size_keeps_the_grid() -> None:
    A, y, _ = bars(0.01)
    solution = it.reconstruct(y, A, OneSize(), max_iterations=20, progress=False)
    assert solution.x.shape == (1, 1, 20, 20) and not is_finer(solution)
    assert "smaller pixels were not compared: images have 20 columns" in solution.notes


def test_no_time_is_left_for_smaller_pixels() -> None:
    A, y, _ = bars(0.01)
    with limit(1e-3):
        solution = it.reconstruct(y, A, "tv", progress=False)
    (late,) = [d for d in solution.decisions if d.step == "finer-grid"]
    assert late.outcome == "late" and late.sentence in solution.notes


def test_residuals_that_are_not_finite_lose() -> None:
    first, second = torch.ones(3, 1, 12, 5), torch.full((3, 1, 12, 5), 0.5)
    first[1], second[2] = math.nan, math.nan
    wins, ratio = compare_in_norm_of_image(first, second)
    assert wins.tolist() == [True, True, False]
    assert float(ratio[0]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "A",
    [
        it.operators.FanBeam((20, 24), turn(9), 40, 60.0, 90.0, detector_spacing=1.2),
        it.operators.ConeBeam((8, 12, 12), turn(5), (14, 20), 60.0, 90.0),
    ],
    ids=["fan", "cone"],
)
def test_a_refined_scan_measures_the_same_object(A: Scan) -> None:
    finer = A.refine()
    assert finer.domain_shape[1:] == tuple(2 * n for n in A.domain_shape[1:])
    smooth = torch.ones(1, 1, *A.domain_shape[1:])
    for axis, n in enumerate(A.domain_shape[1:], 2):
        hat = (math.pi * (torch.arange(n) + 0.5) / n).sin() ** 2
        smooth = smooth * hat.reshape(-1, *[1] * (smooth.ndim - 1 - axis))
    mode = "bilinear" if smooth.ndim == 4 else "trilinear"
    fine = torch.nn.functional.interpolate(smooth, scale_factor=2, mode=mode, align_corners=False)
    y = A(smooth)
    assert (finer(fine) - y).abs().max() < 0.03 * y.abs().max()
