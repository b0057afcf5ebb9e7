"""Registration of clusters with the other sweeps of a window, as rigid bodies on smooth tracks.

`register` refines every hypothesis as an item of a batch: the prior is a `RigidTrack`, the data
term the robust distance to the surfaces of all sweeps, and the loop `solve`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.core.pytrees import join_items
from invtoolbox.data_terms.plane_to_plane import PlaneToPlane
from invtoolbox.geometry.rigid import transform
from invtoolbox.geometry.surface_normals import Surface, append_times, covariances
from invtoolbox.jobs.flow.evidence import Evidence, Registration
from invtoolbox.jobs.flow.window import Neighbour
from invtoolbox.kernels.points.nearest import Tree
from invtoolbox.operators.points import PointWarp
from invtoolbox.priors.implicit.rigid_track import RigidTrack
from invtoolbox.problem import Problem
from invtoolbox.solve import solve
from invtoolbox.solvers.gauss_newton import LevenbergMarquardt

#: Width of the border around the places that bodies can reach, metres, in which surfaces are seen
#: whole.
_MARGIN = 2.0
#: Seconds between the sweeps of a window in the search for partners, in addition to the times of
#: the points: so long that no point finds a partner in the wrong sweep.
_APART = 100.0
#: Largest number of points per group of clusters, which are padded to the largest of their group.
#: Larger clusters are thinned to the last number; with fewer points the motion of a near car depends
#: on the choice of the points.
_GROUPS = (48, 512)
#: Largest variance across a surface, see `covariances`: a person has a surface too.
_THICKEST = 0.05
#: Largest distance of partners whose times are compared, metres.
_PARTNERS = 0.3


@dataclass(frozen=True, eq=False)
class Scans:
    """Sweeps that clusters are registered with, in one frame.

    Attributes:
        surface: surface of the points of all K sweeps.
        steps: time of each sweep after the source, in periods.
        times: times that the search for partners distinguishes the sweeps by, ``(m,)``; None for
            one sweep without times.
    """

    surface: Surface
    steps: tuple[float, ...]
    times: Tensor | None

    @classmethod
    def of(cls, sweeps: Sequence[Neighbour], timed: bool, plane: bool) -> Scans:
        """Build the search tree and the surfaces of sweeps.

        Args:
            sweeps: the sweeps.
            timed: whether the times of the points are used; all sweeps must then have them.
            plane: see `BodySettings`.
        """
        points, apart = torch.cat([sweep.points for sweep in sweeps]), None
        # The sweep k has the times k * 100 s + t. As a fourth coordinate, scaled to metres, they
        # make one tree of all sweeps, in which every point finds partners in its sweep alone.
        if timed or len(sweeps) > 1:
            within = [sweep.times if timed else None for sweep in sweeps]
            apart = torch.cat(
                [
                    k * _APART + (points.new_zeros(len(sweep.points)) if t is None else t)
                    for k, (sweep, t) in enumerate(zip(sweeps, within))
                ]
            ).to(points)
        surface = (
            Surface.of(points, apart, thickest=_THICKEST)
            if plane
            else Surface.of_points(points, apart)
        )
        return cls(surface, tuple(sweep.step for sweep in sweeps), apart)


def register(
    evidence: Evidence,
    sweeps: Sequence[Neighbour],
    times: Tensor | None,
    cluster: Tensor,
    initial: dict[str, Tensor],
    scale: float = 1.0,
) -> Registration:
    """Register clusters with the sweeps of a window, from every initial track.

    Args:
        evidence: the clusters, and the points of their sweep, from all of which normals are
            estimated.
        sweeps: the other sweeps.
        times: times of the points within their sweep, seconds, ``(n,)``; None if they are unknown
            in one of the sweeps.
        cluster: number of the cluster of every hypothesis, ``(h,)``, at least one.
        initial: parameters of the `RigidTrack` that every hypothesis starts from, ``(h, 3)`` each.
        scale: scale of the robust misfit in the first iteration, metres.
    """
    points, members, settings = evidence.points, evidence.members, evidence.settings
    rows = torch.cat(list(members))
    # Only points that a body can reach are searched; the margin keeps whole surfaces for normals.
    near, farthest = Tree(points[rows, :2]), float(evidence.fastest.max()) * evidence.period
    reached = [
        near.query(sweep.points[:, :2], farthest * max(1.0, abs(sweep.step)) + _MARGIN)[
            0
        ].isfinite()
        for sweep in sweeps
    ]
    if any(bool(mask.any()) for mask in reached):  # the registration needs some points
        sweeps = [sweep.take(mask) for sweep, mask in zip(sweeps, reached)]
    scans = Scans.of(sweeps, times is not None, settings.plane)
    # Generalized ICP (Segal, Haehnel and Thrun 2009) with the covariance of every point about its
    # surface; points of no cluster keep the identity, which nothing reads.
    spread = torch.eye(3).to(points).repeat(len(points), 1, 1)
    if settings.plane:
        rows = rows.unique()
        spread[rows] = covariances(points, times, rows=rows, thickest=_THICKEST)
    sizes = evidence.sizes(cluster)
    # Hypotheses of similar sizes share a batch, because a batch is padded to its largest item.
    results, order, smaller = [], [], 0
    for largest in _GROUPS:
        inside = (sizes > smaller) & ((sizes <= largest) | (largest == _GROUPS[-1]))
        smaller, group = largest, inside.nonzero().squeeze(1)
        if len(group):
            index, counts = _pad([_thin(members[k], largest) for k in cluster[group].tolist()])
            results.append(
                _register_batch(
                    evidence,
                    scans,
                    times,
                    cluster=cluster[group],
                    index=index,
                    counts=counts,
                    spread=spread,
                    initial={key: start[group] for key, start in initial.items()},
                    scale=scale,
                )
            )
            order.append(group)
    return join_items(results).take(torch.cat(order).argsort())


def _register_batch(
    evidence: Evidence,
    scans: Scans,
    times: Tensor | None,
    cluster: Tensor,
    index: Tensor,
    counts: Tensor,
    spread: Tensor,
    initial: dict[str, Tensor],
    scale: float,
) -> Registration:
    """Register one batch: rows ``(h, p)`` of every hypothesis, padded."""
    points, settings, count = evidence.points, evidence.settings, len(scans.steps)
    # A batch item holds its p points K times, one copy per sweep: places (h, K p, 3).
    at_rest, weights = points[index].repeat(1, count, 1), counts.to(points).repeat(1, count)
    # The covariance of padding must be invertible too.
    spread = torch.where(counts[..., None, None], spread[index], torch.eye(3).to(points))
    sought = None
    if scans.times is not None:
        # Copy k of a point seeks partners at the time k * 100 s + t, in the sweep k (`Scans.of`).
        within = points.new_zeros(index.shape) if times is None else times[index].to(points)
        sought = (torch.cat([k * _APART + within for k in range(count)], 1), scans.times[None])
    # Geman and McClure's function, whose scale falls from `scale` to 0.1 m per iteration (graduated
    # non-convexity). Without planes, along = 1 is the distance between points.
    term = PlaneToPlane(
        scale=(scale, 0.1),
        along=PlaneToPlane().along if settings.plane else 1.0,
        covariances=spread.repeat(1, count, 1, 1),
        weights=weights,
        surface=scans.surface,
        times=sought,
    )
    problem = Problem(scans.surface.points[None], PointWarp(at_rest), term)
    prior = RigidTrack(scans.steps, settings.upright, settings.smooth, weights=weights)
    if count > 1:
        initial = {"bend": torch.zeros_like(initial["turn"]), **initial}
    solver = LevenbergMarquardt(
        max_iterations=settings.iterations, tolerance=0.0, inner_iterations=6
    )
    solution = solve(problem, prior, solver, initial=initial, progress=False)
    final, bound = term.at(settings.iterations), prior.prepare(problem, solve)

    def misfits(places: Tensor) -> Tensor:
        # Means over the real points of every item, (h, K p) -> (h, K), at the last scale.
        energies = final.misfits(places, problem.y) * weights
        return energies.unflatten(1, (count, -1)).sum(2) / counts.sum(1, keepdim=True)

    arrived = at_rest + solution.x
    late = points.new_ones(1, 1)
    if sought is not None and times is not None:
        late = 1 + _lateness(arrived, sought, weights, scans, evidence.period)
    # A body that crosses the view is measured somewhat earlier or later in every sweep: its track
    # takes 1 + lateness periods per sweep, so its motion in one period is smaller by that factor.
    motion = bound.motions({key: value / late for key, value in solution.parameters.items()})
    moves = (transform(motion, points[index]) - points[index]).norm(dim=2)
    return Registration(
        cluster=cluster,
        tracks=bound.tracks(solution.parameters),
        motion=motion,
        misfit=misfits(arrived),
        still=misfits(at_rest),
        move=(counts * moves).sum(1) / counts.sum(1),
        firm=_firmness(spread, transform(motion, points[index]) - points[index], counts),
        parameters=solution.parameters,
    )


def _firmness(spread: Tensor, way: Tensor, counts: Tensor) -> Tensor:
    """Return the share of each body's normals that lies along its motion, ``(h,)``.

    It is the mean of (n u)^2 over the points, with their normals n and the direction u of the motion:
    the normal matrix of the registration along u. A motion along a flat surface has 0, because the
    surface looks the same everywhere.

    Args:
        spread: covariances ``C = I + (s - 1) n n^T`` of the points, ``(h, p, 3, 3)``.
        way: displacements of the points, ``(h, p, 3)``.
        counts: mask of the real points, ``(h, p)``.
    """
    ahead = torch.nn.functional.normalize((counts[..., None] * way).sum(1), dim=1)
    along = 1 - torch.einsum("hi,hpij,hj->hp", ahead, spread, ahead)
    return (counts * along).sum(1) / counts.sum(1)


def _lateness(
    places: Tensor,
    sought: tuple[Tensor, Tensor],
    weights: Tensor,
    scans: Scans,
    period: float,
) -> Tensor:
    """Return by which share of a period the sweeps see each body later per period, ``(h, 1)``.

    A lidar that turns meets a body that crosses the view at another angle, so at another time
    within each sweep.

    Args:
        places: points at their places in all K sweeps, ``(h, K p, 3)``.
        sought: times that their partners are sought by, ``(h, K p)``, and the times of the
            measured points, ``(1, m)``.
        weights: weights of the points, ``(h, K p)``.
        scans: the sweeps.
        period: seconds from the source to the target.
    """
    real = weights > 0
    times, measured = sought[0][real], sought[1][0]
    queries = append_times(places[real], times)
    distance, partner = scans.surface.tree.query(queries, _PARTNERS)
    counts = places.new_zeros(real.shape).masked_scatter(real, distance.isfinite().to(places))
    # Times in float64, because the sweeps are far apart in them.
    later = places.new_zeros(real.shape).masked_scatter(
        real, (measured[partner].double() - times.double()).to(places) / period
    )
    # Least squares through the origin: the slope b of `later = b s` over the pairs that have a
    # partner is sum(s later) / sum(s^2), with s the time of the sweep in periods.
    steps = places.new_tensor(scans.steps)[:, None]
    counts, later = (tensor.unflatten(1, (len(scans.steps), -1)) for tensor in (counts, later))
    total = (counts * steps.square()).sum((1, 2)).clamp_min(1e-12)
    return ((counts * steps * later).sum((1, 2)) / total)[:, None]


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
    # The first row is a point of the item itself, so padding changes neither its box nor its
    # search; the mask gives it the weight 0.
    longest = max(len(rows) for rows in groups)
    index = torch.stack(
        [torch.cat([rows, rows[:1].expand(longest - len(rows))]) for rows in groups]
    )
    counts = (
        torch.arange(longest, device=index.device)
        < index.new_tensor([len(rows) for rows in groups])[:, None]
    )
    return index, counts
