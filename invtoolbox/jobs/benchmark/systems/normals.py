"""Integration of normal maps with a known depth (DiLiGenT's objects)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from invtoolbox.core.checks import decoding
from invtoolbox.datasets import find_file, read_intrinsics, read_mask, read_normal_map
from invtoolbox.errors import require_name
from invtoolbox.jobs.benchmark.case import Case, Row, Solved, System, check_answer
from invtoolbox.jobs.normals.integrate import integrate_normals

_FILES = ("normal_map.png", "mask.png", "K.txt", "depth_gt.npz")
#: Names of methods, and the settings of `integrate_normals`.
METHODS: dict[str, dict[str, Any]] = {"bilateral": {}, "sharper": {"k": 4.0}}


class ObjectRow(Row):
    """Objects, each a folder with normal_map.png, mask.png, K.txt and depth_gt.npz."""

    path: str | None = Field(None, description="folder of the objects, in place of the data set")
    objects: list[str] = Field(min_length=1, description="folders of the objects")


def _places(row: ObjectRow, name: str) -> list[Path]:
    """Return the files of an object; an `InputError` names a missing one."""
    if row.path is None:
        return [find_file("diligent-normals", f"{name}/{file}") for file in _FILES]
    return [Path(row.path, name, file) for file in _FILES]


def count(row: ObjectRow) -> int:
    """Return the number of objects."""
    return len([_places(row, name) for name in row.objects])


def open_case(row: ObjectRow, number: int) -> Case:
    """Return an object; the error is the mean absolute one after the medians are aligned."""
    map_file, mask_file, camera, depth_file = _places(row, row.objects[number])
    normals, mask = read_normal_map(map_file), read_mask(mask_file)
    intrinsics = read_intrinsics(camera)
    with decoding(depth_file, "NumPy"), np.load(depth_file) as file:
        truth = np.asarray(file[file.files[0]], dtype=np.float64)
    inside = mask.numpy()

    def aligned(depth: np.ndarray) -> np.ndarray:
        """Return a depth with the median of the true one; normals do not determine its scale."""
        ratio = float(np.nanmedian(truth[inside] / depth[inside]))
        return np.where(inside, ratio * depth, np.nan)

    def as_depth(answer: Any) -> np.ndarray:
        depth = torch.as_tensor(answer).double()
        # Depth outside of the mask is not measured, and may be NaN.
        filled = torch.where(mask, depth, 1.0) if depth.shape == mask.shape else depth
        return check_answer(filled, truth.shape, "the depth map").numpy()

    def solve(name: Any, solver: Any, automatic: str) -> Solved:
        return integrate_normals(normals, mask, intrinsics, **METHODS[name]), ()

    def scores(answer: Any) -> dict[str, float]:
        error = np.abs(aligned(as_depth(answer)) - truth)[inside]
        rmse = np.sqrt(np.nanmean(np.square(error)))
        return {"error [mm]": float(np.nanmean(error)), "RMSE [mm]": float(rmse)}

    return Case(
        label=row.objects[number],
        arguments=lambda: (normals, mask, intrinsics),
        solve=solve,
        simple=lambda: integrate_normals(normals, mask, intrinsics, k=0.0),
        scores=scores,
        picture=lambda answer: aligned(as_depth(answer)),
        truth=np.where(inside, truth, np.nan),
    )


SYSTEM = System(
    row=ObjectRow,
    signature="(normals, mask, intrinsics) -> depth",
    simple="least squares",
    metric="error [mm]",
    better="lower",
    count=count,
    files=lambda row: [path for name in row.objects for path in _places(row, name)],
    open=open_case,
    check=lambda name: require_name("method of normals", name, METHODS),
    takes_prior=False,
    pictured="depth",
)
