"""One dense cloud of a sequence: a static map and moving objects.

The map is joined by the motion of the sensor. Moving objects are gathered at one time by their
flow. `Cells` thins the cloud while it is made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.pytrees import join_items, select_items
from invtoolbox.datasets.ply import ply_stream
from invtoolbox.datasets.sweeps.flow_files import residual_flow
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import inverse, relative_motion, transform
from invtoolbox.geometry.sweeps import Sweeps
from invtoolbox.jobs.flow.evidence import apart_at_rest
from invtoolbox.jobs.flow.preparation import Preparation, sensor_frame
from invtoolbox.jobs.flow.sensor import Rays
from invtoolbox.jobs.flow.trajectories import FlowStep, carry, carry_back
from invtoolbox.kernels.points.nearest import Tree
from invtoolbox.plotting.birds_eye import flow_colors

# Three integers of 21 bits are packed into one of 63 bits. Cubes of 0.05 m then reach 52 km from the
# origin in each direction.
_BITS = 21
_HALF = 1 << (_BITS - 1)


class Cells:
    """Set of the occupied cubes of a grid, in a sorted array of eight bytes per cube.

    Args:
        side: side of a cube, metres; with 0 no two points share a cube.

    >>> cells = Cells(1.0)
    >>> cells.fresh(torch.tensor([[0.1, 0.1, 0.1], [0.2, 0.2, 0.2], [1.5, 0.0, 0.0]]))
    tensor([ True, False,  True])
    >>> cells.fresh(torch.tensor([[0.9, 0.9, 0.9], [3.0, 0.0, 0.0]]))
    tensor([False,  True])
    """

    def __init__(self, side: float) -> None:
        self.side = side
        self._taken = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._taken)

    def fresh(self, points: Tensor) -> Tensor:
        """Return which points are the first in their cubes, boolean ``(N,)``.

        Their cubes are marked as occupied.
        """
        if not self.side:
            return torch.ones(len(points), dtype=torch.bool)
        keys = self._keys(points.to(torch.float64).cpu().numpy())
        # `first` holds the lowest row of every key, so the first point of a cube is the one that stays.
        unique, first = np.unique(keys, return_index=True)
        # Both arrays are sorted: a key is occupied if it stands at the place where it would be
        # inserted. Insertion at those places keeps the array sorted.
        place = np.searchsorted(self._taken, unique)
        occupied = place < len(self._taken)
        occupied[occupied] = self._taken[place[occupied]] == unique[occupied]
        fresh = np.zeros(len(keys), dtype=bool)
        fresh[first[~occupied]] = True
        self._taken = np.insert(self._taken, place[~occupied], unique[~occupied])
        return torch.from_numpy(fresh)

    def forget(self, centre: Tensor, radius: float) -> None:
        """Free the cubes that are far from a point, ``(3,)``.

        These are the cubes whose corner is farther than `radius` metres away in the plane.
        """
        if len(self._taken):
            # Shift, mask and offset undo `_keys` for x and y; the height does not count.
            corners = [
                ((self._taken >> shift) & (2 * _HALF - 1)) - _HALF for shift in (2 * _BITS, _BITS)
            ]
            away = [self.side * corner - float(centre[axis]) for axis, corner in enumerate(corners)]
            self._taken = self._taken[away[0] ** 2 + away[1] ** 2 <= radius**2]

    def _keys(self, points: np.ndarray) -> np.ndarray:
        cells = np.floor(points / self.side)
        if cells.size and not float(np.abs(cells).max()) < _HALF:
            raise InputError(
                f"points reach {float(np.abs(points).max()):g} m, which is too far for cubes of "
                f"{self.side:g} m; choose larger ones, or leave far points out"
            )
        # Coordinates of cubes from -2^20 to 2^20 - 1 are made nonnegative, and packed as x y z.
        x, y, z = (cells.astype(np.int64) + _HALF).T
        return (x << (2 * _BITS)) | (y << _BITS) | z


#: Brightness of static points.
_GREY = 0.62
#: A place of a map is free in a sweep if this many of the nearest rays end behind it, by at least the
#: second number, metres.
_AROUND, _BEHIND = 6, 0.5


class FlowSteps(Protocol):
    """Sweeps with their flows, in the order of time.

    Any object with a length will do; its items are read when they are indexed.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> FlowStep: ...


