"""`it.deform`: the answer of libigl's algorithm, kinds of shapes, and what is wrong with a call."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.datasets.models.meshes import read_dmat, read_mesh, write_mesh
from invtoolbox.errors import InputError
from invtoolbox.geometry.meshes import Mesh
from invtoolbox.geometry.rigid import rotation
from invtoolbox.jobs.shapes.deformation import deformation


def cylinder(around: int = 8, along: int = 12) -> Mesh:
    angle = 2 * torch.pi * torch.arange(around, dtype=torch.float64) / around
    rings = [
        torch.stack([angle.cos(), angle.sin(), torch.full_like(angle, 0.4 * z)], 1)
        for z in range(along)
    ]
    faces = []
    for z in range(along - 1):
        for a in range(around):
            i, j = z * around + a, z * around + (a + 1) % around
            faces += [[i, j, i + around], [j, j + around, i + around]]
    return Mesh(torch.cat(rings), torch.tensor(faces))


def ends(mesh: Mesh, turn: float = 2.0) -> tuple[Tensor, Tensor]:
    """Both end rings of the cylinder, the upper one turned about its axis and bent."""
    n = len(mesh.vertices)
    index = torch.cat([torch.arange(8), torch.arange(n - 8, n)])
    goal = mesh.vertices[index].clone()
    centre = goal[8:].mean(0)
    goal[8:] = (goal[8:] - centre) @ rotation(
        torch.tensor([0.6, 0.0, turn], dtype=torch.float64)
    ).T + centre
    return index, goal


@pytest.mark.parametrize("weights", ["spokes-and-rims", "cotangent", "clamped", "uniform"])
def test_the_energy_never_increases_and_handles_hold(weights: Any) -> None:
    mesh = cylinder()
    index, goal = ends(mesh)
    for solver in (it.solvers.LocalGlobal(memory=0), it.solvers.LocalGlobal()):
        solution = deformation(
            mesh, (index, goal), weights=weights, solver=solver, max_iterations=200
        )
        values = solution.history["objective"][:, 0]
        assert float((values[1:] - values[:-1]).max()) <= 1e-13
        assert torch.allclose(mesh.vertices[index] + solution.x[0, index], goal, atol=1e-14)
    moved = it.deform(mesh, (index, goal), weights=weights)
    assert torch.equal(moved.vertices[index], goal)


def test_a_rigid_motion_of_the_handles_moves_everything_rigidly() -> None:
    mesh = cylinder()
    index, _ = ends(mesh)
    R = rotation(torch.tensor([0.2, 0.4, 1.0], dtype=torch.float64))
    moved = it.deform(mesh, (index, mesh.vertices[index] @ R.T + 1), tolerance=1e-10)
    assert torch.allclose(moved.vertices, mesh.vertices @ R.T + 1, atol=1e-6)


def test_memory_finds_what_plain_steps_find() -> None:
    mesh = cylinder()
    plain = it.deform(
        mesh,
        ends(mesh),
        solver=it.solvers.LocalGlobal(memory=0),
        max_iterations=3000,
        tolerance=1e-8,
    )
    solution = deformation(mesh, ends(mesh), tolerance=1e-8)
    assert torch.allclose(mesh.vertices + solution.x[0], plain.vertices, atol=1e-5)
    assert int(solution.iterations[0]) < 150


def test_a_batch_is_its_items() -> None:
    mesh = cylinder()
    index, goal = ends(mesh)
    points = torch.stack([mesh.vertices, 1.2 * mesh.vertices])
    goals = torch.stack([goal, 1.2 * goal])
    both = it.deform((points, mesh.faces), (index, goals), max_iterations=30)[0]
    for k in range(2):
        alone = it.deform((points[k], mesh.faces), (index, goals[k]), max_iterations=30)[0]
        assert torch.allclose(alone, both[k], atol=1e-9)


def test_points_without_faces_and_noisy_handles() -> None:
    bar = torch.cartesian_prod(torch.arange(6.0), torch.arange(2.0), torch.arange(2.0))
    moved = it.deform(bar.numpy(), {0: (0, 0, 0), 1: (0, 0, 1), 2: (0, 1, 0), 23: (5, 1, 2)})
    assert (
        isinstance(moved, np.ndarray)
        and moved.dtype == np.float32
        and moved[23].tolist() == [5, 1, 2]
    )
    near = it.deform(
        bar,
        {0: (0, 0, 0), 1: (0, 0, 1), 2: (0, 1, 0), 23: (5, 1, 2)},
        noise_std=0.5,
        prior=20.0 * it.priors.ARAP(6),
    )
    assert 0.01 < float((near[23] - torch.tensor([5.0, 1, 2])).norm()) < 1.0


def test_kinds_of_shapes_come_back_in_kind(tmp_path: Path) -> None:
    mesh = cylinder()
    handles = ends(mesh)
    expected = it.deform(mesh, handles, max_iterations=20).vertices
    trimesh = pytest.importorskip("trimesh")
    body = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    before = body.vertices.copy()
    moved = it.deform(body, handles, max_iterations=20)
    assert (
        isinstance(moved, trimesh.Trimesh)
        and np.allclose(moved.vertices, expected)
        and np.array_equal(body.vertices, before)
    )
    cloud = trimesh.PointCloud(mesh.vertices.numpy())
    assert isinstance(it.deform(cloud, handles, max_iterations=3), trimesh.PointCloud)
    for name in ("c.obj", "c.off", "c.ply", "c.glb"):
        write_mesh(tmp_path / name, mesh)
        again = read_mesh(tmp_path / name)
        assert torch.allclose(again.vertices, mesh.vertices, atol=1e-6) and torch.equal(
            again.faces, mesh.faces
        )


class FakeOpen3D:
    """What of Open3D's TriangleMesh is used."""

    def __init__(self, vertices: np.ndarray, triangles: np.ndarray) -> None:
        self.vertices, self.triangles = _Vectors(vertices), _Vectors(triangles)


