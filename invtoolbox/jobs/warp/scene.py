"""Scene files and command of transforms that are applied: to images, labels, points and meshes.

The tables::

    title
    [warp]    path: an image, labels, points or a mesh; transforms: files; inverse; like: image whose
              grid the result has; labels; outside
    [output]  folder, formats
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from invtoolbox import datasets
from invtoolbox.catalogue.documents import CheckedScene, FilePath, Table
from invtoolbox.datasets.models.meshes import SUFFIXES as MESHES
from invtoolbox.datasets.transforms.points import SUFFIXES as POINTS
from invtoolbox.datasets.transforms.points import read_points, write_points
from invtoolbox.datasets.writers import SUFFIXES as IMAGES
from invtoolbox.errors import InputError
from invtoolbox.geometry import (
    Composite,
    DisplacementField,
    Grid,
    Inverse,
    Mesh,
    Transform,
    resample,
)
from invtoolbox.jobs.command import SceneCommand
from invtoolbox.jobs.kind import Inputs, Kind, SceneTables
from invtoolbox.jobs.registration.checks import looks_like_labels
from invtoolbox.jobs.registration.scene import read_image


class WarpTable(Table):
    """An image, labels, points or a mesh, and the transforms to apply."""

    path: FilePath = Field(
        description="image or labels (NIfTI, MetaImage, DICOM, PNG, TIFF, .npy), points (.csv with "
        "columns x, y, z, .vtk, .ply; mm) or a mesh of the moving image"
    )
    transforms: list[FilePath] = Field(
        min_length=1,
        description="transforms of ITK or ANTs (.tfm, .txt, .mat, .h5, .nii.gz, .mha) from the fixed to "
        "the moving image, in the order of ANTs: the first one is the first that points of the fixed "
        "image pass",
    )
    inverse: bool = Field(
        False,
        description="apply the inverse of all of them: to an image or points of the fixed side",
    )
    like: FilePath | None = Field(
        None,
        description="image whose grid the result has, the fixed image; by default the grid of the "
        "first transform, if it is a displacement field",
    )
    labels: bool | None = Field(
        None,
        description="take the nearest voxel, as labels need, in place of interpolating linearly; the "
        "default for images of few values in large regions",
    )
    outside: float = Field(0.0, description="value of voxels outside of the image")


class WarpScene(SceneTables):
    """Scene file of transforms that are applied."""

    warp: WarpTable


@dataclass(frozen=True, eq=False)
class Warped:
    """Result of transforms.

    Attributes:
        values: image ``(1, channel, *space)`` in the type of the file, points ``(N, 2 or 3)``, or a
            mesh.
        grid: grid of an image.
        measures: share of the voxels that lie in the image, or the mean distance of the points.
        notes: findings, one sentence each.
    """

    values: Any
    grid: Grid
    measures: dict[str, float]
    notes: tuple[str, ...]


def to_voxels(image: Any, dimensions: int, name: str) -> tuple[np.ndarray, Grid]:
    """Return an image ``(channel, *space)`` in its own type, and its grid.

    Args:
        image: a volume, or a tensor of a picture or an array.
        dimensions: number of axes of space.
        name: name of the image for errors.

    Raises:
        InputError: an image of other dimensions, or several frames.
    """
    is_volume = isinstance(image, datasets.Volume)
    if is_volume and image.frames != 1:
        raise InputError(f"{name} holds {image.frames} frames; write them one by one")
    array = np.asarray(image.slices()) if is_volume else image.numpy()
    if array.ndim == dimensions + 2 and len(array) == 1:
        array = array[0]
    elif array.ndim == dimensions:
        array = array[None]
    elif not is_volume or dimensions == 3 or len(array) != 1:  # a slice is its own channel
        raise InputError(
            f"{name} has the shape {array.shape}, and the transform {dimensions} dimensions; give "
            "an image and transforms of the same dimensions"
        )
    array = array.astype(array.dtype.newbyteorder("="))
    return array, image.grid if is_volume else Grid()


def _form(path: Path) -> tuple[str, ...]:
    """Return the suffixes of files of the same form: points, a mesh or an image."""
    suffix = path.suffix.lower()
    if suffix == ".ply" and path.is_file():
        with path.open("rb") as stream:
            header = stream.read(2**16).partition(b"end_header")[0]
        return MESHES if b"element face" in header else (".ply",)
    if suffix in POINTS:
        return (suffix,)
    return MESHES if suffix in MESHES else IMAGES


def _read(file: CheckedScene[WarpScene]) -> Inputs:
    table = file.scene.warp
    steps = [datasets.read_transform(file.locate(name)) for name in table.transforms]
    path = file.locate(table.path)
    form = _form(path)
    content: Any = None
    if form is IMAGES:
        content = read_image(path)
    else:
        content = datasets.read_mesh(path) if form is MESHES else read_points(path)
    like = None if table.like is None else read_image(file.locate(table.like))
    return {
        "path": str(path),
        "content": content,
        "transform": steps[0] if len(steps) == 1 else Composite(steps),
        "like": like,
    }


def _warp(file: CheckedScene[WarpScene], inputs: Inputs, progress: bool) -> Warped:
    table, content, transform = file.scene.warp, inputs["content"], inputs["transform"]
    if isinstance(content, Mesh):
        points, *rest = _move(content.vertices, transform, table.inverse)
        return Warped(Mesh(points, content.faces, content.colors), *rest)
    if isinstance(content, np.ndarray):
        points, *rest = _move(torch.from_numpy(content), transform, table.inverse)
        return Warped(points.numpy(), *rest)
    return _resample(table, content, transform, inputs["like"])


def _move(points: Tensor, transform: Transform, inverse: bool) -> Any:
    """Return points of the moving image in the fixed one, or the other way, grid, measures, notes."""
    d = transform.dimensions
    if points.shape[1] < d or bool(points[:, d:].any()):
        raise InputError(
            f"the points have {points.shape[1]} coordinates, and the transform {d}; give points and "
            "transforms of the same dimensions"
        )
    # An image is resampled at T(p), so what lies on the moving image moves by the inverse of T.
    places = transform(points[:, :d]) if inverse else transform.invert(points[:, :d])
    sides = ("fixed", "moving") if inverse else ("moving", "fixed")
    note = (
        f"points of the {sides[0]} image were mapped to the {sides[1]} one, by the "
        f"{'transform itself' if inverse else 'inverse of the transform'}"
    )
    distance = float((places - points[:, :d]).norm(dim=1).mean())
    places = torch.cat([places, points[:, d:]], 1)
    return places, Grid(), {"moved": distance}, (note,)


def _resample(table: WarpTable, image: Any, transform: Transform, like: Any) -> Warped:
    d = transform.dimensions
    array, moving_grid = to_voxels(image, d, table.path)
    if like is not None:
        reference, grid = to_voxels(like, d, str(table.like))
        shape = reference.shape[1:]
    else:
        first = transform.steps[0] if isinstance(transform, Composite) else transform
        if not isinstance(first, DisplacementField) or table.inverse:
            raise InputError("the grid of the result is not known; give --like, the fixed image")
        grid, shape = first.grid, tuple(first.displacement.shape[1:])
    nearest = looks_like_labels(array) if table.labels is None else table.labels
    notes: tuple[str, ...] = ()
    if nearest and table.labels is None:
        notes = (
            "the image looks like labels, so the nearest voxel was taken; warp.labels=false "
            "interpolates",
        )
    stored = array.dtype
    if stored.kind in "iu" and not np.iinfo(stored).min <= table.outside <= np.iinfo(stored).max:
        raise InputError(f"outside is {table.outside:g}, which the image's {stored} does not hold")
    kind = np.int64 if nearest and stored.kind in "iu" else np.result_type(stored, np.float32)
    values = torch.from_numpy(array.astype(kind))
    # A channel of ones tells which voxels lie in the image.
    batch = torch.cat([values, torch.ones_like(values[:1])])[None]
    direction = Inverse(transform) if table.inverse else transform
    batch = resample(batch, direction, grid, moving_grid, shape, nearest=nearest)
    inside = batch[:, -1:] > 0.5
    if not bool(inside.any()):
        raise InputError(
            f"no voxel of the result lies in the image: it spans {_span(moving_grid, values[0])}, and "
            f"the result, through the transform, {_span(grid, inside[0, 0], direction)}; check the "
            "transform's direction (inverse), and that it belongs to these images"
        )
    warped = torch.where(inside, batch[:, :-1], torch.tensor(table.outside, dtype=batch.dtype))
    warped = warped.round() if stored.kind in "iub" and not nearest else warped
    share = float(inside.double().mean())
    return Warped(warped.numpy().astype(stored), grid, {"inside": share}, notes)


def _span(grid: Grid, image: Tensor, transform: Transform | None = None) -> str:
    """Return the ranges of the coordinates of an image's corners, in words."""
    matrix = torch.from_numpy(grid.affine(image.ndim))
    ends = [(0.0, n - 1.0) for n in image.shape]
    corners = torch.tensor(list(itertools.product(*ends)), dtype=torch.float64)
    corners = corners @ matrix[:-1, :-1].T + matrix[:-1, -1]
    corners = corners if transform is None else transform(corners)
    spans = [f"{a:.0f} to {b:.0f}" for a, b in zip(corners.amin(0), corners.amax(0))]
    return ", ".join(f"{axis} {span}" for axis, span in zip("xyz", spans)) + " mm"


