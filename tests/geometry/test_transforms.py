"""Transforms: inverses, composition, and resampling beyond the comparison with SimpleITK."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry import (
    Affine,
    Composite,
    DisplacementField,
    Grid,
    Inverse,
    Transform,
    resample,
)

#: Directions that are oblique, and in the last case mirrored.
DIRECTION = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
GRID = Grid.from_itk((0.8, 1.1, 2.5), (3.0, -4.0, 5.0), DIRECTION)
PLANE = Grid.from_itk((0.8, 1.7), (3.0, -4.0), np.array([[0.8, -0.6], [0.6, 0.8]]))


def smooth(shape: tuple[int, ...], length: float, seed: int = 0) -> Tensor:
    """A smooth field that vanishes at the border."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, len(shape), *[5] * len(shape), generator=generator).double()
    for axis in range(2, coarse.ndim):
        coarse.index_fill_(axis, torch.tensor([0, 4]), 0.0)
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    return length * torch.nn.functional.interpolate(coarse, shape, mode=mode)[0]


FIELDS = {
    2: DisplacementField(smooth((40, 44), 1.3), PLANE),
    3: DisplacementField(smooth((28, 26, 30), 1.0), GRID),
}


def points_within(transform: DisplacementField) -> Tensor:
    points = transform.grid.points(transform.displacement.shape[1:])
    return points.flatten(0, -2)


@pytest.mark.parametrize("d", [2, 3])
def test_inverse_field(d: int) -> None:
    field = FIELDS[d]
    voxel = min(field.grid.voxel_size)
    points = points_within(field)
    between = points[::7] + 0.3 * voxel
    # At the voxels to the stated tolerance, and for any point where it is solved anew.
    assert float((field(field.inverse()(points)) - points).norm(dim=-1).max()) < 2e-4 * voxel
    assert float((field(field.invert(between)) - between).norm(dim=-1).max()) < 2e-4 * voxel
    # Between voxels the inverse is interpolated.
    assert float((field(field.inverse()(between)) - between).norm(dim=-1).max()) < 0.3 * voxel
    assert torch.equal(Inverse(field)(between), field.invert(between))
    assert Inverse(field).inverse() is field


def test_a_field_that_holds_a_large_shift_is_inverted_outside_of_its_grid() -> None:
    shift = torch.tensor([30.0, -5.0, 2.0], dtype=torch.float64)
    field = DisplacementField(shift.view(3, 1, 1, 1).expand(3, 8, 9, 10), GRID)
    points = points_within(field)
    assert torch.allclose(field.invert(points + shift), points)
    far = points[:3] + 1000.0  # nothing moves there
    assert torch.equal(field.invert(far), far)


@pytest.mark.parametrize("d", [2, 3])
def test_composites_and_their_inverse(d: int) -> None:
    matrix = torch.eye(d + 1, dtype=torch.float64)
    matrix[:d] += 0.05 * torch.randn(d, d + 1, generator=torch.Generator().manual_seed(2))
    affine, field = Affine(matrix), FIELDS[d]
    points = points_within(field)[::5]
    both = Composite([field, affine])
    assert torch.equal(both(points), affine(field(points)))
    assert float((both.invert(both(points)) - points).norm(dim=-1).max()) < 1e-3
    assert torch.allclose(affine.inverse()(affine(points)), points, atol=1e-10)
    sampled = DisplacementField.sample(both, field.grid, field.displacement.shape[1:])
    nodes = points_within(field)
    assert torch.allclose(sampled(nodes), both(nodes), atol=1e-9)
    linear = float(torch.linalg.det(matrix[:d, :d]))
    expected = linear * field.jacobian()
    # The product rule holds for the exact derivative, and for differences within the grid nearly.
    assert torch.allclose(sampled.jacobian(), expected, rtol=1e-6)


def test_jacobian_does_not_depend_on_the_frame() -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = np.diag([1.2, 0.9, 1.5])
    sampled = DisplacementField.sample(Affine(matrix), GRID, (4, 5, 6))
    assert torch.allclose(sampled.jacobian(), torch.tensor(1.62, dtype=torch.float64))


def test_a_field_that_folds_has_no_inverse() -> None:
    u = torch.zeros(2, 9, 9)
    u[0] = -1.5 * torch.arange(9.0)
    with pytest.raises(InputError, match="folds at 81 of 81 voxels, so it has no inverse"):
        DisplacementField(u, Grid()).inverse()


