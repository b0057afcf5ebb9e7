"""Reader of recordings of ROS 1, ROS 2 and MCAP: one sweep per message `sensor_msgs/PointCloud2`.

`cloud_columns` decodes a message. The extra [ros] reads the containers.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.core.checks import Bounded, decoding, require_file
from invtoolbox.core.environment import optional_package
from invtoolbox.datasets.sweeps.point_files import points_of_columns
from invtoolbox.datasets.sweeps.sweep_files import Recording, choose
from invtoolbox.errors import InputError
from invtoolbox.geometry.sweeps import Sweep

_CLOUD = "sensor_msgs/msg/PointCloud2"
#: NumPy's types of `sensor_msgs/PointField`, from number 1 on.
_KINDS = ("i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8")
#: Messages of drivers that hold clouds or packets in another form, by the end of their type, and the
#: way to clouds.
_DRIVERS = {
    "VelodyneScan": "play it with velodyne_pointcloud and record /velodyne_points",
    "PacketMsg": "play it with `ros2 launch ouster_ros replay.launch.xml` and record /ouster/points",
    "CustomMsg": "play it with livox_to_pointcloud2 and record its clouds",
    "HesaiScan": "play it with nebula or hesai_ros_driver and record the clouds",
    "LaserScan": "a line of a plane has no scene flow; record the clouds of a lidar of several lines",
}


def cloud_columns(message: Any) -> dict[str, np.ndarray]:
    """Return the fields of a message `sensor_msgs/PointCloud2` by their names, ``(N,)`` each.

    Fields of several numbers are left out. Points of an image are in the order of its rows.

    Args:
        message: an object with the fields of the message.

    Raises:
        InputError: fewer bytes than the message declares, or a field beyond the bytes of a point.
    """
    order = ">" if message.is_bigendian else "<"
    fields = {
        field.name: (f"{order}{_KINDS[field.datatype - 1]}", field.offset)
        for field in message.fields
        if field.count <= 1 and 0 < field.datatype <= len(_KINDS)
    }
    height, width, content = message.height, message.width, np.asarray(message.data, np.uint8)
    step, row = message.point_step, message.row_step
    if height == 1 or row < width * step:  # some writers leave the length of a row at 0
        row = width * step
    needed = (height - 1) * row + width * step if height * width else 0
    sizes = [offset + np.dtype(kind).itemsize for kind, offset in fields.values()]
    if len(content) < needed or max(sizes, default=0) > step:
        raise InputError(
            f"a cloud of {height} times {width} points of {step} bytes holds {len(content):,} bytes "
            "and fields that do not fit; record it again"
        )
    layout: Any = {"names": list(fields), "itemsize": step}
    for k, key in enumerate(("formats", "offsets")):
        layout[key] = [field[k] for field in fields.values()]
    buffer, strides = np.ascontiguousarray(content), (row, step)
    points = np.ndarray((height, width), np.dtype(layout), buffer, strides=strides)
    return {name: points[name].reshape(-1) for name in fields}


class Bag(Recording):
    """Sweeps of a topic of a ROS 1 bag, a ROS 2 bag, or an MCAP file.

    Args:
        path: path of a `.bag` or `.mcap` file, or of the folder of a ROS 2 bag.
        topic: name of the topic; it is optional if only one holds clouds.
        poses: file of the sensor's poses, one per sweep.

    Raises:
        InputError: no cloud, or an unknown topic. When a sweep is read: for a damaged message.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        topic: str | None = None,
        poses: str | os.PathLike[str] | None = None,
    ) -> None:
        file = Path(path).expanduser()
        is_folder = (file / "metadata.yaml").is_file()
        inside = file if is_folder else require_file(file)
        status = [(f.stat().st_size, f.stat().st_mtime_ns) for f in _files(inside)]
        with decoding(file, "bag"):
            self.topic, self.times = _list_clouds(file, topic, tuple(status))
        super().__init__(file, len(self.times), poses)

    def _read(self, index: int) -> Sweep:
        time = self.times[index]
        # Messages of equal times are told apart by their order.
        rank = index - self.times.index(time)
        with decoding(self.file, "bag"):
            messages = _clouds(self.file, self.topic, time)
            _, decode = next(itertools.islice(messages, rank, None))
            message = decode()
            read = points_of_columns(self.file, cloud_columns(message))
        # Times since the first message: seconds of a clock have only seven decimals in float64.
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        first = self.times[0]
        since = ((stamp or time) - first) / 1e9
        return self.sweep(
            index,
            read.points,
            since if read.start is None else read.start - first / 1e9,
            time=read.time,
            intensity=read.intensity,
            ring=read.ring,
            deskewed=None if read.time is None else False,
            meta={"reader": "bag", "stamp": stamp, "frame": message.header.frame_id},
        )


