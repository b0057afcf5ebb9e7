"""Images of SimpleITK, ITK and nibabel come in with their place in the patient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import invtoolbox as it
from invtoolbox.core.guards import as_tensor
from invtoolbox.datasets.volumes.foreign_images import as_volume
from invtoolbox.errors import InputError

ORIGIN, SPACING = (3.0, -4.0, 5.0), (1.0, 1.5, 2.0)
TURN = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def values() -> np.ndarray:
    return np.random.default_rng(0).random((3, 4, 5), np.float32)


def of_simpleitk(array: np.ndarray) -> Any:
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(array)
    image.SetOrigin(ORIGIN[: array.ndim])
    image.SetSpacing(SPACING[: array.ndim])
    image.SetDirection(TURN[: array.ndim, : array.ndim].ravel().tolist())
    return image


def of_nibabel(array: np.ndarray) -> Any:
    nibabel = pytest.importorskip("nibabel")
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = TURN * SPACING, ORIGIN
    return nibabel.Nifti1Image(array.T, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


@pytest.mark.parametrize("make", [of_simpleitk, of_nibabel])
def test_values_and_places_are_those_of_the_package(make: Any) -> None:
    array = values()
    image = make(array)
    volume = as_volume(image)
    assert np.array_equal(volume.slices(), array)
    # The voxel (slice 2, row 1, column 3).
    index = (3, 1, 2)
    place = TURN @ (np.array(index) * SPACING) + ORIGIN
    if make is of_simpleitk:
        assert np.allclose(image.TransformIndexToPhysicalPoint(index), place)
    found = volume.grid.points(volume.shape)[2, 1, 3]
    assert sorted(np.round(found.tolist(), 9)) == sorted(np.round(place, 9))


def test_files_and_images_in_memory_have_one_grid(tmp_path: Any) -> None:
    sitk, image = pytest.importorskip("SimpleITK"), of_simpleitk(values())
    sitk.WriteImage(image, str(tmp_path / "x.nii.gz"))
    opened = it.datasets.open(tmp_path / "x.nii.gz")
    assert np.allclose(opened.grid.affine(), as_volume(image).grid.affine(), atol=1e-5)


def test_registration_takes_them() -> None:
    rows, columns = np.mgrid[:24, :26]
    blob = [np.exp(-((rows - 12) ** 2 + (columns - c) ** 2) / 20.0) for c in (12, 14)]
    images = [of_simpleitk(b.astype(np.float32)) for b in blob]
    grids = [as_volume(image) for image in images]
    found, expected = (it.register(*pair, quick=True) for pair in (images, grids))
    assert bool((found.displacement == expected.displacement).all())


def test_elsewhere_the_array_is_asked_for() -> None:
    with pytest.raises(InputError, match="SimpleITK.GetArrayFromImage"):
        as_tensor(of_simpleitk(values()))
    with pytest.raises(InputError, match=r"image.get_fdata\(\).T"):
        as_tensor(of_nibabel(values()))
    with pytest.raises(InputError, match="numbers is expected, got dict.*order of the arguments"):
        as_tensor({"x": 1})
    with pytest.raises(InputError, match="an array of object"):
        as_tensor(np.array([1, None]))
    with pytest.raises(InputError, match="one volume of it"):
        as_volume(of_nibabel(np.zeros((2, 3, 4, 5), np.float32)))
