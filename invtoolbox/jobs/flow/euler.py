"""EulerFlow: the flow of a whole sequence at once, as one velocity field in space and time.

Vedder et al., Neural Eulerian scene flow fields, ICLR 2025. Two priors are added to its objective:
rigidity and a world at rest. Without them static points follow the random sampling of the sweeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from invtoolbox.data_terms.chamfer import RolloutChamfer
from invtoolbox.errors import InputError
from invtoolbox.loop.checkpoint import Checkpoint
from invtoolbox.loop.run import Callback
from invtoolbox.operators.points import EulerRollout
from invtoolbox.priors.base import ImplicitPrior, Prior
from invtoolbox.priors.implicit.space_time_flow import SpaceTimeFlow, SpaceTimeVoxels
from invtoolbox.priors.motion.rigidity import ARAP
from invtoolbox.priors.motion.speed import AlongField, StaticWorld
from invtoolbox.problem import Problem
from invtoolbox.solve import solve
from invtoolbox.solvers.adam import Adam


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
