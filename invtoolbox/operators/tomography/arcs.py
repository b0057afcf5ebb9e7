"""The arc that the views of a scan cover, and the edges that it determines.

A scan determines an edge only if a measured ray is tangent to it (Quinto, SIAM J. Math. Anal. 24,
1993).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from invtoolbox.operators.base import Operator
from invtoolbox.operators.tomography.scan_2d import Scan, Scan2D

#: Missing part of the arc above which it is limited, and least ratio of the gap to the usual one.
_MISSING, _GAP = math.radians(30), 2.5
#: Least number of views of an arc, and difference up to which two angles are the same.
_VIEWS, _SAME = 3, 1e-4
#: Number of directions per half turn of which a pixel's rays are noted.
_DIRECTIONS = 180


class Arc(NamedTuple):
    """Arc of the views of a scan, angles in radians.

    Attributes:
        start: angle of its first view.
        covered: length of the arc, with half a step at either end.
        needed: length that would determine every edge: half a turn, and the angle of a fan.
    """

    start: float
    covered: float
    needed: float

    @property
    def is_limited(self) -> bool:
        """Whether more than 30 degrees are missing."""
        return self.needed - self.covered > _MISSING


def arc_of(A: Operator) -> Arc | None:
    """Return the arc of a scan's views, or None if the operator has none.

    Views of a parallel beam count modulo half a turn. A gap that is no larger than others is no
    missing part of the arc, so few views that are evenly spread cover it all.

    Args:
        A: operator of a scan, with the same angles for all items.

    >>> import invtoolbox as it
    >>> arc = arc_of(it.operators.ParallelBeam((8, 8), torch.deg2rad(torch.arange(10.0, 70.0)), 12))
    >>> round(math.degrees(arc.covered)), arc.is_limited
    (60, True)
    """
    angles = getattr(A, "angles", None)
    if not isinstance(A, Scan) or not isinstance(angles, Tensor):
        return None
    if angles.ndim != 1 or len(angles) < _VIEWS:
        return None
    distance = getattr(A, "source_origin", None)
    period = math.pi if distance is None else 2 * math.pi
    turned = angles.detach().double().cpu() % period
    # A turn that ends within rounding of its beginning.
    turned = torch.where(period - turned < _SAME, 0.0, turned).sort().values
    gaps = torch.cat([turned.diff(), turned[:1] + period - turned[-1:]])
    largest = int(gaps.argmax())
    usual = gaps[gaps > _SAME].median() if bool((gaps > _SAME).any()) else gaps[0]
    missing = float(gaps[largest] - usual) if gaps[largest] > _GAP * usual else 0.0
    covered = period - missing
    fan = 0.0 if distance is None else _fan_angle(A, float(distance))
    first = float(turned[(largest + 1) % len(turned)])
    return Arc(first, covered, min(period, math.pi + fan))


def _fan_angle(A: Operator, distance: float) -> float:
    """Return the angle between the outermost rays of a view that meet the image."""
    shape = A.domain_shape[-2:]
    size: Any = getattr(A, "pixel_size", None) or getattr(A, "voxel_size", (1.0, 1.0))
    radius = math.hypot(*(n * s for n, s in zip(shape[-2:], size[-2:]))) / 2
    return 2 * math.asin(min(1.0, radius / distance))


def determined_edges(A: Scan2D, image: Tensor) -> Tensor:
    """Return where the edge through a pixel, if there is one, is along a measured ray.

    An edge runs across the gradient of the image. Its direction is compared with the directions of
    the rays through the pixel, in steps of a degree.

    Args:
        A: 2D scan, with the same angles for all items.
        image: real image, ``(row, column)``, of any number of pixels.

    Returns:
        booleans, ``(row, column)``.

    >>> import invtoolbox as it
    >>> A = it.operators.ParallelBeam((8, 8), torch.linspace(-0.3, 0.3, 61), 12)
    >>> image = torch.zeros(8, 8)
    >>> image[2:6, 2:6] = 1  # rays run along the columns
    >>> edges = determined_edges(A, image)
    >>> bool(edges[4, 2]), bool(edges[2, 4])
    (True, False)
    """
    rows, columns = image.shape
    values = image.detach().cpu().double()
    up, across = torch.gradient(values)
    # Rows run downwards, and an edge along (-g_y, g_x) for the gradient (g_x, g_y) = (across, -up).
    along = torch.atan2(across, up) % math.pi
    angles = A.angles.detach().cpu().double()
    distance = getattr(A, "source_origin", None)
    (height, width), (row, column) = A.image_shape, A.pixel_size
    x = ((torch.arange(columns, dtype=torch.float64) + 0.5) / columns - 0.5) * width * column
    y = (0.5 - (torch.arange(rows, dtype=torch.float64) + 0.5) / rows) * height * row
    step = math.pi / _DIRECTIONS
    reached = torch.zeros(_DIRECTIONS, rows, columns, dtype=torch.bool)
    for angle in angles[:: max(1, len(angles) // (2 * _DIRECTIONS))].tolist():
        # The central ray of a view is perpendicular to (cos, sin); a ray of a fan leaves the source.
        ray = torch.full((rows, columns), angle + math.pi / 2, dtype=torch.float64)
        if distance is not None:
            left, below = float(distance) * math.sin(angle), -float(distance) * math.cos(angle)
            ray = torch.atan2((y - below)[:, None], x - left)
        bins = ((ray % math.pi) / step).long().clamp_max(_DIRECTIONS - 1)
        reached.scatter_(0, bins[None], True)
    reached |= _spread(reached, angles, step)
    bins = (along / step).long().clamp_max(_DIRECTIONS - 1)
    return reached.gather(0, bins[None])[0]


def _spread(reached: Tensor, angles: Tensor, step: float) -> Tensor:
    """Return the directions within a step of the views around those that are reached."""
    gaps = angles.sort().values.diff()
    reach = max(1, math.ceil(float(gaps.median()) / (2 * step))) if len(gaps) else 1
    around = [reached.roll(k, 0) for k in range(-reach, reach + 1)]
    return torch.stack(around).any(0)
