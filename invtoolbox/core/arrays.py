"""Arrays of NumPy with any memory layout, as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def as_tensor(
    values: Any, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Return `torch.as_tensor` of numbers, also of arrays whose memory a tensor cannot share.

    Args:
        values: a tensor, an array or numbers.
        dtype: type of the tensor; that of the values by default.
        device: device of the tensor; that of the values by default.

    >>> as_tensor(np.arange(3)[::-1]).tolist()
    [2, 1, 0]
    """
    if isinstance(values, np.ndarray):
        # A tensor cannot share memory with a read-only array, a foreign byte order, a flipped axis or
        # a field of records.
        native, size = values.dtype.newbyteorder("="), max(1, values.itemsize)
        is_irregular = any(stride < 0 or stride % size for stride in values.strides)
        if not values.flags.writeable or values.dtype != native or is_irregular:
            values = values.astype(native, order="C")
    return torch.as_tensor(values, dtype=dtype, device=device)
