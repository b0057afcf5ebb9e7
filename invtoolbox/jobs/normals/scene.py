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

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from invtoolbox.catalogue.documents import CheckedScene, FilePath, Table
from invtoolbox.datasets import (
    read_depth,
    read_intrinsics,
    read_mask,
    read_normal_map,
    write_mesh,
    write_png,
    writing,
)
from invtoolbox.errors import InputError
from invtoolbox.jobs.command import SceneCommand
from invtoolbox.jobs.kind import Compared, Inputs, Kind, SceneTables
from invtoolbox.jobs.normals.integrate import Surface, surface_from_normals
from invtoolbox.simulation.ramp import simulate_ramp


class NormalsTable(Table):
    """Normal map of an object and its camera, or a simulation."""

    path: FilePath | None = Field(
        None, description="a PNG or TIFF of 8 or 16 bits, or an .npy or .npz file"
    )
    mask: FilePath | None = Field(None, description="picture or array, not 0 inside of the object")
    back: FilePath | None = Field(
        None, description="normal map of the back, in the camera's axes: z < 0"
    )
    intrinsics: FilePath | None = Field(
        None,
        description="matrix of a perspective camera, three lines of three numbers, in pixels; "
        "orthographic by default",
    )
    pixel_size: float | None = Field(
        None,
        gt=0,
        description="size of a pixel of an orthographic camera, the unit of the depth; 1 by default",
    )
    median_depth: float | None = Field(
        None,
        gt=0,
        description="median of a perspective depth, which normals do not determine; 1 by default",
    )
    prior: list[FilePath] = Field(
        default_factory=list,
        description="coarse depth as .npy or .npz, and a second file for the back; NaN if unknown",
    )
    truth: FilePath | None = Field(None, description="true depth, for the error")
    simulated: bool = Field(False, description="simulate a ramp with a cliff in place of a file")

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

    k: float | None = Field(
        None,
        ge=0,
        description="sharpness of depth discontinuities, 0 smooths them; 2 by default, 4 with a back",
    )
    prior_weight: float = Field(
        1e-3, ge=0, description="weight of the squared distance to the coarse depth, per pixel"
    )
    coupling: float = Field(1e-3, ge=0, description="weight that joins front and back at the rim")
    max_iterations: int | None = Field(None, ge=1, description="maximum number of iterations")
    tolerance: float | None = Field(None, gt=0, description="bound of the certificate")


class NormalScene(SceneTables):
    """Scene file of a normal map."""

    normals: NormalsTable
    integration: IntegrationTable = Field(default_factory=IntegrationTable)


def _read(file: CheckedScene[NormalScene]) -> Inputs:
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


def _integrate(file: CheckedScene[NormalScene], inputs: Inputs, progress: bool) -> Surface:
    scene = file.scene
    return surface_from_normals(
        **{name: value for name, value in inputs.items() if name != "truth"},
        median_depth=scene.normals.median_depth,
        progress=progress,
        **scene.integration.model_dump(),
    )


def _measure(surface: Surface, inputs: Inputs) -> dict[str, float]:
    """Return the relief, and the mean absolute error of the depth after its median was aligned."""
    depth = surface.depth[0, 0]
    metrics = {"relief": float(_largest(depth) + _largest(-depth))}
    if inputs["truth"] is None:
        return metrics
    truth = torch.as_tensor(inputs["truth"]).to(depth)
    if truth.shape != depth.shape:
        raise InputError(
            f"the true depth has {tuple(truth.shape)} pixels, and the map {tuple(depth.shape)}; give "
            "both on the same pixels"
        )
    inside = depth.isfinite() & truth.isfinite()
    if not bool(inside.any()):
        raise InputError("no pixel has a true depth and a normal; check the files truth and mask")
    return metrics | {"error": float((_align(depth, truth, surface) - truth).abs()[inside].mean())}


def _align(depth: Tensor, truth: Tensor, surface: Surface) -> Tensor:
    """Return a depth whose median is that of the truth.

    Normals leave the offset of an orthographic depth open, and the scale of a perspective one.
    """
    inside = depth.isfinite() & truth.isfinite()
    if surface.intrinsics is None:
        return depth + (truth - depth)[inside].median()
    return depth * (truth / depth)[inside].median()


