"""Scene files of normal maps: depth and a mesh from the normals of an object.

The tables::

    title
    [normals]      path, mask: the map and the inside of the object; back: map of the back;
                   intrinsics: file of the camera's matrix, or pixel_size (orthographic);
                   median_depth; prior: files of a coarse depth; truth: file of the true depth;
                   or simulated = true
    [integration]  k, prior_weight, coupling, max_iterations, tolerance
    [output]       folder, formats

``--set integration.k=0`` changes a key by its dotted name, as in every scene.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from invtoolbox.catalogue.documents import CheckedScene, Table
from invtoolbox.datasets.models.meshes import write_mesh
from invtoolbox.datasets.output import write_png, writing
from invtoolbox.datasets.volumes.normal_maps import (
    read_depth,
    read_intrinsics,
    read_mask,
    read_normal_map,
)
from invtoolbox.errors import InputError
from invtoolbox.jobs.job import Request, SceneJob, read_json, write_json
from invtoolbox.jobs.normals.integrate import Surface, surface_from_normals
from invtoolbox.simulation.ramp import simulate_ramp


class NormalsTable(Table):
    """Normal map of an object and its camera, or a simulation."""

    path: str | None = None
    mask: str | None = None
    back: str | None = None
    intrinsics: str | None = None
    pixel_size: float | None = Field(None, gt=0)
    median_depth: float | None = Field(None, gt=0)
    prior: list[str] = Field(default_factory=list)
    truth: str | None = None
    simulated: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> NormalsTable:
        if (self.path is not None) == self.simulated:
            raise ValueError("give either a path or simulated = true")
        if self.intrinsics is not None and self.pixel_size is not None:
            raise ValueError("intrinsics are a perspective camera, which has no pixel_size")
        if len(self.prior) not in (0, 1 + (self.back is not None)):
            raise ValueError("give one prior per side")
        return self


class IntegrationTable(Table):
    """Settings of `it.surface_from_normals`."""

    k: float | None = Field(None, ge=0)
    prior_weight: float = Field(1e-3, ge=0)
    coupling: float = Field(1e-3, ge=0)
    max_iterations: int | None = Field(None, ge=1)
    tolerance: float | None = Field(None, gt=0)


class NormalOutput(Table):
    """Folder and formats of the results; npz holds the depth, the others are meshes and a picture."""

    folder: str | None = None
    formats: list[Literal["npz", "obj", "off", "ply", "png"]] = Field(["npz", "obj", "png"])


class NormalScene(Table):
    """Scene file of a normal map."""

    title: str | None = None
    normals: NormalsTable
    integration: IntegrationTable = Field(default_factory=IntegrationTable)
    output: NormalOutput = Field(default_factory=NormalOutput)


class NormalSceneFile(CheckedScene[NormalScene]):
    """Checked scene of a normal map."""


@dataclass(frozen=True)
class NormalOutcome:
    """Surface of a normal map, and the files.

    Attributes:
        surface: the result; None if an earlier run was finished.
        folder: folder of the results.
        metrics: "relief", the difference of the largest and the least depth; and "error", the mean
            absolute error of the depth if the truth is known, after its median was aligned.
        files: files that were written; empty if an earlier run was finished.
    """

    surface: Surface | None
    folder: Path
    metrics: dict[str, float]
    files: tuple[Path, ...]


def read_normal_scene(
    scene: str | Path, overrides: Mapping[str, Any] | Iterable[str] = ()
) -> NormalSceneFile:
    """Read and check a scene file of a normal map.

    The errors are those of `invtoolbox.jobs.images.tables.read_scene`.

    >>> read_normal_scene("normals-simulated", {"integration.k": 0}).scene.integration.k
    0.0
    """
    return NormalSceneFile.read(NormalScene, scene, overrides)


def prepare(scene: str | Path, request: Request) -> NormalJob:
    """Read and check a scene of a normal map, and return its job."""
    return NormalJob.prepare(read_normal_scene(scene, request.overrides), request)


@dataclass(frozen=True)
class NormalJob(SceneJob[NormalScene]):
    """Run of one scene of a normal map."""

    files: ClassVar = (
        "scene.json",
        "metrics.json",
        "depth.npz",
        "depth.png",
        *(f"mesh.{kind}" for kind in ("obj", "off", "ply")),
    )
    free: ClassVar = ("title", "output")
    file: NormalSceneFile

    def run(self, progress: bool = True) -> NormalOutcome:
        """Integrate the map and write the results, or read those of a finished run."""
        folder, scene = self.folder, self.file.scene
        measures = folder / "metrics.json"
        given = _read(self.file)
        content = self.check_content(**given)
        if self.resume and measures.exists():
            return NormalOutcome(None, folder, read_json(measures), ())
        truth = given.pop("truth")
        surface = surface_from_normals(
            **given,
            median_depth=scene.normals.median_depth,
            progress=progress,
            **scene.integration.model_dump(),
        )
        metrics = _measure(surface, truth)
        self.start(content)
        write_json(measures, metrics)
        written = [measures]
        for kind in dict.fromkeys(scene.output.formats):
            path = folder / f"{'depth' if kind in ('npz', 'png') else 'mesh'}.{kind}"
            if kind == "png":
                depth = surface.depth[0, 0]
                write_png(path, -torch.where(depth.isnan(), _largest(depth), depth), overwrite=True)
            else:
                write_surface(path, surface, overwrite=True)
            written.append(path)
        return NormalOutcome(surface, folder, metrics, tuple(written))


def write_surface(path: Path, surface: Surface, overwrite: bool = False) -> None:
    """Write the depth of the first item as .npz or .npy, or its mesh in any other format.

    Args:
        path: path of the file.
        surface: result of `it.surface_from_normals`.
        overwrite: replace a file that exists.
    """
    if path.suffix.lower() not in (".npz", ".npy"):
        write_mesh(path, surface.meshes()[0], overwrite=overwrite)
        return
    depth = surface.depth[0].cpu().numpy()
    with writing(path, overwrite) as stream:
        if path.suffix.lower() == ".npy":
            np.save(stream, depth if len(depth) == 2 else depth[0])
        elif len(depth) == 2:
            np.savez_compressed(stream, front=depth[0], back=depth[1])
        else:
            np.savez_compressed(stream, depth=depth[0])


def _read(file: NormalSceneFile) -> dict[str, Any]:
    """Return normals, mask, camera, coarse depth and truth of a scene."""
    table = file.scene.normals
    if table.simulated:
        normals, depth = simulate_ramp()
        size = table.pixel_size
        true = depth * (1.0 if size is None else size)
        return {
            "normals": normals,
            "mask": None,
            "intrinsics": size,
            "prior": None,
            "truth": true,
        }
    sides = [read_normal_map(file.locate(str(table.path)))]
    if table.back is not None:
        sides.append(read_normal_map(file.locate(table.back)))
    coarse = tuple(read_depth(file.locate(name)) for name in table.prior)
    truth = None if table.truth is None else read_depth(file.locate(table.truth))
    camera: Any = table.pixel_size
    if table.intrinsics is not None:
        camera = read_intrinsics(file.locate(table.intrinsics))
    return {
        "normals": tuple(sides) if table.back is not None else sides[0],
        "mask": None if table.mask is None else read_mask(file.locate(table.mask)),
        "intrinsics": camera,
        "prior": coarse or None,
        "truth": truth,
    }


def _measure(surface: Surface, truth: Any) -> dict[str, float]:
    depth = surface.depth[0, 0]
    metrics = {"relief": float(_largest(depth) + _largest(-depth))}
    if truth is None:
        return metrics
    true = torch.as_tensor(truth).to(depth)
    if true.shape != depth.shape:
        raise InputError(
            f"the true depth has {tuple(true.shape)} pixels, and the map {tuple(depth.shape)}; give "
            "both on the same pixels"
        )
    known = depth.isfinite() & true.isfinite()
    if not bool(known.any()):
        raise InputError("no pixel has a true depth and a normal; check the files truth and mask")
    found, true = depth[known], true[known]
    if surface.intrinsics is None:
        found = found + (true - found).median()
    else:
        found = found * (true / found).median()
    return metrics | {"error": float((found - true).abs().mean())}


def _largest(depth: Tensor) -> Tensor:
    return depth[depth.isfinite()].amax()
