"""Faults of a detector in sinograms: dead cells, hot and clipped readings, gains of the cells."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.core.reductions import quantile
from invtoolbox.operators.base import Operator
from invtoolbox.operators.tomography.scan_2d import Scan
from invtoolbox.parameter_choice.noise import estimate_noise_std

#: Multiples of the noise, and least share of the bright readings, that a reading exceeds its
#: neighbours by if it is hot (outside and inside of the range of the others), and a cell on average if
#: it is dead.
_NOISE, _HOT, _DEAD = 8.0, (0.2, 0.6), 0.03
#: Least share of the views in which a dead cell stands out, and share of them on the same side.
_VIEWS, _SIDE = 0.25, 0.95
#: Largest shares of hot readings and of dead cells, and least dispersion over the views of readings
#: that are hot by chance: a small dense object has as many peaks in every view.
_MOST_HOT, _MOST_DEAD, _DISPERSION = 0.05, 0.05, 0.5
#: A ring around the axis makes a cell on the other side stand out by at least this share; cells that
#: are closer to each other than this number are no pair, and the place is uncertain by two cells. A
#: cell measures nothing if its readings are less than a share of its neighbours' readings.
_PARTNER, _APART, _NEAR, _SILENT = 0.3, 3, 2, 0.05
#: Least share of the amount by which a reading stands out that a cubic through its neighbours must not
#: explain: a smooth peak is no fault. Chosen on the even half of `benchmarks/zoo.py`.
_UNEXPLAINED = 0.3
#: Least number and share of readings of one largest value.
_TIES, _CLIPPED = 8, 0.002


def sinograms(y: Tensor, operator: Operator) -> Tensor | None:
    """Return the sinograms of a scan, ``(count, view, cell)``, one per row of a detector.

    None for other operators and complex values.

    Args:
        y: measurements ``(batch, channel, view, *detector)``.
        operator: the operator.
    """
    if not isinstance(operator, Scan) or y.is_complex() or min(y.shape[2], y.shape[-1]) < 12:
        return None
    return y.detach().movedim(2, -2).flatten(0, -3)


def like(planes: Tensor, y: Tensor) -> Tensor:
    """Return sinograms in the shape of the measurements.

    Args:
        planes: ``(count, view, cell)`` as of `sinograms`.
        y: the measurements.
    """
    return planes.reshape(y.movedim(2, -2).shape).movedim(-2, 2)


def find_bad_readings(planes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return dead cells, hot readings and clipped ones, booleans like ``planes``.

    A reading stands out by the amount by which it exceeds the larger, or falls below the smaller,
    of its neighbours on both sides; edges of an object do not. A cell is dead if it stands out in
    many views to the same side, unless a ring around the axis explains it, which makes two cells
    stand out. A reading is hot if it stands out from the second largest of its eight neighbours.
    Neither is a peak that the cubic through the next two cells on either side explains.

    Args:
        planes: line integrals ``(count, view, cell)``.

    >>> y = torch.rand(1, 40, 40, generator=torch.Generator().manual_seed(0)) * 0.01 + 1
    >>> y[..., 7], y[0, 20, 30] = 0.0, 5.0
    >>> dead, hot, clipped = find_bad_readings(y)
    >>> dead.all(1).nonzero().tolist(), (hot & ~dead).nonzero().tolist(), bool(clipped.any())
    ([[0, 7]], [[0, 20, 30]], False)
    """
    values = planes.double()
    noise = estimate_noise_std(values[:, None]).view(-1, 1, 1).clamp_min(0)
    bright = quantile(values.abs().flatten(1), 0.95).view(-1, 1, 1)
    hot = torch.zeros_like(planes, dtype=torch.bool)
    dead = hot.clone()
    for _ in range(3):
        around = _windows(torch.where(hot, _middle(values), values))
        order = around.sort(0).values
        # Differences between the neighbours show structure that a reading may continue.
        # A ray along a flat side of an object has a peak too, but not beyond what other rays measure.
        middle = order[3:5].mean(0)
        usual = (values > middle.amin((1, 2), keepdim=True)) & (
            values < middle.amax((1, 2), keepdim=True)
        )
        apart = torch.where(usual, 2.0, 0.5) * (order[-2] - order[1])
        slack = _NOISE * noise + apart + torch.where(usual, _HOT[1], _HOT[0]) * bright
        excess = (values - order[-2]).clamp_min(0) - (order[1] - values).clamp_min(0)
        smooth = torch.where(hot, _middle(values), values)
        hot = (excess.abs() > slack) & _leaves_cubic(excess, values, smooth, 1)
    count = hot.sum(2).double()
    dispersion = count.var(1) / count.mean(1).clamp_min(1e-30)
    peaks = (dispersion < _DISPERSION) & ((count > 0).double().mean(1) > 0.6)
    hot &= ~(peaks | (hot.double().mean((1, 2)) > _MOST_HOT)).view(-1, 1, 1)
    smooth = torch.where(hot, _middle(values), values)
    for reach in (1, 2):
        filled = torch.where(dead, _interpolate(smooth, dead), smooth)
        low, high = _sides(filled, reach)
        excess = (smooth - high).clamp_min(0) - (low - smooth).clamp_min(0)
        excess[..., :reach] = excess[..., -reach:] = 0  # these cells have one neighbour
        clear = excess.abs() > 3 * noise + 1e-9 * bright
        agreeing = (excess.sign() * clear).sum(1, keepdim=True).abs()
        number = clear.sum(1, keepdim=True)
        signed = excess.mean(1, keepdim=True)
        mean = signed.abs()
        # Gains of all cells make every cell stand out, and the centre of an object two cells from it.
        usual = mean.quantile(0.75, dim=2, keepdim=True)
        level = _NOISE * noise / planes.shape[1] ** 0.5 + reach**2 * _DEAD * bright + 8 * usual
        many = (number > _VIEWS * planes.shape[1]) & (agreeing > _SIDE * number)
        cell_mean, filled_mean = (t.mean(1, keepdim=True) for t in (smooth, filled))
        is_peak = ~_leaves_cubic(signed, cell_mean, filled_mean, reach)
        # Two dead cells leave the cubic through direct neighbours too, the top of a bell does not.
        is_peak |= ~_leaves_cubic(signed, cell_mean, filled_mean, 1)
        faulty = many & (mean > level) & ~is_peak & ~_is_ring(signed, smooth)
        if reach == 2:  # one of two dead cells next to each other
            beside = (faulty | dead[:, :1]).double()
            faulty &= beside.roll(1, 2) + beside.roll(-1, 2) > 0
        dead = dead | faulty.expand_as(dead)
    dead &= (dead[:, 0].double().mean(1) <= _MOST_DEAD).view(-1, 1, 1)
    top = values.amax((1, 2), keepdim=True)
    ties = (values == top).sum((1, 2), keepdim=True)
    enough = ties >= max(_TIES, _CLIPPED * values[0].numel())
    # Without noise, a flat part of the object has one value as well.
    clipped = (values == top) & enough & (noise > 1e-6 * bright) & (top > 0)
    return dead, hot & ~dead, clipped & ~dead


