"""Ridge splines: images made of profiles, each constant along the lines of one direction."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from invtoolbox.core.guards import to_shape
from invtoolbox.errors import InputError
from invtoolbox.operators.matrix import SparseMatrix


class RidgeSplines(SparseMatrix):
    r"""Sum of one profile per direction, :math:`f(x, y) = \sum_k h_k(x \cos a_k + y \sin a_k)`.

    It maps profiles ``(1, angle, knot)`` to images ``(1, rows, columns)``, by linear interpolation
    between knots at a distance of one pixel. Coordinates are those of `ParallelBeam`: x along the
    columns and y against the rows, from the centre of the image.

    A profile that is linear between its bends makes f a sum of ramps, and the sum of all bends is
    the second-order total variation of f in the Radon domain. ``L1() @ A.bends`` is this prior: it
    finds the few bends that explain the measurements, which are also the neurons of a shallow
    network trained with weight decay (Parhi and Nowak, "Banach space representer theorems for
    neural networks and ridge splines", JMLR 22, 2021). The profiles are badly conditioned, so take
    ``ADMM(rho=0.3, inner_iterations=60)`` in double precision, and small images.

    Args:
        image_shape: numbers of rows and columns.
        angles: directions of the profiles, radians, ``(angle,)``.

    >>> ridges = RidgeSplines((8, 8), torch.tensor([0.0, torch.pi / 2]))
    >>> ridges.domain_shape, ridges.bends.range_shape
    ((1, 2, 13), (1, 2, 11))
    >>> profiles = torch.zeros(1, 1, 2, 13)
    >>> profiles[0, 0, 0] = torch.arange(13.0) - 6  # a slope of 1 from left to right
    >>> ridges(profiles)[0, 0, 0, :3]
    tensor([-3.5000, -2.5000, -1.5000])
    """

    def __init__(self, image_shape: Sequence[int], angles: Tensor) -> None:
        shape = to_shape(self, image_shape=image_shape)
        angles = torch.as_tensor(angles, dtype=torch.float64, device="cpu")
        if len(shape) != 2 or min(shape) < 1 or angles.ndim != 1 or not len(angles):
            raise InputError(
                "RidgeSplines needs an image_shape (rows, columns) and at least one angle, got "
                f"{shape} and angles of the shape {tuple(angles.shape)}"
            )
        if not bool(angles.isfinite().all()):
            raise InputError("the angles of RidgeSplines must be finite, in radians")
        rows, columns = shape
        y, x = ((n - 1) / 2 - torch.arange(n, dtype=torch.float64) for n in shape)
        along = angles.cos()[:, None, None] * -x + angles.sin()[:, None, None] * y[:, None]
        reach = math.ceil(math.hypot(*shape) / 2)
        knots = 2 * reach + 1
        place = (along + reach).flatten(1)
        before = place.floor().clamp(0, knots - 2).long()
        share = place - before
        pixel = torch.arange(rows * columns).expand(len(angles), -1)
        knot = before + knots * torch.arange(len(angles))[:, None]
        index = torch.stack(
            [torch.stack([pixel, pixel]).flatten(), torch.stack([knot, knot + 1]).flatten()]
        )
        values = torch.stack([1 - share, share]).flatten()
        size = (rows * columns, len(angles) * knots)
        matrix = torch.sparse_coo_tensor(index, values, size, check_invariants=True)
        super().__init__(matrix, (1, len(angles), knots), (1, rows, columns))

    @property
    def bends(self) -> SparseMatrix:
        """Second differences of all profiles, ``(1, angle, knot) -> (1, angle, knot - 2)``."""
        _, count, knots = self.domain_shape
        row = torch.arange(count * (knots - 2)).view(count, -1)
        knot = row + 2 * torch.arange(count)[:, None]
        index = torch.stack(
            [row.expand(3, -1, -1).flatten(), torch.stack([knot + k for k in range(3)]).flatten()]
        )
        values = torch.tensor([1.0, -2.0, 1.0], dtype=torch.float64).repeat_interleave(row.numel())
        size = (count * (knots - 2), count * knots)
        matrix = torch.sparse_coo_tensor(index, values, size, check_invariants=True)
        return SparseMatrix(matrix.to(self.values.device), self.domain_shape, (1, count, knots - 2))

    def __repr__(self) -> str:
        _, count, knots = self.domain_shape
        return f"RidgeSplines({tuple(self.range_shape[1:])}, {count} angles, {knots} knots)"
