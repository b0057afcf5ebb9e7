"""`check_data_term`: compare value, gradient, prox and curvature of a misfit with each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from invtoolbox.data_terms.base import DataTerm
from invtoolbox.operators.base import inner, item_norm
from invtoolbox.testing.common import (
    Checklist,
    Report,
    check_items,
    check_kind,
    check_purity,
    derivative,
    gap,
    in_precision,
    item,
    map_parts,
    parts,
    precision,
    randn_like,
)
from invtoolbox.testing.operators import PRECISIONS
from invtoolbox.testing.prior_methods import check_minimizes


def check_data_term(
    term: DataTerm,
    prediction: Any,
    y: Any,
    *,
    precisions: Sequence[torch.dtype] = PRECISIONS,
    seed: int = 0,
    prox_tolerance: float = 1e-6,
    raise_error: bool = True,
) -> Report:
    """Test a data term on predictions and measurements with at least two different items.

    ``value`` has shape ``(batch,)``, items are independent, and a call changes nothing. In float64:
    ``grad`` is the gradient of ``value`` (finite differences), ``prox`` minimizes its objective,
    ``weighted`` gives ``value``, ``curvature`` bounds the slope of ``grad``, and
    ``residual_weights`` make the gradient and, if ``is_majorizer``, a majorant. A term for
    nonnegative predictions (counts) is not tested at negative ones.

    Args:
        term: data term.
        prediction: predictions, ``(batch, ...)``.
        y: measurements, ``(batch, ...)``.
        precisions: dtypes of the tests.
        seed: seed of the random directions.
        prox_tolerance: relative violation of the minimum that is allowed to an iterative prox.
        raise_error: whether a fault raises an `AssertionError` with one sentence; otherwise it is
            only reported.

    >>> import invtoolbox as it
    >>> term = it.data_terms.LeastSquares(noise_std=0.1)
    >>> check_data_term(term, torch.rand(2, 1, 5), torch.rand(2, 1, 5)).ok
    True
    """
    check = Checklist(repr(term))
    term.check(y)
    for dtype in precisions:
        _check_in(
            check, term.to(dtype), in_precision(prediction, dtype), in_precision(y, dtype), dtype
        )
    wide = torch.float64
    _check_forms(
        check,
        term.to(wide),
        in_precision(prediction, wide),
        in_precision(y, wide),
        seed,
        prox_tolerance,
    )
    return check.finish(raise_error)


def _check_in(check: Checklist, term: DataTerm, p: Any, y: Any, dtype: torch.dtype) -> None:
    name, batch = f"({str(dtype).removeprefix('torch.')})", len(parts(p)[0])
    scaled = map_parts(lambda q: 1.25 * q, p)
    value = check_purity(check, term, f"value {name}", term.value, (p, y), (scaled, y))
    if not check.holds(
        f"value has shape (batch,) {name}",
        tuple(value.shape) == (batch,),
        f"value has shape {tuple(value.shape)}, expected one number for each of {batch} items; "
        "sum over every axis but the first, r.flatten(1).sum(1)",
    ):
        return
    check_kind(check, f"value {name}", value, parts(p)[0])
    if not check.holds(
        f"value is finite {name}",
        bool(value.isfinite().all()),
        f"value is {value.tolist()} at these predictions; they lie outside of its domain, "
        "so give others",
    ):
        return
    index = [torch.tensor([k], device=value.device) for k in range(batch)]
    check_items(
        check,
        "value",
        value,
        lambda k: term.select(index[k]).value(item(p, k), item(y, k)),
        batch,
        dtype,
    )
    grad = check_purity(check, term, f"grad {name}", term.grad, (p, y), (scaled, y))
    check.holds(
        f"grad has the prediction's shape {name}",
        [g.shape for g in parts(grad)] == [q.shape for q in parts(p)],
        "grad does not have the shape of the prediction",
    )
    check_kind(check, f"grad {name}", grad, parts(p)[0])
    both = term.value_and_grad(p, y)
    check.at_most(
        f"value_and_grad is both {name}",
        gap((both[0], *parts(both[1])), (value, *parts(grad))),
        1e-12,
        "value_and_grad is not (value, grad): they differ by {figure:.1e} relative",
    )
    check_items(
        check,
        "grad",
        grad,
        lambda k: term.select(index[k]).grad(item(p, k), item(y, k)),
        batch,
        dtype,
    )


def _check_forms(
    check: Checklist, term: DataTerm, p: Any, y: Any, seed: int, prox_tolerance: float
) -> None:
    if any("value" in f.name and not f.ok for f in check.findings):
        return
    direction = randn_like(p, seed)
    if term.is_for_nonnegative:
        # A multiple of the prediction in every entry, so that short steps change no sign.
        direction = map_parts(lambda d, q: d * q.abs(), direction, p)
    step = 1e-4 * max(float(q.abs().mean()) for q in parts(p)) + 1e-12

    def along(t: Tensor) -> Tensor:
        return term.value(_move(p, direction, t), y)

    slope = derivative(
        along, torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64), step
    )
    grad = term.grad(p, y)
    expected = inner(grad, direction)
    check.at_most(
        "grad belongs to value",
        (slope - expected).abs() / _size(grad, direction),
        1e-5,
        "grad is not the gradient of value: along a random direction they differ by "
        "{figure:.1e} relative",
    )
    if "weighted" in term.offers and term.is_quadratic:
        residual = p - y
        half = 0.5 * inner(residual, term.weighted(residual))
        check.at_most(
            "weighted makes the value",
            gap(half, term.value(p, y)),
            1e-10,
            "1/2 <r, W r> with W r = weighted(r) is not value: "
            "they differ by {figure:.1e} relative",
        )
        left, right = (
            inner(term.weighted(direction), residual),
            inner(direction, term.weighted(residual)),
        )
        check.at_most(
            "weighted is symmetric",
            (left - right).abs() / _size(direction, term.weighted(residual)),
            1e-10,
            "weighted is not symmetric: <W a, b> and <a, W b> differ by {figure:.1e} relative",
        )
    bound = term.curvature(y)
    if bound is not None:
        for point in (
            _move(p, direction, 1.0),
            _move(p, direction, 1e-3),
            _move(p, direction, -0.3),
        ):
            if term.is_for_nonnegative:
                point = map_parts(torch.abs, point)
            change = item_norm(_move(term.grad(point, y), grad, -1.0)) / item_norm(
                _move(point, p, -1.0)
            ).clamp_min(1e-300)
            check.at_most(
                "curvature bounds grad",
                (change / bound.clamp_min(1e-300)),
                1 + 1e-6,
                "curvature is too small: grad changes {figure:.3f} times as fast as it allows",
            )
    if "residual_weights" in term.offers:
        _check_weights(check, term, p, y, direction)
    if "prox" in term.offers and isinstance(p, Tensor):
        bounds = (
            torch.ones(1, dtype=torch.float64, device=p.device)
            if bound is None
            else bound.to(precision(p))
        )
        for factor in (0.1, 1.0, 10.0):
            t = (factor / bounds).expand(len(p))
            minimizer = term.prox(p, y, t)
            check_minimizes(
                check,
                f"prox at step {factor:g}",
                lambda u: term.value(u, y),
                minimizer,
                x=p,
                step=t,
                convex=term.is_convex,
                tolerance=prox_tolerance,
                seed=seed,
                gradient=lambda u: term.grad(u, y),
            )
            again = term.prox(item(p, 0), item(y, 0), t[:1]) if len(p) == 1 else None
            alone = (
                again
                if again is not None
                else term.select(torch.tensor([1])).prox(item(p, 1), item(y, 1), t[1:2])
            )
            check.at_most(
                "prox item by item",
                gap(item(minimizer, min(1, len(p) - 1)), alone),
                1e-10,
                "prox gives an item another result alone than in a batch, by {figure:.1e} relative",
            )


def _check_weights(
    check: Checklist, term: DataTerm, p: Tensor, y: Tensor, direction: Tensor
) -> None:
    weights, residual = term.residual_weights(p, y), p - y
    check.at_most(
        "residual_weights make the gradient",
        gap(weights * residual, term.grad(p, y)),
        1e-10,
        "residual_weights(p, y) * (p - y) is not the gradient: "
        "they differ by {figure:.1e} relative",
    )
    if not term.is_majorizer:
        return
    here = term.value(p, y)
    for t in (1.0, -1.0, 0.1, 30.0):
        shifted = p + t * direction - y
        bound = here + 0.5 * (
            inner(shifted, weights * shifted) - inner(residual, weights * residual)
        )
        check.at_most(
            "residual_weights majorize",
            (term.value(y + shifted, y) - bound) / bound.abs().clamp_min(1e-300),
            1e-9,
            "1/2 <r, w r> with w = residual_weights is below value somewhere, by {figure:.1e} of "
            "it; so is_majorizer is wrong",
        )


def _size(a: Any, b: Any) -> Tensor:
    return (item_norm(a) * item_norm(b)).clamp_min(1e-300)


def _move(value: Any, direction: Any, t: float | Tensor) -> Any:
    return map_parts(lambda p, d: p + t * d, value, direction)
