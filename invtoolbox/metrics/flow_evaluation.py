"""All errors of the flow of one pair of sweeps in one call.

The report, the command line and the benchmarks print these figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import check_motion, relative_motion, transform
from invtoolbox.geometry.sweeps import Sweep
from invtoolbox.metrics.flow import (
    RADIUS,
    RangeError,
    accuracy_relax,
    accuracy_strict,
    angle_error,
    end_point_error,
    outliers,
    range_wise_epe,
    region_mask,
    space_time_angle_error,
)
from invtoolbox.metrics.flow_scores import (
    BucketedEPE,
    ThreeWayEPE,
    bucketed_epe,
    meta_class,
    three_way_epe,
)


@dataclass(frozen=True)
class FlowErrors:
    """Errors of the flow of one pair of sweeps, or of many pairs (`pool`).

    Errors are in metres and radians, accuracies and outliers are shares, and a figure is NaN if no
    point contributes to it. Points count if their truth is known, if they are not labelled ground,
    and if they lie within 35 m of the sensor along the ground. The three-way and the
    bucket-normalized error count points with ``|x| < 35 and |y| < 35`` instead, and `ranges` counts
    points at any distance.

    **The sensor's own motion is removed**: the true motion is subtracted from the truth and from
    the estimate. An error of the estimated motion of the sensor thus appears as an error of the
    flow.

    Attributes:
        points, dynamic_points: number of points that count, and number of those labelled dynamic.
        dynamic, static: end-point errors of the points labelled dynamic and of the other points.
        epe, strict, relax, outliers, angle, space_time_angle: errors over all points that count;
            `angle` is the angle in space, `space_time_angle` the angle with 0.1 s as a fourth
            component.
        three_way, bucketed: sums, which add over sweeps.
        ranges: errors by distance.
    """

    points: int
    dynamic_points: int
    dynamic: float
    static: float
    epe: float
    strict: float
    relax: float
    outliers: float
    angle: float
    space_time_angle: float
    three_way: ThreeWayEPE
    bucketed: BucketedEPE
    ranges: tuple[RangeError, ...] = field(default=())

    #: Headings of the columns of `row`.
    COLUMNS = (
        "dynamic EPE [m]",
        "static EPE [m]",
        "EPE [m]",
        "AccS",
        "AccR",
        "outliers",
        "angle [rad]",
        "4D angle [rad]",
        "three-way EPE [m]",
        "bucketed dynamic",
        "bucketed static [m]",
        "points",
        "dynamic points",
    )

    def row(self) -> tuple[str, ...]:
        """Return the figures as text, in the order of `COLUMNS`.

        The three-way error is pooled over points.
        """
        mean = self.bucketed.mean()
        numbers = (
            self.dynamic,
            self.static,
            self.epe,
            self.strict,
            self.relax,
            self.outliers,
            self.angle,
            self.space_time_angle,
            self.three_way.pool().mean,
            mean.dynamic,
            mean.static,
        )
        return (
            *("-" if math.isnan(v) else f"{v:.4f}" for v in numbers),
            str(self.points),
            str(self.dynamic_points),
        )


def evaluate(
    estimate: Tensor | HasFlow,
    sweep: Sweep,
    ego_motion: Tensor | None = None,
    next_pose: Tensor | None = None,
) -> FlowErrors:
    """Compare a flow with the labels of the sweep at which it starts.

    Args:
        estimate: flow of every point, ``(N, 3)``, including the sensor's own motion; or an object
            with this flow as its attribute `flow`.
        sweep: sweep with `labels`.
        ego_motion: true motion of the standing world in the sensor's frame, ``p1 = E p0``,
            ``(4, 4)``.
        next_pose: pose of the sensor at the next sweep, an alternative to `ego_motion`; `sweep`
            must then have a pose.

    Raises:
        InputError: if the sweep has no labels, the sensor's motion is not known, or a labelled
            point has no flow.

    >>> from invtoolbox.geometry.sweeps import FlowLabels
    >>> truth, no = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), torch.tensor([-1, -1])
    >>> labels = FlowLabels(truth, torch.tensor([True, True]), torch.tensor([True, False]), no, ())
    >>> errors = evaluate(torch.zeros(2, 3), Sweep(torch.ones(2, 3), labels=labels), torch.eye(4))
    >>> errors.dynamic, errors.static
    (1.0, 0.0)
    """
    labels, points = sweep.labels, sweep.points
    if labels is None:
        raise InputError(f"{sweep.source}: the sweep has no flow labels to compare with")
    flow = estimate if isinstance(estimate, Tensor) else estimate.flow
    if flow.shape != points.shape:
        raise InputError(
            f"{sweep.source}: the flow has shape {tuple(flow.shape)} for {len(points)} points"
        )
    E = _ego_motion(sweep, ego_motion, next_pose)
    # Double precision: at 100 m, the difference of two equal motions would leave the rounding error
    # of single precision.
    exact = points.to(torch.float64)
    rigid = transform(E.to(points.device), exact) - exact
    residual, truth = (
        flow.to(points.device).to(torch.float64) - rigid,
        labels.flow.to(torch.float64) - rigid,
    )
    valid = labels.valid & sweep.finite
    lost = int((valid & ~residual.isfinite().all(1)).sum())
    if lost:
        raise InputError(
            f"{sweep.source}: {lost} labelled points have no finite flow; every point needs one"
        )
    ground = torch.zeros_like(valid) if labels.ground is None else labels.ground
    near = region_mask(points, torch.ones_like(valid), ground, valid, RADIUS)
    square = valid & ~ground & (points[:, :2].abs() < RADIUS).all(1)
    classes = meta_class(labels.category, labels.categories)

    def over(measure: Callable[[Tensor, Tensor, Tensor], Tensor], among: Tensor) -> float:
        return float(measure(residual, truth, among)) if bool(among.any()) else math.nan

    return FlowErrors(
        points=int(near.sum()),
        dynamic_points=int((near & labels.dynamic).sum()),
        dynamic=over(end_point_error, near & labels.dynamic),
        static=over(end_point_error, near & ~labels.dynamic),
        epe=over(end_point_error, near),
        strict=over(accuracy_strict, near),
        relax=over(accuracy_relax, near),
        outliers=over(outliers, near),
        angle=over(angle_error, near),
        space_time_angle=over(space_time_angle_error, near),
        three_way=three_way_epe(residual, truth, classes, square),
        bucketed=bucketed_epe(residual, truth, classes, square),
        ranges=range_wise_epe(residual, truth, points, labels.dynamic, valid & ~ground),
    )


def pool(errors: Sequence[FlowErrors]) -> FlowErrors:
    """Pool the errors of many pairs; every point of every pair has the same weight."""
    if not errors:
        raise InputError("there are no errors to pool; evaluate a pair first")
    points = [e.points for e in errors]
    moving = [e.dynamic_points for e in errors]
    standing = [a - b for a, b in zip(points, moving)]

    def mean(name: str, weights: Sequence[int]) -> float:
        return _average([getattr(e, name) for e in errors], weights)

    overall = {
        name: mean(name, points)
        for name in ("epe", "strict", "relax", "outliers", "angle", "space_time_angle")
    }
    return FlowErrors(
        points=sum(points),
        dynamic_points=sum(moving),
        dynamic=mean("dynamic", moving),
        static=mean("static", standing),
        three_way=sum((e.three_way for e in errors), ThreeWayEPE()),
        bucketed=sum((e.bucketed for e in errors), BucketedEPE()),
        ranges=tuple(_pool_range(parts) for parts in zip(*(e.ranges for e in errors))),
        **overall,
    )


class HasFlow(Protocol):
    """An object with a flow of every point of the sweep, including the sensor's own motion."""

    @property
    def flow(self) -> Tensor: ...


def _pool_range(parts: Sequence[RangeError]) -> RangeError:
    moving, standing = [p.dynamic_points for p in parts], [p.static_points for p in parts]
    return RangeError(
        parts[0].near,
        parts[0].far,
        _average([p.dynamic for p in parts], moving),
        _average([p.static for p in parts], standing),
        sum(moving),
        sum(standing),
    )


def _average(values: Sequence[float], weights: Sequence[int]) -> float:
    total = sum(weights)
    return sum(v * w for v, w in zip(values, weights) if w) / total if total else math.nan


def _ego_motion(sweep: Sweep, ego_motion: Tensor | None, next_pose: Tensor | None) -> Tensor:
    if (ego_motion is None) == (next_pose is None):
        raise InputError(
            f"{sweep.source}: give the true motion of the sensor, either as ego_motion or as "
            "next_pose"
        )
    if ego_motion is not None:
        return check_motion(ego_motion, "ego_motion")
    if sweep.pose is None:
        raise InputError(
            f"{sweep.source}: the sweep has no pose; give ego_motion instead of next_pose"
        )
    assert next_pose is not None
    return relative_motion(
        check_motion(sweep.pose, "the pose of the sweep"), check_motion(next_pose, "next_pose")
    )
