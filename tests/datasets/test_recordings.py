"""Recordings: packets against Ouster's SDK and Velodyne's formulas, bags and LAZ against their own libraries."""

from __future__ import annotations

import importlib
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rosbags.typesys import get_types_from_msg
from scipy.spatial.transform import Rotation, Slerp

from invtoolbox import datasets
from invtoolbox.datasets.sweeps.bags import cloud_columns
from invtoolbox.datasets.sweeps.opening import locate, open_sweeps
from invtoolbox.datasets.sweeps.point_files import read_points
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import relative_motion, transform
from invtoolbox.jobs.flow.estimation import estimate
from invtoolbox.jobs.flow.preparation import Preparation, prepare_pair
from tests.datasets import recording_sets as sets


def refusal(path: Path, **settings: object) -> str:
    with pytest.raises(InputError) as caught:
        sweeps = open_sweeps(path, **settings)
        for k in range(len(sweeps)):
            sweeps[k]
    sentence = str(caught.value)
    assert "\n" not in sentence and path.name.split(".")[0] in sentence
    return sentence


@pytest.mark.data
@pytest.mark.parametrize(
    "name",
    [
        "OS-0-128-U1_v2.3.0_1024x10",
        "OS-0-32-U1_v2.2.0_1024x10",
        "OS-1-128_767798045_1024x10_20230712_120049",
        "OS-1-32-G_v2.1.1_1024x10",
        "OS-2-128-U1_v2.3.0_1024x10",
        "windowed_frame1",
    ],
)
def test_ouster_packets_are_decoded_as_by_the_sdk(name: str, data_dir: Path) -> None:
    pytest.importorskip("ouster.sdk")
    open_source = importlib.import_module("ouster.sdk").open_source
    XYZLut = importlib.import_module("ouster.sdk.core").XYZLut
    path = data_dir / "ouster_pcaps" / f"{name}.pcap"
    sweeps, source = open_sweeps(path), open_source(str(path))
    scans = [next(iter(scans)) for scans in source]
    assert len(sweeps) == len(scans) and sweeps.names[0] == "000000"
    for sweep, scan in zip((sweeps[k] for k in range(len(sweeps))), scans, strict=True):
        theirs = XYZLut(source.sensor_info[0])(scan).reshape(-1, 3)
        assert np.abs(sweep.points.double().numpy() - theirs).max() < 1e-3
        assert sweep.finite.sum() == (scan.field("RANGE") > 0).sum() > 1000
        assert np.array_equal(sweep.intensity, scan.field("REFLECTIVITY").reshape(-1))
        stamps = scan.timestamp.astype(np.int64)
        ours = sweep.timestamp + sweep.time.reshape(-1, len(stamps)).double().numpy()
        assert np.abs(ours - stamps / 1e9)[:, stamps > 0].max() < 1e-7
        assert sweep.deskewed is False and sweep.ring.unique().tolist() == [*range(len(ours))]


@pytest.mark.data
def test_a_real_packet_against_the_formulas_of_the_manual(data_dir: Path) -> None:
    path = data_dir / "ouster_pcaps" / "VLI-16-one-packet.pcap"
    sweep = open_sweeps(path)[0]
    content = path.read_bytes()[24 + 16 + 42 :]
    assert len(sweep) == 12 * 32
    elevations = (-15, 1, -13, 3, -11, 5, -9, 7, -7, 9, -5, 11, -3, 13, -1, 15)
    heights = (11.2, -0.7, 9.7, -2.2, 8.1, -3.7, 6.6, -5.1)
    heights += tuple(-height for height in reversed(heights))
    azimuths = [int.from_bytes(content[100 * k + 2 : 100 * k + 4], "little") for k in range(12)]
    measured = 0
    for k in range(11):
        for j in range(32):
            at = 100 * k + 4 + 3 * j
            metres = int.from_bytes(content[at : at + 2], "little") * 0.002
            since = j // 16 * 55.296 + j % 16 * 2.304
            azimuth = azimuths[k] + (azimuths[k + 1] - azimuths[k]) * since / 110.592
            a, w = math.radians(azimuth / 100), math.radians(elevations[j % 16])
            x, y = metres * math.cos(w) * math.sin(a), metres * math.cos(w) * math.cos(a)
            place = (y, -x, metres * math.sin(w) + heights[j % 16] / 1000) if metres else (0, 0, 0)
            row = 32 * k + j
            assert torch.allclose(
                sweep.points[row], torch.tensor(place, dtype=torch.float32), atol=1e-5
            )
            assert float(sweep.time[row]) == pytest.approx((k * 110.592 + since) / 1e6, abs=1e-9)
            assert float(sweep.intensity[row]) == content[at + 2]
            rings = sorted(elevations)
            assert int(sweep.ring[row]) == rings.index(elevations[j % 16])
            measured += metres > 0
    assert measured > 50
    assert sweep.timestamp == pytest.approx(int.from_bytes(content[-6:-2], "little") / 1e6)


