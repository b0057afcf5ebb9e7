"""The frame halfway between two images, which exchanged images share."""

from __future__ import annotations

import math

import torch
from scipy.linalg import sqrtm
from torch import Tensor

from invtoolbox.geometry.grids import Grid
from invtoolbox.geometry.placed_pixels import PlacedPixels
from invtoolbox.geometry.transforms import Affine
from invtoolbox.jobs.registration.checks import Pair, grid_of
from invtoolbox.operators import PlacedImage

#: Least angle, in radians, between a rotation and one by 180 degrees, which has two halves.
_LEAST_ANGLE = 1e-3


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


def meet(pair: Pair, half: Tensor) -> tuple[Grid, tuple[int, ...]] | None:
    """Return the grid of a frame halfway between both images, and its number of pixels.

    It covers what both images show, along the axes of the image of larger pixels; None if they show
    nothing together. Exchanged images have the same grid.

    Args:
        pair: both images.
        half: motion H from the fixed image to the frame, and from there to the moving image.
    """
    place = max(pair.matrices, key=lambda A: (float(A.det().abs()), A.flatten().tolist())).clone()
    low, high = zip(
        *(
            Affine(place).inverse()(PlacedPixels(image, motion @ A).corners()).aminmax(dim=0)
            for image, motion, A in zip(
                (pair.moving, pair.fixed), (torch.linalg.inv(half), half), pair.matrices
            )
        )
    )
    first, last = torch.maximum(*low), torch.minimum(*high)
    shape = tuple(int(n) + 1 for n in (last - first - 1e-6).ceil())
    place[:-1, -1] += place[:-1, :-1] @ first
    return None if min(shape) < 2 else (grid_of(place.numpy(), len(shape)), shape)


def bring(velocity: Tensor, grid: Grid, half: Tensor, pair: Pair) -> Tensor:
    """Return a velocity along the axes of the fixed image, whose flow is ``H^-1 exp(v) H``.

    It is ``H^-1 v(H p)`` with the linear part of H^-1. Beyond its border v continues.

    Args:
        velocity: the velocity v, ``(1, d, *space)``.
        grid: positions of its pixels.
        half: the motion H, see `meet`.
        pair: both images.
    """
    here, there = pair.matrix(1), torch.from_numpy(grid.affine(velocity.ndim - 2))
    D, E = (A[:-1, :-1] / A[:-1, :-1].norm(dim=0) for A in (here, there))
    points = PlacedPixels(pair.fixed[:1], half @ here).points().to(velocity)
    A = PlacedImage(velocity, torch.linalg.inv(there)[:-1].to(velocity), points)
    turn = torch.linalg.solve(half[:-1, :-1] @ D, E).to(velocity)
    return torch.tensordot(turn, A(torch.zeros_like(points)[None])[0], 1)[None]
