"""Scores of scene flow by class and by speed.

The module holds the five meta-classes of the scores and the words of the data sets that belong to
them, the three-way end-point error (moving foreground, standing foreground, standing background),
and the bucket-normalized end-point error, which is relative to speed and weighs every class and
speed equally.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry.sweeps import MOVES
from invtoolbox.metrics.flow import point_errors

BACKGROUND = "BACKGROUND"

_AV2 = {
    "CAR": ("REGULAR_VEHICLE",),
    "OTHER_VEHICLES": (
        "ARTICULATED_BUS",
        "BOX_TRUCK",
        "BUS",
        "LARGE_VEHICLE",
        "RAILED_VEHICLE",
        "SCHOOL_BUS",
        "TRUCK",
        "TRUCK_CAB",
        "VEHICULAR_TRAILER",
    ),
    "PEDESTRIAN": ("OFFICIAL_SIGNALER", "PEDESTRIAN", "STROLLER", "WHEELCHAIR"),
    "WHEELED_VRU": (
        "BICYCLE",
        "BICYCLIST",
        "MOTORCYCLE",
        "MOTORCYCLIST",
        "WHEELED_DEVICE",
        "WHEELED_RIDER",
    ),
}

#: Meta-class of each word of Argoverse 2. Signs, cones, traffic lights on trailers and animals
#: belong to no meta-class, so they do not count.
AV2_META_CLASSES: Mapping[str, str] = {word: meta for meta, words in _AV2.items() for word in words}

#: The meta-classes, in the order of the tables.
META_CLASSES = (BACKGROUND, *_AV2)

# Words of other data sets and of our simulator for the same meta-classes.
_OTHERS = {
    "CAR": ("CAR", "VEHICLE", "VEHICLE.CAR", "TYPE_VEHICLE"),
    "OTHER_VEHICLES": (
        "VAN",
        "TRAM",
        "TRAILER",
        "VEHICLE.TRUCK",
        "VEHICLE.TRAILER",
        "VEHICLE.CONSTRUCTION",
        "VEHICLE.BUS.BENDY",
        "VEHICLE.BUS.RIGID",
        "VEHICLE.EMERGENCY.POLICE",
        "VEHICLE.EMERGENCY.AMBULANCE",
    ),
    "PEDESTRIAN": (
        "PERSON",
        "PERSON_SITTING",
        "HUMAN.PEDESTRIAN.ADULT",
        "HUMAN.PEDESTRIAN.CHILD",
        "HUMAN.PEDESTRIAN.WHEELCHAIR",
        "HUMAN.PEDESTRIAN.STROLLER",
        "HUMAN.PEDESTRIAN.PERSONAL_MOBILITY",
        "HUMAN.PEDESTRIAN.POLICE_OFFICER",
        "HUMAN.PEDESTRIAN.CONSTRUCTION_WORKER",
        "TYPE_PEDESTRIAN",
    ),
    "WHEELED_VRU": ("CYCLIST", "VEHICLE.BICYCLE", "VEHICLE.MOTORCYCLE", "TYPE_CYCLIST"),
    BACKGROUND: (
        BACKGROUND,
        "NONE",
        "GROUND",
        "ROAD",
        "BUILDING",
        "POLE",
        "TREE",
        "VEGETATION",
        "UNLABELED",
        "NOISE",
    ),
}
_MEANING = {**{word: meta for meta, words in _OTHERS.items() for word in words}, **AV2_META_CLASSES}


#: Edges of the buckets of speed, in metres per sweep: 50 buckets of 0.04 from 0 to 2, and one
#: bucket of all higher speeds. The first bucket is the static one.
EDGES = torch.cat(
    [torch.linspace(0, 2, 51, dtype=torch.float64), torch.tensor([math.inf], dtype=torch.float64)]
)
_TABLE = (len(META_CLASSES), len(EDGES) - 1)


def meta_class(
    category: Tensor, categories: Sequence[str], meaning: Mapping[str, str] | None = None
) -> Tensor:
    """Return the index in `META_CLASSES` per point, or -1 for a category of no meta-class.

    Args:
        category: index into `categories` per point. The index -1, a point outside every labelled
            box, is background.
        categories: words of the data set; capitals do not matter.
        meaning: meta-class of each word, which replaces the table of this module. That table has
            the words of Argoverse 2 and the equivalent words of KITTI, nuScenes, Waymo and the
            simulator.

    Returns:
        int64 indices of the shape of `category`.

    >>> meta_class(torch.tensor([-1, 0, 1, 2]), ("REGULAR_VEHICLE", "BICYCLE", "STOP_SIGN"))
    tensor([ 0,  1,  4, -1])
    """
    if category.is_floating_point() or category.dtype == torch.bool:
        raise InputError(
            f"the category is {category.dtype}; give whole numbers, indices into the words of the "
            "data set"
        )
    if category.numel() and not (
        int(category.min()) >= -1 and int(category.max()) < len(categories)
    ):
        raise InputError(
            f"categories range from {int(category.min())} to {int(category.max())}; there are "
            f"{len(categories)} words, so give -1 to {len(categories) - 1}"
        )
    classes = {
        word.upper(): meta for word, meta in (_MEANING if meaning is None else meaning).items()
    }
    wrong = sorted(set(classes.values()) - set(META_CLASSES))
    if wrong:
        raise InputError(f"{wrong[0]!r} is no meta-class; use {', '.join(META_CLASSES)}")
    places = [
        META_CLASSES.index(classes[word.upper()]) if word.upper() in classes else -1
        for word in categories
    ]
    # The index -1 refers to the last entry: a point outside every box is background.
    table = torch.tensor([*places, 0], dtype=torch.int64, device=category.device)
    return table[category.to(torch.int64)]


@dataclass(frozen=True)
class ThreeWay:
    """Three end-point errors in metres, and their mean; NaN for a kind without points.

    Attributes:
        foreground_dynamic: FD, error of the points of moving road users.
        foreground_static: FS, error of the points of standing road users.
        background_static: BS, error of all other standing points.
        averaged: "points" if every point of the data set has the same weight, "frames" if every
            sweep has the same weight.
    """

    foreground_dynamic: float
    foreground_static: float
    background_static: float
    averaged: str

    @property
    def mean(self) -> float:
        """The three-way error: the mean of the three errors."""
        return (self.foreground_dynamic + self.foreground_static + self.background_static) / 3


@dataclass(frozen=True)
class ThreeWayEPE:
    """Sums of end-point errors per sweep, from which both averages are computed.

    The sums of several sweeps add: ``a + b``, ``sum(parts, ThreeWayEPE())``.

    Attributes:
        sums, counts: sum of the errors and number of points of FD, FS and BS, per sweep.
    """

    sums: tuple[tuple[float, float, float], ...] = ()
    counts: tuple[tuple[int, int, int], ...] = ()

    def __add__(self, other: ThreeWayEPE) -> ThreeWayEPE:
        return ThreeWayEPE(self.sums + other.sums, self.counts + other.counts)

    def pool(self) -> ThreeWay:
        """Average over all points of all sweeps, as the package bucketed-scene-flow-eval does."""
        fd, fs, bs = (
            _ratio(sum(s[k] for s in self.sums), sum(c[k] for c in self.counts)) for k in range(3)
        )
        return ThreeWay(fd, fs, bs, averaged="points")

    def per_frame(self) -> ThreeWay:
        """Average the means of the sweeps, as OpenSceneFlow does.

        A sweep without a point of a kind does not count for that kind.
        """
        means = []
        for k in range(3):
            frames = [s[k] / c[k] for s, c in zip(self.sums, self.counts) if c[k]]
            means.append(_ratio(sum(frames), len(frames)))
        return ThreeWay(means[0], means[1], means[2], averaged="frames")


def three_way_epe(
    flow: Tensor,
    truth: Tensor,
    meta_class: Tensor,
    mask: Tensor | None = None,
    threshold: float = MOVES,
) -> ThreeWayEPE:
    """Compute the three-way end-point error of one sweep; `ThreeWayEPE` adds many sweeps.

    Args:
        flow: flow of every point, ``(points, 3)``, metres, **without** the sensor's own motion.
        truth: true flow of every point, ``(points, 3)``, metres, **without** the sensor's motion.
        meta_class: meta-class of each point, as the function `meta_class` returns it: 0 is
            background, 1 to 4 are foreground, -1 does not count.
        mask: boolean mask of the points that count, ``(points,)``: those within 35 m whose truth
            is known.
        threshold: least length of the true flow of a moving point, in metres per sweep.

    Source: Chodosh, Ramanan, Lucey, "Re-evaluating lidar scene flow", WACV 2024, section 3.

    >>> truth = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> three_way_epe(torch.zeros(3, 3), truth, torch.tensor([1, 1, 0])).pool().mean
    0.3333333333333333
    """
    errors = point_errors(flow, truth)
    counted = counted_points(errors, flow, meta_class, mask)
    moves = truth.to(torch.float64).norm(dim=-1) >= threshold
    foreground = meta_class > 0
    kinds = (
        counted & foreground & moves,
        counted & foreground & ~moves,
        counted & ~foreground & ~moves,
    )
    sums = [float(errors[kind].sum()) for kind in kinds]
    counts = [int(kind.sum()) for kind in kinds]
    return ThreeWayEPE(((sums[0], sums[1], sums[2]),), ((counts[0], counts[1], counts[2]),))


@dataclass(frozen=True)
class BucketedErrors:
    """Bucket-normalized errors of a class or of the mean of classes; NaN without points.

    Attributes:
        static: end-point error of the slowest bucket, in metres.
        dynamic: mean over the other buckets of the error divided by the speed, without unit: 1 for
            a flow of zero, 0 for the true flow.
    """

    static: float
    dynamic: float


@dataclass(frozen=True, eq=False)
class BucketedEPE:
    """Sums of errors and speeds per class and bucket of speed.

    The sums of several sweeps add: ``a + b``, ``sum(parts, BucketedEPE())``. Sums and counts are
    gathered over the whole data set before any division. The figures therefore do not depend on
    the distribution of the points over sweeps, or of the sweeps over workers.

    Attributes:
        errors, speeds: sums in metres, float64 ``(classes, buckets)``; classes as in
            `META_CLASSES`.
        counts: numbers of points, int64 ``(classes, buckets)``.
    """

    errors: Tensor = field(default_factory=lambda: torch.zeros(_TABLE, dtype=torch.float64))
    speeds: Tensor = field(default_factory=lambda: torch.zeros(_TABLE, dtype=torch.float64))
    counts: Tensor = field(default_factory=lambda: torch.zeros(_TABLE, dtype=torch.int64))

    def __add__(self, other: BucketedEPE) -> BucketedEPE:
        return BucketedEPE(
            self.errors + other.errors, self.speeds + other.speeds, self.counts + other.counts
        )

    def by_class(self) -> dict[str, BucketedErrors]:
        """Return the scores of each meta-class."""
        # 0 / 0 is NaN: a class without points.
        static = (self.errors[:, 0] / self.counts[:, 0]).tolist()
        dynamic = (self.errors[:, 1:] / self.speeds[:, 1:]).nanmean(dim=1).tolist()
        return {name: BucketedErrors(static[k], dynamic[k]) for k, name in enumerate(META_CLASSES)}

    def mean(self) -> BucketedErrors:
        """Return the mean over the classes that have points.

        The Argoverse 2 challenge of 2024 ranks by these figures.
        """
        scores = list(self.by_class().values())
        return BucketedErrors(_mean([s.static for s in scores]), _mean([s.dynamic for s in scores]))


def bucketed_epe(
    flow: Tensor, truth: Tensor, meta_class: Tensor, mask: Tensor | None = None
) -> BucketedEPE:
    """Compute the bucket-normalized end-point error of one sweep; `BucketedEPE` adds many sweeps.

    The true speed of a point determines its bucket, ``lower <= |truth| < upper`` with the edges
    `EDGES`.

    Args:
        flow: flow of every point, ``(points, 3)``, metres, **without** the sensor's own motion.
        truth: true flow of every point, ``(points, 3)``, metres, **without** the sensor's motion.
        meta_class: meta-class of each point, as the function `meta_class` returns it; -1 does not
            count.
        mask: boolean mask of the points that count, ``(points,)``. The challenge counts points with
            ``|x| < 35 and |y| < 35`` m.

    Source: Khatri, Vedder, Peri, Ramanan, Hays, "I can't believe it's not scene flow!", ECCV 2024;
    agrees with the package bucketed-scene-flow-eval to 1e-6.

    >>> truth = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> bucketed_epe(torch.zeros(3, 3), truth, torch.tensor([1, 3, 0])).mean()
    BucketedErrors(static=0.0, dynamic=1.0)
    """
    errors = point_errors(flow, truth)
    counted = counted_points(errors, flow, meta_class, mask)
    errors, speeds, classes = (
        errors[counted].cpu(),
        truth[counted].to(torch.float64).norm(dim=-1).cpu(),
        meta_class[counted].cpu(),
    )
    buckets = len(EDGES) - 1
    # With right=True, a speed on an edge belongs to the bucket above it.
    place = classes * buckets + torch.bucketize(speeds, EDGES, right=True) - 1

    def gather(values: Tensor) -> Tensor:
        return torch.bincount(place, weights=values, minlength=len(META_CLASSES) * buckets).view(
            -1, buckets
        )

    return BucketedEPE(
        gather(errors), gather(speeds), gather(torch.ones_like(errors)).to(torch.int64)
    )


def counted_points(errors: Tensor, flow: Tensor, meta_class: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mask of the points of a sweep that count, boolean ``(points,)``.

    Raises:
        InputError: shapes that do not belong to one sweep, or points that count without a flow.
    """
    if flow.ndim != 2 or flow.shape[-1] != 3:
        raise InputError(
            f"the flow has shape {tuple(flow.shape)}; this error takes the flow of one sweep, "
            "(points, 3)"
        )
    if meta_class.shape != flow.shape[:1]:
        raise InputError(
            f"meta_class has shape {tuple(meta_class.shape)}; give one class for each of "
            f"{len(flow)} points"
        )
    counted = meta_class >= 0
    if mask is not None:
        if mask.shape != flow.shape[:1] or mask.dtype != torch.bool:
            raise InputError(
                f"the mask is {mask.dtype} of shape {tuple(mask.shape)}; give booleans, one for "
                f"each of {len(flow)} points"
            )
        counted = counted & mask
    lost = int((counted & ~errors.isfinite()).sum())
    if lost:
        raise InputError(
            f"{lost} points that count have a flow or a truth that is not finite; exclude them by "
            "the mask"
        )
    return counted


def _ratio(total: float, count: int) -> float:
    return total / count if count else math.nan


def _mean(values: list[float]) -> float:
    finite = [v for v in values if not math.isnan(v)]
    return _ratio(sum(finite), len(finite))