@pytest.mark.parametrize("mode", [0x37, 0x39])
@pytest.mark.parametrize("suffix", [".pcap", ".pcapng"])
def test_turns_of_a_vlp16(tmp_path: Path, suffix: str, mode: int) -> None:
    # Two and a half turns from 180 degrees on: the first and the last turn are incomplete.
    azimuths = np.arange(18_000, 18_000 + 3 * 36_000, 40)
    azimuths = np.repeat(azimuths[: len(azimuths) // 12 * 12], 2 if mode == 0x39 else 1)
    distances = np.full((len(azimuths), 32), 5000)  # 10 m
    payloads = sets.velodyne_payloads(azimuths, distances, mode=mode)
    other = [(bytes(512), 8308)]  # a position packet
    path = tmp_path / f"drive{suffix}"
    sets.write_pcap(path, [*other, *((p, 2368) for p in payloads)], vlan=suffix == ".pcap")
    sweeps = open_sweeps(path)
    assert len(sweeps) == 2
    for k in range(2):
        sweep = sweeps[k]
        assert len(sweep) == 900 * 32 * (2 if mode == 0x39 else 1)
        assert torch.allclose(sweep.points.norm(dim=1), torch.tensor(10.0), atol=0.012)
        # Angles fall evenly (clockwise), also over the borders of packets.
        angles = torch.atan2(sweep.points[::16, 1], sweep.points[::16, 0]).double()
        if mode == 0x37:
            steps = angles.diff().remainder(2 * math.pi) - 2 * math.pi
            assert torch.allclose(
                steps, torch.tensor(-math.radians(0.2), dtype=torch.float64), atol=1e-5
            )
        assert float(sweep.time.max()) == pytest.approx(0.0995, abs=2e-4)
    # The clock of the sensor passes the hour.
    assert sweeps[1].timestamp - sweeps[0].timestamp == pytest.approx(900 * 110.592e-6, abs=1e-5)


def test_other_models_of_velodyne_are_named(tmp_path: Path) -> None:
    azimuths, distances = np.arange(0, 480, 40), np.full((12, 32), 5000)
    for model, name in ((0x21, "HDL-32E"), (0x28, "VLP-32C"), (0xA1, "VLS-128")):
        payloads = sets.velodyne_payloads(azimuths, distances, model)
        path = sets.write_pcap(tmp_path / "drive.pcap", [(p, 2368) for p in payloads])
        assert name in refusal(path) and "VeloView" in refusal(path)
    payloads = sets.velodyne_payloads(azimuths, distances, 0x24)
    high = open_sweeps(sets.write_pcap(tmp_path / "high.pcap", [(p, 2368) for p in payloads]))[0]
    rise = torch.atan2(high.points[:16, 2], high.points[:16, :2].norm(dim=1)).rad2deg()
    assert rise.sort().values == pytest.approx(np.linspace(-10, 10, 16), abs=0.05)


@pytest.mark.parametrize("suffix", [".pcap", ".pcapng"])
@pytest.mark.parametrize("longest", [400, 65_528])
def test_frames_of_ouster_over_fragments_and_the_end_of_the_numbers(
    tmp_path: Path, suffix: str, longest: int
) -> None:
    sweeps = open_sweeps(sets.write_ouster(tmp_path / "seq", suffix, longest))
    assert [len(sweeps[k]) for k in range(3)] == [sets.BEAMS * sets.COLUMNS] * 3
    draws = np.random.default_rng(4)
    for k in range(3):
        ranges = draws.integers(1000, 50_000, (sets.COLUMNS, sets.BEAMS)).T.reshape(-1) / 1000
        away = sweeps[k].points.norm(dim=1).numpy()
        assert np.abs(away - ranges).max() < 0.1
        assert sweeps[k].time.max() == pytest.approx(31 * 3e-3)
    # The folder of one recording opens too, and its metadata can lie elsewhere.
    assert locate(tmp_path / "seq")[1] == "pcap"
    (tmp_path / "seq" / "drive.json").rename(tmp_path / "sensor.json")
    path = tmp_path / "seq" / f"drive{suffix}"
    assert "calibration=" in refusal(path)
    moved = open_sweeps(path, calibration=tmp_path / "sensor.json")
    assert torch.equal(moved[1].points, sweeps[1].points)


def test_faults_of_ouster_recordings_are_named(tmp_path: Path) -> None:
    path = sets.write_ouster(tmp_path / "seq")
    file = path.with_suffix(".json")
    metadata = json.loads(file.read_text())
    for key, content, word in (
        ("udp_profile_lidar", "RNG32_NEW", "ouster-cli"),
        ("pixels_per_column", 4, ""),
        ("columns_per_packet", 16, "packets of the lidar have"),
    ):
        changed = {**metadata, "data_format": {**metadata["data_format"], key: content}}
        file.write_text(json.dumps(changed))
        if word:
            assert word in refusal(path)
    del metadata["beam_azimuth_angles"]
    file.write_text(json.dumps(metadata))
    assert "beam_azimuth_angles" in refusal(path, calibration=file)
    hesai = sets.write_pcap(tmp_path / "pandar.pcap", [(b"\xee\xff" + bytes(1000), 2368)])
    assert "Hesai" in refusal(hesai)
    nothing = sets.write_pcap(tmp_path / "drive.pcap", [])
    assert "UDP" in refusal(nothing)


@pytest.mark.parametrize("name", ["vlp16.pcap", "vlp16.pcapng"])
def test_a_recording_that_ends_within_a_packet(tmp_path: Path, name: str) -> None:
    path = sets.write_velodyne(tmp_path / name)
    content = path.read_bytes()
    path.write_bytes(content[:-700])
    assert "editcap" in refusal(path)


WRITERS = {"ros1.bag": sets.write_bag1, "ros2": sets.write_bag2, "drive.mcap": sets.write_mcap}


@pytest.mark.data
@pytest.mark.parametrize("name", WRITERS)
def test_kitti_in_bags_is_the_folder_bitwise(name: str, tmp_path: Path, data_dir: Path) -> None:
    folder = data_dir / "kitti_raw5"
    files = sorted(folder.glob("*.bin"))
    rows = [np.fromfile(file, "<f4").reshape(-1, 4) for file in files]
    WRITERS[name](tmp_path / name, rows)
    bag, original = open_sweeps(tmp_path / name), open_sweeps(folder, poses="none")
    assert len(bag) == len(original) == 5
    for k in range(5):
        assert torch.equal(bag[k].points, original[k].points)
        assert torch.equal(bag[k].intensity, original[k].intensity)
        assert bag[k].timestamp == original[k].timestamp
        assert bag[k].deskewed is original[k].deskewed is None
    near = Preparation(max_range=8.0)
    flows = [estimate(s[0], s[1], "icp-flow", near).flow for s in (bag, original)]
    assert torch.equal(flows[0].nan_to_num(), flows[1].nan_to_num())


def test_fields_of_clouds_of_every_driver(tmp_path: Path) -> None:
    store = sets.get_typestore(sets.Stores.ROS2_HUMBLE)
    count = 12

    def columns(
        kind: list[tuple[str, str]],
        offsets: list[int],
        step: int,
        order: str = "<",
        height: int = 1,
        padding: int = 0,
    ) -> dict[str, np.ndarray]:
        numbers = {"f4": 7, "f8": 8, "u1": 2, "u2": 4, "u4": 6, "i2": 3}
        dtype = np.dtype(
            {
                "names": [name for name, _ in kind],
                "formats": [order + form for _, form in kind],
                "offsets": offsets,
                "itemsize": step,
            }
        )
        rows = np.zeros(count, dtype)
        for k, (name, _) in enumerate(kind):
            rows[name] = 10 * k + np.arange(count)
        fields = [(n, at, numbers[form]) for (n, form), at in zip(kind, offsets)]
        sent = sets.message(store, rows, 10**18, fields, order, height, padding)
        return cloud_columns(sent)

    ouster = [
        ("x", "f4"),
        ("y", "f4"),
        ("z", "f4"),
        ("intensity", "f4"),
        ("t", "u4"),
        ("ring", "u1"),
    ]
    read = columns(ouster, [0, 4, 8, 16, 20, 26], 48, height=3, padding=7)
    for k, (name, _) in enumerate(ouster):
        assert np.array_equal(read[name], 10 * k + np.arange(count)), name
    velodyne = [
        ("x", "f4"),
        ("y", "f4"),
        ("z", "f4"),
        ("intensity", "f4"),
        ("ring", "u2"),
        ("time", "f4"),
    ]
    read = columns(velodyne, [0, 4, 8, 12, 16, 18], 22, ">")
    assert np.array_equal(read["time"], 50 + np.arange(count)) and len(read) == 6
    with pytest.raises(InputError, match="do not fit"):
        columns(velodyne, [0, 4, 8, 12, 16, 18], 22).keys()
        short = sets.message(store, np.zeros(3, "<f4").view([("x", "<f4")]), 0, [("x", 2, 7)])
        cloud_columns(short)


def test_times_and_rings_of_a_bag(tmp_path: Path) -> None:
    """Hesai's times of a clock, Ouster's nanoseconds since the start, Livox's nanoseconds of a clock."""
    store = sets.get_typestore(sets.Stores.ROS2_HUMBLE)
    start = 1_700_000_000.25
    since = np.linspace(0, 0.09, 20)
    for name, form, number, values in (
        ("timestamp", "<f8", 8, start + since),
        ("t", "<u4", 6, (since * 1e9).astype(np.uint32)),
        ("time", "<f4", 7, since - 0.09),
        ("timestamp", "<f8", 8, (start + since) * 1e9),
        ("offset_time", "<u4", 6, (since * 1e9).astype(np.uint32)),
    ):
        kind = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("ring", "<u2"), (name, form)])
        rows = np.ones(20, kind)
        rows[name], rows["ring"] = values, np.arange(20)
        fields = [("x", 0, 7), ("y", 4, 7), ("z", 8, 7), ("ring", 12, 4), (name, 14, number)]
        sent = store.serialize_cdr(sets.message(store, rows, int(start * 1e9), fields), sets.CLOUD)
        file = sets.write_mcap_messages(
            tmp_path / "drive.mcap", [("/points", sets.CLOUD, "cdr", bytes(sent))]
        )
        sweep = open_sweeps(file)[0]
        shift = 0.09 if name == "time" else 0.0
        assert sweep.time.double() + shift == pytest.approx(torch.from_numpy(since), abs=1e-6)
        assert sweep.timestamp == pytest.approx(0.0, abs=1e-5)  # since the first stamp
        assert sweep.meta["stamp"] == int(start * 1e9)
        assert sweep.ring.tolist() == [*range(20)] and sweep.deskewed is False


