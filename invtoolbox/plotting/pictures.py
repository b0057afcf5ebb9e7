"""Tensors as pictures: one item in grey or colour, a window of values, PNG inside a page."""

from __future__ import annotations

import base64
import io
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

#: Larger pictures are averaged down before they go into a page.
LARGEST_SIDE = 1024


class Window(NamedTuple):
    """The values shown as black and as white."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:.3g} to {self.high:.3g}"


def plane(item: Any) -> np.ndarray | None:
    """One item ``(channel, *space)`` as ``(rows, columns)`` or ``(rows, columns, 3)`` of float64.

    Complex values are shown by their magnitude, volumes by their middle slice; one or three channels are a picture,
    of any other number the first is shown. None where there is nothing to show as a picture.

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
    """A window that all of some pictures fit into, but for half a percent of outliers at either end.

    Pictures whose values lie between 0 and 1 and use most of it keep that range.
    """
    shown = [p[np.isfinite(p)] for p in pictures if p is not None]
    values = np.concatenate([v.ravel() for v in shown]) if shown else np.zeros(0)
    if not values.size:
        return Window(0.0, 1.0)
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    if -0.05 <= low <= 0.3 and 0.7 <= high <= 1.05:
        return Window(0.0, 1.0)
    if not high > low:
        low, high = float(np.min(values)), float(np.max(values))
    return Window(low, high) if high > low else Window(low, low + 1.0)


def symmetric_window(picture: np.ndarray | None) -> Window:
    """A window about 0, for residuals and errors."""
    if picture is None:
        return Window(-1.0, 1.0)
    values = np.abs(picture[np.isfinite(picture)])
    largest = float(np.percentile(values, 99.5)) if values.size else 0.0
    return Window(-largest, largest) if largest > 0 else Window(-1.0, 1.0)


def to_bytes(picture: np.ndarray, window: Window) -> np.ndarray:
    """The picture as uint8, grey or colour; what is not finite is black."""
    scaled = (picture - window.low) / (window.high - window.low)
    return (np.clip(np.nan_to_num(scaled, nan=0.0), 0.0, 1.0) * 255).round().astype(np.uint8)


def diverging(picture: np.ndarray, window: Window) -> np.ndarray:
    """A picture of signed values as uint8 colours: blue below 0, white at 0, red above."""
    grey = picture.mean(-1) if picture.ndim == 3 else picture
    t = np.clip(np.nan_to_num(grey / window.high, nan=0.0), -1.0, 1.0)[..., None]
    red, blue, white = (
        np.array([178.0, 24.0, 43.0]),
        np.array([33.0, 102.0, 172.0]),
        np.array([247.0, 247.0, 247.0]),
    )
    colours = np.where(t > 0, white + t * (red - white), white - t * (blue - white))
    return colours.round().astype(np.uint8)


def heat(picture: np.ndarray, window: Window) -> np.ndarray:
    """A picture of magnitudes as uint8 colours: from black over red to white, evenly brighter."""
    grey = picture.mean(-1) if picture.ndim == 3 else picture
    t = np.clip(np.nan_to_num((grey - window.low) / (window.high - window.low), nan=0.0), 0.0, 1.0)
    places = np.linspace(0, 1, 6)
    stops = np.array(
        [[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]],
        dtype=np.float64,
    )
    return (
        np.stack([np.interp(t, places, stops[:, c]) for c in range(3)], -1).round().astype(np.uint8)
    )


def data_uri(pixels: np.ndarray, largest_side: int = LARGEST_SIDE) -> str:
    """uint8 pixels as a PNG that lies inside the page itself."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(_averaged(pixels, largest_side)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _averaged(pixels: np.ndarray, largest_side: int) -> np.ndarray:
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
