"""Reader of recordings of ROS 1, ROS 2 and MCAP: one sweep per message `sensor_msgs/PointCloud2`.

`cloud_columns` decodes a message. Poses come from transforms and odometry: a frame of a robot has one
parent, so the pose of the sensor is the product of the poses on the way down to it. The extra [ros]
reads the containers.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.checks import Bounded, decoding, require_file
from invtoolbox.core.environment import optional_package
from invtoolbox.core.guards import check_choice
from invtoolbox.datasets.pose_files import from_quaternion
from invtoolbox.datasets.sweeps.clocks import UNITS, WITHOUT_CLOCK, Clock, decide, ticks_of
from invtoolbox.datasets.sweeps.point_files import points_of_columns, positions
from invtoolbox.datasets.sweeps.sweep_files import Recording, choose
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import part_of, relative_motion
from invtoolbox.geometry.sweeps import Sweep

_CLOUD = "sensor_msgs/msg/PointCloud2"
#: Messages with poses, in the order of preference. The last two do not name the frame they place.
_POSES = (
    "tf2_msgs/msg/TFMessage",
    "nav_msgs/msg/Odometry",
    "geometry_msgs/msg/PoseStamped",
    "geometry_msgs/msg/PoseWithCovarianceStamped",
)
#: Frame in which a robot moves without jumps (REP 105); a map above it corrects it by jumps. And the
#: longest time between two poses from which one is interpolated, nanoseconds.
_SMOOTH, _LONGEST = "odom", 550_000_000
#: Times ``(n,)``, nanoseconds, and poses ``(n, 4, 4)`` by topic, parent and child.
_Links = Mapping[tuple[str, str, str], tuple[np.ndarray, Tensor]]
#: Number of messages among which two are sought whose clocks are compared.
_TRIED = 6
#: NumPy's types of `sensor_msgs/PointField`, from number 1 on.
_KINDS = ("i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8")
#: Messages of drivers that hold clouds or packets in another form, by the end of their type, and the
#: way to clouds.
_DRIVERS = {
    "VelodyneScan": "play it with velodyne_pointcloud and record /velodyne_points",
    "PacketMsg": "play it with `ros2 launch ouster_ros replay.launch.xml` and record /ouster/points",
    "CustomMsg": "play it with livox_to_pointcloud2 and record its clouds",
    "HesaiScan": "play it with nebula or hesai_ros_driver and record the clouds",
    "EventArray": "read the events of a camera by `it.datasets.read_events`",
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
    """Sweeps of a topic of a ROS 1 bag, a ROS 2 bag, or an MCAP file, in the order of their stamps.

    Sweeps have the times of their points' clock if it is the clock of the stamps, and their stamps
    otherwise. ``meta["notes"]`` of a sweep states the choices with their evidence.

    Args:
        path: path of a `.bag` or `.mcap` file, or of the folder of a ROS 2 bag.
        topic: name of the topic; it is optional if only one holds clouds.
        poses: file of the sensor's poses, one per sweep, or a topic of poses. By default, transforms
            (`tf`) and odometry give the pose of the clouds' frame at the time of each sweep; "none"
            reads no poses.
        clock: unit of the times of the points: "s", "ms", "us" or "ns"; "none" leaves them out. By
            default the values, the name of the field, the stamps and the neighbours decide
            (`clocks.decide`).

    Raises:
        InputError: no cloud, or an unknown topic. When a sweep is read: for a damaged message, or
            times of points whose unit is not known.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        topic: str | None = None,
        poses: str | os.PathLike[str] | None = None,
        clock: str | None = None,
    ) -> None:
        if clock is not None:
            check_choice("a recording", (*UNITS, WITHOUT_CLOCK), clock=clock)
        file, self.unit = Path(path).expanduser(), clock
        is_folder = (file / "metadata.yaml").is_file()
        inside = file if is_folder else require_file(file)
        status = [(f.stat().st_size, f.stat().st_mtime_ns) for f in _files(inside)]
        with decoding(file, "bag"):
            self.topic, self.entries = _list_clouds(file, topic, tuple(status))
            kinds = {name: kind for name, kind in _topics(file).items() if kind in _POSES}
            self.pose_topic = str(poses) if str(poses) in kinds else None
            self.links: _Links = {}
            if kinds and (poses is None or self.pose_topic):
                self.links = _list_links(file, tuple(kinds.items()), tuple(status))
        super().__init__(file, len(self.entries), None if self.pose_topic else poses)

    def _message(self, index: int) -> tuple[Any, dict[str, np.ndarray]]:
        """Return a message and its columns."""
        entry = self.entries[index]
        messages = _messages(self.file, {self.topic}, entry.time)
        # Messages of equal times in the log are distinguished by their order in it.
        *_, decode, _ = next(itertools.islice(messages, entry.rank, None))
        message = decode()
        return message, cloud_columns(message)

    @functools.cached_property
    def clock(self) -> tuple[Clock | None, tuple[str, ...]]:
        """Clock of the points, found in the first sweeps, and notes on it and on the order."""
        sweeps, stamps = [], []
        for index in range(min(len(self), _TRIED)):
            try:
                with decoding(self.file, "bag"):
                    _, columns = self._message(index)
                ticks = ticks_of(columns, positions(self.file, columns))
            except InputError:
                continue
            if ticks is not None and ticks.usable.any():
                sweeps.append(ticks)
                stamps.append(self.entries[index].stamp / 1e9)
            if len(sweeps) == 2:
                break
        clock = decide(sweeps, f"{self.file}, {self.topic}", stamps, self.unit) if sweeps else None
        notes = () if clock is None else clock.notes
        if clock is not None and clock.counts_on and not clock.is_stamps:
            notes += ("this is not the clock of the stamps, so sweeps have their stamps as times",)
        logged = [(entry.time, entry.rank) for entry in self.entries]
        late = sum(1 for a, b in itertools.pairwise(logged) if b < a)
        if late:
            notes += (f"messages are in the order of their stamps, not of the log ({late} late)",)
        return clock, notes

    def _read(self, index: int) -> Sweep:
        entry, (clock, notes) = self.entries[index], self.clock
        with decoding(self.file, "bag"):
            message, columns = self._message(index)
            read = points_of_columns(self.file, columns, clock)
        # Times since the first message: seconds of a clock have only seven decimals in float64.
        first, time = self.entries[0].stamp, entry.stamp
        since = (time - first) / 1e9
        if read.start is not None and clock is not None and (clock.is_stamps or len(self) == 1):
            since = read.start - first / 1e9
            time = first + round(since * 1e9) if clock.is_stamps else time
        frame = message.header.frame_id
        pose, source = _pose(self.links, frame.lstrip("/"), time, self.pose_topic)
        return self.sweep(
            index,
            read.points,
            since,
            time=read.time,
            intensity=read.intensity,
            ring=read.ring,
            deskewed=None if read.time is None else False,
            meta={
                "reader": "bag",
                "stamp": _nanoseconds(message),
                "frame": frame,
                "notes": (*notes, *read.notes),
                **source,
            },
            **({"pose": pose} if self.links else {}),
        )


