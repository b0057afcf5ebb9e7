"""Pictures with poses in the layout of the synthetic NeRF scenes: ``transforms_train.json`` as Blender's exporters write it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from invtoolbox.datasets.cameras_transforms import read_json
from invtoolbox.datasets.files import require_file
from invtoolbox.datasets.posed_pictures import (
    PosedPictures,
    View,
    from_opengl,
    load_views,
    rigid_poses,
)
from invtoolbox.errors import InputError

#: What a folder of this kind holds; the first one that is there is read.
FILES = ("transforms_train.json", "transforms.json")
__all__ = ["FILES", "PosedPictures", "open_blender"]


def open_blender(
    path: str | os.PathLike[str],
    *,
    shrink: int = 1,
    straighten: bool = True,
    names: Sequence[str] | None = None,
) -> PosedPictures:
    """Read a ``transforms*.json`` with ``camera_angle_x``, and the pictures that it names (``.png`` where it gives no suffix).

    ``transform_matrix`` takes the camera's frame to the world, with the camera's y up and z backward.

    Args:
        shrink, names: see `load_views`.
        straighten: these cameras have no lenses; accepted, as by every reader of views.

    Raises:
        InputError: for a file that is none of this kind, without a picture, or with pictures of several sizes.
    """
    file = Path(path).expanduser()
    file = require_file(
        next((place for place in (file / name for name in FILES) if place.is_file()), file)
    )
    table = read_json(file)
    try:
        angle, frames = float(table["camera_angle_x"]), list(table["frames"])
        words = [str(frame["file_path"]) for frame in frames]
        matrices = [frame["transform_matrix"] for frame in frames]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is no transforms.json of Blender: {error!r}") from error
    if not 0 < angle < math.pi or not frames:
        raise InputError(
            f"{file} has {len(frames)} frames and the angle {angle:g}; 'camera_angle_x' is between 0 and pi"
        )
    views = []
    for word, pose in zip(
        words, from_opengl(rigid_poses(file, words, matrices, "camera to world"))
    ):
        place = file.parent / word
        place = place if place.suffix else place.with_suffix(".png")
        views.append(View(place.name, place, pose, angle, said=word))
    return load_views(file, views, shrink=shrink, straighten=straighten, names=names)
