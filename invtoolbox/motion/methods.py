"""The methods of scene flow by name: each turns a prepared pair of sweeps into the motion that is left beside the sensor's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.errors import InputError, unknown_name
from invtoolbox.motion import published
from invtoolbox.motion.bodies import Bodies, BodySettings, moving_bodies
from invtoolbox.motion.clusters import height_above
from invtoolbox.motion.preparation import PreparedPair
from invtoolbox.motion.refinement import Refinement, refined
from invtoolbox.scenes.rigid import transform

#: What moves less than this in a sweep counts as standing still, metres: 0.5 m/s at ten sweeps a second.
STILL = 0.05
#: Height above the ground up to which points above a body belong to it, metres: lorries and buses.
_TALLEST = 4.5


@dataclass(frozen=True, eq=False)
class Motion:
    """What a method finds for the points of `PreparedPair.source`, n of them.

    Attributes:
        flow: beyond the static world's, metres, ``(n, 3)``.
        dynamic: which points move in the world, ``(n,)``.
        instance: the body of each point, ``(n,)`` int64; -1 for none.
    """

    flow: Tensor
    dynamic: Tensor
    instance: Tensor


Method = Callable[[PreparedPair, int], Motion]


@dataclass(frozen=True)
class Default:
    """Bodies that move rigidly, then a voxel field that bends them where the points say so; all else stands still at exactly 0.

    The start is that of ICP-Flow (Lin et al., CVPR 2024) with plane-to-plane distances in place of point-to-point ones, which lidar
    lines hold back, and with the time of each point where it is known; all things are registered at once, as items of a batch.
    """

    bodies: BodySettings = BodySettings()
    refinement: Refinement | None = Refinement()

    def __call__(self, pair: PreparedPair, seed: int) -> Motion:
        height, target_height = heights(pair)
        bodies = moving_bodies(pair.source, pair.target, height, target_height, pair.times, self.bodies)
        bodies = _with_tops(pair, height, bodies)
        flow = bodies.flow
        if self.refinement is not None and len(bodies.motion):
            flow = refined(pair.source, pair.target, bodies, pair.times, self.refinement, seed)
        return Motion(flow, bodies.label >= 0, bodies.label)


@dataclass(frozen=True)
class IcpFlow:
    """The rigid start alone."""

    bodies: BodySettings = BodySettings()

    def __call__(self, pair: PreparedPair, seed: int) -> Motion:
        return Default(self.bodies, None)(pair, seed)


@dataclass(frozen=True)
class Nsfp:
    """Neural scene flow prior (Li, Pontes and Lucey, NeurIPS 2021)."""

    settings: published.NsfpSettings = published.NsfpSettings()

    def __call__(self, pair: PreparedPair, seed: int) -> Motion:
        return _by_speed(published.nsfp(pair.source, pair.target, self.settings, seed))


METHODS: dict[str, Callable[[], Method]] = {"default": Default, "icp-flow": IcpFlow, "nsfp": Nsfp}


def method_named(name: str) -> Method:
    """A method by its name, with its default settings."""
    if name not in METHODS:
        raise unknown_name("method of scene flow", name, METHODS)
    return METHODS[name]()


def heights(pair: PreparedPair) -> tuple[Tensor, Tensor]:
    """How high the points of source and target lie above the ground, ``(n,)`` and ``(m,)``."""
    return height_above(pair.source, pair.source_ground), height_above(pair.target, pair.target_ground_points)
