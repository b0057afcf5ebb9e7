"""Every reader of lidar sweeps: small sets written as the formats are documented, and what is refused in one sentence."""

from __future__ import annotations

import gc
import pickle
import tracemalloc
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from invtoolbox import datasets
from invtoolbox.datasets.pose_files import read_times
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import relative_motion
from invtoolbox.geometry.sweeps import Sweep
from tests.datasets import sweep_sets as sets


@pytest.mark.parametrize("name", sets.SETS)
def test_every_set_is_recognised_read_and_pickled(name: str, tmp_path: Path) -> None:
    reader, write = sets.SETS[name]
    path = write(tmp_path / "set")
    data = datasets.open(path)
    assert type(data) is datasets.SWEEP_READERS[reader]
    assert len(set(data.names)) == len(data) >= 2  # type: ignore[attr-defined]
    for opened in (data, pickle.loads(pickle.dumps(data))):
        for k in range(len(opened)):
            sweep = opened[k]
            assert (
                isinstance(sweep, Sweep)
                and sweep.points.dtype == torch.float32
                and len(sweep) in (sets.N, 79)
            )
            assert sweep.pose is None or (
                sweep.pose.shape == (4, 4) and sweep.pose.dtype == torch.float64
            )
    with pytest.raises(IndexError):
        data[len(data)]
    if reader != "kitti-scene-flow":
        stamps = [sweep.timestamp for sweep in datasets.open_sweeps(path, reader)]  # type: ignore[attr-defined]
        assert np.allclose(np.diff(stamps), 0.1, atol=1e-6)
    with pytest.raises(InputError, match="lidar sweeps, and no measurements"):
        datasets.open_measurements(path)


def test_argoverse_tables(tmp_path: Path) -> None:
    data = datasets.Argoverse2(sets.write_argoverse(tmp_path / "log"))
    sweep = data[0]
    assert (
        sweep.deskewed
        and sweep.ring is not None
        and sweep.time is not None
        and sweep.boxes is not None
        and sweep.labels is not None
    )
    assert (
        sweep.time[3] == pytest.approx(3e-6)
        and sweep.boxes.track == ("1046f12a",)
        and sweep.labels.ground is not None
    )
    assert data[1].labels is None
    boxes = datasets.Argoverse2(tmp_path / "log", labels="boxes")
    labels = boxes[1].labels
    assert labels is not None and boxes[2].labels is None, "the last sweep has no successor"
    inside = labels.category == labels.categories.index("REGULAR_VEHICLE")
    # The world comes 0.5 m closer; the car drives 1 m, so 0.5 m away from the sensor.
    assert (
        torch.allclose(labels.flow[~inside], torch.tensor([-0.5, 0, 0]))
        and not labels.dynamic[~inside].any()
    )
    assert (
        torch.allclose(labels.flow[inside], torch.tensor([0.5, 0, 0]))
        and labels.dynamic[inside].all()
    )


def test_kitti_poses_are_the_lidars(tmp_path: Path) -> None:
    data = datasets.KittiOdometry(sets.write_kitti_odometry(tmp_path))
    poses = [data[k].pose for k in range(3)]
    assert (
        poses[0] is not None
        and poses[2] is not None
        and torch.allclose(poses[0], torch.eye(4, dtype=torch.float64))
    )
    assert torch.allclose(poses[2][:3, 3], torch.tensor([1.0, 0, 0], dtype=torch.float64)), (
        "forward, in the lidar's axes"
    )
    assert data[1].timestamp == pytest.approx(0.1)
    assert datasets.KittiOdometry(tmp_path / "sequences" / "07", poses="none")[0].pose is None