class _Vectors(np.ndarray):
    def __new__(cls, values: np.ndarray) -> _Vectors:
        return np.asarray(values).view(cls)


class FakeMeshes:
    """What of PyTorch3D's Meshes is used."""

    def __init__(self, verts: Tensor, faces: Tensor) -> None:
        self.verts, self.faces = verts, faces

    def verts_list(self) -> list[Tensor]:
        return list(self.verts)

    def faces_list(self) -> list[Tensor]:
        return [self.faces] * len(self.verts)

    def update_padded(self, verts: Tensor) -> FakeMeshes:
        return FakeMeshes(verts, self.faces)


def test_objects_of_open3d_and_pytorch3d_by_what_they_offer() -> None:
    mesh = cylinder()
    handles = ends(mesh)
    expected = it.deform(mesh, handles, max_iterations=5).vertices
    FakeOpen3D.__module__, FakeMeshes.__module__ = "open3d.geometry", "pytorch3d.structures.meshes"
    legacy = FakeOpen3D(mesh.vertices.numpy(), mesh.faces.numpy())
    before = copy.deepcopy(legacy)
    assert np.allclose(it.deform(legacy, handles, max_iterations=5).vertices, expected)
    assert np.array_equal(legacy.vertices, before.vertices)
    # The attributes are enough, whatever the module is called.
    FakeOpen3D.__module__ = "my_shapes"
    assert np.allclose(it.deform(legacy, handles, max_iterations=5).vertices, expected)
    meshes = FakeMeshes(torch.stack([mesh.vertices] * 2).float(), mesh.faces)
    moved = it.deform(meshes, handles, max_iterations=5)
    assert isinstance(moved, FakeMeshes) and moved.verts.dtype == torch.float32
    assert torch.allclose(moved.verts[1].double(), expected, atol=1e-5)


