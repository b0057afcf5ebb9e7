"""Sums of rows of a table by weights that differ from call to call: interpolation where the places move."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


def weighted_rows(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """``y_i = sum_k weights[i, k] table[rows[i, k]]``, differentiable in the table and in the weights.

    Where the weights stay what they are, `SparseProduct` is faster.

    Args:
        table: ``(r, c)``.
        rows: whole numbers ``(n, k)``.
        weights: ``(n, k)``.

    Returns:
        ``(n, c)``.

    >>> weighted_rows(torch.tensor([[1.0], [10.0]]), torch.tensor([[0, 1], [1, 1]]), torch.tensor([[0.5, 0.5], [1.0, 2.0]])).T
    tensor([[ 5.5000, 30.0000]])
    """
    y: Tensor = _WeightedRows.apply(table, rows, weights)
    return y


class _WeightedRows(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        context.save_for_backward(table, rows, weights)
        return embedding_bag(rows, table, per_sample_weights=weights.contiguous(), mode="sum")

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        table, rows, weights = context.saved_tensors
        (gradient,) = gradients
        of_table = of_weights = None
        if context.needs_input_grad[0]:
            spread = (weights[..., None] * gradient[:, None]).flatten(0, 1)
            of_table = torch.zeros_like(table).index_add_(0, rows.flatten(), spread)
        if context.needs_input_grad[2]:
            taken = table.index_select(0, rows.flatten()).view(*rows.shape, -1)
            of_weights = (taken @ gradient[..., None]).squeeze(-1)
        return of_table, None, of_weights
