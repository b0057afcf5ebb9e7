"""Small recordings of every kind: packets as the makers document them, in containers that other libraries write."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dpkt
import laspy
import numpy as np
from mcap.writer import Writer as McapWriter
from rosbags import rosbag1, rosbag2
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from tests.datasets.event_files import SIZE, P, T, X, Y

CLOUD = "sensor_msgs/msg/PointCloud2"
BEAMS, COLUMNS = 4, 32


def frames_of(payload: bytes, port: int, longest: int, vlan: bool = False) -> list[bytes]:
    """Ethernet frames of a datagram, in fragments of IP of at most `longest` bytes (a multiple of 8)."""
    udp = dpkt.udp.UDP(sport=port, dport=port, data=payload, ulen=8 + len(payload))
    content, frames = bytes(udp), []
    for start in range(0, len(content), longest):
        part = content[start : start + longest]
        more = start + longest < len(content)
        ip = dpkt.ip.IP(src=b"\x0a\0\0\1", dst=b"\x0a\0\0\2", p=17, id=port % 7 + len(payload))
        ip.data, ip.len = part, 20 + len(part)
        head = bytearray(bytes(ip)[:20])
        head[6:8] = struct.pack(">H", (0x2000 if more else 0) | start // 8)
        kind = b"\x81\0\0\5\x08\0" if vlan else b"\x08\0"
        frames.append(bytes(12) + kind + bytes(head) + part)
    return frames


def write_pcap(
    path: Path, payloads: Sequence[tuple[bytes, int]], longest: int = 65_528, vlan: bool = False
) -> Path:
    """Write datagrams and their ports by dpkt, as pcapng if the suffix says so."""
    with path.open("wb") as stream:
        kind = dpkt.pcapng if path.suffix == ".pcapng" else dpkt.pcap
        writer = kind.Writer(stream)
        for k, (payload, port) in enumerate(payloads):
            for frame in frames_of(payload, port, longest, vlan):
                writer.writepkt(frame, ts=1000 + 0.001 * k)
            writer.writepkt(bytes(60), ts=1000 + 0.001 * k)  # no IP
    return path


def velodyne_payloads(
    azimuths: np.ndarray,
    distances: np.ndarray,
    model: int = 0x22,
    mode: int = 0x37,
    first: int = 3_599_999_000,
) -> list[bytes]:
    """Data packets of 12 blocks: azimuths ``(n,)`` in 0.01 degrees, distances ``(n, 32)`` in 2 mm."""
    packets = []
    step = 2 if mode == 0x39 else 1
    for start in range(0, len(azimuths) - 11, 12):
        blocks = b""
        for k in range(start, start + 12):
            blocks += b"\xff\xee" + struct.pack("<H", int(azimuths[k]) % 36000)
            for j, distance in enumerate(distances[k]):
                blocks += struct.pack("<HB", int(distance), (3 * j + k) % 256)
        time = round(first + start // step * 110.592) % 3_600_000_000
        packets.append(blocks + struct.pack("<IBB", time, mode, model))
    return packets


def write_velodyne(path: Path) -> Path:
    azimuths = np.arange(0, 3 * 36000, 1500)
    distances = np.random.default_rng(3).integers(500, 9000, (len(azimuths), 32))
    return write_pcap(path, [(p, 2368) for p in velodyne_payloads(azimuths, distances)])


def ouster_metadata() -> dict[str, Any]:
    return {
        "beam_altitude_angles": [10.0, 3.0, -4.0, -11.0],
        "beam_azimuth_angles": [3.0, 1.0, -1.0, -3.0],
        "lidar_origin_to_beam_origin_mm": 15.8,
        "lidar_to_sensor_transform": [-1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1, 36.18, 0, 0, 0, 1],
        "lidar_mode": "32x10",
        "data_format": {
            "columns_per_frame": COLUMNS,
            "columns_per_packet": 8,
            "pixels_per_column": BEAMS,
            "udp_profile_lidar": "RNG19_RFL8_SIG16_NIR16",
        },
    }


def ouster_payloads(frame: int, ranges: np.ndarray) -> list[bytes]:
    """Packets of a frame: ranges ``(COLUMNS, BEAMS)`` in millimetres."""
    packets = []
    for start in range(0, COLUMNS, 8):
        packet = struct.pack("<HH", 1, frame) + bytes(28)
        for column in range(start, start + 8):
            packet += struct.pack("<QHH", 10**9 + frame * 10**8 + column * 3 * 10**6, column, 1)
            for beam in range(BEAMS):
                packet += struct.pack("<IBBHHH", ranges[column, beam], 7 * beam, 0, 1, 2, 0)
        packets.append(packet + bytes(32))
    return packets


def write_ouster(folder: Path, suffix: str = ".pcap", longest: int = 400) -> Path:
    folder.mkdir()
    draws, packets = np.random.default_rng(4), []
    for frame in (65_534, 65_535, 0):
        packets += ouster_payloads(frame, draws.integers(1000, 50_000, (COLUMNS, BEAMS)))
    (folder / "drive.json").write_text(json.dumps(ouster_metadata()))
    return write_pcap(folder / f"drive{suffix}", [(p, 7502) for p in packets], longest)


def message(
    store: Any,
    rows: np.ndarray,
    stamp: int,
    fields: Sequence[tuple[str, int, int]],
    order: str = "<",
    height: int = 1,
    padding: int = 0,
    is_ros1: bool = False,
) -> Any:
    """A cloud whose rows hold x, y, ... as a structured array; `padding` bytes follow every row of the image."""
    types = store.types
    time = types["builtin_interfaces/msg/Time"](stamp // 10**9, stamp % 10**9)
    header = types["std_msgs/msg/Header"](*((0,) if is_ros1 else ()), time, "lidar")
    field = types["sensor_msgs/msg/PointField"]
    step = rows.dtype.itemsize
    lines = rows.reshape(height, -1)
    content = b"".join(line.tobytes() + b"\x55" * padding for line in lines)
    return types[CLOUD](
        header=header,
        height=height,
        width=lines.shape[1],
        fields=[field(name=n, offset=at, datatype=k, count=1) for n, at, k in fields],
        is_bigendian=order == ">",
        point_step=step,
        row_step=lines.shape[1] * step + padding,
        data=np.frombuffer(content, np.uint8),
        is_dense=True,
    )


KITTI_FIELDS = [("x", 0, 7), ("y", 4, 7), ("z", 8, 7), ("intensity", 12, 7)]


def kitti_rows(cloud: np.ndarray, order: str = "<") -> np.ndarray:
    kind = np.dtype([(name, f"{order}f4") for name in ("x", "y", "z", "intensity")])
    return np.ascontiguousarray(cloud.astype(f"{order}f4")).view(kind)[:, 0]


def clouds(count: int = 3, points: int = 30) -> list[np.ndarray]:
    draws = np.random.default_rng(7)
    return [draws.uniform(-20, 20, (points, 4)).astype(np.float32) for _ in range(count)]


def stamp_of(k: int) -> int:
    return 1_700_000_000_000_000_000 + k * 100_000_000


def write_bag1(path: Path, content: Sequence[np.ndarray] | None = None) -> Path:
    """A compressed ROS 1 bag, written big-endian."""
    store = get_typestore(Stores.ROS1_NOETIC)
    writer = rosbag1.Writer(path)
    writer.set_compression(rosbag1.Writer.CompressionFormat.LZ4)
    with writer:
        connection = writer.add_connection("/velodyne_points", CLOUD, typestore=store)
        for k, cloud in enumerate(content if content is not None else clouds()):
            sent = message(
                store, kitti_rows(cloud, ">"), stamp_of(k), KITTI_FIELDS, ">", is_ros1=True
            )
            writer.write(connection, stamp_of(k), store.serialize_ros1(sent, CLOUD))
    return path


def ros2_writer(path: Path) -> Any:
    """Return a writer of a ROS 2 bag; since 0.10, rosbags asks for the version of the format."""
    latest = getattr(rosbag2.Writer, "VERSION_LATEST", None)
    return rosbag2.Writer(path, **({} if latest is None else {"version": latest}))


def write_bag2(path: Path, content: Sequence[np.ndarray] | None = None) -> Path:
    store = get_typestore(Stores.ROS2_HUMBLE)
    with ros2_writer(path) as writer:
        connection = writer.add_connection("/points", CLOUD, typestore=store)
        for k, cloud in enumerate(content if content is not None else clouds()):
            sent = message(store, kitti_rows(cloud), stamp_of(k), KITTI_FIELDS)
            writer.write(connection, stamp_of(k), store.serialize_cdr(sent, CLOUD))
    return path


def write_mcap(path: Path, content: Sequence[np.ndarray] | None = None) -> Path:
    store = get_typestore(Stores.ROS2_HUMBLE)
    sent = [
        message(store, kitti_rows(cloud), stamp_of(k), KITTI_FIELDS)
        for k, cloud in enumerate(content if content is not None else clouds())
    ]
    return write_mcap_messages(
        path, [("/points", CLOUD, "cdr", bytes(store.serialize_cdr(m, CLOUD))) for m in sent]
    )


def write_mcap_messages(path: Path, messages: Sequence[tuple[str, str, str, bytes]]) -> Path:
    """Write messages of topic, type, encoding and content."""
    with path.open("wb") as stream:
        writer, channels = McapWriter(stream), {}
        writer.start()
        for k, (topic, kind, encoding, content) in enumerate(messages):
            if topic not in channels:
                schema = writer.register_schema(kind, "ros2msg", b"")
                channels[topic] = writer.register_channel(topic, encoding, schema)
            writer.add_message(channels[topic], stamp_of(k), content, stamp_of(k))
        writer.finish()
    return path


def write_las(
    path: Path, cloud: np.ndarray | None = None, scale: float = 0.001, timed: bool = True
) -> Path:
    """Write one sweep ``(n, 4)`` of places and intensities by laspy."""
    rows = clouds(1)[0].astype(np.float64) if cloud is None else cloud
    header = laspy.LasHeader(point_format=6 if timed else 0, version="1.4")
    header.scales, header.offsets = [scale] * 3, rows[:, :3].min(0).round()
    las = laspy.LasData(header)
    las.x, las.y, las.z = rows[:, :3].T
    las.intensity = np.abs(rows[:, 3] * 1000).astype(np.uint16)
    if timed:
        las.gps_time = 3e8 + np.linspace(0, 0.1, len(rows))
    las.write(path)
    return path


def write_las_folder(folder: Path) -> Path:
    folder.mkdir()
    for k, cloud in enumerate(clouds()):
        write_las(folder / f"{k}.{'laz' if 'laz' in folder.name else 'las'}", cloud.astype(float))
    return folder


def write_turns(folder: Path) -> Path:
    """A folder with one file of three turns of a lidar."""
    folder.mkdir()
    turn = np.linspace(0, 6 * np.pi, 1200)
    rise = np.tile([-0.1, 0.0, 0.1, 0.2], 300)
    places = 10 * np.stack([np.cos(turn), np.sin(turn), rise, rise], axis=1)
    write_las(folder / "drive.las", places)
    return folder


EVENT_STAMP = 1_700_000_000
EVENT_DEFINITIONS = {
    "{package}/msg/Event": "uint16 x\nuint16 y\n{time} ts\nbool polarity\n",
    "{package}/msg/EventArray": "std_msgs/Header header\nuint32 height\nuint32 width\n"
    "{package}/Event[] events\n",
}


def write_event_bag(
    path: Path, package: str = "dvs_msgs", ros1: bool = True, sizes: tuple[int, ...] = (1, 20, 39)
) -> Path:
    """Write the events in messages of some sizes by rosbags."""
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)
    types: dict[str, Any] = {}
    for name, text in EVENT_DEFINITIONS.items():
        text = text.format(package=package, time="time" if ros1 else "builtin_interfaces/Time")
        types |= get_types_from_msg(text, name.format(package=package))
    store.register(types)
    kind = f"{package}/msg/EventArray"
    Time, Header = store.types["builtin_interfaces/msg/Time"], store.types["std_msgs/msg/Header"]
    with rosbag1.Writer(path) if ros1 else ros2_writer(path) as writer:
        connection = writer.add_connection("/dvs/events", kind, typestore=store)
        first = 0
        for k, size in enumerate(sizes):
            stamps = [Time(EVENT_STAMP, int(t) * 1000) for t in T[first : first + size]]
            events = [
                store.types[f"{package}/msg/Event"](int(x), int(y), stamp, bool(p))
                for x, y, stamp, p in zip(X[first:], Y[first:], stamps, P[first:])
            ]
            # Frames of several lengths, which move the events in the bytes.
            number = {"seq": k} if ros1 else {}
            header = Header(**number, stamp=Time(EVENT_STAMP, 0), frame_id="dvs"[: k + 1])
            message = store.types[kind](header, SIZE[0], SIZE[1], events)
            serialize = store.serialize_ros1 if ros1 else store.serialize_cdr
            writer.write(connection, EVENT_STAMP * 10**9 + k, serialize(message, kind))
            first += size
    return path


SETS: dict[str, tuple[str, Any]] = {
    "events.bag": ("events-bag", write_event_bag),
    "vlp16.pcap": ("pcap", write_velodyne),
    "vlp16.pcapng": ("pcap", write_velodyne),
    "ouster pcap": ("pcap", write_ouster),
    "ros1.bag": ("bag", write_bag1),
    "ros2": ("bag", write_bag2),
    "drive.mcap": ("bag", write_mcap),
    "turns": ("turns", write_turns),
    "las": ("lidar-folder", write_las_folder),
    "laz": ("lidar-folder", write_las_folder),
}
