"""Random towns: blocks of houses between streets, with endless traffic without accidents.

All traffic drives on the right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.simulation.world import Part, Route, Speed, Street, Thing, Track

#: Lengths in metres. A block is a square of pavement and houses; from its kerb outwards come parked
#: cars, cyclists and a lane, then those of the opposite block. All traffic turns right around its
#: own block, so no two routes cross.
BLOCK, KERB, PARKING, CYCLES, LANE, CORNER = 60.0, 0.15, 1.1, 3.0, 5.4, 4.0
ROAD = 14.0

#: Function of metres along the side of a block, metres inwards from the kerb, and a height, that
#: returns x, y, z and heading.
Placing = Callable[..., tuple[float, float, float, float]]
Body = tuple[tuple[Part, ...], tuple[float, float, float], str]


@dataclass
class Builder:
    """Objects of a street under construction, with the draws that shape them."""

    random: Random
    things: list[Thing] = field(default_factory=list)

    def add(
        self,
        kind: str,
        parts: tuple[Part, ...],
        place: tuple[float, float, float, float] | Route,
        category: str = "BACKGROUND",
        size: tuple[float, ...] = (),
        ground: bool = False,
    ) -> None:
        """Add an object; its number makes its name unique."""
        self.things.append(
            Thing(f"{kind}-{len(self.things)}", parts, place, category, size, ground)
        )

    def between(self, low: float, high: float) -> float:
        """Draw a number."""
        return self.random.uniform(low, high)


def random_town(
    seed: int = 0,
    blocks: int = 3,
    traffic: float = 1.0,
) -> Street:
    """Create a town of ``blocks`` by ``blocks`` blocks.

    The car with the sensor drives around the middle block and is about to turn right at time 0. The
    ground rises by 1 % along x and falls by 0.5 % along y. The same seed gives the same town.
    Traffic continues for ever: all vehicles drive round after round, brake, stop and start again.

    Args:
        seed: seed of the town.
        blocks: number of blocks per side, odd, so that there is a middle block. Three blocks reach
            beyond 100 m of the sensor.
        traffic: number of cars, cyclists and people relative to a normal day; 0 leaves only fixed
            objects.

    >>> sorted({thing.category for thing in random_town(seed=3).things})
    ['BACKGROUND', 'BICYCLIST', 'BOX_TRUCK', 'PEDESTRIAN', 'REGULAR_VEHICLE']
    """
    if blocks < 1 or blocks % 2 == 0:
        raise InputError(f"a town needs an odd number of blocks per side, got {blocks}")
    check_range("random_town", "[0, inf)", traffic=traffic)
    build = Builder(Random(seed))
    build.add("road", (Part("plane", reflectivity=0.12),), (0.0, 0.0, 0.0, 0.0), ground=True)
    lane = _speed(build.random, 5.5, 8.0)
    track = Track((0.0, 0.0), BLOCK / 2 + LANE, CORNER + LANE)
    ego = Route(track, lane, BLOCK / 2 - CORNER - build.between(0.0, 6.0))
    span = range(-(blocks // 2), blocks // 2 + 1)
    # The middle block comes first: its objects do not depend on the size of the town.
    for i, j in sorted(
        ((i, j) for i in span for j in span), key=lambda ij: (max(abs(ij[0]), abs(ij[1])), ij)
    ):
        centre = (i * (BLOCK + ROAD), j * (BLOCK + ROAD))
        _block(build, centre)
        _traffic(build, centre, traffic, ego if (i, j) == (0, 0) else None)
    return Street(tuple(build.things), ego, slope=(0.01, -0.005))


def _block(build: Builder, centre: tuple[float, float]) -> None:
    half = BLOCK / 2
    build.add(
        "pavement",
        (Part("box", (half, half, 0.5), (0.0, 0.0, KERB - 0.5), 0.25),),
        (*centre, 0.0, 0.0),
        ground=True,
    )
    for side in range(4):
        angle = -side * math.pi / 2

        def place(
            along: float, inset: float, height: float = KERB, angle: float = angle
        ) -> tuple[float, float, float, float]:
            # On the north side, x runs eastwards along it, and the inset is the distance from the
            # kerb.
            x, y = along, half - inset
            c, s = math.cos(angle), math.sin(angle)
            return centre[0] + c * x - s * y, centre[1] + s * x + c * y, height, angle

        _houses(build, place)
        _trees_and_posts(build, place)
        for slot in range(-3, 4):
            if build.random.random() < 0.6:
                parts, size, category = make_car(build)
                build.add(
                    "parked",
                    parts,
                    place(6.2 * slot + build.between(-0.4, 0.4), -PARKING, 0.0),
                    category,
                    size,
                )


def _houses(build: Builder, place: Placing) -> None:
    along = -BLOCK / 2 + 5.0
    while along < BLOCK / 2 - 8.0:
        length = min(build.between(7.0, 15.0), BLOCK / 2 - 5.0 - along)
        height, depth, inset = (
            build.between(5.0, 16.0),
            build.between(7.0, 11.0),
            build.between(4.5, 6.5),
        )
        box = Part(
            "box",
            (length / 2, depth / 2, height / 2),
            (0.0, 0.0, height / 2),
            build.between(0.2, 0.7),
        )
        build.add("house", (box,), place(along + length / 2, inset + depth / 2))
        if build.random.random() < 0.4:
            hedge = Part("box", (length / 2 - 0.5, 0.3, 0.5), (0.0, 0.0, 0.5), 0.35)
            build.add("hedge", (hedge,), place(along + length / 2, 3.8))
        along += length + build.random.choice((0.0, 0.0, 2.5, 4.0))


def _trees_and_posts(build: Builder, place: Placing) -> None:
    along = -BLOCK / 2 + build.between(6.0, 10.0)
    while along < BLOCK / 2 - 5.0:
        radius, top = build.between(1.3, 2.1), build.between(4.6, 6.0)
        trunk = Part(
            "cylinder", (build.between(0.12, 0.25),) * 2 + (top / 2,), (0.0, 0.0, top / 2), 0.3
        )
        crown = Part("ellipsoid", (radius, radius, build.between(1.2, 1.7)), (0.0, 0.0, top), 0.45)
        build.add("tree", (trunk, crown), place(along, 0.7))
        along += build.between(9.0, 14.0)
        if build.random.random() < 0.4:
            build.add(
                "lamp",
                (Part("cylinder", (0.08, 0.08, 3.5), (0.0, 0.0, 3.5), 0.5),),
                place(along - 4.0, 0.4),
            )
    post = Part("cylinder", (0.04, 0.04, 1.3), (0.0, 0.0, 1.3), 0.6)
    plate = Part("box", (0.35, 0.02, 0.35), (0.0, 0.0, 2.4), 0.95)
    build.add("sign", (post, plate), place(-BLOCK / 2 + 4.5, 0.5))


def _traffic(
    build: Builder, centre: tuple[float, float], traffic: float, ego: Route | None
) -> None:
    def count(usual: float) -> int:
        return int(traffic * usual + build.random.random())

    half = BLOCK / 2

    def move(track: Track, low: float, high: float) -> tuple[Speed, float, float]:
        """Draw a speed, a start and a clock that all objects on a track share."""
        speed = _speed(build.random, low, high)
        return speed, build.between(0.0, track.length), build.between(0.0, speed.times[-1])

    lane = Track(centre, half + LANE, CORNER + LANE)
    speed, first, clock = (ego.speed, ego.start, ego.clock) if ego else move(lane, 5.0, 9.0)
    number = min(count(6.5), 12)
    for k in range(1 if ego else 0, number):
        parts, size, category = (
            make_truck(build) if build.random.random() < 0.15 else make_car(build)
        )
        gap = lane.length / number
        start = first + k * gap + build.between(-0.3, 0.3) * (gap - 12.0)
        build.add("car", parts, Route(lane, speed, start, 0.0, clock), category, size)
    cycles = Track(centre, half + CYCLES, CORNER + CYCLES)
    speed, first, clock = move(cycles, 3.5, 6.0)
    for k in range(number := min(count(3.5), 40)):
        parts, size, category = make_cyclist(build)
        build.add(
            "cyclist",
            parts,
            Route(cycles, speed, first + k * cycles.length / number, 0.0, clock),
            category,
            size,
        )
    for inset, backwards in ((1.5, False), (2.5, True)):
        pavement = Track(centre, half - inset, CORNER - inset, backwards)
        speed, first, clock = move(pavement, 0.9, 1.7)
        for k in range(number := min(count(6.0), 100)):
            parts, size, category = make_pedestrian(build)
            gap = pavement.length / number
            start = first + (k + build.between(0.0, 0.6)) * gap
            build.add("person", parts, Route(pavement, speed, start, KERB, clock), category, size)


def _speed(random: Random, low: float, high: float) -> Speed:
    """Draw a round of 15 to 30 seconds: drive, brake, stop, start."""
    cruise = random.uniform(low, high)
    times = [0.0]
    for shortest, longest in ((7.0, 14.0), (2.0, 3.5), (1.0, 5.0), (2.5, 4.0), (2.0, 4.0)):
        times.append(times[-1] + random.uniform(shortest, longest))
    return Speed(tuple(times), (cruise, cruise, 0.0, 0.0, cruise, cruise))


def make_car(build: Builder) -> Body:
    """Return a random car."""
    length, width, height = (
        build.between(3.8, 4.9),
        build.between(1.7, 1.95),
        build.between(1.4, 1.75),
    )
    shade, waist = build.between(0.15, 0.8), 0.58 * height
    low = Part(
        "box", (length / 2, width / 2, (waist - 0.2) / 2), (0.0, 0.0, (waist + 0.2) / 2), shade
    )
    cabin = Part(
        "box",
        (0.27 * length, 0.44 * width, (height - waist) / 2),
        (-0.05 * length, 0.0, (height + waist) / 2),
        0.6 * shade,
    )
    return (low, cabin), (length, width, height), "REGULAR_VEHICLE"


def make_truck(build: Builder) -> Body:
    """Return a random lorry."""
    length, width, height = build.between(6.0, 8.0), 2.3, build.between(2.7, 3.3)
    load = Part(
        "box",
        (0.37 * length, width / 2, (height - 0.5) / 2),
        (-0.13 * length, 0.0, (height + 0.5) / 2),
        build.between(0.4, 0.9),
    )
    cab = Part(
        "box",
        (0.12 * length, 0.47 * width, 0.95),
        (0.38 * length, 0.0, 1.3),
        build.between(0.2, 0.6),
    )
    return (load, cab), (length, width, height), "BOX_TRUCK"


def make_cyclist(build: Builder) -> Body:
    """Return a random cyclist."""
    height = build.between(1.6, 1.85)
    cycle = Part("box", (0.85, 0.06, 0.4), (0.0, 0.0, 0.45), 0.3)
    rider = Part(
        "ellipsoid",
        (0.32, 0.24, height / 2 - 0.35),
        (-0.1, 0.0, height / 2 + 0.35),
        build.between(0.2, 0.7),
    )
    return (cycle, rider), (1.7, 0.5, height), "BICYCLIST"


def make_pedestrian(build: Builder) -> Body:
    """Return a random person on foot."""
    height, radius = build.between(1.5, 1.9), build.between(0.2, 0.28)
    body = Part(
        "cylinder",
        (radius, 1.2 * radius, 0.42 * height),
        (0.0, 0.0, 0.42 * height),
        build.between(0.1, 0.7),
    )
    head = Part("ellipsoid", (0.11, 0.1, 0.08 * height), (0.0, 0.0, 0.92 * height), 0.4)
    return (body, head), (2 * radius, 2.4 * radius, height), "PEDESTRIAN"
