"""Editing by score distillation: a tie in the volume leaves the edit alone, one in the pictures does not (Vox-E, section 3.3)."""

from __future__ import annotations

import math

import torch

import invtoolbox as it
from invtoolbox.geometry import Cameras, look_at
from invtoolbox.geometry.voxels import Voxels, VoxelSpace
from invtoolbox.operators import NoMeasurement, VoxelRenderer
from invtoolbox.priors import (
    DensityCorrelation,
    GaussianScore,
    Misfit,
    Prior,
    ScoreDistillation,
    ThroughOperator,
    VoxelGrid,
)

NODES = 14
LOW, HIGH = (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0)


def cameras(*degrees: float) -> Cameras:
    turn = torch.deg2rad(torch.tensor(degrees))
    where = 4.0 * torch.stack([turn.sin(), torch.full_like(turn, -0.15), -turn.cos()], dim=1)
    return look_at(where, size=(14, 14), field_of_view=32.0)


def block(edited: bool) -> Voxels:
    """A blue plate; edited, it is red and wears a red hat."""
    space = VoxelSpace.box(NODES, LOW, HIGH)
    place = 2 * space.places() / (NODES - 1) - 1
    body = ((place - torch.tensor([0.0, 0.15, 0.0])).abs() < torch.tensor([0.75, 0.6, 0.2])).all(
        1
    )  # thin: light passes a little
    hat = ((place - torch.tensor([0.0, -0.6, 0.0])).abs() < torch.tensor([0.2, 0.16, 0.2])).all(1)
    color = (
        torch.tensor([2.0, -2.0, -2.0] if edited else [-2.0, -2.0, 2.0])
        .expand(1, space.rows, 1, 3)
        .contiguous()
    )
    return Voxels(torch.where(body | (hat & edited), 2.0, -5.0)[None], color, space)


def test_the_volume_may_be_tied_where_pictures_may_not() -> None:
    original, target = block(False), block(True)
    front, around = (
        VoxelRenderer(cameras(*turns), block="picture")
        for turns in ((-34, -12, 12, 34), range(0, 360, 45))
    )
    score = GaussianScore(front(target)[0].transpose(0, 1), 0.05)
    edit = ThroughOperator(ScoreDistillation(score), front, subset_size=1)
    pinned = ThroughOperator(
        Misfit(around(original), it.data_terms.LeastSquares()), around, subset_size=1
    )
    ties: dict[str, Prior | None] = {
        "none": None,
        "volume": 3.0 * DensityCorrelation(original),
        "pictures": 0.04 * pinned,
    }
    A, found = NoMeasurement(), {}
    for name, tie in ties.items():
        prior = VoxelGrid(original.space) + 1.0 * edit
        x = it.solve(
            it.Problem(A.measurements(), A),
            prior if tie is None else prior + tie,
            it.solvers.Adam(learning_rate=0.06),
            max_iterations=150,
            initial={"density": original.density, "color": original.color},
            tolerance=0,
            progress=False,
        ).x
        seen = VoxelRenderer(cameras(160.0, 200.0))
        new = (target.density > 0) & (original.density < 0)
        found[name] = {
            "correlation": 1 - float(DensityCorrelation(original).energy(x)),
            "hat": float((x.density > -2)[new].float().mean()),
            "back": -10 * math.log10(float((seen(x) - seen(target)).square().mean())),
        }
    none, volume, pictures = found["none"], found["volume"], found["pictures"]
    assert volume["correlation"] >= 0.985 > max(none["correlation"], pictures["correlation"])
    assert volume["hat"] >= 0.9 * none["hat"] > 0.3 and pictures["hat"] < 0.9 * none["hat"]
    assert volume["back"] >= pictures["back"] + 4
