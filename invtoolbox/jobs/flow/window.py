"""Pair of sweeps that a method gets, with its window: further sweeps, moved into the frame of the pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import inverse, part_of, transform
from invtoolbox.geometry.surface_normals import append_times
from invtoolbox.geometry.sweeps import Sweep
from invtoolbox.jobs.flow.clusters import Cloud, are_alone, height_above
from invtoolbox.jobs.flow.ego_motion import deskewing, ego_motion
from invtoolbox.jobs.flow.preparation import (
    LONGEST,
    Preparation,
    PreparedPair,
    check_overlap,
    check_sweep,
    from_sensor,
    prepare_sweep,
)
from invtoolbox.jobs.flow.sensor import Rays


@dataclass(frozen=True, eq=False)
class Neighbour:
    """Further sweep of a window, in the frame of its pair, without ground.

    Attributes:
        points: points, ``(n, 3)``; static points coincide with static points of the pair.
        step: time after the source, in units of the time from the source to the target; negative
            for past sweeps.
        times: times of the points within their sweep, seconds, ``(n,)``; None if unknown.
        origin: position of the sensor, ``(3,)``.
        cloud: the same points in the sweep's own frame, whose trees and normals windows share; None
            to compute them in the frame of the pair.
        placed: motion from the sweep's own frame, ``(4, 4)``.
    """

    points: Tensor
    step: float
    times: Tensor | None = None
    origin: Tensor = field(default_factory=lambda: torch.zeros(3))
    cloud: Cloud | None = None
    placed: Tensor = field(default_factory=lambda: torch.eye(4, dtype=torch.float64))

    @cached_property
    def own(self) -> Cloud:
        """The cloud in the sweep's own frame."""
        return Cloud(self.points, self.times) if self.cloud is None else self.cloud

    def query(
        self, points: Tensor, bound: float | None = None, times: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the distance to the nearest point and its row, see `Tree.query`.

        Args:
            points: points in the frame of the pair, ``(m, 3)``.
            bound: largest distance to search.
            times: times of the points, ``(m,)``, in which neighbours are then also sought.
        """
        queries = points if self.cloud is None else transform(inverse(self.placed), points)
        return self.own.tree(times is not None).query(append_times(queries, times), bound)

    def surface(self, timed: bool) -> tuple[Tensor, Tensor]:
        """Return the normals in the frame of the pair, ``(n, 3)``, and the thickness, ``(n,)``."""
        normal, thickness = self.own.surface(timed)
        return normal @ self.placed[:3, :3].to(normal).T, thickness

    def take(self, rows: Tensor) -> Neighbour:
        """Return the sweep restricted to some of its points.

        Args:
            rows: rows, or a mask.
        """
        times = None if self.times is None else self.times[rows]
        return Neighbour(self.points[rows], self.step, times, self.origin)

    def below(self, height: float, ground: Tensor, rays: Rays) -> Neighbour:
        """Return the sweep restricted to its points below a height, without stray points.

        Args:
            height: height above the ground, metres.
            ground: ground of the pair, if the sweep does not hold its own.
            rays: rays of the sensor, in the same case.
        """
        if self.cloud is None:
            stray = are_alone(self.points, self.origin, rays)
            return self.take((height_above(self.points, ground) < height) & ~stray)
        rows, low = self.cloud.below(height)
        return replace(self.take(rows), cloud=low, placed=self.placed)


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
        window: further sweeps in the same frame, in the order of time.
        origin: position of the sensor at the first sweep, ``(3,)``.
        scans: source and target with their clouds, whose trees and normals windows share; None to
            compute them anew. The target is None if it is not measured yet.
    """

    source: Tensor
    target: Tensor
    ground: Tensor
    times: tuple[Tensor, Tensor] | None = None
    period: float = 0.1
    ego_motion: Tensor | None = None
    window: tuple[Neighbour, ...] = ()
    origin: Tensor = field(default_factory=lambda: torch.zeros(3))
    scans: tuple[Neighbour, Neighbour | None] | None = None


@dataclass(frozen=True, eq=False)
class Motion:
    """Result of a method for the n points of the source.

    Attributes:
        flow: displacement relative to the static world, metres, ``(n, 3)``.
        instance: number of the body of every point, int64 ``(n,)``; -1 for none.
    """

    flow: Tensor
    instance: Tensor


def prepare_neighbours(
    pair: PreparedPair,
    source: Sweep,
    target: Sweep,
    window: Sequence[Sweep],
    preparation: Preparation | None = None,
) -> tuple[tuple[Neighbour, ...], tuple[str, ...]]:
    """Prepare the further sweeps of a window, and return them with notes.

    A sweep that cannot be used is left out, and a note gives the reason.

    Args:
        pair: the prepared pair.
        source: first sweep of the pair.
        target: second sweep of the pair.
        window: further sweeps, in any order, with timestamps in the unit of the pair's.
        preparation: settings, as for the pair.

    Raises:
        InputError: the pair has no timestamps.
    """
    if not window:
        return (), ()
    period = target.timestamp - source.timestamp
    if not period > 0:
        raise InputError(
            f"a window needs the timestamps of its sweeps: {source.source} is at "
            f"{source.timestamp:.9g} s and {target.source} at {target.timestamp:.9g} s; give "
            "sweeps with timestamps, or no window"
        )
    preparation = preparation or Preparation()
    target = from_sensor(target, pair.origin)
    neighbours, notes, taken = [], [], {0.0, 1.0}
    for sweep in window:
        # Times in periods from the source: the source is at 0, and the target at 1.
        step = (sweep.timestamp - source.timestamp) / period
        try:
            if not abs(step) * period <= LONGEST:
                raise InputError(
                    f"{sweep.source} is {step * period:.3g} s from the pair; timestamps must be "
                    f"seconds, and at most {LONGEST:g} s apart"
                )
            # Sweeps less than a tenth of a period apart count as one. The pair has the times 0 and 1.
            if any(abs(step - earlier) < 0.1 for earlier in taken):
                raise InputError(
                    f"{sweep.source} has the time of another sweep, {sweep.timestamp:.9g} s"
                )
            neighbours.append(_prepare(pair, target, sweep, step, period, preparation))
            taken.add(step)
        except InputError as error:
            notes.append(f"left out of the window: {error}")
    neighbours.sort(key=lambda neighbour: neighbour.step)
    return tuple(neighbours), (*notes, *describe_window(neighbours))


def describe_window(neighbours: Sequence[Neighbour], ahead: int = 1) -> list[str]:
    """Return a note on the further sweeps of a window; none without them.

    Args:
        neighbours: the further sweeps, in the order of time.
        ahead: number of sweeps of the pair after its source, 1, or 0 if the target is not measured.
    """
    if not neighbours:
        return []
    first, last = min(neighbours[0].step, 0), max(neighbours[-1].step, ahead)
    count = len(neighbours) + 1 + ahead
    return [f"a window of {count} sweeps, from {first:+.3g} to {last:+.3g} periods"]


def _prepare(
    pair: PreparedPair,
    target: Sweep,
    sweep: Sweep,
    step: float,
    period: float,
    preparation: Preparation,
) -> Neighbour:
    """Move a sweep into the frame of the target; the sensor moves evenly over the period."""
    sweep = from_sensor(sweep, pair.origin)
    check_sweep(sweep)
    # The target is 1 - step periods later, never 0, because its time is taken. At even speed its ego
    # motion is that part of E, from which a registration starts.
    ahead = torch.tensor([1 - step], dtype=torch.float64)
    deskew, _ = deskewing(sweep, pair.ego_motion, period, preparation.deskew)
    points = sweep.points if deskew is None else deskew(sweep.points)
    # The motion from the sweep's frame to the frame of the target, over 1 - step periods.
    placed = ego_motion(
        replace(sweep, points=points),
        target,
        preparation.ego_motion,
        part_of(pair.ego_motion, ahead)[0],
    ).matrix
    check_overlap(sweep, target, placed)
    if deskew is not None:
        # The motion over the way to the target, whatever its length, as a motion of one period. The
        # sensor moves evenly, so its motion E^-1 is divided, and not the motion E of the points.
        even = inverse(part_of(inverse(placed), 1 / ahead)[0])
        deskew, _ = deskewing(sweep, even, period, preparation.deskew)
    # Notes about the ground are of interest for the pair alone, so those of further sweeps are lost.
    prepared = prepare_sweep(sweep, pair.origin, deskew, preparation, [])
    return place(prepared.cloud, step, placed)


def place(cloud: Cloud, step: float, placed: Tensor) -> Neighbour:
    """Move the cloud of a sweep into the frame of a pair.

    Args:
        cloud: the cloud, in the frame of its sensor.
        step: time of the sweep after the source, in periods.
        placed: motion from the sweep's own frame into the frame of the pair, float64 ``(4, 4)``.
    """
    points = transform(placed, cloud.points.double()).float()
    # The sensor was at the origin of its own frame, which the motion takes to its translation.
    return Neighbour(points, step, cloud.times, placed[:3, 3].float(), cloud, placed)
