"""Reader of color and depth of a moving camera with its trajectory.

It reads the layouts of Redwood (ICL-NUIM, Open3D's reconstruction system) and of TUM.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.checks import require_file
from invtoolbox.core.trust import refuse_special
from invtoolbox.datasets.pose_files import read_poses
from invtoolbox.datasets.views.posed_pictures import PosedPictures
from invtoolbox.datasets.views.transforms import read_json
from invtoolbox.datasets.views.view_loading import Loading, View, load_views, rigid_poses
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import inverse

_PICTURES, _DEPTHS = ("image", "rgb", "color"), "depth"
_SUFFIXES = (".png", ".jpg", ".jpeg")
#: Intrinsics and size of the sensor that recorded, or was rendered for, both layouts. Pixel centres
#: are at whole numbers.
_SENSOR, _SENSOR_SIZE = (525.0, 525.0, 319.5, 239.5), (480, 640)
#: Largest difference in time between a picture, its depth and its pose in the layout of TUM, in
#: seconds.
_APART = 0.02
#: Unit of the depths in the files, in metres.
_UNITS = {"log": 1e-3, "tum": 1 / 5000}


def open_rgbd(
    path: str | os.PathLike[str],
    loading: Loading = Loading(),
    *,
    intrinsics: Tensor | None = None,
    depth_unit: float | None = None,
) -> PosedPictures:
    """Open color pictures with depths and poses.

    Depths are in metres along the camera's z, and 0 if unknown. Pictures lie in ``image``, ``rgb``
    or ``color``, depths as 16 bit PNG in ``depth``. There are two layouts of the trajectory:

    - Redwood has ``trajectory.log``: the number of the frame, then a 4 by 4 matrix, camera to
      world. Depths are in millimetres. Frames, depths and poses with the same number belong
      together.
    - TUM has ``groundtruth.txt``: time, position and quaternion. Depths are in 1/5000 m. Frames,
      depths and poses at most 0.02 s apart belong together.

    Pictures without a pose or a depth are skipped and listed in ``skipped``.

    Args:
        path: path of the folder.
        loading: how the pictures are loaded.
        intrinsics: intrinsics in pixels, ``(3, 3)``, with the centre of the first pixel at
            ``(0.5, 0.5)``; by default from ``camera_intrinsic.json`` (Open3D), or else the 525
            pixels of PrimeSense for pictures of 640 by 480.
        depth_unit: unit of the depths in metres, which replaces the unit of the layout.

    Raises:
        InputError: if there is no trajectory, if a pose is not rigid, or if pictures have another
            size without intrinsics.

    Sources: Handa et al., "A benchmark for RGB-D visual odometry, 3D reconstruction and SLAM", ICRA
    2014; Choi, Zhou and Koltun, "Robust reconstruction of indoor scenes", CVPR 2015; Sturm et al.,
    "A benchmark for the evaluation of RGB-D SLAM systems", IROS 2012.
    """
    folder = Path(path).expanduser()
    kind, trajectory = _trajectory(folder)
    pictures = next((folder / name for name in _PICTURES if (folder / name).is_dir()), None)
    if pictures is None or not (folder / _DEPTHS).is_dir():
        raise InputError(
            f"{folder} holds a trajectory, but no pictures ({', '.join(_PICTURES)}) or no depths; "
            "give the folder that holds all three"
        )
    times, poses = (_read_log if kind == "log" else _read_tum)(trajectory)
    apart = 0.0 if kind == "log" else _APART
    color, depth = _list_numbered(pictures), _list_numbered(folder / _DEPTHS)
    if not color or not depth:
        raise InputError(
            f"{folder} holds {len(color)} pictures and {len(depth)} depths whose name is a number; "
            "at least one of each is needed"
        )
    K, size = _intrinsics(folder, intrinsics)
    depth_times = np.array([time for time, _ in depth])
    views, skipped = [], []
    for time, picture in color:
        near, pose = (int(np.argmin(np.abs(t - time))) for t in (depth_times, times))
        if abs(depth_times[near] - time) > apart or abs(times[pose] - time) > apart:
            skipped.append(picture.name)
            continue
        views.append(
            View(
                picture.name,
                picture,
                poses[pose],
                K,
                size,
                depth=depth[near][1],
                depth_unit=_UNITS[kind] if depth_unit is None else depth_unit,
            )
        )
    if not views:
        raise InputError(
            f"{folder}: none of the {len(color)} pictures has a depth and a pose with its number; "
            "check the names of the files"
        )
    loaded = load_views(trajectory, views, loading)
    return replace(loaded, skipped=(*loaded.skipped, *skipped))


def is_rgbd(folder: Path) -> bool:
    """Return whether a folder has one of the two layouts."""
    return (folder / _DEPTHS).is_dir() and any(
        (folder / name).is_file() for name in ("trajectory.log", "groundtruth.txt")
    )


def _trajectory(folder: Path) -> tuple[str, Path]:
    for kind, name in (("log", "trajectory.log"), ("tum", "groundtruth.txt")):
        if (folder / name).is_file():
            return kind, require_file(folder / name)
    raise InputError(
        f"{folder} holds no trajectory of RGB-D frames; it needs trajectory.log (Redwood) or "
        "groundtruth.txt (TUM)"
    )


def _read_log(file: Path) -> tuple[np.ndarray, Tensor]:
    """Read numbers and poses, world to camera, from blocks of five lines.

    A block has a line of three numbers, the first of which is the number of the frame, and the four
    lines of a matrix.
    """
    refuse_special(file)
    try:
        lines = [line.split() for line in file.read_text("ascii").splitlines() if line.strip()]
        heads = np.array([int(words[0]) for words in lines[::5]], dtype=np.float64)
        body = [[float(word) for word in words] for k, words in enumerate(lines) if k % 5]
        matrices = np.array(body, dtype=np.float64).reshape(-1, 4, 4)
        if len(matrices) != len(heads):
            raise ValueError(f"{len(lines)} lines are not a whole number of frames")
    except (ValueError, IndexError, OverflowError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file} is not a trajectory of Redwood, with blocks of a line of three numbers and "
            f"four lines of a matrix: {' '.join(str(error).split())[:100]}"
        ) from error
    if len(set(heads.tolist())) < len(heads):
        raise InputError(f"{file}: a frame has two poses; the file is damaged")
    names = [f"frame {head:g}" for head in heads]
    return heads, inverse(rigid_poses(file, names, matrices, "camera to world"))


def _read_tum(file: Path) -> tuple[np.ndarray, Tensor]:
    poses = read_poses(file)
    if poses.times is None:
        raise InputError(f"{file}: poses of TUM must be lines 'time x y z qx qy qz qw'")
    finite = poses.matrices.isfinite().flatten(1).all(1)
    finite &= torch.from_numpy(np.isfinite(poses.times))
    if not bool(finite.any()):
        raise InputError(f"{file} holds no finite pose; give the trajectory of the camera")
    return poses.times[finite.numpy()], inverse(poses.matrices[finite])


def _list_numbered(folder: Path) -> list[tuple[float, Path]]:
    """List the pictures of a folder whose name is a number, with the number and in its order."""
    pictures = []
    for file in folder.iterdir():
        if file.suffix.lower() in _SUFFIXES:
            with contextlib.suppress(ValueError):
                pictures.append((float(file.stem), file))
    return sorted(pictures)


def _intrinsics(folder: Path, K: Tensor | None) -> tuple[Tensor, tuple[int, int] | None]:
    """Return the intrinsics of the user, of the folder or of the usual sensor, and their size."""
    if K is not None:
        if K.shape != (3, 3) or not bool(K.isfinite().all()):
            raise InputError(f"intrinsics must be (3, 3) finite numbers, got {tuple(K.shape)}")
        return K.double(), None
    file = folder / "camera_intrinsic.json"
    if file.is_file():
        table = read_json(file)
        try:
            # The file has the matrix column by column.
            columns = torch.tensor(table["intrinsic_matrix"], dtype=torch.float64).reshape(3, 3)
            K, size = columns.T.clone(), (int(table["height"]), int(table["width"]))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{file} has no width, height and intrinsic_matrix of 9 numbers ({error!r})"
            ) from error
        if not (
            bool(K.isfinite().all()) and float(K[0, 0]) > 0 and float(K[1, 1]) > 0 and min(size) > 0
        ):
            raise InputError(f"{file}: a size or a focal length is not above 0; correct the file")
    else:
        (fx, fy, cx, cy), size = _SENSOR, _SENSOR_SIZE
        K = torch.tensor([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]], dtype=torch.float64)
    K[:2, 2] += 0.5
    return K, size
