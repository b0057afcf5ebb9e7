"""Color and depth of a moving camera with its trajectory: the layouts of Redwood (ICL-NUIM, Open3D's reconstruction system) and TUM."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.checks import require_file
from invtoolbox.datasets.sweeps.pose_files import read_poses
from invtoolbox.datasets.views.posed_pictures import PosedPictures, View, load_views, rigid_poses
from invtoolbox.datasets.views.transforms import read_json
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import inverse

_PICTURES, _DEPTHS = ("image", "rgb", "color"), "depth"
_SUFFIXES = (".png", ".jpg", ".jpeg")
#: Both layouts were taken with, or rendered for, a sensor with these intrinsics, which count whole numbers at the pixels' centres.
_SENSOR, _SENSOR_SIZE = (525.0, 525.0, 319.5, 239.5), (480, 640)
#: How far apart in time a picture, its depth and its pose may be in the layout of TUM, seconds.
_APART = 0.02
#: A depth of 1 m in the files.
_UNITS = {"log": 1e-3, "tum": 1 / 5000}


def open_rgbd(
    path: str | os.PathLike[str],
    *,
    intrinsics: Tensor | None = None,
    depth_unit: float | None = None,
    shrink: int = 1,
    straighten: bool = True,
    names: Sequence[str] | None = None,
) -> PosedPictures:
    """Color pictures, depths in metres along the camera's z (0 where there is none), and poses.

    Pictures lie in ``image``, ``rgb`` or ``color``, depths as 16 bit PNG in ``depth``. The trajectory is ``trajectory.log`` (Redwood:
    the number of the frame, then a 4 by 4 matrix, camera to world; depths in millimetres), or ``groundtruth.txt`` (TUM: time, place and
    quaternion; depths in 1/5000 m). Frames belong together by the number in their name, in the layout of TUM by time, at most 0.02 s
    apart; pictures without a pose or a depth are skipped and named.

    Args:
        intrinsics: ``(3, 3)``, pixels, the first pixel's centre at ``(0.5, 0.5)``; by default those of ``camera_intrinsic.json``
            (Open3D), or else the 525 pixels of PrimeSense for pictures of 640 by 480.
        depth_unit: metres, in place of the layout's.
        shrink, straighten, names: see `load_views`; these cameras have no lenses.

    Raises:
        InputError: no trajectory, a pose that is not rigid, pictures of another size without intrinsics.

    Sources: Handa et al., "A benchmark for RGB-D visual odometry, 3D reconstruction and SLAM", ICRA 2014; Choi, Zhou and Koltun, "Robust
    reconstruction of indoor scenes", CVPR 2015; Sturm et al., "A benchmark for the evaluation of RGB-D SLAM systems", IROS 2012.
    """
    folder = Path(path).expanduser()
    kind, trajectory = _trajectory(folder)
    pictures = next((folder / name for name in _PICTURES if (folder / name).is_dir()), None)
    if pictures is None or not (folder / _DEPTHS).is_dir():
        raise InputError(
            f"{folder} holds no pictures ({', '.join(_PICTURES)}) beside its depths and trajectory"
        )
    times, poses = _log(trajectory) if kind == "log" else _tum(trajectory)
    apart = 0.0 if kind == "log" else _APART
    color, depth = _numbered(pictures), _numbered(folder / _DEPTHS)
    if not color or not depth:
        raise InputError(
            f"{folder} holds {len(color)} pictures and {len(depth)} depths with a number for a name; one "
            "of each at least is needed"
        )
    K, size = _intrinsics(folder, intrinsics)
    depth_times = np.array([time for time, _ in depth])
    views, skipped = [], []
    for time, place in color:
        near, pose = (
            int(np.argmin(np.abs(depth_times - time))),
            int(np.argmin(np.abs(times - time))),
        )
        if abs(depth_times[near] - time) > apart or abs(times[pose] - time) > apart:
            skipped.append(place.name)
            continue
        views.append(
            View(
                place.name,
                place,
                poses[pose],
                K,
                size,
                depth=depth[near][1],
                depth_unit=_UNITS[kind] if depth_unit is None else depth_unit,
            )
        )
    if not views:
        raise InputError(
            f"{folder}: none of the {len(color)} pictures has a depth and a pose of its number"
        )
    found = load_views(trajectory, views, shrink=shrink, straighten=straighten, names=names)
    return replace(found, skipped=(*found.skipped, *skipped))


def is_rgbd(folder: Path) -> bool:
    """Whether a folder looks like one of the two layouts."""
    return (folder / _DEPTHS).is_dir() and any(
        (folder / name).is_file() for name in ("trajectory.log", "groundtruth.txt")
    )


def _trajectory(folder: Path) -> tuple[str, Path]:
    for kind, name in (("log", "trajectory.log"), ("tum", "groundtruth.txt")):
        if (folder / name).is_file():
            return kind, require_file(folder / name)
    raise InputError(
        f"{folder} holds no trajectory of RGB-D frames: trajectory.log (Redwood) or groundtruth.txt (TUM)"
    )


def _log(file: Path) -> tuple[np.ndarray, Tensor]:
    """Numbers and poses, world to camera, of blocks of five lines: three numbers, of which the first one is the frame's, and a matrix."""
    try:
        lines = [line.split() for line in file.read_text("ascii").splitlines() if line.strip()]
        heads = np.array([int(words[0]) for words in lines[::5]], dtype=np.float64)
        body = [[float(word) for word in words] for k, words in enumerate(lines) if k % 5]
        matrices = np.array(body, dtype=np.float64).reshape(-1, 4, 4)
        if len(matrices) != len(heads):
            raise ValueError(f"{len(lines)} lines are no whole number of frames")
    except (ValueError, IndexError, OverflowError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file} is no trajectory of Redwood, blocks of a line of three numbers and four of a 4 by 4 matrix: "
            f"{' '.join(str(error).split())[:100]}"
        ) from error
    if len(set(heads.tolist())) < len(heads):
        raise InputError(f"{file}: a frame has two poses; the file is damaged")
    return heads, inverse(
        rigid_poses(file, [f"frame {head:g}" for head in heads], matrices, "camera to world")
    )


