"""What a run leaves: statuses, history, posterior, parameters, and NaN for skipped items."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.decision import Decision
from invtoolbox.core.pytrees import blank_items
from invtoolbox.loop.run import DIVERGED, INVALID, RECORDED, STATUS, Loop
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import item_norm
from invtoolbox.posteriors.base import MappedPosterior, Posterior
from invtoolbox.posteriors.exact import gaussian_posterior
from invtoolbox.posteriors.running_moments import ChainPosterior
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution
from invtoolbox.solvers.base import Solver, nonconvex_reason

#: Size of a prediction, in sizes of what was measured, above which an answer has diverged.
_RUNAWAY = 1e3


def read_statuses(loop: Loop, objective: Objective, problem: Problem, x: Any) -> tuple[str, ...]:
    """Return the statuses, ``diverged`` for answers that run away while they are still finite.

    Nothing keeps the iterates of a prior without a convex energy (plug-and-play) from growing.

    Args:
        loop: the loop after its last step.
        objective: what was minimized.
        problem: the problem whose measurements the answer should predict.
        x: the answer, ``(batch, channel, *space)``, or a pytree.
    """
    codes, fit = loop.status, problem.data_term.fitting_prediction(problem.y)
    if (
        nonconvex_reason(objective) is not None
        and problem.is_linear
        and isinstance(fit, Tensor)
        and isinstance(x, Tensor)
    ):
        with torch.no_grad():
            size, usual = item_norm(problem.operator(x)), item_norm(fit)
        runs_away = (size > _RUNAWAY * usual) & (usual > 0) & (codes != INVALID)
        codes = codes.masked_fill(runs_away, DIVERGED)
    return tuple(STATUS[int(code)] for code in codes)


def read_history(loop: Loop) -> dict[str, Tensor]:
    """Return what the loop recorded, ``(steps, batch)`` per name."""
    if loop.history:
        rows = torch.stack(loop.history).cpu()
    else:
        rows = torch.zeros(0, len(RECORDED), len(loop.status))
    return {name: rows[:, k] for k, name in enumerate(RECORDED)}


def read_posterior(
    loop: Loop,
    solver: Solver,
    working: Objective,
    objective: Objective,
    x: Any,
    solve: Callable[..., Solution],
) -> tuple[Posterior | None, list[Decision]]:
    """Return the posterior, if there is one, and records about draws that are no sound sample.

    Args:
        loop: the loop after its last step.
        solver: the solver.
        working: the objective as the solver reformulates it.
        objective: the objective of the call.
        x: the answer.
        solve: solves without checks, for the exact posterior of Gaussians.
    """
    posterior = solver.posterior(
        working.with_regularization(loop.weight), loop.x, None if loop.keeps_state else loop.summary
    )
    if isinstance(posterior, ChainPosterior):
        sentences = (posterior.finding(), posterior.bias)
        return posterior, [Decision(step="run", sentence=text) for text in sentences if text]
    if posterior is None and solver.samples:
        sentence = (
            "the run ended before its first draw, so that x is no mean of draws, and there is "
            "no posterior; give a larger max_iterations or time_limit, or a shorter burn_in"
        )
        return None, [Decision(step="run", sentence=sentence)]
    if posterior is None:
        posterior = gaussian_posterior(objective.with_regularization(loop.weight), x, solve)
    return posterior, []


def read_parameters(
    problem: Problem, objective: Objective, variable: Tensor
) -> tuple[dict[str, Tensor], Problem]:
    """Return the parameters that were found, and the problem with the operator that was found."""
    if objective.layout is None:
        return {}, problem
    parameters, unknowns = objective.layout.unpack(variable), objective.unknowns
    if unknowns is None:
        return parameters, problem
    parameters = {k: t for k, t in parameters.items() if k != "x"} | unknowns.values(parameters)
    operator = problem.operator.with_parameters(**{k: parameters[k] for k in unknowns.starts})
    return parameters, problem.with_operator(operator)


def blank_skipped(solution: Solution, skipped: Tensor) -> Solution:
    """Set everything that belongs to the skipped items of a batch to NaN."""
    posterior = solution.posterior
    return dataclasses.replace(
        solution,
        x=blank_items(skipped, solution.x),
        regularization=blank_items(skipped, solution.regularization),
        parameters=blank_items(skipped, solution.parameters),
        posterior=None
        if posterior is None
        else MappedPosterior(posterior, functools.partial(blank_items, skipped)),
    )
