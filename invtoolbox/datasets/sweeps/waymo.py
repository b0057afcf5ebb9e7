"""Reader of the Waymo Open Dataset, version 2, from Parquet tables, without TensorFlow.

It reads the range images of the lidar on the roof.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.checks import decoding, require_file, require_plausible
from invtoolbox.core.trust import check_declared
from invtoolbox.datasets.sweeps.columns import pyarrow, within_memory
from invtoolbox.datasets.sweeps.sweep_files import SweepFiles, choose, require_folder
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import check_motion, inverse, rigid, rotation
from invtoolbox.geometry.sweeps import Boxes, Sweep

#: Words for the numbers of ``[LiDARBoxComponent].type``.
CATEGORIES = ("unknown", "vehicle", "pedestrian", "sign", "cyclist")

_STAMP, _LASER, _TOP = "key.frame_timestamp_micros", "key.laser_name", 1
_IMAGE = "[LiDARComponent].range_image_return1"
_POSES = "[LiDARPoseComponent].range_image_return1"
_CALIBRATION = "[LiDARCalibrationComponent]"
_BOX = "[LiDARBoxComponent]"


class Waymo(SweepFiles):
    """First returns of the lidar on the roof in one segment, 10 sweeps per second.

    Sweeps have the vehicle's poses and labelled boxes. A pixel (row ``i``, column ``j``) of the
    range image of ``H`` by ``W`` pixels is a ray. Its inclination belongs to its row; inclinations
    are stored from the lowest, and the image begins with the highest. Its azimuth is
    ``pi (2 (W - j - 1/2) / W - 1) - atan2(X10, X00)`` with the lidar's place ``X`` on the vehicle.

    Points are in the vehicle's frame at the time of the frame. The table ``lidar_pose`` has the
    pose of the vehicle at each pixel; if it is available, the vehicle's motion within the sweep is
    removed (`deskewed`). `ring` is the row. Pixels without a return are left out. Tables:
    waymo-open-dataset, src/waymo_open_dataset/v2/perception.

    Args:
        path: path of the folder of a split. It holds ``lidar``, ``lidar_calibration``,
            ``vehicle_pose`` and, if they were fetched, ``lidar_pose`` and ``lidar_box``, each with
            one table per segment.
        scene: name of the segment (of its tables); it is optional if there is only one.

    Raises:
        InputError: for missing or damaged tables, and an unknown segment. When a sweep is read: for
            a missing or damaged row.
        MissingDependency: if pyarrow is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], scene: str | None = None) -> None:
        root = require_folder(path, "a Waymo split")
        tables = {file.stem: file for file in sorted((root / "lidar").glob("*.parquet"))}
        if not tables:
            raise InputError(
                f"{root}: no tables lidar/*.parquet; give the folder of a split of the Waymo Open "
                "Dataset, version 2"
            )
        self.file = choose(tables, scene, "segment", root / "lidar", "scene")
        self.images = _Rows(self.file, (_STAMP, _LASER))
        stamps = sorted(stamp for stamp, laser in self.images.places if laser == _TOP)
        if not stamps:
            raise InputError(
                f"{self.file}: no range image of the lidar on the roof (laser {_TOP}); fetch the "
                "table again"
            )
        super().__init__([self.file] * len(stamps))
        self.stamps, self.names = stamps, [str(stamp) for stamp in stamps]
        self.extrinsic, self.inclinations = _calibration(self._table("lidar_calibration"))
        self.vehicle = _Rows(self._table("vehicle_pose"), (_STAMP,))
        pixels, labels = self._table("lidar_pose"), self._table("lidar_box")
        self.pixels = _Rows(pixels, (_STAMP, _LASER)) if pixels.is_file() else None
        self.labels = _Rows(labels, (_STAMP,)) if labels.is_file() else None

    def _table(self, component: str) -> Path:
        return self.file.parent.parent / component / self.file.name

    def _read(self, index: int) -> Sweep:
        stamp = self.stamps[index]
        source = f"{self.file} at {stamp}"
        image = _image(self.images, (stamp, _TOP), _IMAGE, 2)
        returned = image[:, :, 0] > 0
        points = self._rays(*image.shape[:2])[returned] * image[:, :, :1][returned].double()
        points = points @ self.extrinsic[:3, :3].T + self.extrinsic[:3, 3]
        pose = _motion(
            self.vehicle, (stamp,), "[VehiclePoseComponent].world_from_vehicle.transform"
        )
        if self.pixels is not None:
            then = _image(self.pixels, (stamp, _TOP), _POSES, 6)
            if then.shape[:2] != image.shape[:2]:
                raise InputError(
                    f"{self.pixels.path}: poses of {tuple(then.shape[:2])} pixels for a range "
                    f"image of {tuple(image.shape[:2])} at {stamp}; fetch the table again"
                )
            points = _deskew(points, then[returned].double(), pose)
        rings = torch.arange(len(image))[:, None].expand(image.shape[:2])[returned]
        return Sweep(
            points.float(),
            stamp / 1e6,
            intensity=image[:, :, 1][returned],
            ring=rings,
            pose=pose,
            boxes=self._boxes(stamp),
            deskewed=self.pixels is not None,
            source=source,
            meta={"reader": "waymo", "segment": self.file.stem},
        )

    def _rays(self, height: int, width: int) -> Tensor:
        """Compute the direction of each pixel in the lidar's frame, ``(H, W, 3)``."""
        low, high, values = self.inclinations
        if values is None:
            values = low + (high - low) * (torch.arange(height, dtype=torch.float64) + 0.5) / height
        if len(values) != height:
            raise InputError(
                f"{self._table('lidar_calibration')}: {len(values)} inclinations for range images "
                f"of {height} rows; fetch it again"
            )
        up = values.flip(0)[:, None]
        around = math.pi * (
            2 * (width - torch.arange(width, dtype=torch.float64) - 0.5) / width - 1
        )
        around = (around - math.atan2(float(self.extrinsic[1, 0]), float(self.extrinsic[0, 0])))[
            None, :
        ]
        return torch.stack(
            torch.broadcast_tensors(up.cos() * around.cos(), up.cos() * around.sin(), up.sin()),
            dim=-1,
        )

    def _boxes(self, stamp: int) -> Boxes | None:
        if self.labels is None:
            return None
        numbers = [f"{_BOX}.box.{name}.{axis}" for name in ("center", "size") for axis in "xyz"]
        numbers.append(f"{_BOX}.box.heading")
        rows = self.labels.all((stamp,), (*numbers, f"{_BOX}.type", "key.laser_object_id"))
        with decoding(self.labels.path, "Parquet"):
            values = torch.tensor(
                [[float(row[name]) for name in numbers] for row in rows], dtype=torch.float64
            ).reshape(-1, 7)
            kinds = tuple(
                CATEGORIES[kind]
                if 0 <= (kind := int(row[f"{_BOX}.type"])) < len(CATEGORIES)
                else "unknown"
                for row in rows
            )
        upright = torch.cat([torch.zeros(len(rows), 2, dtype=torch.float64), values[:, 6:]], dim=1)
        return Boxes(
            rigid(rotation(upright), values[:, :3]),
            values[:, 3:6],
            tuple(str(row["key.laser_object_id"]) for row in rows),
            kinds,
        )


