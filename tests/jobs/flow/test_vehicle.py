"""The vehicle that carries the sensor: found by what rests in its frame, or given by its box."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from invtoolbox.errors import InputError
from invtoolbox.geometry.sweeps import Sweep
from invtoolbox.jobs.flow.estimation import estimate
from invtoolbox.jobs.flow.preparation import Preparation, prepare_pair
from invtoolbox.jobs.flow.sequence import flow_sequence
from invtoolbox.jobs.flow.vehicle import in_box
from invtoolbox.simulation import street

ROOF = 400


class WithRoof:
    """A simulated street whose sweeps begin with the roof of the vehicle."""

    def __init__(self) -> None:
        self.street = street(sweeps=4, points=6000, seed=3)
        self.names = self.street.names

    def __len__(self) -> int:
        return len(self.street)

    def __getitem__(self, index: int) -> Sweep:
        sweep = self.street[index]
        draws = torch.Generator().manual_seed(0)
        roof = torch.rand(ROOF, 3, generator=draws) * torch.tensor([2.4, 1.4, 0.1])
        roof = roof + torch.tensor([-1.8, -0.7, -0.5])
        noise = 0.01 * torch.randn(ROOF, 3, generator=torch.Generator().manual_seed(index + 1))
        points = torch.cat([roof + noise, sweep.points])
        columns: dict[str, Any] = {
            name: torch.cat([column[:1].expand(ROOF), column])
            for name in ("time", "intensity", "ring")
            if (column := getattr(sweep, name)) is not None
        }
        return replace(sweep, points=points, labels=None, boxes=None, **columns)


def test_points_that_rest_while_the_world_moves_are_left_out() -> None:
    sweeps = WithRoof()
    estimated = estimate(sweeps[1], sweeps[2])
    assert not bool(estimated.valid[:ROOF].any()) and not bool(estimated.dynamic[:ROOF].any())
    assert int((~estimated.valid[ROOF:]).sum()) <= int((~sweeps.street[1].finite).sum()) + 5
    assert any("are its vehicle's, in the box" in note for note in estimated.notes)
    assert bool(estimated.flow[:ROOF].isfinite().all())
    nothing = Preparation(vehicle=(0, 0, 0, 0, 0, 0))
    assert bool(prepare_pair(sweeps[1], sweeps[2], nothing).valid[:ROOF].all())


def test_a_street_without_a_roof_has_no_vehicle() -> None:
    sweeps = street(sweeps=2, points=6000, seed=3)
    pair = prepare_pair(sweeps[0], sweeps[1])
    assert pair.vehicle is None and bool((pair.valid == sweeps[0].finite).all())


def test_a_standing_vehicle_is_not_guessed_and_a_box_is_taken() -> None:
    sweeps = WithRoof()
    still = Preparation(ego_motion="none")
    assert prepare_pair(sweeps[0], sweeps[1], still).vehicle is None
    box = (-2.0, -1.0, -1.0, 1.0, 1.0, 0.0)
    pair = prepare_pair(sweeps[0], sweeps[1], Preparation(vehicle=box))
    assert bool((pair.first.vehicle == in_box(sweeps[0].points, box)).all())
    for wrong in ((1, 0, 0, 0, 1, 1), (0, 1, 2)):
        with pytest.raises(InputError, match="vehicle must be six numbers"):
            Preparation(vehicle=wrong)  # type: ignore[arg-type]


def test_a_sequence_finds_the_vehicle_once(tmp_path: Path) -> None:
    sweeps = WithRoof()
    study = flow_sequence(sweeps, tmp_path / "out", "icp-flow", progress=False)
    for name in sweeps.names[:-1]:
        with np.load(study.folder / f"{name}.npz") as file:
            assert not file["valid"][:ROOF].any() and not file["dynamic"][:ROOF].any()
    assert any("vehicle" in note for note in study.notes())
    flow_sequence(sweeps, tmp_path / "out", "icp-flow", progress=False, resume=True)