def share_of_gains(planes: Tensor) -> Tensor:
    """Return the share of the cells that differ from both neighbours to one side, ``(count,)``.

    The readings of every cell are sorted, so that neighbouring cells of an object are alike at every
    rank. If no cell has a gain of its own, few cells are above or below both neighbours; if all have,
    it is two of three.

    Args:
        planes: line integrals ``(count, view, cell)``.
    """
    values = planes.double().sort(1).values
    noise = estimate_noise_std(planes[:, None].double()).view(-1, 1, 1)
    bright = quantile(values.abs().flatten(1), 0.95).view(-1, 1, 1)
    low, high = _sides(values, 1)
    excess = ((values - high).clamp_min(0) - (low - values).clamp_min(0)).mean(1, keepdim=True)
    level = 4 * noise / planes.shape[1] ** 0.5 + 0.003 * bright
    # A factor of a cell does not show in rays that miss the object.
    lit = planes.abs().mean(1, keepdim=True) > 0.05 * bright
    lit[..., [0, -1]] = False
    apart = (excess.abs() > level) & lit
    return apart.sum((1, 2)).double() / lit.sum((1, 2)).clamp_min(12)


def fill(y: Tensor, bad: Tensor) -> Tensor:
    """Return measurements of a scan whose bad readings hold the mean of the good ones next to them.

    Args:
        y: measurements ``(batch, channel, view, *detector)``.
        bad: booleans like ``y``.
    """
    if not bool(bad.any()):
        return y
    rows, faulty = (t.reshape(-1, 1, y.shape[-1]) for t in (y, bad))
    return torch.where(faulty, _interpolate(rows, faulty), rows).view(y.shape)


