"""Place and tilt of a lidar in the frame of its points, spacing of its rays, noise of its ranges."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

from invtoolbox.geometry.rigid import rotation
from invtoolbox.kernels.points.nearest import Tree

#: Width of a bin of elevation, radians, and number of bins over which a density is smooth.
_BIN, _SMOOTH = math.radians(0.1), 9
#: Mean number of points per bin that counts, and least number of such bins.
_FILLED, _FEWEST_BINS = 8, 50
#: Contrast of the rings of a sensor at the assumed place, and of one that was found; and that
#: of far points from the right height, which a place some metres aside leaves.
_SHARP, _FOUND, _HINT = 0.3, 0.3, 0.2
#: Ranges in the plane, metres, and largest number of points: far points tell the height of the
#: sensor almost alone, near ones its place.
_FAR, _NEAR = (25.0, math.inf, 16_000), (3.0, 15.0, 5_000)
_ALL = (1.0, math.inf, 40_000)
#: Heights and distances from the frame's origin among which the sensor is sought, metres, and their
#: spacing; and the last step of the refinement.
_HEIGHTS, _HEIGHT_STEP = (-1.5, 4.5), 0.05
_SIDE, _SIDE_STEP, _LAST_STEP = 3.0, 0.15, 0.01

#: Number of points below which the rays are not estimated, number of points that are looked at,
#: number of neighbours of each of them, and side of the squares of directions, radians.
_FEWEST_RAYS, _LOOKED_AT, _AROUND, _SQUARE = 1000, 4000, 9, 0.06
#: Angle between two points of one ray, relative to the spacing of rays. No lidar has lines that are
#: a hundred times as dense as its rays.
_COINCIDENT = 0.01
#: Smallest and largest noise of ranges that is believed, metres.
_NOISE = (0.005, 0.1)
#: Tilt up to which the frame of the points counts as level, and largest tilt that is sought, radians.
_LEVEL, _STEEPEST = math.radians(6.0), math.radians(35.0)
#: Ranges of the points that show the ground, metres, number of them, and number of planes tried.
_FLOOR, _PLANES = (2.0, 20.0, 4000), 300
#: Heights of a sensor above the ground, and thickness of the ground, metres.
_MOUNTED, _THICK = (0.3, 4.0), 0.1
#: Least share of the points on the ground, and largest share below it.
_ON, _BELOW = 0.3, 0.02
#: Axes x, y and z of frames whose vertical axis is another one than z upwards, by their rows, and
#: number of times by which the ground has to show more points along such an axis than along z.
_UPRIGHT = (
    ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0)),
    ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, -1.0, 0.0)),
    ((0.0, 0.0, -1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
    ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (-1.0, 0.0, 0.0)),
    ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0)),
)
_CLEARLY = 2.0


def find_level(points: Tensor) -> Tensor:
    """Find the axes of a sensor's level frame, whose z is the normal of the ground near the sensor.

    The ground is the plane of three points that most points lie on and almost none below (random
    sample consensus). Frames tilted by less than 6 degrees count as level. If no ground lies below
    the sensor along z, but along another axis, as in the frame of a camera, that axis is vertical.

    Args:
        points: finite points ``(N, 3)``, metres, with the sensor at the origin.

    Returns:
        Rotation from the level frame to the frame of the points, float64 ``(3, 3)``; the identity if the
        frame is level, or shows no ground.
    """
    level = torch.eye(3, dtype=torch.float64)
    points = points.double()
    points = _choose(points, points.norm(dim=1), *_FLOOR)
    if len(points) < 500:
        return level
    axes, floor = level, _find_floor(points)
    if floor.share < _ON or floor.below > _BELOW:
        others = [torch.tensor(rows, dtype=torch.float64).T for rows in _UPRIGHT]
        floors = [_find_floor(points @ frame) for frame in others]
        best = max(range(len(others)), key=lambda k: floors[k].share)
        least = max(_ON, _CLEARLY * floor.share)
        if floors[best].share < least or floors[best].below > _BELOW:
            return level
        axes, floor = others[best], floors[best]
    tilt = math.atan(math.hypot(*floor.slope))
    if tilt < _LEVEL:
        return axes
    # The shortest rotation from z to the normal turns about the axis z x n = (q, -p, 0).
    p, q = floor.slope
    axis = torch.tensor([q, -p, 0.0], dtype=torch.float64)
    return axes @ rotation(axis / axis.norm() * tilt)


@dataclass(frozen=True)
class _Floor:
    """Plane ``z = p x + q y + r`` that most points near a sensor lie on.

    Attributes:
        share: share of the points on the plane.
        below: share of the points below the plane.
        slope: p and q.
    """

    share: float = 0.0
    below: float = 1.0
    slope: tuple[float, float] = (0.0, 0.0)


def _find_floor(points: Tensor) -> _Floor:
    """Return the floor under a sensor at the origin, of share 0 if there is none.

    Args:
        points: points ``(n, 3)``, float64, some metres away.
    """
    generator = torch.Generator().manual_seed(0)
    a, b, c = points[torch.randint(len(points), (3, _PLANES), generator=generator)]
    normal = torch.linalg.cross(b - a, c - a)
    normal = torch.nn.functional.normalize(normal, dim=1) * normal[:, 2:].sign()
    height = -(normal * a).sum(1)
    upright = normal[:, 2] > math.cos(_STEEPEST)
    upright &= (height > _MOUNTED[0]) & (height < _MOUNTED[1])
    if not bool(upright.any()):
        return _Floor()
    normal, height = normal[upright], height[upright]
    # The planes n x + h = 0.
    above = points @ normal.T + height
    best = int((above.abs() < _THICK).sum(0).argmax())
    on_it = above[:, best].abs() < _THICK
    share, below = float(on_it.double().mean()), float((above[:, best] < -0.3).double().mean())
    # z = p x + q y + r by least squares has the normal (-p, -q, 1).
    x, y, z = points[on_it].T
    columns = torch.stack([x, y, torch.ones_like(x)], 1)
    p, q, _ = torch.linalg.lstsq(columns, z[:, None]).solution[:, 0].tolist()
    return _Floor(share, below, (p, q))


@dataclass(frozen=True)
class Rays:
    """Spacing of the rays of a lidar, and noise of its ranges.

    Attributes:
        beside: angle between a ray and the nearest ones, radians.
        spacing: square root of the solid angle per ray, radians: the geometric mean of `beside` and
            of the angle between lines.
        noise: standard deviation of ranges, metres.
    """

    beside: float = 0.0061
    spacing: float = 0.0068
    noise: float = 0.02

    @property
    def lines(self) -> float:
        """Angle between neighbouring lines, radians."""
        return self.spacing**2 / self.beside

    @classmethod
    def of(cls, points: Tensor) -> Rays:
        """Estimate them from the points of a sweep, of which no order and no rings are required.

        Points on one ray, such as several returns or copies, count once.

        Args:
            points: points ``(N, 3)``, metres, with the sensor at the origin; the usual values are
                returned for fewer than 1,000.

        >>> turn, up = torch.meshgrid(0.01 * torch.arange(600), 0.02 * torch.arange(20), indexing="ij")
        >>> sight = torch.stack([up.cos() * turn.cos(), up.cos() * turn.sin(), up.sin()], -1)
        >>> rays = Rays.of(10 * sight.flatten(0, 1))
        >>> round(rays.beside, 3), round(rays.lines, 2)
        (0.01, 0.02)
        """
        reach = points.double().norm(dim=1)
        points, reach = points[reach > 1.0].double(), reach[reach > 1.0]
        if len(points) < _FEWEST_RAYS:
            return cls()
        sight = points / reach[:, None]
        # Squares of equal solid angle that hold points: (azimuth, sine of elevation).
        azimuth = torch.atan2(sight[:, 1], sight[:, 0])
        squares = (torch.stack([azimuth, sight[:, 2]], 1) / _SQUARE).floor().long()
        area = len((squares[:, 0] * 1000 + squares[:, 1]).unique()) * _SQUARE**2
        spacing = math.sqrt(area / len(points))
        some = sight[:: max(1, len(sight) // _LOOKED_AT)]
        near = Tree(sight).neighbours(some, _AROUND)
        # The nearest one is the point itself; of two rays next to it one may have no return.
        beside = float((sight[near[:, 2]] - some).norm(dim=1).median())
        if beside < _COINCIDENT * spacing:
            # Rays are given several times; the first point of each remains.
            cells = (sight / (_COINCIDENT * spacing)).round()
            place = cells.unique(dim=0, return_inverse=True)[1]
            order = torch.arange(len(place), device=place.device)
            first = torch.full_like(order, len(place)).scatter_reduce(0, place, order, "amin")
            first = first[first < len(place)]
            return cls.of(points[first]) if len(first) < len(points) else cls()
        # Points r u of a plane n x = d satisfy 1 / r = u (n / d), with the direction u. The residuals
        # of this least-squares fit, times r^2, are the noise of r, whatever the slope of the plane.
        u, inverse_range = sight[near], 1 / reach[near]
        normal = u.transpose(1, 2) @ u + 1e-7 * torch.eye(3).to(u)
        plane = torch.linalg.solve(normal, u.transpose(1, 2) @ inverse_range[..., None])
        error = (inverse_range - (u @ plane).squeeze(2)) * reach[near].square()
        # The lower quartile, because edges have large residuals; for chi^2 with 6 degrees of freedom
        # it is 0.58 of the mean.
        variance = float((error.square().sum(1) / (_AROUND - 3)).quantile(0.25)) / 0.58
        return cls(beside, max(spacing, beside), min(max(variance**0.5, _NOISE[0]), _NOISE[1]))


def find_sensor(points: Tensor, start: Tensor) -> Tensor | None:
    """Find the place from which the points of a spinning lidar lie on rings of one elevation each.

    Seen from the sensor, the histogram of elevations has one peak per ring; from a place some
    decimetres away, it is smooth. The `contrast` of the histogram is maximized over heights with
    far points, then over places with near points, and refined with all of them.

    Args:
        points: finite points ``(N, 3)``, metres, z up.
        start: assumed place ``(3,)``, at most 3 m away in the plane.

    Returns:
        The place, float64 ``(3,)``: ``start`` if rings are seen from there, and None if rings are
        seen from nowhere, as with a sensor that has none or that is tilted.

    >>> azimuth, ring, reach = torch.rand(3, 40000, generator=torch.Generator().manual_seed(0))
    >>> azimuth, elevation = 6.28 * azimuth, 0.01 * (40 * ring).floor() - 0.3
    >>> reach = 4 + 40 * reach  # metres
    >>> sight = torch.stack([azimuth.cos(), azimuth.sin(), elevation.tan()], 1)
    >>> points = reach[:, None] * sight + torch.tensor([1.3, 0.4, 1.7])
    >>> find_sensor(points, torch.zeros(3)).round(decimals=1)
    tensor([1.3000, 0.4000, 1.7000], dtype=torch.float64)
    """
    start = start.double()
    around = points.double() - start
    reach = around[:, :2].norm(dim=1)
    far, near, every = (_choose(around, reach, *limits) for limits in (_FAR, _NEAR, _ALL))
    zero = torch.zeros(3, dtype=torch.float64)
    if contrast(every, zero) > _SHARP:
        return start
    if min(len(far), len(near)) < 100:
        return None
    heights = torch.arange(*_HEIGHTS, _HEIGHT_STEP, dtype=torch.float64).tolist()
    contrasts = [contrast(far, zero.new_tensor([0.0, 0.0, height])) for height in heights]
    if max(contrasts) < _HINT:
        return None
    height = heights[contrasts.index(max(contrasts))]
    sides = torch.arange(-_SIDE, _SIDE + _SIDE_STEP / 2, _SIDE_STEP, dtype=torch.float64)
    places = torch.cartesian_prod(sides, sides, zero.new_tensor([height]))
    place = places[int(torch.tensor([contrast(near, p) for p in places]).argmax())]
    best, step = contrast(every, place), 0.5 * _SIDE_STEP
    directions = torch.cat([torch.eye(3), -torch.eye(3)]).double()
    while step > _LAST_STEP:
        scores = [contrast(every, place + step * d) for d in directions]
        if max(scores) > best:
            best = max(scores)
            place = place + step * directions[scores.index(best)]
        else:
            step /= 2
    return start + place if best > _FOUND else None


def contrast(points: Tensor, place: Tensor) -> float:
    """Return the mean relative deviation of the histogram of elevations from that of its neighbours.

    It is near 1 if rings are apart, and about 0 without rings. Every bin counts alike: flat ground,
    seen from a place on the ground, fills one bin and is no ring.

    Args:
        points: ``(n, 3)``, metres.
        place: place from which the elevations count, ``(3,)``.
    """
    sight = points - place
    elevation = torch.atan2(sight[:, 2], sight[:, :2].norm(dim=1))
    bins = (elevation / _BIN).floor().long()
    counts = torch.bincount(bins - bins.min()).double()
    smooth = avg_pool1d(counts[None], _SMOOTH, 1, _SMOOTH // 2)[0]
    filled = smooth > _FILLED
    counts, smooth = counts[filled], smooth[filled]
    # n points that are not on rings deviate by sqrt(2 n / pi) in the mean.
    deviation = (counts - smooth).abs() / smooth - (2 / (math.pi * smooth)).sqrt()
    return float(deviation.clamp_max(1).sum() / max(len(deviation), _FEWEST_BINS))


def _choose(points: Tensor, reach: Tensor, least: float, most: float, count: int) -> Tensor:
    """Return at most ``count`` points of a range of distances, evenly over their order."""
    inside = points[(reach > least) & (reach < most)]
    return inside[:: max(1, math.ceil(len(inside) / count))]
