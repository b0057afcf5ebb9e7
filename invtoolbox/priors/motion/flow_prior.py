"""What priors of motion look at: the points that a problem moves, their labels, and the first flow of an answer.

What priors of a flow have in common: something made of each item's points, and one energy an item.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.priors.base import ExplicitPrior

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


def check_labels(labels: Tensor, what: str) -> Tensor:
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


class FlowPrior(ExplicitPrior):
    """A prior of the flow ``(batch, N, 3)`` of points, or of the first of several flows, that looks at where the points are.

    A subclass says what it makes of the points of an item (``_piece``: a graph, say) and the energy of that item's flow.
    """

    is_smooth = True
    item_fields: ClassVar[tuple[str, ...]] = ("pieces",)
    labels: Tensor | None = (
        None  # of the points, ``(N,)`` or ``(batch, N)``, in priors that have some
    )

    def __init__(self) -> None:
        self.pieces: tuple[Any, ...] = ()  # one that all items share, or one an item

    @abstractmethod
    def _piece(self, points: Tensor, item: int) -> Any:
        """What is kept of the points ``(N, 3)`` of an item: something with a length of N."""

    @abstractmethod
    def _item_energy(self, piece: Any, flow: Tensor) -> Tensor:
        """The energy, a number, of the flow ``(N, 3)``."""

    def prepare(self, problem: Problem, solve: Any) -> Self:
        return self.bind(flow_points(problem, repr(self)))

    def bind(self, points: Tensor) -> Self:
        """A copy for the points ``(1 or batch, N, 3)``."""
        items = max(len(points), self._own_items())
        if len(points) not in (1, items):
            raise InputError(
                f"{self!r} has labels for {items} items, and the problem moves points of {len(points)}"
            )
        other = copy.copy(self)
        other.pieces = tuple(
            self._piece(points[k if len(points) > 1 else 0], k) for k in range(items)
        )
        return other

    def _own_items(self) -> int:
        """For how many items the prior holds labels, or other things of their own."""
        return len(self.labels) if self.labels is not None and self.labels.ndim == 2 else 1

    def energy(self, x: Any) -> Tensor:
        if not self.pieces:
            raise InputError(
                f"{self!r} knows no points yet: it.solve tells it, or call prior.prepare(problem, it.solve)"
            )
        if is_over_time(x):
            return self._over_time(x)
        flow = first_flow(x, len(self.pieces[0]), repr(self))
        if len(self.pieces) not in (1, len(flow)):
            raise InputError(
                f"{self!r} was made for {len(self.pieces)} items, and was given {len(flow)}"
            )
        if len(self.pieces) == 1:
            return self._shared_energy(self.pieces[0], flow)
        return torch.stack(
            [self._item_energy(piece, item) for piece, item in zip(self.pieces, flow)]
        )

    def _over_time(self, x: Any) -> Tensor:
        """The mean over the times of `Moving`, or of displacements ``(batch, T, N, 3)``."""
        times = (x[0] if isinstance(x, tuple) else x).shape[1]
        return torch.stack([self.energy(self._at(x, time)) for time in range(times)]).mean(0)

    def _at(self, x: Any, time: int) -> Any:
        """What the energy of one of several times is of."""
        return (x[0] if isinstance(x, tuple) else x)[:, time]

    def _shared_energy(self, piece: Any, flow: Tensor) -> Tensor:
        """The energies ``(batch,)`` of flows ``(batch, N, 3)`` of the same points; one by one unless overridden."""
        return torch.stack([self._item_energy(piece, item) for item in flow])


def is_over_time(x: Any) -> bool:
    flow = x[0] if isinstance(x, tuple) else x
    return isinstance(flow, Tensor) and flow.ndim == 4


def smoothed_norm(vectors: Tensor, smoothing: float | Tensor) -> Tensor:
    """``sqrt(|v|^2 + smoothing^2) - smoothing`` of vectors along the last axis; it has a derivative at 0."""
    return (vectors.square().sum(-1) + smoothing**2).sqrt() - smoothing
