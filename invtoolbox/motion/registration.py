"""Clusters of a sweep and their registration with another sweep as rigid bodies.

`clusters` finds connected points seen from above, `translations` the initial translations that many
pairs of points agree on, and `register` refines every hypothesis as an item of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor

from invtoolbox.data_terms.plane_to_plane import PlaneToPlane
from invtoolbox.geometry.surface_normals import Surface, covariances
from invtoolbox.kernels.points.nearest import Tree
from invtoolbox.motion.ground import lowest_surface
from invtoolbox.operators.points import PointWarp
from invtoolbox.priors.implicit.rigid_motion import RigidMotion
from invtoolbox.problem import Problem
from invtoolbox.solve import solve
from invtoolbox.solvers.gauss_newton import LevenbergMarquardt

#: Side of the squares in which the height of the ground is averaged, metres.
_GROUND_CELL = 2.0
#: Side of the squares whose points are one in clusters, metres.
_FINE = 0.05


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


def clusters(points: Tensor, height: Tensor, gap: float = 0.5, reach: float = 3.0) -> Tensor:
    """Return the number of the cluster of every point, int64 ``(n,)`` from 0; -1 for high points.

    Points closer than `gap`, seen from above, are connected. Distances do not depend on the
    direction of the axes, unlike squares that touch. Only points less than ``reach`` above the
    ground count, so that the crown of a tree does not connect the cars below it.

    Args:
        points: points, ``(n, 3)``.
        height: height of the points above the ground, ``(n,)``.
        gap: largest distance in the plane of connected points, metres, to within 0.05 m.
        reach: height up to which points count, metres.

    >>> points = torch.tensor([[0.0, 0, 0], [0.4, 0, 0], [5.0, 0, 0], [5.0, 0, 9]])
    >>> clusters(points, torch.tensor([0.0, 0.0, 0.0, 9.0]))
    tensor([ 0,  0,  1, -1])
    """
    labels = torch.full((len(points),), -1, dtype=torch.long, device=points.device)
    low = (height < reach).nonzero().squeeze(1)
    if len(low) == 0:
        return labels
    place = points[low, :2].double().cpu().numpy()
    # Points on one wall lie above each other: the mean of a small square stands for its points.
    squares = np.floor(place / _FINE).astype(np.int64)
    squares -= squares.min(0)
    _, member, count = np.unique(
        squares[:, 0] * (int(squares[:, 1].max()) + 1) + squares[:, 1],
        return_inverse=True,
        return_counts=True,
    )
    centre = np.stack([np.bincount(member, axis) for axis in place.T], 1) / count[:, None]
    ends = cKDTree(centre).query_pairs(gap, output_type="ndarray").T
    graph = coo_array(
        (np.ones(ends.shape[1], dtype=np.int8), (ends[0], ends[1])), shape=(len(count),) * 2
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


#: Largest number of points per group of clusters, which are padded to the largest of their group.
#: Larger clusters are thinned to the last number; with fewer points the motion of a near car depends
#: on the choice of the points.
_GROUPS = (48, 512)


@dataclass(frozen=True)
class RegistrationSettings:
    """Settings of the registration of clusters.

    Attributes:
        iterations: number of iterations of Levenberg-Marquardt. All are made, because the scale of
            the robust misfit shrinks from one to the next.
        upright: see `RigidMotion`.
        plane: match surfaces (`PlaneToPlane`) instead of points, whose distances the scan lines of
            a lidar bias towards zero motion.
    """

    iterations: int = 15
    upright: float = 1.0
    plane: bool = True


@dataclass(frozen=True, eq=False)
class Registration:
    """Result of registering h hypotheses.

    Attributes:
        thing: number of the cluster of every hypothesis, ``(h,)``.
        motion: rigid motions, ``(h, 4, 4)``.
        misfit: mean robust misfit, square metres, ``(h,)``.
        still: mean robust misfit without motion, square metres, ``(h,)``.
        move: mean displacement of the points, metres, ``(h,)``.
    """

    thing: Tensor
    motion: Tensor
    misfit: Tensor
    still: Tensor
    move: Tensor


def register(
    members: list[Tensor],
    starts: list[Tensor],
    points: Tensor,
    target: Tensor,
    times: Tensor | None = None,
    target_times: Tensor | None = None,
    settings: RegistrationSettings | None = None,
) -> Registration:
    """Register clusters with the target, from every initial translation.

    Args:
        members: rows of the points of every cluster, at least one each.
        starts: initial translations in the plane of every cluster, ``(k, 2)``, at least one each.
        points: points of the sweep, ``(n, 3)``; normals are estimated from all of them.
        target: points of the other sweep, ``(m, 3)``.
        times: times of the points within their sweep, seconds, ``(n,)``; used if both are known.
        target_times: times of the target within its sweep, seconds, ``(m,)``.
        settings: settings of the registration.
    """
    settings = settings or RegistrationSettings()
    if times is None or target_times is None:
        times = target_times = None
    rows = torch.cat(members)
    spread = torch.eye(3).to(points).repeat(len(points), 1, 1)
    if settings.plane:
        spread[rows] = covariances(points, times, rows=rows)
    surface = (
        Surface.of(target, target_times)
        if settings.plane
        else Surface.of_points(target, target_times)
    )
    found, smaller = [], 0
    for largest in _GROUPS:
        group = [
            k
            for k, member in enumerate(members)
            if smaller < len(member) and (len(member) <= largest or largest == _GROUPS[-1])
        ]
        smaller = largest
        if group:
            thing = torch.tensor([k for k in group for _ in starts[k]], device=points.device)
            index, counts = _pad([_thin(members[k], largest) for k in group])
            repeat = torch.tensor(
                [j for j, k in enumerate(group) for _ in starts[k]], device=points.device
            )
            begin = torch.cat([starts[k] for k in group])
            found.append(
                _register(
                    thing,
                    index[repeat],
                    counts[repeat],
                    begin,
                    points,
                    spread,
                    surface,
                    times,
                    target_times,
                    settings,
                )
            )
    return Registration(
        *(
            torch.cat([getattr(part, name) for part in found])
            for name in ("thing", "motion", "misfit", "still", "move")
        )
    )


def _register(
    thing: Tensor,
    index: Tensor,
    counts: Tensor,
    begin: Tensor,
    points: Tensor,
    spread: Tensor,
    surface: Surface,
    times: Tensor | None,
    target_times: Tensor | None,
    settings: RegistrationSettings,
) -> Registration:
    """Register one batch: rows ``(h, p)`` of every hypothesis, padded, and starts ``(h, 2)``."""
    here, weights = points[index], counts.to(points)
    # The covariance of padding must be invertible too.
    spread = torch.where(counts[..., None, None], spread[index], torch.eye(3).to(points))
    along = PlaneToPlane().along if settings.plane else 1.0
    term = PlaneToPlane(
        along=along,
        covariances=spread,
        weights=weights,
        surface=surface,
        times=None if times is None or target_times is None else (times[index], target_times[None]),
    )
    problem = Problem(surface.points[None], PointWarp(here), term)
    prior = RigidMotion(settings.upright, weights)
    initial = {
        "turn": begin.new_zeros(len(begin), 3),
        "translation": torch.cat([begin, begin.new_zeros(len(begin), 1)], 1),
    }
    solver = LevenbergMarquardt(
        max_iterations=settings.iterations, tolerance=0.0, inner_iterations=6
    )
    solution = solve(problem, prior, solver, initial=initial, progress=False)
    final, bound = term.at(settings.iterations), prior.prepare(problem, solve)
    moves = solution.x.norm(dim=2)
    return Registration(
        thing,
        bound.motions(solution.parameters),
        final.value(here + solution.x, problem.y),
        final.value(here, problem.y),
        (weights * moves).sum(1) / weights.sum(1),
    )


def _thin(rows: Tensor, most: int) -> Tensor:
    """Return at most ``most`` rows, evenly spaced."""
    if len(rows) <= most:
        return rows
    return rows[
        torch.linspace(0, len(rows) - 1, most, dtype=torch.float64, device=rows.device)
        .round()
        .long()
    ]


def _pad(groups: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad the rows of every group with its first row; return them and a mask of the real rows."""
    longest = max(len(rows) for rows in groups)
    index = torch.stack(
        [torch.cat([rows, rows[:1].expand(longest - len(rows))]) for rows in groups]
    )
    counts = (
        torch.arange(longest, device=index.device)
        < index.new_tensor([len(rows) for rows in groups])[:, None]
    )
    return index, counts