def test_what_is_wrong_with_a_call_is_said() -> None:
    mesh = cylinder()
    index, goal = ends(mesh)
    n = len(mesh.vertices)
    with pytest.raises(
        InputError, match=f"handle 1 is point {n}, and the shape has the points 0..{n - 1}"
    ):
        it.deform(mesh, {0: (0, 0, 0), n: (0, 0, 0)})
    with pytest.raises(InputError, match="handle 2 .*NaN"):
        it.deform(mesh, (index, goal.clone().index_fill(0, torch.tensor([2]), torch.nan)))
    with pytest.raises(InputError, match="2 times"):
        it.deform(mesh, (torch.tensor([3, 3]), goal[:2]))
    with pytest.raises(InputError, match="positions"):
        it.deform(mesh, (index, goal[:3]))
    two = Mesh(
        torch.cat([mesh.vertices, mesh.vertices + 10]), torch.cat([mesh.faces, mesh.faces + n])
    )
    with pytest.raises(
        InputError, match=f"2 parts .* 1 of them have no handle: one of {n} points, with point {n}"
    ):
        it.deform(two, (index, goal))
    with pytest.raises(InputError, match=r"face 0 .* names the vertices \[0, 1, 200\]"):
        it.deform((mesh.vertices, torch.tensor([[0, 1, 200]])), (index, goal))
    with pytest.raises(InputError, match="NaN or infinite"):
        it.deform((mesh.vertices * torch.nan, mesh.faces), (index, goal))
    with pytest.raises(InputError, match="got SimpleNamespace"):
        it.deform(SimpleNamespace(), (index, goal))
    with pytest.raises(InputError, match="tells their coordinates apart"):
        mask = torch.ones(20, 3)
        mask[0, 0] = 0
        y = torch.zeros(1, 20, 3, dtype=torch.float64)
        data = it.data_terms.LeastSquares(weights=mask)
        A = it.operators.ObservedPoints(torch.rand(1, 20, 3, dtype=torch.float64), torch.arange(20))
        it.solve(
            it.Problem(y, A, data),
            1.0 * it.priors.ARAP(6),
            it.solvers.LocalGlobal(),
            progress=False,
        )


def crooked() -> Mesh:
    """Two sheared cylinders with obtuse triangles, a loose vertex, and triangles without area."""
    mesh = cylinder()
    shear = torch.tensor([[1.0, 0.0, 1.5], [0.0, 1.0, 0.5], [0.0, 0.0, 0.3]], dtype=torch.float64)
    vertices, n = mesh.vertices @ shear, len(mesh.vertices)
    flat = torch.tensor([[40, 48, 56], [20, 20, 21], [n + 9, n + 9, n + 9]])
    return Mesh(
        torch.cat([vertices, vertices + 5, torch.full((1, 3), 9.0).double()]),
        torch.cat([mesh.faces, mesh.faces + n, flat]),
    )


