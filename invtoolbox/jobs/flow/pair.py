"""Input and result of a method of scene flow: a prepared pair with its window, and a motion."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from invtoolbox.jobs.flow.window import Neighbour


@dataclass(frozen=True, eq=False)
class Pair:
    """Input of a method: two sweeps in one frame, in which the static worlds coincide.

    The ground is removed, unless it is kept on request.

    Attributes:
        source: points of the first sweep, ``(n, 3)``.
        target: points of the second sweep, ``(m, 3)``.
        ground: points of the ground, which define heights, ``(g, 3)``; none if the ground was not
            removed, or was removed before.
        times: times of the points within their sweeps, seconds, ``(n,)`` and ``(m,)``; None if
            unknown.
        period: seconds from the first sweep to the second.
        ego_motion: E, by which the source was moved, float64 ``(4, 4)``; None if it was not moved.
        window: further sweeps in the same frame, in the order of time.
        origin: position of the sensor at the first sweep, ``(3,)``.
        scans: source and target with their clouds, whose trees and normals windows share; None to
            compute them anew. The target is None if it is not measured yet.
    """

    source: Tensor
    target: Tensor
    ground: Tensor
    times: tuple[Tensor, Tensor] | None = None
    period: float = 0.1
    ego_motion: Tensor | None = None
    window: tuple[Neighbour, ...] = ()
    origin: Tensor = field(default_factory=lambda: torch.zeros(3))
    scans: tuple[Neighbour, Neighbour | None] | None = None


@dataclass(frozen=True, eq=False)
class Motion:
    """Result of a method for the n points of the source.

    Attributes:
        flow: displacement relative to the static world, metres, ``(n, 3)``.
        instance: number of the body of every point, int64 ``(n,)``; -1 for none.
    """

    flow: Tensor
    instance: Tensor
