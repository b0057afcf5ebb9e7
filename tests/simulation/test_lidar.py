"""The simulated street: labels that are exact, draws that are a function of seed and sweep, and a sensor's own faults."""

from __future__ import annotations

import pickle
from functools import cache

import pytest
import torch
from torch import Tensor

from invtoolbox import simulation
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import inverse, part_of, relative_motion, transform
from invtoolbox.geometry.sweeps import Sweep, flow_from_boxes, pairs
from invtoolbox.simulation.lidar import SimulatedSequence, SpinningLidar
from invtoolbox.simulation.town import random_town
from invtoolbox.simulation.world import Part, Route, Speed, Street, Thing, Track

F64 = torch.float64
QUIET = SpinningLidar(rings=24, azimuths=360, noise_std=0.0, dropout=(0.0, 0.0))


@cache
def quiet(
    rolling_shutter: bool = True, deskew: bool = True, start: float = 3.0
) -> SimulatedSequence:
    return SimulatedSequence(
        random_town(4), QUIET, sweeps=4, rolling_shutter=rolling_shutter, deskew=deskew, start=start
    )


def frames_at(sequence: SimulatedSequence, k: int, share: Tensor) -> Tensor:
    """The sensor's pose at shares of a turn."""
    return sequence.pose(k) @ part_of(
        relative_motion(sequence.pose(k + 1), sequence.pose(k)), share
    )


def in_the_world(sequence: SimulatedSequence, k: int, points: Tensor, share: Tensor) -> Tensor:
    if sequence.deskew:
        return transform(sequence.pose(k), points.double())
    frames = frames_at(sequence, k, share)
    return (frames[:, :3, :3] @ points.double()[..., None]).squeeze(-1) + frames[:, :3, 3]


def off_the_surface(kind: str, half_size: Tensor, local: Tensor) -> Tensor:
    """How far points in a primitive's frame are from its surface, by the level function over its slope, metres."""
    q = local / half_size
    if kind == "plane":
        return local[:, 2].abs()
    if kind == "box":
        return (q.abs() - 1).mul(half_size).amax(1).abs()
    if kind == "cylinder":
        radial = (q[:, :2].norm(dim=1) - 1) * half_size[:2].min()
        return torch.maximum(radial, (q[:, 2].abs() - 1) * half_size[2]).abs()
    return (q.norm(dim=1) - 1).abs() * half_size.min()


def things_off(sequence: SimulatedSequence, thing: int, pose: Tensor, world: Tensor) -> Tensor:
    """The distance of points from the nearest surface of a thing that stands at a pose of each point's own, ``(N, 4, 4)``."""
    back = inverse(pose)
    local = (back[:, :3, :3] @ world[..., None]).squeeze(-1) + back[:, :3, 3]
    parts = sequence.street.things[thing].parts
    return torch.stack(
        [
            off_the_surface(
                part.kind,
                torch.tensor(part.half_size, dtype=F64),
                local - torch.tensor(part.middle, dtype=F64),
            )
            for part in parts
        ]
    ).amin(0)


@pytest.mark.parametrize(
    ("rolling_shutter", "deskew"), [(True, True), (True, False), (False, True)]
)
def test_a_point_goes_with_the_surface_that_it_lies_on(rolling_shutter: bool, deskew: bool) -> None:
    sequence = quiet(rolling_shutter, deskew)
    k, period = 1, 0.1
    sweep, street = sequence[k], sequence.street
    assert sweep.labels is not None and sweep.labels.instance is not None and sweep.time is not None
    share = sweep.time.double() / period
    now = in_the_world(sequence, k, sweep.points, share)
    later = in_the_world(sequence, k + 1, sweep.points + sweep.labels.flow, share)
    poses = [street.poses(sequence.time_of(k + step)) for step in range(3)]
    checked = 0
    for number, thing in enumerate(street.labelled.tolist()):
        rows = (sweep.labels.instance == number).nonzero().squeeze(1)
        if len(rows) == 0:
            continue
        for j, world in ((0, now), (1, later)):
            pose = poses[j][thing] @ part_of(
                relative_motion(poses[j + 1][thing], poses[j][thing]), share[rows]
            )
            assert float(things_off(sequence, thing, pose, world[rows]).max()) < 1e-4
        checked += int(sweep.labels.dynamic[rows].any())
    assert checked >= 5
    # What has no box stands, and its points stay where they are in the world.
    still = sweep.labels.instance < 0
    torch.testing.assert_close(now[still], later[still], rtol=0, atol=1e-4)


