"""Moving bodies: clusters registered with the other sweeps of a window as rigid bodies.

A body is accepted if its motion explains the points in all sweeps clearly better than standing
still.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import transform
from invtoolbox.kernels.points.nearest import Tree
from invtoolbox.motion.ground import ground
from invtoolbox.motion.pair import Motion as Motion
from invtoolbox.motion.pair import Pair as Pair
from invtoolbox.motion.refinement import Refinement, refine
from invtoolbox.motion.registration import clusters, height_above, translations
from invtoolbox.motion.tracks import Registration, RegistrationSettings, Scans, register
from invtoolbox.motion.window import Neighbour

#: Distance of a point from the nearest points of another sweep beyond which it hardly lies on the
#: same surface: metres at the sensor, and metres per metre of range, about half the distance of
#: neighbouring rays of common lidars.
_APART, _APART_PER_RANGE = 0.05, 0.004
#: Usual speed of a body, metres per second: much faster ones need more evidence.
_USUAL = 10.0
#: Largest speed of a body without extent, metres per second, and its increase per metre of extent
#: in the plane: what is fast is large, and a few points fit many distant places.
_SLOW, _FASTER_PER_SIZE = 10.0, 20.0
#: Width of the border around the places that bodies can reach, metres, in which surfaces are seen
#: whole.
_MARGIN = 2.0
#: Height above the ground up to which points above a body may belong to it, metres: lorries, buses.
_TALLEST = 4.5
#: Taller clusters that are narrower than the second number are posts, trunks and slices of walls
#: between two things that hide the rest; metres.
_TALL, _NARROW = 2.2, 1.0
#: A measured point hides the places within this angle behind it, radians, that are farther by the
#: second number, metres.
_ANGLE, _BEFORE = 0.012, 0.5
#: Largest time of a sweep that bodies are found with, in periods from the source. Tracks are
#: continued to all sweeps, with the second number as the scale of the robust misfit, metres.
_SOON, _CLOSE = 2.5, 0.3
#: Distance in the plane within which fragments of a body are searched, metres.
_FRAGMENT_DISTANCE = 1.5
#: Smallest distance of a fragment to the target, metres.
_FRAGMENT_APART = 0.15


@dataclass(frozen=True)
class BodySettings:
    """Settings of the detection of moving bodies.

    A cluster is a moving body if four conditions hold: it is not slender, like a post; its
    registration lowers the misfit to the share `explained` of the misfit without motion; it raises
    the log-likelihood of its points in all sweeps, under noise of `noise`, by at least
    ``gain (1 + (speed / 10)^2) sqrt(K)`` with the speed in metres per second and the number of
    sweeps K, because a small piece of wall fits many places, distant ones above all, and does so in
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
        iterations: iterations of the registration, see `RegistrationSettings`.
        upright: see `RegistrationSettings`.
        smooth: see `RegistrationSettings`.
        plane: see `RegistrationSettings`.
        explained: largest ratio of the misfits with and without motion.
        gain: smallest gain of log-likelihood, see above.
        least: smallest motion, metres.
        noise: standard deviation of a point from its surface, metres.
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
    gain: float = 7.0
    least: float = 0.04
    noise: float = 0.02

    def __post_init__(self) -> None:
        lengths = (self.reach, self.largest, self.fastest, self.explained, self.noise)
        if min(lengths) <= 0 or min(self.fewest, self.iterations) < 1:
            raise InputError(f"the settings of bodies must be positive, got {self}")

    @property
    def registration(self) -> RegistrationSettings:
        """Settings of the registration."""
        return RegistrationSettings(self.iterations, self.upright, self.smooth, plane=self.plane)


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
class _Scan:
    """Low points of another sweep of the window, with its time and the position of the sensor."""

    points: Tensor
    step: float
    times: Tensor | None
    origin: Tensor

    def hides(self, points: Tensor, moved: Tensor) -> Tensor:
        """Return which places the sensor could not see in this sweep, bool ``(n,)``.

        Something nearer was measured in their direction, and it is not the body itself, which has
        moved there.

        Args:
            points: places of the points of a body, ``(n, 3)``.
            moved: places of the body in this sweep, ``(n, 3)``.
        """
        place = points - self.origin
        reach, middle = place.norm(dim=1), place.mean(0)
        ahead = middle / middle.norm()
        wide = float((place - middle).norm(dim=1).max()) + 0.1 * float(middle.norm())
        sight = self.points - self.origin
        along = sight @ ahead
        between = (along > 0) & (along < float(reach.max()))
        between &= (sight - along[:, None] * ahead).norm(dim=1) < wide
        others = self.points[between]
        others = others[Tree(moved).query(others, 0.5)[0].isinf()] - self.origin
        if not len(others):
            return torch.zeros(len(points), dtype=torch.bool, device=points.device)
        distance = others.norm(dim=1)
        sight, wanted = others / distance[:, None], place / reach[:, None]
        near = Tree(sight).neighbours(wanted, 4)
        angle = (sight[near] - wanted[:, None]).norm(dim=2)
        return ((angle < _ANGLE) & (distance[near] < reach[:, None] - _BEFORE)).any(1)


