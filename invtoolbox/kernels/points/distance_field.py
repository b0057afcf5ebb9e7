r"""Compute the Euclidean distance to a set of points on a grid, and interpolate it.

The distance is measured to the points themselves. The distance to the centres of their cells would
be off by up to half a cell's diagonal.

Lines of nodes are swept along z, y and x. Each sweep assigns to every node the nearest of the
points that the nodes of its line hold, by the lower envelope of parabolas (Felzenszwalb and
Huttenlocher, "Distance transforms of sampled functions", 2012). Here the vertices of the parabolas
lie at the points' own coordinates. A cell with several points enters with one of them, so that a
far node may get a point that is not quite the nearest: the distance is never too small, and too
large by less than a cell's diagonal. Finally, the nodes around every point are set to their least
distance, so that they are exact where it matters.

The kernels are ``distance_sweep.cpp``, ``distance_nearby.cpp`` and ``distance_interpolation.cpp``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from invtoolbox.kernels.launch import Kernel, launch
from invtoolbox.kernels.native import REAL, Float32, native_kernel

#: Cells around a point within which the distances of nodes are exact.
_REACH = 3


@dataclass(frozen=True, eq=False)
class Field:
    """Values at the nodes ``origin + cell * (i, j, k)`` of a regular grid.

    Attributes:
        values: ``(X, Y, Z)``, float32, at least 2 along every axis.
        origin: position of the node (0, 0, 0), metres.
        cell: distance between two nodes, metres.
    """

    values: Tensor
    origin: tuple[float, float, float]
    cell: float


@dataclass
class DistanceArguments:
    """Arguments of ``distance_sweep.cpp`` and, without scratch, of ``distance_nearby.cpp``."""

    nodes: Tensor  # (X, Y, Z) int32: number of a point, -1 for none; finally the bits of a float32
    points: Tensor  # (M, 3) float32, in cells from the first node
    nx: int
    ny: int
    nz: int
    cell: Float32  # metres
    scratch: Tensor | None = None  # vertex, height, start and point of the parabolas, (tasks, 4, n)


@dataclass
class InterpolationArguments:
    """Arguments of ``distance_interpolation.cpp``."""

    nodes: Tensor  # (X, Y, Z) float32
    points: Tensor  # (n, 3), metres
    values: Tensor  # (n,)
    slopes: Tensor  # (n, 3)
    nx: int
    ny: int
    nz: int
    ox: float  # position of the first node, metres
    oy: float
    oz: float
    cell: float  # metres


@cache
def sweep_kernel(axis: int, group: int) -> Kernel:
    """Return the sweep of ``group`` lines along an axis; along axis 0 it writes distances."""
    definitions = {"AXIS": axis, "GROUP": group}
    return native_kernel("points/distance_sweep.cpp", definitions, DistanceArguments)


@cache
def nearby_kernel(reach: int, atomic: bool) -> Kernel:
    """Return the kernel of exact distances at the nodes within ``reach`` cells of a point."""
    definitions = {"REACH": reach, "ATOMIC": atomic}
    return native_kernel("points/distance_nearby.cpp", definitions, DistanceArguments)


@cache
def interpolation_kernel(dtype: torch.dtype) -> Kernel:
    """Return the interpolation in a grid of float32, for points of a precision."""
    definitions = {"REAL": REAL[dtype]}
    return native_kernel("points/distance_interpolation.cpp", definitions, InterpolationArguments)


def grid_shape(points: Tensor, cell: float, margin: float) -> tuple[int, int, int]:
    """Return the number of nodes along each axis that cover the points ``(M, 3)`` and a margin."""
    # n cells hold the extent; n + 2 nodes leave one cell to spare.
    extent = (points.amax(0) - points.amin(0)).double() + 2 * margin
    x, y, z = (max(2, int(n) + 2) for n in (extent / cell).ceil().tolist())
    return x, y, z


def distance_field(points: Tensor, cell: float, margin: float) -> Field:
    """Return the distance to the nearest point, on a grid that covers the points and a margin.

    Args:
        points: finite points, ``(M, 3)``, metres.
        cell: distance between two nodes, metres.
        margin: distance that the grid extends beyond the points, metres.
    """
    points = points.detach()
    shape = grid_shape(points, cell, margin)
    origin = points.amin(0).double() - margin
    place = ((points.double() - origin) / cell).float().contiguous()  # in cells from the first node
    nodes = torch.full(shape, -1, dtype=torch.int32, device=points.device)
    _enter(nodes, place)
    group = 2 if points.is_cuda else 16  # lines of one cache line, which a core reads together
    arguments = DistanceArguments(nodes, place, *shape, Float32(cell))
    # The least squared distance splits into three minima, one axis after the other.
    for axis in (2, 1, 0):
        lines = nodes.numel() // shape[axis]
        tasks = -(-lines // group)
        arguments.scratch = torch.empty(tasks, 4, shape[axis], device=points.device)
        launch(sweep_kernel(axis, group), tasks, arguments, work=4.0 * nodes.numel())
    # On the CPU a single thread writes, because two points may lie near one node.
    launch(nearby_kernel(_REACH, points.is_cuda), len(place), arguments, work=0.0)
    x, y, z = origin.tolist()
    return Field(nodes.view(torch.float32), (x, y, z), float(cell))


def _enter(nodes: Tensor, place: Tensor) -> None:
    """Write into each node the number of the point of its cell that lies nearest to it."""
    # A point belongs to the cell of its nearest node.
    nearest = place.round()
    apart = (place - nearest).square().sum(1)
    i, j, k = nearest.long().unbind(1)
    flat = (i * nodes.shape[1] + j) * nodes.shape[2] + k
    # By distance, then stably by node: the first entry of a node is its nearest point.
    order = apart.argsort(stable=True)
    order = order[flat[order].argsort(stable=True)]
    cells, counts = flat[order].unique_consecutive(return_counts=True)
    first = counts.cumsum(0) - counts
    nodes.view(-1)[cells] = order[first].to(torch.int32)


def interpolate(field: Field, points: Tensor) -> Tensor:
    """Interpolate a field at points, ``(n, 3) -> (n,)``, differentiable once in the points.

    Outside of the grid, the result is the value at the nearest place of the grid's box plus the
    distance to this place. For a field of distances this is an upper bound, and its slope leads
    back to the grid.

    >>> field = Field(torch.arange(2.0).view(2, 1, 1).repeat(1, 2, 2), (0.0, 0.0, 0.0), 1.0)
    >>> interpolate(field, torch.tensor([[0.25, 0.5, 0.5], [0.0, 0.0, -3.0]]))
    tensor([0.2500, 3.0000])
    """
    return _Interpolation.apply(points, field)


def value_and_slope(field: Field, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the interpolated field and its gradient at points, ``(n,)`` and ``(n, 3)``."""
    if field.values.dtype != torch.float32:
        raise AssertionError(
            f"the kernel reads a field of float32, and this one is {field.values.dtype}"
        )
    points = points.detach().contiguous()
    values, slopes = torch.empty_like(points[:, 0]), torch.empty_like(points)
    (nx, ny, nz), (ox, oy, oz) = field.values.shape, field.origin
    arguments = InterpolationArguments(
        nodes=field.values,
        points=points,
        values=values,
        slopes=slopes,
        nx=nx,
        ny=ny,
        nz=nz,
        ox=ox,
        oy=oy,
        oz=oz,
        cell=field.cell,
    )
    launch(interpolation_kernel(points.dtype), len(points), arguments, work=20.0 * len(points))
    return values, slopes


class _Interpolation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, field: Field) -> Tensor:
        values, slopes = value_and_slope(field, points)
        ctx.save_for_backward(slopes)
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # The chain rule for one value per point.
        (slopes,) = ctx.saved_tensors
        return grad[:, None] * slopes, None
