"""Metrics of scene flow: known answers, agreement with bucketed-scene-flow-eval, sums over sweeps, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from invtoolbox import metrics
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import rigid, rotation, transform
from invtoolbox.geometry.sweeps import FlowLabels, Sweep
from invtoolbox.metrics.flow_scores import EDGES
from tests.metrics import bucketed_reference


def flows(points: int = 500, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(points, 3, generator=generator)
    return truth + 0.1 * torch.randn(points, 3, generator=generator), truth


def scores(
    frames: list[bucketed_reference.Frame],
) -> tuple[metrics.BucketedEPE, metrics.ThreeWayEPE]:
    bucketed, three_way = metrics.BucketedEPE(), metrics.ThreeWayEPE()
    for f in frames:
        points, flow, truth, valid = (
            torch.from_numpy(v) for v in (f.points, f.flow, f.truth, f.valid)
        )
        classes = metrics.meta_class(torch.from_numpy(f.category), bucketed_reference.categories())
        mask = valid & (points[:, :2].abs() < 35).all(1)
        bucketed += metrics.bucketed_epe(flow, truth, classes, mask)
        three_way += metrics.three_way_epe(flow, truth, classes, mask)
    return bucketed, three_way


def assert_agrees(figures: dict[str, Any]) -> None:
    bucketed, three_way = scores(bucketed_reference.frames())
    for name, errors in bucketed.by_class().items():
        assert (errors.static, errors.dynamic) == pytest.approx(figures["bucketed"][name], abs=1e-6)
    static, dynamic = np.mean(list(figures["bucketed"].values()), axis=0)
    assert (bucketed.mean().static, bucketed.mean().dynamic) == pytest.approx(
        (static, dynamic), abs=1e-6
    )
    pooled = three_way.pool()
    assert (pooled.foreground_static, pooled.foreground_dynamic) == pytest.approx(
        figures["three_way"]["FOREGROUND"], abs=1e-6
    )
    assert pooled.background_static == pytest.approx(
        figures["three_way"]["BACKGROUND"][0], abs=1e-6
    )
    assert pooled.averaged == "points" and three_way.per_frame().averaged == "frames"


def test_agrees_with_the_figures_of_bucketed_scene_flow_eval() -> None:
    assert_agrees(json.loads(bucketed_reference.GOLDEN.read_text(encoding="utf-8")))


def test_agrees_with_bucketed_scene_flow_eval_where_it_imports() -> None:
    try:
        figures = bucketed_reference.reference_figures()
    except ImportError as error:
        pytest.skip(
            f"bucketed-scene-flow-eval does not import here ({error}); the golden figures stand in "
            "for it"
        )
    assert_agrees(figures)


def test_the_words_are_those_of_the_reader_of_the_reference() -> None:
    words = bucketed_reference.categories()
    assert words == sorted(words) and len(words) == 30
    assert set(metrics.AV2_META_CLASSES) < set(words)


def test_zero_flow_is_one_truth_is_zero_and_ten_percent_is_a_tenth() -> None:
    for f in bucketed_reference.frames(1):
        truth = torch.from_numpy(f.truth)
        classes = metrics.meta_class(torch.from_numpy(f.category), bucketed_reference.categories())
        for factor, expected in ((0.0, 1.0), (1.0, 0.0), (0.9, 0.1), (1.1, 0.1)):
            errors = metrics.bucketed_epe(factor * truth, truth, classes)
            assert errors.mean().dynamic == pytest.approx(expected, abs=1e-6)
            assert all(
                s.dynamic == pytest.approx(expected, abs=1e-6) for s in errors.by_class().values()
            )


def test_buckets_have_their_lower_edge() -> None:
    assert len(EDGES) == 52 and EDGES[1].item() == pytest.approx(0.04) and math.isinf(EDGES[-1])
    speeds = torch.tensor([0.0, 0.0399, 0.0401, 1.9999, 2.0, 50.0])
    truth = torch.stack([speeds, torch.zeros(6), torch.zeros(6)], dim=1)
    counts = metrics.bucketed_epe(truth, truth, torch.ones(6, dtype=torch.int64)).counts[1]
    assert (
        counts.nonzero().flatten().tolist() == [0, 1, 49, 50]
        and counts.tolist()[50] == 2
        and counts.sum() == 6
    )


def test_sums_do_not_depend_on_how_points_are_spread() -> None:
    flow, truth = flows(600)
    classes = torch.arange(600) % 6 - 1
    whole = metrics.bucketed_epe(flow, truth, classes).mean()
    parts = [
        metrics.bucketed_epe(flow[p], truth[p], classes[p])
        for p in torch.arange(600).split([1, 0, 250, 349])
    ]
    together = sum(parts, metrics.BucketedEPE()).mean()
    assert (together.static, together.dynamic) == pytest.approx(
        (whole.static, whole.dynamic), abs=1e-12, nan_ok=True
    )
    parts3 = [
        metrics.three_way_epe(flow[p], truth[p], classes[p])
        for p in torch.arange(600).split([100, 500])
    ]
    assert sum(parts3, metrics.ThreeWayEPE()).pool().mean == pytest.approx(
        metrics.three_way_epe(flow, truth, classes).pool().mean, nan_ok=True
    )


def test_three_way_pooled_and_per_frame_differ_where_sweeps_differ_in_size() -> None:
    def sweep(count: int, error: float) -> metrics.ThreeWayEPE:
        truth = torch.tensor([1.0, 0.0, 0.0]).expand(count, 3)
        return metrics.three_way_epe(
            truth + torch.tensor([0.0, error, 0.0]), truth, torch.ones(count, dtype=torch.int64)
        )

    both = sweep(30, 0.1) + sweep(10, 0.5)
    assert both.pool().foreground_dynamic == pytest.approx(0.2, abs=1e-6)
    assert both.per_frame().foreground_dynamic == pytest.approx(0.3, abs=1e-6)
    assert math.isnan(both.pool().background_static) and math.isnan(
        both.per_frame().foreground_static
    )
    # A sweep without a moving point does not pull the mean over the sweeps down.
    still = metrics.three_way_epe(
        torch.zeros(5, 3), torch.zeros(5, 3), torch.zeros(5, dtype=torch.int64)
    )
    assert (both + still).per_frame().foreground_dynamic == pytest.approx(0.3, abs=1e-6)


def test_signs_and_animals_are_in_no_class() -> None:
    words = (
        "STOP_SIGN",
        "DOG",
        "Pedestrian",
        "Cyclist",
        "car",
        "bus",
        "background",
        "a word of mine",
    )
    found = metrics.meta_class(torch.arange(-1, len(words)), words)
    assert [metrics.META_CLASSES[k] if k >= 0 else None for k in found.tolist()] == [
        "BACKGROUND",
        None,
        None,
        "PEDESTRIAN",
        "WHEELED_VRU",
        "CAR",
        "OTHER_VEHICLES",
        "BACKGROUND",
        None,
    ]
    own = metrics.meta_class(torch.tensor([7]), words, {"a word of mine": "CAR"})
    assert own.tolist() == [1]
    with pytest.raises(InputError, match="'TRAIN' is no meta-class"):
        metrics.meta_class(torch.tensor([0]), words, {"car": "TRAIN"})
    with pytest.raises(InputError, match="there are 8 words"):
        metrics.meta_class(torch.tensor([8]), words)


def test_accuracies_and_outliers() -> None:
    truth = torch.tensor([[0.0, 0.0, 0.0], [10.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    off = torch.tensor([0.04, 0.45, 0.08, 0.31])
    flow = truth + off[:, None] * torch.tensor([0.0, 1.0, 0.0])
    assert metrics.accuracy_strict(flow, truth).item() == pytest.approx(
        0.5
    )  # the second by its 4.5 %
    assert metrics.accuracy_relax(flow, truth).item() == pytest.approx(0.75)
    # A standing point that is off by 4 cm is an outlier, and so is one off by 45 cm of 10 m.
    assert metrics.outliers(flow, truth).item() == pytest.approx(0.75)
    batch = metrics.accuracy_strict(torch.stack([flow, truth]), torch.stack([truth, truth]))
    assert batch.tolist() == pytest.approx([0.5, 1.0])
    assert metrics.outliers(truth, truth).item() == 0


def test_angles() -> None:
    east, north, none = torch.eye(3)[:1], torch.eye(3)[1:2], torch.zeros(1, 3)
    assert metrics.angle_error(east, north).item() == pytest.approx(math.pi / 2)
    assert metrics.angle_error(-east, 3 * east).item() == pytest.approx(math.pi)
    assert metrics.angle_error(none, none).item() == 0 and metrics.angle_error(
        none, east
    ).item() == pytest.approx(math.pi / 2)
    assert metrics.space_time_angle_error(none, none).item() == 0
    assert metrics.space_time_angle_error(east, none).item() == pytest.approx(
        math.atan(10), abs=1e-6
    )
    assert metrics.space_time_angle_error(east, none, interval=1.0).item() == pytest.approx(
        math.pi / 4, abs=1e-6
    )
    # An angle of 1e-6 survives, which the arc cosine of single precision would lose.
    assert metrics.angle_error(torch.tensor([[1.0, 1e-6, 0.0]]), east).item() == pytest.approx(
        1e-6, rel=1e-3
    )


def test_dynamic_error_leaves_out_ground_far_points_and_unknown_ones() -> None:
    points = torch.tensor(
        [
            [10.0, 0.0, 0.0],
            [30.0, 30.0, 0.0],
            [5.0, 5.0, 40.0],
            [3.0, 0.0, 0.0],
            [3.0, 1.0, 0.0],
            [3.0, 2.0, 0.0],
        ]
    )
    dynamic = torch.tensor([True, True, True, True, True, False])
    ground = torch.tensor([False, False, False, True, False, False])
    valid = torch.tensor([True, True, True, True, False, True])
    truth = torch.tensor([1.0, 100.0, 2.0, 100.0, math.nan, 0.5])[:, None] * torch.tensor(
        [1.0, 0.0, 0.0]
    )
    flow = torch.zeros(6, 3)
    # The second lies 42 m away along the ground; height does not count.
    assert metrics.dynamic_end_point_error(
        flow, truth, points, dynamic, ground, valid
    ).item() == pytest.approx(1.5)
    assert metrics.static_end_point_error(
        flow, truth, points, dynamic, ground, valid
    ).item() == pytest.approx(0.5)
    parts = metrics.range_wise_epe(flow, truth, points, dynamic, valid & ~ground)
    assert [(p.near, p.dynamic_points, p.static_points) for p in parts[:3]] == [
        (0, 2, 1),
        (35, 1, 0),
        (50, 0, 0),
    ]
    assert parts[1].dynamic == pytest.approx(100) and math.isnan(parts[1].static)
    with pytest.raises(InputError, match="leaves no point"):
        metrics.dynamic_end_point_error(flow, truth, points, torch.zeros(6, dtype=torch.bool))
    with pytest.raises(InputError, match="rising"):
        metrics.range_wise_epe(flow, truth, points, dynamic, edges=(0, 50, 35))


def test_trajectories() -> None:
    truth = torch.zeros(4, 2, 3)
    tracks = truth.clone()
    tracks[:, 0, 0] = torch.tensor([0.0, 1.0, 2.0, 3.0])
    errors = metrics.trajectory_errors(tracks, truth)
    assert (errors.mean, errors.final) == pytest.approx(
        (1.0, 1.5)
    ) and errors.over_time.tolist() == pytest.approx([0, 0.5, 1, 1.5])
    valid = torch.ones(4, 2, dtype=torch.bool)
    valid[2:, 0] = False
    errors = metrics.trajectory_errors(
        tracks, torch.where(valid[..., None], truth, math.nan), valid
    )
    assert (errors.mean, errors.final) == pytest.approx(
        (1 / 4, 0.5)
    )  # the first point's last known place is at time 1
    with pytest.raises(InputError, match="needs the first and one more"):
        metrics.trajectory_errors(tracks[:1], truth[:1])
    with pytest.raises(InputError, match="no point is known"):
        metrics.trajectory_errors(tracks, truth, torch.zeros(4, 2, dtype=torch.bool))


def labelled(points: int = 400, seed: int = 3) -> tuple[Sweep, Tensor, Tensor]:
    """A sweep with a moving half, the sensor's motion, and the true flow without it."""
    generator = torch.Generator().manual_seed(seed)
    where = 60 * torch.rand(points, 3, generator=generator) - 30
    E = rigid(
        rotation(torch.tensor([0.0, 0.0, 0.02], dtype=torch.float64)),
        torch.tensor([-1.0, 0.1, 0.0], dtype=torch.float64),
    )
    residual = torch.zeros(points, 3)
    residual[: points // 2, 0] = 0.1 + torch.rand(points // 2, generator=generator)
    category = torch.where(torch.arange(points) < points // 2, torch.arange(points) % 2, -1)
    flow = (transform(E, where.double()) - where.double() + residual).float()
    every = torch.ones(points, dtype=torch.bool)
    labels = FlowLabels(
        flow,
        every,
        residual.norm(dim=1) > 0,
        category,
        ("PEDESTRIAN", "REGULAR_VEHICLE"),
        ground=~every,
    )
    return Sweep(where, labels=labels, source="made"), E, residual


def test_evaluate_removes_the_sensors_motion() -> None:
    sweep, E, residual = labelled()
    assert sweep.labels is not None
    standing = (transform(E, sweep.points.double()) - sweep.points.double()).float()
    zero = metrics.evaluate(standing, sweep, E)
    near = sweep.points[:, :2].norm(dim=1) < 35
    assert zero.points == int(near.sum())
    assert zero.dynamic == pytest.approx(
        residual[near & sweep.labels.dynamic].norm(dim=1).mean().item(), abs=1e-5
    )
    assert zero.static == pytest.approx(
        0, abs=1e-5
    ) and zero.bucketed.mean().dynamic == pytest.approx(1, abs=1e-4)
    truth = metrics.evaluate(sweep.labels.flow, sweep, E)
    assert truth.dynamic == truth.epe == truth.bucketed.mean().dynamic == 0 and truth.strict == 1
    assert truth.three_way.pool().foreground_dynamic == 0 and math.isnan(
        truth.three_way.pool().foreground_static
    )


def test_evaluate_takes_poses_objects_and_points_that_are_not_finite() -> None:
    sweep, E, _ = labelled()
    assert sweep.labels is not None
    pose = rigid(
        rotation(torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)),
        torch.tensor([5.0, 6.0, 7.0], dtype=torch.float64),
    )
    posed = Sweep(sweep.points, pose=pose, labels=sweep.labels)

    class Estimate:
        flow = sweep.labels.flow + 0.1

    by_pose = metrics.evaluate(Estimate(), posed, next_pose=pose @ torch.linalg.inv(E))
    assert by_pose.epe == pytest.approx(0.1 * math.sqrt(3), abs=1e-5)
    broken = sweep.points.clone()
    broken[7] = math.nan
    flow = sweep.labels.flow.clone()
    flow[7] = math.nan
    assert metrics.evaluate(flow, Sweep(broken, labels=sweep.labels), E).epe == 0
    with pytest.raises(InputError, match="1 labelled points have no finite flow"):
        metrics.evaluate(flow, sweep, E)
    with pytest.raises(InputError, match="no flow labels"):
        metrics.evaluate(flow, Sweep(sweep.points), E)
    with pytest.raises(InputError, match="the true motion of the sensor"):
        metrics.evaluate(flow, sweep)
    with pytest.raises(InputError, match="has no pose"):
        metrics.evaluate(flow, sweep, next_pose=E)


def test_pairs_pool_by_points_and_make_a_row() -> None:
    (one, E, _), (two, _, _) = labelled(400), labelled(200, seed=5)
    assert one.labels is not None and two.labels is not None
    parts = [
        metrics.evaluate(s.labels.flow + d, s, E)
        for s, d in ((one, 0.1), (two, 0.4))
        if s.labels is not None
    ]
    pooled = metrics.pool(parts)
    expected = (
        math.sqrt(3)
        * (0.1 * parts[0].points + 0.4 * parts[1].points)
        / (parts[0].points + parts[1].points)
    )
    assert (
        pooled.epe == pytest.approx(expected, rel=1e-4)
        and pooled.points == parts[0].points + parts[1].points
    )
    assert len(pooled.three_way.counts) == 2 and len(pooled.row()) == len(
        metrics.FlowErrors.COLUMNS
    )
    assert sum(r.dynamic_points for r in pooled.ranges) == sum(
        r.dynamic_points for p in parts for r in p.ranges
    )
    assert metrics.pool([parts[0]]).row() == parts[0].row()
    with pytest.raises(InputError, match="no errors"):
        metrics.pool([])


def test_points_without_a_flow_are_not_counted_as_right() -> None:
    flow, truth = flows(10)
    flow[3] = math.nan
    classes = torch.ones(10, dtype=torch.int64)
    for measure in (metrics.bucketed_epe, metrics.three_way_epe):
        with pytest.raises(InputError, match="1 points that count"):
            measure(flow, truth, classes)
        measure(flow, truth, classes, torch.arange(10) != 3)
    assert math.isnan(metrics.end_point_error(flow, truth))


@pytest.mark.data
def test_zero_flow_on_a_real_pair(data_dir: Path) -> None:
    feather = pytest.importorskip("pyarrow.feather")
    folder = data_dir / "av2_pair" / "7fab2350-7eaf-3b7e-a39d-6937a4c1bede"
    table = feather.read_table(folder / "flow_labels.feather")
    column = {name: torch.from_numpy(table[name].to_numpy().copy()) for name in table.column_names}
    cloud = feather.read_table(folder / "sensors" / "lidar" / "315966265259836000.feather")
    points = torch.from_numpy(
        np.stack([cloud[c].to_numpy() for c in "xyz"], axis=1).astype(np.float32)
    )
    E = torch.from_numpy(np.load(folder / "ego_motion.npz")["ego_motion"][0]).double()
    flow = torch.stack([column[f"flow_t{c}_m"] for c in "xyz"], dim=1).float()
    words = bucketed_reference.categories()
    labels = FlowLabels(
        flow,
        torch.ones(len(flow), dtype=torch.bool),
        column["dynamic"],
        column["classes"].long() - 1,
        tuple(words),
        ground=column["is_ground_0"],
    )
    sweep = Sweep(points, labels=labels, source="av2_pair")
    standing = (transform(E, points.double()) - points.double()).float()
    errors = metrics.evaluate(standing, sweep, E)
    assert errors.bucketed.mean().dynamic == pytest.approx(1, abs=1e-5)
    assert (
        errors.dynamic == pytest.approx(0.674, abs=0.002)
        and errors.static < 0.001
        and errors.dynamic_points == 1819
    )
    assert metrics.evaluate(flow, sweep, E).epe == 0