def moving_bodies(pair: Pair, settings: BodySettings | None = None) -> Bodies:
    """Find the moving bodies of the source of a pair, by the other sweeps of its window.

    Args:
        pair: prepared pair with its window.
        settings: settings of the detection.
    """
    settings = settings or BodySettings()
    points = pair.source
    none = Bodies(
        torch.full((len(points),), -1, device=points.device),
        points.new_zeros(0, 4, 4),
        torch.zeros_like(points),
    )
    if len(points) == 0:
        return none
    height = height_above(points, pair.ground)
    scans = _scans(pair, settings)
    soon = [scan for scan in scans if abs(scan.step) <= _SOON]
    if not soon:
        return none
    range_ = (points - pair.origin)[:, :2].norm(dim=1)
    away = torch.stack([Tree(scan.points).query(points, 1.0)[0].clamp_max(1.0) for scan in soon])
    away = away / (_APART + _APART_PER_RANGE * range_)
    labels = clusters(points, height, reach=settings.reach, origin=pair.origin)
    members = _suspects(points, height, labels, away[[0, -1]], settings)
    if not members:
        return none
    fastest = torch.stack([_largest_speed(points[rows], settings) for rows in members])
    farthest = float(fastest.max()) * pair.period
    thing, begin = _hypotheses(points, soon, members, fastest * pair.period, settings)
    known = pair.times is not None and all(scan.times is not None for scan in scans)
    times = pair.times[0] if known and pair.times is not None else None
    found = _register(points, times, soon, members, thing, begin, settings.registration, farthest)
    found = found.take(_likeliest(found, members, fastest, pair.period, settings))
    accepted = _accept(points, soon, members, found, fastest, pair.period, settings)
    if len(scans) > len(soon):
        longer = _register(
            points,
            times,
            scans,
            members,
            found.thing,
            found.parameters,
            replace(settings.registration, scale=_CLOSE),
            farthest,
        )
        # A track that leaves the body in the near sweeps has found something else in far ones.
        near = torch.tensor([abs(scan.step) <= _SOON for scan in scans], device=points.device)
        misfit = longer.misfit[:, near].mean(1)
        again = _accept(points, scans, members, longer, fastest, pair.period, settings) & (
            misfit < 1.1 * found.misfit.mean(1) + 0.1 * settings.noise**2
        )
        found = Registration.chosen(again, longer, found)
        accepted = again | accepted
    bodies = _moved(points, members, found, accepted)
    return _with_fragments(points, height, scans, bodies)


