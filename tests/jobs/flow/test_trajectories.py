"""Tracks and the accumulated cloud: rigid motions are followed exactly, both ways, and memory and ghosts are bounded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from invtoolbox import simulation
from invtoolbox.datasets.ply import ply_stream, read_ply
from invtoolbox.datasets.sweeps.flow_files import read_flow, write_flow
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import inverse, relative_motion, rigid, rotation, transform
from invtoolbox.geometry.sweeps import Sweep
from invtoolbox.jobs.flow.accumulation import Accumulation, Cells, accumulate, write_accumulated
from invtoolbox.jobs.flow.trajectories import FiledFlow, FlowStep, Tracks, carry, carry_back, track
from invtoolbox.metrics import trajectory_errors

#: Where the car's body starts, and how it moves in the world from sweep to sweep.
_TURN = rigid(
    rotation(torch.tensor([0.0, 0.0, 0.05], dtype=torch.float64)),
    torch.tensor([0.8, 0.1, 0.0], dtype=torch.float64),
)


def body() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(300, 3, generator=generator, dtype=torch.float64) * torch.tensor(
        [4.0, 1.8, 1.5]
    ) + torch.tensor([5.0, 2.0, 0.3])


def wall() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(500, 3, generator=generator, dtype=torch.float64) * torch.tensor(
        [30.0, 0.1, 3.0]
    ) + torch.tensor([-5.0, -8.0, 0.0])


class Street:
    """A car that turns, a wall, and a sensor that drives; each sweep sees its own half of the points."""

    def __init__(self, sweeps: int = 6, with_poses: bool = False) -> None:
        self.sweeps, self.with_poses, self.read = sweeps, with_poses, [0] * sweeps

    def __len__(self) -> int:
        return self.sweeps

    def pose(self, k: int) -> Tensor:
        return rigid(
            rotation(torch.tensor([0.0, 0.0, 0.02 * k], dtype=torch.float64)),
            torch.tensor([0.5 * k, 0.1 * k, 0.0]).double(),
        )

    def car(self, k: int) -> Tensor:
        """The body in the world at sweep k."""
        return transform(torch.linalg.matrix_power(_TURN, k), body())

    def seen(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of the body and of the wall, and the car's points of sweep k in the world."""
        generator = torch.Generator().manual_seed(100 + k)
        return (
            torch.randperm(300, generator=generator)[:150],
            torch.randperm(500, generator=generator)[:250],
            self.car(k),
        )

    def __getitem__(self, k: int) -> FlowStep:
        self.read[k] += 1
        rows, standing, car = self.seen(k)
        E = relative_motion(self.pose(k), self.pose(k + 1))
        world = torch.cat([car[rows], wall()[standing]])
        later = torch.cat([self.car(k + 1)[rows], wall()[standing]])
        points = transform(inverse(self.pose(k)), world)
        flow = transform(inverse(self.pose(k + 1)), later) - points
        return FlowStep(
            points.float(),
            flow.float(),
            E,
            torch.arange(400) < 150,
            pose=self.pose(k) if self.with_poses else None,
            name=f"{k:06d}",
        )

    def steps(self) -> Iterator[FlowStep]:
        return (self[k] for k in range(len(self)))


def followed(street: Street) -> tuple[Tracks, Tensor]:
    """The tracks of the points of sweep 0, and where they truly went, each time in the sensor's frame."""
    rows, standing, _ = street.seen(0)
    truth = [
        transform(inverse(street.pose(k)), torch.cat([street.car(k)[rows], wall()[standing]]))
        for k in range(len(street) + 1)
    ]
    return track(street[0].points, street.steps()), torch.stack(truth)


def test_measured_points_take_their_own_flow_and_others_their_neighbours() -> None:
    step = Street()[0]
    moved, seen = carry(step.points, step)
    assert seen.all() and (moved - step.points.double() - step.flow.double()).abs().max() < 1e-6
    constant = FlowStep(torch.rand(50, 3), torch.ones(50, 3), torch.eye(4))
    between, seen = carry(torch.rand(20, 3), constant)
    assert (
        seen.all()
        and (between.max() <= 2)
        and (carry(torch.full((1, 3), 0.5), constant)[0] - 1.5).abs().max() < 1e-6
    )


