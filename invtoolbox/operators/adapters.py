"""Conversions from and to other packages: `as_operator`, `to_deepinv`, and SciPy's operators.

`ScipyOperator` serves SciPy's operators and sparse matrices, and all operators with their
interface: PyLops, ODL's export, ASTRA's OpTomo.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator, Operator, Shapes
from invtoolbox.operators.matrix import (
    ApplyLinear,
    Function,
    LinearFunction,
    Matrix,
    SparseMatrix,
    infer_shape,
)


def as_operator(
    obj: Any,
    domain_shape: Sequence[int] | None = None,
    range_shape: Shapes | None = None,
    *,
    linear: bool | None = None,
    adjoint: Callable[[Any], Tensor] | None = None,
    channelwise: bool = False,
) -> Operator:
    """Convert an object of another package to an operator.

    =============================================  =================================================
    ``obj``                                        result
    =============================================  =================================================
    deepinv ``Physics`` or ``LinearPhysics``       its noiseless ``A`` and ``A_adjoint``, of a copy
    SciPy ``LinearOperator``, sparse matrix        `ScipyOperator`, also for PyLops, ODL, ``OpTomo``
    array or tensor ``(m, n)``, ``(batch, m, n)``  `Matrix`
    sparse tensor ``(m, n)``: COO, CSR, CSC        `SparseMatrix`
    function or ``torch.nn.Module``                `Function`; `LinearFunction` if ``linear=True``
    an operator                                    the operator itself
    =============================================  =================================================

    Args:
        obj: object to convert.
        domain_shape: shape ``(channel, *space)`` of the images, if ``obj`` does not define it.
            Functions need it.
        range_shape: shape ``(channel, *space)`` of the measurements; if it is not given, ``obj`` is
            applied once to find it.
        linear: whether a function is linear: its adjoint is then ``adjoint``, or that of automatic
            differentiation.
        adjoint: adjoint of a linear function; implies ``linear``.
        channelwise: whether ``obj`` treats every channel alike, so that images of any number of
            channels are accepted.

    Raises:
        InputError: if the object is none of these, if shapes do not fit, or if a function that is
            declared linear is not linear.

    >>> import scipy.sparse.linalg, torch
    >>> A = as_operator(scipy.sparse.linalg.aslinearoperator(2 * np.eye(4)), (1, 2, 2))
    >>> A(torch.ones(1, 1, 2, 2)).sum()
    tensor(8.)
    """
    if isinstance(obj, Operator):
        return obj
    # An object of a package can exist only if the package is already imported.
    if "deepinv" in sys.modules and isinstance(obj, sys.modules["deepinv"].physics.Physics):
        from invtoolbox.operators.deepinv_physics import from_physics

        return from_physics(obj, domain_shape, channelwise)
    if isinstance(obj, Tensor) and obj.layout != torch.strided:
        return SparseMatrix(obj, domain_shape, cast("Sequence[int] | None", range_shape))
    if isinstance(obj, (np.ndarray, Tensor)):
        return Matrix(obj, domain_shape, cast("Sequence[int] | None", range_shape))
    if _is_scipy(obj):
        return ScipyOperator(obj, domain_shape, cast("Sequence[int] | None", range_shape))
    if callable(obj):
        if domain_shape is None:
            raise InputError(
                "as_operator of a function needs domain_shape=(channel, *space), the shape of its "
                "images"
            )
        if linear or adjoint is not None:
            return LinearFunction(obj, domain_shape, range_shape, channelwise, adjoint)
        return Function(obj, domain_shape, range_shape, channelwise)
    raise InputError(
        "as_operator takes a deepinv physics, a SciPy LinearOperator or sparse matrix, an array, a "
        f"torch.nn.Module or a function, got {type(obj).__name__}"
    )


def to_deepinv(A: Operator) -> Any:
    """Convert an operator to a noiseless deepinv ``LinearPhysics`` for deepinv's reconstructors.

    The result is a ``Physics`` if ``A`` is not linear. Parameters of ``A`` may be passed by name,
    ``physics.A(x, kernel=k)``; a tuple of measurements becomes a ``TensorList``. ``A_dagger`` and
    ``prox_l2`` use the closed forms of ``A`` if it has them.

    >>> import invtoolbox as it, torch
    >>> physics = it.to_deepinv(it.operators.Identity((1, 4, 4)))
    >>> physics.A_adjoint(torch.ones(1, 1, 4, 4)).shape
    torch.Size([1, 1, 4, 4])
    """
    from invtoolbox.operators.deepinv_physics import OperatorLinearPhysics, OperatorPhysics

    if not isinstance(A, Operator):
        raise InputError(f"to_deepinv takes an operator, got {type(A).__name__}")
    return OperatorLinearPhysics(A) if isinstance(A, LinearOperator) else OperatorPhysics(A)


class ScipyOperator(LinearOperator):
    """A `scipy.sparse.linalg.LinearOperator` or sparse matrix, applied on the CPU, item by item.

    An image is flattened in C order (the last axis fastest, channel first), as NumPy and PyLops do.
    Tensors on another device are copied to the CPU and back. The computation uses the wider of the
    operator's and the image's precision and returns the image's. Gradients flow through the
    operator, forward and backward, by ``matvec`` and ``rmatvec``.

    Args:
        operator: object with ``shape`` (m, n), ``dtype`` and ``matvec`` / ``rmatvec``, or a SciPy
            sparse matrix.
        domain_shape: shape ``(channel, *space)`` with n entries; by default ``(1, *operator.dims)``
            of a PyLops operator, else ``(1, n)``.
        range_shape: shape ``(channel, *space)`` with m entries; by default ``(1, *operator.dimsd)``
            of a PyLops operator, else ``(1, m)``.

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
        self.domain_shape = infer_shape(domain_shape, n, "columns", "domain_shape")
        self.range_shape = infer_shape(range_shape, m, "rows", "range_shape")

    def _forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, ApplyLinear.apply(x, self, False))

    def _adjoint(self, y: Tensor) -> Tensor:
        return cast(Tensor, ApplyLinear.apply(y, self, True))

    def compute(self, x: Tensor, transpose: bool) -> Tensor:
        """Compute ``A x``, or ``A^H x`` if ``transpose``, outside automatic differentiation."""
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
            # Each item is copied, because some operators write into their argument.
            result = np.stack([np.asarray(apply(row.copy())).reshape(-1) for row in array])
        found = torch.from_numpy(np.ascontiguousarray(result)).to(x.device)
        dtype = torch.promote_types(x.dtype, torch.complex64) if found.is_complex() else x.dtype
        return found.to(dtype).reshape(x.shape[0], *shape)

    def _product(self, name: str) -> Callable[[Any], Any]:
        """Return ``matvec`` or ``rmatvec`` of the operator.

        In SciPy 1.18 these methods need attributes that the constructor of their class sets. An
        operator that never calls this constructor, such as ASTRA's OpTomo, defines ``_matvec`` and
        ``_rmatvec``, which are returned instead.
        """
        from scipy.sparse.linalg import LinearOperator as Base

        inherited = isinstance(self.operator, Base) and getattr(
            type(self.operator), name
        ) is getattr(Base, name)
        bare = inherited and not hasattr(self.operator, "_xp")
        return cast(Callable[[Any], Any], getattr(self.operator, f"_{name}" if bare else name))

    def __repr__(self) -> str:
        kind = type(self.operator).__name__
        return f"ScipyOperator({kind}, {self.domain_shape} -> {self.range_shape})"


def _is_scipy(obj: Any) -> bool:
    sparse = sys.modules.get("scipy.sparse")
    if sparse is not None and sparse.issparse(obj):
        return True
    # PyLops' operators are not subclasses of SciPy's, but have their methods.
    return all(hasattr(obj, name) for name in ("matvec", "rmatvec", "shape", "dtype"))
