"""Reader of nuScenes scenes from the JSON tables and `.pcd.bin` sweeps, without the devkit."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.checks import decoding, reading
from invtoolbox.core.trust import named_file
from invtoolbox.datasets.pose_files import from_quaternion
from invtoolbox.datasets.sweeps.point_files import read_points
from invtoolbox.datasets.sweeps.sweep_files import SweepFiles, choose, require_folder
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import inverse
from invtoolbox.geometry.sweeps import Boxes, Sweep

# The lidar's frame has x to the right and y forward; in our frame, p = TURN q, x is forward and y
# is to the left.
TURN = torch.tensor(
    [[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float64
)


class NuScenes(SweepFiles):
    """All sweeps of the lidar on the roof (LIDAR_TOP) in one scene, 20 per second.

    About every tenth sweep is a key frame with boxes. Points are in the lidar's frame, rotated by a
    quarter turn so that x points forward. The data set has removed the sensor's motion within the
    sweep. Poses combine the vehicle's pose at the time of the sweep and the lidar's place on the
    vehicle. Boxes come from the annotations of the key frame's sample. Tables: nuscenes-devkit,
    docs/schema_nuscenes.md.

    The constructor reads the tables of the whole data set, and keeps only the records of the scene.

    Args:
        path: path of the root, which holds ``samples``, ``sweeps`` and one folder of tables
            (``v1.0-mini``).
        scene: name of the scene ("scene-0061"); it is optional if there is only one.
        version: folder of tables, if there are several.

    Raises:
        InputError: for a table that is missing, damaged or refers to a missing record, and for an
            unknown scene. When a sweep is read: for a damaged file.
    """

    def __init__(
        self, path: str | os.PathLike[str], scene: str | None = None, version: str | None = None
    ) -> None:
        root = require_folder(path, "a nuScenes data set")
        self.tables = _Tables(_choose_version(root, version))
        scenes = {str(row["name"]): row for row in self.tables.rows("scene", ("token", "name"))}
        self.scene = choose(scenes, scene, "scene", self.tables.folder, "scene")
        of_scene = self.tables.rows(
            "sample",
            ("token", "scene_token"),
            lambda row: row["scene_token"] == self.scene["token"],
        )
        samples = {row["token"] for row in of_scene}
        sensors = {
            row["token"]
            for row in self.tables.rows(
                "sensor", ("token", "channel"), lambda row: row["channel"] == "LIDAR_TOP"
            )
        }
        self.placed = {
            row["token"]: row
            for row in self.tables.rows(
                "calibrated_sensor",
                ("token", "sensor_token", "translation", "rotation"),
                lambda row: row["sensor_token"] in sensors,
            )
        }
        self.sweeps = sorted(
            self.tables.rows(
                "sample_data",
                (
                    "sample_token",
                    "ego_pose_token",
                    "calibrated_sensor_token",
                    "filename",
                    "timestamp",
                    "is_key_frame",
                ),
                lambda row: (
                    row["sample_token"] in samples and row["calibrated_sensor_token"] in self.placed
                ),
            ),
            key=_time,
        )
        if not self.sweeps:
            raise InputError(
                f"{self.tables.folder}: the scene {self.scene['name']} has no sweeps of LIDAR_TOP; "
                "fetch the tables again"
            )
        table = self.tables.folder / "sample_data.json"
        super().__init__([named_file(root, str(row["filename"]), table) for row in self.sweeps])
        self.names = [file.name.removesuffix(".bin").removesuffix(".pcd") for file in self.files]
        needed = {row["ego_pose_token"] for row in self.sweeps}
        self.vehicle = {
            row["token"]: row
            for row in self.tables.rows(
                "ego_pose", ("token", "translation", "rotation"), lambda row: row["token"] in needed
            )
        }
        self.boxes = _boxes_by_sample(self.tables, samples)

    def _read(self, index: int) -> Sweep:
        row, file = self.sweeps[index], self.files[index]
        read = read_points(file, 5)
        if row["ego_pose_token"] not in self.vehicle:
            raise InputError(
                f"{self.tables.folder / 'ego_pose.json'}: no pose {row['ego_pose_token']} for the "
                f"sweep {file.name}; fetch it again"
            )
        pose = (
            self._motion("ego_pose", self.vehicle[row["ego_pose_token"]])
            @ self._motion("calibrated_sensor", self.placed[row["calibrated_sensor_token"]])
            @ TURN
        )
        points = torch.stack([read.points[:, 1], -read.points[:, 0], read.points[:, 2]], dim=1)
        boxes = None
        if row["is_key_frame"]:
            boxes = self._boxes(self.boxes.get(row["sample_token"], []), pose)
        return Sweep(
            points,
            row["timestamp"] / 1e6,
            intensity=read.intensity,
            ring=read.ring,
            pose=pose,
            deskewed=True,
            boxes=boxes,
            source=str(file),
            meta={
                "reader": "nuscenes",
                "scene": self.scene["name"],
                "is_key_frame": bool(row["is_key_frame"]),
            },
        )

    def _motion(self, table: str, row: Mapping[str, Any]) -> Tensor:
        file = self.tables.folder / f"{table}.json"
        with decoding(file, "nuScenes table"):
            return from_quaternion(row["translation"], row["rotation"], str(file))

    def _boxes(self, rows: list[dict[str, Any]], pose: Tensor) -> Boxes:
        with decoding(self.tables.folder / "sample_annotation.json", "nuScenes table"):
            world = [self._motion("sample_annotation", row) for row in rows]
            # The table has the order width, length, height.
            size = torch.tensor(
                [[row["size"][k] for k in (1, 0, 2)] for row in rows], dtype=torch.float64
            ).reshape(-1, 3)
        placed = (
            inverse(pose) @ torch.stack(world)
            if world
            else torch.empty(0, 4, 4, dtype=torch.float64)
        )
        return Boxes(
            placed,
            size,
            tuple(str(row["instance_token"]) for row in rows),
            tuple(str(row["category"]) for row in rows),
        )


class _Tables:
    """JSON tables of one version: lists of records."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rows(
        self,
        name: str,
        columns: Sequence[str],
        accept: Callable[[dict[str, Any]], bool] | None = None,
    ) -> list[dict[str, Any]]:
        """Read the accepted records of a table, with some of their columns.

        Other records are dropped while the file is parsed: a table of the whole data set has
        millions of records, one scene has hundreds.
        """
        path = self.folder / f"{name}.json"

        def keep(record: dict[str, Any]) -> dict[str, Any] | None:
            if any(column not in record for column in columns):
                return record
            if accept is None or accept(record):
                return {column: record[column] for column in columns}
            return None

        with reading(path, "JSON"):
            rows = json.loads(path.read_bytes(), object_hook=keep)
        if not isinstance(rows, list) or not all(
            row is None or isinstance(row, dict) for row in rows
        ):
            raise InputError(f"{path}: a table is a list of records; fetch it again")
        for number, row in enumerate(rows):
            lacking = [column for column in columns if row is not None and column not in row]
            if lacking:
                raise InputError(
                    f"{path}: record {number + 1} lacks {lacking[0]!r}; fetch it again"
                )
        return [row for row in rows if row is not None]