def test_back_is_the_inverse_of_forth() -> None:
    step = Street()[2]
    there, _ = carry(step.points, step)
    back, seen = carry_back(there, step)
    assert seen.all() and (back - step.points.double()).abs().max() < 1e-6


def test_tracks_follow_a_turning_car_and_a_standing_wall() -> None:
    tracks, truth = followed(Street())
    assert tracks.positions.shape == (7, 400, 3) and tracks.known.double().mean() > 0.98
    errors = trajectory_errors(tracks.positions, truth)
    # The car turns by 17 degrees and goes 5 m; its sampled flow is interpolated between other
    # points each time.
    assert (
        errors.final < 0.05
        and (tracks.positions[-1, :150] - truth[-1, :150]).norm(dim=1).max() < 0.4
    )
    assert (tracks.positions[-1, 150:] - truth[-1, 150:]).norm(dim=1).max() < 1e-4
    still = transform(inverse(tracks.motions), tracks.positions)[:, 150:]
    assert (still - still[0]).abs().max() < 1e-4
    assert (
        tracks.motions[-1] - relative_motion(Street().pose(0), Street().pose(6))
    ).abs().max() < 1e-9


def test_a_lost_point_stands_in_the_world_and_is_not_known() -> None:
    street = Street(3)
    far = torch.tensor([[0.0, 40.0, 0.0], [float("nan")] * 3])
    tracks = track(far, street.steps())
    assert (
        tracks.known[:, 0].tolist() == [True, False, False, False] and not tracks.known[:, 1].any()
    )
    still = transform(inverse(tracks.motions), tracks.positions)[:, 0]
    assert (still - still[0]).abs().max() < 1e-9


def test_the_road_does_not_slow_a_car_down() -> None:
    road = torch.tensor([[x / 10, 0.0, 0.0] for x in range(10)])
    car = torch.tensor([[x / 10 + 0.05, 0.0, 0.06] for x in range(10)])
    flow = torch.cat([torch.zeros(10, 3), torch.tensor([1.0, 0.0, 0.0]).expand(10, 3)])
    query = torch.tensor([[0.5, 0.0, 0.05]])
    blended, _ = carry(query, FlowStep(torch.cat([road, car]), flow, torch.eye(4)))
    decided, _ = carry(
        query, FlowStep(torch.cat([road, car]), flow, torch.eye(4), dynamic=torch.arange(20) >= 10)
    )
    assert blended[0, 0] < 1.45 and decided[0, 0] == pytest.approx(1.5)


def test_a_point_whose_object_is_hidden_follows_what_moves() -> None:
    road = torch.tensor([[x / 10, 0.0, 0.0] for x in range(-10, 60)])
    rear = torch.tensor([[0.0, 0.0, 0.1], [0.6, 0.0, 0.1]])
    ahead = torch.tensor([1.0, 0.0, 0.0])

    def step(car: Tensor) -> FlowStep:
        flow = torch.cat([torch.zeros_like(road), ahead.expand_as(car)])
        return FlowStep(
            torch.cat([road, car]), flow, torch.eye(4), torch.arange(70 + len(car)) >= 70
        )

    # In the second sweep the rear end is not seen, but the front is.
    tracks = track(rear[:1], [step(rear), step(rear[1:] + ahead), step(rear + 2 * ahead)])
    assert tracks.positions[:, 0, 0].tolist() == pytest.approx([0, 1, 2, 3])
    assert carry(rear[:1] + ahead, step(rear[1:] + ahead))[0][0, 0] == pytest.approx(
        1
    )  # by itself it would stay on the road


def test_a_field_is_asked_where_there_is_one() -> None:
    step = FlowStep(torch.zeros(1, 3), torch.zeros(1, 3), torch.eye(4), field=lambda p: 2 * p)
    assert track(torch.ones(1, 3), [step, step]).positions[:, 0, 0].tolist() == [1, 3, 9]


