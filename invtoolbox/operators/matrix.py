"""A dense matrix as an operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator, Operator, check_shape


class Matrix(LinearOperator):
    """``A x = M x``, images flattened row by row, channel first.

    Args:
        matrix: ``(m, n)``, or ``(batch, m, n)`` for one matrix an item.
        domain_shape: ``(channel, *space)`` with ``n`` entries; ``(1, n)`` by default.
        range_shape: ``(channel, *space)`` with ``m`` entries; ``(1, m)`` by default.

    Raises:
        InputError: shapes that do not fit, or entries that are not finite.

    >>> A = Matrix(torch.tensor([[1., 2.], [0., 1.], [1., 0.]]))
    >>> A(torch.tensor([[[1., 1.]]]))
    tensor([[[3., 1., 1.]]])
    """

    def __init__(
        self,
        matrix: Any,
        domain_shape: Sequence[int] | None = None,
        range_shape: Sequence[int] | None = None,
    ) -> None:
        values = torch.as_tensor(matrix)
        if values.ndim not in (2, 3):
            raise InputError(
                f"a Matrix is (m, n) or (batch, m, n), got shape {tuple(values.shape)}"
            )
        if not bool(values.isfinite().all()):
            raise InputError("the Matrix has entries that are NaN or infinite")
        self.matrix = (
            values
            if values.is_floating_point() or values.is_complex()
            else values.to(torch.float32)
        )
        m, n = values.shape[-2:]
        self.domain_shape = fitted_shape(domain_shape, n, "columns", "domain_shape")
        self.range_shape = fitted_shape(range_shape, m, "rows", "range_shape")
        self.items = values.shape[0] if values.ndim == 3 and values.shape[0] > 1 else None

    def parameters(self) -> dict[str, Tensor]:
        """``matrix``, of shape ``(m, n)`` or ``(batch, m, n)``."""
        return {"matrix": self.matrix}

    def _replace(self, parameters: dict[str, Tensor]) -> Self:
        other = super()._replace(parameters)
        return other._with_items(
            len(other.matrix) if other.matrix.ndim == 3 and len(other.matrix) > 1 else None
        )

    @property
    def blocks(self) -> int | None:
        """The number of rows, where the measurements are one row of numbers."""
        return (
            self.range_shape[1] if len(self.range_shape) == 2 and self.range_shape[0] == 1 else None
        )

    def subset(self, index: Any) -> Operator:
        """Some of the rows: ``A.subset(i)(x) = A(x)[:, :, i]``."""
        if self.blocks is None:
            return super().subset(index)
        other = self._replace({"matrix": self.matrix[..., index, :]})
        other.range_shape = (1, other.matrix.shape[-2])
        return other

    def _forward(self, x: Tensor) -> Tensor:
        return self._product(x, self.matrix).reshape(x.shape[0], *self.range_shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._product(y, self.matrix.mH).reshape(y.shape[0], *self.domain_shape)

    def _product(self, x: Tensor, matrix: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.complex64) if matrix.is_complex() else x.dtype
        return (matrix.to(dtype) @ x.to(dtype).flatten(1).unsqueeze(2)).squeeze(2)

    def norm(
        self,
        *,
        tolerance: float = 1e-4,
        max_iterations: int = 100,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """The largest singular value: exact."""
        largest: Tensor = torch.linalg.matrix_norm(self.matrix, 2)
        return largest.reshape(-1).to(dtype=dtype, device=device)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """The least-squares image of smallest norm."""
        check_shape(
            y,
            self.range_shape,
            f"the pseudo-inverse of {self} takes y",
            self.channelwise,
            self.items,
        )
        inverse: Tensor = torch.linalg.pinv(self.matrix)
        return self._product(y, inverse).reshape(y.shape[0], *self.domain_shape)

    def __repr__(self) -> str:
        return f"Matrix({'x'.join(map(str, self.matrix.shape))})"


def fitted_shape(shape: Sequence[int] | None, count: int, axis: str, name: str) -> tuple[int, ...]:
    """``shape`` if it has ``count`` entries, ``(1, count)`` by default, else an `InputError`."""
    if shape is None:
        return (1, count)
    fitted = tuple(int(n) for n in shape)
    if math.prod(fitted) != count:
        raise InputError(
            f"the matrix has {count} {axis}, but {name} {fitted} has {math.prod(fitted)} entries"
        )
    return fitted