@dataclass(frozen=True)
class _Entry:
    """Place of a message in the log.

    Attributes:
        time: time in the log, nanoseconds.
        rank: number of the message among those of this time.
        stamp: stamp in its header, or the time in the log if the stamps are not set.
    """

    time: int
    rank: int
    stamp: int


def _files(path: Path) -> list[Path]:
    return sorted(f for f in path.iterdir() if f.is_file()) if path.is_dir() else [path]


# Every pair of sweeps opens the recording, which is then not listed again.
@functools.lru_cache(maxsize=4)
def _list_clouds(path: Path, topic: str | None, status: Any) -> tuple[str, list[_Entry]]:
    """Return the topic of the clouds, and its messages in the order of their stamps."""
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
    entries: list[_Entry] = []
    for _, time, _, stamp in _messages(path, {name}, None):
        rank = entries[-1].rank + 1 if entries and entries[-1].time == time else 0
        entries.append(_Entry(time, rank, stamp))
    # Stamps that are not set, or that repeat, do not order the messages.
    if len({entry.stamp for entry in entries}) < len(entries) or any(
        entry.stamp == 0 for entry in entries
    ):
        return name, [_Entry(entry.time, entry.rank, entry.time) for entry in entries]
    return name, sorted(entries, key=lambda entry: entry.stamp)