def test_kitti_raw_poses_follow_the_map(tmp_path: Path) -> None:
    data = datasets.KittiRaw(sets.write_kitti_raw(tmp_path))
    a, b = data[0].pose, data[2].pose
    assert a is not None and b is not None
    # Straight ahead in the first sweep's axes: the unit heads north-east, and turns by 0.01 a sweep
    # to the left; the lidar, at t from the unit, moves by (I - R) t more.
    ahead, (c, s) = [np.sqrt(2), 0, 0.2], (np.cos(0.02), np.sin(0.02))
    lever = [-0.81 * (1 - c) + 0.32 * s, 0.81 * s + 0.32 * (1 - c), 0]
    assert relative_motion(b, a)[:3, 3].numpy() == pytest.approx(np.add(ahead, lever), abs=1e-6)
    turn = relative_motion(b, a)[:3, :3]
    assert float(torch.atan2(turn[1, 0], turn[0, 0])) == pytest.approx(0.02, abs=1e-9)
    assert (
        data[0].deskewed is False
        and datasets.KittiRaw(tmp_path / "2011_09_30_drive_0027_sync", poses="none")[1].pose is None
    )


def test_pairs_are_turned_from_the_cameras_axes(tmp_path: Path) -> None:
    folder = sets.write_pairs(tmp_path / "pairs", ("pos1", "pos2", "gt"))
    source, target = datasets.KittiSceneFlow(folder).pair(1)
    stored = np.load(folder / "000001.npz")
    assert source.labels is not None and torch.allclose(
        source.points + source.labels.flow, target.points, atol=1e-5
    )
    assert np.array_equal(source.points.numpy(), stored["pos1"][:, [2, 0, 1]]), (
        "x forward was z, y left was x, z up was y"
    )
    assert np.array_equal(
        datasets.KittiSceneFlow(folder, frame="lidar").pair(1)[0].points.numpy(), stored["pos1"]
    )
    with pytest.raises(InputError, match=r"pairs, each by itself.*pair\(k\)"):
        datasets.open_sweeps(folder)


def test_nuscenes_tables(tmp_path: Path) -> None:
    data = datasets.NuScenes(sets.write_nuscenes(tmp_path / "set"))
    assert data.names == ["000", "001", "002"], "in the order of their times"
    sweep, later = data[0], data[1]
    stored = np.fromfile(data.files[0], "<f4").reshape(-1, 5)
    assert np.array_equal(
        sweep.points.numpy(), np.stack([stored[:, 1], -stored[:, 0], stored[:, 2]], 1)
    ), "x was right, y forward"
    assert (
        sweep.pose is not None
        and later.pose is not None
        and sweep.ring is not None
        and int(sweep.ring.max()) == 31
    )
    assert sweep.pose[:3, 3].tolist() == pytest.approx([100, 200.9, 1.8]) and sweep.pose[
        :2, 0
    ].tolist() == pytest.approx([0, 1])
    assert relative_motion(sweep.pose, later.pose)[:3, 3].tolist() == pytest.approx([-1, 0, 0]), (
        "the world comes closer along x"
    )
    assert (
        sweep.boxes is not None and later.boxes is None and sweep.boxes.category == ("vehicle.car",)
    )
    assert sweep.boxes.pose[0, :3, 3].tolist() == pytest.approx([20, 0, -0.8]) and sweep.boxes.pose[
        0, 0, 0
    ] == pytest.approx(1)
    assert sweep.boxes.size.tolist() == [[4.5, 2, 1.6]], "length, width, height"
    with pytest.raises(InputError, match="did you mean 'scene-0061'"):
        datasets.NuScenes(tmp_path / "set", scene="scene-0016")
    with pytest.raises(InputError, match="no version of the data set"):
        datasets.NuScenes(tmp_path / "set", version="v1.0-trainval")


