"""Meshes out of fields: spheres with known radius, holes where nothing is known, and depths fused in the frame of their cameras."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from invtoolbox.errors import InputError
from invtoolbox.geometry.isosurface import isosurface, voxel_surface
from invtoolbox.geometry.meshes import Mesh
from invtoolbox.geometry.voxels import Voxels, VoxelSpace

CENTRE = torch.tensor([0.3, -0.2, 0.1])


def volume(mesh: Mesh) -> float:
    """Signed: positive where faces turn counter-clockwise seen from outside."""
    a, b, c = (mesh.vertices.double()[mesh.faces[:, k]] for k in range(3))
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


def is_closed(mesh: Mesh) -> bool:
    """Every edge is passed once in each direction."""
    edges = torch.cat([mesh.faces[:, [k, (k + 1) % 3]] for k in range(3)])
    there, back = (
        edges @ torch.tensor(pair) for pair in ([len(mesh.vertices), 1], [1, len(mesh.vertices)])
    )
    return len(there.unique()) == len(there) and torch.equal(
        there.sort().values, back.sort().values
    )


def test_a_ball_of_occupancy_is_closed_oriented_and_in_its_place() -> None:
    nodes = [
        torch.linspace(a, b, n, dtype=torch.float64)
        for a, b, n in ((-1.0, 1.6, 27), (-1.2, 0.8, 21), (-0.9, 1.1, 41))
    ]
    grid = torch.stack(torch.meshgrid(*nodes, indexing="ij"), -1)
    inside = 0.6 - (grid - CENTRE).norm(dim=-1)
    mesh = isosurface(inside, 0.0, (-1.0, -1.2, -0.9), (1.6, 0.8, 1.1), colors=grid)
    radius = (mesh.vertices - CENTRE).norm(dim=1)
    assert float((radius - 0.6).abs().max()) < 0.005 and is_closed(mesh)
    assert abs(volume(mesh) / (4 / 3 * torch.pi * 0.6**3) - 1) < 0.02
    assert mesh.colors is not None and torch.allclose(
        mesh.colors.double(), mesh.vertices, atol=1e-5
    )  # interpolated where they lie
    occupied = isosurface((inside > 0).double(), 0.5, (-1.0, -1.2, -0.9), (1.6, 0.8, 1.1))
    assert float(((occupied.vertices - CENTRE).norm(dim=1) - 0.6).abs().max()) < 0.1  # half a cell
    cut = isosurface(inside[:14], 0.0, closed=True)
    assert is_closed(cut) and not is_closed(isosurface(inside[:14], 0.0)) and volume(cut) > 0


def test_no_surface_is_invented_where_nothing_is_known() -> None:
    x = torch.arange(12.0)[:, None, None].expand(12, 8, 8).clone()
    known = torch.ones(12, 8, 8, dtype=torch.bool)
    known[:, :, 4:] = False
    x[:, :, 4:] = torch.nan
    mesh = isosurface(x, 5.25, known=known)
    assert (
        torch.allclose(mesh.vertices[:, 0], torch.tensor(5.25))
        and float(mesh.vertices[:, 2].max()) == 3
    )
    with pytest.raises(InputError, match="NaN or infinite"):
        isosurface(x, 5.25)
    known[5] = False
    with pytest.raises(InputError, match="no surface at 5.25"):
        isosurface(x, 5.25, known=known)
    with pytest.raises(InputError, match="nowhere 99"):
        isosurface(x, 99.0, known=known)


def test_the_surface_of_voxels_is_where_a_cell_stops_half_of_the_light() -> None:
    space = VoxelSpace.box((25, 21, 21), (-1.0, -1.2, -0.9), (1.4, 0.8, 1.1))
    distance = (space.places() * torch.tensor(space.cell) + torch.tensor(space.low) - CENTRE).norm(
        dim=1
    )
    level = torch.tensor(2.0).log() / (
        max(space.cell) * space.scale
    )  # 1 - exp(-density cell) = 1/2
    raw = torch.log(torch.expm1(level)) + 30 * (0.6 - distance)
    color = torch.zeros(1, space.rows, 4, 3)
    color[..., 0, 0], color[..., 1:, :] = (
        5.0,
        9.0,
    )  # red from everywhere; what changes with the direction is left
    mesh = voxel_surface(Voxels(raw[None], color, space))
    assert (
        float(((mesh.vertices - CENTRE).norm(dim=1) - 0.6).abs().max()) < 0.5 * max(space.cell)
        and is_closed(mesh)
        and volume(mesh) > 0
    )
    assert (
        mesh.colors is not None
        and bool((mesh.colors[:, 0] > 0.79).all())
        and torch.allclose(mesh.colors[:, 1:], torch.tensor(0.5))
    )
    kept = space.keep_cells(
        torch.nn.functional.max_pool3d((raw > -9).view(1, *space.shape).float(), 2, stride=1)[0] > 0
    )
    gathered = Voxels(
        kept.gather(raw.view(1, *space.shape)),
        kept.gather(color.view(1, *space.shape, 4, 3)),
        kept,
    )
    assert kept.rows < space.rows and abs(volume(voxel_surface(gathered)) / volume(mesh) - 1) < 1e-3
    with pytest.raises(InputError, match="alpha of voxel_surface must lie in"):
        voxel_surface(Voxels(raw[None], color, space), alpha=1.0)


def test_meshes_with_colors_are_written_read_and_taken_from_other_packages(tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh")
    from types import SimpleNamespace

    from invtoolbox.datasets import read_mesh, write_mesh
    from invtoolbox.geometry.meshes import points_of

    ball = isosurface(
        0.6
        - torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 9)] * 3, indexing="ij"), -1).norm(
            dim=-1
        ),
        0.0,
    )
    colors = (
        torch.randint(0, 256, ball.vertices.shape, generator=torch.Generator().manual_seed(0)) / 255
    ).float()
    mesh = Mesh(ball.vertices, ball.faces, colors)
    for suffix in (".obj", ".ply", ".glb"):
        write_mesh(tmp_path / f"ball{suffix}", mesh)
        back = read_mesh(tmp_path / f"ball{suffix}")
        assert torch.allclose(back.vertices.float(), mesh.vertices, atol=1e-6) and torch.equal(
            back.faces, mesh.faces
        ), suffix
        assert back.colors is not None and torch.allclose(back.colors, colors, atol=2e-3), suffix
    write_mesh(tmp_path / "ball.stl", mesh)
    assert len(read_mesh(tmp_path / "ball.stl").faces) == len(mesh.faces)
    other = mesh.to_trimesh()
    write_mesh(tmp_path / "other.obj", other)
    assert torch.equal(read_mesh(tmp_path / "other.obj").faces, mesh.faces)
    assert torch.allclose(points_of(other)[1], colors, atol=2e-3)  # type: ignore[arg-type]
    points, tints = points_of(trimesh.PointCloud([[0.0, 1.0, 2.0]], colors=[[255, 0, 51, 255]]))
    assert (
        tints is not None
        and torch.allclose(tints, torch.tensor([[1.0, 0.0, 0.2]]))
        and points.tolist() == [[0.0, 1.0, 2.0]]
    )
    # The objects of Open3D and PyTorch3D, by what of them is used.
    kind = type("PointCloud", (SimpleNamespace,), {"__module__": "open3d.cpu.pybind.geometry"})
    open3d = kind(points=[[0.0, 1.0, 2.0]], colors=[[0.5, 0.0, 1.0]])
    assert torch.allclose(points_of(open3d)[1], torch.tensor([[0.5, 0.0, 1.0]]))  # type: ignore[arg-type]
    clouds = type(
        "Pointclouds",
        (),
        {
            "__module__": "pytorch3d.structures.pointclouds",
            "points_list": lambda self: [torch.ones(2, 3)],
            "features_list": lambda self: [torch.full((2, 4), 0.25)],
        },
    )()
    assert torch.allclose(points_of(clouds)[1], torch.tensor(0.25))  # type: ignore[arg-type]
    assert points_of(torch.ones(4, 3))[1] is None
    (tmp_path / "broken.glb").write_bytes((tmp_path / "ball.glb").read_bytes()[:60])
    with pytest.raises(InputError, match="cannot be read as GLB"):
        read_mesh(tmp_path / "broken.glb")
