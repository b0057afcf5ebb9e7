"""Readers of the files of Prophesee's cameras: DAT, and RAW with the encodings EVT2 and EVT3.

Source: Prophesee, "Data encoding formats" (docs.prophesee.ai).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.core.checks import reading
from invtoolbox.core.trust import unpacked_budget
from invtoolbox.errors import InputError
from invtoolbox.geometry.events import Events

#: Largest number of bytes of the lines in front of the events.
_LONGEST_HEADER = 1 << 16


def read_dat(path: str | Path) -> Events:
    """Read a DAT file of events: 32 bits of microseconds, 14 of x, 14 of y and one of polarity.

    Args:
        path: path of the file.

    Raises:
        InputError: the file is damaged, or holds no events of two dimensions.
    """
    with reading(path, "DAT") as file:
        content = file.read_bytes()
        header, start = _header(content)
        if len(content) < start + 2:
            raise InputError("truncated, it ends behind its header")
        kind, length = content[start], content[start + 1]
        if length != 8 or kind not in (0x00, 0x0C, 0x28):
            raise InputError(
                f"it holds entries of kind {kind} and {length} bytes, and events have the kind 0, "
                "12 or 40 and 8 bytes"
            )
        body = len(content) - start - 2
        if body % 8:
            raise InputError(
                f"truncated, its events take 8 bytes each, and {body:,} bytes are there; record or "
                "fetch it again"
            )
        words = np.frombuffer(content, "<u4", offset=start + 2).reshape(-1, 2)
        time, data = words[:, 0].astype(np.int64), words[:, 1]
        # 32 bits of microseconds are 71 minutes.
        time = time + (np.cumsum(np.diff(time, prepend=time[:1]) < -(2**31)) << 32)
        size = _size(header)
        return _made(file, data & 0x3FFF, data >> 14 & 0x3FFF, time, data >> 28 & 1, size)


def read_evt(path: str | Path) -> Events:
    """Read a RAW file of events in the encoding EVT2 or EVT3; triggers are left out.

    Args:
        path: path of the file.

    Raises:
        InputError: the file is damaged, or its header names another encoding.
    """
    with reading(path, "RAW") as file:
        content = file.read_bytes()
        header, start = _header(content)
        encoding = re.search(rb"(?i)%\s*(?:evt|format)\s*:?\s*(?:evt)?\s*(\d)", header)
        number = int(encoding.group(1)) if encoding else 0
        if number not in (2, 3):
            raise InputError(
                "its header names "
                f"{'no encoding' if encoding is None else f'the encoding {number}'}, "
                "and the encodings EVT2 and EVT3 are read; convert it with metavision_file_to_hdf5"
            )
        width = 2 if number == 3 else 4
        body = len(content) - start
        if body % width or not body:
            raise InputError(
                f"truncated, its words take {width} bytes each, and {body:,} bytes are there; "
                "record or fetch it again"
            )
        words = np.frombuffer(content, "<u2" if number == 3 else "<u4", offset=start)
        if number == 2:
            return _made(file, *_decode_evt2(words), _size(header))
        return _made(file, *_decode_evt3(words, unpacked_budget(file)), _size(header))


def _header(content: bytes) -> tuple[bytes, int]:
    """Return the lines in front of the events, which begin with %, and the byte behind them."""
    position = 0
    while content[position : position + 1] == b"%" and position < _LONGEST_HEADER:
        end = content.find(b"\n", position)
        if end < 0:
            raise InputError("truncated, it ends within its header")
        line, position = content[position:end].strip().lower(), end + 1
        if line == b"% end":
            break
    return content[:position], position


def _size(header: bytes) -> tuple[int, int] | None:
    """Return rows and columns of the sensor, if the header gives them."""
    sides = {
        name: re.search(rb"(?i)\b" + name + rb"\s*[=: ]\s*(\d{1,5})\b", header)
        for name in (b"height", b"width")
    }
    if all(sides.values()):
        height, width = (int(side.group(1)) for side in sides.values() if side)
        return height, width
    geometry = re.search(rb"(?i)%\s*geometry\s*:?\s*(\d{1,5})x(\d{1,5})", header)
    return (int(geometry.group(2)), int(geometry.group(1))) if geometry else None


def _decode_evt2(words: Any) -> tuple[Any, Any, Any, Any]:
    """Return column, row, microseconds and polarity of the events of 32-bit words."""
    kind = words >> 28
    upper = _last(np.where(kind == 8, (words & 0x0FFFFFFF).astype(np.int64), -1), kind == 8)
    upper = _unwrap(upper, 28)
    event = (kind <= 1) & (upper >= 0)
    data = words[event]
    time = (upper[event] << 6) + (data >> 22 & 0x3F)
    return data >> 11 & 0x7FF, data & 0x7FF, time, kind[event]


def _decode_evt3(words: Any, budget: int) -> tuple[Any, Any, Any, Any]:
    """Return column, row, microseconds and polarity of the events of 16-bit words.

    Words set the state (row, time, base of a vector of pixels), and an event takes the state of the
    words in front of it.
    """
    kind = words >> 12
    value = (words & 0xFFF).astype(np.int64)
    row = _last(value & 0x7FF, kind == 0)
    low = _last(value, kind == 6)
    upper = _unwrap(_last(value, kind == 8), 12)
    # Times that TIME_LOW set in front of a new TIME_HIGH belong to the old one.
    number = np.arange(len(words))
    stale = _last(number, kind == 6) < _last(number, kind == 8)
    time = (upper << 12) + np.where(stale, 0, np.maximum(low, 0))
    # A vector covers 12 or 8 pixels, and the next one continues behind it.
    step = np.select([kind == 4, kind == 5], [12, 8], 0)
    before = np.cumsum(step) - step
    base = _last(value & 0x7FF, kind == 3)
    base = base + before - _last(before, kind == 3)
    sign = _last(value >> 11, kind == 3)
    single = np.flatnonzero((kind == 2) & (row >= 0) & (upper >= 0))
    vector = np.flatnonzero((step > 0) & (row >= 0) & (upper >= 0) & (sign >= 0))
    if 12 * 32 * len(vector) > budget:
        raise InputError("its vectors hold more events than its size allows")
    bits = (value[vector, None] >> np.arange(12) & 1) & (np.arange(12) < step[vector, None])
    word, bit = np.nonzero(bits)
    many = vector[word]
    index = np.concatenate([single, many])
    order = np.argsort(index, kind="stable")
    column = np.concatenate([value[single] & 0x7FF, base[many] + bit])[order]
    polarity = np.concatenate([value[single] >> 11, sign[many]])[order]
    return column, row[index][order], time[index][order], polarity


def _last(value: Any, where: Any) -> Any:
    """Return at every word the value of the last word in a mask, and -1 in front of the first."""
    index = np.maximum.accumulate(np.where(where, np.arange(len(where)), -1))
    return np.where(index >= 0, value[np.maximum(index, 0)], -1)


def _unwrap(counter: Any, bits: int) -> Any:
    """Add the overflows of a counter with `bits` bits; a small step back is no overflow."""
    step = np.diff(counter, prepend=counter[:1])
    return counter + (np.cumsum(step < -(1 << (bits - 1))) << bits)


def _made(
    file: Path, x: Any, y: Any, time: Any, polarity: Any, size: tuple[int, int] | None
) -> Events:
    if not len(time):
        raise InputError("it holds no events")
    t = np.asarray(time, dtype=np.float64) * 1e-6
    parts = (x.astype(np.float32), y.astype(np.float32), t, polarity.astype(np.int8))
    return Events.of(*parts, size=size, source=str(file))
