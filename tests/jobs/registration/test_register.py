"""`it.register`: known motions of images and volumes, losses, landmarks, batches, and bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

import invtoolbox as it
from invtoolbox.datasets.volumes.volume import VolumeInMemory
from invtoolbox.errors import InputError
from invtoolbox.geometry.grids import Grid


def textured(seed: int = 0, size: int = 48) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, 1, size + 12, size + 12, generator=generator)
    for _ in range(2):
        noise = avg_pool2d(noise, 7, 1)
    return noise / noise.std()


def swirl(size: int = 48, spacing: float = 1.0) -> Tensor:
    """Return a smooth displacement of up to 2.5 pixels."""
    t = torch.linspace(0, 3, size)
    u = torch.stack([2.5 * t.sin().view(-1, 1) * t.cos(), -2 * t.cos().view(-1, 1) + 0 * t])
    return spacing * u[None]


def case(seed: int = 0, spacing: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    image, u = textured(seed), swirl(spacing=spacing)
    return image, it.operators.Warp(u, (spacing, spacing), "cubic")(image), u


def error(motion: it.Registration, u: Tensor) -> float:
    return float((motion.displacement - u)[..., 5:-5, 5:-5].norm(dim=1).mean())


def test_a_known_motion_is_found_in_millimetres() -> None:
    moving, fixed, u = case(spacing=0.5)
    motion = it.register(moving[0, 0], fixed[0, 0].numpy(), spacing=0.5)
    assert motion.status == ("converged",) and not motion.notes
    assert error(motion, u) < 0.1 * 0.5
    assert (motion.warped - fixed).std() < 0.1 * (moving - fixed).std()
    assert motion.jacobian.shape == (1, 48, 48) and motion.jacobian.min() > 0


@pytest.mark.parametrize("name", ["Diffusion", "LinearElastic", "GridARAP"])
def test_every_prior_finds_it(name: str) -> None:
    moving, fixed, u = case()
    assert error(it.register(moving, fixed, getattr(it.priors, name)()), u) < 0.3


@pytest.mark.parametrize("loss", ["ncc", "mi", it.data_terms.NormalizedCrossCorrelation(9)])
def test_other_contrasts(loss: Any) -> None:
    moving, fixed, u = case()
    sign = -1 if loss == "mi" else 2
    prior = 10.0 * it.priors.Bending() if isinstance(loss, it.data_terms.DataTerm) else None
    assert error(it.register(sign * moving + 3, fixed, prior, loss=loss), u) < 0.2


def test_a_batch_is_its_pairs() -> None:
    moving, fixed = (torch.cat([case(k)[side] for k in range(2)]) for side in (0, 1))
    both = it.register(moving, fixed, max_iterations=4)
    for k in range(2):
        alone = it.register(moving[k : k + 1], fixed[k : k + 1], max_iterations=4)
        assert torch.equal(both.displacement[k : k + 1], alone.displacement)
    swapped = it.register(moving.flip(0), fixed.flip(0), max_iterations=4)
    assert torch.equal(swapped.displacement, both.displacement.flip(0))


def test_landmarks_hold_where_images_say_nothing() -> None:
    flat = 1e-3 * textured()
    flat[..., :24] += 1  # nothing but an edge
    points = np.array([[10.0, 12.0], [30.0, 35.0]])
    motion = it.register(
        flat, flat, landmarks=(points + np.array([0.0, 2.0]), points), landmark_weight=1e4
    )
    for row, column in points.astype(int):
        assert abs(float(motion.displacement[0, 1, row, column]) - 2) < 0.1


def test_labels_stay_labels_and_volumes_work() -> None:
    ball = torch.stack(torch.meshgrid(*[torch.arange(20.0)] * 3, indexing="ij"))
    u = torch.zeros(1, 3, 20, 20, 20)
    u[:, 0], u[:, 2] = 2.0, -1.5
    image = torch.exp(-((ball - 10) ** 2).sum(0) / 40)[None, None]
    spacing = (2.0, 1.0, 1.0)
    grid = Grid(voxel_size=spacing)
    A = it.operators.Warp(u, spacing)
    volumes = [VolumeInMemory(x[0, 0].numpy(), grid) for x in (image, A(image))]
    motion = it.register(*volumes, tolerance=0.01)
    assert motion.spacing == spacing
    middle = motion.displacement[0, :, 9, 10, 11]
    assert torch.allclose(middle, torch.tensor([2.0, 0.0, -1.5]), atol=0.25)
    labels = (image[0, 0] > 0.5).to(torch.int16)
    moved = motion.apply(labels.numpy())
    assert moved.dtype == np.int16 and set(np.unique(moved)) == {0, 1}
    goal = (A(image)[0, 0] > 0.5).numpy()
    assert it.metrics.dice(torch.tensor(moved)[None, None], torch.tensor(goal)[None, None]) > 0.9
    assert motion.apply(image[0, 0]).is_floating_point()


def test_a_mask_leaves_out_what_has_no_counterpart() -> None:
    moving, fixed, u = case()
    broken = fixed.clone()
    broken[..., 20:28, 20:28] = 8.0
    mask = torch.ones(48, 48, dtype=torch.bool)
    mask[20:28, 20:28] = False
    masked = error(it.register(moving, broken, mask=mask), u)
    assert masked < 0.25
    assert error(it.register(moving, broken), u) > 2 * masked


def test_folding_and_the_end_of_iterations_are_said() -> None:
    moving, fixed, _ = case()
    noisy = fixed + 0.5 * torch.randn(fixed.shape, generator=torch.Generator().manual_seed(1))
    motion = it.register(moving, noisy, 1e-3 * it.priors.Diffusion(), max_iterations=3)
    assert any("folds" in note for note in motion.notes)
    assert any("the status is limit" in note for note in motion.notes)


IMAGE = textured()[0, 0]
GRID = Grid(voxel_size=(1.0, 1.0, 1.0))
FAR = Grid(origin=(500.0, 0.0, 0.0))


class NoWeights(it.data_terms.DataTerm):
    def value(self, prediction: Tensor, y: Tensor) -> Tensor:
        return (prediction - y).square().flatten(1).sum(1)


def volume(grid: Grid) -> VolumeInMemory:
    return VolumeInMemory(np.random.default_rng(0).random((3, 8, 8)), grid)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: it.register(IMAGE, volume(GRID)), "2 axes.*48 x 48.*3 x 8 x 8"),
        (lambda: it.register(IMAGE, IMAGE.expand(1, 2, -1, -1)), "1 channels and.*2"),
        (lambda: it.register(IMAGE * torch.nan, IMAGE), "moving image.*NaN"),
        (lambda: it.register(IMAGE, 0 * IMAGE), "fixed image.*constant"),
        (lambda: it.register(IMAGE, IMAGE, stages=("affine", "rigid")), "not in the order"),
        (lambda: it.register(IMAGE, IMAGE, stages=("elastic",)), "stages.*got 'elastic'"),
        (lambda: it.register(IMAGE, IMAGE, stages=()), "empty"),
        (lambda: it.register(IMAGE, IMAGE, affine=np.eye(4)), r"matrix \(3, 3\)"),
        (lambda: it.register(IMAGE, IMAGE, affine=np.eye(3), spacing=2.0), "not both"),
        (
            lambda: it.register(volume(GRID), volume(FAR), stages=("bending",)),
            "do not overlap.*0 to 7 x 0 to 7 x 0 to 2.*500 to 507",
        ),
        (lambda: it.register(volume(GRID), volume(GRID), mask=volume(FAR)), "another grid"),
        (lambda: it.register(IMAGE, IMAGE, mask=0 * IMAGE), "mask is empty"),
        (lambda: it.register(IMAGE, IMAGE, mask=IMAGE > 0, loss=NoWeights()), "with weights"),
        (lambda: it.register(IMAGE, IMAGE, loss="ssd"), "loss is"),
        (lambda: it.register(IMAGE, IMAGE, it.priors.Tikhonov()), "write it"),
        (lambda: it.register(IMAGE, IMAGE, landmarks=([[0, 0]], [[50, 0]])), "outside"),
        (lambda: it.register(IMAGE, IMAGE, landmarks=([[0, 0, 0]], [[5, 0, 0]])), "two arrays"),
        (lambda: it.register(IMAGE, IMAGE, spacing=(1.0, 0.0)), "positive length"),
        (lambda: it.register(IMAGE + 1j, IMAGE), "complex"),
    ],
)
def test_bad_input_is_one_sentence(call: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("image", "message"),
    [(torch.rand(9, 3), "like a table of points"), ("a.png", "the text 'a.png'; it.datasets.open")],
)
def test_points_and_paths_are_no_images(image: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        it.register(image, torch.rand(9, 9))
