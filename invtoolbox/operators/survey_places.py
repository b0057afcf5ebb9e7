"""Surveys: places of shots and receivers on a grid, in cells and as weights of the nodes around."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Sequence
from itertools import product
from typing import Any, Self

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import Operator


class Survey(Operator):
    """Base class of operators from the velocity of a medium to what receivers record of shots.

    Args:
        grid: number of nodes along each axis, two or three axes.
        spacing: distance of neighbouring nodes, metres; a number, or one per axis.
        shots: places of the shots, ``(shots, axes)``, metres from the first node.
        receivers: places of the receivers, ``(receivers, axes)`` or ``(shots, receivers, axes)``.
        velocities: least and largest velocity, m/s.

    Attributes:
        shots, receivers: places in cells.

    Raises:
        InputError: a grid of another number of axes, velocities that are not positive, or a place
            outside of the grid.
    """

    def __init__(
        self,
        grid: Sequence[int],
        spacing: float | Sequence[float],
        shots: Tensor,
        receivers: Tensor,
        velocities: tuple[float, float],
    ) -> None:
        axes, name = len(grid), type(self).__name__
        sides = tuple(torch.as_tensor(spacing, dtype=torch.float64).flatten().tolist())
        sides = sides * axes if len(sides) == 1 else sides
        if axes not in (2, 3) or len(sides) != axes or min(grid) < 1 or not min(sides) > 0:
            raise InputError(
                f"{name} takes a grid of two or three axes and a positive spacing, got the grid "
                f"{tuple(grid)} and the spacing {spacing}"
            )
        low, high = velocities
        if not 0 < low <= high < math.inf:
            raise InputError(
                f"velocities of {name} are the least and the largest one in m/s, both positive, "
                f"got {tuple(velocities)}"
            )
        self.grid, self.spacing = tuple(int(n) for n in grid), tuple(float(s) for s in sides)
        self.velocities = (float(low), float(high))
        self.shots = places_in_cells(shots, "shots", self.grid, self.spacing, (2,))
        self.receivers = places_in_cells(receivers, "receivers", self.grid, self.spacing, (2, 3))
        if self.receivers.ndim == 3 and len(self.receivers) != len(self.shots):
            raise InputError(
                f"receivers are for {len(self.receivers)} shots, and there are {len(self.shots)}; "
                "give the receivers of every shot, or (receivers, axes) for all of them"
            )
        self.domain_shape = (1, *self.grid)

    @abstractmethod
    def _set_places(self) -> None:
        """Set ``range_shape`` and what else depends on the places of shots and receivers."""

    @property
    def blocks(self) -> int:
        """The number of shots."""
        return len(self.shots)

    def subset(self, index: Any) -> Self:
        """Return the survey of some shots: ``A.subset(i)(x) = A(x)[:, :, i]``."""
        survey = copy.copy(self)
        if not isinstance(index, slice):
            index = torch.as_tensor(index, device=self.shots.device).reshape(-1)
        survey.shots = self.shots[index]
        survey.receivers = self.receivers[index] if self.receivers.ndim == 3 else self.receivers
        survey._set_places()
        return survey

    def __repr__(self) -> str:
        cells, receivers = "x".join(str(n) for n in self.grid), self.receivers.shape[-2]
        return f"{type(self).__name__}({cells}, {len(self.shots)} shots, {receivers} receivers)"


def places_in_cells(
    places: Tensor,
    name: str,
    grid: Sequence[int],
    spacing: Sequence[float],
    ndims: tuple[int, ...],
) -> Tensor:
    """Return places in cells, exact if they are on the grid; all must lie inside of it.

    Args:
        places: places in metres from the first node, ``(..., axes)``.
        name: what the places are, for errors.
        grid: number of cells along each axis.
        spacing: side of a cell along each axis, metres.
        ndims: accepted numbers of axes of ``places``.

    Raises:
        InputError: places of another shape, or outside of the grid.

    >>> places_in_cells(torch.tensor([[20.0, 15.0]]), "shots", (4, 4), (10.0, 10.0), (2,))
    tensor([[2.0000, 1.5000]])
    """
    axes, places = len(grid), torch.as_tensor(places)
    places = places if places.is_floating_point() else places.float()
    if places.ndim not in ndims or places.shape[-1] != axes or not places.numel():
        raise InputError(
            f"{name} are positions of {axes} coordinates in metres, the depth first, got the "
            f"shape {tuple(places.shape)}"
        )
    extent = torch.tensor([(n - 1) * s for n, s in zip(grid, spacing)])
    # NaN compares false with everything, so such a place is outside.
    outside = ~((places >= -1e-3) & (places <= extent.to(places) + 1e-3)).all(-1)
    if bool(outside.any()):
        first = places[outside][0].tolist()
        raise InputError(
            f"{int(outside.sum())} of the {name} lie outside of the grid, which ends at "
            f"{tuple(extent.tolist())} m; move them (the first is at "
            f"{tuple(round(c, 3) for c in first)} m) or enlarge the grid"
        )
    cells = places / places.new_tensor(spacing)
    # Rounding would make operators interpolate, beyond the border of the grid.
    return torch.where((cells - cells.round()).abs() <= 1e-3, cells.round(), cells)


def repeated_places(places: Tensor) -> Tensor | None:
    """Return the number of the first receiver at the place of every receiver, or None.

    It is None if no two receivers of a shot are at one place.

    Args:
        places: places ``(receivers, axes)`` or ``(shots, receivers, axes)``.

    >>> repeated_places(torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 1.0]]))
    tensor([0, 1, 0])
    """
    shots = places if places.ndim == 3 else places[None]
    numbers = torch.arange(shots.shape[1], device=places.device)
    firsts = []
    for shot in shots:
        unique, which = shot.unique(dim=0, return_inverse=True)
        last = numbers.new_full((len(unique),), len(numbers))
        firsts.append(last.scatter_reduce(0, which, numbers, "amin")[which])
    first = torch.stack(firsts)
    return None if bool((first == numbers).all()) else first.view(places.shape[:-1])


def corner_weights(cells: Tensor, grid: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the nodes around places and their weights in multilinear interpolation.

    Args:
        cells: places in cells, ``(..., axes)``.
        grid: number of nodes along each axis.

    Returns:
        Numbers of the nodes in a flat grid, and weights, both ``(..., 2^axes)``.

    >>> nodes, weights = corner_weights(torch.tensor([[0.0, 1.25]]), (2, 3))
    >>> nodes, weights
    (tensor([[1, 2, 4, 5]]), tensor([[0.7500, 0.2500, 0.0000, 0.0000]]))
    """
    last = cells.new_tensor([max(n - 2, 0) for n in grid])
    first = torch.minimum(cells.floor().clamp_min(0), last)
    share = cells - first
    nodes, weights = [], []
    for corner in product((0, 1), repeat=len(grid)):
        number, weight = torch.zeros_like(first[..., 0]), torch.ones_like(first[..., 0])
        for axis, step in enumerate(corner):
            # An axis of one node has no second one; its weight is 0.
            index = (first[..., axis] + step).clamp_max(grid[axis] - 1)
            number = number * grid[axis] + index
            weight = weight * (share[..., axis] if step else 1 - share[..., axis])
        nodes.append(number.long())
        weights.append(weight)
    return torch.stack(nodes, -1), torch.stack(weights, -1)
