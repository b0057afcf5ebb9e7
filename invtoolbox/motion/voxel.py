"""A grid of flow vectors fitted to a pair of sweeps, with clusters that move together and a world that would rather stand."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from invtoolbox.data_terms.chamfer import Chamfer
from invtoolbox.motion.clusters import clusters
from invtoolbox.operators.point_warp import PointWarp
from invtoolbox.priors.explicit.cluster_consistency import ClusterConsistency
from invtoolbox.priors.explicit.static_world import StaticWorld
from invtoolbox.priors.implicit.voxel_flow import VoxelFlow
from invtoolbox.problem import Problem
from invtoolbox.solve import solve
from invtoolbox.solvers.adam import Adam


@dataclass(frozen=True)
class VoxelSettings:
    """As Floxels (Hoffmann et al., CVPR 2025) has it for two sweeps, but for the distance: truncated chamfer, both ways.

    Attributes:
        cell: edge of the voxels, metres.
        together: weight of `ClusterConsistency`.
        still: weight of `StaticWorld`.
        truncation: of squared distances, square metres.
        learning_rate, patience, max_iterations: of Adam.
    """

    cell: float = 0.5
    together: float = 1.0
    still: float = 0.01
    truncation: float = 2.0
    learning_rate: float = 0.05
    patience: int = 100
    max_iterations: int = 60


def voxel_flow(
    source: Tensor, target: Tensor, height: Tensor, settings: VoxelSettings | None = None
) -> Tensor:
    """The flow of points ``(n, 3)`` of which the static world lies on the target ``(m, 3)`` already.

    Args:
        height: of the source points above the ground, ``(n,)``, by which they are clustered.
    """
    settings = settings or VoxelSettings()
    prior = (
        VoxelFlow(settings.cell)
        + settings.together * ClusterConsistency(clusters(source, height))
        + settings.still * StaticWorld()
    )
    problem = Problem(target[None], PointWarp(source[None]), Chamfer(settings.truncation))
    solver = Adam(
        learning_rate=settings.learning_rate,
        iterate="best",
        patience=settings.patience,
        min_delta=1e-5,
    )
    flow: Tensor = solve(
        problem,
        prior,
        solver,
        max_iterations=settings.max_iterations,
        tolerance=0.0,
        progress=False,
    ).x[0]
    return flow
