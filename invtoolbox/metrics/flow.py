"""Errors of flows and of trajectories.

The module holds the end-point error, accuracies and outliers per point, the angle between flows in
space and in space and time, end-point errors by motion and by distance from the sensor, and the
displacement errors of tracked points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.metrics.images import check_tensors, like

#: Largest distance from the sensor of the points that count in the dynamic and in the static error,
#: in metres along the ground.
RADIUS = 35.0
#: Edges of the ranges of distance in `range_wise_epe`, in metres along the ground.
RANGES = (0.0, 35.0, 50.0, 75.0, 100.0, math.inf)


def end_point_error(flow: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute the mean end-point error, the mean of ``|flow - truth|`` over the points.

    The error has the unit of the flow (metres).

    Args:
        flow: flow of every point, ``(points, 3)`` or ``(batch, points, 3)``; optical flow has 2
            components instead of 3.
        truth: true flow of every point, of the same shape. Both flows include ego motion, or
            neither does.
        mask: boolean mask of the points that count, ``(points,)`` or ``(batch, points)``.

    Returns:
        a number (a tensor without axes) for one flow, or one number per item, ``(batch,)``.

    >>> end_point_error(torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]]), torch.zeros(2, 3))
    tensor(3.)
    """
    return mean_over(point_errors(flow, truth), mask, flow)


