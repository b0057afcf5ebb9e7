"""Readers and writer of COLMAP's sparse models, binary or text.

`open_colmap` loads the pictures of a project with their poses. `read_colmap` and `write_colmap`
read and write the model alone; `invtoolbox.datasets.views.colmap_files` reads and writes its files.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from invtoolbox.datasets.output import make_folder
from invtoolbox.datasets.pose_files import from_quaternion
from invtoolbox.datasets.views.colmap_files import (
    ImageLine,
    PointTable,
    Tables,
    camera_of,
    parameters_of,
    read_binary,
    read_text,
    write_binary,
    write_text,
)
from invtoolbox.datasets.views.photograph_files import picture_folders
from invtoolbox.datasets.views.posed_pictures import PosedPictures
from invtoolbox.datasets.views.sparse_model import SparseModel
from invtoolbox.datasets.views.view_loading import Loading, rigid_poses
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import rotation_vector
from invtoolbox.geometry.rotations import of_rotation_vector

#: Places of models in a project, in the order of preference.
_MODELS = ("sparse/[0-9]*", "sparse", "colmap/sparse/[0-9]*", "dense/[0-9]*/sparse", "dense/sparse")


def open_colmap(
    path: str | os.PathLike[str],
    loading: Loading = Loading(),
    *,
    pictures: str | os.PathLike[str] | None = None,
) -> PosedPictures:
    """Open the pictures of a project of COLMAP, with poses and points.

    The points of the model become ``points`` and ``colors``.

    Args:
        path: folder of the project, or of the model. The models of a project lie in ``sparse/0``,
            ``sparse``, ``colmap/sparse/0``, and ``dense/0/sparse`` or ``dense/sparse``. The first
            that has pictures is taken, the larger ones of ``sparse`` first.
        loading: how the pictures are loaded.
        pictures: folder of the pictures; by default ``images`` or a folder of a similar name in the
            project.

    Raises:
        InputError: for the errors of `read_colmap`, a missing folder of pictures, or a model of
            cameras whose distortion is not known here.
    """
    project = Path(path).expanduser()
    models = model_folders(project)
    pairs = [(m, pictures_of(m, project) if pictures is None else Path(pictures)) for m in models]
    folder, near = next(((m, images) for m, images in pairs if images is not None), pairs[0])
    if near is None:
        raise InputError(
            f"{folder}: there is no folder 'images' in the project of this model; move the pictures "
            "there, or give pictures="
        )
    views = read_colmap(folder).views(folder, near, loading)
    if near.name != "images" and pictures is None:
        views = replace(views, notes=(*views.notes, f"the pictures are taken from {near}"))
    if len(models) > 1:
        note = f"the model {folder} is read, the first of {len(models)} models with pictures"
        views = replace(views, notes=(*views.notes, note))
    return views


def pictures_of(model: Path, project: Path) -> Path | None:
    """Return the folder of the pictures of a model, in the project or three folders above it."""
    for parent in (model, *list(model.parents)[:3]):
        for pictures in picture_folders(parent):
            return pictures
        # Pictures above ``dense`` are those before the lens was removed.
        if parent.name == "dense" or (parent.parent.name == "dense" and parent.name != "sparse"):
            break
        if parent == project != model:
            break
    return None


def read_colmap(path: str | os.PathLike[str]) -> SparseModel:
    """Read a sparse model from binary files if they exist, otherwise from text.

    Pictures are in the order of their numbers. Features without a point are left out. Rigs and
    frames of newer versions are not needed, because each image has its own pose.

    Args:
        path: folder of the model, or of the project.

    Raises:
        InputError: for truncated files, references to missing cameras, images or points, an unknown
            model of cameras, or poses that are not finite.

    Source: https://colmap.github.io/format.html
    """
    folder = model_folders(Path(path).expanduser())[0]
    tables = read_binary(folder) if (folder / "cameras.bin").is_file() else read_text(folder)
    return _model(folder, tables)


def write_colmap(
    path: str | os.PathLike[str], model: SparseModel, binary: bool = True, overwrite: bool = False
) -> Path:
    """Write a sparse model in the format of COLMAP.

    Each camera is written as the simplest model of COLMAP that can represent it. The errors of
    points are their mean reprojection errors.

    Args:
        path: folder of the model.
        model: sparse model.
        binary: whether to write binary files, otherwise text.
        overwrite: replace existing files.

    >>> import tempfile
    >>> from invtoolbox.datasets.views.sparse_model import SparseCamera
    >>> from invtoolbox.geometry.lens import Lens
    >>> camera = SparseCamera(torch.eye(3).double(), (4, 6), Lens())
    >>> none, points = torch.zeros(0, dtype=torch.int64), torch.ones(2, 3)
    >>> model = SparseModel((camera,), ("a.png",), torch.eye(4).double()[None],
    ...                     torch.zeros(1).long(), points.double(), points.byte(),
    ...                     torch.zeros(0, 2).double(), none, none)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     read_colmap(write_colmap(folder, model))
    SparseModel(1 pictures of 1 cameras, 2 points, 0 observations)
    """
    folder = Path(path).expanduser()
    make_folder(folder)
    (write_binary if binary else write_text)(folder, _tables(model), overwrite)
    return folder


def model_folders(path: Path) -> list[Path]:
    """Return the folders of the models of a project, the larger models of ``sparse`` first.

    Raises:
        InputError: if there is none.
    """
    folders: list[Path] = []
    for place in ("", *_MODELS):
        sizes = {
            folder: images.stat().st_size
            for folder in (sorted(path.glob(place)) if place else [path])
            for suffix in (".txt", ".bin")
            if (folder / f"cameras{suffix}").is_file()
            and (images := folder / f"images{suffix}").is_file()
        }
        folders += sorted(sizes, key=lambda folder: -sizes[folder])
    if folders:
        return folders
    raise InputError(
        f"{path} holds no sparse model of COLMAP; give a folder with cameras.bin and images.bin, "
        "or .txt, in it or in sparse/0"
    )


def _model(folder: Path, tables: Tables) -> SparseModel:
    cameras = {
        number: camera_of(f"{folder}: camera {number}", *line)
        for number, line in tables.cameras.items()
    }
    if not tables.images or not cameras:
        raise InputError(
            f"{folder}: the model holds {len(cameras)} cameras and {len(tables.images)} images; at "
            "least one of each is needed"
        )
    numbers = sorted(tables.images)
    images = [tables.images[number] for number in numbers]
    names = [image.name for image in images]
    if len(set(names)) < len(names):
        raise InputError(
            f"{folder}: two images have the name {max(names, key=names.count)!r}; rename one"
        )
    for image in images:
        if image.camera not in cameras:
            raise InputError(
                f"{folder}: the image {image.name!r} needs camera {image.camera}, which does not "
                "exist; fetch or export the model again"
            )
    poses = np.array([image.pose for image in images], dtype=np.float64)
    matrices = from_quaternion(poses[:, 4:], poses[:, :4], str(folder)).numpy()
    motions = rigid_poses(folder, names, matrices, "world to camera")
    points = tables.points
    row_of = {number: row for row, number in enumerate(points.numbers.tolist())}
    _check_tracks(folder, tables, {number: len(image.xy) for number, image in zip(numbers, images)})
    pixels, picture_of, point_of = [], [], []
    for row, image in enumerate(images):
        features = np.flatnonzero(image.points != -1)  # features of a point
        try:
            rows = [row_of[number] for number in image.points[features].tolist()]
        except KeyError as error:
            raise InputError(
                f"{folder}: the image {image.name!r} has a feature of point {error}, which does "
                "not exist; fetch or export the model again"
            ) from None
        pixels.append(image.xy[features])
        picture_of.append(np.full(len(features), row))
        point_of.append(np.array(rows, dtype=np.int64))
    if not np.isfinite(points.xyz).all():
        raise InputError(
            f"{folder}: {int((~np.isfinite(points.xyz)).any(1).sum())} points are NaN or infinite; "
            "remove them from the model"
        )
    order = {number: row for row, number in enumerate(cameras)}
    return SparseModel(
        tuple(cameras.values()),
        tuple(names),
        world_to_camera=motions,
        camera_of=torch.tensor([order[image.camera] for image in images]),
        points=torch.from_numpy(points.xyz.copy()),
        colors=torch.from_numpy(points.rgb.copy()),
        pixels=torch.from_numpy(np.concatenate(pixels)),
        picture_of=torch.from_numpy(np.concatenate(picture_of)),
        point_of=torch.from_numpy(np.concatenate(point_of)),
    )


def _check_tracks(folder: Path, tables: Tables, features: dict[int, int]) -> None:
    """Raise an error if a track refers to a missing feature.

    This finds files that are truncated or belong to another model.
    """
    images, indices = tables.points.track_image, tables.points.track_feature
    if not len(images):
        return
    numbers = np.array(sorted(features))
    row = np.searchsorted(numbers, images).clip(max=len(numbers) - 1)
    counts = np.array([features[number] for number in numbers.tolist()])
    wrong = (numbers[row] != images) | (indices < 0) | (indices >= counts[row])
    if wrong.any():
        k = int(np.argmax(wrong))
        raise InputError(
            f"{folder}: a point refers to feature {indices[k]} of image {images[k]}, but there is "
            "no such feature; the files are truncated, or belong to two models"
        )


def _tables(model: SparseModel) -> Tables:
    """Convert a model to tables; numbers count from 1, and the features are the observations."""
    if not bool(model.world_to_camera.isfinite().all()):
        raise InputError(
            "a sparse model is written with finite poses; leave out pictures whose pose is unknown"
        )
    cameras = {}
    for number, camera in enumerate(model.cameras, 1):
        name, parameters = parameters_of(camera)
        cameras[number] = (name, camera.size[1], camera.size[0], parameters)
    quaternions = of_rotation_vector(rotation_vector(model.world_to_camera[:, :3, :3]))
    poses = torch.cat([quaternions, model.world_to_camera[:, :3, 3]], 1).tolist()
    picture_of, point_of = model.picture_of.numpy(), model.point_of.numpy()
    by_picture = np.argsort(picture_of, kind="stable")
    starts = np.searchsorted(picture_of[by_picture], np.arange(len(model.names) + 1))
    feature_of = np.empty(len(picture_of), dtype=np.int64)
    images = {}
    for row, name in enumerate(model.names):
        observations = by_picture[starts[row] : starts[row + 1]]
        feature_of[observations] = np.arange(len(observations))
        images[row + 1] = ImageLine(
            name,
            int(model.camera_of[row]) + 1,
            tuple(poses[row]),
            model.pixels.numpy()[observations],
            point_of[observations] + 1,
        )
    by_point = np.argsort(point_of, kind="stable")
    points = PointTable(
        np.arange(1, len(model.points) + 1),
        xyz=model.points.numpy(),
        rgb=model.colors.numpy(),
        errors=model.mean_errors().nan_to_num(0.0).numpy(),
        lengths=np.bincount(point_of, minlength=len(model.points)),
        track_image=picture_of[by_point] + 1,
        track_feature=feature_of[by_point],
    )
    return Tables(cameras, images, points)
