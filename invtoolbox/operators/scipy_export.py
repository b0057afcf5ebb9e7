"""Linear operators with the interface of SciPy; importing this module imports SciPy."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator as ScipyInterface
from torch import Tensor

from invtoolbox.operators.base import LinearOperator, Shape


class ExportedOperator(ScipyInterface):  # type: ignore[misc]
    """One item of a linear operator, applied to flat NumPy vectors.

    Args:
        operator: the linear operator, with parameters of at most one item.
        dtype: precision of the vectors, a dtype of torch; complex if the operator is complex.
    """

    def __init__(self, operator: LinearOperator, dtype: torch.dtype) -> None:
        parameters = list(operator.parameters().values())
        device = parameters[0].device if parameters else torch.device("cpu")
        self.operator = operator
        self._like = torch.empty(0, dtype=dtype, device=device)
        rows = sum(math.prod(shape) for shape in range_shapes(operator))
        super().__init__(self._like.cpu().numpy().dtype, (rows, math.prod(operator.domain_shape)))

    def _matvec(self, x: Any) -> Any:
        return self._matmat(np.asarray(x).reshape(-1, 1))[:, 0]

    def _rmatvec(self, y: Any) -> Any:
        return self._rmatmat(np.asarray(y).reshape(-1, 1))[:, 0]

    def _matmat(self, x: Any) -> Any:
        return self._multiply(np.asarray(x), False)

    def _rmatmat(self, y: Any) -> Any:
        return self._multiply(np.asarray(y), True)

    def _multiply(self, columns: Any, transpose: bool) -> Any:
        """Return ``A X``, or ``A^H X`` if ``transpose``, column by column."""
        if np.iscomplexobj(columns) and not self._like.is_complex():
            # A real operator takes real images.
            return self._multiply(columns.real, transpose) + 1j * self._multiply(
                columns.imag, transpose
            )
        with torch.no_grad():
            products = [self._column(column, transpose) for column in columns.T]
        size = self.shape[1] if transpose else self.shape[0]
        return np.stack(products, axis=1) if products else np.zeros((size, 0), self.dtype)

    def _column(self, column: Any, transpose: bool) -> Any:
        # The vector is copied, because it may be read-only or have negative strides.
        vector = torch.from_numpy(np.array(column, dtype=self.dtype)).to(self._like.device)
        if not transpose:
            result = self.operator(vector.reshape(1, *self.operator.domain_shape))
        else:
            shapes = range_shapes(self.operator)
            pieces = tuple(
                piece.reshape(1, *shape)
                for piece, shape in zip(vector.split([math.prod(s) for s in shapes]), shapes)
            )
            result = self.operator.adjoint(pieces if has_parts(self.operator) else pieces[0])
        tensors = result if isinstance(result, (tuple, list)) else (result,)
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        return flat.cpu().resolve_conj().resolve_neg().numpy()


def has_parts(operator: LinearOperator) -> bool:
    """Return whether the measurements of an operator are a tuple of tensors."""
    return bool(operator.range_shape) and isinstance(operator.range_shape[0], tuple)


def range_shapes(operator: LinearOperator) -> tuple[Shape, ...]:
    """Return the shapes of all parts of the measurements, without the batch axis."""
    shape = operator.range_shape
    return cast("tuple[Shape, ...]", shape if has_parts(operator) else (shape,))


def probe_dtype(operator: LinearOperator, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype, complex if images or measurements of the operator are complex."""
    if operator.complex_images or dtype.is_complex:
        return dtype.to_complex()
    parameters = list(operator.parameters().values())
    zeros = torch.zeros(
        1,
        *operator.domain_shape,
        dtype=dtype,
        device=parameters[0].device if parameters else None,
    )
    with torch.no_grad():
        prediction: Any = operator(zeros)
    tensors: tuple[Tensor, ...] = (
        tuple(prediction) if isinstance(prediction, (tuple, list)) else (prediction,)
    )
    return dtype.to_complex() if any(tensor.is_complex() for tensor in tensors) else dtype
