"""Base class of priors of a flow, and the points, labels and flows that they take.

`FlowPrior` keeps something made of the points of each item, and computes one energy per item.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry.displacements import as_points
from invtoolbox.priors.base import ExplicitPrior, Problem
from invtoolbox.priors.settings import replace, require_bound


class FlowPrior(ExplicitPrior):
    """Base class of priors of the flow of points, ``(batch, N, 3)``, which depend on the points.

    If x is several flows, the prior is of the first. A subclass defines what it keeps of the points
    of an item (``_piece``, for example a graph) and the energy of the flow of that item
    (``_item_energy``).
    """

    is_smooth = True
    item_fields: ClassVar[tuple[str, ...]] = ("pieces",)
    #: Labels of the points, ``(N,)`` or ``(batch, N)``, in priors that have labels.
    labels: Tensor | None = None

    def __init__(self) -> None:
        self.pieces: tuple[Any, ...] = ()  # one that all items share, or one per item

    @abstractmethod
    def _piece(self, points: Tensor, item: int) -> Any:
        """Return the data kept of the points ``(N, 3)`` of an item, an object of length N."""

    @abstractmethod
    def _item_energy(self, piece: Any, flow: Tensor) -> Tensor:
        """Return the energy, a number, of the flow ``(N, 3)``."""

    def _labels_for(self, points: Tensor, item: int) -> Tensor | None:
        """Return the labels of an item, one per point."""
        labels = labels_of(self.labels, item)
        if labels is not None and len(labels) != len(points):
            raise InputError(
                f"{type(self).__name__} has labels of {len(labels)} points, "
                f"and the problem moves {len(points)}"
            )
        return labels

    def _pieces_with_items(self) -> list[tuple[Any, slice]]:
        """Return every piece with the items of the batch that it serves."""
        if len(self.pieces) == 1:
            return [(self.pieces[0], slice(None))]
        return [(piece, slice(k, k + 1)) for k, piece in enumerate(self.pieces)]

    def prepare(self, problem: Problem, solve: Any) -> Self:
        return self.bind(flow_points(problem, repr(self)))

    def bind(self, points: Tensor) -> Self:
        """Return a copy for the points ``(1 or batch, N, 3)``."""
        items = max(len(points), self._own_items())
        if len(points) not in (1, items):
            raise InputError(
                f"{self!r} has labels for {items} items, and the problem moves points of "
                f"{len(points)}"
            )
        return replace(
            self,
            pieces=tuple(self._piece(points[k if len(points) > 1 else 0], k) for k in range(items)),
        )

    def _own_items(self) -> int:
        """Return the number of items for which the prior holds labels or graphs."""
        return len(self.labels) if self.labels is not None and self.labels.ndim == 2 else 1

    def energy(self, x: Any) -> Tensor:
        require_bound(self, self.pieces)
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
        """Return the mean over the times of `Moving`, or of displacements ``(batch, T, N, 3)``."""
        times = (x[0] if isinstance(x, tuple) else x).shape[1]
        return torch.stack([self.energy(self._at(x, time)) for time in range(times)]).mean(0)

    def _at(self, x: Any, time: int) -> Any:
        """Return the part of x that belongs to one of several times."""
        return (x[0] if isinstance(x, tuple) else x)[:, time]

    def _shared_energy(self, piece: Any, flow: Tensor) -> Tensor:
        """Return the energies ``(batch,)`` of flows ``(batch, N, 3)`` of the same points.

        They are computed one by one unless overridden.
        """
        return torch.stack([self._item_energy(piece, item) for item in flow])


def flow_points(problem: Problem, what: str) -> Tensor:
    """Return the points of the problem's operator, ``(1 or batch, N, 3)``."""
    points = getattr(problem.operator, "points", None)
    if not isinstance(points, Tensor):
        raise InputError(
            f"{what} is about the flow of points, and {problem.operator} has none; "
            "use it.operators.PointWarp"
        )
    return points.detach()


def sequence_of(problem: Problem, what: str) -> tuple[tuple[Tensor, ...], tuple[float, ...]]:
    """Return the sweeps of the problem's operator, and their times."""
    sweeps, times = (getattr(problem.operator, name, None) for name in ("sweeps", "times"))
    if not sweeps or not times:
        raise InputError(
            f"{what} is about sequences of sweeps, and {problem.operator} has none; "
            "use it.operators.EulerRollout"
        )
    return sweeps, times


def first_flow(x: Any, count: int | None, what: str) -> Tensor:
    """Return the flow ``(batch, N, 3)`` of x, or of the first of several flows.

    The first flow is the one forward in time. A flow of voxels is returned as a list of points.
    """
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


def is_over_time(x: Any) -> bool:
    """Return whether x, or its first member, is displacements ``(batch, T, N, 3)``."""
    flow = x[0] if isinstance(x, tuple) else x
    return isinstance(flow, Tensor) and flow.ndim == 4


def check_labels(labels: Tensor, what: str) -> Tensor:
    """Check the labels of points, whole numbers ``(N,)`` or ``(batch, N)``, and return int64."""
    if labels.ndim not in (1, 2) or labels.is_floating_point() or labels.is_complex():
        raise InputError(
            f"{what} takes labels that are whole numbers, (N,) or (batch, N), "
            f"got {tuple(labels.shape)} of {labels.dtype}"
        )
    return labels.long()


def labels_of(labels: Tensor | None, item: int) -> Tensor | None:
    """Return the labels ``(N,)`` of an item."""
    if labels is None or labels.ndim == 1:
        return labels
    if not (len(labels) == 1 or item < len(labels)):
        raise InputError(f"there are labels for {len(labels)} items, and none for item {item}")
    return labels[item if len(labels) > 1 else 0]


def smooth_norm(vectors: Tensor, smoothing: float | Tensor) -> Tensor:
    """Return ``sqrt(|v|^2 + smoothing^2) - smoothing`` of vectors along the last axis.

    It has a derivative at 0.
    """
    return (vectors.square().sum(-1) + smoothing**2).sqrt() - smoothing
