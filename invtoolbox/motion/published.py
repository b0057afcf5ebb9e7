"""The published neural methods of scene flow, each as its paper has it: a problem, a prior, a solver, and the one loop.

Neural scene flow prior (NSFP): Li, Pontes and Lucey, NeurIPS 2021. Fast neural scene flow (Fast NSF): Li, Zheng, Ferroni, Pontes and
Lucey, ICCV 2023. Both fit a network of position to one pair of point sets. The papers' settings:

| data | learning rate | patience | points |
|---|---|---|---|
| NSFP, 2048 points (FlyingThings3D, nuScenes, Argoverse) | 0.008 | 30 | 2048 |
| NSFP, KITTI scene flow | 0.008 | 70 | 2048 |
| NSFP, whole sweeps of Argoverse | 0.003 | 100 | all |
| Fast NSF, 8192 points | 0.01 | 5 | 8192 |
| Fast NSF, whole sweeps | 0.008 | 10 | all |

Where the sensor's own motion is taken out already, most points fit from the start, and a short patience ends before the few that move
have been found: give 100.

A grid of flow vectors fitted to a pair of sweeps, with clusters that move together and a world that would rather stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from invtoolbox.data_terms.base import DataTerm, Stack
from invtoolbox.data_terms.chamfer import Chamfer
from invtoolbox.data_terms.distance_transform import DistanceTransform
from invtoolbox.errors import InputError
from invtoolbox.kernels.points.nearest import Tree
from invtoolbox.loop.checkpoint import Checkpoint
from invtoolbox.loop.run import Callback
from invtoolbox.motion.registration import clusters
from invtoolbox.operators.base import Operator
from invtoolbox.operators.points import PointWarp, PointWarpBothWays
from invtoolbox.priors.implicit.point_flow import FreeFlow, NeuralSceneFlow
from invtoolbox.priors.implicit.voxel_flow import VoxelFlow
from invtoolbox.priors.motion.consistency import ClusterConsistency
from invtoolbox.priors.motion.speed import StaticWorld
from invtoolbox.problem import Problem
from invtoolbox.solve import solve
from invtoolbox.solvers.adam import Adam


def nsfp(
    source: Tensor,
    target: Tensor,
    *,
    points: int | None = None,
    learning_rate: float = 0.008,
    patience: int | None = 30,
    min_delta: float = 1e-4,
    max_iterations: int = 5000,
    truncation: float | None = 2.0,
    backward: bool = True,
    initialization: Literal["default", "xavier"] = "default",
    seed: int = 0,
    time_limit: float | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | Checkpoint | None = None,
    progress: bool = False,
) -> Tensor:
    r"""Neural scene flow prior: the flow of every source point, ``(N, 3)``.

    Minimises ``C(S1 + f, S2) + C(S1 + f - b, S1)`` over the weights of two networks, f at S1 and b at ``S1 + f``, with the truncated
    chamfer distance C; the answer is the iterate of least objective. Give points from which the sensor's motion is taken out, or the
    flow contains it.

    Args:
        source, target: ``(N, 3)`` and ``(M, 3)``, metres, finite.
        points: how many of either are drawn for the fit, without repetition; None for all. The flow is given at all.
        learning_rate, patience, min_delta, max_iterations: of Adam; see the table above.
        truncation: of squared distances, square metres.
        backward: without it only ``C(S1 + f, S2)`` is minimised.
        initialization, seed: of the network; the seed also draws the points.
        time_limit, callbacks, checkpoint, progress: as in `invtoolbox.solve`.

    >>> points = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
    >>> flow = nsfp(points, points + torch.tensor([0.1, 0.0, 0.0]), max_iterations=100)
    >>> bool((flow.mean(0) - torch.tensor([0.1, 0.0, 0.0])).norm() < 0.02)
    True
    """
    source, target = _checked(source, "source"), _checked(target, "target")
    fitted, aim = (
        source[_drawn(len(source), points, seed)][None],
        target[_drawn(len(target), points, seed + 1)][None],
    )
    operator: Operator = PointWarpBothWays(fitted) if backward else PointWarp(fitted)
    term: DataTerm = (
        Stack(Chamfer(truncation), Chamfer(truncation)) if backward else Chamfer(truncation)
    )
    prior = NeuralSceneFlow(initialization=initialization, seed=seed)
    solution = solve(
        Problem((aim, fitted) if backward else aim, operator, term),
        prior,
        Adam(learning_rate=learning_rate, iterate="best", patience=patience, min_delta=min_delta),
        tolerance=0.0,
        max_iterations=max_iterations,
        time_limit=time_limit,
        seed=seed,
        callbacks=callbacks,
        checkpoint=checkpoint,
        progress=progress,
    )
    return prior.flow_at(solution.parameters, source[None])[0]


def fast_nsf(
    source: Tensor,
    target: Tensor,
    *,
    points: int | None = None,
    learning_rate: float = 0.008,
    patience: int | None = 10,
    min_delta: float = 1e-3,
    max_iterations: int = 5000,
    cell: float = 0.1,
    truncation: float | None = None,
    initialization: Literal["default", "xavier"] = "xavier",
    seed: int = 0,
    time_limit: float | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | Checkpoint | None = None,
    progress: bool = False,
) -> Tensor:
    """Fast neural scene flow: the flow of every source point, ``(N, 3)``.

    One network, and one way only: the mean distance of ``S1 + f`` to S2, looked up in a grid. The misfit goes on falling while points
    that stand still slide along surfaces, so that to stop early is the regulariser.

    Args:
        cell: of the grid, metres.
        truncation: of distances, metres.

    The other arguments are those of `nsfp`; all target points make the grid.
    """
    source, target = _checked(source, "source"), _checked(target, "target")
    fitted = source[_drawn(len(source), points, seed)][None]
    prior = NeuralSceneFlow(initialization=initialization, seed=seed)
    solution = solve(
        Problem(target[None], PointWarp(fitted), DistanceTransform(cell, truncation=truncation)),
        prior,
        Adam(learning_rate=learning_rate, iterate="best", patience=patience, min_delta=min_delta),
        tolerance=0.0,
        max_iterations=max_iterations,
        time_limit=time_limit,
        seed=seed,
        callbacks=callbacks,
        checkpoint=checkpoint,
        progress=progress,
    )
    return prior.flow_at(solution.parameters, source[None])[0]


def free_vectors(
    source: Tensor,
    target: Tensor,
    *,
    points: int | None = None,
    learning_rate: float = 0.01,
    patience: int | None = None,
    min_delta: float = 0.0,
    max_iterations: int = 500,
    truncation: float | None = 2.0,
    seed: int = 0,
    time_limit: float | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | Checkpoint | None = None,
    progress: bool = False,
) -> Tensor:
    """The control: a free vector at every point under the same misfit ``C(S1 + f, S2)``; arguments as of `nsfp`.

    A point that was not drawn takes the flow of the nearest one that was.
    """
    source, target = _checked(source, "source"), _checked(target, "target")
    fitted, aim = (
        source[_drawn(len(source), points, seed)][None],
        target[_drawn(len(target), points, seed + 1)][None],
    )
    solution = solve(
        Problem(aim, PointWarp(fitted), Chamfer(truncation)),
        FreeFlow(),
        Adam(learning_rate=learning_rate, iterate="best", patience=patience, min_delta=min_delta),
        tolerance=0.0,
        max_iterations=max_iterations,
        time_limit=time_limit,
        seed=seed,
        callbacks=callbacks,
        checkpoint=checkpoint,
        progress=progress,
    )
    nearest = Tree(fitted[0]).query(source)[1]
    flow: Tensor = solution.x[0, nearest]
    return flow


def _checked(points: Tensor, name: str) -> Tensor:
    if (
        points.ndim != 2
        or points.shape[1] != 3
        or not len(points)
        or not points.is_floating_point()
    ):
        raise InputError(
            f"the {name} has the shape {tuple(points.shape)} of {points.dtype}; expected points (N, 3), at least one"
        )
    if not bool(points.isfinite().all()):
        raise InputError(f"the {name} has points that are not finite; leave them out")
    return points


def _drawn(count: int, points: int | None, seed: int) -> Tensor:
    """Which points are fitted: a draw that depends on the seed alone, in a fixed order."""
    if points is not None and points < 1:
        raise InputError(f"points is how many are drawn for the fit, at least 1, got {points}")
    if points is None or points >= count:
        return torch.arange(count)
    return (
        torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:points].sort().values
    )


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
