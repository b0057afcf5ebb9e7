"""Small whole lidar data sets of every format, written as their documentation says; for the tests and the damaged copies."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

from invtoolbox.geometry.sweeps import Sweep

RNG = np.random.default_rng(11)
N = 40


def cloud(n: int = N) -> np.ndarray:
    return RNG.uniform(-20, 20, (n, 3)).astype(np.float32)


def write_bins(
    folder: Path, count: int = 3, columns: int = 4, first: int = 0, digits: int = 6
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(first, first + count):
        rows = np.concatenate(
            [cloud(), RNG.uniform(0, 1, (N, columns - 3)).astype(np.float32)], axis=1
        )
        rows.astype("<f4").tofile(folder / f"{k:0{digits}}.bin")
    return folder


def write_folder(folder: Path) -> Path:
    """Bins with TUM poses and times."""
    write_bins(folder)
    (folder / "poses.txt").write_text(
        "".join(
            f"{100 + 0.1 * k} {k} 0 0 0 0 {np.sin(0.05 * k)} {np.cos(0.05 * k)}\n" for k in range(3)
        )
    )
    (folder / "times.txt").write_text("100.0\n100.1\n100.2\n")
    return folder


def pack_lzf(content: bytes) -> bytes:
    """Literal runs alone, with a copy where the same 8 bytes come again: what a decoder must undo."""
    packed, place = bytearray(), 0
    while place < len(content):
        if place >= 8 and content[place : place + 8] == content[place - 8 : place]:
            packed += bytes([(6 << 5) | 0, 7])  # 8 bytes from 8 before
            place += 8
            continue
        run = content[place : place + 32]
        packed += bytes([len(run) - 1]) + run
        place += len(run)
    return bytes(packed)


def pcd(points: np.ndarray, intensity: np.ndarray, encoding: str) -> bytes:
    n = len(points)
    head = (
        "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z _ intensity ring\nSIZE 4 4 4 1 4 2\nTYPE F F F U "
        f"F U\nCOUNT 1 1 1 4 1 1\nWIDTH {n}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {n}\nDATA "
        f"{encoding}\n"
    ).encode()
    ring = (np.arange(n) % 16).astype("<u2")
    if encoding == "ascii":
        rows = [
            f"{p[0]:.8g} {p[1]:.8g} {p[2]:.8g} 0 0 0 0 {i:.8g} {r}\n"
            for p, i, r in zip(points, intensity, ring)
        ]
        return head + "".join(rows).encode()
    padding = bytes(4)
    if encoding == "binary":
        return head + b"".join(
            struct.pack("<3f", *p) + padding + struct.pack("<fH", i, int(r))
            for p, i, r in zip(points, intensity, ring)
        )
    columns = [points[:, k].astype("<f4").tobytes() for k in range(3)] + [
        padding * n,
        intensity.astype("<f4").tobytes(),
        ring.tobytes(),
    ]
    content = b"".join(columns)
    packed = pack_lzf(content)
    return head + struct.pack("<II", len(packed), len(content)) + packed


def write_pcds(folder: Path, encoding: str = "binary_compressed") -> Path:
    folder.mkdir(parents=True)
    for k in range(2):
        (folder / f"{k}.pcd").write_bytes(
            pcd(cloud(), np.linspace(0, 1, N, dtype=np.float32), encoding)
        )
    return folder


def ply(points: np.ndarray, encoding: str) -> bytes:
    n = len(points)
    head = (
        f"ply\nformat {encoding} 1.0\ncomment by hand\nelement vertex {n}\nproperty float "
        "x\nproperty float y\nproperty float z\nproperty uchar ring\nelement face 1\nproperty "
        "list uchar int vertex_indices\nend_header\n"
    ).encode()
    if encoding == "ascii":
        return (
            head
            + "".join(
                f"{p[0]:.8g} {p[1]:.8g} {p[2]:.8g} {k % 8}\n" for k, p in enumerate(points)
            ).encode()
            + b"3 0 1 2\n"
        )
    order = "<" if "little" in encoding else ">"
    rows = b"".join(struct.pack(order + "3fB", *p, k % 8) for k, p in enumerate(points))
    return head + rows + struct.pack(order + "B3i", 3, 0, 1, 2)


def write_plys(folder: Path, encoding: str = "binary_big_endian") -> Path:
    folder.mkdir(parents=True)
    for k in range(2):
        (folder / f"{k}.ply").write_bytes(ply(cloud(), encoding))
    return folder


def write_arrays(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for k in range(2):
        np.save(folder / f"{k}.npy", cloud())
    return folder


def write_ouster(folder: Path, count: int = 2) -> Path:
    folder.mkdir(parents=True)
    for k in range(count):
        times = 991_000_000_000 + k * 100_000_000 + np.linspace(0, 99_000_000, N).astype(np.int64)
        np.savez_compressed(
            folder / f"frame_{k:02}.npz",
            xyz=cloud(),
            t_ns=times,
            ring=(np.arange(N) % 16).astype(np.uint8),
            reflectivity=np.arange(N).astype(np.uint16),
        )
    return folder


def write_pairs(folder: Path, names: tuple[str, str, str] = ("pc1", "pc2", "flow")) -> Path:
    folder.mkdir(parents=True)
    for k in range(2):
        first, flow = cloud(), RNG.normal(0, 1, (N, 3)).astype(np.float32)
        np.savez(
            folder / f"{k:06}.npz", **{names[0]: first, names[1]: first + flow, names[2]: flow}
        )
    return folder


TR = "0 -1 0 0.1 0 0 -1 0.2 1 0 0 0.3"  # the camera's x is the lidar's -y, its y -z, its z the lidar's x


def write_kitti_odometry(folder: Path, count: int = 3) -> Path:
    """Gives the folder of the sequence."""
    sequence = folder / "sequences" / "07"
    write_bins(sequence / "velodyne", count)
    zeros = " ".join(["0"] * 12)
    (sequence / "calib.txt").write_text(f"P0: {zeros}\nTr: {TR}\n")
    (sequence / "times.txt").write_text("".join(f"{0.1 * k:e}\n" for k in range(count)))
    (folder / "poses").mkdir()
    # The camera moves along its z, which is the lidar's x.
    (folder / "poses" / "07.txt").write_text(
        "".join(f"1 0 0 0 0 1 0 0 0 0 1 {0.5 * k}\n" for k in range(count))
    )
    return sequence


def write_kitti_raw(folder: Path, count: int = 3) -> Path:
    """A car that drives to the north-east at 5 m a second and climbs; gives the folder of the drive."""
    drive = folder / "2011_09_30_drive_0027_sync"
    write_bins(drive / "velodyne_points" / "data", count, digits=10)
    (drive / "velodyne_points" / "timestamps.txt").write_text(
        "".join(f"2011-09-30 12:40:25.{k}76320000\n" for k in range(count))
    )
    (folder / "calib_imu_to_velo.txt").write_text(
        "calib_time: 25-May-2012 16:47:16\nR: 1 0 0 0 1 0 0 0 1\nT: -0.81 0.32 -0.80\n"
    )
    (drive / "oxts" / "data").mkdir(parents=True)
    for k in range(count):
        # Metres to degrees at latitude 49 on the devkit's sphere.
        north = np.degrees(0.5 * k / 6378137.0)
        packet = [
            49.0 + north,
            8.4 + north / np.cos(np.radians(49.0)),
            110 + 0.1 * k,
            0.0,
            0.0,
            np.pi / 4 + 0.01 * k,
            *([0.0] * 24),
        ]
        (drive / "oxts" / "data" / f"{k:010}.txt").write_text(
            " ".join(repr(float(value)) for value in packet) + "\n"
        )
    return drive


def write_table(path: Path, columns: dict[str, Any], compression: str = "lz4") -> None:
    import pyarrow as pa
    from pyarrow import feather

    path.parent.mkdir(parents=True, exist_ok=True)
    feather.write_feather(pa.table(columns), str(path), compression=compression)


def write_argoverse(folder: Path, count: int = 3) -> Path:
    """One car ahead of the sensor that drives away at 1 m a sweep while the sensor moves 0.5 m; gives the folder of the log."""
    stamps = [315966265259836000 + k * 100_000_000 for k in range(count)]
    for stamp in stamps:
        write_table(
            folder / "sensors" / "lidar" / f"{stamp}.feather",
            {
                **{axis: cloud()[:, k].astype(np.float16) for k, axis in enumerate("xyz")},
                "intensity": np.arange(N).astype(np.uint8),
                "laser_number": (np.arange(N) % 64).astype(np.uint8),
                "offset_ns": np.arange(N).astype(np.int32) * 1000,
            },
        )
    ones, zeros = np.ones(count), np.zeros(count)
    write_table(
        folder / "city_SE3_egovehicle.feather",
        {
            "timestamp_ns": np.array(stamps),
            "qw": ones,
            "qx": zeros,
            "qy": zeros,
            "qz": zeros,
            "tx_m": 5000 + 0.5 * np.arange(count),
            "ty_m": zeros,
            "tz_m": zeros,
        },
    )
    write_table(
        folder / "annotations.feather",
        {
            "timestamp_ns": np.array(stamps),
            "track_uuid": ["1046f12a"] * count,
            "category": ["REGULAR_VEHICLE"] * count,
            "length_m": 4 * ones,
            "width_m": 2 * ones,
            "height_m": 2 * ones,
            "qw": ones,
            "qx": zeros,
            "qy": zeros,
            "qz": zeros,
            "tx_m": 10 + 0.5 * np.arange(count),
            "ty_m": zeros,
            "tz_m": zeros,
            "num_interior_pts": np.full(count, 3),
        },
    )
    write_table(
        folder / "flow_labels.feather",
        {
            **{f"flow_t{axis}_m": np.zeros(N, np.float32) for axis in "xyz"},
            "classes": np.zeros(N, np.uint8),
            "dynamic": np.zeros(N, bool),
            "is_ground_0": np.ones(N, bool),
        },
    )
    return folder


def write_nuscenes(folder: Path, count: int = 3) -> Path:
    """One scene, a key frame first; the vehicle drives 1 m a sweep to the north (its yaw is a quarter turn), a car 2 m."""
    quarter, none = [np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5)], [1.0, 0.0, 0.0, 0.0]
    write_bins(folder / "sweeps" / "LIDAR_TOP", count, columns=5, digits=3)
    for file in (folder / "sweeps" / "LIDAR_TOP").iterdir():
        rows = np.fromfile(file, "<f4").reshape(N, 5)
        rows[:, 4] = np.arange(N) % 32
        rows.tofile(file)
        file.rename(file.with_name(f"{file.stem}.pcd.bin"))
    tables: dict[str, list[dict[str, Any]]] = {
        "scene": [{"token": "s", "name": "scene-0061"}],
        "sample": [{"token": "a", "scene_token": "s"}],
        "sensor": [
            {"token": "top", "channel": "LIDAR_TOP"},
            {"token": "cam", "channel": "CAM_FRONT"},
        ],
        # The lidar's y is the vehicle's x.
        "calibrated_sensor": [
            {
                "token": "ct",
                "sensor_token": "top",
                "translation": [0.9, 0.0, 1.8],
                "rotation": [np.sqrt(0.5), 0.0, 0.0, -np.sqrt(0.5)],
            },
            {
                "token": "cc",
                "sensor_token": "cam",
                "translation": [1.7, 0.0, 1.5],
                "rotation": none,
            },
        ],
        "ego_pose": [
            {"token": f"e{k}", "translation": [100.0, 200.0 + k, 0.0], "rotation": quarter}
            for k in range(count)
        ],
        "sample_data": [
            {
                "token": f"d{k}",
                "sample_token": "a",
                "ego_pose_token": f"e{k}",
                "calibrated_sensor_token": "ct",
                "filename": f"sweeps/LIDAR_TOP/{k:03}.pcd.bin",
                "timestamp": 1532402927647951 + 100_000 * k,
                "is_key_frame": k == 0,
            }
            for k in reversed(range(count))
        ]
        + [
            {
                "token": "image",
                "sample_token": "a",
                "ego_pose_token": "e0",
                "calibrated_sensor_token": "cc",
                "filename": "samples/CAM_FRONT/0.jpg",
                "timestamp": 1532402927647951,
                "is_key_frame": True,
            }
        ],
        "category": [{"token": "c", "name": "vehicle.car"}],
        "instance": [{"token": "i", "category_token": "c"}],
        "sample_annotation": [
            {
                "token": "n",
                "sample_token": "a",
                "instance_token": "i",
                "translation": [100.0, 220.9, 1.0],
                "size": [2.0, 4.5, 1.6],
                "rotation": quarter,
            }
        ],
    }
    (folder / "v1.0-mini").mkdir()
    for name, rows in tables.items():
        (folder / "v1.0-mini" / f"{name}.json").write_text(json.dumps(rows))
    return folder


#: The lidar's place on Waymo's vehicle, turned by 148 degrees as the true one is.
WAYMO_PLACE = np.array(
    [
        [np.cos(2.58), -np.sin(2.58), 0, 1.43],
        [np.sin(2.58), np.cos(2.58), 0, 0],
        [0, 0, 1, 2.18],
        [0, 0, 0, 1],
    ]
)
WAYMO_SHAPE = (5, 16)


def write_waymo(folder: Path, count: int = 3) -> Path:
    """A sphere of 10 m about where the lidar is at each pixel, one pixel without a return; the vehicle drives 1 m a sweep along x.

    It is at its frame's pose in the middle of the sweep's columns.
    """
    import pyarrow as pa
    from pyarrow import parquet

    height, width = WAYMO_SHAPE
    keys = {
        "key.segment_context_name": ["seg"] * count,
        "key.frame_timestamp_micros": [1_553_629_304_000_000 + 100_000 * k for k in range(count)],
    }
    image = np.zeros((height, width, 4), np.float32)
    image[:, :, 0], image[:, :, 1] = 10, np.arange(width)
    image[0, 0, 0] = -1
    then = np.zeros((count, height, width, 6), np.float32)
    then[..., 3] = np.arange(count)[:, None, None] + (np.arange(width) - width / 2) / width
    frames = np.tile(np.eye(4), (count, 1, 1))
    frames[:, 0, 3] = np.arange(count)
    tables: dict[str, dict[str, Any]] = {
        "lidar": {
            **keys,
            "key.laser_name": pa.array([1] * count, pa.int8()),
            "[LiDARComponent].range_image_return1.values": [image.ravel()] * count,
            "[LiDARComponent].range_image_return1.shape": [list(image.shape)] * count,
        },
        "lidar_pose": {
            **keys,
            "key.laser_name": pa.array([1] * count, pa.int8()),
            "[LiDARPoseComponent].range_image_return1.values": [one.ravel() for one in then],
            "[LiDARPoseComponent].range_image_return1.shape": [list(then.shape[1:])] * count,
        },
        "vehicle_pose": {
            **keys,
            "[VehiclePoseComponent].world_from_vehicle.transform": [one.ravel() for one in frames],
        },
        "lidar_calibration": {
            "key.segment_context_name": ["seg"],
            "key.laser_name": pa.array([1], pa.int8()),
            "[LiDARCalibrationComponent].extrinsic.transform": [WAYMO_PLACE.ravel()],
            "[LiDARCalibrationComponent].beam_inclination.min": [-0.3],
            "[LiDARCalibrationComponent].beam_inclination.max": [0.1],
            "[LiDARCalibrationComponent].beam_inclination.values": [np.linspace(-0.3, 0.1, height)],
        },
        "lidar_box": {
            **keys,
            "key.laser_object_id": ["car"] * count,
            "[LiDARBoxComponent].type": [1] * count,
            **{
                f"[LiDARBoxComponent].box.{part}": [value] * count
                for part, value in (
                    ("center.x", 8.0),
                    ("center.y", 1.0),
                    ("center.z", 0.8),
                    ("size.x", 4.5),
                    ("size.y", 2.0),
                    ("size.z", 1.6),
                    ("heading", np.pi / 2),
                )
            },
        },
    }
    for name, columns in tables.items():
        (folder / name).mkdir(parents=True)
        parquet.write_table(pa.table(columns), folder / name / "seg.parquet", row_group_size=2)
    return folder


def write_odometry_alone(folder: Path) -> Path:
    """A sequence with its poses beside it, as SemanticKITTI has them."""
    sequence = write_kitti_odometry(folder)
    (folder / "poses" / "07.txt").rename(sequence / "poses.txt")
    return sequence


def write_drive_alone(folder: Path) -> Path:
    """A drive with the calibration of the day in it."""
    drive = write_kitti_raw(folder)
    (folder / "calib_imu_to_velo.txt").rename(drive / "calib_imu_to_velo.txt")
    return drive


def write_opensceneflow(folder: Path, count: int = 3) -> Path:
    """One scene of OpenSceneFlow: a vehicle that drives 1 m a sweep past a car that drives 2 m."""
    import h5py

    folder.mkdir(parents=True)
    motion = np.eye(4, dtype=np.float32)
    motion[0, 3] = -1
    with h5py.File(folder / "log.h5", "w") as file:
        for k in range(count):
            group, pose = file.create_group(f"{315966265259836000 + k * 10**8}"), np.eye(4)
            pose[0, 3] = k
            flow = np.tile(np.float32([-1, 0, 0]), (N, 1))
            flow[:5, 0] = 1
            arrays = {
                "lidar": np.concatenate([cloud(), np.ones((N, 1), np.float32)], axis=1),
                "pose": pose.astype(np.float32),
                "lidar_dt": np.linspace(0, 0.1, N, dtype=np.float32),
                "ground_mask": np.arange(N) >= 30,
                "flow": flow,
                "flow_is_valid": np.ones(N, bool),
                "flow_category_indices": np.where(np.arange(N) < 5, 19, 0).astype(np.uint8),
                "flow_instance_id": (np.arange(N) < 5).astype(np.int16),
                "ego_motion": motion,
            }
            for name, array in arrays.items():
                group.create_dataset(name, data=array)
    return folder


class Somebody:
    """A reader as a plug-in would bring it: no base class, one setting."""

    def __init__(self, path: Path, rate: float = 10.0) -> None:
        self.names, self.rate = ["a", "b"], rate

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Sweep:
        return Sweep(torch.from_numpy(cloud()), index / self.rate)


#: A whole data set of each reader of sweeps (and of its variants), with the reader's name.
SETS: dict[str, tuple[str, Any]] = {
    "av2": ("argoverse2", write_argoverse),
    "odometry": ("kitti-odometry", write_odometry_alone),
    "raw drive": ("kitti-raw", write_drive_alone),
    "pairs": ("kitti-scene-flow", write_pairs),
    "frames": ("ouster", write_ouster),
    "bins": ("lidar-folder", write_folder),
    "pcds": ("lidar-folder", write_pcds),
    "plys": ("lidar-folder", write_plys),
    "npys": ("lidar-folder", write_arrays),
    "nuscenes": ("nuscenes", write_nuscenes),
    "waymo": ("waymo", write_waymo),
    "h5 scenes": ("opensceneflow", write_opensceneflow),
}
