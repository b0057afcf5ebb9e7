"""GMRES inside of another method: for systems that are not symmetric, item by item."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from invtoolbox.operators.base import expand, inner, item_norm


def gmres(
    product: Callable[[Tensor], Tensor],
    right: Tensor,
    tolerance: float,
    max_iterations: int,
    restart: int = 30,
) -> tuple[Tensor, Tensor]:
    """``A^-1 right`` from 0 by GMRES (Saad and Schultz 1986), and the relative residual of every item, ``(batch,)``.

    An item that is within the tolerance takes no further directions, whatever its neighbours do.

    Args:
        product: with A, any square real matrix.
        right: ``(batch, n)``.
        tolerance: of the residual, relative to the right-hand side.
        max_iterations: products at most.
        restart: directions that are kept before it starts again from where it is.

    >>> rotation = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    >>> x, residual = gmres(lambda v: v @ rotation.T, torch.tensor([[1.0, 0.0]]), 1e-6, 10)
    >>> x.round(decimals=4), bool(residual < 1e-6)
    (tensor([[ 0., -1.]]), True)
    """
    size = item_norm(right)
    tiny = torch.finfo(size.dtype).tiny
    x, residual, taken = torch.zeros_like(right), right, 0
    while taken < max_iterations:
        length = item_norm(residual)
        running = length > tolerance * size
        if not bool(running.any()):
            break
        steps = min(restart, max_iterations - taken)
        basis = [residual * expand(1 / length.clamp_min(tiny), residual)]
        matrix = torch.zeros(len(right), steps + 1, steps, dtype=torch.float64, device=right.device)
        coefficients = matrix.new_zeros(len(right), 0)
        for k in range(steps):
            new = product(basis[k])
            taken += 1
            for _ in range(2):  # a second time, because the first leaves rounding
                for i, old in enumerate(basis):
                    along = inner(new, old)
                    matrix[:, i, k] += along
                    new = torch.addcmul(new, expand(-along, new), old)
            height = item_norm(new)
            matrix[:, k + 1, k] = height
            # Where everything has been found, no direction is left.
            basis.append(
                torch.where(
                    expand(height, new) > 0,
                    new * expand(1 / height.clamp_min(tiny), new),
                    torch.zeros_like(new),
                )
            )
            matrix[:, :, k] *= running.unsqueeze(1)
            least, left = _least_squares(matrix[:, : k + 2, : k + 1], length)
            earlier = torch.cat([coefficients, matrix.new_zeros(len(right), 1)], 1)
            coefficients = torch.where(running.unsqueeze(1), least, earlier)
            running = running & (left > 0.5 * tolerance * size)
            if not bool(running.any()):
                break
        for i in range(coefficients.shape[1]):
            x = torch.addcmul(x, expand(coefficients[:, i].to(x.dtype), x), basis[i])
        residual = right - product(x)
    return x, item_norm(residual) / size.clamp_min(tiny)


def _least_squares(matrix: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """``argmin_c |length e_1 - matrix c|`` and the minimum."""
    goal = matrix.new_zeros(*matrix.shape[:2], 1)
    goal[:, 0, 0] = length.double()
    found = torch.linalg.pinv(matrix) @ goal
    return found.squeeze(2), (goal - matrix @ found).flatten(1).norm(dim=1).to(length)
