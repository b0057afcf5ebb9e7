"""Colours of motion: the direction is the hue, the speed how colourful it is; every direction is as bright as any other."""

from __future__ import annotations

import numpy as np

#: Lightness and largest chroma in Oklab: what a screen can show at every hue.
_LIGHTNESS, _CHROMA = 0.76, 0.125


def flow_colours(flow: np.ndarray, full_speed: float) -> np.ndarray:
    """The colour of each vector, shares of red, green and blue in [0, 1]: ``(..., 2 or 3) -> (..., 3)``.

    The hue is the direction along the ground (x forward, y left), light grey stands for no motion, and the colour is full at `full_speed`
    and above. The hues run in Oklab, where they are equally light: in HSV blue would vanish on a dark picture and yellow on a light one.

    Source: Ottosson, "A perceptual color space for image processing", 2020, for Oklab.

    >>> flow_colours(np.zeros((1, 3)), 1.0).round(2)
    array([[0.69, 0.69, 0.69]])
    """
    x, y = flow[..., 0], flow[..., 1]
    angle = np.arctan2(y, x)
    # More than in proportion: half the full speed should not look like standing.
    chroma = _CHROMA * np.clip(np.hypot(x, y) / full_speed, 0.0, 1.0) ** 0.7
    # Forward is orange: that red means "towards" or "stop" is left to nobody's reading.
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
    """A round speed that nearly all of some speeds stay below, for `flow_colours`: metres a sweep, at least 0.2.

    >>> full_speed_of(np.array([0.3, 0.9, 1.1]))
    1.2
    """
    seen = speeds[np.isfinite(speeds)]
    largest = max(float(np.percentile(seen, 98)) if seen.size else 0.0, 0.2)
    power = 10.0 ** np.floor(np.log10(largest))
    return float(
        next(
            m * power
            for m in (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
            if m * power >= largest * (1 - 1e-9)
        )
    )
