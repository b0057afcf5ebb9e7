"""Published methods of scene flow: NSFP, a voxel grid (Floxels), and EulerFlow.

Neural scene flow prior (NSFP): Li, Pontes and Lucey, NeurIPS 2021. It fits a network of position to
one pair of point sets, with the settings of the paper:

| data | learning rate | patience | points |
|---|---|---|---|
| NSFP, 2048 points (FlyingThings3D, nuScenes, Argoverse) | 0.008 | 30 | 2048 |
| NSFP, KITTI scene flow | 0.008 | 70 | 2048 |
| NSFP, whole sweeps of Argoverse | 0.003 | 100 | all |

If the motion of the sensor is already removed, most points fit from the start, and a short patience
stops before the few moving points are found: use 100.

EulerFlow: Vedder et al., Neural Eulerian scene flow fields, ICLR 2025: the flow of a whole sequence at
once, as one velocity field in space and time. Two priors are added to its objective: rigidity and a
world at rest. Without them static points follow the random sampling of the sweeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.data_terms import Chamfer, DataTerm, RolloutChamfer, Stack
from invtoolbox.errors import InputError
from invtoolbox.jobs.flow.clusters import clusters
from invtoolbox.loop.checkpoint import Checkpoint
from invtoolbox.loop.run import Callback
from invtoolbox.operators.points import EulerRollout, PointWarp, PointWarpBothWays
from invtoolbox.priors import (
    ARAP,
    AlongField,
    ClusterConsistency,
    ImplicitPrior,
    NeuralSceneFlow,
    Prior,
    SpaceTimeFlow,
    SpaceTimeVoxels,
    StaticWorld,
    VoxelFlow,
)
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solve import solve
from invtoolbox.solvers.adam import Adam


@dataclass(frozen=True)
class Fit:
    """How a flow is fitted to a pair of clouds by Adam; the iterate of smallest objective counts.

    Attributes:
        points: number of points of either cloud that are drawn for the fit, without repetition;
            None for all. The flow is computed at all points.
        learning_rate: learning rate of Adam; see the table above.
        patience: number of iterations without improvement after which the fit stops; None for no
            such stop.
        min_delta: smallest decrease of the objective, in its unit, that counts as an improvement.
        max_iterations: largest number of iterations.
        seed: seed of the network and of the drawn points.
        time_limit: as in `invtoolbox.solve`.
        callbacks: as in `invtoolbox.solve`.
        checkpoint: as in `invtoolbox.solve`.
        progress: as in `invtoolbox.solve`.
    """

    points: int | None = None
    learning_rate: float = 0.008
    patience: int | None = 30
    min_delta: float = 1e-4
    max_iterations: int = 5000
    seed: int = 0
    time_limit: float | None = None
    callbacks: Sequence[Callback] = ()
    checkpoint: str | Path | Checkpoint | None = None
    progress: bool = False

    def draw(self, cloud: Tensor, offset: int = 0) -> Tensor:
        """Draw the points of the fit, ``(1, points, 3)``, in the order of the cloud.

        Args:
            cloud: all points, ``(N, 3)``.
            offset: number added to the seed, so that two clouds are drawn independently.
        """
        check_range(self, "[1, inf)", "points")
        rows = torch.arange(len(cloud))
        if self.points is not None and self.points < len(cloud):
            # The rows depend on the seed alone, not on a generator that other draws have advanced.
            generator = torch.Generator().manual_seed(self.seed + offset)
            rows = torch.randperm(len(cloud), generator=generator)[: self.points].sort().values
        return cloud[rows][None]

    def solve(self, problem: Problem, prior: Prior) -> Solution:
        """Minimize the misfit of the problem over the unknowns of the prior.

        Args:
            problem: problem whose prediction is one set of moved points, or several.
            prior: prior of the flow, such as a network.
        """
        # Without a tolerance: early stopping (patience) is the regularization of these methods.
        return solve(
            problem,
            prior,
            Adam(
                learning_rate=self.learning_rate,
                iterate="best",
                patience=self.patience,
                min_delta=self.min_delta,
            ),
            tolerance=0.0,
            max_iterations=self.max_iterations,
            time_limit=self.time_limit,
            seed=self.seed,
            callbacks=self.callbacks,
            checkpoint=self.checkpoint,
            progress=self.progress,
        )


#: Settings of the paper, for 2,048 points.
NSFP = Fit()


def nsfp(
    source: Tensor,
    target: Tensor,
    fit: Fit = NSFP,
    *,
    truncation: float | None = 2.0,
    backward: bool = True,
) -> Tensor:
    r"""Compute the flow of every source point by the neural scene flow prior, ``(N, 3)``.

    It minimizes ``C(S1 + f, S2) + C(S1 + f - b, S1)`` over the weights of two networks, f at S1 and
    b at ``S1 + f``, with the truncated chamfer distance C. The result is the iterate of smallest
    objective. The flow contains the motion of the sensor unless the points are given without it.

    Args:
        source: source points, ``(N, 3)``, metres, finite.
        target: target points, ``(M, 3)``, metres, finite.
        fit: settings of the fit.
        truncation: truncation of squared distances, square metres.
        backward: minimize both terms; if False, only ``C(S1 + f, S2)``.

    >>> points = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
    >>> flow = nsfp(points, points + torch.tensor([0.1, 0.0, 0.0]), Fit(max_iterations=100))
    >>> bool((flow.mean(0) - torch.tensor([0.1, 0.0, 0.0])).norm() < 0.02)
    True
    """
    source, target = _check_points(source, "source"), _check_points(target, "target")
    # f(p) is a ReLU network with 8 hidden layers of 128 units, of raw coordinates in metres, and its
    # bias towards smooth functions is the only regularization besides early stopping.
    source_points, target_points = fit.draw(source), fit.draw(target, offset=1)
    prior = NeuralSceneFlow(seed=fit.seed)
    if backward:
        # Li et al. 2021, the cycle: the second prediction S1 + f - b is compared with S1 itself. C sums
        # the means of min(|p - q|^2) of both directions; squares beyond the truncation count 0.
        problem = Problem(
            (target_points, source_points),
            PointWarpBothWays(source_points),
            Stack(Chamfer(truncation), Chamfer(truncation)),
        )
    else:
        problem = Problem(target_points, PointWarp(source_points), Chamfer(truncation))
    # The network is a function of position, so points that were not drawn have a flow too.
    return prior.flow_at(fit.solve(problem, prior).parameters, source[None])[0]


def _check_points(points: Tensor, name: str) -> Tensor:
    if (
        points.ndim != 2
        or points.shape[1] != 3
        or not len(points)
        or not points.is_floating_point()
    ):
        raise InputError(
            f"the {name} has the shape {tuple(points.shape)} of {points.dtype}; expected points "
            "(N, 3), at least one"
        )
    if not bool(points.isfinite().all()):
        raise InputError(f"the {name} has points that are not finite; leave them out")
    return points


@dataclass(frozen=True)
class VoxelSettings:
    """Settings of `voxel_flow`: Floxels (Hoffmann et al., CVPR 2025).

    It differs from the paper in the misfit, which is the truncated chamfer distance in both
    directions.

    Attributes:
        cell: edge length of the voxels, metres.
        together: weight of `ClusterConsistency`.
        still: weight of `StaticWorld`.
        truncation: truncation of squared distances, square metres.
        learning_rate: learning rate of Adam.
        patience: number of iterations without improvement after which the fit stops.
        max_iterations: largest number of iterations.
    """

    cell: float = 0.5
    together: float = 1.0
    still: float = 0.01
    truncation: float = 2.0
    learning_rate: float = 0.05
    patience: int = 100
    max_iterations: int = 60


class _SteadyWarp(PointWarp):
    """Points p of steady flow x at K times s, ``A(x) = (p + s_1 x, ..., p + s_K x)``."""

    def __init__(self, points: Tensor, steps: Sequence[float]) -> None:
        super().__init__(points)
        self.steps = tuple(steps)
        self.range_shape: Any = (self.domain_shape,) * len(self.steps)

    def _forward(self, x: Tensor) -> Any:
        # Points that move steadily: p(s) = p + s x, with s in periods and negative in the past.
        return tuple(self.points + step * x for step in self.steps)


def voxel_flow(
    source: Tensor,
    target: Tensor,
    height: Tensor,
    settings: VoxelSettings | None = None,
    window: Sequence[tuple[float, Tensor]] = (),
) -> Tensor:
    """Fit a grid of flow vectors to a pair whose static points coincide.

    The result is the flow of the source, ``(n, 3)``. Points move steadily through a window, whose
    sweeps count equally.

    Args:
        source: source points, ``(n, 3)``.
        target: target points, ``(m, 3)``.
        height: height of the source points above the ground, ``(n,)``, for the clusters.
        settings: settings of the fit.
        window: time of each further sweep after the source, in periods, and its points.
    """
    settings = settings or VoxelSettings()
    # Hoffmann et al., CVPR 2025: misfit + together * (deviation from the mean flow of the cluster)
    # + still * (mean speed), over the vectors at the nodes of a grid.
    prior = (
        VoxelFlow(settings.cell)
        + settings.together * ClusterConsistency(clusters(source, height))
        + settings.still * StaticWorld()
    )
    term: DataTerm = Chamfer(settings.truncation)
    problem = Problem(target[None], PointWarp(source[None]), term)
    if window:
        # One flow x explains K sweeps at the times s_k: the mean over k of C(S + s_k x, S_k). The
        # target is the sweep at the time 1.
        steps, sweeps = zip((1.0, target), *window)
        term = Stack(*(term for _ in steps), weights=[1 / len(steps)] * len(steps))
        clouds = tuple(points[None] for points in sweeps)
        problem = Problem(clouds, _SteadyWarp(source[None], steps), term)
    fit = Fit(
        learning_rate=settings.learning_rate,
        patience=settings.patience,
        min_delta=1e-5,
        max_iterations=settings.max_iterations,
    )
    return fit.solve(problem, prior).x[0]


@dataclass(frozen=True)
class EulerSettings:
    """Settings of `euler_flow`.

    Attributes:
        field: ``"network"``, as published, or ``"voxels"``, which is much faster; or an implicit
            prior.
        steps: number of sweeps over which points are advected.
        window: number of sweeps per iteration, drawn anew in each.
        cycle: weight of the cycle misfit, see `data_terms.RolloutChamfer`; by default 5 for voxels
            and 0.01 otherwise, as in the paper. A network begins with equal motions in both
            directions of time, which a larger weight would hold at rest.
        rigid: weight of `priors.ARAP` over the 8 nearest points within 1.5 m; 0 in the paper.
        still: weight of `priors.StaticWorld`, which does not slow points that move by more than
            0.2 m from sweep to sweep; 0 in the paper.
        speed_limit: largest motion from sweep to sweep, metres.
        truncation: truncation of squared distances, square metres.
        learning_rate: learning rate of Adam; by default 2e-3 for the network and 0.02 for voxels.
            The paper uses 8e-5 for the network, over a day.
        decay: decay of the learning rate, see `solvers.Adam`.
        max_iterations: number of iterations of Adam.
    """

    field: Literal["network", "voxels"] | ImplicitPrior = "voxels"
    steps: int = 3
    window: int = 5
    cycle: float | None = None
    rigid: float = 10.0
    still: float = 0.15
    speed_limit: float = 6.0
    truncation: float | None = 2.0
    learning_rate: float | None = None
    decay: float = 0.0
    max_iterations: int = 3000


def euler_flow(
    sweeps: Sequence[Tensor],
    settings: EulerSettings | None = None,
    *,
    priors: Prior | None = None,
    seed: int = 0,
    time_limit: float | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | Checkpoint | None = None,
    progress: bool = False,
) -> list[Tensor]:
    """Compute the flow of every sweep but the last to its successor, ``(N_t, 3)`` each in metres.

    Args:
        sweeps: points of every sweep, ``(N_t, 3)``, metres, finite, in one static frame, in the
            order of time.
        settings: settings of the method.
        priors: further explicit priors of the field, for example
            ``5 * it.priors.AlongField(it.priors.SpeedLimit(4.0))``.
        seed: seed of the initial weights and of the windows.
        time_limit: as in `invtoolbox.solve`.
        callbacks: as in `invtoolbox.solve`.
        checkpoint: as in `invtoolbox.solve`.
        progress: as in `invtoolbox.solve`.

    >>> points = torch.rand(100, 3, generator=torch.Generator().manual_seed(0)) * 4
    >>> walk = [points + torch.tensor([0.2 * t, 0.0, 0.0]) for t in range(4)]
    >>> flows = euler_flow(walk, EulerSettings(window=3, max_iterations=60))
    >>> len(flows), bool((flows[0].mean(0) - torch.tensor([0.2, 0.0, 0.0])).norm() < 0.05)
    (3, True)
    """
    settings = EulerSettings() if settings is None else settings
    if len(sweeps) < 2:
        raise InputError(f"a flow needs two sweeps at least, got {len(sweeps)}")
    clouds = tuple(points[None] for points in sweeps)
    voxels = settings.field == "voxels" or isinstance(settings.field, SpaceTimeVoxels)
    # Defaults depend on the field: voxels have no network whose start must not be held at rest.
    cycle = settings.cycle if settings.cycle is not None else 5.0 if voxels else 0.01
    # Vedder et al. 2025: p_k = p_{k-1} + F(p_{k-1}, t) for k up to `steps`, in both directions of
    # time. Every p_k is compared with the sweep of its time, and one step forth and one step back
    # with the point itself (cycle).
    term = RolloutChamfer(settings.steps, settings.truncation, cycle, limit=settings.speed_limit)
    problem = Problem(clouds, EulerRollout(clouds, settings.steps), term)
    if isinstance(settings.field, ImplicitPrior):
        prior: ImplicitPrior = settings.field
    else:
        # A last layer of a hundredth of its usual size: the world starts nearly at rest.
        prior = SpaceTimeVoxels() if voxels else SpaceTimeFlow(first_scale=0.01, seed=seed)
    rate = (
        settings.learning_rate if settings.learning_rate is not None else 0.02 if voxels else 2e-3
    )
    # A window of the sweeps per iteration is a stochastic gradient; the last iterate counts, because
    # objectives of different windows cannot be compared.
    solver = Adam(
        learning_rate=rate, decay=settings.decay, subset_size=min(settings.window, len(clouds))
    )
    solution = solve(
        problem,
        _add_priors(prior, settings, priors),
        solver,
        tolerance=0.0,
        max_iterations=settings.max_iterations,
        time_limit=time_limit,
        seed=seed,
        callbacks=callbacks,
        checkpoint=checkpoint,
        progress=progress,
    )
    # x(p, t) is the displacement from the sweep t to the next one; the last sweep has no successor.
    with torch.no_grad():
        return [solution.x.flow(points[None], float(t))[0] for t, points in enumerate(sweeps[:-1])]


def _add_priors(field: ImplicitPrior, settings: EulerSettings, priors: Prior | None) -> Prior:
    """Add the explicit priors of the settings, and further ones, to the field."""
    # R(F) = sum_t R(F(p_t, t)): a prior of the flow of one sweep becomes one of the field.
    total: Prior = field
    if settings.rigid:
        total = total + settings.rigid * AlongField(ARAP(8, radius=1.5))
    if settings.still:
        total = total + settings.still * AlongField(StaticWorld(limit=0.2))
    return total if priors is None else total + priors
