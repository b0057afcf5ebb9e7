"""The three tables of a sparse model of COLMAP, as its files hold them: numbers are those of the files, and nothing has been checked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class ImageLine:
    """One picture: ``pose`` is qw qx qy qz tx ty tz, world to camera; ``xy (F, 2)`` its features, ``points (F,)`` theirs, -1 for none."""

    name: str
    camera: int
    pose: tuple[float, ...]
    xy: np.ndarray
    points: np.ndarray


@dataclass(frozen=True, eq=False)
class PointTable:
    """All points: ``numbers (N,)``, ``xyz (N, 3)``, ``rgb (N, 3)`` uint8, ``errors (N,)``; and their tracks one after another,
    ``track_image`` and ``track_feature (T,)``, of ``lengths (N,)``."""

    numbers: np.ndarray
    xyz: np.ndarray
    rgb: np.ndarray
    errors: np.ndarray
    lengths: np.ndarray
    track_image: np.ndarray
    track_feature: np.ndarray

    def tracks(self) -> list[np.ndarray]:
        """Pairs of image and feature of each point, ``(length, 2)``."""
        pairs = np.stack([self.track_image, self.track_feature], 1)
        return np.split(pairs, np.cumsum(self.lengths)[:-1]) if len(self.lengths) else []


@dataclass(frozen=True, eq=False)
class Tables:
    """``cameras[number]`` is model, width, height and parameters."""

    cameras: dict[int, tuple[str, int, int, list[float]]]
    images: dict[int, ImageLine]
    points: PointTable
