"""`prior="auto"`, and the bounds of total variation by name on a short arc."""

from __future__ import annotations

import math

import pytest
import torch
from skimage import data
from torch import Tensor

import invtoolbox as it
from invtoolbox.jobs.images.decisions.one_material import solve_one_material

SIDE = 64


def disc(holes: float) -> Tensor:
    """Return a disc whose holes have a value."""
    across = torch.linspace(-1, 1, SIDE)
    radius = torch.hypot(across, across[:, None])
    x = (radius < 0.8).float()
    for k, (left, up, size) in enumerate([(-0.3, 0.2, 0.2), (0.35, 0.1, 0.15), (0.0, -0.4, 0.22)]):
        inside = torch.hypot(across - left, across[:, None] + up) < size
        x[inside] = holes * (1 + k) / 2
    return x[None, None]


def scan(degrees: float) -> it.operators.FanBeam:
    angles = torch.deg2rad(torch.arange(0.0, degrees + 0.5, 1.0))
    return it.operators.FanBeam((SIDE, SIDE), angles, 96, 300.0, 450.0)


def matthews(x: Tensor, truth: Tensor) -> float:
    return float(it.metrics.matthews_correlation(it.metrics.otsu_segmentation(x), truth > 0.5))


@pytest.mark.slow
def test_one_material_is_found_from_a_short_arc() -> None:
    """Density and hardening of the beam are fitted to the scan itself."""
    A, truth = scan(30), disc(0.0)
    lengths = A(truth)
    y = 0.05 * lengths - 0.006 * (0.05 * lengths) ** 2  # a beam that hardens
    y = y + 0.005 * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    one = it.reconstruct(y, A, prior=it.priors.Auto(["two-level"]), progress=False)
    tv = it.reconstruct(y, A, prior="tv", progress=False)
    assert any("the prior is two-level: no other candidate" in note for note in one.notes)
    assert one.status == ("early_stopping",) and "the recipe for one material" in one.explain()
    assert matthews(one.x, truth) > max(0.9, matthews(tv.x, truth) + 0.05)
    assert float(one.x.max()) == pytest.approx(0.05, rel=0.1)
    for solution in (one, tv):
        assert any("determine only edges" in note for note in solution.notes)
    assert any("kept nonnegative" in note for note in tv.notes)


@pytest.mark.slow
def test_many_materials_are_left_to_total_variation() -> None:
    A, truth = scan(60), disc(1.7)
    y = 0.05 * A.simulate(truth, 0.2, seed=0)
    auto = it.reconstruct(y, A, prior="auto", progress=False)
    (choice,) = [d for d in auto.decisions if d.step == "prior-choice"]
    assert choice.outcome == "taken" and choice.text(1) in auto.notes
    assert "the prior is tv: held-out measurements are predicted by tv to" in choice.text(1)
    tv = it.reconstruct(y, A, prior="tv", progress=False)
    assert torch.equal(auto.x, tv.x) and auto.status == tv.status


