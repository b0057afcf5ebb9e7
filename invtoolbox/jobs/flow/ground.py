"""Ground segmentation of a sweep without a map.

A surface grows outward from the sensor, sector by sector, within limits of slope. A cloud whose
ground was removed has no ground: its lowest points are feet of things.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError


@dataclass(frozen=True)
class Ground:
    """Settings of the ground segmentation.

    Lengths are metres, and slopes are rise over run relative to the level of the sensor.

    The plane is divided into `sectors` around the sensor, and each sector into rings that are short
    near the sensor and longer away from it. The lowest points of a cell are its candidate. From the
    sensor outward, each sector has a height and a slope. A candidate within `step` and the change
    that `bend` allows since the last one is ground and updates both; another one is an object
    (above) or a reflection (below) and is ignored. Neighbouring sectors are averaged, and a point
    less than `thickness` above the surface is ground. The height of the sensor need not be known:
    it is measured from the plane on which most of the lowest points near the sensor lie.

    Attributes:
        thickness: largest height of a ground point above the surface; half of it in cells with an
            object.
        step: largest sudden change of height: a curb, roughness, noise.
        bend: largest change of slope from one piece of ground to the next.
        slope: largest slope.
        depth: largest depth of a ground point below the surface; deeper points are reflections or
            another storey.
        sectors: number of sectors around the sensor.
        reach: distance beyond which no point is ground.
    """

    thickness: float = 0.2
    step: float = 0.2
    bend: float = 0.1
    slope: float = 0.3
    depth: float = 1.0
    sectors: int = 180
    reach: float = 100.0

    def __post_init__(self) -> None:
        check_range(self, "(0, inf]", "thickness", "step", "depth", "reach")
        check_range(self, "(0, inf]", "bend", "slope")
        check_range(self, "[8, inf)", "sectors")


#: Distances between which a sweep must show its ground, metres.
_NEAR, _FAR = 3.0, 25.0
#: Smallest share of the cells there that hold nothing but ground, and share of the points of such a
#: cell. Sweeps of four sensors have 0.49 and more of such cells, without their ground 0.07 at most.
_LEAST, _MOST_OF_IT = 0.2, 0.7


def ground(points: Tensor, settings: Ground | None = None) -> Tensor:
    """Return a mask of the points on the ground, bool ``(N,)``; False for nonfinite points.

    No point is ground if the cloud shows no open ground near the sensor, because it was removed.

    Args:
        points: points ``(N, 3)``; z points up, and the sensor is at the origin, at any height.
        settings: settings of the segmentation.

    Raises:
        InputError: if the points have another shape.

    >>> angle = torch.linspace(0, 6.28, 500)
    >>> road = torch.stack([6 * angle.cos(), 6 * angle.sin(), torch.full_like(angle, -1.7)], dim=1)
    >>> pole = torch.tensor([[6.0, 0.0, 0.3], [6.0, 0.0, 1.0]])
    >>> on_ground = ground(torch.cat([road, pole]))
    >>> bool(on_ground[:500].all()), on_ground[500:].tolist()
    (True, [False, False])
    """
    on_ground, open_ground = _lowest(points, settings or Ground())
    return on_ground & open_ground


def lowest_surface(points: Tensor, settings: Ground | None = None) -> Tensor:
    """Return a mask of the points on the lowest surface, bool ``(N,)``, from which heights count.

    It is the ground, or the feet of the things in a cloud without ground.

    Args:
        points: points, see `ground`.
        settings: settings of the segmentation.
    """
    return _lowest(points, settings or Ground())[0]


def _lowest(points: Tensor, settings: Ground) -> tuple[Tensor, bool]:
    """Return the mask of the lowest surface, and whether open ground is part of it."""
    cloud = points.detach().cpu().numpy().astype(np.float32, copy=False)
    if cloud.ndim != 2 or cloud.shape[1] != 3:
        raise InputError(
            f"points have the shape {tuple(cloud.shape)}; expected (N, 3), x, y and z of each"
        )
    on_ground, open_ground = np.zeros(len(cloud), dtype=bool), False
    distance = np.hypot(cloud[:, 0], cloud[:, 1])
    rows = np.flatnonzero((distance > 0) & (distance < settings.reach) & np.isfinite(cloud[:, 2]))
    if len(rows):
        x, y, z = cloud[rows].T
        ring = _ring(distance[rows])
        # The sectors count from the mean direction of the points, so that the axes have no effect.
        ahead, left = (float(np.mean(side / distance[rows], dtype=float)) for side in (x, y))
        turn = np.arctan2(y, x).astype(float) - np.arctan2(left, ahead)
        sector = (turn * settings.sectors / (2 * np.pi) % settings.sectors).astype(np.float32)
        candidates, standing = _candidates(sector, ring, z, settings)
        # Height of every point above the surface h(sector, ring): a point is on the ground if
        # -depth < z - h < thickness.
        above = z - _height(_surface(candidates, standing, settings), sector, ring)
        # Points just above the ground below an object are the foot of the object.
        cell = _cell(sector, ring, candidates.shape)
        foot = standing.ravel()[cell]
        on_ground[rows] = (
            above < settings.thickness * np.where(foot, np.float32(0.5), np.float32(1))
        ) & (above > -settings.depth)
        # Numbers of points, and of points close to the surface, in every cell.
        number, low = (
            np.bincount(cell[chosen], minlength=candidates.size).reshape(candidates.shape)
            for chosen in (slice(None), np.abs(above) < settings.thickness)
        )
        ring_distance = _distance(np.arange(candidates.shape[1]) + 0.5)
        occupied = (number > 0) & (ring_distance > _NEAR) & (ring_distance < _FAR)
        flat = occupied & (low > _MOST_OF_IT * number)
        # A cloud without points near the sensor shows nothing that could contradict.
        open_ground = bool(flat.sum() >= _LEAST * occupied.sum())
    return torch.from_numpy(on_ground).to(points.device), open_ground


def _ring(distance: np.ndarray) -> np.ndarray:
    """Return the ring of a distance.

    Rings widen with distance, like the gaps between laser lines on the ground: 0.5 m at the sensor,
    2.5 m at 80 m.
    """
    return (40 * np.log1p(distance / 20)).astype(np.float32)


def _distance(ring: np.ndarray) -> np.ndarray:
    """Return the distance of a ring, the inverse of `_ring`: ``d = 20 (exp(ring / 40) - 1)``."""
    return (20 * np.expm1(ring / 40)).astype(np.float32)


def _cell(sector: np.ndarray, ring: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the number of the cell of every point, counted row by row of ``(sectors, rings)``."""
    # Rounding to float32 may lift the last sector to the number of sectors.
    return np.minimum(sector.astype(np.int64), shape[0] - 1) * shape[1] + ring.astype(np.int64)