@dataclass(frozen=True)
class Accumulation:
    """Settings of a dense cloud of sweeps.

    Attributes:
        reference: number of the sweep whose frame and time the cloud has.
        window: number of sweeps before and after the reference whose moving points are used. The
            flows are chained, and their errors add.
        cell: side of a cube, metres; the first point in every cube is kept. 0 keeps all points.
        max_range: distance from the sensor beyond which points are left out, metres.
        forget: distance from the sensor beyond which cubes of the map are forgotten, metres, more
            than `max_range`. Memory then does not grow with the path of the sensor; a place that is
            passed again is written again.
        neighbours, reach: settings of the interpolation of the flow, see `carry`.
        full_speed: speed with the most saturated color, metres per sweep.
    """

    reference: int = 0
    window: int = 10
    cell: float = 0.05
    max_range: float = 80.0
    forget: float = 200.0
    neighbours: int = 4
    reach: float = 1.0
    full_speed: float = 1.5

    def __post_init__(self) -> None:
        check_range(self, "[0, inf]", "window", "cell")
        if not self.forget > self.max_range > 0:
            raise InputError(
                f"max_range is {self.max_range} and forget {self.forget} m; give 0 < max_range < "
                "forget"
            )


@dataclass(frozen=True, eq=False)
class Piece:
    """Part of the cloud with n points.

    Attributes:
        points: points in the frame of the reference sweep, metres, float32 ``(n, 3)``.
        colors: red, green and blue in [0, 1], ``(n, 3)``: grey for static points, by direction and
            speed for moving ones.
        moving: whether the points belong to moving objects.
        sweep: number of the sweep in which the points were measured.
        frame: motion from the frame of a static piece's sweep to the frame of the reference,
            float64 ``(4, 4)``.
    """

    points: Tensor
    colors: Tensor
    moving: bool
    sweep: int
    frame: Tensor = field(default_factory=lambda: torch.eye(4, dtype=torch.float64))


@dataclass(frozen=True)
class Accumulated:
    """Record of a cloud that was written.

    Attributes:
        path: the file.
        static: number of static points in it.
        moving: number of moving points in it.
    """

    path: Path
    static: int
    moving: int


def accumulate(steps: FlowSteps, settings: Accumulation | None = None) -> Iterator[Piece]:
    """Yield the cloud piece by piece.

    One sweep and the points of moving objects within the window are in memory at a time. Moving
    points are carried from their own sweep to the reference by the flows in between, forward from
    earlier sweeps and backward from later ones. A point is left out if no moving point was measured
    near it on the way, for example because its object stops. Frames are joined by the poses if all
    steps have one, else by the ego motions of the steps, whose errors add.

    Args:
        steps: sweeps with their flows.
        settings: settings of the cloud.
    """
    settings = settings or Accumulation()
    if not 0 <= settings.reference < len(steps):
        raise InputError(
            f"the reference is sweep {settings.reference}; there are flows of {len(steps)}, so "
            f"give 0 to {len(steps) - 1}"
        )
    yield from static_pieces(steps, settings)
    yield from _moving(steps, settings)


