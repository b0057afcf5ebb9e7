"""Dead and hot pixels, rows and columns of blurred pictures, which no image explains."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from torch import Tensor

#: Errors of the kernel that are allowed: factor of its ratios, to name pixels and to find them all.
_SLACK, _CLOSE = 1.5, 1.0
#: Multiples of the noise that a fault exceeds, and excess with which pixels and lines are named, and
#: with which others are collected then.
_NOISE, _PIXELS, _LINES, _FOUND = 8.0, 2.5, 4.0, 0.6
#: Least fault, relative to the range of the picture.
_FLOOR = 1e-3
#: Shares of the pixels and of the lines that may be faulty.
_SHARES = {2: 0.04, 1: 0.2}
#: Shares of the pixels of a faulty line that differ clearly, and of these that differ to one side.
_CLEAR, _AGREEING = 0.15, 0.9
#: Largest number of passes in which faults are collected.
_PASSES = 5
#: Ratios rho of the bound, and range of the image relative to the range of the blurred picture; a
#: picture whose middle is below the share of its range shows points.
_RATIOS, _REACH, _POINTS = (1.0, 1.5, 2.5, 4.0, 8.0), 1.5, 0.1
#: Least number of pixels of one value, least distance of their neighbours, relative to the range, and
#: largest distance of their mean from the mean of the picture, in standard deviations.
_TIES, _FAR, _USUAL = 5, 0.15, 0.5


def find_bad_pixels(y: Tensor, kernel: Tensor, noise_std: Tensor) -> Tensor:
    r"""Return the pixels that differ from their neighbours by more than a blur allows, like ``y``.

    A blurred picture is ``y_i = sum_j k_j x_{i-j}``, and the mean m of the neighbours of a pixel has
    the neighbours' means n of k in place of k. So if x lies between b and b + r nearby,
    ``y - b <= rho (m - b) + r sum_j max(k_j - rho n_j, 0)`` for every rho; the bound from above has
    the same form. Whole columns and rows of pictures are judged by their means. Pixels that hold
    the same extreme value apart from each other are saturated or dead. Pictures with structure that
    exceeds the bound everywhere show no faults.

    Args:
        y: pictures ``(batch, channel, *space)``.
        kernel: the kernel, ``(1 or batch, 1 or channel, *space)``.
        noise_std: noise level of every picture, ``(batch,)``.

    >>> y = torch.linspace(0, 1, 32).expand(1, 1, 32, 32).clone()
    >>> y[0, 0, 5, 7] = 2.0
    >>> find_bad_pixels(y, torch.ones(1, 1, 3, 3) / 9, torch.tensor([0.01])).nonzero().tolist()
    [[0, 0, 5, 7]]
    """
    planes = y.flatten(0, -3).float()
    taps = kernel.detach().to(planes).abs().flatten(0, -3)
    noise = noise_std.to(planes).repeat_interleave(len(planes) // len(noise_std))[:, None, None]
    bad = torch.zeros_like(planes, dtype=torch.bool)
    # Models of three-dimensional kernels are too rough for means over whole lines.
    for is_row in (False, True) if y.ndim == 4 else ():
        turned, tap = (planes.mT, taps.mT) if is_row else (planes, taps)
        level = noise.squeeze(-1) / math.sqrt(turned.shape[1])
        # A line is faulty as a whole, unlike one that a single pixel brightens.
        steps = turned - _neighbours(turned.flatten(0, 1)).view(turned.shape)
        clear = steps.abs() > 2 * noise
        agreeing = (steps.sign() * clear).sum(1).abs() / clear.sum(1).clamp_min(1)
        lines = _excess(turned.mean(1), tap.sum(1), level, _SLACK) > _LINES
        lines[:, [0, -1]] = False  # they have one neighbour, which the bound takes for two
        lines &= (agreeing > _AGREEING) & (clear.to(planes).mean(1) > _CLEAR)
        bad |= lines.unsqueeze(2 if is_row else 1)
    smooth = torch.where(bad, _fill(planes, bad), planes)
    around = _neighbours(smooth)
    low, high = smooth.amin((1, 2), keepdim=True), smooth.amax((1, 2), keepdim=True)
    for end in (low, high):
        tied = smooth == end
        far = tied & ((around - end).abs() > _FAR * (high - low) + _NOISE * noise)
        counts = tied.sum((1, 2), keepdim=True), far.sum((1, 2), keepdim=True)
        # Peaks that were cut off lie in brighter places than others.
        nearby = (around * tied).sum((1, 2), keepdim=True) / counts[0]
        usual = (nearby - around.mean((1, 2), keepdim=True)).abs() < _USUAL * around.std(
            (1, 2), keepdim=True
        )
        bad |= tied & usual & (counts[0] >= _TIES) & (counts[1] > 0.8 * counts[0])
    named = _excess(smooth, taps, noise, _SLACK) > _PIXELS
    if bool(named[:, 1:-1, 1:-1].any()):
        for _ in range(_PASSES):  # a fault hides others that are near
            more = (_excess(smooth, taps, noise, _CLOSE) > _FOUND) & ~bad
            if not 0 < float(more.float().mean()) < _SHARES[2]:
                break
            bad |= more
            smooth = torch.where(bad, _fill(planes, bad), planes)
    return bad.view_as(y)


def _excess(values: Tensor, taps: Tensor, noise: Tensor, slack: float) -> Tensor:
    """Return by how much the bound is exceeded, relative to noise and to the usual excess."""
    dims = values.ndim - 1
    k = functional.pad(taps, (1, 1) * dims)
    inner = (slice(None), *[slice(1, -1)] * dims)
    n = _neighbours(functional.pad(k, (1, 1) * dims))[inner]
    largest = float((k / n.clamp_min(1e-12))[k > 1e-2 * k.max()].max())
    pool = functional.max_pool2d if dims == 2 else functional.max_pool1d
    padded = functional.pad(values[:, None], (2, 2) * dims, mode="reflect")
    low, high = -pool(-padded, 5, 1)[:, 0], pool(padded, 5, 1)[:, 0]
    m, flat = _neighbours(values), tuple(range(1, dims + 1))
    bottom, top = m.amin(flat, keepdim=True), m.amax(flat, keepdim=True)
    middle = m.flatten(1).median(1).values.view_as(top)
    # Points of light exceed the range of the picture that they are blurred to.
    are_points = middle - bottom < _POINTS * (top - bottom)
    reach = torch.where(are_points, torch.inf, _REACH * (top - bottom))
    floor = _FLOOR * float((values.amax(flat) - values.amin(flat)).max())
    excess = torch.full_like(values, -torch.inf)
    for ratio in (*(ratio for ratio in _RATIOS if ratio < largest), largest):
        rho, rest = slack * ratio, float((k - ratio * n).clamp_min(0).sum((-2, -1)[-dims:]).max())
        above, below = values - low - rho * (m - low), high - values - rho * (high - m)
        tolerance = _NOISE * noise * math.sqrt(1 + rho**2 / (8 if dims == 2 else 2))
        over = torch.maximum(above, below) - (reach * rest if ratio < largest else 0)
        excess = torch.maximum(excess, over / tolerance.clamp_min(floor))
    sample = excess.flatten(1)[:, :: max(1, excess[0].numel() // 100_000)]
    usual = sample.quantile(1 - _SHARES[dims], dim=1)
    return excess / (3 * usual).clamp_min(1).view(-1, *[1] * dims)


def _neighbours(values: Tensor) -> Tensor:
    """Return the mean of the two, or eight, neighbours of values ``(count, *space)``."""
    dims = values.ndim - 1
    padded = functional.pad(values[:, None], (1, 1) * dims, mode="reflect")
    pool = functional.avg_pool2d if dims == 2 else functional.avg_pool1d
    count = 3**dims
    return (count * pool(padded, 3, 1)[:, 0] - values) / (count - 1)


def _fill(planes: Tensor, bad: Tensor) -> Tensor:
    """Return the means of the good pixels nearby."""
    good = functional.avg_pool2d((~bad).to(planes)[:, None], 5, 1, 2)[:, 0]
    return functional.avg_pool2d((planes * ~bad)[:, None], 5, 1, 2)[:, 0] / good.clamp_min(1e-6)
