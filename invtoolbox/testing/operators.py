"""`check_operator`: test an operator against its contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator, Operator, expand, item_norm
from invtoolbox.testing.common import (
    ROUNDING,
    Checklist,
    Report,
    check_items,
    check_kind,
    check_purity,
    gap,
    in_precision,
    item,
    map_parts,
    parts,
    randn_like,
)

PRECISIONS = (torch.float32, torch.float64)


def check_operator(
    A: Operator,
    x: Tensor | None = None,
    *,
    batch: int = 3,
    precisions: Sequence[torch.dtype] = PRECISIONS,
    seed: int = 0,
    raise_error: bool = True,
) -> Report:
    r"""Test an operator against its contract, on random images.

    The tests of every operator: shapes, precision and device are as stated, a call changes nothing,
    a second call is bitwise equal, an item gives the same result alone and in a batch, and
    automatic differentiation passes through the operator.

    The tests of a linear operator: the dot test

    .. math:: |\langle A x, y \rangle - \langle x, A^T y \rangle| \,/\, (|A x| \, |y|)

    with sums in float64 (at most 1e-5 in float32, 1e-12 in float64), linearity, `norm` not below
    the factor by which the operator scales an image, and `normal_resolvent` if there is one. The
    tests of a nonlinear operator: the Jacobian against finite differences in float64, and the dot
    test of the Jacobian.

    Args:
        A: operator.
        x: images ``(batch, channel, *space)`` of the tests, if standard normal ones make no sense
            (the unit may matter to a nonlinear operator, or images may be complex).
        batch: number of random images, if the operator does not define it.
        precisions: dtypes, tested one by one on ``A.to(precision)``.
        seed: seed of the random images.
        raise_error: whether a fault raises an error; otherwise it is only reported.

    Raises:
        AssertionError: There is a fault; the message is one sentence about the first one.

    >>> import invtoolbox as it
    >>> check_operator(it.operators.FiniteDifference((1, 5, 4))).ok
    True
    """
    if not isinstance(A, Operator):
        raise InputError(
            f"check_operator takes an operator, got a {type(A).__name__}; it.as_operator converts "
            "functions, matrices and operators of other packages"
        )
    missing = [name for name in ("domain_shape", "range_shape") if not hasattr(A, name)]
    if missing:
        raise InputError(
            f"{type(A).__name__} has no {' and no '.join(missing)}; set the shapes (channel, *space) "
            "of images and of measurements in __init__"
        )
    check = Checklist(repr(A))
    if x is None:
        x = torch.zeros(A.items or batch, *A.domain_shape, dtype=torch.float64, device=_device(A))
        x = randn_like(x, seed)
    for dtype in precisions:
        with check.attempt(f"the operator ({str(dtype).removeprefix('torch.')})"):
            _check_in(check, A.to(dtype), in_precision(x, dtype), dtype, seed)
    return check.finish(raise_error)


def _check_in(check: Checklist, A: Operator, x: Tensor, dtype: torch.dtype, seed: int) -> None:
    name = f"({str(dtype).removeprefix('torch.')})"
    Ax = check_purity(check, A, f"A(x) {name}", A, (x,), (2 * x + 1,))
    shapes = (
        A.range_shape if A.range_shape and isinstance(A.range_shape[0], tuple) else (A.range_shape,)
    )
    got = tuple(tuple(p.shape) for p in parts(Ax))
    expected_shapes = tuple((len(x), *_channels(shape, x, A)) for shape in shapes)  # type: ignore[arg-type]
    if not check.holds(
        f"range_shape {name}",
        got == expected_shapes,
        f"A(x) has shape {got}, but range_shape is {expected_shapes}",
    ):
        return
    check_kind(check, f"A(x) {name}", Ax, x)
    check_items(
        check,
        "A(x)",
        Ax,
        lambda k: A.select(torch.tensor([k], device=x.device))(item(x, k)),
        len(x),
        dtype,
    )
    if isinstance(A, LinearOperator):
        _check_linear(check, A, x, Ax, dtype=dtype, name=name, seed=seed)
    elif dtype == torch.float64:
        _check_jacobian(check, A, x, Ax, seed)


def _check_linear(
    check: Checklist,
    A: LinearOperator,
    x: Tensor,
    Ax: Any,
    dtype: torch.dtype,
    name: str,
    seed: int,
) -> None:
    limit = ROUNDING[dtype]
    y = randn_like(Ax, seed + 1)
    back = check_purity(
        check, A, f"A.adjoint(y) {name}", A.adjoint, (y,), (randn_like(Ax, seed + 2),)
    )
    if not check.holds(
        f"domain_shape {name}",
        back.shape == x.shape,
        f"A.adjoint(y) has shape {tuple(back.shape)}, expected the shape of x, {tuple(x.shape)}",
    ):
        return
    check_kind(check, f"A.adjoint(y) {name}", back, x)
    check_items(
        check,
        "A.adjoint(y)",
        back,
        lambda k: A.select(torch.tensor([k], device=x.device)).adjoint(item(y, k)),
        len(x),
        dtype,
    )
    check.at_most(
        f"dot test {name}",
        _dot_error(x, Ax, y, back),
        limit,
        "the adjoint is not the adjoint: <Ax, y> and <x, A^T y> differ by {figure:.1e} "
        "relative to |Ax| |y|",
    )
    z = randn_like(x, seed + 3)
    together, apart = A(x - 2 * z), map_parts(lambda p, q: p - 2 * q, Ax, A(z))
    check.at_most(
        f"linearity {name}",
        gap(together, apart),
        10 * limit,
        "the operator is not linear: A(x - 2 z) and A x - 2 A z differ by {figure:.1e} relative",
    )
    _check_autograd(check, A, x=x, y=y, expected=back, limit=10 * limit, name=name)
    v = A.normal(x)
    v = v / expand(item_norm(v).clamp_min(torch.finfo(dtype).tiny), v)
    norm = A.norm(dtype=dtype, device=x.device)
    check.holds(
        f"norm has shape {name}",
        tuple(norm.shape) == (A.items or 1,),
        f"A.norm() has shape {tuple(norm.shape)}, expected ({A.items or 1},)",
    )
    if A.items is not None:
        alone = [
            A.select(torch.tensor([k], device=x.device)).norm(dtype=dtype, device=x.device)
            for k in range(A.items)
        ]
        check.at_most(
            f"norm item by item {name}",
            gap(torch.cat(alone), norm),
            limit,
            "A.norm() gives an item another value alone than in a batch, by {figure:.1e} relative",
        )
    check.at_most(
        f"norm {name}",
        item_norm(A(v)) / norm.clamp_min(torch.finfo(dtype).tiny),
        1.01,
        "A.norm() is too small: there is an image that the operator makes longer than that, "
        "{figure:.3f} times",
    )
    if A.has_normal_resolvent:
        rho = torch.linspace(
            0.5, 2.0, len(x), dtype=dtype, device=x.device
        ) * norm.square().max().clamp_min(1e-30)
        solved = A.normal_resolvent(x, rho, 1.5)
        check.at_most(
            f"normal_resolvent {name}",
            gap(1.5 * A.normal(solved) + expand(rho, x) * solved, x),
            100 * limit,
            "normal_resolvent(v, rho, w) does not solve (w A^T A + rho) u = v: "
            "the residual is {figure:.1e} relative",
        )


def _check_autograd(
    check: Checklist, A: Operator, x: Tensor, y: Any, expected: Tensor, limit: float, name: str
) -> None:
    """Check that the gradient of <A(x), y> is A^T y, or J^T y."""
    with torch.enable_grad():
        free = x.detach().clone().requires_grad_(True)
        total = sum(
            (p * q.conj()).real.sum() if p.is_complex() else (p * q).sum()
            for p, q in zip(parts(A(free)), parts(y))
        )
    passes = isinstance(total, Tensor) and total.requires_grad
    if check.holds(
        f"differentiable {name}",
        passes,
        "automatic differentiation does not pass through A(x); write it in torch, "
        "or as a torch.autograd.Function",
    ):
        assert isinstance(total, Tensor)
        (gradient,) = torch.autograd.grad(total, free)
        check.at_most(
            f"gradient {name}",
            gap(gradient, expected),
            limit,
            "automatic differentiation of <A(x), y> gives another gradient than the adjoint, "
            "by {figure:.1e} relative",
        )


def _check_jacobian(check: Checklist, A: Operator, x: Tensor, Ax: Any, seed: int) -> None:
    direction = randn_like(x, seed + 4)
    direction = direction / expand(item_norm(direction), direction)
    step = 1e-4 * float(item_norm(x).max().clamp_min(1.0))
    jacobian = A.linearize(x)
    derivative = jacobian(direction)
    plus, minus = parts(A(x + step * direction)), parts(A(x - step * direction))
    differences = tuple((p - q) / (2 * step) for p, q in zip(plus, minus))
    check.at_most(
        "Jacobian",
        gap(differences, derivative),
        1e-4,
        "A.linearize(x) is not the derivative of A: "
        "it differs from finite differences by {figure:.1e} relative",
    )
    y = randn_like(Ax, seed + 1)
    back = jacobian.adjoint(y)
    check.at_most(
        "Jacobian dot test",
        _dot_error(direction, derivative, y, back),
        1e-10,
        "the adjoint of A.linearize(x) is not its adjoint: the dot test is off by {figure:.1e}",
    )
    _check_autograd(check, A, x=x, y=y, expected=back, limit=1e-10, name="(float64)")


def _dot_error(x: Tensor, Ax: Any, y: Any, back: Tensor) -> Tensor:
    """Return the error of the dot test of each item."""
    left = torch.stack([_inner(p, q) for p, q in zip(parts(Ax), parts(y))]).sum(0)
    size = (
        torch.stack([_inner(p, p) for p in parts(Ax)]).sum(0).sqrt()
        * torch.stack([_inner(q, q) for q in parts(y)]).sum(0).sqrt()
    )
    return (left - _inner(x, back)).abs() / size.clamp_min(torch.finfo(torch.float64).tiny)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    wide = torch.complex128 if a.is_complex() or b.is_complex() else torch.float64
    product = a.detach().to(wide).flatten(1) * b.detach().to(wide).flatten(1).conj()
    return product.sum(1).real


def _channels(shape: tuple[int, ...], x: Tensor, A: Operator) -> tuple[int, ...]:
    return (x.shape[1], *shape[1:]) if A.channelwise else tuple(shape)


def _device(A: Operator) -> torch.device:
    return next((t.device for t in A.parameters().values()), torch.device("cpu"))
