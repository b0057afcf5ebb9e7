"""Methods of scene flow by name: the default method, ICP-Flow, and published methods.

Each maps a prepared pair of sweeps to the motion that remains after the motion of the sensor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from invtoolbox.errors import require_name
from invtoolbox.jobs.flow.bodies import moving_bodies
from invtoolbox.jobs.flow.clusters import height_above
from invtoolbox.jobs.flow.evidence import BodySettings
from invtoolbox.jobs.flow.ground import ground
from invtoolbox.jobs.flow.published import (
    EulerSettings,
    Fit,
    VoxelSettings,
    euler_flow,
    nsfp,
    voxel_flow,
)
from invtoolbox.jobs.flow.window import Motion as Motion
from invtoolbox.jobs.flow.window import Pair as Pair

#: ``method(pair, seed) -> Motion``: a frozen dataclass of settings that can be called.
Method = Callable[[Pair, int], Motion]


@dataclass(frozen=True)
class Default:
    """Default method: bodies that move rigidly; the flow of all other points is exactly 0.

    It extends ICP-Flow (Lin et al., CVPR 2024): bodies follow tracks through all sweeps of a
    window, plane-to-plane distances replace point-to-point distances, which the scan lines of a
    lidar bias towards zero motion, and the time of each point is used if it is known. All bodies
    are registered at once, as items of a batch.

    Attributes:
        bodies: settings of the detection of bodies.
    """

    window: ClassVar[bool] = True
    predicts: ClassVar[bool] = True
    bodies: BodySettings = field(default_factory=BodySettings)

    def __call__(self, pair: Pair, seed: int) -> Motion:
        # A pair without separate ground either holds it among its points, or has lost it before.
        if len(pair.ground) == 0 and bool((low := ground(pair.source - pair.origin)).any()):
            return self._without_ground(pair, low, seed)
        bodies = moving_bodies(pair, self.bodies)
        return Motion(bodies.flow, bodies.label)

    def _without_ground(self, pair: Pair, low: Tensor, seed: int) -> Motion:
        """Compute the motion of a pair that holds its ground, which stands still.

        The ground would connect all clusters.
        """
        # Each sweep is segmented around its own sensor: the source was moved by E, so its sensor is
        # at `origin`; the frame belongs to the target.
        high, target_high = ~low, ~ground(pair.target)
        times = pair.times and (pair.times[0][high], pair.times[1][target_high])
        above_ground = replace(
            pair,
            source=pair.source[high],
            target=pair.target[target_high],
            ground=pair.source[low],
            times=times,
            scans=None,
            window=tuple(scan.take(~ground(scan.points - scan.origin)) for scan in pair.window),
        )
        motion = self(above_ground, seed)
        # The ground has the flow 0 and no body.
        flow, instance = torch.zeros_like(pair.source), torch.full_like(low, -1, dtype=torch.long)
        flow[high], instance[high] = motion.flow, motion.instance
        return Motion(flow, instance)


@dataclass(frozen=True)
class IcpFlow:
    """ICP-Flow (Lin et al., CVPR 2024): bodies of a pair, registered with point-to-point distances.

    Attributes:
        bodies: settings of the detection of bodies.
    """

    bodies: BodySettings = field(
        default_factory=lambda: BodySettings(
            fewest=15, plane=False, explained=1.0, gain=15.0, noise=0.05
        )
    )

    def __call__(self, pair: Pair, seed: int) -> Motion:
        # The paper registers two sweeps and knows no times of points.
        return Default(self.bodies)(replace(pair, times=None, window=()), seed)


@dataclass(frozen=True)
class Nsfp:
    """Neural scene flow prior (`published.nsfp`) for whole sweeps; it finds no bodies.

    Attributes:
        points: number of points drawn for the fit; None for all.
        patience: iterations without improvement after which the fit stops.
        max_iterations: largest number of iterations.
        time_limit: seconds after which the fit stops; None for no limit.
    """

    points: int | None = 24_000
    patience: int = 100
    max_iterations: int = 450
    time_limit: float | None = None

    def __call__(self, pair: Pair, seed: int) -> Motion:
        # The seed draws the points of the source, seed + 1 the points of the target (`Fit.draw`).
        fit = Fit(
            points=self.points,
            patience=self.patience,
            max_iterations=self.max_iterations,
            seed=seed,
            time_limit=self.time_limit,
        )
        flow = nsfp(pair.source, pair.target, fit)
        # A flow without bodies: every point has the instance -1.
        return Motion(flow, torch.full((len(flow),), -1))


@dataclass(frozen=True)
class Voxel:
    """Grid of flow vectors with clusters that move together (Hoffmann et al., Floxels, CVPR 2025).

    Attributes:
        settings: settings of `published.voxel_flow`.
    """

    window: ClassVar[bool] = True
    settings: VoxelSettings = field(default_factory=VoxelSettings)

    def __call__(self, pair: Pair, seed: int) -> Motion:
        # Clusters are made of low points; heights count from the ground, which the pair keeps apart.
        flow = voxel_flow(
            pair.source,
            pair.target,
            height_above(pair.source, pair.ground),
            self.settings,
            [(scan.step, scan.points) for scan in pair.window],
        )
        return Motion(flow, torch.full((len(flow),), -1))


@dataclass(frozen=True)
class Euler:
    """EulerFlow (`published.euler_flow`) of the sweeps of a pair and its window.

    Its strength is a whole sequence: call `euler_flow` with all sweeps in one frame.

    Attributes:
        settings: settings of `published.euler_flow`; by default the objective of the paper. Points are
            advected over at most as many sweeps as there are.
    """

    window: ClassVar[bool] = True
    settings: EulerSettings = field(
        default_factory=lambda: EulerSettings(cycle=0.01, rigid=0.0, still=0.0, max_iterations=150)
    )

    def __call__(self, pair: Pair, seed: int) -> Motion:
        # Sweeps by their times in periods: the pair is at 0 and 1, past sweeps are negative.
        sweeps = {0: pair.source, 1: pair.target}
        # The field has the times of evenly spaced sweeps, so a gap ends the window.
        even = {
            round(scan.step): scan.points
            for scan in pair.window
            if abs(scan.step - round(scan.step)) < 0.1  # an even sequence, up to 0.1 periods
        }
        for k, ahead in ((-1, -1), (2, 1)):
            while k in even:
                sweeps[k] = even[k]
                k += ahead
        # A point is advected over `steps` sweeps, p_{k+1} = p_k + v(p_k, t_k), and must land on one.
        steps = min(self.settings.steps, len(sweeps) - 1)
        order = sorted(sweeps)
        flows = euler_flow(
            [sweeps[k] for k in order], replace(self.settings, steps=steps), seed=seed
        )
        flow = flows[order.index(0)]
        return Motion(flow, torch.full((len(flow),), -1))


def uses_window(method: Method) -> bool:
    """Return whether a method reads the further sweeps of a window, its attribute `window`."""
    return bool(getattr(method, "window", False))


METHODS: dict[str, Callable[[], Method]] = {
    "default": Default,
    "icp-flow": IcpFlow,
    "nsfp": Nsfp,
    "voxel": Voxel,
    "floxels": Voxel,
    "euler": Euler,
}


def method_named(name: str) -> Method:
    """Return a method by its name, with its default settings.

    Args:
        name: name in `METHODS`.
    """
    return METHODS[require_name("method of scene flow", name, METHODS)]()