def _candidates(
    sector: np.ndarray, ring: np.ndarray, z: np.ndarray, settings: Ground
) -> tuple[np.ndarray, np.ndarray]:
    """Return the height of the lowest points of every cell, and whether an object stands on it.

    Both have the shape ``(sectors, rings)``; heights of empty cells are NaN.
    """
    rings = int(np.ceil(_ring(np.array(settings.reach))))
    cell = _cell(sector, ring, (settings.sectors, rings))
    # One sort by cell and height, in steps of a millimetre.
    # Bits 18 and more hold the cell, the lower ones (z + 100 m) in millimetres, up to 200,000 < 2^18.
    keys = np.sort((cell << 18) + ((np.clip(z, -100, 100) + 100) * 1000).astype(np.int64))
    cells = keys >> 18
    first = np.flatnonzero(np.concatenate([[True], cells[1:] != cells[:-1]]))
    size = np.diff(np.concatenate([first, [len(keys)]]))
    # Of many points not the very lowest: noise and reflections lie below.
    chosen = first + size // 20 + (size > 4)
    candidates = np.full((settings.sectors, rings), np.nan, dtype=np.float32)
    # 262143 = 2^18 - 1 masks the millimetres, which become metres again.
    candidates.flat[cells[first]] = (keys[chosen] & 262143) / 1000.0 - 100
    # An object stands on a cell if more than 0.3 of its points are 0.3 m to 1.5 m above the lowest.
    above = z - candidates.flat[cell]
    standing = np.bincount(cell[(above > 0.3) & (above < 1.5)], minlength=candidates.size).reshape(
        candidates.shape
    )
    count = np.zeros_like(standing)
    count.flat[cells[first]] = size
    return candidates, standing > 0.3 * count


