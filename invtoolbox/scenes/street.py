"""A street: ground, houses, trees and parked cars, and cars, people and cyclists that move; as ray-casters see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from invtoolbox.errors import InputError, unknown_name
from invtoolbox.kernels.raycast import KINDS, Primitives
from invtoolbox.scenes.rigid import rigid, rotation, rotation_vector
from invtoolbox.scenes.routes import Route

#: What points can be of, in the words of Argoverse 2.
CATEGORIES = ("BACKGROUND", "REGULAR_VEHICLE", "BOX_TRUCK", "PEDESTRIAN", "BICYCLIST")


@dataclass(frozen=True)
class Part:
    """A primitive of a thing, in the thing's frame: x forward, y left, z up from the ground, metres.

    Attributes:
        kind: "plane", "box", "cylinder" or "ellipsoid".
        half_size: half of its extents.
        middle: where its middle is.
        reflectivity: from 0 to 1.
    """

    kind: str
    half_size: tuple[float, float, float] = (1.0, 1.0, 1.0)
    middle: tuple[float, float, float] = (0.0, 0.0, 0.0)
    reflectivity: float = 0.3


@dataclass(frozen=True)
class Thing:
    """Something rigid in a street.

    Attributes:
        name: different from that of all others.
        parts: what it is made of.
        place: where it stands: x, y, z and heading; or the route that it moves on.
        category: one of `CATEGORIES`.
        size: length, width and height of its box; () for what has none.
        ground: whether it is the ground, or a pavement.

    >>> Thing("post", (Part("cylinder", (0.1, 0.1, 2.0), (0.0, 0.0, 2.0)),), (3.0, 4.0, 0.0, 0.0)).at(10.0)
    (3.0, 4.0, 0.0, 0.0)
    """

    name: str
    parts: tuple[Part, ...]
    place: tuple[float, float, float, float] | Route
    category: str = "BACKGROUND"
    size: tuple[float, ...] = ()
    ground: bool = False

    def __post_init__(self) -> None:
        if self.category not in CATEGORIES:
            raise unknown_name("category", self.category, CATEGORIES)
        for part in self.parts:
            if part.kind not in KINDS:
                raise unknown_name("kind of primitive", part.kind, KINDS)

    def at(self, time: float) -> tuple[float, float, float, float]:
        """x, y, z and heading at a time in seconds."""
        return self.place.at(time) if isinstance(self.place, Route) else self.place


@dataclass(frozen=True, eq=False)
class Street:
    """Things, and the route of the car that looks at them.

    The street is made level; `slope` tilts all of it, so that the world's z is not the normal of the ground.

    Attributes:
        things: what is there; n of them.
        ego: where the car with the sensor drives.
        slope: the rise of the ground along the world's x and y, metres a metre.

    >>> from invtoolbox.scenes.town import random_town
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
        """The level street's frame in the world, float64 ``(4, 4)``."""
        normal = torch.tensor([-self.slope[0], -self.slope[1], 1.0], dtype=torch.float64)
        # The shortest turn from z to the normal.
        axis = torch.tensor([-normal[1], normal[0], 0.0], dtype=torch.float64)
        length = axis.norm()
        turn = axis / length.clamp(min=1e-300) * torch.atan2(length, normal[2])
        return rigid(rotation(turn), torch.zeros(3, dtype=torch.float64))

    def ego_pose(self, time: float) -> Tensor:
        """The car's frame, on the ground below its middle, in the world, float64 ``(4, 4)``."""
        return self.frame @ _upright([self.ego.at(time)])[0]

    def poses(self, time: float) -> Tensor:
        """The frame of every thing in the world, float64 ``(n, 4, 4)``."""
        poses = self._start.clone()
        poses[self.moving] = self.frame @ _upright(
            [self.things[k].at(time) for k in self.moving.tolist()]
        )
        return poses

    @cached_property
    def moving(self) -> Tensor:
        """The things that have a route, int64."""
        return torch.tensor(
            [k for k, thing in enumerate(self.things) if isinstance(thing.place, Route)],
            dtype=torch.int64,
        )

    @cached_property
    def labelled(self) -> Tensor:
        """The things that have a box, int64: their number in this list is their instance."""
        return torch.tensor(
            [k for k, thing in enumerate(self.things) if thing.size], dtype=torch.int64
        )

    @cached_property
    def owner(self) -> Tensor:
        """The thing that each primitive belongs to, int64."""
        return torch.tensor(
            [k for k, thing in enumerate(self.things) for _ in thing.parts], dtype=torch.int64
        )

    @cached_property
    def reflectivity(self) -> Tensor:
        """Of each primitive, float32."""
        return torch.tensor([part.reflectivity for part in self._parts], dtype=torch.float32)

    def primitives(self, time: float, period: float) -> Primitives:
        """Everything from a time on for a period in seconds, over which it moves and turns evenly."""
        before, after = self.poses(time), self.poses(time + period)
        turn = torch.zeros(len(self.things), 3, dtype=torch.float64)
        # What stands has a pose that is the same to the last bit, and no turn from rounding.
        turn[self.moving] = rotation_vector(
            after[self.moving, :3, :3] @ before[self.moving, :3, :3].transpose(1, 2)
        )
        turn[turn.norm(dim=1) < 1e-12] = 0
        place = before[:, :3, 3]
        return Primitives(
            self._kind,
            self._half_size,
            before[self.owner] @ self._middle,
            (after[:, :3, 3] - place)[self.owner],
            turn[self.owner],
            place[self.owner],
        )

    @cached_property
    def _parts(self) -> tuple[Part, ...]:
        return tuple(part for thing in self.things for part in thing.parts)

    @cached_property
    def _kind(self) -> Tensor:
        return torch.tensor([KINDS.index(part.kind) for part in self._parts], dtype=torch.int64)

    @cached_property
    def _half_size(self) -> Tensor:
        return torch.tensor([part.half_size for part in self._parts], dtype=torch.float64)

    @cached_property
    def _middle(self) -> Tensor:
        middle = torch.tensor([part.middle for part in self._parts], dtype=torch.float64)
        return rigid(torch.eye(3, dtype=torch.float64).expand(len(middle), 3, 3), middle)

    @cached_property
    def _start(self) -> Tensor:
        return self.frame @ _upright([thing.at(0.0) for thing in self.things])


def _upright(places: Sequence[tuple[float, float, float, float]]) -> Tensor:
    """Frames that stand upright on level ground, from x, y, z and heading: ``(n, 4, 4)``."""
    table = torch.tensor(places, dtype=torch.float64).reshape(-1, 4)
    turn = torch.zeros(len(table), 3, dtype=torch.float64)
    turn[:, 2] = table[:, 3]
    return rigid(rotation(turn), table[:, :3])
