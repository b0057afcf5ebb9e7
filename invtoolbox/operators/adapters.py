"""Conversions from and to other packages: `as_operator`, `to_scipy`, `to_pylops`.

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

from invtoolbox.core.environment import optional_package
from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator, Operator, Shapes
from invtoolbox.operators.matrix import (
    ApplyLinear,
    Function,
    LinearFunction,
    Matrix,
    SparseMatrix,
    infer_shapes,
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
        InputError: if the object is none of these, if shapes do not fit, if a function that is
            declared linear is not linear, or if ``adjoint`` fails the dot test by a tenth.

    >>> import scipy.sparse.linalg, torch
    >>> A = as_operator(scipy.sparse.linalg.aslinearoperator(2 * np.eye(4)), (1, 2, 2))
    >>> A(torch.ones(1, 1, 2, 2)).sum()
    tensor(8.)
    """
    if isinstance(obj, Operator):
        return obj
    if _is_exported(obj):
        return cast(Operator, obj.operator)
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
    if type(obj).__module__.partition(".")[0] == "odl":
        if not hasattr(obj, "adjoint"):
            raise InputError(
                f"a {type(obj).__name__} of ODL is no operator; a geometry becomes one by "
                "it.operators.from_odl(geometry, space)"
            )
        raise InputError(
            f"an operator of ODL, such as this {type(obj).__name__}, comes in as it.as_operator("
            "odl.as_scipy_operator(operator), (channel, *space)); a scan as it.operators.from_odl("
            "geometry, space)"
        )
    if callable(obj):
        if domain_shape is None:
            raise InputError(
                "as_operator of a function needs domain_shape=(channel, *space), the shape of its "
                "images: A = it.as_operator(function, domain_shape=(1, 64, 64)), for example"
            )
        if linear or adjoint is not None:
            return LinearFunction(obj, domain_shape, range_shape, channelwise, adjoint)
        return Function(obj, domain_shape, range_shape, channelwise)
    if isinstance(obj, dict) and "type" in obj:
        raise InputError(
            "a geometry of ASTRA becomes an operator by it.operators.from_astra(proj_geom, vol_geom)"
        )
    if isinstance(obj, (tuple, list)) and len(obj) == 2 and all(map(callable, obj)):
        raise InputError(
            "a function and its adjoint become an operator by it.as_operator(function, "
            "domain_shape=(1, 64, 64), adjoint=adjoint), for example"
        )
    raise InputError(
        "as_operator takes a deepinv physics, a SciPy LinearOperator or sparse matrix, an array, a "
        f"torch.nn.Module or a function, got {type(obj).__name__}"
    )


def to_physics(A: Operator) -> Any:
    """Convert an operator to a deepinv physics, see `it.to_deepinv`."""
    from invtoolbox.operators.deepinv_physics import (
        DeepinvOperator,
        OperatorLinearPhysics,
        OperatorPhysics,
    )

    if isinstance(A, DeepinvOperator):
        return A.to_physics()
    return OperatorLinearPhysics(A) if isinstance(A, LinearOperator) else OperatorPhysics(A)


def to_scipy(A: Operator, dtype: torch.dtype = torch.float64) -> Any:
    """Convert one item of a linear operator to a ``scipy.sparse.linalg.LinearOperator``.

    SciPy's solvers take the result, for example ``scipy.sparse.linalg.lsqr``. Vectors are images
    and measurements of one item, flattened in C order, channel first; a tuple of measurements is
    one vector, part after part. The computation is on the device of the parameters of ``A``.
    `as_operator` of the result is ``A`` again.

    Args:
        A: linear operator. If its parameters differ per item, select one item first,
            ``A.select(torch.tensor([k]))``.
        dtype: precision of the vectors. An operator that is complex takes and returns complex
            vectors of this precision.

    Raises:
        InputError: if ``A`` is not linear, or its parameters belong to several items.

    >>> import invtoolbox as it, scipy.sparse.linalg
    >>> A = it.operators.Blur(torch.tensor([[0.1, 0.8, 0.1]]), (4, 5))
    >>> linear = it.to_scipy(A)
    >>> linear.shape, linear.dtype
    ((20, 20), dtype('float64'))
    >>> x = scipy.sparse.linalg.lsqr(linear, linear @ np.arange(20.0), atol=1e-12, btol=1e-12)[0]
    >>> bool(abs(x - np.arange(20.0)).max() < 1e-6)
    True
    """
    from invtoolbox.operators.scipy_export import ExportedOperator, probe_dtype

    linear = _one_item("to_scipy", A)
    return ExportedOperator(linear, probe_dtype(linear, dtype))


