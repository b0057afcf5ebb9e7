"""A shape that moves: Gaussians or voxels at rest, and where everything is at each of several times."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from invtoolbox.errors import InputError
from invtoolbox.scenes.quaternions import product
from invtoolbox.scenes.splats import Splats
from invtoolbox.scenes.voxels import Voxels, VoxelSpace
from invtoolbox.tree import tree_map

#: The raw density where matter came from outside of the box: none.
_EMPTY = -40.0


class Moving(NamedTuple):
    """What `priors.Deformation` decodes to and `operators.OverTime` takes; priors of rigidity look at its displacements.

    Attributes:
        displacements: ``(batch, T, N, 3)``, in the unit of the scene. Of Gaussians: how far each mean has moved. Of voxels: at every kept
            node, from how far matter has come, ``from = node + displacement``, so that every node has an answer.
        turns: how each has turned since rest, quaternions ``(batch, T, N, 4)``, w x y z; voxels need none.
        shape: at rest, `Splats` or `Voxels`. Colours that depend on the direction of view do not turn along.
    """

    displacements: Tensor
    turns: Tensor | None
    shape: Any

    def at(self, time: int) -> Any:
        """The shape at one of the T times, `Splats` or `Voxels`."""
        moved, shape = self.displacements[:, time], self.shape
        if isinstance(shape, Voxels):
            return _warped(shape, moved)
        quats = shape.quats.expand(len(moved), -1, -1)
        if self.turns is not None:
            quats = product(self.turns[:, time], quats)
        return dataclasses.replace(shape, means=shape.means + moved, quats=quats)

    @property
    def times(self) -> int:
        """T."""
        return int(self.displacements.shape[1])


def places_of(shape: Any) -> Tensor:
    """What of a shape moves: the means of Gaussians ``(batch, N, 3)``, the kept nodes of a grid ``(1, N, 3)``."""
    if isinstance(shape, Splats):
        return shape.means
    if isinstance(shape, Voxels):
        low, cell = (
            shape.density.new_tensor(shape.space.low),
            shape.density.new_tensor(shape.space.cell),
        )
        return (low + cell * shape.space.places().to(low))[None]
    raise InputError(f"what can be deformed are Splats and Voxels, got {type(shape).__name__}")


def mapped(shape: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A shape with every tensor of its items, not those of its grid, replaced by what ``change`` makes of it."""
    if isinstance(shape, Voxels):
        return shape._replace(density=change(shape.density), colour=change(shape.colour))
    return tree_map(change, shape)


def _warped(voxels: Voxels, moved: Tensor) -> Voxels:
    space = voxels.space
    low, high = moved.new_tensor(space.low), moved.new_tensor(space.high)
    unit = 2 * (places_of(voxels).to(moved) + moved - low) / (high - low) - 1
    outside = (unit.abs() > 1 + 1e-6).any(-1)
    density, colour = (
        _sampled(space, leaf, unit, fill)
        for leaf, fill in ((voxels.density, _EMPTY), (voxels.colour, 0.0))
    )
    return Voxels(torch.where(outside, _EMPTY, density), colour, space)


def _sampled(space: VoxelSpace, leaf: Tensor, unit: Tensor, fill: float) -> Tensor:
    """What a grid holds at points in [-1, 1]^3, ``(batch, N, 3)``, interpolated."""
    grid = (
        space.spread(leaf, fill).flatten(4)
        if leaf.ndim > 2
        else space.spread(leaf, fill)[..., None]
    )
    batch = max(len(grid), len(unit))
    # grid_sample takes the last axis of the grid as the first coordinate.
    found = functional.grid_sample(
        grid.movedim(-1, 1).expand(batch, -1, -1, -1, -1),
        unit.flip(-1).expand(batch, -1, -1)[:, :, None, None],
        mode="bilinear",
        padding_mode="border",
        align_corners=True,
    )
    return found[..., 0, 0].transpose(1, 2).reshape(batch, unit.shape[1], *leaf.shape[2:])
