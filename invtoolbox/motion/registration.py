"""Clusters of a sweep, and hypotheses of their motion.

`clusters` finds connected points seen from above, and `translations` the initial translations that
many pairs of points agree on.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from invtoolbox.kernels.points.nearest import Tree
from invtoolbox.motion.ground import lowest_surface

#: Side of the squares in which the height of the ground is averaged, metres.
_GROUND_CELL = 2.0


def height_above(points: Tensor, ground: Tensor) -> Tensor:
    """Compute the height of points above the ground near them, metres, ``(n,)``.

    The height of the ground is the median over squares of 2 m; a point takes the nearest square.
    Without ground points, the lowest surface of the points themselves takes their place.

    Args:
        points: points, ``(n, 3)``, with the sensor near the origin.
        ground: points of the ground, ``(g, 3)``.
    """
    if len(points) == 0:
        return points[:, 2]
    if len(ground) == 0:
        ground = points[lowest_surface(points)]
    if len(ground) == 0:
        return points[:, 2] - points[:, 2].quantile(0.05)
    squares, member, count = (
        ground[:, :2]
        .div(_GROUND_CELL)
        .floor()
        .unique(dim=0, return_inverse=True, return_counts=True)
    )
    # Sorted by square, and by height within each square, the median stands in the middle.
    order = ground[:, 2].argsort(stable=True)
    order = order[member[order].argsort(stable=True)]
    level = ground[order[count.cumsum(0) - count + (count - 1) // 2], 2]
    nearest = Tree((squares + 0.5) * _GROUND_CELL).query(points[:, :2])[1]
    return points[:, 2] - level.to(points)[nearest]


#: Side of the squares that clusters are made of, metres, and the number of neighbouring squares that
#: a square may be linked with.
_SQUARE, _LINKS = 0.15, 16


def clusters(
    points: Tensor,
    height: Tensor,
    gap: float = 0.45,
    reach: float = 3.0,
    gap_per_range: float = 0.012,
    origin: Tensor | None = None,
) -> Tensor:
    """Return the number of the cluster of every point, int64 ``(n,)`` from 0; -1 for high points.

    Clusters are connected components of the squares of 0.15 m that hold points, seen from above.
    Two squares are linked if the means of their points are less than the gap apart; the gap grows
    with the distance from the sensor, like the distance of its rays. Only points less than
    ``reach`` above the ground count, so that the crown of a tree does not connect the cars below
    it.

    Args:
        points: points, ``(n, 3)``.
        height: height of the points above the ground, ``(n,)``.
        gap: smallest gap, metres.
        reach: height up to which points count, metres.
        gap_per_range: gap per distance from the sensor; about two distances of neighbouring rays.
        origin: position of the sensor, ``(3,)``; by default the origin.

    >>> points = torch.tensor([[0.0, 0, 0], [0.4, 0, 0], [5.0, 0, 0], [5.0, 0, 9]])
    >>> clusters(points, torch.tensor([0.0, 0.0, 0.0, 9.0]))
    tensor([ 0,  0,  1, -1])
    """
    labels = torch.full((len(points),), -1, dtype=torch.long, device=points.device)
    low = (height < reach).nonzero().squeeze(1)
    if len(low) == 0:
        return labels
    plane = points[low, :2].double().cpu()
    place = plane.div(_SQUARE).floor().long().numpy()
    place -= place.min(0)
    squares, member, count = np.unique(
        place[:, 0] * (int(place[:, 1].max()) + 1) + place[:, 1],
        return_inverse=True,
        return_counts=True,
    )
    centre = torch.stack(
        [torch.from_numpy(np.bincount(member, plane[:, k].numpy()) / count) for k in (0, 1)], 1
    )
    sensor = centre.new_zeros(2) if origin is None else origin[:2].cpu().to(centre)
    limit = ((centre - sensor).norm(dim=1) * gap_per_range).clamp_min(gap)
    near = Tree(centre).neighbours(centre, _LINKS)
    linked = (centre[near] - centre[:, None]).norm(dim=2) < limit[:, None]
    here, there = linked.nonzero()[:, 0].numpy(), near[linked].numpy()
    graph = coo_array(
        (np.ones(len(here), dtype=np.int8), (here, there)), shape=(len(squares), len(squares))
    )
    part = connected_components(graph, directed=False)[1]
    labels[low] = torch.from_numpy(part[member].astype(np.int64)).to(labels.device)
    return labels


#: Side of the squares that vote for translations, metres, and as a share of the largest one.
_CELL, _CELL_SHARE = 0.1, 0.01
#: Largest number of votes that are counted at once.
_VOTES = 4_000_000


def translations(
    points: Tensor, target: Tensor, farthest: float = 3.0, most: int = 4
) -> np.ndarray:
    """Return translations in the plane that many pairs of points agree on, ``(k, 2)``, best first.

    Every pair of occupied squares votes for its difference (Lin et al., ICP-Flow, CVPR 2024), so
    that the histogram is the correlation of the two occupancies. The squares have sides of 0.1 m,
    or a hundredth of `farthest` if that is larger. Peaks of the smoothed histogram with at least
    half the votes of the highest peak are kept.

    Args:
        points: points, ``(n, 3)``.
        target: points of the other sweep, ``(m, 3)``.
        farthest: length of the largest translation, metres.
        most: largest number of translations.
    """
    if len(points) == 0 or len(target) == 0:
        return np.zeros((0, 2))
    cell = max(_CELL, _CELL_SHARE * farthest)
    here, there = (
        np.unique(np.rint(p[:, :2].cpu().numpy() / cell).astype(np.int64), axis=0)
        for p in (points, target)
    )
    reach = round(farthest / cell)
    side = 2 * reach + 1
    votes = np.zeros(side * side, dtype=np.int64)
    for part in np.array_split(here, 1 + len(here) * len(there) // _VOTES):
        difference = (there[None] - part[:, None]).reshape(-1, 2)
        difference = difference[(difference**2).sum(1) <= reach**2] + reach
        votes += np.bincount(difference[:, 0] * side + difference[:, 1], minlength=side * side)
    smooth = ndimage.gaussian_filter(votes.reshape(side, side).astype(np.float64), 1.0)
    peaks = np.argwhere(
        (smooth == ndimage.maximum_filter(smooth, 5)) & (smooth > 0.5 * smooth.max())
    )
    order = np.argsort(-smooth[peaks[:, 0], peaks[:, 1]], kind="stable")[:most]
    return (peaks[order] - reach) * cell