@functools.lru_cache(maxsize=4)
def _list_links(path: Path, kinds: tuple[tuple[str, str], ...], status: Any) -> _Links:
    """Return the poses of frames in their parents, from topics and the types of their messages."""
    sent: dict[tuple[str, str, str], dict[int, list[float]]] = defaultdict(dict)
    for topic, time, decode, _ in _messages(path, dict(kinds), None):
        message = decode()
        for one in getattr(message, "transforms", [message]):
            pose = getattr(one, "transform", None) or getattr(one.pose, "pose", one.pose)
            place = getattr(pose, "translation", None) or pose.position
            turn = getattr(pose, "rotation", None) or pose.orientation
            numbers = [place.x, place.y, place.z, turn.w, turn.x, turn.y, turn.z]
            # Before a robot knows its pose, it may send zeros or NaN.
            if np.isfinite(numbers).all() and np.linalg.norm(numbers[3:]) > 0.5:
                child = getattr(one, "child_frame_id", "").lstrip("/")
                link = (topic, one.header.frame_id.lstrip("/"), child)
                sent[link][_nanoseconds(one) or time] = numbers
    links: dict[tuple[str, str, str], tuple[np.ndarray, Tensor]] = {}
    for link in sorted(sent, key=lambda link: _POSES.index(dict(kinds)[link[0]])):
        times = np.array(sorted(sent[link]))
        table = np.array([sent[link][time] for time in times.tolist()])
        # A pose that is sent again and again is fixed.
        rows = slice(None) if bool((table != table[0]).any()) else slice(1)
        poses = from_quaternion(table[rows, :3], table[rows, 3:], f"{path}, {link[0]}")
        links[link] = times[rows], poses
    return links


def _pose(
    links: _Links, frame: str, time: int, topic: str | None
) -> tuple[Tensor | None, dict[str, str]]:
    """Return the pose of a frame at a time, and its source in words; or None and the reason.

    Args:
        links: poses of frames in their parents, the preferred ones first.
        frame: frame of the sensor.
        time: time in nanoseconds.
        topic: topic that is preferred, and whose poses are taken for those of the sensor if no
            transform leads from the sensor to them.
    """
    if not links:
        return None, {}
    preferred = sorted(links, key=lambda link: link[0] != topic)
    above = {link[2]: link for link in reversed(preferred)}
    chain, names = [], [frame]
    # The way up; a circle of frames ends it.
    while (link := above.get(names[-1])) and names[-1] != _SMOOTH and link not in chain:
        chain.append(link)
        names.append(link[1])
    topics = sorted({link[0] for link in chain if len(links[link][0]) > 1})
    words = f"poses of {', '.join(topics)}, from {names[-1]} to {frame}"
    if topic is not None and topic not in topics:
        chain, topics = [link for link in preferred if link[0] == topic][:1], [topic]
        words = f"poses of {topic}, taken for those of the sensor"
    steps = [(link[0], _interpolate(*links[link], time)) for link in chain]
    poses = [step for _, step in steps if step is not None]
    if not topics:
        words = (
            f"the poses of {', '.join(sorted({link[0] for link in links}))} are not those of the clouds' "
            f"frame {frame!r}, to which no moving transform leads; poses=TOPIC takes a topic's"
        )
    elif len(poses) < len(steps):
        silent = next(name for name, step in steps if step is None)
        words = f"{silent} holds no pose at the time of the sweep"
    else:
        return functools.reduce(lambda pose, step: step @ pose, poses), {"poses": words}
    return None, {"poses": words}


def _interpolate(times: np.ndarray, poses: Tensor, time: int) -> Tensor | None:
    """Return the pose at a time, ``(4, 4)``; None where none was sent. A single one always holds."""
    if len(times) == 1:
        return poses[0]
    k = int(times[1:-1].searchsorted(time))
    gap = int(times[k + 1] - times[k])
    if gap > _LONGEST or not times[0] <= time <= times[-1]:
        return None
    # On a straight line and about one axis (slerp), at even speed.
    share = torch.tensor([(time - int(times[k])) / gap], dtype=torch.float64)
    return poses[k] @ part_of(relative_motion(poses[k + 1], poses[k]), share)[0]