def test_what_stands_flows_with_the_sensor_alone() -> None:
    for rolling_shutter in (True, False):
        sequence = quiet(rolling_shutter)
        for _, sweep, after in pairs(sequence):
            assert (
                sweep.labels is not None
                and sweep.pose is not None
                and after.pose is not None
                and sweep.deskewed
            )
            E = relative_motion(sweep.pose, after.pose)
            residual = (
                sweep.labels.flow - (transform(E, sweep.points.double()) - sweep.points).float()
            )
            standing = sweep.labels.instance == -1
            assert float(residual[standing].abs().max()) < 1e-5
            assert float(residual[~sweep.labels.dynamic].norm(dim=1).max()) <= 0.05 + 1e-5
            assert float(residual[sweep.labels.dynamic].norm(dim=1).min()) > 0.05 - 1e-5
            assert bool(sweep.labels.dynamic.any()) and not bool(
                (sweep.labels.dynamic & standing).any()
            )


def test_what_moves_has_the_speed_of_its_route() -> None:
    sequence = quiet()
    sweep, street = sequence[0], sequence.street
    assert (
        sweep.labels is not None and sweep.labels.instance is not None and sweep.boxes is not None
    )
    E = relative_motion(sequence.pose(0), sequence.pose(1))
    residual = sweep.labels.flow.double() - (transform(E, sweep.points.double()) - sweep.points)
    seen = 0
    for number, thing in enumerate(street.labelled.tolist()):
        rows = sweep.labels.instance == number
        place = street.things[thing].place
        if isinstance(place, tuple) or not bool(rows.any()):
            continue
        turn = street.primitives(sequence.time_of(0), 0.1).turn[street.owner == thing][0]
        if float(turn.norm()) == 0:
            speeds = [place.speed.at(place.clock + sequence.time_of(0) + t) for t in (0.0, 0.2)]
            mean = residual[rows].norm(dim=1) / 0.1
            assert (
                min(speeds) - 1e-4 <= float(mean.min()) and float(mean.max()) <= max(speeds) + 1e-4
            )
            seen += 1
    assert seen >= 4


def test_speeds_that_turn_brake_and_stand_all_occur() -> None:
    street = random_town(4)
    speeds, turns = [], []
    for time in range(0, 40, 2):
        primitives = street.primitives(float(time), 0.1)
        speeds.append(primitives.way.norm(dim=1) / 0.1)
        turns.append(primitives.turn.norm(dim=1))
    moving = torch.isin(street.owner, street.moving)
    speed, turn = torch.stack(speeds)[:, moving], torch.stack(turns)[:, moving]
    assert bool((speed == 0).any(0).float().mean() > 0.5) and float(speed.max()) < 9.1
    assert 0.02 < float((turn > 1e-3).double().mean()) < 0.6
    assert (
        float(torch.stack(speeds)[:, ~moving].max()) == 0
        and float(torch.stack(turns)[:, ~moving].max()) == 0
    )


def test_nobody_runs_into_anybody() -> None:
    street = random_town(1)
    boxes = [k for k in street.labelled.tolist() if street.things[k].category != "PEDESTRIAN"]
    half = torch.tensor([street.things[k].size for k in boxes], dtype=F64)[:, :2] / 2
    # Circles along each body, half as wide as it is.
    along = torch.linspace(-1, 1, 7, dtype=F64)
    for time in torch.linspace(0, 60, 40).tolist():
        poses = torch.cat(
            [
                street.frame.inverse() @ street.poses(time)[boxes],
                (street.frame.inverse() @ street.ego_pose(time))[None],
            ]
        )
        sizes = torch.cat([half, torch.tensor([[2.2, 0.9]], dtype=F64)])
        reach = along * (sizes[:, :1] - sizes[:, 1:])
        centres = poses[:, None, :2, 3] + reach[..., None] * poses[:, None, :2, 0]
        apart = (
            torch.cdist(centres.flatten(0, 1), centres.flatten(0, 1))
            .view(len(poses), 7, len(poses), 7)
            .amin((1, 3))
        )
        apart = apart - sizes[:, 1] - sizes[:, 1, None] + 1e3 * torch.eye(len(poses), dtype=F64)
        assert float(apart.min()) > 0.05, time


