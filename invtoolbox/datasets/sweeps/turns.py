"""Reader of one file of points that holds several turns of a lidar, cut where the azimuth begins anew."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from invtoolbox.core.checks import require_file
from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.datasets.sweeps.clocks import UNITS, WITHOUT_CLOCK, Clock, Winding, decide, wind
from invtoolbox.datasets.sweeps.folder_times import SEVERAL, nearest_rate
from invtoolbox.datasets.sweeps.point_files import (
    SUFFIXES,
    centered,
    file_ticks,
    points_of_columns,
    positions,
    read_columns,
)
from invtoolbox.datasets.sweeps.sweep_files import Recording
from invtoolbox.errors import InputError
from invtoolbox.geometry.sweeps import Sweep

#: Share of the usual number of points below which the first and the last turn are left out.
_WHOLE = 0.9
#: Spread of the elevation in a turn, as a share of the spread in the file, below which it is one ring.
_RINGS = 0.6


class TurnsOfFile(Recording):
    """Sweeps of one point file, with one sweep per turn of the lidar.

    The file is read at once. Points are in the order of their times, or of the file if it has no
    times; a turn begins at the azimuth of the first point. An incomplete first or last turn is left
    out if there are others.

    Args:
        path: path of a `.bin`, `.las`, `.laz`, `.pcd`, `.ply`, `.npy` or `.npz` file, or of a folder
            with one such file.
        poses: file of the sensor's poses, one per sweep (see `read_poses`).
        rate: number of turns per second, if the file has no times; by default 10.
        columns: number of columns of `.bin` and `.npy`, or their names (see `read_points`).
        clock: unit of the times of the points: "s", "ms", "us" or "ns"; "none" leaves them out.

    Raises:
        InputError: a damaged file, or times whose unit is not known.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        poses: str | os.PathLike[str] | None = None,
        rate: float | None = None,
        columns: int | Sequence[str] | None = None,
        clock: str | None = None,
    ) -> None:
        check_range("a file of turns", "(0, inf]", rate=rate)
        if clock is not None:
            check_choice("a file of turns", (*UNITS, WITHOUT_CLOCK), clock=clock)
        file = Path(path).expanduser()
        files = point_files(file) if file.is_dir() else []
        if file.is_dir() and len(files) != 1:
            raise InputError(f"{file}: the folder holds {len(files)} point files; give one of them")
        file = require_file(files[0] if files else file)
        self.rate = rate
        self.columns = tuple(columns) if isinstance(columns, (list, tuple)) else columns
        ticks = file_ticks(file, columns)
        has_times = ticks is not None and bool(ticks.usable.any()) and clock != WITHOUT_CLOCK
        self.clock = decide([ticks], file, None, clock) if has_times and ticks else None
        self.least = float(ticks.least) if has_times and ticks else 0.0
        self.has_times = self.clock is not None and self.clock.unit is not None
        winding, rows = _wind(file, columns, self.has_times)
        if winding is None or winding.turns < SEVERAL:
            # Times may begin anew in every turn, and points follow each other in the file.
            by_order = _wind(file, columns, False)
            if by_order[0] is not None and by_order[0].turns >= SEVERAL:
                (winding, rows), self.has_times = by_order, False
            else:
                _refuse_repeated_rings(file, columns)
        self.turns = [rows] if winding is None else cut(winding, rows)
        if self.clock is not None and self.has_times and len(self.turns) > 1:
            self.clock = replace(self.clock, counts_on=True)
        if len(self.turns) > 1 and rate is None and self.clock and self.clock.question:
            raise InputError(f"{file}: {self.clock.question}")
        super().__init__(file, len(self.turns), poses)

    def _read(self, index: int) -> Sweep:
        status = self.file.stat()
        columns, notes = _content(self.file, self.columns, (status.st_size, status.st_mtime_ns))
        rows = self.turns[index]
        chosen = {name: values[rows] for name, values in columns.items()}
        read = points_of_columns(self.file, chosen, self.clock)
        notes = (*notes, *(self.clock.notes if self.clock else ()), *read.notes)
        if len(self) > 1:
            notes += (f"the file holds {len(self)} turns, cut where the azimuth begins anew",)
        timestamp, time = read.start, read.time
        if timestamp is not None and self.clock is not None:
            # The clock may begin anew within the file.
            first = self.least * (self.clock.unit or 0.0)
            timestamp = self.clock.continue_from(
                timestamp, first + index * (self.clock.turn or 0.1)
            )
        if timestamp is None and self.clock is not None and self.clock.turn and not self.rate:
            timestamp = index / nearest_rate(self.clock.turn)
        elif timestamp is None:
            timestamp = index / (self.rate or 10.0)
            if self.rate is None and len(self) > 1:
                notes += (
                    "no time is known, so 10 turns per second are assumed; rate= gives the rate",
                )
        pose = {}
        if read.origin is not None:
            shift = torch.eye(4, dtype=torch.float64)
            shift[:3, 3] = read.origin
            pose["pose"] = shift
        return self.sweep(
            index,
            read.points,
            timestamp,
            time=time,
            intensity=read.intensity,
            ring=read.ring,
            deskewed=None,
            meta={"reader": "turns", "notes": notes},
            **pose,
        )


