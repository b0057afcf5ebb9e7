"""In-place arithmetic if no graph is recorded, and out-of-place arithmetic otherwise.

A step of a solver overwrites its buffers, because allocating a temporary of a large image costs
more than its arithmetic. A step that is differentiated must not change tensors that the graph
holds. Both give the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor


def add(x: Tensor, y: Tensor, alpha: float = 1.0) -> Tensor:
    """Return ``x + alpha y``, in the memory of x.

    Args:
        x: tensor that may be overwritten.
        y: tensor of the same shape.
        alpha: factor on y.

    >>> x = torch.ones(2)
    >>> with torch.no_grad():
    ...     add(x, x) is x
    True
    >>> add(x, x) is x
    False
    """
    return torch.add(x, y, alpha=alpha) if torch.is_grad_enabled() else x.add_(y, alpha=alpha)


def add_product(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return ``x + a b``, in the memory of x.

    Args:
        x: tensor that may be overwritten.
        a: first factor.
        b: second factor.
    """
    return torch.addcmul(x, a, b) if torch.is_grad_enabled() else x.addcmul_(a, b)


def multiply(x: Tensor, factor: Tensor) -> Tensor:
    """Return ``factor x``, in the memory of x.

    Args:
        x: tensor that may be overwritten.
        factor: factor that broadcasts to x.
    """
    return x * factor if torch.is_grad_enabled() else x.mul_(factor)


def subtract(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """Return ``a - b``, in the memory of ``out``.

    Args:
        a: minuend.
        b: subtrahend.
        out: tensor that may be overwritten.
    """
    return torch.sub(a, b) if torch.is_grad_enabled() else torch.sub(a, b, out=out)


def overwrite(x: Tensor, value: Tensor) -> Tensor:
    """Return ``value``, in the memory of x.

    Args:
        x: tensor that may be overwritten.
        value: tensor of the same shape.
    """
    return value if torch.is_grad_enabled() else x.copy_(value)
