"""Scene files of meshes: known positions of some vertices, and a prior that moves the others.

The tables::

    title, regularization
    [mesh]                 path, frame: the mesh at rest
    [handles]              path: the group of every vertex, a .dmat of libigl or a .npy;
                           vertices of a negative group are free, others are held;
                           or positions: rows NUMBER X Y Z of handles
    [[handles.move]]       motion of a group: group, turn (degrees about x, y, z),
                           about ("centre", "origin" or a point), shift
    [observed]             or some vertices of another mesh with noise:
                           frame, path, share, relative_noise (of the diagonal), seed
    [[prior]]              ARAP by default; the graph of the mesh is "spokes-and-rims" (the
                           default of ARAP), "clamped" (of the others), "cotangent" or "uniform"
    [solver]               name, settings, budgets
    [output]               folder, formats

``--set observed.share=0.02`` changes a key by its dotted name, as in every scene.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from invtoolbox.catalogue.documents import Alone, CheckedScene, FilePath, Several, Table
from invtoolbox.core.checks import decoding, open_arrays, require_file
from invtoolbox.data_terms import Exact, LeastSquares
from invtoolbox.datasets.models.meshes import read_dmat, read_mesh, write_mesh
from invtoolbox.errors import InputError
from invtoolbox.geometry import Mesh, NeighbourGraph
from invtoolbox.geometry.rigid import rotation
from invtoolbox.jobs.command import SceneCommand
from invtoolbox.jobs.images.parts import prior_of, solver_of
from invtoolbox.jobs.images.tables import Prior as PriorTable
from invtoolbox.jobs.images.tables import Solver as SolverTable
from invtoolbox.jobs.kind import Compared, Inputs, Kind, SceneTables, write_figure, write_solution
from invtoolbox.operators import ObservedPoints
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solve import solve


class MeshTable(Table):
    """Mesh at rest."""

    path: FilePath = Field(description="mesh at rest, or a recording of meshes")
    frame: int = Field(0, description="number of the mesh in a recording")


class Move(Table):
    """Motion of a group of handles: a rotation about a point, then a shift."""

    group: int = Field(ge=0, description="number of the group")
    turn: tuple[float, float, float] = Field(
        (0.0, 0.0, 0.0), description="rotation about x, y and z, in degrees"
    )
    about: Literal["centre", "origin"] | tuple[float, float, float] = Field(
        "centre", description="point that the rotation leaves in place"
    )
    shift: tuple[float, float, float] = Field((0.0, 0.0, 0.0), description="shift after it")


class Handles(Table):
    """Groups of vertices that are held, and the motions of some of these groups."""

    path: FilePath | None = Field(
        None,
        description="group of every vertex, a .dmat of libigl or a .npy; vertices of a negative "
        "group are free, the others are held",
    )
    move: list[Move] = Field(default_factory=list, description="motions of groups")
    positions: FilePath | None = Field(
        None,
        description="handles with their new positions: lines NUMBER X Y Z of a text file, or an "
        "array (handles, 4) as .npy",
    )

    @model_validator(mode="after")
    def _groups_or_positions(self) -> Handles:
        if (self.path is None) != (not self.move) or (self.path is None) == (
            self.positions is None
        ):
            raise ValueError("give either the path of groups and their moves, or positions")
        return self


class Observed(Table):
    """Some vertices of another mesh with the same faces.

    The other vertices of that mesh are the truth for the evaluation.
    """

    path: FilePath | None = Field(None, description="that mesh; by default the mesh at rest")
    frame: int = Field(0, description="number of the mesh in a recording")
    share: float = Field(0.05, gt=0, le=1, description="share of the vertices that are observed")
    relative_noise: float = Field(
        0.01, gt=0, description="noise of a position as a share of the diagonal of the shape"
    )
    seed: int = Field(0, description="seed of the choice and of the noise")


class MeshScene(SceneTables):
    """Scene file of a mesh."""

    mesh: MeshTable
    handles: Handles | None = None
    observed: Observed | None = None
    prior: Several[PriorTable] = Field(
        [PriorTable(name="arap")], description="priors of the displacement, with their graphs"
    )
    solver: Alone[SolverTable] = SolverTable(name="local-global")
    regularization: float = Field(1.0, gt=0, description="weight of the priors")

    @model_validator(mode="after")
    def _handles_or_observed(self) -> MeshScene:
        if (self.handles is None) == (self.observed is None):
            raise ValueError(
                "give either [handles], which hold exactly, or [observed], which come with noise"
            )
        return self


@dataclass(frozen=True)
class MovedMesh:
    """Deformed mesh.

    Attributes:
        mesh: the deformed mesh.
        rest: the mesh at rest.
        solution: the displacements ``(1, N, 3)`` and their history.
    """

    mesh: Mesh
    rest: Mesh
    solution: Solution


def _read(file: CheckedScene[MeshScene]) -> Inputs:
    """Return the mesh at rest, the problem of the known positions, and the true vertices if known."""
    table = file.scene.mesh
    mesh = read_mesh(file.locate(table.path), table.frame)
    problem, truth = _problem(file, mesh)
    return {
        "mesh": mesh,
        "measurements": problem.y,
        "operator": problem.operator,
        "problem": problem,
        "truth": truth,
    }


def _deform(file: CheckedScene[MeshScene], inputs: Inputs, progress: bool) -> MovedMesh:
    mesh, budgets = inputs["mesh"], file.scene.solver
    solution = solve(
        inputs["problem"],
        prior_of(_with_graphs(file.scene.prior, mesh), file),
        solver_of(budgets, file),
        regularization=file.scene.regularization,
        max_iterations=budgets.max_iterations,
        tolerance=budgets.tolerance,
        time_limit=budgets.time_limit,
        progress=progress,
    )
    return MovedMesh(mesh.with_vertices(mesh.vertices + solution.x[0]), mesh, solution)


def _problem(file: CheckedScene[MeshScene], mesh: Mesh) -> tuple[Problem, Tensor | None]:
    """Return the problem of the known positions, and the true vertices if they are known."""
    scene, rest = file.scene, mesh.vertices
    if scene.handles is not None:
        index, goal = _moved_handles(file, scene.handles, rest)
        operator = ObservedPoints(rest[None], index)
        return Problem(operator.displacements(goal[None]), operator, Exact()), None
    table = scene.observed
    assert table is not None
    observed = read_mesh(file.locate(table.path or scene.mesh.path), table.frame)
    if observed.vertices.shape != rest.shape:
        raise InputError(
            f"{file.path}: [observed] is a mesh of {len(observed.vertices)} vertices, and [mesh] has "
            f"{len(rest)}"
        )
    generator = torch.Generator().manual_seed(table.seed)
    index = torch.randperm(len(rest), generator=generator)[: max(1, round(table.share * len(rest)))]
    noise = table.relative_noise * _diagonal(rest)
    positions = observed.vertices[index] + noise * torch.randn(
        len(index), 3, generator=generator, dtype=rest.dtype
    )
    operator = ObservedPoints(rest[None], index)
    return Problem(
        operator.displacements(positions[None]), operator, LeastSquares(noise)
    ), observed.vertices


def _moved_handles(
    file: CheckedScene[MeshScene], handles: Handles, rest: Tensor
) -> tuple[Tensor, Tensor]:
    if handles.positions is not None:
        return _positions(file.locate(handles.positions), rest)
    path = file.locate(str(handles.path))
    groups = (
        torch.from_numpy(open_arrays(path)) if path.suffix == ".npy" else read_dmat(path)
    ).flatten()
    if len(groups) != len(rest):
        raise InputError(
            f"{file.path}: {path} has the groups of {len(groups)} vertices, and the mesh has "
            f"{len(rest)}"
        )
    index = (groups >= 0).nonzero()[:, 0]
    goal = rest[index].clone()
    for move in handles.move:
        members = groups[index] == move.group
        if not bool(members.any()):
            raise InputError(
                f"{file.path}: [handles.move] names group {move.group}, and there are "
                f"{', '.join(f'{int(g)}' for g in groups[index].unique())}"
            )
        if move.about == "centre":
            centre = goal[members].mean(0)
        else:
            centre = goal.new_tensor((0.0, 0.0, 0.0) if move.about == "origin" else move.about)
        turn = rotation(torch.deg2rad(goal.new_tensor(move.turn)))
        goal[members] = (goal[members] - centre) @ turn.T + centre + goal.new_tensor(move.shift)
    return index, goal


def _positions(path: Path, rest: Tensor) -> tuple[Tensor, Tensor]:
    """Return numbers and positions of handles from a file of rows NUMBER X Y Z."""
    if path.suffix.lower() == ".npy":
        rows = np.asarray(open_arrays(path), float)
    else:
        with decoding(path, "text"):
            rows = np.loadtxt(require_file(path), ndmin=2)
    numbers = rows[:, 0] if rows.ndim == 2 and rows.shape[1] == 4 else np.array([0.5])
    if (
        not np.isfinite(rows).all()
        or (numbers != numbers.round()).any()
        or len(set(numbers)) < len(numbers)
        or not 0 <= min(numbers) <= max(numbers) < len(rest)
    ):
        raise InputError(
            f"{path}: handles are rows NUMBER X Y Z, with every number once, from 0 to "
            f"{len(rest) - 1}"
        )
    return torch.from_numpy(numbers).long(), torch.from_numpy(rows[:, 1:]).to(rest)


def _with_graphs(tables: list[PriorTable], mesh: Mesh) -> list[PriorTable]:
    """Return the tables with the graph that they name.

    Tables without neighbours get the graph of the mesh.
    """
    complete = []
    for table in tables:
        settings = dict(table.settings)
        usual = "spokes-and-rims" if table.name == "arap" else "clamped"
        weights = settings.pop("graph", None if {"neighbours", "radius"} & set(settings) else usual)
        if weights is not None:
            settings["graph"] = NeighbourGraph.of_mesh(mesh.vertices, mesh.faces, weights)
        complete.append(PriorTable(name=table.name, weight=table.weight, **settings))
    return complete


def _measure(moved: MovedMesh, inputs: Inputs) -> dict[str, float]:
    """Return distances in per cent of the diagonal at rest.

    "moved" is the mean displacement of a vertex, "unseen" the mean distance of the unobserved
    vertices from the truth, and "at_rest" that distance before the deformation.
    """
    rest, truth = moved.rest.vertices, inputs["truth"]
    size = _diagonal(rest) / 100
    metrics = {"moved": float(moved.solution.x[0].norm(dim=1).mean()) / size}
    if truth is not None:
        is_unseen = torch.ones(len(rest), dtype=torch.bool)
        is_unseen[inputs["operator"].index[0]] = False
        if bool(is_unseen.any()):
            for name, vertices in (("unseen", moved.mesh.vertices), ("at_rest", rest)):
                metrics[name] = float((vertices - truth).norm(dim=1)[is_unseen].mean()) / size
    return metrics


def _compare(file: CheckedScene[MeshScene], moved: MovedMesh, inputs: Inputs) -> Compared | None:
    """Return how the unobserved vertices compare with those at rest, the simple answer."""
    measures = _measure(moved, inputs)
    if "unseen" not in measures:
        return None
    words = (
        f"The vertices that were not observed are {measures['unseen']:.3g} % of the diagonal from "
        f"the truth, and {measures['at_rest']:.3g} % at rest."
    )
    return Compared({}, "", words=words, is_good=measures["unseen"] <= measures["at_rest"])


def _diagonal(vertices: Tensor) -> float:
    return float((vertices.amax(0) - vertices.amin(0)).norm())


def _write_picture(path: Path, moved: MovedMesh, inputs: Inputs) -> None:
    from invtoolbox.plotting.figures import mesh_figure

    write_figure(path, mesh_figure([moved.rest, moved.mesh], ["at rest", "moved"]))


COMMAND = SceneCommand(
    description="Deform a mesh: handles go to their new positions, and everything else follows as "
    "rigidly as possible.",
    positional={"MESH": "mesh.path", "HANDLES": "handles.positions"},
    options={
        "--prior": "prior.name",
        "--regularization": "regularization",
        "--iterations": "solver.max_iterations",
    },
    examples=(
        "deform knight.obj handles.txt --output moved.obj moved.png",
        "deform cow.off handles.npy --set prior.graph=uniform --output results/cow",
    ),
    outputs=("{stem}_deformed{suffix}",),
)

KIND = Kind(
    MeshScene,
    "a mesh",
    _read,
    _deform,
    _measure,
    {
        **{
            suffix: (
                f"mesh.{suffix}",
                lambda path, moved, _: write_mesh(path, moved.mesh, overwrite=True),
            )
            for suffix in ("ply", "obj", "off")
        },
        "h5": ("solution.h5", write_solution),
        "png": ("mesh.png", _write_picture),
    },
    usual=("ply", "h5", "png"),
    units=dict.fromkeys(("moved", "unseen", "at_rest"), "% of the diagonal"),
    compare=_compare,
    command=COMMAND,
)
