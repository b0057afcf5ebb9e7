"""Preparation of a pair: what is left, and the way back to a flow of every point."""

import dataclasses
import importlib.util

import pytest
import torch

from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import inverse, transform
from invtoolbox.geometry.sweeps import FlowLabels, Sweep
from invtoolbox.jobs.flow.preparation import Preparation, prepare_pair
from tests.jobs.flow.street import motion, seen_while_moving, street

needs_registration = pytest.mark.skipif(
    importlib.util.find_spec("small_gicp") is None, reason="needs small-gicp (the extra lidar)"
)


@pytest.fixture
def pair():
    """The same street at two times, with poses, bad rows in the first."""
    travel = motion(0.6, 0.0, 2.0)
    points = street(0)[0]
    points[::97] = torch.nan
    first = Sweep(points.float(), pose=torch.eye(4, dtype=torch.float64), source="first.bin")
    return (
        first,
        Sweep(
            transform(inverse(travel), street(1)[0]).float(),
            timestamp=0.1,
            pose=travel,
            source="second.bin",
        ),
        travel,
    )


def test_what_is_left(pair):
    first, second, travel = pair
    prepared = prepare_pair(first, second, Preparation(max_range=25.0, max_height=3.0))
    left = first.points[prepared.index]
    assert (
        torch.equal(prepared.index, torch.unique(prepared.index))
        and prepared.source.dtype == torch.float32
    )
    assert left.isfinite().all() and left[:, :2].norm(dim=1).max() <= 25 and left[:, 2].max() <= 3
    assert not prepared.ground[prepared.index].any() and prepared.ground.float().mean() > 0.3
    torch.testing.assert_close(prepared.source, transform(inverse(travel), left.double()).float())
    assert prepared.second is not None
    assert torch.equal(prepared.target, second.points[prepared.second.index])
    assert torch.equal(prepared.valid, first.finite)
    assert torch.equal(prepared.ego_motion, inverse(travel))


def test_every_point_gets_a_flow(pair):
    first, second, travel = pair
    prepared = prepare_pair(first, second)
    residual = torch.randn(prepared.source.shape, generator=torch.Generator().manual_seed(0))
    flow = prepared.flow(residual)
    assert flow.shape == first.points.shape and torch.equal(flow.isfinite().all(1), first.finite)
    moved = first.points + flow
    torch.testing.assert_close(moved[prepared.index], prepared.source + residual, atol=1e-5, rtol=0)
    others = first.finite.clone()
    others[prepared.index] = False
    torch.testing.assert_close(
        moved[others],
        transform(inverse(travel), first.points[others].double()).float(),
        atol=1e-5,
        rtol=0,
    )
    assert torch.equal(flow.nan_to_num(), prepared.flow(residual).nan_to_num())
    with pytest.raises(InputError, match="prepared points"):
        prepared.flow(residual[:5])


def test_a_pair_that_is_not_deskewed():
    travel = motion(1.5, 0.0, 3.0)
    points = street(0, noise=0.0)[0]
    later = transform(inverse(travel), points)
    share = torch.atan2(points[:, 1], points[:, 0]) / (2 * torch.pi) + 0.5
    first, second = (
        Sweep(
            seen_while_moving(cloud, travel, share).float(),
            timestamp=time,
            time=(0.1 * share).float(),
            deskewed=False,
            pose=pose,
            source=source,
        )
        for cloud, time, pose, source in (
            (points, 0.0, torch.eye(4, dtype=torch.float64), "first.bin"),
            (later, 0.1, travel, "second.bin"),
        )
    )
    prepared = prepare_pair(first, second)
    assert "first.bin: deskewed" in prepared.notes and "second.bin: deskewed" in prepared.notes
    torch.testing.assert_close(prepared.source, later[prepared.index].float(), atol=1e-4, rtol=0)
    # The flow leads from the file to the file: each point of the first to where the second shows
    # it.
    flow = prepared.flow(torch.zeros_like(prepared.source))
    torch.testing.assert_close(first.points + flow, second.points, atol=1e-4, rtol=0)


