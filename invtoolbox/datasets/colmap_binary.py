"""COLMAP's binary files, little-endian: ``cameras.bin``, ``images.bin``, ``points3D.bin``."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.datasets.colmap_models import MODELS
from invtoolbox.datasets.colmap_tables import ImageLine, PointTable, Tables
from invtoolbox.datasets.files import require_file
from invtoolbox.datasets.output import write_bytes
from invtoolbox.errors import InputError

_FEATURE = np.dtype([("xy", "<f8", 2), ("point", "<i8")])
_POINT = struct.Struct("<Q3d3BdQ")
_NAMES = list(MODELS)


class _Bytes:
    """A file of records, which says where it ends too early."""

    def __init__(self, path: Path) -> None:
        self.path, self.data, self.place = require_file(path), path.read_bytes(), 0

    def take(self, layout: struct.Struct) -> tuple[Any, ...]:
        self._need(layout.size)
        values = layout.unpack_from(self.data, self.place)
        self.place += layout.size
        return values

    def array(self, dtype: Any, count: int) -> np.ndarray:
        dtype = np.dtype(dtype)
        self._need(count * dtype.itemsize)
        values = np.frombuffer(self.data, dtype, count, self.place)
        self.place += count * dtype.itemsize
        return values

    def word(self) -> str:
        end = self.data.find(b"\0", self.place)
        if end < 0:
            raise InputError(
                f"{self.path}: truncated, a name at byte {self.place:,} has no end; fetch or export it again"
            )
        word, self.place = self.data[self.place : end], end + 1
        try:
            return word.decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(
                f"{self.path}: the name at byte {end - len(word):,} is no text; the file is damaged"
            ) from None

    def count(self, least: int) -> int:
        """A number of records of at least so many bytes, which must fit what is left."""
        (count,) = self.take(_COUNT)
        if count * least > len(self.data) - self.place:
            raise InputError(
                f"{self.path}: truncated or damaged, {count:,} records are declared at byte {self.place - 8:,} and "
                f"{len(self.data) - self.place:,} bytes are left; fetch or export it again"
            )
        return int(count)

    def end(self) -> None:
        if self.place != len(self.data):
            raise InputError(
                f"{self.path}: {len(self.data) - self.place:,} bytes follow the last record; a count is wrong, or it is "
                "another file"
            )

    def _need(self, size: int) -> None:
        if self.place + size > len(self.data):
            raise InputError(
                f"{self.path}: truncated, {len(self.data):,} bytes are there, and at least {self.place + size:,} are needed; "
                "fetch or export it again"
            )


_COUNT, _CAMERA, _IMAGE = struct.Struct("<Q"), struct.Struct("<IiQQ"), struct.Struct("<I7dI")


def read(folder: Path) -> Tables:
    """The tables of a folder."""
    return Tables(
        _cameras(folder / "cameras.bin"),
        _images(folder / "images.bin"),
        _points(folder / "points3D.bin"),
    )


def _cameras(path: Path) -> dict[int, tuple[str, int, int, list[float]]]:
    file = _Bytes(path)
    found: dict[int, tuple[str, int, int, list[float]]] = {}
    for _ in range(file.count(_CAMERA.size)):
        number, kind, width, height = file.take(_CAMERA)
        if not 0 <= kind < len(_NAMES):
            raise InputError(
                f"{path}: camera {number} is of model {kind}; known are 0 to {len(_NAMES) - 1} ({', '.join(_NAMES)})"
            )
        _once(path, "cameras", number, found)
        found[number] = (
            _NAMES[kind],
            width,
            height,
            file.array("<f8", MODELS[_NAMES[kind]]).tolist(),
        )
    file.end()
    return found


def _images(path: Path) -> dict[int, ImageLine]:
    file = _Bytes(path)
    found: dict[int, ImageLine] = {}
    for _ in range(file.count(_IMAGE.size + 9)):
        number, *pose, camera = file.take(_IMAGE)
        name = file.word()
        _once(path, "images", number, found)
        features = file.array(_FEATURE, file.count(_FEATURE.itemsize))
        found[number] = ImageLine(
            name, camera, tuple(pose), features["xy"].copy(), features["point"].copy()
        )
    file.end()
    return found


def _points(path: Path) -> PointTable:
    file = _Bytes(path)
    count = file.count(_POINT.size)
    rows = np.zeros(
        count,
        dtype=[
            ("number", "i8"),
            ("xyz", "f8", 3),
            ("rgb", "u1", 3),
            ("error", "f8"),
            ("length", "i8"),
        ],
    )
    tracks = []
    for k in range(count):
        number, x, y, z, red, green, blue, error, length = file.take(_POINT)
        if number >= 2**63:
            raise InputError(
                f"{path}: a point has the number {number}, which is none; the file is damaged"
            )
        rows[k] = (number, (x, y, z), (red, green, blue), error, min(length, 2**31))
        tracks.append(file.array("<u4", 2 * length))
    file.end()
    if len(np.unique(rows["number"])) < count:
        raise InputError(f"{path}: two points have one number; the file is damaged")
    pairs = (
        np.concatenate(tracks).reshape(-1, 2).astype(np.int64)
        if tracks
        else np.zeros((0, 2), np.int64)
    )
    return PointTable(
        rows["number"],
        rows["xyz"],
        rows["rgb"],
        rows["error"],
        rows["length"],
        pairs[:, 0],
        pairs[:, 1],
    )


def _once(path: Path, what: str, number: int, found: dict[int, Any]) -> None:
    if number in found:
        raise InputError(f"{path}: two {what} have the number {number}; the file is damaged")


def write(folder: Path, tables: Tables, overwrite: bool) -> None:
    """Write the tables into a folder."""
    cameras, images, points = io.BytesIO(), io.BytesIO(), io.BytesIO()
    cameras.write(_COUNT.pack(len(tables.cameras)))
    for number, (model, width, height, parameters) in tables.cameras.items():
        cameras.write(
            _CAMERA.pack(number, _NAMES.index(model), width, height)
            + np.array(parameters, "<f8").tobytes()
        )
    images.write(_COUNT.pack(len(tables.images)))
    for number, image in tables.images.items():
        features = np.zeros(len(image.xy), _FEATURE)
        features["xy"], features["point"] = image.xy, image.points
        images.write(
            _IMAGE.pack(number, *image.pose, image.camera) + image.name.encode("utf-8") + b"\0"
        )
        images.write(_COUNT.pack(len(features)) + features.tobytes())
    p = tables.points
    points.write(_COUNT.pack(len(p.numbers)))
    for number, xyz, rgb, error, track in zip(
        p.numbers.tolist(), p.xyz.tolist(), p.rgb.tolist(), p.errors.tolist(), p.tracks()
    ):
        points.write(
            _POINT.pack(number, *xyz, *rgb, error, len(track)) + track.astype("<u4").tobytes()
        )
    for name, stream in (("cameras", cameras), ("images", images), ("points3D", points)):
        write_bytes(folder / f"{name}.bin", stream.getvalue(), overwrite)
