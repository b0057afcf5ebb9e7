"""Bodies bend a little: a voxel field beside their rigid motion, as rigid as possible, fitted to the next sweep."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from invtoolbox.data_terms.plane_to_plane import PlaneToPlane
from invtoolbox.operators.point_warp import PointWarp
from invtoolbox.priors.explicit.arap import ARAP
from invtoolbox.priors.implicit.voxel_flow import VoxelFlow
from invtoolbox.problem import Problem
from invtoolbox.scenes.surfaces import covariances
from invtoolbox.solve import solve
from invtoolbox.solvers.lbfgs import LBFGS


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


def refined(
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