def _choose_version(root: Path, version: str | None) -> Path:
    versions = {
        folder.name: folder
        for folder in sorted(root.iterdir())
        if folder.is_dir() and (folder / "sample_data.json").is_file()
    }
    if version is None and not versions:
        raise InputError(
            f"{root}: no folder with sample_data.json, such as v1.0-mini; give the root of a "
            "nuScenes data set"
        )
    return choose(versions, version, "version of the data set", root, "version")


def _time(row: Mapping[str, Any]) -> int:
    stamp = row["timestamp"]
    if not isinstance(stamp, int):
        raise InputError(
            f"sample_data.json: the timestamp {stamp!r} of {row['filename']} is not a whole number "
            "of microseconds; fetch it again"
        )
    return stamp


def _boxes_by_sample(tables: _Tables, samples: set[Any]) -> dict[str, list[dict[str, Any]]]:
    """Read the annotations of the samples, each with the name of its category.

    There are no annotations if the data set has no such table.
    """
    if not (tables.folder / "sample_annotation.json").is_file():
        return {}
    categories = {row["token"]: row["name"] for row in tables.rows("category", ("token", "name"))}
    kinds = {
        row["token"]: categories.get(row["category_token"], "unknown")
        for row in tables.rows("instance", ("token", "category_token"))
    }
    annotations: dict[str, list[dict[str, Any]]] = {}
    for row in tables.rows(
        "sample_annotation",
        ("sample_token", "instance_token", "translation", "size", "rotation"),
        lambda row: row["sample_token"] in samples,
    ):
        annotations.setdefault(row["sample_token"], []).append(
            {**row, "category": kinds.get(row["instance_token"], "unknown")}
        )
    return annotations
