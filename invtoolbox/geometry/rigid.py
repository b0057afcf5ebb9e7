"""Rigid motions as 4 by 4 matrices in SE(3): exponential, logarithm, application and checks.

The file also holds `length`, the length of vectors with a derivative at 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.errors import InputError


def skew(v: Tensor) -> Tensor:
    """Return the matrix with ``skew(v) @ u = v x u``: ``(..., 3) -> (..., 3, 3)``."""
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))


def rotation(rotation_vector: Tensor) -> Tensor:
    """Return the rotation about a vector by its length in radians: ``(..., 3) -> (..., 3, 3)``.

    The formula is that of Rodrigues.

    >>> rotation(torch.tensor([0.0, 0.0, torch.pi / 2])).round(decimals=3) + 0.0
    tensor([[ 0., -1.,  0.],
            [ 1.,  0.,  0.],
            [ 0.,  0.,  1.]])
    """
    squared = rotation_vector.square().sum(-1)[..., None, None]
    # Near zero the quotients come from their series, so that value and derivative are correct there
    # too.
    small = squared < 1e-8
    angle = torch.where(small, torch.ones_like(squared), squared).sqrt()
    first = torch.where(small, 1 - squared / 6, angle.sin() / angle)
    second = torch.where(small, 0.5 - squared / 24, (1 - angle.cos()) / angle.square())
    K = skew(rotation_vector)
    return torch.eye(3, dtype=K.dtype, device=K.device) + first * K + second * (K @ K)


def rotation_vector(matrix: Tensor) -> Tensor:
    """Return the vector of length at most pi whose `rotation` is the matrix.

    The shapes are ``(..., 3, 3) -> (..., 3)``.
    """
    # The quaternion with the largest component is accurate near zero and near pi (Shepperd 1978).
    m = matrix
    diagonal = m.diagonal(dim1=-2, dim2=-1)
    trace = diagonal.sum(-1, keepdim=True)
    squares = torch.cat([1 + trace, 1 + 2 * diagonal - trace], dim=-1)  # 4 w^2, 4 x^2, 4 y^2, 4 z^2
    wx, wy, wz = (m[..., i, j] - m[..., j, i] for i, j in ((2, 1), (0, 2), (1, 0)))
    xy, xz, yz = (m[..., i, j] + m[..., j, i] for i, j in ((1, 0), (0, 2), (2, 1)))
    w2, x2, y2, z2 = squares.unbind(-1)
    rows = torch.stack(
        [
            torch.stack(row, dim=-1)
            for row in ((w2, wx, wy, wz), (wx, x2, xy, xz), (wy, xy, y2, yz), (wz, xz, yz, z2))
        ],
        -2,
    )
    best = squares.argmax(-1)
    row = rows.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    row = row * torch.where(row[..., :1] < 0, -1.0, 1.0)
    real, imaginary = row[..., 0], row[..., 1:]
    length = imaginary.norm(dim=-1)
    angle = 2 * torch.atan2(length, real)
    small = length < 1e-12 * row.norm(dim=-1)
    factor = torch.where(
        small, 2 / row.norm(dim=-1), angle / torch.where(small, torch.ones_like(length), length)
    )
    return factor[..., None] * imaginary


def rigid(rotation_matrix: Tensor, translation: Tensor) -> Tensor:
    """Return the motion ``p -> R p + t``: ``(..., 3, 3), (..., 3) -> (..., 4, 4)``."""
    top = torch.cat([rotation_matrix, translation[..., None]], dim=-1)
    bottom = torch.zeros_like(top[..., :1, :])
    bottom[..., 3] = 1
    return torch.cat([top, bottom], dim=-2)


def inverse(motion: Tensor) -> Tensor:
    """Return the inverse motion, ``(..., 4, 4)``."""
    R = motion[..., :3, :3].transpose(-1, -2)
    return rigid(R, -(R @ motion[..., :3, 3:]).squeeze(-1))


def transform(motion: Tensor, points: Tensor) -> Tensor:
    """Move points, in the precision of the points: ``(..., 4, 4), (..., N, 3) -> (..., N, 3)``.

    >>> transform(rigid(torch.eye(3), torch.tensor([1.0, 0.0, 0.0])), torch.zeros(2, 3))
    tensor([[1., 0., 0.],
            [1., 0., 0.]])
    """
    motion = motion.to(points)
    return points @ motion[..., :3, :3].transpose(-1, -2) + motion[..., None, :3, 3]


def relative_motion(pose: Tensor, later: Tensor) -> Tensor:
    """Return the motion, in the sensor's frame, of a point at rest in the world.

    The motion is ``E = later^-1 pose``, so ``p1 = E p0``.
    """
    return inverse(later) @ pose


def part_of(motion: Tensor, share: Tensor) -> Tensor:
    """Return the part of a motion at constant speed up to a share of its duration.

    The shapes are ``(4, 4), (N,) -> (N, 4, 4)``.
    """
    turn = rotation_vector(motion[:3, :3])
    return rigid(rotation(share[:, None] * turn), share[:, None] * motion[:3, 3])


def check_motion(motion: Tensor, what: str) -> Tensor:
    """Return the motion as float64; raise an `InputError` if it is not rigid."""
    motion = torch.as_tensor(motion, dtype=torch.float64)
    if motion.shape != (4, 4) or not bool(motion.isfinite().all()):
        raise InputError(
            f"{what} must be a 4 by 4 matrix of finite numbers, got shape {tuple(motion.shape)}"
        )
    R = motion[:3, :3]
    if (
        float((R @ R.T - torch.eye(3, dtype=R.dtype)).abs().max()) > 1e-3
        or float(torch.linalg.det(R)) < 0
    ):
        raise InputError(
            f"{what} must rotate and translate only: its upper left 3 by 3 is not a rotation"
        )
    if float((motion[3] - torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=R.dtype)).abs().max()) > 1e-6:
        raise InputError(f"{what} must have the last row 0, 0, 0, 1")
    return motion


def length(vectors: Tensor) -> Tensor:
    """Return the length of vectors along the last axis, with derivative 0 at 0.

    >>> import torch
    >>> length(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([5.0000e+00, 1.0000e-12])
    """
    return vectors.square().sum(-1).clamp_min(1e-24).sqrt()