def write_accumulated(
    path: str | os.PathLike[str],
    steps: FlowSteps,
    settings: Accumulation | None = None,
    overwrite: bool = False,
) -> Accumulated:
    """Write the cloud as PLY.

    The fields are x, y, z in the frame of the reference sweep, red, green, blue, ``moving`` (0 or
    1) and ``sweep``.

    Args:
        path: the file.
        steps: sweeps with their flows.
        settings: settings of the cloud.
        overwrite: replace an existing file.
    """
    fields = {
        "x": "f4",
        "y": "f4",
        "z": "f4",
        "red": "u1",
        "green": "u1",
        "blue": "u1",
        "moving": "u1",
        "sweep": "i4",
    }
    written = {False: 0, True: 0}
    with ply_stream(path, fields, overwrite) as append:
        for piece in accumulate(steps, settings):
            # PLY holds colors as whole numbers from 0 to 255.
            xyz, rgb = piece.points.numpy(), (255 * piece.colors).round().to(torch.uint8).numpy()
            places = {axis: xyz[:, k] for k, axis in enumerate("xyz")}
            colors = {name: rgb[:, k] for k, name in enumerate(("red", "green", "blue"))}
            append(
                {
                    **places,
                    **colors,
                    "moving": np.full(len(xyz), piece.moving),
                    "sweep": np.full(len(xyz), piece.sweep),
                }
            )
            written[piece.moving] += len(xyz)
    return Accumulated(Path(path).expanduser(), written[False], written[True])


def static_pieces(steps: FlowSteps, settings: Accumulation) -> Iterator[Piece]:
    """Yield the static points, from the reference outwards.

    In this order every sweep is read once to join the frames.

    Args:
        steps: sweeps with their flows.
        settings: settings of the cloud.
    """
    start = steps[settings.reference]
    cells = Cells(settings.cell)
    for order in (range(settings.reference, len(steps)), range(settings.reference - 1, -1, -1)):
        # Both directions start at the reference; its static points fill their cubes first.
        to_reference = torch.eye(4, dtype=torch.float64)
        before = start
        for m in order:
            step = start if m == settings.reference else steps[m]
            to_reference = _join_frame(
                to_reference, before, step, start, forward=m > settings.reference
            )
            before = step
            static = (
                step.points.isfinite().all(1)
                & (step.points[:, :2].norm(dim=1) < settings.max_range)
                & step.flow.isfinite().all(1)
            )
            if step.dynamic is not None:
                static &= ~step.dynamic
            # In float64, because the path of the sensor may be kilometres long.
            places = transform(to_reference, step.points[static].to(torch.float64))
            places = places[cells.fresh(places)]
            # The translation of `to_reference` is the place of the sensor.
            cells.forget(to_reference[:3, 3], settings.forget)
            yield Piece(
                places.to(torch.float32),
                torch.full_like(places, _GREY, dtype=torch.float32),
                False,
                m,
                to_reference,
            )


def map_scores(points: Tensor, pieces: Sequence[Piece], sweeps: Sweeps) -> np.ndarray:
    """Return the share of the sweeps that see a place of a map and find it occupied, ``(n,)``.

    Args:
        points: points of the map, ``(n, 3)``.
        pieces: pieces of the map, with the frames of their sweeps.
        sweeps: the sequence.
    """
    occupied, free = torch.zeros(2, len(points))
    sensor = sensor_frame(sweeps[0], Preparation(), [])[:3, 3]
    for piece in pieces:
        sweep = sweeps[piece.sweep]
        measured = sweep.points[sweep.finite].double() - sensor
        places = transform(inverse(piece.frame), points.double()) - sensor
        inside = (places[:, :2].norm(dim=1) < Accumulation().max_range).nonzero().squeeze(1)
        places, rays = places[inside], Rays.of(measured)
        far, reach = places.norm(dim=1), measured.norm(dim=1)
        near = Tree(measured).query(places, 1.0)[0] < apart_at_rest(far, rays)
        # A place is free if rays on all sides of it go on beyond it. Below the lowest line there are
        # none, and a surface at a grazing angle lies between a ray that ends before and one behind.
        sight, ahead = measured / reach[:, None], places / far[:, None]
        beside = Tree(sight).neighbours(ahead, _AROUND)
        passed = (sight[beside].mean(1) - ahead).norm(dim=1) < rays.lines
        passed &= (reach[beside] > far[:, None] + _BEHIND).all(1) & ~near
        occupied[inside] += near.float()
        free[inside] += passed.float()
    return (occupied / (occupied + free).clamp_min(1.0)).numpy()


