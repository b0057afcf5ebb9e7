"""Moving bodies: clusters registered with the next sweep as rigid bodies.

A body is accepted if its motion explains the points clearly better than standing still.
`refine` lets bodies bend: a voxel field is added to their rigid motion, kept as rigid as possible,
and fitted to the next sweep.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from invtoolbox.data_terms.plane_to_plane import PlaneToPlane
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import transform
from invtoolbox.geometry.surface_normals import covariances
from invtoolbox.kernels.points.nearest import Tree
from invtoolbox.motion.ground import ground
from invtoolbox.motion.registration import (
    Registration,
    RegistrationSettings,
    clusters,
    height_above,
    register,
    translations,
)
from invtoolbox.operators.points import PointWarp
from invtoolbox.priors.implicit.voxel_flow import VoxelFlow
from invtoolbox.priors.motion.rigidity import ARAP
from invtoolbox.problem import Problem
from invtoolbox.solve import solve
from invtoolbox.solvers.lbfgs import LBFGS

#: Points farther than this from the other sweep have no partner in it, metres: about twice the
#: distance of lidar lines at 30 m.
_APART = 0.15
#: Usual speed of a body, metres per second: much faster ones need more evidence.
_USUAL = 10.0
#: Width of the border around the places that bodies can reach, metres, in which surfaces are seen
#: whole.
_MARGIN = 2.0
#: Height above the ground up to which points above a body may belong to it, metres: lorries, buses.
_TALLEST = 4.5
#: Distance in the plane within which fragments of a body are searched, metres.
_FRAGMENT_DISTANCE = 1.5
#: Smallest distance of a fragment to the target, metres.
_FRAGMENT_APART = 0.15


@dataclass(frozen=True, eq=False)
class Pair:
    """Input of a method: two sweeps in one frame, in which the static worlds coincide.

    The ground is removed, unless it is kept on request.

    Attributes:
        source: points of the first sweep, ``(n, 3)``.
        target: points of the second sweep, ``(m, 3)``.
        ground: points of the ground, which define heights, ``(g, 3)``; none if the ground was not
            removed, or was removed before.
        times: times of the points within their sweeps, seconds, ``(n,)`` and ``(m,)``; None if
            unknown.
        period: seconds from the first sweep to the second.
        ego_motion: E, by which the source was moved, float64 ``(4, 4)``; None if it was not moved.
    """

    source: Tensor
    target: Tensor
    ground: Tensor
    times: tuple[Tensor, Tensor] | None = None
    period: float = 0.1
    ego_motion: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Motion:
    """Result of a method for the n points of the source.

    Attributes:
        flow: displacement relative to the static world, metres, ``(n, 3)``.
        instance: number of the body of every point, int64 ``(n,)``; -1 for none.
    """

    flow: Tensor
    instance: Tensor


@dataclass(frozen=True)
class BodySettings:
    """Settings of the detection of moving bodies.

    A cluster is a moving body if three conditions hold: its registration lowers the misfit to the
    share `explained` of the misfit without motion; it raises the log-likelihood of the points,
    under noise of `noise`, by at least ``gain (1 + (speed / 10)^2)`` with the speed in metres per
    second, because a small piece of wall fits many places, distant ones above all; and its points
    move by at least `least` and at most at the speed `fastest`.

    Attributes:
        gap: largest distance in the plane of connected points of a cluster, metres.
        reach: height above the ground up to which points form clusters, metres.
        fewest: smallest number of points of a body.
        largest: largest extent of a body in the plane, metres; larger clusters are walls, hedges
            or several things that touch.
        fastest: largest speed of a body, metres per second.
        votes: number of initial translations that are tried, in addition to zero, for a cluster
            whose points have no partners.
        iterations: iterations of the registration, see `RegistrationSettings`.
        upright: see `RegistrationSettings`.
        plane: see `RegistrationSettings`.
        explained: largest ratio of the misfits with and without motion.
        gain: smallest gain of log-likelihood, see above.
        least: smallest motion, metres.
        noise: standard deviation of a point from its surface, metres.
    """

    gap: float = 0.5
    reach: float = 3.0
    fewest: int = 15
    largest: float = 20.0
    fastest: float = 55.0
    votes: int = 3
    iterations: int = 15
    upright: float = 1.0
    plane: bool = True
    explained: float = 0.5
    gain: float = 15.0
    least: float = 0.05
    noise: float = 0.02

    def __post_init__(self) -> None:
        lengths = (self.gap, self.reach, self.largest, self.fastest, self.explained, self.noise)
        if min(lengths) <= 0 or min(self.fewest, self.iterations) < 1:
            raise InputError(f"the settings of bodies must be positive, got {self}")


@dataclass(frozen=True, eq=False)
class Bodies:
    """Moving bodies and their motion.

    Attributes:
        label: number of the body of every point, int64 ``(n,)``; -1 for static points.
        motion: motion of every body from one sweep to the next, ``(bodies, 4, 4)``.
        flow: flow of every point by the motion of its body, ``(n, 3)``; 0 for static points.
    """

    label: Tensor
    motion: Tensor
    flow: Tensor


@dataclass(frozen=True, eq=False)
class _Cloud:
    """Points with their times and heights above the ground."""

    points: Tensor
    times: Tensor | None
    height: Tensor


def moving_bodies(
    points: Tensor,
    target: Tensor,
    height: Tensor,
    target_height: Tensor,
    times: tuple[Tensor, Tensor] | None = None,
    settings: BodySettings | None = None,
    period: float = 0.1,
) -> Bodies:
    """Find the moving bodies in a sweep whose static world coincides with the target.

    Args:
        points: points of the sweep, ``(n, 3)``, without ground.
        target: points of the next sweep in the same frame, ``(m, 3)``, without ground.
        height: heights of the points above the ground, ``(n,)``.
        target_height: heights of the target above the ground, ``(m,)``.
        times: times of the points within their sweeps, seconds, ``(n,)`` and ``(m,)``.
        settings: settings of the detection.
        period: seconds between the sweeps.
    """
    settings = settings or BodySettings()
    farthest = settings.fastest * period
    none = Bodies(
        torch.full((len(points),), -1, device=points.device),
        points.new_zeros(0, 4, 4),
        torch.zeros_like(points),
    )
    here = _Cloud(points, None if times is None else times[0], height)
    low = target_height < settings.reach + 0.5
    there = _Cloud(target[low], None if times is None else times[1][low], target_height[low])
    if len(points) == 0 or len(there.points) == 0:
        return none
    apart = Tree(target).query(points)[0] > _APART
    labels = _find_clusters(here, apart, settings)
    if not bool((labels >= 0).any()):
        return none
    members, starts = _hypotheses(here, there, labels, apart, farthest, settings)
    reached = (
        Tree(points[torch.cat(members), :2])
        .query(there.points[:, :2], bound=farthest + _MARGIN)[0]
        .isfinite()
    )
    if not bool(reached.any()):
        return none
    registration = RegistrationSettings(settings.iterations, settings.upright, settings.plane)
    found = register(
        members,
        starts,
        points,
        there.points[reached],
        here.times,
        None if there.times is None else there.times[reached],
        registration,
    )
    return _accept(points, members, found, period, settings)


def _find_clusters(cloud: _Cloud, apart: Tensor, settings: BodySettings) -> Tensor:
    """Return clusters that can be bodies.

    Of larger clusters, the parts without partners are clustered again: they may stand in front.
    """
    labels = _keep_compact(
        cloud.points, clusters(cloud.points, cloud.height, settings.gap, settings.reach), settings
    )
    rest = ((labels < 0) & apart & (cloud.height < settings.reach)).nonzero().squeeze(1)
    if len(rest):
        parts = _keep_compact(
            cloud.points[rest],
            clusters(cloud.points[rest], cloud.height[rest], settings.gap, settings.reach),
            settings,
        )
        labels[rest] = torch.where(parts >= 0, parts + int(labels.max()) + 1, parts)
    return labels


def _keep_compact(points: Tensor, labels: Tensor, settings: BodySettings) -> Tensor:
    """Return the labels of clusters of the size of a body, renumbered; -1 elsewhere."""
    count = int(labels.max()) + 1
    if count == 0:
        return labels
    inside = labels >= 0
    of, places = labels[inside], points[inside, :2]
    index = of[:, None].expand(-1, 2)
    low = points.new_full((count, 2), torch.inf).scatter_reduce(0, index, places, "amin")
    high = points.new_full((count, 2), -torch.inf).scatter_reduce(0, index, places, "amax")
    good = (torch.bincount(of, minlength=count) >= settings.fewest) & (
        (high - low).amax(1) <= settings.largest
    )
    number = torch.where(good, good.long().cumsum(0) - 1, -1)
    return torch.where(inside, number[labels.clamp_min(0)], -1)


def _hypotheses(
    here: _Cloud,
    there: _Cloud,
    labels: Tensor,
    apart: Tensor,
    farthest: float,
    settings: BodySettings,
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the rows of the points of every cluster, and its initial translations ``(k, 2)``."""
    order = labels.argsort(stable=True)
    count = int(labels.max()) + 1
    sizes = torch.bincount(labels[labels >= 0], minlength=count)
    members = list(order[int((labels < 0).sum()) :].split(sizes.tolist()))
    share = torch.stack([apart[rows].float().mean() for rows in members])
    # Target points on static clusters were seen before, so no moving body has arrived there.
    still = labels < 0
    still |= (share <= _APART)[labels.clamp_min(0)]
    new = torch.ones_like(there.height, dtype=torch.bool)
    if bool(still.any()):
        new = Tree(here.points[still]).query(there.points)[0] > 0.1
    starts = []
    for rows, alone in zip(members, share.tolist()):
        begin = [here.points.new_zeros(1, 2)]
        if alone > _APART:
            points = here.points[rows]
            near = new & (
                (there.points[:, :2] > points[:, :2].amin(0) - farthest)
                & (there.points[:, :2] < points[:, :2].amax(0) + farthest)
            ).all(1)
            votes = torch.from_numpy(
                translations(points, there.points[near], farthest, settings.votes)
            ).to(points)
            begin.append(votes[votes.norm(dim=1) > _APART])
        starts.append(torch.cat(begin))
    return members, starts


