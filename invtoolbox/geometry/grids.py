"""Positions of the voxels of a volume, or of the pixels of an image, in space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.errors import InputError

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Grid:
    """Positions of the voxels of a volume.

    The centre of voxel ``(slice, row, column)`` is at
    ``origin + sum_a index_a * voxel_size_a * directions_a``.

    Attributes:
        voxel_size: size of a voxel along slices, rows and columns, in `unit`.
        origin: centre of the first voxel, as ``(x, y, z)``. In medical images x grows to the
            patient's left, y to the back and z to the head (the frame of DICOM); positions in
            NIfTI's own frame are converted.
        directions: unit vectors ``(x, y, z)`` along which slices, rows and columns are counted.
        unit: name of the unit of length.

    >>> Grid(voxel_size=(2.0, 1.0, 1.0)).affine()[:3, 0]
    array([0., 0., 2.])
    """

    voxel_size: Vector = (1.0, 1.0, 1.0)
    origin: Vector = (0.0, 0.0, 0.0)
    directions: tuple[Vector, Vector, Vector] = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
    unit: str = "mm"

    def __post_init__(self) -> None:
        numbers = np.array(
            [*self.voxel_size, *self.origin, *np.ravel(self.directions)], dtype=np.float64
        )
        if numbers.shape != (15,) or not np.isfinite(numbers).all() or not (numbers[:3] > 0).all():
            raise InputError(
                f"a voxel size of {self.voxel_size} at {self.origin} along {self.directions} does "
                "not place a volume; give positive sizes and finite numbers"
            )
        if abs(np.linalg.det(np.array(self.directions))) < 1e-3:
            raise InputError(
                f"the axes {self.directions} of a volume lie in one plane; correct the orientation "
                "in the file"
            )

    def affine(self, dimensions: int = 3) -> np.ndarray:
        """Return the 4x4 matrix that maps ``(slice, row, column, 1)`` to ``(x, y, z, 1)``.

        For an image of two axes, the 3x3 matrix maps ``(row, column, 1)`` to ``(x, y, 1)``. In an
        image that is not parallel to the plane of x and y, x is measured along its columns' axis
        and y along its rows' axis.

        Args:
            dimensions: number of axes of the image, 2 or 3.
        """
        matrix = np.eye(4)
        matrix[:3, :3] = np.array(self.directions).T * np.array(self.voxel_size)
        matrix[:3, 3] = self.origin
        if dimensions == 3:
            return matrix
        if np.max(np.abs(matrix[2, 1:3])) > 1e-6 * max(self.voxel_size):  # not parallel to x and y
            matrix[:2] = np.array(self.directions)[[2, 1]] @ matrix[:3]
        return matrix[np.ix_((0, 1, 3), (1, 2, 3))]

    def points(self, shape: Sequence[int]) -> Tensor:
        """Return the centres of all voxels, ``(*shape, 3)``; of pixels, ``(rows, columns, 2)``.

        Args:
            shape: number of voxels along every axis, of an image with two axes or a volume.

        >>> Grid((2.0, 1.0, 1.0)).points((2, 1, 3))[1, 0]
        tensor([[0., 0., 2.],
                [1., 0., 2.],
                [2., 0., 2.]], dtype=torch.float64)
        """
        matrix = torch.from_numpy(self.affine(len(shape)))
        axes = [torch.arange(n, dtype=torch.float64) for n in shape]
        return (
            torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) @ matrix[:-1, :-1].T
            + matrix[:-1, -1]
        )

    def itk(self, dimensions: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return spacing, origin and direction as in ITK, whose axes are columns, rows, slices.

        Column k of the direction, ``(d, d)``, is the unit vector along axis k.

        Args:
            dimensions: number of axes of the image, 2 or 3.

        >>> Grid((2.0, 1.0, 0.5)).itk()[0]
        array([0.5, 1. , 2. ])
        """
        if dimensions == 3:
            spacing, direction = np.array(self.voxel_size[::-1]), np.array(self.directions[::-1]).T
            return spacing, np.array(self.origin), direction
        matrix = self.affine(2)
        linear = matrix[:2, 1::-1]
        spacing = np.linalg.norm(linear, axis=0)
        return spacing, matrix[:2, 2], linear / spacing

    @staticmethod
    def from_itk(spacing: Any, origin: Any, direction: Any) -> Grid:
        """Build the grid of an image of 2 or 3 axes from the numbers of `itk`.

        >>> Grid.from_itk((0.5, 1.0), (3.0, 4.0), np.eye(2)).affine(2)
        array([[0. , 0.5, 3. ],
               [1. , 0. , 4. ],
               [0. , 0. , 1. ]])
        """
        d, matrix = len(spacing), np.eye(4)
        matrix[:d, :d] = np.asarray(direction, dtype=np.float64) * np.asarray(spacing)
        matrix[:3, :3] = matrix[:3, 2::-1]
        matrix[:d, 3] = origin
        return Grid.from_affine(matrix)

    @staticmethod
    def from_affine(matrix: Any, unit: str = "mm") -> Grid:
        """Build the grid from a matrix of `affine`.

        >>> Grid.from_affine(np.diag([3.0, 2.0, 1.0, 1.0])).voxel_size
        (3.0, 2.0, 1.0)
        """
        matrix = np.asarray(matrix, dtype=np.float64)
        sizes = np.linalg.norm(matrix[:3, :3], axis=0)
        if not np.isfinite(matrix).all() or not (sizes > 0).all():
            raise InputError(
                "the matrix that places the voxels is singular or not finite; correct the "
                "orientation in the file"
            )
        directions = [_vector(matrix[:3, axis] / sizes[axis]) for axis in range(3)]
        return Grid(
            _vector(sizes),
            _vector(matrix[:3, 3]),
            (directions[0], directions[1], directions[2]),
            unit,
        )


def _vector(values: Any) -> Vector:
    return float(values[0]), float(values[1]), float(values[2])
