"""Pixels of tensors: planes of volumes, windows of values, scales of colors, and PNG in a page."""

from __future__ import annotations

import base64
import io
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

#: Largest side of a picture in a page, pixels; larger pictures are averaged over blocks.
LARGEST_SIDE = 1024


#: Equally spaced colors of the scales of `to_bytes`, `diverging` and `heat`.
STOPS = {
    "grey": np.array([[0.0, 0, 0], [255, 255, 255]]),
    "diverging": np.array([[33.0, 102, 172], [247, 247, 247], [178, 24, 43]]),
    "heat": np.array(
        [
            [0.0, 0, 4],
            [66, 10, 104],
            [147, 38, 103],
            [221, 81, 58],
            [252, 165, 10],
            [252, 255, 164],
        ]
    ),
}


class Window(NamedTuple):
    """Values shown as black and as white."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:.3g} to {self.high:.3g}"


def plane(item: Any) -> np.ndarray | None:
    """Convert one item ``(channel, *space)`` to a picture of float64.

    The picture is ``(rows, columns)`` or ``(rows, columns, 3)``. Complex values are shown by their
    magnitude, volumes by their middle slice. One or three channels are a picture; of any other
    number of channels the first one is shown.

    Args:
        item: one item of a batch.

    Returns:
        The picture; None if the item is no tensor with at least two axes of space.

    >>> import torch
    >>> plane(torch.zeros(3, 4, 5)).shape, plane(torch.zeros(1, 4, 5)).shape, plane(torch.zeros(1, 4))
    ((4, 5, 3), (4, 5), None)
    """
    if not isinstance(item, Tensor) or item.ndim < 3:
        return None
    array = item.detach().cpu().resolve_conj().numpy()
    array = np.abs(array) if np.iscomplexobj(array) else array
    array = array.astype(np.float64)
    while array.ndim > 3:  # (channel, slice, row, column)
        array = array[:, array.shape[1] // 2]
    return np.moveaxis(array, 0, -1) if array.shape[0] == 3 else array[0]


def window_of(*pictures: np.ndarray | None) -> Window:
    """Return a window that covers all pictures.

    Half a percent of outliers at either end is left out. Pictures whose values lie between 0 and 1
    and cover most of that range keep it.
    """
    finite = [p[np.isfinite(p)].ravel() for p in pictures if p is not None]
    pixels = np.concatenate(finite) if finite else np.zeros(0)
    if not pixels.size:
        return Window(0.0, 1.0)
    low, high = (float(v) for v in np.percentile(pixels, (0.5, 99.5)))
    if -0.05 <= low <= 0.3 and 0.7 <= high <= 1.05:
        return Window(0.0, 1.0)
    if not high > low:
        low, high = float(np.min(pixels)), float(np.max(pixels))
    return Window(low, high) if high > low else Window(low, low + 1.0)


def symmetric_window(picture: np.ndarray | None) -> Window:
    """Return a window with 0 in its middle, for residuals and errors."""
    if picture is None:
        return Window(-1.0, 1.0)
    sizes = np.abs(picture[np.isfinite(picture)])
    largest = float(np.percentile(sizes, 99.5)) if sizes.size else 0.0
    return Window(-largest, largest) if largest > 0 else Window(-1.0, 1.0)


def to_bytes(picture: np.ndarray, window: Window) -> np.ndarray:
    """Convert a picture to uint8, grey or color; values that are not finite are black."""
    scaled = (picture - window.low) / (window.high - window.low)
    return (np.clip(np.nan_to_num(scaled, nan=0.0), 0.0, 1.0) * 255).round().astype(np.uint8)


def diverging(picture: np.ndarray, window: Window) -> np.ndarray:
    """Convert signed values to uint8 colors: blue below 0, white at 0, red above."""
    grey = picture.mean(-1) if picture.ndim == 3 else picture
    t = np.clip(np.nan_to_num(grey / window.high, nan=0.0), -1.0, 1.0)[..., None]
    t = (t * 127).round() / 127  # 255 colors, which fit into a palette
    blue, white, red = STOPS["diverging"]
    colors = np.where(t > 0, white + t * (red - white), white - t * (blue - white))
    return colors.round().astype(np.uint8)


def heat(picture: np.ndarray, window: Window) -> np.ndarray:
    """Convert magnitudes to uint8 colors, from black over red to white.

    The brightness rises evenly.
    """
    grey = picture.mean(-1) if picture.ndim == 3 else picture
    t = np.clip(np.nan_to_num((grey - window.low) / (window.high - window.low), nan=0.0), 0.0, 1.0)
    t = (t * 255).round() / 255
    stops = STOPS["heat"]
    places = np.linspace(0, 1, len(stops))
    return (
        np.stack([np.interp(t, places, stops[:, c]) for c in range(3)], -1).round().astype(np.uint8)
    )


def data_uri(pixels: np.ndarray, largest_side: int = LARGEST_SIDE) -> str:
    """Encode uint8 pixels as a PNG in a data URI, with a palette if there are at most 256 colors."""
    from PIL import Image

    pixels = shrink(pixels, largest_side)
    image = Image.fromarray(pixels)
    if pixels.ndim == 3:
        red, green, blue = np.moveaxis(pixels[..., :3].astype(np.int32), -1, 0)
        colors, places = np.unique((red << 16) | (green << 8) | blue, return_inverse=True)
        if len(colors) <= 256:
            image = Image.fromarray(places.reshape(red.shape).astype(np.uint8))
            image.putpalette(
                np.stack([colors >> 16, colors >> 8, colors], 1).astype(np.uint8).tobytes()
            )
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def shrink(pixels: np.ndarray, largest_side: int) -> np.ndarray:
    """Reduce uint8 pixels by the means of square blocks until no side is longer than a bound.

    Args:
        pixels: grey or color pixels, ``(rows, columns)`` or ``(rows, columns, 3)``.
        largest_side: largest number of rows and of columns.

    >>> shrink(np.full((6, 4), 7, np.uint8), 3).shape
    (3, 2)
    """
    factor = -(-max(pixels.shape[:2]) // largest_side)
    if factor == 1:
        return pixels
    rows, columns = (n // factor * factor for n in pixels.shape[:2])
    if not rows or not columns:  # a strip thinner than the factor
        return pixels
    blocks = pixels[:rows, :columns].reshape(
        rows // factor, factor, columns // factor, factor, *pixels.shape[2:]
    )
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)