def _accept(
    points: Tensor,
    members: list[Tensor],
    found: Registration,
    period: float,
    settings: BodySettings,
) -> Bodies:
    """Accept the likeliest hypothesis of a cluster if it is likely enough (`BodySettings`)."""
    label, flow = torch.full((len(points),), -1, device=points.device), torch.zeros_like(points)
    motions: list[Tensor] = []
    number = [len(rows) for rows in members]
    # Of two motions that explain a cluster equally well, the smaller one is likelier.
    gain = settings.gain * settings.noise**2
    best: dict[int, tuple[float, int]] = {}
    for j, (k, misfit, move) in enumerate(
        zip(found.thing.tolist(), found.misfit.tolist(), found.move.tolist())
    ):
        cost = misfit + gain * (move / period / _USUAL) ** 2 / number[k]
        if k not in best or cost < best[k][0]:
            best[k] = (cost, j)
    for k, (_, j) in sorted(best.items()):
        misfit, still, move = float(found.misfit[j]), float(found.still[j]), float(found.move[j])
        speed = move / period
        if misfit >= settings.explained * still or number[k] * (still - misfit) < gain * (
            1 + (speed / _USUAL) ** 2
        ):
            continue
        if move < settings.least or speed > settings.fastest:
            continue
        label[members[k]] = len(motions)
        flow[members[k]] = transform(found.motion[j], points[members[k]]) - points[members[k]]
        motions.append(found.motion[j])
    return Bodies(label, torch.stack(motions) if motions else points.new_zeros(0, 4, 4), flow)


