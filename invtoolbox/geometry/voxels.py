"""Voxels: density and color at the nodes of a grid, all of them or only those around occupied cells."""

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

#: How far an empty cell knows the way to be free, in cells; each more costs a pass over the grid when the cells change.
_FARTHEST = 24


@dataclass(frozen=True, eq=False)
class VoxelSpace(Settings):
    """Where the nodes of a grid lie, and which of them are kept.

    Node ``(i, j, k)`` lies at ``low + (i, j, k) * cell`` in the frame of the world, so the first and the last nodes lie on the faces of the
    box. Within a cell, what its 8 nodes hold is interpolated; outside of the box, and in cells that are not occupied, nothing is.

    Attributes:
        shape: nodes along x, y and z, at least 2 each.
        low, high: corners of the box.
        scale: the unit of the density, see `Voxels`; the inverse of the unit of length.
        numbers: of the kept nodes, the row that holds them, int32 ``(X, Y, Z)``, -1 for others; None where all are kept, in C order.
        clearance: of every cell, uint8 ``(X - 1, Y - 1, Z - 1)``: 0 where it is occupied, else how far the next occupied one is,
            in cells along any axis; None where all are occupied.

    >>> space = VoxelSpace.box((3, 3, 3), (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
    >>> space.rows, space.cell
    (27, (1.0, 1.0, 1.0))
    >>> corner = torch.zeros(2, 2, 2, dtype=torch.bool)
    >>> corner[0, 0, 0] = True
    >>> space.keeping(corner).rows
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
                "VoxelSpace needs 2 nodes at least along each of 3 axes, low below high and a positive scale, got "
                f"shape={self.shape}, low={self.low}, high={self.high}, scale={self.scale}"
            )

    @classmethod
    def box(
        cls,
        shape: int | Sequence[int],
        low: Sequence[float],
        high: Sequence[float],
        scale: float | None = None,
    ) -> VoxelSpace:
        """All nodes of a box.

        Args:
            shape: nodes along x, y and z, or along the longest side of the box, with cells that are nearly cubes.
            scale: one over the longest edge of a cell by default: a raw density of order 1 then shows.
        """
        sides = [float(b) - float(a) for a, b in zip(low, high)]
        if isinstance(shape, int):
            cell = max(sides) / max(shape - 1, 1)
            shape = [max(2, round(side / cell) + 1) for side in sides]
        nx, ny, nz = map(int, shape)
        cell = max(side / max(n - 1, 1) for side, n in zip(sides, (nx, ny, nz)))
        first, last = (tuple(map(float, corner)) for corner in (low, high))
        if scale is None:
            scale = 1 / cell if cell > 0 else 1.0
        return cls((nx, ny, nz), first, last, scale)  # type: ignore[arg-type]

    @property
    def cell(self) -> tuple[float, float, float]:
        """The edges of a cell."""
        x, y, z = ((b - a) / (n - 1) for a, b, n in zip(self.low, self.high, self.shape))
        return x, y, z

    @cached_property
    def rows(self) -> int:
        """How many nodes are kept."""
        return (
            self.shape[0] * self.shape[1] * self.shape[2]
            if self.numbers is None
            else int(self.numbers.max()) + 1
        )

    def places(self) -> Tensor:
        """The indices of the kept nodes in the order of their rows, ``(rows, 3)`` int64."""
        if self.numbers is None:
            return torch.cartesian_prod(*(torch.arange(n) for n in self.shape))
        return (self.numbers >= 0).nonzero()

    def keeping(self, occupied: Tensor) -> VoxelSpace:
        """The same grid with the nodes of occupied cells alone; ``occupied`` is ``(X - 1, Y - 1, Z - 1)``, bool."""
        cells = tuple(n - 1 for n in self.shape)
        if tuple(occupied.shape) != cells or occupied.dtype != torch.bool:
            raise InputError(
                f"the occupied cells of this grid are a mask {cells} of bool, got {tuple(occupied.shape)} of {occupied.dtype}"
            )
        if not bool(occupied.any()):
            raise InputError("a grid of voxels needs one occupied cell at least")
        padded = functional.pad(occupied[None, None].float(), (1,) * 6)
        kept = functional.max_pool3d(padded, 2, stride=1)[0, 0] > 0
        numbers = torch.where(kept, kept.flatten().cumsum(0).view(kept.shape) - 1, -1).int()
        return replace(self, numbers=numbers.contiguous(), clearance=_clearance(occupied))

    def dense(self) -> VoxelSpace:
        """The same grid with all nodes."""
        return replace(self, numbers=None, clearance=None)

    def spread(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """What the kept nodes hold on the whole grid: ``(batch, rows, ...) -> (batch, X, Y, Z, ...)``, with ``fill`` elsewhere."""
        if self.numbers is not None:
            rest = values.new_full((len(values), 1, *values.shape[2:]), fill)
            values = torch.cat([values, rest], dim=1)[
                :, self.numbers.flatten().long()
            ]  # -1 is the last row
        return values.unflatten(1, self.shape)

    def gather(self, grid: Tensor) -> Tensor:
        """What the kept nodes hold: ``(batch, X, Y, Z, ...) -> (batch, rows, ...)``."""
        flat = grid.flatten(1, 3)
        return (
            flat if self.numbers is None else flat[:, (self.numbers.flatten() >= 0).nonzero()[:, 0]]
        )

    def following(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Of every kept node, for each axis: the row of the node after it, itself where none is kept; and of the node before it, ``rows``
        where none is."""
        return self._following

    @cached_property
    def _following(self) -> tuple[tuple[Tensor, Tensor], ...]:
        table = (
            torch.arange(self.rows).view(self.shape)
            if self.numbers is None
            else self.numbers.long()
        )
        table = functional.pad(table, (1,) * 6, value=-1)
        inside = (slice(1, -1),) * 3
        own = table[inside]
        kept = own >= 0
        rows = []
        for axis in range(3):
            after, before = (table.roll(shift, axis)[inside][kept] for shift in (-1, 1))
            rows.append(
                (
                    torch.where(after >= 0, after, own[kept]),
                    torch.where(before >= 0, before, self.rows),
                )
            )
        return tuple(rows)


