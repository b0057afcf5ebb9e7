"""Warped points: where a flow takes them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import Operator, check_shape


class PointWarp(Operator):
    r"""``A(x) = p + x``: points p moved by their flow x, metres, ``(batch, N, 3)`` both.

    Its predictions are compared with another sweep by a distance of point sets, such as `data_terms.Chamfer`; the two need not
    have as many points.

    Args:
        points: ``(1, N, 3)``, or ``(batch, N, 3)`` where every item has its own.

    >>> import torch
    >>> A = PointWarp(torch.zeros(1, 4, 3))
    >>> A(torch.ones(1, 4, 3)).sum()
    tensor(12.)
    """

    def __init__(self, points: Tensor) -> None:
        self.points = checked_points(points, type(self).__name__)
        self.domain_shape = self.range_shape = tuple(self.points.shape[1:])
        self.items = len(points) if len(points) > 1 else None

    def _forward(self, x: Tensor) -> Tensor:
        return self.points + x

    def parameters(self) -> dict[str, Tensor]:
        return {"points": self.points}


class PointWarpBothWays(Operator):
    r"""``A(x) = (p + f, p + f - b)`` for ``x = (f, b)``: points moved by their flow, and moved back by another one.

    The second flow is taken where the points arrive, so what comes back should be the points themselves (Li, Pontes and Lucey
    2021, equation 6); ``y = (target, source)`` with `data_terms.Stack` says so.

    Args:
        points: ``(1, N, 3)``, or ``(batch, N, 3)`` where every item has its own.
    """

    def __init__(self, points: Tensor) -> None:
        self.points = checked_points(points, type(self).__name__)
        shape = tuple(self.points.shape[1:])
        self.domain_shape: Any = (shape, shape)
        self.range_shape = (shape, shape)
        self.items = len(points) if len(points) > 1 else None

    def __call__(self, x: Any) -> Any:
        check_shape(x, self.domain_shape, f"{self} takes x", self.channelwise, self.items)
        return self._forward(x)

    def _forward(self, x: Any) -> Any:
        forward, backward = x
        there = self.points + forward
        return there, there - backward

    def parameters(self) -> dict[str, Tensor]:
        return {"points": self.points}


def checked_points(points: Tensor, what: str) -> Tensor:
    """Points ``(batch, N, 3)``, all of them finite."""
    if points.ndim != 3 or points.shape[-1] != 3 or not points.is_floating_point():
        raise InputError(
            f"{what} takes points of shape (batch, N, 3), got {tuple(points.shape)} of {points.dtype}"
        )
    if not bool(points.isfinite().all()):
        raise InputError(
            f"{what} takes finite points, and {int((~points.isfinite()).any(-1).sum())} of them are not; leave them out"
        )
    return points
