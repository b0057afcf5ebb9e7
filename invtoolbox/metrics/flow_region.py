"""End-point errors by motion and by distance from the sensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.metrics.flow import end_point_error, point_errors

#: How far from the sensor points count in the dynamic and in the static error, in metres along the ground.
RADIUS = 35.0
#: Edges of the distances that errors are told apart by, in metres along the ground.
RANGES = (0.0, 35.0, 50.0, 75.0, 100.0, math.inf)


def dynamic_end_point_error(
    flow: Tensor,
    truth: Tensor,
    points: Tensor,
    dynamic: Tensor,
    ground: Tensor | None = None,
    valid: Tensor | None = None,
    radius: float = RADIUS,
) -> Tensor:
    """The mean end-point error of what moves: points labelled dynamic, not ground, within `radius` of the sensor along the ground.

    The sensor's own motion is removed from both flows, or from neither: the error is the same, since the same motion goes.

    Args:
        flow: ``(points, 3)``, metres.
        truth: likewise.
        points: where they are, in the sensor's frame, ``(points, 3)``.
        dynamic: boolean ``(points,)``, true where a point moves in the world.
        ground: boolean ``(points,)``, true on the ground; None where nothing is.
        valid: boolean ``(points,)``, false where the truth is not known.
        radius: of the circle about the sensor, in metres.

    Returns:
        A number (a tensor without axes), in metres.

    >>> truth = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> dynamic_end_point_error(torch.zeros(2, 3), truth, torch.ones(2, 3), torch.tensor([True, False]))
    tensor(1.)
    """
    return end_point_error(flow, truth, region_mask(points, dynamic, ground, valid, radius))


def static_end_point_error(
    flow: Tensor,
    truth: Tensor,
    points: Tensor,
    dynamic: Tensor,
    ground: Tensor | None = None,
    valid: Tensor | None = None,
    radius: float = RADIUS,
) -> Tensor:
    """The same of what stands: points not labelled dynamic, not ground, within the radius; see `dynamic_end_point_error`.

    >>> truth = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> static_end_point_error(torch.zeros(2, 3), truth, torch.ones(2, 3), torch.tensor([True, False]))
    tensor(0.)
    """
    return end_point_error(flow, truth, region_mask(points, ~dynamic, ground, valid, radius))


def region_mask(
    points: Tensor,
    among: Tensor,
    ground: Tensor | None = None,
    valid: Tensor | None = None,
    radius: float = RADIUS,
) -> Tensor:
    """Which of the points `among` are not ground, known, and within the radius along the ground: boolean ``(points,)``."""
    for name, value in (("dynamic", among), ("ground", ground), ("valid", valid)):
        if value is not None and (value.shape != points.shape[:1] or value.dtype != torch.bool):
            raise InputError(
                f"{name} is {value.dtype} of shape {tuple(value.shape)}; give booleans, one for each of {len(points)} points"
            )
    chosen = among & (distance(points) < radius)
    if ground is not None:
        chosen = chosen & ~ground
    return chosen if valid is None else chosen & valid


def distance(points: Tensor) -> Tensor:
    """The distance of each point from the sensor along the ground, float64 ``(points,)``."""
    if points.ndim != 2 or points.shape[-1] != 3:
        raise InputError(f"points have the shape {tuple(points.shape)}; expected (points, 3)")
    return points[:, :2].to(torch.float64).norm(dim=-1)


@dataclass(frozen=True)
class RangeError:
    """The end-point errors of the points between two distances, in metres; NaN where there is no point.

    Attributes:
        near, far: the distances, near included.
        dynamic, static: the errors of what moves and of what stands.
        dynamic_points, static_points: how many there are.
    """

    near: float
    far: float
    dynamic: float
    static: float
    dynamic_points: int
    static_points: int


def range_wise_epe(
    flow: Tensor,
    truth: Tensor,
    points: Tensor,
    dynamic: Tensor,
    mask: Tensor | None = None,
    edges: Sequence[float] = RANGES,
) -> tuple[RangeError, ...]:
    """The end-point errors of what moves and of what stands, by distance from the sensor along the ground.

    Args:
        flow, truth, points, dynamic: as in `dynamic_end_point_error`.
        mask: boolean ``(points,)``, true where a point counts.
        edges: the distances, rising, in metres.

    Source: Khoche, Zhang, Pereira Sanchez, Jensfelt, "SSF: sparse long-range scene flow", ICRA 2025.

    >>> far = torch.tensor([[10.0, 0.0, 0.0], [60.0, 0.0, 0.0]])
    >>> parts = range_wise_epe(torch.zeros(2, 3), torch.ones(2, 3), far, torch.tensor([True, True]))
    >>> [p.dynamic_points for p in parts]
    [1, 0, 1, 0, 0]
    """
    if len(edges) < 2 or any(not a < b for a, b in pairwise(edges)):
        raise InputError(f"the edges of the ranges are {tuple(edges)}; give at least two, rising")
    errors, away = point_errors(flow, truth), distance(points)
    counted = region_mask(
        points, torch.ones_like(dynamic) if mask is None else mask, radius=math.inf
    )
    parts = []
    for near, far in pairwise(edges):
        inside = counted & (away >= near) & (away < far)
        moving, standing = errors[inside & dynamic], errors[inside & ~dynamic]
        # The mean of nothing is NaN.
        parts.append(
            RangeError(
                near, far, float(moving.mean()), float(standing.mean()), len(moving), len(standing)
            )
        )
    return tuple(parts)
