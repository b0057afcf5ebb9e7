"""Lidar sweeps, flow labels from labelled boxes, and flow fields.

`Sweep` holds the points of one turn and the pose of the sensor, and `Sweeps` is a sequence of them.
`flow_from_boxes` derives flow labels: points in a box move with the box, all others are at rest in
the world. `FlowField` gives the displacement of matter from one sweep to the next, at any place and
time.
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

#: A point that moves at least this far in the world from one sweep to the next is dynamic, metres:
#: 0.5 m/s at ten sweeps per second, as in Argoverse 2.
MOVES = 0.05


@dataclass(frozen=True, eq=False)
class Boxes:
    """n labelled boxes in the frame of a sweep.

    Attributes:
        pose: frame of each box in the frame of the sweep, ``(n, 4, 4)`` float64; its x is the box's
            length.
        size: length, width, height in metres, ``(n, 3)``.
        track: name of the object in each box, the same name in every sweep.
        category: category of each object, in the words of the data set.
    """

    pose: Tensor
    size: Tensor
    track: tuple[str, ...]
    category: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.track)


@dataclass(frozen=True, eq=False)
class FlowLabels:
    """Known motion of each of the N points of a sweep.

    Attributes:
        flow: position of the point's matter at the next sweep, in that sweep's frame, minus its
            position now: metres, ``(N, 3)``; the sensor's own motion is included.
        valid: whether the flow is known, ``(N,)``; other points do not count.
        dynamic: whether the point moves in the world, ``(N,)``.
        category: indices into `categories`, whole numbers ``(N,)``; -1 if unknown.
        categories: names of the categories in the words of the data set.
        ground: whether the point lies on the ground, ``(N,)``, or None.
        instance: whole numbers ``(N,)``, the same for the points of one object and in every sweep;
            -1 for no object; or None.
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

    Rows are the rows of the file, in its order, including invalid points: a sensor writes NaN or
    zeros for a beam without return.

    Attributes:
        points: metres, float32 ``(N, 3)``, x forward, y left, z up, in the sensor's frame at
            `timestamp`. The sensor's motion within the sweep may have been removed by the data set;
            see `deskewed`.
        timestamp: seconds, of which only differences count.
        time: time of measurement of each point, seconds from `timestamp`, float32 ``(N,)``; or
            None.
        intensity: float32 ``(N,)``, in the sensor's unit; or None.
        ring: laser of each point, int64 ``(N,)``; or None.
        pose: the sensor's frame in the world at `timestamp`, float64 ``(4, 4)``; or None.
        deskewed: whether points are placed as if all were measured at `timestamp`; None if unknown.
        boxes: labelled boxes of the data set; or None.
        labels: flow labels of the data set; or None.
        source: name of the file, for messages.
        meta: further facts.

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
                f"{self.source}: points have the shape {tuple(self.points.shape)}; expected "
                "(N, 3), x, y and z of each"
            )
        for name in ("time", "intensity", "ring"):
            column = getattr(self, name)
            if column is not None and column.shape != self.points.shape[:1]:
                raise InputError(
                    f"{self.source}: {name} has the shape {tuple(column.shape)} for "
                    f"{len(self.points)} points"
                )

    @property
    def finite(self) -> Tensor:
        """Mask ``(N,)`` of valid measurements: finite, and not at the sensor's own origin."""
        return self.points.isfinite().all(1) & (self.points != 0).any(1)

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        return f"Sweep: {len(self)} points of {self.source}"


class Sweeps(Protocol):
    """Sweeps in the order of time: a sequence whose items are read on demand.

    `names` holds one name per sweep, all different, which results are named by. The sweep k + 1
    follows the sweep k.
    """

    names: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sweep: ...


class FlowField(Settings, ABC):
    """Displacement from sweep to sweep as a function of place, time and the direction of time."""

    @abstractmethod
    def displacement(self, points: Tensor, time: Tensor, direction: Tensor) -> Tensor:
        """Compute the displacement of matter at ``points``: metres, ``(batch, n, 3)``.

        It is the motion until the next sweep, or back to the previous sweep.

        Args:
            points: points, ``(batch, n, 3)``, metres, in a fixed frame.
            time: times ``(n,)``, in sweeps.
            direction: ``(n,)``, 1 for forward and -1 for backward in time.
        """

    def flow(self, points: Tensor, time: float) -> Tensor:
        """Compute the displacement forward in time at one time: ``(batch, n, 3)``."""
        ones = torch.ones(points.shape[1], dtype=points.dtype, device=points.device)
        return self.displacement(points, time * ones, ones)


def pairs(sweeps: Sweeps) -> Iterator[tuple[int, Sweep, Sweep]]:
    """Iterate over every sweep and its successor; each sweep is read once."""
    before = sweeps[0] if len(sweeps) else None
    for k in range(1, len(sweeps)):
        after = sweeps[k]
        assert before is not None
        yield k - 1, before, after
        before = after


# Expansion by speed: a box that moves by less within the pair keeps its size, other boxes grow by
# half of their motion, at most 2 m.
_STANDS, _LONGEST = 0.04, 2.0


