"""Positions of points of a moving shape at several times: `TrackedPoints`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.geometry.moving_shapes import Moving
from invtoolbox.operators.base import Operator, check_shape
from invtoolbox.operators.points import check_index, check_points


class TrackedPoints(Operator):
    r"""Displacements of tracked points at T times, ``(A x)_tk = x_t,i_tk``: ``(batch, T, m, 3)``.

    x is `geometry.Moving`, as decoded by `priors.Deformation`. If positions were measured, such as
    the vertices of a sequence of meshes or markers on a body, ``A.displacements(positions)``
    computes the measurements. Give a point that was lost at some times no weight:
    ``LeastSquares(noise_std, weights=seen)`` with weights ``(1, T, m, 1)``.

    Args:
        points: points at rest, ``(1, N, 3)``, or ``(batch, N, 3)`` if every item has its own
            points.
        times: number of times T.
        index: numbers of the tracked points, ``(m,)``, or ``(T, m)`` if other points are seen at
            other times; all points by default.

    Raises:
        InputError: if points are not finite, or if an index is out of range.

    >>> points = torch.zeros(1, 4, 3)
    >>> A = TrackedPoints(points, times=2, index=torch.tensor([3, 0]))
    >>> A(Moving(torch.arange(24.0).view(1, 2, 4, 3), None, points))[0, 1]
    tensor([[21., 22., 23.],
            [12., 13., 14.]])
    """

    def __init__(self, points: Tensor, times: int, index: Tensor | None = None) -> None:
        self.points = check_points(points, type(self).__name__)
        count = points.shape[1]
        check_range(self, "[1, inf)", times=times)
        index = torch.arange(count) if index is None else torch.as_tensor(index)
        index = check_index(index, count, type(self).__name__)
        if index.ndim == 2 and len(index) != times:
            raise InputError(
                f"TrackedPoints of {times} times takes an index (m,) or ({times}, m), got "
                f"{tuple(index.shape)}"
            )
        self.times = int(times)
        self.index = index.to(points.device).expand(times, -1)
        self.items = len(points) if len(points) > 1 else None
        self.domain_shape = ()
        self.range_shape = (self.times, self.index.shape[1], 3)

    @property
    def is_shared(self) -> bool:
        """Whether the same points are seen at all times."""
        return bool((self.index == self.index[:1]).all())

    def displacements(self, positions: Tensor) -> Tensor:
        """Compute the measurements of points seen at ``positions``, ``(batch or 1, T, m, 3)``."""
        if positions.ndim != 4 or tuple(positions.shape[1:]) != self.range_shape:
            raise InputError(
                f"{self} takes positions (batch, {', '.join(map(str, self.range_shape))}), got "
                f"{tuple(positions.shape)}"
            )
        return positions - self.points[:, self.index].to(positions)

    def __call__(self, x: Any) -> Tensor:
        if not isinstance(x, Moving):
            raise InputError(
                f"{self} takes a moving shape, as decoded by priors.Deformation(), got "
                f"{type(x).__name__}"
            )
        shape = (self.times, self.points.shape[1], 3)
        check_shape(x.displacements, shape, f"{self} takes displacements", False, self.items)
        return self._forward(x)

    def _forward(self, x: Any) -> Tensor:
        if self.is_shared:
            return x.displacements.index_select(2, self.index[0])
        every = self.index[None, :, :, None].expand(len(x.displacements), -1, -1, 3)
        return x.displacements.gather(2, every)

    def parameters(self) -> dict[str, Tensor]:
        return {"points": self.points}

    def __repr__(self) -> str:
        return f"TrackedPoints({self.index.shape[1]} of {self.points.shape[1]}, times={self.times})"
