"""Simulation of a spinning lidar on a car: noise, drop-out, rolling shutter, exact labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import inverse, part_of, relative_motion, rigid, rotation, transform
from invtoolbox.geometry.sweeps import Boxes, FlowLabels, Sweep
from invtoolbox.kernels.rendering.raycast import cast_rays
from invtoolbox.simulation.town import random_town
from invtoolbox.simulation.world import CATEGORIES, Street

#: A point faster than this in the world, in m/s, is dynamic: 0.05 m per sweep at 10 Hz, the
#: threshold of Argoverse 2.
DYNAMIC_SPEED = 0.5
#: Distance, metres, at which a ray has met a drop of rain with the probability `SpinningLidar.stray`.
_RAIN = 8.0
#: Largest numbers of sweeps and points of a call: a typing error must not take all memory.
MOST_SWEEPS, MOST_POINTS = 1_000_000, 1_000_000


@dataclass(frozen=True)
class SpinningLidar:
    """A lidar that turns clockwise, seen from above, from backwards over left, forwards and right.

    In a turn, the columns ``a = 0 .. azimuths - 1`` fire at the shares ``a / azimuths`` of it, all
    rings at once, at the azimuth ``pi - 2 pi (a + 1/2) / azimuths``, anticlockwise from x: the seam
    lies behind the car.

    Attributes:
        rings: number of lasers.
        azimuths: number of columns per turn.
        elevation: elevation of the lowest and of the highest ring, degrees; the other rings are
            evenly spaced between them, ring 0 is the lowest.
        rate: number of turns per second.
        noise_std: standard deviation of the range, metres.
        dropout: probability that a return is lost at range 0 and at `reach`; it grows with the
            square of the range.
        near: smallest measured range, metres.
        reach: largest measured range, metres.
        height: height above the ground, metres.
        tilt: mounting angles: roll (left side up) and pitch (nose down), degrees.
        stray: probability that a ray meets a drop of rain within 8 m behind `near`. The flow of a
            drop is unknown: its label is not valid.

    >>> SpinningLidar(rings=16, azimuths=360).directions.shape
    torch.Size([360, 16, 3])
    """

    rings: int = 64
    azimuths: int = 1024
    elevation: tuple[float, float] = (-21.0, 7.0)
    rate: float = 10.0
    noise_std: float = 0.02
    dropout: tuple[float, float] = (0.01, 0.5)
    near: float = 1.5
    reach: float = 100.0
    height: float = 1.8
    tilt: tuple[float, float] = (0.0, 0.0)
    stray: float = 0.0

    def __post_init__(self) -> None:
        check_range(self, "[1, inf)", "rings", "azimuths")
        check_range(self, "(0, inf]", "rate")
        check_range(self, "[0, inf]", "noise_std")
        check_range(self, "[0, 1)", "stray")
        if not 0 <= self.dropout[0] <= self.dropout[1] <= 1:
            raise InputError(
                f"the drop-out of a lidar must grow from 0 to 1 at most, got {self.dropout}"
            )
        if not 0 <= self.near < self.reach:
            raise InputError(
                f"a lidar measures from near to reach, got {self.near} m and {self.reach} m"
            )

    @property
    def directions(self) -> Tensor:
        """Unit vectors of the rays in the lidar's frame, float64, ``(azimuths, rings, 3)``."""
        low, high = self.elevation
        up = torch.linspace(low, high, self.rings, dtype=torch.float64).deg2rad()
        columns = torch.arange(self.azimuths, dtype=torch.float64)[:, None]
        azimuth = math.pi - 2 * math.pi * (columns + 0.5) / self.azimuths
        x, y, z = azimuth.cos() * up.cos(), azimuth.sin() * up.cos(), up.sin()
        return torch.stack([x, y, z.expand(self.azimuths, -1)], dim=-1)

    @property
    def mount(self) -> Tensor:
        """Frame of the lidar in the frame of the car, float64 ``(4, 4)``."""
        turn = torch.tensor(
            [math.radians(self.tilt[0]), math.radians(self.tilt[1]), 0.0], dtype=torch.float64
        )
        return rigid(rotation(turn), torch.tensor([0.0, 0.0, self.height], dtype=torch.float64))

    def dropout_at(self, distance: Tensor) -> Tensor:
        """Compute the probability that a return from a distance is lost."""
        return (
            self.dropout[0] + (self.dropout[1] - self.dropout[0]) * (distance / self.reach).square()
        )


