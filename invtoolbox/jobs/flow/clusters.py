"""Points of a prepared sweep, their clusters, and hypotheses of their motion.

A `Cloud` holds what is computed once per sweep. `clusters` finds connected points seen from above, and
`translations` the initial translations that many pairs of points agree on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import Delaunay
from torch import Tensor

from invtoolbox.core.sparse_graph import connected_components
from invtoolbox.geometry.surface_normals import append_times, normals
from invtoolbox.jobs.flow.ground import ground as open_ground
from invtoolbox.jobs.flow.ground import lowest_surface
from invtoolbox.jobs.flow.sensor import Rays
from invtoolbox.kernels.points.nearest import Tree

#: Number of points of the ground whose median is the height of the ground.
_GROUND_POINTS = 9
#: Height of the lowest ceilings above the ground, metres.
_CEILING = 2.0
#: Largest distance of the second neighbour of a point, metres at the sensor, and in distances of
#: neighbouring rays; drops of rain are farther apart. Their least and largest share of the points: on dry
#: streets 0.2 to 2.5 % of the points are so far apart. In rain, the last number of distances of rays
#: counts: farther ones leave 7 % of the drops, this one 3 %.
_ALONE, _ALONE_SPACINGS, _RAIN, _IN_RAIN = 0.05, 4.0, (0.03, 0.35), 2.5


def height_above(points: Tensor, ground: Tensor) -> Tensor:
    """Compute the height of points above the ground near them, metres, ``(n,)``.

    The height of the ground is the median of the nine points of the ground that are nearest in the
    plane. Without ground points, the lowest surface of the points themselves takes their place.
    Points of a ceiling, the ground of the points upside down, are infinitely high: it connects all
    things below it.

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
    # A median, because single points of the ground may be the feet of things.
    nearest = Tree(ground[:, :2]).neighbours(points[:, :2], _GROUND_POINTS)
    height = points[:, 2] - ground[:, 2].to(points)[nearest].median(1).values
    ceiling = open_ground(points * points.new_tensor([1.0, -1.0, -1.0])) & (height > _CEILING)
    return height.masked_fill(ceiling, torch.inf)