def test_waymo_range_images(tmp_path: Path) -> None:
    data = datasets.Waymo(sets.write_waymo(tmp_path / "set"))
    height, width = sets.WAYMO_SHAPE
    sweep = data[1]
    assert len(sweep) == height * width - 1, "a pixel without a return is left out"
    # Where the lidar was at each pixel, in the frame of the sweep: the car drives by 1/16 m a
    # column.
    column = np.tile(np.arange(width), height)[1:]
    place = np.stack([1.43 + (column - width / 2) / width, 0 * column, 0 * column + 2.18], 1)
    away = sweep.points.numpy() - place
    assert np.linalg.norm(away, axis=1) == pytest.approx(10, abs=1e-5)
    # The azimuth counts from the vehicle's back, clockwise, whatever way the lidar is turned.
    assert np.arctan2(away[:, 1], away[:, 0]) == pytest.approx(
        np.pi * (1 - (2 * column + 1) / width), abs=1e-5
    )
    assert np.arcsin(away[:, 2] / 10) == pytest.approx(
        np.repeat(np.linspace(0.1, -0.3, height), width)[1:], abs=1e-5
    )
    assert (
        sweep.deskewed
        and sweep.ring is not None
        and int(sweep.ring.max()) == height - 1
        and sweep.intensity is not None
    )
    assert sweep.intensity.tolist() == column.tolist()
    assert (
        sweep.pose is not None
        and sweep.pose[0, 3] == 1
        and sweep.boxes is not None
        and sweep.boxes.category == ("vehicle",)
    )
    assert sweep.boxes.pose[0, :2, 0].tolist() == pytest.approx([0, 1], abs=1e-12), (
        "heading to the left"
    )
    (tmp_path / "set" / "lidar_pose" / "seg.parquet").unlink()
    (tmp_path / "set" / "lidar_box" / "seg.parquet").unlink()
    skewed = datasets.Waymo(tmp_path / "set")[1]
    assert skewed.deskewed is False and skewed.boxes is None
    assert np.linalg.norm(skewed.points.numpy() - [1.43, 0, 2.18], axis=1) == pytest.approx(
        10, abs=1e-5
    )


def test_a_folder_with_times_and_poses(tmp_path: Path) -> None:
    data = datasets.LidarFolder(sets.write_folder(tmp_path / "bins"))
    pose = data[2].pose
    assert (
        pose is not None
        and pose[0, 3] == 2
        and float(torch.atan2(pose[1, 0], pose[0, 0])) == pytest.approx(0.2)
    )
    assert data[2].timestamp == 100.2 and data[0].intensity is not None
    (tmp_path / "bins" / "times.txt").unlink()
    assert datasets.LidarFolder(tmp_path / "bins")[2].timestamp == pytest.approx(100.2), (
        "the times of the TUM poses"
    )


def test_poses_of_another_rate_are_interpolated_at_the_times(tmp_path: Path) -> None:
    for k in range(3):
        np.full((2, 4), 1.0, "<f4").tofile(tmp_path / f"{k}.bin")
    # 10 m/s along x and 1 rad/s about z, at 4 Hz; the last sweep is later than the last pose.
    lines = [
        f"{t} {10 * t} 0 0 0 0 {np.sin(t / 2)} {np.cos(t / 2)}" for t in (0, 0.25, 0.5, 0.75, 1)
    ]
    (tmp_path / "poses.txt").write_text("\n".join(lines))
    with pytest.raises(InputError, match="5 poses for 3 sweeps .* poses and sweeps with times"):
        datasets.LidarFolder(tmp_path)
    (tmp_path / "times.txt").write_text("0.1\n0.6\n1.1")
    data = datasets.LidarFolder(tmp_path)
    for k, t in ((0, 0.1), (1, 0.6)):
        pose = data[k].pose
        assert pose is not None and float(pose[0, 3]) == pytest.approx(10 * t)
        assert float(torch.atan2(pose[1, 0], pose[0, 0])) == pytest.approx(t)
    with pytest.raises(InputError, match="the pose of 2.bin is missing"):
        data[2]
    (tmp_path / "times.txt").write_text("1700000000.1\n1700000000.6\n1700000001.1")
    with pytest.raises(InputError, match="give both times of one clock"):
        datasets.LidarFolder(tmp_path)


def test_files_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for k in (10, 9, 1):
        np.full((2, 4), k, "<f4").tofile(tmp_path / f"sweep_{k}.bin")
    assert [float(sweep.points[0, 0]) for sweep in datasets.open_sweeps(tmp_path)] == [1, 9, 10]  # type: ignore[attr-defined]


