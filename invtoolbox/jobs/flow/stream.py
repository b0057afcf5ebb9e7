"""Scene flow of a lidar at its own pace: one sweep after the other, with tracks of moving bodies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import get_args

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import check_motion, transform
from invtoolbox.geometry.sweeps import Sweep
from invtoolbox.jobs.flow.ego_motion import How
from invtoolbox.jobs.flow.estimation import FlowEstimate, as_sweep
from invtoolbox.jobs.flow.methods import Method, method_named
from invtoolbox.jobs.flow.preparation import Preparation
from invtoolbox.jobs.flow.sweep_window import SweepWindow, check_pace, in_map, settle
from invtoolbox.kernels.points.nearest import Tree

#: Seconds between sweeps without times.
_PERIOD = 0.1
#: Largest distance of a point from its predicted place, metres, largest difference of velocities,
#: metres per second and as a share of the speed, and number of sweeps that a track outlives its body.
_REACH, _CHANGE, _CHANGE_SHARE, _LOST = 0.5, 3.0, 0.5, 3


@dataclass(frozen=True, eq=False)
class MovingBody:
    """Moving body of a sweep.

    Attributes:
        number: number of its track, the same in every sweep; numbers count from 0.
        age: number of sweeps in which the track was found, this one included.
        points: number of its points.
        centre: mean of its points, metres, ``(3,)``.
        velocity: velocity in the world along the axes of the sweep, metres per second, ``(3,)``.
    """

    number: int
    age: int
    points: int
    centre: Tensor
    velocity: Tensor


@dataclass(frozen=True, eq=False)
class StreamedFlow(FlowEstimate):
    """Flow of a sweep of a stream; `instance` holds the numbers of the tracks.

    Attributes:
        index: number of the sweep among those that were pushed and taken, from 0.
        points: its points, ``(N, 3)``.
        bodies: its moving bodies.
    """

    index: int
    points: Tensor
    bodies: tuple[MovingBody, ...]


class FlowStream:
    """Scene flow of sweeps that arrive one after the other.

    Each sweep is prepared once: motion of the sensor, deskewing, ground, trees and normals. Its
    flow is estimated from the last `window` sweeps, so memory does not grow. The files of
    `flow_sequence(..., latency=latency)` hold the same flow, bit for bit.

    Args:
        method: name of a method, or a method; see ``invtoolbox list methods``. Only the default
            method has a latency of 0.
        window: number of sweeps that a result depends on, 2 to 13.
        latency: number of sweeps between the newest sweep and the one whose flow is returned,
            below `window`. With 0 the flow is a prediction: the sensor is taken to move on as it
            did since the last sweep, and bodies are continued by their tracks through the past
            sweeps. With 1 the newest sweep is where the flow arrives.
        ego_motion: as in `scene_flow`: ``"auto"``, ``"poses"``, ``"icp"`` or ``"none"``.
        ground: as in `scene_flow`.
        max_range: as in `scene_flow`.
        sensor_origin: as in `scene_flow`; by default it is found in the first sweep.
        preparation: all settings of the preparation, in place of the four before.
        seed: seed of methods that draw random numbers.
        device: device that the method computes on.

    Raises:
        InputError: a setting is out of bounds, or does not fit the method.

    >>> import invtoolbox as it
    >>> street = it.simulation.street(sweeps=3, points=4000)
    >>> stream = it.FlowStream(window=3)
    >>> for sweep in street:
    ...     moving = stream.push(sweep.points, sweep.timestamp, sweep.pose)
    >>> moving.flow.shape == street[2].points.shape, moving.index
    (True, 2)
    """

    def __init__(
        self,
        method: str | Method = "default",
        *,
        window: int = 5,
        latency: int = 0,
        ego_motion: How = "auto",
        ground: str = "auto",
        max_range: float | None = None,
        sensor_origin: Sequence[float] | None = None,
        preparation: Preparation | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        self.method = method_named(method) if isinstance(method, str) else method
        check_choice("FlowStream", get_args(How), ego_motion=ego_motion)
        self.window, self.latency = check_pace(self.method, window, latency)
        self._seed, self._device = seed, device
        self._preparation = preparation or Preparation(
            ego_motion=ego_motion,
            ground=ground,  # type: ignore[arg-type]
            max_range=max_range,
            sensor_origin=None if sensor_origin is None else tuple(map(float, sensor_origin)),  # type: ignore[arg-type]
        )
        self._sweeps: SweepWindow | None = None
        self._count, self._last = 0, 0.0
        self._tracks = _TrackList()

    def push(
        self,
        points: Sweep | Tensor | np.ndarray,
        time: float | None = None,
        pose: Tensor | np.ndarray | None = None,
    ) -> StreamedFlow | None:
        """Take the next sweep, and return the flow of the newest sweep, or of one before it.

        Args:
            points: points ``(N, 3)`` in the frame of the sensor, metres, x forward, y left, z up;
                or a `Sweep`, which may also hold the times of its points.
            time: seconds, of which only differences count; by default the timestamp of a `Sweep`,
                or 0.1 s after the last sweep.
            pose: the sensor's frame in the world, ``(4, 4)``; without poses the motion of the
                sensor is found by registration.

        Returns:
            The flow of the sweep that came `latency` sweeps ago; None if there is no such sweep, or
            if only one sweep has come.

        Raises:
            InputError: the sweep is empty, not later than the last one, more than 10 s later, or
                does not overlap it. The stream is then as it was before, and takes the next sweep;
                after a pause, or at another place, begin a new stream.
        """
        check_range("push", "(-inf, inf)", time=time)
        number, sweep = self._count, as_sweep(points, f"sweep {self._count}")
        if time is None and not (isinstance(points, Sweep) and sweep.timestamp):
            time = self._last + _PERIOD if number else 0.0
        sweep = replace(sweep, timestamp=sweep.timestamp if time is None else float(time))
        if pose is not None:
            sweep = replace(sweep, pose=check_motion(torch.as_tensor(pose).cpu(), "the pose"))
        if number and not sweep.timestamp > self._last:
            raise InputError(
                f"{sweep.source}: measured at {sweep.timestamp:.9g} s, which is not after "
                f"{self._last:.9g} s of the last sweep; push sweeps in the order of time"
            )
        sweeps = self._sweeps or self._start(sweep)
        sweeps.add(number, sweep)
        try:
            sweeps.check(number)
        except InputError:
            sweeps.keep(0, number - 1)
            raise
        self._sweeps, self._count, self._last = sweeps, number + 1, sweep.timestamp
        first = max(number - self.window + 1, 0)
        # The sweep before the window has no further use: the first sweep of the window is prepared.
        sweeps.keep(first, number)
        source = number - self.latency
        if source < 0 or number == 0:
            return None
        estimate = sweeps.estimate(source, range(first, number + 1))
        points, period = sweeps.given(source).points, sweeps.period(source)
        return self._tracks.number(source, estimate, points, period)

    def _start(self, sweep: Sweep) -> SweepWindow:
        frame, notes = settle(sweep, self._preparation)
        if in_map(frame, self._preparation):
            raise InputError(
                f"{sweep.source}: the points do not lie around the origin; a stream takes points in "
                "the frame of the sensor, with its pose"
            )
        return SweepWindow(
            self.method, self._preparation, frame, seed=self._seed, notes=notes, device=self._device
        )

    def __repr__(self) -> str:
        return f"FlowStream of {self._count} sweeps, window {self.window}, latency {self.latency}"


@dataclass(eq=False)
class _Track:
    """Moving body that was found `age` times, and has been lost for `lost` sweeps.

    Attributes:
        places: its points in the frame of the sweep to come, ``(n, 3)``.
        velocity: velocity in the world along the axes of that frame, metres per second, ``(3,)``.
    """

    number: int
    age: int
    lost: int
    places: Tensor
    velocity: Tensor


class _TrackList:
    """Tracks of moving bodies, continued from sweep to sweep by their flow."""

    def __init__(self) -> None:
        self._tracks: list[_Track] = []
        self._next, self._index = 0, -1

    def number(
        self, index: int, found: FlowEstimate, points: Tensor, period: float
    ) -> StreamedFlow:
        """Return a result with the numbers of the tracks as instances.

        Args:
            index: number of the sweep.
            found: its flow.
            points: its points, ``(N, 3)``.
            period: seconds to the next sweep.
        """
        if index != self._index + 1:
            self._tracks = []
        self._index = index
        # The residual flow lies along the axes of the next sweep, R along the axes of this sweep.
        R = found.ego_motion[:3, :3].float()
        residual, instance = found.residual(points), torch.full_like(found.instance, -1)
        rows = [
            (found.instance == k).nonzero().squeeze(1) for k in found.instance.unique() if k >= 0
        ]
        velocities = [residual[body].mean(0) @ R / period for body in rows]
        tracks = self._match([points[body] for body in rows], velocities)
        bodies = []
        for body, velocity, track in zip(rows, velocities, tracks):
            instance[body] = track.number
            track.age, track.lost = track.age + 1, 0
            centre = points[body].mean(0)
            bodies.append(MovingBody(track.number, track.age, len(body), centre, velocity))
            track.places, track.velocity = (points + found.flow)[body], R @ velocity
        lost = [t for t in self._tracks if t.lost < _LOST and not any(t is one for one in tracks)]
        for track in lost:
            # A body that was not found is taken to move on evenly.
            track.lost, track.velocity = track.lost + 1, R @ track.velocity
            track.places = transform(found.ego_motion, track.places) + period * track.velocity
        self._tracks = [*lost, *tracks]
        shared = {f.name: getattr(found, f.name) for f in fields(FlowEstimate)}
        shared["instance"] = instance
        return StreamedFlow(**shared, index=index, points=points, bodies=tuple(bodies))

    def _match(self, bodies: list[Tensor], velocities: list[Tensor]) -> list[_Track]:
        """Return the track of every body, most of whose points lie on it, or a new track."""
        counts = np.zeros((len(self._tracks), len(bodies)))
        owner = np.repeat(np.arange(len(bodies)), [len(body) for body in bodies])
        tree = Tree(torch.cat(bodies)) if bodies else None
        for row, track in zip(counts, self._tracks if tree else ()):
            distance, nearest = tree.query(track.places, _REACH)  # type: ignore[union-attr]
            change = [float((velocity - track.velocity).norm()) for velocity in velocities]
            limit = _CHANGE + _CHANGE_SHARE * float(track.velocity.norm())
            near = owner[nearest[distance.isfinite()].numpy()]
            hits = np.bincount(near, minlength=len(bodies))
            row[:] = hits * (np.array(change) <= limit)
        pairs = zip(*linear_sum_assignment(-counts))
        chosen = {b: self._tracks[t] for t, b in pairs if counts[t, b]}
        for b in range(len(bodies)):
            if b not in chosen:
                chosen[b] = _Track(self._next, 0, 0, bodies[b], velocities[b])
                self._next += 1
        return [chosen[b] for b in range(len(bodies))]