@dataclass(frozen=True)
class Refinement:
    """Settings of the nonrigid refinement of bodies.

    Attributes:
        cell: edge length of the voxels, metres.
        rigidity: weight of `ARAP` relative to the mean misfit, both in square metres.
        scale: scale of the robust misfit, metres: more distant partners have little influence.
        iterations: number of iterations of L-BFGS.
    """

    cell: float = 0.5
    rigidity: float = 1.0
    scale: float = 0.1
    iterations: int = 20


def refine(
    points: Tensor,
    target: Tensor,
    label: Tensor,
    flow: Tensor,
    times: tuple[Tensor, Tensor] | None = None,
    settings: Refinement | None = None,
) -> Tensor:
    """Return the flow of bodies that may bend, ``(n, 3)``; points without a body keep their flow.

    Args:
        points: points of the sweep, ``(n, 3)``.
        target: points of the next sweep in the same frame, ``(m, 3)``.
        label: number of the body of every point, ``(n,)``; -1 for none.
        flow: flow of the rigid motion of the bodies, ``(n, 3)``.
        times: times of the points, see `moving_bodies`.
        settings: settings of the refinement.
    """
    settings = settings or Refinement()
    rows = (label >= 0).nonzero().squeeze(1)
    if len(rows) == 0:
        return flow
    moved = (points + flow)[rows]
    near = ((target > moved.amin(0) - 1) & (target < moved.amax(0) + 1)).all(1)
    if not bool(near.any()):
        return flow
    spread = covariances(points, None if times is None else times[0], rows=rows)[None]
    term = PlaneToPlane(
        (settings.scale, settings.scale),
        covariances=spread,
        times=None if times is None else (times[0][rows][None], times[1][near][None]),
    )
    # The unknown is the displacement from the rigidly moved point, so zero is the rigid motion.
    problem = Problem(target[near][None], PointWarp(moved[None]), term)
    prior = VoxelFlow(settings.cell) + settings.rigidity * ARAP(labels=label[rows])
    solution = solve(problem, prior, LBFGS(), max_iterations=settings.iterations, progress=False)
    found = flow.clone()
    found[rows] += solution.x[0]
    return found