@needs_registration
def test_without_poses(pair):
    first, second, travel = pair
    bare = prepare_pair(Sweep(first.points), Sweep(second.points))
    truth = transform(inverse(travel), first.points.double())[first.finite]
    error = (first.points + bare.flow(torch.zeros_like(bare.source)))[first.finite] - truth
    assert error.norm(dim=1).mean() < 0.01


def test_labels_are_used_when_asked_for(pair):
    first, second, _ = pair
    low = first.points[:, 2] < 0
    no = torch.zeros_like(low)
    labels = FlowLabels(torch.zeros(len(first), 3), ~no, no, no.long(), (), ground=low)
    labelled = Sweep(first.points, pose=first.pose, labels=labels)
    assert torch.equal(prepare_pair(labelled, second, Preparation(ground="labels")).ground, low)
    assert not torch.equal(prepare_pair(labelled, second).ground, low)
    assert not prepare_pair(labelled, second, Preparation(ground="none")).ground.any()


def test_why_a_sweep_is_not_deskewed_is_said(pair):
    first, second = (dataclasses.replace(sweep, time=None, deskewed=False) for sweep in pair[:2])
    assert "first.bin: not deskewed, its points have no times" in prepare_pair(first, second).notes
    known = dataclasses.replace(first, deskewed=True)
    assert not any("first.bin" in note for note in prepare_pair(known, second).notes)


def test_two_identical_sweeps_are_allowed_and_said(pair):
    first, _, _ = pair
    prepared = prepare_pair(first, first)
    assert any("the same points" in note for note in prepared.notes)
    torch.testing.assert_close(
        prepared.flow(torch.zeros_like(prepared.source))[first.finite],
        torch.zeros(int(first.finite.sum()), 3),
    )


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (torch.zeros(0, 3), "bad.bin is empty"),
        (torch.full((9, 3), torch.nan), "none of its 9 points"),
        (torch.zeros(9, 3), "none of its 9"),
        (torch.ones(5, 3), "5 of 5 points are measurements"),
    ],
)
def test_sweeps_without_points_are_refused(pair, points, words):
    bad = Sweep(points, source="bad.bin")
    for sweeps in ((bad, pair[1]), (pair[0], bad)):
        with pytest.raises(InputError, match=words):
            prepare_pair(*sweeps, Preparation(ego_motion="none"))


def test_sweeps_far_apart_are_refused(pair):
    first, second, _ = pair
    far = Sweep(second.points, pose=motion(500.0), source="second.bin")
    with pytest.raises(InputError, match=r"first\.bin and second\.bin do not overlap"):
        prepare_pair(first, far)
    with pytest.raises(InputError, match="no point is left"):
        prepare_pair(first, second, Preparation(min_height=50.0))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ground": "map"}, "ground"),
        ({"max_range": 0.0}, "max_range"),
        ({"min_height": 2.0, "max_height": 1.0}, "min_height"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(InputError, match=words):
        Preparation(**settings)


def test_the_time_between_sweeps(pair):
    first, second, _ = pair
    assert prepare_pair(first, second).period == pytest.approx(0.1)
    assert not any("time between" in note for note in prepare_pair(first, second).notes)
    unknown = prepare_pair(first, dataclasses.replace(second, timestamp=0.0))
    assert unknown.period == 0.1
    assert "the time between the sweeps is unknown, so 0.1 s are assumed" in unknown.notes
    nanoseconds = dataclasses.replace(second, timestamp=1e8)
    with pytest.raises(InputError, match="divide nanoseconds by 1e9"):
        prepare_pair(first, nanoseconds)
    microseconds = dataclasses.replace(first, time=torch.full((len(first),), 5e4))
    with pytest.raises(InputError, match=r"first\.bin: a point was measured 5e\+04 s .* seconds"):
        prepare_pair(microseconds, second)
