"""Reader of the `.h5` scenes that OpenSceneFlow prepares from Argoverse 2, nuScenes and Waymo."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.checks import decoding, require_file, require_plausible
from invtoolbox.datasets.sweeps.argoverse import CATEGORIES
from invtoolbox.datasets.sweeps.sweep_files import SweepFiles, choose, to_int64
from invtoolbox.datasets.volumes.hdf5 import open_hdf5
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import check_motion, transform
from invtoolbox.geometry.sweeps import MOVES, FlowLabels, Sweep

_NEEDED = ("lidar", "pose")
_FLOW = ("flow", "flow_is_valid", "flow_category_indices", "ego_motion")
#: Names of sweeps are times: nanoseconds from the first number on, microseconds from the second.
_NANOSECONDS, _MICROSECONDS = 10**17, 10**14


class OpenSceneFlow(SweepFiles):
    """Sweeps of a scene of OpenSceneFlow (Zhang et al.), one group of a `.h5` file per sweep.

    The name of a group is the time of the sweep, in nanoseconds (Argoverse 2) or microseconds
    (nuScenes, Waymo). A group has the arrays ``lidar`` (N, 3 or 4), with the vehicle's motion
    within the sweep removed, and ``pose`` (4, 4) in the world; it may have ``lidar_dt`` (seconds of
    each point), ``ground_mask``, and the labels ``flow``, which includes the ego motion,
    ``flow_is_valid``, ``flow_category_indices``, ``flow_instance_id`` and ``ego_motion``.

    Args:
        path: path of a `.h5` file, or of a folder of such files.
        scene: name of the file in the folder, without its suffix; it is optional if there is only
            one.

    Raises:
        InputError: for a path without such scenes, and an unknown scene. When a sweep is read: for
            a damaged or missing array.
    """

    def __init__(self, path: str | os.PathLike[str], scene: str | None = None) -> None:
        path = Path(path).expanduser()
        if path.is_dir():
            scenes = {file.stem: file for file in sorted(path.glob("*.h5"))}
            if not scenes:
                raise InputError(f"{path}: the folder holds no .h5 scene of OpenSceneFlow")
            path = choose(scenes, scene, "scene", path, "scene")
        elif scene is not None and scene != path.stem:
            raise InputError(f"{path}: the file is the scene {path.stem}, and not {scene}")
        self.file = require_file(path)
        with decoding(self.file, "HDF5"), open_hdf5(self.file) as file:
            names = [str(name) for name in file]
        if not names or not all(name.isdigit() for name in names):
            raise InputError(
                f"{self.file}: the groups of a scene of OpenSceneFlow are named by their time, got "
                f"{', '.join(names[:3]) or 'none'}; give a file that its dataprocess wrote"
            )
        names.sort(key=int)
        super().__init__([self.file] * len(names))
        self.names = names

    def _read(self, index: int) -> Sweep:
        name, source = self.names[index], f"{self.file} at {self.names[index]}"
        with decoding(self.file, "HDF5"), open_hdf5(self.file) as file:
            group = file[name]
            missing = [key for key in _NEEDED if key not in group]
            if missing:
                raise InputError(f"{source}: there is no array {missing[0]}; prepare it again")
            arrays = {
                key: self._array(source, group[key])
                for key in (*_NEEDED, *_FLOW, "lidar_dt", "ground_mask", "flow_instance_id")
                if key in group
            }
        cloud = arrays["lidar"]
        if cloud.ndim != 2 or cloud.shape[1] < 3:
            raise InputError(f"{source}: lidar has the shape {cloud.shape}; expected (N, 3)")
        points = torch.from_numpy(cloud[:, :3].astype(np.float32))
        for key, array in arrays.items():
            if key not in ("pose", "ego_motion") and len(array) != len(points):
                raise InputError(
                    f"{source}: {key} has {len(array)} rows for {len(points)} points; prepare it "
                    "again"
                )
        stamp = int(name)
        unit = 1e9 if stamp >= _NANOSECONDS else 1e6 if stamp >= _MICROSECONDS else 1.0
        return Sweep(
            points,
            stamp / unit,
            time=torch.from_numpy(arrays["lidar_dt"].astype(np.float32).reshape(-1))
            if "lidar_dt" in arrays
            else None,
            intensity=torch.from_numpy(cloud[:, 3].astype(np.float32))
            if cloud.shape[1] > 3
            else None,
            pose=check_motion(torch.from_numpy(arrays["pose"]), f"{source}: the pose"),
            deskewed=True,
            labels=_labels(source, points, arrays),
            source=source,
            meta={"reader": "opensceneflow", "log": self.file.stem},
        )

    def _array(self, source: str, data: Any) -> np.ndarray:
        if data.dtype.kind not in "biuf":
            raise InputError(f"{source}: {data.name} holds {data.dtype} instead of numbers")
        if 0 not in data.shape:
            require_plausible(self.file, data.shape, data.dtype)
        return np.asarray(data)


def holds_scenes(folder: Path) -> bool:
    """Return whether the first `.h5` file of a folder is a scene of OpenSceneFlow."""
    first = min(folder.glob("*.h5"), default=None)
    return first is not None and is_scene(first)


def is_scene(path: Path) -> bool:
    """Return whether a file is a scene of OpenSceneFlow, by the names in it."""
    try:
        with decoding(path, "HDF5"), open_hdf5(path) as file:
            name = next(iter(file), "")
            return str(name).isdigit() and all(key in file[name] for key in _NEEDED)
    except InputError:
        return False


def _labels(source: str, points: Tensor, arrays: dict[str, np.ndarray]) -> FlowLabels | None:
    if any(key not in arrays for key in _FLOW):
        return None
    flow = torch.from_numpy(arrays["flow"].astype(np.float32))
    if flow.shape != points.shape:
        raise InputError(f"{source}: flow has the shape {tuple(flow.shape)}; expected (N, 3)")
    category = to_int64(arrays["flow_category_indices"])
    if len(category) and int(category.max()) >= len(CATEGORIES):
        raise InputError(
            f"{source}: a class is numbered {int(category.max())}, but there are {len(CATEGORIES)} "
            "classes; prepare the scene again"
        )
    motion = check_motion(torch.from_numpy(arrays["ego_motion"]), f"{source}: the ego motion")
    standing = transform(motion, points.double()) - points.double()
    instance = None
    if "flow_instance_id" in arrays:
        number = to_int64(arrays["flow_instance_id"])
        instance = torch.where(number > 0, number, -1)
    ground = arrays.get("ground_mask")
    return FlowLabels(
        flow,
        valid=torch.from_numpy(arrays["flow_is_valid"].astype(bool)) & flow.isfinite().all(1),
        dynamic=(flow.double() - standing).norm(dim=1) >= MOVES,
        category=category,
        categories=CATEGORIES,
        ground=None if ground is None else torch.from_numpy(ground.astype(bool)),
        instance=instance,
    )
