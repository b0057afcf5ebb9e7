"""COLMAP's files of text: ``cameras.txt``, ``images.txt``, ``points3D.txt``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from invtoolbox.datasets.colmap_tables import ImageLine, PointTable, Tables
from invtoolbox.datasets.output import write_bytes
from invtoolbox.errors import InputError


def read(folder: Path) -> Tables:
    """The tables of a folder."""
    return Tables(
        _cameras(folder / "cameras.txt"),
        _images(folder / "images.txt"),
        _points(folder / "points3D.txt"),
    )


def _lines(path: Path, keep_empty: bool = False) -> list[tuple[int, list[str]]]:
    """The words of each line with its number, without comments."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise InputError(
            f"{path}: the file cannot be read ({error.strerror}); a sparse model has cameras, images and points3D"
        ) from None
    except UnicodeDecodeError:
        raise InputError(
            f"{path}: not a text file; the file is damaged, or it is a binary one with another name"
        ) from None
    lines = [
        (number, line.split())
        for number, line in enumerate(text.split("\n"), 1)
        if not line.lstrip().startswith("#")
    ]
    return lines if keep_empty else [(number, words) for number, words in lines if words]


def _parsed(
    path: Path, line: tuple[int, list[str]], expected: str, parse: Callable[[list[str]], Any]
) -> Any:
    number, words = line
    try:
        return parse(words)
    except (ValueError, IndexError, OverflowError):
        raise InputError(f"{path}: line {number} cannot be read; expected {expected}") from None


def _cameras(path: Path) -> dict[int, tuple[str, int, int, list[float]]]:
    found: dict[int, tuple[str, int, int, list[float]]] = {}
    for line in _lines(path):
        key, camera = _parsed(
            path,
            line,
            "CAMERA_ID MODEL WIDTH HEIGHT PARAMS",
            lambda w: (int(w[0]), (w[1], int(w[2]), int(w[3]), [float(word) for word in w[4:]])),
        )
        if key in found:
            raise InputError(f"{path}: two cameras have the number {key}; the file is damaged")
        found[key] = camera
    return found


def _images(path: Path) -> dict[int, ImageLine]:
    found: dict[int, ImageLine] = {}
    lines = _lines(path, keep_empty=True)
    k = 0
    while k < len(lines):
        line = lines[k]
        k += 1
        if not line[1]:  # empty lines lie between images, but not between an image and its features
            continue
        if k >= len(lines):
            raise InputError(
                f"{path}: truncated, the line of features behind line {line[0]} is missing; fetch or export it again"
            )
        key, pose, camera, name = _parsed(
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
        features = _parsed(
            path,
            lines[k],
            "X Y POINT3D_ID for every feature",
            lambda w: np.array(w, dtype=np.float64).reshape(-1, 3),
        )
        k += 1
        if key in found:
            raise InputError(f"{path}: two images have the number {key}; the file is damaged")
        if not (np.isfinite(features[:, 2]) & (np.abs(features[:, 2]) < 2**53)).all():
            raise InputError(
                f"{path}: line {lines[k - 1][0]} holds a number of a point that is none; the file is damaged"
            )
        found[key] = ImageLine(
            name, camera, pose, features[:, :2].copy(), features[:, 2].astype(np.int64)
        )
    return found


def _points(path: Path) -> PointTable:
    numbers, values, tracks = [], [], []
    for line in _lines(path):
        key, row, track = _parsed(
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
                f"{path}: line {line[0]} holds a point without 3 coordinates, 3 colours from 0 to 255 and an error"
            )
        numbers.append(key)
        values.append(row)
        tracks.append(track)
    if len(set(numbers)) < len(numbers):
        raise InputError(f"{path}: two points have one number; the file is damaged")
    table = np.array(values, dtype=np.float64).reshape(-1, 7)
    pairs = np.concatenate(tracks) if tracks else np.zeros((0, 2), np.int64)
    return PointTable(
        np.array(numbers, dtype=np.int64),
        table[:, :3],
        table[:, 3:6].astype(np.uint8),
        table[:, 6],
        np.array([len(track) for track in tracks], dtype=np.int64),
        pairs[:, 0],
        pairs[:, 1],
    )


def write(folder: Path, tables: Tables, overwrite: bool) -> None:
    """Write the tables into a folder; numbers have 17 digits, so that what is read is what was written."""
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


def _row(values: Any) -> str:
    return " ".join(f"{value:.17g}" for value in values)
