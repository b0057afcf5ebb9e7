"""One call of an operator or data term of the user before the first iteration.

`priors.first_call` does the same for priors. Faults are named here that would otherwise end in an
exception inside a solver, or in a wrong answer: a wrong adjoint, a function that is not linear, a
gradient or a proximal operator that does not belong to the value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.pytrees import tree_map
from invtoolbox.data_terms.base import DataTerm, Stack
from invtoolbox.errors import InputError
from invtoolbox.objective.initial_guess import initial_variable
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import LinearOperator, expand, inner, item_norm
from invtoolbox.operators.matrix import check_adjoint, check_linear
from invtoolbox.priors.first_call import is_foreign, naming_faults
from invtoolbox.problem import Problem

#: Largest relative distance of a gradient from the derivative of the value.
_UNLIKE = 0.1
#: Steps along the gradient, relative to the prediction, and the share of their decrease that a
#: proximal operator must reach.
_STEPS, _SHARE = (1.0, 0.3, 0.1, 0.03, 0.01), 0.9
#: Number of rounding errors of the value by which decreases may differ.
_ROUNDING = 100


def check_first_calls(problem: Problem) -> None:
    """Call operator and data term once if they are the user's, and refuse what gives wrong answers.

    Args:
        problem: measurements, operator and data term.

    Raises:
        InputError: a method raises, returns another shape than its contract, or changes its
            argument; a linear operator is not linear, or its adjoint fails the dot test by a
            tenth; the gradient of a data term is not the derivative of its value, or its proximal
            operator does not minimize.

    >>> import invtoolbox as it
    >>> class Shift(it.operators.LinearOperator):
    ...     domain_shape = range_shape = (1, 8)
    ...     __module__ = "mine"  # as the class of a user has
    ...     def _forward(self, x):
    ...         return x.roll(1, -1)
    ...     def _adjoint(self, y):
    ...         return -y.roll(-1, -1)  # the sign is wrong
    >>> try:
    ...     check_first_calls(it.Problem(torch.ones(1, 1, 8), Shift()))
    ... except InputError as error:
    ...     print(str(error).partition(":")[0])
    _adjoint is not the adjoint of Shift
    """
    with torch.no_grad():
        if is_foreign(problem.operator):
            _check_operator(problem)
        _check_term(problem.data_term, problem.y)


def _check_operator(problem: Problem) -> None:
    A = problem.operator
    x = torch.rand(
        problem.zeros().shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).to(problem.zeros())
    advice = "it.testing.check_operator(A) tests an operator alone"
    prediction = _call(f"{A}", A, x, advice=advice)
    shapes = [tuple(t.shape[1:]) for t in _parts(prediction) if isinstance(t, Tensor)]
    measured = [tuple(t.shape[1:]) for t in _parts(problem.y)]
    if shapes != measured or len(_parts(prediction)[0]) != len(x):
        got = ", ".join(
            f"shape {tuple(t.shape)}" if isinstance(t, Tensor) else type(t).__name__
            for t in _parts(prediction)
        )
        raise InputError(
            f"{A} returns {got} for images of shape {tuple(x.shape)}, and its range_shape "
            f"{A.range_shape} promises ({len(x)}, ...) in front of it"
        )
    precisions = {t.dtype.to_real() for t in (x, *_parts(prediction))}
    if len(precisions) > 1:
        names = " and ".join(sorted(str(p).removeprefix("torch.") for p in precisions))
        raise InputError(
            f"{A} mixes {names}: its prediction must have the precision of the image, "
            f"{x.dtype}; convert inside of it, .to(x.dtype), or give y in the other precision"
        )
    if not isinstance(A, LinearOperator) or A.items is not None:
        return
    alone = prediction if len(x) == 1 else _call(f"{A}", A, x[:1], advice=advice)
    count = len(_parts(alone)[0])
    if count != 1:
        raise InputError(
            f"{A} returns {count} items for one image; if its values differ from item to item, it "
            f"needs the attribute items = {count}, and parameters(), which returns them by name"
        )
    domain = tuple(x.shape[1:])
    check_linear(A._forward, domain, x, str(A), "derive it from it.operators.Operator")
    y = tree_map(torch.ones_like, prediction)
    _call(f"the adjoint of {A}", A.adjoint, y, advice=advice)
    check_adjoint(A._forward, A._adjoint, domain, x, str(A), "_adjoint")


def check_implicit(objective: Objective) -> None:
    """Decode the first parameters of an implicit prior of the user, and refuse what no solver takes.

    Args:
        objective: problem and prepared priors.

    Raises:
        InputError: ``decode`` raises, returns images of another shape, or has no derivative; or
            ``energy`` mixes the items.
    """
    implicit, layout = objective.prior.implicit, objective.layout
    if implicit is None or layout is None or not is_foreign(implicit):
        return
    problem = objective.problem
    parameters = layout.unpack(initial_variable(objective, None, at_zero=True))
    parameters = {name: parameters[name] for name in implicit.initial()}
    with torch.enable_grad():
        free = {name: t.detach().clone().requires_grad_(True) for name, t in parameters.items()}
        with naming_faults(
            f"{implicit!r}.decode",
            ", ".join(f"{name} {tuple(t.shape)}" for name, t in free.items()),
        ):
            x = implicit.decode(free)
            energy = implicit.energy(free, x)
    if energy.shape != (problem.batch,):
        raise InputError(
            f"{implicit!r}.energy returns shape {tuple(energy.shape)} for {problem.batch} items, "
            f"expected ({problem.batch},): sum over all axes but the first"
        )
    if not isinstance(x, Tensor):
        return  # Gaussians, meshes and other forms of their own
    expected = (problem.batch, *problem.image_shape)
    if x.shape != expected:
        raise InputError(
            f"{implicit!r}.decode returns shape {tuple(x.shape)}, and images have {expected}"
        )
    if not x.requires_grad:
        raise InputError(
            f"{implicit!r}.decode has no derivative, because it leaves torch or detaches; compute x "
            "from the parameters that it gets, with operations of torch"
        )


def _check_term(term: DataTerm, y: Any) -> None:
    if isinstance(term, Stack) and isinstance(y, tuple):
        for each, measured in zip(term.terms, y):
            _check_term(each, measured)
        return
    # A term that prepares itself may have no value before.
    is_ready = type(term).prepare is DataTerm.prepare
    if not is_ready or not is_foreign(term) or not isinstance(y, Tensor):
        return
    # Between y and its mean, so that a prediction of counts is one of counts.
    p = 0.75 * y + 0.25 * y.abs().flatten(1).mean(1).view(-1, *[1] * (y.ndim - 1))
    advice = "it.testing.check_data_term(term, prediction, y) tests a data term alone"
    name = repr(term)
    value = _call(f"{name}.value", lambda q: term.value(q, y), p, advice=advice)
    if value.shape != (len(y),):
        raise InputError(
            f"{name}.value returns shape {tuple(value.shape)} for {len(y)} items, expected "
            f"({len(y)},): sum over all axes but the first, .flatten(1).sum(1)"
        )
    derivative = _differentiate(term, p, y)
    writes_gradient = type(term).grad is not DataTerm.grad or term.is_quadratic
    if derivative is None and not writes_gradient:
        if "prox" in term.offers:
            return
        raise InputError(
            f"{name}.value has no derivative, because it leaves torch or detaches; compute it with "
            "operations of torch, or write grad(prediction, y) too"
        )
    if writes_gradient:
        gradient = _call(f"{name}.grad", lambda q: term.grad(q, y), p, advice=advice)
        _same_shape(f"{name}.grad", gradient, p)
        if derivative is not None and _is_unlike(gradient, derivative):
            raise InputError(
                f"{name}.grad is not the gradient of its value: they differ by more than a tenth; "
                "leave grad out for that of automatic differentiation"
            )
        derivative = gradient
    if "prox" in term.offers and derivative is not None:
        _check_prox(term, p, y, value, derivative, advice)


def _differentiate(term: DataTerm, p: Tensor, y: Tensor) -> Tensor | None:
    """Return the derivative of the value by automatic differentiation, None if it has none."""
    with torch.enable_grad():
        free = p.clone().requires_grad_(True)
        value = _call(f"{term!r}.value", lambda q: term.value(q, y), free, advice="")
        if not value.requires_grad:
            return None
        (derivative,) = torch.autograd.grad(value.sum(), free, allow_unused=True)
    return derivative if isinstance(derivative, Tensor) else None


def _is_unlike(gradient: Tensor, derivative: Tensor) -> bool:
    if not bool(gradient.isfinite().all() & derivative.isfinite().all()):
        return False
    size = torch.maximum(item_norm(gradient), item_norm(derivative))
    return bool((item_norm(gradient - derivative) > _UNLIKE * size).any())


def _check_prox(
    term: DataTerm, p: Tensor, y: Tensor, value: Tensor, gradient: Tensor, advice: str
) -> None:
    """Compare ``D(u) + |u - p|^2 / (2 t)`` at the proximal point with points along the gradient."""
    slope, size = item_norm(gradient), item_norm(p)
    if not bool((slope.isfinite() & (slope > 0) & (size > 0) & value.isfinite()).all()):
        return
    step = size / slope

    def objective(u: Tensor) -> Tensor:
        return term.value(u, y) + inner(u - p, u - p) / (2 * step)

    point = _call(f"{term!r}.prox", lambda q: term.prox(q, y, step), p, advice=advice)
    _same_shape(f"{term!r}.prox", point, p)
    tried = [objective(p - expand(factor * step, p) * gradient) for factor in _STEPS]
    best = torch.stack([t.nan_to_num(nan=torch.inf) for t in tried]).amin(0)
    reached, possible = value - objective(point), value - best
    # A large constant, such as the log-factorials of counts, hides small decreases.
    rounding = _ROUNDING * torch.finfo(value.dtype).eps * value.abs()
    if bool((reached < _SHARE * possible - rounding).any()):
        raise InputError(
            f"{term!r}.prox is not argmin_u D(u, y) + |u - prediction|^2 / (2 step): a step along "
            "the gradient is lower; leave prox out, or mend it (step is one number per item)"
        )


def _call(what: str, method: Callable[[Any], Any], argument: Any, advice: str) -> Any:
    before = tree_map(lambda t: t.detach().clone(), argument)
    shapes = ", ".join(str(tuple(t.shape)) for t in _parts(argument))
    with naming_faults(what, f"an argument of shape {shapes}", advice):
        result = method(argument)
    for tensor in _parts(result):
        if not isinstance(tensor, Tensor):
            raise InputError(f"{what} returns {type(tensor).__name__}, expected a torch tensor")
    if any(not torch.equal(a.detach(), b) for a, b in zip(_parts(argument), _parts(before))):
        raise InputError(f"{what} changes its argument; write x = x - 0.5 in place of x -= 0.5")
    return result


def _parts(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _same_shape(what: str, value: Tensor, like: Tensor) -> None:
    if value.shape != like.shape:
        raise InputError(
            f"{what} returns shape {tuple(value.shape)} for predictions of shape "
            f"{tuple(like.shape)}; they must be equal"
        )