def _windows(values: Tensor) -> Tensor:
    """Return the eight neighbours of every reading, ``(8, count, view, cell)``."""
    padded = torch.nn.functional.pad(values[:, None], (1, 1, 1, 1), mode="reflect")[:, 0]
    views, cells = values.shape[1:]
    places = [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    return torch.stack([padded[:, i : i + views, j : j + cells] for i, j in places])


def _middle(values: Tensor) -> Tensor:
    return _windows(values).median(0).values


def _is_ring(excess: Tensor, values: Tensor) -> Tensor:
    """Return cells whose mirror image about the middle of the object stands out as well.

    Args:
        excess: mean amount by which every cell stands out, ``(count, 1, cell)``.
        values: line integrals ``(count, view, cell)``.
    """
    profile = values.mean(1).clamp_min(0)
    cell = torch.arange(profile.shape[1], dtype=profile.dtype, device=profile.device)
    total = profile.sum(1, keepdim=True)
    middle = (profile * cell).sum(1, keepdim=True) / total.clamp_min(torch.finfo(total.dtype).tiny)
    mirror = (2 * middle - cell).round().long()
    is_apart = (mirror - cell).abs() >= _APART
    partner = torch.zeros_like(profile)
    for shift in range(-_NEAR, _NEAR + 1):
        place = mirror + shift
        inside = (place >= 0) & (place < profile.shape[1])
        beyond = excess[:, 0].gather(1, place.clamp(0, profile.shape[1] - 1))
        partner = torch.maximum(partner, excess[:, 0].sign() * beyond * inside)
    # A ray between the rings of an object passes through it, so it measures something.
    beside = torch.minimum(profile.roll(1, 1), profile.roll(-1, 1))
    is_silent = profile < _SILENT * beside
    return (is_apart & ~is_silent & (partner > _PARTNER * excess[:, 0].abs()))[:, None]


def _leaves_cubic(excess: Tensor, values: Tensor, others: Tensor, reach: int) -> Tensor:
    """Return where the cubic through neighbouring cells does not explain that a reading stands out.

    Args:
        excess: amount by which every reading stands out, ``(count, view, cell)``.
        values: the readings.
        others: the readings without those that are known as faults, which the cubic passes through.
        reach: distance of neighbours in cells.
    """
    (low, high), (outer_low, outer_high) = (_sides(others, k * reach) for k in (1, 2))
    cubic = (4 * (low + high) - outer_low - outer_high) / 6
    return (values - cubic) * excess.sign() > _UNEXPLAINED * excess.abs()


def _sides(values: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Return the smaller and the larger of the neighbours at a distance in cells."""
    padded = torch.nn.functional.pad(values, (reach, reach), mode="reflect")
    left, right = padded[..., : -2 * reach], padded[..., 2 * reach :]
    return torch.minimum(left, right), torch.maximum(left, right)


def _interpolate(values: Tensor, bad: Tensor) -> Tensor:
    """Return values whose bad cells hold the mean of the good cells next to them."""
    good = (~bad).to(values)
    pool = torch.nn.functional.avg_pool1d
    total, weight = (pool(t, 5, 1, 2, count_include_pad=True) for t in (values * good, good))
    return torch.where(weight > 0.1, total / weight.clamp_min(0.1), values)
