"""Ego motion: from poses, from points with things that move, and refused where sweeps show different places."""

import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from invtoolbox import simulation
from invtoolbox.errors import InputError, MissingDependency
from invtoolbox.geometry.rigid import inverse, relative_motion, rotation_vector, transform
from invtoolbox.geometry.sweeps import Sweep
from invtoolbox.jobs.flow.ego_motion import ego_motion
from invtoolbox.jobs.flow.preparation import prepare_pair
from tests.jobs.flow.street import motion, street

needs_registration = pytest.mark.skipif(
    importlib.util.find_spec("small_gicp") is None, reason="needs small-gicp (the extra lidar)"
)


def apart(found, true):
    """Metres and degrees between two motions."""
    off = inverse(true) @ found
    return float(off[:3, 3].norm()), math.degrees(float(rotation_vector(off[:3, :3]).norm()))


def moved_street(travel, seed=1, car=0.0):
    return Sweep(transform(inverse(travel), street(seed, car=car)[0]).float(), source="second.bin")


def test_from_poses():
    pose, travel = motion(100, 20, 30), motion()
    first, second = (
        Sweep(torch.zeros(1, 3), pose=pose),
        Sweep(torch.zeros(1, 3), pose=pose @ travel),
    )
    found = ego_motion(first, second)
    assert found.how == "poses" and found.matrix.dtype == torch.float64
    torch.testing.assert_close(found.matrix, inverse(travel), atol=1e-12, rtol=0)
    assert torch.equal(ego_motion(first, second, "none").matrix, torch.eye(4, dtype=torch.float64))


@needs_registration
@pytest.mark.parametrize(
    ("travel", "guess"),
    [
        ((0.5, 0.0, 1.0), None),
        ((2.5, 0.1, -4.0), None),
        ((5.0, 0.0, 4.0), None),
        ((8.0, 0.0, 1.0), (7.5, 0.0, 1.0)),
    ],
)
def test_from_points_although_a_car_moves(travel, guess):
    travel = motion(*travel)
    first = Sweep(street(0)[0].float(), source="first.bin")
    found = ego_motion(
        first,
        moved_street(travel, car=1.0),
        "icp",
        None if guess is None else inverse(motion(*guess)),
    )
    metres, degrees = apart(found.matrix, inverse(travel))
    assert metres < 0.01 and degrees < 0.05 and found.how == "icp"
    assert not found.notes


@needs_registration
def test_the_same_bits_twice():
    first, second = Sweep(street(0)[0].float()), moved_street(motion())
    assert torch.equal(ego_motion(first, second).matrix, ego_motion(first, second).matrix)


@needs_registration
@needs_registration
def test_the_axes_of_the_frame_do_not_matter():
    first, second = Sweep(street(0)[0].float()), moved_street(motion(), car=1.0)
    found = ego_motion(first, second).matrix
    turn = motion(0.0, 0.0, 37.0)
    turned = [replace(one, points=transform(turn, one.points.double())) for one in (first, second)]
    metres, degrees = apart(inverse(turn) @ ego_motion(*turned).matrix @ turn, found)
    assert metres < 1e-4 and degrees < 1e-3


def test_a_missing_pose_is_said():
    first, second = (
        Sweep(street(0)[0].float(), pose=motion(), source="first.bin"),
        moved_street(motion()),
    )
    assert any("second.bin has no pose" in note for note in ego_motion(first, second).notes)
    with pytest.raises(InputError, match="second.bin has no pose"):
        ego_motion(first, second, "poses")


@needs_registration
def test_sweeps_of_different_places_are_refused():
    points = street(0)[0].float()
    elsewhere = torch.cat(
        [
            points[points[:, 2] < -1.6],
            points[points[:, 2] >= -1.6] @ torch.diag(torch.tensor([0.0, 0.3, 1.0]))
            + torch.tensor([25.0, 8.0, 0.0]),
        ]
    )
    with pytest.raises(InputError, match=r"first\.bin and second\.bin do not overlap"):
        ego_motion(Sweep(points, source="first.bin"), Sweep(elsewhere, source="second.bin"))


@needs_registration
def test_too_few_points_are_refused():
    few = Sweep(
        10 * torch.rand(50, 3, generator=torch.Generator().manual_seed(0)), source="few.bin"
    )
    with pytest.raises(InputError, match=r"few\.bin.*ego_motion='none'"):
        ego_motion(few, few)


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "small_gicp", None)
    sweep = Sweep(torch.ones(1, 3))
    with pytest.raises(MissingDependency, match=r"small-gicp.*lidar"):
        ego_motion(sweep, sweep)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"how": "gps"}, "must be 'auto'"), ({"how": "icp", "guess": torch.eye(3)}, "4 by 4")],
)
def test_bad_settings(settings, words):
    sweep = Sweep(street(0, step=0.4)[0].float())
    with pytest.raises(InputError, match=words):
        ego_motion(sweep, sweep, **settings)


