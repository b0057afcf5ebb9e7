"""The methods of scene flow by name: each turns a prepared pair of sweeps into the motion that is left beside the sensor's own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from invtoolbox.errors import unknown_name
from invtoolbox.kernels.points.nearest import Tree
from invtoolbox.motion.bodies import Bodies, BodySettings, Refinement, moving_bodies, refine
from invtoolbox.motion.euler import EulerSettings, euler_flow
from invtoolbox.motion.published import VoxelSettings, fast_nsf, nsfp, voxel_flow
from invtoolbox.motion.registration import height_above

#: Height above the ground up to which points above a body belong to it, metres: lorries and buses.
_TALLEST = 4.5
#: How far from a body, in the plane, its fragments are looked for, metres; and how far from the target a fragment must be.
_BESIDE, _APART = 1.5, 0.15


@dataclass(frozen=True, eq=False)
class Pair:
    """What a method looks at: two sweeps in one frame, in which the static world lies on itself; without ground.

    Attributes:
        source, target: ``(n, 3)`` and ``(m, 3)``.
        ground: points of the ground, for heights, ``(g, 3)``.
        times: when the points were measured within their sweeps, seconds, ``(n,)`` and ``(m,)``; None where it is not known.
    """

    source: Tensor
    target: Tensor
    ground: Tensor
    times: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Motion:
    """What a method finds for the n points of the source.

    Attributes:
        flow: beyond the static world's, metres, ``(n, 3)``.
        instance: the body of each point, ``(n,)`` int64; -1 for none.
    """

    flow: Tensor
    instance: Tensor


#: ``method(pair, seed) -> Motion``: a frozen record of settings that can be called.
Method = Callable[[Pair, int], Motion]


@dataclass(frozen=True)
class Default:
    """Bodies that move rigidly; all else stands still, at exactly 0.

    The start is that of ICP-Flow (Lin et al., CVPR 2024) with plane-to-plane distances in place of point-to-point ones, which lidar
    lines hold back, and with the time of each point where it is known; all things are registered at once, as items of a batch.

    Attributes:
        bodies: how they are found.
        refinement: lets them bend afterwards, for things that are not rigid. On the real pair of ``benchmarks/scene_flow.py``, where
            all that is found are cars, it costs 0.02 m of dynamic error, so by default nothing bends.
    """

    bodies: BodySettings = field(default_factory=BodySettings)
    refinement: Refinement | None = None

    def __call__(self, pair: Pair, seed: int) -> Motion:
        height, target_height = (
            height_above(pair.source, pair.ground),
            height_above(pair.target, pair.ground),
        )
        bodies = moving_bodies(
            pair.source, pair.target, height, target_height, pair.times, self.bodies
        )
        bodies = _with_fragments(pair, height, bodies)
        if self.refinement is None:
            return Motion(bodies.flow, bodies.label)
        return Motion(
            refine(
                pair.source, pair.target, bodies.label, bodies.flow, pair.times, self.refinement
            ),
            bodies.label,
        )


@dataclass(frozen=True)
class IcpFlow:
    """Bodies registered with point-to-point distances, as in ICP-Flow (Lin et al., CVPR 2024): `Default` without what it adds."""

    bodies: BodySettings = field(
        default_factory=lambda: BodySettings(plane=False, explained=0.7, noise=0.05)
    )

    def __call__(self, pair: Pair, seed: int) -> Motion:
        return Default(self.bodies)(dataclasses.replace(pair, times=None), seed)


@dataclass(frozen=True)
class Nsfp:
    """`published.nsfp` with the settings for whole sweeps without the sensor's motion; every point counts as one of no body."""

    points: int | None = 24_000
    patience: int = 100
    max_iterations: int = 450
    time_limit: float | None = None

    def __call__(self, pair: Pair, seed: int) -> Motion:
        flow = nsfp(
            pair.source,
            pair.target,
            points=self.points,
            patience=self.patience,
            max_iterations=self.max_iterations,
            seed=seed,
            time_limit=self.time_limit,
        )
        return Motion(flow, torch.full((len(flow),), -1))


