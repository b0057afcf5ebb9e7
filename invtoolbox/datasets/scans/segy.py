"""Seismic records in SEG-Y files, and the places of a survey as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.checks import reading
from invtoolbox.errors import InputError

_ENDS = ("source", "receiver")
_COLUMNS = (
    "shot",
    *(f"{end}_{name}" for end in _ENDS for name in ("x", "y", "depth", "elevation")),
)


@dataclass(frozen=True, eq=False)
class SurveyPlaces:
    """Places of the source and of the receiver of every trace.

    Attributes:
        sources: depth, x and y in metres, ``(traces, 3)``.
        receivers: places of the receivers, in the same form.
        names: number of the shot of every trace, ``(traces,)``; all equal if there are none.
    """

    sources: np.ndarray
    receivers: np.ndarray
    names: np.ndarray


def read_survey_table(path: str | Path) -> SurveyPlaces:
    """Read a CSV table with one row per trace, in metres.

    The first line names the columns, in any order, separated by commas or semicolons: ``source_x``
    and ``receiver_x``; ``source_y`` and ``receiver_y``, 0 by default; ``shot``, a whole number;
    and either ``source_depth`` and ``receiver_depth``, which count from the top of the model, or
    ``source_elevation`` and ``receiver_elevation``, from the highest of which depths then count.

    Args:
        path: path of the table.

    Raises:
        InputError: a column is missing, unknown or named twice, a row has another number of values,
            or a value is no finite number.
    """
    with reading(path, "CSV") as file:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
        rows = [line for line in lines if line.strip()]
        if len(rows) < 2:
            raise InputError(f"the table has no rows below its names; name {', '.join(_COLUMNS)}")
        separator = ";" if ";" in rows[0] else ","
        names, *values = csv.reader(rows, delimiter=separator)
        names = [name.strip().lower() for name in names]
        _check_names(names)
        table = np.array([_numbers(line, row, names) for line, row in enumerate(values, start=2)])
        columns = dict(zip(names, table.T))
        zero = np.zeros(len(table))
        heights = [columns.get(f"{end}_elevation") for end in _ENDS]
        depths = [columns.get(f"{end}_depth", zero) for end in _ENDS]
        if heights[0] is not None and heights[1] is not None:
            highest = max(heights[0].max(), heights[1].max())
            depths = [highest - height for height in heights]
    sources, receivers = (
        np.stack([depth, columns[f"{end}_x"], columns.get(f"{end}_y", zero)], 1)
        for end, depth in zip(_ENDS, depths)
    )
    return SurveyPlaces(sources, receivers, columns.get("shot", zero).astype(np.int64))


def _check_names(names: Sequence[str]) -> None:
    missing = [f"{end}_x" for end in _ENDS if f"{end}_x" not in names]
    strange = [name for name in names if name not in _COLUMNS]
    if missing or strange or len(set(names)) < len(names):
        fault = f"there is no column {missing[0]!r}" if missing else "a column is named twice"
        fault = f"the column {strange[0]!r} is unknown" if strange else fault
        raise InputError(f"{fault}; the columns of a survey are {', '.join(_COLUMNS)}")
    for name in ("depth", "elevation"):
        if (f"source_{name}" in names) != (f"receiver_{name}" in names):
            raise InputError(
                f"the {name} is stated of one end alone; give source_{name} and receiver_{name}"
            )
    if "source_depth" in names and "source_elevation" in names:
        raise InputError("the table has depths and elevations; leave one of them out")


def _numbers(line: int, row: Sequence[str], names: Sequence[str]) -> list[float]:
    if len(row) != len(names):
        raise InputError(f"row {line} has {len(row)} values for {len(names)} columns; complete it")
    try:
        numbers = [float(value) for value in row]
    except ValueError:
        numbers = [float("nan")]
    if not np.isfinite(numbers).all():
        raise InputError(f"row {line} holds a value that is no finite number: {', '.join(row)}")
    return numbers


#: Bytes of the text and binary headers of a file, and of the header of a trace.
_FILE_HEADER, _TRACE_HEADER = 3600, 240
#: Types of samples by the format code, without the byte order; 1 is IBM's floating point.
_TYPES = {1: "u4", 2: "i4", 3: "i2", 5: "f4", 6: "f8", 8: "i1", 9: "i8"}
_TYPES |= {10: "u4", 11: "u2", 12: "u8", 16: "u1"}  # unsigned, of revision 2
#: Metres per unit of length by the measurement system of the file: metres and feet.
_METRES = {1: 1.0, 2: 0.3048}
#: First and last identification code of traces that hold no seismic data: dead, dummy, time break,
#: uphole, sweep, timing, water break.
_NO_DATA = (2, 8)


@dataclass(frozen=True, eq=False)
class SeismicRecords:
    """Records of the shots of a survey.

    Attributes:
        records: ``(shots, receivers, samples)`` from the time of the shot on, in the unit of the
            file. If the file begins later, the first samples are 0. If the shots have different
            numbers of receivers, the last records of the others are 0.
        shots: positions of the shots, depth, x and y in metres, ``(shots, 3)``, in double precision,
            because map coordinates have seven digits before the point. The depth counts from the
            highest position.
        receivers: positions of the receivers of every shot, ``(shots, receivers, 3)``. A receiver
            that a shot does not have is at the place of its first one.
        time_step: seconds between two samples.
        source: path of the file.
        mask: True for the receivers that a shot has, ``(shots, receivers)``; the weights of a
            data term are ``mask[None, None, ..., None]``.
        notes: assumptions and repairs of the reader, one sentence each.
    """

    records: Tensor
    shots: Tensor
    receivers: Tensor
    time_step: float
    source: str
    mask: Tensor
    notes: tuple[str, ...] = ()

    def line(self) -> tuple[Tensor, Tensor]:
        """Return the positions along a line: ``(shots, 2)`` and ``(shots, receivers, 2)``.

        The coordinates are the depth and the distance along the line that fits all positions best,
        from the first position on, in metres, as `operators.AcousticWaves` takes them in two
        dimensions.

        Raises:
            InputError: all positions are the same, because the file holds none.
        """
        flat = torch.cat([self.shots[:, 1:], self.receivers[..., 1:].flatten(0, 1)])
        if bool((flat == flat[0]).all()):
            raise InputError(
                f"{self.source}: all shots and receivers are at one place; write their coordinates "
                "into the headers of the traces, or name a table of them (read_segy(geometry=), "
                "survey.geometry of a scene, --geometry of the command)"
            )
        middle = flat.mean(0)
        direction = torch.linalg.svd(flat - middle, full_matrices=False).Vh[0]
        # Along the axis that the line follows most, and not against it.
        direction = direction * direction[direction.abs().argmax()].sign()
        first = ((flat - middle) @ direction).amin()

        def project(places: Tensor) -> Tensor:
            along = (places[..., 1:] - middle) @ direction - first
            return torch.stack([places[..., 0], along], -1).float()

        return project(self.shots), project(self.receivers)


def read_segy(path: str | Path, geometry: str | Path | None = None) -> SeismicRecords:
    """Read the records of a SEG-Y file (revision 0 to 2, either byte order).

    Traces are grouped by their field record number, or by the place of the shot if there is none.
    Traces that are marked as dead or auxiliary are left out. The number of samples is that of the
    binary header if it fills the file, whatever the headers of the traces state, and otherwise that
    of the traces. Feet become metres; scalars of coordinates and elevations count.

    Args:
        path: path of the file.
        geometry: CSV table of the sources and receivers, one row per trace in the order of the
            file, in metres; it replaces the places of the headers. The columns are ``source_x``,
            ``receiver_x``, and if needed ``source_y``, ``receiver_y``, ``shot`` (a number), and
            ``source_depth`` and ``receiver_depth``, or ``source_elevation`` and
            ``receiver_elevation``.

    Raises:
        InputError: the file is truncated or no SEG-Y, its samples are of an unknown format, it has
            extension headers or traces of different lengths, its coordinates are angles, its traces
            begin at different times, or the table has another number of traces.
    """
    places = None if geometry is None else read_survey_table(geometry)
    with reading(path, "SEG-Y") as file:
        content = file.read_bytes()
        if len(content) < _FILE_HEADER + _TRACE_HEADER:
            raise InputError("truncated, it ends within its headers; fetch or export it again")
        order = _byte_order(content)
        code = _integer(content, 3224, f"{order}u2")
        if code not in _TYPES:
            raise InputError(
                f"its samples have the format code {code}, and the codes "
                f"{', '.join(map(str, _TYPES))} are read; convert it to IEEE floats (5)"
            )
        traces, step, notes = _traces(content, order, np.dtype(_TYPES[code]).itemsize)
        if places is not None and len(places.sources) != len(traces):
            raise InputError(
                f"{geometry}: the table has {len(places.sources)} rows, and {file} has "
                f"{len(traces)} traces; write one row per trace, in the order of the file"
            )
        heads, body = traces[:, :_TRACE_HEADER], traces[:, _TRACE_HEADER:]
        kind = _column(heads, 28, "i2", order)
        alive = (kind < _NO_DATA[0]) | (kind > _NO_DATA[1])
        if not alive.any():
            raise InputError("all its traces are marked as dead or auxiliary; mark those with data")
        if not alive.all():
            notes += (f"{(~alive).sum()} traces are marked as dead or auxiliary and left out",)
        values = _samples(np.ascontiguousarray(body), code, order)
        values = _from_shot_on(values, _scaled(heads, 108, 214, order, "i2") * 1e3 / step)
        if places is None:
            system = _integer(content, 3254, f"{order}i2")
            if system not in _METRES:
                notes += ("the file does not state its unit of length; metres are assumed",)
            places = _places(heads, order, _METRES.get(system, 1.0))
        groups, mask = _groups(places, alive)
        if not mask.all():
            counts = mask.sum(1)
            notes += (
                f"the shots have {counts.min()} to {counts.max()} receivers; records of 0 fill up "
                "the others, and the mask is False there",
            )
    records = np.where(mask[..., None], values[groups], np.float32(0))
    return SeismicRecords(
        records=torch.from_numpy(records),
        shots=torch.from_numpy(places.sources[groups[:, 0]]),
        receivers=torch.from_numpy(places.receivers[groups]),
        time_step=step * 1e-6,
        source=str(file),
        mask=torch.from_numpy(mask),
        notes=notes,
    )


def _byte_order(content: bytes) -> str:
    """Return "<" or ">": revision 2 states it; before, the format code shows it."""
    mark = content[3296:3300]
    if mark == b"\x02\x01\x04\x03":
        raise InputError("its bytes are swapped in pairs; export it in big-endian order")
    little = mark == b"\x04\x03\x02\x01" or _integer(content, 3224, ">u2") > 255
    return "<" if little else ">"


def _traces(content: bytes, order: str, width: int) -> tuple[np.ndarray, float, tuple[str, ...]]:
    """Return the bytes of the traces, ``(traces, bytes)``, the microseconds of a sample, and notes."""
    unsigned, signed = f"{order}u2", f"{order}i2"
    second = content[3500] >= 2  # revision, its whole number
    if second and _integer(content, 3506, f"{order}i4") > 0:
        raise InputError(
            "its traces have extension headers, which are not read; export it as revision 1"
        )
    start = _FILE_HEADER + 3200 * max(_integer(content, 3504, signed), 0)
    end = len(content)
    step: float = _integer(content, 3216, unsigned)
    samples = _integer(content, 3220, unsigned)
    if second:  # it has wider fields for what does not fit, and text behind the traces
        samples = max(_integer(content, 3268, f"{order}i4"), 0) or samples
        wide = float(np.frombuffer(content, f"{order}f8", 1, 3272)[0])
        step = wide if 0 < wide < 1e9 else step
        first = _integer(content, 3320, f"{order}u8")
        start = first if start < first < end else start
        end -= 3200 * max(_integer(content, 3328, f"{order}i4"), 0)
    notes: tuple[str, ...] = ()
    room, of_trace = end - start, 0
    if room >= _TRACE_HEADER:
        of_trace = _integer(content, start + 114, unsigned)
        step = step or _integer(content, start + 116, unsigned)  # some state it per trace only
    stated = samples or of_trace
    fitting = [n for n in (samples, of_trace) if n and room % (_TRACE_HEADER + n * width) == 0]
    if not fitting or not step or room < _TRACE_HEADER:
        if step and _has_lengths_of_its_own(content, start, end, width, unsigned):
            raise InputError("its traces have different lengths; cut them to one length")
        count, rest = divmod(max(room, 0), _TRACE_HEADER + stated * width)
        raise InputError(
            f"truncated or damaged, traces of {stated} samples every {step:g} microseconds do not "
            f"fill {max(room, 0):,} bytes ({count} traces fit, {rest:,} bytes remain); fetch or "
            "export it again"
        )
    samples = fitting[0]
    traces = np.frombuffer(content, np.uint8, room, start).reshape(
        -1, _TRACE_HEADER + samples * width
    )
    lengths, steps = (_column(traces, byte, "u2", order) for byte in (114, 116))
    stale = int(((lengths != 0) & (lengths != samples)).sum())
    if stale:
        notes += (
            f"{stale} of {len(traces)} headers of traces state another number of samples than the "
            f"{samples} that fill the file, and are taken as out of date",
        )
    elif samples != stated:
        notes += (
            f"the binary header states {stated} samples, and the headers of the traces {samples}, "
            "which fill the file",
        )
    if ((steps != 0) & (steps != round(step))).any():
        notes += (
            f"headers of traces state another time step than the {step:g} microseconds of the "
            "binary header, which is taken",
        )
    return traces, step, notes


def _has_lengths_of_its_own(content: bytes, start: int, end: int, width: int, kind: str) -> bool:
    """State whether traces as long as their own headers state fill the file."""
    while start + _TRACE_HEADER <= end:
        start += _TRACE_HEADER + width * _integer(content, start + 114, kind)
    return start == end


def _from_shot_on(values: np.ndarray, delays: np.ndarray) -> np.ndarray:
    """Return the samples from the time of the shot on; they begin after ``delays`` samples."""
    if (delays != delays[0]).any() or delays[0] % 1 or delays[0] > 10 * values.shape[1]:
        raise InputError(
            "its traces begin at different times after the shot, between samples, or after ten "
            "times their length; shift them to one whole sample"
        )
    lead = int(delays[0])
    values = np.pad(values[:, max(-lead, 0) :], ((0, 0), (max(lead, 0), 0)))
    if not values.shape[1]:
        raise InputError("its traces end before the shot")
    return values


def _integer(content: bytes, byte: int, dtype: str) -> int:
    return int(np.frombuffer(content, dtype, 1, byte)[0])


def _column(heads: np.ndarray, byte: int, kind: str, order: str) -> np.ndarray:
    """Return a field of every trace header."""
    width = np.dtype(kind).itemsize
    field = np.ascontiguousarray(heads[:, byte : byte + width])
    return field.view(order + kind)[:, 0].astype(np.int64)


def _scaled(heads: np.ndarray, byte: int, scalar: int, order: str, kind: str = "i4") -> np.ndarray:
    """Return a field of every trace header, times its scalar or, if that is negative, over it."""
    factor = _column(heads, scalar, "i2", order).astype(np.float64)
    factor = np.where(factor < 0, 1 / np.maximum(-factor, 1), np.maximum(factor, 1))
    return _column(heads, byte, kind, order) * factor


def _samples(body: np.ndarray, code: int, order: str) -> np.ndarray:
    raw = body.view(order + _TYPES[code])
    if code != 1:
        return raw.astype(np.float32)
    # A sign, seven bits of an exponent of 16, and a fraction of 24 bits.
    fraction = (raw & 0x00FFFFFF).astype(np.float64) / 2**24
    exponent = ((raw >> 24) & 0x7F).astype(np.float64) - 64
    values = np.where(raw >> 31, -fraction, fraction) * 16.0**exponent
    return values.astype(np.float32)


def _places(heads: np.ndarray, order: str, metres: float) -> SurveyPlaces:
    """Return the places in the headers of the traces, and the field record numbers.

    Args:
        heads: headers of the traces.
        order: byte order.
        metres: metres per unit of length of the file.
    """
    if (_column(heads, 88, "i2", order) > 1).any():
        raise InputError(
            "its coordinates are angles (longitude and latitude); project them to metres, or name "
            "a table by geometry="
        )

    def scaled(byte: int, scalar: int) -> np.ndarray:
        return metres * _scaled(heads, byte, scalar, order)

    surface, below = scaled(44, 68), scaled(48, 68)
    shots = np.stack([below - surface, scaled(72, 70), scaled(76, 70)], 1)
    receivers = np.stack([-scaled(40, 68), scaled(80, 70), scaled(84, 70)], 1)
    highest = min(shots[:, 0].min(), receivers[:, 0].min(), (-surface).min())
    shots[:, 0] -= highest
    receivers[:, 0] -= highest
    return SurveyPlaces(shots, receivers, _column(heads, 8, "i4", order))


def _groups(places: SurveyPlaces, alive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the traces of every shot, and which of them exist.

    Both have the shape ``(shots, receivers)``, with as many receivers as the largest shot; the
    first trace of a shot stands for missing ones.
    """
    traces, names = np.flatnonzero(alive), places.names[alive]
    keys = names[:, None] if (names != names[0]).any() else places.sources[alive]
    _, first, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    which = which.reshape(-1)
    shots: Sequence[np.ndarray] = [traces[which == k] for k in np.argsort(first)]
    most = max(map(len, shots))
    groups = np.stack(
        [np.pad(shot, (0, most - len(shot)), constant_values=shot[0]) for shot in shots]
    )
    counts = np.array([len(shot) for shot in shots])
    return groups, np.arange(most) < counts[:, None]
