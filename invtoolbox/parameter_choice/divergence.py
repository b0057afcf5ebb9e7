"""Degrees of freedom of a reconstruction: the divergence of its prediction in the measurements."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from invtoolbox.core.reductions import mean_items, sum_items
from invtoolbox.errors import InputError
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import expand
from invtoolbox.parameter_choice.noise import noise_std_of
from invtoolbox.parameter_choice.trials import Trials
from invtoolbox.priors.base import PriorSum
from invtoolbox.problem import Problem

#: Size of the probe if the solution is affine in the measurements, so that every size is exact.
_LARGE = 1.0
#: Noise relative to the measurements, if it cannot be estimated.
_USUAL_NOISE = 0.02


class Fit(NamedTuple):
    """Residual and degrees of freedom, from which scores are computed, ``(k, n)`` each.

    Measurements of weight w count as if their noise had variance ``1 / w``.
    """

    residual: Tensor  # sum_i w_i (A x - y)_i^2
    degrees: Tensor  # the divergence of A x in y
    measured: Tensor  # measurements of positive weight


def fits(
    trials: Trials, log_weight: Tensor, items: Tensor, probes: int, step: float, seed: int
) -> Fit:
    r"""Return residuals and degrees of freedom of the solutions ``x(y)``.

    The weights have the shape ``(k, n, weights)``.

    ``div A x(y) ~ <b, A x(y + h b) - A x(y)> / h`` for a probe b of random signs, averaged over
    ``probes`` of them (Hutchinson 1989; Girard 1989; Ramani, Blu & Unser 2008). The probes are the
    same for every item and weight. If everything is quadratic, x(y) is affine and h is the size of
    the measurements, so that the difference is exact but for rounding; else h is ``step`` times the
    noise.
    """
    problem = trials.problem
    check_white_noise(problem)
    root = root_weights(problem)
    signs = [random_signs(problem.y, seed + k) for k in range(probes)]
    h = probe_size(trials, step)

    def measure(objective: Objective, solution: Any, which: slice = slice(None)) -> Tensor:
        """Return the squared residual and the products with the probes.

        In float64, because a small difference of them is needed.
        """
        prediction = solution.problem.operator(solution.x)
        scale = root_weights(objective.problem)
        misfit = (scale * (prediction - objective.problem.y)).flatten(1)
        squared = misfit.abs().double().square().sum(1)
        return torch.stack(
            [squared, *(product_with_probe(scale * prediction, b) for b in signs[which])], 1
        )

    base = trials(log_weight, measure, items)
    degrees = torch.zeros_like(base[..., 0])
    for k, b in enumerate(signs):
        shift = expand(h, b) * torch.where(
            root > 0, b / root.clamp_min(torch.finfo(root.dtype).tiny), torch.zeros_like(b)
        )
        shift = shift.expand(trials.batch, *shift.shape[1:])

        def product(objective: Objective, solution: Any, k: int = k) -> Tensor:
            return measure(objective, solution, slice(k, k + 1))[:, 1]

        shifted = trials(log_weight, product, items, shift)
        degrees = degrees + (shifted - base[..., 1 + k]) / (probes * h[items].double())
    return Fit(base[..., 0], degrees, number_of(problem)[items].double().expand_as(degrees))


def check_white_noise(problem: Problem) -> None:
    """Raise an `InputError` if the rules for white noise do not apply."""
    D = problem.data_term
    if isinstance(problem.y, tuple) or not hasattr(D, "with_noise_std"):
        raise InputError(
            "this rule for the weight is for white noise in one tensor of measurements, not for "
            f"{D!r}; use 'l-curve', 'quasi-optimality' or a number"
        )


def number_of(problem: Problem) -> Tensor:
    """Return the number of measurements of positive weight, ``(batch,)``.

    Complex ones count twice.
    """
    y = problem.y0
    used = sum_items((root_weights(problem) > 0).expand(y.shape))
    return used * (2 if y.is_complex() else 1)


def root_weights(problem: Problem) -> Tensor:
    """Return the square roots of the weights of the measurements, ``(1 or batch, ...)``."""
    y, weights = problem.y0, getattr(problem.data_term, "weights", None)
    real = y.real if y.is_complex() else y
    return (
        torch.ones_like(real[:1])
        if weights is None
        else weights.to(real).sqrt().expand(-1, *y.shape[1:])
    )


def random_signs(y: Tensor, seed: int) -> Tensor:
    """Return random signs, the same for every item: ``(1, *y.shape[1:])``."""
    generator = torch.Generator().manual_seed(seed)
    shape = y.shape[1:]

    def draw() -> Tensor:
        return (2 * torch.randint(0, 2, (1, *shape), generator=generator) - 1).to(
            y.real if y.is_complex() else y
        )

    return torch.complex(draw(), draw()) if y.is_complex() else draw()


def product_with_probe(prediction: Tensor, b: Tensor) -> Tensor:
    """Return the real inner products with a probe, ``(batch,)`` in float64."""
    product = (prediction * b.conj()).real if prediction.is_complex() else prediction * b
    return sum_items(product.double())


def probe_size(trials: Trials, step: float) -> Tensor:
    """Return the size of the change of the measurements for the divergence, ``(batch,)``."""
    y = trials.problem.y0
    size = mean_items(y.abs().square()).sqrt()
    size = torch.where(size > 0, size, torch.ones_like(size))
    if _is_affine(trials.problem, trials.objective.prior):
        return _LARGE * size
    try:
        noise = noise_std_of(trials.problem).to(size)
    except InputError:
        noise = _USUAL_NOISE * size
    return step * noise


def _is_affine(problem: Problem, prior: PriorSum) -> bool:
    """Whether the solution is an affine function of the measurements."""
    plain = (
        problem.is_linear
        and problem.data_term.is_quadratic
        and not problem.unknown
        and prior.implicit is None
    )
    return plain and all(
        "quadratic" in term.prior.offers and not term.prior.is_constraint for term in prior.terms
    )
