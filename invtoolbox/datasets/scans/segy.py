"""Seismic records in SEG-Y files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.checks import reading
from invtoolbox.errors import InputError

#: Bytes of the text and binary headers of a file, and of the header of a trace.
_FILE_HEADER, _TRACE_HEADER = 3600, 240
#: Types of samples by the format code, without the byte order; 1 is IBM's floating point.
_TYPES = {1: "u4", 2: "i4", 3: "i2", 5: "f4", 6: "f8", 8: "i1"}
#: Metres per unit of length by the measurement system of the file; 2 is feet.
_METRES = {2: 0.3048}


@dataclass(frozen=True, eq=False)
class SeismicRecords:
    """Records of the shots of a survey.

    Attributes:
        records: ``(shots, receivers, samples)`` from the time of the shot on, in the unit of the
            file. If the file begins later, the first samples are 0.
        shots: positions of the shots, depth, x and y in metres, ``(shots, 3)``, in double precision,
            because map coordinates have seven digits before the point. The depth counts from the
            highest position.
        receivers: positions of the receivers of every shot, ``(shots, receivers, 3)``.
        time_step: seconds between two samples.
        source: path of the file.
    """

    records: Tensor
    shots: Tensor
    receivers: Tensor
    time_step: float
    source: str

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
                "into the headers of the traces, or take records alone"
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


def read_segy(path: str | Path) -> SeismicRecords:
    """Read the records of a SEG-Y file (revision 0 to 2, either byte order).

    Traces are grouped by their field record number, or by the place of the shot if there is none.
    Feet become metres.

    Args:
        path: path of the file.

    Raises:
        InputError: the file is truncated or no SEG-Y, its samples are of an unknown format, its
            coordinates are angles, its shots have different numbers of traces, or its traces begin
            at different times.
    """
    with reading(path, "SEG-Y") as file:
        content = file.read_bytes()
        if len(content) < _FILE_HEADER + _TRACE_HEADER:
            raise InputError("truncated, it ends within its headers; fetch or export it again")
        # Revision 2 states its byte order; before, the format code shows it.
        little = content[3296:3300] == b"\x04\x03\x02\x01" or _integer(content, 3224, ">u2") > 255
        order = "<" if little else ">"
        unsigned, signed = f"{order}u2", f"{order}i2"
        step, samples, code = (_integer(content, byte, unsigned) for byte in (3216, 3220, 3224))
        if code not in _TYPES:
            raise InputError(
                f"its samples have the format code {code}, and the codes "
                f"{', '.join(map(str, _TYPES))} are read; convert it to IEEE floats (5)"
            )
        start = _FILE_HEADER + 3200 * max(_integer(content, 3504, signed), 0)
        if len(content) >= start + _TRACE_HEADER:  # some files state both per trace only
            samples = samples or _integer(content, start + 114, unsigned)
            step = step or _integer(content, start + 116, unsigned)
        width = np.dtype(_TYPES[code]).itemsize
        length = _TRACE_HEADER + samples * width
        count, rest = divmod(len(content) - start, length)
        if not samples or not step or count < 1 or rest:
            raise InputError(
                f"truncated or damaged, traces of {samples} samples every {step} microseconds do not "
                f"fill {max(len(content) - start, 0):,} bytes; fetch or export it again"
            )
        bytes_ = np.frombuffer(content, np.uint8, offset=start).reshape(count, length)
        heads, body = bytes_[:, :_TRACE_HEADER], bytes_[:, _TRACE_HEADER:]
        lengths = _column(heads, 114, "u2", order)
        if ((lengths != 0) & (lengths != samples)).any():
            raise InputError("its traces have different lengths; cut them to one length")
        values = _samples(np.ascontiguousarray(body), code, order)
        if (_column(heads, 88, "i2", order) > 1).any():
            raise InputError(
                "its coordinates are angles (longitude and latitude); project them to metres"
            )
        delays = _scaled(heads, 108, 214, order, "i2") * 1e3 / step  # in samples
        if (delays != delays[0]).any() or delays[0] % 1 or delays[0] > 10 * samples:
            raise InputError(
                "its traces begin at different times after the shot, between samples, or after ten "
                "times their length; shift them to one whole sample"
            )
        lead = int(delays[0])
        values = np.pad(values[:, max(-lead, 0) :], ((0, 0), (max(lead, 0), 0)))
        if not values.shape[1]:
            raise InputError("its traces end before the shot")
        metres = _METRES.get(_integer(content, 3254, signed), 1.0)
        sources, receivers = (metres * places for places in _places(heads, order))
        names = _column(heads, 8, "i4", order)
    groups = _groups(names, sources, file)
    return SeismicRecords(
        torch.from_numpy(values[groups]),
        torch.from_numpy(sources[groups[:, 0]]),
        torch.from_numpy(receivers[groups]),
        step * 1e-6,
        str(file),
    )


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


def _places(heads: np.ndarray, order: str) -> tuple[np.ndarray, np.ndarray]:
    """Return depth, x and y of the shot and of the receiver of every trace, in the file's unit."""

    def scaled(byte: int, scalar: int) -> np.ndarray:
        return _scaled(heads, byte, scalar, order)

    surface, below = scaled(44, 68), scaled(48, 68)
    shots = np.stack([below - surface, scaled(72, 70), scaled(76, 70)], 1)
    receivers = np.stack([-scaled(40, 68), scaled(80, 70), scaled(84, 70)], 1)
    highest = min(shots[:, 0].min(), receivers[:, 0].min(), (-surface).min())
    shots[:, 0] -= highest
    receivers[:, 0] -= highest
    return shots, receivers


def _groups(names: np.ndarray, sources: np.ndarray, file: Path) -> np.ndarray:
    """Return the numbers of the traces of every shot, ``(shots, receivers)``."""
    keys = names[:, None] if (names != names[0]).any() else sources
    _, first, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    which = which.reshape(-1)
    counts = np.bincount(which)
    if (counts != counts[0]).any():
        raise InputError(
            f"{file}: its shots have {np.min(counts)} to {np.max(counts)} traces; give files of shots with "
            "the same number of traces"
        )
    traces = np.argsort(which, kind="stable").reshape(len(counts), counts[0])
    return traces[np.argsort(first)]
