"""Multiply sparse matrices with dense ones.

`SparseProduct` is for matrices with fixed entries: gathers, sums over neighbours, interpolation at
fixed places. `weighted_rows` is for weights that change from call to call: interpolation at places
that move.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from invtoolbox.core.settings import Settings
from invtoolbox.errors import InputError

#: Start of each row, column of each entry, and entries.
_Rows = tuple[Tensor, Tensor, Tensor]


class SparseProduct(Settings):
    r"""Product ``y = A x`` with a sparse matrix of fixed entries.

    Its derivative is the exact transpose. Both A and its transpose are stored by rows, so that no
    two threads add to the same place. The product is fast on a CPU, and the order of its sums does
    not change from call to call.

    Args:
        rows: row of each entry, integers ``(n,)``; entries of one place are added.
        columns: column of each entry, integers ``(n,)``.
        values: entries, ``(n,)``.
        shape: shape of A.

    Raises:
        InputError: if the shapes do not fit together, or an entry lies outside of A.

    >>> rows, columns = torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1])
    >>> A = SparseProduct(rows, columns, torch.tensor([1.0, 10.0, 1.0]), (2, 3))
    >>> A(torch.tensor([[1.0], [2.0], [3.0]])).T, A.T(torch.ones(2, 1)).T
    (tensor([[31.,  2.]]), tensor([[ 1.,  1., 10.]]))
    """

    def __init__(
        self, rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]
    ) -> None:
        if not rows.shape == columns.shape == values.shape or rows.ndim != 1:
            raise InputError(
                "SparseProduct takes as many rows and columns as values, each (n,), got "
                f"{tuple(rows.shape)}, {tuple(columns.shape)} and {tuple(values.shape)}"
            )
        for name, index, size in (("row", rows, shape[0]), ("column", columns, shape[1])):
            if len(index) and not 0 <= int(index.min()) <= int(index.max()) < size:
                raise InputError(
                    f"a matrix of shape {shape} has no {name} {int(index.min())} "
                    f"or {int(index.max())}"
                )
        self.shape = shape
        self._rows = _by_row(rows, columns, values, shape[0])
        self._columns = _by_row(columns, rows, values, shape[1])

    @property
    def values(self) -> Tensor:
        """Entries, row by row."""
        return self._rows[2]

    @property
    def T(self) -> SparseProduct:
        transpose = copy.copy(self)
        transpose.shape = (self.shape[1], self.shape[0])
        transpose._rows, transpose._columns = self._columns, self._rows
        return transpose

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``A x``, ``(..., columns, c) -> (..., rows, c)``, in the precision of ``x``."""
        if x.ndim < 2 or x.shape[-2] != self.shape[1]:
            raise InputError(
                f"a matrix of shape {self.shape} takes (..., {self.shape[1]}, c), "
                f"got {tuple(x.shape)}"
            )
        if x.ndim == 2:
            return _Product.apply(x, self)
        # The items of a batch become further columns.
        flat = x.flatten(0, -3).transpose(0, 1)
        y = _Product.apply(flat.flatten(1), self).unflatten(1, tuple(flat.shape[1:]))
        return y.transpose(0, 1).unflatten(0, tuple(x.shape[:-2]))

    def __repr__(self) -> str:
        return f"SparseProduct {self.shape}, {len(self._rows[2])} entries"


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, matrix: SparseProduct) -> Tensor:
        context.matrix = matrix
        return _multiply(matrix._rows, matrix.shape, x)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Product.apply(gradients[0], context.matrix.T), None


def _by_row(rows: Tensor, columns: Tensor, values: Tensor, count: int) -> _Rows:
    # Compressed sparse rows: the entries of row r are starts[r] to starts[r + 1] - 1.
    order = rows.argsort(stable=True)
    starts = torch.zeros(count + 1, dtype=torch.int32, device=rows.device)
    starts[1:] = torch.bincount(rows, minlength=count).cumsum(0)
    return starts, columns[order].int(), values[order]


def _multiply(rows: _Rows, shape: tuple[int, int], x: Tensor) -> Tensor:
    if not len(rows[2]) or not x.shape[1]:
        return x.new_zeros(shape[0], x.shape[1])
    with warnings.catch_warnings():
        # torch warns once per process that its compressed rows are a beta feature.
        warnings.filterwarnings("ignore", message="Sparse")
        starts, columns, values = rows
        matrix = torch.sparse_csr_tensor(
            starts, columns, values.to(x.dtype), size=shape, device=x.device, check_invariants=False
        )
    return matrix @ x.contiguous()


def weighted_rows(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Return ``y_i = sum_k weights[i, k] table[rows[i, k]]``.

    The result is differentiable in the table and in the weights. If the weights are fixed,
    `SparseProduct` is faster.

    Args:
        table: rows to sum, ``(r, c)``.
        rows: indices of rows, integers ``(n, k)``.
        weights: weights of these rows, ``(n, k)``.

    Returns:
        The sums y, ``(n, c)``.

    >>> table, rows = torch.tensor([[1.0], [10.0]]), torch.tensor([[0, 1], [1, 1]])
    >>> weighted_rows(table, rows, torch.tensor([[0.5, 0.5], [1.0, 2.0]])).T
    tensor([[ 5.5000, 30.0000]])
    """
    return _WeightedRows.apply(table, rows, weights)


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
            # d/dtable[r] = sum of weights[i, k] g_i over the (i, k) with rows[i, k] = r
            spread = (weights[..., None] * gradient[:, None]).flatten(0, 1)
            of_table = torch.zeros_like(table).index_add_(0, rows.flatten(), spread)
        if context.needs_input_grad[2]:
            # d/dweights[i, k] = <table[rows[i, k]], g_i>
            taken = table.index_select(0, rows.flatten()).view(*rows.shape, -1)
            of_weights = (taken @ gradient[..., None]).squeeze(-1)
        return of_table, None, of_weights
