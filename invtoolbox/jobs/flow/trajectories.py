"""Tracks of points through a sequence: the flows of consecutive pairs, chained.

`FiledFlow` reads the flows from the result files of a sequence.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.datasets.sweeps.flow_files import FlowFile, read_flow, residual_flow
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import check_motion, inverse, transform
from invtoolbox.geometry.sweeps import Sweeps


@dataclass(frozen=True)
class FiledFlow:
    """Every sweep but the last with its flow.

    A sweep is read from the sequence and from ``FOLDER/NAME.npz`` when it is indexed.

    Args:
        sweeps: the sequence whose flow was estimated.
        folder: folder of the result files that `write_flow` wrote.

    >>> from invtoolbox import simulation
    >>> len(FiledFlow(simulation.street(sweeps=3, points=2000), "results"))
    2
    """

    sweeps: Sweeps
    folder: str | os.PathLike[str]

    def __len__(self) -> int:
        return max(len(self.sweeps) - 1, 0)

    def __getitem__(self, index: int) -> FlowStep:
        """Return the step of a sweep.

        Raises:
            InputError: the flow is missing or damaged, or belongs to another sweep.
        """
        if not 0 <= index < len(self):
            raise IndexError(
                f"there are flows of {len(self)} sweeps, and number {index} is asked for"
            )
        path = Path(self.folder).expanduser() / f"{self.sweeps.names[index]}.npz"
        if not path.is_file():
            raise InputError(
                f"{path}: there is no flow of that sweep; estimate it first, or leave the sweeps "
                "after it out"
            )
        flow, sweep = read_flow(path), self.sweeps[index]
        if len(flow) != len(sweep):
            raise InputError(
                f"{path}: the flow of {len(flow):,} points, and {sweep.source} has "
                f"{len(sweep):,}; it belongs to another"
            )
        return FlowStep.of(sweep.points, flow, sweep.pose)


#: Number of points that are carried at once.
_BLOCK = 200_000
#: Distance within which a point takes the flow of a measured point alone, metres.
_SAME = 1e-3

#: Flow at any place of a sweep with the motion of the sensor: ``(M, 3) -> (M, 3)``, both float64.
FlowField = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class FlowStep:
    """Sweep of N points with its flow to the next sweep.

    Attributes:
        points: points in the sensor's frame, metres, ``(N, 3)``.
        flow: flow with the motion of the sensor, ``(N, 3)``; points whose flow is not finite are
            not used.
        ego_motion: motion of the static world in the sensor's frame, ``p1 = E p0``, ``(4, 4)``.
        dynamic: which points move in the world, boolean ``(N,)``; None if it is unknown.
        field: flow at any place, if the method provides it; else the flow of the nearest points is
            interpolated.
        pose: the sensor's frame in the world, ``(4, 4)``; or None.
        name: name of the sweep, for messages.
    """

    points: Tensor
    flow: Tensor
    ego_motion: Tensor
    dynamic: Tensor | None = None
    field: FlowField | None = None
    pose: Tensor | None = None
    name: str = "a sweep"

    @classmethod
    def of(cls, points: Tensor, file: FlowFile, pose: Tensor | None = None) -> FlowStep:
        """Return the step of a sweep with the flow that a file holds."""
        return cls(
            points,
            # Points that are not valid, such as those of the sensor's vehicle, are not used.
            file.flow.masked_fill(~file.valid[:, None], torch.nan),
            file.ego_motion,
            file.dynamic & file.valid,
            pose=pose,
            name=file.names[0] or "a sweep",
        )


@dataclass(frozen=True, eq=False)
class Tracks:
    """Positions of M points at T times.

    Attributes:
        positions: positions in the frame of the sensor at each time, metres, float64 ``(T, M, 3)``.
        known: boolean ``(T, M)``; false from the time at which no point was measured near the
            point. The point is then assumed to stand still in the world.
        motions: motion of a static point from the first frame of the sensor to the frame at each
            time, float64 ``(T, 4, 4)``.
    """

    positions: Tensor
    known: Tensor
    motions: Tensor


def track(
    points: Tensor, steps: Iterable[FlowStep], neighbours: int = 4, reach: float = 1.0
) -> Tracks:
    """Follow points through a sequence by forward Euler: ``p_{k+1} = p_k + f_k(p_k)``.

    Errors of the flow add from step to step. A point that has moved follows moving points as long
    as one is in reach; otherwise the road behind an object that is hidden for a sweep would hold
    the point back. The sweeps are read one after another, so a generator keeps one in memory.

    Args:
        points: start of the tracks in the frame of the first sweep, ``(M, 3)``; measured points or
            any other points.
        steps: T - 1 sweeps with their flows, in the order of time.
        neighbours: number of measured points per point, as in `carry`.
        reach: distance beyond which a measured point is ignored, metres, as in `carry`.

    Source: Vidanapathirana, Chng, Li, Lucey, "Multi-body neural scene flow", 3DV 2024, the forward
    Euler integration.

    >>> step = FlowStep(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]]), torch.eye(4))
    >>> track(torch.zeros(1, 3), [step]).positions[1]
    tensor([[1., 0., 0.]], dtype=torch.float64)
    """
    if points.ndim != 2 or points.shape[1] != 3:
        raise InputError(f"the points to follow have shape {tuple(points.shape)}; expected (M, 3)")
    places = [points.detach().cpu().to(torch.float64)]
    measured, motions = [places[0].isfinite().all(1)], [torch.eye(4, dtype=torch.float64)]
    moving = torch.zeros(len(points), dtype=torch.bool)
    for step in steps:
        place, in_reach, moving = _carry(places[-1], step, neighbours, reach, moving)
        places.append(place)
        # A point that was lost once stays unmeasured: its place is an assumption from then on.
        measured.append(measured[-1] & in_reach)
        # E_k ... E_1 E_0 moves static points from the first frame to the frame k + 1.
        motions.append(step.ego_motion.to(torch.float64) @ motions[-1])
    return Tracks(torch.stack(places), torch.stack(measured), torch.stack(motions))


def carry(
    points: Tensor, step: FlowStep, neighbours: int = 4, reach: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Move points from a sweep to the next sweep by its flow.

    The flow of a point without the motion of the sensor is the mean flow of its nearest measured
    points, with weights of one over the squared distance; a measured point takes its own flow. If
    the step knows which points move, either the moving or the static neighbours count, whichever
    weigh more, so the road under a car does not slow the car down.

    Args:
        points: points in the frame of the sweep, ``(M, 3)``.
        step: the sweep with its flow.
        neighbours: number of measured points per point.
        reach: distance beyond which a measured point is ignored, metres. A point without a nearer
            measured point is assumed to stand still in the world.

    Returns:
        The points in the frame of the next sweep, float64 ``(M, 3)``, and which of them had a
        measured point in reach, ``(M,)``.
    """
    still = torch.zeros(len(points), dtype=torch.bool)
    return _carry(points, step, neighbours, reach, still)[:2]


