"""Truths of the zoo: ellipses and bells with exact line integrals, and pictures on any grid."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

KINDS = ("constant", "smooth", "textured", "natural")
#: Pictures that come with scikit-image. Items of even and of odd index take crops of others.
NATURAL = (
    "astronaut.png",
    "brick.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "moon.png",
    "page.png",
    "motorcycle_left.png",
    "cell.png",
    "text.png",
)


def picture(
    draw: np.random.Generator, kind: str, shape: tuple[int, int], half: int, channels: int = 1
) -> Array:
    """Return a picture ``(channels, rows, columns)`` whose values span [0, 1].

    Args:
        draw: random numbers.
        kind: one of `KINDS`.
        shape: rows and columns.
        half: 0 for items of even index, 1 for the others.
        channels: number of channels, 1 or 3.
    """
    if kind == "natural":
        planes = _crop(draw, shape, half, channels)
    else:
        make = {"constant": _constant, "smooth": _smooth, "textured": _textured}[kind]
        base = make(draw, shape)
        planes = np.stack(
            [base, *(0.7 * base + 0.3 * make(draw, shape) for _ in range(channels - 1))]
        )
    low, high = planes.min(), planes.max()
    return (planes - low) / max(high - low, 1e-12)


def block_means(planes: Array, factor: int) -> Array:
    """Return the means of blocks of pixels over the last two axes."""
    *front, rows, columns = planes.shape
    blocks = planes.reshape(*front, rows // factor, factor, columns // factor, factor)
    return blocks.mean((-3, -1))


def _constant(draw: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Return ellipses and polygons of constant values."""
    n = 4
    v, u = _grid((n * shape[0], n * shape[1]))
    values = np.full(u.shape, draw.uniform())
    for _ in range(draw.integers(3, 10)):
        (x, y), angle = draw.uniform(-0.9, 0.9, 2), draw.uniform(0, math.pi)
        a, b = draw.uniform(0.08, 0.6, 2)
        p = (np.cos(angle) * (u - x) + np.sin(angle) * (v - y)) / a
        q = (np.cos(angle) * (v - y) - np.sin(angle) * (u - x)) / b
        inside = p**2 + q**2 < 1 if draw.uniform() < 0.6 else np.maximum(abs(p), abs(q)) < 1
        values = np.where(inside, draw.uniform(), values)
    return block_means(values, n)


def _smooth(draw: np.random.Generator, shape: tuple[int, int]) -> Array:
    v, u = _grid(shape)
    values = draw.uniform(-0.5, 0.5) * u + draw.uniform(-0.5, 0.5) * v
    for _ in range(draw.integers(2, 7)):
        (x, y), width = draw.uniform(-1, 1, 2), draw.uniform(0.15, 0.7)
        values += draw.uniform(-1, 1) * np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * width**2))
    return values