@pytest.mark.parametrize("d", [2, 3])
def test_a_grid_that_is_turned_gives_the_same_image(d: int) -> None:
    """An image resampled to its own points on an oblique grid, by the identity."""
    shape = (7, 8, 9)[3 - d :]
    grid = PLANE if d == 2 else GRID
    image = torch.randn(2, 3, *shape, dtype=torch.float64)
    same = resample(image, Affine.identity(d), grid, grid, shape)
    assert torch.allclose(same, image, atol=1e-12)
    labels = torch.arange(image.numel()).view(image.shape)
    assert torch.equal(resample(labels, Affine.identity(d), grid, grid, shape, True), labels)


def test_resampling_per_item_and_in_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.randn(2, 2, 9, 8, 7)
    fixed = Grid.from_itk((1.5, 0.7, 2.0), (2.0, -4.0, 4.0), DIRECTION.T)
    whole = resample(image, FIELDS[3], fixed, GRID, (6, 5, 4))
    assert torch.equal(whole[1:], resample(image[1:], FIELDS[3], fixed, GRID, (6, 5, 4)))
    monkeypatch.setattr("invtoolbox.geometry.transforms._SLAB", 40)
    assert torch.equal(whole, resample(image, FIELDS[3], fixed, GRID, (6, 5, 4)))


def test_resampling_is_differentiable_in_the_image_and_the_map() -> None:
    image = torch.randn(1, 1, 6, 7, dtype=torch.float64, requires_grad=True)
    matrix = torch.eye(3, dtype=torch.float64)
    shift = torch.tensor([0.3, 0.4], dtype=torch.float64, requires_grad=True)

    def warp(x: Tensor, t: Tensor) -> Tensor:
        column = torch.cat([t, t.new_zeros(1)])[:, None]
        moved_matrix = matrix + torch.cat([torch.zeros(3, 2, dtype=t.dtype), column], 1)
        return resample(x, Affine(moved_matrix), Grid(), Grid(), (5, 6))

    assert torch.autograd.gradcheck(warp, (image, shift))


def test_planes_in_space() -> None:
    """Pixels of a plane are in x and y; those of an oblique one along its own axes."""
    assert np.allclose(Grid((9, 2, 1), (5, 6, 7)).affine(2), [[0, 1, 5], [2, 0, 6], [0, 0, 1]])
    flipped = Grid((1, 2, 1), (5, 6, 7), ((0, 0, -1), (0, -1, 0), (1, 0, 0)))
    assert np.allclose(flipped.affine(2), [[0, 1, 5], [-2, 0, 6], [0, 0, 1]])
    sagittal = Grid((3, 2, 1), (5, 6, 7), ((1, 0, 0), (0, 0, -1), (0, 1, 0)))
    assert np.allclose(sagittal.affine(2), [[0, 1, 6], [2, 0, -7], [0, 0, 1]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Affine(torch.eye(5)), r"\(3, 3\) or \(4, 4\), got \(5, 5\)"),
        (lambda: Affine(np.diag([1.0, 0.0, 1.0])), "singular or not finite"),
        (lambda: Affine(torch.full((3, 3), torch.nan)), "singular or not finite"),
        (lambda: Affine(torch.eye(3) + 0.1), "the last row"),
        (lambda: DisplacementField(torch.zeros(3, 4, 4), Grid()), "a displacement is"),
        (lambda: DisplacementField(torch.full((2, 4, 4), torch.inf), Grid()), "16 of 16 voxels"),
        (lambda: Composite([]), "no dimensions"),
        (lambda: Composite([Affine.identity(2), Affine.identity(3)]), "2 and 3 dimensions"),
        (lambda: Affine.identity(2)(torch.zeros(4, 3)), r"2 dimensions maps points \(\.\.\., 2\)"),
        (
            lambda: resample(torch.zeros(1, 1, 4, 4), Affine.identity(3), GRID, GRID, (4, 4, 4)),
            "3 dimensions does not resample an image of 2 axes",
        ),
        (
            lambda: resample(
                torch.zeros(1, 1, 4, 4).int(), Affine.identity(2), PLANE, PLANE, (4, 4)
            ),
            "take labels with nearest=True",
        ),
    ],
)
def test_bad_input(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_settings_of_other_types_are_taken() -> None:
    maps: list[Transform] = [Affine(np.eye(3)), Affine([[1, 0, 0], [0, 1, 0], [0, 0, 1]])]
    assert all(t.dimensions == 2 for t in maps)
