"""Notes of groups of a batch have the numbers of the user's items."""

from __future__ import annotations

import dataclasses

import torch

import invtoolbox as it
from invtoolbox.jobs.images.decisions.join import join


def test_notes_of_groups_have_the_numbers_of_the_batch() -> None:
    y, A = torch.rand(4, 1, 8, 8), it.operators.Identity((1, 8, 8))
    parts = []
    for places, notes in (
        ([0, 3], ("same", "the residual of item 1 is large")),
        ([2], ("same", "two dead readings", "two dead readings")),
        ([1], ("same", "two dead readings")),
    ):
        solution = it.solve(it.Problem(y[places], A), solver=it.solvers.CGLS(), progress=False)
        parts.append((torch.tensor(places), dataclasses.replace(solution, notes=notes)))
    joined = join(it.Problem(y, A), parts)
    assert joined.notes == (
        "same",
        "the residual of item 3 is large",
        "measurements of item 1, of item 2: two dead readings",
    )
    assert "the residual of item 1 is large" in join(it.Problem(y, A), parts, False).notes
