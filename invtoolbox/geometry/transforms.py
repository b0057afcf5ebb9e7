"""Maps of space between two images, in the convention of ITK, and images resampled by them.

A transform maps points of the fixed image to points of the moving image, in the frame of `Grid`:
millimetres, in medical images x to the patient's left, y to the back and z to the head.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from invtoolbox.errors import InputError
from invtoolbox.geometry.grids import Grid
from invtoolbox.metrics.registration import jacobian_determinant

#: Number of voxels that are resampled at once.
_SLAB = 1 << 20
_MOST_ITERATIONS = 200
#: Least angle, in radians, between a rotation and one by 180 degrees, which has two halves.
_LEAST_ANGLE = 1e-3


class Transform(ABC):
    """Map from points of the fixed image's space to points of the moving image's space.

    So it resamples the moving image: the fixed grid's voxel at p has the value at ``T(p)``. Points
    that belong to the moving image move with the inverse.

    Attributes:
        dimensions: number of coordinates, 2 or 3.
    """

    dimensions: int

    def __call__(self, points: Tensor) -> Tensor:
        """Map points ``(..., dimensions)``, as (x, y) or (x, y, z) in mm.

        Raises:
            InputError: points of the other dimension.
        """
        if points.ndim == 0 or points.shape[-1] != self.dimensions:
            raise InputError(
                f"a transform of {self.dimensions} dimensions maps points (..., "
                f"{self.dimensions}), got {tuple(points.shape)}"
            )
        return self._map(points)

    @abstractmethod
    def _map(self, points: Tensor) -> Tensor:
        """Map points whose shape is checked."""

    @abstractmethod
    def inverse(self) -> Transform:
        """Return the map from the moving image's space to the fixed one's."""

    def invert(self, points: Tensor) -> Tensor:
        """Return the points of the fixed image that the transform maps to points of the moving one.

        Unlike `inverse`, it interpolates no inverse field, so it is exact for points between voxels
        and outside of the grid of a field.

        Args:
            points: points of the moving image, ``(..., dimensions)``.

        Raises:
            InputError: points of the other dimension, or no inverse.
        """
        return self.inverse()(points)


@dataclass(frozen=True, eq=False)
class Affine(Transform):
    """Affine map ``T(p) = M p + t``.

    Args:
        matrix: the matrix ``[[M, t], [0, 1]]``, ``(d + 1, d + 1)``, kept in float64.

    Raises:
        InputError: a matrix of another shape, not finite, singular, or with another last row.

    >>> shift = Affine([[1, 0, 5], [0, 1, 0], [0, 0, 1]])
    >>> shift(torch.tensor([1.0, 2.0])), shift.inverse()(torch.tensor([1.0, 2.0]))
    (tensor([6., 2.]), tensor([-4.,  2.]))
    """

    matrix: Any

    def __post_init__(self) -> None:
        matrix = torch.as_tensor(self.matrix, dtype=torch.float64)
        if tuple(matrix.shape) not in ((3, 3), (4, 4)):
            raise InputError(
                f"the matrix of an affine transform is (3, 3) or (4, 4), got {tuple(matrix.shape)}"
            )
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "dimensions", len(matrix) - 1)
        linear = matrix[:-1, :-1].detach()
        if not bool(matrix.isfinite().all()) or float(torch.linalg.cond(linear)) > 1e12:
            raise InputError(
                f"the matrix {matrix.tolist()} of an affine transform is singular or not finite"
            )
        last = [0.0] * self.dimensions + [1.0]
        if matrix[-1].tolist() != last:
            raise InputError(
                f"the last row of an affine transform's matrix is {last}, got {matrix[-1].tolist()}"
            )

    @staticmethod
    def identity(dimensions: int) -> Affine:
        """Return the map of every point to itself.

        Args:
            dimensions: 2 or 3.
        """
        return Affine(torch.eye(dimensions + 1, dtype=torch.float64))

    def _map(self, points: Tensor) -> Tensor:
        matrix = self.matrix.to(points)
        return points @ matrix[:-1, :-1].T + matrix[:-1, -1]

    def inverse(self) -> Affine:
        inverse = torch.linalg.inv(self.matrix)
        inverse[-1] = self.matrix[-1]  # exactly (0, ..., 0, 1)
        return Affine(inverse)


@dataclass(frozen=True, eq=False)
class DisplacementField(Transform):
    """Map ``T(p) = p + u(p)`` with displacements on the voxels of a grid.

    Between the voxels u is interpolated linearly. Outside of the grid it is 0, as in ITK.

    Args:
        displacement: the field u, ``(d, *space)``, with components (x, y[, z]) in mm: components
            are in the order of coordinates, and axes in the order (slice,) row, column.
        grid: positions of the voxels.
        backward: displacements of the inverse on the same voxels, if they are known, as those of a
            flow are.

    Raises:
        InputError: a field of another shape, or that is not finite.

    >>> u = torch.zeros(2, 3, 4)
    >>> u[0] = 0.5  # along x, the axis of the columns
    >>> DisplacementField(u, Grid())(torch.tensor([[2.0, 1.0], [9.0, 1.0]]))
    tensor([[2.5000, 1.0000],
            [9.0000, 1.0000]])
    """

    displacement: Tensor
    grid: Grid
    backward: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.displacement.shape)
        if len(shape) not in (3, 4) or shape[0] != len(shape) - 1 or 0 in shape:
            raise InputError(
                f"a displacement is (2, rows, columns) or (3, slices, rows, columns), got {shape}"
            )
        object.__setattr__(self, "dimensions", shape[0])
        is_bad = ~self.displacement.detach().isfinite().all(0)
        if bool(is_bad.any()):
            raise InputError(
                f"the displacement is NaN or infinite at {int(is_bad.sum())} of {is_bad.numel()} "
                "voxels; repair the field, or set it to 0 there"
            )

    @staticmethod
    def sample(transform: Transform, grid: Grid, shape: Sequence[int]) -> DisplacementField:
        """Return the displacements of any transform at the voxels of a grid, in float64.

        Args:
            transform: transform of as many dimensions as the grid has axes.
            grid: positions of the voxels.
            shape: number of voxels along every axis.
        """
        points = grid.points(shape)
        return DisplacementField((transform(points) - points).movedim(-1, 0), grid)

    def _map(self, points: Tensor) -> Tensor:
        index = _to_index(self.grid, points)
        inside = _is_inside(index, self.displacement.shape[1:])
        return points + torch.where(inside, self._at(index), 0.0).movedim(0, -1)

    def _at(self, index: Tensor) -> Tensor:
        """Return the displacement at voxels between whole numbers, continued beyond the border."""
        return _interpolate(self.displacement.to(index.device), index).to(index.dtype)

    def jacobian(self) -> Tensor:
        """Compute the Jacobian determinant of T by central differences, ``(*space)``.

        >>> DisplacementField(torch.zeros(2, 2, 2), Grid()).jacobian()
        tensor([[1., 1.],
                [1., 1.]])
        """
        # The determinant does not depend on the frame, so u is taken in voxels along the axes.
        to_index = torch.from_numpy(np.linalg.inv(self.grid.affine(self.dimensions)))
        linear = to_index[:-1, :-1].to(self.displacement)
        return jacobian_determinant(torch.tensordot(linear, self.displacement, 1)[None])[0]

    @cached_property
    def _folds(self) -> int:
        """Number of voxels where the map folds."""
        return int((self.jacobian() <= 0).sum())

    def inverse(self, tolerance: float = 1e-4) -> DisplacementField:
        """Return the inverse on the same grid: the known one, or by a fixed-point iteration.

        For every voxel q, ``p <- p - w (p + u(p) - q)`` with a step w, which is halved where the
        error grows (Chen et al. 2008 with w = 1). Beyond its border u continues with the values
        there; the inverse, as every field, is 0 outside of the grid.

        Args:
            tolerance: largest error ``|p + u(p) - q|`` at a voxel, in units of the smallest voxel
                size. Between voxels the inverse is interpolated; see `invert`.

        Raises:
            InputError: the field folds, so it has no inverse, or the tolerance is not met.

        >>> u = 0.1 * torch.arange(5.0).expand(1, 5).repeat(2, 1, 1)
        >>> DisplacementField(u, Grid()).inverse().displacement[0, 0, 2]  # 2 / 1.1 - 2
        tensor(-0.1818)
        """
        if self.backward is not None:
            return DisplacementField(self.backward, self.grid, self.displacement)
        points = self.grid.points(self.displacement.shape[1:]).to(self.displacement.device)
        v = (self._solve(points, tolerance) - points).movedim(-1, 0)
        return DisplacementField(v.to(self.displacement.dtype), self.grid)

    def invert(self, points: Tensor) -> Tensor:
        preimages = self._solve(points, 1e-4)
        # A point outside of the grid does not move, unless a point within moves there.
        sizes = self.displacement.shape[1:]
        within = [_is_inside(_to_index(self.grid, p), sizes) for p in (points, preimages)]
        return torch.where((within[0] | within[1])[..., None], preimages, points)

    def _solve(self, points: Tensor, tolerance: float) -> Tensor:
        """Return p with ``p + u(p) = q`` for points q, where u continues beyond its border."""
        if self._folds:
            raise InputError(
                f"the field folds at {self._folds} of {self.displacement[0].numel()} voxels, so it "
                "has no inverse; register with a larger weight of the prior, or invert the motion "
                "that the field was sampled from"
            )
        bound = tolerance * min(self.grid.voxel_size[3 - self.dimensions :])
        targets = points.reshape(-1, self.dimensions)
        preimages, q, p = targets.clone(), targets, targets
        rows = torch.arange(len(q), device=q.device)
        step, last = torch.ones_like(q[:, :1]), torch.full_like(q[:, :1], math.inf)
        for _ in range(_MOST_ITERATIONS):
            residual = p - q + self._at(_to_index(self.grid, p)).T
            error = residual.norm(dim=1, keepdim=True)
            step = torch.where(error > last, 0.5 * step, step)
            is_open = error[:, 0] > bound
            preimages[rows[~is_open]] = p[~is_open]
            if not bool(is_open.any()):
                return preimages.view_as(points)
            # Only the points that are left go on.
            rows, q, last, step = (x[is_open] for x in (rows, q, error, step))
            p = p[is_open] - step * residual[is_open]
        raise InputError(
            f"no inverse of the field was found at {len(rows)} of {len(targets)} points, to "
            f"{tolerance:g} voxel: it nearly folds; register with a larger weight of the prior"
        )


@dataclass(frozen=True, eq=False)
class Composite(Transform):
    """Transforms applied one after the other, the first step first.

    The composite of ITK applies the last one first; readers and writers of files convert.

    Args:
        steps: transforms of one dimension, at least one.

    >>> shift, scale = Affine([[1, 0, 1], [0, 1, 0], [0, 0, 1]]), Affine([[2, 0, 0], [0, 2, 0], [0, 0, 1]])
    >>> Composite((shift, scale))(torch.tensor([1.0, 1.0]))
    tensor([4., 2.])
    """

    steps: Sequence[Transform]

    def __post_init__(self) -> None:
        steps = tuple(self.steps)
        dimensions = sorted({step.dimensions for step in steps})
        if len(dimensions) != 1:
            raise InputError(
                f"the steps of a composite have {' and '.join(map(str, dimensions)) or 'no'} "
                "dimensions; give at least one transform, all of 2 or all of 3 dimensions"
            )
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "dimensions", dimensions[0])

    def _map(self, points: Tensor) -> Tensor:
        for step in self.steps:
            points = step(points)
        return points

    def inverse(self) -> Composite:
        return Composite([step.inverse() for step in reversed(self.steps)])

    def invert(self, points: Tensor) -> Tensor:
        for step in reversed(self.steps):
            points = step.invert(points)
        return points


@dataclass(frozen=True, eq=False)
class Inverse(Transform):
    """Inverse of a transform, solved anew for every point; see `Transform.invert`.

    Args:
        transform: transform that can be inverted.
    """

    transform: Transform

    def __post_init__(self) -> None:
        object.__setattr__(self, "dimensions", self.transform.dimensions)

    def _map(self, points: Tensor) -> Tensor:
        return self.transform.invert(points)

    def inverse(self) -> Transform:
        return self.transform


def halve(matrix: Tensor) -> Tensor | None:
    """Return the motion H with ``H(H(p)) = M(p)``: the principal square root of a matrix M.

    Motions that mirror or turn by 180 degrees have none.

    >>> halve(torch.tensor([[4.0, 0.0, 6.0], [0.0, 1.0, 2.0], [0.0, 0.0, 1.0]]).double())
    tensor([[2., 0., 2.],
            [0., 1., 1.],
            [0., 0., 1.]], dtype=torch.float64)
    >>> halve(torch.diag(torch.tensor([-1.0, -1.0, 1.0]))) is None
    True
    """
    angles = torch.linalg.eigvals(matrix).angle().abs()
    if float(angles.max()) > math.pi - _LEAST_ANGLE:
        return None
    from scipy.linalg import sqrtm

    root = torch.from_numpy(sqrtm(matrix.double().numpy()).real).clone()
    root[-1] = matrix[-1]  # exactly (0, ..., 0, 1)
    return root


def turn_of(matrix: Tensor) -> float:
    """Return the angle of the rotation of a motion in space, in degrees.

    >>> turn_of(torch.diag(torch.tensor([-2.0, -2.0, 2.0, 1.0])))
    180.0
    """
    U, _, Vh = torch.linalg.svd(matrix[:-1, :-1].double())
    rotation = U @ Vh  # tr R = 1 + 2 cos(angle)
    cos = (float(rotation.trace() * rotation.det()) - 1) / 2
    return math.degrees(math.acos(max(-1.0, min(1.0, cos))))


def resample(
    image: Tensor,
    transform: Transform,
    fixed_grid: Grid,
    moving_grid: Grid,
    shape: Sequence[int],
    nearest: bool = False,
    outside: float = 0.0,
) -> Tensor:
    """Resample a moving image on the grid of the fixed one: ``out(p) = image(T(p))``.

    As in ITK, voxels reach half a voxel size beyond their centres. Between the outermost centres
    and this border the image has the values there, and beyond the border the value `outside`. The
    positions are computed in float64.

    Args:
        image: moving image ``(batch, channel, *space)``, in float32 or float64; any type if nearest.
        transform: map from the fixed image's space to the moving one's.
        fixed_grid: grid of the answer.
        moving_grid: grid of the image.
        shape: number of voxels of the answer along every axis.
        nearest: take the value of the nearest voxel, as labels need, in place of interpolating
            linearly.
        outside: value of voxels that fall outside of the image.

    Returns:
        the image ``(batch, channel, *shape)``, differentiable in the image and the transform.

    Raises:
        InputError: image, shape and transform of different dimensions, or whole numbers that would
            be interpolated.

    >>> image = torch.arange(4.0).view(1, 1, 1, 4)
    >>> shift = Affine([[1, 0, 1.25], [0, 1, 0], [0, 0, 1]])
    >>> resample(image, shift, Grid(), Grid(), (1, 4), outside=-1.0)
    tensor([[[[ 1.2500,  2.2500,  3.0000, -1.0000]]]])
    """
    dimensions = transform.dimensions
    if (image.ndim - 2, len(shape)) != (dimensions, dimensions):
        raise InputError(
            f"a transform of {dimensions} dimensions does not resample an image of "
            f"{image.ndim - 2} axes to a grid of {len(shape)}"
        )
    if not nearest and image.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"an image of {image.dtype} is not interpolated; convert it with .float(), or take "
            "labels with nearest=True"
        )
    batch, channels, *sizes = image.shape
    values = image.reshape(batch * channels, *sizes)
    to_world = torch.from_numpy(fixed_grid.affine(dimensions)).to(image.device)
    rows = [
        torch.arange(n, dtype=torch.float64, device=image.device)[..., None] * to_world[:-1, k]
        for k, n in enumerate(shape)
    ]
    thickness = max(1, _SLAB // math.prod(shape[1:]))
    slabs = []
    for axis in rows[0].split(thickness):
        points = to_world[:-1, -1] + axis.view(-1, *[1] * (dimensions - 1), dimensions)
        for k, steps in enumerate(rows[1:], 1):
            points = points + steps.view(-1, *[1] * (dimensions - 1 - k), dimensions)
        index = _to_index(moving_grid, transform(points))
        inside = _is_inside(index, sizes)
        slab = _pick(values, index) if nearest else _interpolate(values, index)
        slabs.append(torch.where(inside, slab, torch.tensor(outside, dtype=slab.dtype)))
    return torch.cat(slabs, 1).view(batch, channels, *shape)


def _to_index(grid: Grid, points: Tensor) -> Tensor:
    """Return points as voxels between whole numbers, ``(..., d)`` in the order of the axes."""
    return Affine(grid.affine(points.shape[-1])).inverse()(points)


def _is_inside(index: Tensor, sizes: Sequence[int]) -> Tensor:
    upper = torch.tensor(sizes, dtype=index.dtype, device=index.device) - 0.5
    return ((index >= -0.5) & (index < upper)).all(-1)


def _interpolate(values: Tensor, index: Tensor) -> Tensor:
    """Interpolate values ``(channel, *space)`` at voxels ``(..., d)``; the border's continue."""
    sizes = torch.tensor(values.shape[1:], dtype=index.dtype, device=index.device)
    # grid_sample takes -1 and 1 at the outer edges of voxels, and the last axis first.
    places = ((2 * index + 1) / sizes - 1).flip(-1).to(values.dtype)
    is_volume = index.shape[-1] == 3
    # On a CPU the items of a batch are computed in parallel.
    blocks = len(places) if is_volume and places.ndim > 2 else 1
    places = places.reshape(blocks, *[1] * (index.shape[-1] - 1), -1, index.shape[-1])
    sampled = grid_sample(
        values.expand(blocks, *values.shape),
        places,
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return sampled.flatten(2).movedim(1, 0).reshape(len(values), *index.shape[:-1])


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """Return values ``(channel, *space)`` of the voxels nearest to ``(..., d)``."""
    flat = torch.zeros(index.shape[:-1], dtype=torch.long, device=index.device)
    for k, n in enumerate(values.shape[1:]):
        nearest = (index[..., k] + 0.5).floor().clamp(0, n - 1)
        flat = flat * n + nearest.long()
    return values.flatten(1)[:, flat]
