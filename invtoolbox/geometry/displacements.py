"""Displacements of points, and of the voxels of a grid in the order of the grid."""

from __future__ import annotations

from torch import Tensor


def as_points(x: Tensor) -> Tensor:
    """Return displacements as ``(batch, N, 3)``.

    Displacements of points are returned unchanged. Displacements of voxels, ``(batch, 3, *space)``,
    are listed in the order of the grid.
    """
    return x.flatten(2).transpose(1, 2) if x.ndim == 5 and x.shape[1] == 3 else x


def like_points(points: Tensor, x: Tensor) -> Tensor:
    """Invert `as_points`: return displacements ``(batch, N, 3)`` in the shape of x."""
    return points.transpose(1, 2).reshape(x.shape) if x.ndim == 5 else points
