"""Bodies that move: every thing on the street is registered with the next sweep as one rigid body, and judged by what that explains.

Bodies bend a little: a voxel field beside their rigid motion, as rigid as possible, fitted to the next sweep.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.data_terms.plane_to_plane import PlaneToPlane
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import transform
from invtoolbox.geometry.surface_normals import covariances
from invtoolbox.kernels.points.nearest import Tree
from invtoolbox.motion.registration import (
    Registration,
    RegistrationSettings,
    clusters,
    register,
    translations,
)
from invtoolbox.operators.points import PointWarp
from invtoolbox.priors.implicit.voxel_flow import VoxelFlow
from invtoolbox.priors.motion.rigidity import ARAP
from invtoolbox.problem import Problem
from invtoolbox.solve import solve
from invtoolbox.solvers.lbfgs import LBFGS

#: Points farther than this from the other sweep have no partner there, metres: about twice the distance of lidar lines at 30 m.
_APART = 0.15


@dataclass(frozen=True)
class BodySettings:
    """How bodies are found.

    Attributes:
        cell: of the clusters, metres.
        reach: height above the ground up to which points make clusters, metres.
        fewest: points that a body needs.
        largest: extent of a body in the plane, metres; larger clusters are walls, hedges or several things grown together.
        farthest: how far a body may move in a sweep, metres, along each axis of the plane.
        votes: translations that are tried for a cluster whose points have no partners, besides none.
        iterations, upright, plane: see `RegistrationSettings`.
        explained: a body moves where its registration lowers the misfit to this share of what standing still leaves,
        gain: and raises the log-likelihood of its points, under noise of `noise` metres, by this much times ``1 + move^2`` with the
            move in metres (a small piece of wall fits many places, far ones above all),
        least: and where its points move by at least this, metres.
        noise: standard deviation of a point off its surface, metres.
    """

    cell: float = 0.3
    reach: float = 3.0
    fewest: int = 15
    largest: float = 20.0
    farthest: float = 3.0
    votes: int = 3
    iterations: int = 15
    upright: float = 1.0
    plane: bool = True
    explained: float = 0.3
    gain: float = 15.0
    least: float = 0.05
    noise: float = 0.02

    def __post_init__(self) -> None:
        lengths = (self.cell, self.reach, self.largest, self.farthest, self.explained, self.noise)
        if min(lengths) <= 0 or min(self.fewest, self.iterations) < 1:
            raise InputError(f"the settings of bodies must be positive, got {self}")


@dataclass(frozen=True, eq=False)
class Bodies:
    """What moves, and how.

    Attributes:
        label: the body of each point, ``(n,)`` int64; -1 for what stands still or is part of nothing that moves.
        motion: of each body from the one sweep to the next, ``(bodies, 4, 4)``.
        flow: of each point by its body's motion, ``(n, 3)``; 0 where there is none.
    """

    label: Tensor
    motion: Tensor
    flow: Tensor


@dataclass(frozen=True, eq=False)
class _Cloud:
    """Points with what the registration needs of each."""

    points: Tensor
    times: Tensor | None
    height: Tensor


def moving_bodies(
    points: Tensor,
    target: Tensor,
    height: Tensor,
    target_height: Tensor,
    times: tuple[Tensor, Tensor] | None = None,
    settings: BodySettings | None = None,
) -> Bodies:
    """Find the bodies among points of which the static world lies on the target already.

    Args:
        points, target: ``(n, 3)`` and ``(m, 3)`` in one frame, without ground.
        height, target_height: above the ground, ``(n,)`` and ``(m,)``.
        times: when they were measured within their sweeps, seconds, ``(n,)`` and ``(m,)``.
    """
    settings = settings or BodySettings()
    none = Bodies(
        torch.full((len(points),), -1, device=points.device),
        points.new_zeros(0, 4, 4),
        torch.zeros_like(points),
    )
    here = _Cloud(points, None if times is None else times[0], height)
    low = target_height < settings.reach + 0.5
    there = _Cloud(target[low], None if times is None else times[1][low], target_height[low])
    if len(points) == 0 or len(there.points) == 0:
        return none
    apart = Tree(target).query(points)[0] > _APART
    labels = _things(here, apart, settings)
    if not bool((labels >= 0).any()):
        return none
    members, starts = _hypotheses(here, there, labels, apart, settings)
    reached = (
        Tree(points[torch.cat(members), :2])
        .query(there.points[:, :2], bound=2 * settings.farthest)[0]
        .isfinite()
    )
    if not bool(reached.any()):
        return none
    registration = RegistrationSettings(settings.iterations, settings.upright, settings.plane)
    found = register(
        members,
        starts,
        points,
        there.points[reached],
        here.times,
        None if there.times is None else there.times[reached],
        registration,
    )
    return _judged(points, members, found, settings)


def _things(cloud: _Cloud, apart: Tensor, settings: BodySettings) -> Tensor:
    """Clusters that can be bodies; of larger ones, the parts without partners, which may stand in front of them."""
    labels = _compact(
        cloud.points, clusters(cloud.points, cloud.height, settings.cell, settings.reach), settings
    )
    rest = ((labels < 0) & apart & (cloud.height < settings.reach)).nonzero().squeeze(1)
    if len(rest):
        parts = _compact(
            cloud.points[rest],
            clusters(cloud.points[rest], cloud.height[rest], settings.cell, settings.reach),
            settings,
        )
        labels[rest] = torch.where(parts >= 0, parts + int(labels.max()) + 1, parts)
    return labels


def _compact(points: Tensor, labels: Tensor, settings: BodySettings) -> Tensor:
    """The labels of clusters of a body's size, counted anew; -1 elsewhere."""
    count = int(labels.max()) + 1
    if count == 0:
        return labels
    inside = labels >= 0
    of, places = labels[inside], points[inside, :2]
    index = of[:, None].expand(-1, 2)
    low = points.new_full((count, 2), torch.inf).scatter_reduce(0, index, places, "amin")
    high = points.new_full((count, 2), -torch.inf).scatter_reduce(0, index, places, "amax")
    good = (torch.bincount(of, minlength=count) >= settings.fewest) & (
        (high - low).amax(1) <= settings.largest
    )
    number = torch.where(good, good.long().cumsum(0) - 1, -1)
    return torch.where(inside, number[labels.clamp_min(0)], -1)