def _files(path: Path) -> list[Path]:
    return sorted(f for f in path.iterdir() if f.is_file()) if path.is_dir() else [path]


# Every pair of sweeps opens the recording, which is then not listed again.
@functools.lru_cache(maxsize=4)
def _list_clouds(path: Path, topic: str | None, status: Any) -> tuple[str, list[int]]:
    """Return the topic of the clouds, and the times of its messages."""
    types = _topics(path)
    clouds = {name: name for name, kind in types.items() if kind == _CLOUD}
    if not clouds:
        ends = {kind.rpartition("/")[2]: name for name, kind in types.items()}
        ways = [f"{ends[end]} is {end}: {way}" for end, way in _DRIVERS.items() if end in ends]
        raise InputError(
            f"{path}: the recording holds no cloud (PointCloud2) in its topics "
            f"{', '.join(types) or '(none)'}; {ways[0] if ways else 'record one'}"
        )
    name = choose(clouds, topic, "topic", path, "topic")
    return name, [time for time, _ in _clouds(path, name, None)]


def _ros(module: str) -> Any:
    return optional_package(module, "ROS and MCAP recordings need rosbags and mcap;", "ros")


def _reader(path: Path) -> Any:
    stores = _ros("rosbags.typesys")
    store = stores.get_typestore(stores.Stores.LATEST)
    return _ros("rosbags.highlevel").AnyReader([path], default_typestore=store)


def _topics(path: Path) -> dict[str, str]:
    """Return the type of the messages of every topic."""
    if path.suffix.lower() != ".mcap" or path.is_dir():
        with _reader(path) as reader:
            return {connection.topic: connection.msgtype for connection in reader.connections}
    with Bounded(path) as stream:
        summary = _ros("mcap.reader").make_reader(stream).get_summary()
        if summary is None:
            raise InputError(f"{path}: the file has no index; write it by `mcap recover`")
        kinds = {k: schema.name for k, schema in summary.schemas.items()}
        names = [(channel.topic, kinds[channel.schema_id]) for channel in summary.channels.values()]
        # The type has the same name in ROS 1 and 2, but for a part in the middle.
        return {topic: _CLOUD if kind.endswith("/PointCloud2") else kind for topic, kind in names}


def _clouds(path: Path, topic: str, start: int | None) -> Iterator[tuple[int, Callable[[], Any]]]:
    """Yield the time of every message, in nanoseconds, and a function that decodes it."""
    if path.suffix.lower() != ".mcap" or path.is_dir():
        with _reader(path) as reader:
            chosen = [c for c in reader.connections if c.topic == topic and c.msgtype == _CLOUD]
            for connection, time, raw in reader.messages(chosen, start=start):
                yield time, functools.partial(reader.deserialize, raw, connection.msgtype)
        return
    stores = _ros("rosbags.typesys")
    with Bounded(path) as stream:
        reader = _ros("mcap.reader").make_reader(stream)
        for _, channel, message in reader.iter_messages(topics=[topic], starting_at=start):
            store, decoder = {
                "ros1": (stores.Stores.ROS1_NOETIC, "deserialize_ros1"),
                "cdr": (stores.Stores.LATEST, "deserialize_cdr"),
            }.get(channel.message_encoding, (None, ""))
            if store is None:
                raise InputError(
                    f"{path}: the messages of {topic} are encoded as {channel.message_encoding!r}, "
                    "and ros1 and cdr are read; convert the recording by `mcap convert`"
                )
            decode = getattr(stores.get_typestore(store), decoder)
            yield message.log_time, functools.partial(decode, message.data, _CLOUD)