def test_topics(tmp_path: Path) -> None:
    store = sets.get_typestore(sets.Stores.ROS2_HUMBLE)
    rows = sets.kitti_rows(sets.clouds(1)[0])
    sent = bytes(
        store.serialize_cdr(sets.message(store, rows, 10**18, sets.KITTI_FIELDS), sets.CLOUD)
    )
    file = tmp_path / "drive.mcap"
    one, two = ("/front", sets.CLOUD, "cdr", sent), ("/rear", sets.CLOUD, "cdr", sent)
    sets.write_mcap_messages(file, [one, two, one])
    assert "/front" in refusal(file) and "topic=" in refusal(file)
    assert len(open_sweeps(file, topic="/front")) == 2
    assert "rear" in refusal(file, topic="/reer")
    sets.write_mcap_messages(file, [("/p", "velodyne_msgs/msg/VelodyneScan", "cdr", b"")])
    assert "velodyne_pointcloud" in refusal(file)
    sets.write_mcap_messages(file, [("/p", sets.CLOUD, "json", b"{}")])
    assert "json" in refusal(file)
    sets.write_mcap_messages(file, [])
    assert "no cloud" in refusal(file)


def test_equal_times_of_messages_are_told_apart(tmp_path: Path) -> None:
    store = sets.get_typestore(sets.Stores.ROS2_HUMBLE)
    path = tmp_path / "ros2"
    with sets.ros2_writer(path) as writer:
        connection = writer.add_connection("/points", sets.CLOUD, typestore=store)
        for k, cloud in enumerate(sets.clouds()):
            sent = sets.message(store, sets.kitti_rows(cloud), sets.stamp_of(k), sets.KITTI_FIELDS)
            writer.write(connection, 5, store.serialize_cdr(sent, sets.CLOUD))
    sweeps = open_sweeps(path)
    for k, cloud in enumerate(sets.clouds()):
        assert np.array_equal(sweeps[k].points, cloud[:, :3])


