"""Ground without a map: level, on slopes, over curbs, with reflections below it, and beside what stands on it."""

from pathlib import Path

import pytest
import torch

from invtoolbox import simulation
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import rotation
from invtoolbox.jobs.flow.ground import Ground, ground
from tests.jobs.flow.street import street


def lines(height, sensor=1.7, lasers=40, columns=600):
    """Where the lasers of a turning lidar meet a ground of the given height over x and y, float32 ``(N, 3)``."""
    elevation = torch.deg2rad(torch.linspace(-25, -1.5, lasers))[:, None]
    angle = torch.linspace(0, 2 * torch.pi, columns + 1)[None, :-1]
    distance = (sensor / -elevation.tan()).expand(lasers, columns)
    x, y = distance * angle.cos(), distance * angle.sin()
    for _ in range(60):  # to where the ray and the ground have one height
        distance = (
            distance
            + 0.5 * ((height(x, y) - sensor) - distance * elevation.tan()) / elevation.tan()
        )
        distance = distance.clamp(1, 90)
        x, y = distance * angle.cos(), distance * angle.sin()
    z = height(x, y) - sensor
    noise = 0.01 * torch.randn(lasers * columns, 3, generator=torch.Generator().manual_seed(0))
    return torch.stack([x, y, z], dim=-1).reshape(-1, 3) + noise


SHAPES = {
    "level": lambda x, y: 0 * x,
    "a grade of 8 % ahead of level road": lambda x, y: 0.08 * (x - 10).clamp(min=0),
    "down by 8 %": lambda x, y: -0.08 * (x - 10).clamp(min=0),
    "a cross fall of 4 %": lambda x, y: 0.04 * y,
    "curbs of 15 cm": lambda x, y: 0.15 * (y.abs() > 4).float(),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sensor", [0.4, 1.7, 2.5])
def test_ground_is_found_on(shape, sensor):
    points = lines(SHAPES[shape], sensor)
    assert ground(points).float().mean() > 0.97


def test_what_stands_on_it_is_kept():
    points, on_ground = street(0)
    points = points.float()
    found = ground(points)
    assert found[on_ground].float().mean() > 0.99
    above = ~on_ground & (points[:, 2] > -1.7 + 0.3)
    assert found[above].float().mean() < 0.01


def test_the_direction_of_the_axes_does_not_matter():
    points = street(0)[0].float()
    turn = rotation(torch.tensor([0.0, 0.0, 0.017])).float()
    assert float((ground(points @ turn.T) == ground(points)).float().mean()) > 0.9999


def test_a_cloud_without_ground_has_none():
    points, on_ground = street(0)
    assert not ground(points[~on_ground].float()).any()
    sweep = simulation.street(sweeps=1, seed=1, points=20_000)[0]
    assert not ground(sweep.points[~sweep.labels.ground]).any()


def test_of_a_simulated_town_little_that_moves_is_lost():
    lost, moving = 0, 0
    for seed in range(3):
        sweep = simulation.street(sweeps=21, seed=seed, points=30_000)[20]
        labels = sweep.labels
        found = ground(sweep.points)
        assert found[labels.ground].float().mean() > 0.98
        moves = labels.dynamic & ~labels.ground
        lost, moving = lost + int(found[moves].sum()), moving + int(moves.sum())
    assert lost < 0.04 * moving


def test_reflections_below_do_not_pull_it_down():
    points = lines(SHAPES["level"])
    generator = torch.Generator().manual_seed(1)
    below = points[torch.randperm(len(points), generator=generator)[:200]] * torch.tensor(
        [1.0, 1.0, 2.5]
    )
    found = ground(torch.cat([points, below]))
    assert found[: len(points)].float().mean() > 0.97


def test_the_height_of_the_sensor_is_not_needed():
    points, _ = street(0)
    found = ground(points.float())
    for shift in (-1.0, 1.7):
        assert (
            ground((points + torch.tensor([0, 0, shift])).float()) == found
        ).float().mean() > 0.999


def test_rows_that_are_no_measurements_are_no_ground():
    points = torch.cat(
        [
            lines(SHAPES["level"]),
            torch.full((5, 3), torch.nan),
            torch.zeros(3, 3),
            torch.full((2, 3), torch.inf),
        ]
    )
    assert not ground(points)[-10:].any()
    assert not ground(torch.full((4, 3), torch.nan)).any() and ground(torch.zeros(0, 3)).shape == (
        0,
    )


@pytest.mark.parametrize("settings", [{"thickness": 0.0}, {"slope": -1.0}, {"sectors": 4}])
def test_bad_settings(settings):
    with pytest.raises(InputError, match=f"{next(iter(settings))} of Ground must be"):
        Ground(**settings)
    with pytest.raises(InputError, match=r"\(N, 3\)"):
        ground(torch.zeros(3))


@pytest.mark.data
def test_argoverse_labels(data_dir: Path) -> None:
    feather = pytest.importorskip("pyarrow.feather")
    folder = next((data_dir / "av2_pair").glob("*/flow_labels.feather")).parent
    sweep = feather.read_table(min((folder / "sensors" / "lidar").glob("*.feather")))
    points = torch.stack(
        [torch.from_numpy(sweep[name].to_numpy()).float() for name in "xyz"], dim=1
    )
    labels = feather.read_table(folder / "flow_labels.feather")
    truth, dynamic = (
        torch.tensor(labels[name].to_numpy(zero_copy_only=False))
        for name in ("is_ground_0", "dynamic")
    )
    found = ground(points)
    # The labels call ground what lies within 0.3 m of the map, feet of walls and cars with it;
    # those are kept here.
    assert found[truth].float().mean() > 0.9
    assert (~found)[dynamic & ~truth].float().mean() > 0.99
