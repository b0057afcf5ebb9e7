"""Streets for simulation: routes of moving objects, and the objects as primitives of a ray caster.

`Track`, `Speed` and `Route` describe motion; `Part`, `Thing` and `Street` describe the ground,
houses, trees and parked cars, and the cars, people and cyclists that move.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from invtoolbox.errors import InputError, check_name
from invtoolbox.geometry.rigid import rigid, rotation, rotation_vector
from invtoolbox.kernels.rendering.raycast import KINDS, Primitives

#: Categories of points, in the words of Argoverse 2.
CATEGORIES = ("BACKGROUND", "REGULAR_VEHICLE", "BOX_TRUCK", "PEDESTRIAN", "BICYCLIST")


@dataclass(frozen=True)
class Part:
    """Primitive of a thing, in the thing's frame: x forward, y left, z up from the ground, metres.

    Attributes:
        kind: "plane", "box", "cylinder" or "ellipsoid".
        half_size: half of its extents.
        middle: position of its middle.
        reflectivity: reflectivity from 0 to 1.
    """

    kind: str
    half_size: tuple[float, float, float] = (1.0, 1.0, 1.0)
    middle: tuple[float, float, float] = (0.0, 0.0, 0.0)
    reflectivity: float = 0.3


@dataclass(frozen=True)
class Thing:
    """Rigid object in a street.

    Attributes:
        name: unique name.
        parts: primitives of the object.
        place: pose of a fixed object: x, y, z and heading; or the route of a moving one.
        category: one of `CATEGORIES`.
        size: length, width and height of its box; () if it has no box.
        ground: whether it is the ground, or a pavement.

    >>> pole = Part("cylinder", (0.1, 0.1, 2.0), (0.0, 0.0, 2.0))
    >>> Thing("post", (pole,), (3.0, 4.0, 0.0, 0.0)).at(10.0)
    (3.0, 4.0, 0.0, 0.0)
    """

    name: str
    parts: tuple[Part, ...]
    place: tuple[float, float, float, float] | Route
    category: str = "BACKGROUND"
    size: tuple[float, ...] = ()
    ground: bool = False

    def __post_init__(self) -> None:
        check_name("category", self.category, CATEGORIES)
        for primitive in self.parts:
            check_name("kind of primitive", primitive.kind, KINDS)

    def at(self, time: float) -> tuple[float, float, float, float]:
        """Return x, y, z and heading at a time in seconds."""
        return self.place.at(time) if isinstance(self.place, Route) else self.place


@dataclass(frozen=True, eq=False)
class Street:
    """Objects of a street, and the route of the car with the sensor.

    The street is built level; `slope` tilts all of it, so that the world's z is not the normal of
    the ground.

    Attributes:
        things: the n objects.
        ego: route of the car with the sensor.
        slope: rise of the ground along the world's x and y, metres per metre.

    >>> from invtoolbox.simulation.town import random_town
    >>> street = random_town(seed=1)
    >>> street.poses(0.5).shape[1:], len(street.primitives(0.0, 0.1)) > len(street.things)
    (torch.Size([4, 4]), True)
    """

    things: tuple[Thing, ...]
    ego: Route
    slope: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if len({thing.name for thing in self.things}) < len(self.things):
            raise InputError("two things of a street have one name; every thing needs its own")

    @cached_property
    def frame(self) -> Tensor:
        """Frame of the level street in the world, float64 ``(4, 4)``."""
        normal = torch.tensor([-self.slope[0], -self.slope[1], 1.0], dtype=torch.float64)
        # The axis of the shortest rotation from z to the normal.
        axis = torch.tensor([-normal[1], normal[0], 0.0], dtype=torch.float64)
        length = axis.norm()
        turn = axis / length.clamp(min=1e-300) * torch.atan2(length, normal[2])
        return rigid(rotation(turn), torch.zeros(3, dtype=torch.float64))

    def ego_pose(self, time: float) -> Tensor:
        """Return the frame of the car, on the ground below its middle, float64 ``(4, 4)``."""
        return self.frame @ _upright([self.ego.at(time)])[0]

    def poses(self, time: float) -> Tensor:
        """Return the frame of every object in the world, float64 ``(n, 4, 4)``."""
        poses = self._start.clone()
        poses[self.moving] = self.frame @ _upright(
            [self.things[k].at(time) for k in self.moving.tolist()]
        )
        return poses

    @cached_property
    def moving(self) -> Tensor:
        """Numbers of the objects with a route, int64."""
        return _integers(k for k, thing in enumerate(self.things) if isinstance(thing.place, Route))

    @cached_property
    def labelled(self) -> Tensor:
        """Numbers of the objects with a box, int64: their place in this list is their instance."""
        return _integers(k for k, thing in enumerate(self.things) if thing.size)

    @cached_property
    def owner(self) -> Tensor:
        """Number of the object that each primitive belongs to, int64."""
        return _integers(k for k, thing in enumerate(self.things) for _ in thing.parts)

    @cached_property
    def reflectivity(self) -> Tensor:
        """Reflectivity of each primitive, float32."""
        return torch.tensor([p.reflectivity for p in self._parts], dtype=torch.float32)

    def primitives(self, time: float, period: float) -> Primitives:
        """Return all primitives from a time on, with their uniform motion over a period."""
        before, after = self.poses(time), self.poses(time + period)
        turn = torch.zeros(len(self.things), 3, dtype=torch.float64)
        # An object at rest has exactly the same pose, and no rotation by rounding.
        turn[self.moving] = rotation_vector(
            after[self.moving, :3, :3] @ before[self.moving, :3, :3].transpose(1, 2)
        )
        turn[turn.norm(dim=1) < 1e-12] = 0
        place, (kind, half_size, middle) = before[:, :3, 3], self._shapes
        return Primitives(
            kind,
            half_size,
            before[self.owner] @ middle,
            (after[:, :3, 3] - place)[self.owner],
            turn[self.owner],
            place[self.owner],
        )

    @cached_property
    def _parts(self) -> tuple[Part, ...]:
        return tuple(primitive for thing in self.things for primitive in thing.parts)

    @cached_property
    def _shapes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Kind, half size and pose in its object's frame of each primitive."""
        half_size = torch.tensor([p.half_size for p in self._parts], dtype=torch.float64)
        middle = torch.tensor([p.middle for p in self._parts], dtype=torch.float64)
        upright = torch.eye(3, dtype=torch.float64).expand(len(middle), 3, 3)
        kind = _integers(KINDS.index(p.kind) for p in self._parts)
        return kind, half_size, rigid(upright, middle)

    @cached_property
    def _start(self) -> Tensor:
        return self.frame @ _upright([thing.at(0.0) for thing in self.things])


