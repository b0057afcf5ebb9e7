"""The initial guess of an objective: the variable that a solver starts from, in its domain."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor

from invtoolbox.core.reductions import mean_items
from invtoolbox.data_terms.base import DataTerm
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError
from invtoolbox.objective.gaps import fill_gaps
from invtoolbox.objective.objective import Layout, Objective
from invtoolbox.objective.unknowns import Unknowns
from invtoolbox.operators.base import LinearOperator, Operator, check_shape, expand
from invtoolbox.operators.matrix import Function
from invtoolbox.operators.tomography.scan_2d import Scan
from invtoolbox.priors.base import ImplicitPrior
from invtoolbox.priors.first_call import is_foreign
from invtoolbox.problem import Problem, fitted_back_projection

#: Constant images, in sizes of a measurement, that replace a start at a saddle.
_LEVELS = tuple(10 ** (k / 4) for k in range(-12, 13))
#: Least gain, relative to the misfit, by which a constant image is better than rounding.
_GAIN = 1e-3


def first_guess(problem: Problem, inverse: bool = False) -> Tensor:
    """Return the image that solvers start from, ``(batch, channel, *space)``.

    It is the back-projection, scaled to fit the measurements best. It is zero if predictions and
    measurements are of different kinds, and for an item whose back-projection is not finite. The
    start of phase retrieval, and of a nonlinear operator of the user or of deepinv, is zero, or a
    constant if zero is a saddle.

    Args:
        problem: measurements, operator and data term.
        inverse: take the filtered back-projection of a scan, if it has one.
    """
    alike = problem.data_term.is_quadratic or problem.data_term.is_of_residual
    if not problem.is_linear and _takes_any_image(problem.operator):
        return _leave_saddle(problem)
    if not alike:
        return problem.zeros()
    guess = filtered_back_projection(problem) if inverse and is_scan(problem) else None
    if guess is None:
        guess = fitted_back_projection(fill_gaps(problem))
    # If squares overflow, the item starts at 0: the last finite iterate of a solve then exists.
    finite = torch.isfinite(guess).reshape(len(guess), math.prod(guess.shape[1:])).all(1)
    return torch.where(finite.view(-1, *[1] * (guess.ndim - 1)), guess, torch.zeros_like(guess))


def _takes_any_image(A: Operator) -> bool:
    """Return whether an operator takes images of zeros, which renderers and waves do not."""
    if isinstance(A, (LinearOperator, Function)) or is_foreign(A):
        return True
    parts = getattr(A, "parts", ())  # of a composition, a sum or phase retrieval
    is_physics = getattr(A, "physics", None) is not None  # of deepinv
    has_images = bool(parts) and bool(A.domain_shape)  # scenes have no shape
    return is_physics or (has_images and all(map(_takes_any_image, parts)))


def _leave_saddle(problem: Problem) -> Tensor:
    """Return zeros, or constant images that fit better if no gradient leads away from zeros.

    The derivative of the misfit of ``A(x) = x^2``, as of every phase retrieval, is 0 at the image 0.
    """
    A, D, y, x = problem.operator, problem.data_term, problem.y, problem.zeros()
    if not isinstance(y, Tensor) or not x.numel():
        return x
    with torch.enable_grad():
        free = x.clone().requires_grad_(True)
        prediction = A(free)
        if not isinstance(prediction, Tensor) or not prediction.requires_grad:
            return x
        slope = D.grad(prediction.detach(), y)
        (gradient,) = torch.autograd.grad(prediction, free, slope)
    is_stuck = gradient.abs().flatten(1).amax(1) == 0
    if not bool(is_stuck.any()):
        return x
    with torch.no_grad():
        size = y.abs().square().flatten(1).mean(1).sqrt()
        best, least = x, D.value(prediction.detach(), y)
        for factor in _LEVELS:
            level = torch.where(is_stuck, factor * size, 0).view(-1, *[1] * (x.ndim - 1))
            value = D.value(A(level.to(x) + x), y)
            is_better = is_stuck & (value < least - _GAIN * least.abs())
            best = torch.where(is_better.view(level.shape), level.to(x) + x, best)
            least = torch.where(is_better, value, least)
    return best


def is_scan(problem: Problem) -> bool:
    """Whether the problem is a scan under least squares, for which there is an analytic inversion."""
    return isinstance(problem.operator, Scan) and isinstance(problem.data_term, LeastSquares)


def filtered_back_projection(problem: Problem) -> Tensor | None:
    """Return the filtered back-projection of every item from the views that count.

    None if the scan has none (a helix), or if weights differ within the views.
    """
    guesses = []
    for k in range(problem.batch):  # the bits of a Fourier transform depend on the number of items
        item_problem = problem.select(torch.tensor([k], device=problem.y0.device))
        weights = getattr(item_problem.data_term, "weights", None)
        if weights is not None:
            views = weights.expand_as(item_problem.y0).transpose(0, 2).flatten(1)
            if bool((views != views[:, :1]).any()):
                return None
            used = (views[:, 0] > 0).nonzero().squeeze(1)
            if not len(used):
                return None
            item_problem = item_problem.subset(used)
        try:
            guesses.append(
                cast(LinearOperator, item_problem.operator).pseudo_inverse(item_problem.y0)
            )
        except InputError:
            return None
    return torch.cat(guesses)


def leaves_float32(problem: Problem) -> bool:
    """Whether squares of the measurements leave the range of float32.

    They do if the largest one of an item is below 1e-15 or above 1e15. The problem must be linear,
    without unknown parameters.

    Raises:
        InputError: if this is true of some items only, since an item has the same answer alone and
            in a batch.
    """
    y = problem.y
    if not isinstance(y, Tensor) or not problem.is_linear or problem.unknown:
        return False
    if y.dtype not in (torch.float32, torch.complex64):
        return False
    largest = y.detach().abs().flatten(1).amax(1)
    extreme = ((largest > 0) & (largest < 1e-15)) | (largest > 1e15)
    if not bool(extreme.any()):
        return False
    if bool((extreme | (largest == 0)).all()):
        return True
    raise InputError(
        f"squares of the measurements of items {extreme.nonzero().flatten().tolist()} leave the "
        "range of float32, and those of other items do not; solve these items apart, or give "
        "dtype=torch.float64"
    )


def initial_variable(
    objective: Objective,
    initial: Tensor | dict[str, Tensor] | None,
    at_zero: bool,
    at_inverse: bool = False,
) -> Tensor:
    """Return the variable of an objective at the start.

    Args:
        objective: what is minimized.
        initial: images ``(batch or 1, channel, *space)``, parameters of the implicit prior, or None
            for `first_guess`.
        at_zero: start at zero instead of `first_guess`.
        at_inverse: start at the filtered back-projection of a scan.

    Raises:
        InputError: if ``initial`` has another shape, is not finite, or lacks a parameter.
    """
    implicit = objective.prior.implicit
    parameters = (
        {"x": _initial_image(objective, initial, at_zero, at_inverse)}
        if implicit is None
        else _initial_parameters(objective, implicit, initial)
    )
    if objective.layout is None:
        return parameters["x"]
    if objective.unknowns is not None:
        parameters |= objective.unknowns.zeros(next(iter(parameters.values())))
    return objective.layout.pack(parameters)


def layout_of(
    problem: Problem, implicit: ImplicitPrior | None, unknowns: Unknowns | None
) -> Layout | None:
    """Return the layout of the variable, or None if the variable is the image itself.

    Args:
        problem: measurements, operator and data term.
        implicit: the implicit prior; its parameters take the place of the image.
        unknowns: unknown parameters of the operator, which follow the image or the parameters.
    """
    if implicit is None and unknowns is None:
        return None
    shapes = (
        {"x": problem.image_shape}
        if implicit is None
        else {k: tuple(t.shape[1:]) for k, t in _checked_start(problem, implicit).items()}
    )
    for name, start in () if unknowns is None else unknowns.starts.items():
        if name in shapes:
            raise InputError(
                f"the unknown {name!r} of {problem.operator} has the name of a parameter of "
                f"{implicit!r}; rename the latter"
            )
        shapes[name] = tuple(start.shape[1:])
    return Layout(tuple(shapes), tuple(shapes.values()))


def _checked_start(problem: Problem, implicit: ImplicitPrior) -> dict[str, Tensor]:
    """Return the first parameters of an implicit prior, whose first axis is the batch."""
    start = implicit.initial()
    if not isinstance(start, dict) or not all(isinstance(t, Tensor) for t in start.values()):
        raise InputError(
            f"{implicit!r}.initial returns {type(start).__name__}, expected a dict of tensors by name"
        )
    for name, tensor in start.items():
        if tensor.ndim == 0 or len(tensor) not in (1, problem.batch):
            raise InputError(
                f"{implicit!r}.initial returns {name!r} of shape {tuple(tensor.shape)}, whose first "
                f"axis must be the batch, 1 or {problem.batch}: put it in front, {name}[None]"
            )
    return start


def _initial_parameters(
    objective: Objective, implicit: ImplicitPrior, initial: Any
) -> dict[str, Tensor]:
    first = implicit.initial()
    parameters = first if initial is None else initial
    if not isinstance(parameters, dict) or set(parameters) != set(first):
        raise InputError(f"initial must be a dict with {', '.join(first)} for {implicit!r}")
    return {
        k: t.detach().expand(objective.batch, *t.shape[1:]) if t.shape[0] == 1 else t.detach()
        for k, t in parameters.items()
    }


def _initial_image(objective: Objective, initial: Any, at_zero: bool, at_inverse: bool) -> Tensor:
    problem, batch = objective.problem, objective.batch
    if initial is None:
        return problem.zeros() if at_zero else first_guess(problem, at_inverse)
    try:
        image = torch.as_tensor(initial).detach()
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"initial must be an image (batch, channel, *space), got {type(initial).__name__}; of an "
            "earlier solution give solution.x"
        ) from error
    image = image.to(device=problem.y0.device, dtype=problem.image_dtype)
    check_shape(image, problem.image_shape, "initial is an image", problem.operator.channelwise)
    if image.shape[0] not in (1, batch):
        raise InputError(f"initial has {image.shape[0]} items, expected 1 or {batch}")
    if not bool(torch.isfinite(image).all()):
        raise InputError("initial holds values that are NaN or infinite")
    return image.expand(batch, *image.shape[1:]).clone()


def has_domain(objective: Objective) -> bool:
    """Return whether the misfit of some linear predictions of images is infinite.

    Args:
        objective: the objective.
    """
    problem = objective.problem
    is_image = objective.layout is None and problem.is_linear
    return is_image and type(problem.data_term).share_inside is not DataTerm.share_inside


def move_into_domain(objective: Objective, x: Tensor, level: Tensor | None = None) -> Tensor:
    """Return images moved towards constant images of a level ``(batch,)`` until the misfit is finite.

    Without a level, the constant image that fits the measurements best replaces them.

    Args:
        objective: the objective, with the misfit.
        x: images, ``(batch, channel, *space)``.
        level: value of each constant image.
    """
    if not has_domain(objective):
        return x
    D, A, y = objective.problem.data_term, objective.problem.operator, objective.problem.y
    one = A(torch.ones_like(x))
    is_start = level is None
    if level is None:
        level = mean_items(D.fitting_prediction(y)) / mean_items(one)
    share = D.share_inside(A(x), expand(level, one) * one, y)
    assert share is not None
    share = share.ceil() if is_start else share
    return torch.lerp(x, expand(level, x).expand_as(x), expand(share, x))
