"""Place of a lidar in the frame of its points, from the geometry of its rays."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

#: Width of a bin of elevation, radians, and number of bins over which a density is smooth.
_BIN, _SMOOTH = math.radians(0.1), 9
#: Mean number of points per bin that counts, and least number of such bins.
_FILLED, _FEWEST_BINS = 8, 50
#: Contrast of the rings of a sensor that is where it is assumed, and of one that was found; and that
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
