r"""The Euclidean distance to a set of points, at the nodes of a grid.

The distance is that to the points where they are, not to the cells they lie in, which would be off by up to half a cell's diagonal.
Lines of nodes are swept along z, y and x; each sweep hands every node the nearest of the points that its line's nodes hold, by the lower
envelope of parabolas (Felzenszwalb and Huttenlocher, "Distance transforms of sampled functions", 2012), whose vertices here lie at
the points' own coordinates. A cell with several points enters with one of them, so a far node may get a point that is not quite the
nearest: the distance is never too small, and too large by less than a cell's diagonal. Around every point the nodes are then set to
the least distance, so that they are exact where it matters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.kernels.launch import address, launch
from invtoolbox.kernels.points.distance_kernels import splat_kernel, sweep_kernel
from invtoolbox.kernels.points.trilinear import Field

#: Cells around a point within which the distances of nodes are exact.
_REACH = 3


def grid_shape(points: Tensor, cell: float, margin: float) -> tuple[int, int, int]:
    """How many nodes along each axis cover the points ``(M, 3)`` and a margin."""
    extent = (points.amax(0) - points.amin(0)).double() + 2 * margin
    x, y, z = (max(2, int(n) + 2) for n in (extent / cell).ceil().tolist())
    return x, y, z


def distance_field(points: Tensor, cell: float, margin: float) -> Field:
    """The distance to the nearest of ``points`` (M, 3), finite, metres, on a grid that covers them and a margin."""
    points = points.detach()
    shape = grid_shape(points, cell, margin)
    origin = points.amin(0).double() - margin
    place = ((points.double() - origin) / cell).float().contiguous()  # in cells from the first node
    nodes = torch.full(shape, -1, dtype=torch.int32, device=points.device)
    _enter(nodes, place)
    group = 2 if points.is_cuda else 16  # lines of one cache line, which a core reads together
    for axis in (2, 1, 0):
        lines = nodes.numel() // shape[axis]
        tasks = -(-lines // group)
        scratch = torch.empty(tasks, 4, shape[axis], device=points.device)
        launch(
            sweep_kernel(axis, group),
            tasks,
            [address(nodes), address(place), address(scratch), *shape, float(cell)],
            [nodes, place, scratch],
            work=4.0 * nodes.numel(),
        )
    # On the CPU one thread writes, as two points may lie near one node.
    launch(
        splat_kernel(_REACH, points.is_cuda),
        len(place),
        [address(nodes), address(place), *shape, float(cell)],
        [nodes, place],
        work=0.0,
    )
    x, y, z = origin.tolist()
    return Field(nodes.view(torch.float32), (x, y, z), float(cell))


def _enter(nodes: Tensor, place: Tensor) -> None:
    """Write into each node the number of the point of its cell that lies nearest to it."""
    nearest = place.round()
    apart = (place - nearest).square().sum(1)
    i, j, k = nearest.long().unbind(1)
    flat = (i * nodes.shape[1] + j) * nodes.shape[2] + k
    order = apart.argsort(stable=True)
    order = order[flat[order].argsort(stable=True)]
    cells, counts = flat[order].unique_consecutive(return_counts=True)
    first = counts.cumsum(0) - counts
    nodes.view(-1)[cells] = order[first].to(torch.int32)