@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_laz_within_half_a_step_of_its_scale(tmp_path: Path, suffix: str) -> None:
    draws = np.random.default_rng(2)
    cloud = draws.uniform(-60, 60, (120_000, 4))
    for shift, timed in ((np.zeros(4), True), (np.array([450_123.4, 5_411_000.7, 311, 0]), False)):
        folder = tmp_path / f"{timed}{suffix}"
        folder.mkdir()
        for k in range(2):
            sets.write_las(folder / f"{k}{suffix}", cloud + shift, timed=timed)
        sweep = open_sweeps(folder)[1]
        pose = torch.eye(4).double() if sweep.pose is None else sweep.pose
        places = transform(pose, sweep.points.double()).numpy()
        assert np.abs(places - (cloud + shift)[:, :3]).max() < 0.0005 + 5e-6
        assert (sweep.time is not None) == timed and (sweep.pose is None) == timed
        assert np.array_equal(sweep.intensity, np.abs(cloud[:, 3] * 1000).astype(np.uint16))
    short = tmp_path / f"short{suffix}"
    short.write_bytes((folder / f"0{suffix}").read_bytes()[:-5000])
    with pytest.raises(InputError, match="truncated"):
        read_points(short)


def test_a_folder_one_level_down(tmp_path: Path) -> None:
    sets_of_bins = tmp_path / "drive"
    for name in ("lidar", "camera"):
        (sets_of_bins / name).mkdir(parents=True)
    (sets_of_bins / "camera" / "0.png").write_bytes(b"png")
    for k, cloud in enumerate(sets.clouds(3)):
        cloud.tofile(sets_of_bins / "lidar" / f"{k}.bin")
    poses = "\n".join(f"{k} {k} 0 0 0 0 0 1" for k in range(3))
    (sets_of_bins / "poses.txt").write_text(poses)
    sweeps = open_sweeps(sets_of_bins)
    assert len(sweeps) == 3 and float(sweeps[2].pose[0, 3]) == 2
    assert len(datasets.open(sets_of_bins)) == 3
    deeper = tmp_path / "deep" / "velodyne_points" / "data"
    deeper.parent.mkdir(parents=True)
    shutil.copytree(sets_of_bins / "lidar", deeper)
    assert len(open_sweeps(tmp_path / "deep")) == 3
    shutil.copytree(sets_of_bins / "lidar", sets_of_bins / "lidar2")
    assert len(open_sweeps(sets_of_bins)) == 3  # the folder with the name of a lidar
    (sets_of_bins / "lidar").rename(sets_of_bins / "lidar1")
    assert "lidar1" in refusal(sets_of_bins)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("drive.osf", "ouster-cli"),
        ("drive.lvx2", "Livox Viewer"),
        ("scan.e57", "pdal"),
        ("scan.rxp", "RiSCAN"),
        ("drive.db3", "ros2 bag reindex"),
        ("drive.bag.active", "rosbag reindex"),
        ("drive.tfrecord", "version 2"),
        ("lidar/00.pkl.gz", "devkit"),
        ("lidar/00.xyz", "loadtxt"),
    ],
)
def test_formats_that_are_not_read_are_named_with_their_converter(
    tmp_path: Path, name: str, word: str
) -> None:
    file = tmp_path / "drive" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"content")
    assert word in refusal(file)
    assert word in refusal(tmp_path / "drive")


