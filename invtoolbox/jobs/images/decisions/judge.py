"""The verdict on two answers, and the one rule of standard errors by which they are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from invtoolbox.problem import Problem

#: Solve another problem with the weight and the solver of an answer: ``(problem) -> images``.
Again = Callable[[Problem], Tensor]


class Verdict(NamedTuple):
    """In which items the simple answer is taken, and why.

    Attributes:
        wins: ``(batch,)`` booleans.
        simple: simple answers of these items, by their place in the batch.
        reason: a sentence per item, without the item's number.
        by_prior: error of the prior, ``(batch,)``.
        by_simple: error of the simple answer in the same measure, ``(batch,)``.
        remark: a sentence per item whose answer stays, empty if there is nothing to say.
    """

    wins: Tensor
    simple: Callable[[int], Tensor]
    reason: Callable[[int], str]
    by_prior: Tensor
    by_simple: Tensor
    remark: Callable[[int], str] = lambda k: ""


def judge(squares: Tensor, errors: float | Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return in which items the simple answer wins, and both root mean squares.

    Args:
        squares: weighted squared residuals of the prior and of the simple answer, and the weights,
            ``(batch, 3, ...)``; sums over measurements whose errors depend on each other.
        errors: number of standard errors of the paired difference by which the prior must lose.
    """
    by_prior, by_simple, held = squares.flatten(2).double().unbind(1)
    count = held.sum(1).clamp_min(1)
    loss = (by_prior - by_simple).sum(1) / count
    deviations = by_prior - by_simple - loss[:, None] * held
    standard_error = deviations.square().sum(1).sqrt() / count
    wins = ~(loss <= errors * standard_error)  # also if the prior predicts NaN
    return wins, [(s.sum(1) / count).sqrt() for s in (by_prior, by_simple)]
