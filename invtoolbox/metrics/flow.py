"""Errors of flows, point by point: end-point error, accuracies, outliers.

Errors of the direction of flows: the angle in space, and the angle in space and time.

End-point errors by motion and by distance from the sensor.

Errors of trajectories: how far tracked points are from where they went.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.metrics.images import like

#: How far from the sensor points count in the dynamic and in the static error, in metres along the ground.
RADIUS = 35.0
#: Edges of the distances that errors are told apart by, in metres along the ground.
RANGES = (0.0, 35.0, 50.0, 75.0, 100.0, math.inf)


def end_point_error(flow: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean end-point error, ``mean over points of |flow - truth|``, in the unit of the flow (metres).

    Args:
        flow: the flow of every point, ``(points, 3)``, or ``(batch, points, 3)`` (2 components for optical
            flow).
        truth: the same for the true flow. Both include ego motion, or neither does.
        mask: boolean, ``(points,)`` or ``(batch, points)``: true where a point counts.

    Returns:
        A number (a tensor without axes) for one flow, or ``(batch,)``.

    >>> end_point_error(torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]]), torch.zeros(2, 3))
    tensor(3.)
    """
    return mean_over(point_errors(flow, truth), mask, flow)


def accuracy_strict(flow: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """The share of points that are off by less than 0.05 m **or** by less than 5 % of the true flow's length.

    Shapes and errors are those of `end_point_error`. The relative test depends on whether the sensor's own motion is in the flows:
    it makes a standing point's true flow long. The figures of `evaluate` are without it.

    Source: Liu, Qi, Guibas, "FlowNet3D", CVPR 2019, section 6.

    >>> accuracy_strict(torch.tensor([[1.04, 0.0, 0.0], [0.2, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    tensor(0.5000)
    """
    return _accuracy(flow, truth, mask, 0.05)


def accuracy_relax(flow: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """The share of points that are off by less than 0.1 m **or** by less than 10 %; see `accuracy_strict`.

    >>> accuracy_relax(torch.tensor([[1.08, 0.0, 0.0], [0.2, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    tensor(0.5000)
    """
    return _accuracy(flow, truth, mask, 0.1)


def outliers(flow: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """The share of points that are off by more than 0.3 m **or** by more than 10 % of the true flow's length.

    A point whose true flow is zero is an outlier as soon as its flow is not exactly zero: with the sensor's motion removed this
    figure says little about the static world. Shapes and errors are those of `end_point_error`.

    Source: Gu, Wang, Wu, Lee, Wang, "HPLFlowNet", CVPR 2019, section 4.

    >>> outliers(torch.tensor([[1.05, 0.0, 0.0], [0.01, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    tensor(0.5000)
    """
    error = point_errors(flow, truth)
    return mean_over(
        ((error > 0.3) | (error > 0.1 * truth.to(torch.float64).norm(dim=-1))).to(torch.float64),
        mask,
        flow,
    )


def angle_error(flow: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean angle between flow and truth **in space**, in radians, 0 to pi.

    A vector without length has no direction: against another one of length zero it counts 0, against any other pi / 2. Where much of
    the world stands still, `space_time_angle_error` says more.

    Args:
        flow: ``(points, 3)`` or ``(batch, points, 3)``.
        truth: likewise. Both include ego motion, or neither does.
        mask: boolean, ``(points,)`` or ``(batch, points)``: true where a point counts.

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
    """The mean angle between flow and truth **in space and time**, in radians: of ``(x, y, z, interval)``.

    The time between the sweeps, in seconds beside metres, makes a fourth component, so that a vector without length has a direction
    too, and two short vectors enclose a small angle whatever their directions are. This is the angle of the Argoverse 2 code. Shapes are
    those of `angle_error`.

    >>> space_time_angle_error(torch.tensor([[0.1, 0.0, 0.0]]), torch.zeros(1, 3))
    tensor(0.7854)
    """
    check_flows(flow, truth)
    if not interval > 0:
        raise InputError(f"the interval between the sweeps is {interval} s; give a positive one")
    time = torch.full_like(flow[..., :1], interval, dtype=torch.float64)
    a, b = (
        torch.cat([flow.to(torch.float64), time], -1),
        torch.cat([truth.to(torch.float64), time], -1),
    )
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


@dataclass(frozen=True)
class TrajectoryErrors:
    """Errors of tracked points in metres.

    Attributes:
        mean: the mean displacement error (ADE): over all points and all times but the first, which is given.
        final: the final displacement error (FDE): over all points at the last time at which each is known.
        over_time: the mean error at each time, ``(times,)``; NaN where no point is known.
    """

    mean: float
    final: float
    over_time: Tensor


def trajectory_errors(
    tracks: Tensor, truth: Tensor, valid: Tensor | None = None
) -> TrajectoryErrors:
    """The displacement errors of tracks, in one frame (that of the first sweep, or the world's).

    Args:
        tracks: where each point is at each time, ``(times, points, 3)``, metres; the first time is the given one.
        truth: likewise.
        valid: boolean ``(times, points)``, false where the truth is not known; such places do not count.

    Source: the mean and final errors of motion forecasting; Vidanapathirana, Chng, Li, Lucey, "Multi-body neural scene flow", 3DV 2024.

    >>> truth = torch.zeros(3, 1, 3)
    >>> tracks = torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1) * torch.tensor([1.0, 0.0, 0.0])
    >>> errors = trajectory_errors(tracks, truth)
    >>> errors.mean, errors.final
    (1.5, 2.0)
    """
    if tracks.ndim != 3 or tracks.shape[-1] != 3 or tracks.shape != truth.shape:
        raise InputError(
            f"the tracks have shape {tuple(tracks.shape)} and the truth {tuple(truth.shape)}; expected the same "
            "(times, points, 3) of both"
        )
    if len(tracks) < 2:
        raise InputError(
            f"the tracks have {len(tracks)} times; an error of a trajectory needs the first and one more"
        )
    error = (tracks.to(torch.float64) - truth.to(torch.float64)).norm(dim=-1)
    known = torch.ones_like(error, dtype=torch.bool) if valid is None else valid
    if known.shape != error.shape or known.dtype != torch.bool:
        raise InputError(
            f"valid is {known.dtype} of shape {tuple(known.shape)}; give booleans of shape {tuple(error.shape)}"
        )
    later, seen = error[1:], known[1:]
    if not bool(seen.any()):
        raise InputError(
            "no point is known at any time after the first; there is no error of the trajectories"
        )
    error = torch.where(known, error, torch.zeros_like(error))
    # The last time at which each point is known, counted from the first.
    times = torch.arange(len(later), device=later.device)[:, None]
    last = torch.where(seen, times, torch.full_like(times, -1)).amax(0)
    final = later.gather(0, last.clamp_min(0)[None])[0][last >= 0]
    return TrajectoryErrors(
        float(later[seen].mean()), float(final.mean()), error.sum(1) / known.sum(1)
    )


def point_errors(flow: Tensor, truth: Tensor) -> Tensor:
    """``|flow - truth|`` of every point in float64: ``(points,)`` or ``(batch, points)``.

    >>> point_errors(torch.tensor([[3.0, 4.0, 0.0]]), torch.zeros(1, 3))
    tensor([5.], dtype=torch.float64)
    """
    check_flows(flow, truth)
    return (flow.to(torch.float64) - truth.to(torch.float64)).norm(dim=-1)


def check_flows(flow: Tensor, truth: Tensor) -> None:
    """Refuse flows that are none, or that cannot be compared point by point."""
    if flow.ndim not in (2, 3) or flow.shape[-1] not in (2, 3):
        raise InputError(
            f"the flow has shape {tuple(flow.shape)}; expected (points, 3) or (batch, points, 3)"
        )
    if flow.shape != truth.shape:
        raise InputError(
            f"the flow has shape {tuple(flow.shape)} and the truth {tuple(truth.shape)}; they "
            "must agree, a vector for every point of the source"
        )


def mean_over(values: Tensor, mask: Tensor | None, flow: Tensor) -> Tensor:
    """The mean of values ``(points,)`` or ``(batch, points)`` where the mask is true, in the precision of the flow."""
    if mask is None:
        if values.shape[-1] == 0:
            raise InputError("the flow has no points; there is no mean error")
        return like(values.mean(-1), flow)
    if mask.dtype != torch.bool or mask.shape not in (values.shape, values.shape[-1:]):
        raise InputError(
            f"the mask has shape {tuple(mask.shape)} and {mask.dtype}; give a boolean one of "
            f"shape {tuple(values.shape)}"
        )
    mask = mask.expand(values.shape)
    if not bool(mask.any(-1).all()):
        raise InputError("the mask leaves no point; widen it")
    # Not values * mask: outside the mask there may be NaN.
    return like(torch.where(mask, values, torch.zeros_like(values)).sum(-1) / mask.sum(-1), flow)


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


def _accuracy(flow: Tensor, truth: Tensor, mask: Tensor | None, limit: float) -> Tensor:
    error = point_errors(flow, truth)
    return mean_over(
        ((error < limit) | (error < limit * truth.to(torch.float64).norm(dim=-1))).to(
            torch.float64
        ),
        mask,
        flow,
    )


def _angle(a: Tensor, b: Tensor) -> Tensor:
    """The angle between vectors, exact for small and for large ones (Kahan), where the arc cosine loses half of the digits."""
    a, b = (v / v.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny) for v in (a, b))
    return 2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1))
