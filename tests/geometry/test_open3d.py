"""Objects of Open3D from ours and back; without Open3D, a stand-in with the same attributes."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.errors import InputError, MissingDependency
from invtoolbox.geometry.meshes import Mesh, points_of
from invtoolbox.geometry.sweeps import Sweep


class Cloud(SimpleNamespace):
    def __init__(self, points: Any) -> None:
        super().__init__(points=points, colors=np.zeros((0, 3)))


class Triangles(SimpleNamespace):
    def __init__(self, vertices: Any, triangles: Any) -> None:
        super().__init__(vertices=vertices, triangles=triangles, vertex_colors=np.zeros((0, 3)))


class Intrinsic(SimpleNamespace):
    def __init__(self, width: int, height: int, intrinsic_matrix: Any) -> None:
        super().__init__(width=width, height=height, intrinsic_matrix=intrinsic_matrix)


@pytest.fixture
def open3d(monkeypatch: pytest.MonkeyPatch) -> Any:
    try:
        import open3d

        return open3d
    except ImportError:
        pass
    Cloud.__module__ = Triangles.__module__ = "open3d.geometry"
    stand_in = SimpleNamespace(
        geometry=SimpleNamespace(PointCloud=Cloud, TriangleMesh=Triangles),
        utility=SimpleNamespace(Vector3dVector=np.array, Vector3iVector=np.array),
        camera=SimpleNamespace(
            PinholeCameraTrajectory=SimpleNamespace,
            PinholeCameraParameters=SimpleNamespace,
            PinholeCameraIntrinsic=Intrinsic,
        ),
    )
    monkeypatch.setitem(sys.modules, "open3d", stand_in)
    return stand_in


def test_a_mesh_keeps_its_vertices_faces_and_colors_both_ways(open3d: Any) -> None:
    mesh = Mesh(torch.eye(3, dtype=torch.float64), torch.tensor([[0, 1, 2]]), torch.rand(3, 3))
    back = Mesh.of(it.to_open3d(mesh))
    assert torch.equal(back.vertices, mesh.vertices) and torch.equal(back.faces, mesh.faces)
    torch.testing.assert_close(back.colors, mesh.colors)
    plain = it.to_open3d((mesh.vertices, mesh.faces), colors=(1.0, 0.0, 0.0))
    assert np.allclose(np.asarray(plain.vertex_colors), [[1.0, 0.0, 0.0]] * 3)
    assert Mesh.of(mesh) is mesh


def test_clouds_sweeps_and_gaussians_become_clouds(open3d: Any) -> None:
    points, colors = torch.rand(5, 3), torch.rand(5, 3)
    found, tints = points_of(it.to_open3d(points, colors))
    torch.testing.assert_close(found, points.double())
    torch.testing.assert_close(tints, colors)
    assert len(np.asarray(it.to_open3d(points.numpy()).points)) == 5
    sweep = Sweep(torch.tensor([[0.0, 1.0, 2.0], [torch.nan, 0.0, 0.0]]))
    assert np.asarray(it.to_open3d(sweep).points).tolist() == [[0.0, 1.0, 2.0]]
    splats = it.geometry.Splats.of_points(points[None], colors[None], 0.1, 0.5)
    torch.testing.assert_close(points_of(it.to_open3d(splats))[1], colors)


def test_cameras_see_the_same_pixels(open3d: Any) -> None:
    cameras = it.geometry.look_at(torch.tensor([[0.0, 0, -4], [1.0, 0, -4]]), size=(48, 64))
    entry = it.to_open3d(cameras).parameters[1]
    point = np.array([0.3, -0.2, 0.5, 1.0])
    seen = np.asarray(entry.intrinsic.intrinsic_matrix) @ (np.asarray(entry.extrinsic) @ point)[:3]
    pixels, _ = cameras[1].project(torch.from_numpy(point[None, :3]).float())
    # Open3D counts from the centre of the first pixel.
    np.testing.assert_allclose(seen[:2] / seen[2], pixels[0, 0].numpy() - 0.5, atol=1e-4)
    assert (entry.intrinsic.width, entry.intrinsic.height) == (64, 48)


def test_what_does_not_fit_is_said(open3d: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"colors for Open3D are \(3,\), or"):
        it.to_open3d(torch.rand(5, 3), torch.rand(4, 3))
    with pytest.raises(InputError, match="Splats of one scene, got 2"):
        it.to_open3d(it.geometry.Splats.of_points(torch.rand(2, 5, 3), torch.rand(2, 5, 3), 1, 1))
    with pytest.raises(InputError, match="a mesh or points are"):
        it.to_open3d(3)
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(MissingDependency, match=r"needs Open3D; install it with .*\[3d\]"):
        it.to_open3d(torch.rand(5, 3))