def _tum(file: Path) -> tuple[np.ndarray, Tensor]:
    poses = read_poses(file)
    if poses.times is None:
        raise InputError(f"{file}: poses of TUM are lines 'time x y z qx qy qz qw'")
    known = poses.matrices.isfinite().flatten(1).all(1) & torch.from_numpy(np.isfinite(poses.times))
    if not bool(known.any()):
        raise InputError(f"{file} holds no pose that is known")
    return poses.times[known.numpy()], inverse(poses.matrices[known])


def _numbered(folder: Path) -> list[tuple[float, Path]]:
    """The pictures of a folder whose name is a number, with it, in its order."""
    found = []
    for file in folder.iterdir():
        if file.suffix.lower() in _SUFFIXES:
            try:
                found.append((float(file.stem), file))
            except ValueError:
                continue
    return sorted(found)


def _intrinsics(folder: Path, given: Tensor | None) -> tuple[Tensor, tuple[int, int] | None]:
    if given is not None:
        if given.shape != (3, 3) or not bool(given.isfinite().all()):
            raise InputError(f"intrinsics are (3, 3) finite numbers, got {tuple(given.shape)}")
        return given.double(), None
    file = folder / "camera_intrinsic.json"
    if file.is_file():
        table = read_json(file)
        try:
            K = (
                torch.tensor(table["intrinsic_matrix"], dtype=torch.float64).reshape(3, 3).T.clone()
            )  # column by column
            size = (int(table["height"]), int(table["width"]))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{file} has no width, height and intrinsic_matrix of 9 numbers ({error!r})"
            ) from error
        if not (
            bool(K.isfinite().all()) and float(K[0, 0]) > 0 and float(K[1, 1]) > 0 and min(size) > 0
        ):
            raise InputError(f"{file}: a size or a focal length is not above 0")
    else:
        fx, fy, cx, cy = _SENSOR
        K, size = (
            torch.tensor([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]], dtype=torch.float64),
            _SENSOR_SIZE,
        )
    K[:2, 2] += 0.5
    return K, size
