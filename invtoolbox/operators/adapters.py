"""Operators from other packages, and back to deepinv."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator, Operator, Shapes
from invtoolbox.operators.function import Function, LinearFunction
from invtoolbox.operators.matrix import Matrix
from invtoolbox.operators.scipy_operator import ScipyOperator


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
