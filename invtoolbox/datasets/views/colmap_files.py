"""Files of a sparse model of COLMAP, and its models of cameras.

A model has three tables: cameras, images and points3D. `Tables` holds them unchecked and with the
numbers of the files. The binary files are little-endian (``cameras.bin``, ``images.bin``,
``points3D.bin``); the text files are ``cameras.txt``, ``images.txt`` and ``points3D.txt``.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from invtoolbox.core.checks import require_file
from invtoolbox.core.trust import refuse_special
from invtoolbox.datasets.output import write_bytes
from invtoolbox.datasets.views.sparse_model import SparseCamera
from invtoolbox.errors import InputError
from invtoolbox.geometry.lens import Lens

#: Names of the models of cameras in the order of their numbers, and numbers of their parameters.
MODELS: dict[str, int] = {
    "SIMPLE_PINHOLE": 3,
    "PINHOLE": 4,
    "SIMPLE_RADIAL": 4,
    "RADIAL": 5,
    "OPENCV": 8,
    "OPENCV_FISHEYE": 8,
    "FULL_OPENCV": 12,
    "FOV": 5,
    "SIMPLE_RADIAL_FISHEYE": 4,
    "RADIAL_FISHEYE": 5,
    "THIN_PRISM_FISHEYE": 12,
    "RAD_TAN_THIN_PRISM_FISHEYE": 16,
}


#: Models with one focal length for columns and rows.
_ONE_FOCAL = (
    "SIMPLE_PINHOLE",
    "SIMPLE_RADIAL",
    "RADIAL",
    "SIMPLE_RADIAL_FISHEYE",
    "RADIAL_FISHEYE",
)
#: Models whose distortion is not known here.
_NO_LENS = ("FOV", "THIN_PRISM_FISHEYE", "RAD_TAN_THIN_PRISM_FISHEYE")

_FEATURE = np.dtype([("xy", "<f8", 2), ("point", "<i8")])
_POINT = struct.Struct("<Q3d3BdQ")
_NAMES = list(MODELS)
_COUNT, _CAMERA, _IMAGE = struct.Struct("<Q"), struct.Struct("<IiQQ"), struct.Struct("<I7dI")


def camera_of(
    what: str, model: str, width: int, height: int, parameters: Sequence[float]
) -> SparseCamera:
    """Build a camera from the fields of a line of ``cameras.txt``.

    Args:
        what: name of the file and of the camera, for error messages.
        model: name of the model.
        width: width of the pictures in pixels.
        height: height of the pictures in pixels.
        parameters: parameters of the model.

    >>> camera_of("camera 1", "SIMPLE_RADIAL", 640, 480, [500.0, 320.0, 240.0, 0.1]).lens
    Lens(kind='perspective', radial=(0.1,), tangential=(0.0, 0.0))
    """
    if model not in MODELS:
        raise InputError(
            f"{what} is of the model {model[:40]!r}; the models are {', '.join(MODELS)}"
        )
    p = [float(value) for value in parameters]
    if len(p) != MODELS[model]:
        raise InputError(
            f"{what} has {len(p)} parameters, and the model {model} has {MODELS[model]}; fetch or "
            "export it again"
        )
    focal = 1 if model in _ONE_FOCAL else 2
    fx, fy, (cx, cy), rest = p[0], p[focal - 1], p[focal : focal + 2], p[focal + 2 :]
    if (
        not all(map(math.isfinite, p))
        or not (fx > 0 and fy > 0)
        or not (0 < width < 2**24 and 0 < height < 2**24)
    ):
        raise InputError(
            f"{what} has {width} x {height} pixels and the focal lengths {fx:g} and {fy:g}, with "
            f"the parameters {p}; sizes and focal lengths must be above 0, and all must be finite"
        )
    K = torch.tensor([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return SparseCamera(K, (height, width), _lens(model, rest), model)


def parameters_of(camera: SparseCamera) -> tuple[str, list[float]]:
    """Return the simplest model that represents a camera, and its parameters.

    Raises:
        InputError: for intrinsics with a skew, which no model of COLMAP has, and for an unknown
            lens.
    """
    K, lens = camera.intrinsics, camera.lens
    if lens is None or float(K[0, 1]) != 0:
        raise InputError(
            "a camera with a skew or with an unknown lens has no model in COLMAP; undistort its "
            "pictures first"
        )
    pinhole = [float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])]
    radial = [*lens.radial, *[0.0] * (6 - len(lens.radial))]
    if lens.kind == "fisheye":
        return "OPENCV_FISHEYE", [*pinhole, *radial[:4]]
    if any(radial[2:]):
        return "FULL_OPENCV", [*pinhole, *radial[:2], *lens.tangential, *radial[2:]]
    if lens.distorts:
        return "OPENCV", [*pinhole, *radial[:2], *lens.tangential]
    return "PINHOLE", pinhole


@dataclass(frozen=True, eq=False)
class ImageLine:
    """One picture of a model.

    Attributes:
        name: name of the picture.
        camera: number of its camera.
        pose: pose qw qx qy qz tx ty tz, world to camera.
        xy: positions of the features, ``(F, 2)``.
        points: number of the point of each feature, ``(F,)``; -1 for none.
    """

    name: str
    camera: int
    pose: tuple[float, ...]
    xy: np.ndarray
    points: np.ndarray


@dataclass(frozen=True, eq=False)
class PointTable:
    """All points of a model, and their tracks one after another.

    Attributes:
        numbers: numbers of the points, ``(N,)``.
        xyz: positions, ``(N, 3)``.
        rgb: colors, uint8 ``(N, 3)``.
        errors: reprojection errors, ``(N,)``.
        lengths: lengths of the tracks, ``(N,)``.
        track_image, track_feature: image and feature of each entry of the tracks, ``(T,)``.
    """

    numbers: np.ndarray
    xyz: np.ndarray
    rgb: np.ndarray
    errors: np.ndarray
    lengths: np.ndarray
    track_image: np.ndarray
    track_feature: np.ndarray

    def tracks(self) -> list[np.ndarray]:
        """Return the pairs of image and feature of each point, ``(length, 2)``."""
        pairs = np.stack([self.track_image, self.track_feature], 1)
        return np.split(pairs, np.cumsum(self.lengths)[:-1]) if len(self.lengths) else []


@dataclass(frozen=True, eq=False)
class Tables:
    """The three tables; ``cameras[number]`` has the model, width, height and parameters."""

    cameras: dict[int, tuple[str, int, int, list[float]]]
    images: dict[int, ImageLine]
    points: PointTable


def read_binary(folder: Path) -> Tables:
    """Read the tables of a folder of binary files."""
    return Tables(
        _read_cameras(folder / "cameras.bin"),
        _read_images(folder / "images.bin"),
        _read_points(folder / "points3D.bin"),
    )


def write_binary(folder: Path, tables: Tables, overwrite: bool) -> None:
    """Write the tables into a folder as binary files."""
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


def read_text(folder: Path) -> Tables:
    """Read the tables of a folder of text files."""
    return Tables(
        _parse_cameras(folder / "cameras.txt"),
        _parse_images(folder / "images.txt"),
        _parse_points(folder / "points3D.txt"),
    )


def write_text(folder: Path, tables: Tables, overwrite: bool) -> None:
    """Write the tables into a folder as text; numbers have 17 digits, so that they are exact."""
    cameras = [
        "# CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]",
        f"# Number of cameras: {len(tables.cameras)}",
    ]
    cameras += [
        f"{number} {model} {width} {height} {_row(rest)}"
        for number, (model, width, height, rest) in tables.cameras.items()
    ]
    images = [
        "# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME",
        "# X Y POINT3D_ID of every feature",
        f"# Number of images: {len(tables.images)}",
    ]
    for number, image in tables.images.items():
        images.append(f"{number} {_row(image.pose)} {image.camera} {image.name}")
        images.append(
            " ".join(
                f"{x:.17g} {y:.17g} {point}"
                for (x, y), point in zip(image.xy.tolist(), image.points.tolist())
            )
        )
    p = tables.points
    points = [
        "# POINT3D_ID X Y Z R G B ERROR and IMAGE_ID POINT2D_IDX of its track",
        f"# Number of points: {len(p.numbers)}",
    ]
    for number, xyz, rgb, error, track in zip(
        p.numbers.tolist(), p.xyz.tolist(), p.rgb.tolist(), p.errors.tolist(), p.tracks()
    ):
        points.append(
            f"{number} {_row(xyz)} {rgb[0]} {rgb[1]} {rgb[2]} {error:.17g} "
            + " ".join(map(str, track.flatten().tolist()))
        )
    for name, lines in (("cameras", cameras), ("images", images), ("points3D", points)):
        write_bytes(folder / f"{name}.txt", ("\n".join(lines) + "\n").encode(), overwrite)


def _lens(model: str, rest: Sequence[float]) -> Lens | None:
    if model in _NO_LENS:
        return None
    if model.endswith("FISHEYE"):
        return Lens("fisheye", tuple(rest))
    if model in ("OPENCV", "FULL_OPENCV"):
        k1, k2, p1, p2, *higher = rest
        return Lens(radial=(k1, k2, *higher), tangential=(p1, p2))
    return Lens(radial=tuple(rest))


class _Bytes:
    """Bytes of a file of records; reading beyond the end is an error with the position."""

    def __init__(self, path: Path) -> None:
        self.path, self.data, self.place = require_file(path), path.read_bytes(), 0

    def take(self, layout: struct.Struct) -> tuple[Any, ...]:
        return layout.unpack_from(self.data, self._advance(layout.size))

    def array(self, dtype: Any, count: int) -> np.ndarray:
        start = self._advance(count * np.dtype(dtype).itemsize)
        return np.frombuffer(self.data, dtype, count, start)

    def word(self) -> str:
        end = self.data.find(b"\0", self.place)
        if end < 0:
            raise InputError(
                f"{self.path}: truncated, a name at byte {self.place:,} has no end; fetch or "
                "export it again"
            )
        word, self.place = self.data[self.place : end], end + 1
        try:
            return word.decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(
                f"{self.path}: the name at byte {end - len(word):,} is not text; the file is "
                "damaged"
            ) from None

    def count(self, least: int) -> int:
        """Read a number of records of at least `least` bytes, which must fit the file."""
        (count,) = self.take(_COUNT)
        if count * least > len(self.data) - self.place:
            raise InputError(
                f"{self.path}: truncated or damaged, {count:,} records are declared at byte "
                f"{self.place - 8:,}, but {len(self.data) - self.place:,} bytes are left; fetch or "
                "export it again"
            )
        return int(count)

    def end(self) -> None:
        if self.place != len(self.data):
            raise InputError(
                f"{self.path}: {len(self.data) - self.place:,} bytes follow the last record; a "
                "count is wrong, or this is another file"
            )

    def _advance(self, size: int) -> int:
        """Move beyond `size` bytes and return the position of the first of them."""
        if self.place + size > len(self.data):
            raise InputError(
                f"{self.path}: truncated, it has {len(self.data):,} bytes and needs at least "
                f"{self.place + size:,}; fetch or export it again"
            )
        self.place += size
        return self.place - size


def _read_cameras(path: Path) -> dict[int, tuple[str, int, int, list[float]]]:
    file = _Bytes(path)
    cameras: dict[int, tuple[str, int, int, list[float]]] = {}
    for _ in range(file.count(_CAMERA.size)):
        number, kind, width, height = file.take(_CAMERA)
        if not 0 <= kind < len(_NAMES):
            raise InputError(
                f"{path}: camera {number} is of model {kind}; the models are 0 to "
                f"{len(_NAMES) - 1} ({', '.join(_NAMES)})"
            )
        _check_new(path, "cameras", number, cameras)
        parameters = file.array("<f8", MODELS[_NAMES[kind]]).tolist()
        cameras[number] = (_NAMES[kind], width, height, parameters)
    file.end()
    return cameras


def _read_images(path: Path) -> dict[int, ImageLine]:
    file = _Bytes(path)
    images: dict[int, ImageLine] = {}
    for _ in range(file.count(_IMAGE.size + 9)):
        number, *pose, camera = file.take(_IMAGE)
        name = file.word()
        _check_new(path, "images", number, images)
        features = file.array(_FEATURE, file.count(_FEATURE.itemsize))
        images[number] = ImageLine(
            name, camera, tuple(pose), features["xy"].copy(), features["point"].copy()
        )
    file.end()
    return images


def _read_points(path: Path) -> PointTable:
    file = _Bytes(path)
    count = file.count(_POINT.size)
    fields = [
        ("number", "i8"),
        ("xyz", "f8", 3),
        ("rgb", "u1", 3),
        ("error", "f8"),
        ("length", "i8"),
    ]
    rows = np.zeros(count, dtype=fields)
    tracks = []
    for k in range(count):
        number, x, y, z, red, green, blue, error, length = file.take(_POINT)
        if number >= 2**63:
            raise InputError(
                f"{path}: a point has the number {number}, which is too large; the file is damaged"
            )
        rows[k] = (number, (x, y, z), (red, green, blue), error, min(length, 2**31))
        tracks.append(file.array("<u4", 2 * length))
    file.end()
    if len(np.unique(rows["number"])) < count:
        raise InputError(f"{path}: two points have the same number; the file is damaged")
    pairs = np.concatenate([*tracks, np.zeros(0, "<u4")]).reshape(-1, 2).astype(np.int64)
    columns = (rows[name] for name, *_ in fields)
    return PointTable(*columns, *pairs.T)


def _check_new(path: Path, kind: str, number: int, records: dict[int, Any]) -> None:
    if number in records:
        raise InputError(f"{path}: two {kind} have the number {number}; the file is damaged")


def _split_lines(path: Path, keep_empty: bool = False) -> list[tuple[int, list[str]]]:
    """Return the words of each line with its number, without comments."""
    refuse_special(path)
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise InputError(
            f"{path}: the file cannot be read ({error.strerror}); a sparse model has cameras, "
            "images and points3D"
        ) from None
    except UnicodeDecodeError:
        raise InputError(
            f"{path}: not a text file; the file is damaged, or a binary file with a wrong name"
        ) from None
    lines = [
        (number, line.split())
        for number, line in enumerate(text.split("\n"), 1)
        if not line.lstrip().startswith("#")
    ]
    return lines if keep_empty else [(number, words) for number, words in lines if words]


def _parse(
    path: Path, line: tuple[int, list[str]], expected: str, parse: Callable[[list[str]], Any]
) -> Any:
    number, words = line
    try:
        return parse(words)
    except (ValueError, IndexError, OverflowError):
        raise InputError(f"{path}: line {number} cannot be read; expected {expected}") from None


def _parse_cameras(path: Path) -> dict[int, tuple[str, int, int, list[float]]]:
    cameras: dict[int, tuple[str, int, int, list[float]]] = {}
    for line in _split_lines(path):
        key, camera = _parse(
            path,
            line,
            "CAMERA_ID MODEL WIDTH HEIGHT PARAMS",
            lambda w: (int(w[0]), (w[1], int(w[2]), int(w[3]), [float(word) for word in w[4:]])),
        )
        _check_new(path, "cameras", key, cameras)
        cameras[key] = camera
    return cameras


def _parse_images(path: Path) -> dict[int, ImageLine]:
    images: dict[int, ImageLine] = {}
    lines = _split_lines(path, keep_empty=True)
    k = 0
    while k < len(lines):
        line = lines[k]
        k += 1
        if not line[1]:  # an empty line may separate images, but not an image and its features
            continue
        if k >= len(lines):
            raise InputError(
                f"{path}: truncated, the line of features after line {line[0]} is missing; fetch "
                "or export it again"
            )
        key, pose, camera, name = _parse(
            path,
            line,
            "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME",
            lambda w: (
                int(w[0]),
                tuple(float(v) for v in w[1:8]),
                int(w[8]),
                " ".join([w[9], *w[10:]]),
            ),
        )
        features = _parse(
            path,
            lines[k],
            "X Y POINT3D_ID for every feature",
            lambda w: np.array(w, dtype=np.float64).reshape(-1, 3),
        )
        k += 1
        _check_new(path, "images", key, images)
        if not (np.isfinite(features[:, 2]) & (np.abs(features[:, 2]) < 2**53)).all():
            raise InputError(
                f"{path}: line {lines[k - 1][0]} holds a number of a point that is not finite or "
                "too large; the file is damaged"
            )
        images[key] = ImageLine(
            name, camera, pose, features[:, :2].copy(), features[:, 2].astype(np.int64)
        )
    return images


def _parse_points(path: Path) -> PointTable:
    numbers, values, tracks = [], [], []
    for line in _split_lines(path):
        key, row, track = _parse(
            path,
            line,
            "POINT3D_ID X Y Z R G B ERROR and pairs IMAGE_ID POINT2D_IDX",
            lambda w: (
                int(np.int64(w[0])),
                np.array(w[1:8], dtype=np.float64),
                np.array(w[8:], dtype=np.int64).reshape(-1, 2),
            ),
        )
        if len(row) != 7 or not ((row[3:6] >= 0) & (row[3:6] <= 255)).all():
            raise InputError(
                f"{path}: line {line[0]} does not hold a point with 3 coordinates, 3 colors from 0 "
                "to 255 and an error; the file is damaged"
            )
        numbers.append(key)
        values.append(row)
        tracks.append(track)
    if len(set(numbers)) < len(numbers):
        raise InputError(f"{path}: two points have the same number; the file is damaged")
    table = np.array(values, dtype=np.float64).reshape(-1, 7)
    pairs = np.concatenate([*tracks, np.zeros((0, 2), np.int64)])
    return PointTable(
        np.array(numbers, dtype=np.int64),
        xyz=table[:, :3],
        rgb=table[:, 3:6].astype(np.uint8),
        errors=table[:, 6],
        lengths=np.array([len(track) for track in tracks], dtype=np.int64),
        track_image=pairs[:, 0],
        track_feature=pairs[:, 1],
    )


def _row(values: Any) -> str:
    return " ".join(f"{value:.17g}" for value in values)
