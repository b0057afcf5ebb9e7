"""Intervals with guaranteed coverage: split conformal prediction on pictures with known truth."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import torch
from torch import Tensor

from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.errors import InputError
from invtoolbox.posteriors.base import Posterior, share_within

#: Bins per power of ten, and the range of powers: a quantile is known to 0.06 %, in memory that
#: does not depend on the number of pictures.
_A_DECADE, _LEAST, _LARGEST = 4000, -6, 6


@dataclass(frozen=True)
class Scores:
    """Histogram of ``|truth - mean| / std`` over every pixel of some pictures.

    Attributes:
        histogram: the share of the pixels in each bin, with the same weight for every picture; the
            last bin is beyond all bounds.
        pictures: number of pictures.
        pixels: number of pixels of all pictures.
        floor: added in quadrature to every standard deviation.
    """

    histogram: Tensor
    pictures: int = 0
    pixels: int = 0
    floor: float = 0.0

    @classmethod
    def empty(cls, floor: float = 0.0) -> Scores:
        return cls(
            torch.zeros((_LARGEST - _LEAST) * _A_DECADE + 1, dtype=torch.float64), floor=floor
        )

    def join(self, posterior: Posterior, truth: Tensor) -> Scores:
        """Return the scores with those of another posterior, each item of which is a picture."""
        mean, std = posterior.mean, posterior.std
        if truth.shape[1:] != mean.shape[1:] or len(truth) not in (1, len(mean)):
            raise InputError(
                f"the truth of a posterior of images {tuple(mean.shape)} has shape "
                f"{tuple(truth.shape)}"
            )
        away = (truth.to(mean) - mean).abs().flatten(1).double()
        spread = (std.flatten(1).double().square() + self.floor**2).sqrt()
        scores = torch.where(away > 0, away / spread, torch.zeros_like(away)).cpu()
        if not bool(scores.isnan().logical_not().all()):
            raise InputError("the truth or the posterior holds NaN")
        place = (
            ((scores.clamp(10.0**_LEAST, 10.0**_LARGEST).log10() - _LEAST) * _A_DECADE)
            .ceil()
            .long()
        )
        counts = (
            torch.stack([torch.bincount(p, minlength=len(self.histogram)) for p in place]).double()
            / scores.shape[1]
        )
        total = self.pictures + len(scores)
        share = (self.histogram * self.pictures + counts.sum(0)) / total
        return replace(self, histogram=share, pictures=total, pixels=self.pixels + scores.numel())

    def below(self, score: float) -> float:
        """Return the share of the pixels with at most this score."""
        place = math.floor((math.log10(max(score, 10.0**_LEAST)) - _LEAST) * _A_DECADE + 1e-9)
        return float(self.histogram[: place + 1].sum())

    def quantile(self, share: float) -> float:
        """Return the least score that a share of the pixels does not exceed."""
        place = int((self.histogram.cumsum(0) < share - 1e-12).sum())
        return (
            math.inf if place >= len(self.histogram) - 1 else 10.0 ** (_LEAST + place / _A_DECADE)
        )


@dataclass(frozen=True)
class Calibration:
    """A factor on standard deviations with which intervals have the promised coverage.

    See `calibrate_posteriors`.

    Attributes:
        scores: scores of the pictures from which the factor was learned.
        level: default level of the intervals.
        unit: the exchangeable unit, ``"picture"`` or ``"pixel"``.
    """

    scores: Scores
    level: float = 0.95
    unit: Literal["picture", "pixel"] = "picture"

    def factor(self, level: float | None = None) -> float:
        """Return the factor on a standard deviation.

        It is 1.96 at 95 % if the standard deviation is right and the truth normal.
        """
        level = self._check_level(level)
        count = self.scores.pictures if self.unit == "picture" else self.scores.pixels
        share = level * (count + 1) / count
        if share > 1:
            least = math.ceil(level / (1 - level) - 1e-9)
            raise InputError(
                f"intervals of level {level:g} need {least} {self.unit}s to be calibrated on, and "
                f"there are {count}; take more, a lower level, or unit='pixel'"
            )
        return self.scores.quantile(share)

    def interval(self, posterior: Posterior, level: float | None = None) -> tuple[Tensor, Tensor]:
        """Return bounds ``(low, high)`` like `Posterior.interval`, calibrated."""
        half = self.factor(level) * (posterior.std.square() + self.scores.floor**2).sqrt()
        return posterior.mean - half, posterior.mean + half

    def coverage(self, posterior: Posterior, x: Tensor, level: float | None = None) -> Tensor:
        """Return the share of the pixels of ``x`` in their calibrated interval, ``(batch,)``."""
        return share_within(x, *self.interval(posterior, level))

    def _check_level(self, level: float | None) -> float:
        level = self.level if level is None else level
        check_range("interval", "(0, 1)", level=level)
        return level

    def __repr__(self) -> str:
        try:
            factor = f"factor={self.factor():.4g}"
        except InputError:  # repr() must work while a user looks for the reason of the error
            factor = "too few for a factor"
        return (
            f"Calibration(level={self.level:g}, {factor}, {self.scores.pictures} pictures, "
            f"unit={self.unit!r})"
        )


def residual_scores(
    posteriors: Iterable[Posterior], truths: Iterable[Tensor], floor: float = 0.0
) -> Scores:
    """Return the scores of pictures with known truth.

    Posteriors and truths are taken one at a time, so they may be generated lazily.
    """
    scores = Scores.empty(floor)
    try:
        for posterior, truth in zip(posteriors, truths, strict=True):
            scores = scores.join(posterior, truth)
    except ValueError as error:
        raise InputError(
            f"there are as many truths as posteriors, or more of one: {error}"
        ) from error
    if not scores.pictures:
        raise InputError("calibration needs a picture at least, and there is none")
    return scores


def calibrate_posteriors(
    posteriors: Iterable[Posterior],
    truths: Iterable[Tensor],
    level: float = 0.95,
    *,
    unit: Literal["picture", "pixel"] = "picture",
    floor: float = 0.0,
) -> Calibration:
    r"""Find the factor that makes intervals hold what they promise, by split conformal prediction.

    It needs pictures whose truth is known. The score of a pixel is ``|truth - mean| / std``; the
    factor is the quantile of the scores, and the interval of a new picture is
    ``mean -+ factor std``. For every error of the posterior, a pixel of a new picture then lies in
    its interval with probability ``level`` at least, on average over pictures, as long as the new
    picture is like the others (exchangeable) and none of them was used to make the posterior.

    Pixels of one picture resemble each other, so the number of pictures K matters. With
    ``unit="picture"`` every picture has the same weight and the quantile is taken at
    ``level (K + 1) / K`` (hierarchical conformal prediction: Lee, Barber and Willett 2023; with
    pictures of one pixel it is the classical method, Papadopoulos et al. 2002, Lei et al. 2018).
    The bound is exact for any K, the intervals are a little wide for few, and 95 % need 19.
    ``unit="pixel"`` takes every pixel for a draw of its own: right on average for many pictures,
    without a guarantee.

    Args:
        posteriors: posteriors of the pictures; every item of a batch is a picture. Iterators are
            allowed: one posterior and its truth are held at a time.
        truths: the true pictures, one per posterior, in the same order.
        level: level of the intervals; `Calibration.interval` takes others.
        unit: see above.
        floor: added in quadrature to every standard deviation, in units of the image, if that may
            be 0.

    Raises:
        InputError: if shapes or numbers do not fit. If there are too few pictures for the level,
            the error comes when the factor is requested.

    >>> import invtoolbox as it
    >>> problem = it.Problem(
    ...     torch.zeros(40, 1, 60),
    ...     it.operators.Identity((1, 60)),
    ...     it.data_terms.LeastSquares(noise_std=1.0),
    ... )
    >>> prior = it.priors.Gaussian(torch.zeros(1, 60), 1.0)
    >>> posterior = it.exact_posterior(problem, prior)  # of standard deviation 0.71
    >>> noise = torch.randn(40, 1, 60, generator=torch.Generator().manual_seed(0))
    >>> truth = 3 * 0.5**0.5 * noise  # three times as wide
    >>> calibration = calibrate_posteriors([posterior], [truth], level=0.9)
    >>> 4.9 < calibration.factor() < 5.6  # 3 times 1.64 and, as pictures are few, a little more
    True
    """
    calibration = Calibration(residual_scores(posteriors, truths, floor), level, unit)
    check_choice("calibrate_posteriors", ("picture", "pixel"), unit=unit)
    calibration._check_level(level)
    return calibration


def coverage_curve(
    scores: Scores, levels: Tensor | None = None, calibration: Calibration | None = None
) -> tuple[Tensor, Tensor]:
    """Return nominal levels of intervals, and the share of the pixels within them, ``(n,)`` each.

    Args:
        scores: scores of pictures to judge by, from `residual_scores`.
        levels: levels between 0 and 1; 0.05, 0.10, ..., 0.95 by default.
        calibration: judge its intervals, rather than ``mean -+ z std``; NaN if it has too few
            pictures for a level.
    """
    levels = torch.arange(1, 20, dtype=torch.float64) / 20 if levels is None else levels.double()
    actual = []
    for level in levels.tolist():
        count = (
            1
            if calibration is None
            else calibration.scores.pictures
            if calibration.unit == "picture"
            else calibration.scores.pixels
        )
        if calibration is None:
            actual.append(scores.below(NormalDist().inv_cdf(0.5 + level / 2)))
        else:
            actual.append(
                scores.below(calibration.factor(level))
                if level * (count + 1) <= count
                else math.nan
            )
    return levels, torch.tensor(actual, dtype=torch.float64)
