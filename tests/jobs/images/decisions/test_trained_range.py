"""Priors trained on CT slices, by their names, in the unit of the scan."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.priors.trained_on import UNITS, TrainedOn, find_unit

SIDE = 64


def body() -> Tensor:
    """Return a thorax in Hounsfield units: soft tissue, two lungs and a spine, in air."""
    across = torch.linspace(-1, 1, SIDE)
    x, y = across, across[:, None]
    hu = torch.full((SIDE, SIDE), -1000.0)
    hu[torch.hypot(x / 0.85, y / 0.65) < 1] = 40.0
    for side in (-0.4, 0.4):
        hu[torch.hypot((x - side) / 0.28, y / 0.4) < 1] = -850.0
    hu[torch.hypot(x, y - 0.4) < 0.12] = 500.0
    return hu[None, None]


def in_unit(unit: str) -> Tensor:
    air, water = UNITS[unit]
    return water + (water - air) * body() / 1000


def scan(pixel_size: float = 2.8) -> it.operators.ParallelBeam:
    angles = torch.linspace(0, math.pi, 31)[:-1]
    return it.operators.ParallelBeam((SIDE, SIDE), angles, 96, pixel_size, pixel_size)


def measure(unit: str, pixel_size: float = 2.8) -> Tensor:
    y = scan(pixel_size)(in_unit(unit))
    return y + 0.003 * y.std() * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("unit", UNITS)
def test_the_unit_is_found(unit: str) -> None:
    y, A = measure(unit), scan()
    assert find_unit(A.pseudo_inverse(y)) == unit
    low, high = TrainedOn((-1024, 1024), (1.2, 1.9)).range_in(unit)
    middle = (in_unit(unit) - low) / (high - low)
    torch.testing.assert_close(middle, (body() + 1024) / 2048, rtol=1e-3, atol=1e-3)


def test_an_image_without_air_or_tissue_has_no_unit() -> None:
    bright = 1 + torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert find_unit(bright) is None
    assert find_unit(torch.zeros(1, 1, 64, 64)) is None
    assert find_unit(torch.full((1, 1, 64, 64), 40.0)) is None


@pytest.mark.parametrize("name", [pytest.param("lpn-ct", marks=pytest.mark.slow), "diffusion-ct"])
def test_an_answer_does_not_depend_on_the_unit(name: str) -> None:
    errors = []
    for unit in ("HU", "1/mm"):
        solution = it.reconstruct(measure(unit), scan(), prior=name, progress=False)
        assert any(f"soft tissue in the unit {unit!r}" in note for note in solution.notes)
        air, water = UNITS[unit]
        error = 1000 * (solution.x - in_unit(unit)) / (water - air)
        errors.append(float(error.square().mean().sqrt()))
    assert max(errors) < 150
    assert max(errors) < 1.2 * min(errors)


def test_pixels_of_another_size_are_a_note_and_a_stated_range_stays() -> None:
    y = measure("1/mm", pixel_size=9.0)
    solution = it.reconstruct(y, scan(9.0), prior="lpn-ct", progress=False, max_iterations=2)
    assert any(
        "trained on pixels of 1.2 to 1.9 mm, and these have 9 mm" in n for n in solution.notes
    )
    prior = it.priors.load("lpn-ct", {"intensity_range": (0.0, 0.04)})
    solution = it.reconstruct(y, scan(9.0), prior=prior, progress=False, max_iterations=2)
    assert not any("soft tissue" in note for note in solution.notes)


@pytest.mark.slow
def test_auto_compares_the_priors_of_ct_slices() -> None:
    solution = it.reconstruct(measure("HU"), scan(), prior="auto", progress=False)
    note = next(note for note in solution.notes if "predicted by" in note)
    assert "lpn-ct" in note and "diffusion-ct" in note and "two-level" not in note


def test_a_scan_in_hounsfield_units_is_no_scan_of_the_wrong_sign() -> None:
    y = measure("HU")
    settings = {"prior": "tv", "regularization": 0.1, "max_iterations": 2, "progress": False}
    solution = it.reconstruct(y, scan(), **settings)
    assert any("Hounsfield" in note for note in solution.notes)
    with pytest.warns(it.MeasurementWarning, match="not negated"):
        it.reconstruct(-measure("1/mm"), scan(), **settings)


def test_a_card_without_sizes_of_pixels_is_refused() -> None:
    for table in ({}, {"hounsfield": [1, 0], "pixel_size": [1, 2]}, "HU"):
        with pytest.raises(it.InputError, match="trained_on"):
            TrainedOn.of_card(table)


def test_every_item_has_its_own_unit() -> None:
    """An item gives the same bits alone and next to one of another unit, or of none."""
    y = torch.cat([measure("1/mm"), measure("HU"), torch.zeros_like(measure("HU")) + 1.0])
    settings = {"prior": "diffusion-ct", "progress": False, "max_iterations": 3}
    both = it.reconstruct(y, scan(), **settings)
    for k in range(2):
        alone = it.reconstruct(y[k : k + 1], scan(), **settings)
        assert torch.equal(alone.x, both.x[k : k + 1])
    ranges = {
        d.item: "soft tissue in the unit '1/mm'" in d.sentence
        for d in both.decisions
        if d.step == "trained-range" and d.outcome == "taken"
    }
    assert ranges == {0: True, 1: False, 2: True}