@needs_registration
@pytest.mark.parametrize("deskew", [True, False])
def test_in_a_simulated_town_to_millimetres(deskew):
    sequence = simulation.street(sweeps=22, seed=1, deskew=deskew)
    first, second = sequence[20], sequence[21]
    found = prepare_pair(replace(first, pose=None), replace(second, pose=None)).ego_motion
    metres, degrees = apart(found, relative_motion(first.pose, second.pose))
    assert metres < 0.004 and degrees < 0.02


@pytest.mark.data
@needs_registration
def test_argoverse_without_its_ego_motion(data_dir: Path) -> None:
    feather = pytest.importorskip("pyarrow.feather")
    folder = next((data_dir / "av2_pair").glob("*/ego_motion.npz")).parent
    first, second = (
        Sweep(
            torch.stack([torch.from_numpy(table[name].to_numpy()).float() for name in "xyz"], dim=1)
        )
        for table in map(
            feather.read_table, sorted((folder / "sensors" / "lidar").glob("*.feather"))
        )
    )
    true = torch.from_numpy(np.load(folder / "ego_motion.npz")["ego_motion"][0]).double()
    found = ego_motion(first, second)
    dynamic = feather.read_table(folder / "flow_labels.feather")["dynamic"].to_numpy(
        zero_copy_only=False
    )
    static = first.points[~torch.tensor(dynamic)].double()
    assert (transform(found.matrix, static) - transform(true, static)).norm(dim=1).mean() < 0.01


@pytest.mark.data
@needs_registration
def test_kitti_sweeps_without_poses(data_dir: Path) -> None:
    folder = data_dir / "kitti_raw5"
    to_camera, *poses = (
        torch.cat([torch.tensor(row).reshape(3, 4), torch.tensor([[0.0, 0, 0, 1]])]).double()
        for row in [
            np.fromstring((folder / "calib_Tr_04-10.txt").read_text().split(":")[-1], sep=" "),
            *np.loadtxt(folder / "poses_odometry07_first10.txt")[:5],
        ]
    )
    sweeps = [
        Sweep(
            torch.from_numpy(
                np.fromfile(folder / f"{k:010d}.bin", np.float32).reshape(-1, 4)[:, :3].copy()
            )
        )
        for k in range(5)
    ]
    poses = [inverse(to_camera) @ pose @ to_camera for pose in poses]
    for k in range(4):
        metres, degrees = apart(
            ego_motion(sweeps[k], sweeps[k + 1]).matrix, relative_motion(poses[k], poses[k + 1])
        )
        assert metres < 0.015 and degrees < 0.06


@needs_registration
def test_inverted_poses_are_refused_and_other_poses_noted() -> None:
    drive = simulation.street(sweeps=4, points=12_000, seed=3)
    first, second = drive[0], drive[1]
    assert ego_motion(first, second).notes == ()
    inverted = [replace(sweep, pose=inverse(sweep.pose)) for sweep in (first, second)]
    with pytest.raises(InputError, match="so invert poses that map the world to the sensor"):
        ego_motion(*inverted)
    late = [replace(sweep, pose=drive[k].pose) for sweep, k in ((first, 1), (second, 3))]
    (note,) = ego_motion(*late).notes
    assert "after registration" in note and "ego_motion='icp'" in note


@needs_registration
def test_inverses_that_fit_no_better_than_other_streets_are_no_evidence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drive = simulation.street(sweeps=2, points=12_000, seed=3)
    overlaps = iter([0.2, 0.35])  # by the poses and by their inverses, both of no use
    module = sys.modules["invtoolbox.jobs.flow.ego_motion"]
    monkeypatch.setattr(module, "_overlap", lambda *_: next(overlaps, 0.0))
    motion = ego_motion(drive[0], drive[1])
    assert motion.how == "poses" and motion.notes == ()


@needs_registration
def test_a_sparse_sweep_is_named() -> None:
    drive = simulation.street(sweeps=2, points=12_000, seed=3)
    few = [Sweep(drive[k].points[k::40]) for k in range(2)]
    with pytest.raises(InputError, match="points are enough"):
        ego_motion(*few)
