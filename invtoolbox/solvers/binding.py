"""Bind a problem, its priors and the weight of the priors into an objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.objective.initial_guess import first_guess, layout_of
from invtoolbox.objective.objective import Objective
from invtoolbox.objective.unknowns import Unknowns
from invtoolbox.parameter_choice import rule_named
from invtoolbox.parameter_choice.base import WeightRule
from invtoolbox.parameter_choice.discrepancy import DiscrepancyPrinciple, measure_residual
from invtoolbox.parameter_choice.search import WeightSearch
from invtoolbox.priors.base import PriorSum
from invtoolbox.problem import Problem
from invtoolbox.solvers.weights import check_fixed_levels, check_least_weights, default_weight

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