def are_alone(points: Tensor, origin: Tensor, rays: Rays) -> Tensor:
    """Return which points lie on no surface, like drops of rain, bool ``(n,)``.

    The rays next to the one of such a point meet something else. No point counts as alone if only
    few points are so far apart, as on a dry street, or if very many are, as in a thinned cloud.

    Args:
        points: points, ``(n, 3)``.
        origin: position of the sensor, ``(3,)``.
        rays: spacing of the rays of the sensor.
    """
    if len(points) < 3:
        return torch.zeros_like(points[:, 0], dtype=torch.bool)
    second = points[Tree(points).neighbours(points, 3)[:, -1]]
    apart = (second - points).norm(dim=1) - _ALONE
    spacing = rays.spacing * (points - origin).norm(dim=1)
    share = float((apart > _ALONE_SPACINGS * spacing).double().mean())
    return (apart > _IN_RAIN * spacing) & (_RAIN[0] < share < _RAIN[1])


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points of a sweep in the frame of its sensor, without ground.

    Windows of a sequence share the clouds of their sweeps, so trees and normals are computed once
    per sweep.

    Attributes:
        points: points, ``(n, 3)``.
        times: times of the points within their sweep, seconds, ``(n,)``; None if one is unknown.
        ground: points of the ground, ``(g, 3)``; none if the ground is unknown.
    """

    points: Tensor
    times: Tensor | None = None
    ground: Tensor = field(default_factory=lambda: torch.zeros(0, 3))
    _made: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def rays(self) -> Rays:
        """Rays of the sensor, and the noise of its ranges."""
        return self._rays_and_alone[0]

    @cached_property
    def _rays_and_alone(self) -> tuple[Rays, Tensor]:
        rays = Rays.of(torch.cat([self.points, self.ground]))
        alone = are_alone(self.points, torch.zeros_like(self.points[:1]), rays)
        # Drops of rain among the neighbours of a point would pass for noise.
        if bool(alone.any()):
            rays = Rays.of(torch.cat([self.points[~alone], self.ground]))
        return rays, alone

    @cached_property
    def height(self) -> Tensor:
        """Heights of the points above the ground, ``(n,)``; infinite for stray points."""
        height = height_above(self.points, self.ground)
        return height.masked_fill(self._rays_and_alone[1], torch.inf)

    def below(self, height: float) -> tuple[Tensor, Cloud]:
        """Return the rows of the points below a height, and their cloud."""

        def low() -> tuple[Tensor, Cloud]:
            rows = (self.height < height).nonzero().squeeze(1)
            return rows, Cloud(self.points[rows], None if self.times is None else self.times[rows])

        return self._once(("below", height), low)

    def tree(self, timed: bool = False) -> Tree:
        """Return the search tree of the points; times are a further coordinate (`append_times`)."""
        times = self.times if timed else None
        return self._once(("tree", timed), lambda: Tree(append_times(self.points, times)))

    def surface(self, timed: bool = False) -> tuple[Tensor, Tensor]:
        """Return normals ``(n, 3)`` and thickness ``(n,)``, see `surface_normals.normals`."""
        times = self.times if timed else None
        return self._once(("surface", timed), lambda: normals(self.points, times))

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def links(points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the edges of the Delaunay triangulation of points in the plane, and their lengths.

    Between any two points there is a path of edges that are no longer than their distance, because
    the triangulation holds the minimum spanning tree. Edges shorter than a gap therefore connect
    exactly the clusters of single linkage.

    Args:
        points: points, float64 ``(n, 2)``, less than some kilometres apart.

    Returns:
        Rows of the two ends ``(e, 2)``, and lengths ``(e,)``.
    """
    if not len(points):
        return torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, dtype=torch.float64)
    plane = points.cpu().numpy()
    # A wide triangle around the points, because points on one line have no triangulation.
    middle, wide = plane.mean(0), 10.0 * (1.0 + np.ptp(plane, axis=0).max())
    corners = middle + wide * np.array([[0.0, 1.0], [-0.9, -0.5], [0.9, -0.5]])
    # Edges to the corners have indices beyond the last point, and are removed below.
    mesh = Delaunay(np.concatenate([plane, corners]))
    sides = np.concatenate([mesh.simplices[:, [k, (k + 1) % 3]] for k in range(3)])
    # A point that coincides with another one is no corner, but is listed with that one.
    edges = np.concatenate([sides, mesh.coplanar[:, [0, 2]]]).astype(np.int64)
    edges = edges[(edges < len(plane)).all(1)]
    lengths = np.linalg.norm(plane[edges[:, 0]] - plane[edges[:, 1]], axis=1)
    return torch.from_numpy(edges), torch.from_numpy(lengths)