def test_a_scan_without_an_object_leaves_the_recipe_out() -> None:
    A = it.operators.ParallelBeam((16, 16), torch.arange(24.0) * math.pi / 24, 24)
    y = 0.1 * torch.randn(1, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    solution = it.reconstruct(y, A, prior="auto", progress=False)
    assert float(solution.x.abs().mean()) < 0.1
    assert any("the prior is tv" in note for note in solution.notes)


def test_the_density_follows_the_unit() -> None:
    """The recipe works in lengths of paths, so another unit of the measurements changes nothing."""
    A, truth = scan(60), disc(0.0)
    y = 0.05 * A.simulate(truth, 0.1, seed=0)
    one = solve_one_material(it.Problem(y, A), max_iterations=20)
    two = solve_one_material(it.Problem(1024 * y, A), max_iterations=20)
    assert one.support == two.support == "disc"
    torch.testing.assert_close(one.share, two.share, rtol=0, atol=1e-3)
    assert two.attenuation == pytest.approx(1024 * one.attenuation, rel=1e-3)


@pytest.mark.filterwarnings("ignore:rays beside the object measure -0.3")
def test_the_bound_is_left_out_of_what_is_written() -> None:
    """A prior that is an object, an arc that is complete, and negative measurements have no bound."""
    A, truth = scan(60), disc(0.0)
    y = 0.05 * A(truth)

    def notes(y: Tensor, A: it.operators.FanBeam, prior: object) -> str:
        solution = it.reconstruct(
            y, A, prior=prior, regularization=0.01, max_iterations=2, progress=False
        )
        return " ".join(solution.notes) + solution.prior

    assert "TangentBound" in notes(y, A, "tv") and "TangentBound" in notes(
        y, A, ["nonnegative", "tv"]
    )
    assert "TangentBound" not in notes(y, A, it.priors.TotalVariation())
    assert "TangentBound" not in notes(y - 0.3, A, "tv")
    assert "TangentBound" not in notes(0.05 * scan(359)(truth), scan(359), "tv")


@pytest.mark.slow
def test_a_picture_takes_the_prior_that_predicts_best() -> None:
    across = torch.linspace(0, 4 * math.pi, 32)
    picture = (0.5 + 0.4 * torch.sin(across) * torch.cos(across[:, None]))[None, None]
    A = it.operators.Blur(torch.ones(3, 3) / 9, (32, 32))
    y = A.simulate(picture, 0.02, seed=0)
    both = it.reconstruct(
        torch.cat([y, y.flip(-1)]), A, prior=it.priors.Auto(["tv", "tikhonov"]), progress=False
    )
    choices = [d for d in both.decisions if d.step == "prior-choice"]
    assert [(d.item, d.outcome) for d in choices] == [(0, "taken"), (1, "taken")]
    for choice in choices:
        assert f"of item {choice.item}" in choice.text(2) and choice.text(2) in both.notes
        assert "is tv: held-out measurements are predicted by tv to" in choice.text(2)
    alone = it.reconstruct(y, A, prior=it.priors.Auto(["tv", "tikhonov"]), progress=False)
    assert torch.equal(alone.x, both.x[:1]) and len(both.status) == 2


def test_auto_stands_alone() -> None:
    A = it.operators.Identity((1, 16, 16))
    y = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with pytest.raises(it.errors.InputError, match="stands alone"):
        it.reconstruct(y, A, prior=["auto", "nonnegative"], progress=False)
    with pytest.raises(it.errors.InputError, match="stands alone"):
        it.solve(it.Problem(y, A), "auto", progress=False)
    with pytest.raises(it.errors.InputError, match="two-level"):
        it.reconstruct(y, A, prior=it.priors.Auto(["tv", "two-level"]), progress=False)


def test_the_noise_of_counts_is_not_taken_from_their_dark_parts() -> None:
    """In flat dark parts the noise is a third of the mean level, which took its place."""
    truth = torch.full((1, 1, 48, 48), 4.0)
    truth[..., 12:40, 20:44] = 400
    truth[..., 18:26, 24:32] = 60
    A = it.operators.Blur(torch.ones(5, 5) / 25, (1, 48, 48))
    y = torch.poisson(A(truth), generator=torch.Generator().manual_seed(0))
    term = it.data_terms.Poisson()
    solution = it.reconstruct(y, A, "denoiser-natural", data_term=term, progress=False)
    assert (solution.x - truth).norm() < 0.5 * (y - truth).norm()


@pytest.mark.parametrize("background", [0.0, 5.0])
def test_counts_with_a_denoiser_are_better_than_the_counts_themselves(background: float) -> None:
    """`Poisson` and a denoiser ended up to 30 dB below the counts."""
    image = torch.as_tensor(data.camera()[100:148, 200:248] / 255).float()[None, None]
    truth = torch.cat([20 * image, 400 * image.flip(3)])
    A = it.operators.Identity((1, 48, 48))
    rates = A(truth) + background
    y = torch.poisson(rates, generator=torch.Generator().manual_seed(0))
    term = it.data_terms.Poisson(background)
    solution = it.reconstruct(y, A, "denoiser-natural", data_term=term, progress=False)
    assert any("square root of the mean count" in note for note in solution.notes)
    for k in range(2):
        assert (solution.x[k] - truth[k]).norm() < 0.9 * (y[k] - background - truth[k]).norm()
        alone = it.reconstruct(y[k : k + 1], A, "denoiser-natural", data_term=term, progress=False)
        torch.testing.assert_close(alone.x[0], solution.x[k], rtol=1e-5, atol=1e-4)
    kept = it.reconstruct(
        y, A, "denoiser-natural", data_term=term, solver="pdhg", max_iterations=2, progress=False
    )
    assert not any("mean count" in note for note in kept.notes)


def test_a_denoiser_of_a_scan_of_photons_takes_their_line_integrals() -> None:
    """It diverged with `PoissonTransmission`, after the time of ten solves."""
    angles = torch.linspace(0, math.pi, 41)[:-1]
    A = it.operators.ParallelBeam((24, 24), angles, 36)
    truth = torch.zeros(1, 1, 24, 24)
    truth[..., 5:18, 7:16] = 0.15
    truth[..., 8:11, 9:13] = 0.05
    counts = torch.poisson(1e4 * torch.exp(-A(truth)), generator=torch.Generator().manual_seed(0))
    term = it.data_terms.PoissonTransmission(1e4)
    solution = it.reconstruct(counts, A, "denoiser-natural", data_term=term, progress=False)
    simple = A.pseudo_inverse(term.fitting_prediction(counts))
    assert solution.status[0] == "early_stopping"
    assert any("least squares of the line integrals" in note for note in solution.notes)
    assert (solution.x - truth).norm() < 0.8 * (simple - truth).norm()
