"""Lengths of vectors that can be differentiated where they vanish."""

from __future__ import annotations

from torch import Tensor


def length(vectors: Tensor) -> Tensor:
    """Of vectors along the last axis, with the derivative 0 where they are.

    >>> import torch
    >>> length(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([5.0000e+00, 1.0000e-12])
    """
    return vectors.square().sum(-1).clamp_min(1e-24).sqrt()
