"""Things on a street: points that hang together, seen from above."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

#: The grid on which the height of the ground is kept, metres.
_GROUND_CELL = 2.0


def height_above(points: Tensor, ground: Tensor) -> Tensor:
    """How high each point lies above the ground near it, metres: ``(n, 3), (g, 3) -> (n,)``.

    The ground's height is the mean of its points in squares of 2 m; a square without any takes that of the nearest one. Without
    ground points heights are counted from the lowest point.
    """
    if len(ground) == 0:
        return points[:, 2] - points[:, 2].min() if len(points) else points[:, 2]
    squares = torch.cat([points, ground])[:, :2].div(_GROUND_CELL).floor().long()
    squares = squares - squares.min(0).values
    shape = tuple((squares.max(0).values + 1).tolist())
    flat = squares[:, 0] * shape[1] + squares[:, 1]
    of_points, of_ground = flat[: len(points)], flat[len(points) :]
    count = torch.bincount(of_ground, minlength=shape[0] * shape[1])
    total = torch.zeros(len(count), dtype=torch.float64, device=points.device).index_add(0, of_ground, ground[:, 2].double())
    mean = (total / count.clamp_min(1)).view(shape).cpu().numpy()
    nearest = ndimage.distance_transform_edt((count == 0).view(shape).cpu().numpy(), return_distances=False, return_indices=True)
    return points[:, 2] - torch.from_numpy(mean[tuple(nearest)]).to(points).flatten()[of_points]


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
    squares = points[low, :2].div(cell).floor().long()
    row, column = (squares - squares.min(0).values).cpu().numpy().T
    occupied = np.zeros((int(row.max()) + 1, int(column.max()) + 1), dtype=np.bool_)
    occupied[row, column] = True
    parts, _ = ndimage.label(occupied, structure=np.ones((3, 3)))
    labels[low] = torch.from_numpy(parts[row, column].astype(np.int64) - 1).to(labels.device)
    return labels
