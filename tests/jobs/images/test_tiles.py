"""Tiles fit each other: the answer is that of the whole picture, in less memory."""

from __future__ import annotations

import pytest
import torch

import invtoolbox as it
from invtoolbox.geometry.tiles import cut
from invtoolbox.jobs.images.tiles import deblur_in_tiles

STRICT = {"solver": "admm", "regularization": 0.01, "tolerance": 2e-4, "progress": False}


@pytest.mark.parametrize("boundary", ["reflect", "valid"])
def test_the_answer_is_that_of_the_whole_picture(boundary: str) -> None:
    truth = it.datasets.photograph("coffee")[:, :1, 100:164:2, 100:196:2].contiguous()
    A = it.operators.Blur(torch.ones(3, 5) / 15, (32, 48), boundary=boundary)
    y = A.simulate(truth, noise=0.02, seed=0)
    whole = it.solve(it.Problem(y, A), it.priors.TotalVariation(), **STRICT).x
    tiled = deblur_in_tiles(y, A, tile=32, margin=16, **STRICT)
    assert tiled.x.shape == whole.shape
    assert float((tiled.x - whole).abs().max()) <= 1e-3


def test_every_pixel_belongs_to_one_tile() -> None:
    count = torch.zeros(37, 53)
    for tile in cut((37, 53), 16, 5):
        count[tile.kept] += 1
        size = [part.stop - part.start for part in tile.seen]
        assert tuple(size) == tile.shape
        kept, inner = (torch.zeros(37, 53), torch.zeros(37, 53))
        kept[tile.kept] = 1
        inner[tile.seen][tile.inner] = 1
        assert torch.equal(kept, inner)
    assert bool((count == 1).all())


def test_one_weight_is_chosen_for_all_tiles() -> None:
    truth = it.datasets.photograph("camera")[..., ::16, ::16].contiguous()
    A = it.operators.Blur(torch.ones(3, 3) / 9, (32, 32))
    y = A.simulate(truth, noise=0.03, seed=0)
    solution = deblur_in_tiles(
        y, A, noise_std=0.03, tile=16, margin=8, max_iterations=100, progress=False
    )
    assert "median of 3 tiles" in solution.notes[1]
    assert float(it.metrics.psnr(solution.x, truth)) > float(it.metrics.psnr(y, truth)) + 1


def test_other_boundaries_are_refused() -> None:
    A = it.operators.Blur(torch.ones(3, 3) / 9, (64, 64), boundary="periodic")
    with pytest.raises(it.InputError, match="boundary reflect or valid"):
        deblur_in_tiles(torch.zeros(1, 1, 64, 64), A)


def test_the_picture_is_checked_once() -> None:
    A = it.operators.Blur(torch.ones(3, 3) / 9, (64, 64))
    y = A.simulate(it.datasets.photograph("camera")[..., ::8, ::8], noise=0.01, seed=0)
    with pytest.warns(it.MeasurementWarning) as seen:
        tiled = deblur_in_tiles(
            y, A, regularization=0.01, noise_std=2.55, tile=32, margin=8, progress=False
        )
    assert len(seen) == 1
    assert any("noise_std" in note for note in tiled.notes)


def test_noisy_small_and_masked_pictures_are_cut_too() -> None:
    truth = it.datasets.photograph("coffee")[:, :1, 60:380:8, 100:484:8].contiguous()
    mask = torch.rand(40, 48, generator=torch.Generator().manual_seed(0)) > 0.2
    mask[:, 20:] = True
    settings = {"prior": "tv", "tile": 20, "margin": 12, "progress": False}
    for A in (
        it.operators.Identity((1, 40, 48)),
        it.operators.Downsampling((1, 40, 48), 2),
        it.operators.Inpainting(mask, (1, 40, 48)),
    ):
        y = A.simulate(truth, noise=0.05, seed=0)
        problem = it.Problem(y, A, it.data_terms.LeastSquares(noise_std=0.05))
        whole = it.solve(problem, "tv", regularization=20.0, progress=False).x
        tiled = deblur_in_tiles(y, A, regularization=20.0, noise_std=0.05, **settings).x
        assert float((tiled - whole).abs().max()) < 0.02
    kept = deblur_in_tiles(y, A, regularization=0.05, **settings)
    assert torch.equal(kept.x[..., 32:], y[..., 32:])  # tiles without gaps stay
    with pytest.raises(it.InputError, match="a gap is larger than the tile"):
        gap = torch.ones(60, 60, dtype=torch.bool)
        gap[:50, :50] = False
        B = it.operators.Inpainting(gap, (1, 60, 60))
        deblur_in_tiles(torch.zeros(1, 1, 60, 60), B, tile=20, margin=2, progress=False)


def test_a_denoiser_has_one_noise_level_in_all_tiles() -> None:
    truth = it.datasets.photograph("camera")[..., ::8, ::8].contiguous()
    A = it.operators.Identity((1, 64, 64))
    y = A.simulate(truth, noise=0.06, seed=0)
    settings = {"prior": "denoiser-natural", "progress": False}
    tiled = deblur_in_tiles(y, A, tile=32, margin=24, **settings).x
    whole = it.solve(it.Problem(y, A), "denoiser-natural", progress=False).x
    assert float((tiled - whole).square().mean().sqrt()) < 0.005
