"""Line charts as SVG elements of a page, and the figure of the check of a posterior.

The charts are written without matplotlib, whose SVG backend takes 40 times as long per chart (390 ms and
9 ms for two lines of 500 values, in addition to its import) for 1.4 times the bytes, and whose text
does not take the style of the page.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from invtoolbox.plotting.canvas import new_figure

_WIDTH, _HEIGHT = 420, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 12, 34
#: Colors of Okabe and Ito, which color-blind readers can distinguish.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def line_chart(
    lines: Sequence[np.ndarray],
    label: str,
    names: Sequence[str] = (),
    log: bool = True,
    level: float | None = None,
    level_name: str = "",
    axis: str = "iteration",
    places: Sequence[float] | None = None,
    low_legend: bool = False,
    marks: Sequence[float] = (),
) -> str | None:
    """Draw values over iterations or another quantity as an ``<svg>`` element, one line per item.

    Args:
        lines: values after iterations 1, 2, ...; NaN leaves a gap.
        label: name of the vertical axis.
        names: names of the lines, for a legend.
        log: whether the vertical axis is logarithmic, if all values are positive.
        level: value of a dashed horizontal line, such as the tolerance.
        level_name: name of that line.
        axis: name of the horizontal axis, which counts from 1 unless ``places`` are given.
        places: rising positions of the values of every line on the horizontal axis.
        low_legend: put the legend into the lower corner, for rising lines.
        marks: positions of dashed vertical lines.

    Returns:
        The element; None if no value is finite.

    >>> line_chart([np.array([1.0, 0.1, 0.01])], "objective")[:4]
    '<svg'
    """
    series = [np.asarray(line, dtype=np.float64) for line in lines]
    finite = np.concatenate([line[np.isfinite(line)] for line in series]) if series else np.zeros(0)
    if not finite.size:
        return None
    positive = finite[finite > 0]
    log = (
        log
        and positive.size == finite.size
        and float(np.max(positive)) > 3 * float(np.min(positive))
    )
    # A level of 0 or less has no place on a logarithmic axis.
    if level is not None and log and not level > 0:
        level = None
    low, high = _ends(finite if level is None else np.append(finite, level), log)
    where = (
        np.arange(1, max(max(len(line) for line in series), 2) + 1)
        if places is None
        else np.asarray(places, dtype=np.float64)
    )
    first, last = float(where[0]), float(where[-1])

    def across(place: float) -> float:
        return _LEFT + (place - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)

    def up(value: float) -> float:
        place = math.log10(value) if log else value
        return _TOP + (high - place) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(label)}">']
    for tick in _log_ticks(low, high) if log else _ticks(low, high):
        y = up(tick)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>'
        )
    for tick in _ticks(first, last):
        if places is not None or tick == int(tick):
            parts.append(
                f'<text x="{across(tick):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{_number(tick)}</text>'
            )
    parts.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - 4}" text-anchor="middle">{html.escape(axis)}</text>'
    )
    if level is not None:
        y = up(level)
        parts.append(
            f'<line class="level" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_WIDTH - _RIGHT - 2}" y="{y - 5:.1f}" text-anchor="end">{html.escape(level_name)}</text>'
        )
    for mark in marks:
        x = across(mark)
        parts.append(
            f'<line class="level" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
        )
    for k, line in enumerate(series):
        parts.append(_polyline(line, where, across, up, COLORS[k % len(COLORS)]))
    for k, name in enumerate(names if len(names) > 1 else ()):
        y = _HEIGHT - _BOTTOM - 8 - 15 * (len(names) - 1 - k) if low_legend else _TOP + 14 + 15 * k
        parts.append(
            f'<text x="{_WIDTH - _RIGHT - 4}" y="{y}" text-anchor="end" style="fill:{COLORS[k % len(COLORS)]}">'
            f"{html.escape(name)}</text>"
        )
    return "".join(parts) + "</svg>"


def _ends(heights: np.ndarray, log: bool) -> tuple[float, float]:
    """Return the ends of the vertical axis, in decades if it is logarithmic."""
    low, high = float(np.min(heights)), float(np.max(heights))
    if log:
        low, high = math.log10(low), math.log10(high)
    if high - low < 1e-12 * max(abs(high), 1.0):
        low, high = low - 0.5, high + 0.5
    margin = 0.04 * (high - low)
    return low - margin, high + margin


def _polyline(
    line: np.ndarray,
    where: np.ndarray,
    across: Callable[[float], float],
    up: Callable[[float], float],
    color: str,
) -> str:
    """Return a line in pieces: NaN breaks it, and a single point is a dot."""
    pieces: list[list[str]] = [[]]
    places = (
        range(len(line))
        if len(line) <= 2000
        else np.unique(np.linspace(0, len(line) - 1, 2000).astype(int)).tolist()
    )
    for k in places:
        if math.isfinite(line[k]):
            pieces[-1].append(f"{across(float(where[k])):.1f},{up(float(line[k])):.1f}")
        elif pieces[-1]:
            pieces.append([])
    drawn = []
    for piece in pieces:
        if len(piece) == 1:
            x, y = piece[0].split(",")
            drawn.append(f'<circle cx="{x}" cy="{y}" r="2.5" fill="{color}"/>')
        elif piece:
            drawn.append(
                f'<polyline points="{" ".join(piece)}" fill="none" stroke="{color}" stroke-width="1.6"/>'
            )
    return "".join(drawn)


def _ticks(low: float, high: float) -> list[float]:
    """Return about four round numbers in an interval."""
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw)
    first = math.ceil(low / step)
    return [k * step for k in range(first, math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten in an interval, and multiples of them if there are few powers."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    every = max(1, round(len(powers) / 5))
    factors = (
        (1,)
        if high - low > 2.5
        else (1, 2, 5)
        if high - low > 0.8
        else (1, 1.5, 2, 3, 4, 5, 6, 7, 8)
    )
    ticks = [
        m * 10.0**k
        for k in powers
        if k % every == 0
        for m in factors
        if low <= math.log10(m * 10.0**k) <= high
    ]
    return ticks if len(ticks) > 1 else [10**low * 1.0001, 10**high * 0.9999]


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")


#: Factor of a standard deviation that holds 95 %.
_BAND = 1.96


def posterior_check_figure(
    histograms: Mapping[str, Tensor],
    p_values: Mapping[str, float],
    levels: Tensor,
    coverage: Tensor,
    repetitions: int,
) -> Any:
    """Return a matplotlib figure with one histogram per functional and the expected coverage.

    Args:
        histograms: number of repetitions per bin of ranks, by functional.
        p_values: p-value by functional.
        levels: probabilities, ``(n,)``.
        coverage: share of the truths in regions of these probabilities, ``(n,)``.
        repetitions: number of repetitions.
    """
    columns = len(histograms) + 1
    figure = new_figure((2.4 * columns, 2.6), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis, (name, counts) in zip(axes, histograms.items()):
        share = 1 / len(counts)
        # The number of repetitions in a bin is binomial.
        half = _BAND * (repetitions * share * (1 - share)) ** 0.5
        middle = repetitions * share
        axis.axhspan(middle - half, middle + half, color="0.85")
        axis.bar(range(len(counts)), counts.numpy(), width=0.9)
        axis.set(title=f"{name}, p = {p_values[name]:.2g}", xlabel="rank of the truth", xticks=[])
    axis = axes[-1]
    half_width = _BAND * (levels * (1 - levels) / repetitions).sqrt()
    low, high = (levels - half_width).numpy(), (levels + half_width).numpy()
    axis.fill_between(levels.numpy(), low, high, color="0.85")
    axis.plot(levels.numpy(), coverage.numpy())
    axis.set(
        title="expected coverage", xlabel="probability of the region", ylabel="share of truths"
    )
    return figure
