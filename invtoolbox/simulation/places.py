"""Places unlike a town: a highway with guard rails, a garage, and a crossing full of people."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

from invtoolbox.simulation.town import (
    Builder,
    make_car,
    make_cyclist,
    make_pedestrian,
    make_truck,
    random_town,
)
from invtoolbox.simulation.world import Part, Route, Speed, Street, Track

#: Half of the side of the tracks of straight roads, metres: their north and east sides are straight
#: over some kilometres.
_FAR = 3000.0
#: Width of a lane of a highway, and length of the highway in front of the start, metres.
_LANE, _AHEAD, _BEHIND = 3.6, 900.0, 250.0
#: Half of the sides of a garage and of the loop of its lane, and height of its ceiling, metres.
_HALL, _LOOP, _CEILING = 24.0, 14.0, 2.6


def highway(seed: int = 0) -> Street:
    """Create a straight highway: three guard rails on posts, a noise barrier, traffic both ways.

    The car with the sensor drives at 22 to 32 m/s on the left one of two lanes.

    Args:
        seed: seed of all objects and speeds.

    >>> len([thing for thing in highway(1).things if thing.name.startswith("rail")])
    3
    """
    build = _with_road(seed)
    between = build.between

    def straight(
        left: float, backwards: bool, speed: Speed, x: float, height: float = 0.0
    ) -> Route:
        # The north side of a square whose middle is far to the south: y = left.
        track = Track((0.0, -_FAR), _FAR + left, 300.0, backwards)
        return Route(track, speed, -x if backwards else x, height)

    ego = straight(0.0, False, Speed.steady(between(22.0, 32.0)), 0.0)
    middle, length = (_AHEAD - _BEHIND) / 2, _AHEAD + _BEHIND
    median = between(2.4, 3.2)
    sides = (median, -_LANE - between(3.5, 5.0), 2 * median + 2 * _LANE + between(2.0, 3.5))
    posts = between(2.0, 4.0)
    for y in sides:
        rail = Part("box", (length / 2, 0.04, 0.16), (0.0, 0.0, between(0.55, 0.65)), 0.5)
        build.add("rail", (rail,), (middle, y, 0.0, 0.0))
        for k in range(int(length / posts)):
            post = Part("box", (0.05, 0.06, 0.35), (0.0, 0.0, 0.35), 0.4)
            build.add("post", (post,), (posts * k - _BEHIND, y - 0.12, 0.0, 0.0))
    # A noise barrier on one side, and a hedge in pieces on the other.
    height, away = between(2.0, 4.5), between(2.0, 4.0)
    barrier = Part("box", (length / 2, 0.1, height / 2), (0.0, 0.0, height / 2), 0.3)
    build.add("barrier", (barrier,), (middle, sides[1] - away, 0.0, 0.0))
    x = -_BEHIND
    while x < _AHEAD:
        size = between(8.0, 60.0)
        hedge = Part("box", (size / 2, 0.5, 0.8), (0.0, 0.0, 0.8), 0.35)
        build.add("hedge", (hedge,), (x + size / 2, sides[2] + away, 0.0, 0.0))
        x += size + between(1.0, 15.0)
    lanes = (
        (0.0, False, 0.0),
        (-_LANE, False, -4.0),
        (2 * median, True, 0.0),
        (2 * median + _LANE, True, -4.0),
    )
    for left, backwards, slower in lanes:
        # A lane has one speed, so no car meets another.
        speed = ego.speed if left == 0 else Speed.steady(between(23.0, 32.0) + slower)
        x = between(18.0, 45.0) if left == 0 else -_BEHIND - between(0.0, 30.0)
        while x < 2 * _AHEAD:
            slow = slower < 0 and build.random.random() < 0.4
            parts, extent, category = make_truck(build) if slow else make_car(build)
            build.add("car", parts, straight(left, backwards, speed, x), category, extent)
            x += between(18.0, 55.0)
    return Street(tuple(build.things), ego, slope=(0.01, -0.005))


def garage(seed: int = 0) -> Street:
    """Create a storey of a garage: ceiling, walls, pillars, rows of parked cars, people on foot.

    The car with the sensor and a few others drive slowly around its middle.

    Args:
        seed: seed of all objects and speeds.
    """
    build = _with_road(seed)
    between = build.between
    ceiling = Part("box", (_HALL, _HALL, 0.15), (0.0, 0.0, _CEILING + 0.15), 0.4)
    build.add("ceiling", (ceiling,), (0.0, 0.0, 0.0, 0.0))
    for side in range(4):
        heading = -side * math.pi / 2

        def place(
            along: float, out: float, heading: float = heading
        ) -> tuple[float, float, float, float]:
            c, s = math.cos(heading), math.sin(heading)
            return c * along - s * out, s * along + c * out, 0.0, heading

        wall = Part("box", (_HALL, 0.15, _CEILING / 2), (0.0, 0.0, _CEILING / 2), 0.5)
        build.add("wall", (wall,), place(0.0, _HALL))
        # Cars stand across the lane, on either side of it, two per pair of pillars.
        for out, reach in ((_LOOP + 6.6, _HALL - 7.0), (_LOOP - 6.6, _LOOP - 10.0)):
            for k in range(-int(reach / 2.6), int(reach / 2.6) + 1):
                x, y, z, turn = place(2.6 * k, out)
                if k % 3 == 0:
                    pillar = Part("box", (0.25, 0.25, _CEILING / 2), (0.0, 0.0, _CEILING / 2), 0.5)
                    build.add("pillar", (pillar,), (x, y, z, turn))
                elif build.random.random() < 0.75:
                    parts, extent, category = make_car(build)
                    turn += math.pi / 2
                    build.add("parked", parts, (x, y, z, turn), category, extent)
    lane = Track((0.0, 0.0), _LOOP, 5.0)
    speed = Speed.steady(between(2.0, 3.5))
    ego, cars = Route(lane, speed, between(0.0, lane.length)), 5
    for k in range(1, cars):
        parts, extent, category = make_car(build)
        start = ego.start + k * lane.length / cars + between(-3.0, 3.0)
        build.add("car", parts, Route(lane, speed, start), category, extent)
    for out, backwards in ((-2.4, False), (2.4, True)):
        _walkers(build, Track((0.0, 0.0), _LOOP + out, 3.5, backwards), 0.0, 5.0 * _LOOP, 12.0)
    return Street(tuple(build.things), ego, slope=(0.0, 0.0))


def crossing(seed: int = 0) -> Street:
    """Create a zebra crossing: the car with the sensor waits while about 30 people cross.

    Some more people walk between parked cars and walls, and cyclists and cars pass behind.

    Args:
        seed: seed of all objects and speeds.
    """
    build = _with_road(seed)
    between = build.between
    ego = Route(Track((0.0, -_FAR), _FAR, 300.0), Speed.steady(0.0))
    first = between(6.0, 9.0)
    for k in range(8):
        # The east side of a square whose middle is far to the west: x = first + 0.6 k. People of one
        # row have one speed, and rows go either way.
        track = Track((first + 0.6 * k - _FAR, 0.0), _FAR, 300.0, build.random.random() < 0.5)
        middle = (-1 if track.backwards else 1) * track.length / 4
        _walkers(build, track, middle - between(16.0, 18.0), 34.0, 3.4)
    for side in (1.0, -1.0):
        x = -40.0
        while x < 60.0:
            length, height = between(7.0, 15.0), between(5.0, 14.0)
            house = Part("box", (length / 2, 4.0, height / 2), (0.0, 0.0, height / 2), 0.4)
            build.add("house", (house,), (x + length / 2, side * 13.6, 0.0, 0.0))
            x += length + build.random.choice((0.0, 0.0, 2.5))
        for slot in range(-5, 8):
            x = 6.2 * slot + between(-0.4, 0.4)
            if abs(x - first - 2.0) > 7.0 and build.random.random() < 0.7:
                parts, extent, category = make_car(build)
                build.add("parked", parts, (x, side * 6.6, 0.0, 0.0), category, extent)
        # The pavement between parked cars and walls, 1.9 m wide.
        for inset, backwards in ((8.2, False), (8.9, True)):
            track = Track((0.0, -_FAR), _FAR + side * inset, 300.0, backwards)
            _walkers(build, track, -30.0, 80.0, 9.0)
    for left, low, high, make in ((-3.2, 5.0, 8.0, make_car), (4.6, 3.5, 5.5, make_cyclist)):
        # They have passed the crossing, and drive away.
        track, speed = Track((0.0, -_FAR), _FAR + left, 300.0), Speed.steady(between(low, high))
        for k in range(3):
            parts, extent, category = make(build)
            start = first + 8.0 + 14.0 * k + between(0.0, 3.0)
            build.add("passing", parts, Route(track, speed, start), category, extent)
    return Street(tuple(build.things), ego, slope=(0.01, -0.005))


#: Places by their names, functions of a seed.
PLACES: dict[str, Callable[[int], Street]] = {
    "town": random_town,
    "highway": highway,
    "garage": garage,
    "crossing": crossing,
}


def _with_road(seed: int) -> Builder:
    build = Builder(Random(seed))
    build.add("road", (Part("plane", reflectivity=0.12),), (0.0, 0.0, 0.0, 0.0), ground=True)
    return build


def _walkers(build: Builder, track: Track, first: float, length: float, gap: float) -> None:
    """Add people along a piece of a track, about one per gap, who share a speed."""
    speed, way = Speed.steady(build.between(0.9, 1.7)), first
    while way < first + length:
        parts, extent, category = make_pedestrian(build)
        build.add("person", parts, Route(track, speed, way), category, extent)
        way += gap * build.between(0.5, 1.5)