def to_pylops(A: Operator, dtype: torch.dtype = torch.float64) -> Any:
    """Convert one item of a linear operator to a ``pylops.LinearOperator``.

    ``dims`` and ``dimsd`` are ``domain_shape`` and ``range_shape``, without a channel axis of
    length 1; arrays of these shapes are accepted. A tuple of measurements is one vector.

    Args:
        A: linear operator, as in `to_scipy`.
        dtype: precision, as in `to_scipy`.

    Raises:
        InputError: if ``A`` is not linear, or its parameters belong to several items.
        MissingDependency: if PyLops is not installed.
    """
    operator = _one_item("to_pylops", A)
    linear = to_scipy(operator, dtype)
    pylops = optional_package(
        "pylops", "to_pylops creates an operator of PyLops, which is not installed;", "interop"
    )
    from invtoolbox.operators.scipy_export import has_parts

    domain, measured = A.domain_shape, (linear.shape[0],) if has_parts(operator) else A.range_shape
    dims, dimsd = (s[1:] if len(s) > 1 and s[0] == 1 else s for s in (domain, measured))
    return pylops.LinearOperator(Op=linear, dtype=linear.dtype, dims=dims, dimsd=dimsd)


def _one_item(name: str, A: Operator) -> LinearOperator:
    """Return a linear operator for one item, or raise the error of the function ``name``."""
    if not isinstance(A, LinearOperator):
        raise InputError(f"{name} takes a linear operator, got {A!r}")
    if A.items not in (None, 1):
        raise InputError(
            f"{name} takes an operator for one item, but the parameters of {A} belong to {A.items} "
            "items; select one, A.select(torch.tensor([k]))"
        )
    return A


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
        dims, dimsd = getattr(operator, "dims", None), getattr(operator, "dimsd", None)
        if domain_shape is None and isinstance(dims, (tuple, list)):
            domain_shape = (1, *(int(k) for k in dims))
        if range_shape is None and isinstance(dimsd, (tuple, list)):
            range_shape = (1, *(int(k) for k in dimsd))
        self.operator = operator
        size = tuple(int(k) for k in operator.shape)
        self.domain_shape, self.range_shape = infer_shapes(domain_shape, range_shape, size)

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
            try:
                result = np.stack([np.asarray(apply(row.copy())).reshape(-1) for row in array])
            except NotImplementedError as error:
                name = "rmatvec" if transpose else "matvec"
                raise InputError(
                    f"{self} has no {name}; give the LinearOperator one, {name}=lambda v: ..."
                ) from error
        tensor = torch.from_numpy(np.ascontiguousarray(result)).to(x.device)
        dtype = torch.promote_types(x.dtype, torch.complex64) if tensor.is_complex() else x.dtype
        return tensor.to(dtype).reshape(x.shape[0], *shape)

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


def _is_exported(obj: Any) -> bool:
    module = sys.modules.get("invtoolbox.operators.scipy_export")
    return module is not None and isinstance(obj, module.ExportedOperator)


def _is_scipy(obj: Any) -> bool:
    sparse = sys.modules.get("scipy.sparse")
    if sparse is not None and sparse.issparse(obj):
        return True
    # PyLops' operators are not subclasses of SciPy's, but have their methods.
    return all(hasattr(obj, name) for name in ("matvec", "rmatvec", "shape", "dtype"))
