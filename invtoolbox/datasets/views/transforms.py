"""Readers and writer of ``transforms.json``: intrinsics, distortion and a pose per picture.

`open_transforms` reads the files of nerfstudio and instant-ngp, and `write_transforms` writes them.
`open_blender` reads the layout of the synthetic NeRF scenes, ``transforms_train.json``, which
Blender's exporters write. `open_llff` reads ``poses_bounds.npy`` of LLFF: poses, focal lengths,
least and largest depths.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.checks import reading, require_file
from invtoolbox.core.trust import named_file
from invtoolbox.datasets.output import Written, write_bytes
from invtoolbox.datasets.ply import read_ply
from invtoolbox.datasets.views.photograph_files import picture_folders
from invtoolbox.datasets.views.posed_pictures import PosedPictures
from invtoolbox.datasets.views.view_loading import (
    Loading,
    View,
    from_opengl,
    load_views,
    rigid_poses,
)
from invtoolbox.datasets.volumes.pictures import SUFFIXES
from invtoolbox.errors import InputError
from invtoolbox.geometry.cameras import Cameras
from invtoolbox.geometry.lens import Lens
from invtoolbox.geometry.rigid import inverse

_PERSPECTIVE = (
    "OPENCV",
    "PINHOLE",
    "SIMPLE_PINHOLE",
    "RADIAL",
    "SIMPLE_RADIAL",
    "FULL_OPENCV",
    "PERSPECTIVE",
)
_FISHEYE = ("OPENCV_FISHEYE", "FISHEYE")
#: Defaults of instant-ngp: a point p of the file is at ``scale p + offset`` in its unit cube.
_NGP_SCALE, _NGP_OFFSET = 0.33, 0.5
#: Names of the file in a folder, in the order of preference.
FILES = ("transforms_train.json", "transforms.json")


def open_transforms(path: str | os.PathLike[str], loading: Loading = Loading()) -> PosedPictures:
    """Open a ``transforms.json`` of nerfstudio or instant-ngp, and the pictures that it names.

    Intrinsics are ``fl_x, fl_y, cx, cy, w, h``; the defaults come from ``camera_angle_x`` and the
    middle of the picture. Distortion is ``k1`` to ``k4``, ``p1``, ``p2`` and ``camera_model``. The
    values of a frame have priority over the values of the file. Intrinsics are scaled to the size
    of the pictures. ``transform_matrix`` maps the camera's frame (x to the right, y up, z backward)
    to the world of the file. Frames without a picture are skipped and listed in ``skipped``.
    Pictures of lenses that distort are straightened.

    Other fields are read too:

    - ``aabb_scale``, with ``scale`` and ``offset``, gives ``box`` in the world of the file;
    - ``mask_path`` gives ``mask``;
    - ``depth_file_path`` gives ``depth`` (16 bit, in ``depth_unit_scale_factor``, 0.001 by
      default);
    - ``ply_file_path`` gives the points.

    Args:
        path: path of the file, or of its folder.
        loading: how the pictures are loaded.

    Raises:
        InputError: for a file of another kind, an unknown lens, poses that are not rigid, or a set
            without pictures.

    >>> import tempfile
    >>> from invtoolbox.datasets import write_png
    >>> frame = {"file_path": "a.png", "transform_matrix": torch.eye(4).tolist()}
    >>> table = {"fl_x": 5.0, "w": 6, "h": 4, "frames": [frame]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_png(folder + "/a.png", torch.ones(3, 4, 6), value_range=(0, 1))
    ...     _ = Path(folder, "transforms.json").write_text(json.dumps(table))
    ...     open_transforms(folder + "/transforms.json").cameras.intrinsics[0]
    tensor([[5., 0., 3.],
            [0., 5., 2.],
            [0., 0., 1.]])
    """
    file = Path(path).expanduser()
    file = require_file(file / "transforms.json" if (file / "transforms.json").is_file() else file)
    table = read_json(file)
    frames = table.get("frames") if isinstance(table, dict) else None
    if (
        not isinstance(frames, list)
        or not frames
        or not all(isinstance(f, dict) and isinstance(f.get("file_path"), str) for f in frames)
    ):
        raise InputError(
            f"{file} is not a transforms.json: it needs 'frames', each with a 'file_path' and a "
            "'transform_matrix'"
        )
    words = [frame["file_path"] for frame in frames]
    matrices = [frame.get("transform_matrix") for frame in frames]
    poses = from_opengl(rigid_poses(file, words, matrices, "camera to world"))
    unit = _number(file, table, "depth_unit_scale_factor", 1e-3)
    views = []
    for frame, word, pose in zip(frames, words, poses):
        merged = {**table, **frame}
        K, size = _intrinsics(file, merged)
        views.append(
            View(
                word,
                _find_picture(file, word),
                pose,
                K,
                size,
                _lens(file, merged),
                mask=_find_file(file, frame, "mask_path"),
                depth=_find_file(file, frame, "depth_file_path"),
                depth_unit=unit,
            )
        )
    loaded = load_views(file, views, loading)
    points, colors = _points(file, table)
    return replace(loaded, points=points, colors=colors, box=_box(file, table))


def write_transforms(
    path: str | os.PathLike[str],
    cameras: Cameras,
    overwrite: bool = False,
    sizes: Tensor | None = None,
) -> Written:
    """Write cameras as a ``transforms.json`` in which each frame has its own intrinsics and lens.

    ``cameras.names`` become ``file_path``. Pictures are not written; they are the files of these
    names in the same folder.

    Args:
        path: path of the file.
        cameras: cameras to write.
        overwrite: replace an existing file.
        sizes: height and width of each picture if they differ, ``(C, 2)``.

    >>> import tempfile
    >>> from invtoolbox.geometry.cameras import look_at
    >>> cameras = look_at(torch.tensor([[0.0, 0.0, -4.0]]), size=(4, 6))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = write_transforms(folder + "/transforms.json", cameras)
    ...     read_json(written.path)["frames"][0]["file_path"]
    '0.png'
    """
    fisheye = {lens.kind == "fisheye" for lens in cameras.lenses}
    if len(fisheye) > 1:
        raise InputError(
            f"{path}: a transforms.json holds perspective lenses or fisheyes; write both kinds with "
            "write_colmap"
        )
    boxes = [cameras.size] * len(cameras) if sizes is None else sizes.tolist()
    to_world = inverse(cameras.world_to_camera.detach().double().cpu()) @ torch.diag(
        torch.tensor([1.0, -1.0, -1.0, 1.0]).double()
    )
    names = cameras.names or tuple(f"{k}.png" for k in range(len(cameras)))
    frames = [
        {
            "file_path": name,
            "fl_x": float(K[0, 0]),
            "fl_y": float(K[1, 1]),
            "cx": float(K[0, 2]),
            "cy": float(K[1, 2]),
            "w": width,
            "h": height,
            "transform_matrix": pose.tolist(),
            **{f"k{k}": value for k, value in enumerate(lens.radial, 1)},
            **(
                {"p1": lens.tangential[0], "p2": lens.tangential[1]} if any(lens.tangential) else {}
            ),
        }
        for name, (height, width), K, pose, lens in zip(
            names,
            boxes,
            cameras.intrinsics.detach().double().cpu(),
            to_world,
            cameras.lenses or (Lens(),) * len(names),
        )
    ]
    radial = max((len(lens.radial) for lens in cameras.lenses), default=0)
    kind = "PINHOLE" if not cameras.lenses else "FULL_OPENCV" if radial > 3 else "OPENCV"
    kind = "OPENCV_FISHEYE" if True in fisheye else kind
    table = {"camera_model": kind, "w": boxes[0][1], "h": boxes[0][0], "frames": frames}
    return Written(write_bytes(path, json.dumps(table, indent=1).encode(), overwrite))


def open_blender(path: str | os.PathLike[str], loading: Loading = Loading()) -> PosedPictures:
    """Open a ``transforms*.json`` with ``camera_angle_x``, and the pictures that it names.

    Names without a suffix are completed by ``.png``. ``transform_matrix`` maps the camera's frame
    (y up, z backward) to the world.

    Args:
        path: path of the file, or of its folder.
        loading: how the pictures are loaded.

    Raises:
        InputError: for a file of another kind, a set without pictures, or pictures of several
            sizes.
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
        raise InputError(f"{file} is not a transforms.json of Blender: {error!r}") from error
    if not 0 < angle < math.pi or not frames:
        raise InputError(
            f"{file} has {len(frames)} frames and the angle {angle:g}; it needs frames, and "
            "'camera_angle_x' between 0 and pi"
        )
    views = []
    poses = from_opengl(rigid_poses(file, words, matrices, "camera to world"))
    for word, pose in zip(words, poses):
        place = _find_picture(file, word)
        views.append(View(place.name, place, pose, angle, written_name=word))
    return load_views(file, views, loading)


def read_json(file: Path) -> Any:
    """Read the contents of a JSON file, or raise an `InputError`."""
    with reading(file, "JSON"):
        return json.loads(file.read_text("utf-8"))


def camera_files(folder: Path) -> list[Path]:
    """Return the JSON files of cameras in a folder, in the order of preference."""
    usual = [folder / name for name in FILES]
    more = [*folder.glob("transforms*.json"), *folder.glob("reconstruction*.json")]
    return [file for file in dict.fromkeys((*usual, *sorted(more))) if file.is_file()]


def named_pictures(file: Path) -> list[Path]:
    """Return the paths of the pictures that a ``transforms.json`` names; none of a faulty file."""
    table = read_json(file)
    frames = table.get("frames") if isinstance(table, dict) else None
    words = [frame.get("file_path") for frame in frames or () if isinstance(frame, dict)]
    with suppress(InputError):
        return [_find_picture(file, str(word)) for word in words]
    return []


def _intrinsics(
    file: Path, table: Mapping[str, Any]
) -> tuple[Tensor | float, tuple[int, int] | None]:
    width, height = (_number(file, table, name, 0.0) for name in ("w", "h"))
    angle = _number(file, table, "camera_angle_x", 0.0)
    if "camera_angle_x" in table and not 0 < angle < math.pi:
        raise InputError(f"{file}: 'camera_angle_x' is {angle:g}; it must lie between 0 and pi")
    if width == height == 0 and angle and not {"fl_x", "cx"} & set(table):
        return angle, None
    if not (width >= 1 and height >= 1):
        raise InputError(
            f"{file}: 'w' and 'h', the size of the pictures of the intrinsics, are needed, got "
            f"{width:g} and {height:g}"
        )
    if "fl_x" in table:
        fx = _number(file, table, "fl_x", 0.0)
    elif "camera_angle_x" in table:
        fx = 0.5 * width / math.tan(0.5 * angle)
    else:
        raise InputError(
            f"{file}: there is no focal length; give 'fl_x' in pixels, or 'camera_angle_x' in "
            "radians"
        )
    fy = _number(file, table, "fl_y", fx)
    if not (math.isfinite(fx) and fx > 0 and fy > 0):
        raise InputError(
            f"{file}: the focal lengths are {fx:g} and {fy:g} pixels; they must be above 0"
        )
    cx, cy = _number(file, table, "cx", width / 2), _number(file, table, "cy", height / 2)
    K = torch.tensor([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return K, (round(height), round(width))


def _lens(file: Path, table: Mapping[str, Any]) -> Lens:
    model = str(table.get("camera_model", "OPENCV")).upper()
    if table.get("is_fisheye") is True:
        model = "OPENCV_FISHEYE"
    if model not in (*_PERSPECTIVE, *_FISHEYE):
        raise InputError(
            f"{file}: cameras of the model {model[:40]!r} cannot be read; the models are "
            f"{', '.join((*_PERSPECTIVE, *_FISHEYE))}"
        )
    fisheye = model in _FISHEYE
    radial = [_number(file, table, f"k{k}", 0.0) for k in range(1, 5 if fisheye else 7)]
    if model == "OPENCV":  # only OpenCV's full model has the denominator with k4 to k6
        radial = radial[:3]
    while radial and radial[-1] == 0:
        radial.pop()
    tangential = (
        (0.0, 0.0)
        if fisheye
        else (_number(file, table, "p1", 0.0), _number(file, table, "p2", 0.0))
    )
    return Lens("fisheye" if fisheye else "perspective", tuple(radial), tangential)


def _number(file: Path, table: Mapping[str, Any], name: str, otherwise: float) -> float:
    value = table.get(name, otherwise)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise InputError(f"{file}: {name!r} is {str(value)[:40]!r}; a finite number is needed")
    return float(value)


def _find_picture(file: Path, word: str) -> Path:
    """Return the file of a frame; instant-ngp and Blender leave out the suffix .png."""
    if "\\" in word and not (file.parent / word).is_file():  # a path of Windows
        word = word.replace("\\", "/")
    try:
        place = named_file(file.parent, word, file)
    except InputError:
        # Of a path on another machine, the name is looked for in this capture.
        if not PurePosixPath(word).is_absolute() or not picture_folders(file.parent):
            raise
        place = file.parent / PurePosixPath(word).name
    if place.is_file() or place.suffix.lower() in SUFFIXES:
        return place
    return place.with_name(place.name + ".png")


def _find_file(file: Path, frame: Mapping[str, Any], name: str) -> Path | None:
    word = frame.get(name)
    if word is None:
        return None
    place = named_file(file.parent, str(word), file)
    if not place.is_file():
        raise InputError(
            f"{file}: the {name} {str(word)!r} of the frame {frame['file_path']!r} does not exist; "
            "check the path"
        )
    return place


def _points(file: Path, table: Mapping[str, Any]) -> tuple[Tensor | None, Tensor | None]:
    word = table.get("ply_file_path")
    if not isinstance(word, str) or not named_file(file.parent, word, file).is_file():
        return None, None
    cloud = read_ply(file.parent / word)
    if not {"x", "y", "z"} <= set(cloud):
        raise InputError(f"{file.parent / word}: the points have no x, y and z; export them again")
    points, colors = (
        torch.stack([torch.from_numpy(cloud[name]).float() for name in names], 1)
        if set(names) <= set(cloud)
        else None
        for names in (("x", "y", "z"), ("red", "green", "blue"))
    )
    return points, None if colors is None else colors / 255


def _box(file: Path, table: Mapping[str, Any]) -> Tensor | None:
    """Return instant-ngp's cube of side ``aabb_scale`` in the world of the file.

    The cube lies around the middle of instant-ngp's unit cube.
    """
    if "aabb_scale" not in table:
        return None
    scale = _number(file, table, "scale", _NGP_SCALE)
    offset = table.get("offset", [_NGP_OFFSET] * 3)
    side = _number(file, table, "aabb_scale", 1.0)
    if not (
        isinstance(offset, list)
        and len(offset) == 3
        and all(isinstance(v, (int, float)) for v in offset)
        and scale > 0
        and side > 0
    ):
        raise InputError(
            f"{file}: 'offset' must be three numbers, 'scale' and 'aabb_scale' must be above 0, "
            f"got {str(offset)[:60]}, {scale:g}, {side:g}"
        )
    middle = (0.5 - torch.tensor(offset, dtype=torch.float32)) / scale
    return torch.stack([middle - side / (2 * scale), middle + side / (2 * scale)])


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
