"""Checks of the readings of a scan: sign, base and offset of line integrals, faults of the detector."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.reductions import quantile
from invtoolbox.data_terms.base import ResidualTerm
from invtoolbox.data_terms.poisson import Poisson, PoissonTransmission
from invtoolbox.measurements.detector import share_of_gains, sinograms
from invtoolbox.measurements.findings import Finding, Subject, leave_out, register
from invtoolbox.measurements.sinogram import fit_residual
from invtoolbox.operators.tomography.scan_2d import Scan
from invtoolbox.parameter_choice.noise import estimate_noise_std

#: Largest error of the value of air, relative to -1000, in an image in Hounsfield units.
_AIR = 0.1
#: Least share of the cells that differ from both neighbours if cells have gains of their own, and
#: least part of these differences that no image predicts after a number of iterations, and no image of
#: pixels of half the size, which is tried up to this number of pixels. The last two were chosen on 14
#: scans of the even half of `benchmarks/zoo.py`, with and without gains.
_GAINS, _UNPREDICTED, _ITERATIONS = 0.06, 0.08, 20
_UNPREDICTED_FINELY, _LARGEST = 0.04, 1 << 16
#: Least offset relative to the bright readings, and largest change of the rays that miss the
#: object, between cells and between views, relative to the offset; standard errors by which the variance
#: between views exceeds that of the noise; and change between the outermost cells that shows an object.
_OFFSET, _EVEN, _VARYING, _FALL = 0.03, 0.05, 4.0, 0.01
#: Growth of the logarithm of the variance with a line integral if its base is e, and if it is 10; the
#: least range of line integrals that shows it, and largest error of the growth.
_BASES, _RANGE, _SURE = (1.0, math.log(10)), 0.3, 0.35
#: Ratio of variance to mean, either way, at which values are no counts, and least number of flat pairs.
_SCALED, _PAIRS = 1.5, 200
#: Least number of views that show the growth of the noise, and least ratio of the squared third
#: differences of a structure between every second view and every view (64 if it is smooth).
_MANY, _ROUGHER = 80, 4


@register(Scan)
def check_sign(subject: Subject) -> Finding | None:
    """Find line integrals whose sign is wrong: an object makes all of them negative."""
    S = subject.plane
    if S is None:
        return None
    below, above = float(S.values.clamp_max(0).sum()), float(S.values.clamp_min(0).sum())
    if -below < 10 * above:
        return None
    if _is_hounsfield(subject):
        return Finding(
            "hounsfield",
            "the measurements are line integrals of Hounsfield units, in which air is -1000, but the "
            "operator takes the air outside of the image as 0; add 1000 A(1) to y for values above "
            "air, which are not negative",
            is_conclusive=True,
            is_remark=True,
        )
    return Finding(
        "sign",
        f"the line integrals are negative (down to {float(S.values.min()):.4g}), so the logarithm "
        "was probably not negated; pass -y, that is -log(I / I0)",
        is_conclusive=True,
    )


def _is_hounsfield(subject: Subject) -> bool:
    """Return whether the rays with the least mean value along their chords pass through air."""
    problem = subject.problem
    A: Any = problem.operator
    chords = A(torch.ones_like(problem.zeros()[:1]))
    y = subject.filled[:1].to(chords)
    long = chords > 0.5 * chords.max()
    if y.shape != chords.shape or not bool(long.any()):
        return False
    means = (y[long] / chords[long]).double()
    air = float(means[:: max(1, len(means) // 100_000)].quantile(0.02))
    return abs(air / -1000 - 1) < _AIR


@register(Scan)
def check_readings(subject: Subject) -> Finding | None:
    """Find dead cells, hot readings and clipped ones, which no image explains."""
    if subject.bad_readings is None:
        return None
    dead, hot, clipped = subject.bad_readings
    bad = dead | hot | clipped
    if not bool(bad.any()):
        return None
    cells = int(dead.any(2).sum())
    top = float(subject.problem.y0[clipped].max()) if bool(clipped.any()) else 0.0
    clipped = clipped & ~hot
    words = [
        f"{cells} cells of the detector are dead or of another gain" if cells else "",
        f"{int(hot.sum())} readings are hot" if bool(hot.any()) else "",
        f"{int(clipped.sum())} readings are cut off at {top:.4g}" if bool(clipped.any()) else "",
    ]
    fact = (
        f"{' and '.join(filter(None, words))}, {float(bad.double().mean()):.2%} of the measurements, "
        "which no image explains"
    )
    return Finding(
        "dead" if cells else "hot" if bool(hot.any()) else "clipped",
        f"{fact}; give them weight 0 (the step repairs, or repair=True of it.solve)",
        repair=lambda problem: leave_out(problem, bad),
        fact=fact,
    )


@register(Scan)
def check_gains(subject: Subject) -> Finding | None:
    """Find cells with gains of their own, as without a flat field.

    Rings about the axis of rotation also make cells differ from their neighbours, but an image
    predicts these differences.
    """
    planes = sinograms(subject.filled, subject.operator)
    if planes is None or not isinstance(subject.problem.data_term, ResidualTerm):
        return None
    share = float(share_of_gains(planes).median())
    A: Any = subject.operator
    if share < _GAINS or _unpredicted(subject, A) < _UNPREDICTED:
        return None
    # Large pixels make cells differ as well, where edges of the object lie between them.
    finer = A.refine() if math.prod(A.domain_shape) <= _LARGEST else None
    if finer is not None and _unpredicted(subject, finer) < _UNPREDICTED_FINELY:
        return None
    return Finding(
        "gains",
        f"{share:.0%} of the cells differ from both neighbours in the same way in all views, so the "
        "gains of the cells were not removed and cause rings; divide the counts by a flat field, or "
        "let it.reconstruct subtract them",
        is_conclusive=True,
    )


def _unpredicted(subject: Subject, A: Scan) -> float:
    """Return the part of the differences of cells that an image of a scan does not predict.

    The differences d are between a cell's mean over the views and the mean of its neighbours. The
    part is ``<d(y - A x), d(y)> / |d(y)|^2``, x a fit to y.
    """
    y = subject.filled
    with torch.no_grad():
        residual = fit_residual(A, y, _ITERATIONS)
    of_residual, of_readings = (
        means[..., 1:-1] - (means[..., 2:] + means[..., :-2]) / 2
        for means in (residual.double().mean(2), y.double().mean(2))
    )
    square = float(of_readings.square().sum())
    return float((of_residual * of_readings).sum()) / square if square > 0 else 0.0


@register(Scan)
def check_offset(subject: Subject) -> Finding | None:
    """Find a constant that was added to all line integrals: rays that miss the object are alike."""
    S = subject.plane
    if S is None or S.values.shape[1] < 24:
        return None
    width = max(2, S.values.shape[1] // 24)
    D = subject.problem.data_term
    stated = float(D.background.double().mean()) if isinstance(D, Poisson) else 0.0
    ends = torch.stack([S.values[:, :width], S.values[:, -width:]]) - stated
    bright = float(quantile(S.values.abs().flatten(), 0.95))
    noise = float(estimate_noise_std(S.values[None, None]))
    cells, views = ends.mean(1), ends.mean(2)
    offset = float(ends.mean())
    error = noise / math.sqrt(ends[0].numel())
    apart = float((cells - offset).abs().max()) - 4 * noise / math.sqrt(len(S.angles))
    unsteady = float((views - offset).abs().max()) - 5 * noise / math.sqrt(width)
    # All views together show a change that noise hides in each of them.
    excess = float(views.var(1).max()) - noise**2 / width
    is_varying = excess > _VARYING * math.sqrt(2 / len(S.angles)) * noise**2 / width
    lowest = float(quantile(S.values.flatten(), 0.01)) - stated
    # Beside the object views are level; across an object that is wider than the detector they fall.
    fall = torch.stack([S.values[:, 1] - S.values[:, 0], S.values[:, -2] - S.values[:, -1]])
    steps = float(fall.mean(1).min()) - 5 * noise * math.sqrt(2 / len(S.angles))
    if (
        steps > _FALL * abs(offset)
        or abs(offset) < _OFFSET * bright + 5 * error
        or max(apart, unsteady) > _EVEN * abs(offset)
        or (is_varying and excess > (_EVEN * offset) ** 2)
        or lowest < offset - 0.3 * abs(offset) - 4 * noise
        or bright < 1.3 * abs(offset)
    ):
        return None
    if isinstance(D, Poisson):
        return Finding(
            "background",
            f"rays beside the object count {offset + stated:.4g} on average, so a background was left "
            f"out; pass Poisson(background={offset + stated:.4g})",
            is_conclusive=True,
        )
    scale = f", or I0 is {math.exp(-offset):.4g} times what was taken" if abs(offset) < 3 else ""
    return Finding(
        "offset",
        f"rays beside the object measure {offset:.4g} in all views and on both sides, so a constant was "
        f"added{scale}; pass y - {offset:.4g}",
        is_conclusive=True,
    )


@register(Scan)
def check_base(subject: Subject) -> Finding | None:
    """Find logarithms to base 10 by their noise, which photons make grow like ``exp(y)``."""
    planes = sinograms(subject.filled, subject.operator)
    if planes is None or not isinstance(subject.problem.data_term, ResidualTerm):
        return None
    edges = planes[..., [0, 1, -2, -1]].abs().mean()
    bright = float(quantile(planes.abs().flatten(), 0.9))
    if float(edges) > 0.3 * bright:  # no line integrals around the object
        return None
    # Between few views, structure changes more than noise.
    growth = _growth_of_noise(planes.double()) if planes.shape[1] >= _MANY else None
    if growth is None or growth[1] > _SURE:
        return None
    # The candidates are compared: structure makes a growth larger, and hardly smaller.
    if growth[0] - _BASES[0] < 2 * (_BASES[1] - growth[0]) or growth[0] > _BASES[1] + 0.9:
        return None
    return Finding(
        "base",
        f"the variance of the noise grows like exp({growth[0]:.2f} y), and that of photons like exp(y), "
        "so these are logarithms to base 10; pass y * log(10)",
    )


@register(Scan)
def check_count_noise(subject: Subject) -> Finding | None:
    """Find counts that were scaled: their variance is not their mean."""
    y, D = subject.problem.y0, subject.problem.data_term
    planes = sinograms(y, subject.operator)
    if planes is None or not isinstance(D, (Poisson, PoissonTransmission)):
        return None
    square, mean = _flat_pairs(planes.double())
    if len(mean) < _PAIRS or not float(mean.mean()) > 0:
        return None
    ratio = float(square.mean() / mean.mean())
    if ratio > 1:
        if planes.shape[1] < _MANY:
            return None
        # Third differences of every second view hold the same noise, and of a structure at least
        # _ROUGHER times as much: what they hold in addition is no noise.
        coarse, level = _flat_pairs(planes[:, ::2].double())
        excess = float(coarse.mean() / level.mean()) - ratio
        ratio -= max(0.0, excess) / (_ROUGHER - 1)
    if bool((y == y.round()).all()) and ratio < 1 + 4 * (_SCALED - 1):
        return None
    if 1 / _SCALED < ratio < _SCALED:
        return None
    return Finding(
        "scaled",
        f"the variance of the counts is {ratio:.3g} times their mean, and that of counted photons is "
        f"their mean, so they were scaled or are no counts; pass y / {ratio:.3g} (and its I0 and "
        "background likewise), or LeastSquares",
    )


def _flat_pairs(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Return variances of readings from third differences along the views, and their means.

    The half of the places is taken at which the sinogram changes least along the cells.
    """
    middle = (planes[:, 2:-1] + planes[:, 1:-2]) / 2
    bend = (
        planes[:, 3:] - 3 * planes[:, 2:-1] + 3 * planes[:, 1:-2] - planes[:, :-3]
    ).square() / 20
    level = torch.nn.functional.avg_pool2d(middle[:, None], 3, 1, 1)[:, 0]
    change = torch.nn.functional.pad(
        (level[..., 2:] - level[..., :-2]).abs(), (1, 1), value=math.inf
    )
    within = level > 0.1 * level.amax()  # around the object all readings are alike
    if not bool(within.any()):  # an empty scan
        return bend[within], level[within]
    flat = within & (change <= quantile(change[within], 0.5))
    return bend[flat], level[flat]


def _growth_of_noise(planes: Tensor) -> tuple[float, float] | None:
    """Return the slope of the logarithm of the variance over the line integral, and its error."""
    square, level = _flat_pairs(planes)
    if len(level) < 400:
        return None
    edges = quantile(level, torch.linspace(0, 1, 9, dtype=level.dtype))
    if float(edges[-2] - edges[1]) < _RANGE:
        return None
    rows = []
    for low, high in itertools.pairwise(edges):
        inside = (level >= low) & (level <= high)
        # The median of a squared normal variable is 0.4549 of its variance; structure has few large ones.
        spread = float(square[inside].median()) / 0.4549
        if int(inside.sum()) < 50 or spread <= 0:
            return None
        rows.append((float(level[inside].median()), math.log(spread)))
    x, z = torch.tensor(rows, dtype=torch.float64).T
    x = x - x.mean()
    slope = float((x * z).sum() / x.square().sum())
    rest = z - z.mean() - slope * x
    return slope, float((rest.square().sum() / 6 / x.square().sum()).sqrt())