@pytest.mark.parametrize("weights", ["spokes-and-rims", "clamped", "uniform"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_shape_at_rest_stays_at_rest(weights: Any, dtype: torch.dtype) -> None:
    mesh = crooked()
    mesh = mesh.with_vertices(mesh.vertices.to(dtype))
    index = torch.tensor([0, 1, 90, 97, 98, 190])
    solution = deformation(mesh, (index, mesh.vertices[index]), weights=weights)
    assert solution.status == ("converged",) and int(solution.iterations[0]) == 0
    assert not bool(solution.x.any())
    # Pushed a little, it goes back.
    start = (
        0.01 * torch.randn(solution.x.shape, generator=torch.Generator().manual_seed(0)).double()
    )
    graph = it.geometry.NeighbourGraph.of_mesh(mesh.vertices.double(), mesh.faces, weights)
    A = it.operators.ObservedPoints(mesh.vertices.double()[None], index)
    y = torch.zeros(1, len(index), 3, dtype=torch.float64)
    back = it.solve(
        it.Problem(y, A, it.data_terms.Exact()),
        it.priors.ARAP(graph=graph),
        it.solvers.LocalGlobal(),
        initial=start,
        regularization=1.0,
        max_iterations=1000,
        tolerance=1e-8,
        progress=False,
    )
    assert float(back.x[0, :-1].norm(dim=1).max()) < 1e-4


def test_a_crooked_shape_follows_its_handles_and_loose_vertices_stay() -> None:
    mesh = crooked()
    index = torch.cat([torch.arange(8), torch.arange(88, 104), torch.arange(184, 192)])
    goal = mesh.vertices[index].clone()
    R = rotation(torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64))
    moved = it.deform(mesh, (index, goal @ R.T), tolerance=1e-9).vertices
    assert torch.allclose(moved[:-1], mesh.vertices[:-1] @ R.T, atol=1e-5)
    assert torch.allclose(moved[-1], mesh.vertices[-1])


@pytest.mark.data
@pytest.mark.parametrize("weights", ["spokes-and-rims", "cotangent"])
def test_the_knight_goes_where_libigl_takes_it(weights: Any, data_dir: Path) -> None:
    igl = pytest.importorskip("igl")
    folder = data_dir / "libigl_meshes"
    mesh, group = (
        read_mesh(folder / "decimated-knight.off"),
        read_dmat(folder / "decimated-knight-selection.dmat")[:, 0],
    )
    index = (group >= 0).nonzero()[:, 0]
    goal, turned = mesh.vertices[index].clone(), group[index] == 1
    centre = goal[turned].mean(0)
    goal[turned] = (goal[turned] - centre) @ rotation(
        torch.tensor([0.0, torch.pi / 4, 0.0], dtype=torch.float64)
    ).T + centre

    def of_libigl(iterations: int) -> Tensor:
        data = igl.ARAPData()
        data.max_iter = iterations  # its default energy is that of spokes and rims
        if weights == "cotangent":
            data.energy = igl.ARAP_ENERGY_TYPE_SPOKES
        igl.arap_precomputation(
            mesh.vertices.numpy(), mesh.faces.numpy(), 3, index.numpy().astype(np.int32), data
        )
        start = mesh.vertices.clone()
        start[index] = goal
        return torch.from_numpy(igl.arap_solve(goal.numpy(), data, start.numpy()))

    plain = deformation(
        mesh,
        (index, goal),
        weights=weights,
        solver=it.solvers.LocalGlobal(memory=0),
        max_iterations=500,
        tolerance=0,
    )
    values = plain.history["objective"][:, 0]
    assert float((values[1:] - values[:-1]).max()) < 1e-15
    assert (
        float((mesh.vertices + plain.x[0] - of_libigl(500)).abs().max()) < 1e-4
    )  # iterate by iterate the same algorithm
    found = it.deform(mesh, (index, goal), weights=weights, tolerance=1e-6)
    assert float((found.vertices - of_libigl(3000)).abs().max()) < 1e-4


class PolyData:
    """The attributes of PyVista's meshes that are read."""

    def __init__(self, points: Any, faces: Any) -> None:
        self.points, self.faces, self.n_points = np.asarray(points), np.asarray(faces), len(points)


def test_meshes_of_pyvista_come_in_and_go_out() -> None:
    trimesh = pytest.importorskip("trimesh")
    ball = trimesh.creation.icosphere(1)
    mesh = PolyData(ball.vertices, np.c_[np.full(len(ball.faces), 3), ball.faces].ravel())
    handles = {0: 1.5 * ball.vertices[0], 9: ball.vertices[9], 20: ball.vertices[20]}
    found, expected = it.deform(mesh, handles), it.deform(ball, handles)
    assert isinstance(found, PolyData) and np.allclose(found.points, expected.vertices)
    assert np.array_equal(mesh.points, ball.vertices)
    with pytest.raises(InputError, match="triangulate"):
        it.deform(PolyData(ball.vertices, [4, 0, 1, 2, 3]), handles)
    with pytest.raises(InputError, match=r"scene.to_mesh\(\)"):
        it.deform(trimesh.Scene([ball]), handles)


def test_handles_in_another_form_are_named() -> None:
    points = torch.rand(20, 3)
    with pytest.raises(InputError, match="the shape first"):
        it.deform({0: (0, 0, 0)}, points)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"\{number: position\}.*got list"):
        it.deform(points, [(0, (0, 0, 1)), (1, (0, 0, 0)), (2, (1, 0, 0))])  # type: ignore[arg-type]


def test_the_name_of_a_file_is_answered_with_its_reader() -> None:
    with pytest.raises(InputError, match=r"it.datasets.read_mesh\(path\)"):
        it.deform("triangle.obj", {0: [0.0, 0.0, 0.0]})  # type: ignore[arg-type]


def test_triangles_that_share_no_vertex_are_to_be_merged() -> None:
    soup = Mesh(torch.rand(9, 3), torch.arange(9).view(3, 3))
    with pytest.raises(InputError, match="merge vertices at one place"):
        it.deform(soup, {0: [0.0, 0.0, 1.0]})
