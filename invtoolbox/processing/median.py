"""The median in a sliding window over the last two axes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from invtoolbox.errors import InputError

#: Values in all windows of a piece: 128 MB in float64.
_PIECE = 1 << 24


def local_median(x: Tensor, size: tuple[int, int], centre: bool = True) -> Tensor:
    """The median over a window of odd ``size`` about every value, the border repeated; shape and unit of ``x``.

    Without the centre it is that of the neighbours alone, the mean of their two middle values: on a slope, where a value that
    stands out would move the median by a step, it is what the value should be.

    >>> local_median(torch.tensor([[1.0, 1.0, 9.0, 1.0, 2.0, 2.0]]), (1, 3))
    tensor([[1., 1., 1., 2., 2., 2.]])
    >>> local_median(torch.tensor([[1.0, 2.0, 9.0, 4.0, 5.0]]), (1, 5), centre=False)[0, 2]
    tensor(3.)
    """
    if any(n < 1 or n % 2 == 0 for n in size):
        raise InputError(f"the window of a median has odd sizes, got {size[0]}x{size[1]}")
    if x.ndim < 2 or x.is_complex():
        raise InputError(
            f"the median is taken over the last two axes of real values, got {x.dtype} of shape {tuple(x.shape)}"
        )
    planes = x.reshape(1, -1, *x.shape[-2:])
    rows, columns = size
    # Windows are copied to be sorted, so planes and rows go in pieces.
    step = max(1, _PIECE // max(1, x.shape[-1] * rows * columns))
    out = torch.empty_like(planes)
    for k in range(planes.shape[1]):
        padded = F.pad(
            planes[:, k : k + 1],
            (columns // 2, columns // 2, rows // 2, rows // 2),
            mode="replicate",
        )[0, 0]
        for r in range(0, x.shape[-2], step):
            windows = (
                padded[r : r + step + rows - 1].unfold(0, rows, 1).unfold(1, columns, 1).flatten(2)
            )
            if centre or windows.shape[2] == 1:
                out[0, k, r : r + step] = windows.median(2).values
                continue
            half = windows.shape[2] // 2
            ranked = torch.cat([windows[..., :half], windows[..., half + 1 :]], 2).sort(2).values
            out[0, k, r : r + step] = (ranked[..., half - 1] + ranked[..., half]) / 2
    return out.reshape(x.shape)
