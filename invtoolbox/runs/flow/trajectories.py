"""A sequence together with the files of its flow, as tracks and clouds take it.

Where points go through a sequence: the flows of consecutive pairs, integrated.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.datasets.sweeps.flow_files import FlowFile, read_flow, residual_flow
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import check_motion, inverse, transform
from invtoolbox.geometry.sweeps import Sweeps


@dataclass(frozen=True)
class FiledFlow:
    """Every sweep but the last with its flow, read from the sequence and from ``FOLDER/NAME.npz`` when it is asked for.

    Args:
        sweeps: the sequence that the flow was estimated on.
        folder: of the result files, as `write_flow` writes them.

    >>> from invtoolbox import simulation
    >>> len(FiledFlow(simulation.street(sweeps=3, points=2000), "results"))
    2
    """

    sweeps: Sweeps
    folder: str | os.PathLike[str]

    def __len__(self) -> int:
        return max(len(self.sweeps) - 1, 0)

    def __getitem__(self, index: int) -> FlowStep:
        """The step of a sweep.

        Raises:
            InputError: its flow is missing, damaged, or that of another sweep.
        """
        if not 0 <= index < len(self):
            raise IndexError(
                f"there are flows of {len(self)} sweeps, and number {index} is asked for"
            )
        path = Path(self.folder).expanduser() / f"{self.sweeps.names[index]}.npz"
        if not path.is_file():
            raise InputError(
                f"{path}: there is no flow of that sweep; estimate it first, or leave the sweeps behind it out"
            )
        found, sweep = read_flow(path), self.sweeps[index]
        if len(found) != len(sweep):
            raise InputError(
                f"{path}: the flow of {len(found):,} points, and {sweep.source} has {len(sweep):,}; it belongs to another"
            )
        return FlowStep.of(sweep.points, found, sweep.pose)


#: Points that are carried at once.
_BLOCK = 200_000
#: Metres within which a point is the measured one: it then takes that one's flow alone.
_SAME = 1e-3

#: The flow at any place of a sweep, the sensor's own motion included: ``(M, 3) -> (M, 3)``, both float64.
FlowField = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class FlowStep:
    """A sweep of N points with its flow to the next one.

    Attributes:
        points: ``(N, 3)``, metres, in the sensor's frame.
        flow: ``(N, 3)``, the sensor's own motion included; points whose flow is not finite carry nothing.
        ego_motion: what the standing world does in the sensor's frame, ``p1 = E p0``, ``(4, 4)``.
        dynamic: boolean ``(N,)``, which points move in the world; None where it is not known.
        field: the flow at any place, where the method has one; else that of the nearest points is interpolated.
        pose: the sensor's frame in the world, ``(4, 4)``; or None.
        name: of the sweep, for messages.
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
        """The step of a sweep whose flow was written to a file."""
        return cls(
            points,
            file.flow,
            file.ego_motion,
            file.dynamic & file.valid,
            pose=pose,
            name=file.names[0] or "a sweep",
        )


@dataclass(frozen=True, eq=False)
class Tracks:
    """Where M points are at T times.

    Attributes:
        positions: float64 ``(T, M, 3)``, metres, each time in the frame that the sensor has at that time.
        known: boolean ``(T, M)``, false from the time on at which nothing was measured near the point; it then stands in the world.
        motions: float64 ``(T, 4, 4)``, the frame of each time as seen from the first: what carries a point that stands in the world from
            the first sensor frame into that one.
    """

    positions: Tensor
    known: Tensor
    motions: Tensor

    def in_first_frame(self) -> Tensor:
        """The positions in the sensor's frame at the first time, which stands still in the world: ``(T, M, 3)``."""
        return transform(inverse(self.motions), self.positions)


def track(
    points: Tensor, steps: Iterable[FlowStep], neighbours: int = 4, reach: float = 1.0
) -> Tracks:
    """Follow points through a sequence by forward Euler: ``p_{k+1} = p_k + f_k(p_k)``.

    Errors of the flow add from step to step. A point that has moved follows moving points as long as one is in reach: where its object is
    hidden for a sweep, the road behind it would else hold it back. The sweeps are taken one after the other, so that a generator keeps one
    in memory.

    Args:
        points: where the tracks begin, in the frame of the first sweep, ``(M, 3)``; measured points or any others.
        steps: the sweeps with their flows, in the order of time; T - 1 of them.
        neighbours, reach: of the interpolation, see `carry`.

    Source: Vidanapathirana, Chng, Li, Lucey, "Multi-body neural scene flow", 3DV 2024, the forward Euler integration.

    >>> step = FlowStep(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]]), torch.eye(4))
    >>> track(torch.zeros(1, 3), [step]).positions[1]
    tensor([[1., 0., 0.]], dtype=torch.float64)
    """
    if points.ndim != 2 or points.shape[1] != 3:
        raise InputError(f"the points to follow have shape {tuple(points.shape)}; expected (M, 3)")
    places, known = [points.detach().cpu().to(torch.float64)], [torch.isfinite(points).all(1).cpu()]
    motions, moving = (
        [torch.eye(4, dtype=torch.float64)],
        torch.zeros(len(points), dtype=torch.bool),
    )
    for step in steps:
        moved, seen, moving = _carry(places[-1], step, neighbours, reach, moving)
        places.append(moved)
        known.append(known[-1] & seen)
        motions.append(step.ego_motion.to(torch.float64) @ motions[-1])
    return Tracks(torch.stack(places), torch.stack(known), torch.stack(motions))


