"""Contrast of pictures of warped events, the data term of event cameras."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import torch
from torch import Tensor

from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.data_terms.base import DataTerm
from invtoolbox.kernels.linear_map import linear_map
from invtoolbox.kernels.native import REAL
from invtoolbox.kernels.rendering.window_blur import blur_planes


class Contrast(DataTerm):
    r"""Contrast of still events relative to that of warped ones, :math:`\sum_k C(y_k) / C(p_k)`.

    The sum is over the R pictures of an item, ``(batch, 1, R, rows, columns)``; see
    `operators.EventWarp`. It is R if nothing moves, and less the sharper the pictures are. C is the
    mean squared gradient, or the variance, of a picture blurred by a Gaussian. A sum over several
    reference times keeps events from collapsing to a point, which is sharp at one time only.

    Source: Gallego, Rebecq, Scaramuzza, "A unifying contrast maximization framework for event
    cameras" (CVPR 2018); Shiba, Aoki, Gallego, "Secrets of event-based optical flow" (ECCV 2022).

    Args:
        kind: ``"gradient"`` or ``"variance"``.
        blur: standard deviation of the Gaussian, pixels; 0 for none. A wider one reaches motions
            further from the truth, a narrow one is more exact.

    >>> sharp, dull = torch.zeros(1, 1, 1, 9, 9), torch.full((1, 1, 1, 9, 9), 1 / 9)
    >>> sharp[..., 4, 4], dull[..., 4, 4] = 9, 1
    >>> bool(Contrast().value(sharp, dull) < 0.1)
    True
    """

    is_convex = False

    def __init__(
        self, kind: Literal["gradient", "variance"] = "gradient", blur: float = 1.0
    ) -> None:
        check_choice(self, ("gradient", "variance"), kind=kind)
        check_range(self, "[0, inf)", blur=blur)
        self.kind, self.blur = kind, blur

    def value(self, prediction: Any, y: Any) -> Tensor:
        tiny = torch.finfo(prediction.dtype).tiny
        return (self.contrast(y) / self.contrast(prediction).clamp_min(tiny)).sum(1)

    def contrast(self, pictures: Tensor) -> Tensor:
        """Compute the contrast of every picture, ``(batch, 1, R, rows, columns) -> (batch, R)``."""
        smooth = gaussian_blur(pictures, self.blur)
        if self.kind == "variance":
            flat = smooth.flatten(3)
            return (flat - flat.mean(3, keepdim=True)).square().mean(3)[:, 0]
        across = smooth[..., 1:] - smooth[..., :-1]
        down = smooth[..., 1:, :] - smooth[..., :-1, :]
        return (across.square().flatten(3).mean(3) + down.square().flatten(3).mean(3))[:, 0]

    def discrepancy(self, prediction: Any, y: Any) -> Tensor:
        """Return the value itself, which is no square."""
        return self.value(prediction, y)

    def discrepancy_of(self, value: Tensor, prediction: Any, y: Any) -> Tensor:
        return value

    def __repr__(self) -> str:
        return f"Contrast({self.kind!r}, blur={self.blur:g})"


def gaussian_blur(pictures: Tensor, std: float) -> Tensor:
    """Blur the last two axes by a Gaussian that is cut at 3 standard deviations; outside is 0.

    Args:
        pictures: pictures, ``(..., rows, columns)``.
        std: standard deviation, pixels.
    """
    reach = int(3 * std + 0.5)
    if not reach:
        return pictures
    taps = [math.exp(-0.5 * (k / std) ** 2) for k in range(-reach, reach + 1)]
    window = torch.tensor(taps, dtype=torch.float64) / sum(taps)
    if pictures.dtype in REAL:
        # The window is even and zeros lie outside, so the blur is its own transpose.
        blur = functools.partial(blur_planes, window=window)
        return linear_map(pictures, lambda x: blur(x.contiguous()), lambda y: blur(y.contiguous()))
    # Shifted sums instead of a convolution, whose rounding depends on the size of the batch.
    for axis in (-1, -2):
        length = pictures.shape[axis]
        padding = (reach, reach) if axis == -1 else (0, 0, reach, reach)
        wide = torch.nn.functional.pad(pictures, padding)
        weights = window.tolist()
        total = weights[0] * wide.narrow(axis, 0, length)
        for k, weight in enumerate(weights[1:], start=1):
            total = torch.add(total, wide.narrow(axis, k, length), alpha=weight)
        pictures = total
    return pictures
