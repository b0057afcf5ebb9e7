"""Reader of AEDAT4, the files of iniVation's cameras.

A file is a header and packets, each a flatbuffer that LZ4 or Zstandard packed. The few fields that
hold events are read here by their offsets, so that no flatbuffers package is needed.

Source: iniVation, "AEDAT 4.0 file format" (docs.inivation.com).
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.core.checks import reading
from invtoolbox.core.environment import optional_package
from invtoolbox.core.trust import unpacked_budget
from invtoolbox.errors import InputError
from invtoolbox.geometry.events import Events

MAGIC = b"#!AER-DAT4.0\r\n"
_CODECS = {0: None, 1: "lz4", 2: "lz4", 3: "zstd", 4: "zstd"}
_EVENT = np.dtype(
    {
        "names": ["t", "x", "y", "on"],
        "formats": ["<i8", "<i2", "<i2", "u1"],
        "offsets": [0, 8, 10, 12],
        "itemsize": 16,
    }
)
#: The stream of events and the size of its sensor in the description of the streams.
_NODE = re.compile(r'<node name="(\d+)" path="/mainloop/[^"]*/outInfo/\1/">')
_SIZE = re.compile(r'key="size([XY])"[^>]*>(\d{1,5})<')


def read_aedat4(path: str | Path) -> Events:
    """Read the events of an AEDAT4 file; other streams, such as pictures, are left out.

    Args:
        path: path of the file.

    Raises:
        InputError: the file is damaged, or has no stream of events.
        MissingDependency: the packets are compressed, and pyarrow, which unpacks them, is missing.
    """
    with reading(path, "AEDAT4") as file:
        content = file.read_bytes()
        if not content.startswith(MAGIC):
            raise InputError("the first bytes are not those of AEDAT4")
        length = struct.unpack_from("<I", content, len(MAGIC))[0]
        start = len(MAGIC) + 4
        codec, end, text = _header(content[start : start + length])
        stream, size = _stream_of_events(text)
        position = start + length
        end = end if position <= end <= len(content) else len(content)
        budget, packets = unpacked_budget(file), []
        while position < end:
            number, count = struct.unpack_from("<ii", content, position)
            if count < 0 or position + 8 + count > end:
                raise InputError(
                    f"truncated, the packet at byte {position:,} declares {count:,} bytes, and "
                    f"{end - position - 8:,} are there; record or fetch it again"
                )
            if number == stream:
                packet = _unpack(content[position + 8 : position + 8 + count], codec, budget)
                budget -= len(packet)
                packets.append(_events(packet))
            position += 8 + count
        if not packets:
            raise InputError("it holds no packet of events")
        events = np.concatenate(packets)
        x, y, on = (events[name].astype(np.float32) for name in ("x", "y", "on"))
        return Events.of(x, y, events["t"] * 1e-6, on, size, source=str(file))


def _header(buffer: bytes) -> tuple[str | None, int, str]:
    """Return the codec, the position of the table behind the packets, and the description."""
    table = struct.unpack_from("<I", buffer, 0)[0]
    number = _field(buffer, table, 0)
    kind = 0 if number is None else struct.unpack_from("<i", buffer, number)[0]
    if kind not in _CODECS:
        raise InputError(f"its compression has the unknown number {kind}")
    position, text = _field(buffer, table, 1), _field(buffer, table, 2)
    end = -1 if position is None else struct.unpack_from("<q", buffer, position)[0]
    if text is None:
        raise InputError("its header describes no streams")
    start, count = _vector(buffer, text, 1)
    return _CODECS[kind], end, buffer[start : start + count].decode("utf-8", "replace")


def _stream_of_events(text: str) -> tuple[int, tuple[int, int] | None]:
    """Return the number of the stream of events, and rows and columns of its sensor."""
    nodes = list(_NODE.finditer(text))
    for node, after in zip(nodes, [*(n.start() for n in nodes[1:]), len(text)]):
        description = text[node.end() : after]
        if ">EVTS<" in description:
            sides = {axis: int(side) for axis, side in _SIZE.findall(description)}
            size = (sides["Y"], sides["X"]) if {"X", "Y"} <= set(sides) else None
            return int(node.group(1)), size
    raise InputError("it has no stream of events (EVTS); record the output of the camera")


def _unpack(packed: bytes, codec: str | None, budget: int) -> bytes:
    if codec is None:
        return packed
    pyarrow = optional_package(
        "pyarrow",
        "packets of AEDAT4 are compressed, and pyarrow, which unpacks them, is not installed;",
        "events",
    )
    with pyarrow.CompressedInputStream(pyarrow.BufferReader(packed), codec) as stream:
        packet: bytes = stream.read(budget + 1)
    if len(packet) > budget:
        raise InputError(
            "its packets unpack to more bytes than its size allows; if you trust the file, pass "
            "trusted=True, or set INVTOOLBOX_TRUSTED=1"
        )
    return packet


def _events(packet: bytes) -> Any:
    """Return the events of a packet, a flatbuffer with its length in front."""
    buffer = packet[4:]
    table = struct.unpack_from("<I", buffer, 0)[0]
    pointer = _field(buffer, table, 0)
    if pointer is None:
        return np.zeros(0, _EVENT)
    start, count = _vector(buffer, pointer, _EVENT.itemsize)
    return np.frombuffer(buffer, _EVENT, count, start)


def _field(buffer: bytes, table: int, number: int) -> int | None:
    """Return the position of a field of a table, or None if it has its default."""
    layout = table - struct.unpack_from("<i", buffer, table)[0]
    if layout < 0:
        raise InputError("damaged, a table of a packet points outside of it")
    size = struct.unpack_from("<H", buffer, layout)[0]
    slot = 4 + 2 * number
    offset = struct.unpack_from("<H", buffer, layout + slot)[0] if slot + 2 <= size else 0
    return table + offset if offset else None


def _vector(buffer: bytes, pointer: int, width: int) -> tuple[int, int]:
    """Return the first byte and the number of entries of the vector that a field points to."""
    start = pointer + struct.unpack_from("<I", buffer, pointer)[0]
    count = struct.unpack_from("<I", buffer, start)[0]
    if start + 4 + count * width > len(buffer):
        raise InputError("truncated, a packet declares more entries than it holds")
    return start + 4, count