def test_a_step_is_made_of_files(tmp_path: Path) -> None:
    step = Street()[0]

    class Estimate:
        flow, ego_motion, method = step.flow, step.ego_motion, "toy"
        dynamic = torch.arange(400) < 150
        ground, valid, instance = ~dynamic & dynamic, dynamic | ~dynamic, torch.full((400,), -1)

    path = write_flow(tmp_path / "a.npz", Estimate(), step.points, ("a", "b"))
    again = FlowStep.of(step.points, read_flow(path))
    assert again.name == "a" and torch.equal(
        carry(step.points, again)[0], carry(step.points, step)[0]
    )


@pytest.mark.parametrize("with_poses", [False, True])
@pytest.mark.parametrize("reference", [0, 2, 5])
def test_the_cloud_is_sharp_at_the_reference(reference: int, with_poses: bool) -> None:
    street = Street(with_poses=with_poses)
    settings = Accumulation(reference=reference, cell=0.0)
    pieces = list(accumulate(street, settings))
    moving = torch.cat([p.points for p in pieces if p.moving]).double()
    standing = torch.cat([p.points for p in pieces if not p.moving]).double()
    assert len(standing) == 6 * 250 and len(moving) > 0.95 * 6 * 150
    car = transform(inverse(street.pose(reference)), street.car(reference))
    walls = transform(inverse(street.pose(reference)), wall())
    assert torch.cdist(moving, car).min(1).values.mean() < 0.05
    assert torch.cdist(standing, walls).min(1).values.max() < 1e-4
    assert {p.sweep for p in pieces if p.moving} == set(range(6))
    assert max(street.read) <= 5


def test_without_the_flow_the_car_would_be_smeared() -> None:
    street = Street()
    car = transform(inverse(street.pose(0)), street.car(0))
    smeared = transform(
        relative_motion(street.pose(5), street.pose(0)), street[5].points[:150].double()
    )
    assert torch.cdist(smeared, car).min(1).values.mean() > 1.0


def test_the_window_bounds_what_moves_and_cells_thin(tmp_path: Path) -> None:
    street = Street()
    near = [
        p for p in accumulate(street, Accumulation(reference=2, window=1, cell=0.0)) if p.moving
    ]
    assert {p.sweep for p in near} == {1, 2, 3}
    alone = [
        p for p in accumulate(street, Accumulation(reference=2, window=0, cell=0.0)) if p.moving
    ]
    assert {p.sweep for p in alone} == {2} and len(alone[0].points) == 150
    thin = torch.cat([p.points for p in accumulate(street, Accumulation(cell=0.5)) if not p.moving])
    assert len(thin) == len((thin.double() / 0.5).floor().unique(dim=0)) < 500


def test_a_cloud_is_written_piece_by_piece(tmp_path: Path) -> None:
    street = Street()
    found = write_accumulated(tmp_path / "cloud.ply", street, Accumulation(reference=1, cell=0.1))
    table = read_ply(tmp_path / "cloud.ply")
    assert list(table) == ["x", "y", "z", "red", "green", "blue", "moving", "sweep"]
    assert (
        len(table["x"]) == found.static + found.moving
        and int(table["moving"].sum()) == found.moving > 0
    )
    assert set(table["red"][table["moving"] == 0]) == {158} and table["sweep"].max() == 5
    with pytest.raises(InputError, match=r"cloud\.ply: there is a file"):
        write_accumulated(tmp_path / "cloud.ply", street)
    assert not list(tmp_path.glob(".*"))


def test_nothing_is_left_where_a_sweep_is_bad(tmp_path: Path) -> None:
    class Bad(Street):
        def __getitem__(self, k: int) -> FlowStep:
            if k == 3:
                raise InputError("000003.bin: truncated")
            return super().__getitem__(k)

    with pytest.raises(InputError, match="truncated"):
        write_accumulated(tmp_path / "cloud.ply", Bad())
    assert not list(tmp_path.iterdir())


