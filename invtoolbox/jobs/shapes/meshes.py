"""Scene files of meshes: known positions of some vertices, and a prior that moves the others.

The tables::

    title, regularization
    [mesh]                 path, frame: the mesh at rest
    [handles]              path: the group of every vertex, a .dmat of libigl or a .npy;
                           vertices of a negative group are free, others are held
    [[handles.move]]       motion of a group: group, turn (degrees about x, y, z),
                           about ("centre", "origin" or a point), shift
    [observed]             or some vertices of another mesh with noise:
                           frame, path, share, relative_noise (of the diagonal), seed
    [[prior]]              ARAP by default; the graph of the mesh is "clamped"
                           (cotangents, the default), "cotangent" or "uniform"
    [solver]               name, settings, budgets
    [output]               folder, formats

``--set observed.share=0.02`` changes a key by its dotted name, as in every scene.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from invtoolbox.catalogue.documents import Alone, CheckedScene, Several, Table
from invtoolbox.core.checks import open_arrays
from invtoolbox.data_terms import Exact, LeastSquares
from invtoolbox.datasets.models.meshes import read_dmat, read_mesh, write_mesh
from invtoolbox.datasets.output import write_bytes
from invtoolbox.errors import InputError
from invtoolbox.geometry.meshes import Mesh
from invtoolbox.geometry.neighbour_graph import NeighbourGraph
from invtoolbox.geometry.rigid import rotation
from invtoolbox.jobs.images.parts import prior_of, solver_of
from invtoolbox.jobs.images.tables import Prior as PriorTable
from invtoolbox.jobs.images.tables import Solver as SolverTable
from invtoolbox.jobs.job import Request, SceneJob, read_json, write_json
from invtoolbox.operators import ObservedPoints
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solve import solve


class MeshTable(Table):
    """Mesh at rest."""

    path: str
    frame: int = 0


class Move(Table):
    """Motion of a group of handles: a rotation about a point, then a shift."""

    group: int = Field(ge=0)
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    about: Literal["centre", "origin"] | tuple[float, float, float] = "centre"
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)


class Handles(Table):
    """Groups of vertices that are held, and the motions of some of these groups."""

    path: str
    move: list[Move] = Field(min_length=1)


class Observed(Table):
    """Some vertices of another mesh with the same faces.

    The other vertices of that mesh are the truth for the evaluation.
    """

    path: str | None = None
    frame: int = 0
    share: float = Field(0.05, gt=0, le=1)
    relative_noise: float = Field(0.01, gt=0)
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _not_the_old_key(cls, table: Any) -> Any:
        if isinstance(table, Mapping) and "noise" in table:
            raise ValueError(
                "the key noise is now relative_noise, a share of the diagonal of the shape: write "
                f"relative_noise = {table['noise']}"
            )
        return table


class MeshOutput(Table):
    """Folder and formats of the results; h5 holds the displacements and the history."""

    folder: str | None = None
    formats: list[Literal["ply", "obj", "off", "h5", "png"]] = Field(["ply", "h5", "png"])


class MeshScene(Table):
    """Scene file of a mesh."""

    title: str | None = None
    mesh: MeshTable
    handles: Handles | None = None
    observed: Observed | None = None
    prior: Several[PriorTable] = Field([PriorTable(name="arap")])
    solver: Alone[SolverTable] = SolverTable(name="local-global")
    regularization: float = Field(1.0, gt=0)
    output: MeshOutput = Field(default_factory=MeshOutput)

    @model_validator(mode="after")
    def _handles_or_observed(self) -> MeshScene:
        if (self.handles is None) == (self.observed is None):
            raise ValueError(
                "give either [handles], which hold exactly, or [observed], which come with noise"
            )
        return self


class MeshSceneFile(CheckedScene[MeshScene]):
    """Checked scene of a mesh."""


@dataclass(frozen=True)
class MeshOutcome:
    """Deformed mesh and its files.

    Attributes:
        solution: the displacements ``(1, N, 3)`` and their history.
        mesh: the deformed mesh; None if an earlier run was finished.
        folder: folder of the results.
        metrics: values in per cent of the diagonal: "moved", the mean displacement of a vertex;
            "unseen", the mean distance of unobserved vertices from the truth; and "at_rest", the
            same distance of the mesh at rest.
        files: files that were written; empty if an earlier run was finished.
    """

    solution: Solution
    mesh: Mesh | None
    folder: Path
    metrics: dict[str, float]
    files: tuple[Path, ...]


def read_mesh_scene(
    scene: str | Path, overrides: Mapping[str, Any] | Iterable[str] = ()
) -> MeshSceneFile:
    """Read and check a scene file of a mesh.

    The errors are those of `invtoolbox.jobs.images.tables.read_scene`.

    >>> read_mesh_scene("horse-sparse", {"observed.share": 0.1}).scene.observed.share
    0.1
    """
    return MeshSceneFile.read(MeshScene, scene, overrides)


def prepare(scene: str | Path, request: Request) -> MeshJob:
    """Read and check a scene of a mesh, and return its job."""
    return MeshJob.prepare(read_mesh_scene(scene, request.overrides), request)


@dataclass(frozen=True)
class MeshJob(SceneJob[MeshScene]):
    """Run of one scene of a mesh."""

    files: ClassVar = (
        "scene.json",
        "metrics.json",
        "solution.h5",
        "mesh.ply",
        "mesh.obj",
        "mesh.off",
        "mesh.png",
    )
    free: ClassVar = ("title", "output")
    file: MeshSceneFile

    def run(self, progress: bool = True) -> MeshOutcome:
        """Move the mesh and write the results, or read those of a finished run."""
        file, folder = self.file, self.folder
        finished, measures = folder / "solution.h5", folder / "metrics.json"
        mesh = read_mesh(file.locate(file.scene.mesh.path), file.scene.mesh.frame)
        problem, truth = _problem(file, mesh)
        content = self.check_content(mesh=mesh, measurements=problem.y, operator=problem.operator)
        if self.resume and finished.exists() and measures.exists():
            return MeshOutcome(Solution.load(finished), None, folder, read_json(measures), ())
        budgets = file.scene.solver
        solution = solve(
            problem,
            prior_of(_with_graphs(file.scene.prior, mesh), file),
            solver_of(budgets, file),
            regularization=file.scene.regularization,
            max_iterations=budgets.max_iterations,
            tolerance=budgets.tolerance,
            time_limit=budgets.time_limit,
            progress=progress,
        )
        metrics = _metrics(problem, mesh, solution.x[0], truth)
        moved = mesh.with_vertices(mesh.vertices + solution.x[0])
        self.start(content)
        write_json(measures, metrics)
        written = [measures]
        for kind in dict.fromkeys(file.scene.output.formats):
            path = finished if kind == "h5" else folder / f"mesh.{kind}"
            if kind == "h5":
                solution.save(path, overwrite=True)
            elif kind == "png":
                from invtoolbox.plotting.figures import mesh_figure

                buffer = io.BytesIO()
                mesh_figure([mesh, moved], ["at rest", "moved"]).savefig(
                    buffer, format="png", dpi=110
                )
                write_bytes(path, buffer.getvalue(), overwrite=True)
            else:
                write_mesh(path, moved, overwrite=True)
            written.append(path)
        return MeshOutcome(solution, moved, folder, metrics, tuple(written))


def _problem(file: MeshSceneFile, mesh: Mesh) -> tuple[Problem, Tensor | None]:
    """Return the problem of the known positions, and the true vertices if they are known."""
    scene, rest = file.scene, mesh.vertices
    if scene.handles is not None:
        index, goal = _moved_handles(file, scene.handles, rest)
        operator = ObservedPoints(rest[None], index)
        return Problem(operator.displacements(goal[None]), operator, Exact()), None
    seen = scene.observed
    assert seen is not None
    other = read_mesh(file.locate(seen.path or scene.mesh.path), seen.frame)
    if other.vertices.shape != rest.shape:
        raise InputError(
            f"{file.path}: [observed] is a mesh of {len(other.vertices)} vertices, and [mesh] has "
            f"{len(rest)}"
        )
    generator = torch.Generator().manual_seed(seen.seed)
    index = torch.randperm(len(rest), generator=generator)[: max(1, round(seen.share * len(rest)))]
    noise = seen.relative_noise * _diagonal(rest)
    positions = other.vertices[index] + noise * torch.randn(
        len(index), 3, generator=generator, dtype=rest.dtype
    )
    operator = ObservedPoints(rest[None], index)
    return Problem(
        operator.displacements(positions[None]), operator, LeastSquares(noise)
    ), other.vertices


def _moved_handles(file: MeshSceneFile, handles: Handles, rest: Tensor) -> tuple[Tensor, Tensor]:
    path = file.locate(handles.path)
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
        own = groups[index] == move.group
        if not bool(own.any()):
            raise InputError(
                f"{file.path}: [handles.move] names group {move.group}, and there are "
                f"{', '.join(f'{int(g)}' for g in groups[index].unique())}"
            )
        centre = {"centre": goal[own].mean(0), "origin": goal.new_zeros(3)}.get(
            move.about if isinstance(move.about, str) else ""
        )
        centre = goal.new_tensor(move.about) if centre is None else centre
        turn = rotation(torch.deg2rad(goal.new_tensor(move.turn)))
        goal[own] = (goal[own] - centre) @ turn.T + centre + goal.new_tensor(move.shift)
    return index, goal


def _with_graphs(tables: list[PriorTable], mesh: Mesh) -> list[PriorTable]:
    """Return the tables with the graph that they name.

    Tables without neighbours get the graph of the mesh.
    """
    found = []
    for table in tables:
        settings = dict(table.settings)
        kind = settings.pop(
            "graph", None if {"neighbours", "radius"} & set(settings) else "clamped"
        )
        if kind is not None:
            settings["graph"] = NeighbourGraph.of_mesh(mesh.vertices, mesh.faces, kind)
        found.append(PriorTable(name=table.name, weight=table.weight, **settings))
    return found


def _metrics(problem: Problem, mesh: Mesh, x: Tensor, truth: Tensor | None) -> dict[str, float]:
    size = _diagonal(mesh.vertices) / 100
    found = {"moved": float(x.norm(dim=1).mean()) / size}
    if truth is not None:
        seen: Tensor = problem.operator.index[0]  # type: ignore[attr-defined]
        unseen = torch.ones(len(x), dtype=torch.bool).index_fill(0, seen, False)
        if bool(unseen.any()):
            found["unseen"] = float((mesh.vertices + x - truth).norm(dim=1)[unseen].mean()) / size
            found["at_rest"] = float((mesh.vertices - truth).norm(dim=1)[unseen].mean()) / size
    return found


def _diagonal(vertices: Tensor) -> float:
    return float((vertices.amax(0) - vertices.amin(0)).norm())
