"""SciPy's operators and sparse matrices, and everything that speaks their language: PyLops, ODL's export, ASTRA's OpTomo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from invtoolbox.operators.base import LinearOperator
from invtoolbox.operators.matrix import fitted_shape


class ScipyOperator(LinearOperator):
    """A `scipy.sparse.linalg.LinearOperator` or sparse matrix, on the CPU, item by item.

    An image is flattened in C order (the last axis fastest, channel first), as NumPy and PyLops do. Tensors on
    another device are copied to the CPU and back. Works in the wider of the operator's and the image's precision and
    returns the image's. Gradients flow through it, forward and backward, by ``matvec`` and ``rmatvec``.

    Args:
        operator: has ``shape`` (m, n), ``dtype`` and ``matvec`` / ``rmatvec``, or is a SciPy sparse matrix.
        domain_shape: ``(channel, *space)`` with n entries; by default ``(1, *operator.dims)`` of a PyLops operator, else
            ``(1, n)``.
        range_shape: the same of m, from ``operator.dimsd``.

    >>> import scipy.sparse
    >>> A = ScipyOperator(scipy.sparse.csr_matrix([[1., 2.], [0., 1.]]))
    >>> A.adjoint(torch.tensor([[[1., 1.]]]))
    tensor([[[1., 3.]]])
    """

    def __init__(
        self,
        operator: Any,
        domain_shape: Sequence[int] | None = None,
        range_shape: Sequence[int] | None = None,
    ) -> None:
        m, n = (int(k) for k in operator.shape)
        dims, dimsd = getattr(operator, "dims", None), getattr(operator, "dimsd", None)
        if domain_shape is None and isinstance(dims, (tuple, list)):
            domain_shape = (1, *(int(k) for k in dims))
        if range_shape is None and isinstance(dimsd, (tuple, list)):
            range_shape = (1, *(int(k) for k in dimsd))
        self.operator = operator
        self.domain_shape = fitted_shape(domain_shape, n, "columns", "domain_shape")
        self.range_shape = fitted_shape(range_shape, m, "rows", "range_shape")

    def _forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, _Apply.apply(x, self, False))

    def _adjoint(self, y: Tensor) -> Tensor:
        return cast(Tensor, _Apply.apply(y, self, True))

    def compute(self, x: Tensor, transpose: bool) -> Tensor:
        """``A x``, or ``A^H x`` where ``transpose``, outside automatic differentiation."""
        from scipy.sparse import issparse

        shape = self.domain_shape if transpose else self.range_shape
        array = x.detach().cpu().resolve_conj().resolve_neg().flatten(1).numpy()
        array = array.astype(
            np.result_type(array.dtype, self.operator.dtype or np.float64), copy=False
        )
        if issparse(self.operator):
            matrix = self.operator.conj().T if transpose else self.operator
            result = np.asarray((matrix @ array.T).T)
        else:
            apply = self._product("rmatvec" if transpose else "matvec")
            # A copy of each item, because some operators write into what they are given.
            result = np.stack([np.asarray(apply(row.copy())).reshape(-1) for row in array])
        found = torch.from_numpy(np.ascontiguousarray(result)).to(x.device)
        dtype = torch.promote_types(x.dtype, torch.complex64) if found.is_complex() else x.dtype
        return found.to(dtype).reshape(x.shape[0], *shape)

    def _product(self, name: str) -> Callable[[Any], Any]:
        """``matvec`` or ``rmatvec``.

        Those of SciPy 1.18 ask for what the constructor of its class sets; an operator that never calls this one, as ASTRA's OpTomo, has
        the method called that it defines itself.
        """
        from scipy.sparse.linalg import LinearOperator as Base

        inherited = isinstance(self.operator, Base) and getattr(
            type(self.operator), name
        ) is getattr(Base, name)
        bare = inherited and not hasattr(self.operator, "_xp")
        return cast(Callable[[Any], Any], getattr(self.operator, f"_{name}" if bare else name))

    def __repr__(self) -> str:
        return f"ScipyOperator({type(self.operator).__name__}, {self.domain_shape} -> {self.range_shape})"


class _Apply(torch.autograd.Function):
    """The derivative of a linear map is the map, and its gradient the adjoint: any order of differentiation works."""

    @staticmethod
    def forward(x: Tensor, operator: ScipyOperator, transpose: bool) -> Tensor:
        return operator.compute(x, transpose)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.operator, ctx.transpose = inputs
        ctx.real = not x.is_complex()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        result = _Apply.apply(gradients[0], ctx.operator, not ctx.transpose)
        return (result.real if ctx.real and result.is_complex() else result), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _Apply.apply(tangents[0], ctx.operator, ctx.transpose)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], x: Tensor, operator: ScipyOperator, transpose: bool
    ) -> tuple[Tensor, int]:
        x = x.movedim(in_dims[0], 0)
        return _Apply.apply(x.flatten(0, 1), operator, transpose).unflatten(0, x.shape[:2]), 0