def test_a_scene_of_openscene_flow(tmp_path: Path) -> None:
    import h5py

    file = sets.write_opensceneflow(tmp_path / "scenes") / "log.h5"
    data = datasets.open_sweeps(file)
    first, second = data[0], data[1]  # type: ignore[attr-defined]
    assert len(data) == 3 and first.deskewed and first.meta["log"] == "log"
    assert second.timestamp - first.timestamp == pytest.approx(0.1, abs=1e-6)
    labels = first.labels
    assert labels is not None and labels.ground is not None and labels.instance is not None
    assert labels.dynamic.tolist() == [True] * 5 + [False] * (sets.N - 5)
    assert labels.instance[4:6].tolist() == [1, -1] and int(labels.ground.sum()) == 10
    assert labels.categories[int(labels.category[0])] == "REGULAR_VEHICLE"
    torch.testing.assert_close(
        relative_motion(first.pose, second.pose)[:3, 3], torch.tensor([-1.0, 0, 0]).double()
    )
    with pytest.raises(InputError, match="the file is the scene log, and not other"):
        datasets.open_sweeps(file, scene="other")
    with h5py.File(file, "a") as scene:
        del scene[data.names[1]]["pose"]
    with pytest.raises(InputError, match=f"{data.names[1]}: there is no array pose"):
        data[1]  # type: ignore[index]
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(InputError, match=r"log\.h5"):
        datasets.open_sweeps(file)


def test_a_sweep_of_nuscenes_outside_its_database_has_five_columns(tmp_path: Path) -> None:
    rows = np.concatenate([sets.cloud(), np.ones((sets.N, 2), np.float32)], axis=1)
    rows[:, 4] = np.arange(sets.N) % 32
    rows.astype("<f4").tofile(tmp_path / "0.pcd.bin")
    sweep = datasets.open_sweeps(tmp_path)[0]  # type: ignore[attr-defined]
    assert np.array_equal(sweep.points.numpy(), rows[:, :3])
    assert sweep.ring.tolist() == [k % 32 for k in range(sets.N)]
    named = datasets.open_sweeps(tmp_path, columns="x y z intensity ring")[0]  # type: ignore[attr-defined]
    assert torch.equal(named.points, sweep.points) and torch.equal(named.ring, sweep.ring)
    # Four columns that are read as five leave fractions in the column of rings.
    (tmp_path / "0.pcd.bin").unlink()
    sets.cloud(5 * sets.N).astype("<f4").tofile(tmp_path / "0.bin")
    with pytest.raises(InputError, match=r"0\.bin: the ring of a point is not a whole number"):
        datasets.open_sweeps(tmp_path, columns=5)[0]  # type: ignore[index]


def test_columns_may_be_named(tmp_path: Path) -> None:
    rows = np.arange(12, dtype="<f4").reshape(2, 6)
    rows.tofile(tmp_path / "0.bin")
    sweep = datasets.open_sweeps(tmp_path, columns=("intensity", "x", "y", "z", "_", "time"))[0]
    assert (
        sweep.points.tolist() == [[1, 2, 3], [7, 8, 9]]
        and sweep.intensity is not None
        and sweep.intensity.tolist() == [0, 6]
    )
    assert sweep.time is not None and sweep.time.tolist() == [0, 6], (
        "a clock's times count from the first"
    )


def bad(
    change: Callable[[Path], object],
    message: str,
    write: Callable[[Path], Path] = sets.write_folder,
    **settings: object,
) -> object:
    return pytest.param(change, message, write, settings, id=message)


