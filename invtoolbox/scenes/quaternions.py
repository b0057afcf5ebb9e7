"""Unit quaternions ``(w, x, y, z)`` and rotation matrices."""

from __future__ import annotations

import torch
from torch import Tensor


def rotation_matrices(quaternions: Tensor) -> Tensor:
    """The rotations of quaternions of any length, ``(..., 4) -> (..., 3, 3)``.

    >>> rotation_matrices(torch.tensor([2.0, 0, 0, 2.0])).round()  # a quarter about z
    tensor([[ 0., -1.,  0.],
            [ 1.,  0.,  0.],
            [ 0.,  0.,  1.]])
    """
    w, x, y, z = (quaternions / quaternions.norm(dim=-1, keepdim=True).clamp_min(1e-12)).unbind(-1)
    rows = (
        1 - 2 * (y * y + z * z),
        2 * (x * y - w * z),
        2 * (x * z + w * y),
        2 * (x * y + w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z - w * x),
        2 * (x * z - w * y),
        2 * (y * z + w * x),
        1 - 2 * (x * x + y * y),
    )
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def product(a: Tensor, b: Tensor) -> Tensor:
    """The quaternion of b first and then a, ``(..., 4)``."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        -1,
    )


def of_rotation_vector(vector: Tensor) -> Tensor:
    """The quaternion that turns about a vector by its length in radians, ``(..., 3) -> (..., 4)``; smooth at 0."""
    squared = vector.square().sum(-1, keepdim=True)
    small = squared < 1e-8
    angle = torch.where(small, torch.ones_like(squared), squared).sqrt()
    factor = torch.where(small, 0.5 - squared / 48, (0.5 * angle).sin() / angle)
    return torch.cat(
        [torch.where(small, 1 - squared / 8, (0.5 * angle).cos()), factor * vector], -1
    )
