"""Conjugate gradients inside of another method: a few steps, item by item, without a loop of their own in `solve`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from invtoolbox.operators.base import expand, inner


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    right: Tensor,
    tolerance: float | Tensor,
    max_iterations: int,
) -> tuple[Tensor, Tensor]:
    """``H^-1 right`` from 0 for a symmetric ``H`` that is given by its product, and the residual ``right - H x``.

    An item stops once its residual is within ``tolerance`` relative, or where ``H`` shows no positive curvature; it then
    keeps its answer, whatever its neighbours do.

    >>> conjugate_gradients(lambda v: 2 * v, torch.ones(1, 3), 1e-6, 10)[0]
    tensor([[0.5000, 0.5000, 0.5000]])
    """
    x, residual, direction = torch.zeros_like(right), right.clone(), right.clone()
    squared = inner(right, right)
    goal = torch.as_tensor(tolerance, dtype=squared.dtype, device=squared.device) ** 2 * squared
    running = squared > goal
    for _ in range(max_iterations):
        if not bool(running.any()):
            break
        bent = product(direction)
        curvature = inner(direction, bent)
        running = running & (curvature > 0)
        alpha = _quotient(squared, curvature, running)
        x = torch.addcmul(x, expand(alpha, x), direction)
        residual = torch.addcmul(residual, expand(-alpha, x), bent)
        new = inner(residual, residual)
        beta = _quotient(new, squared, running)
        direction = torch.addcmul(residual, expand(beta, x), direction)
        squared = torch.where(running, new, squared)
        running = running & (squared > goal)
    return x, residual


def _quotient(a: Tensor, b: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, a / torch.where(where, b, torch.ones_like(b)), torch.zeros_like(a))
