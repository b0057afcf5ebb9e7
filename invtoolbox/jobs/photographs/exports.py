"""Files that a user names for a scene of photographs: textured mesh, Gaussians, cameras."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from invtoolbox.core.environment import open3d, optional_package
from invtoolbox.datasets import (
    PosedPictures,
    SparseCamera,
    SparseModel,
    write_colmap,
    write_mesh,
    write_splats,
    write_transforms,
)
from invtoolbox.errors import InputError
from invtoolbox.geometry import Lens, Mesh
from invtoolbox.jobs.photographs.photographs import Photographs
from invtoolbox.jobs.photographs.scene import MESHES, ViewSceneFile
from invtoolbox.jobs.photographs.surface import VIEWS, spread_out
from invtoolbox.jobs.photographs.texture import bake, simplify, texture_side, unwrap

#: Suffixes of Gaussians, and of meshes with a texture.
SPLATS, TEXTURED = (".ply", ".spz", ".splat"), (".glb", ".gltf", ".obj")
#: Name of the first file of COLMAP's text model, and the files that are written with it.
COLMAP, WITH_COLMAP = "cameras.txt", ("images.txt", "points3D.txt")
#: Largest side of the photographs that a texture is baked from, pixels.
LARGEST_SIDE = 1600


def places_of(paths: Sequence[Path]) -> list[Path]:
    """Return the files that are written for paths, and for what belongs to them."""
    every = []
    for path in paths:
        more = (".mtl", ".png") if path.suffix.lower() == ".obj" else ()
        every += [path, *map(path.with_suffix, more)]
        every += [path.with_name(name) for name in WITH_COLMAP if path.name == COLMAP]
    return every


def check_exports(paths: Sequence[Path], is_gaussian: bool) -> None:
    """Refuse files that cannot be written for a scene, before anything is computed.

    Args:
        paths: the files.
        is_gaussian: whether the scene is of Gaussians.

    Raises:
        InputError: a suffix without a format, or Gaussians of a grid of voxels.
        MissingDependency: a package that a format needs is not installed.
    """
    for path in paths:
        suffix = path.suffix.lower()
        if suffix not in (*SPLATS, *MESHES, ".json") and path.name != COLMAP:
            raise InputError(
                f"{path}: no format for the suffix {path.suffix!r}; use {', '.join(MESHES)} for a "
                f"mesh, {', '.join(SPLATS)} for Gaussians, .json or {COLMAP} for cameras, or give a "
                "folder"
            )
        if suffix in SPLATS and not is_gaussian:
            raise InputError(
                f"{path}: the scene is a grid of voxels, and {suffix} holds Gaussians; use "
                f"{', '.join(MESHES)}"
            )
        if suffix in MESHES:
            open3d()
        for name, formats, extra in (("xatlas", TEXTURED, "3d"), ("gsply", (".spz",), "spz")):
            if suffix in formats:
                optional_package(name, f"{path} needs {name}; install it with", extra)


def write_cameras(path: Path, views: PosedPictures, overwrite: bool = False) -> Path:
    """Write cameras for other programs.

    Args:
        path: ``.json`` for nerfstudio, ``cameras.txt`` for COLMAP.
        views: views in the size of their files, see `originals_of`.
        overwrite: replace existing files.
    """
    cameras, count = views.cameras, len(views)
    if path.suffix.lower() == ".json":
        names = tuple(os.path.relpath(picture, path.parent) for picture in views.files)
        named = replace(cameras, names=names)
        return write_transforms(path, named, overwrite, views.sizes).path
    sizes = [cameras.size] * count if views.sizes is None else views.sizes.tolist()
    lenses, none = cameras.lenses or (Lens(),) * count, torch.zeros(0, dtype=torch.int64)
    points = torch.zeros(0, 3) if views.points is None else views.points
    colors = torch.full_like(points, 0.5) if views.colors is None else views.colors
    model = SparseModel(
        cameras=tuple(
            SparseCamera(K.double(), (int(size[0]), int(size[1])), lens)
            for K, size, lens in zip(cameras.intrinsics, sizes, lenses)
        ),
        names=cameras.names,
        world_to_camera=cameras.world_to_camera.double(),
        camera_of=torch.arange(count),
        points=points.double(),
        colors=(255 * colors).round().byte(),
        pixels=torch.zeros(0, 2, dtype=torch.float64),
        picture_of=none,
        point_of=none,
    )
    return write_colmap(path.parent, model, binary=False, overwrite=overwrite) / COLMAP


def write_exports(
    paths: Sequence[Path],
    x: Any,
    mesh: Mesh | None,
    file: ViewSceneFile,
    folder: Path,
    photographs: Photographs,
    *,
    seconds: float = math.inf,
    progress: bool = False,
    overwrite: bool = False,
) -> list[str]:
    """Write meshes, Gaussians and cameras of a scene, and return notes for the user.

    Args:
        paths: the files.
        x: the scene; of a batch, the first one.
        mesh: its mesh; it is simplified, and has a texture from the photographs.
        file: the scene file.
        folder: folder of the results.
        photographs: the photographs; the training views make the texture.
        seconds: time after which no further photograph is taken for the texture.
        progress: show a bar on a terminal.
        overwrite: replace existing files.
    """
    table, end, notes = file.scene.output, time.monotonic() + seconds, []
    suffixes = {path.suffix.lower() for path in paths}
    if mesh is not None and suffixes & {*MESHES}:
        mesh = simplify(mesh, table.faces)
        if len(mesh.faces) > table.faces:
            notes.append(
                f"the mesh has {len(mesh.faces):,} faces: it cannot be simplified to {table.faces:,}"
            )
        if suffixes & {*TEXTURED}:
            train = originals_of(file, folder, [photographs.train], LARGEST_SIDE)
            mesh = unwrap(mesh, min(table.texture, texture_side(mesh, train.cameras)))
            left = end - time.monotonic()
            order = spread_out(len(train), VIEWS, left, progress, "texture")
            mesh = bake(mesh, (view for k in order for view in train[[k]].each()))
    for path in paths:
        if path.suffix.lower() in SPLATS:
            write_splats(path, x if table.box is None else _crop(x, table.box), 0, overwrite)
        elif path.suffix.lower() in MESHES:
            write_mesh(path, mesh, overwrite)
        else:
            parts = [photographs.train, photographs.held]
            write_cameras(path, originals_of(file, folder, parts), overwrite)
    return notes


def originals_of(
    file: ViewSceneFile,
    folder: Path,
    parts: Sequence[PosedPictures],
    largest_side: int | None = None,
) -> PosedPictures:
    """Return views as their files are: in full size and with their lenses, read when needed.

    Args:
        file: the scene.
        folder: folder of the results.
        parts: parts of the views of the scene, such as the training views.
        largest_side: largest side of the pictures; they have their full size by default.
    """
    every = file.originals(largest_side, folder / "cameras")
    names = every.cameras.names
    every = every[[names.index(name) for views in parts for name in views.cameras.names]]
    poses = torch.cat([views.cameras.world_to_camera for views in parts])
    cameras = replace(every.cameras, world_to_camera=poses)
    return replace(every, cameras=cameras, points=parts[0].points, colors=parts[0].colors)


def _crop(x: Any, box: tuple[float, ...]) -> Any:
    """Return Gaussians whose opacity is 0 if their centre lies outside of a box."""
    low, high = x.means.new_tensor(box).view(2, 3)
    inside = ((x.means >= low) & (x.means <= high)).all(-1)
    if not bool(inside.any()):
        raise InputError(f"no Gaussian lies in the box {box}")
    return replace(x, opacities=x.opacities * inside)
