"""Arithmetic in memory that the caller owns, where no graph is recorded; where one is, the same out of place.

A step of a solver overwrites its buffers, because a fresh temporary of a large image costs more than its arithmetic. A step that is to
be differentiated must leave what the graph remembers as it was. Both give the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor


def add(x: Tensor, y: Tensor, alpha: float = 1.0) -> Tensor:
    """``x + alpha y``, in the memory of x.

    >>> x = torch.ones(2)
    >>> with torch.no_grad():
    ...     add(x, x) is x
    True
    >>> add(x, x) is x
    False
    """
    return torch.add(x, y, alpha=alpha) if torch.is_grad_enabled() else x.add_(y, alpha=alpha)


def add_product(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``x + a b``, in the memory of x."""
    return torch.addcmul(x, a, b) if torch.is_grad_enabled() else x.addcmul_(a, b)


def multiply(x: Tensor, factor: Tensor) -> Tensor:
    """``factor x``, in the memory of x."""
    return x * factor if torch.is_grad_enabled() else x.mul_(factor)


def subtract(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """``a - b``, in the memory of ``out``."""
    return torch.sub(a, b) if torch.is_grad_enabled() else torch.sub(a, b, out=out)


def overwrite(x: Tensor, value: Tensor) -> Tensor:
    """``value``, in the memory of x."""
    return value if torch.is_grad_enabled() else x.copy_(value)
