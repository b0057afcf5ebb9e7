"""Nonrigid refinement of bodies: a voxel field is added to their rigid motion.

The field is kept as rigid as possible, and fitted to the next sweep.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from invtoolbox.data_terms.plane_to_plane import PlaneToPlane
from invtoolbox.geometry.surface_normals import covariances
from invtoolbox.operators.points import PointWarp
from invtoolbox.priors.implicit.voxel_flow import VoxelFlow
from invtoolbox.priors.motion.rigidity import ARAP
from invtoolbox.problem import Problem
from invtoolbox.solve import solve
from invtoolbox.solvers.lbfgs import LBFGS


@dataclass(frozen=True)
class Refinement:
    """Settings of the nonrigid refinement of bodies.

    Attributes:
        cell: edge length of the voxels, metres.
        rigidity: weight of `ARAP` relative to the mean misfit, both in square metres.
        scale: scale of the robust misfit, metres: more distant partners have little influence.
        iterations: number of iterations of L-BFGS.
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
    """Return the flow of bodies that may bend, ``(n, 3)``; points without a body keep their flow.

    Args:
        points: points of the sweep, ``(n, 3)``.
        target: points of the next sweep in the same frame, ``(m, 3)``.
        label: number of the body of every point, ``(n,)``; -1 for none.
        flow: flow of the rigid motion of the bodies, ``(n, 3)``.
        times: times of the points, see `moving_bodies`.
        settings: settings of the refinement.
    """
    settings = settings or Refinement()
    rows = (label >= 0).nonzero().squeeze(1)
    if len(rows) == 0:
        return flow
    # Partners are sought among the target points within a metre of the box around the bodies.
    arrived = (points + flow)[rows]
    near = ((target > arrived.amin(0) - 1) & (target < arrived.amax(0) + 1)).all(1)
    if not bool(near.any()):
        return flow
    # Normals come from the whole sweep: parts of it would show no surface at their borders.
    spread = covariances(points, None if times is None else times[0], rows=rows)[None]
    # Equal scales: no graduated non-convexity, because the rigid motion is close already.
    term = PlaneToPlane(
        (settings.scale, settings.scale),
        covariances=spread,
        times=None if times is None else (times[0][rows][None], times[1][near][None]),
    )
    # The unknown x is the displacement from the rigidly moved point p', so zero is the rigid motion:
    # min_x D(p' + x) + rigidity * ARAP(x), with x interpolated between the nodes of a voxel grid.
    problem = Problem(target[near][None], PointWarp(arrived[None]), term)
    prior = VoxelFlow(settings.cell) + settings.rigidity * ARAP(labels=label[rows])
    solution = solve(problem, prior, LBFGS(), max_iterations=settings.iterations, progress=False)
    refined = flow.clone()
    refined[rows] += solution.x[0]
    return refined