# Every sweep is a part of one file, which is then not read again.
@functools.lru_cache(maxsize=1)
def _content(
    file: Path, columns: Any, status: tuple[int, int]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    return read_columns(file, columns)


def point_files(folder: Path) -> list[Path]:
    """List the point files of a folder."""
    return [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    ]


def holds_turns(folder: Path) -> bool:
    """Return whether a folder holds one point file, and this file several turns of a lidar.

    Its turns are counted by the times of its points, or by their order.
    """
    files = point_files(folder)
    if len(files) != 1:
        return False
    try:
        windings = [_wind(files[0], None, by_times)[0] for by_times in (True, False)]
    except InputError:
        return False
    return any(winding is not None and winding.turns >= SEVERAL for winding in windings)


def _wind(
    file: Path, columns: int | Sequence[str] | None, by_times: bool
) -> tuple[Winding | None, np.ndarray]:
    """Return the turns of a file by its times, or by the order of its points, and the rows it orders."""
    ticks = file_ticks(file, columns) if by_times else None
    if ticks is not None and ticks.usable.any() and ticks.span > 0:
        return ticks.winding, np.flatnonzero(ticks.usable)
    read, _ = read_columns(file, columns)
    places = positions(file, read)
    rows = np.flatnonzero(np.isfinite(places).all(1) & (places != 0).any(1))
    middle = centered(places)[rows].astype(np.float64)
    winding = wind(np.arange(len(rows)), np.arctan2(middle[:, 1], middle[:, 0]))
    if winding is None:
        return None, rows
    # In an image of rings, every row goes round once.
    rise = np.arctan2(middle[:, 2], np.hypot(middle[:, 0], middle[:, 1]))
    turns = np.split(rise, np.flatnonzero(np.diff(np.floor(winding.angle))) + 1)
    within = float(np.median([turn.std() for turn in turns]))
    return (None if within < _RINGS * rise.std() else winding), rows


def _refuse_repeated_rings(file: Path, columns: int | Sequence[str] | None) -> None:
    """Raise an error if the times of the points begin anew, and one ring goes round several times."""
    table, _ = read_columns(file, columns)
    read = points_of_columns(file, table, Clock(None))
    if read.ring is None:
        return
    finite = read.points.isfinite().all(1) & (read.points != 0).any(1)
    ring = read.ring[finite].mode().values
    places = centered(read.points[finite & (read.ring == ring)].double().numpy())
    winding = wind(np.arange(len(places)), np.arctan2(places[:, 1], places[:, 0]))
    if winding is not None and winding.turns >= SEVERAL:
        raise InputError(
            f"{file}: the file holds {winding.turns:.1f} turns, but the times of its points begin anew "
            "in each and its rows follow the rings; give one file per turn"
        )


def cut(winding: Winding, rows: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each turn in the order of time, without incomplete ones at the ends.

    Args:
        winding: turns of the points.
        rows: rows of these points in the file.
    """
    number = np.floor(winding.angle + 1e-9).astype(int)
    edges = np.flatnonzero(np.diff(number)) + 1
    turns = list(itertools.pairwise([0, *edges.tolist(), len(number)]))
    usual = _WHOLE * float(np.median([stop - start for start, stop in turns]))
    for end in (-1, 0):
        if len(turns) > 1 and turns[end][1] - turns[end][0] < usual:
            del turns[end]
    return [rows[winding.order[start:stop]] for start, stop in turns]