def clusters(
    points: Tensor,
    height: Tensor,
    gap: float = 0.45,
    reach: float = 3.0,
    gap_per_range: float = 0.012,
    origin: Tensor | None = None,
    edges: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return the number of the cluster of every point, int64 ``(n,)`` from 0; -1 for high points.

    Clusters are those of single linkage, seen from above: two points belong together if a chain of
    points with steps shorter than the gap connects them. The gap grows with the distance from the
    sensor, like the distance of its rays. Only points less than ``reach`` above the ground count, so
    that the crown of a tree does not connect the cars below it.

    Args:
        points: points, ``(n, 3)``.
        height: height of the points above the ground, ``(n,)``.
        gap: smallest gap, metres.
        reach: height up to which points count, metres.
        gap_per_range: gap per distance from the sensor; about two distances of neighbouring rays.
        origin: position of the sensor, ``(3,)``; by default the origin.
        edges: the `links` of the points that are lower than ``reach``, if they are known.

    >>> points = torch.tensor([[0.0, 0, 0], [0.4, 0, 0], [5.0, 0, 0], [5.0, 0, 9]])
    >>> clusters(points, torch.tensor([0.0, 0.0, 0.0, 9.0]))
    tensor([ 0,  0,  1, -1])
    """
    labels = torch.full((len(points),), -1, dtype=torch.long, device=points.device)
    low = (height < reach).nonzero().squeeze(1)
    if len(low) == 0:
        return labels
    plane = points[low, :2].double().cpu()
    ends, lengths = links(plane) if edges is None else edges
    sensor = plane.new_zeros(2) if origin is None else origin[:2].cpu().to(plane)
    # Rays diverge: the gap at the distance r is max(gap, gap_per_range * r), and the limit of an
    # edge is the mean of the limits at its two ends.
    limit = (gap_per_range * (plane - sensor).norm(dim=1)).clamp_min(gap)
    # Components of the short Delaunay edges are the clusters of single linkage, see `links`.
    short = ends[lengths < limit[ends].mean(1)]
    labels[low] = connected_components(short.T, len(low)).to(labels.device)
    return labels


#: Side of the squares that vote for translations, metres, and as a share of the largest one.
_CELL, _CELL_SHARE = 0.1, 0.01
#: Largest number of votes that are counted at once.
_VOTES = 4_000_000
#: Standard deviation of the smoothing of votes, bins, and its reach.
_SMOOTH, _TAPS = 1.0, 4


def translations(
    bodies: Sequence[Tensor],
    targets: Sequence[Tensor],
    farthest: Sequence[float],
    most: int = 4,
    origin: Tensor | None = None,
) -> list[np.ndarray]:
    """Return translations in the plane that many pairs of points agree on, per body, best first.

    Every pair of occupied squares votes for its difference (Lin et al., ICP-Flow, CVPR 2024), so
    that the histogram is the correlation of the two occupancies. The squares have sides of 0.1 m,
    or a hundredth of `farthest` if that is larger, and face the sensor, so that the frame of the
    points has no effect. Peaks of the smoothed histogram with at least half the votes of the
    highest peak are kept. All bodies vote at once, into histograms that lie one behind the other.

    Args:
        bodies: points of every body, ``(n, 3)`` each, at least one point.
        targets: points of the other sweep near every body, ``(m, 3)`` each.
        farthest: length of the largest translation of every body, metres.
        most: largest number of translations per body.
        origin: position of the sensor, ``(3,)``; by default the origin.

    Returns:
        Translations, ``(k, 2)`` each; none without points.
    """
    sensor = np.zeros(2) if origin is None else origin[:2].double().cpu().numpy()
    length = np.array(farthest, dtype=np.float64)
    cell = np.maximum(_CELL, _CELL_SHARE * length)
    middle = np.array([body[:, :2].double().mean(0).tolist() for body in bodies])
    # Axes that face the sensor: the first one points from the sensor to the middle of the points.
    ahead = middle - sensor
    ahead[~ahead.any(1)] = [1.0, 0.0]
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    turn = np.stack([ahead, ahead[:, ::-1] * [-1.0, 1.0]], axis=2)
    (first, squares), (second, target_squares) = (
        _occupied(clouds, middle, turn, cell) for clouds in (bodies, targets)
    )
    # The histogram of all differences q - p, h(d) = sum_p occupied(p) occupied'(p + d), has
    # (2 reach + 1)^2 bins and a margin; differences outside of the circle of the radius `reach` do
    # not vote.
    reach = np.rint(length / cell).astype(np.int64)
    side = 2 * (reach + _TAPS) + 1
    start = np.concatenate([[0], np.cumsum(side**2)])
    votes = np.zeros(start[-1])
    for body, difference in _differences(first, squares, second, target_squares):
        near = (difference**2).sum(1) <= reach[body] ** 2
        row, column = (difference[near] + (reach + _TAPS)[body[near], None]).T
        bins = start[body[near]] + row * side[body[near]] + column
        votes += np.bincount(bins, minlength=len(votes))
    # A Gaussian along the rows, which margins keep apart, and then along the columns.
    owner = np.repeat(np.arange(len(bodies)), side**2)
    index, stride = np.arange(len(votes)), side[owner]
    smooth = ndimage.gaussian_filter1d(votes, _SMOOTH, mode="constant", radius=_TAPS)
    weights = np.exp(-0.5 * (np.arange(-_TAPS, _TAPS + 1) / _SMOOTH) ** 2)
    smooth = sum(
        weight * np.take(smooth, index + k * stride, mode="clip")
        for k, weight in zip(range(-_TAPS, _TAPS + 1), weights / weights.sum())
    )
    # A peak is the largest of its 5 by 5 bins and above half of the global maximum.
    row, column = np.divmod(index - start[owner], stride)
    smooth[(np.minimum(row, column) < _TAPS) | (np.maximum(row, column) >= stride - _TAPS)] = 0
    highest = np.maximum.reduceat(smooth, start[:-1])
    peaks = np.flatnonzero(smooth > 0.5 * highest[owner])
    around = [peaks + i * stride[peaks] + j for i in range(-2, 3) for j in range(-2, 3)]
    peaks = peaks[smooth[peaks] >= smooth[np.stack(around)].max(0)]
    # Equal peaks keep the order of the bins, and the result its bits.
    peaks = peaks[np.lexsort((peaks, -smooth[peaks], owner[peaks]))]
    offsets = np.stack([row[peaks], column[peaks]], 1) - (reach + _TAPS)[owner[peaks], None]
    ends = np.searchsorted(owner[peaks], np.arange(1, len(bodies)))
    return [(best[:most] * cell[k]) @ turn[k].T for k, best in enumerate(np.split(offsets, ends))]


def _differences(
    first: np.ndarray, squares: np.ndarray, second: np.ndarray, targets: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield blocks of the differences of all pairs of a body's squares and its targets.

    Args:
        first: bodies of the squares, ascending.
        squares: rows and columns of the squares, ``(n, 2)``.
        second: bodies of the targets, ascending.
        targets: rows and columns of the targets, ``(m, 2)``.

    Yields:
        Body and difference of every pair.
    """
    number = np.bincount(second, minlength=int(first.max(initial=-1)) + 1)
    before = np.cumsum(number) - number
    partners = number[first]
    blocks = np.cumsum(partners) // _VOTES
    for rows in np.split(np.arange(len(first)), np.flatnonzero(np.diff(blocks)) + 1):
        one = np.repeat(rows, partners[rows])
        ends = np.cumsum(partners[rows])
        within = np.arange(len(one)) - np.repeat(ends - partners[rows], partners[rows])
        body = first[one]
        yield body, targets[before[body] + within] - squares[one]


def _occupied(
    clouds: Sequence[Tensor], middle: np.ndarray, turn: np.ndarray, cell: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the body and the row and column of the squares that hold points, each once."""
    owner = np.repeat(np.arange(len(clouds)), [len(cloud) for cloud in clouds])
    places = torch.cat([cloud[:, :2] for cloud in clouds]).double().cpu().numpy() - middle[owner]
    squares = np.rint(np.einsum("ni,nij->nj", places, turn[owner]) / cell[owner, None])
    # Body, row and column are one number, because unique numbers cost less than rows.
    low = squares.min(0, initial=0).astype(np.int64)
    rows, columns = (squares.astype(np.int64) - low).T
    width, height = int(columns.max(initial=0)) + 1, int(rows.max(initial=0)) + 1
    keys, columns = np.divmod(np.unique((owner * height + rows) * width + columns), width)
    owner, rows = np.divmod(keys, height)
    return owner, np.stack([rows, columns], axis=1) + low
