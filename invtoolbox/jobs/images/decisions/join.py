"""One solution of a batch from solutions of some of its items each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from invtoolbox.core.decision import Decision, join_decisions, select_decisions
from invtoolbox.problem import Problem
from invtoolbox.solution import Solution

#: Note on a batch that lost its posterior.
NO_POSTERIOR = (
    "items of the batch were solved in different ways, so there is no posterior; solve them one by one "
    "for theirs"
)


def take(solution: Solution, items: Tensor) -> Solution:
    """Return the solution of some items of its batch, without posterior and compared weights.

    Args:
        solution: solution of a batch.
        items: places of the items.
    """
    places = items.cpu()
    posterior = Decision(step="posterior", sentence=NO_POSTERIOR)
    return dataclasses.replace(
        solution,
        x=solution.x[items.to(solution.x.device)],
        status=tuple(solution.status[k] for k in places.tolist()),
        iterations=solution.iterations[places.to(solution.iterations.device)],
        history={name: rows[:, places] for name, rows in solution.history.items()},
        regularization=solution.regularization[items.to(solution.regularization.device)],
        decisions=(
            *select_decisions(solution.decisions, places.tolist()),
            *([] if solution.posterior is None else [posterior]),
        ),
        weight_search=None,
        posterior=None,
    )


def join(problem: Problem, parts: Sequence[tuple[Tensor, Solution]]) -> Solution:
    """Return the solution of a batch whose items were solved in several groups.

    Posterior and compared weights are left out if there are several groups, as a record states if one
    of them has a posterior.

    Args:
        problem: the problem of the batch.
        parts: places of the items of a group, and their solution.
    """
    groups = [(places.tolist(), solution.decisions) for places, solution in parts]
    decisions = join_decisions(groups, problem.batch)
    first = parts[0][1]
    if len(parts) == 1:
        return dataclasses.replace(first, problem=problem, decisions=decisions)
    solutions = [solution for _, solution in parts]
    order = torch.cat([places for places, _ in parts]).argsort().cpu()
    if any(solution.posterior is not None for solution in solutions):
        decisions = (*decisions, Decision(step="posterior", sentence=NO_POSTERIOR))

    def items(name: str) -> Tensor:
        values = torch.cat([getattr(solution, name) for solution in solutions])
        return values[order.to(values.device)]

    def rows(name: str) -> Tensor:
        histories = [solution.history[name] for solution in solutions]
        most = max(map(len, histories))
        padded = [
            torch.cat([h, h.new_full((most - len(h), h.shape[1]), torch.nan)]) for h in histories
        ]
        return torch.cat(padded, 1)[:, order]

    statuses = [status for solution in solutions for status in solution.status]
    return dataclasses.replace(
        first,
        x=items("x"),
        status=tuple(statuses[k] for k in order.tolist()),
        iterations=items("iterations"),
        history={name: rows(name) for name in first.history},
        regularization=items("regularization"),
        prior=" or ".join(dict.fromkeys(solution.prior for solution in solutions)),
        solver=" or ".join(dict.fromkeys(solution.solver for solution in solutions)),
        decisions=decisions,
        seconds=sum(solution.seconds for solution in solutions),
        weight_search=None,
        posterior=None,
        problem=problem,
    )
