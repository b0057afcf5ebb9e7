"""What priors of motion look at: the points that a problem moves, their labels, and the first flow of an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from invtoolbox.errors import InputError

if TYPE_CHECKING:
    from invtoolbox.problem import Problem


def flow_points(problem: Problem, what: str) -> Tensor:
    """The points of the problem's operator, ``(1 or batch, N, 3)``."""
    points = getattr(problem.operator, "points", None)
    if not isinstance(points, Tensor):
        raise InputError(
            f"{what} is about the flow of points, and {problem.operator} has none; use it.operators.PointWarp"
        )
    return points.detach()


def sequence_of(problem: Problem, what: str) -> tuple[tuple[Tensor, ...], tuple[float, ...]]:
    """The sweeps of the problem's operator, and their times."""
    sweeps, times = (
        getattr(problem.operator, "sweeps", None),
        getattr(problem.operator, "times", None),
    )
    if not sweeps or not times:
        raise InputError(
            f"{what} is about sequences of sweeps, and {problem.operator} has none; use it.operators.EulerRollout"
        )
    return sweeps, times


def as_points(x: Tensor) -> Tensor:
    """Displacements ``(batch, N, 3)``: of points as they are, of voxels ``(batch, 3, *space)`` in the order of the grid."""
    return x.flatten(2).transpose(1, 2) if x.ndim == 5 and x.shape[1] == 3 else x


def like_points(points: Tensor, x: Tensor) -> Tensor:
    """`as_points` backwards: displacements ``(batch, N, 3)`` in the shape that x has."""
    return points.transpose(1, 2).reshape(x.shape) if x.ndim == 5 else points


def first_flow(x: Any, count: int | None, what: str) -> Tensor:
    """The flow ``(batch, N, 3)``: x itself, or the first of several (the one forward in time); that of voxels as a list."""
    flow = x[0] if isinstance(x, tuple) else x
    flow = as_points(flow) if isinstance(flow, Tensor) else flow
    if (
        not isinstance(flow, Tensor)
        or flow.ndim != 3
        or flow.shape[-1] != 3
        or (count is not None and flow.shape[1] != count)
    ):
        got = tuple(flow.shape) if isinstance(flow, Tensor) else type(flow).__name__
        raise InputError(
            f"{what} takes a flow of shape (batch, {'N' if count is None else count}, 3), got {got}"
        )
    return flow


def checked_labels(labels: Tensor, what: str) -> Tensor:
    """Labels of points, whole numbers ``(N,)`` or ``(batch, N)``, as int64."""
    if labels.ndim not in (1, 2) or labels.is_floating_point() or labels.is_complex():
        raise InputError(
            f"{what} takes labels that are whole numbers, (N,) or (batch, N), got {tuple(labels.shape)} of {labels.dtype}"
        )
    return labels.long()


def labels_of(labels: Tensor | None, item: int) -> Tensor | None:
    """The labels ``(N,)`` of an item."""
    if labels is None or labels.ndim == 1:
        return labels
    if not (len(labels) == 1 or item < len(labels)):
        raise InputError(f"there are labels for {len(labels)} items, and none for item {item}")
    return labels[item if len(labels) > 1 else 0]
