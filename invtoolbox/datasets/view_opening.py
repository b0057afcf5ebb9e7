"""Photographs with the cameras that took them, of every format: which reader a folder asks for, and one call that opens it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from invtoolbox.datasets.cameras_blender import PosedPictures, open_blender
from invtoolbox.errors import InputError, unknown_name

#: Readers of photographs with cameras by name: ``VIEW_READERS[name](path)`` is `PosedPictures`.
VIEW_READERS: dict[str, Callable[..., PosedPictures]] = {
    "blender": open_blender,
}
#: Files that say where the cameras of a folder stand, and who reads them; the first one that is there counts.
_FILES = {"transforms_train.json": "blender", "transforms.json": "blender"}


def open_views(path: str | os.PathLike[str], reader: str | None = None) -> PosedPictures:
    """Read photographs and their cameras.

    Args:
        path: a ``transforms*.json``, or the folder that holds one.
        reader: the name of a reader in `VIEW_READERS`, to decide by hand.

    Raises:
        InputError: in one sentence, for what is no such file or folder, without a picture, or with pictures of several sizes.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise InputError(f"there is no file or folder {place}; give the folder of the photographs, or the file with their cameras")
    if reader is not None and reader not in VIEW_READERS:
        raise unknown_name("reader of photographs with cameras", reader, VIEW_READERS)
    if place.is_dir():
        there = [name for name in _FILES if (place / name).is_file()]
        if not there:
            raise InputError(f"{place} holds no {' or '.join(_FILES)}, so nothing says where the cameras stood; find their poses first, "
                             "with COLMAP say, and write them there")
        place, reader = place / there[0], reader or _FILES[there[0]]
    return VIEW_READERS[reader or "blender"](place)
