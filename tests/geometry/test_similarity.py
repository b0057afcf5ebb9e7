"""Similarities between clouds and between cameras."""

from __future__ import annotations

import pytest
import torch

from invtoolbox.errors import InputError
from invtoolbox.geometry import Cameras, Similarity, look_at
from invtoolbox.geometry.rigid import rotation

F64 = torch.float64


def some() -> Similarity:
    return Similarity(
        torch.tensor(1.7, dtype=F64),
        rotation(torch.tensor([[0.3, -1.2, 2.0]], dtype=F64))[0],
        torch.tensor([0.5, -2.0, 3.0], dtype=F64),
    )


def test_it_is_found_between_points_and_undone_by_its_inverse() -> None:
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    found = Similarity.between(points, some().points(points))
    for name in ("scale", "rotation", "shift"):
        assert torch.allclose(getattr(found, name), getattr(some(), name), atol=1e-12)
    assert torch.allclose(found.inverse().points(found.points(points)), points, atol=1e-12)
    with pytest.raises(InputError, match="three or more"):
        Similarity.between(points[:2], points[:2])


def test_moved_cameras_see_moved_points_where_they_were_at_scaled_depths() -> None:
    g = torch.Generator().manual_seed(1)
    cameras: Cameras = look_at(torch.randn(5, 3, generator=g, dtype=F64) + 4, size=(10, 12))
    points = torch.randn(7, 3, generator=g, dtype=F64)
    pixels, depth = cameras.project(points)
    moved = some().cameras(cameras)
    again, scaled = moved.project(some().points(points))
    assert torch.allclose(again, pixels, atol=1e-10) and torch.allclose(
        scaled, 1.7 * depth, atol=1e-10
    )
    assert torch.allclose(Similarity.of_cameras(cameras, moved).scale, torch.tensor(1.7, dtype=F64))