class SimulatedSequence:
    """Sweeps of a lidar on the street's car; each sweep is simulated on demand.

    Over a turn of the period T, the sensor and all moving objects go from their pose at its start
    to their pose at its end at constant speed: straight, and turning evenly. With a rolling
    shutter, a ray of column ``a`` is measured at the share ``s = a / azimuths`` of the turn,
    otherwise at its start; it meets the world at that time.

    - ``deskew=True``: points are in the sensor's frame at the sweep's timestamp, its start,
      ``p = S_k^-1 w``, where w is the place of the measured matter in the world *at the time of its
      measurement*. So the sensor's own motion is removed, and the motion of other objects is not.
    - ``deskew=False``: points are in the sensor's frame at the time of their measurement,
      ``p = S_k(s)^-1 w``.

    The flow of a point is the place of its matter one period after its measurement, in the frame of
    that time, minus the point: with the motion ``M`` of the point's object over that period,
    ``S_{k+1}^-1 M w - p`` deskewed, and ``S_{k+1}(s)^-1 M w - p`` otherwise. For matter at rest
    this is ``E p - p`` with ``E = S_{k+1}^-1 S_k``, exactly for deskewed points. M belongs to the
    measured place, with its noise: the flow is the rigid motion of the object at the point.

    A sweep is a function of (seed, number of the sweep). Its rows do not contain missing returns
    and are in the order of firing: column by column, and ring by ring from below. The last sweep
    has labels too, because the simulation continues.

    Args:
        street: street to measure.
        lidar: lidar on the car; a default `SpinningLidar` if None.
        sweeps: number of sweeps.
        seed: seed of noise and drop-out.
        rolling_shutter: whether the rays of a turn are measured one after the other.
        deskew: whether points are in the sensor's frame at the sweep's timestamp.
        start: the street's time at the first sweep, seconds.
        name: name of the sequence in messages.

    >>> lidar = SpinningLidar(rings=8, azimuths=200)
    >>> sequence = SimulatedSequence(random_town(seed=2), lidar, sweeps=3)
    >>> sweep = sequence[1]
    >>> sweep.labels.flow.shape == sweep.points.shape, sweep.timestamp, sequence.names
    (True, 0.1, ['000000', '000001', '000002'])
    """

    def __init__(
        self,
        street: Street,
        lidar: SpinningLidar | None = None,
        sweeps: int = 10,
        seed: int = 0,
        rolling_shutter: bool = True,
        deskew: bool = True,
        start: float = 0.0,
        name: str = "the simulated street",
    ) -> None:
        check_range(self, f"[1, {MOST_SWEEPS}]", sweeps=sweeps)
        self.street, self.lidar = street, lidar or SpinningLidar()
        self.seed, self.start, self.name = seed, start, name
        self.rolling_shutter, self.deskew = rolling_shutter, deskew
        self.names = [f"{k:06d}" for k in range(sweeps)]

    def __repr__(self) -> str:
        return (
            f"SimulatedSequence: {len(self)} sweeps of {self.name}, {self.lidar.rings} x "
            f"{self.lidar.azimuths} rays each"
        )

    def __len__(self) -> int:
        return len(self.names)

    def time_of(self, index: int) -> float:
        """Return the street's time at the start of a sweep, seconds."""
        return self.start + index / self.lidar.rate

    def pose(self, index: int) -> Tensor:
        """Return the sensor's frame in the world at a sweep's timestamp, float64 ``(4, 4)``.

        ``index`` may lie beyond the last sweep.
        """
        return self.street.ego_pose(self.time_of(index)) @ self.lidar.mount

    def __getitem__(self, index: int) -> Sweep:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sweep {index} of a sequence of {len(self)}")
        k = index % len(self)
        lidar, street = self.lidar, self.street
        period = 1 / lidar.rate
        columns = torch.arange(lidar.azimuths, dtype=torch.float64) / lidar.azimuths
        columns = columns * float(self.rolling_shutter)
        frames = _interpolate(self.pose(k), self.pose(k + 1), columns)
        directions = lidar.directions
        rays = directions @ frames[:, :3, :3].transpose(1, 2)
        origins = frames[:, None, :3, 3].expand_as(rays)
        share = columns[:, None].expand(rays.shape[:2])
        primitives = street.primitives(self.time_of(k), period)
        distance, primitive = cast_rays(
            origins.flatten(0, 1), rays.flatten(0, 1), share.flatten(), primitives, lidar.reach
        )
        # Noise is drawn for all rays, so that the draw of a ray does not depend on the hits of
        # others.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + k) % (1 << 62))
        noise, glitter = torch.randn(2, len(distance), generator=generator, dtype=torch.float64)
        luck = torch.rand(len(distance), generator=generator, dtype=torch.float64)
        stray = torch.zeros(len(distance), dtype=torch.bool)
        if lidar.stray > 0:
            # P(drop nearer than r) = 1 - (1 - stray)^((r - near) / 8 m).
            drop = torch.rand(len(distance), generator=generator, dtype=torch.float64)
            drop = lidar.near + _RAIN * drop.log() / math.log1p(-lidar.stray)
            stray = drop < distance.clamp(max=lidar.reach)
            distance = torch.where(stray, drop, distance)
        hit = distance.isfinite() & (distance >= lidar.near)
        returns = (hit & (luck >= lidar.dropout_at(distance))).nonzero().squeeze(1)
        column, ring = returns // lidar.rings, returns % lidar.rings
        ranges = (distance[returns] + lidar.noise_std * noise[returns]).clamp(min=0.0)
        measured = ranges[:, None] * directions[column, ring]
        deskewed = self.deskew or not self.rolling_shutter
        if deskewed and self.rolling_shutter:
            measured = _transform_each(frames[column], measured)
            measured = transform(inverse(self.pose(k)), measured)
        points = measured.float()
        world = (
            transform(self.pose(k), points.double())
            if deskewed
            else _transform_each(frames[column], points.double())
        )
        thing = street.owner[primitive[returns]]
        # Drops belong to no thing: thing -1.
        thing = thing.masked_fill(stray[returns], -1)
        labels = self._labels(k, points.double(), world, thing, columns[column], deskewed)
        glints = (1 + 0.05 * glitter[returns].float()).clamp(0.0, 2.0)
        intensity = street.reflectivity[primitive[returns]] * glints
        return Sweep(
            points,
            timestamp=k * period,
            time=(columns[column] * period).float(),
            intensity=intensity.clamp(max=1.0),
            ring=ring,
            pose=self.pose(k),
            deskewed=deskewed,
            boxes=self._boxes(k, thing),
            labels=labels,
            source=f"{self.name}, sweep {k}",
            meta={"period": period, "seed": self.seed, "simulated": True},
        )

    def _labels(
        self, k: int, points: Tensor, world: Tensor, thing: Tensor, share: Tensor, deskewed: bool
    ) -> FlowLabels:
        street, period = self.street, 1 / self.lidar.rate
        before, between, after = (street.poses(self.time_of(k + step)) for step in range(3))
        later = world.clone()
        moving = torch.zeros(len(points), dtype=torch.bool)
        for j in thing[thing >= 0].unique().tolist():
            if not torch.equal(before[j], between[j]) or not torch.equal(between[j], after[j]):
                rows = (thing == j).nonzero().squeeze(1)
                motion = _interpolate(between[j], after[j], share[rows]) @ inverse(
                    _interpolate(before[j], between[j], share[rows])
                )
                later[rows] = _transform_each(motion, world[rows])
                moving[rows] = True
        current, following, last = (self.pose(k + step) for step in range(3))
        if deskewed:
            # Points at rest move by the relative motion alone, without rounding by a detour over
            # the world.
            target = torch.where(
                moving[:, None],
                transform(inverse(following), later),
                transform(relative_motion(current, following), points),
            )
        else:
            target = _transform_each(inverse(_interpolate(following, last, share)), later)
        # The last row, number -1, belongs to drops of rain.
        instance = torch.full((len(street.things) + 1,), -1)
        instance[street.labelled] = torch.arange(len(street.labelled))
        category = torch.tensor([*(CATEGORIES.index(t.category) for t in street.things), 0])
        ground = torch.tensor([*(t.ground for t in street.things), False])
        dynamic = (later - world).norm(dim=1) > DYNAMIC_SPEED * period
        return FlowLabels(
            flow=(target - points).float(),
            valid=thing >= 0,
            dynamic=dynamic,
            category=category[thing],
            categories=CATEGORIES,
            ground=ground[thing],
            instance=instance[thing],
        )

    def _boxes(self, k: int, thing: Tensor) -> Boxes:
        """Return the boxes of the objects that were hit, at the sweep's timestamp."""
        street = self.street
        hit = [j for j in thing[thing >= 0].unique().tolist() if street.things[j].size]
        sizes = [street.things[j].size for j in hit]
        size = torch.tensor(sizes, dtype=torch.float64).reshape(-1, 3)
        middle = torch.zeros_like(size)
        middle[:, 2] = size[:, 2] / 2
        upright = torch.eye(3, dtype=torch.float64).expand(len(hit), 3, 3)
        pose = inverse(self.pose(k)) @ street.poses(self.time_of(k))[hit] @ rigid(upright, middle)
        return Boxes(
            pose,
            size.float(),
            tuple(street.things[j].name for j in hit),
            tuple(street.things[j].category for j in hit),
        )


