"""Places unlike a town: who moves there, what stands still, and drops of rain."""

from __future__ import annotations

import pytest
import torch

from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import relative_motion, transform
from invtoolbox.simulation.lidar import SimulatedSequence, SpinningLidar
from invtoolbox.simulation.places import PLACES

SMALL = SpinningLidar(rings=24, azimuths=720)


def movers(name: str, seed: int, lidar: SpinningLidar = SMALL) -> dict[str, int]:
    """Count the moving objects of a sweep by category."""
    labels = SimulatedSequence(PLACES[name](seed), lidar, 3, seed)[0].labels
    assert labels is not None and labels.instance is not None
    rows = labels.dynamic & (labels.instance >= 0)
    pairs = torch.stack([labels.category[rows], labels.instance[rows]], 1).unique(dim=0)
    names = [labels.categories[int(category)] for category, _ in pairs]
    return {category: names.count(category) for category in names}


@pytest.mark.parametrize(
    ("name", "category", "least"),
    (
        ("highway", "REGULAR_VEHICLE", 4),
        ("garage", "PEDESTRIAN", 2),
        ("crossing", "PEDESTRIAN", 30),
    ),
)
def test_places_have_their_traffic(name: str, category: str, least: int) -> None:
    for seed in (1, 2):
        assert movers(name, seed)[category] >= least
    assert movers(name, 1) == movers(name, 1)


@pytest.mark.parametrize("name", sorted(PLACES))
def test_what_stands_still_moves_with_the_sensor_alone(name: str) -> None:
    sequence = SimulatedSequence(PLACES[name](3), SMALL, 3, 3)
    sweep = sequence[0]
    labels = sweep.labels
    assert labels is not None and bool(labels.valid.all())
    points = sweep.points.double()
    still = transform(relative_motion(sequence.pose(0), sequence.pose(1)), points) - points
    error = (labels.flow.double() - still).norm(dim=1)
    assert float(error[~labels.dynamic].quantile(0.9)) < 1e-5
    assert float(error[labels.dynamic].min()) > 0.05
    assert bool(labels.dynamic.any())


def test_no_car_of_a_highway_meets_another() -> None:
    street = PLACES["highway"](4)
    cars = [k for k, thing in enumerate(street.things) if thing.name.startswith("car")]
    for time in (0.0, 20.0):
        places = street.poses(time)[cars, :2, 3]
        places = torch.cat([places, street.ego_pose(time)[None, :2, 3]])
        along, aside = (
            places[:, None, axis] - places[None, :, axis] + 1e3 * torch.eye(len(places))
            for axis in (0, 1)
        )
        assert float(along.abs()[aside.abs() < 1].min()) > 8


def test_drops_of_rain_are_stray_points_without_a_label() -> None:
    street = PLACES["crossing"](5)
    dry, wet = (SimulatedSequence(street, SpinningLidar(stray=s), 2, 5)[0] for s in (0.0, 0.055))
    assert dry.labels is not None and wet.labels is not None and wet.labels.instance is not None
    drops = ~wet.labels.valid
    assert bool(dry.labels.valid.all()) and 0.06 < float(drops.double().mean()) < 0.14
    assert not bool((wet.labels.dynamic | (wet.labels.instance >= 0))[drops].any())
    # All other returns are those without rain.
    rest = wet.points[~drops]
    assert float(torch.isin(rest[:, 0], dry.points[:, 0]).double().mean()) == 1
    assert wet.boxes is not None and len(wet.boxes) > 0
    with pytest.raises(InputError, match="stray"):
        SpinningLidar(stray=1.0)
