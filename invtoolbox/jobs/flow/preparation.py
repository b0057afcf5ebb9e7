"""Preparation of a pair of sweeps for scene flow: ego motion, deskewing, ground, crops."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import inverse, rigid, transform
from invtoolbox.geometry.sweeps import Sweep
from invtoolbox.jobs.flow.clusters import Cloud
from invtoolbox.jobs.flow.ego_motion import Deskew, How, When, deskewing, ego_motion
from invtoolbox.jobs.flow.ground import Ground, ground
from invtoolbox.jobs.flow.sensor import find_level, find_sensor
from invtoolbox.jobs.flow.vehicle import (
    Box,
    box_of_points,
    check_box,
    describe_box,
    in_box,
    resting,
    vehicle_box,
)

#: Smallest number of measurements of a sweep.
_FEWEST = 10
#: Seconds between sweeps if they are unknown, the shortest ones that are believed, and the longest.
_USUAL_PERIOD, _SHORTEST, LONGEST = 0.1, 1e-3, 10.0
#: Largest plausible distance, metres: no lidar measures farther, so farther points are damage or
#: not in the frame of the sensor.
FARTHEST = 1000.0
#: Distance of the median of the points from the sensor that is possible, metres. Sweeps of four
#: sensors have at most 3 m.
_OFF_CENTRE = 20.0
#: Height of the sensor above the ground in the frame of a map, metres.
_SENSOR_HEIGHT = 1.8
#: Largest rounding error of coordinates, metres.
_COARSE = 0.01


@dataclass(frozen=True)
class Preparation:
    """Settings of the preparation of a pair of sweeps. No step removes a point from the output.

    Attributes:
        ego_motion: source of the motion of the sensor: ``"auto"`` (poses, or the points if a sweep
            has no pose), ``"poses"``, ``"icp"`` or ``"none"`` (the sensor stands still).
        deskew: whether the motion of the sensor within a sweep is undone: ``"auto"`` (if points
            have times and the data set states that they are not deskewed), ``"always"`` or
            ``"never"``.
        ground: ``"auto"`` finds the ground in the points, if they have any, ``"labels"`` takes the
            labels of the sweep (or finds it in a sweep without labels), ``"none"`` keeps it as part
            of the scene. The default method takes the ground to stand still even then.
        ground_settings: settings of the ground segmentation.
        max_range: distance from the sensor in the plane, metres; farther points move with the
            static world. None keeps all points up to a kilometre.
        min_height: height in the frame of the sensor, metres; lower points move with the static
            world. None keeps all.
        max_height: height in the frame of the sensor, metres; higher points move with the static
            world. None keeps all.
        sensor_origin: place of the sensor in the frame of the points, metres, from which ranges and
            heights count. None is the place from which the points lie on rings, as those of a
            spinning lidar do, at most 3 m from the origin of the frame; without rings it is the
            origin. In the frame of a map, whose origin is more than 20 m from the median of the
            points, that median takes the place of the origin.
        vehicle: box of the vehicle that carries the sensor, in the frame of the points: least x, y,
            z and largest x, y, z, metres. Its points are marked as not valid, belong to no body and
            no map, and move with the static world. None is the box of the points that rest in the
            frame of the sensor while it moves, if there are any; six zeros leave nothing out.
    """

    ego_motion: How = "auto"
    deskew: When = "auto"
    ground: Literal["auto", "labels", "none"] = "auto"
    ground_settings: Ground = field(default_factory=Ground)
    max_range: float | None = None
    min_height: float | None = None
    max_height: float | None = None
    sensor_origin: tuple[float, float, float] | None = None
    vehicle: Box | None = None

    def __post_init__(self) -> None:
        check_choice(self, ("auto", "labels", "none"), "ground")
        check_range(self, "(0, inf]", "max_range")
        if (
            self.min_height is not None
            and self.max_height is not None
            and not self.min_height < self.max_height
        ):
            raise InputError(
                f"min_height {self.min_height} must be below max_height {self.max_height}"
            )
        place = self.sensor_origin
        if place is not None and not (len(place) == 3 and all(map(math.isfinite, place))):
            raise InputError(
                f"sensor_origin must be three finite numbers, x, y and z in metres, got {place}"
            )
        if self.vehicle is not None:
            check_box(self.vehicle)


@dataclass(frozen=True, eq=False)
class PreparedSweep:
    """Sweep in the frame of its sensor, deskewed, with the points that a method gets.

    Attributes:
        sweep: the sweep, with N points relative to the sensor.
        origin: level frame of the sensor in the frame that the points were given in, float64
            ``(4, 4)``; its axes differ if the ground is tilted by more than 6 degrees.
        deskew: deskewing, or None.
        ground: points on the ground, bool ``(N,)``.
        index: rows of the n points that are measurements, not on the ground and in range, int64
            ``(n,)``.
        cloud: these points, deskewed, and the ground.
        vehicle: points of the vehicle that carries the sensor, bool ``(N,)``.
    """

    sweep: Sweep
    origin: Tensor
    deskew: Deskew | None
    ground: Tensor
    index: Tensor
    cloud: Cloud
    vehicle: Tensor


@dataclass(frozen=True, eq=False)
class PreparedPair:
    """Two prepared sweeps in one frame: n and m of the N and M points of the sweeps.

    All places are in the level frame of the sensor, `origin`.

    Attributes:
        first: the first sweep.
        second: the second sweep; None if it is not measured yet.
        ego_motion: E, float64 ``(4, 4)``, relative to the sensor.
        notes: choices that were made, with reasons.
        period: seconds from the first sweep to the second, or back.
        vehicle: box of the sensor's vehicle, given or found; or None.
    """

    first: PreparedSweep
    second: PreparedSweep | None
    ego_motion: Tensor
    notes: tuple[str, ...]
    period: float = _USUAL_PERIOD
    vehicle: Box | None = None

    @cached_property
    def source(self) -> Tensor:
        """Points of the first sweep, moved by the ego motion into the frame of the second.

        float32 ``(n, 3)``; static points coincide with the second sweep.
        """
        return transform(self.ego_motion, self.first.cloud.points.double()).float()

    @property
    def target(self) -> Tensor:
        """Points of the second sweep, float32 ``(m, 3)``."""
        return self.source[:0] if self.second is None else self.second.cloud.points

    @property
    def index(self) -> Tensor:
        """Rows of `source` in the first sweep, int64 ``(n,)``."""
        return self.first.index

    @property
    def ground(self) -> Tensor:
        """Points of the first sweep on the ground, bool ``(N,)``."""
        return self.first.ground

    @property
    def valid(self) -> Tensor:
        """Rows of the first sweep that are measurements of the world, bool ``(N,)``."""
        return self.first.sweep.finite & ~self.first.vehicle

    @property
    def origin(self) -> Tensor:
        """Level frame of the sensor in the frame that the points were given in, ``(4, 4)``."""
        return self.first.origin

    @property
    def given_ego_motion(self) -> Tensor:
        """E in the frame that the points were given in."""
        return _in_frame(self.ego_motion, inverse(self.origin))

    def flow(self, residual: Tensor) -> Tensor:
        """Return the flow of every point of the first sweep, float32 ``(N, 3)`` in metres.

        The motion of the sensor is added, points that were left out move with the static world (``E
        p - p``), and deskewing is undone: a point of the sweep plus its flow lies where the next
        sweep shows it. The flow is NaN in rows that are not measurements.

        Args:
            residual: displacements of the points of `source` relative to the static world,
                ``(n, 3)``.
        """
        if residual.shape != self.source.shape:
            raise InputError(
                f"the flow has the shape {tuple(residual.shape)} for {len(self.source)} prepared "
                f"points; expected {tuple(self.source.shape)}"
            )
        # With the deskewing D and the residual r: flow = D^-1(E D(p) + r) - p, in float64, because
        # the flow is a small difference of large coordinates.
        points = self.first.sweep.points.double()
        deskew = self.first.deskew
        flow = transform(self.ego_motion, points if deskew is None else deskew(points))
        flow[self.index] += residual.to(flow)
        if deskew is not None:
            flow = deskew.undo(flow)
        flow -= points
        flow = flow @ self.origin[:3, :3].T
        flow[~self.first.sweep.finite] = torch.nan
        return flow.float()


def prepare_pair(
    source: Sweep,
    target: Sweep,
    preparation: Preparation | None = None,
    guess: Tensor | None = None,
) -> PreparedPair:
    """Prepare a pair of sweeps: ego motion, deskewing, ground and crops.

    Args:
        source: first sweep.
        target: second sweep.
        preparation: settings.
        guess: ego motion of the previous pair, the initial guess of a registration.

    Raises:
        InputError: if a sweep holds no usable points, or the two do not overlap; the sentence names
            the sweep.

    >>> generator = torch.Generator().manual_seed(0)
    >>> first = Sweep(10 * torch.rand(100, 3, generator=generator))
    >>> plain = Preparation(ego_motion="none", ground="none")
    >>> pair = prepare_pair(first, Sweep(first.points + 0.1), plain)
    >>> pair.flow(torch.full((100, 3), 0.1)).mean(0)
    tensor([0.1000, 0.1000, 0.1000])
    """
    preparation = preparation or Preparation()
    notes: list[str] = []
    origin = sensor_frame(source, preparation, notes)
    source, target = from_sensor(source, origin), from_sensor(target, origin)
    if guess is not None:
        guess = _in_frame(guess, origin)
    for sweep in (source, target):
        check_sweep(sweep)
    relation = relate(source, target, preparation, notes, guess)
    if preparation.vehicle is None:
        resting_points = resting(source, target, preparation.ground_settings)
        level_box = vehicle_box(resting_points, relation.ego_motion)
        if level_box is not None:
            preparation = replace(preparation, vehicle=box_of_points(level_box, origin))
            assert preparation.vehicle is not None
            notes.append(describe_box(preparation.vehicle))
    first, second = (
        prepare_sweep(sweep, origin, deskew, preparation, notes)
        for sweep, deskew in zip((source, target), relation.deskews)
    )
    E, box = relation.ego_motion, preparation.vehicle
    return PreparedPair(first, second, E, tuple(notes), relation.period, box)


@dataclass(frozen=True, eq=False)
class Relation:
    """Motion of the sensor from a sweep to the next one.

    Attributes:
        ego_motion: E, float64 ``(4, 4)``, relative to the sensor.
        deskews: deskewing of both sweeps by that motion, or None.
        period: seconds between the sweeps.
    """

    ego_motion: Tensor
    deskews: tuple[Deskew | None, Deskew | None]
    period: float


def relate(
    source: Sweep,
    target: Sweep,
    preparation: Preparation,
    notes: list[str],
    guess: Tensor | None = None,
) -> Relation:
    """Compute the motion of the sensor between two sweeps in the frame of the sensor.

    Args:
        source: first sweep.
        target: second sweep.
        preparation: settings.
        notes: notes are appended to this list.
        guess: initial guess of a registration.

    Raises:
        InputError: the two do not overlap, or are too far apart in time.
    """
    # Equal clouds are allowed, but often one file was given twice. NaN differs from NaN, hence zeros.
    if source.points.shape == target.points.shape and torch.equal(
        source.points.nan_to_num(), target.points.nan_to_num()
    ):
        notes.append(f"{source.source} and {target.source} hold the same points")
    period = _period(source, target, notes)
    matrix, *deskews = _motion(source, target, preparation, guess, notes)
    check_overlap(source, target, matrix)
    return Relation(matrix, (deskews[0], deskews[1]), period)


def sensor_frame(sweep: Sweep, preparation: Preparation, notes: list[str]) -> Tensor:
    """Return the level frame of the sensor, float64 ``(4, 4)``; see `Preparation`."""
    place = _sensor_origin(sweep, preparation, notes)
    points = sweep.points[sweep.finite].double() - place
    level = find_level(points)
    if bool(level[2, 2] < 1):
        notes.append(_describe_level(level))
    return rigid(level, place)


def _describe_level(level: Tensor) -> str:
    """Return a note on the vertical axis of the points, a column of the rotation ``(3, 3)``."""
    up = level[:, 2]
    axis = int(up.abs().argmax())
    if axis == 2 and float(up[2]) > 0:
        tilt = math.degrees(math.acos(min(float(up[2]), 1.0)))
        return f"the ground is tilted by {tilt:.0f} degrees in the frame of the points"
    direction = "up" if float(up[axis]) > 0 else "down"
    return (
        f"the ground lies across the axis {'xyz'[axis]}, so this axis is taken to point {direction}; "
        "the flow has the axes of the points"
    )


def _sensor_origin(sweep: Sweep, preparation: Preparation, notes: list[str]) -> Tensor:
    """Return the place of the sensor, float64 ``(3,)``; see `Preparation`."""
    if preparation.sensor_origin is not None:
        return torch.tensor(preparation.sensor_origin, dtype=torch.float64)
    points = sweep.points[sweep.finite].double()
    assumed = torch.zeros(3, dtype=torch.float64)
    if len(points) == 0:
        return assumed
    # The frame of a map: the sensor is at the median in the plane, above the lowest tenth of the
    # points near it.
    middle = points.median(0).values
    is_map = float(middle[:2].norm()) > _OFF_CENTRE
    if is_map:
        # There may be no point near it, because each coordinate has a median of its own.
        near = (points[:, :2] - middle[:2]).norm(dim=1) < _OFF_CENTRE
        lowest = (points[near] if bool(near.any()) else points)[:, 2].quantile(0.1)
        assumed = torch.cat([middle[:2], lowest[None] + _SENSOR_HEIGHT])
    place, reason = find_sensor(points, assumed), "the points lie on the rings of a sensor"
    if place is None or torch.equal(place, assumed):
        if not is_map:
            return assumed
        place = assumed
        reason = "the points do not lie around the origin, so the sensor is assumed at their median"
    where = ", ".join(f"{coordinate:.2f}" for coordinate in place.tolist())
    notes.append(f"{reason} at ({where}) m; sensor_origin= gives it")
    return place


def from_sensor(sweep: Sweep, origin: Tensor) -> Sweep:
    """Return a sweep in the level frame of the sensor.

    Args:
        sweep: sweep.
        origin: the frame, ``(4, 4)``.
    """
    if is_identity(origin):
        return replace(sweep, points=sweep.points.float())
    # Coordinates of the size x have the spacing eps x, for example 0.06 m at 10^6 m in float32.
    points = sweep.points[sweep.finite]
    grain = float(torch.finfo(points.dtype).eps * points.abs().max()) if len(points) else 0.0
    if grain > _COARSE:
        raise InputError(
            f"{sweep.source}: coordinates this large are rounded to {grain:.2g} m as {points.dtype}"
            " numbers; give them in metres and in float64, or in the sensor's own frame with its pose"
        )
    # Rows that are no measurements stay as they are. If the points p become F^-1 p, the pose P becomes
    # P F, so that the places in the world stay.
    points = sweep.points.double()
    points = torch.where(sweep.finite[:, None], transform(inverse(origin), points), points)
    return replace(
        sweep,
        points=points.float(),
        pose=None if sweep.pose is None else sweep.pose.double() @ origin,
    )


def is_identity(frame: Tensor) -> bool:
    """Return whether a frame ``(4, 4)`` is the frame of the points."""
    return torch.equal(frame, torch.eye(4).to(frame))


def _in_frame(motion: Tensor, frame: Tensor) -> Tensor:
    """Return a motion in another frame: p = F q turns p' = M p into q' = F^-1 M F q."""
    return motion.double() if is_identity(frame) else inverse(frame) @ motion.double() @ frame


def check_sweep(sweep: Sweep) -> None:
    """Raise `InputError` if a sweep has too few usable points, or times that are not seconds."""
    if len(sweep) == 0:
        raise InputError(f"{sweep.source} is empty: it holds no points")
    count = int(sweep.finite.sum())
    if count == 0:
        raise InputError(
            f"{sweep.source}: none of its {len(sweep)} points is a measurement; all are NaN, "
            "infinite or zero"
        )
    if count < _FEWEST:
        raise InputError(
            f"{sweep.source}: {count} of {len(sweep)} points are measurements; scene flow needs "
            f"{_FEWEST} at least"
        )
    # No lidar measures farther than a kilometre: such points are damage or in a map's frame.
    near = int((sweep.finite & _within(sweep.points, FARTHEST)).sum())
    if near < _FEWEST:
        raise InputError(
            f"{sweep.source}: {near} of {count} points lie within {FARTHEST:g} m of the origin, "
            "where the sensor is; give points in metres and in the sensor's own frame, with its "
            "pose where they were in the world's"
        )
    late = torch.zeros(0) if sweep.time is None else sweep.time[sweep.time.isfinite()].abs()
    if len(late) and float(late.max()) > LONGEST:
        raise InputError(
            f"{sweep.source}: a point was measured {float(late.max()):.3g} s from the time of "
            "its sweep; times of points must be seconds from it, so divide nanoseconds by 1e9, "
            "microseconds by 1e6 and milliseconds by 1000"
        )


def _period(source: Sweep, target: Sweep, notes: list[str]) -> float:
    """Return the seconds between two sweeps; timestamps that are not seconds are refused."""
    # The absolute value: a pair may go back in time.
    period = abs(target.timestamp - source.timestamp)
    if period > LONGEST:
        raise InputError(
            f"{source.source} and {target.source} are {period:.3g} s apart; timestamps must be "
            f"seconds, and at most {LONGEST:g} s apart, so divide nanoseconds by 1e9, "
            "microseconds by 1e6 and milliseconds by 1000"
        )
    if not period >= _SHORTEST:
        notes.append(f"the time between the sweeps is unknown, so {_USUAL_PERIOD} s are assumed")
        return _USUAL_PERIOD
    return period


def _within(points: Tensor, distance: float) -> Tensor:
    """Return a mask of the points within a distance of the sensor in the plane, ``(N,)``."""
    return points[:, :2].double().norm(dim=1) <= distance


def check_overlap(source: Sweep, target: Sweep, matrix: Tensor) -> None:
    """Refuse sweeps of different places, which share almost no columns of 5 m that hold points."""
    first, second = (
        sweep.points[sweep.finite & _within(sweep.points, FARTHEST)].double()
        for sweep in (source, target)
    )
    cells = [(points[:, :2] / 5).round().long() for points in (transform(matrix, first), second)]
    # The whole numbers (i, j) of a column are packed into the one number 2^32 i + j.
    columns = [(cell[:, 0] << 32) + cell[:, 1] for cell in cells]
    # Sweeps of one place share most columns; 2 % are left for two places that look alike by chance.
    share = float(torch.isin(columns[0], columns[1].unique()).double().mean())
    if share < 0.02:
        raise InputError(
            f"{source.source} and {target.source} do not overlap: after the ego motion {share:.1%} "
            "of the points of the first lie within 5 m of points of the second; check that they "
            "follow each other and that their poses are right"
        )


def _motion(
    source: Sweep, target: Sweep, preparation: Preparation, guess: Tensor | None, notes: list[str]
) -> tuple[Tensor, Deskew | None, Deskew | None]:
    """Return E and the deskewing of each sweep; a registration is repeated on deskewed points."""
    # Signed, unlike `_period`, because deskewing needs a later target. Both sweeps are deskewed with
    # one motion, as if the sensor moved evenly through the two.
    pair, period = (source, target), target.timestamp - source.timestamp
    motion = ego_motion(source, target, preparation.ego_motion, guess)
    deskews = [deskewing(sweep, motion.matrix, period, preparation.deskew) for sweep in pair]
    # E and the deskewing depend on each other: distorted sweeps give an E with an error of about 1 %
    # of the turn (see `ego_motion`), which is good enough to deskew them.
    if motion.how == "icp" and any(deskew is not None for deskew, _ in deskews):
        first, second = (
            sweep if deskew is None else replace(sweep, points=deskew(sweep.points))
            for sweep, (deskew, _) in zip(pair, deskews)
        )
        motion = ego_motion(first, second, "icp", motion.matrix)
        deskews = [deskewing(sweep, motion.matrix, period, preparation.deskew) for sweep in pair]
    notes.append(
        {
            "poses": "ego motion from the poses",
            "none": "the sensor is taken to stand still",
            "icp": "ego motion by registration",
        }[motion.how]
    )
    # A recording names the topic that gave the pose, or the reason why none did.
    notes += [source.meta["poses"]] if "poses" in source.meta else []
    # A recording states what was decided about its times, order and layout.
    notes += source.meta.get("notes", ())
    notes += motion.notes
    for sweep, (deskew, why) in zip(pair, deskews):
        if deskew is not None or sweep.deskewed is False:
            notes.append(
                f"{sweep.source}: " + ("deskewed" if deskew is not None else f"not deskewed, {why}")
            )
    return motion.matrix, deskews[0][0], deskews[1][0]


def prepare_sweep(
    sweep: Sweep,
    origin: Tensor,
    deskew: Deskew | None,
    preparation: Preparation,
    notes: list[str],
) -> PreparedSweep:
    """Deskew a sweep, find its ground, and choose the points that are used.

    Measurements are used that are not on the ground and lie within the range and heights.

    Args:
        sweep: the sweep in the frame of its sensor.
        origin: level frame of the sensor in the frame that the points were given in.
        deskew: deskewing, or None.
        preparation: settings.
        notes: notes are appended to this list.

    Raises:
        InputError: no point is left.
    """
    # Ground, range and heights count at the time of the sweep, after deskewing.
    points = sweep.points if deskew is None else deskew(sweep.points)
    on_ground = _find_ground(sweep, points, preparation, notes)
    # Points left out move with the static world (`PreparedPair.flow`), so none is lost.
    reach = FARTHEST if preparation.max_range is None else min(preparation.max_range, FARTHEST)
    vehicle = torch.zeros_like(on_ground)
    if preparation.vehicle is not None:
        # The vehicle does not move in the frame of the sensor, so its points are not deskewed.
        vehicle = in_box(transform(origin, sweep.points.double()), preparation.vehicle)
    on_ground = on_ground & ~vehicle
    in_use = (
        sweep.finite
        & ~on_ground
        & ~vehicle
        & _within(points, reach)
        & (points[:, 2].abs() <= FARTHEST)
    )
    if preparation.min_height is not None:
        in_use &= points[:, 2] >= preparation.min_height
    if preparation.max_height is not None:
        in_use &= points[:, 2] <= preparation.max_height
    if not bool(in_use.any()):
        raise InputError(
            f"{sweep.source}: no point is left without the ground and within the range and heights "
            "asked for; widen them, or set ground='none'"
        )
    index = in_use.nonzero().squeeze(1)
    # Times are coordinates of search trees, which take no NaN.
    times = None if sweep.time is None else sweep.time[index]
    if times is not None and not bool(times.isfinite().all()):
        times = None
    cloud = Cloud(points[index].float(), times, points[on_ground].float())
    return PreparedSweep(sweep, origin, deskew, on_ground, index, cloud, vehicle)


def _find_ground(
    sweep: Sweep, points: Tensor, preparation: Preparation, notes: list[str]
) -> Tensor:
    """Return a mask of the points on the ground, found or labelled, ``(N,)``."""
    if preparation.ground == "none":
        return torch.zeros(len(sweep), dtype=torch.bool, device=sweep.points.device)
    if (
        preparation.ground == "labels"
        and sweep.labels is not None
        and sweep.labels.ground is not None
    ):
        return sweep.labels.ground.bool()
    on_ground = ground(points, preparation.ground_settings)
    if not bool(on_ground.any()):
        notes.append(
            f"{sweep.source}: no ground was found, so no point is removed, and heights count from "
            "the lowest points; x points forward, y left and z up, so exchange other axes"
        )
    return on_ground
