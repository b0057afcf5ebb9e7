"""One solution of a batch from solutions of some of its items each."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from invtoolbox.problem import Problem
from invtoolbox.solution import Solution

#: Number of the item that a note is about.
ITEM = re.compile(r" of item (\d+)\b")
#: Number of items that a note on several items lists.
_LISTED = 8
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
    return dataclasses.replace(
        solution,
        x=solution.x[items.to(solution.x.device)],
        status=tuple(solution.status[k] for k in places.tolist()),
        iterations=solution.iterations[places.to(solution.iterations.device)],
        history={name: rows[:, places] for name, rows in solution.history.items()},
        regularization=solution.regularization[items.to(solution.regularization.device)],
        weight_search=None,
        posterior=None,
    )


def join(
    problem: Problem, parts: Sequence[tuple[Tensor, Solution]], is_renumbered: bool = True
) -> Solution:
    """Return the solution of a batch whose items were solved in several groups.

    Posterior and compared weights are left out if there are several groups, as a note states if one of
    them has a posterior.

    Args:
        problem: the problem of the batch.
        parts: places of the items of a group, and their solution.
        is_renumbered: whether the notes number the items of their group, as in a solve of a group
            alone, and get the numbers of the batch.
    """
    first = parts[0][1]
    if len(parts) == 1:
        return dataclasses.replace(first, problem=problem)
    solutions = [solution for _, solution in parts]
    order = torch.cat([places for places, _ in parts]).argsort().cpu()

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

    notes = _number(parts) if is_renumbered else [note for part in solutions for note in part.notes]
    if any(solution.posterior is not None for solution in solutions):
        notes.append(NO_POSTERIOR)
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
        notes=tuple(dict.fromkeys(notes)),
        seconds=sum(solution.seconds for solution in solutions),
        weight_search=None,
        posterior=None,
        problem=problem,
    )


def _number(parts: Sequence[tuple[Tensor, Solution]]) -> list[str]:
    """Return the notes on groups of a batch, each once, with the numbers of its items."""
    concerned: dict[str, list[int]] = {}
    count = 0
    for items, solution in parts:
        places = items.tolist()
        count += len(places)
        for note in dict.fromkeys(solution.notes):
            if ITEM.search(note):
                concerned.setdefault(_with_places(note, places), [])
            else:
                concerned.setdefault(note, []).extend(places)
    notes = []
    for note, places in concerned.items():
        shown = ",".join(f" of item {k}" for k in sorted(places)[:_LISTED])
        more = f" and {len(places) - _LISTED} others" if len(places) > _LISTED else ""
        is_of_all = not places or len(places) == count
        notes.append(note if is_of_all else f"measurements{shown}{more}: {note}")
    return notes


def _with_places(note: str, places: Sequence[int]) -> str:
    """Return a note with the places of the items that it numbers.

    >>> _with_places("the residual of item 1 is white", [0, 3])
    'the residual of item 3 is white'
    """
    return ITEM.sub(lambda match: f" of item {places[int(match[1])]}", note)
