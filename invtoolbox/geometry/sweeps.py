"""A lidar sweep: points, what is known of each, and where the sensor stood; and a sequence of them.

Flow labels from labelled boxes: what lies in a box moves as the box does, all else stands still in the world.

A field of flow: how far matter goes from one sweep to the next, anywhere and at any time.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from invtoolbox.core.settings import Settings
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import inverse, relative_motion, transform

#: What goes at least so far in the world from a sweep to the next moves, metres: 0.5 m/s at ten sweeps a second, as Argoverse 2 has it.
MOVES = 0.05


@dataclass(frozen=True, eq=False)
class Boxes:
    """Labelled boxes in the frame of a sweep, n of them.

    Attributes:
        pose: the frame of each box in that of the sweep, ``(n, 4, 4)`` float64; its x is the box's length.
        size: length, width, height in metres, ``(n, 3)``.
        track: the object that each one shows, the same word in every sweep.
        category: what it is, in the words of the data set.
    """

    pose: Tensor
    size: Tensor
    track: tuple[str, ...]
    category: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.track)


@dataclass(frozen=True, eq=False)
class FlowLabels:
    """What is known to be true of the motion of each point of a sweep, N of them.

    Attributes:
        flow: where the point's matter is at the next sweep, in that one's frame, less where it is now: metres, ``(N, 3)``;
            the sensor's own motion is included.
        valid: ``(N,)`` false where the flow is not known; such points do not count.
        dynamic: ``(N,)`` the point moves in the world.
        category: ``(N,)`` whole numbers, indices into `categories`; -1 where it is not known.
        categories: the words of the data set.
        ground: ``(N,)`` the point lies on the ground, or None.
        instance: ``(N,)`` whole numbers, the same for the points of one object and in every sweep; -1 for none; or None.
    """

    flow: Tensor
    valid: Tensor
    dynamic: Tensor
    category: Tensor
    categories: tuple[str, ...]
    ground: Tensor | None = None
    instance: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Sweep:
    """One turn of a lidar.

    Rows are those of the file, in its order, whatever they hold: a sensor writes NaN or zeros where nothing came back.

    Attributes:
        points: metres, float32 ``(N, 3)``, x forward, y left, z up, in the sensor's frame at `timestamp` (where the data set
            has removed the sensor's motion within the sweep, or has not: `deskewed` says which).
        timestamp: seconds, of which only differences count.
        time: when each point was measured, seconds from `timestamp`, float32 ``(N,)``; or None.
        intensity: float32 ``(N,)``, in the sensor's unit; or None.
        ring: the laser of each point, int64 ``(N,)``; or None.
        pose: the sensor's frame in the world at `timestamp`, float64 ``(4, 4)``; or None.
        deskewed: whether points stand as if all were measured at `timestamp`; None where it is not known.
        boxes, labels: what the data set says is there, and how it moves.
        source: the file, for messages.
        meta: plain facts.

    >>> import torch
    >>> Sweep(torch.zeros(2, 3), source="nowhere")
    Sweep: 2 points of nowhere
    """

    points: Tensor
    timestamp: float = 0.0
    time: Tensor | None = None
    intensity: Tensor | None = None
    ring: Tensor | None = None
    pose: Tensor | None = None
    deskewed: bool | None = None
    boxes: Boxes | None = None
    labels: FlowLabels | None = None
    source: str = "a sweep"
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.points.shape[1] != 3:
            raise InputError(
                f"{self.source}: points have the shape {tuple(self.points.shape)}; expected (N, 3), x, y and z of each"
            )
        for name in ("time", "intensity", "ring"):
            value = getattr(self, name)
            if value is not None and value.shape != self.points.shape[:1]:
                raise InputError(
                    f"{self.source}: {name} has the shape {tuple(value.shape)} for {len(self.points)} points"
                )

    @property
    def finite(self) -> Tensor:
        """Which points are measurements at all: finite, and not at the sensor's own origin, ``(N,)``."""
        return self.points.isfinite().all(1) & (self.points != 0).any(1)

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        return f"Sweep: {len(self)} points of {self.source}"


class Sweeps(Protocol):
    """Sweeps in the order of time: anything with a length whose items are sweeps, read when they are asked for.

    `names` holds a word for each sweep, all different, which results are named by. The sweep k + 1 follows the sweep k.
    """

    names: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sweep: ...


def pairs(sweeps: Sweeps) -> Iterator[tuple[int, Sweep, Sweep]]:
    """Every sweep with its successor; each is read once."""
    before = sweeps[0] if len(sweeps) else None
    for k in range(1, len(sweeps)):
        after = sweeps[k]
        assert before is not None
        yield k - 1, before, after
        before = after


# The expansion by speed: a box that moves by less within the pair stays as it is, and grows by half of its way, 2 m at most.
_STANDS, _LONGEST = 0.04, 2.0


