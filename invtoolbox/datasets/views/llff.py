"""``poses_bounds.npy`` of LLFF: poses, one focal length, and how near and far the scene is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from invtoolbox.core.checks import decoding, require_file
from invtoolbox.datasets.views.posed_pictures import PosedPictures, View, load_views, rigid_poses
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import inverse

_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


def open_llff(
    path: str | os.PathLike[str],
    *,
    pictures: str | os.PathLike[str] | None = None,
    shrink: int = 1,
    straighten: bool = True,
    names: Sequence[str] | None = None,
) -> PosedPictures:
    """Pictures and poses of a forward-facing scene: rows of ``poses_bounds.npy`` go with the sorted pictures of the folder.

    A row is a 3 by 5 matrix, by rows, and the least and largest depth. Its first three columns are the camera's axes in the world, y down,
    x right and z backward in this order, the fourth is where it stands, the last is height, width and focal length in pixels.

    Args:
        path: the folder, or the file.
        pictures: the folder of the pictures; ``images`` by default. Smaller copies (``images_4``) have their intrinsics scaled.
        shrink, straighten, names: see `load_views`; these cameras have no lenses.

    Raises:
        InputError: another number of poses than of pictures, and what is wrong with a pose.

    Source: Mildenhall et al., "Local light field fusion", SIGGRAPH 2019, and the notes of its code.
    """
    file = Path(path).expanduser()
    file = require_file(file / "poses_bounds.npy" if file.is_dir() else file)
    with decoding(file, "NumPy"):
        rows = np.load(file, allow_pickle=False, mmap_mode="r")
        if rows.ndim != 2 or rows.shape[1] != 17 or rows.dtype.kind not in "iuf":
            raise InputError(
                f"{file}: an array of shape {rows.shape} and type {rows.dtype}; poses_bounds.npy is (pictures, 17)"
            )
        rows = np.array(rows, dtype=np.float64)
    folder = file.parent / "images" if pictures is None else Path(pictures).expanduser()
    found = (
        sorted((f for f in folder.iterdir() if f.suffix.lower() in _SUFFIXES), key=lambda f: f.name)
        if folder.is_dir()
        else []
    )
    if len(found) != len(rows) or not found:
        raise InputError(
            f"{file} holds {len(rows)} poses, and {folder} {len(found)} pictures; they go together, in the order "
            "of names"
        )
    words = [f.name for f in found]
    matrices = rows[:, :15].reshape(-1, 3, 5)
    sizes = matrices[:, :, 4]
    if not np.isfinite(rows).all() or not (sizes > 0).all() or (sizes >= 2**24).any():
        raise InputError(
            f"{file}: a row holds NaN, or a height, width or focal length that is not above 0; the file is damaged"
        )
    # (down, right, backward) to (right, down, forward)
    axes = np.stack(
        [matrices[:, :, 1], matrices[:, :, 0], -matrices[:, :, 2], matrices[:, :, 3]], 2
    )
    poses = inverse(rigid_poses(file, words, axes, "camera to world"))
    views = []
    for word, place, pose, (height, width, focal) in zip(words, found, poses, sizes.tolist()):
        K = torch.tensor(
            [[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]],
            dtype=torch.float64,
        )
        views.append(View(word, place, pose, K, (round(height), round(width))))
    loaded = load_views(file, views, shrink=shrink, straighten=straighten, names=names)
    order = {word: k for k, word in enumerate(words)}
    return replace(
        loaded,
        near_far=torch.from_numpy(
            rows[[order[name] for name in loaded.cameras.names], 15:]
        ).float(),
    )
