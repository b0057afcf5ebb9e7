"""Default method of scene flow, and ICP-Flow: bodies that move rigidly, all other points at rest."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from invtoolbox.jobs.flow.bodies import moving_bodies
from invtoolbox.jobs.flow.evidence import BodySettings
from invtoolbox.jobs.flow.ground import ground
from invtoolbox.jobs.flow.pair import Motion, Pair


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
        # at `origin`; the frame is that of the target.
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