def _carry(
    points: Tensor, step: FlowStep, neighbours: int, reach: float, moving: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Carry points as `carry` does, with moving points after moving neighbours if one is in reach.

    Also returns which points move now, ``(M,)``.
    """
    E, points = _ego_motion(step), points.to(torch.float64)
    # A field is the whole flow f = E p - p + r of any place, so E is not applied again.
    if step.field is not None:
        return points + step.field(points), points.isfinite().all(1), moving
    at, residual, moves = _measured(step)
    # A point that has moved follows moving neighbours in reach even if static ones are nearer.
    flow, in_reach, moves_now = _interpolate(points, at, residual, moves, neighbours, reach)
    if moves is not None and bool(moving.any()):
        followed, near, _ = _interpolate(
            points[moving], at[moves], residual[moves], None, neighbours, reach
        )
        flow[moving] = torch.where(near[:, None], followed, flow[moving])
        moves_now[moving] |= near
    # Vidanapathirana et al. 2024: a step of forward Euler, p' = E p + r(p), with the residual flow r.
    return transform(E, points) + flow, in_reach, moves_now


def carry_back(
    points: Tensor, step: FlowStep, neighbours: int = 4, reach: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Move points from the next sweep back to the sweep of the step.

    This is the inverse of `carry`; it interpolates between the places to which the measured points
    move.

    Args:
        points: points in the frame of the next sweep, ``(M, 3)``.
        step: the sweep with its flow.
        neighbours: as in `carry`.
        reach: as in `carry`.

    Returns:
        The points in the frame of the sweep of the step, float64 ``(M, 3)``, and which of them had
        a measured point in reach, ``(M,)``.

    >>> step = FlowStep(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]]), torch.eye(4))
    >>> carry_back(torch.tensor([[1.0, 0.0, 0.0]]), step)[0]
    tensor([[0., 0., 0.]], dtype=torch.float64)
    """
    E, points = _ego_motion(step), points.to(torch.float64)
    at, residual, moves = _measured(step)
    # p = E^-1 (p' - r), with r interpolated between the places E q + r(q) of the measured points q.
    flow, in_reach, _ = _interpolate(
        points, transform(E, at) + residual, residual, moves, neighbours, reach
    )
    return transform(inverse(E), points - flow), in_reach


def _ego_motion(step: FlowStep) -> Tensor:
    return check_motion(step.ego_motion, f"{step.name}: the motion of the sensor")


def _measured(step: FlowStep) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the usable points of a step, their residual flow, and whether they move.

    The residual flow is the flow without the motion of the sensor.
    """
    if step.points.shape != step.flow.shape or (
        step.dynamic is not None and step.dynamic.shape != step.points.shape[:1]
    ):
        raise InputError(
            f"{step.name}: {tuple(step.points.shape)} points and a flow of "
            f"{tuple(step.flow.shape)} do not belong together"
        )
    # r = f - (E p - p) is interpolated instead of f, in which a turn of the sensor grows with the
    # distance.
    residual = residual_flow(step.flow, step.points, step.ego_motion).to(torch.float64).cpu()
    usable = residual.isfinite().all(1)
    return (
        step.points.cpu().to(torch.float64)[usable],
        residual[usable],
        None if step.dynamic is None else step.dynamic.cpu()[usable],
    )


def _interpolate(
    points: Tensor, at: Tensor, flow: Tensor, moves: Tensor | None, neighbours: int, reach: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Interpolate the flow of measured points between the nearest ones.

    Returns:
        The weighted mean, ``(M, 3)``, zero if no point is in reach; whether a point is in reach;
        and whether the moving neighbours weighed more.
    """
    from scipy.spatial import cKDTree

    check_range("carry", "(0, inf]", neighbours=neighbours, reach=reach)
    mean, in_reach = torch.zeros_like(points), torch.zeros(len(points), dtype=torch.bool)
    mostly_moving = torch.zeros_like(in_reach)
    if not len(at):
        return mean, in_reach, mostly_moving
    # A list of ranks, because SciPy drops the axis of neighbours for the number 1.
    tree, ranks = cKDTree(at.numpy()), [*range(1, min(neighbours, len(at)) + 1)]
    for start in range(0, len(points), _BLOCK):
        rows = slice(start, start + _BLOCK)
        block, finite = points[rows], points[rows].isfinite().all(1)
        distance, index = map(
            torch.from_numpy,
            tree.query(block[finite].numpy(), k=ranks, distance_upper_bound=reach),
        )
        within = distance.isfinite()
        # A neighbour that is not found has an index beyond the last point, and the weight 0.
        index[~within] = 0
        # Inverse distance weighting (Shepard 1968): sum_i w_i f_i / sum_i w_i with w_i = 1 / d_i^2,
        # shapes (m, neighbours) for d and (m, neighbours, 3) for f.
        weight = torch.where(
            within, 1 / distance.clamp_min(_SAME).square(), torch.zeros_like(distance)
        )
        # A measured point takes its own flow alone.
        weight = torch.where(
            (distance[:, :1] < _SAME).expand_as(weight), (distance < _SAME).to(weight), weight
        )
        if moves is not None:
            # The smaller of the two parties, moving or static, loses its weights.
            moving = moves[index] & within
            mostly = (weight * moving).sum(1, keepdim=True) > 0.5 * weight.sum(1, keepdim=True)
            weight = weight * (moving == mostly)
            mostly_moving[rows][finite] = mostly[:, 0]
        total = weight.sum(1, keepdim=True)
        in_reach[rows][finite] = within.any(1)
        # Slices are views, so these assignments write into the rows of the block. Without a weight the
        # mean is 0, and the point stands still in the world.
        mean[rows][finite] = (weight[..., None] * flow[index]).sum(1) / torch.where(
            total > 0, total, torch.ones_like(total)
        )
    return mean, in_reach, mostly_moving
