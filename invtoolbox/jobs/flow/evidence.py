"""Evidence of motion: which registered clusters are moving bodies, and not still things.

A motion must explain the points in all sweeps clearly better than standing still, and it must not
end on the still world.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.pytrees import tree_map
from invtoolbox.geometry.rigid import transform
from invtoolbox.jobs.flow.sensor import Rays
from invtoolbox.jobs.flow.window import Neighbour
from invtoolbox.kernels.points.nearest import Tree

#: Distance of a point from the nearest points of another sweep beyond which it hardly lies on the
#: same surface: metres at the sensor, and about half the distance of neighbouring rays.
_APART, _APART_PER_SPACING = 0.05, 0.53
#: Classes of bodies: largest extent in the plane of a pedestrian, a rider, and of anything larger,
#: metres; usual speed, much above which a motion needs more evidence, and largest speed, metres per
#: second. A few points fit many distant places.
_CLASSES = ((1.2, 3.0, 12.0), (2.4, 6.0, 40.0), (math.inf, 12.0, 60.0))
#: A measured point hides the places within this angle behind it, in distances of neighbouring rays,
#: that are farther by the second number, metres.
_ANGLE, _BEFORE = 1.3, 0.5
#: A cluster with less rise than the first number, metres, that is wider than the second one, is a line
#: that looks alike in many places: the least gain of log-likelihood counts with the last number.
_RISES, _WIDE, _LINE = 0.15, 0.7, 2.0
#: The least gain of log-likelihood counts with the first number plus the second one times the ratio of
#: the misfits: what explains almost all is less likely by chance.
_SURE, _DOUBT = 0.4, 2.5
#: Share of `BodySettings.explained`, and factor of the least gain of log-likelihood, that count if
#: there is only one other sweep.
_BY_ONE, _MORE = 0.7, 2.0
#: A motion shows at the ends of a body alone if `Registration.firm` is smaller than the first number
#: and the body is longer along its motion than across by the second one, and than the third number,
#: metres. The ends are real if the surface does not go on within the fourth share of its length, beside
#: the line by at most the fifth number, metres, and if nothing nearer hides what lies within the sixth
#: number of distances of neighbouring rays beyond them. As many points as the last number do not make a
#: surface.
_FIRM, _LONG, _LEAST, _GAP, _BESIDE, _BEYOND, _ON = 0.15, 1.5, 0.9, 0.6, 0.3, 2.5, 5
#: Vertical extent of a wall, and heights above a cluster in which it has further points, metres.
_HIGH, _ABOVE = 1.9, (0.4, 2.0)
#: Largest share of the points of a body that may arrive on the still world.
_ARRIVED = 0.3


@dataclass(frozen=True)
class BodySettings:
    """Settings of the detection of moving bodies.

    A cluster is a moving body if five conditions hold: it is not slender, like a post, nor flat,
    like a single line of points near the sensor; its registration lowers the misfit to the share
    `explained` of the misfit without motion, or 0.7 of that share in one other sweep; it raises the
    log-likelihood of its points in all sweeps, under noise of `noise`, by at least
    ``gain (1 + (speed / usual)^2) K^(3/4)`` with the usual speed of a body of its size and the
    number K of sweeps, because a small piece of wall fits many places, distant ones above all, and does so in
    sweep after sweep; and its points move by at least `least` and at most at the speed `fastest`.
    Sweeps in which the cluster is hidden by something nearer do not count.

    Attributes:
        reach: height above the ground up to which points form clusters, metres.
        fewest: smallest number of points of a body.
        largest: largest extent of a body in the plane, metres; larger clusters are walls, hedges
            or several things that touch.
        fastest: largest speed of a body, metres per second; that of small ones is lower.
        apart: smallest mean distance of the points of a body from the first and from the last
            sweep, in units of the distance that a thing at rest has.
        votes: number of translations that are tried per sweep, in addition to zero.
        iterations: number of iterations of Levenberg-Marquardt in a registration. All are made,
            because the scale of the robust misfit shrinks from one to the next.
        upright: see `RigidTrack`.
        smooth: see `RigidTrack`.
        plane: match surfaces (`PlaneToPlane`) instead of points, whose distances the scan lines of
            a lidar bias towards zero motion.
        explained: largest ratio of the misfits with and without motion.
        gain: smallest gain of log-likelihood, see above.
        least: smallest motion, metres.
        noise: smallest standard deviation of a point from its surface, metres; that of the ranges
            of the sweep counts if it is larger.
    """

    reach: float = 3.0
    fewest: int = 5
    largest: float = 20.0
    fastest: float = 55.0
    apart: float = 0.6
    votes: int = 3
    iterations: int = 10
    upright: float = 1.0
    smooth: float = 0.3
    plane: bool = True
    explained: float = 0.6
    gain: float = 5.0
    least: float = 0.04
    noise: float = 0.02

    def __post_init__(self) -> None:
        check_range(self, "(0, inf]", "reach", "largest", "fastest")
        check_range(self, "(0, inf]", "explained", "noise")
        check_range(self, "[1, inf]", "fewest", "iterations")


def hides(scan: Neighbour, places: Tensor, moved: Tensor, body: Tensor, angle: float) -> Tensor:
    """Return which places the sensor could not see in a sweep, bool ``(n,)``.

    Something nearer was measured in their direction, and it is not the body itself, which has
    moved there.

    Args:
        scan: low points of the sweep.
        places: places of the points of all bodies, ``(n, 3)``.
        moved: places of the same points in this sweep, ``(n, 3)``.
        body: number of the body of every place, from 0, ascending, ``(n,)``.
        angle: angle to a ray that hides a place, radians.
    """
    place, sight = places - scan.origin, scan.points - scan.origin
    reach, count, sizes = place.norm(dim=1), int(body[-1]) + 1, torch.bincount(body)
    middle = torch.segment_reduce(place, "mean", lengths=sizes, axis=0, unsafe=True)
    # Only points in the wedge of a body can hide it: this choice bounds the search, the angle below
    # decides. Azimuths count from the middle of the body, so that none of them jumps.
    ahead = torch.atan2(middle[:, 1], middle[:, 0])
    aside = torch.atan2(place[:, 1], place[:, 0]) - ahead[body]
    aside = aside - 2 * torch.pi * (aside / (2 * torch.pi)).round()
    wide = 1.5 * angle * reach / place[:, :2].norm(dim=1).clamp_min(1e-6)
    edges = torch.stack([wide - aside, wide + aside], 1).clamp_max(3.1)
    edges = torch.segment_reduce(edges, "max", lengths=sizes, axis=0, unsafe=True)
    azimuth, order = torch.atan2(sight[:, 1], sight[:, 0]).sort(stable=True)
    # Two turns more, because a wedge may reach beyond half a turn.
    turns = torch.cat([azimuth - 2 * torch.pi, azimuth, azimuth + 2 * torch.pi])
    first = torch.searchsorted(turns, ahead - edges[:, 0])
    number = torch.searchsorted(turns, ahead + edges[:, 1]) - first
    owner = torch.arange(count, device=body.device).repeat_interleave(number)
    within = torch.arange(len(owner), device=body.device) - (number.cumsum(0) - number)[owner]
    screen = sight[order[(first[owner] + within) % len(order)]]
    # In front of the farthest place, and farther than 0.5 m from the body. Bodies are apart in a
    # fourth coordinate, so that one tree serves all.
    farthest = torch.segment_reduce(reach, "max", lengths=sizes, axis=0, unsafe=True)
    along = (screen * torch.nn.functional.normalize(middle, dim=1)[owner]).sum(1)
    front = (along > 0) & (along < farthest[owner])
    screen, owner = screen[front], owner[front]
    is_far = Tree(_apart(moved - scan.origin, body)).query(_apart(screen, owner), 0.5)[0].isinf()
    screen, owner = screen[is_far], owner[is_far]
    if not len(screen):
        return torch.zeros_like(body, dtype=torch.bool)
    # On the unit sphere the chord |u - v| is the angle between two directions, up to angle^3 /
    # 24, so nearest directions are nearest neighbours of unit vectors.
    distance = screen.norm(dim=1)
    sight, direction = screen / distance[:, None], place / reach[:, None]
    near = Tree(_apart(sight, owner)).neighbours(_apart(direction, body), 4)
    aside = (sight[near] - direction[:, None]).norm(dim=2)
    before = (distance[near] < reach[:, None] - _BEFORE) & (owner[near] == body[:, None])
    return ((aside < angle) & before).any(1)


def _apart(points: Tensor, body: Tensor) -> Tensor:
    """Append a coordinate that keeps the points of different bodies ten metres apart."""
    return torch.cat([points, 10 * body[:, None].to(points)], 1)


def apart_at_rest(range_: Tensor, rays: Rays) -> Tensor:
    """Return the distance of points at rest from another sweep, metres, by their range."""
    return _APART + _APART_PER_SPACING * rays.spacing * range_


@dataclass(frozen=True, eq=False)
class Registration:
    """Result of registering h hypotheses with K sweeps.

    Attributes:
        cluster: number of the cluster of every hypothesis, ``(h,)``.
        tracks: rigid motions to the K sweeps, ``(h, K, 4, 4)``.
        motion: rigid motions to the target, ``(h, 4, 4)``.
        misfit: mean robust misfit of each sweep, square metres, ``(h, K)``.
        still: mean robust misfit of each sweep without motion, square metres, ``(h, K)``.
        move: mean displacement of the points after one period, metres, ``(h,)``.
        firm: share of the surface that faces the motion, 0 for a motion along a wall, ``(h,)``.
        parameters: parameters of the `RigidTrack` of every hypothesis.
    """

    cluster: Tensor
    tracks: Tensor
    motion: Tensor
    misfit: Tensor
    still: Tensor
    move: Tensor
    firm: Tensor
    parameters: dict[str, Tensor]

    def take(self, rows: Tensor) -> Registration:
        """Return the results of some hypotheses."""
        return tree_map(lambda tensor: tensor[rows], self)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Clusters that may move, and the world that they move in.

    Attributes:
        points: points of the source, ``(n, 3)``.
        members: rows of the points of each cluster.
        usual: usual speed of each cluster, metres per second.
        fastest: largest speed of each cluster, metres per second.
        flat: whether each cluster is a single line of points.
        period: seconds from the source to the target.
        origin: position of the sensor, ``(3,)``.
        settings: settings of the detection.
        still: points that no cluster holds; None if there are none.
        rays: spacing of the rays of the sensor and noise of its ranges.
        world: mask of the points on which no body arrives, ``(n,)``.
    """

    points: Tensor
    members: Sequence[Tensor]
    usual: Tensor
    fastest: Tensor
    flat: Tensor
    period: float
    origin: Tensor
    settings: BodySettings
    still: Tree | None
    rays: Rays
    world: Tensor

    @classmethod
    def of(
        cls,
        points: Tensor,
        members: Sequence[Tensor],
        period: float,
        origin: Tensor,
        settings: BodySettings,
        rays: Rays,
        world: Tensor | None = None,
    ) -> Evidence:
        """Compute the speeds of clusters and the points that none of them holds.

        Args:
            points: points of the source, ``(n, 3)``.
            members: rows of the points of each cluster, at least one cluster.
            period: seconds from the source to the target.
            origin: position of the sensor, ``(3,)``.
            settings: settings of the detection.
            rays: spacing of the rays of the sensor and noise of its ranges.
            world: mask of the points on which no body arrives, ``(n,)``, its own points aside; by
                default those that no cluster holds.
        """
        # Points outside of suspected clusters are the still world.
        still = torch.ones(len(points), dtype=torch.bool, device=points.device)
        still[torch.cat(list(members))] = False
        sizes = torch.stack([points[rows].amax(0) - points[rows].amin(0) for rows in members])
        extents = sizes[:, :2].norm(dim=1)
        largest, usual, fastest = extents.new_tensor(_CLASSES).T
        kind = torch.bucketize(extents, largest[:-1].contiguous())
        return cls(
            points=points,
            members=members,
            usual=usual[kind],
            fastest=fastest[kind].clamp_max(settings.fastest),
            flat=(sizes[:, 2] < _RISES) & (extents > _WIDE),
            period=period,
            origin=origin,
            settings=settings,
            still=Tree(points[still]) if bool(still.any()) else None,
            rays=rays,
            world=still if world is None else world,
        )

    def likeliest(self, tried: Registration) -> Tensor:
        """Return the number of the likeliest hypothesis of every cluster, in their order.

        Args:
            tried: results of all hypotheses.
        """
        # Of two motions that explain a cluster equally well, the smaller one is likelier: the cost
        # is the mean misfit + gain noise^2 (speed / usual)^2 / (n sqrt(K)), for n points in K sweeps.
        unit = self.settings.gain * self.noise**2 / tried.misfit.shape[1] ** 0.5
        speed = tried.move / self.period
        surprise = (speed / self.usual[tried.cluster]).square()
        cost = tried.misfit.mean(1) + unit * surprise / self.sizes(tried.cluster)
        cost = torch.where(speed <= self.fastest[tried.cluster], cost, torch.inf)
        best: dict[int, int] = {}
        for j, k in enumerate(tried.cluster.tolist()):
            if k not in best or bool(cost[j] < cost[best[k]]):
                best[k] = j
        return torch.tensor([best[k] for k in sorted(best)], device=tried.cluster.device)

    def accept(self, scans: Sequence[Neighbour], tracked: Registration) -> Tensor:
        """Return which tracks are likely enough to be those of moving bodies (`BodySettings`).

        Points whose places are hidden in a sweep are no evidence of motion there.

        Args:
            scans: sweeps that the clusters were registered with.
            tracked: result of one hypothesis per cluster.
        """
        settings, count = self.settings, len(scans)
        accepted = torch.zeros(len(tracked.cluster), dtype=torch.bool, device=self.points.device)
        speed = tracked.move / self.period
        # With n points and the mean misfits m_k and s_k (at rest) of K sweeps, the log-likelihood
        # gains n sum_k (s_k - m_k) / noise^2, which must be at least gain (1 + (speed / usual)^2)
        # K^(3/4). Both sides are multiplied by noise^2 / n.
        unit = self.noise**2 * count**0.75 / self.sizes(tracked.cluster)
        least = settings.gain * (1 + (speed / self.usual[tracked.cluster]).square()) * unit
        least = torch.where(self.flat[tracked.cluster], _LINE * least, least)
        explained = settings.explained
        if count == 1:
            explained, least = _BY_ONE * explained, _MORE * least

        def are_likely(misfit: Tensor, still: Tensor, least: Tensor) -> Tensor:
            doubt = _SURE + _DOUBT * misfit / still.clamp_min(1e-12)
            return (misfit < explained * still) & (still - misfit >= doubt * least)

        likely = are_likely(tracked.misfit.sum(1), tracked.still.sum(1), least)
        likely &= (tracked.move >= settings.least) & (speed <= self.fastest[tracked.cluster])
        angle = _ANGLE * self.rays.beside
        # The visible share needs searches, so it is computed for likely ones alone, all at once.
        likely_rows = likely.nonzero().squeeze(1)
        if not len(likely_rows):
            return accepted
        members = [self.members[k] for k in tracked.cluster[likely_rows].tolist()]
        sizes = torch.tensor([len(rows) for rows in members], device=accepted.device)
        body = torch.arange(len(members), device=accepted.device).repeat_interleave(sizes)
        points = self.points[torch.cat(members)]

        def share(mask: Tensor) -> Tensor:
            counts = torch.segment_reduce(mask.to(points), "sum", lengths=sizes, unsafe=True)
            return counts / sizes

        def moved(motions: Tensor) -> Tensor:
            return transform(motions[likely_rows][body], points[:, None]).squeeze(1)

        visible = torch.stack(
            [
                1 - share(hides(scan, points, moved(tracked.tracks[:, k]), body, angle))
                for k, scan in enumerate(scans)
            ],
            1,
        )
        misfit, still = (
            (visible * energy[likely_rows]).sum(1) for energy in (tracked.misfit, tracked.still)
        )
        accepted[likely_rows] = are_likely(misfit, still, least[likely_rows])
        for j in accepted.nonzero().squeeze(1).tolist():
            rows = self.members[int(tracked.cluster[j])]
            arrived = transform(tracked.motion[j], self.points[rows])
            accepted[j] = self._arrived(rows, arrived) <= _ARRIVED
            if accepted[j] and float(tracked.firm[j]) < _FIRM:
                way = (arrived - self.points[rows]).mean(0)
                accepted[j] = not self._goes_on(rows, way, scans[0])
        return accepted

    def _goes_on(self, rows: Tensor, way: Tensor, scan: Neighbour) -> bool:
        """Return whether a long surface that moves along itself may go on beyond its ends.

        Of a rail, a lidar that drives sees a piece that travels along with it; and of a wall, a piece
        between the shadows of what stands in front of it.

        Args:
            rows: rows of the points of the body.
            way: displacement, ``(3,)``.
            scan: another sweep, in which what goes on has not moved either.
        """
        ahead = way / way.norm()
        offsets = self.points - self.points[rows].mean(0)
        along = offsets @ ahead
        beside = offsets - along[:, None] * ahead
        first, last = along[rows].min(), along[rows].max()
        across = beside[rows, :2].amax(0) - beside[rows, :2].amin(0)
        if last - first < max(_LONG * float(across.norm()), _LEAST):
            return False
        gap = _GAP * (last - first)
        others = (along < first) & (along > first - gap) | (along > last) & (along < last + gap)
        on = Tree(beside[rows]).query(beside[others], _BESIDE)[0] < _BESIDE
        places = self.points[others][on]
        rest = apart_at_rest((places - self.origin)[:, :2].norm(dim=1), self.rays)
        if int((scan.query(places, 1.0)[0] < rest).sum()) > _ON:
            return True
        # Of walls alone, which are higher than any vehicle, an end in a shadow is no evidence.
        body = self.points[rows]
        if float(body[:, 2].max() - body[:, 2].min()) < _HIGH:
            return False
        top = self.points[:, 2] - body[:, 2].max()
        above = self.points[(top > _ABOVE[0]) & (top < _ABOVE[1]), :2]
        if not int((Tree(body[:, :2]).query(above, _BESIDE)[0] < _BESIDE).sum()) > 1:
            return False
        tree, reach = self._sights
        for end, out in (
            (along[rows] < first + 0.1 * (last - first), -ahead),
            (along[rows] > last - 0.1 * (last - first), ahead),
        ):
            sight, far = tree.points[rows[end]], reach[rows[end]]
            # The part of the direction that is across the line of sight.
            out = torch.nn.functional.normalize(out - (sight @ out)[:, None] * sight, dim=1)
            look = sight + _BEYOND * self.rays.beside * out
            near = tree.neighbours(look, 4)
            close = (tree.points[near] - look[:, None]).norm(dim=2) < _ANGLE * self.rays.beside
            hidden = (close & (reach[near] < far[:, None] - _BEFORE)).any(1)
            if float(hidden.double().mean()) > _ARRIVED:
                return True
        return False

    @cached_property
    def _sights(self) -> tuple[Tree, Tensor]:
        """Search tree of the directions of the points, and their distances."""
        places = self.points - self.origin
        reach = places.norm(dim=1)
        return Tree(places / reach.clamp_min(1e-6)[:, None]), reach

    def _arrived(self, rows: Tensor, body: Tensor) -> float:
        """Compute the share of the points of a body that have arrived on the still world.

        A piece of wall that is hidden in the other sweeps fits the next piece.

        Args:
            rows: rows of the points of the body.
            body: places where they arrive.
        """
        low, high = body.amin(0) - 1, body.amax(0) + 1
        world = self.world & ((self.points > low) & (self.points < high)).all(1)
        world[rows] = False
        if not bool(world.any()):
            return 0.0
        distance = Tree(self.points[world]).query(body, 1.0)[0]
        range_ = (body - self.origin)[:, :2].norm(dim=1)
        return float((distance < apart_at_rest(range_, self.rays)).double().mean())

    @property
    def noise(self) -> float:
        """Standard deviation of a point from its surface, metres."""
        return max(self.settings.noise, self.rays.noise)

    def sizes(self, cluster: Tensor) -> Tensor:
        """Return the number of points of the cluster of every hypothesis, ``(h,)``.

        Args:
            cluster: number of the cluster of every hypothesis, ``(h,)``.
        """
        return torch.tensor([len(rows) for rows in self.members], device=cluster.device)[cluster]