def _surface(candidates: np.ndarray, standing: np.ndarray, settings: Ground) -> np.ndarray:
    """Return the height of the ground at the centre of every cell, ``(sectors, rings)``."""
    sectors, rings = candidates.shape
    distance = _distance(np.arange(rings) + 0.5)
    level, ahead, left = _plane(candidates, distance)
    angle = (np.arange(sectors) + 0.5) * (2 * np.pi / sectors)
    # Slope of the plane z = a + b x + c y along the direction of a sector: b cos + c sin.
    slope = (ahead * np.cos(angle) + left * np.sin(angle)).astype(np.float32)
    last = np.full(sectors, 3.0, dtype=np.float32)  # the plane is trusted up to 3 m
    height = (level + slope * last).astype(np.float32)
    surface = np.empty_like(candidates)
    observed = np.zeros(candidates.shape, dtype=bool)
    # A filter per sector, from ring to ring: predict height and slope, then correct both by the
    # candidate of the cell if it is plausible. `last` is the distance of the last ground.
    for k in range(rings):
        # Height that a sector and its neighbours expect; those that saw ground nearby count most.
        # The prediction is height + slope * step, with the weight 1 / (1 + (step / 2 m)^2).
        step = distance[k] - last
        weight = 1 / (1 + (step / 2) ** 2)
        heights, slopes, weights = _neighbours(
            np.stack([weight * (height + slope * step), weight * slope, weight])
        )
        expected, tilt = heights / weights, slopes / weights
        rise = candidates[:, k] - expected
        allowed = settings.step + np.clip(settings.bend * step, 0, 2 * settings.step)
        # The lowest visible part of a wall or a car is ground only if ground is expected there.
        # Comparisons with the NaN of empty cells are False.
        ok = (rise < np.where(standing[:, k], settings.step / 2, allowed)) & (rise > -allowed)
        # height = expected + 0.7 (candidate - expected)
        surface[:, k] = expected + np.where(ok, 0.7 * rise, 0)
        observed[:, k] = ok
        # The slope follows over some metres, with the gain step / (step + 6 m); a curb is a step, not
        # a slope.
        measured = np.clip(
            (candidates[:, k] - height) / np.maximum(step, 0.5), -settings.slope, settings.slope
        )
        gain = np.clip(step / (step + 6), 0, 1)
        slope = np.where(
            ok, np.clip(tilt + gain * (measured - tilt), -settings.slope, settings.slope), slope
        )
        height = np.where(ok, surface[:, k], height)
        last = np.where(ok, np.maximum(distance[k], last), last)
    return _interpolate_gaps(surface, observed, distance)


