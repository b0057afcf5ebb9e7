"""Reader of events in ROS bags: messages `dvs_msgs/EventArray` and `prophesee_event_msgs/EventArray`.

Both types are alike: a header, height, width, and events of x, y, time and polarity. A message holds
thousands of events, so they are read as one array by their places in the bytes, not one by one.

Source: rpg_dvs_ros (dvs_msgs) and prophesee_ros_wrapper (prophesee_event_msgs), for the definitions;
OMG, "DDS Interoperability Wire Protocol", for the alignment of ROS 2.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from invtoolbox.core.checks import decoding
from invtoolbox.datasets.sweeps.bags import open_bag
from invtoolbox.datasets.sweeps.sweep_files import choose
from invtoolbox.errors import InputError
from invtoolbox.geometry.events import Events

_TYPES = ("dvs_msgs/msg/EventArray", "prophesee_event_msgs/msg/EventArray")
_FIELDS = {"names": ["x", "y", "s", "ns", "on"], "formats": ["<u2", "<u2", "<u4", "<u4", "u1"]}
#: ROS 1 packs the fields of an event. ROS 2 aligns each field to its size, so that events repeat
#: every 16 bytes, and x of all but the first one lies two bytes in front of y.
_ROS1 = np.dtype({**_FIELDS, "offsets": [0, 2, 4, 8, 12], "itemsize": 13})  # type: ignore[call-overload]
_ROS2 = np.dtype({**_FIELDS, "offsets": [0, 2, 6, 10, 14], "itemsize": 16})  # type: ignore[call-overload]


def read_event_bag(
    path: str | Path,
    start: float | None = None,
    duration: float | None = None,
    count: int | None = None,
) -> Events:
    """Read events of a ROS 1 bag, or of the folder of a ROS 2 bag.

    Times are seconds since the first event of the recording.

    Args:
        path: path of a `.bag` file, or of a folder with `metadata.yaml`.
        start: seconds after the first event from which on events are kept.
        duration: seconds after ``start`` until which events are kept.
        count: largest number of events; later ones are not read.

    Raises:
        InputError: the bag holds no events, or several topics of them; or a message is damaged.
        MissingDependency: rosbags is not installed.
    """
    file = Path(path)
    pieces: list[np.ndarray] = []
    size: tuple[int, int] | None = None
    begin, end = (start or 0.0), float("inf") if duration is None else (start or 0.0) + duration
    first: int | None = None
    with decoding(file, "bag"), open_bag(file) as reader:
        topics = {c.topic: c.topic for c in reader.connections if c.msgtype in _TYPES}
        if not topics:
            present = sorted({f"{c.topic} ({c.msgtype})" for c in reader.connections})
            raise InputError(
                f"the recording holds no events (EventArray); its topics are "
                f"{', '.join(present) or 'none'}"
            )
        name = topics["/dvs/events"] if "/dvs/events" in topics else next(iter(topics))
        if len(topics) > 1 and name != "/dvs/events":
            name = choose(topics, None, "topic", file, "topic")
        chosen = [c for c in reader.connections if c.topic == name]
        number = 0
        for _, _, raw in reader.messages(chosen):
            is_packed = not reader.is2
            rows, columns, events = _decode(bytes(raw), is_packed)
            if not len(events):
                continue
            size = (rows, columns) if rows and columns else size
            times = events["s"].astype(np.int64) * 10**9 + events["ns"]
            first = int(times[0]) if first is None else first
            seconds = (times - first) * 1e-9
            inside = (seconds >= begin) & (seconds < end)
            columns_of_piece = (events["x"], events["y"], seconds, events["on"])
            pieces.append(np.stack([c[inside].astype(np.float64) for c in columns_of_piece], 1))
            number += int(inside.sum())
            if (count is not None and number >= count) or seconds[-1] >= end:
                break
        if first is None:
            raise InputError(f"its topic {name} holds no events")
        x, y, t, on = np.concatenate(pieces)[:count].T
        if not len(x):
            raise InputError(
                f"no events from {begin:g} s on for "
                f"{'ever' if duration is None else f'{duration:g} s'}"
            )
        return Events.of(x, y, t, on, size, source=str(file))


def _decode(raw: bytes, is_packed: bool) -> tuple[int, int, np.ndarray]:
    """Return rows and columns of the sensor, and the events of a message."""
    # ROS 1: sequence number, time, frame. ROS 2: 4 bytes that name the encoding, time, frame.
    length = struct.unpack_from("<I", raw, 12)[0]
    position = 16 + length
    position += 0 if is_packed else -position % 4
    if position + 12 > len(raw):
        raise InputError("truncated, a message of events ends within its header; record it again")
    rows, columns, count = struct.unpack_from("<III", raw, position)
    begin = position + 12
    needed = 13 * count if is_packed else 16 * count - 3
    if count and begin + needed > len(raw):
        raise InputError(
            f"truncated, a message declares {count:,} events and holds {len(raw) - begin:,} bytes; "
            "record it again"
        )
    if is_packed or not count:
        return rows, columns, np.frombuffer(raw, _ROS1, count, begin)
    # The first event has no gap behind y: x, y, time at 0, 2, 4. Event k > 0 begins at 16 k - 2.
    events = np.zeros(count, _ROS2)
    events[0] = struct.unpack_from("<HHIIB", raw, begin)
    padded = raw[begin + 14 :].ljust(16 * (count - 1), b"\0")
    events[1:] = np.frombuffer(padded, _ROS2, count - 1)
    return rows, columns, events
