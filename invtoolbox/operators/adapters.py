"""SciPy's operators and sparse matrices, and everything that speaks their language: PyLops, ODL's export, ASTRA's OpTomo.

Operators from other packages, and back to deepinv.
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
from invtoolbox.operators.matrix import Function, LinearFunction, Matrix, infer_shape


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
        self.domain_shape = infer_shape(domain_shape, n, "columns", "domain_shape")
        self.range_shape = infer_shape(range_shape, m, "rows", "range_shape")

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


def as_operator(
    obj: Any,
    domain_shape: Sequence[int] | None = None,
    range_shape: Shapes | None = None,
    *,
    linear: bool | None = None,
    adjoint: Callable[[Any], Tensor] | None = None,
    channelwise: bool = False,
) -> Operator:
    """An operator from something that another package made.

    ============================================  ===============================================================
    ``obj``                                       becomes
    ============================================  ===============================================================
    deepinv ``Physics`` or ``LinearPhysics``      its noiseless ``A`` and ``A_adjoint``, of a copy
    SciPy ``LinearOperator``, sparse matrix       `ScipyOperator`: also PyLops, ODL's export, ASTRA's ``OpTomo``
    array or tensor ``(m, n)``, ``(batch, m, n)``  `Matrix`
    function or ``torch.nn.Module``               `Function`; `LinearFunction` where ``linear=True``
    an operator                                   itself
    ============================================  ===============================================================

    Args:
        domain_shape: ``(channel, *space)`` of the images, where ``obj`` does not tell it. Functions need it.
        range_shape: the same of the measurements; found by applying ``obj`` once where it is not given.
        linear: of a function, that it is linear: its adjoint is then ``adjoint``, or automatic differentiation's.
        adjoint: the adjoint of a linear function; implies ``linear``.
        channelwise: ``obj`` treats every channel alike, so that images of any number of channels are accepted.

    Raises:
        InputError: an object that is none of these, shapes that do not fit, a function that is said to be linear
            and is not.

    >>> import scipy.sparse.linalg, torch
    >>> A = as_operator(scipy.sparse.linalg.aslinearoperator(2 * np.eye(4)), (1, 2, 2))
    >>> A(torch.ones(1, 1, 2, 2)).sum()
    tensor(8.)
    """
    if isinstance(obj, Operator):
        return obj
    # Such an object can exist only where its package is already imported.
    if "deepinv" in sys.modules and isinstance(obj, sys.modules["deepinv"].physics.Physics):
        from invtoolbox.operators.deepinv_physics import from_physics

        return from_physics(obj, domain_shape, channelwise)
    if isinstance(obj, (np.ndarray, Tensor)):
        return Matrix(obj, domain_shape, cast("Sequence[int] | None", range_shape))
    if _is_scipy(obj):
        return ScipyOperator(obj, domain_shape, cast("Sequence[int] | None", range_shape))
    if callable(obj):
        if domain_shape is None:
            raise InputError(
                "as_operator of a function needs domain_shape=(channel, *space), the shape of its images"
            )
        if linear or adjoint is not None:
            return LinearFunction(obj, domain_shape, range_shape, channelwise, adjoint)
        return Function(obj, domain_shape, range_shape, channelwise)
    raise InputError(
        f"as_operator takes a deepinv physics, a SciPy LinearOperator or sparse matrix, an array, a "
        f"torch.nn.Module or a function, got {type(obj).__name__}"
    )


def to_deepinv(A: Operator) -> Any:
    """A deepinv ``LinearPhysics`` (or ``Physics``, where ``A`` is not linear) without noise, for deepinv's reconstructors.

    Parameters of ``A`` may be passed by name, ``physics.A(x, kernel=k)``; a tuple of measurements becomes a
    ``TensorList``. ``A_dagger`` and ``prox_l2`` use the closed forms of ``A`` where it has them.

    >>> import invtoolbox as it, torch
    >>> physics = it.to_deepinv(it.operators.Identity((1, 4, 4)))
    >>> physics.A_adjoint(torch.ones(1, 1, 4, 4)).shape
    torch.Size([1, 1, 4, 4])
    """
    from invtoolbox.operators.deepinv_physics import OperatorLinearPhysics, OperatorPhysics

    if not isinstance(A, Operator):
        raise InputError(f"to_deepinv takes an operator, got {type(A).__name__}")
    return OperatorLinearPhysics(A) if isinstance(A, LinearOperator) else OperatorPhysics(A)


def _is_scipy(obj: Any) -> bool:
    sparse = sys.modules.get("scipy.sparse")
    if sparse is not None and sparse.issparse(obj):
        return True
    # PyLops' operators are no subclass of SciPy's, but have its methods.
    return all(hasattr(obj, name) for name in ("matvec", "rmatvec", "shape", "dtype"))