def street(
    sweeps: int = 10,
    seed: int = 0,
    points: int = 60_000,
    rolling_shutter: bool = True,
    deskew: bool = True,
    traffic: float = 1.0,
) -> SimulatedSequence:
    """Create sweeps of a town with exact labels, for first steps, tests and demonstrations.

    Args:
        sweeps: number of sweeps, at 10 Hz.
        seed: seed of the town, and of the noise.
        points: approximate number of points per sweep, at most a million.
        rolling_shutter: see `SimulatedSequence`.
        deskew: see `SimulatedSequence`.
        traffic: amount of traffic, 1 on a normal day.

    >>> sequence = street(sweeps=2, points=4000)
    >>> sequence
    SimulatedSequence: 2 sweeps of the simulated street, 16 x 264 rays each
    >>> 3000 < len(sequence[0]) < 5000
    True
    """
    check_range("street", f"[1, {MOST_POINTS}]", points=points)
    # About nine rays in ten return; both directions are scaled alike.
    scale = math.sqrt(points / (64 * 1024 * 0.92))
    lidar = SpinningLidar(rings=max(1, round(64 * scale)), azimuths=max(1, round(1024 * scale)))
    return SimulatedSequence(
        random_town(seed, traffic=traffic), lidar, sweeps, seed, rolling_shutter, deskew
    )


def _interpolate(pose: Tensor, later: Tensor, share: Tensor) -> Tensor:
    """Interpolate between two poses at constant speed, ``(4, 4), (4, 4), (N,) -> (N, 4, 4)``."""
    return pose @ part_of(relative_motion(later, pose), share)


def _transform_each(motion: Tensor, points: Tensor) -> Tensor:
    """Move each point by its own motion, ``(N, 4, 4), (N, 3) -> (N, 3)``."""
    return (motion[:, :3, :3] @ points[..., None]).squeeze(-1) + motion[:, :3, 3]
