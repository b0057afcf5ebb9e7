"""Real sweeps: what the labels of Argoverse 2 mean, in numbers, and poses of KITTI that lay the sweeps on each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from invtoolbox import datasets
from invtoolbox.geometry.rigid import relative_motion, transform
from invtoolbox.geometry.sweeps import flow_from_boxes

pytestmark = pytest.mark.data


def test_argoverse_flow_includes_the_ego_motion(data_dir: Path) -> None:
    data = datasets.Argoverse2(data_dir / "av2_pair")
    sweep, following = data[0], data[1]
    assert sweep.labels is not None and sweep.pose is not None and following.pose is not None
    labels = sweep.labels
    assert (len(sweep), len(following)) == (99_229, 99_466)
    assert (
        int(labels.dynamic.sum()) == 2_037
        and labels.ground is not None
        and int(labels.ground.sum()) == 17_374
    )
    ego = relative_motion(sweep.pose, following.pose)
    stored = torch.from_numpy(
        np.load(next(data_dir.glob("av2_pair/*/ego_motion.npz")))["ego_motion"][0]
    )
    # The file was made from coordinates of 5 km in float32.
    assert float((ego - stored).abs().max()) < 1e-3
    none = labels.category == 0
    standing = transform(stored, sweep.points) - sweep.points
    assert float((labels.flow - standing)[none].norm(dim=1).max()) < 1e-4, (
        "points of no object move as the world does"
    )
    assert float(labels.flow[none].norm(dim=1).mean()) > 0.15, "and that is not nothing"
    assert sweep.time is not None and 0 < float(sweep.time.min()) < float(sweep.time.max()) < 0.11
    assert sweep.ring is not None and (int(sweep.ring.min()), int(sweep.ring.max())) == (0, 63)


def test_flow_from_boxes_is_that_of_the_labels(data_dir: Path) -> None:
    data = datasets.Argoverse2(data_dir / "av2_pair")
    sweep = data[0]
    assert sweep.labels is not None and sweep.labels.instance is not None
    ours = flow_from_boxes(sweep, data[1], categories=sweep.labels.categories)
    error = (ours.flow - sweep.labels.flow).norm(dim=1)
    assert int((error > 0.01).sum()) <= 15 and float(error.median()) < 1e-3, "11 of 99,229 differ"
    assert (
        int((ours.category != sweep.labels.category).sum()) <= 5
        and int((ours.dynamic != sweep.labels.dynamic).sum()) <= 15
    )
    assert ours.instance is not None and torch.equal(ours.instance, sweep.labels.instance)
    # By speed, boxes that stand stay tight, and those that move take in more of what trails them.
    by_speed = flow_from_boxes(sweep, data[1], "speed", sweep.labels.categories)
    assert int(by_speed.dynamic.sum()) > int(ours.dynamic.sum())
    assert int((by_speed.category > 0).sum()) < int((ours.category > 0).sum()) + 400
    flow = datasets.Argoverse2(data_dir / "av2_pair", labels="boxes")[0].labels
    assert flow is not None and torch.equal(flow.flow, ours.flow)


def test_kitti_poses_lay_the_sweeps_on_each_other(data_dir: Path) -> None:
    folder = data_dir / "kitti_raw5"
    data = datasets.open_sweeps(
        folder,
        "kitti-odometry",
        poses=folder / "poses_odometry07_first10.txt",
        calibration=folder / "calib_Tr_04-10.txt",
    )
    first, last = data[0], data[4]
    assert first.pose is not None and last.pose is not None and len(data) == 5
    E = relative_motion(first.pose, last.pose)
    assert E[0, 3] == pytest.approx(-0.39, abs=0.02), "four frames forward"
    tree = cKDTree(last.points.numpy())
    near = first.points[first.points.norm(dim=1) < 30][::20]
    with_poses, without = (
        float(np.median(tree.query(points.numpy())[0])) for points in (transform(E, near), near)
    )
    assert with_poses < 0.05 and with_poses < 0.6 * without, f"{with_poses} m against {without} m"


def test_ouster_frames(data_dir: Path) -> None:
    data = datasets.open_sweeps(data_dir / "ouster_frames")
    sweeps = [data[k] for k in range(len(data))]
    assert [len(sweep) for sweep in sweeps] == [107_647, 107_357, 107_532]
    for sweep in sweeps:
        assert (
            sweep.time is not None
            and sweep.time.min() == 0
            and 0.09 < float(sweep.time.max()) < 0.101
        )
        assert (
            sweep.deskewed is False
            and sweep.pose is None
            and sweep.ring is not None
            and int(sweep.ring.max()) == 127
        )
    assert np.diff([sweep.timestamp for sweep in sweeps]) == pytest.approx(0.1, abs=1e-3)


def test_a_pair_of_ply(data_dir: Path) -> None:
    data = datasets.open_sweeps(data_dir / "small_gicp_pair")
    assert data.names == ["source", "target"] and [len(data[k]) for k in range(2)] == [
        69_792,
        69_088,
    ]