def _write(path: Path, warped: Warped, inputs: Inputs) -> None:
    """Write an image on its grid and in its type, points with their other columns, or a mesh."""
    source, values = Path(inputs["path"]), warped.values
    if isinstance(values, Mesh):
        datasets.write_mesh(path, values, overwrite=True)
    elif values.ndim == 2:
        write_points(path, values, source, overwrite=True)
    elif isinstance(inputs["content"], datasets.Volume) or path.suffix.lower() in (".nii", ".gz"):
        datasets.write(path, datasets.VolumeInMemory(values[0, 0], warped.grid), overwrite=True)
    elif path.suffix.lower() == ".png" and values.dtype.kind == "f" and values.max() <= 1:
        datasets.write_png(path, values[0], (0, 1), overwrite=True)
    else:
        datasets.write(path, values[0, 0] if values.shape[1] == 1 else values[0], overwrite=True)


@dataclass(frozen=True)
class WarpCommand(SceneCommand):
    """Command whose outputs have the form of its input."""

    def _outputs(self, arguments: argparse.Namespace, source: Path) -> list[Path]:
        outputs = super()._outputs(arguments, source)
        form = _form(source.expanduser())
        for path in outputs:
            if path.suffix and not path.name.lower().endswith((*form, ".json", ".html")):
                raise InputError(f"{path}: {source.name} is written as {', '.join(form)}")
        return outputs


