"""Reader of ``poses_bounds.npy`` of LLFF: poses, focal lengths, least and largest depths."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from invtoolbox.core.checks import reading
from invtoolbox.datasets.views.photograph_files import picture_folders
from invtoolbox.datasets.views.posed_pictures import PosedPictures
from invtoolbox.datasets.views.view_loading import Loading, View, load_views, rigid_poses
from invtoolbox.datasets.volumes.pictures import SUFFIXES
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import inverse


def open_llff(
    path: str | os.PathLike[str],
    loading: Loading = Loading(),
    *,
    pictures: str | os.PathLike[str] | None = None,
) -> PosedPictures:
    """Open the pictures of a forward-facing scene with poses and depth bounds.

    The rows of ``poses_bounds.npy`` belong to the pictures of the folder in the order of their
    names. A row is a 3 by 5 matrix, by rows, followed by the least and the largest depth. The first
    three columns of the matrix are the camera's axes in the world, in the order y down, x right, z
    backward. The fourth column is the position of the camera, and the last column is height, width
    and focal length in pixels.

    Args:
        path: path of the folder, or of the file.
        loading: how the pictures are loaded.
        pictures: folder of the pictures; by default ``images``, or the first of its smaller copies
            (``images_4``) with as many pictures as poses. The intrinsics of smaller copies are
            scaled.

    Raises:
        InputError: if the numbers of poses and of pictures differ, or if a pose is damaged.

    Source: Mildenhall et al., "Local light field fusion", SIGGRAPH 2019, and the notes of its code.
    """
    file = Path(path).expanduser()
    with reading(file / "poses_bounds.npy" if file.is_dir() else file, "NumPy") as file:
        rows = np.load(file, allow_pickle=False, mmap_mode="r")
        if rows.ndim != 2 or rows.shape[1] != 17 or rows.dtype.kind not in "iuf":
            raise InputError(
                f"{file}: an array of shape {rows.shape} and type {rows.dtype}; poses_bounds.npy "
                "must be (pictures, 17)"
            )
        rows = np.array(rows, dtype=np.float64)
    folders = [file.parent / "images"] if pictures is None else [Path(pictures).expanduser()]
    folders += picture_folders(file.parent) if pictures is None else []
    contents = [
        sorted((f for f in folder.glob("*") if f.suffix.lower() in SUFFIXES), key=lambda f: f.name)
        for folder in folders
    ]
    fits = [len(files) == len(rows) for files in contents]
    chosen = fits.index(True) if True in fits else 0
    folder, files = folders[chosen], contents[chosen]
    if len(files) != len(rows) or not files:
        raise InputError(
            f"{file} holds {len(rows)} poses, but {folder} holds {len(files)} pictures; they must "
            "belong together, in the order of names"
        )
    names = [f.name for f in files]
    matrices = rows[:, :15].reshape(-1, 3, 5)
    sizes = matrices[:, :, 4]
    if not np.isfinite(rows).all() or not (sizes > 0).all() or (sizes >= 2**24).any():
        raise InputError(
            f"{file}: a row holds NaN, or a height, width or focal length that is not above 0; the "
            "file is damaged"
        )
    # (down, right, backward) to (right, down, forward)
    axes = np.stack(
        [matrices[:, :, 1], matrices[:, :, 0], -matrices[:, :, 2], matrices[:, :, 3]], 2
    )
    poses = inverse(rigid_poses(file, names, axes, "camera to world"))
    views = []
    for picture, pose, (height, width, focal) in zip(files, poses, sizes.tolist()):
        K = torch.tensor(
            [[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]],
            dtype=torch.float64,
        )
        views.append(View(picture.name, picture, pose, K, (round(height), round(width))))
    loaded = load_views(file, views, loading)
    order = {name: k for k, name in enumerate(names)}
    bounds = rows[[order[name] for name in loaded.cameras.names], 15:]
    notes = () if chosen == 0 else (f"the pictures are taken from {folder}",)
    return replace(loaded, near_far=torch.from_numpy(bounds).float(), notes=(*loaded.notes, *notes))