def flow_from_boxes(
    sweep: Sweep,
    next_sweep: Sweep,
    expansion: float | Literal["speed"] = 0.2,
    categories: Sequence[str] | None = None,
) -> FlowLabels:
    """The flow labels of a sweep from the boxes of it and of the next one.

    A point p in a box that stands at B0 in this sweep and at B1 in the next moves by ``B1 B0^-1 p - p``; one in no box by
    ``E p - p`` with the sensor's motion E. A point in a box whose object the next sweep does not show is not valid.

    Args:
        sweep, next_sweep: with poses and boxes.
        expansion: metres by which boxes grow in length and width (half of it at either end), because labels are tight; 0.2 is
            Argoverse's. "speed": boxes whose centre moves by d > 0.04 m in the world grow by 0.2 + min(d / 2, 2) in length and
            0.2 in width and height, others not at all: points of fast objects are smeared along their way, because a
            sweep takes its time (Zhang et al. 2025, "HiMo"; proposed for Argoverse's labels in argoverse/av2-api #306).
        categories: the words that categories are numbered by; by default "NONE" and those of the boxes, sorted. What lies in no box
            is of category "NONE", or -1 where that is not among the words.

    Raises:
        InputError: where a sweep has no pose or no boxes.

    >>> still = torch.eye(4, dtype=torch.float64)
    >>> forward = torch.eye(4, dtype=torch.float64)
    >>> forward[0, 3] = 1
    >>> points = torch.tensor([[1.0, 0, 0], [9.0, 0, 0]])
    >>> boxes = [Boxes(place[None], torch.tensor([[4.0, 2, 2]]), ("1",), ("CAR",)) for place in (still, forward)]
    >>> a, b = (Sweep(points, pose=still, boxes=one) for one in boxes)
    >>> flow_from_boxes(a, b).flow
    tensor([[1., 0., 0.],
            [0., 0., 0.]])
    """
    for one in (sweep, next_sweep):
        if one.pose is None or one.boxes is None:
            raise InputError(
                f"{one.source}: flow from boxes needs the {'pose' if one.pose is None else 'boxes'} of both sweeps, and this "
                "one has none"
            )
    assert (
        sweep.pose is not None
        and next_sweep.pose is not None
        and sweep.boxes is not None
        and next_sweep.boxes is not None
    )
    boxes, points = sweep.boxes, sweep.points.double()
    categories = (
        tuple(categories) if categories is not None else ("NONE", *sorted(set(boxes.category)))
    )
    ego_motion = relative_motion(sweep.pose, next_sweep.pose)
    later = {track: pose for track, pose in zip(next_sweep.boxes.track, next_sweep.boxes.pose)}
    grown = boxes.size.double() + _growth(boxes, later, ego_motion, expansion)
    owner = box_of_points(points, boxes, grown)
    rigid = transform(ego_motion, points) - points
    flow, valid = rigid.clone(), sweep.finite.clone()
    category = torch.full(
        (len(points),), categories.index("NONE") if "NONE" in categories else -1, dtype=torch.int64
    )
    instance = torch.full((len(points),), -1, dtype=torch.int64)
    for k in owner.unique().tolist():
        if k < 0:
            continue
        inside = owner == k
        category[inside] = (
            categories.index(boxes.category[k]) if boxes.category[k] in categories else -1
        )
        instance[inside] = number_of_track(boxes.track[k])
        if boxes.track[k] in later:
            moved = later[boxes.track[k]] @ inverse(boxes.pose[k])
            flow[inside] = transform(moved, points[inside]) - points[inside]
        else:
            valid &= ~inside
    dynamic = (flow - rigid).norm(dim=1) >= MOVES
    return FlowLabels(flow.float(), valid, dynamic, category, categories, instance=instance)


def box_of_points(points: Tensor, boxes: Boxes, size: Tensor | None = None) -> Tensor:
    """The box that each point lies in, the last one where boxes overlap, -1 for none: ``(N, 3) -> (N,)`` int64.

    Args:
        size: length, width and height of each box where they are others than the boxes' own, ``(n, 3)``.
    """
    size = boxes.size if size is None else size
    owner = torch.full((len(points),), -1, dtype=torch.int64, device=points.device)
    for k in range(len(boxes)):
        # Only what lies within the circle around the box is moved into its frame.
        near = (
            (points - boxes.pose[k, :3, 3].to(points)).norm(dim=1) <= float(size[k].norm()) / 2
        ).nonzero()[:, 0]
        inside = (
            transform(inverse(boxes.pose[k]), points[near]).abs() <= size[k].to(points) / 2
        ).all(1)
        owner[near[inside]] = k
    return owner


def number_of_track(track: str) -> int:
    """A whole number for an object's word, the same in every sweep and run: 63 bits of its hash."""
    return int.from_bytes(hashlib.blake2b(track.encode(), digest_size=8).digest(), "big") >> 1


def _growth(
    boxes: Boxes, later: dict[str, Tensor], ego_motion: Tensor, expansion: float | Literal["speed"]
) -> Tensor:
    """Metres by which each box grows in length, width and height, (n, 3)."""
    grown = torch.zeros(len(boxes), 3, dtype=torch.float64)
    if not isinstance(expansion, str):
        if not expansion >= 0:
            raise InputError(f"expansion must be metres, zero or more, or 'speed', got {expansion}")
        grown[:, :2] = expansion
        return grown
    if expansion != "speed":
        raise InputError(f"expansion must be metres, zero or more, or 'speed', got {expansion!r}")
    for k, track in enumerate(boxes.track):
        if track in later:
            way = float(
                (
                    transform(inverse(ego_motion), later[track][None, :3, 3])[0]
                    - boxes.pose[k, :3, 3]
                ).norm()
            )
            if way > _STANDS:
                grown[k] = torch.tensor([0.2 + min(way / 2, _LONGEST), 0.2, 0.2])
    return grown


class FlowField(Settings, ABC):
    """Displacements from sweep to sweep as a function of place, time and the direction of time."""

    @abstractmethod
    def displacement(self, points: Tensor, time: Tensor, direction: Tensor) -> Tensor:
        """How far matter at ``points`` goes until the next sweep, or since the one before: metres, ``(batch, n, 3)``.

        Args:
            points: ``(batch, n, 3)``, metres, in a frame that stands still.
            time: ``(n,)``, in sweeps.
            direction: ``(n,)``, 1 forward and -1 backward in time.
        """

    def flow(self, points: Tensor, time: float) -> Tensor:
        """The displacement forward in time from one time: ``(batch, n, 3)``."""
        ones = torch.ones(points.shape[1], dtype=points.dtype, device=points.device)
        return self.displacement(points, time * ones, ones)
