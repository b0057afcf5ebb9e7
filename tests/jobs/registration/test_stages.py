"""Images that do not start on one grid: known motions, headers, stages, losses and masks."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

import invtoolbox as it
from invtoolbox.datasets.volumes.volume import VolumeInMemory
from invtoolbox.errors import InputError
from invtoolbox.geometry.grids import Grid
from invtoolbox.geometry.placed_pixels import PlacedPixels
from invtoolbox.geometry.rigid import rotation
from invtoolbox.geometry.transforms import Affine, Composite
from invtoolbox.jobs.registration.linear import LinearFit, _Level, rotations
from invtoolbox.processing.descriptors import describe
from tests.jobs.registration.test_register import textured


def body(shape: tuple[int, ...]) -> np.ndarray:
    """Return blobs of different brightness in an ellipsoid without symmetry."""
    p = [np.linspace(-1, 1, n) for n in shape]
    grid = np.stack(np.meshgrid(*p, indexing="ij"))
    draws = np.random.default_rng(3)
    image = 1.0 * (
        ((grid / np.array([0.8, 0.6, 0.7][: len(shape)]).reshape(-1, *[1] * len(shape))) ** 2).sum(
            0
        )
        < 1
    )
    for _ in range(9):
        centre = draws.uniform(-0.4, 0.4, len(shape)).reshape(-1, *[1] * len(shape))
        image += draws.uniform(-0.8, 0.8) * np.exp(-((grid - centre) ** 2).sum(0) / 0.03)
    return np.float32(ndimage.gaussian_filter(image, 1.0))


def turn_2d(degrees: float, factor: float, shift: tuple[float, float], size: int) -> np.ndarray:
    """Return a motion about the middle of a picture, positions (x, y) to (x, y)."""
    angle, c = np.radians(degrees), (size - 1) / 2
    M = np.eye(3)
    M[:2, :2] = factor * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    M[:2, 2] = np.array([c, c]) + shift - M[:2, :2] @ [c, c]
    return M


def moved(image: np.ndarray, M: np.ndarray) -> np.ndarray:
    """Return ``image(M p)`` of a picture, with M in (x, y)."""
    T, values = Affine(M), torch.from_numpy(image)[None, None]
    out = it.geometry.transforms.resample(values, T, Grid(), Grid(), image.shape)
    return out[0, 0].numpy()


def away(found: Affine, M: np.ndarray, points: np.ndarray) -> float:
    return float(
        np.linalg.norm(
            found(torch.from_numpy(points)).numpy() - Affine(M)(torch.from_numpy(points)).numpy(),
            axis=1,
        ).max()
    )


POINTS = np.array([[20.0, 20.0], [44.0, 30.0], [30.0, 44.0]])
PICTURE = body((64, 64))


@pytest.mark.parametrize("degrees", [25.0, 100.0, 180.0])
def test_any_rotation_of_a_picture_is_found(degrees: float) -> None:
    M = turn_2d(degrees, 1.1, (6.0, -4.0), 64)
    motion = it.register(PICTURE, moved(PICTURE, M), stages=("rigid", "similarity"))
    assert away(motion.linear[0], M, POINTS) < 0.3
    assert motion.status == ("converged",)
    assert isinstance(motion.transform(), Affine) and motion.linear[0] is not None
    labels = motion.apply(PICTURE > 0.5)
    goal = moved(np.float32(PICTURE > 0.5), M) > 0.5
    assert (
        it.metrics.dice(torch.from_numpy(labels)[None, None], torch.from_numpy(goal)[None, None])
        > 0.95
    )


def test_two_positions_on_one_grid_get_linear_stages() -> None:
    M = turn_2d(60.0, 0.9, (8.0, 5.0), 64)
    motion = it.register(PICTURE, moved(PICTURE, M))
    assert any("a linear motion explains" in note for note in motion.notes)
    assert float(it.metrics.folding(motion.displacement)) == 0
    u = motion.displacement[0].numpy()
    for x, y in POINTS.astype(int):
        end = (M @ [x, y, 1])[:2]
        assert np.abs([x + u[1, y, x], y + u[0, y, x]] - end).max() < 0.5
    alone = it.register(PICTURE, moved(PICTURE, M), stages=("bending",))
    assert alone.linear == (None,)


@pytest.mark.parametrize("shift, needed", [(3.0, True), (0.5, False)])
def test_volumes_of_one_grid_get_linear_stages_for_long_motions(shift: float, needed: bool) -> None:
    """A scaled and shifted volume with a smooth field: stages follow if pixels move far."""
    volume, p = body((32, 36, 34)), np.indices((32, 36, 34)).astype(float)
    u = 0.3 * np.sin(p[::-1] / 6)
    places = 16 + (1 + 0.02 * shift) * (p + u - 16) + shift / 2
    fixed = np.float32(ndimage.map_coordinates(volume, places, order=3, mode="nearest"))
    motion = it.register(volume, fixed)
    assert (motion.linear[0] is not None) == needed
    error = np.linalg.norm(motion.displacement[0].numpy() - (places - p), axis=0)
    assert error[fixed > 0.5].mean() < 0.22


@pytest.mark.parametrize("loss", ["mi", "mind"])
def test_linear_stages_of_two_modalities(loss: Any) -> None:
    M = turn_2d(15.0, 1.0, (5.0, -3.0), 64)
    other = np.float32(np.sqrt(2.0 - PICTURE.clip(0, 1.9)))
    motion = it.register(other, moved(PICTURE, M), loss=loss, stages=("rigid",))
    assert away(motion.linear[0], M, POINTS) < 0.7


HEAD = body((20, 24, 22))
GRID = Grid((4.0, 3.0, 3.5), (10.0, -20.0, 5.0))


def motion_3d() -> np.ndarray:
    M = np.eye(4)
    M[:3, :3] = rotation(torch.tensor([0.3, -0.2, 0.4], dtype=torch.float64)).numpy()
    M[:3, 3] = [15.0, 8.0, -12.0]
    return M


def reorder(image: np.ndarray, A: np.ndarray, word: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the array with its axes in another order and direction, and its matrix."""
    axes, signs = word
    change = np.eye(4)[[*axes, 3]].T @ np.diag([*signs, 1.0])
    ends = zip(np.array(signs)[np.argsort(axes)], image.shape)
    change[:3, 3] = [(sign < 0) * (n - 1) for sign, n in ends]
    values = image.transpose(axes)[tuple(slice(None, None, sign) for sign in signs)]
    return values.copy(), A @ change