@dataclass(frozen=True)
class Track:
    """Square with round corners around the centre of a block, driven clockwise seen from above.

    Attributes:
        centre: centre of the block, metres (x, y).
        half: half of the square's side, so that ``x = centre + half`` is its east side.
        corner: radius of its corners, metres.
        backwards: whether the track is driven anticlockwise.

    >>> # The track starts in the middle of the north side, heading east.
    >>> x, y, heading = Track((0.0, 0.0), half=10.0, corner=4.0).at(0.0)
    >>> x, y, heading
    (0.0, 10.0, 0.0)
    """

    centre: tuple[float, float]
    half: float
    corner: float
    backwards: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.corner <= self.half:
            raise InputError(
                f"the corners of a track need a radius above 0 and at most {self.half} m, got "
                f"{self.corner}"
            )

    @property
    def length(self) -> float:
        """Length of one round, metres."""
        return 8 * (self.half - self.corner) + 2 * math.pi * self.corner

    def at(self, way: float) -> tuple[float, float, float]:
        """Return position and heading after a distance along the track.

        The result is x and y in metres, and radians anticlockwise from x.
        """
        quarter = self.length / 4
        side, along = divmod((-way if self.backwards else way) % self.length, quarter)
        straight, turn = self.half - self.corner, math.pi / 2 * self.corner
        # From the middle of the north side to the east, around the corner, to the middle of the
        # east side.
        if along <= straight:
            x, y, heading = along, self.half, 0.0
        elif along < straight + turn:
            heading = -(along - straight) / self.corner
            x = straight - self.corner * math.sin(heading)
            y = straight + self.corner * math.cos(heading)
        else:
            x, y, heading = self.half, straight - (along - straight - turn), -math.pi / 2
        for _ in range(int(side)):
            x, y, heading = y, -x, heading - math.pi / 2
        heading += math.pi if self.backwards else 0.0
        return self.centre[0] + x, self.centre[1] + y, heading