def _scans(pair: Pair, settings: BodySettings) -> list[_Scan]:
    """Return the other sweeps of the window in the order of time, without high points."""
    found = []
    times = None if pair.times is None else pair.times[1]
    target = Neighbour(pair.target, 1.0, times, torch.zeros_like(pair.origin))
    for one in (target, *pair.window):
        low = height_above(one.points, pair.ground) < settings.reach + 0.5
        if bool(low.any()):
            when = None if one.times is None else one.times[low]
            found.append(_Scan(one.points[low], one.step, when, one.origin))
    return sorted(found, key=lambda scan: scan.step)


def _suspects(
    points: Tensor, height: Tensor, labels: Tensor, away: Tensor, settings: BodySettings
) -> list[Tensor]:
    """Return the rows of the points of every cluster that can be a body and may move.

    Args:
        points: points, ``(n, 3)``.
        height: their heights.
        labels: their clusters.
        away: their distances from some of the sweeps, in units of the distance of a thing at rest.
        settings: settings of the detection.
    """
    order = labels.argsort(stable=True)
    sizes = torch.bincount(labels[labels >= 0])
    members = order[int((labels < 0).sum()) :].split(sizes.tolist())
    found = []
    for rows in members:
        if len(rows) < settings.fewest or float(away[:, rows].mean(1).min()) < settings.apart:
            continue
        extent = float((points[rows, :2].amax(0) - points[rows, :2].amin(0)).max())
        slender = float(height[rows].max()) > _TALL and extent < _NARROW
        if extent <= settings.largest and not slender:
            found.append(rows)
    return found


