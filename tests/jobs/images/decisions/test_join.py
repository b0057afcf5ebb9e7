"""Notes of groups of a batch have the numbers of the user's items."""

from __future__ import annotations

import dataclasses

import torch

import invtoolbox as it
from invtoolbox.core.decision import Decision
from invtoolbox.jobs.images.decisions.join import join


def test_notes_of_groups_have_the_numbers_of_the_batch() -> None:
    y, A = torch.rand(4, 1, 8, 8), it.operators.Identity((1, 8, 8))
    parts = []
    same, dead = (
        Decision(step="a", sentence="same"),
        Decision(step="b", sentence="two dead readings"),
    )
    large = Decision(step="c", item=1, sentence="the residual{item} is large")
    for places, decisions in (
        ([0, 3], (same, large)),
        ([2], (same, dead, dead)),
        ([1], (same, dead)),
    ):
        solution = it.solve(it.Problem(y[places], A), solver=it.solvers.CGLS(), progress=False)
        parts.append((torch.tensor(places), dataclasses.replace(solution, decisions=decisions)))
    joined = join(it.Problem(y, A), parts)
    assert joined.notes == (
        "same",
        "the residual of item 3 is large",
        "measurements of item 1, of item 2: two dead readings",
    )
    assert [(d.step, d.item) for d in joined.decisions] == [
        ("a", None),
        ("c", 3),
        ("b", 1),
        ("b", 2),
    ]
