"""Scene files of a shape that moves with bones: meshes at several times, and their bones.

The tables::

    title
    [bones]   frames: meshes with the vertices in the same order, or one recording (.npz); rest:
              number of the frame at rest; count; noise_std; ordered; max_iterations, tolerance
    [output]  folder, formats: npz, weights and poses; ply, the frames as the bones move them, in a
              folder

``--set bones.count=30`` changes a key by its dotted name, as in every scene.
"""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from invtoolbox.catalogue.documents import CheckedScene, FilePath, Table
from invtoolbox.core.checks import open_arrays
from invtoolbox.datasets.models.meshes import read_mesh, write_mesh
from invtoolbox.datasets.output import make_folder
from invtoolbox.errors import InputError
from invtoolbox.geometry.meshes import Mesh
from invtoolbox.jobs.command import SceneCommand
from invtoolbox.jobs.kind import Compared, Inputs, Kind, SceneTables, arrays_of
from invtoolbox.jobs.shapes.articulation import find_bones
from invtoolbox.solution import Solution


class BonesTable(Table):
    """Meshes at several times, and the bones to find."""

    frames: list[FilePath] = Field(
        min_length=1,
        description="meshes with the vertices in the same order, or one .npz with vertices "
        "(T, N, 3) and faces",
    )
    rest: int = Field(0, ge=0, description="number of the frame at rest")
    count: int = Field(20, ge=1, description="number of bones")
    noise_std: float | None = Field(
        None,
        gt=0,
        description="standard deviation of the positions, in their unit; 0.2 per cent of the "
        "diagonal by default",
    )
    ordered: bool = Field(True, description="whether the frames follow each other in time")
    max_iterations: int = Field(300, ge=1, description="maximum number of iterations")
    tolerance: float = Field(1e-4, ge=0, description="bound of the certificate")


class BonesScene(SceneTables):
    """Scene file of a shape that moves with bones."""

    bones: BonesTable


def _read(file: CheckedScene[BonesScene]) -> Inputs:
    """Return the mesh at rest, and the positions at all times, ``(T, N, 3)``."""
    table = file.scene.bones
    paths = [file.locate(name) for name in table.frames]
    numbers = [0] * len(paths)
    if len(paths) == 1 and paths[0].suffix.lower() == ".npz":
        with open_arrays(paths[0]) as arrays:
            numbers = list(range(len(arrays["vertices"]) if "vertices" in arrays else 1))
        paths *= len(numbers)
    meshes = [read_mesh(path, number) for path, number in zip(paths, numbers)]
    for path, mesh in zip(paths, meshes):
        if len(mesh.vertices) != len(meshes[0].vertices):
            raise InputError(
                f"{path} has {len(mesh.vertices)} vertices, and {paths[0]} has "
                f"{len(meshes[0].vertices)}; give meshes with the same vertices in the same order"
            )
    if not table.rest < len(meshes) > 1:
        raise InputError(
            f"{file.path}: [bones] has {len(meshes)} frames; give at least two, and a number of the "
            "frame at rest among them"
        )
    positions = torch.stack([mesh.vertices for mesh in meshes])
    return {"rest": meshes[table.rest], "positions": positions}


def _find(file: CheckedScene[BonesScene], inputs: Inputs, progress: bool) -> Solution:
    settings = file.scene.bones.model_dump(exclude={"frames", "rest"})
    return find_bones(inputs["rest"], inputs["positions"], **settings, progress=progress)


def _measure(solution: Solution, inputs: Inputs) -> dict[str, float]:
    """Return mean and largest distance from the frames, in per cent of the diagonal at rest."""
    rest: Mesh = inputs["rest"]
    frames = torch.stack([_frame(solution, rest, k).vertices for k in range(solution.x.times)])
    distances = (frames - inputs["positions"]).norm(dim=2)
    diagonal = float((rest.vertices.amax(0) - rest.vertices.amin(0)).norm())
    return {
        "distance": 100 * float(distances.mean()) / diagonal,
        "largest": 100 * float(distances.max()) / diagonal,
    }


def _compare(file: CheckedScene[BonesScene], solution: Solution, inputs: Inputs) -> Compared:
    """Return how the frames by bones compare with the shape at rest, the simple answer."""
    rest: Mesh = inputs["rest"]
    diagonal = float((rest.vertices.amax(0) - rest.vertices.amin(0)).norm())
    at_rest = 100 * float((inputs["positions"] - rest.vertices).norm(dim=2).mean()) / diagonal
    distance = _measure(solution, inputs)["distance"]
    words = (
        f"The vertices are {distance:.3g} % of the diagonal from the frames, and {at_rest:.3g} % if "
        "the shape stays at rest."
    )
    return Compared({}, "", words=words, is_good=distance <= at_rest)


def _frame(solution: Solution, rest: Mesh, time: int) -> Mesh:
    """Return the mesh as the bones move it."""
    return rest.with_vertices(rest.vertices + solution.x.displacements[0, time])


def _arrays(solution: Solution, inputs: Inputs) -> dict[str, Tensor]:
    """Return the weights (N, bones), the poses (T, bones, 4, 4) and the displacements (T, N, 3)."""
    bones, displacements = solution.x.skinning, solution.x.displacements[0]
    return {"weights": bones.weights[0], "poses": bones.poses[0], "displacements": displacements}


def _write_frames(path: Path, solution: Solution, inputs: Inputs) -> None:
    """Write one PLY file per frame, into a folder."""
    make_folder(path)
    for k in range(solution.x.times):
        write_mesh(path / f"frame_{k:04d}.ply", _frame(solution, inputs["rest"], k), overwrite=True)


COMMAND = SceneCommand(
    description="Find bones, the weights of the vertices and the poses at all times from meshes of a "
    "moving shape.",
    positional={"MESH": "bones.frames"},
    options={
        "--rest": "bones.rest",
        "--count": "bones.count",
        "--noise-std": "bones.noise_std",
        "--iterations": "bones.max_iterations",
    },
    examples=(
        "bones frame_*.obj --count 12 --output bones.npz",
        "bones gallop.npz --count 20 --output results/gallop",
    ),
    outputs=("{stem}_bones.npz",),
)

KIND = Kind(
    BonesScene,
    "a shape with bones",
    _read,
    _find,
    _measure,
    {
        "npz": ("bones.npz", arrays_of(_arrays)),
        "ply": ("frames", _write_frames),
    },
    usual=("npz", "ply"),
    units=dict.fromkeys(("distance", "largest"), "% of the diagonal"),
    compare=_compare,
    command=COMMAND,
)
