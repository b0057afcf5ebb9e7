"""Rigid motions as 4 by 4 matrices in SE(3): exponential, logarithm, application and checks.

The file also holds `length`, the length of vectors with a derivative at 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.errors import InputError


def skew(v: Tensor) -> Tensor:
    """Return the matrix with ``skew(v) @ u = v x u``: ``(..., 3) -> (..., 3, 3)``."""
    # [v]_x = [[0, -z, y], [z, 0, -x], [-y, x, 0]].
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))


def rotation(rotation_vector: Tensor) -> Tensor:
    """Return the rotation about a vector by its length in radians: ``(..., 3) -> (..., 3, 3)``.

    The formula is that of Rodrigues. Values and derivatives are exact at 0 too.

    >>> rotation(torch.tensor([0.0, 0.0, torch.pi / 2])).round(decimals=3) + 0.0
    tensor([[ 0., -1.,  0.],
            [ 1.,  0.,  0.],
            [ 0.,  0.,  1.]])
    """
    # R = I + sin(a) [k]_x + (1 - cos(a)) [k]_x^2 for the unit axis k and the angle a.
    from kornia.geometry.conversions import axis_angle_to_rotation_matrix

    return axis_angle_to_rotation_matrix(rotation_vector)


def rotation_vector(matrix: Tensor) -> Tensor:
    """Return the vector of length at most pi whose `rotation` is the matrix.

    The shapes are ``(..., 3, 3) -> (..., 3)``.
    """
    from kornia.geometry.conversions import rotation_matrix_to_axis_angle

    return rotation_matrix_to_axis_angle(matrix)


def own_axes(points: Tensor) -> Tensor:
    """Return the rotation of points about the upright axis into axes of their own, ``(3, 3)``.

    The first axis is the mean direction of the points, seen from the origin. A grid along these
    axes turns with the points, so the axes of their frame have no effect.

    Args:
        points: finite points, ``(N, d)`` with d at least 2, of which the first two count.

    >>> turn = own_axes(torch.tensor([[0.0, 2.0, 1.0]]))
    >>> (turn @ torch.tensor([0.0, 2.0, 1.0]).double()).round(decimals=3)
    tensor([2., 0., 1.], dtype=torch.float64)
    """
    # The sum of unit directions is (cos, sin) of their mean, and a turn by minus this angle maps it to
    # the first axis.
    plane = points[:, :2].double()
    ahead, left = torch.nn.functional.normalize(plane, dim=1).sum(0)
    zero = torch.zeros_like(ahead)
    return rotation(torch.stack([zero, zero, -torch.atan2(left, ahead)]))


def rigid(rotation_matrix: Tensor, translation: Tensor) -> Tensor:
    """Return the motion ``p -> R p + t``: ``(..., 3, 3), (..., 3) -> (..., 4, 4)``."""
    top = torch.cat([rotation_matrix, translation[..., None]], dim=-1)
    bottom = torch.zeros_like(top[..., :1, :])
    bottom[..., 3] = 1
    return torch.cat([top, bottom], dim=-2)


def inverse(motion: Tensor) -> Tensor:
    """Return the inverse motion, ``(..., 4, 4)``."""
    # (R, t)^-1 = (R^T, -R^T t).
    R = motion[..., :3, :3].transpose(-1, -2)
    return rigid(R, -(R @ motion[..., :3, 3:]).squeeze(-1))


def transform(motion: Tensor, points: Tensor) -> Tensor:
    """Move points, in the precision of the points: ``(..., 4, 4), (..., N, 3) -> (..., N, 3)``.

    >>> transform(rigid(torch.eye(3), torch.tensor([1.0, 0.0, 0.0])), torch.zeros(2, 3))
    tensor([[1., 0., 0.],
            [1., 0., 0.]])
    """
    # Points are rows: (R p)^T = p^T R^T.
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
    # The rotation vector and the translation grow evenly: a turn about the origin of the frame while
    # it goes straight, not the screw exp(share log(motion)).
    turn = rotation_vector(motion[:3, :3])
    return rigid(rotation(share[:, None] * turn), share[:, None] * motion[:3, 3])


def check_motion(motion: Tensor, what: str) -> Tensor:
    """Return the motion as float64; raise an `InputError` if it is not rigid."""
    motion = torch.as_tensor(motion, dtype=torch.float64)
    if motion.shape != (4, 4) or not bool(motion.isfinite().all()):
        raise InputError(
            f"{what} must be a 4 by 4 matrix of finite numbers, got shape {tuple(motion.shape)}"
        )
    # R R^T = I holds for reflections too; their determinant is -1.
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