def _textured(draw: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Return gratings with a window each, or noise whose spectrum falls with the frequency."""
    if draw.uniform() < 0.5:
        v, u = _grid(shape)
        values = np.zeros(shape)
        for _ in range(draw.integers(1, 4)):
            angle, waves = draw.uniform(0, math.pi), draw.uniform(3, min(shape) / 5)
            phase, centre = draw.uniform(0, 2 * math.pi), draw.uniform(-1, 1, 2)
            window = np.exp(-((u - centre[0]) ** 2 + (v - centre[1]) ** 2) / 0.8)
            along = np.cos(angle) * u + np.sin(angle) * v
            values += window * np.cos(math.pi * waves * along + phase)
        return values
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None])
    spectrum = np.fft.fft2(draw.standard_normal(shape))
    power = draw.uniform(1.0, 2.0)
    shaped = spectrum / np.maximum(frequency, 1 / max(shape)) ** power
    return np.clip(np.real(np.fft.ifft2(shaped)), -1e9, 1e9)


def _crop(draw: np.random.Generator, shape: tuple[int, int], half: int, channels: int) -> Array:
    names = NATURAL[half::2]
    entire = _read(names[draw.integers(len(names))])
    missing = [(0, max(0, n - m)) for n, m in zip(shape, entire.shape)]
    entire = np.pad(entire, [*missing, (0, 0)], mode="symmetric")
    most = min(4, entire.shape[0] // shape[0], entire.shape[1] // shape[1])
    factor = int(draw.integers(1, most + 1))
    for _ in range(20):  # until the crop shows something
        corner = [
            int(draw.integers(0, n - factor * side + 1)) for n, side in zip(entire.shape, shape)
        ]
        rows, columns = (slice(c, c + factor * side) for c, side in zip(corner, shape))
        planes = block_means(np.moveaxis(entire[rows, columns], -1, 0), factor)
        if planes.std() > 0.03:
            break
    return planes if channels == 3 else planes.mean(0, keepdims=True)


@functools.cache
def _read(name: str) -> Array:
    import skimage.data
    from skimage.io import imread

    entire = imread(Path(skimage.data.__file__).parent / name)
    entire = entire[..., None].repeat(3, -1) if entire.ndim == 2 else entire[..., :3]
    return entire.astype(np.float64) / 255


def _grid(shape: tuple[int, int]) -> tuple[Array, Array]:
    """Return the coordinates of pixels down and across, in [-1, 1] along the shorter side."""
    side = min(shape)
    v, u = (2 * (np.arange(n) + 0.5 - n / 2) / side for n in shape)
    return np.meshgrid(v, u, indexing="ij")  # type: ignore[return-value]


@dataclass(frozen=True)
class Blob:
    """An ellipse or ellipsoid of constant value, or a bell with the same level sets.

    Attributes:
        value: value inside, or in the middle.
        centre: its centre, lengths ``(d,)`` along x, y (and z).
        axes: half axes, or standard deviations, ``(d,)``.
        turn: orthogonal matrix whose columns are the directions of the axes, ``(d, d)``.
        is_bell: whether it is a bell, ``value * exp(-|q|^2 / 2)``.
    """

    value: float
    centre: Array
    axes: Array
    turn: Array
    is_bell: bool = False

    def at(self, points: Array) -> Array:
        """Return the values at points ``(..., d)``."""
        square = (((points - self.centre) @ self.turn / self.axes) ** 2).sum(-1)
        return self.value * (np.exp(-square / 2) if self.is_bell else (square <= 1).astype(float))

    def line_integrals(self, points: Array, directions: Array) -> Array:
        """Return the integrals along lines through points, with unit directions, ``(..., d)``."""
        # In the coordinates q of the blob a line is q + t e: |q + t e|^2 is a parabola in t.
        q = (points - self.centre) @ self.turn / self.axes
        e = directions @ self.turn / self.axes
        square, slope = (e**2).sum(-1), (q * e).sum(-1)
        least = (q**2).sum(-1) - slope**2 / square
        if self.is_bell:
            return self.value * np.exp(-least / 2) * np.sqrt(2 * math.pi / square)
        return self.value * 2 * np.sqrt(np.maximum(0.0, 1 - least) / square)


def body(
    draw: np.random.Generator, reach: Array, least: float, is_smooth: bool = False
) -> list[Blob]:
    """Return a random body of blobs inside of an ellipse around the origin.

    Args:
        draw: random numbers.
        reach: half axes of the ellipse, lengths ``(d,)``.
        least: least half axis of an ellipse, or standard deviation of a bell, a length.
        is_smooth: bells instead of ellipses.
    """
    d = len(reach)
    if is_smooth:
        blobs = []
        for _ in range(draw.integers(2, 7)):
            place = _in_ball(draw, d) * 0.6 * reach
            widths = np.maximum(least, draw.uniform(0.06, 0.16, d) * reach.min())
            blobs.append(Blob(draw.uniform(0.3, 1), place, widths, random_rotation(draw, d), True))
        return blobs
    outer = draw.uniform(0.75, 0.98, d) * reach
    blobs = [Blob(1.0, np.zeros(d), outer, np.eye(d))]
    for _ in range(draw.integers(2, 8)):
        axes = np.maximum(least, draw.uniform(0.06, 0.32, d) * outer.min())
        place = _in_ball(draw, d) * np.maximum(0, outer - axes.max()) * 0.95
        blobs.append(Blob(draw.uniform(-0.4, 0.6), place, axes, random_rotation(draw, d)))
    return blobs


def _in_ball(draw: np.random.Generator, d: int) -> Array:
    direction = draw.standard_normal(d)
    return direction / np.linalg.norm(direction) * draw.uniform() ** (1 / d)


def random_rotation(draw: np.random.Generator, d: int) -> Array:
    return np.linalg.qr(draw.standard_normal((d, d)))[0]


def area_means(blobs: list[Blob], shape: tuple[int, ...], size: Array, ups: bool, n: int) -> Array:
    """Return the means of blobs over the cells of a grid around the origin.

    Args:
        blobs: the blobs.
        shape: shape (rows, columns), or (slices, rows, columns).
        size: lengths of a cell along the axes of the shape.
        ups: whether y grows against the rows, as in scans of pictures; otherwise along them.
        n: number of points per axis of a cell.
    """
    axes = [((np.arange(m * n) + 0.5) / n - m / 2) * h for m, h in zip(shape, size)]
    if ups:
        axes[-2] = -axes[-2]
    grids = np.meshgrid(*axes, indexing="ij")
    points = np.stack(grids[::-1], -1)  # x along the last axis
    total = np.asarray(sum(blob.at(points) for blob in blobs))
    split = total.reshape([k for m in shape for k in (m, n)])
    return split.mean(tuple(range(1, 2 * len(shape), 2)))
