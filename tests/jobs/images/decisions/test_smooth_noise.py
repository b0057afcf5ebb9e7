"""Smooth noise is told from white noise and from texture, and denoised at its level."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import invtoolbox as it
from invtoolbox.jobs.images.decisions.smooth_noise import smooth_noise_std
from invtoolbox.jobs.images.tiles import deblur_in_tiles

SHAPE = (1, 1, 128, 128)


@pytest.fixture(scope="module")
def scene() -> Tensor:
    """Return a picture of discs on a ramp."""
    rows, columns = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in SHAPE[2:]], indexing="ij")
    picture = 0.5 + 0.1 * rows + 0.05 * columns
    for row, column, radius, height in ((0.3, -0.4, 0.3, 0.25), (-0.5, 0.4, 0.2, -0.2)):
        picture += height * ((rows - row) ** 2 + (columns - column) ** 2 < radius**2)
    return picture.expand(SHAPE).clone()


def white(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def smooth(noise: Tensor) -> Tensor:
    """Return noise after two means of 2 x 2 pixels, with the deviation 1."""
    for _ in range(2):
        noise = F.avg_pool2d(F.pad(noise, (0, 1, 0, 1), "circular"), 2, stride=1)
    return noise / noise.std()


def denoise(y: Tensor, **settings: object) -> it.Solution:
    A = it.operators.Identity(y.shape[1:])
    return it.reconstruct(y, A, prior="denoiser-natural", progress=False, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("std", [0.02, 0.08])
def test_the_level_of_smooth_noise_is_found_and_white_noise_is_not_smooth(
    scene: Tensor, std: float
) -> None:
    prior = it.priors.load("denoiser-natural")
    # A quadratic polynomial in 8 x 8 pixels fits a part of smooth noise.
    assert 0.6 * std < smooth_noise_std(scene + std * smooth(white()), prior) < 1.1 * std
    assert math.isnan(smooth_noise_std(scene + std * white(), prior))
    assert math.isnan(smooth_noise_std(scene, prior))


@pytest.mark.parametrize("name", ["brick", "grass", "gravel"])
def test_texture_is_not_taken_for_smooth_noise(name: str) -> None:
    texture = it.datasets.photograph(name)[..., 100:292, 100:292]
    assert math.isnan(smooth_noise_std(texture, it.priors.load("denoiser-natural")))


def test_smooth_noise_is_removed_and_the_note_states_its_level(scene: Tensor) -> None:
    noisy = scene + 0.05 * smooth(white())
    solution = denoise(noisy)
    gain = it.metrics.psnr(solution.x, scene) - it.metrics.psnr(noisy, scene)
    assert float(gain) > 5
    assert any("is smooth" in note and "2 times its level" in note for note in solution.notes)
    assert not any("does not fit" in note or "check its" in note for note in solution.notes)


# Smooth noise has few third differences.
@pytest.mark.filterwarnings("ignore:noise_std = 0.05 is .* times the noise estimated")
def test_a_stated_level_and_a_weight_stay(scene: Tensor) -> None:
    noisy = scene + 0.05 * smooth(white())
    for settings in ({"noise_std": 0.05}, {"regularization": 0.1}):
        assert not any("2 times its level" in note for note in denoise(noisy, **settings).notes)


def test_an_item_has_the_same_answer_alone_and_in_a_batch(scene: Tensor) -> None:
    batch = torch.cat([scene + 0.05 * white(1), scene + 0.05 * smooth(white(2))])
    together = denoise(batch)
    for k in range(2):
        assert torch.equal(denoise(batch[k : k + 1]).x, together.x[k : k + 1])
    assert [note for note in together.notes if "of item 1," in note]


def test_tiles_use_the_level_of_the_whole_picture(scene: Tensor) -> None:
    noisy = scene + 0.05 * smooth(white())
    A = it.operators.Identity(noisy.shape[1:])
    tiled = deblur_in_tiles(noisy, A, "denoiser-natural", tile=64, progress=False)
    assert any("2 times its level" in note for note in tiled.notes)
    assert float(it.metrics.psnr(tiled.x, denoise(noisy).x)) > 40
