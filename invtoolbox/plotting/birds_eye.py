"""A sweep from above: static points in grey, moving points in a color of direction and speed."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.geometry.sweeps import MOVES
from invtoolbox.plotting.canvas import new_figure

#: Lightness and largest chroma in Oklab that a screen can show at every hue.
_LIGHTNESS, _CHROMA = 0.76, 0.125


def flow_colors(flow: np.ndarray, full_speed: float) -> np.ndarray:
    """Return the color of each vector, ``(..., 2 or 3) -> (..., 3)``.

    A color is red, green and blue in [0, 1]. The hue is the direction along the ground (x forward,
    y left). Light grey means no motion, and the color is most saturated at `full_speed` and above.
    The hues are those of Oklab, where all are equally light: in HSV, blue would vanish on a dark
    picture and yellow on a light one.

    Args:
        flow: vectors.
        full_speed: speed with the most saturated color.

    Source: Ottosson, "A perceptual color space for image processing", 2020, for Oklab.

    >>> flow_colors(np.zeros((1, 3)), 1.0).round(2)
    array([[0.69, 0.69, 0.69]])
    """
    x, y = flow[..., 0], flow[..., 1]
    angle = np.arctan2(y, x)
    # The exponent is below 1, so that half the full speed does not look like no motion.
    chroma = _CHROMA * np.clip(np.hypot(x, y) / full_speed, 0.0, 1.0) ** 0.7
    # Forward is orange, not red, which could be read as "towards" or "stop".
    a, b = chroma * np.cos(angle + 0.9), chroma * np.sin(angle + 0.9)
    l, m, s = (
        (_LIGHTNESS + p * a + q * b) ** 3
        for p, q in (
            (0.3963377774, 0.2158037573),
            (-0.1055613458, -0.0638541728),
            (-0.0894841775, -1.2914855480),
        )
    )
    linear = np.stack(
        [
            4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
            -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
            -0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s,
        ],
        axis=-1,
    )
    linear = np.clip(linear, 0.0, 1.0)
    return np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-12) ** (1 / 2.4) - 0.055
    )


def full_speed_of(speeds: np.ndarray) -> float:
    """Return a round speed that nearly all speeds do not exceed, for `flow_colors`.

    It is in metres per sweep, and at least 0.2.

    >>> full_speed_of(np.array([0.3, 0.9, 1.1]))
    1.2
    """
    finite = speeds[np.isfinite(speeds)]
    largest = max(float(np.percentile(finite, 98)) if finite.size else 0.0, 0.2)
    power = 10.0 ** np.floor(np.log10(largest))
    factors = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
    return float(next(m * power for m in factors if m * power >= largest * (1 - 1e-9)))


_BACKGROUND = (0.067, 0.078, 0.09)
_PIXELS = 900


def birds_eye(
    points: Tensor,
    residual: Tensor | None = None,
    dynamic: Tensor | None = None,
    title: str = "",
    radius: float = 50.0,
    full_speed: float | None = None,
) -> bytes:
    r"""Draw a sweep from above as a PNG; forward is up, left is left.

    The wheel at the lower right shows the colors of the directions, the bar at the lower left a
    length.

    Args:
        points: points in the sensor's frame, metres, ``(N, 3)``; points that are not finite are
            left out.
        residual: flow **without** the motion of the sensor, metres per sweep, ``(N, 3)``; None
            draws the points alone.
        dynamic: which points move, boolean ``(N,)``; by default points faster than 0.05 m per
            sweep. They are drawn last, the fastest on top.
        title: title of the picture.
        radius: distance from the sensor to the edges of the picture, metres.
        full_speed: speed with the most saturated color, metres per sweep; by default a round speed
            that nearly all moving points do not exceed.

    >>> birds_eye(torch.rand(100, 3), torch.rand(100, 3))[:4]
    b'\x89PNG'
    """
    buffer = io.BytesIO()
    birds_eye_figure(points, residual, dynamic, title, radius, full_speed).savefig(
        buffer, format="png", facecolor=_BACKGROUND
    )
    return buffer.getvalue()


def birds_eye_pixels(
    points: Tensor,
    residual: Tensor | None = None,
    dynamic: Tensor | None = None,
    title: str = "",
    radius: float = 50.0,
    full_speed: float | None = None,
) -> np.ndarray:
    """Draw a sweep as `birds_eye` does, as uint8 pixels ``(rows, columns, 3)`` for a page."""
    figure = birds_eye_figure(points, residual, dynamic, title, radius, full_speed)
    figure.canvas.draw()
    return np.array(figure.canvas.buffer_rgba())[..., :3]


def birds_eye_figure(
    points: Tensor,
    residual: Tensor | None = None,
    dynamic: Tensor | None = None,
    title: str = "",
    radius: float = 50.0,
    full_speed: float | None = None,
) -> Any:
    """Draw a sweep as `birds_eye` does, as a ``matplotlib.figure.Figure``."""
    where, flow, moves = _check_sweep(points, residual, dynamic)
    check_range("birds_eye", "(0, inf]", radius=radius)
    if full_speed is None:
        full_speed = full_speed_of(np.hypot(flow[moves, 0], flow[moves, 1]))
    size = (_PIXELS / 100, (_PIXELS + 34 * bool(title)) / 100)
    figure = new_figure(size, dpi=100, facecolor=_BACKGROUND)
    height = _PIXELS / (_PIXELS + 34 * bool(title))
    axes = figure.add_axes((0, 0, 1, height))
    # The y axis of the sweep points to the left, against the horizontal axis of the picture.
    axes.imshow(
        _raster(where, flow, moves, radius, full_speed),
        extent=(-radius, radius, -radius, radius),
        interpolation="nearest",
    )
    axes.set_axis_off()
    _sensor(axes, radius)
    _scale_bar(axes, radius)
    if residual is not None:
        _wheel(figure, full_speed)
    if title:
        figure.text(
            0.5, (1 + height) / 2, title, color="0.92", ha="center", va="center", fontsize=11
        )
    return figure


def _check_sweep(
    points: Tensor, residual: Tensor | None, dynamic: Tensor | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if points.ndim != 2 or points.shape[1] != 3:
        raise InputError(
            f"points have the shape {tuple(points.shape)}; expected (N, 3), x, y and z of each"
        )
    if residual is not None and residual.shape != points.shape:
        raise InputError(
            f"the flow has shape {tuple(residual.shape)} for {len(points)} points; expected one "
            "vector for each"
        )
    if dynamic is not None and (dynamic.shape != points.shape[:1] or dynamic.dtype != torch.bool):
        raise InputError(
            f"dynamic is {dynamic.dtype} of shape {tuple(dynamic.shape)}; give booleans, one for "
            f"each of {len(points)} points"
        )
    where = points.detach().cpu().to(torch.float64).numpy()
    flow = (
        np.zeros_like(where)
        if residual is None
        else residual.detach().cpu().to(torch.float64).numpy()
    )
    drawn, has_flow = np.isfinite(where).all(1), np.isfinite(flow).all(1)
    flow = np.where(has_flow[:, None], flow, 0.0)
    fast = np.linalg.norm(flow, axis=1) >= MOVES
    moves = fast if dynamic is None else dynamic.cpu().numpy() & has_flow
    return where[drawn], flow[drawn], moves[drawn]


def _raster(
    where: np.ndarray, flow: np.ndarray, moves: np.ndarray, radius: float, full_speed: float
) -> np.ndarray:
    """Return the points as pixels, red, green and blue in [0, 1]; row 0 is farthest ahead."""
    row = np.floor((radius - where[:, 0]) / (2 * radius) * _PIXELS).astype(np.int64)
    column = np.floor((radius - where[:, 1]) / (2 * radius) * _PIXELS).astype(np.int64)
    inside = (row >= 0) & (row < _PIXELS) & (column >= 0) & (column < _PIXELS)
    still = inside & ~moves
    counts = np.bincount(row[still] * _PIXELS + column[still], minlength=_PIXELS**2).reshape(
        _PIXELS, _PIXELS
    )
    # A wall has some hundred points per pixel, far ground one: the logarithm shows both.
    grey = np.where(counts > 0, 0.34 + 0.08 * np.minimum(np.log2(np.maximum(counts, 1)), 4.0), 0.0)[
        ..., None
    ]
    # Static points are three pixels wide and moving ones five: single pixels vanish on a shrunk page.
    grey = np.maximum(grey, 0.8 * ndimage.maximum_filter(grey, (3, 3, 1)))
    image = np.maximum(np.asarray(_BACKGROUND), grey * np.array([0.92, 0.97, 1.0]))
    speed = np.hypot(flow[:, 0], flow[:, 1])
    moving = np.flatnonzero(inside & moves)
    moving = moving[np.argsort(speed[moving], kind="stable")]
    colors = flow_colors(flow[moving], full_speed)
    for down in range(-2, 3):
        for right in range(-2, 3):
            image[
                np.clip(row[moving] + down, 0, _PIXELS - 1),
                np.clip(column[moving] + right, 0, _PIXELS - 1),
            ] = colors
    return image


def _sensor(axes: Any, radius: float) -> None:
    """Draw the sensor as an arrow that points ahead."""
    size = radius / 45
    axes.fill([-0.7 * size, 0.0, 0.7 * size], [-size, size, -size], color="white", zorder=3)


def _scale_bar(axes: Any, radius: float) -> None:
    length = next(
        (m for m in (100.0, 50.0, 20.0, 10.0, 5.0, 2.0, 1.0) if m <= radius / 3), radius / 3
    )
    left, low = -0.94 * radius, -0.93 * radius
    axes.plot(
        [left, left + length], [low, low], color="white", linewidth=2.5, solid_capstyle="butt"
    )
    axes.text(
        left + length / 2,
        low + 0.02 * radius,
        f"{length:g} m",
        color="white",
        ha="center",
        va="bottom",
        fontsize=14,
    )


def _wheel(figure: Any, full_speed: float) -> None:
    side = 129
    across, ahead = np.meshgrid(
        np.linspace(1, -1, side), np.linspace(1, -1, side)
    )  # y to the left, x ahead
    distance = np.hypot(across, ahead)
    colors = flow_colors(np.stack([ahead, across], axis=-1), 1.0)
    wheel = np.concatenate(
        [colors, np.clip((1 - distance) * side / 2 + 0.5, 0, 1)[..., None]], axis=-1
    )
    width, total = 0.15, figure.get_size_inches()
    axes = figure.add_axes((0.95 - width, 0.03 + 0.035, width, width * total[0] / total[1]))
    axes.imshow(wheel, extent=(-1, 1, -1, 1), interpolation="bilinear")
    axes.set(xlim=(-1.02, 1.02), ylim=(-1.02, 1.02))
    axes.set_axis_off()
    axes.annotate(
        "", (0, 0.95), (0, 0.25), arrowprops={"arrowstyle": "-|>", "color": "0.1", "linewidth": 1.2}
    )
    axes.text(0, 1.08, "ahead", color="white", ha="center", va="bottom", fontsize=13)
    axes.text(
        0,
        -1.1,
        f"rim: {full_speed:g} m per sweep",
        color="white",
        ha="center",
        va="top",
        fontsize=13,
    )
