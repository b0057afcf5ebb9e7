"""Moving objects of a sequence, and the files of them that other programs read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import laspy
import numpy as np
import pytest
import torch

from invtoolbox.datasets.ply import read_ply
from invtoolbox.datasets.sweeps.opening import open_sweeps
from invtoolbox.datasets.sweeps.pcd import read_pcd
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import inverse, relative_motion, transform
from invtoolbox.geometry.sweeps import Sweep
from invtoolbox.jobs.flow.exports import OBJECTS, check_exports, write_exports
from invtoolbox.jobs.flow.results import FlowStudy
from invtoolbox.jobs.flow.sequence import flow_sequence
from invtoolbox.jobs.flow.source import SequencePath
from tests.command_line import Run
from tests.datasets.sweep_sets import write_opensceneflow

STREET = {"sweeps": 6, "points": 15_000, "seed": 801}


def true_flow(source: Sweep, target: Sweep, *_: Any) -> Any:
    """The labels as an estimate, whose bodies are the objects that move."""
    labels = source.labels
    assert labels is not None and source.pose is not None and target.pose is not None
    ground = torch.zeros(len(source), dtype=torch.bool) if labels.ground is None else labels.ground
    instance = torch.full((len(source),), -1) if labels.instance is None else labels.instance
    return SimpleNamespace(
        flow=labels.flow,
        ego_motion=relative_motion(source.pose, target.pose),
        dynamic=labels.dynamic,
        ground=ground,
        instance=torch.where(labels.dynamic, instance, -1),
        valid=source.finite,
        method="truth",
        notes=(),
    )


def save(sequence: SequencePath, folder: Path, formats: tuple[str, ...]) -> FlowStudy:
    study = flow_sequence(sequence, folder, estimate=true_flow, progress=False)
    write_exports(study, sequence, formats)
    return study


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    sequence = SequencePath.of("street", options=STREET)
    saved = [name for name in OBJECTS if name != "h5"]
    study = save(sequence, tmp_path_factory.mktemp("street") / "out", tuple(saved))
    opened = sequence.open()
    return [opened[k] for k in range(len(opened))], study.folder


def test_labels_are_those_of_semantic_kitti(street: tuple[Any, Path]) -> None:
    sweeps, folder = street
    both = either = 0
    for k in range(5):
        codes = np.fromfile(folder / "labels" / f"{k:06d}.label", "<u4")
        moving = np.load(folder / "labels" / f"{k:06d}.npy")
        assert len(codes) == len(sweeps[k]) and moving.dtype == bool
        classes, numbers = codes & 0xFFFF, codes >> 16
        assert np.array_equal(classes == 251, moving) and set(np.unique(classes)) <= {0, 9, 251}
        assert np.array_equal(numbers > 0, moving)
        truth = sweeps[k].labels.dynamic.numpy()
        both, either = both + (truth & moving).sum(), either + (truth | moving).sum()
    assert both > 0.9 * either > 100
    assert not (folder / "labels" / "000005.label").exists()  # the last sweep has no flow


def test_tracks_have_stable_numbers_and_boxes_like_the_cars(street: tuple[Any, Path]) -> None:
    sweeps, folder = street
    tracks = json.loads((folder / "boxes" / "tracks.json").read_text())["tracks"]
    errors, numbers = [], {}
    for k, sweep in enumerate(sweeps[:5]):
        boxes = [
            (track["number"], track["size"], box)
            for track in tracks
            for box in track["boxes"]
            if box["sweep"] == f"{k:06d}"
        ]
        labels = sweep.labels
        for j, name in enumerate(sweep.boxes.track):
            pose, size = sweep.boxes.pose[j], sweep.boxes.size[j].double()
            inside = (transform(inverse(pose), sweep.points.double()).abs() < size / 2 + 0.1).all(1)
            count = int((inside & labels.dynamic).sum())
            if not name.startswith("car") or count < 50:
                continue
            number, (length, *_), box = min(
                boxes, key=lambda b: np.linalg.norm(np.array(b[2]["centre"]) - pose[:3, 3].numpy())
            )
            numbers.setdefault(name, set()).add(number)
            yaw = math.atan2(pose[1, 0], pose[0, 0])
            away = np.linalg.norm((np.array(box["centre"]) - pose[:3, 3].numpy())[:2])
            turn = abs(math.remainder(box["heading"] - yaw, math.tau))
            errors.append((away, math.degrees(turn), abs(length - float(size[0]))))
            # The velocity in the world, in the directions of the sensor's frame, is along the car.
            speed = np.array(box["velocity"])
            assert np.linalg.norm(speed) > 0.5 and box["points"] >= 20
            assert math.cos(math.atan2(speed[1], speed[0]) - yaw) > 0.9
    assert len(errors) > 8 and all(len(group) == 1 for group in numbers.values())
    centre, heading, length = np.median(errors, axis=0)
    assert centre < 0.35 and heading < 8 and length < 0.5


def test_kitti_tracks_are_the_same_boxes(street: tuple[Any, Path]) -> None:
    _, folder = street
    tracks = json.loads((folder / "boxes" / "tracks.json").read_text())["tracks"]
    boxes = {
        (int(box["sweep"]), track["number"]): (track, box)
        for track in tracks
        for box in track["boxes"]
    }
    lines = [line.split() for line in (folder / "boxes" / "kitti.txt").read_text().splitlines()]
    assert len(lines) == len(boxes) > 10
    assert [int(line[0]) for line in lines] == sorted(int(line[0]) for line in lines)
    for words in lines:
        assert len(words) == 17
        track, box = boxes[int(words[0]), int(words[1])]
        assert words[2].lower() == track["category"]
        height, width, length, right, down, front, turn = map(float, words[10:])
        assert [length, width, height] == pytest.approx(track["size"], abs=1e-4)
        assert [front, -right, -down + height / 2] == pytest.approx(box["centre"], abs=1e-3)
        # KITTI: the front of the box is (cos r, 0, -sin r) in the camera's axes.
        heading = (-math.sin(turn), -math.cos(turn))
        own = (math.cos(box["heading"]), math.sin(box["heading"]))
        assert heading == pytest.approx(own, abs=1e-3)


def test_the_map_holds_what_stands_in_every_format(street: tuple[Any, Path]) -> None:
    sweeps, folder = street
    ply, pcd = read_ply(folder / "map.ply"), read_pcd(folder / "map.pcd")
    points = np.stack([ply[axis] for axis in "xyz"], 1)
    assert np.array_equal(points, np.stack([pcd[axis] for axis in "xyz"], 1))
    assert np.array_equal(ply["sweep"], pcd["sweep"]) and set(ply["sweep"]) == set(range(5))
    laz = laspy.read(folder / "map.laz")
    assert np.abs(laz.xyz - points).max() < 0.0005 + 1e-5
    assert np.array_equal(laz["sweep"], ply["sweep"])
    from scipy.spatial import cKDTree

    tree = cKDTree(points)
    for k, sweep in enumerate(sweeps[:5]):
        world = transform(relative_motion(sweep.pose, sweeps[0].pose), sweep.points.double())
        near = (sweep.points[:, :2].norm(dim=1) < 79).numpy()
        moving = sweep.labels.dynamic.numpy()
        away = tree.query(world.numpy())[0]
        # A cube of 5 cm keeps one point; a moving point is in the map if it is there itself.
        assert (away[near & ~moving] < 0.09).mean() > 0.98
        exact = cKDTree(points[ply["sweep"] == k]).query(world.numpy()[near & moving])[0]
        assert (exact < 1e-4).mean() < 0.1


def test_velocities_are_fields_of_the_cloud(street: tuple[Any, Path]) -> None:
    sweeps, folder = street
    cloud = read_ply(folder / "velocities" / "000001.ply")
    assert np.array_equal(cloud["x"], sweeps[1].points[:, 0])
    speed = np.stack([cloud[axis] for axis in ("vx", "vy", "vz")], 1)
    now, later = sweeps[1].pose, sweeps[2].pose
    moved = transform(later, (sweeps[1].points + sweeps[1].labels.flow).double())
    world = (moved - transform(now, sweeps[1].points.double())) / 0.1
    assert np.allclose(speed, world @ now[:3, :3], atol=1e-3)
    assert np.array_equal(cloud["moving"] > 0, cloud["object"] > 0)


def test_a_copy_of_an_opensceneflow_scene(run: Run, tmp_path: Path) -> None:
    scene = write_opensceneflow(tmp_path / "scene") / "log.h5"
    with h5py.File(scene, "r+") as file:  # a scene of which some sweeps have no instances
        del file[sorted(file)[0]]["flow_instance_id"]
    before = scene.read_bytes()
    study = save(SequencePath.of(scene), tmp_path / "out", ("h5",))
    assert scene.read_bytes() == before
    copy = open_sweeps(study.folder / "log.h5")
    assert torch.equal(copy[0].points, open_sweeps(scene)[0].points)
    with h5py.File(study.folder / "log.h5") as file, h5py.File(scene) as original:
        first, second, last = sorted(file)
        assert np.array_equal(file[first]["invtoolbox"], original[first]["flow"])
        assert file[first]["label"].shape == file[first]["flow_instance_id"].shape == (40,)
        assert np.array_equal(file[first]["label"], file[first]["flow_instance_id"])
        labelled = original[second]["flow_instance_id"]
        assert np.array_equal(file[second]["flow_instance_id"], labelled)
        assert "invtoolbox" not in file[last]
    ran = run("flow", scene, "--out", tmp_path / "cli", "--save", "h5", "labels", "--window", "2")
    assert ran.code == 0 and "saved in" in ran.out, ran.err
    assert (tmp_path / "cli" / "log.h5").is_file()


def test_exports_that_cannot_be_written_are_refused_before_the_run() -> None:
    sequence = SequencePath.of("street", options={"sweeps": 3, "points": 500})
    with pytest.raises(InputError, match="OpenSceneFlow"):
        check_exports(sequence, ["h5"])
    with pytest.raises(InputError, match="map"):
        check_exports(sequence, ["map.laz"], whole=False)
    check_exports(sequence, ["labels", "boxes"], whole=False)


def test_a_gap_ends_tracks_and_a_chosen_sweep_keeps_its_objects(tmp_path: Path) -> None:
    sequence = SequencePath.of("street", options=STREET)
    study = flow_sequence(
        sequence, tmp_path / "out", estimate=true_flow, items=[0, 3], progress=False
    )
    write_exports(study, sequence, ("labels", "boxes"))
    tracks = json.loads((study.folder / "boxes" / "tracks.json").read_text())["tracks"]
    assert tracks and all(len(track["boxes"]) == 1 for track in tracks)
    assert {box["sweep"] for track in tracks for box in track["boxes"]} == {"000000", "000003"}
    assert np.load(study.folder / "labels" / "000003.npy").any()


def test_the_same_bits_twice(tmp_path: Path) -> None:
    sequence = SequencePath.of("street", options={**STREET, "sweeps": 3, "points": 6000})
    folders = [
        save(sequence, tmp_path / name, ("labels", "boxes", "map", "map.laz")).folder
        for name in "ab"
    ]
    files = [
        sorted(p for p in f.rglob("*") if p.suffix in (".label", ".ply", ".txt")) for f in folders
    ]
    assert len(files[0]) == 4
    for one, other in zip(*files, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_the_score_of_a_map_tells_what_was_there_for_a_while(tmp_path: Path) -> None:
    # A round wall of the radius 20 m, and in one of four sweeps a box before it. The sensor drives.
    turn, up = torch.meshgrid(
        torch.linspace(-3.14, 3.14, 900), torch.linspace(-0.1, 0.1, 16), indexing="ij"
    )
    sight = torch.stack([turn.cos(), turn.sin(), up.tan()], 2).flatten(0, 1)
    for k in range(5):
        x = 0.5 * k
        along = x * sight[:, 0]
        reach = -along + (along.square() - x * x + 400).sqrt()
        reach[(sight[:, 1].abs() < 0.05) & (sight[:, 0] > 0) & (k == 1)] = 9.5
        np.save(tmp_path / f"{k:06d}.npy", (reach[:, None] * sight).numpy())
    poses = "".join(f"1 0 0 {0.5 * k} 0 1 0 0 0 0 1 0\n" for k in range(5))
    (tmp_path / "poses.txt").write_text(poses)

    def nothing_moves(source: Sweep, target: Sweep, *_: Any) -> Any:
        none = torch.zeros(len(source), dtype=torch.bool)
        motion = relative_motion(source.pose, target.pose)
        flow = transform(motion, source.points) - source.points
        about = {"dynamic": none, "ground": none, "instance": torch.full((len(source),), -1)}
        facts = {"flow": flow, "ego_motion": motion, "valid": ~none, "method": "none", "notes": ()}
        return SimpleNamespace(**about, **facts)

    sequence = SequencePath.of(tmp_path, options={"poses": str(tmp_path / "poses.txt")})
    out = tmp_path.parent / f"{tmp_path.name}-out"
    study = flow_sequence(sequence, out, estimate=nothing_moves, progress=False)
    write_exports(study, sequence, ("map", "map.pcd", "map.laz"))
    ply = read_ply(out / "map.ply")
    inside = np.hypot(ply["x"], ply["y"]) < 15
    assert inside.sum() > 100 and (~inside).sum() > 10_000
    # The other three sweeps look through the place of the box; nobody looks through the wall.
    assert np.allclose(ply["score"][inside], 0.25)
    assert (ply["score"][~inside] == 1).all()
    assert np.array_equal(read_pcd(out / "map.pcd")["score"], ply["score"])
    assert np.array_equal(laspy.read(out / "map.laz")["score"], ply["score"])