class Truth:
    """The labels of a sweep as an estimate."""

    def __init__(self, sweep: Sweep, ego_motion: Tensor) -> None:
        assert sweep.labels is not None
        self.flow, self.dynamic, self.valid = (
            sweep.labels.flow,
            sweep.labels.dynamic,
            sweep.labels.valid,
        )
        self.ground, self.instance, self.ego_motion, self.method = (
            ~self.valid,
            torch.full((len(sweep),), -1),
            ego_motion,
            "truth",
        )


def test_a_simulated_sequence_and_the_files_of_its_flow(tmp_path: Path) -> None:
    street = simulation.street(sweeps=4, points=3000, rolling_shutter=False)
    for k in range(3):
        sweep = street[k]
        write_flow(
            tmp_path / f"{street.names[k]}.npz",
            Truth(sweep, relative_motion(street.pose(k), street.pose(k + 1))),
            sweep.points,
        )
    steps = FiledFlow(street, tmp_path)
    assert len(steps) == 3 and len(list(steps)) == 3
    tracks = track(steps[0].points, iter(steps))
    still = ~steps[0].dynamic if steps[0].dynamic is not None else torch.empty(0)
    where = transform(inverse(tracks.motions), tracks.positions)
    drift = (where[-1] - where[0])[still & tracks.known[-1]].norm(dim=1)
    assert drift.quantile(0.99) < 0.01
    found = write_accumulated(tmp_path / "cloud.ply", steps, Accumulation(reference=2, cell=0.1))
    assert found.static > 3000 and found.moving > 0
    (tmp_path / f"{street.names[1]}.npz").unlink()
    with pytest.raises(InputError, match=f"{street.names[1]}.npz: there is no flow"):
        track(steps[0].points, iter(steps))
    other = FiledFlow(simulation.street(sweeps=4, points=2000), tmp_path)
    with pytest.raises(InputError, match="belongs to another"):
        other[0]


def test_cells_are_forgotten_behind_the_sensor() -> None:
    cells = Cells(0.5)
    for k in range(200):
        cells.fresh(torch.rand(500, 3) * 20 + torch.tensor([5.0 * k, 0.0, 0.0]))
        cells.forget(torch.tensor([5.0 * k, 0.0, 0.0]), 40.0)
    assert len(cells) < 500 * 12
    with pytest.raises(InputError, match="too far"):
        cells.fresh(torch.full((1, 3), 1e7))
    assert cells.fresh(torch.zeros(0, 3)).shape == (0,)
    negative = torch.tensor([[-0.1, -0.1, -0.1], [0.1, 0.1, 0.1]])
    assert Cells(1.0).fresh(negative).all()


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    street = Street(2)
    with pytest.raises(InputError, match="give 0 to 1"):
        list(accumulate(street, Accumulation(reference=2)))
    with pytest.raises(InputError, match="do not belong together"):
        carry(torch.zeros(1, 3), FlowStep(torch.zeros(3, 3), torch.zeros(2, 3), torch.eye(4)))
    with pytest.raises(InputError, match="must be positive"):
        carry(torch.zeros(1, 3), street[0], neighbours=0)
    with pytest.raises(InputError, match=r"expected \(M, 3\)"):
        track(torch.zeros(3), [])
    with pytest.raises(InputError, match="max_range < forget"):
        Accumulation(max_range=300.0)
    with (
        pytest.raises(InputError, match="no type 'f2'"),
        ply_stream(tmp_path / "a.ply", {"x": "f2"}),
    ):
        pass
    with (
        pytest.raises(InputError, match="of one length"),
        ply_stream(tmp_path / "a.ply", {"x": "f4", "y": "f4"}) as append,
    ):
        append({"x": np.zeros(2), "y": np.zeros(3)})
    unlabelled = FlowStep(torch.zeros(1, 3), torch.zeros(1, 3), torch.eye(4))
    with pytest.raises(InputError, match="does not say which points move"):
        list(accumulate([unlabelled]))  # type: ignore[arg-type]
