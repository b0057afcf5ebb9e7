"""Choice of the reader of pictures with poses, from the contents of a file or a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from invtoolbox.core.checks import missing_path
from invtoolbox.core.trust import trusting
from invtoolbox.datasets.views.colmap import model_folders, open_colmap, pictures_of
from invtoolbox.datasets.views.opensfm import open_opensfm
from invtoolbox.datasets.views.photograph_files import find_pictures, holds_photographs
from invtoolbox.datasets.views.posed_pictures import PosedPictures
from invtoolbox.datasets.views.rgbd import is_rgbd, open_rgbd
from invtoolbox.datasets.views.transforms import (
    FILES,
    camera_files,
    named_pictures,
    open_blender,
    open_llff,
    open_transforms,
    read_json,
)
from invtoolbox.datasets.views.view_loading import Loading
from invtoolbox.datasets.volumes.volume import join_first
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
            the reader, in this order: ``transforms*.json`` of nerfstudio, instant-ngp or Blender,
            ``reconstruction*.json`` of OpenSfM, a sparse model of COLMAP, ``poses_bounds.npy`` of
            LLFF, RGB-D frames with a trajectory (Redwood, TUM). A file of cameras whose pictures
            exist has priority, and a folder may hold one folder with a capture. If no picture is at
            its place, a neighbouring folder is taken, such as ``images_4`` for ``images``. The
            ``notes`` of the result name such choices. The functions of the readers have further
            settings.
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
    place, is_chosen = path, reader is None
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
        views = VIEW_READERS[reader](path, loading)
    others = [f.name for f in camera_files(path.parent) if f != path] if path.is_file() else []
    is_usual = path in (place, *(place / name for name in (*FILES, "reconstruction.json")))
    if is_chosen and (others or not is_usual):
        unread = f"; not read: {join_first(others, 5)}" if others else ""
        views = replace(views, notes=(*views.notes, f"the cameras are read from {path}{unread}"))
    return views


def reader_of_views(place: Path, is_below: bool = False) -> tuple[str, Path] | None:
    """Return the name of the reader of a file or a folder and the path it needs.

    Of several files of cameras, the first of which a picture exists is taken. A folder without
    cameras and photographs may hold one other folder with them.

    Args:
        place: path of the file or the folder.
        is_below: whether the folder lies in the user's, so that its own folders do not count.

    Returns:
        The result is None if there are no cameras.

    Raises:
        InputError: if several folders in the folder hold cameras.
    """
    if place.is_file():
        return _reader_of_json(place) if place.suffix.lower() == ".json" else None
    recognized: list[tuple[str, Path]] = []
    for file in camera_files(place):
        try:
            pair = _reader_of_json(file)
        except InputError:
            if not recognized:
                raise
            continue  # a damaged file next to a whole one
        recognized += [pair] if pair is not None else []
    for is_moved in (False, True):
        for reader, file in recognized:
            pictures = named_pictures(file)  # none of another format, whose reader reports faults
            if not pictures or any(picture.is_file() for picture in pictures):
                return reader, file
            if is_moved and find_pictures(pictures, place):
                return reader, file
    with suppress(InputError):
        models = model_folders(place)
        if not recognized or any(pictures_of(model, place) is not None for model in models):
            return "colmap", place
    if (place / "poses_bounds.npy").is_file():
        return "llff", place
    if is_rgbd(place):
        return "rgbd", place
    if recognized or is_below or not place.is_dir() or holds_photographs(place):
        return recognized[0] if recognized else None
    folders = [f for f in sorted(place.iterdir()) if f.is_dir() and not f.name.startswith(".")]
    captures = {f: r for f in folders if (r := reader_of_views(f, is_below=True)) is not None}
    if len(captures) > 1:
        raise InputError(
            f"{place} holds {len(captures)} captures, {join_first([f.name for f in captures], 3)}; "
            "give the folder of one of them"
        )
    return next(iter(captures.values()), None)


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
