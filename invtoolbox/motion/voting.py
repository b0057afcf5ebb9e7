"""Where a thing may have gone: the translations that lay most of it onto another sweep."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from torch import Tensor

_CELL = 0.1


def translations(
    points: Tensor, target: Tensor, farthest: float = 3.0, most: int = 4
) -> np.ndarray:
    """Translations in the plane that many pairs of points agree on, best first: ``(n, 3), (m, 3) -> (k, 2)`` metres, k up to ``most``.

    Every pair of occupied squares of 0.1 m votes for its difference (Lin et al., "ICP-Flow", CVPR 2024); peaks of the smoothed
    histogram with at least half of the votes of the highest one are kept. A histogram is the correlation of the two occupancies.

    Args:
        farthest: metres, in each direction.
    """
    if len(points) == 0 or len(target) == 0:
        return np.zeros((0, 2))
    here, there = (
        np.unique(np.rint(p[:, :2].cpu().numpy() / _CELL).astype(np.int64), axis=0)
        for p in (points, target)
    )
    reach = round(farthest / _CELL)
    differences = (there[None] - here[:, None]).reshape(-1, 2)
    differences = differences[(np.abs(differences) <= reach).all(1)] + reach
    side = 2 * reach + 1
    votes = np.bincount(
        differences[:, 0] * side + differences[:, 1], minlength=side * side
    ).reshape(side, side)
    smooth = ndimage.gaussian_filter(votes.astype(np.float64), 1.0)
    peaks = np.argwhere(
        (smooth == ndimage.maximum_filter(smooth, 5)) & (smooth > 0.5 * smooth.max())
    )
    order = np.argsort(-smooth[peaks[:, 0], peaks[:, 1]], kind="stable")[:most]
    return (peaks[order] - reach) * _CELL
