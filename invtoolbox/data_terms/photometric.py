"""How a rendered picture differs from a photograph: by the modulus, and by structural similarity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from invtoolbox.data_terms.base import DataTerm
from invtoolbox.errors import InputError

#: Of structural similarity (Wang et al., IEEE TIP 13, 2004): the window's size and deviation in pixels, and its two constants.
_WINDOW, _DEVIATION, _C1, _C2 = 11, 1.5, 0.01**2, 0.03**2


class Photometric(DataTerm):
    r"""``sum_v (1 - w) mean |p_v - y_v| + w (1 - mean SSIM(p_v, y_v))`` over the pictures v of ``(batch, channel, picture, row, column)``.

    The means are over the pixels of a picture, so that a weight beside this term does not depend on its size, and misfits of some of the
    pictures add up to that of all. The modulus has no derivative where prediction and measurement agree exactly; 0 is taken there. SSIM has
    a Gaussian window of 11 pixels and zeros beyond the edge, as the papers on splatting have it (Kerbl et al., 2023: w = 0.2).

    Args:
        similarity: w, from 0 to 1. It costs a multiple of the modulus, and makes for sharper pictures of slightly lower PSNR.

    >>> Photometric(similarity=0.0).value(torch.full((1, 3, 2, 4, 4), 0.5), torch.zeros(1, 3, 2, 4, 4))
    tensor([1.])
    """

    is_convex = False
    is_of_residual = False

    def __init__(self, similarity: float = 0.2) -> None:
        if not 0 <= similarity <= 1:
            raise InputError(f"similarity of Photometric lies between 0 and 1, got {similarity}")
        self.similarity = similarity

    def value(self, prediction: Tensor, y: Tensor) -> Tensor:
        apart = (prediction - y).abs().mean((1, 3, 4)).sum(1)
        if self.similarity == 0:
            return apart
        return (1 - self.similarity) * apart + self.similarity * (
            1 - similarity_map(prediction, y).mean((1, 3, 4))
        ).sum(1)

    def check(self, y: Any) -> None:
        if not isinstance(y, Tensor) or y.ndim != 5:
            raise InputError("Photometric compares pictures (batch, channel, picture, row, column)")

    def __repr__(self) -> str:
        return f"Photometric(similarity={self.similarity:g})"


def similarity_map(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity at every pixel, of the shape of the pictures ``(..., row, column)``, for values in [0, 1]."""
    height, width = a.shape[-2:]
    planes = torch.stack([a, b, a * a, b * b, a * b]).reshape(5, -1, height, width)
    mean_a, mean_b, square_a, square_b, product = _blurred(planes.flatten(0, 1)).reshape(
        planes.shape
    )
    variance_a, variance_b, covariance = (
        square_a - mean_a**2,
        square_b - mean_b**2,
        product - mean_a * mean_b,
    )
    top = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)
    return (top / ((mean_a**2 + mean_b**2 + _C1) * (variance_a + variance_b + _C2))).view(a.shape)


def _blurred(planes: Tensor) -> Tensor:
    """Planes ``(n, row, column)`` under the window, by products with banded matrices, which are fast here and have fast derivatives."""
    return _band(planes.shape[1], planes) @ planes @ _band(planes.shape[2], planes).T


def _band(size: int, like: Tensor) -> Tensor:
    offset = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    weights = torch.exp(-0.5 * (offset / _DEVIATION) ** 2)
    weights = weights / weights.sum()
    apart = torch.arange(size)[None] - torch.arange(size)[:, None] + _WINDOW // 2
    inside = (apart >= 0) & (apart < _WINDOW)
    return (weights[apart.clamp(0, _WINDOW - 1)] * inside).to(like)
