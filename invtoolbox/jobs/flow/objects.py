"""Moving objects of a sequence: bodies of its flows, linked to tracks with oriented boxes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.datasets.sweeps.flow_files import FlowFile, residual_flow
from invtoolbox.geometry.rigid import inverse, transform
from invtoolbox.geometry.sweeps import Sweep
from invtoolbox.jobs.flow.clusters import clusters
from invtoolbox.kernels.points.nearest import Tree

#: Least number of points of a body; and distance at which predicted and measured points meet, metres.
_FEWEST, _MEET = 4, 0.6
#: Least share of the predicted points, or of the measured ones, that meet in one track.
_SHARED = 0.3
#: Number of sweeps over which a track is continued without points.
_LOST = 2
#: Number of sweeps before and after a sweep whose displacements give the heading.
_HEADING = 2
#: Quantile of the extents over the sweeps: parts are hidden, and strays are few.
_SEEN = 0.8
#: Share of the points on either side that are strays.
_STRAY = 0.0025
#: Kinds by length and height from which they begin, metres, and the size of a whole one (length, width,
#: height): an extent below the second triple was seen in part, and is replaced by the usual one.
_KINDS = {
    "truck": ((7.5, 2.3, 3.0), (5.5, 1.8, 2.2)),
    "car": ((4.5, 1.85, 1.6), (3.4, 1.5, 1.2)),
    "cyclist": ((1.75, 0.65, 1.7), (1.5, 0.5, 1.3)),
    "pedestrian": ((0.7, 0.7, 1.7), (0.5, 0.5, 1.3)),
}
#: Margin of boxes in which all points count as moving, metres.
_MARGIN = 0.15


@dataclass(frozen=True, eq=False)
class Observation:
    """Object in one sweep, in the frame of its sensor.

    Attributes:
        sweep: number of the sweep in the sequence.
        rows: rows of the points of its body; none if it was found only before or after, and is
            assumed to move evenly.
        centre: centre of the box, metres, float64 ``(3,)``.
        heading: angle from the x axis to the front of the box, radians.
        velocity: velocity in the world, float64 ``(3,)``, metres per second.
        expected: number of points of its body in this sweep, or in the nearest one where it was
            found.
    """

    sweep: int
    rows: Tensor
    centre: Tensor
    heading: float
    velocity: Tensor
    expected: int


@dataclass(frozen=True, eq=False)
class TrackedObject:
    """Object that moves.

    Attributes:
        number: its number, from 1.
        category: guess from its size: "car", "truck", "cyclist" or "pedestrian".
        size: length, width and height, metres.
        observations: the object in the sweeps in which it was found, up to two before and after
            them, and those in between, in the order of time.
    """

    number: int
    category: str
    size: tuple[float, float, float]
    observations: tuple[Observation, ...]

    def inside(self, observation: Observation, points: Tensor) -> Tensor:
        """Return which points lie in the box, boolean ``(N,)``, with a margin but above its floor.

        Args:
            observation: the object in the sweep of the points.
            points: points ``(N, 3)`` in the frame of the sensor.
        """
        away = _turned(points.double() - observation.centre, -observation.heading)
        half = torch.tensor(self.size, dtype=torch.float64) / 2
        low = -half - torch.tensor([_MARGIN, _MARGIN, 0.0])
        return ((away > low) & (away < half + _MARGIN)).all(1)


@dataclass(eq=False)
class _Body:
    """Body of a sweep: its points and displacements in the world."""

    sweep: int
    rows: Tensor
    points: Tensor
    moves: Tensor


@dataclass(eq=False)
class _Track:
    bodies: list[_Body]
    ahead: Tensor
    lost: int = 0


def find_objects(
    flows: Iterable[tuple[int, Sweep, FlowFile]], period: float
) -> list[TrackedObject]:
    """Link the bodies of consecutive flows to tracks, and fit a box to each of their points.

    The points of a body, moved by its flow, vote for the bodies of the next sweep that they meet.
    The heading is the direction of the displacement. The size is a quantile of the visible extents,
    or the usual size of the kind where an object is seen in part. A box begins at the visible side
    that faces the sensor. An object that is seen in one of several consecutive sweeps alone is left
    out.

    Args:
        flows: number, sweep and flow of consecutive sweeps, in the order of time; they are read one
            after the other.
        period: seconds between two sweeps, for the last one.
    """
    active: list[_Track] = []
    tracks: list[_Track] = []
    world, times, sensors = torch.eye(4, dtype=torch.float64), {}, {}
    for index, sweep, flow in flows:
        if index - 1 not in times:  # tracks end at a gap
            active = []
        times[index] = sweep.timestamp
        sensors[index] = frame = world if sweep.pose is None else sweep.pose
        # The frame of the next sweep, W_{k+1} = W_k E_k^-1; r is in its directions.
        world = frame @ inverse(flow.ego_motion)
        bodies = _bodies(sweep, flow)
        places = [transform(frame, sweep.points[rows].double()) for rows in bodies]
        taken = _link(active, places)
        residual = residual_flow(flow.flow, sweep.points, flow.ego_motion).double()
        for track in active:
            track.lost += 1
        for rows, points, linked in zip(bodies, places, taken):
            body = _Body(index, rows, points, residual[rows] @ world[:3, :3].T)
            track = active[linked] if linked is not None else _Track([], points)
            if linked is None:
                active.append(track)
                tracks.append(track)
            track.bodies.append(body)
            track.lost = 0
        for track in active:
            last = track.bodies[-1]
            track.ahead = last.points + (1 + track.lost) * last.moves.mean(0)
            if not track.lost:
                track.ahead = last.points + last.moves
        active = [track for track in active if track.lost <= _LOST]
    periods = {k: times[k + 1] - times[k] if k + 1 in times else period for k in times}
    whole = [
        track
        for track in tracks
        if len(track.bodies) > 1
        or not {track.bodies[0].sweep - 1, track.bodies[0].sweep + 1} & set(times)
        or len(times) == 2
    ]
    return [_fit(k + 1, track, periods, sensors) for k, track in enumerate(whole)]


def number_points(
    index: int, sweep: Sweep, flow: FlowFile, objects: Iterable[TrackedObject]
) -> Tensor:
    """Return the number of the object of every point of a sweep, int32 ``(N,)``; 0 for static ones.

    A point moves if it moves by its flow as part of an object, or lies in the box of an object whose
    points are most of those in the box. Where an object was found only before or after, its box must
    hold half as many points as there.

    Args:
        index: number of the sweep.
        sweep: the sweep.
        flow: its flow.
        objects: the objects of the sequence.
    """
    number = torch.zeros(len(sweep), dtype=torch.int32)
    for tracked in objects:
        for observation in tracked.observations:
            if observation.sweep == index:
                inside = tracked.inside(observation, sweep.points) & flow.valid & ~flow.ground
                # Of a box that holds mostly other points, only the body moves: its size is wrong.
                # A box without a body holds an object if it holds about as many points.
                count, held = observation.expected, int(inside.sum())
                if 2 * count >= held and (len(observation.rows) or 2 * held >= count):
                    number[inside & (number == 0)] = tracked.number
                number[observation.rows] = tracked.number
    return number


def _bodies(sweep: Sweep, flow: FlowFile) -> list[Tensor]:
    """Return the rows of the moving points of every body."""
    moving = (flow.dynamic & flow.valid & ~flow.ground).nonzero().squeeze(1)
    body = flow.instance[moving].long()
    if len(moving) and bool((body < 0).all()):  # the method finds no bodies
        points = sweep.points[moving]
        body = clusters(points, torch.zeros(len(points)))
    moving, body = moving[body >= 0], body[body >= 0]
    order = body.argsort(stable=True)
    sizes = torch.unique(body, return_counts=True)[1].tolist()
    return [rows for rows in moving[order].split(sizes) if len(rows) >= _FEWEST] if sizes else []


def _link(tracks: list[_Track], bodies: list[Tensor]) -> list[int | None]:
    """Return the number of the track that every body continues, or None."""
    linked: list[int | None] = [None] * len(bodies)
    if not tracks or not bodies:
        return linked
    owner = torch.cat([torch.full((len(body),), k) for k, body in enumerate(bodies)])
    tree, votes = Tree(torch.cat(bodies).float()), []
    for j, track in enumerate(tracks):
        away, nearest = tree.query(track.ahead.float(), _MEET)
        met = torch.bincount(owner[nearest[away.isfinite()]], minlength=len(bodies))
        for k in met.nonzero().squeeze(1).tolist():
            share = int(met[k]) / min(len(track.ahead), max(len(bodies[k]), _FEWEST))
            votes.append((int(met[k]), share, j, k))
    free = set(range(len(tracks)))
    for _, share, j, k in sorted(votes, reverse=True):
        if share >= _SHARED and j in free and linked[k] is None:
            linked[k] = j
            free.remove(j)
    return linked


def _fit(
    number: int, track: _Track, periods: Mapping[int, float], sensors: Mapping[int, Tensor]
) -> TrackedObject:
    bodies = track.bodies
    drift = torch.stack([one.moves.mean(0) for one in bodies])
    headings, extents, boxes = [], [], []
    for k, one in enumerate(bodies):
        # The displacements of an object that turns evenly add to the direction in the middle.
        around_it = slice(max(k - _HEADING, 0), k + _HEADING + 1)
        x, y = drift[around_it, :2].sum(0).tolist()
        headings.append(math.atan2(y, x))
        around = _turned(one.points - sensors[one.sweep][:3, 3], -headings[-1])
        low, high = around.quantile(_STRAY, 0), around.quantile(1 - _STRAY, 0)
        low[2] = around[:, 2].min()
        boxes.append((low, high))
        extents.append(high - low)
    extent = torch.stack(extents).quantile(_SEEN, 0)
    category = _category(*extent.tolist())
    usual, least = (torch.tensor(size, dtype=torch.float64) for size in _KINDS[category])
    size = torch.where(extent < least, usual, extent)
    observations = []
    first, last = bodies[0].sweep - _LOST, bodies[-1].sweep + _LOST
    for sweep in sorted(k for k in sensors if first <= k <= last):
        distances = [abs(body.sweep - sweep) for body in bodies]
        near = distances.index(min(distances))
        one, heading, (low, high) = bodies[near], headings[near], boxes[near]
        middle = (low + high) / 2
        # A side behind the sensor's place in that direction, at 0, ends the box; others are hidden.
        middle = torch.where(low > 0, low + size / 2, middle)
        middle = torch.where(high < 0, high - size / 2, middle)
        middle[2] = low[2] + size[2] / 2
        centre = _turned(middle[None], heading)[0] + sensors[one.sweep][:3, 3]
        # A sweep in which the body was not found: it moves evenly.
        centre = centre + (sweep - one.sweep) * drift[near]
        frame, is_seen = sensors[sweep], sweep == one.sweep
        yaw, to_sensor = math.atan2(float(frame[1, 0]), float(frame[0, 0])), inverse(frame)
        observations.append(
            Observation(
                sweep,
                one.rows if is_seen else one.rows[:0],
                transform(to_sensor, centre[None])[0],
                math.remainder(heading - yaw, math.tau),
                to_sensor[:3, :3] @ drift[near] / periods[sweep],
                len(one.rows),
            )
        )
    return TrackedObject(
        number,
        category,
        (float(size[0]), float(size[1]), float(size[2])),
        tuple(observations),
    )


def _category(length: float, width: float, height: float) -> str:
    if length > _KINDS["truck"][1][0] or height > _KINDS["truck"][1][2]:
        return "truck"
    if max(length, width) < 1.1:
        return "pedestrian"
    return "cyclist" if width < 0.95 and length < 2.3 else "car"


def _turned(points: Tensor, angle: float) -> Tensor:
    """Turn points about the vertical axis."""
    c, s = math.cos(angle), math.sin(angle)
    return points @ torch.tensor([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
