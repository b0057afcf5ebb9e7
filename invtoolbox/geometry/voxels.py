"""Voxels: density and color at the nodes of a grid, at all nodes or only around occupied cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from invtoolbox.core.settings import Settings
from invtoolbox.errors import InputError

#: Largest stored distance to an occupied cell, in cells; each further cell costs a pass over the
#: grid when the cells change.
_FARTHEST = 24


@dataclass(frozen=True, eq=False)
class VoxelSpace(Settings):
    """Positions of the nodes of a grid, and the selection of the nodes that are kept.

    Node ``(i, j, k)`` lies at ``low + (i, j, k) * cell`` in the frame of the world, so the first
    and the last nodes lie on the faces of the box. Within an occupied cell, the values of its 8
    nodes are interpolated; space outside of the box, and in cells that are not occupied, is empty.

    Attributes:
        shape: number of nodes along x, y and z, at least 2 each.
        low: lower corner of the box.
        high: upper corner of the box.
        scale: unit of the density, see `Voxels`; the inverse of the unit of length.
        numbers: row of each kept node, int32 ``(X, Y, Z)``, -1 for other nodes; None if all nodes
            are kept, in C order.
        clearance: distance of every cell to the next occupied cell, in cells along any axis, 0 if
            it is occupied, uint8 ``(X - 1, Y - 1, Z - 1)``; None if all cells are occupied.

    >>> space = VoxelSpace.box((3, 3, 3), (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
    >>> space.rows, space.cell
    (27, (1.0, 1.0, 1.0))
    >>> corner = torch.zeros(2, 2, 2, dtype=torch.bool)
    >>> corner[0, 0, 0] = True
    >>> space.keep_cells(corner).rows
    8
    """

    shape: tuple[int, int, int]
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    scale: float = 1.0
    numbers: Tensor | None = None
    clearance: Tensor | None = None

    def __post_init__(self) -> None:
        if (
            len(self.shape) != 3
            or min(self.shape) < 2
            or not all(a < b for a, b in zip(self.low, self.high))
            or not self.scale > 0
        ):
            raise InputError(
                "VoxelSpace needs at least 2 nodes along each of 3 axes, low below high and a "
                f"positive scale, got shape={self.shape}, low={self.low}, high={self.high}, "
                f"scale={self.scale}"
            )

    @classmethod
    def box(
        cls,
        shape: int | Sequence[int],
        low: Sequence[float],
        high: Sequence[float],
        scale: float | None = None,
    ) -> VoxelSpace:
        """Create the grid of all nodes of a box.

        Args:
            shape: number of nodes along x, y and z, or along the longest side of the box, with
                cells that are nearly cubes.
            low: lower corner of the box.
            high: upper corner of the box.
            scale: unit of the density; by default the inverse of the longest edge of a cell, with
                which a raw density of order 1 is visible.
        """
        # n nodes span n - 1 cells.
        sides = [float(b) - float(a) for a, b in zip(low, high)]
        if isinstance(shape, int):
            cell = max(sides) / max(shape - 1, 1)
            shape = [max(2, round(side / cell) + 1) for side in sides]
        nx, ny, nz = map(int, shape)
        cell = max(side / max(n - 1, 1) for side, n in zip(sides, (nx, ny, nz)))
        (x, y, z), (u, v, w) = map(float, low), map(float, high)
        if scale is None:
            scale = 1 / cell if cell > 0 else 1.0
        return cls((nx, ny, nz), (x, y, z), (u, v, w), scale)

    @property
    def cell(self) -> tuple[float, float, float]:
        """Edges of a cell."""
        x, y, z = ((b - a) / (n - 1) for a, b, n in zip(self.low, self.high, self.shape))
        return x, y, z

    @cached_property
    def rows(self) -> int:
        """Number of kept nodes."""
        return (
            self.shape[0] * self.shape[1] * self.shape[2]
            if self.numbers is None
            else int(self.numbers.max()) + 1
        )

    def places(self) -> Tensor:
        """Return the indices of the kept nodes in the order of their rows, ``(rows, 3)`` int64."""
        if self.numbers is None:
            return torch.cartesian_prod(*(torch.arange(n) for n in self.shape))
        return (self.numbers >= 0).nonzero()

    def keep_cells(self, occupied: Tensor) -> VoxelSpace:
        """Return the grid with the nodes of occupied cells alone.

        ``occupied`` is a mask ``(X - 1, Y - 1, Z - 1)``, bool.
        """
        cells = tuple(n - 1 for n in self.shape)
        if tuple(occupied.shape) != cells or occupied.dtype != torch.bool:
            raise InputError(
                f"the occupied cells of this grid must be a mask {cells} of bool, got "
                f"{tuple(occupied.shape)} of {occupied.dtype}"
            )
        if not bool(occupied.any()):
            raise InputError("a grid of voxels needs at least one occupied cell")
        padded = functional.pad(occupied[None, None].float(), (1,) * 6)
        # A node is used if one of the 8 cells around it is occupied; used nodes are numbered in C order.
        used = functional.max_pool3d(padded, 2, stride=1)[0, 0] > 0
        numbers = torch.where(used, used.flatten().cumsum(0).view(used.shape) - 1, -1).int()
        return replace(self, numbers=numbers.contiguous(), clearance=_clearance(occupied))

    def dense(self) -> VoxelSpace:
        """Return the grid with all nodes."""
        return replace(self, numbers=None, clearance=None)

    def spread(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """Place the values of kept nodes on the whole grid, with ``fill`` elsewhere.

        The shapes are ``(batch, rows, ...) -> (batch, X, Y, Z, ...)``.
        """
        if self.numbers is not None:
            empty = values.new_full((len(values), 1, *values.shape[2:]), fill)
            # The number -1 selects the last row, which holds the fill.
            values = torch.cat([values, empty], dim=1)[:, self.numbers.flatten().long()]
        # Rows and nodes are both in C order.
        return values.unflatten(1, self.shape)

    def gather(self, grid: Tensor) -> Tensor:
        """Collect the values of the kept nodes: ``(batch, X, Y, Z, ...) -> (batch, rows, ...)``."""
        flat = grid.flatten(1, 3)
        return (
            flat if self.numbers is None else flat[:, (self.numbers.flatten() >= 0).nonzero()[:, 0]]
        )

    @cached_property
    def neighbour_rows(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Rows of the next and of the previous node of every kept node, for each axis.

        If the next node is not kept, its row is the row of the node itself; if the previous node is
        not kept, its row is ``rows``.
        """
        table = (
            torch.arange(self.rows).view(self.shape)
            if self.numbers is None
            else self.numbers.long()
        )
        # A margin of -1 is the missing neighbour of nodes on the faces of the box.
        table = functional.pad(table, (1,) * 6, value=-1)
        inside = (slice(1, -1),) * 3
        used = table[inside] >= 0
        rows = []
        for axis in range(3):
            current, after, before = (table.roll(k, axis)[inside][used] for k in (0, -1, 1))
            rows.append(
                (
                    torch.where(after >= 0, after, current),
                    torch.where(before >= 0, before, self.rows),
                )
            )
        return tuple(rows)


class Voxels(NamedTuple):
    r"""A scene of voxels, rendered by `operators.VoxelRenderer` and decoded by `priors.VoxelGrid`.

    With values interpolated between the nodes, a point has the density
    ``scale * softplus(density)`` (per unit of length) and, seen along the direction d, the color
    ``sigmoid(sum_b Y_b(d) color_b)``, with Y the basis of `spherical_harmonics`.

    Attributes:
        density: raw density, ``(batch, rows)``.
        color: raw coefficients, ``(batch, rows, 1 or 4 or 9, channels)``.
        space: positions of the nodes; the same for all items.
    """

    density: Tensor
    color: Tensor
    space: VoxelSpace


def resample(grid: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Interpolate a grid ``(batch, X, Y, Z, ...)`` at the nodes of another grid in the same box."""
    # The trailing axes become channels; with align_corners, the first and the last nodes stay.
    trailing = grid.shape[4:]
    flat = grid.reshape(*grid.shape[:4], -1).movedim(-1, 1)
    finer = functional.interpolate(flat, size=shape, mode="trilinear", align_corners=True)
    return finer.movedim(1, -1).reshape(len(grid), *shape, *trailing)


def _clearance(occupied: Tensor) -> Tensor:
    """Return the distance to the next occupied cell, in the largest of the coordinates."""
    # Each dilation by one cell reaches the cells one farther away; a cell counts the dilations that
    # have not reached it.
    reached = occupied[None, None].float()
    clearance = torch.zeros_like(occupied, dtype=torch.uint8)
    for _ in range(_FARTHEST):
        free = reached[0, 0] == 0
        if not bool(free.any()):
            break
        clearance += free
        reached = functional.max_pool3d(reached, 3, stride=1, padding=1)
    return clearance.contiguous()