def accuracy_strict(flow: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute the share of points with an error below 0.05 m **or** below 5 % of the true flow.

    The percentage refers to the length of the true flow. Shapes and errors are the same as in
    `end_point_error`. The relative test depends on whether the flows include the sensor's own
    motion, because that motion makes the true flow of a standing point long. The figures of
    `evaluate` exclude it.

    Source: Liu, Qi, Guibas, "FlowNet3D", CVPR 2019, section 6.

    >>> truth = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> accuracy_strict(torch.tensor([[1.04, 0.0, 0.0], [0.2, 0.0, 0.0]]), truth)
    tensor(0.5000)
    """
    return _accuracy(flow, truth, mask, 0.05)


def accuracy_relax(flow: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute the share of points with an error below 0.1 m **or** below 10 % of the true flow.

    See `accuracy_strict`, whose limits are half as large.

    >>> truth = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> accuracy_relax(torch.tensor([[1.08, 0.0, 0.0], [0.2, 0.0, 0.0]]), truth)
    tensor(0.5000)
    """
    return _accuracy(flow, truth, mask, 0.1)


def outliers(flow: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute the share of points with an error above 0.3 m **or** above 10 % of the true flow.

    The percentage refers to the length of the true flow. A point whose true flow is zero is an
    outlier as soon as its flow is not exactly zero. If the sensor's motion is removed, this figure
    therefore describes the static world poorly. Shapes and errors are the same as in
    `end_point_error`.

    Source: Gu, Wang, Wu, Lee, Wang, "HPLFlowNet", CVPR 2019, section 4.

    >>> truth = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> outliers(torch.tensor([[1.05, 0.0, 0.0], [0.01, 0.0, 0.0]]), truth)
    tensor(0.5000)
    """
    error = point_errors(flow, truth)
    off = (error > 0.3) | (error > 0.1 * truth.to(torch.float64).norm(dim=-1))
    return mean_over(off.to(torch.float64), mask, flow)


def angle_error(flow: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute the mean angle between flow and truth **in space**, in radians, 0 to pi.

    A vector of length zero has no direction. Its angle counts as 0 if the other vector also has
    length zero, and as pi / 2 otherwise. If much of the world stands still,
    `space_time_angle_error` is more informative.

    Args:
        flow: flow of every point, ``(points, 3)`` or ``(batch, points, 3)``.
        truth: true flow of every point, of the same shape. Both flows include ego motion, or
            neither does.
        mask: boolean mask of the points that count, ``(points,)`` or ``(batch, points)``.

    >>> angle_error(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 2.0, 0.0]]))
    tensor(1.5708)
    """
    check_flows(flow, truth)
    a, b = flow.to(torch.float64), truth.to(torch.float64)
    still_a, still_b = (a == 0).all(-1), (b == 0).all(-1)
    angle = torch.where(still_a ^ still_b, torch.full_like(a[..., 0], math.pi / 2), _angle(a, b))
    return mean_over(torch.where(still_a & still_b, torch.zeros_like(angle), angle), mask, flow)


def space_time_angle_error(
    flow: Tensor, truth: Tensor, mask: Tensor | None = None, interval: float = 0.1
) -> Tensor:
    """Compute the mean angle between flow and truth **in space and time**, in radians.

    The vectors are ``(x, y, z, interval)``: the time between the sweeps in seconds is a fourth
    component in addition to the three in metres. A flow of length zero thus has a direction too,
    and the angle between two short flows is small whatever their directions are. The Argoverse 2
    code uses this angle.

    Args:
        flow: flow of every point, ``(points, 3)`` or ``(batch, points, 3)``.
        truth: true flow of every point, of the same shape. Both flows include ego motion, or
            neither does.
        mask: boolean mask of the points that count, ``(points,)`` or ``(batch, points)``.
        interval: time between the sweeps in seconds.

    >>> space_time_angle_error(torch.tensor([[0.1, 0.0, 0.0]]), torch.zeros(1, 3))
    tensor(0.7854)
    """
    check_flows(flow, truth)
    if not interval > 0:
        raise InputError(f"the interval between the sweeps is {interval} s; give a positive number")
    time = torch.full_like(flow[..., :1], interval, dtype=torch.float64)
    a, b = (torch.cat([vectors.to(torch.float64), time], -1) for vectors in (flow, truth))
    return mean_over(_angle(a, b), mask, flow)


def dynamic_end_point_error(
    flow: Tensor,
    truth: Tensor,
    points: Tensor,
    dynamic: Tensor,
    ground: Tensor | None = None,
    valid: Tensor | None = None,
    radius: float = RADIUS,
) -> Tensor:
    """Compute the mean end-point error of the moving points.

    The points that count are labelled dynamic, are not ground, and lie within `radius` of the
    sensor along the ground. The sensor's own motion is removed from both flows or from neither;
    the error is the same, because the same motion is removed from both.

    Args:
        flow: flow of every point, ``(points, 3)``, metres.
        truth: true flow of every point, ``(points, 3)``, metres.
        points: positions of the points in the sensor's frame, ``(points, 3)``, metres.
        dynamic: boolean ``(points,)``, true for points that move in the world.
        ground: boolean ``(points,)``, true for points on the ground; None if there are none.
        valid: boolean ``(points,)``, false for points whose true flow is not known.
        radius: radius of the circle around the sensor, in metres.

    Returns:
        a number (a tensor without axes), in metres.

    >>> truth = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> moves = torch.tensor([True, False])
    >>> dynamic_end_point_error(torch.zeros(2, 3), truth, torch.ones(2, 3), moves)
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
    """Compute the mean end-point error of the standing points.

    The points that count are not labelled dynamic, are not ground, and lie within `radius` of the
    sensor along the ground. For the arguments see `dynamic_end_point_error`.

    >>> truth = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> moves = torch.tensor([True, False])
    >>> static_end_point_error(torch.zeros(2, 3), truth, torch.ones(2, 3), moves)
    tensor(0.)
    """
    return end_point_error(flow, truth, region_mask(points, ~dynamic, ground, valid, radius))


@dataclass(frozen=True)
class RangeError:
    """End-point errors of the points in a range of distance, in metres; NaN if there is no point.

    Attributes:
        near, far: limits of the range; `near` is included, `far` is not.
        dynamic, static: mean errors of the moving and of the standing points.
        dynamic_points, static_points: numbers of moving and of standing points.
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
    """Compute the end-point errors of moving and of standing points by distance from the sensor.

    Distances are measured along the ground.

    Args:
        flow: flow of every point, ``(points, 3)``, metres.
        truth: true flow of every point, ``(points, 3)``, metres.
        points: positions of the points in the sensor's frame, ``(points, 3)``, metres.
        dynamic: boolean ``(points,)``, true for points that move in the world.
        mask: boolean mask of the points that count, ``(points,)``.
        edges: limits of the ranges of distance, rising, in metres.

    Returns:
        one `RangeError` per pair of neighbouring edges.

    Source: Khoche, Zhang, Pereira Sanchez, Jensfelt, "SSF: sparse long-range scene flow", ICRA
    2025.

    >>> far = torch.tensor([[10.0, 0.0, 0.0], [60.0, 0.0, 0.0]])
    >>> moves = torch.tensor([True, True])
    >>> errors = range_wise_epe(torch.zeros(2, 3), torch.ones(2, 3), far, moves)
    >>> [e.dynamic_points for e in errors]
    [1, 0, 1, 0, 0]
    """
    if len(edges) < 2 or any(not a < b for a, b in pairwise(edges)):
        raise InputError(f"the edges of the ranges are {tuple(edges)}; give at least two, rising")
    errors, away = point_errors(flow, truth), distance(points)
    counted = region_mask(
        points, torch.ones_like(dynamic) if mask is None else mask, radius=math.inf
    )
    ranges = []
    for near, far in pairwise(edges):
        inside = counted & (away >= near) & (away < far)
        moving, standing = errors[inside & dynamic], errors[inside & ~dynamic]
        # The mean of an empty tensor is NaN.
        dynamic_error, static_error = float(moving.mean()), float(standing.mean())
        ranges.append(
            RangeError(near, far, dynamic_error, static_error, len(moving), len(standing))
        )
    return tuple(ranges)


@dataclass(frozen=True)
class TrajectoryErrors:
    """Errors of tracked points in metres.

    Attributes:
        mean: average displacement error (ADE), the mean over all points and all times except the
            first, whose positions are given.
        final: final displacement error (FDE), the mean over all points of the error at the last
            time at which the truth of the point is known.
        over_time: mean error per time, ``(times,)``; NaN for times at which no truth is known.
    """

    mean: float
    final: float
    over_time: Tensor


def trajectory_errors(
    tracks: Tensor, truth: Tensor, valid: Tensor | None = None
) -> TrajectoryErrors:
    """Compute the displacement errors of tracked points.

    Tracks and truth are given in one frame, either the frame of the first sweep or the world's.

    Args:
        tracks: position of each point at each time, ``(times, points, 3)``, metres; the positions
            at the first time are given and do not count.
        truth: true positions, ``(times, points, 3)``, metres.
        valid: boolean ``(times, points)``, false where the true position is not known; such
            positions do not count.

    Source: the mean and final errors of motion forecasting; Vidanapathirana, Chng, Li, Lucey,
    "Multi-body neural scene flow", 3DV 2024.

    >>> truth = torch.zeros(3, 1, 3)
    >>> tracks = torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1) * torch.tensor([1.0, 0.0, 0.0])
    >>> errors = trajectory_errors(tracks, truth)
    >>> errors.mean, errors.final
    (1.5, 2.0)
    """
    if tracks.ndim != 3 or tracks.shape[-1] != 3 or tracks.shape != truth.shape:
        raise InputError(
            f"the tracks have shape {tuple(tracks.shape)} and the truth {tuple(truth.shape)}; "
            "expected (times, points, 3) for both"
        )
    if len(tracks) < 2:
        raise InputError(
            f"the tracks have {len(tracks)} times; an error of a trajectory needs the first and "
            "one more"
        )
    error = (tracks.to(torch.float64) - truth.to(torch.float64)).norm(dim=-1)
    valid = torch.ones_like(error, dtype=torch.bool) if valid is None else valid
    if valid.shape != error.shape or valid.dtype != torch.bool:
        raise InputError(
            f"valid is {valid.dtype} of shape {tuple(valid.shape)}; give booleans of shape "
            f"{tuple(error.shape)}"
        )
    later, counted = error[1:], valid[1:]
    if not bool(counted.any()):
        raise InputError(
            "no point is known at any time after the first, so the trajectories have no error; "
            "check valid"
        )
    error = torch.where(valid, error, torch.zeros_like(error))
    # The last time at which each point is known, counted from the first.
    times = torch.arange(len(later), device=later.device)[:, None]
    last = torch.where(counted, times, torch.full_like(times, -1)).amax(0)
    final = later.gather(0, last.clamp_min(0)[None])[0][last >= 0]
    return TrajectoryErrors(
        float(later[counted].mean()), float(final.mean()), error.sum(1) / valid.sum(1)
    )


def point_errors(flow: Tensor, truth: Tensor) -> Tensor:
    """Compute ``|flow - truth|`` per point in float64: ``(points,)`` or ``(batch, points)``.

    >>> point_errors(torch.tensor([[3.0, 4.0, 0.0]]), torch.zeros(1, 3))
    tensor([5.], dtype=torch.float64)
    """
    check_flows(flow, truth)
    return (flow.to(torch.float64) - truth.to(torch.float64)).norm(dim=-1)


def check_flows(flow: Tensor, truth: Tensor) -> None:
    """Raise an error unless both are flows of the same points, ``(points, 3)`` per batch item."""
    check_tensors(("the flow", flow), ("the truth", truth))
    if flow.ndim not in (2, 3) or flow.shape[-1] not in (2, 3):
        raise InputError(
            f"the flow has shape {tuple(flow.shape)}; expected (points, 3) or (batch, points, 3)"
        )
    if flow.shape != truth.shape:
        raise InputError(
            f"the flow has shape {tuple(flow.shape)} and the truth {tuple(truth.shape)}; they "
            "must agree, one vector per point of the source"
        )


def mean_over(values: Tensor, mask: Tensor | None, flow: Tensor) -> Tensor:
    """Return the mean of the values where the mask is true, in the precision of the flow.

    Values have shape ``(points,)`` or ``(batch, points)``.
    """
    if mask is None:
        if values.shape[-1] == 0:
            raise InputError(
                "the flow has no points, so it has no mean error; give a flow of points"
            )
        return like(values.mean(-1), flow)
    if mask.dtype != torch.bool or mask.shape not in (values.shape, values.shape[-1:]):
        raise InputError(
            f"the mask has shape {tuple(mask.shape)} and {mask.dtype}; give a boolean mask of "
            f"shape {tuple(values.shape)}"
        )
    mask = mask.expand(values.shape)
    if not bool(mask.any(-1).all()):
        raise InputError("the mask leaves no point; widen it")
    # values * mask would spread NaN values that lie outside the mask.
    return like(torch.where(mask, values, torch.zeros_like(values)).sum(-1) / mask.sum(-1), flow)


def region_mask(
    points: Tensor,
    among: Tensor,
    ground: Tensor | None = None,
    valid: Tensor | None = None,
    radius: float = RADIUS,
) -> Tensor:
    """Return the mask of the points `among` that count: boolean ``(points,)``.

    They are not ground, their truth is known, and they lie within the radius along the ground.
    """
    for name, value in (("dynamic", among), ("ground", ground), ("valid", valid)):
        if value is not None and (value.shape != points.shape[:1] or value.dtype != torch.bool):
            raise InputError(
                f"{name} is {value.dtype} of shape {tuple(value.shape)}; give booleans, one for "
                f"each of {len(points)} points"
            )
    counted = among & (distance(points) < radius)
    if ground is not None:
        counted = counted & ~ground
    return counted if valid is None else counted & valid


def distance(points: Tensor) -> Tensor:
    """Compute the distance per point from the sensor along the ground, float64 ``(points,)``."""
    if points.ndim != 2 or points.shape[-1] != 3:
        raise InputError(f"points have the shape {tuple(points.shape)}; expected (points, 3)")
    return points[:, :2].to(torch.float64).norm(dim=-1)


def _accuracy(flow: Tensor, truth: Tensor, mask: Tensor | None, limit: float) -> Tensor:
    error = point_errors(flow, truth)
    hit = (error < limit) | (error < limit * truth.to(torch.float64).norm(dim=-1))
    return mean_over(hit.to(torch.float64), mask, flow)


def _angle(a: Tensor, b: Tensor) -> Tensor:
    """Compute the angle between vectors by Kahan's formula, ``2 atan2(|a - b|, |a + b|)``.

    It is exact for small and for large angles, where the arc cosine loses half of the digits.
    """
    a, b = (v / v.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny) for v in (a, b))
    return 2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1))
