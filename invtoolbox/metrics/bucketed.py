"""The bucket-normalised end-point error: errors relative to speed, each class and speed counting alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.metrics.flow import point_errors
from invtoolbox.metrics.meta_classes import META_CLASSES
from invtoolbox.metrics.three_way import counted_points

#: Buckets of speed in metres a sweep: 50 of 0.04 from 0 to 2, and one of all that is faster. The first is the static one.
EDGES = torch.cat(
    [torch.linspace(0, 2, 51, dtype=torch.float64), torch.tensor([math.inf], dtype=torch.float64)]
)


@dataclass(frozen=True)
class BucketedErrors:
    """What a class, or the mean of classes, scores; NaN where there are no points.

    Attributes:
        static: end-point error of the slowest bucket, in metres.
        dynamic: mean over the other buckets of error divided by speed, without unit: 1 for a flow of zero, 0 for the truth.
    """

    static: float
    dynamic: float


@dataclass(frozen=True, eq=False)
class BucketedEPE:
    """Sums of errors and speeds by class and bucket of speed; sweeps add: ``a + b``, ``sum(parts, BucketedEPE())``.

    Sums and counts are gathered over the whole data set before anything is divided, so that the figures do not depend on how the
    points are spread over sweeps, or the sweeps over workers.

    Attributes:
        errors, speeds: float64 ``(classes, buckets)``, metres; classes as in `META_CLASSES`.
        counts: int64 ``(classes, buckets)``.
    """

    errors: Tensor
    speeds: Tensor
    counts: Tensor

    def __init__(
        self,
        errors: Tensor | None = None,
        speeds: Tensor | None = None,
        counts: Tensor | None = None,
    ) -> None:
        shape = (len(META_CLASSES), len(EDGES) - 1)
        object.__setattr__(
            self, "errors", torch.zeros(shape, dtype=torch.float64) if errors is None else errors
        )
        object.__setattr__(
            self, "speeds", torch.zeros(shape, dtype=torch.float64) if speeds is None else speeds
        )
        object.__setattr__(
            self, "counts", torch.zeros(shape, dtype=torch.int64) if counts is None else counts
        )

    def __add__(self, other: BucketedEPE) -> BucketedEPE:
        return BucketedEPE(
            self.errors + other.errors, self.speeds + other.speeds, self.counts + other.counts
        )

    def by_class(self) -> dict[str, BucketedErrors]:
        """The scores of each meta-class."""
        static = (
            self.errors[:, 0] / self.counts[:, 0]
        ).tolist()  # 0 / 0 is NaN: there was no point
        dynamic = (self.errors[:, 1:] / self.speeds[:, 1:]).nanmean(dim=1).tolist()
        return {name: BucketedErrors(static[k], dynamic[k]) for k, name in enumerate(META_CLASSES)}

    def mean(self) -> BucketedErrors:
        """The mean of the classes that have points: the figures by which the Argoverse 2 challenge of 2024 ranks."""
        scores = list(self.by_class().values())
        return BucketedErrors(_mean([s.static for s in scores]), _mean([s.dynamic for s in scores]))


def bucketed_epe(
    flow: Tensor, truth: Tensor, meta_class: Tensor, mask: Tensor | None = None
) -> BucketedEPE:
    """The bucket-normalised end-point error of one sweep; see `BucketedEPE` for many.

    A point's bucket is that of its true speed, ``lower <= |truth| < upper`` with the edges `EDGES`.

    Args:
        flow: ``(points, 3)``, metres, **without** the sensor's own motion.
        truth: likewise.
        meta_class: of each point, as `meta_class` gives it; -1 does not count.
        mask: boolean ``(points,)``, true where a point counts. The challenge counts ``|x| < 35 and |y| < 35`` m.

    Source: Khatri, Vedder, Peri, Ramanan, Hays, "I can't believe it's not scene flow!", ECCV 2024; agrees with the package
    bucketed-scene-flow-eval to 1e-6.

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


def _mean(values: list[float]) -> float:
    seen = [v for v in values if not math.isnan(v)]
    return sum(seen) / len(seen) if seen else math.nan
