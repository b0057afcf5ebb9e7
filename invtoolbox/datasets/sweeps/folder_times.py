"""Times of the sweeps of a folder: a file of times, the clock of the points, the names, the turn, or a rate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from invtoolbox.datasets.sweeps.clocks import UNITS, Clock, Ticks, decide, unit_of_times
from invtoolbox.datasets.sweeps.point_files import Points, file_ticks
from invtoolbox.errors import InputError

#: Rates of spinning lidars, turns per second, and the deviation of a turn that is one of them.
_RATES, _DEVIATION = (5.0, 10.0, 15.0, 20.0, 25.0), 0.03
#: Rate that is assumed if nothing is known, sweeps per second.
_USUAL_RATE = 10.0
#: Ratio of two periods that agree, and seconds between two starts on one clock.
_AGREE, _ONE_CLOCK = 1.25, 1.0
#: Number of files among which two are sought whose clocks are compared.
_TRIED = 6
#: Number of turns in one file from which it holds several sweeps.
SEVERAL = 1.75
_STAMP = re.compile(r"(?:.*[^\d.])?(\d{9,19})(?:([._])(\d{1,9}))?")
#: Bounds of stamps in seconds since 1970.
_EPOCH = (9e8, 4.2e9)


@dataclass(frozen=True, eq=False)
class Timing:
    """Source of the timestamps of the sweeps of a folder.

    Attributes:
        clock: meaning of the times of the points, or None without such times.
        stamps: timestamps in seconds, ``(n,)``; None if the clock of the points gives them.
        expected: times that the clock leads to if no sweep is missing, ``(n,)``, or None.
        notes: choices, with their evidence.
    """

    clock: Clock | None
    stamps: np.ndarray | None
    expected: np.ndarray | None
    notes: tuple[str, ...]

    def place(self, index: int, read: Points) -> tuple[float, float]:
        """Return the timestamp of a sweep, and the seconds from it to the zero of its points' times.

        Args:
            index: number of the sweep.
            read: its points.
        """
        start = read.start
        if self.stamps is None:
            start = start or 0.0
            if self.clock is not None and self.expected is not None:
                start = self.clock.continue_from(start, float(self.expected[index]))
            return start, 0.0
        stamp = float(self.stamps[index])
        if start is not None and abs(start - stamp) <= _ONE_CLOCK:
            return stamp, start - stamp
        return stamp, 0.0


def find_timing(
    folder: Path,
    files: Sequence[Path],
    numbers: np.ndarray,
    columns: int | Sequence[str] | None,
    listed: np.ndarray | None,
    time_file: object,
    is_found: bool,
    rate: float | None,
    clock: str | None,
) -> Timing:
    """Decide where the timestamps of a folder come from, by the first two sweeps that can be read.

    Args:
        folder: the folder, for messages.
        files: files of the sweeps.
        numbers: numbers of the sweeps, in which missing sweeps leave a gap.
        columns: columns of the files.
        listed: times of a file of times, or None.
        time_file: this file, for messages.
        is_found: whether the file was found next to the sweeps, and not given.
        rate: sweeps per second in the user's words, or None.
        clock: unit of the clock in the user's words, or None.

    Raises:
        InputError: sources contradict each other, or the unit of a clock is not known.
    """
    sweeps, rows = _first_ticks(files, columns)
    named, words = stamps_of_names(files)
    notes: list[str] = []
    if listed is not None:
        unit = unit_of_times(listed)
        if unit != "s":
            notes.append(f"{time_file} is in {unit}, by the steps of its times")
        listed = listed * UNITS[unit]
    stated_times = listed if listed is not None else numbers / rate if rate is not None else named
    decided = None
    if sweeps:
        stamps = None if stated_times is None else [float(stated_times[k]) for k in rows]
        decided = decide(sweeps, files[rows[0]], stamps, clock)
        notes += decided.notes
    if listed is not None or rate is not None:
        if decided is not None and decided.step and is_found and len(rows) == 2:
            _agree(time_file, listed, rows, decided.step)
        return Timing(decided, stated_times, None, tuple(notes))
    if decided is not None and decided.unit is not None and _is_clock(decided, sweeps[0]):
        if named is not None and decided.step and len(rows) == 2:
            _agree(f"{folder}: the names of the files", named, rows, decided.step)
        return Timing(decided, None, _expected(decided, sweeps[0], rows, numbers), tuple(notes))
    if named is not None:
        return Timing(decided, named, None, (*notes, words))
    if decided is not None and decided.question:
        raise InputError(f"{folder}: {decided.question}")
    if decided is not None and decided.turn:
        per_second = nearest_rate(decided.turn)
        notes.append(
            f"{per_second:.4g} sweeps per second, because a turn takes {decided.turn:.4g} s; rate= "
            "gives another rate"
        )
        return Timing(decided, numbers / per_second, None, tuple(notes))
    notes.append(
        f"no time is known, so {_USUAL_RATE:g} sweeps per second are assumed; rate= gives the rate"
    )
    return Timing(decided, numbers / _USUAL_RATE, None, tuple(notes))


def stamps_of_names(files: Sequence[Path]) -> tuple[np.ndarray | None, str]:
    """Return the stamps in seconds that are the names of files, and a note; None for other names.

    >>> (stamps_of_names([Path("1700000000.05.pcd"), Path("1700000000.1.pcd")])[0] - 1.7e9).round(3)
    array([0.05, 0.1 ])
    """
    matches = [_STAMP.fullmatch(file.stem) for file in files]
    if len(files) < 2 or any(match is None for match in matches):
        return None, ""
    numbers = []
    for match in matches:
        assert match is not None
        whole, mark, rest = match.groups()
        if rest is not None and (len(whole) > 10 or (mark == "_" and len(rest) != 9)):
            return None, ""
        numbers.append((int(whole), float(f"0.{rest or 0}")))
    for unit, seconds in UNITS.items():
        times = np.array([(whole + fraction) * seconds for whole, fraction in numbers])
        if not ((times > _EPOCH[0]) & (times < _EPOCH[1])).all():
            continue
        if 0.01 <= float(np.median(np.abs(np.diff(np.sort(times))))) <= 5.0:
            return times, f"the names of the files are their stamps in {unit}"
    return None, ""


def _first_ticks(
    files: Sequence[Path], columns: int | Sequence[str] | None
) -> tuple[list[Ticks], list[int]]:
    """Return the times of the points of two sweeps, and their numbers; files that fail are passed."""
    sweeps, rows = [], []
    for k, file in enumerate(files[:_TRIED]):
        try:
            ticks = file_ticks(file, columns)
        except InputError:
            continue
        if ticks is not None and ticks.usable.any():
            sweeps.append(ticks)
            rows.append(k)
        if len(sweeps) == 2:
            break
    return sweeps, rows


def _is_clock(clock: Clock, ticks: Ticks) -> bool:
    if clock.counts_on is not None:
        return clock.counts_on
    return abs(float(ticks.least) * (clock.unit or 0.0)) > 1


def _expected(clock: Clock, ticks: Ticks, rows: Sequence[int], numbers: np.ndarray) -> np.ndarray:
    """Return the times that the first sweep and the step lead to, ``(n,)``."""
    start = float(ticks.least) * (clock.unit or 0.0)
    period = clock.turn or 0.1
    if clock.step is not None and clock.step > 0:
        period = clock.step / float(numbers[rows[1]] - numbers[rows[0]])
    return start + (numbers - numbers[rows[0]]) * period


def _agree(source: object, times: np.ndarray | None, rows: Sequence[int], step: float) -> None:
    """Raise an error if two sources give sweeps different distances in time."""
    if times is None:
        return
    stated = abs(float(times[rows[1]] - times[rows[0]]))
    if not stated / _AGREE <= abs(step) <= stated * _AGREE:
        raise InputError(
            f"{source}: the sweeps are {stated:.4g} s apart, but {abs(step):.4g} s by the clock of "
            "their points; give times='none' for the clock, times=FILE, or rate= (sweeps per second)"
        )


def nearest_rate(turn: float) -> float:
    """Return the turns per second of a lidar, rounded to a usual rate if it is near."""
    nearest = min(_RATES, key=lambda rate: abs(rate * turn - 1))
    return nearest if abs(nearest * turn - 1) < _DEVIATION else 1 / turn