@pytest.mark.parametrize("step", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_the_order_of_the_axes_changes_nothing(step: int) -> None:
    """Both arrays are stored in any of the 48 orders and directions of the axes."""
    head, M, A = body((10, 12, 11)), motion_3d(), GRID.affine()
    points = torch.from_numpy(np.random.default_rng(0).uniform(0, 40, (20, 3)))
    signs = itertools.product((1, -1), repeat=3)
    words, found = list(itertools.product(itertools.permutations(range(3)), signs)), []
    assert len(words) == 48
    for word, other in list(zip(words, reversed(words)))[::step]:
        (moving, B), (fixed, C) = reorder(head, M @ A, word), reorder(head, A, other)
        motion = it.register(moving, fixed, affine=(B, C), stages=("rigid",))
        found.append(motion.transform()(points))
    assert max(float((end - found[0]).abs().max()) for end in found) < 1e-3
    assert float((found[0] - Affine(M)(points)).abs().max()) < 0.1


@pytest.mark.slow
def test_headers_place_volumes() -> None:
    """The moving volume is the fixed one under a moved, mirrored and permuted header."""
    M = motion_3d()
    change = np.eye(4)[[2, 0, 1, 3]].T @ np.diag([1.0, 1.0, -1.0, 1.0])
    change[:3, 3] = np.eye(4)[[2, 0, 1, 3]].T[:3, 2] * (HEAD.transpose(2, 0, 1).shape[2] - 1)
    stored = HEAD.transpose(2, 0, 1)[:, :, ::-1].copy()
    grid = Grid.from_affine(M @ GRID.affine() @ change)
    motion = it.register(VolumeInMemory(stored, grid), VolumeInMemory(HEAD, GRID))
    points = GRID.points(HEAD.shape)[5:15, 5:18, 5:16].reshape(-1, 3).numpy()
    assert away(motion.linear[0], M, points) < 0.2
    assert sum("different grids" in note for note in motion.notes) == 1
    assert sum("mirrored" in note for note in motion.notes) == 1
    assert (motion.warped[0, 0].numpy() - HEAD)[3:-3, 3:-3, 3:-3].std() < 0.05 * HEAD.std()
    # The displacement along the axes of the fixed volume and the transform are one motion.
    k = (9, 11, 10)
    u = motion.displacement[0][(slice(None), *k)].double()
    world = torch.tensor(np.array(GRID.directions).T) @ u
    p = GRID.points(HEAD.shape)[k]
    assert torch.allclose(motion.transform()(p), p + world, atol=1e-3)


def test_the_order_of_stored_axes_changes_nothing() -> None:
    M = motion_3d()
    fixed = VolumeInMemory(HEAD, GRID)
    upright = it.register(
        VolumeInMemory(HEAD, Grid.from_affine(M @ GRID.affine())),
        fixed,
        stages="rigid",
        quick=True,
    )
    change = np.diag([-1.0, 1.0, 1.0, 1.0])
    change[0, 3] = len(HEAD) - 1
    flipped = VolumeInMemory(HEAD[::-1].copy(), Grid.from_affine(M @ GRID.affine() @ change))
    other = it.register(flipped, fixed, stages="rigid", quick=True)
    assert torch.allclose(upright.linear[0].matrix, other.linear[0].matrix, atol=1e-4)


@pytest.mark.slow
def test_arrays_have_matrices() -> None:
    far = np.diag([1.0, 1.0, 1.0, 1.0])
    far[:3, 3] = 400.0
    motion = it.register(HEAD, HEAD, affine=(far, np.eye(4)), stages=("translation",))
    assert torch.allclose(motion.linear[0].matrix, torch.from_numpy(far), atol=0.05)
    assert any("do not overlap" in note for note in motion.notes)
    placed = it.register(HEAD, HEAD, affine=np.diag([2.0, 2.0, 3.0, 1.0]))
    assert placed.spacing == (2.0, 2.0, 3.0) and not placed.displacement.any()


def test_masks_of_both_images_and_channels() -> None:
    M = turn_2d(20.0, 1.0, (4.0, 2.0), 64)
    fixed = moved(PICTURE, M)
    masks = np.ones((2, 64, 64), bool)
    images = [PICTURE.copy(), fixed.copy()]
    for mask, image, at in zip(masks, images, ((10, 24), (40, 30))):
        part = tuple(slice(k, k + 12) for k in at)
        mask[part], image[part] = False, 5.0
    pair = [np.stack([image, 2 * image + 1])[None] for image in images]
    motion = it.register(*pair, moving_mask=masks[0], mask=masks[1], stages=("rigid",))
    assert away(motion.linear[0], M, POINTS) < 0.3


def test_landmarks_guide_linear_stages() -> None:
    flat = 1e-3 * textured(size=64)
    points = np.array([[12.0, 14.0], [40.0, 20.0], [25.0, 50.0]])  # row, column
    M = turn_2d(90.0, 1.0, (3.0, 0.0), 64)
    goals = np.array([(M @ [column, row, 1])[1::-1] for row, column in points])
    motion = it.register(
        flat, flat, landmarks=(goals, points), landmark_weight=1e6, stages=("rigid",)
    )
    assert away(motion.linear[0], M, points[:, ::-1].copy()) < 0.05


def test_quick_keeps_the_size_and_the_motion() -> None:
    row = torch.linspace(0, 3, 96)
    u = 3 * torch.stack([row.sin()[:, None] + 0 * row, row.cos() + 0 * row[:, None]])[None]
    image = textured(1, 96)
    fixed = it.operators.Warp(u, (1.0, 1.0), "cubic")(image)
    motion = it.register(image, fixed, quick=True, stages=("bending",))
    assert motion.displacement.shape == u.shape and motion.solutions[0].x.shape == (1, 2, 24, 24)
    error = (motion.displacement - u)[..., 8:-8, 8:-8].norm(dim=1).mean()
    assert error < 0.5 * u[..., 8:-8, 8:-8].norm(dim=1).mean()


def test_a_field_follows_the_linear_motion() -> None:
    M = turn_2d(30.0, 1.0, (3.0, -5.0), 64)
    motion = it.register(
        PICTURE, moved(PICTURE, M), stages=("rigid", "affine", "bending"), smoothness=0.1
    )
    transform = motion.transform()
    assert isinstance(transform, (Affine, Composite))
    for x, y in POINTS:
        end = transform(torch.tensor([x, y], dtype=torch.float64))
        assert torch.allclose(end, torch.from_numpy((M @ [x, y, 1])[:2]), atol=0.4)


def test_descriptors_ignore_gain_and_sign() -> None:
    image = textured()
    assert (describe(3 - 2 * image) - describe(image)).abs().max() < 1e-3
    assert describe(image).shape == (1, 4, 48, 48)


def test_rotations_cover_the_sphere() -> None:
    """Every rotation is within 20 degrees of one of the search."""
    grid = rotations(3)
    draws = torch.randn(200, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q = draws / draws.norm(dim=1, keepdim=True)
    angle = 2 * q[:, 0].abs().clamp_max(1).acos()
    axis = torch.nn.functional.normalize(q[:, 1:] * q[:, :1].sign(), dim=1)
    turns = rotation(axis * angle[:, None])
    cosines = (torch.einsum("aij,bij->ab", turns, grid).amax(1) - 1) / 2
    assert float(cosines.clamp(-1, 1).acos().rad2deg().max()) < 20


def test_a_pyramid_keeps_positions() -> None:
    """A ramp of the positions is the same ramp on every level, in any order of the axes."""
    matrix = torch.tensor(GRID.affine())
    ramp = PlacedPixels(torch.zeros(1, 1, 32, 20, 24), matrix).points()
    image = PlacedPixels(ramp[None], matrix)
    for level in (image.coarsen(9.0), image.canonical(), image.thin()):
        inner = (0, slice(None), *[slice(1, -1)] * 3)
        assert torch.allclose(level.image[inner], level.points()[inner[1:]])
    assert image.coarsen(9.0).sizes < image.sizes


def test_inverted_contrast_is_no_reason_to_turn_an_image() -> None:
    """Least squares do not suit it, but the images lie where they belong."""
    row, column = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    fixed = torch.exp(-((row - 19) ** 2 / 60 + (column - 21) ** 2 / 25)) + 0.3 * (row > 25).float()
    motion = it.register(
        1.2 - fixed.roll(1, 0), fixed, 10.0 * it.priors.Bending(), max_iterations=4
    )
    assert motion.linear == (None,)


def test_arrays_take_a_spacing_of_their_own() -> None:
    """The same scene on pixels of 1 and of 2 by 1 needs no motion."""
    rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(40.0), indexing="ij")
    scene = torch.exp(-((rows - 20) ** 2) / 60 - (columns - 22) ** 2 / 90)
    coarse = scene[::2].numpy()
    motion = it.register(coarse, scene, spacing=((2.0, 1.0), (1.0, 1.0)), stages=("rigid",))
    there = motion.transform()(torch.tensor([[22.0, 20.0], [10.0, 30.0]]))
    assert torch.allclose(
        there.double(), torch.tensor([[22.0, 20.0], [10.0, 30.0]]).double(), atol=0.1
    )
    with pytest.raises(InputError, match="spacing of the moving image"):
        it.register(coarse, scene, spacing=((2.0,), (1.0, 1.0)))


def test_a_color_picture_is_no_volume() -> None:
    picture = torch.rand(20, 24, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="colors"):
        it.register(picture, picture)


def test_a_square_is_shifted_and_not_turned() -> None:
    """A square is equal to itself turned by 90 degrees, and turned it shows more of its frame."""
    images = 0.1 * torch.randn(2, 40, 40, generator=torch.Generator().manual_seed(0))
    images[0, 17:27, 16:26] += 1
    images[1, 12:22, 12:22] += 1
    motion = it.register(images[0], images[1], stages=("rigid",))
    error = motion.displacement[0] - torch.tensor([5.0, 4.0]).view(2, 1, 1)
    assert float(error[:, 12:22, 12:22].norm(dim=0).max()) < 0.5


def test_a_marked_square_is_turned() -> None:
    """A quarter turn explains the mark, although it shows less of the frame than a shift."""
    fixed, moving = torch.zeros(2, 32, 32)
    fixed[10:20, 8:18] = 1
    fixed[11:14, 9:12] = 0.7
    moving[6:16, 12:22] = fixed[10:20, 8:18].rot90()
    motion = it.register(moving, fixed, stages=("rigid",))
    assert float((motion.warped[0, 0] - fixed)[10:20, 8:18].abs().max()) < 0.1


@pytest.mark.parametrize(
    ("loss", "scores", "place"),
    [
        ("ncc", [0.166, 0.168], 1),
        ("ncc", [0.970, 0.985], 0),  # noisy images, of which the turn explains twice as much
        ("mi", [2.816, 2.826], 0),
        ("ncc", [0.166, float("nan")], 0),
    ],
)
def test_a_shorter_motion_explains_as_much(loss: str, scores: list[float], place: int) -> None:
    """A turn by 90 degrees is compared with a motion at rest."""
    turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    matrices = torch.stack([turn, torch.eye(3, dtype=torch.float64)])
    image = PlacedPixels(torch.rand(1, 1, 8, 8), torch.eye(3, dtype=torch.float64))
    level = _Level(image, image, loss, None, torch.zeros(2), 4.0)
    fit = LinearFit(matrices, torch.tensor(scores, dtype=torch.float64))
    assert torch.equal(fit.shortest(level, overlap=False).matrices[0], matrices[place])


def test_volumes_that_are_turned_far_come_with_a_note() -> None:
    fixed = torch.zeros(14, 16, 18)
    fixed[3:9, 4:12, 5:14] = 1
    fixed[3:6, 4:7, 5:8] = 2
    motion = it.register(fixed.flip(1, 2), fixed, stages=("rigid",))
    assert any("turned by 180 degrees" in note for note in motion.notes)
    points = np.array([[4.0, 5.0, 6.0], [8.0, 11.0, 7.0], [5.0, 9.0, 13.0]])
    goals = np.array([0.0, 15.0, 17.0]) + [1.0, -1.0, -1.0] * points
    guided = it.register(fixed.flip(1, 2), fixed, landmarks=(goals, points), stages=("rigid",))
    assert not any("turned by" in note for note in guided.notes)
    assert not any(
        "turned by" in note for note in it.register(fixed, fixed, stages=("rigid",)).notes
    )
