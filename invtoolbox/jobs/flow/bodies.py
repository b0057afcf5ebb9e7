"""Moving bodies: clusters registered with the other sweeps of a window as rigid bodies.

A body is accepted if its motion explains the points in all sweeps clearly better than standing
still.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from invtoolbox.geometry.rigid import inverse, transform
from invtoolbox.geometry.surface_normals import normals
from invtoolbox.jobs.flow.clusters import Cloud, clusters, links, translations
from invtoolbox.jobs.flow.evidence import BodySettings as BodySettings
from invtoolbox.jobs.flow.evidence import Evidence, Registration, apart_at_rest
from invtoolbox.jobs.flow.sensor import Rays
from invtoolbox.jobs.flow.tracks import register
from invtoolbox.jobs.flow.window import Neighbour, Pair
from invtoolbox.kernels.points.nearest import Tree

#: Height above that of clusters up to which the points of other sweeps count, metres, because a
#: point may be higher in another sweep.
_HIGHER = 0.5
#: Height above the ground up to which points above a body may belong to it, metres: lorries, buses.
_TALLEST = 4.5
#: Taller clusters that are narrower than the second number are posts, trunks and slices of walls
#: between two things that hide the rest; metres.
_TALL, _NARROW = 2.2, 1.0
#: Share of the points of a cluster whose height counts.
_MOST = 0.95
#: Smallest vertical extent of a body, metres, less two distances of neighbouring lines of the lidar:
#: a single line near the sensor is an edge that other sweeps miss.
_RISE, _LINES = 0.4, 2.1
#: Gaps of clusters, metres and in distances of neighbouring rays, see `clusters`. Clusters that
#: hardly move, or are too large, are divided by the second gap: a body may touch what stands still.
_GAPS = ((0.45, 1.6), (0.25, 1.05))
#: Gaps of the parts of clusters without a motion of their own, or with one that leaves more than the
#: second number of the misfit at rest; they must gain more than the whole by the third number, and
#: are people and riders, no larger than the fourth one, metres.
_FINEST, _WEAK, _DIVIDED, _LARGEST = (0.15, 0.8), 0.25, 1.1, 2.0
#: Factor of the least gain of log-likelihood of a part, and its smallest number of points.
_STRICT, _FEWEST = 2.0, 12
#: Largest time of a sweep that bodies are found with, in periods from the source. Tracks are
#: continued to all sweeps, with the second number as the scale of the robust misfit, metres.
_SOON, _CLOSE = 2.5, 0.3
#: Distance in the plane within which fragments of a body are searched, metres.
_FRAGMENT_DISTANCE = 1.5
#: Smallest distance of a fragment to the target, metres, and largest deviation of its time from one
#: period.
_FRAGMENT_APART, _NEXT = 0.15, 0.5


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
class _Body:
    """Rows of the points of a body, its motion, and the sum of the misfits that the motion removes."""

    rows: Tensor
    motion: Tensor
    gain: float


def moving_bodies(pair: Pair, settings: BodySettings | None = None) -> Bodies:
    """Find the moving bodies of the source of a pair, by the other sweeps of its window.

    Args:
        pair: prepared pair with its window.
        settings: settings of the detection.
    """
    points, settings = pair.source, settings or BodySettings()
    nothing_moves = Bodies(
        torch.full((len(points),), -1, device=points.device),
        points.new_zeros(0, 4, 4),
        torch.zeros_like(points),
    )
    if not len(points):
        return nothing_moves
    here = None if pair.scans is None else pair.scans[0]
    cloud = here.own if here else Cloud(points - pair.origin, None, pair.ground - pair.origin)
    rays, height = cloud.rays, cloud.height
    scans = _scans(pair, settings, rays)
    # Without later sweeps the near ones are as many, and so older by a period.
    is_past = all(scan.step < 0 for scan in scans)
    soon = [scan for scan in scans if abs(scan.step) <= _SOON + is_past]
    if not soon:
        return nothing_moves
    # A thing at rest has points of other sweeps at about the distance of neighbouring rays, so the
    # distances (2, n) to the first and to the last near sweep are compared with it.
    range_ = (points - pair.origin)[:, :2].norm(dim=1)
    away = torch.stack(
        [scan.query(points, 1.0)[0].clamp_max(1.0) for scan in (soon[0], soon[-1])]
    ) / apart_at_rest(range_, rays)
    edges = links(points[height < settings.reach, :2].double())

    def suspects(
        gap: float, spacings: float, out: Sequence[Tensor], settings: BodySettings = settings
    ) -> list[Tensor]:
        labels = clusters(
            points,
            height,
            gap,
            settings.reach,
            gap_per_range=spacings * rays.spacing,
            origin=pair.origin,
            edges=edges,
        )
        if out:
            labels[torch.cat(list(out))] = -1
        return _suspects(points, height, labels, away, range_ * rays.lines, settings)

    # A suspect is not divided further.
    members = suspects(*_GAPS[0], ())
    members += suspects(*_GAPS[1], members)
    if not members:
        return nothing_moves
    times = None
    if pair.times is not None and all(scan.times is not None for scan in scans):
        times = pair.times[0]
    # All registrations take the surfaces of the source, at the points of clusters.
    surface = torch.zeros_like(points), torch.ones_like(range_)
    low = (height < settings.reach).nonzero().squeeze(1)
    if settings.plane and here is not None:
        rows = here.own.below(settings.reach + _HIGHER)[0]
        sides = here.below(settings.reach + _HIGHER, pair.ground, rays).surface(times is not None)
        surface[0][rows], surface[1][rows] = sides
    elif settings.plane:
        surface[0][low], surface[1][low] = normals(points, times, low)
    bodies, weak = _follow(
        Evidence.of(points, members, pair.period, pair.origin, settings, rays),
        soon,
        scans,
        times,
        surface,
    )
    # People in a crowd, or next to a car, are one cluster without a motion of its own. It is
    # divided, and its parts are bodies if they gain more than the whole.
    sure = _without(bodies, weak)
    tried = {(len(rows), int(rows.min())) for rows in members}
    # A wall has many parts, of which some fit another place by chance.
    strict = replace(
        settings,
        gain=_STRICT * settings.gain,
        largest=min(_LARGEST, settings.largest),
        fewest=max(_FEWEST, settings.fewest),
    )
    parts = [
        rows
        for rows in suspects(*_FINEST, [body.rows for body in sure], strict)
        if (len(rows), int(rows.min())) not in tried
    ]
    pieces: list[_Body] = []
    if parts:
        world = torch.ones(len(points), dtype=torch.bool, device=points.device)
        for body in bodies:
            world[body.rows] = False
        evidence = Evidence.of(
            points, parts, pair.period, pair.origin, settings=strict, rays=rays, world=world
        )
        pieces, _ = _follow(evidence, soon, scans, times, surface)
    sure += _divide(weak, pieces, torch.zeros(len(points), dtype=torch.bool, device=points.device))
    return _with_fragments(points, height, scans, _label(points, sure))


def _divide(weak: Sequence[_Body], pieces: Sequence[_Body], nowhere: Tensor) -> list[_Body]:
    """Return weak bodies, or the pieces of a body that gain more than it, and all other pieces.

    Args:
        weak: bodies that one motion explains badly.
        pieces: moving parts of these bodies, and of clusters that do not move as a whole.
        nowhere: mask of all points, false, ``(n,)``.
    """
    bodies: list[_Body] = []
    for body in weak:
        mask = nowhere.index_fill(0, body.rows, True)
        inside = [piece for piece in pieces if bool(mask[piece.rows].all())]
        divided = sum(piece.gain for piece in inside) > _DIVIDED * body.gain
        bodies += inside if divided else [body]
        pieces = _without(pieces, inside)
    return [*bodies, *pieces]


def _without(bodies: Sequence[_Body], removed: Sequence[_Body]) -> list[_Body]:
    # Tensors have no truth value, so bodies are compared by identity.
    return [body for body in bodies if all(body is not out for out in removed)]


def _follow(
    evidence: Evidence,
    soon: Sequence[Neighbour],
    scans: Sequence[Neighbour],
    times: Tensor | None,
    surface: tuple[Tensor, Tensor],
) -> tuple[list[_Body], list[_Body]]:
    """Return the clusters that move, and those among them that one motion explains badly.

    Every hypothesis is refined in the sweeps that are near in time, and the likeliest one of each
    cluster is continued to all sweeps.

    Args:
        evidence: clusters that may move.
        soon: sweeps that are near in time.
        scans: all sweeps.
        times: times of the points, see `register`.
        surface: surfaces of the source, see `register`.
    """
    cluster, initial = _hypotheses(evidence, soon)
    is_past = all(scan.step < 0 for scan in scans)
    tracked = register(evidence, soon, times, surface, cluster=cluster, initial=initial)
    tracked = tracked.take(evidence.likeliest(tracked))

    def accept(scans: Sequence[Neighbour], tracks: Registration) -> Tensor:
        # A body must not end on the still world; what has only been seen in the past begins there.
        past = replace(tracks, motion=inverse(tracks.motion))
        return evidence.accept(scans, past if is_past else tracks)

    accepted, motion = accept(soon, tracked), tracked.motion
    if len(scans) > len(soon):
        longer = register(
            evidence,
            scans,
            times,
            surface,
            cluster=tracked.cluster,
            initial=tracked.parameters,
            scale=_CLOSE,
        )
        # A track that leaves the body in the near sweeps fits something else in far ones.
        near = torch.tensor([scan in soon for scan in scans], device=cluster.device)
        misfit = longer.misfit[:, near].mean(1)
        accepted_longer = accept(scans, longer) & (
            misfit < 1.1 * tracked.misfit.mean(1) + 0.1 * evidence.noise**2
        )
        # More sweeps determine the motion better, and find bodies that few sweeps do not show.
        motion = torch.where(accepted_longer.view(-1, 1, 1), longer.motion, motion)
        accepted = accepted_longer | accepted
    misfit, still = tracked.misfit.sum(1), tracked.still.sum(1)
    gain = evidence.sizes(tracked.cluster) * (still - misfit)
    bodies, weak = [], []
    for j in accepted.nonzero().squeeze(1).tolist():
        bodies.append(_Body(evidence.members[int(tracked.cluster[j])], motion[j], float(gain[j])))
        if misfit[j] > _WEAK * still[j]:
            weak.append(bodies[-1])
    return bodies, weak


def _scans(pair: Pair, settings: BodySettings, rays: Rays) -> list[Neighbour]:
    """Return the other sweeps of the window in the order of time, without high and stray points."""
    scans = []
    # The pair is in the frame of the target, whose sensor is the origin.
    times = None if pair.times is None else pair.times[1]
    target = None if pair.scans is None else pair.scans[1]
    if target is None:
        target = Neighbour(pair.target, 1.0, times, torch.zeros_like(pair.origin))
    for sweep in (target, *pair.window):
        low = sweep
        if len(sweep.points):
            low = sweep.below(settings.reach + _HIGHER, pair.ground, rays)
        if len(low.points):
            scans.append(low)
    return sorted(scans, key=lambda scan: scan.step)


def _suspects(
    points: Tensor,
    height: Tensor,
    labels: Tensor,
    away: Tensor,
    apart: Tensor,
    settings: BodySettings,
) -> list[Tensor]:
    """Return the rows of the points of every cluster that can be a body and may move.

    Args:
        points: points, ``(n, 3)``.
        height: their heights.
        labels: their clusters.
        away: their distances from some of the sweeps, in units of the distance of a thing at rest.
        apart: distances of neighbouring lines of the lidar there, metres.
        settings: settings of the detection.
    """
    # Sorted by label, each cluster is a run of rows, after the run of the label -1. The first checks
    # are made for all clusters at once, because most of them stand still.
    order, inside = labels.argsort(stable=True), labels >= 0
    sizes = torch.bincount(labels[inside])
    means = [torch.bincount(labels[inside], row[inside].double()) / sizes for row in away]
    chosen = (sizes >= settings.fewest) & (torch.stack(means).amin(0) >= settings.apart)
    runs = order[int((~inside).sum()) :].split(sizes.tolist())
    suspects = []
    for rows in (runs[k] for k in chosen.nonzero().squeeze(1).tolist()):
        extent = float((points[rows, :2].amax(0) - points[rows, :2].amin(0)).max())
        # A point of a wire or a branch above a person does not make it a post.
        slender = float(height[rows].quantile(_MOST)) > _TALL and extent < _NARROW
        rise = float(height[rows].max() - height[rows].min())
        flat = rise < _RISE - _LINES * float(apart[rows].mean())
        if extent <= settings.largest and not slender and not flat:
            suspects.append(rows)
    return suspects


def _hypotheses(evidence: Evidence, scans: Sequence[Neighbour]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the cluster of every hypothesis, and its initial track: one or two per cluster.

    The translations that many pairs of points agree on, in the sweeps next to the source, are
    compared in all sweeps; the best one is tried in addition to zero if it explains more.
    """
    still, farthest = evidence.still, evidence.fastest * evidence.period
    next_ = [scan for scan in scans if abs(scan.step) < 1.5]
    # Points of another sweep on the still world were measured before, so no body has arrived there.
    new = [
        scan.points if still is None else scan.points[still.query(scan.points, 0.1)[0].isinf()]
        for scan in next_
    ]
    # Coordinates as contiguous rows, because every cluster compares all of them with its box.
    new = [arrived[:, :2].T.contiguous() for arrived in new]
    whole = [evidence.points[rows] for rows in evidence.members]
    tried = [[body.new_zeros(2)] for body in whole]
    for scan, arrived in zip(next_, new):
        reach, near = (farthest * abs(scan.step)).tolist(), []
        for body, far in zip(whole, reach):
            low, high = body[:, :2].amin(0) - far, body[:, :2].amax(0) + far
            inside = (arrived[0] > low[0]) & (arrived[0] < high[0])
            inside &= (arrived[1] > low[1]) & (arrived[1] < high[1])
            near.append(arrived[:, inside].T)
        votes = translations(whole, near, reach, evidence.settings.votes, evidence.origin)
        # Displacements over `step` periods become displacements per period.
        for starts, agreed in zip(tried, votes):
            starts += list(torch.from_numpy(agreed / scan.step).to(arrived))
    moves = [torch.nn.functional.pad(torch.stack(ways), (0, 1)) for ways in tried]
    few = [body[:: max(1, len(body) // 32)] for body in whole]
    # The cost of a velocity v is the mean of min(|p + s v - q|, 0.5 m)^2 over all sweeps and about 32
    # points p, with the nearest measured point q; all clusters are searched at once.
    counts = [len(body) * len(ways) for body, ways in zip(few, moves)]
    costs = evidence.points.new_zeros(sum(counts))
    for scan in scans:
        places = [
            (body + scan.step * ways[:, None]).flatten(0, 1) for body, ways in zip(few, moves)
        ]
        costs += scan.query(torch.cat(places), 0.5)[0].clamp_max(0.5).square()
    cluster, start = [], []
    for k, (ways, cost) in enumerate(zip(moves, costs.split(counts))):
        best = int(cost.view(len(ways), -1).mean(1).argmin())
        # A start less than 0.15 m from rest is left to the registration from rest.
        for j in (0, best) if float(ways[best].norm()) > 0.15 else (0,):
            cluster.append(k)
            start.append(ways[j])
    translation = torch.stack(start)
    return torch.tensor(cluster, device=translation.device), {
        "turn": torch.zeros_like(translation),
        "translation": translation,
    }


def _label(points: Tensor, bodies: Sequence[_Body]) -> Bodies:
    """Return bodies with their numbers and the flow of their points."""
    label, flow = torch.full((len(points),), -1, device=points.device), torch.zeros_like(points)
    motion = points.new_zeros(0, 4, 4)
    if bodies:
        motion = torch.stack([body.motion for body in bodies])
    for number, body in enumerate(bodies):
        label[body.rows] = number
        flow[body.rows] = transform(body.motion, points[body.rows]) - points[body.rows]
    return Bodies(label, motion, flow)


def _with_fragments(
    points: Tensor, height: Tensor, scans: Sequence[Neighbour], bodies: Bodies
) -> Bodies:
    """Assign loose points next to or above a body to it if its motion brings them onto the target.

    Such points were too high for clusters, or are connected to nothing, like a long side of a car
    that is seen at a grazing angle.
    """
    inside = bodies.label >= 0
    # The target, or the last sweep before the source if there is no target.
    scan = next((scan for scan in reversed(scans) if abs(abs(scan.step) - 1) < _NEXT), None)
    if scan is None or not bool(inside.any()):
        return bodies
    # Distances in the plane, with z = 0: a fragment may lie above its body.
    loose = (~inside & (height < _TALLEST)).nonzero().squeeze(1)
    flat = torch.tensor([1.0, 1.0, 0.0], device=points.device) * points
    distance, index = Tree(flat[inside]).query(flat[loose], bound=_FRAGMENT_DISTANCE)
    near = distance.isfinite()
    loose, owner = loose[near], bodies.label[inside][index[near]]
    # A point that coincides with the target without a motion belongs to the still world.
    distance = scan.query(points[loose])[0]
    apart = distance > _FRAGMENT_APART
    loose, owner, distance = loose[apart], owner[apart], distance[apart]
    # R p + t - p, with the motion (R, t) of the body of every point.
    fragments, motion = points[loose], bodies.motion
    motion = (motion if scan.step > 0 else inverse(motion))[owner]
    flow = torch.einsum("nij,nj->ni", motion[:, :3, :3], fragments) + motion[:, :3, 3] - fragments
    better = scan.query(fragments + flow)[0] < 0.5 * distance
    if scan.step < 0:
        flow = transform(bodies.motion[owner], fragments[:, None]).squeeze(1) - fragments
    label, extended = bodies.label.clone(), bodies.flow.clone()
    label[loose[better]], extended[loose[better]] = owner[better], flow[better]
    return Bodies(label, bodies.motion, extended)
