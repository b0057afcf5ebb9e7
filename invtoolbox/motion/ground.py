"""Ground in a sweep without a map: a surface that grows outward from the sensor, sector by sector, within limits of slope."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from invtoolbox.errors import InputError


@dataclass(frozen=True)
class Ground:
    """How the ground is found. Lengths are metres, slopes are rise over run relative to the sensor's own level.

    The plane is cut into `sectors` around the sensor and each of them into rings, short near the sensor and longer away from it. The
    lowest points of a cell are its candidate. From the sensor outward, each sector carries a height and a slope; a candidate that lies
    within `step` and the change that `bend` allows on the way from the last one is ground and moves both on, and one that does not
    is an object (above) or a reflection (below), which the surface passes by. Neighbouring sectors then speak for each other, and a
    point is ground that lies less than `thickness` above the surface. The height of the sensor is not needed: it is that above
    the plane on which most of the lowest points near it lie.

    Attributes:
        thickness: how high above the surface a point may lie and be ground; half of it where something stands.
        step: what height may change at once: a curb, roughness, noise.
        bend: what slope may change on the way from one piece of ground to the next.
        slope: the steepest ground.
        depth: how far below the surface a point may lie and be removed with it; below are reflections or another storey.
        sectors: how many sectors there are around the sensor.
        reach: beyond this distance nothing is called ground.
    """

    thickness: float = 0.2
    step: float = 0.2
    bend: float = 0.1
    slope: float = 0.3
    depth: float = 1.0
    sectors: int = 180
    reach: float = 100.0

    def __post_init__(self) -> None:
        for name in ("thickness", "step", "bend", "slope", "depth", "reach"):
            if not getattr(self, name) > 0:
                raise InputError(
                    f"{name} of the ground must be positive, got {getattr(self, name)}"
                )
        if self.sectors < 8:
            raise InputError(f"the ground needs 8 sectors or more, got {self.sectors}")


def ground(points: Tensor, settings: Ground | None = None) -> Tensor:
    """Which points lie on the ground: ``(N, 3) -> (N,)`` bool, false where a point is not finite.

    z points up, and the sensor stands at the origin, at whatever height.

    >>> angle = torch.linspace(0, 6.28, 500)
    >>> road = torch.stack([6 * angle.cos(), 6 * angle.sin(), torch.full_like(angle, -1.7)], dim=1)
    >>> pole = torch.tensor([[6.0, 0.0, 0.3], [6.0, 0.0, 1.0]])
    >>> found = ground(torch.cat([road, pole]))
    >>> bool(found[:500].all()), found[500:].tolist()
    (True, [False, False])
    """
    settings = settings or Ground()
    cloud = points.detach().cpu().numpy().astype(np.float32, copy=False)
    if cloud.ndim != 2 or cloud.shape[1] != 3:
        raise InputError(
            f"points have the shape {tuple(cloud.shape)}; expected (N, 3), x, y and z of each"
        )
    found = np.zeros(len(cloud), dtype=bool)
    distance = np.hypot(cloud[:, 0], cloud[:, 1])
    rows = np.flatnonzero((distance > 0) & (distance < settings.reach) & np.isfinite(cloud[:, 2]))
    if len(rows):
        x, y, z = cloud[rows].T
        ring = _ring(distance[rows])
        sector = np.arctan2(y, x) * np.float32(settings.sectors / (2 * np.pi)) % settings.sectors
        candidates, standing = _candidates(sector, ring, z, settings)
        above = z - _height(_surface(candidates, standing, settings), sector, ring)
        # Under something that stands there, what lies only just above the ground is its foot.
        foot = standing.ravel()[_cell(sector, ring, candidates.shape)]
        found[rows] = (
            above < settings.thickness * np.where(foot, np.float32(0.5), np.float32(1))
        ) & (above > -settings.depth)
    return torch.from_numpy(found).to(points.device)


def _ring(distance: np.ndarray) -> np.ndarray:
    """Rings widen with distance, as the gaps between the lines of a laser on the ground do: 0.5 m at the sensor, 2.5 m at 80 m."""
    return (40 * np.log1p(distance / 20)).astype(np.float32)


def _distance(ring: np.ndarray) -> np.ndarray:
    return (20 * np.expm1(ring / 40)).astype(np.float32)


def _cell(sector: np.ndarray, ring: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.minimum(sector.astype(np.int64), shape[0] - 1) * shape[1] + ring.astype(np.int64)


def _candidates(
    sector: np.ndarray, ring: np.ndarray, z: np.ndarray, settings: Ground
) -> tuple[np.ndarray, np.ndarray]:
    """The height of the lowest points of every cell, NaN where it is empty, and whether something stands on them: ``(sectors, rings)``."""
    rings = int(np.ceil(_ring(np.array(settings.reach))))
    cell = _cell(sector, ring, (settings.sectors, rings))
    # One sort by cell and by height in it, in steps of a millimetre.
    keys = np.sort((cell << 18) + ((np.clip(z, -100, 100) + 100) * 1000).astype(np.int64))
    cells = keys >> 18
    first = np.flatnonzero(np.concatenate([[True], cells[1:] != cells[:-1]]))
    size = np.diff(np.concatenate([first, [len(keys)]]))
    # Not the very lowest of many: noise and reflections lie below.
    chosen = first + size // 20 + (size > 4)
    candidates = np.full((settings.sectors, rings), np.nan, dtype=np.float32)
    candidates.flat[cells[first]] = (keys[chosen] & 262143) / 1000.0 - 100
    above = z - candidates.flat[cell]
    standing = np.bincount(cell[(above > 0.3) & (above < 1.5)], minlength=candidates.size).reshape(
        candidates.shape
    )
    count = np.zeros_like(standing)
    count.flat[cells[first]] = size
    return candidates, standing > 0.3 * count


def _surface(candidates: np.ndarray, standing: np.ndarray, settings: Ground) -> np.ndarray:
    """The height of the ground at the middle of every cell, ``(sectors, rings)``."""
    sectors, rings = candidates.shape
    distance = _distance(np.arange(rings) + 0.5)
    level, ahead, left = _plane(candidates, distance)
    angle = (np.arange(sectors) + 0.5) * (2 * np.pi / sectors)
    slope = (ahead * np.cos(angle) + left * np.sin(angle)).astype(np.float32)
    last = np.full(sectors, 3.0, dtype=np.float32)  # so far the plane is believed
    height = (level + slope * last).astype(np.float32)
    surface = np.empty_like(candidates)
    seen = np.zeros(candidates.shape, dtype=bool)
    for k in range(rings):
        # What each sector expects here, its neighbours heard: those most that have seen ground a short way back.
        way = distance[k] - last
        weight = 1 / (1 + (way / 2) ** 2)
        expected = _neighbours(weight * (height + slope * way)) / _neighbours(weight)
        tilt = _neighbours(weight * slope) / _neighbours(weight)
        rise = candidates[:, k] - expected
        allowed = settings.step + np.clip(settings.bend * way, 0, 2 * settings.step)
        # The lowest that is seen of a wall or a car is no ground unless it lies where ground was expected.
        ok = (rise < np.where(standing[:, k], settings.step / 2, allowed)) & (
            rise > -allowed
        )  # false for the NaN of empty cells
        surface[:, k] = expected + np.where(ok, 0.7 * rise, 0)
        seen[:, k] = ok
        # The slope follows over some metres; a curb is a step, not a slope.
        observed = np.clip(
            (candidates[:, k] - height) / np.maximum(way, 0.5), -settings.slope, settings.slope
        )
        gain = np.clip(way / (way + 6), 0, 1)
        slope = np.where(
            ok, np.clip(tilt + gain * (observed - tilt), -settings.slope, settings.slope), slope
        )
        height = np.where(ok, surface[:, k], height)
        last = np.where(ok, np.maximum(distance[k], last), last)
    return _between(surface, seen, distance)


def _plane(candidates: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """The plane of the ground near the sensor, ``z = a + b x + c y``: that on which most candidates lie, the nearer the more."""
    sector, ring = np.nonzero(np.isfinite(candidates) & (distance > 1) & (distance < 15))
    if len(sector) < 10:
        sector, ring = np.nonzero(np.isfinite(candidates))
    z, way = candidates[sector, ring], distance[ring]
    edges = np.arange(np.floor(z.min() * 10) - 2, np.ceil(z.max() * 10) + 3) / 10
    count = np.convolve(np.histogram(z, edges, weights=1 / way)[0], [1, 1, 1], "same")
    # Of several levels as good the lowest: that of the roofs of cars lies above.
    best = int(np.flatnonzero(count >= 0.7 * count.max())[0])
    plane = np.array([(edges[best] + edges[best + 1]) / 2, 0.0, 0.0])
    angle = (sector + 0.5) * (2 * np.pi / len(candidates))
    columns = np.stack([np.ones(len(z)), way * np.cos(angle), way * np.sin(angle)], axis=1)
    for tilt in (0.06, 0.04, 0.02):
        near = np.abs(z - columns @ plane) < 0.15 + tilt * way
        a = columns[near] / way[near, None]
        # A weak pull towards level decides where candidates lie to one side only.
        plane = np.linalg.solve(a.T @ a + np.diag([1e-6, 1.0, 1.0]), a.T @ (z[near] / way[near]))
    return plane


def _neighbours(value: np.ndarray) -> np.ndarray:
    """The weighted sum of a sector and three on either side."""
    total = 3 * value
    for k, weight in ((1, 1.0), (2, 0.5), (3, 0.25)):
        total += weight * (np.roll(value, k) + np.roll(value, -k))
    return total


def _between(surface: np.ndarray, seen: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Cells where no ground was seen lie on the line between those before and behind that did; beyond the last, as expected."""
    rings = seen.shape[1]
    index = np.arange(rings)
    before = np.maximum.accumulate(np.where(seen, index, -1), axis=1)
    behind = np.minimum.accumulate(np.where(seen, index, rings)[:, ::-1], axis=1)[:, ::-1]
    sector, ring = np.nonzero(~seen & (before >= 0) & (behind < rings))
    first, second = before[sector, ring], behind[sector, ring]
    share = (distance[ring] - distance[first]) / (distance[second] - distance[first])
    filled = surface.copy()
    filled[sector, ring] = (1 - share) * surface[sector, first] + share * surface[sector, second]
    return filled


def _height(surface: np.ndarray, sector: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """The surface under points, bilinear between the middles of cells."""
    sectors, rings = surface.shape
    u, v = sector - np.float32(0.5), np.clip(ring - np.float32(0.5), 0, rings - 1)
    i, j = np.floor(u).astype(np.int32), np.minimum(v.astype(np.int32), rings - 2)
    a, b = u - i, v - j
    i0, i1 = i % sectors * rings + j, (i + 1) % sectors * rings + j
    flat = surface.ravel()
    return (1 - a) * ((1 - b) * flat[i0] + b * flat[i0 + 1]) + a * (
        (1 - b) * flat[i1] + b * flat[i1 + 1]
    )
