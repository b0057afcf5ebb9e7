"""Bind a problem, its priors and their weights, with defaults and bounds, into an objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.decision import ITEM, Decision
from invtoolbox.data_terms.least_squares import LeastSquares
from invtoolbox.errors import InputError
from invtoolbox.objective.initial_guess import first_guess, layout_of
from invtoolbox.objective.objective import Objective
from invtoolbox.objective.unknowns import Unknowns
from invtoolbox.parameter_choice import (
    WhiteResidual,
    automatic,
    has_white_noise,
    rule_name,
    rule_named,
)
from invtoolbox.parameter_choice.base import WeightRule
from invtoolbox.parameter_choice.discrepancy import DiscrepancyPrinciple, measure_residual
from invtoolbox.parameter_choice.held_out import accepts
from invtoolbox.parameter_choice.noise import correct_level
from invtoolbox.parameter_choice.search import WeightSearch
from invtoolbox.priors.base import ExplicitPrior, PriorSum, Term
from invtoolbox.problem import Problem
from invtoolbox.solvers.splitting import noise_variance

#: Residual in units of the stated noise above which weights that a user wrote are too large. On 28
#: problems of three pictures of BSD68 (blur, gaps, scans and noise alone, total variation) the best
#: weight left at most 1.04, and 1.5 or more lost 0.5 dB or more, mostly several dB. No lower bound is of
#: use: far too small weights left 0.8.
_LARGEST_RESIDUAL = 1.5


def remark_on_weights(problem: Problem, x: Tensor) -> tuple[Decision, ...]:
    """Return a record if written weights leave more than the noise, else nothing.

    Args:
        problem: measurements, operator and data term.
        x: the answer.
    """
    term = problem.data_term
    expected = term.expected_discrepancy(problem.y)
    if type(term) is not LeastSquares or expected is None or not problem.is_linear:
        return ()
    ratio = term.discrepancy(problem.operator(x), problem.y) / expected
    k = int(ratio.nan_to_num().argmax())
    if not float(ratio[k]) > _LARGEST_RESIDUAL:
        return ()
    sentence = (
        f"the residual{ITEM} is {float(ratio[k]):.3g} times the stated noise: the weights that were "
        "written are too large, or the operator or noise_std is wrong"
    )
    return (Decision(step="residual", item=k, sentence=sentence),)


def weighable_terms(priors: PriorSum) -> list[Term]:
    """Return the terms that have a weight: no constraint, and no denoiser that keeps to one level.

    Args:
        priors: sum of priors.
    """
    return [t for t in priors.terms if not t.prior.fixed_level and not t.prior.is_constraint]


def default_weight(
    priors: PriorSum, objective: Objective, denoiser_strength: float
) -> tuple[float | Tensor | WeightRule | WeightSearch, str]:
    """Return the weight or the rule of ``regularization="auto"``, and the reason.

    Weights that were written are kept. Next come the least weight of a theorem, the usual weight of
    a learned prior, and the default rule.

    Args:
        priors: priors as they were given.
        objective: objective with prepared priors.
        denoiser_strength: strength at which the solver uses denoisers.
    """
    weighable = weighable_terms(priors)
    if not weighable:
        return 1.0, ""
    if any(t.chosen for t in weighable):
        rule, _ = automatic(objective)
        return 1.0, (
            "the weights of the priors are kept as they were written; "
            f"regularization={rule_name(rule)!r} scales them by the measurements"
        )
    for term in objective.prior.terms:
        if term.prior.least_weight is not None:
            return (
                1.05 * term.prior.least_weight,
                f"the weight is 1.05 times the least for which {term.prior!r} is known to converge",
            )
    usual = type(weighable[0].prior).usual_weight is not ExplicitPrior.usual_weight
    if usual and len(weighable) == 1 and objective.problem.data_term.is_quadratic:
        curvature = objective.problem.data_term.curvature(objective.problem.y)
        variance = noise_variance(objective)
        # The weight of a density is the noise variance times the curvature of the misfit, which is
        # 1 if the misfit knows its noise.
        weight_and_reason = weighable[0].prior.usual_weight(
            variance if curvature is None else variance * curvature.to(variance),
            denoiser_strength,
        )
        if weight_and_reason is not None:
            return _follow_noise(objective, *weight_and_reason)
    return automatic(objective)


def _follow_noise(
    objective: Objective, weight: Tensor, reason: str
) -> tuple[Tensor | WeightSearch, str]:
    """Correct a weight that is proportional to the variance of the noise, and its reason.

    A stated level may be wrong, and the residual of the answer may not be white.
    """
    if not accepts(objective):
        return weight, reason
    is_gridded = has_white_noise(objective)
    level, correction = correct_level(objective.problem, is_gridded)
    if level is not None:
        stated = noise_variance(objective)
        weight = weight * (level.square() / stated.double()).to(weight)
        reason = f"{correction}: {reason}"
    return (WhiteResidual(first=weight, reason=reason), "") if is_gridded else (weight, reason)


def check_least_weights(objective: Objective, rule: Any) -> None:
    """Raise an `InputError` if a weight may lie below the least weight of a prior."""
    for term in objective.prior.terms:
        least = term.prior.least_weight
        if least is None:
            continue
        if isinstance(rule, (WeightRule, WeightSearch)):
            raise InputError(
                f"a rule for the weight may choose one for which {term.prior!r} is not known to "
                f"converge; give a number above {float(least.max()):.4g}, or leave "
                "within_theorem=True out"
            )
        # The whole weight of the term: regularization times its weight in the sum.
        weight = torch.as_tensor(rule).to(least) * torch.as_tensor(term.weight).to(least)
        if not bool((weight > least).all()):
            raise InputError(
                f"{term.prior!r} is known to converge for weights above {float(least.max()):.4g} "
                f"here, and has {float(weight.min()):.4g}; give a larger one, or leave "
                "within_theorem=True out"
            )


def check_fixed_levels(priors: PriorSum) -> None:
    """Raise an `InputError` if a denoiser of a single level has a weight."""
    for term in priors.terms:
        if term.prior.fixed_level and bool((torch.as_tensor(term.weight) != 1).any()):
            raise InputError(
                f"{term.prior!r} knows one noise level only, so it takes no weight; use the "
                "solver's step instead"
            )


#: Weight of the explicit priors: a number, one number per item ``(batch,)``, a rule or the name of
#: a rule.
Regularization = float | Tensor | str | WeightRule | WeightSearch


def bind_objective(
    problem: Problem,
    priors: PriorSum,
    regularization: Regularization,
    solve: Callable[..., Any],
    seed: int = 0,
    denoiser_strength: float = 1.0,
) -> tuple[Objective, WeightRule | WeightSearch | None, str]:
    """Return the objective with prepared priors, the rule for the weight, and why that rule.

    Args:
        problem: measurements, operator and data term.
        priors: sum of priors.
        regularization: as in `invtoolbox.solve`.
        solve: `invtoolbox.solve`, for first reconstructions of priors.
        seed: seed of random draws.
        denoiser_strength: strength at which the solver uses denoisers, for their default weight.

    Raises:
        InputError: if a weight is negative, or a prior does not allow it.
    """
    rule = (
        rule_named(regularization)
        if isinstance(regularization, str) and regularization != "auto"
        else regularization
    )
    check_fixed_levels(priors)
    problem = problem.with_data_term(problem.data_term.prepare(problem.without_unknowns(), solve))
    problem = measure_residual(problem)
    bound = priors.prepare(problem.without_unknowns(), solve)
    real = problem.y0.real.dtype if problem.y0.is_complex() else problem.y0.dtype
    ones = torch.ones(problem.batch, dtype=real, device=problem.y0.device)
    unknowns = Unknowns.of(problem, first_guess(problem)) if problem.unknown else None
    layout = layout_of(problem, bound.implicit, unknowns)
    # Rules, and default weights, read the misfit and the prepared priors at weight 1.
    objective = Objective(problem, bound, ones, layout=layout, unknowns=unknowns, seed=seed)
    why = ""
    if isinstance(rule, str):
        rule, why = default_weight(priors, objective, denoiser_strength)
    check_least_weights(objective, rule)
    if isinstance(rule, WeightSearch):
        return objective, rule, f"{why}{rule.describe(objective)}"
    if isinstance(rule, WeightRule):
        is_discrepancy = isinstance(rule, DiscrepancyPrinciple)
        objective = replace(
            objective, has_rule=True, discrepancy_target=rule.target if is_discrepancy else None
        )
        return objective, rule, f"{why}{rule.describe(objective)}"
    # Neither a rule nor a search: a number, or one per item.
    weight = torch.as_tensor(rule, dtype=real, device=ones.device)
    if (
        weight.ndim > 1
        or weight.numel() not in (1, problem.batch)
        or not bool(((weight >= 0) & weight.isfinite()).all())
    ):
        raise InputError(
            f"regularization must be a nonnegative number or one for each of the {problem.batch} "
            f"items, got {rule}"
        )
    if bool((weight != 1).any()) and any(term.prior.fixed_level for term in priors.terms):
        name = next(term.prior for term in priors.terms if term.prior.fixed_level)
        raise InputError(
            f"{name!r} knows one noise level only, so it takes no weight; use the solver's step "
            "instead"
        )
    return objective.with_regularization(weight.expand(problem.batch).clone()), None, why