def _hypotheses(
    here: _Cloud, there: _Cloud, labels: Tensor, apart: Tensor, settings: BodySettings
) -> tuple[list[Tensor], list[Tensor]]:
    """Every thing with each translation that it may begin from: the rows of its points, and starts ``(k, 2)``."""
    order = labels.argsort(stable=True)
    count = int(labels.max()) + 1
    sizes = torch.bincount(labels[labels >= 0], minlength=count)
    members = list(order[int((labels < 0).sum()) :].split(sizes.tolist()))
    share = torch.stack([apart[rows].float().mean() for rows in members])
    # What lies on things that stand still has been seen before, and is no place that a moving thing may have gone to.
    still = labels < 0
    still |= (share <= _APART)[labels.clamp_min(0)]
    new = torch.ones_like(there.height, dtype=torch.bool)
    if bool(still.any()):
        new = Tree(here.points[still]).query(there.points)[0] > 0.1
    starts = []
    for rows, alone in zip(members, share.tolist()):
        begin = [here.points.new_zeros(1, 2)]
        if alone > _APART:
            points = here.points[rows]
            near = new & (
                (there.points[:, :2] > points[:, :2].amin(0) - settings.farthest)
                & (there.points[:, :2] < points[:, :2].amax(0) + settings.farthest)
            ).all(1)
            votes = torch.from_numpy(
                translations(points, there.points[near], settings.farthest, settings.votes)
            ).to(points)
            begin.append(votes[votes.norm(dim=1) > _APART])
        starts.append(torch.cat(begin))
    return members, starts


def _judged(
    points: Tensor, members: list[Tensor], found: Registration, settings: BodySettings
) -> Bodies:
    """Of each thing the likeliest hypothesis, and whether it is likely enough to call the thing moving."""
    label, flow = torch.full((len(points),), -1, device=points.device), torch.zeros_like(points)
    motions: list[Tensor] = []
    number = [len(rows) for rows in members]
    # Of two motions that explain a thing as well, the smaller one is likelier: see `BodySettings.gain`.
    gain = settings.gain * settings.noise**2
    best: dict[int, tuple[float, int]] = {}
    for j, (k, misfit, move) in enumerate(
        zip(found.thing.tolist(), found.misfit.tolist(), found.move.tolist())
    ):
        cost = misfit + gain * move**2 / number[k]
        if k not in best or cost < best[k][0]:
            best[k] = (cost, j)
    for k, (_, j) in sorted(best.items()):
        misfit, still, move = float(found.misfit[j]), float(found.still[j]), float(found.move[j])
        if misfit >= settings.explained * still or number[k] * (still - misfit) < gain * (
            1 + move**2
        ):
            continue
        if not settings.least <= move <= math.sqrt(2) * settings.farthest:
            continue
        label[members[k]] = len(motions)
        flow[members[k]] = transform(found.motion[j], points[members[k]]) - points[members[k]]
        motions.append(found.motion[j])
    return Bodies(label, torch.stack(motions) if motions else points.new_zeros(0, 4, 4), flow)


@dataclass(frozen=True)
class Refinement:
    """How far bodies may bend.

    Attributes:
        cell: edge of the voxels, metres.
        rigidity: weight of `ARAP` beside the mean misfit, both in square metres.
        scale: of the robust misfit, metres: partners farther away hardly pull.
        iterations: of L-BFGS.
    """

    cell: float = 0.5
    rigidity: float = 1.0
    scale: float = 0.1
    iterations: int = 20


def refine(
    points: Tensor,
    target: Tensor,
    label: Tensor,
    flow: Tensor,
    times: tuple[Tensor, Tensor] | None = None,
    settings: Refinement | None = None,
) -> Tensor:
    """The flow of bodies that may bend, ``(n, 3)``: points without a body keep theirs.

    Args:
        points, target: ``(n, 3)`` and ``(m, 3)`` in one frame.
        label: the body of each point, ``(n,)``; -1 for none.
        flow: by the rigid motion of the bodies, ``(n, 3)``.
        times: see `moving_bodies`.
    """
    settings = settings or Refinement()
    rows = (label >= 0).nonzero().squeeze(1)
    if len(rows) == 0:
        return flow
    moved = (points + flow)[rows]
    near = ((target > moved.amin(0) - 1) & (target < moved.amax(0) + 1)).all(1)
    if not bool(near.any()):
        return flow
    spread = covariances(points, None if times is None else times[0], rows=rows)[None]
    term = PlaneToPlane(
        (settings.scale, settings.scale),
        covariances=spread,
        times=None if times is None else (times[0][rows][None], times[1][near][None]),
    )
    # What is sought is the way from where the rigid motion takes each point, so zero is the rigid start.
    problem = Problem(target[near][None], PointWarp(moved[None]), term)
    prior = VoxelFlow(settings.cell) + settings.rigidity * ARAP(labels=label[rows])
    solution = solve(problem, prior, LBFGS(), max_iterations=settings.iterations, progress=False)
    found = flow.clone()
    found[rows] += solution.x[0]
    return found