COMMAND = WarpCommand(
    description="Apply transforms of ITK or ANTs to an image, labels, points or a mesh of the moving "
    "image, and so take them to the\nfixed one. A transform maps points of the fixed image to the "
    "moving one: images are resampled through it, and points\nand meshes move by its inverse, so "
    "that they stay on the image. With --inverse, what lies on the fixed image moves to\nthe moving "
    "one (antsApplyTransformsToPoints -t T does this to points). Coordinates are mm in the frame of "
    "ITK.",
    positional={"FILE": "warp.path"},
    options={
        "--transform": "warp.transforms",
        "--inverse": "warp.inverse",
        "--like": "warp.like",
        "--labels": "warp.labels",
        "--outside": "warp.outside",
    },
    examples=(
        "warp moving.nii.gz --transform affine.mat --like fixed.nii.gz --output warped.nii.gz",
        "warp labels.nii.gz --transform field.nii.gz affine.tfm --like fixed.nii.gz --labels",
        "warp landmarks.csv --transform motion.h5 --output landmarks_in_fixed.csv",
        "warp atlas.nii.gz --transform motion.h5 --inverse --like moving.nii.gz",
    ),
    outputs=("{stem}_warped{suffix}",),
    writers=dict.fromkeys((*IMAGES, *POINTS, *MESHES), _write),
)

KIND = Kind(
    WarpScene,
    "an image and transforms",
    _read,
    _warp,
    lambda warped, inputs: warped.measures,
    {"mha": ("warped.mha", _write)},
    usual=("mha",),
    units={"moved": "mm"},
    command=COMMAND,
)
