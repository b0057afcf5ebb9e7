"""Things on a street: points that hang together, seen from above."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from invtoolbox.kernels.nearest import Tree

#: The squares in which the height of the ground is kept, metres.
_GROUND_CELL = 2.0
#: Of the eight neighbours of a square those that come after it; the others have it as theirs.
_LATER = ((0, 1), (1, -1), (1, 0), (1, 1))


def height_above(points: Tensor, ground: Tensor) -> Tensor:
    """How high each point lies above the ground near it, metres: ``(n, 3), (g, 3) -> (n,)``.

    The ground's height is the mean of its points in squares of 2 m; a point takes that of the nearest square. Without ground points
    heights are counted from the lowest point.
    """
    if len(points) == 0:
        return points[:, 2]
    if len(ground) == 0:
        return points[:, 2] - points[:, 2].min()
    squares, member, count = (
        ground[:, :2]
        .div(_GROUND_CELL)
        .floor()
        .unique(dim=0, return_inverse=True, return_counts=True)
    )
    total = torch.zeros(len(squares), dtype=torch.float64, device=points.device).index_add(
        0, member, ground[:, 2].double()
    )
    nearest = Tree((squares + 0.5) * _GROUND_CELL).query(points[:, :2])[1]
    return points[:, 2] - (total / count).to(points)[nearest]


def clusters(points: Tensor, height: Tensor, cell: float = 0.3, reach: float = 3.0) -> Tensor:
    """The number of the thing that each point belongs to, ``(n,)`` int64, from 0; -1 for what hangs above.

    Things are the connected parts (eight neighbours) of the squares that hold points, seen from above. Only points less than
    ``reach`` above the ground count, so that a tree's crown does not join the cars below it.

    Args:
        points: ``(n, 3)``.
        height: above the ground, ``(n,)``.
        cell: side of a square, metres: what is farther apart than two of them is two things.

    >>> clusters(torch.tensor([[0.0, 0.0, 0.0], [0.4, 0.0, 0.0], [5.0, 0.0, 0.0], [5.0, 0.0, 9.0]]), torch.tensor([0.0, 0.0, 0.0, 9.0]))
    tensor([ 0,  0,  1, -1])
    """
    labels = torch.full((len(points),), -1, dtype=torch.long, device=points.device)
    low = (height < reach).nonzero().squeeze(1)
    if len(low) == 0:
        return labels
    place = points[low, :2].double().div(cell).floor().long().cpu().numpy()
    place -= place.min(0) - 1
    width = int(place[:, 1].max()) + 2
    # Only squares that hold points are kept, so that a stray point far away costs nothing.
    squares, member = np.unique(place[:, 0] * width + place[:, 1], return_inverse=True)
    here, there = [], []
    for row, column in _LATER:
        wanted = squares + row * width + column
        found = np.searchsorted(squares, wanted).clip(max=len(squares) - 1)
        both = np.flatnonzero(squares[found] == wanted)
        here.append(both)
        there.append(found[both])
    ends = (np.concatenate(here), np.concatenate(there))
    graph = coo_array(
        (np.ones(len(ends[0]), dtype=np.int8), ends), shape=(len(squares), len(squares))
    )
    part = connected_components(graph, directed=False)[1]
    labels[low] = torch.from_numpy(part[member].astype(np.int64)).to(labels.device)
    return labels
