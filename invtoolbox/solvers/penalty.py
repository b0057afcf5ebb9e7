"""The penalty of a splitting method: a first guess, and what a denoiser asks for."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.objective import Objective
from invtoolbox.priors.base import ExplicitPrior


def denoising_term(objective: Objective) -> tuple[Tensor, ExplicitPrior] | None:
    """The first prior that is a denoiser, with its weight."""
    return next(
        ((weight, prior) for weight, prior in objective.terms if "denoise" in prior.offers), None
    )


def unit_step_term(objective: Objective) -> tuple[Tensor, ExplicitPrior] | None:
    """The first prior whose prox is known at the step ``1 / weight`` alone, with its weight."""
    return next(((weight, prior) for weight, prior in objective.terms if prior.unit_step), None)


def unit_step_reason(objective: Objective, name: str, step: float | None) -> str | None:
    """Why a step that somebody chose does not suit the priors, or ``None``."""
    fixed = unit_step_term(objective)
    if fixed is None or step is None or bool(((step * fixed[0] - 1).abs() <= 1e-5).all()):
        return None
    return (
        f"{fixed[1]!r} knows its prox where step times weight is 1 alone, and {name} was given the step {step:g} for the weight "
        f"{float(fixed[0].flatten()[0]):g}; leave the step out and choose the weight"
    )


def first_penalty(objective: Objective, start: Tensor, fraction: float = 0.1) -> Tensor:
    """The penalty to start with, ``(batch,)``.

    Without a denoiser, thresholds of a fraction of the intensity range, ``weight / rho = fraction * range``. With one, its weight,
    so that it works at its own level; with one that knows a single level, ``1 / sigma^2`` in units of the noise, as the
    prox of a density would.
    """
    one = torch.ones_like(objective.regularization)
    bound = objective.problem.data_term.curvature(objective.problem.y)
    curvature = one if bound is None else one * bound.to(one)
    denoising = denoising_term(objective)
    if denoising is None:
        weights = [weight for weight, prior in objective.terms if not prior.is_constraint]
        size = start.abs().flatten(1).amax(1)
        total = sum(weights[1:], weights[0]) if weights else torch.zeros_like(size)
        usable = (total > 0) & (size > 0)
        return torch.where(
            usable,
            total / fraction / torch.where(usable, size, torch.ones_like(size)),
            0.1 * curvature,
        )
    weight, prior = denoising
    if not prior.fixed_level:
        return weight
    return (
        one
        / torch.as_tensor(prior.sigma, dtype=one.dtype, device=one.device) ** 2
        * _noise_variance(objective)
        * curvature
    )


def _noise_variance(objective: Objective) -> Tensor:
    """In units of the data term's own scale: 1 where it knows the noise level."""
    from invtoolbox.parameter_choice.noise import estimate_noise_std

    problem = objective.problem
    if problem.data_term.expected_discrepancy(problem.y) is not None:
        variance = torch.ones_like(objective.regularization)
        curvature = problem.data_term.curvature(problem.y)
        return variance if curvature is None else variance / curvature.to(variance)
    return estimate_noise_std(problem.y, problem.operator).to(objective.regularization).square()
