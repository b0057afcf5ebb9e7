"""The place of a sensor, found from the rings of its points."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.geometry.rigid import rotation
from invtoolbox.geometry.sweeps import Sweep
from invtoolbox.jobs.flow.estimation import estimate
from invtoolbox.jobs.flow.preparation import Preparation
from invtoolbox.jobs.flow.sensor import Rays, contrast, find_level, find_sensor
from invtoolbox.simulation import SimulatedSequence, SpinningLidar, random_town

ZERO = torch.zeros(3)
#: Places of a sensor in the frame of a car, metres: the first is that of a real recording.
PLACES = ((0.03, 1.4, 1.99), (1.3, 0.4, 1.9), (-1.0, -0.5, 0.6))


@pytest.fixture(scope="module")
def sweep() -> Tensor:
    """Return a sweep whose points are all seen from one place."""
    return it.simulation.street(sweeps=1, seed=804, points=30_000, deskew=False)[0].points


@pytest.mark.parametrize("place", PLACES)
def test_a_shifted_sensor_is_found(sweep: Tensor, place: tuple[float, float, float]) -> None:
    shift = torch.tensor(place)
    estimate = find_sensor(sweep + shift, ZERO)
    assert estimate is not None
    torch.testing.assert_close(estimate.float(), shift, atol=0.1, rtol=0)


def test_a_sensor_at_its_place_stays_there(sweep: Tensor) -> None:
    assert torch.equal(find_sensor(sweep, ZERO), ZERO.double())  # type: ignore[arg-type]
    start = torch.tensor([700.0, -300.0, 40.0])
    assert torch.equal(find_sensor(sweep + start, start), start.double())  # type: ignore[arg-type]


def test_points_without_rings_have_no_place(sweep: Tensor) -> None:
    cloud = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0))
    cloud = cloud * torch.tensor([20.0, 20.0, 1.0])
    assert find_sensor(cloud, ZERO) is None
    turn = torch.tensor([[0.94, 0.0, 0.342], [0.0, 1.0, 0.0], [-0.342, 0.0, 0.94]])
    assert find_sensor(sweep @ turn.T, ZERO) is None
    assert find_sensor(sweep[:20], ZERO) is None


def test_flat_ground_seen_from_the_ground_is_no_ring(sweep: Tensor) -> None:
    lowest = float(sweep[:, 2].quantile(0.02))
    assert contrast(sweep.double() - torch.tensor([0.0, 0.0, lowest]).double(), ZERO.double()) < 0.2


@pytest.mark.parametrize(
    ("rings", "azimuths", "up", "noise"),
    ((16, 1800, 30.0, 0.02), (64, 900, 28.0, 0.02), (100, 1500, 40.0, 0.05)),
)
def test_rays_and_noise_are_those_of_the_sensor(
    rings: int, azimuths: int, up: float, noise: float
) -> None:
    lidar = SpinningLidar(rings, azimuths, (-0.6 * up, 0.4 * up), noise_std=noise)
    points = SimulatedSequence(random_town(805), lidar, 1, 805)[0].points
    rays = Rays.of(points)
    lines = math.radians(up) / (rings - 1)
    assert rays.beside == pytest.approx(min(2 * math.pi / azimuths, lines), rel=0.15)
    assert rays.lines == pytest.approx(max(2 * math.pi / azimuths, lines), rel=0.35)
    assert rays.noise == pytest.approx(noise, rel=0.35)
    # Neither the order of the points nor the axes count.
    turned = points.flip(0) @ rotation(torch.tensor([0.2, 0.1, 1.0])).T
    again = Rays.of(turned)
    assert again.beside == pytest.approx(rays.beside, rel=0.1)
    assert again.spacing == pytest.approx(rays.spacing, rel=0.1)
    assert again.noise == pytest.approx(rays.noise, rel=0.1)


def test_few_points_have_the_usual_rays(sweep: Tensor) -> None:
    assert Rays.of(sweep[:500]) == Rays() == Rays.of(sweep[:0])


def test_the_ground_tells_the_tilt(sweep: Tensor) -> None:
    assert torch.equal(find_level(sweep), torch.eye(3, dtype=torch.float64))
    for turn in ([0.0, 0.35, 0.0], [0.25, -0.2, 0.0]):
        tilt = rotation(torch.tensor(turn, dtype=torch.float64))
        level = find_level(sweep.double() @ tilt.T)
        # Both are rotations of the upright axis; the turn about it is free.
        assert float((level[:, 2] - tilt[:, 2]).norm()) < 0.02
    cloud = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(find_level(5 * cloud), torch.eye(3, dtype=torch.float64))
    assert torch.equal(find_level(sweep[:100]), torch.eye(3, dtype=torch.float64))


def test_the_flow_of_a_tilted_sensor_is_that_of_a_level_one() -> None:
    street = it.simulation.street(sweeps=2, seed=0, points=20_000)
    tilt = rotation(torch.tensor([0.1, 0.33, 0.0]))
    level = it.scene_flow(street[0].points, street[1].points, ego_motion="icp")
    tilted = it.scene_flow(street[0].points @ tilt.T, street[1].points @ tilt.T, ego_motion="icp")
    assert float((tilted @ tilt - level).norm(dim=1).median()) < 0.03
    truth = street[0].labels
    assert truth is not None
    assert float(it.metrics.end_point_error(tilted @ tilt, truth.flow)) < 0.1


def test_the_flow_of_a_shifted_sensor_is_that_of_its_own_frame() -> None:
    street = it.simulation.street(sweeps=2, seed=0, points=20_000)
    shift = torch.tensor(PLACES[0])
    flows = [
        it.scene_flow(street[0].points + s, street[1].points + s, ego_motion="icp")
        for s in (ZERO, shift)
    ]
    assert float((flows[1] - flows[0]).norm(dim=1).median()) < 0.02


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "place", "tolerance"),
    # The rays of kitti_raw5 leave 0.2 m above the origin; the two lidars of Argoverse stand at
    # (1.35, 0, 1.64), and move within a sweep.
    (("kitti_raw5", (0.0, 0.0, 0.0), 0.25), ("av2_pair", (1.35, 0.0, 1.64), 0.15)),
)
def test_real_sensors_are_found(
    data_dir: Path, name: str, place: tuple[float, float, float], tolerance: float
) -> None:
    points = it.datasets.open_sweeps(data_dir / name)[0].points
    shift = torch.tensor([0.4, -0.6, 1.1])
    estimate = find_sensor(points[points.isfinite().all(1)] + shift, ZERO)
    assert estimate is not None
    torch.testing.assert_close(
        estimate.float(), shift + torch.tensor(place), atol=tolerance, rtol=0
    )


def test_points_of_one_ray_count_once() -> None:
    """Merged sweeps hold points several times; three returns per ray lie at three ranges."""
    turn, up = torch.meshgrid(
        0.01 * torch.arange(600), 0.02 * torch.arange(20) + 0.005, indexing="ij"
    )
    sight = torch.stack([up.cos() * turn.cos(), up.cos() * turn.sin(), up.sin()], -1).flatten(0, 1)
    alone = Rays.of(10 * sight)
    for scale in (torch.tensor([1.0, 1.0, 1.0]), torch.tensor([1.0, 1.1, 1.3])):
        several = Rays.of((10 * scale[:, None, None] * sight).flatten(0, 1))
        assert several.beside == pytest.approx(alone.beside, rel=1e-3)
        assert several.lines == pytest.approx(alone.lines, rel=1e-3)


def test_a_lattice_of_points_has_rays_of_some_spacing() -> None:
    """Coordinates that are rounded to a metre coincide near the sensor."""
    points = torch.cartesian_prod(torch.arange(-9.0, 10), torch.arange(-9.0, 10), torch.ones(1))
    rays = Rays.of(points.repeat(6, 1))
    assert rays.beside > 0 and rays.lines < 1


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ([[0, -1, 0], [0, 0, 1], [-1, 0, 0]], "axis y, so this axis is taken to point up"),
        ([[0, -1, 0], [0, 0, -1], [1, 0, 0]], "axis y, so this axis is taken to point down"),
        ([[1, 0, 0], [0, -1, 0], [0, 0, -1]], "axis z, so this axis is taken to point down"),
        ([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], "axis x, so this axis is taken to point up"),
    ],
)
def test_the_axes_of_the_points_change_no_flow(axes: list[list[int]], words: str) -> None:
    street = it.simulation.street(sweeps=2, points=6000, seed=1)
    turn = torch.tensor(axes, dtype=torch.float32)
    first, second = (Sweep(sweep.points) for sweep in (street[0], street[1]))
    turned = [Sweep(sweep.points @ turn.T) for sweep in (street[0], street[1])]
    still = Preparation(ego_motion="none")
    usual = estimate(first, second, preparation=still)
    found = estimate(*turned, preparation=still)
    assert any(words in note for note in found.notes)
    assert torch.equal(found.ground, usual.ground)
    assert float((found.flow @ turn - usual.flow).abs().max()) < 1e-4
