"""Clock of the points of sweeps: its unit and its zero, from all that the recording holds.

The evidence is the values (how long a turn takes), the name of the column, the stamps of the sweeps
and the step from one sweep to the next. Each piece of evidence admits some units. If one unit is
left, it is taken, with a note; if none or several are left, the reader asks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from invtoolbox.core.guards import check_choice
from invtoolbox.errors import InputError

#: Units of clocks in seconds, and the words for them.
UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
#: Value of the setting `clock` that leaves the times of the points out.
WITHOUT_CLOCK = "none"
#: Names of columns of times without their unit, in the order of preference.
_NAMES = (
    *("time", "t", "offset", "offset_time", "timestamp", "time_offset", "time_stamp"),
    *("timestamps", "times", "gps_time", "point_time", "ts", "stamp"),
)
_ENDS = {"ns": ("ns", "nsec", "nanoseconds"), "us": ("us", "usec", "microseconds")}
_ENDS |= {"ms": ("ms", "msec", "milliseconds"), "s": ("s", "sec", "seconds")}
_END = {end: unit for unit, ends in _ENDS.items() for end in ends}
#: Seconds of a turn that are possible: the bounds are closer than two units are apart.
_SHORTEST, _LONGEST = 0.004, 0.7
#: Number of points from which the values say how long a turn takes.
_FEWEST = 100
#: Seconds of 1998 and of 2103, counted from 1970.
_EPOCH = (9e8, 4.2e9)
#: Sizes of the groups of points that a turn is followed by, and the largest and smallest number of them.
_GROUPS, _MOST_GROUPS, _FEWEST_GROUPS = (8, 32, 128), 4096, 16
#: Least mean resultant length of the directions of a group, and share of the steps in one sense.
_CONCENTRATION, _MONOTONE = 0.8, 0.8
#: Share of a turn that the first time of a sweep may move by if times count from each sweep.
_SAME_ZERO = 0.25
#: Seconds between a clock and the stamps that still is one clock.
_ONE_CLOCK = 1.0
#: Number of steps of a stored type in a turn below which it does not place the points.
_FEWEST_STEPS = 64
#: Periods after which a clock that counts an hour, a day or a GPS week begins anew, seconds.
_CYCLES = (3600.0, 86400.0, 604800.0)


@dataclass(frozen=True, eq=False)
class Ticks:
    """Times of the points of one sweep, as they are stored.

    Attributes:
        name: name of the column.
        values: int64 or float64 ``(N,)``; numbers of 32 bits that begin anew continue.
        usable: whether a row is a measurement with a time, bool ``(N,)``.
        azimuth: direction of each point, radians ``(N,)``.
        cycle: number of ticks after which the stored type begins anew, or None.
        grain: step of the stored type at these values.
        is_whole: whether the stored numbers are whole.
    """

    name: str
    values: np.ndarray
    usable: np.ndarray
    azimuth: np.ndarray
    cycle: int | None = None
    grain: float = 0.0
    is_whole: bool = False

    @cached_property
    def used(self) -> np.ndarray:
        """Values of the usable rows."""
        return self.values[self.usable]

    @property
    def least(self) -> float:
        """First time."""
        return self.used.min()

    @property
    def span(self) -> float:
        """Ticks from the first time to the last."""
        with np.errstate(over="ignore"):
            return float(self.used.max() - self.used.min())

    @cached_property
    def winding(self) -> Winding | None:
        """Turns of the direction in the order of the times; None without a clear turn."""
        return wind(self.used, self.azimuth[self.usable])

    @property
    def per_turn(self) -> float:
        """Ticks of one turn, or of the sweep if the direction does not turn."""
        return self.span / max(self.winding.turns, 1.0) if self.winding else self.span


@dataclass(frozen=True, eq=False)
class Winding:
    """Turns of the directions of points in the order of their times.

    Attributes:
        turns: number of turns.
        order: rows in the order of time, ``(n,)``.
        angle: turns since the first point at each place of `order`, ascending, ``(n,)``.
        steadiness: share of the steps in one sense.
    """

    turns: float
    order: np.ndarray
    angle: np.ndarray
    steadiness: float = 1.0


def wind(values: np.ndarray, azimuth: np.ndarray) -> Winding | None:
    """Follow the direction of points over their times; None if it does not turn in one sense.

    Args:
        values: times ``(n,)``.
        azimuth: directions in radians ``(n,)``.

    >>> turn = np.linspace(0, 5 * np.pi, 500)
    >>> round(wind(np.arange(500), np.angle(np.exp(1j * turn))).turns, 2)
    2.5
    """
    order = np.argsort(values, kind="stable")
    # The lasers of a sensor look to several sides, which larger groups average.
    for size in _GROUPS:
        groups = min(_MOST_GROUPS, len(values) // size)
        if groups >= _FEWEST_GROUPS:
            winding = _follow(order, azimuth, groups)
            if winding is not None:
                return winding
    return None


def _follow(order: np.ndarray, azimuth: np.ndarray, groups: int) -> Winding | None:
    """Return the turns by the mean directions of groups of points; None if they do not turn."""
    edges = np.linspace(0, len(order), groups + 1).astype(int)
    sums = np.add.reduceat(np.exp(1j * azimuth[order]), edges[:-1])
    mean = sums / np.diff(edges)
    if np.median(np.abs(mean)) < _CONCENTRATION:
        return None
    angle = np.unwrap(np.angle(mean)) / (2 * np.pi)
    steps = np.diff(angle)
    sense = np.sign(angle[-1] - angle[0])
    moving = steps[np.abs(steps) > 1e-6]
    if not len(moving) or (np.sign(moving) == sense).mean() < _MONOTONE:
        return None
    middles = (edges[:-1] + edges[1:] - 1) / 2
    ramp = np.maximum.accumulate((angle - angle[0]) * sense)
    # Half a group at either end is continued at the usual speed.
    half = ramp[-1] / (groups - 1) / 2
    middles = np.array([0.0, *middles, len(order) - 1.0])
    ramp = np.array([0.0, *(ramp + half), ramp[-1] + 2 * half])
    fine = np.interp(np.arange(len(order)), middles, ramp)
    return Winding(float(ramp[-1]), order, fine, float((np.sign(moving) == sense).mean()))


def clock_name(name: str) -> tuple[int, str | None] | None:
    """Return the rank of a column among columns of times, and its unit if the name states it.

    None for a column that is no time.

    >>> clock_name("t_us"), clock_name("Scalar_GpsTime"), clock_name("ring")
    ((1, 'us'), (9, None), None)
    """
    plain = re.sub(r"^scalar_(field_)?", "", name.strip().lower()).replace("gpstime", "gps_time")
    if plain in _NAMES:
        return _NAMES.index(plain), None
    base, _, end = plain.rpartition("_")
    return (_NAMES.index(base), _END[end]) if base in _NAMES and end in _END else None


def ticks_of(columns: Mapping[str, np.ndarray], points: np.ndarray) -> Ticks | None:
    """Return the times of the points of a sweep; None if no column is named as a time.

    Of several columns the first one that varies is taken. A row without a measurement has no time,
    and 0 is no time if the others are far from it.

    Args:
        columns: columns of the sweep.
        points: positions ``(N, 3)``.
    """
    named = [(rank, name) for name in columns if (rank := clock_name(name)) is not None]
    all_ticks = [_ticks(name, np.asarray(columns[name]), points) for _, name in sorted(named)]
    varying = (t for t in all_ticks if t.usable.any() and t.span > 0)
    return next(varying, all_ticks[0] if all_ticks else None)


def _ticks(name: str, stored: np.ndarray, points: np.ndarray) -> Ticks:
    usable = np.isfinite(points).all(1) & (points != 0).any(1) & np.isfinite(stored)
    is_whole, cycle, grain = stored.dtype.kind in "iub", None, 0.0
    if is_whole:
        values = stored.astype(np.int64)
        if stored.dtype == np.dtype("u4") or stored.dtype == np.dtype(">u4"):
            cycle = 2**32
    else:
        values = stored.astype(np.float64)
        if stored.dtype.itemsize == 4 and usable.any():
            grain = float(np.spacing(np.float32(np.abs(values[usable]).max())))
    nonzero = values[usable & (values != 0)].astype(np.float64)
    with np.errstate(over="ignore"):  # bytes that are no time may be any number
        is_far = len(nonzero) > 0 and np.abs(nonzero).min() > 2 * np.ptp(nonzero)
    if is_far:
        usable = usable & (values != 0)
    if cycle is not None and usable.any() and int(np.ptp(values[usable])) > cycle // 2:
        values = np.where(values < cycle // 2, values + cycle, values)
    azimuth = np.arctan2(points[:, 1], points[:, 0]).astype(np.float64)
    return Ticks(name, values, usable, azimuth, cycle, grain, is_whole)


@dataclass(frozen=True)
class Clock:
    """Meaning of the times of the points of a recording.

    Attributes:
        unit: seconds of a tick; None if the times are left out.
        counts_on: whether the times count on from sweep to sweep; otherwise they count from a place
            in each sweep. None if one sweep alone is known.
        is_stamps: whether it is the clock of the stamps.
        turn: seconds of a turn, or None.
        step: seconds from the first sweep to the second by this clock, or None.
        cycle: seconds after which the clock begins anew, or None.
        notes: the choices with their evidence.
        question: what to ask if nothing else gives the times of the sweeps; empty if nothing.
    """

    unit: float | None
    counts_on: bool | None = None
    is_stamps: bool = False
    turn: float | None = None
    step: float | None = None
    cycle: float | None = None
    notes: tuple[str, ...] = ()
    question: str = ""

    def seconds(self, ticks: Ticks) -> tuple[np.ndarray | None, float | None]:
        """Return the seconds of the points, float32 ``(N,)``, and the first time of the sweep.

        The seconds count from the first time if there is one. They are NaN in rows that are not
        usable and lie outside of the sweep; None if times are left out.

        Args:
            ticks: times of the sweep.
        """
        if self.unit is None or not ticks.usable.any():
            return None, None
        least, values = ticks.least, ticks.values
        first = float(least) * self.unit
        counts_on = abs(first) > 1 if self.counts_on is None else self.counts_on
        # Subtracted before the conversion to float32, which cannot hold the fractions of a clock.
        since = (values - least) * self.unit
        outside = ~ticks.usable & ~((since >= 0) & (since <= ticks.span * self.unit))
        if not counts_on:
            since = values * self.unit
        times = np.where(outside, np.nan, since).astype(np.float32)
        if ticks.span == 0 and counts_on:
            return None, first
        return times, first if counts_on else None

    def continue_from(self, start: float, expected: float) -> float:
        """Return a time that is near the expected one, for a clock that begins anew.

        Args:
            start: time by the clock, seconds.
            expected: time that the sweeps before it lead to, seconds.
        """
        cycles = [self.cycle] if self.cycle else []
        cycles += [cycle for cycle in _CYCLES if 0 <= start < cycle]
        for cycle in cycles:
            turns = round((expected - start) / cycle)
            if turns > 0 and abs(start + turns * cycle - expected) < 0.1 * cycle:
                return start + turns * cycle
        return start


def decide(
    sweeps: Sequence[Ticks],
    where: str | Path,
    stamps: Sequence[float] | None = None,
    given: str | None = None,
) -> Clock:
    """Decide the unit and the zero of a clock.

    Args:
        sweeps: times of one sweep, or of two that follow each other.
        where: name of the recording, for messages.
        stamps: stamps of these sweeps in seconds, if there are any.
        given: unit of the clock in the user's words, or "none".

    Raises:
        InputError: the evidence leaves several units, or none.
    """
    if given is not None:
        check_choice("the clock of points", (*UNITS, WITHOUT_CLOCK), clock=given)
        if given == WITHOUT_CLOCK:
            return Clock(None)
    first, *later = (ticks for ticks in sweeps if ticks.usable.any())
    name = first.name
    step = float(later[0].least - first.least) if later else None
    # An absolute clock in float32 stands still for minutes, or advances in leaps.
    coarse = first.grain * _FEWEST_STEPS
    if coarse > first.per_turn > 0 or (first.span == 0 and coarse > 1e-3):
        fault = f"{name} is float32, which advances in steps of {first.grain:.3g} at its values"
        return Clock(
            None,
            notes=(f"{fault}, so the times of the points are left out",),
            question=f"{fault}, so the sweeps have no times; give rate= (sweeps per second) or times=",
        )
    if first.span == 0 and not step:
        return Clock(None, notes=(f"{name} is the same in all points, so it is left out",))
    counts_on = None if step is None else abs(step) > _SAME_ZERO * first.per_turn
    unit, reasons = _unit(first, step if counts_on else None, stamps, given, where)
    seconds = UNITS[unit]
    clock = Clock(
        seconds,
        counts_on,
        turn=first.per_turn * seconds if first.winding else None,
        step=step * seconds if step and counts_on else None,
        cycle=None if first.cycle is None else first.cycle * seconds,
    )
    start = float(first.least) * seconds
    if counts_on is None:
        counts_on = abs(start) > 1
    is_stamps = stamps is not None and counts_on and abs(start - stamps[0]) <= _ONE_CLOCK
    zero = "counts from a place in each sweep"
    if counts_on:
        zero = "counts on from sweep to sweep" if later else "is a clock of its own"
    note = f"{name} is in {_WORDS[unit]} ({', '.join(reasons)}) and {zero}"
    return replace(clock, is_stamps=is_stamps, notes=(note,))


def _unit(
    ticks: Ticks,
    step: float | None,
    stamps: Sequence[float] | None,
    given: str | None,
    where: str | Path,
) -> tuple[str, list[str]]:
    """Return the unit that all evidence admits, and the evidence in words."""
    if given is not None:
        return given, ["as given"]
    turn, least = ticks.per_turn, abs(float(ticks.least))
    period = abs(stamps[1] - stamps[0]) if stamps is not None and len(stamps) > 1 else 0.0
    evidence: list[tuple[set[str], str]] = []

    def admit(low: float, value: float, high: float, words: str) -> None:
        units = {unit for unit, seconds in UNITS.items() if low <= value * seconds <= high}
        evidence.append((units, words))

    if turn > 0 and len(ticks.used) >= _FEWEST:
        # Points of a part of the circle may be of a part of a turn.
        low = _SHORTEST if ticks.winding is None or ticks.winding.turns > 0.5 else _SHORTEST / 4
        admit(low, turn, _LONGEST, "the length of a turn")
    if turn > 0 and 0.01 < period < 2:
        admit(0.02 * period, turn, 1.5 * period, "the stamps of the sweeps")
    if step is not None and step > 0 and 0.01 < period < 2:
        admit(0.5 * period, step, 2 * period, "the step from sweep to sweep")
    elif step is not None and step > 0:
        admit(0.01, step, 5.0, "the step from sweep to sweep")
    admit(*(_EPOCH[0], least, _EPOCH[1]), "its zero in 1970")
    if not {u for u in evidence[-1][0] if turn * UNITS[u] <= _LONGEST}:
        evidence.pop()
    named = clock_name(ticks.name)
    if named is not None and named[1] is not None:
        evidence.append(({named[1]}, "its name"))
    left = set(UNITS)
    for units, _ in evidence:
        left &= units
    reasons = [words for units, words in evidence if len(units) < len(UNITS)]
    if len(left) == 1:
        return left.pop(), reasons
    usual = "ns" if ticks.is_whole else "s"
    if usual in left:
        return usual, [*reasons, "whole numbers" if ticks.is_whole else "fractions"]
    low, high = float(ticks.least), float(ticks.used.max())
    fault = "no unit fits" if not left else f"{' and '.join(sorted(left))} fit"
    admitted = "; ".join(
        f"{words} admits {' or '.join(sorted(units)) or 'none'}" for units, words in evidence
    )
    raise InputError(
        f"{where}: {ticks.name} goes from {low:.10g} to {high:.10g} in a sweep, and {fault} "
        f"({admitted}); give clock='s', 'ms', 'us' or 'ns', or clock='none' to leave the times of the "
        "points out"
    )


def unit_of_times(times: np.ndarray) -> str:
    """Return the unit in which the times of sweeps are a plausible time apart; "s" if none is.

    >>> unit_of_times(np.array([1.7e18, 1.7e18 + 5e7]))
    'ns'
    """
    step = float(np.median(np.abs(np.diff(times)))) if len(times) > 1 else 0.0
    units = [unit for unit, seconds in UNITS.items() if 0.01 <= step * seconds <= 5.0]
    return units[0] if units else "s"