def _compare(file: CheckedScene[NormalScene], surface: Surface, inputs: Inputs) -> Compared | None:
    """Return heights above the farthest point: of least squares, of the surface, and of the truth."""
    if isinstance(inputs["normals"], tuple):
        return None
    depths = {"Surface": surface.depth[0, 0]}
    if file.scene.integration.k != 0:
        changed = file.scene.integration.model_copy(update={"k": 0.0})
        plain = file.scene.model_copy(update={"integration": changed})
        smooth = _integrate(replace(file, scene=plain), inputs, progress=False)
        depths = {"Least squares": smooth.depth[0, 0], **depths}
    words, is_good = "", None
    if inputs["truth"] is not None:
        truth = torch.as_tensor(inputs["truth"]).to(surface.depth)
        depths = {name: _align(depth, truth, surface) for name, depth in depths.items()}
        errors = {name: float((x - truth).abs().nanmean()) for name, x in depths.items()}
        words = f"Mean error {errors['Surface']:.3g}."
        if "Least squares" in errors:
            words = f"{words[:-1]}, and {errors['Least squares']:.3g} by least squares."
            is_good = errors["Surface"] <= errors["Least squares"]
        depths["Truth"] = torch.where(depths["Surface"].isfinite(), truth, torch.nan)
    farthest = _largest(depths["Surface"])
    images = {name: (farthest - depth)[None] for name, depth in depths.items()}
    return Compared(images, "Surface", "Truth" if words else "", "", words, is_good)


def _largest(depth: Tensor) -> Tensor:
    return depth[depth.isfinite()].amax()


def _write_depth(path: Path, surface: Surface, inputs: Inputs) -> None:
    """Write the depth of the first item, or of its front and back, as .npz or .npy."""
    depth = surface.depth[0].cpu().numpy()
    with writing(path, overwrite=True) as stream:
        if path.suffix.lower() == ".npy":
            np.save(stream, depth if len(depth) == 2 else depth[0])
        elif len(depth) == 2:
            np.savez_compressed(stream, front=depth[0], back=depth[1])
        else:
            np.savez_compressed(stream, depth=depth[0])


def _write_picture(path: Path, surface: Surface, inputs: Inputs) -> None:
    depth = surface.depth[0, 0]
    write_png(path, -torch.where(depth.isnan(), _largest(depth), depth), overwrite=True)


COMMAND = SceneCommand(
    description="Integrate a normal map to a depth map that keeps depth discontinuities, and to a "
    "mesh. Red, green and blue are x to the\nright, y up and z towards the camera. With --back, the "
    "front and the back of an object are found together.",
    positional={"MAP": "normals.path"},
    options={
        "--mask": "normals.mask",
        "--intrinsics": "normals.intrinsics",
        "--pixel-size": "normals.pixel_size",
        "--median-depth": "normals.median_depth",
        "--k": "integration.k",
        "--back": "normals.back",
        "--prior": "normals.prior",
        "--prior-weight": "integration.prior_weight",
    },
    examples=(
        "normals map.png --mask mask.png --output depth.npz mesh.obj",
        "normals map.png --intrinsics K.txt --median-depth 1500 --output mesh.ply",
        "normals front.png --back back.png --prior front.npy back.npy --output body.obj",
    ),
    outputs=("{stem}_depth.npz",),
    writers={".npy": _write_depth},
)

KIND = Kind(
    NormalScene,
    "a normal map",
    _read,
    _integrate,
    _measure,
    {
        "npz": ("depth.npz", _write_depth),
        "png": ("depth.png", _write_picture),
        **{
            suffix: (
                f"mesh.{suffix}",
                lambda path, surface, _: write_mesh(path, surface.meshes()[0], overwrite=True),
            )
            for suffix in ("obj", "off", "ply")
        },
    },
    usual=("npz", "obj", "png"),
    solution=lambda surface: surface.solutions[0],
    compare=_compare,
    command=COMMAND,
)
