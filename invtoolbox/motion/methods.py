"""Methods of scene flow by name.

Each maps a prepared pair of sweeps to the motion that remains after the motion of the sensor.
"""

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

#: Height above the ground up to which points above a body may belong to it, metres: lorries, buses.
_TALLEST = 4.5
#: Distance in the plane within which fragments of a body are searched, metres.
_FRAGMENT_DISTANCE = 1.5
#: Smallest distance of a fragment to the target, metres.
_APART = 0.15


@dataclass(frozen=True, eq=False)
class Pair:
    """Input of a method: two sweeps in one frame, in which the static worlds coincide.

    The ground is removed.

    Attributes:
        source: points of the first sweep, ``(n, 3)``.
        target: points of the second sweep, ``(m, 3)``.
        ground: points of the ground, which define heights, ``(g, 3)``.
        times: times of the points within their sweeps, seconds, ``(n,)`` and ``(m,)``; None if
            unknown.
    """

    source: Tensor
    target: Tensor
    ground: Tensor
    times: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Motion:
    """Result of a method for the n points of the source.

    Attributes:
        flow: displacement relative to the static world, metres, ``(n, 3)``.
        instance: number of the body of every point, int64 ``(n,)``; -1 for none.
    """

    flow: Tensor
    instance: Tensor


#: ``method(pair, seed) -> Motion``: a frozen dataclass of settings that can be called.
Method = Callable[[Pair, int], Motion]


@dataclass(frozen=True)
class Default:
    """Default method: bodies that move rigidly; the flow of all other points is exactly 0.

    It extends ICP-Flow (Lin et al., CVPR 2024): plane-to-plane distances replace point-to-point
    distances, which the scan lines of a lidar bias towards zero motion, and the time of each point
    is used if it is known. All bodies are registered at once, as items of a batch.

    Attributes:
        bodies: settings of the detection of bodies.
        refinement: settings of a nonrigid refinement, or None. On the real pair of
            ``benchmarks/scene_flow.py``, in which only cars are found, it increases the dynamic
            error by 0.02 m, so there is none by default.
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
    """ICP-Flow (Lin et al., CVPR 2024): bodies registered with point-to-point distances.

    Attributes:
        bodies: settings of the detection of bodies.
    """

    bodies: BodySettings = field(
        default_factory=lambda: BodySettings(plane=False, explained=0.7, noise=0.05)
    )

    def __call__(self, pair: Pair, seed: int) -> Motion:
        return Default(self.bodies)(dataclasses.replace(pair, times=None), seed)


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
    """Fast neural scene flow (`published.fast_nsf`) with its settings for whole sweeps.

    It is fast, and stays close to zero on pairs without the motion of the sensor. The memory of its
    grid grows with the volume, so points beyond `max_range` are left out and do not move.

    Attributes:
        max_range: distance from the sensor in the plane, metres; None for all points.
        points: number of points drawn for the fit; None for all.
        patience: iterations without improvement after which the fit stops.
        max_iterations: largest number of iterations.
        time_limit: seconds after which the fit stops; None for no limit.
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
    """Grid of flow vectors with clusters that move together (Hoffmann et al., Floxels, CVPR 2025).

    Attributes:
        settings: settings of `published.voxel_flow`.
    """

    settings: VoxelSettings = field(default_factory=VoxelSettings)

    def __call__(self, pair: Pair, seed: int) -> Motion:
        flow = voxel_flow(
            pair.source, pair.target, height_above(pair.source, pair.ground), self.settings
        )
        return Motion(flow, torch.full((len(flow),), -1))


@dataclass(frozen=True)
class Euler:
    """EulerFlow (`euler.euler_flow`) of the two sweeps of a pair.

    Its strength is a whole sequence: call `euler_flow` with all sweeps in one frame.

    Attributes:
        settings: settings of `euler.euler_flow`.
    """

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
    """Return a method by its name, with its default settings.

    Args:
        name: name in `METHODS`.
    """
    if name not in METHODS:
        raise unknown_name("method of scene flow", name, METHODS)
    return METHODS[name]()


def _with_fragments(pair: Pair, height: Tensor, bodies: Bodies) -> Bodies:
    """Assign loose points next to or above a body to it if its motion brings them onto the target.

    Such points were too high for clusters, or are connected to nothing, like a long side of a car
    that is seen at a grazing angle.
    """
    inside = bodies.label >= 0
    if not bool(inside.any()):
        return bodies
    tree = Tree(pair.target)
    before = tree.query(pair.source)[0]
    loose = (~inside & (height < _TALLEST) & (before > _APART)).nonzero().squeeze(1)
    if len(loose) == 0:
        return bodies
    flat = torch.tensor([1.0, 1.0, 0.0], device=pair.source.device) * pair.source
    distance, index = Tree(flat[inside]).query(flat[loose], bound=_FRAGMENT_DISTANCE)
    near = distance.isfinite()
    loose, owner = loose[near], bodies.label[inside][index[near]]
    points, motion = pair.source[loose], bodies.motion[owner]
    flow = torch.einsum("nij,nj->ni", motion[:, :3, :3], points) + motion[:, :3, 3] - points
    better = tree.query(points + flow)[0] < 0.5 * before[loose]
    label, whole = bodies.label.clone(), bodies.flow.clone()
    label[loose[better]], whole[loose[better]] = owner[better], flow[better]
    return Bodies(label, bodies.motion, whole)