def _join_frame(
    to_reference: Tensor, before: FlowStep, step: FlowStep, start: FlowStep, forward: bool
) -> Tensor:
    """Return the motion from a step's frame to the reference frame.

    `to_reference` is the motion of the step that was visited before.
    """
    if step.pose is not None and start.pose is not None:
        # E = pose_reference^-1 pose_step, without an accumulation of errors.
        return relative_motion(step.pose, start.pose)
    if step is start:
        return to_reference
    # T_k = T_{k-1} E_{k-1}^-1 forward in time, and T_k = T_{k+1} E_k backward, because E_k maps the
    # frame of the sweep k to the frame of the sweep k + 1.
    return to_reference @ (
        inverse(before.ego_motion.to(torch.float64))
        if forward
        else step.ego_motion.to(torch.float64)
    )


@dataclass(frozen=True, eq=False)
class _Carried:
    """Points of moving objects on their way to the reference, with their first sweep and flow."""

    points: Tensor
    flow: Tensor
    sweep: Tensor


def _moving(steps: FlowSteps, settings: Accumulation) -> Iterator[Piece]:
    """Yield the moving points at the time of the reference, from later sweeps before earlier ones."""
    reference, last = settings.reference, len(steps) - 1
    at_reference = _moving_of(steps[reference], reference, settings)
    # Points of the sweep m need the flows of m, ..., reference - 1 forward, or of m - 1, ...,
    # reference backward, so a sweep joins those on their way when they reach it. Both ways start
    # with no point.
    earlier = later = select_items(at_reference, torch.zeros(0, dtype=torch.long))
    for m in range(max(0, reference - settings.window), reference):
        carried = join_items([earlier, _moving_of(steps[m], m, settings)])
        earlier = _carry_on(carry, carried, steps[m], settings)
    for m in range(min(last, reference + settings.window), reference, -1):
        carried = join_items([later, _moving_of(steps[m], m, settings)])
        later = _carry_on(carry_back, carried, steps[m - 1], settings)
    # Points measured at the reference itself are exact, so they take their cubes first. Moving and
    # static points have cubes of their own.
    cells = Cells(settings.cell)
    for carried in (at_reference, later, earlier):
        fresh = cells.fresh(carried.points)
        for m in carried.sweep[fresh].unique().tolist():
            rows = fresh & (carried.sweep == m)
            colors = torch.from_numpy(flow_colors(carried.flow[rows].numpy(), settings.full_speed))
            yield Piece(carried.points[rows].to(torch.float32), colors.to(torch.float32), True, m)


def _carry_on(
    move: Callable[..., tuple[Tensor, Tensor]],
    carried: _Carried,
    step: FlowStep,
    settings: Accumulation,
) -> _Carried:
    """Carry points over one step, and drop those without a measured point in reach.

    The step has its moving points alone. If an object is hidden, its points are then lost and do
    not stay on the road.
    """
    dynamic = _dynamic(step)
    # Only moving points are left, so moving and static neighbours need not be told apart.
    alone = replace(step, points=step.points[dynamic], flow=step.flow[dynamic], dynamic=None)
    places, measured = move(carried.points, alone, settings.neighbours, settings.reach)
    return select_items(replace(carried, points=places), measured.nonzero().squeeze(1))


def _dynamic(step: FlowStep) -> Tensor:
    if step.dynamic is None:
        raise InputError(
            f"{step.name}: the flow does not say which points move; objects cannot be gathered"
        )
    return step.dynamic


def _moving_of(step: FlowStep, index: int, settings: Accumulation) -> _Carried:
    # Colors show the residual flow, because the motion of the sensor would color a parked car.
    moves = (
        _dynamic(step)
        & step.flow.isfinite().all(1)
        & (step.points[:, :2].norm(dim=1) < settings.max_range)
    )
    residual = residual_flow(step.flow, step.points, step.ego_motion)
    # Every point keeps the number of its sweep, because points of several sweeps travel together.
    return _Carried(
        step.points[moves].to(torch.float64),
        residual[moves].to(torch.float64),
        torch.full((int(moves.sum()),), index),
    )