AT_OPENING = [
    bad(
        lambda p: [f.unlink() for f in p.glob("*.bin")],
        "holds no .bin or .pcd",
        reader="lidar-folder",
    ),
    bad(
        lambda p: (p / "extra.pcd").write_bytes(b"x"),
        r"several formats, 3 .bin \(000000.bin\), 1 .pcd \(extra.pcd\)",
    ),
    bad(
        lambda p: (p / "times.txt").write_text("100.0\n100.2\n"), r"times.txt: 2 times for 3 sweeps"
    ),
    bad(
        lambda p: (p / "times.txt").write_text("100.0\nnoon\n100.2\n"),
        r"times.txt: line 2 holds a word that is not a number",
    ),
    bad(
        lambda p: (p / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n"),
        r"poses.txt: 1 poses for 3 sweeps",
    ),
    bad(
        lambda p: (p / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1\n" * 3),
        r"poses.txt: line 1 holds 11 numbers",
    ),
    bad(
        lambda p: (p / "poses.txt").write_text("2 0 0 0 0 1 0 0 0 0 1 0\n" * 3),
        r"poses.txt: pose 1 is not a rigid motion",
    ),
    bad(
        lambda p: (p / "poses.txt").write_text("0 0 0 0 0 0 0 0\n" * 3),
        r"poses.txt: pose 1 holds a quaternion of length zero",
    ),
    bad(lambda p: (p / "poses.txt").write_bytes(b"\xff\xfe\x00"), r"poses.txt: not a text file"),
    bad(lambda p: None, "columns=9: give a number from 3 to 6", columns=9),
    bad(lambda p: None, "has no setting 'scene'", scene="a"),
    bad(
        lambda p: (p.parents[1] / "poses" / "07.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n"),
        r"07.txt: 1 poses, but the sweep 000002.bin",
        sets.write_kitti_odometry,
    ),
    bad(
        lambda p: (p / "calib.txt").unlink(),
        r"holds no calib.txt.*calibration=",
        sets.write_kitti_odometry,
    ),
    bad(
        lambda p: (p / "calib.txt").write_text("P0: 1 2\n"),
        r"calib.txt: no line 'Tr:'",
        sets.write_kitti_odometry,
    ),
    bad(
        lambda p: (p / "times.txt").write_text("0\n0.1\n"),
        r"times.txt: 2 times, but the sweep 000002.bin",
        sets.write_kitti_odometry,
    ),
    bad(
        lambda p: (p.parent / "calib_imu_to_velo.txt").unlink(),
        r"calib_imu_to_velo.txt: missing",
        sets.write_kitti_raw,
    ),
    bad(
        lambda p: [(p / f"00000{k}.npy").write_bytes(b"x") for k in (3, 4, 5)],
        r"several formats, 3 .bin .*, 3 .npy \(000003.npy\)",
    ),
    bad(lambda p: (p / "000001.npy").write_bytes(b"x"), r"two sweeps have one name"),
    bad(
        lambda p: (p / "annotations.feather").write_bytes(b"ARROW1 and no more"),
        r"annotations.feather: truncated or not",
        sets.write_argoverse,
    ),
    bad(
        lambda p: (p / "v1.0-mini/ego_pose.json").unlink(),
        r"ego_pose.json: there is no such file",
        sets.write_nuscenes,
    ),
    bad(
        lambda p: (p / "v1.0-mini/ego_pose.json").write_text("[{"),
        r"ego_pose.json: truncated or not a readable JSON",
        sets.write_nuscenes,
    ),
    bad(
        lambda p: (p / "v1.0-mini/scene.json").write_text("[{}]"),
        r"scene.json: record 1 lacks 'token'",
        sets.write_nuscenes,
    ),
    bad(
        lambda p: (p / "lidar_calibration/seg.parquet").unlink(),
        r"lidar_calibration/seg.parquet: there is no such file",
        sets.write_waymo,
    ),
    bad(
        lambda p: _truncate(p / "lidar/seg.parquet", 300),
        r"lidar/seg.parquet: truncated or not a readable Parquet",
        sets.write_waymo,
    ),
    bad(lambda p: None, r"no scene in .* named 'a'", sets.write_nuscenes, scene="a"),
    bad(lambda p: None, r"no segment in .* named 'a'", sets.write_waymo, scene="a"),
    bad(
        lambda p: (p / "sensors/lidar/first.feather").write_bytes(b"x"),
        r"first.feather: the name is not a number",
        sets.write_argoverse,
    ),
]


@pytest.mark.parametrize(("change", "message", "write", "settings"), AT_OPENING)
def test_what_is_found_at_opening(
    change: Callable[[Path], object],
    message: str,
    write: Callable[[Path], Path],
    settings: dict[str, object],
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "set")
    change(path)
    with pytest.raises(InputError, match=message) as caught:
        datasets.open_sweeps(path, **settings)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def _truncate(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


def _save(path: Path, points: np.ndarray) -> None:
    np.concatenate([points, np.zeros((len(points), 1))], 1).astype("<f4").tofile(path)


OF_THE_SECOND = [
    bad(
        lambda p: _truncate(p / "000001.bin", 201),
        r"000001.bin: 201 bytes are not a whole number of points of 4 float32",
    ),
    bad(lambda p: _truncate(p / "000001.bin", 200), r"000001.bin: 200 bytes.*give columns=5"),
    bad(lambda p: _truncate(p / "000001.bin", 0), r"000001.bin: the file is empty"),
    bad(
        lambda p: _save(p / "000001.bin", np.full((5, 3), np.nan)),
        r"000001.bin: none of the 5 points of the sweep is finite",
    ),
    bad(
        lambda p: _save(p / "000001.bin", np.zeros((5, 3))),
        r"000001.bin: none of the 5 points.*all are zero",
    ),
    bad(lambda p: (p / "000001.bin").unlink(), r"000001.bin: there is no such file"),
    bad(
        lambda p: (p / "1.pcd").write_bytes(sets.pcd(np.zeros((0, 3)), np.zeros(0), "ascii")),
        r"1.pcd: the sweep holds no points",
        sets.write_pcds,
    ),
    bad(lambda p: _truncate(p / "1.pcd", 500), r"1.pcd: truncated", sets.write_pcds),
    bad(
        lambda p: _truncate(p / "1.ply", 500),
        r"1.ply: truncated, it holds \d+ of 40 vertices",
        sets.write_plys,
    ),
    bad(lambda p: _truncate(p / "1.npy", 300), r"1.npy: truncated", sets.write_arrays),
    bad(
        lambda p: _truncate(p / "frame_01.npz", 300),
        r"frame_01.npz: truncated or not a readable",
        sets.write_ouster,
    ),
    bad(
        lambda p: np.savez(p / "frame_01.npz", xyz=sets.cloud()),
        r"frame_01.npz: an Ouster frame needs the array t_ns",
        sets.write_ouster,
    ),
    bad(
        lambda p: (p / "poses.txt").write_text(
            "1 0 0 0 0 1 0 0 0 0 1 0\n" + "nan " * 12 + "\n" + "1 0 0 0 0 1 0 0 0 0 1 0\n"
        ),
        r"poses.txt: the pose of 000001.bin is missing",
    ),
    bad(
        lambda p: (p / "times.txt").write_text("100.0\n100.0\n100.1\n"),
        r"times.txt: the times are out of order, the time of 000001.bin",
    ),
    bad(
        lambda p: (p / "velodyne_points" / "timestamps.txt").write_text(
            "\n".join(f"2011-09-30 12:40:25.{k}" for k in (1, 0, 3))
        ),
        r"timestamps.txt: the times are out of order, the time of 0000000001.bin",
        sets.write_kitti_raw,
    ),
    bad(
        lambda p: np.savez(p / "frame_01.npz", xyz=sets.cloud(), t_ns=np.arange(sets.N)),
        r"frame_01.npz: the times are out of order",
        sets.write_ouster,
    ),
    bad(
        lambda p: (p / "000001.bin").rename(p / "000001.npy"),
        r"000001.npy: the other sweeps of the folder are .bin files",
    ),
    bad(
        lambda p: (p / "oxts/data/0000000001.txt").unlink(),
        r"oxts/data/0000000001.txt: there is no such file",
        sets.write_kitti_raw,
    ),
    bad(
        lambda p: (p / "oxts/data/0000000001.txt").write_text("49 8 110"),
        r"0000000001.txt: 3 numbers; a packet",
        sets.write_kitti_raw,
    ),
    bad(
        lambda p: _truncate(p / "sweeps/LIDAR_TOP/001.pcd.bin", 204),
        r"001.pcd.bin: 204 bytes are not a whole number of points of 5",
        sets.write_nuscenes,
    ),
    bad(
        lambda p: (p / "v1.0-mini/ego_pose.json").write_text(
            (p / "v1.0-mini/ego_pose.json").read_text().replace('"e1"', '"x"')
        ),
        r"ego_pose.json: no pose e1 for the sweep 001.pcd.bin",
        sets.write_nuscenes,
    ),
    bad(
        lambda p: _truncate(sorted((p / "sensors/lidar").iterdir())[1], 900),
        r"315966265359836000.feather: truncated",
        sets.write_argoverse,
    ),
]


@pytest.mark.parametrize(("change", "message", "write", "settings"), OF_THE_SECOND)
def test_a_bad_sweep_is_named_when_it_is_read_and_the_others_are_read(
    change: Callable[[Path], object],
    message: str,
    write: Callable[[Path], Path],
    settings: dict[str, object],
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "set")
    before = datasets.open_sweeps(path)
    change(path)
    # A file that goes while the sequence is open is missed by who opened it, poses that come are
    # seen by who opens it anew. Tables of poses and of times are read once, and so are the names of
    # files.
    gone = not list(path.glob("000001.*")) and write is sets.write_folder
    once = any(
        word in message
        for word in ("poses.txt", "ego_pose", "times.txt", "stamps.txt", "000001.npy")
    )
    for data in ([] if once else [before]) + ([] if gone else [datasets.open_sweeps(path)]):
        with pytest.raises(InputError, match=message) as caught:
            data[1]
        assert "\n" not in str(caught.value)
        assert len(data[0]) == sets.N and (len(data) < 3 or len(data[2]) == sets.N)


def test_a_pose_that_a_log_lacks_is_named(tmp_path: Path) -> None:
    log = sets.write_argoverse(tmp_path / "log")
    stamps = [int(name) for name in datasets.Argoverse2(log).names]
    columns = {
        name: np.array([1.0, 1.0]) for name in ("qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m")
    }
    sets.write_table(
        log / "city_SE3_egovehicle.feather",
        {"timestamp_ns": np.array([stamps[0], stamps[2]]), **columns},
    )
    data = datasets.Argoverse2(log)
    with pytest.raises(
        InputError, match=rf"city_SE3_egovehicle.feather: no pose at the time {stamps[1]}"
    ):
        data[1]
    assert len(data[2]) == sets.N


def test_dates_keep_their_nanoseconds(tmp_path: Path) -> None:
    (tmp_path / "timestamps.txt").write_text(
        "2011-09-30 12:40:25.076320001\n2011-09-30 12:40:25.179619003\n"
    )
    assert read_times(tmp_path / "timestamps.txt")[1] == pytest.approx(0.103299002, abs=1e-12)


def test_what_is_no_sequence_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no lidar sequence that is known"):
        datasets.open_sweeps(tmp_path)
    with pytest.raises(InputError, match="there is no such folder"):
        datasets.open_sweeps(tmp_path / "nowhere")
    with pytest.raises(InputError, match="did you mean 'ouster'"):
        datasets.open_sweeps(tmp_path, reader="oster")
    with pytest.raises(InputError, match="holds 2 logs"):
        for name in ("a", "b"):
            sets.write_argoverse(tmp_path / "logs" / name)
        datasets.open_sweeps(tmp_path / "logs")


@pytest.mark.parametrize("name", [name for name in sets.SETS if name != "pairs"])
def test_no_sweep_is_kept(name: str, tmp_path: Path) -> None:
    reader, write = sets.SETS[name]
    data = datasets.open_sweeps(write(tmp_path / "set"), reader)
    points = [weakref.ref(data[k].points) for k in range(len(data))]
    gc.collect()
    assert all(one() is None for one in points)


def test_readers_of_a_plug_in_open_by_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Points:
        """Return the entry points of a package that declares a reader in the group."""

        name = "somebody"

        @staticmethod
        def load() -> Callable[..., object]:
            return sets.Somebody

    monkeypatch.setattr(
        "invtoolbox.catalogue.registry.entry_points",
        lambda group: [Points] * (group == "invtoolbox.readers"),
    )
    sweeps = datasets.open_sweeps(tmp_path, "somebody", rate=20.0)
    assert len(sweeps) == 2 and sweeps[1].timestamp == 0.05
    with pytest.raises(
        InputError, match="the reader 'somebody' has no setting 'poses'; it has rate"
    ):
        datasets.open_sweeps(tmp_path, "somebody", poses="none")
    monkeypatch.setattr(Points, "load", staticmethod(lambda: lambda path: []))
    with pytest.raises(InputError, match="reads no lidar sweeps"):
        datasets.open_sweeps(tmp_path, "somebody")


def test_sweeps_have_no_geometry(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="reads lidar sweeps; leave it out"):
        datasets.open(
            sets.write_folder(tmp_path / "set"),
            datasets.Geometry("parallel", (0.0, 1.0), 5, (4, 4)),
        )


def _bins(folder: Path, numbers: Sequence[int], name: str = "{:06d}.bin") -> Path:
    folder.mkdir(parents=True)
    for number in numbers:
        np.full((5, 4), number + 1, "<f4").tofile(folder / name.format(number))
    return folder


def test_the_folders_around_and_within_a_sequence_open_it(tmp_path: Path) -> None:
    _bins(tmp_path / "dataset" / "sequences" / "07" / "velodyne", range(2))
    assert len(datasets.open_sweeps(tmp_path / "dataset")) == 2
    drive = tmp_path / "2011_09_26" / "2011_09_26_drive_0001_sync"
    data = _bins(drive / "velodyne_points" / "data", range(2), "{:010d}.bin")
    stamps = "2011-09-26 13:02:25.000000000\n2011-09-26 13:02:25.500000000\n"
    (drive / "velodyne_points" / "timestamps.txt").write_text(stamps)
    for place in (tmp_path / "2011_09_26", drive, data.parent, data):
        sweeps = datasets.open_sweeps(place)
        assert sweeps[1].timestamp - sweeps[0].timestamp == pytest.approx(0.5), place
    _bins(tmp_path / "2011_09_26" / "other_sync" / "velodyne_points" / "data", range(2))
    with pytest.raises(InputError, match="holds 2 sequences .*other_sync.*; give one of them"):
        datasets.open_sweeps(tmp_path / "2011_09_26")


def test_a_missing_frame_leaves_a_gap_in_time(tmp_path: Path) -> None:
    sweeps = datasets.open_sweeps(_bins(tmp_path / "drive", [4, 5, 7, 8]))
    assert [round(sweeps[k].timestamp, 6) for k in range(4)] == [0.0, 0.1, 0.3, 0.4]
    late = datasets.open_sweeps(_bins(tmp_path / "times", [1000, 1100, 1200]))
    assert late[2].timestamp == pytest.approx(0.2)
    # One odd number needs no memory for the frames that are missing.
    folder = _bins(tmp_path / "odd", [0, 1, 2, 99_999_999], "{:08d}.bin")
    tracemalloc.start()
    odd = datasets.open_sweeps(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e8 and odd[3].timestamp == pytest.approx(9_999_999.9)


def test_an_array_of_columns_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "0.npy", np.ones((3, 50)))
    with pytest.raises(InputError, match="save array.T"):
        datasets.open_sweeps(tmp_path)[0]