@dataclass(frozen=True)
class Default:
    """Default method: bodies that move rigidly; the flow of all other points is exactly 0.

    It extends ICP-Flow (Lin et al., CVPR 2024): plane-to-plane distances replace point-to-point
    distances, which the scan lines of a lidar bias towards zero motion, and the time of each point
    is used if it is known. All bodies are registered at once, as items of a batch.

    Attributes:
        bodies: settings of the detection of bodies.
        refinement: settings of a nonrigid refinement, or None. On the real pair of
            ``benchmarks/scene_flow.py``, in which only cars are found, it increases the dynamic
            error by 0.02 m, so there is none by default.
    """

    bodies: BodySettings = field(default_factory=BodySettings)
    refinement: Refinement | None = None

    def __call__(self, pair: Pair, seed: int) -> Motion:
        if len(pair.ground) == 0 and bool((low := ground(pair.source)).any()):
            return self._without_ground(pair, low, seed)
        height, target_height = (
            height_above(pair.source, pair.ground),
            height_above(pair.target, pair.ground),
        )
        bodies = moving_bodies(
            pair.source,
            pair.target,
            height,
            target_height,
            pair.times,
            self.bodies,
            pair.period,
        )
        bodies = _with_fragments(pair, height, bodies)
        if self.refinement is None:
            return Motion(bodies.flow, bodies.label)
        return Motion(
            refine(
                pair.source, pair.target, bodies.label, bodies.flow, pair.times, self.refinement
            ),
            bodies.label,
        )

    def _without_ground(self, pair: Pair, low: Tensor, seed: int) -> Motion:
        """Compute the motion of a pair that holds its ground, which stands still.

        The ground would connect all clusters.
        """
        high, target_high = ~low, ~ground(pair.target)
        times = pair.times and (pair.times[0][high], pair.times[1][target_high])
        part = replace(
            pair,
            source=pair.source[high],
            target=pair.target[target_high],
            ground=pair.source[low],
            times=times,
        )
        found = self(part, seed)
        flow, instance = torch.zeros_like(pair.source), torch.full_like(low, -1, dtype=torch.long)
        flow[high], instance[high] = found.flow, found.instance
        return Motion(flow, instance)


@dataclass(frozen=True)
class IcpFlow:
    """ICP-Flow (Lin et al., CVPR 2024): bodies registered with point-to-point distances.

    Attributes:
        bodies: settings of the detection of bodies.
    """

    bodies: BodySettings = field(
        default_factory=lambda: BodySettings(plane=False, explained=0.7, noise=0.05)
    )

    def __call__(self, pair: Pair, seed: int) -> Motion:
        return Default(self.bodies)(replace(pair, times=None), seed)


def _with_fragments(pair: Pair, height: Tensor, bodies: Bodies) -> Bodies:
    """Assign loose points next to or above a body to it if its motion brings them onto the target.

    Such points were too high for clusters, or are connected to nothing, like a long side of a car
    that is seen at a grazing angle.
    """
    inside = bodies.label >= 0
    if not bool(inside.any()):
        return bodies
    tree = Tree(pair.target)
    before = tree.query(pair.source)[0]
    loose = (~inside & (height < _TALLEST) & (before > _FRAGMENT_APART)).nonzero().squeeze(1)
    if len(loose) == 0:
        return bodies
    flat = torch.tensor([1.0, 1.0, 0.0], device=pair.source.device) * pair.source
    distance, index = Tree(flat[inside]).query(flat[loose], bound=_FRAGMENT_DISTANCE)
    near = distance.isfinite()
    loose, owner = loose[near], bodies.label[inside][index[near]]
    points, motion = pair.source[loose], bodies.motion[owner]
    flow = torch.einsum("nij,nj->ni", motion[:, :3, :3], points) + motion[:, :3, 3] - points
    better = tree.query(points + flow)[0] < 0.5 * before[loose]
    label, whole = bodies.label.clone(), bodies.flow.clone()
    label[loose[better]], whole[loose[better]] = owner[better], flow[better]
    return Bodies(label, bodies.motion, whole)
