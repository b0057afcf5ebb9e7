"""How things move in a street: a closed track around a block, and the speed along it over time."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

from invtoolbox.errors import InputError


@dataclass(frozen=True)
class Track:
    """A square with round corners around the centre of a block, run through clockwise seen from above.

    Attributes:
        centre: of the block, metres (x, y).
        half: half of the square's side, so that ``x = centre + half`` is its east side.
        corner: the radius of its corners.
        backwards: run through anticlockwise.

    >>> x, y, heading = Track((0.0, 0.0), half=10.0, corner=4.0).at(0.0)      # in the middle of the north side, heading east
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
                f"the corners of a track need a radius above 0 and at most {self.half} m, got {self.corner}"
            )

    @property
    def length(self) -> float:
        return 8 * (self.half - self.corner) + 2 * math.pi * self.corner

    def at(self, way: float) -> tuple[float, float, float]:
        """Where one is after a way, and the heading there: x, y in metres and radians anticlockwise from x."""
        quarter = self.length / 4
        side, along = divmod((-way if self.backwards else way) % self.length, quarter)
        straight, turn = self.half - self.corner, math.pi / 2 * self.corner
        # On the north side from its middle to the east, around the corner, and down to the middle of the east side.
        if along <= straight:
            x, y, heading = along, self.half, 0.0
        elif along < straight + turn:
            heading = -(along - straight) / self.corner
            x, y = (
                straight - self.corner * math.sin(heading),
                straight + self.corner * math.cos(heading),
            )
        else:
            x, y, heading = self.half, straight - (along - straight - turn), -math.pi / 2
        for _ in range(int(side)):
            x, y, heading = y, -x, heading - math.pi / 2
        return (
            self.centre[0] + x,
            self.centre[1] + y,
            heading + (math.pi if self.backwards else 0.0),
        )


@dataclass(frozen=True)
class Speed:
    """A speed over time, linear between knots, that repeats itself: cars that go, brake, stand and start again.

    Attributes:
        times: of the knots in seconds, growing, the first one 0.
        speeds: in m/s at the knots; the last knot is the first one of the next round.

    >>> speed = Speed((0.0, 10.0, 12.0, 15.0, 20.0), (8.0, 8.0, 0.0, 0.0, 8.0))
    >>> speed.at(11.0), speed.way(12.0), speed.way(20.0)
    (4.0, 88.0, 108.0)
    """

    times: tuple[float, ...]
    speeds: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.times) != len(self.speeds) or len(self.times) < 2 or self.times[0] != 0:
            raise InputError(
                "a speed needs two knots at least, a speed for each time, and the first time 0"
            )
        if (
            any(b <= a for a, b in zip(self.times, self.times[1:]))
            or min(self.speeds) < 0
            or self.speeds[0] != self.speeds[-1]
        ):
            raise InputError(
                "a speed needs growing times, no speed below zero, and the first speed again at the end"
            )

    @classmethod
    def steady(cls, speed: float) -> Speed:
        """The same speed for ever."""
        return cls((0.0, 1.0), (speed, speed))

    def at(self, time: float) -> float:
        """The speed at a time, m/s."""
        _, k, share = self._knot(time)
        return self.speeds[k] + share * (self.speeds[k + 1] - self.speeds[k])

    def way(self, time: float) -> float:
        """The way from time 0 on, metres."""
        rounds, k, share = self._knot(time)
        gaps = [b - a for a, b in zip(self.times, self.times[1:])]
        ways = [
            0.0,
            *accumulate(gap * (a + b) / 2 for gap, a, b in zip(gaps, self.speeds, self.speeds[1:])),
        ]
        now = self.speeds[k] + share * (self.speeds[k + 1] - self.speeds[k])
        return rounds * ways[-1] + ways[k] + share * gaps[k] * (self.speeds[k] + now) / 2

    def _knot(self, time: float) -> tuple[float, int, float]:
        rounds, left = divmod(time, self.times[-1])
        k = min(bisect_right(self.times, left) - 1, len(self.times) - 2)
        return rounds, k, (left - self.times[k]) / (self.times[k + 1] - self.times[k])


@dataclass(frozen=True)
class Route:
    """A track, and how one moves on it. All who share track, speed and clock keep their distances for ever: nobody runs into anybody.

    Attributes:
        track, speed: where, and how fast.
        start: the way from the track's beginning when the speed's time is 0, metres.
        height: of the ground, metres.
        clock: the speed's time at time 0, seconds.
    """

    track: Track
    speed: Speed
    start: float = 0.0
    height: float = 0.0
    clock: float = 0.0

    def at(self, time: float) -> tuple[float, float, float, float]:
        """x, y and z of the ground in metres, and the heading in radians, at a time in seconds."""
        x, y, heading = self.track.at(self.start + self.speed.way(self.clock + time))
        return x, y, self.height, heading