def test_rolling_shutter_shifts_raw_points_by_the_sensors_motion() -> None:
    raw, deskewed = quiet(True, False)[2], quiet(True, True)[2]
    assert raw.deskewed is False and deskewed.deskewed and raw.time is not None
    assert torch.equal(raw.ring, deskewed.ring) and torch.equal(raw.time, deskewed.time)
    sequence = quiet()
    parts = part_of(relative_motion(sequence.pose(3), sequence.pose(2)), raw.time.double() / 0.1)
    moved = (parts[:, :3, :3] @ raw.points.double()[..., None]).squeeze(-1) + parts[:, :3, 3]
    torch.testing.assert_close(moved, deskewed.points.double(), rtol=0, atol=1e-5)
    assert float((raw.points - deskewed.points).norm(dim=1).max()) > 0.3
    assert bool((raw.time.diff() >= 0).all()) and float(raw.time.max()) < 0.1
    instant = quiet(False)[2]
    assert instant.time is not None and float(instant.time.abs().max()) == 0 and instant.deskewed


def test_raw_static_flow_is_the_motion_over_one_period() -> None:
    sequence = quiet(True, False)
    sweep = sequence[0]
    assert sweep.labels is not None and sweep.time is not None
    share = sweep.time.double() / 0.1
    E = inverse(frames_at(sequence, 1, share)) @ frames_at(sequence, 0, share)
    expected = (
        (E[:, :3, :3] @ sweep.points.double()[..., None]).squeeze(-1) + E[:, :3, 3] - sweep.points
    )
    still = sweep.labels.instance == -1
    torch.testing.assert_close(
        sweep.labels.flow[still].double(), expected[still], rtol=0, atol=1e-5
    )


def same(a: Sweep, b: Sweep) -> bool:
    assert (
        a.labels is not None
        and b.labels is not None
        and a.intensity is not None
        and b.intensity is not None
    )
    return (
        torch.equal(a.points, b.points)
        and torch.equal(a.labels.flow, b.labels.flow)
        and torch.equal(a.intensity, b.intensity)
    )


def test_a_sweep_is_a_function_of_seed_and_number() -> None:
    first = simulation.street(sweeps=5, points=2000)
    third = first[3]
    assert same(third, simulation.street(sweeps=9, points=2000)[3]) and same(third, first[-2])
    assert not torch.equal(third.points, simulation.street(sweeps=5, points=2000, seed=1)[3].points)
    other = SimulatedSequence(first.street, first.lidar, sweeps=5, seed=7)
    assert not torch.equal(other[3].points, third.points) and torch.equal(
        other.pose(3), first.pose(3)
    )
    with pytest.raises(IndexError):
        first[5]


def wall(distance: float) -> Street:
    """A wall across the road ahead, and nothing else."""
    box = Part("box", (0.5, 500.0, 500.0), (distance + 0.5, 0.0, 0.0))
    return Street((Thing("wall", (box,), (0.0, 0.0, 0.0, 0.0)),), standing())


def standing() -> Route:
    return Route(Track((0.0, -10.0), 10.0, 5.0), Speed.steady(0.0))


def test_noise_and_dropout_have_their_statistics() -> None:
    lidar = SpinningLidar(
        rings=100, azimuths=720, elevation=(-1.0, 1.0), noise_std=0.03, dropout=(0.05, 0.6)
    )
    lost = []
    for distance in (20.0, 80.0):
        sequence = SimulatedSequence(wall(distance), lidar, sweeps=1)
        clean = SimulatedSequence(
            wall(distance),
            SpinningLidar(100, 720, (-1.0, 1.0), noise_std=0.0, dropout=(0.0, 0.0)),
            sweeps=1,
        )[0]
        sweep = sequence[0]
        ahead = clean.points[:, 1].abs() < 0.1 * distance
        rays = len(clean.points[ahead])
        back = sweep.points[:, 1].abs() < 0.1 * distance
        lost.append(1 - len(sweep.points[back]) / rays)
        assert lost[-1] == pytest.approx(float(lidar.dropout_at(torch.tensor(distance))), abs=0.03)
        points = sweep.points[back].double()
        error = points.norm(dim=1) - distance / (points[:, 0] / points.norm(dim=1))
        assert (
            float(error.std()) == pytest.approx(0.03, rel=0.1) and abs(float(error.mean())) < 0.003
        )
    assert lost[0] < lost[1]