@dataclass(frozen=True)
class FastNsf:
    """`published.fast_nsf` with its settings for whole sweeps: soon done, and on pairs without the sensor's motion hardly off from zero.

    Its grid takes memory by the volume, so points farther than `max_range` from the sensor, metres in the plane, are left out and do not
    move; None takes all.
    """

    max_range: float | None = 35.0
    points: int | None = None
    patience: int = 10
    max_iterations: int = 5000
    time_limit: float | None = None

    def __call__(self, pair: Pair, seed: int) -> Motion:
        flow = torch.zeros_like(pair.source)
        reach = math.inf if self.max_range is None else self.max_range
        near, target_near = (
            points[:, :2].norm(dim=1) <= reach for points in (pair.source, pair.target)
        )
        if bool(near.any()) and bool(target_near.any()):
            flow[near] = fast_nsf(
                pair.source[near],
                pair.target[target_near],
                points=self.points,
                patience=self.patience,
                max_iterations=self.max_iterations,
                seed=seed,
                time_limit=self.time_limit,
            )
        return Motion(flow, torch.full((len(flow),), -1))


@dataclass(frozen=True)
class Voxel:
    """`voxel.voxel_flow`: a grid of flow vectors, clusters that move together (Hoffmann et al., "Floxels", CVPR 2025)."""

    settings: VoxelSettings = field(default_factory=VoxelSettings)

    def __call__(self, pair: Pair, seed: int) -> Motion:
        flow = voxel_flow(
            pair.source, pair.target, height_above(pair.source, pair.ground), self.settings
        )
        return Motion(flow, torch.full((len(flow),), -1))


@dataclass(frozen=True)
class Euler:
    """`euler.euler_flow` of the two sweeps of a pair alone. Its strength is a whole sequence: call it with all its sweeps in one frame."""

    settings: EulerSettings = field(
        default_factory=lambda: EulerSettings(steps=1, window=2, max_iterations=150)
    )

    def __call__(self, pair: Pair, seed: int) -> Motion:
        flow = euler_flow([pair.source, pair.target], self.settings, seed=seed)[0]
        return Motion(flow, torch.full((len(flow),), -1))


METHODS: dict[str, Callable[[], Method]] = {
    "default": Default,
    "icp-flow": IcpFlow,
    "nsfp": Nsfp,
    "fast-nsf": FastNsf,
    "voxel": Voxel,
    "euler": Euler,
}


def method_named(name: str) -> Method:
    """A method by its name, with its default settings."""
    if name not in METHODS:
        raise unknown_name("method of scene flow", name, METHODS)
    return METHODS[name]()


def _with_fragments(pair: Pair, height: Tensor, bodies: Bodies) -> Bodies:
    """What stands beside or above a body goes with it where that brings it onto the target: what was too high to make clusters, or
    hangs together with nothing, as a long side does that is seen at a grazing angle."""
    inside = bodies.label >= 0
    if not bool(inside.any()):
        return bodies
    tree = Tree(pair.target)
    before = tree.query(pair.source)[0]
    loose = (~inside & (height < _TALLEST) & (before > _APART)).nonzero().squeeze(1)
    if len(loose) == 0:
        return bodies
    flat = torch.tensor([1.0, 1.0, 0.0], device=pair.source.device) * pair.source
    distance, index = Tree(flat[inside]).query(flat[loose], bound=_BESIDE)
    near = distance.isfinite()
    loose, owner = loose[near], bodies.label[inside][index[near]]
    points, motion = pair.source[loose], bodies.motion[owner]
    flow = torch.einsum("nij,nj->ni", motion[:, :3, :3], points) + motion[:, :3, 3] - points
    better = tree.query(points + flow)[0] < 0.5 * before[loose]
    label, whole = bodies.label.clone(), bodies.flow.clone()
    label[loose[better]], whole[loose[better]] = owner[better], flow[better]
    return Bodies(label, bodies.motion, whole)
