"""Depths of many views make one surface: its place, its colors, its bits and its refusals."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from invtoolbox.errors import InputError, MissingDependency
from invtoolbox.geometry import Cameras, look_at
from invtoolbox.geometry.depth_fusion import fuse_depth
from tests.geometry.test_isosurface import CENTRE, is_closed, volume


@pytest.fixture
def open3d() -> None:
    # It may also lack a library of the system.
    pytest.importorskip("open3d", exc_type=ImportError)


def ball_seen(views: Cameras, radius: float) -> Tensor:
    """Depths of a ball around `CENTRE`, 0 beside it."""
    origins, directions = views.rays()
    away = origins - CENTRE
    a, b, c = (
        directions.square().sum(-1),
        (away * directions).sum(-1),
        away.square().sum(-1) - radius**2,
    )
    root = b * b - a * c
    return torch.where(root > 0, (-b - root.clamp(min=0).sqrt()) / a, 0)


def around() -> Cameras:
    corners = torch.tensor(
        [[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)]
    )
    return look_at(CENTRE + 2.0 * corners, CENTRE.tolist(), size=(96, 120), field_of_view=40.0)


@pytest.mark.usefixtures("open3d")
def test_a_ball_seen_from_eight_corners_has_its_radius_to_half_a_voxel() -> None:
    views, size = around(), 0.03
    depth = ball_seen(views, 0.6)[:, None]
    colors = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand(8, 3, 96, 120)
    fused = fuse_depth(views, depth, size, colors=colors)
    mesh = fused.mesh()
    radius = (mesh.vertices - CENTRE).norm(dim=1)
    assert (
        abs(float(radius.mean()) - 0.6) < 0.1 * size
        and float((radius - 0.6).abs().quantile(0.99)) < 0.5 * size
    ), radius
    assert abs(volume(mesh) / (4 / 3 * torch.pi * 0.6**3) - 1) < 0.05
    assert mesh.colors is not None and torch.allclose(
        mesh.colors.median(0).values, torch.tensor([0.2, 0.5, 0.9]), atol=1e-4
    )
    assert is_closed(mesh)
    again = fuse_depth(views, depth, size, colors=colors).mesh()
    assert torch.equal(mesh.vertices, again.vertices) and torch.equal(mesh.faces, again.faces)
    # Shifted, turned cameras and a box that is given: the same body in the same place; and what a
    # mask leaves out is not there.
    half = fuse_depth(
        views,
        depth,
        size,
        mask=(depth > 0) & (torch.arange(120) < 60),
        box=((-0.6, -1.1, -0.8), (1.2, 0.7, 1.0)),
    )
    low, high = half.mesh().vertices.aminmax(dim=0)
    assert bool((low >= half.low).all() and (high <= half.high).all())
    assert half.mesh().colors is None
    with pytest.raises(InputError, match="no surface lies between"):
        half.mesh(least_weight=9)
    assert 0.2 < len(half.mesh().vertices) / len(mesh.vertices) < 0.95


@pytest.mark.usefixtures("open3d")
def test_a_slab_is_as_thick_as_its_depths_say_and_a_grid_may_be_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    views = look_at(torch.tensor([[0.0, 0.0, -3.0], [0.0, 0.0, 3.0]]), size=(16, 16))
    depth = torch.full((2, 1, 16, 16), 2.5)
    depth[:, :, 5, 5] = torch.nan
    wall = fuse_depth(views, depth, 0.1).mesh()
    torch.testing.assert_close(wall.vertices[:, 2].abs(), torch.full((len(wall.vertices),), 0.5))
    monkeypatch.setattr("invtoolbox.geometry.depth_fusion._MOST_NODES", 10 * 16**3)
    with pytest.raises(InputError, match=r"nodes every 0.05 is too large"):
        fuse_depth(views, depth, 0.05)


def test_without_open3d_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(MissingDependency, match=r"needs Open3D; install it with .*\[3d\]"):
        fuse_depth(around(), ball_seen(around(), 0.6), 0.05)


def test_what_does_not_fit_is_said() -> None:
    views = around()
    depth = ball_seen(views, 0.6)
    with pytest.raises(InputError, match="takes depths"):
        fuse_depth(views, depth[:3], 0.05)
    with pytest.raises(InputError, match="no pixel has a depth"):
        fuse_depth(views, depth, 0.05, largest_depth=0.1)
    with pytest.raises(InputError, match="low below high"):
        fuse_depth(views, depth, 0.05, box=((0, 0, 0), (1, -1, 1)))
    with pytest.raises(InputError, match="voxel_size of fuse_depth must be positive"):
        fuse_depth(views, depth, -1.0)


@pytest.mark.data
@pytest.mark.usefixtures("open3d")
def test_frames_of_the_living_room_make_one_surface(data_dir: Path) -> None:
    """Points of a frame that was left out lie on the mesh of the others."""
    from scipy.spatial import cKDTree

    from invtoolbox.datasets import Loading, open_rgbd

    loading = Loading(names=[f"{k:05d}.jpg" for k in range(0, 61, 15)], shrink=4)
    found = open_rgbd(data_dir / "livingroom_rgbd", loading)
    assert found.depth is not None
    rest = [0, 1, 3, 4]
    mesh = fuse_depth(
        found.cameras[rest], found.depth[rest], 0.03, colors=found.pictures[rest], largest_depth=3.5
    ).mesh()
    origins, directions = found.cameras[2:3].rays()
    depth = found.depth[2, 0]
    points = (origins[0] + depth[..., None] * directions[0])[(depth > 0) & (depth < 3.0)]
    distance = torch.from_numpy(cKDTree(mesh.vertices.numpy()).query(points.numpy())[0])
    assert float(distance.median()) < 0.02 and float((distance < 0.05).double().mean()) > 0.85, (
        float(distance.median()),
        len(mesh.faces),
    )
    assert mesh.colors is not None and 0.1 < float(mesh.colors.mean()) < 0.9
