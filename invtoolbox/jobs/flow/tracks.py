"""Registration of clusters with the other sweeps of a window, as rigid bodies on smooth tracks.

`register` refines every hypothesis as an item of a batch: the prior is a `RigidTrack`, the data
term the robust distance to the surfaces of all sweeps, and the loop `solve`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from invtoolbox.core.pytrees import tree_map
from invtoolbox.data_terms.plane_to_plane import PlaneToPlane
from invtoolbox.geometry.rigid import transform
from invtoolbox.geometry.surface_normals import Surface, append_times, covariances
from invtoolbox.operators.points import PointWarp
from invtoolbox.priors.implicit.rigid_track import RigidTrack
from invtoolbox.problem import Problem
from invtoolbox.solve import solve
from invtoolbox.solvers.gauss_newton import LevenbergMarquardt

#: Seconds between the sweeps of a window in the search for partners, in addition to the times of
#: the points: so long that no point finds a partner in the wrong sweep.
_APART = 100.0
#: Largest number of points per group of clusters, which are padded to the largest of their group.
#: Larger clusters are thinned to the last number; with fewer points the motion of a near car depends
#: on the choice of the points.
_GROUPS = (48, 512)
#: Largest distance of partners whose times are compared, metres.
_PARTNERS = 0.3


@dataclass(frozen=True)
class RegistrationSettings:
    """Settings of the registration of clusters.

    Attributes:
        iterations: number of iterations of Levenberg-Marquardt. All are made, because the scale of
            the robust misfit shrinks from one to the next.
        upright: see `RigidTrack`.
        smooth: see `RigidTrack`.
        steady: see `RigidTrack`.
        plane: match surfaces (`PlaneToPlane`) instead of points, whose distances the scan lines of
            a lidar bias towards zero motion.
        scale: scale of the robust misfit in the first iteration, metres.
    """

    iterations: int = 15
    upright: float = 1.0
    smooth: float = 0.3
    steady: float = 0.0
    plane: bool = True
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Scans:
    """Sweeps that clusters are registered with, in one frame.

    Attributes:
        surface: surface of the points of all K sweeps.
        steps: time of each sweep after the source, in periods.
        times: times that the search for partners distinguishes the sweeps by, ``(m,)``; None for
            one sweep without times.
        timed: whether the points have times of their own.
        period: seconds of a period.
    """

    surface: Surface
    steps: tuple[float, ...]
    times: Tensor | None
    timed: bool
    period: float = 0.1

    @classmethod
    def of(
        cls,
        sweeps: Sequence[Tensor],
        steps: Sequence[float],
        times: Sequence[Tensor] | None = None,
        plane: bool = True,
        period: float = 0.1,
    ) -> Scans:
        """Build the search tree and the surfaces of sweeps.

        Args:
            sweeps: points of each sweep, ``(m_k, 3)``.
            steps: time of each sweep after the source, in periods.
            times: times of the points within their sweeps, seconds, ``(m_k,)``; None if unknown.
            plane: see `RegistrationSettings`.
            period: seconds of a period.
        """
        points, apart = torch.cat(list(sweeps)), None
        if times is not None or len(sweeps) > 1:
            apart = torch.cat(
                [
                    k * _APART + (points.new_zeros(len(sweep)) if times is None else times[k])
                    for k, sweep in enumerate(sweeps)
                ]
            ).to(points)
        surface = Surface.of(points, apart) if plane else Surface.of_points(points, apart)
        return cls(surface, tuple(steps), apart, times is not None, period)


@dataclass(frozen=True, eq=False)
class Registration:
    """Result of registering h hypotheses with K sweeps.

    Attributes:
        thing: number of the cluster of every hypothesis, ``(h,)``.
        tracks: rigid motions to the K sweeps, ``(h, K, 4, 4)``.
        motion: rigid motions to the target, ``(h, 4, 4)``.
        misfit: mean robust misfit of each sweep, square metres, ``(h, K)``.
        still: mean robust misfit of each sweep without motion, square metres, ``(h, K)``.
        move: mean displacement of the points after one period, metres, ``(h,)``.
        parameters: parameters of the `RigidTrack` of every hypothesis.
    """

    thing: Tensor
    tracks: Tensor
    motion: Tensor
    misfit: Tensor
    still: Tensor
    move: Tensor
    parameters: dict[str, Tensor]

    def take(self, rows: Tensor) -> Registration:
        """Return the results of some hypotheses."""
        return tree_map(lambda values: values[rows], self)

    @classmethod
    def chosen(cls, mask: Tensor, first: Registration, second: Registration) -> Registration:
        """Choose the motion to the target from two results, hypothesis by hypothesis."""
        pick = mask.view(-1, 1, 1)
        return replace(second, motion=torch.where(pick, first.motion, second.motion))

    @classmethod
    def joined(cls, parts: Sequence[Registration]) -> Registration:
        """Join the results of several batches."""
        return cls(
            torch.cat([part.thing for part in parts]),
            torch.cat([part.tracks for part in parts]),
            torch.cat([part.motion for part in parts]),
            torch.cat([part.misfit for part in parts]),
            torch.cat([part.still for part in parts]),
            torch.cat([part.move for part in parts]),
            {
                key: torch.cat([part.parameters[key] for part in parts])
                for key in parts[0].parameters
            },
        )


def register(
    members: Sequence[Tensor],
    thing: Tensor,
    initial: dict[str, Tensor],
    points: Tensor,
    scans: Scans,
    times: Tensor | None = None,
    settings: RegistrationSettings | None = None,
) -> Registration:
    """Register clusters with the sweeps of a window, from every initial track.

    Args:
        members: rows of the points of every cluster, at least one each.
        thing: number of the cluster of every hypothesis, ``(h,)``, at least one.
        initial: parameters of the `RigidTrack` that every hypothesis starts from, ``(h, 3)`` each.
        points: points of the sweep, ``(n, 3)``; normals are estimated from all of them.
        scans: the other sweeps.
        times: times of the points within their sweep, seconds, ``(n,)``; used if the times of the
            other sweeps are known too.
        settings: settings of the registration.
    """
    settings = settings or RegistrationSettings()
    if not scans.timed:
        times = None
    rows = torch.cat(list(members)).unique()
    spread = torch.eye(3).to(points).repeat(len(points), 1, 1)
    if settings.plane:
        spread[rows] = covariances(points, times, rows=rows)
    sizes = torch.tensor([len(member) for member in members], device=points.device)[thing]
    found, order, smaller = [], [], 0
    for largest in _GROUPS:
        inside = (sizes > smaller) & ((sizes <= largest) | (largest == _GROUPS[-1]))
        smaller, group = largest, inside.nonzero().squeeze(1)
        if len(group):
            index, counts = _pad([_thin(members[k], largest) for k in thing[group].tolist()])
            begin = {key: value[group] for key, value in initial.items()}
            found.append(
                _register(
                    thing[group], index, counts, begin, points, spread, scans, times, settings
                )
            )
            order.append(group)
    return Registration.joined(found).take(torch.cat(order).argsort())


def _register(
    thing: Tensor,
    index: Tensor,
    counts: Tensor,
    begin: dict[str, Tensor],
    points: Tensor,
    spread: Tensor,
    scans: Scans,
    times: Tensor | None,
    settings: RegistrationSettings,
) -> Registration:
    """Register one batch: rows ``(h, p)`` of every hypothesis, padded."""
    count = len(scans.steps)
    here, weights = points[index].repeat(1, count, 1), counts.to(points).repeat(1, count)
    # The covariance of padding must be invertible too.
    spread = torch.where(counts[..., None, None], spread[index], torch.eye(3).to(points))
    sought = None
    if scans.times is not None:
        own = points.new_zeros(index.shape) if times is None else times[index].to(points)
        sought = (torch.cat([k * _APART + own for k in range(count)], 1), scans.times[None])
    term = PlaneToPlane(
        scale=(settings.scale, 0.1),
        along=PlaneToPlane().along if settings.plane else 1.0,
        covariances=spread.repeat(1, count, 1, 1),
        weights=weights,
        surface=scans.surface,
        times=sought,
    )
    problem = Problem(scans.surface.points[None], PointWarp(here), term)
    prior = RigidTrack(scans.steps, settings.upright, settings.smooth, settings.steady, weights)
    if count > 1:
        begin = {"bend": torch.zeros_like(begin["turn"]), **begin}
    solver = LevenbergMarquardt(
        max_iterations=settings.iterations, tolerance=0.0, inner_iterations=6
    )
    solution = solve(problem, prior, solver, initial=begin, progress=False)
    final, bound = term.at(settings.iterations), prior.prepare(problem, solve)

    def misfits(moved: Tensor) -> Tensor:
        each = final.misfits(moved, problem.y) * weights
        return each.unflatten(1, (count, -1)).sum(2) / counts.sum(1, keepdim=True)

    moved = here + solution.x
    late = points.new_ones(1, 1)
    if sought is not None and times is not None:
        late = 1 + _lateness(moved, sought[0], weights, scans)
    # A body that crosses the view is measured somewhat earlier or later in every sweep.
    motion = bound.motions({key: value / late for key, value in solution.parameters.items()})
    moves = (transform(motion, points[index]) - points[index]).norm(dim=2)
    return Registration(
        thing,
        bound.tracks(solution.parameters),
        motion,
        misfits(moved),
        misfits(here),
        (counts * moves).sum(1) / counts.sum(1),
        solution.parameters,
    )


def _lateness(moved: Tensor, times: Tensor, weights: Tensor, scans: Scans) -> Tensor:
    """Return by which share of a period the sweeps see each body later per period, ``(h, 1)``.

    A lidar that turns meets a body that crosses the view at another angle, so at another time
    within each sweep.

    Args:
        moved: points at their places in all K sweeps, ``(h, K p, 3)``.
        times: times that their partners are sought by, ``(h, K p)``.
        weights: weights of the points, ``(h, K p)``.
        scans: the sweeps.
    """
    assert scans.times is not None
    wanted = weights > 0
    asked = append_times(moved[wanted], times[wanted], PlaneToPlane().time_scale)
    distance, partner = scans.surface.tree.query(asked, _PARTNERS)
    counts = moved.new_zeros(wanted.shape).masked_scatter(wanted, distance.isfinite().to(moved))
    # Times in float64, because the sweeps are far apart in them.
    later = moved.new_zeros(wanted.shape).masked_scatter(
        wanted, (scans.times[partner].double() - times[wanted].double()).to(moved) / scans.period
    )
    steps = moved.new_tensor(scans.steps)[:, None]
    counts, later = (values.unflatten(1, (len(scans.steps), -1)) for values in (counts, later))
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
    longest = max(len(rows) for rows in groups)
    index = torch.stack(
        [torch.cat([rows, rows[:1].expand(longest - len(rows))]) for rows in groups]
    )
    counts = (
        torch.arange(longest, device=index.device)
        < index.new_tensor([len(rows) for rows in groups])[:, None]
    )
    return index, counts