def _deskew(points: Tensor, then: Tensor, pose: Tensor) -> Tensor:
    """Transform points from the vehicle's frame at their own time to its frame at `pose`.

    The rows of `then` ``(n, 6)`` are the roll, pitch, yaw, x, y and z of the vehicle per point.
    """
    roll, pitch, yaw = (
        rotation(then[:, k : k + 1] * torch.eye(3, dtype=torch.float64)[k]) for k in range(3)
    )
    world = (yaw @ pitch @ roll @ points[:, :, None])[:, :, 0] + then[:, 3:]
    back = inverse(pose)
    return world @ back[:3, :3].T + back[:3, 3]


class _Rows:
    """Rows of a table by their keys.

    The constructor reads only the keys; later calls read one group of rows at a time.
    """

    def __init__(self, path: Path, keys: Sequence[str]) -> None:
        self.path = require_file(path)
        self.places: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        parquet = pyarrow("parquet")
        with decoding(path, "Parquet"), within_memory(path), parquet.ParquetFile(str(path)) as file:
            self.names = set(file.schema_arrow.names)
            self._require_columns(keys)
            check_declared(path, _declared_bytes(file.metadata))
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=list(keys))
                for row, key in enumerate(zip(*(table[name].to_pylist() for name in keys))):
                    self.places.setdefault(tuple(map(int, key)), []).append((group, row))

    def _require_columns(self, columns: Sequence[str]) -> None:
        missing = [name for name in columns if name not in self.names]
        if missing:
            raise InputError(
                f"{self.path}: the table lacks the column {missing[0]}; fetch it again"
            )

    def all(self, key: tuple[int, ...], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Read the rows of a key, as Python values."""
        self._require_columns(columns)
        rows: list[Any] = []
        parquet = pyarrow("parquet")
        with (
            decoding(self.path, "Parquet"),
            within_memory(self.path),
            parquet.ParquetFile(str(self.path)) as file,
        ):
            for group in sorted({group for group, _ in self.places.get(key, [])}):
                table = file.read_row_group(group, columns=list(columns))
                rows += [table.slice(row, 1) for g, row in self.places[key] if g == group]
            return [{name: _value(row[name]) for name in columns} for row in rows]

    def one(self, key: tuple[int, ...], columns: Sequence[str]) -> dict[str, Any]:
        rows = self.all(key, columns)
        if len(rows) != 1:
            raise InputError(
                f"{self.path}: {len(rows) or 'no'} rows for the frame at {key[0]}, expected one; "
                "fetch the table again"
            )
        return rows[0]


def _declared_bytes(metadata: Any) -> int:
    """Return the number of bytes of all columns of a table, 8 bytes per value at least.

    A run of equal values takes a few bytes of the file, whatever its length.
    """
    groups = (metadata.row_group(k) for k in range(metadata.num_row_groups))
    chunks = (group.column(k) for group in groups for k in range(group.num_columns))
    return sum(max(chunk.total_uncompressed_size, 8 * chunk.num_values) for chunk in chunks)


def _value(column: Any) -> Any:
    """Return the only entry of a column: an array for a list of numbers, else a Python value."""
    scalar = column[0]
    if hasattr(scalar, "values") and scalar.values is not None:
        return np.asarray(scalar.values.to_numpy(zero_copy_only=False))
    return scalar.as_py()


def _image(rows: _Rows, key: tuple[int, ...], name: str, channels: int) -> Tensor:
    """Read an image ``(H, W, C)`` with at least the given number of channels."""
    row = rows.one(key, (f"{name}.values", f"{name}.shape"))
    values, shape = row[f"{name}.values"], row[f"{name}.shape"]
    complete = (
        values is not None
        and shape is not None
        and len(shape) == 3
        and min(shape) >= 1
        and int(shape[2]) >= channels
    )
    if not complete or len(values) != math.prod(int(n) for n in shape):
        raise InputError(
            f"{rows.path}: the image {name} at {key[0]} is not complete; fetch the table again"
        )
    require_plausible(rows.path, [int(n) for n in shape], np.float32)
    return torch.from_numpy(np.array(values, dtype=np.float32)).reshape([int(n) for n in shape])


def _motion(rows: _Rows, key: tuple[int, ...], name: str) -> Tensor:
    values = rows.one(key, (name,))[name]
    if values is None or len(values) != 16:
        raise InputError(
            f"{rows.path}: {name} at {key[0]} does not hold 16 numbers; fetch the table again"
        )
    return check_motion(
        torch.from_numpy(np.array(values, dtype=np.float64)).reshape(4, 4),
        f"{rows.path}: {name} at {key[0]}",
    )


def _calibration(path: Path) -> tuple[Tensor, tuple[float, float, Tensor | None]]:
    """Read the place of the lidar on the roof, and its inclinations.

    The inclinations are the least, the greatest, and the list of all if the table has it.
    """
    rows = _Rows(path, (_LASER,))
    least, greatest, listed = (
        f"{_CALIBRATION}.beam_inclination.{field}" for field in ("min", "max", "values")
    )
    row = rows.one((_TOP,), (least, greatest, listed))
    with decoding(path, "Parquet"):
        values = row[listed]
        inclinations = None
        if values is not None and len(values):
            inclinations = torch.from_numpy(np.array(values, dtype=np.float64))
        extrinsic = _motion(rows, (_TOP,), f"{_CALIBRATION}.extrinsic.transform")
        return extrinsic, (float(row[least]), float(row[greatest]), inclinations)
