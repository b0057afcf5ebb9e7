"""Flow labels from labelled boxes: what lies in a box moves as the box does, all else stands still in the world."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.scenes.rigid import inverse, relative_motion, transform
from invtoolbox.scenes.sweep import MOVES, Boxes, FlowLabels, Sweep

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
