"""Items of streets, of depths of several views, and of events."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.geometry import Cameras, look_at
from invtoolbox.geometry.sweeps import Sweep
from zoo.items import LEAST, Answer, Item, Job, draws, listen, log_uniform
from zoo.pictures import Array
from zoo.shapes import ONLY

# -- streets and rooms -----------------------------------------------------------------------------

#: Noise of a lidar in metres: no flow is better than this.
LIDAR = 0.02


def street(index: int) -> Item:
    """Two sweeps in a town, with poses or without, or two scans of a room with a moving box."""
    draw = draws("street", index)
    if index % 8 >= 6:
        return _room(draw)
    sequence = it.simulation.street(
        sweeps=3,
        seed=int(draw.integers(10_000, 10**6)),
        points=int(draw.integers(1000, 2200)),
        rolling_shutter=bool(draw.uniform() < 0.5),
        traffic=float(draw.uniform(0, 2)),
    )
    first = int(draw.integers(2))
    source, target = sequence[first], sequence[first + 1]
    has_pose = draw.uniform() < 0.5
    return _pair(
        f"street, {len(source.points)} points, {'poses' if has_pose else 'no poses'}",
        source if has_pose else source.points,
        target if has_pose else target.points,
        source.labels.flow.double(),  # type: ignore[union-attr]
    )


def _room(draw: np.random.Generator) -> Item:
    """Return a pair of scans of a room, drawn anew, from a sensor that moves, or does not."""
    size = draw.uniform(6, 20, 3) * np.array([1, 1, 0.25])
    centre = size * draw.uniform(-0.25, 0.25, 3) * np.array([1, 1, 0])
    moves = draw.uniform() < 0.7
    turn = draw.uniform(-0.08, 0.08) * moves
    step = draw.uniform(-0.4, 0.4, 3) * np.array([1, 1, 0.1]) * moves
    own = draw.uniform(-0.6, 0.6, 3) * np.array([1, 1, 0]) * (draw.uniform() < 0.6)

    def scan() -> tuple[Array, Array]:
        """Return points in the frame of the first scan, and whether they lie on the box."""
        walls = _box_points(draw, 900, size) + np.array([0, 0, size[2] / 2 - 1.2])
        box = _box_points(draw, 150, np.array([1.2, 0.9, 1.4])) + centre - np.array([0, 0, 0.5])
        is_box = np.arange(1050) >= 900
        return np.concatenate([walls, box]), is_box

    (points, is_box), (later, later_box) = scan(), scan()
    c, s = math.cos(turn), math.sin(turn)
    R = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    # p1 = R (p0 + own) + step, where own is the motion of the box.
    flow = (points + is_box[:, None] * own) @ R.T + step - points
    later = (later + later_box[:, None] * own) @ R.T + step
    noise = 0.005 * draw.standard_normal((2, *points.shape))
    return _pair(
        f"room, sensor {np.linalg.norm(step):.2g} m and {turn:.2g} rad, box "
        f"{np.linalg.norm(own):.2g} m",
        torch.from_numpy(points + noise[0]).float(),
        torch.from_numpy(later + noise[1]).float(),
        torch.from_numpy(flow),
    )


def _box_points(draw: np.random.Generator, count: int, size: Array) -> Array:
    """Return points on the six faces of a box around the origin."""
    points = draw.uniform(-0.5, 0.5, (count, 3))
    area = np.repeat([size[1] * size[2], size[0] * size[2], size[0] * size[1]], 2)
    face = draw.choice(6, count, p=area / area.sum())
    points[np.arange(count), face // 2] = np.where(face % 2, 0.5, -0.5)
    return points * size


def _pair(words: str, source: Any, target: Any, truth: Tensor) -> Item:
    def compute(_: str) -> Answer:
        from invtoolbox.jobs.flow import estimate

        sweeps = [x if isinstance(x, Sweep) else Sweep(x) for x in (source, target)]
        found, marks = listen(lambda: estimate(sweeps[0], sweeps[1]))
        return Answer(found.flow.double(), "", found.notes, marks)

    return Item(words, truth, torch.zeros_like(truth), compute, LIDAR, is_vector=True)


# -- depths of several views -----------------------------------------------------------------------


def _scene_depths(draw: np.random.Generator, cameras: Cameras, unit: float) -> tuple[str, Tensor]:
    """Return a scene in words, and the depths of a wall, perhaps a floor, and balls, in closed form."""
    origins, directions = (each.double() for each in cameras.rays())
    origins = origins / unit
    has_floor, count = draw.uniform() < 0.6, int(draw.integers(0, 4))
    tilt = draw.uniform(-0.4, 0.4, 2)
    planes = [((tilt[0], 0.1 * tilt[1], 1.0), draw.uniform(0.8, 2.5))]
    if has_floor:
        planes.append(((0.0, 1.0, 0.0), draw.uniform(0.7, 1.2)))
    depths = []
    for normal, offset in planes:
        n = torch.tensor(normal, dtype=torch.float64)
        distance = (offset - origins @ n) / (directions @ n)
        depths.append(torch.where(distance > 0, distance, torch.inf))
    for _ in range(count):
        centre = torch.from_numpy(draw.uniform(-0.6, 0.6, 3))
        radius = draw.uniform(0.15, 0.45)
        away = origins - centre
        a, b = directions.square().sum(-1), (away * directions).sum(-1)
        root = b**2 - a * (away.square().sum(-1) - radius**2)
        ball = (-b - root.clamp_min(0).sqrt()) / a
        depths.append(torch.where((root > 0) & (ball > 0), ball, torch.inf))
    words = f"wall{', floor' if has_floor else ''}, {count} balls"
    return words, unit * torch.stack(depths).amin(0)


def depths(index: int) -> Item:
    """Maps of a scene, right up to a scale and a shift per view, and noise; the maps as they are."""
    draw = draws("depths", index)
    size = tuple(int(n) for n in draw.integers(24, 41, 2))
    views = int(draw.integers(2, 6))
    unit = log_uniform(draw, 0.1, 100.0)
    # Camera positions on an arc before the scene, near to each other or far apart.
    spread = log_uniform(draw, 0.08, 0.8)
    turn = torch.from_numpy(
        np.linspace(-0.5, 0.5, views) * spread + draw.normal(0, 0.05 * spread, views)
    )
    height = torch.from_numpy(draw.uniform(-0.3, 0.3, views) * spread)
    positions = torch.stack([3 * turn.sin(), height - 0.3, -3 * turn.cos()], 1)
    cameras = look_at(unit * positions, size=size, field_of_view=draw.uniform(30, 55))  # type: ignore[arg-type]
    cameras = cameras.to(torch.float64)
    words, truth = _scene_depths(draw, cameras, unit)
    off = (0.0, 0.05, 0.4)[draw.integers(3)]
    scale = np.exp(off * draw.standard_normal(views))
    shift = 0.3 * off * unit * draw.standard_normal(views)
    level = 0.0 if draw.uniform() < 0.15 else log_uniform(draw, 2e-3, 0.1)
    noise = 1 + level * draw.standard_normal(tuple(truth.shape))
    gains, offsets = (torch.from_numpy(each)[:, None, None] for each in (scale, shift))
    maps = gains * truth * torch.from_numpy(noise) + offsets

    def compute(_: str) -> Answer:
        found, sentences = listen(lambda: it.align_depths(maps.float(), cameras.to(torch.float32)))
        status = found.alignments[0].status[0]
        notes = tuple(getattr(found, "notes", ()))
        return Answer(found.depths.double(), status, notes, sentences + notes)

    span = float(truth.amax() - truth.amin())
    return Item(
        f"{words}, {views} views of {size[0]}x{size[1]}, baseline {3 * spread:.2g}, unit "
        f"{unit:.2g}, scales off {off:.2g}, noise {100 * level:.2g} %",
        truth[None],
        maps[None],
        compute,
        LEAST * span,
    )


# -- events ----------------------------------------------------------------------------------------

#: Pixels within the duration: no flow is better than this.
STEP = 0.1


def events(index: int) -> Item:
    """Events of a camera that moves before a smooth surface."""
    from invtoolbox.simulation import simulate_events

    draw = draws("events", index)
    size = tuple(int(n) for n in draw.integers(32, 65, 2))
    duration = log_uniform(draw, 0.005, 0.5)
    count, points = int(draw.integers(600, 2001)), int(draw.integers(30, 200))
    simulated = simulate_events(
        int(draw.integers(10**6)),
        count=count,
        points=points,
        size=size,  # type: ignore[arg-type]
        focal=float(draw.uniform(0.7, 2.0)) * max(size),
        duration=duration,
        whole=bool(draw.uniform() < 0.5),
    )
    truth = simulated.picture_flow.flatten(0, 1)

    def compute(_: str) -> Answer:
        found, sentences = listen(lambda: it.event_flow(simulated.events, simulated.intrinsics))
        # That the velocity is not determined does not concern the flow.
        marks = tuple(
            note
            for note in found.notes
            if note not in found.solution.notes and "a rotation explains" not in note
        )
        flow = found.flow[0].double().flatten(0, 1)
        return Answer(flow, found.status[0], found.notes, sentences + marks)

    speed = float(truth.norm(dim=1).mean()) * duration
    return Item(
        f"{count} events of {points} points, {size[0]}x{size[1]}, {duration:.2g} s, {speed:.2g} "
        "pixels of motion",
        truth,
        torch.zeros_like(truth),
        compute,
        STEP / duration,
        is_vector=True,
    )


JOBS = {
    "street": Job(street, 28, ONLY, "zero flow"),
    "depths": Job(depths, 28, ONLY, "the maps as they are"),
    "events": Job(events, 26, ONLY, "zero flow"),
}
