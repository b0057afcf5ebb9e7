"""Returns of the vehicle that carries the sensor: at rest in the sensor's frame while the world moves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import inverse, transform
from invtoolbox.geometry.sweeps import Sweep, Sweeps
from invtoolbox.jobs.flow.ground import Ground, ground
from invtoolbox.kernels.points.nearest import Tree

#: Distance within which a point is at the same place in the next sweep, metres.
_SAME = 0.05
#: Least motion of the sensor between two sweeps, metres: the world then leaves its place.
_LEAST_MOTION = 0.15
#: Half the width of a vehicle, and its length before and behind the sensor, metres. What stands on the
#: lane this near would be run over.
_HALF_WIDTH, _LENGTH = 1.3, 5.0
#: Number of points from which a vehicle is seen.
_FEWEST = 20
#: Margin of the box around the points, metres, and share of the points beyond either of its sides.
_MARGIN, _OUTSIDE = 0.1, 0.01
#: Places in a sequence at which a pair is compared, as shares of its length.
_PLACES = (0.0, 0.35, 0.7)

#: Box by its corners: least x, y, z and largest x, y, z, metres, in the frame of the points.
Box = tuple[float, float, float, float, float, float]


def in_box(points: Tensor, box: Sequence[float]) -> Tensor:
    """Return which points ``(N, 3)`` are in a box, boolean ``(N,)``.

    >>> in_box(torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]), (-1, -1, -1, 1, 1, 1))
    tensor([ True, False])
    """
    low, high = torch.tensor(box, dtype=points.dtype).reshape(2, 3).to(points.device)
    return ((points >= low) & (points <= high)).all(1)


def check_box(box: Sequence[float]) -> None:
    """Raise `InputError` unless six numbers are the corners of a box."""
    if len(box) != 6 or any(not box[k] <= box[k + 3] for k in range(3)):
        raise InputError(
            "vehicle must be six numbers, the least x, y, z and the largest x, y, z of its box in "
            f"metres, got {tuple(box)}"
        )


def resting(source: Sweep, target: Sweep, settings: Ground) -> Tensor:
    """Return the points near the sensor that are not on the ground and do not move in its frame.

    Args:
        source: sweep in the frame of its sensor.
        target: next sweep.
        settings: settings of the ground segmentation.
    """
    near = [_near(sweep) for sweep in (source, target)]
    points = [sweep.points[rows] for sweep, rows in zip((source, target), near)]
    if min(map(len, points)) < _FEWEST:
        return points[0][:0]
    distance, _ = Tree(points[1]).query(points[0], _SAME)
    rows = near[0][distance.isfinite()]
    if len(rows) < _FEWEST:
        return points[0][:0]
    on_ground = ground(source.points, settings)
    return source.points[rows[~on_ground[rows]]]


def vehicle_box(points: Tensor, ego_motion: Tensor) -> Tensor | None:
    """Return the box ``(2, 3)`` of the vehicle in the frame of its sensor, or None if none is seen.

    Args:
        points: points that rest in the frame of the sensor, ``(n, 3)``.
        ego_motion: motion of the static world in this frame, ``(4, 4)``.
    """
    path = inverse(ego_motion.double())[:3, 3]
    if float(path[:2].norm()) < _LEAST_MOTION:
        return None
    ahead = path[:2] / path[:2].norm()
    across = torch.stack([-ahead[1], ahead[0]])
    places = points.double()
    # The world around a turning sensor moves by different lengths.
    moves = (transform(ego_motion.double(), places) - places).norm(dim=1) > 2 * _SAME
    is_lane = (places[:, :2] @ across).abs() < _HALF_WIDTH
    is_lane &= (places[:, :2] @ ahead).abs() < _LENGTH
    places = places[moves & is_lane]
    if len(places) < _FEWEST:
        return None
    low, high = (places.quantile(share, dim=0) for share in (_OUTSIDE, 1 - _OUTSIDE))
    return torch.stack([low - _MARGIN, high + _MARGIN])


def box_of_points(box: Tensor, frame: Tensor) -> Box:
    """Return the box around a box ``(2, 3)`` of the sensor's level frame, in the frame of the points.

    Args:
        box: least and largest corner.
        frame: level frame of the sensor in the frame of the points, ``(4, 4)``.
    """
    corners = torch.cartesian_prod(*box.double().T)
    corners = transform(frame.double(), corners)
    low, high = corners.min(0).values.tolist(), corners.max(0).values.tolist()
    return (*low, *high)  # type: ignore[return-value]


def describe_box(box: Box) -> str:
    """Return a note on the vehicle."""
    numbers = " ".join(f"{number:.2f}" for number in box)
    return (
        f"points that rest in the sensor's frame while it moves are its vehicle's, in the box {numbers} "
        "m, and are left out; vehicle= gives the box, and six zeros leave nothing out"
    )


def pairs_of(sweeps: Sweeps) -> list[int]:
    """Return the numbers of the sweeps that are compared with their successors."""
    last = len(sweeps) - 2
    return sorted({round(share * last) for share in _PLACES}) if last >= 0 else []


def _near(sweep: Sweep) -> Tensor:
    reach = (sweep.points[:, :2].norm(dim=1) < _LENGTH) & sweep.finite
    return reach.nonzero().squeeze(1)
