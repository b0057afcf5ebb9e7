"""Quantiles of tensors of any size; those of torch are limited to 16 million values."""

from __future__ import annotations

from torch import Tensor

#: Largest number of values that are sorted; more are thinned out to this number.
_MOST = 2**22


def quantile(values: Tensor, share: float | Tensor) -> Tensor:
    """Return quantiles over the last axis, of every k-th value if there are many.

    Args:
        values: real numbers ``(*, number)``.
        share: one share from 0 to 1, or several.

    >>> import torch
    >>> round(float(quantile(torch.linspace(0, 1, 2**24 + 2), 0.25)), 3)
    0.25
    """
    # An odd step meets all columns of a picture whose number of columns is even.
    step = -(-values.shape[-1] // _MOST) // 2 * 2 + 1
    return values[..., ::step].quantile(share, dim=-1)