def _plane(candidates: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Return the plane of the ground near the sensor, ``z = a + b x + c y``.

    It is the plane on which most candidates lie; near candidates have more weight.
    """
    sector, ring = np.nonzero(np.isfinite(candidates) & (distance > 1) & (distance < 15))
    if len(sector) < 10:
        sector, ring = np.nonzero(np.isfinite(candidates))
    # A histogram of the heights in bins of 0.1 m, weighted by 1 / distance; a level counts with the
    # bins next to it.
    z, range_ = candidates[sector, ring], distance[ring]
    edges = np.arange(np.floor(z.min() * 10) - 2, np.ceil(z.max() * 10) + 3) / 10
    count = np.convolve(np.histogram(z, edges, weights=1 / range_)[0], [1, 1, 1], "same")
    # Of several equally good levels the lowest: the level of car roofs lies above.
    best = int(np.flatnonzero(count >= 0.7 * count.max())[0])
    plane = np.array([(edges[best] + edges[best + 1]) / 2, 0.0, 0.0])
    angle = (sector + 0.5) * (2 * np.pi / len(candidates))
    columns = np.stack([np.ones(len(z)), range_ * np.cos(angle), range_ * np.sin(angle)], axis=1)
    # Least squares, repeated with the candidates near the last plane in a band that narrows. Rows
    # are divided by the distance: the weights are 1 / distance^2.
    for tilt in (0.06, 0.04, 0.02):
        near = np.abs(z - columns @ plane) < 0.15 + tilt * range_
        a = columns[near] / range_[near, None]
        # Weak regularization towards level ground decides if all candidates lie on one side.
        plane = np.linalg.solve(a.T @ a + np.diag([1e-6, 1.0, 1.0]), a.T @ (z[near] / range_[near]))
    return plane


def _neighbours(sectors: np.ndarray) -> np.ndarray:
    """Return the weighted sums of sectors and three sectors on either side, ``(..., sectors)``."""
    # The sectors form a circle. The weights 3, 1, 0.5 and 0.25 fall with the distance; their sum
    # cancels, because the weights of the sectors are summed alike.
    count, total = sectors.shape[-1], 3 * sectors
    around = np.concatenate([sectors[..., -3:], sectors, sectors[..., :3]], axis=-1)
    for k, weight in ((1, 1.0), (2, 0.5), (3, 0.25)):
        total += weight * (around[..., 3 - k : 3 - k + count] + around[..., 3 + k : 3 + k + count])
    return total


def _interpolate_gaps(
    surface: np.ndarray, observed: np.ndarray, distance: np.ndarray
) -> np.ndarray:
    """Interpolate cells without ground between the cells with ground before and behind them.

    Cells beyond the last one keep the expected height.
    """
    rings = observed.shape[1]
    index = np.arange(rings)
    # Running maximum and minimum of the indices give the nearest cells with ground on either side.
    before = np.maximum.accumulate(np.where(observed, index, -1), axis=1)
    behind = np.minimum.accumulate(np.where(observed, index, rings)[:, ::-1], axis=1)[:, ::-1]
    sector, ring = np.nonzero(~observed & (before >= 0) & (behind < rings))
    first, second = before[sector, ring], behind[sector, ring]
    share = (distance[ring] - distance[first]) / (distance[second] - distance[first])
    filled = surface.copy()
    filled[sector, ring] = (1 - share) * surface[sector, first] + share * surface[sector, second]
    return filled


def _height(surface: np.ndarray, sector: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """Return the height of the surface below points, bilinear between the centres of cells."""
    # h(u, v) = (1 - a)(1 - b) h_ij + (1 - a) b h_i,j+1 + a (1 - b) h_i+1,j + a b h_i+1,j+1, where
    # the sectors i close to a circle and the rings j end at the border.
    sectors, rings = surface.shape
    u, v = sector - np.float32(0.5), np.clip(ring - np.float32(0.5), 0, rings - 1)
    i, j = np.floor(u).astype(np.int32), np.minimum(v.astype(np.int32), rings - 2)
    a, b = u - i, v - j
    i0, i1 = i % sectors * rings + j, (i + 1) % sectors * rings + j
    flat = surface.ravel()
    return (1 - a) * ((1 - b) * flat[i0] + b * flat[i0 + 1]) + a * (
        (1 - b) * flat[i1] + b * flat[i1 + 1]
    )
