"""Images in memory of SimpleITK, ITK and nibabel, with their place in the patient."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from invtoolbox.datasets.volumes.nifti import FLIP
from invtoolbox.datasets.volumes.volume import VolumeInMemory
from invtoolbox.errors import InputError
from invtoolbox.geometry.grids import Grid


def as_volume(image: Any) -> Any:
    """Return an image of SimpleITK, ITK or nibabel as a volume; any other object is unchanged.

    Args:
        image: the object.

    Raises:
        InputError: the image has several components per pixel, or more than three axes.

    >>> as_volume(3.0)
    3.0
    """
    package = type(image).__module__.partition(".")[0]
    if package == "nibabel" and hasattr(image, "dataobj"):
        return _of_nibabel(image)
    if package in ("SimpleITK", "itk") and hasattr(image, "GetDirection"):
        return _of_itk(image, sys.modules[package])
    return image


def _of_nibabel(image: Any) -> VolumeInMemory:
    values = np.asarray(image.dataobj, dtype=np.float32)
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise InputError(
            f"the image of nibabel has the shape {image.shape}; give one volume of it, "
            "image.slicer[..., 0]"
        )
    # The axes of the array are column, row and slice.
    matrix = FLIP @ np.asarray(image.affine, dtype=np.float64)
    matrix[:, :3] = matrix[:, 2::-1]
    return VolumeInMemory(np.ascontiguousarray(values.T), Grid.from_affine(matrix))


def _of_itk(image: Any, package: Any) -> VolumeInMemory:
    size, components = len(tuple(image.GetSpacing())), image.GetNumberOfComponentsPerPixel()
    if components > 1 or size > 3:
        raise InputError(
            f"the image has {components} components per pixel and {size} axes; give one component "
            "of one volume"
        )
    direction = image.GetDirection()
    if not isinstance(direction, tuple):  # a matrix of ITK
        direction = package.array_from_matrix(direction)
    grid = Grid.from_itk(
        np.array(tuple(image.GetSpacing())),
        np.array(tuple(image.GetOrigin())),
        np.reshape(direction, (size, size)),
    )
    return VolumeInMemory(np.array(package.GetArrayFromImage(image), dtype=np.float32), grid)