def test_without_the_extra_the_error_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    from invtoolbox.errors import MissingDependency

    file = sets.write_mcap(tmp_path / "drive.mcap")
    monkeypatch.setitem(sys.modules, "mcap.reader", None)
    with pytest.raises(MissingDependency, match=r"\[ros\]"):
        open_sweeps(file)


def test_a_recording_takes_poses(tmp_path: Path) -> None:
    file = sets.write_mcap(tmp_path / "drive.mcap")
    (tmp_path / "poses.txt").write_text("\n".join(f"{k} {k} 0 0 0 0 0 1" for k in range(3)))
    assert float(open_sweeps(file, poses=tmp_path / "poses.txt")[2].pose[0, 3]) == 2
    (tmp_path / "poses.txt").write_text("0 0 0 0 0 0 0 1")
    with pytest.raises(InputError, match="one pose per sweep"):
        open_sweeps(file, poses=tmp_path / "poses.txt")


def robot(store: sets.Any, is_ros1: bool = False) -> list[tuple[str, str, int, sets.Any]]:
    """Odometry at 25 Hz of a robot on a circle, and the place of its lidar, which is mounted upside down."""
    types = store.types

    def header(stamp: int, frame: str) -> sets.Any:
        time = types["builtin_interfaces/msg/Time"](stamp // 10**9, stamp % 10**9)
        return types["std_msgs/msg/Header"](*((0,) if is_ros1 else ()), time, frame)

    def turn(quaternion: np.ndarray) -> sets.Any:
        return types["geometry_msgs/msg/Quaternion"](*quaternion.tolist())

    covariance, zero = np.zeros(36), types["geometry_msgs/msg/Vector3"](0.0, 0.0, 0.0)
    twist = types["geometry_msgs/msg/TwistWithCovariance"](
        types["geometry_msgs/msg/Twist"](zero, zero), covariance
    )
    if is_ros1:
        text = "geometry_msgs/TransformStamped[] transforms"
        store.register(get_types_from_msg(text, "tf2_msgs/msg/TFMessage"))
    messages = []
    mount = types["geometry_msgs/msg/Transform"](
        types["geometry_msgs/msg/Vector3"](0.9, 0.1, 1.5), turn(np.array([1.0, 0.0, 0.0, 0.0]))
    )
    static = types["tf2_msgs/msg/TFMessage"](
        [
            types["geometry_msgs/msg/TransformStamped"](
                header(0, "base_link"), "/lidar" if is_ros1 else "lidar", mount
            )
        ]
    )
    messages.append(("/tf_static", "tf2_msgs/msg/TFMessage", sets.stamp_of(0), static))
    for k in range(-2, 8):
        stamp = sets.stamp_of(0) + 40_000_000 * k
        place, rotation = on_circle(stamp)
        point = types["geometry_msgs/msg/Point"](*place.tolist())
        pose = types["geometry_msgs/msg/Pose"](point, turn(rotation.as_quat()))
        sent = types["nav_msgs/msg/Odometry"](
            header(stamp, "odom"),
            "base_link",
            types["geometry_msgs/msg/PoseWithCovariance"](pose, covariance),
            twist,
        )
        messages.append(("/odom", "nav_msgs/msg/Odometry", stamp, sent))
        if not k % 2:
            stamped = types["geometry_msgs/msg/PoseStamped"](header(stamp, "map"), pose)
            messages.append(("/gps", "geometry_msgs/msg/PoseStamped", stamp, stamped))
    return messages


def on_circle(stamp: int) -> tuple[np.ndarray, Rotation]:
    angle = 2.0 * (stamp - sets.stamp_of(0)) / 1e9
    place = np.array([10 * math.sin(angle), 10 * (1 - math.cos(angle)), 0.3])
    return place, Rotation.from_euler("z", angle)


def write_robot(path: Path, topics: tuple[str, ...], count: int = 4) -> Path:
    """A recording with clouds of the frame "lidar" and topics of the robot, by the formats' own libraries."""
    is_ros1 = path.suffix == ".bag"
    store = sets.get_typestore(sets.Stores.ROS1_NOETIC if is_ros1 else sets.Stores.ROS2_HUMBLE)
    messages = [message for message in robot(store, is_ros1) if message[0] in topics]
    for k, cloud in enumerate(sets.clouds(count)):
        sent = sets.message(
            store, sets.kitti_rows(cloud), sets.stamp_of(k), sets.KITTI_FIELDS, is_ros1=is_ros1
        )
        messages.append(("/points", sets.CLOUD, sets.stamp_of(k), sent))
    if path.suffix == ".mcap":
        content = [
            (topic, kind, "cdr", bytes(store.serialize_cdr(sent, kind)))
            for topic, kind, _, sent in messages
        ]
        return sets.write_mcap_messages(path, content)
    with sets.rosbag1.Writer(path) if is_ros1 else sets.ros2_writer(path) as writer:
        connections = {}
        for topic, kind, stamp, sent in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            serialize = store.serialize_ros1 if is_ros1 else store.serialize_cdr
            writer.write(connections[topic], stamp, serialize(sent, kind))
    return path


@pytest.mark.parametrize("name", ["drive.bag", "ros2", "drive.mcap"])
def test_poses_of_a_robot_are_interpolated(name: str, tmp_path: Path) -> None:
    file = write_robot(tmp_path / name, ("/tf_static", "/odom"))
    sweeps = open_sweeps(file)
    mount = np.eye(4)
    mount[:3, :3], mount[:3, 3] = Rotation.from_quat([1, 0, 0, 0]).as_matrix(), (0.9, 0.1, 1.5)
    times = sets.stamp_of(0) + 40_000_000 * np.arange(-2, 8)
    places, turns = zip(*(on_circle(int(stamp)) for stamp in times))
    slerp = Slerp(times - times[0], Rotation.concatenate(turns))
    for k in range(3):
        since = sets.stamp_of(k) - times[0]
        base = np.eye(4)
        base[:3, :3] = slerp(since).as_matrix()
        base[:3, 3] = [np.interp(since, times - times[0], axis) for axis in np.array(places).T]
        assert sweeps[k].pose.numpy() == pytest.approx(base @ mount, abs=1e-9)
        assert sweeps[k].meta["poses"] == "poses of /odom, from odom to lidar"
    # The odometry ends before the last sweep.
    assert sweeps[3].pose is None and "/odom holds no pose" in sweeps[3].meta["poses"]
    assert open_sweeps(file, poses="none")[1].pose is None
    pair = prepare_pair(sweeps[0], sweeps[1])
    assert torch.allclose(pair.ego_motion, relative_motion(sweeps[0].pose, sweeps[1].pose))
    assert "poses of /odom, from odom to lidar" in pair.notes


def test_poses_of_another_frame_are_taken_on_demand(tmp_path: Path) -> None:
    for topics, named in ((("/odom",), "/odom"), (("/odom", "/gps"), "/gps")):
        file = write_robot(tmp_path / f"{named[1:]}.mcap", topics)
        sweep = open_sweeps(file)[1]
        assert sweep.pose is None
        for word in ("/odom", "'lidar'", "poses=TOPIC"):
            assert word in sweep.meta["poses"]
        sweep = open_sweeps(file, poses=named)[1]
        place, _ = on_circle(sets.stamp_of(1))
        assert sweep.pose[:3, 3].numpy() == pytest.approx(place, abs=0.04)
        assert sweep.meta["poses"] == f"poses of {named}, taken for those of the sensor"
    # A topic by name is preferred, and still led to the sensor.
    file = write_robot(tmp_path / "both.mcap", ("/odom", "/tf_static"))
    both = [open_sweeps(file, poses=poses)[1].pose for poses in (None, "/odom")]
    assert torch.equal(*both)
    with pytest.raises(InputError, match="odmo"):
        open_sweeps(file, poses="/odmo")


def test_frames_of_a_robot_and_poses_that_say_nothing(tmp_path: Path) -> None:
    store = sets.get_typestore(sets.Stores.ROS2_HUMBLE)
    types, kind = store.types, "tf2_msgs/msg/TFMessage"

    def moved(parent: str, child: str, x: float, w: float = 1.0) -> tuple[str, str, float, float]:
        return parent, child, x, w

    def pose(*sent: tuple[int, tuple[str, str, float, float]], at: int = 50) -> sets.Any:
        rows = sets.kitti_rows(sets.clouds(1)[0])
        cloud = sets.message(store, rows, (1000 + at) * 10**6, sets.KITTI_FIELDS)
        content = [("/points", sets.CLOUD, "cdr", bytes(store.serialize_cdr(cloud, sets.CLOUD)))]
        for time, (parent, child, x, w) in sent:
            stamp = types["builtin_interfaces/msg/Time"](1 + time // 1000, time % 1000 * 10**6)
            one = types["geometry_msgs/msg/TransformStamped"](
                types["std_msgs/msg/Header"](stamp, parent),
                child,
                types["geometry_msgs/msg/Transform"](
                    types["geometry_msgs/msg/Vector3"](float(x), 0.0, 0.0),
                    types["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, w),
                ),
            )
            content.append(
                ("/tf", kind, "cdr", bytes(store.serialize_cdr(types[kind]([one]), kind)))
            )
        return open_sweeps(sets.write_mcap_messages(tmp_path / "tf.mcap", content))[0].pose

    mount = [(k, moved("base", "lidar", 2.0)) for k in (0, 100)]
    moving = [(k, moved("odom", "base", k / 100)) for k in (0, 100)]
    jump = [(k, moved("map", "odom", k * 7.0)) for k in (0, 100)]
    assert float(pose(*mount, *moving)[0, 3]) == 2.5
    # The frame of the odometry moves without jumps; frames above it do not count.
    assert float(pose(*mount, *moving, *jump)[0, 3]) == 2.5
    # A mounting that is sent again and again is no motion.
    assert pose(*mount) is None
    # Poses before the robot knows one have no rotation.
    assert pose(*mount, moving[1], (0, moved("odom", "base", 0.0, 0.0))) is None
    # Too long a gap, a circle of frames.
    late = (700, moved("odom", "base", 7.0))
    assert pose(*mount, moving[1], late, at=400) is None
    assert pose(*mount, *((k, moved("lidar", "base", k)) for k in (0, 100))) is not None