def _nanoseconds(message: Any) -> int:
    """Return the time in the header of a message; 0 if it is not set."""
    return int(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)


def _ros(module: str) -> Any:
    return optional_package(module, "ROS and MCAP recordings need rosbags and mcap;", "ros")


def open_bag(path: Path) -> Any:
    """Return a reader of a ROS 1 bag or of the folder of a ROS 2 bag, to be opened by `with`."""
    stores = _ros("rosbags.typesys")
    store = stores.get_typestore(stores.Stores.LATEST)
    return _ros("rosbags.highlevel").AnyReader([path], default_typestore=store)


def _topics(path: Path) -> dict[str, str]:
    """Return the type of the messages of every topic, in the words of ROS 2."""
    if path.suffix.lower() != ".mcap" or path.is_dir():
        with open_bag(path) as reader:
            return {connection.topic: connection.msgtype for connection in reader.connections}
    with Bounded(path) as stream:
        summary = _ros("mcap.reader").make_reader(stream).get_summary()
        if summary is None:
            raise InputError(f"{path}: the file has no index; write it by `mcap recover`")
        channels = summary.channels.values()
        return {one.topic: _kind(summary.schemas[one.schema_id].name) for one in channels}


def _kind(name: str) -> str:
    """Return the name of a type in ROS 2, which has a part more in the middle than in ROS 1."""
    return f"{name.partition('/')[0]}/msg/{name.rpartition('/')[2]}"


def _messages(
    path: Path, topics: Collection[str], start: int | None
) -> Iterator[tuple[str, int, Callable[[], Any], int]]:
    """Yield topic, time, a function that decodes it, and stamp of every message, in nanoseconds.

    The stamp is that of a header at the beginning of the message; it has no meaning in others.
    """
    if path.suffix.lower() != ".mcap" or path.is_dir():
        with open_bag(path) as reader:
            chosen = [c for c in reader.connections if c.topic in topics]
            for connection, time, raw in reader.messages(chosen, start=start):
                decode = functools.partial(reader.deserialize, raw, connection.msgtype)
                # The header of ROS 1 begins with a number, the content of CDR with its encoding.
                yield connection.topic, time, decode, _stamp(raw, reader.is2)
        return
    stores = _ros("rosbags.typesys")
    ros1, ros2 = map(stores.get_typestore, (stores.Stores.ROS1_NOETIC, stores.Stores.LATEST))
    encodings = {"ros1": (ros1, "deserialize_ros1"), "cdr": (ros2, "deserialize_cdr")}
    with Bounded(path) as stream:
        reader = _ros("mcap.reader").make_reader(stream)
        for schema, channel, message in reader.iter_messages(list(topics), starting_at=start):
            if channel.message_encoding not in encodings:
                raise InputError(
                    f"{path}: the messages of {channel.topic} are encoded as "
                    f"{channel.message_encoding!r}, and ros1 and cdr are read; convert the recording by "
                    "`mcap convert`, or leave poses out by poses='none'"
                )
            store, decoder = encodings[channel.message_encoding]
            kind = _kind(schema.name)
            if kind not in store.types:  # transforms are no part of ROS 1
                store.register(stores.get_types_from_msg(schema.data.decode(), kind))
            decode = functools.partial(getattr(store, decoder), message.data, kind)
            is_cdr = channel.message_encoding == "cdr"
            yield channel.topic, message.log_time, decode, _stamp(message.data, is_cdr)


def _stamp(content: bytes | memoryview, is_cdr: bool) -> int:
    """Return the nanoseconds of the header that a serialized message begins with."""
    if len(content) < 12:
        return 0
    order = "little" if not is_cdr or content[1] & 1 else "big"
    seconds, rest = (int.from_bytes(content[k : k + 4], order) for k in (4, 8))  # type: ignore[arg-type]
    return seconds * 10**9 + rest