def carry(
    points: Tensor, step: FlowStep, neighbours: int = 4, reach: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Move points from a sweep to the next by its flow.

    A point's flow without the sensor's motion is the mean of its nearest measured points', weighed by one over the squared distance; a
    point that was measured takes its own. Where the step says what moves, either moving or standing neighbours count, whichever weigh
    more: the road under a car does not slow it down.

    Args:
        points: ``(M, 3)``, in the frame of the sweep.
        neighbours: how many measured points are looked at.
        reach: metres beyond which a measured point says nothing. A point with none nearer stands in the world.

    Returns:
        The points in the frame of the next sweep, float64 ``(M, 3)``, and which of them had a measured point in reach, ``(M,)``.
    """
    moved, seen, _ = _carry(
        points, step, neighbours, reach, torch.zeros(len(points), dtype=torch.bool)
    )
    return moved, seen


def _carry(
    points: Tensor, step: FlowStep, neighbours: int, reach: float, moving: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As `carry`; those known to move follow moving points where one is in reach. Also gives which points move now, ``(M,)``."""
    E, points = (
        check_motion(step.ego_motion, f"{step.name}: the motion of the sensor"),
        points.to(torch.float64),
    )
    if step.field is not None:
        return points + step.field(points), points.isfinite().all(1), moving
    at, residual, moves = _measured(step)
    found, seen, now = _interpolate(points, at, residual, moves, neighbours, reach)
    if moves is not None and bool(moving.any()):
        followed, there, _ = _interpolate(
            points[moving], at[moves], residual[moves], None, neighbours, reach
        )
        found[moving] = torch.where(there[:, None], followed, found[moving])
        now[moving] |= there
    return transform(E, points) + found, seen, now


def carry_back(
    points: Tensor, step: FlowStep, neighbours: int = 4, reach: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Move points from the next sweep back to the step's: the inverse of `carry`, from where its measured points arrive.

    Returns:
        The points in the frame of the step's sweep, float64 ``(M, 3)``, and which of them had a measured point in reach, ``(M,)``.

    >>> step = FlowStep(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]]), torch.eye(4))
    >>> carry_back(torch.tensor([[1.0, 0.0, 0.0]]), step)[0]
    tensor([[0., 0., 0.]], dtype=torch.float64)
    """
    E, points = (
        check_motion(step.ego_motion, f"{step.name}: the motion of the sensor"),
        points.to(torch.float64),
    )
    at, residual, moves = _measured(step)
    found, seen, _ = _interpolate(
        points, transform(E, at) + residual, residual, moves, neighbours, reach
    )
    return transform(inverse(E), points - found), seen


def _measured(step: FlowStep) -> tuple[Tensor, Tensor, Tensor | None]:
    """The points of a step that carry others: where they are, their flow without the sensor's motion, and whether they move."""
    if step.points.shape != step.flow.shape or (
        step.dynamic is not None and step.dynamic.shape != step.points.shape[:1]
    ):
        raise InputError(
            f"{step.name}: {tuple(step.points.shape)} points and a flow of {tuple(step.flow.shape)} do not belong together"
        )
    residual = residual_flow(step.flow, step.points, step.ego_motion).to(torch.float64).cpu()
    known = residual.isfinite().all(1)
    return (
        step.points.cpu().to(torch.float64)[known],
        residual[known],
        None if step.dynamic is None else step.dynamic.cpu()[known],
    )


def _interpolate(
    points: Tensor, at: Tensor, values: Tensor, moves: Tensor | None, neighbours: int, reach: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The weighted mean of the nearest values, zero where none is in reach, ``(M, 3)``; where one is; and where moving ones won."""
    from scipy.spatial import cKDTree

    if neighbours < 1 or not reach > 0:
        raise InputError(f"neighbours is {neighbours} and reach {reach}; both must be positive")
    found, seen = torch.zeros_like(points), torch.zeros(len(points), dtype=torch.bool)
    won = torch.zeros_like(seen)
    if not len(at):
        return found, seen, won
    tree = cKDTree(at.numpy())
    k = min(neighbours, len(at))
    for start in range(0, len(points), _BLOCK):
        rows = slice(start, start + _BLOCK)
        block, finite = points[rows], points[rows].isfinite().all(1)
        distance, index = _query(tree, block[finite].numpy(), k, reach)
        within = distance.isfinite()
        weight = torch.where(
            within, 1 / distance.clamp_min(_SAME).square(), torch.zeros_like(distance)
        )
        # A measured point is carried by itself alone.
        weight = torch.where(
            (distance[:, :1] < _SAME).expand_as(weight), (distance < _SAME).to(weight), weight
        )
        if moves is not None:
            moving = moves[index] & within
            mostly = (weight * moving).sum(1, keepdim=True) > 0.5 * weight.sum(1, keepdim=True)
            weight = weight * (moving == mostly)
            won[rows][finite] = mostly[:, 0]
        total = weight.sum(1, keepdim=True)
        mean = (weight[..., None] * values[index]).sum(1) / torch.where(
            total > 0, total, torch.ones_like(total)
        )
        found[rows][finite], seen[rows][finite] = mean, within.any(1)
    return found, seen, won


def _query(tree: Any, points: np.ndarray, k: int, reach: float) -> tuple[Tensor, Tensor]:
    distance, index = tree.query(points, k=[*range(1, k + 1)], distance_upper_bound=reach)
    # What is not found has an index beyond the last one.
    return torch.from_numpy(distance), torch.from_numpy(np.where(np.isfinite(distance), index, 0))