class Voxels(NamedTuple):
    r"""A scene that renders: what `operators.VoxelRenderer` takes and `priors.VoxelGrid` decodes.

    With what is interpolated between the nodes, a point has the density ``scale * softplus(density)`` (per unit of length) and, seen
    along the direction d, the color ``sigmoid(sum_b Y_b(d) color_b)``, with Y the basis of `spherical_harmonics`.

    Attributes:
        density: raw, ``(batch, rows)``.
        color: raw coefficients, ``(batch, rows, 1 or 4 or 9, channels)``.
        space: where the nodes lie; the same for all items.
    """

    density: Tensor
    color: Tensor
    space: VoxelSpace


def _clearance(occupied: Tensor) -> Tensor:
    """How far the next occupied cell is, in the largest of the coordinates."""
    reached = occupied[None, None].float()
    far = torch.zeros_like(occupied, dtype=torch.uint8)
    for _ in range(_FARTHEST):
        free = reached[0, 0] == 0
        if not bool(free.any()):
            break
        far += free
        reached = functional.max_pool3d(reached, 3, stride=1, padding=1)
    return far.contiguous()


def resample(grid: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """A grid ``(batch, X, Y, Z, ...)`` interpolated at the nodes of another one in the same box."""
    trailing = grid.shape[4:]
    flat = grid.reshape(*grid.shape[:4], -1).movedim(-1, 1)
    finer = functional.interpolate(flat, size=shape, mode="trilinear", align_corners=True)
    return finer.movedim(1, -1).reshape(len(grid), *shape, *trailing)