@dataclass(frozen=True)
class Speed:
    """Periodic speed, linear between knots, of cars that drive, brake, stop and start again.

    Attributes:
        times: times of the knots in seconds, increasing, the first one 0.
        speeds: speeds at the knots in m/s; the last knot is the first knot of the next round.

    >>> speed = Speed((0.0, 10.0, 12.0, 15.0, 20.0), (8.0, 8.0, 0.0, 0.0, 8.0))
    >>> speed.at(11.0), speed.way(12.0), speed.way(20.0)
    (4.0, 88.0, 108.0)
    """

    times: tuple[float, ...]
    speeds: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.times) != len(self.speeds) or len(self.times) < 2 or self.times[0] != 0:
            raise InputError(
                "a speed needs at least two knots, a speed for each time, and the first time 0"
            )
        if (
            any(b <= a for a, b in zip(self.times, self.times[1:]))
            or min(self.speeds) < 0
            or self.speeds[0] != self.speeds[-1]
        ):
            raise InputError(
                "a speed needs growing times, no speed below zero, and the first speed again at "
                "the end"
            )

    @classmethod
    def steady(cls, speed: float) -> Speed:
        """Return a constant speed."""
        return cls((0.0, 1.0), (speed, speed))

    def at(self, time: float) -> float:
        """Return the speed at a time, m/s."""
        _, k, share = self._knot(time)
        return self.speeds[k] + share * (self.speeds[k + 1] - self.speeds[k])

    def way(self, time: float) -> float:
        """Return the distance travelled since time 0, metres."""
        rounds, k, share = self._knot(time)
        gaps = [b - a for a, b in zip(self.times, self.times[1:])]
        ways = [
            0.0,
            *accumulate(gap * (a + b) / 2 for gap, a, b in zip(gaps, self.speeds, self.speeds[1:])),
        ]
        # Trapezoids: the speed is linear between the knots.
        speed = self.speeds[k] + share * (self.speeds[k + 1] - self.speeds[k])
        return rounds * ways[-1] + ways[k] + share * gaps[k] * (self.speeds[k] + speed) / 2

    def _knot(self, time: float) -> tuple[float, int, float]:
        rounds, left = divmod(time, self.times[-1])
        k = min(bisect_right(self.times, left) - 1, len(self.times) - 2)
        return rounds, k, (left - self.times[k]) / (self.times[k + 1] - self.times[k])


@dataclass(frozen=True)
class Route:
    """Motion on a track.

    Objects that share track, speed and clock keep their distances for ever, so they never collide.

    Attributes:
        track: track of the motion.
        speed: speed along the track.
        start: position on the track when the speed's time is 0, metres.
        height: height of the ground, metres.
        clock: the speed's time at time 0, seconds.
    """

    track: Track
    speed: Speed
    start: float = 0.0
    height: float = 0.0
    clock: float = 0.0

    def at(self, time: float) -> tuple[float, float, float, float]:
        """Return x, y, z of the ground in metres, and the heading in radians, at a time."""
        x, y, heading = self.track.at(self.start + self.speed.way(self.clock + time))
        return x, y, self.height, heading


def _integers(values: Iterable[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64)


def _upright(places: Sequence[tuple[float, float, float, float]]) -> Tensor:
    """Return upright frames on level ground, from x, y, z and heading: ``(n, 4, 4)``."""
    table = torch.tensor(places, dtype=torch.float64).reshape(-1, 4)
    turn = torch.zeros(len(table), 3, dtype=torch.float64)
    turn[:, 2] = table[:, 3]
    return rigid(rotation(turn), table[:, :3])