def flow_from_boxes(
    sweep: Sweep,
    next_sweep: Sweep,
    expansion: float | Literal["speed"] = 0.2,
    categories: Sequence[str] | None = None,
) -> FlowLabels:
    """Derive the flow labels of a sweep from the boxes of this sweep and of the next sweep.

    A point p in a box with the frames B0 in this sweep and B1 in the next moves by
    ``B1 B0^-1 p - p``. A point in no box moves by ``E p - p`` with the sensor's motion E. A point
    in a box whose object is missing in the next sweep is not valid.

    Args:
        sweep: sweep with pose and boxes.
        next_sweep: next sweep, with pose and boxes.
        expansion: length in metres by which boxes grow in length and width (half of it at either
            end), because labels are tight; 0.2 is Argoverse's value. With "speed", boxes whose
            centre moves by d > 0.04 m in the world grow by 0.2 + min(d / 2, 2) in length and 0.2 in
            width and height, other boxes do not grow: points of fast objects are smeared along
            their path, because a sweep takes time (Zhang et al. 2025, "HiMo"; proposed for
            Argoverse's labels in argoverse/av2-api #306).
        categories: names that categories are numbered by; by default "NONE" and those of the boxes,
            sorted. Points in no box have the category "NONE", or -1 if that is not among the names.

    Raises:
        InputError: if a sweep has no pose or no boxes.

    >>> still = torch.eye(4, dtype=torch.float64)
    >>> forward = torch.eye(4, dtype=torch.float64)
    >>> forward[0, 3] = 1
    >>> points = torch.tensor([[1.0, 0, 0], [9.0, 0, 0]])
    >>> size = torch.tensor([[4.0, 2, 2]])
    >>> boxes = [Boxes(place[None], size, ("1",), ("CAR",)) for place in (still, forward)]
    >>> a, b = (Sweep(points, pose=still, boxes=b) for b in boxes)
    >>> flow_from_boxes(a, b).flow
    tensor([[1., 0., 0.],
            [0., 0., 0.]])
    """
    for frame in (sweep, next_sweep):
        if frame.pose is None or frame.boxes is None:
            raise InputError(
                f"{frame.source}: flow from boxes needs the "
                f"{'pose' if frame.pose is None else 'boxes'} of both sweeps, but this sweep has none"
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
    # E = pose_1^-1 pose_0 maps places at rest from this sweep's frame to the next one's.
    ego_motion = relative_motion(sweep.pose, next_sweep.pose)
    later = dict(zip(next_sweep.boxes.track, next_sweep.boxes.pose))
    grown = boxes.size.double() + _growth(boxes, later, ego_motion, expansion)
    owner = box_of_points(points, boxes, grown)
    # Matter at rest moves by E p - p in the frame of the sensor.
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
        # A category that is not among the names has no number.
        category[inside] = (
            categories.index(boxes.category[k]) if boxes.category[k] in categories else -1
        )
        instance[inside] = number_of_track(boxes.track[k])
        if boxes.track[k] in later:
            # B1 B0^-1: a point keeps its place in the box.
            motion = later[boxes.track[k]] @ inverse(boxes.pose[k])
            flow[inside] = transform(motion, points[inside]) - points[inside]
        else:
            valid &= ~inside
    # The motion in the world is the flow without the sensor's own motion.
    dynamic = (flow - rigid).norm(dim=1) >= MOVES
    return FlowLabels(flow.float(), valid, dynamic, category, categories, instance=instance)


def box_of_points(points: Tensor, boxes: Boxes, size: Tensor | None = None) -> Tensor:
    """Find the box that contains each point: ``(N, 3) -> (N,)`` int64.

    The result is -1 for points in no box, and the last box if boxes overlap.

    Args:
        points: points, ``(N, 3)``, in the frame of the boxes.
        boxes: the boxes.
        size: length, width and height of each box, ``(n, 3)``; by default the boxes' own.
    """
    size = boxes.size if size is None else size
    owner = torch.full((len(points),), -1, dtype=torch.int64, device=points.device)
    for k in range(len(boxes)):
        # Only points within the sphere around the box are moved into its frame.
        distance = (points - boxes.pose[k, :3, 3].to(points)).norm(dim=1)
        nearby = (distance <= float(size[k].norm()) / 2).nonzero()[:, 0]
        local = transform(inverse(boxes.pose[k]), points[nearby])
        # The frame of a box has its origin in the middle of the box.
        inside = (local.abs() <= size[k].to(points) / 2).all(1)
        owner[nearby[inside]] = k
    return owner


def number_of_track(track: str) -> int:
    """Return a whole number for an object's name, the same in every run: 63 bits of its hash."""
    return int.from_bytes(hashlib.blake2b(track.encode(), digest_size=8).digest(), "big") >> 1


def _growth(
    boxes: Boxes, later: dict[str, Tensor], ego_motion: Tensor, expansion: float | Literal["speed"]
) -> Tensor:
    """Return the lengths in metres by which each box grows in length, width and height, (n, 3)."""
    # The whole growth of a side, half of it at either end.
    grown = torch.zeros(len(boxes), 3, dtype=torch.float64)
    if not isinstance(expansion, str) and expansion >= 0:
        grown[:, :2] = expansion
    elif expansion != "speed":
        raise InputError(f"expansion must be metres, zero or more, or 'speed', got {expansion!r}")
    else:
        for k, track in enumerate(boxes.track):
            if track in later:
                # The later centre in this sweep's frame: E^-1 takes the motion of the sensor away.
                place = transform(inverse(ego_motion), later[track][None, :3, 3])[0]
                distance = float((place - boxes.pose[k, :3, 3]).norm())
                if distance > _STANDS:
                    grown[k] = torch.tensor([0.2 + min(distance / 2, _LONGEST), 0.2, 0.2])
    return grown