def _hypotheses(
    points: Tensor,
    scans: Sequence[_Scan],
    members: Sequence[Tensor],
    farthest: Tensor,
    settings: BodySettings,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the cluster of every hypothesis, and its initial track: one or two per cluster.

    The translations that many pairs of points agree on, in the sweeps next to the source, are
    compared in all sweeps; the best one is tried in addition to zero if it explains more.
    """
    suspect = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    suspect[torch.cat(list(members))] = True
    still = Tree(points[~suspect]) if not bool(suspect.all()) else None
    next_ = [scan for scan in scans if abs(scan.step) < 1.5]
    # Points of another sweep on static clusters were seen before, so no body has arrived there.
    new = [
        scan.points if still is None else scan.points[still.query(scan.points, 0.1)[0].isinf()]
        for scan in next_
    ]
    trees = [Tree(scan.points) for scan in scans]
    thing, start = [], []
    for k, rows in enumerate(members):
        body = points[rows]
        tried = [body.new_zeros(2)]
        for scan, arrived in zip(next_, new):
            reach = float(farthest[k]) * abs(scan.step)
            near = (
                (arrived[:, :2] > body[:, :2].amin(0) - reach)
                & (arrived[:, :2] < body[:, :2].amax(0) + reach)
            ).all(1)
            votes = translations(body, arrived[near], reach, settings.votes) / scan.step
            tried += list(torch.from_numpy(votes).to(body))
        moves = torch.nn.functional.pad(torch.stack(tried), (0, 1))
        few = body[:: max(1, len(body) // 32)]
        away = torch.stack(
            [
                tree.query((few + scan.step * moves[:, None]).flatten(0, 1), 0.5)[0]
                for tree, scan in zip(trees, scans)
            ]
        )
        cost = away.clamp_max(0.5).square().view(len(scans), len(moves), -1).mean((0, 2))
        best = int(cost.argmin())
        for j in (0, best) if float(moves[best].norm()) > 0.15 else (0,):
            thing.append(k)
            start.append(moves[j])
    begin = torch.stack(start)
    return torch.tensor(thing, device=points.device), {
        "turn": torch.zeros_like(begin),
        "translation": begin,
    }


def _register(
    points: Tensor,
    times: Tensor | None,
    scans: Sequence[_Scan],
    members: Sequence[Tensor],
    thing: Tensor,
    begin: dict[str, Tensor],
    settings: RegistrationSettings,
    farthest: float,
) -> Registration:
    """Register hypotheses with the points of other sweeps that bodies can reach."""
    near = Tree(points[torch.cat(list(members)), :2])
    reached = [
        near.query(scan.points[:, :2], bound=farthest * max(1.0, abs(scan.step)) + _MARGIN)[
            0
        ].isfinite()
        for scan in scans
    ]
    if not any(bool(rows.any()) for rows in reached):  # the registration needs some points
        reached = [torch.ones_like(rows) for rows in reached]
    sweeps = Scans.of(
        [scan.points[rows] for scan, rows in zip(scans, reached)],
        [scan.step for scan in scans],
        None
        if times is None
        else [scan.times[rows] for scan, rows in zip(scans, reached) if scan.times is not None],
        settings.plane,
    )
    return register(members, thing, begin, points, sweeps, times, settings)


def _largest_speed(body: Tensor, settings: BodySettings) -> Tensor:
    """Return the largest speed of a body with these points, metres per second."""
    extent = (body[:, :2].amax(0) - body[:, :2].amin(0)).norm()
    return (_SLOW + _FASTER_PER_SIZE * extent).clamp_max(settings.fastest)


def _likeliest(
    found: Registration,
    members: Sequence[Tensor],
    fastest: Tensor,
    period: float,
    settings: BodySettings,
) -> Tensor:
    """Return the number of the likeliest hypothesis of every cluster, in the order of clusters."""
    sizes = torch.tensor([len(rows) for rows in members], device=found.thing.device)[found.thing]
    # Of two motions that explain a cluster equally well, the smaller one is likelier.
    unit = settings.gain * settings.noise**2 / found.misfit.shape[1] ** 0.5
    speed = found.move / period
    cost = found.misfit.mean(1) + unit * (speed / _USUAL).square() / sizes
    cost = torch.where(speed <= fastest[found.thing], cost, torch.inf)
    best: dict[int, int] = {}
    for j, (k, value) in enumerate(zip(found.thing.tolist(), cost.tolist())):
        if k not in best or value < float(cost[best[k]]):
            best[k] = j
    return torch.tensor([best[k] for k in sorted(best)], device=found.thing.device)


def _accept(
    points: Tensor,
    scans: Sequence[_Scan],
    members: Sequence[Tensor],
    found: Registration,
    fastest: Tensor,
    period: float,
    settings: BodySettings,
) -> Tensor:
    """Return which tracks are likely enough to be those of moving bodies (`BodySettings`).

    Points whose places are hidden in a sweep are no evidence of motion there.
    """
    accepted = torch.zeros(len(found.thing), dtype=torch.bool, device=points.device)
    sizes = torch.tensor([len(rows) for rows in members], device=points.device)[found.thing]
    unit = settings.noise**2 * len(scans) ** 0.5
    speed = found.move / period
    least = settings.gain * (1 + (speed / _USUAL).square()) * unit / sizes

    def are_likely(misfit: Tensor, still: Tensor, least: Tensor) -> Tensor:
        return (misfit < settings.explained * still) & (still - misfit >= least)

    likely = are_likely(found.misfit.sum(1), found.still.sum(1), least)
    likely &= (found.move >= settings.least) & (speed <= fastest[found.thing])
    for j in likely.nonzero().squeeze(1).tolist():
        body = points[members[int(found.thing[j])]]
        seen = torch.stack(
            [
                1 - scan.hides(body, transform(track, body)).to(body).mean()
                for scan, track in zip(scans, found.tracks[j])
            ]
        )
        misfit, still = (seen * found.misfit[j]).sum(), (seen * found.still[j]).sum()
        accepted[j] = are_likely(misfit, still, least[j])
    return accepted


def _moved(
    points: Tensor, members: Sequence[Tensor], found: Registration, accepted: Tensor
) -> Bodies:
    """Return the accepted bodies with the motion to the target."""
    label, flow = torch.full((len(points),), -1, device=points.device), torch.zeros_like(points)
    rows = accepted.nonzero().squeeze(1)
    for number, j in enumerate(rows.tolist()):
        inside = members[int(found.thing[j])]
        label[inside] = number
        flow[inside] = transform(found.motion[j], points[inside]) - points[inside]
    return Bodies(label, found.motion[rows], flow)


def _with_fragments(
    points: Tensor, height: Tensor, scans: Sequence[_Scan], bodies: Bodies
) -> Bodies:
    """Assign loose points next to or above a body to it if its motion brings them onto the target.

    Such points were too high for clusters, or are connected to nothing, like a long side of a car
    that is seen at a grazing angle.
    """
    inside = bodies.label >= 0
    scan = next((scan for scan in scans if scan.step == 1.0), None)
    if scan is None or not bool(inside.any()):
        return bodies
    tree = Tree(scan.points)
    before = tree.query(points)[0]
    loose = (~inside & (height < _TALLEST) & (before > _FRAGMENT_APART)).nonzero().squeeze(1)
    if len(loose) == 0:
        return bodies
    flat = torch.tensor([1.0, 1.0, 0.0], device=points.device) * points
    distance, index = Tree(flat[inside]).query(flat[loose], bound=_FRAGMENT_DISTANCE)
    near = distance.isfinite()
    loose, owner = loose[near], bodies.label[inside][index[near]]
    some, motion = points[loose], bodies.motion[owner]
    flow = torch.einsum("nij,nj->ni", motion[:, :3, :3], some) + motion[:, :3, 3] - some
    better = tree.query(some + flow)[0] < 0.5 * before[loose]
    label, whole = bodies.label.clone(), bodies.flow.clone()
    label[loose[better]], whole[loose[better]] = owner[better], flow[better]
    return Bodies(label, bodies.motion, whole)


@dataclass(frozen=True)
class Default:
    """Default method: bodies that move rigidly; the flow of all other points is exactly 0.

    It extends ICP-Flow (Lin et al., CVPR 2024): bodies follow tracks through all sweeps of a
    window, plane-to-plane distances replace point-to-point distances, which the scan lines of a
    lidar bias towards zero motion, and the time of each point is used if it is known. All bodies
    are registered at once, as items of a batch.

    Attributes:
        bodies: settings of the detection of bodies.
        refinement: settings of a nonrigid refinement, or None. On the real pair of
            ``benchmarks/scene_flow.py``, in which only cars are found, it increases the dynamic
            error by 0.02 m, so there is none by default.
    """

    window: ClassVar[bool] = True
    bodies: BodySettings = field(default_factory=BodySettings)
    refinement: Refinement | None = None

    def __call__(self, pair: Pair, seed: int) -> Motion:
        if len(pair.ground) == 0 and bool((low := ground(pair.source - pair.origin)).any()):
            return self._without_ground(pair, low, seed)
        bodies = moving_bodies(pair, self.bodies)
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
            window=tuple(one.take(~ground(one.points - one.origin)) for one in pair.window),
        )
        found = self(part, seed)
        flow, instance = torch.zeros_like(pair.source), torch.full_like(low, -1, dtype=torch.long)
        flow[high], instance[high] = found.flow, found.instance
        return Motion(flow, instance)


@dataclass(frozen=True)
class IcpFlow:
    """ICP-Flow (Lin et al., CVPR 2024): bodies of a pair, registered with point-to-point distances.

    Attributes:
        bodies: settings of the detection of bodies.
    """

    bodies: BodySettings = field(
        default_factory=lambda: BodySettings(
            fewest=15, plane=False, explained=0.7, gain=15.0, noise=0.05
        )
    )

    def __call__(self, pair: Pair, seed: int) -> Motion:
        return Default(self.bodies)(replace(pair, times=None, window=()), seed)
