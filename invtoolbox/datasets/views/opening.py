"""Choice of the reader of pictures with poses, from the contents of a file or a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from invtoolbox.core.checks import missing_path
from invtoolbox.core.trust import trusting
from invtoolbox.datasets.views.colmap import model_folder, open_colmap
from invtoolbox.datasets.views.llff import open_llff
from invtoolbox.datasets.views.opensfm import open_opensfm
from invtoolbox.datasets.views.posed_pictures import PosedPictures
from invtoolbox.datasets.views.rgbd import is_rgbd, open_rgbd
from invtoolbox.datasets.views.transforms import FILES, open_blender, open_transforms, read_json
from invtoolbox.datasets.views.view_loading import Loading
from invtoolbox.errors import InputError, require_name

#: Readers of pictures with poses by name: ``VIEW_READERS[name](path, loading)``.
VIEW_READERS: dict[str, Callable[..., PosedPictures]] = {
    "blender": open_blender,
    "transforms": open_transforms,
    "colmap": open_colmap,
    "llff": open_llff,
    "opensfm": open_opensfm,
    "rgbd": open_rgbd,
}


def open_views(
    path: str | os.PathLike[str],
    reader: str | None = None,
    *,
    shrink: int = 1,
    straighten: bool = True,
    names: Sequence[str] | None = None,
    largest_side: int | None = None,
    on_disk: bool = False,
    trusted: bool = False,
) -> PosedPictures:
    """Open pictures and the cameras that took them.

    Args:
        path: path of a folder, or of one of the JSON files. The contents of the folder determine
            the reader, in this order: ``transforms.json`` of nerfstudio, instant-ngp or Blender,
            ``reconstruction.json`` of OpenSfM, a sparse model of COLMAP, ``poses_bounds.npy`` of
            LLFF, RGB-D frames with a trajectory (Redwood, TUM). The functions of the readers have
            further settings.
        reader: name of a reader in `VIEW_READERS`, which replaces this choice.
        shrink: side of the blocks of pixels that become one pixel.
        straighten: resample pictures of lenses that distort to pictures of a pinhole; if false,
            they remain distorted, and their cameras have lenses (`Cameras.lenses`).
        names: names of the pictures to load; all by default.
        largest_side: number of pixels of the longer side above which a picture is reduced.
        on_disk: whether the pictures remain in their files, see `load_views`.
        trusted: whether the file of cameras may name pictures outside of its folder.

    Raises:
        InputError: for a path without pictures with poses, and for damaged contents.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError(missing_path(path))
    if reader is None:
        recognized = reader_of_views(path)
        if recognized is None:
            raise InputError(
                f"{path} holds no pictures with poses in a known format "
                f"({', '.join(VIEW_READERS)}); give the folder that holds the file of cameras, or find "
                "the cameras with it.datasets.find_cameras"
            )
        reader, path = recognized
    reader = require_name("reader of pictures with poses", reader, VIEW_READERS)
    loading = Loading(shrink, straighten, names, largest_side, on_disk)
    with trusting(trusted):
        return VIEW_READERS[reader](path, loading)


def reader_of_views(place: Path) -> tuple[str, Path] | None:
    """Return the name of the reader of a file or a folder and the path it needs.

    The result is None if there are no cameras.
    """
    if place.is_file():
        return _reader_of_json(place) if place.suffix.lower() == ".json" else None
    for name in (*FILES, "reconstruction.json"):
        if (place / name).is_file():
            return _reader_of_json(place / name)
    try:
        return "colmap", model_folder(place)
    except InputError:
        pass
    if (place / "poses_bounds.npy").is_file():
        return "llff", place
    return ("rgbd", place) if is_rgbd(place) else None


def _reader_of_json(file: Path) -> tuple[str, Path] | None:
    table: Any = read_json(file)
    if isinstance(table, list) and table and isinstance(table[0], dict) and "shots" in table[0]:
        return "opensfm", file
    if not isinstance(table, dict) or "frames" not in table:
        return None
    frames = table["frames"] if isinstance(table["frames"], list) else []
    plain = "camera_angle_x" in table and not {"fl_x", "w", "k1", "camera_model"} & set(table)
    plain = plain and not any(isinstance(f, dict) and "fl_x" in f for f in frames)
    return "blender" if plain else "transforms", file
