"""A still pair has no motion, whatever its noise; a small motion above the noise is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.jobs.registration.deformable import add_own_noise, change_by_noise
from tests.jobs.registration.test_register import error, swirl, textured


def noisy(image: Tensor, std: float, seed: int) -> Tensor:
    return image + std * torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))


def pair(amplitude: float, std: float, sign: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Return a moving and a fixed image with noise, and a motion of up to 2.5 pixels times a factor."""
    image, u = textured(), amplitude * swirl()
    fixed = it.operators.Warp(u, (1.0, 1.0), "cubic")(image)
    return sign * noisy(image, std, 1), noisy(fixed, std, 2), u


LOSSES = ["least-squares", "ncc", "mi", it.data_terms.NormalizedCrossCorrelation(9)]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_still_pair_has_no_motion(loss: Any) -> None:
    moving, fixed, _ = pair(0.0, 0.03, -1 if loss == "mi" else 1)
    motion = it.register(moving, fixed, loss=loss, max_iterations=10)
    assert not motion.displacement.any() and torch.equal(motion.warped, moving)
    assert sum("determine no motion" in note for note in motion.notes) == 1
    assert motion.solutions[0].x.any()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_small_motion_above_the_noise_is_kept(loss: Any) -> None:
    moving, fixed, u = pair(0.15, 0.03, -1 if loss == "mi" else 1)
    motion = it.register(moving, fixed, loss=loss)
    assert not any("no motion" in note for note in motion.notes)
    assert torch.equal(motion.displacement, motion.solutions[0].x)
    assert error(motion, u) < 0.25 * float(u[..., 5:-5, 5:-5].norm(dim=1).mean())


def test_a_flat_surrounding_does_not_hide_a_motion() -> None:
    """Most of the image is noise alone, in which the field follows the noise."""
    image, u = torch.zeros(1, 1, 96, 96), torch.zeros(1, 2, 96, 96)
    inner = (..., slice(28, 76), slice(28, 76))
    window = torch.hann_window(48, periodic=False)
    image[inner], u[inner] = textured() * window * window[:, None], 0.6 * swirl()
    fixed = it.operators.Warp(u, (1.0, 1.0), "cubic")(image)
    motion = it.register(noisy(image, 0.03, 1), noisy(fixed, 0.03, 2))
    assert not any("no motion" in note for note in motion.notes)
    gaps = (motion.displacement - u)[..., 36:68, 36:68].norm(dim=1)
    assert gaps.mean() < 0.3 * u[..., 36:68, 36:68].norm(dim=1).mean()


def test_a_written_weight_and_landmarks_keep_the_field() -> None:
    moving, fixed, _ = pair(0.0, 0.03)
    usual = it.priors.Bending().usual_strength
    points = torch.tensor([[10.0, 12.0], [30.0, 35.0]])
    for motion in (
        it.register(moving, fixed, usual * it.priors.Bending()),
        it.register(moving, fixed, landmarks=(points, points)),
    ):
        assert motion.displacement.any() and not motion.notes


def test_a_note_names_its_pair_and_pairs_stay_apart() -> None:
    still, moved = pair(0.0, 0.03), pair(1.0, 0.03)
    both = it.register(*(torch.cat([moved[k], still[k]]) for k in range(2)))
    assert [note[:7] for note in both.notes] == ["pair 1:"]
    assert "solutions[1].x" in both.notes[0]
    assert torch.equal(both.displacement[:1], it.register(*moved[:2]).displacement)
    assert not both.displacement[1].any()


def test_equal_images_need_no_note() -> None:
    motion = it.register(textured(size=32), textured(size=32), max_iterations=5)
    assert not motion.displacement.any() and not motion.notes


def test_noise_has_the_level_of_the_images() -> None:
    image = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    images = noisy(image, 0.1, 0), noisy(image, 0.02, 1)
    again = add_own_noise(*images, None)
    assert again is not None
    levels = [float((b - a).std()) for a, b in zip(images, again)]
    assert levels == pytest.approx([0.1, 0.02], rel=0.2)
    assert add_own_noise(images[0][..., :4], images[1][..., :4], None) is None


def test_the_change_is_a_mean_over_the_mask() -> None:
    field = torch.ones(1, 2, 4, 4)
    changed = field.clone()
    changed[..., :2] = 3.0
    assert change_by_noise(field, changed, None) == pytest.approx(1.0)
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., 2:] = True
    assert change_by_noise(field, changed, mask) == 0.0
    assert change_by_noise(0 * field, changed, None) == 0.0
