"""Choices before the first iteration: objective, rule for the weight, and solver."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

from torch import Tensor

from invtoolbox.catalogue.presets import solver_named
from invtoolbox.core.decision import Decision
from invtoolbox.errors import InputError
from invtoolbox.objective.first_call import check_implicit
from invtoolbox.objective.initial_guess import initial_variable
from invtoolbox.objective.objective import Objective
from invtoolbox.parameter_choice.base import WeightRule
from invtoolbox.parameter_choice.noise import noise_std_of
from invtoolbox.parameter_choice.search import WeightSearch
from invtoolbox.priors.base import PriorSum
from invtoolbox.priors.first_call import check_first_call, is_foreign
from invtoolbox.problem import Problem
from invtoolbox.solvers.base import Solver
from invtoolbox.solvers.binding import Regularization, bind_objective
from invtoolbox.solvers.choice import check_fits, choose
from invtoolbox.solvers.half_quadratic import HalfQuadratic
from invtoolbox.solving.call import Call

log = logging.getLogger("invtoolbox")

#: Weight of draws without a weight, in weights of the minimizer: the mean of draws is nearest to the
#: picture at a larger one. Chosen on pictures 60 to 62 of BSD68, blurred and noisy.
_HEAVIER = 1.5


def minimize_first(
    problem: Problem,
    priors: PriorSum,
    call: Call,
    solve: Callable[..., Any],
    decisions: list[Decision],
) -> Call:
    """Return the call of a sampler that starts at the minimizer, and has a weight if it needs one.

    No rule compares weights by draws, and a chain forgets a far start in more states than its time
    allows.
    """
    solver = solver_named(call.solver) if isinstance(call.solver, str) else call.solver
    if not isinstance(solver, Solver):
        return call
    is_auto = isinstance(call.regularization, str) and call.regularization == "auto"
    needs_weight = is_auto and solver.needs_weight(priors)
    needs_start = call.is_sampler_alone and solver.starts_at_minimizer and call.initial is None
    if not needs_weight and not needs_start:
        return call
    if not is_auto and isinstance(call.regularization, (str, WeightRule, WeightSearch)):
        return call  # a sampler takes no rule, which is refused with the solver
    # Before anything costs.
    check_fits(solver, bind_objective(problem, priors, 1.0, solve, call.seed)[0])
    # A weight of the user is that of the density, whose mode the start should be.
    answer = solve(
        problem, priors, regularization=call.regularization, seed=call.seed, progress=False
    )
    starts = "starts at the minimizer and " if call.initial is None else ""
    if starts:
        call = dataclasses.replace(call, initial=answer.x)
    if not needs_weight:
        return call
    weight = _HEAVIER * answer.regularization
    values = ", ".join(f"{value:.3g}" for value in weight.tolist())
    sentence = (
        f"{type(solver).__name__} {starts}draws from exp(-D - w R) with {_HEAVIER} times the weight "
        f"of the minimizer, w = {values}; regularization= a number takes another density"
    )
    decisions.append(Decision(step="run", sentence=sentence))
    return dataclasses.replace(call, regularization=weight)


def choose_parts(
    problem: Problem,
    priors: PriorSum,
    call: Call,
    solve: Callable[..., Any],
    decisions: list[Decision],
) -> tuple[Objective, Regularization, WeightRule | WeightSearch | None, Solver]:
    """Bind the objective and choose what is not given; append records of the choices.

    Returns the objective, the regularization, the rule for the weight, and the solver.
    """
    named = solver_named(call.solver) if isinstance(call.solver, str) else call.solver
    if named is not None and not isinstance(named, Solver):
        got = type(named).__name__
        if isinstance(named, type):
            got = f"the class {named.__name__}; pass an object of it, {named.__name__}()"
        raise InputError(f"solver must be one of it.solvers or a subclass of Solver, got {got}")
    asked = f"{type(named).__name__} was asked for"
    if named is not None and call.is_sampler_alone:
        usual, named = named, named.alone(problem, priors)
        if changes := _changes(usual, named):
            asked += f" by its name alone, and takes {changes} here"
    regularization = call.regularization
    by_itself = isinstance(regularization, str) and regularization == "auto"
    if named is not None and named.samples and by_itself:
        regularization = 1.0
    # Without a solver, half-quadratic splitting is chosen for denoisers.
    strength = (HalfQuadratic if named is None else named).denoiser_strength
    objective, rule, why = bind_objective(
        problem, priors, regularization, solve, call.seed, strength
    )
    if call.check:
        check_implicit(objective)
    if named is None:
        solver, reason = choose(objective, call.differentiate == "implicit")
    else:
        check_fits(named, objective)
        if named.samples and rule is not None:
            raise InputError(
                f"{type(named).__name__} draws from a density, whose weight no rule can choose; give "
                "a number as regularization, or leave it out"
            )
        solver, reason = named, asked
    if rule is not None and not objective.terms:
        raise InputError(
            "a rule for the weight needs an explicit prior to weigh, and there is none"
        )
    records = [Decision(step="solver", sentence=reason)]
    if why:
        records += [Decision(step="weight", sentence=why), *_estimated_levels(objective, rule)]
    decisions[:0] = records
    remarks: list[str | None] = []
    if not solver.reformulate(objective).has_value:
        without = next(p for p in objective.explicit_priors if "energy" not in p.offers)
        remarks.append(f"history holds no objective: {without!r} has no energy")
    remarks.append(solver.remark(objective))
    if objective.layout is None and call.check:
        zeros = problem.zeros()
        remarks += [prior.remark(zeros) for prior in objective.explicit_priors]
    decisions += [Decision(step="run", sentence=remark) for remark in remarks if remark]
    for decision in decisions:
        log.info(decision.text(problem.batch))
    return objective, regularization, rule, solver


def _estimated_levels(objective: Objective, rule: Any) -> list[Decision]:
    """Return the noise levels that a rule estimates from the measurements, without sentences."""
    term = objective.problem.data_term
    is_stated = term.expected_discrepancy(objective.problem.y) is not None
    if is_stated or getattr(rule, "noise_std", 0.0) is not None:
        return []
    levels = noise_std_of(objective.problem)
    return [Decision(step="noise", item=k, after=float(s)) for k, s in enumerate(levels)]


def _changes(before: Solver, after: Solver) -> str:
    """Return the settings of a solver that differ from those of another one, as text."""
    fields = dataclasses.fields(after)
    pairs = [(f.name, getattr(before, f.name), getattr(after, f.name)) for f in fields]
    return ", ".join(f"{name}={new!r}" for name, old, new in pairs if new != old)


def call_priors_of_user(objective: Objective, initial: Tensor | dict[str, Tensor] | None) -> None:
    """Refuse priors of the user that no solver can use, unless x has a form of its own.

    They are called with the initial guess of the user, or with zeros.
    """
    if objective.layout is None:
        for term in objective.prior.terms:
            if is_foreign(term.prior):
                check_first_call(term.prior, initial_variable(objective, initial, at_zero=True))