def test_what_a_sweep_holds() -> None:
    sequence = SimulatedSequence(random_town(0), SpinningLidar(tilt=(1.0, -2.0)), sweeps=1)
    sweep = sequence[0]
    labels, boxes = sweep.labels, sweep.boxes
    assert (
        labels is not None
        and boxes is not None
        and labels.ground is not None
        and sweep.intensity is not None
    )
    assert (
        50_000 < len(sweep) < 66_000
        and bool(sweep.finite.all())
        and sweep.points.dtype == torch.float32
    )
    assert float(sweep.intensity.min()) >= 0 and float(sweep.intensity.max()) <= 1
    assert 0.3 < float(labels.ground.float().mean()) < 0.7 and {
        int(c) for c in labels.category.unique()
    } >= {0, 1, 3}
    assert (
        sweep.pose is not None
        and sweep.pose.dtype == F64
        and float((sweep.pose[:3, 2] - torch.tensor([0.0, 0, 1])).norm()) > 0.01
    )
    level = transform(sequence.street.frame.inverse() @ sweep.pose, sweep.points.double())
    assert (
        float(level[labels.ground, 2].min()) > -0.1 and float(level[labels.ground, 2].max()) < 0.25
    )
    assert float(level[~labels.ground, 2].min()) > -0.1
    # Points of a parked car lie in its box.
    for k in range(len(boxes)):
        number = [sequence.street.things[j].name for j in sequence.street.labelled.tolist()].index(
            boxes.track[k]
        )
        mine = transform(inverse(boxes.pose[k]), sweep.points[labels.instance == number].double())
        if boxes.track[k].startswith("parked"):
            assert bool((mine.abs() <= boxes.size[k] / 2 + 0.12).all())


def test_faults_are_named() -> None:
    for bad in (
        {"rings": 0},
        {"rate": 0.0},
        {"noise_std": -1.0},
        {"dropout": (0.5, 0.1)},
        {"near": 200.0},
    ):
        with pytest.raises(InputError):
            SpinningLidar(**bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="odd number"):
        random_town(blocks=2)
    with pytest.raises(InputError, match="traffic"):
        random_town(traffic=-1.0)
    with pytest.raises(InputError, match="got 0"):
        simulation.street(points=0)
    with pytest.raises(InputError, match="got -1"):
        SimulatedSequence(random_town(), sweeps=-1)
    with pytest.raises(InputError, match="category"):
        Thing("x", (), (0.0, 0.0, 0.0, 0.0), "DRAGON")
    with pytest.raises(InputError, match="one name"):
        Street((Thing("x", (), (0.0,) * 4), Thing("x", (), (0.0,) * 4)), random_town().ego)


def test_a_town_without_traffic_stands_still() -> None:
    sweep = simulation.street(sweeps=1, points=4000, traffic=0.0)[0]
    assert sweep.labels is not None and not bool(sweep.labels.dynamic.any())


def test_moving_points_land_beside_what_the_next_sweep_sees() -> None:
    sweep, after = simulation.street(sweeps=2, points=20_000, seed=2)
    assert sweep.labels is not None
    rows = sweep.labels.dynamic
    before, with_flow = (
        torch.cdist(p[rows], after.points).amin(1).median()
        for p in (sweep.points, sweep.points + sweep.labels.flow)
    )
    assert float(with_flow) < 0.15 < 0.4 < float(before)


def test_travels_to_a_worker() -> None:
    sequence = simulation.street(sweeps=2, points=1000)
    assert same(pickle.loads(pickle.dumps(sequence))[1], sequence[1])


def test_labels_are_those_that_the_boxes_give() -> None:
    sweep, after = quiet(rolling_shutter=False)[0], quiet(rolling_shutter=False)[1]
    exact, other = sweep.labels, flow_from_boxes(sweep, after, expansion=0.02)
    assert exact is not None and exact.instance is not None and other.instance is not None
    # Boxes hold some ground and walls, and leave out what stands out of them; on what both say is
    # of an object, they agree.
    both = (exact.instance >= 0) & (other.instance >= 0) & other.valid
    assert int(both.sum()) > 200 and float(both.sum() / (exact.instance >= 0).sum()) > 0.9
    torch.testing.assert_close(other.flow[both], exact.flow[both], rtol=0, atol=1e-4)
    background = (exact.instance < 0) & (other.instance < 0)
    torch.testing.assert_close(other.flow[background], exact.flow[background], rtol=0, atol=1e-5)
    named = flow_from_boxes(
        sweep, after, categories=("REGULAR_VEHICLE", "PEDESTRIAN", "BICYCLIST", "BOX_TRUCK")
    )
    assert named.category[named.instance < 0].unique().tolist() == [-1], (
        "what lies in no box is none of the words"
    )
