"""The three-way end-point error: foreground that moves, foreground that stands, background that stands."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.metrics.flow import point_errors
from invtoolbox.scenes.sweep import MOVES


@dataclass(frozen=True)
class ThreeWay:
    """Four end-point errors in metres; NaN where there is no point of the kind.

    Attributes:
        foreground_dynamic: FD, points of road users that move.
        foreground_static: FS, points of road users that stand.
        background_static: BS, everything else that stands.
        averaged: "points" where every point of the data set weighs the same, "frames" where every sweep does.
    """

    foreground_dynamic: float
    foreground_static: float
    background_static: float
    averaged: str

    @property
    def mean(self) -> float:
        """The three-way error: the mean of the three."""
        return (self.foreground_dynamic + self.foreground_static + self.background_static) / 3


@dataclass(frozen=True)
class ThreeWayEPE:
    """Sums of end-point errors of sweeps, of which both averages are made; sweeps add: ``a + b``, ``sum(parts, ThreeWayEPE())``.

    Attributes:
        sums, counts: of each sweep, the sum of the errors and the number of points of FD, FS and BS.
    """

    sums: tuple[tuple[float, float, float], ...] = ()
    counts: tuple[tuple[int, int, int], ...] = ()

    def __add__(self, other: ThreeWayEPE) -> ThreeWayEPE:
        return ThreeWayEPE(self.sums + other.sums, self.counts + other.counts)

    def pooled(self) -> ThreeWay:
        """Averaged over all points of all sweeps, as the package bucketed-scene-flow-eval does."""
        fd, fs, bs = (
            _ratio(sum(s[k] for s in self.sums), sum(c[k] for c in self.counts)) for k in range(3)
        )
        return ThreeWay(fd, fs, bs, averaged="points")

    def per_frame(self) -> ThreeWay:
        """The mean over the sweeps of each one's mean, as OpenSceneFlow does; a sweep without a point of a kind does not count for it."""
        means = []
        for k in range(3):
            seen = [s[k] / c[k] for s, c in zip(self.sums, self.counts) if c[k]]
            means.append(_ratio(sum(seen), len(seen)))
        return ThreeWay(means[0], means[1], means[2], averaged="frames")


def three_way_epe(
    flow: Tensor,
    truth: Tensor,
    meta_class: Tensor,
    mask: Tensor | None = None,
    threshold: float = MOVES,
) -> ThreeWayEPE:
    """The three-way end-point error of one sweep; see `ThreeWayEPE` for many.

    Args:
        flow: ``(points, 3)``, metres, **without** the sensor's own motion.
        truth: likewise.
        meta_class: of each point, as `meta_class` gives it: 0 is background, 1 to 4 are foreground, -1 does not count.
        mask: boolean ``(points,)``, true where a point counts: within 35 m, where the truth is known.
        threshold: how long the true flow of a point that moves is at least, in metres a sweep.

    Source: Chodosh, Ramanan, Lucey, "Re-evaluating lidar scene flow", WACV 2024, section 3.

    >>> truth = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> three_way_epe(torch.zeros(3, 3), truth, torch.tensor([1, 1, 0])).pooled().mean
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


def counted_points(errors: Tensor, flow: Tensor, meta_class: Tensor, mask: Tensor | None) -> Tensor:
    """Which points of a sweep count, boolean ``(points,)``; refuses what does not belong to one sweep, and points without a flow."""
    if flow.ndim != 2 or flow.shape[-1] != 3:
        raise InputError(
            f"the flow has shape {tuple(flow.shape)}; this error is of one sweep, (points, 3)"
        )
    if meta_class.shape != flow.shape[:1]:
        raise InputError(f"meta_class has shape {tuple(meta_class.shape)} for {len(flow)} points")
    counted = meta_class >= 0
    if mask is not None:
        if mask.shape != flow.shape[:1] or mask.dtype != torch.bool:
            raise InputError(
                f"the mask is {mask.dtype} of shape {tuple(mask.shape)}; give booleans, one for each of {len(flow)} points"
            )
        counted = counted & mask
    lost = int((counted & ~errors.isfinite()).sum())
    if lost:
        raise InputError(
            f"{lost} points that count have a flow or a truth that is not finite; leave them out by the mask"
        )
    return counted


def _ratio(total: float, count: int) -> float:
    return total / count if count else math.nan
