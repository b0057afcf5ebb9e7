"""Row and column sums of an operator: the weights of algebraic reconstruction and of diagonal preconditioners."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator
from invtoolbox.operators.matrix import Matrix
from invtoolbox.problem import Problem

#: Sums below this fraction of the item's largest are rounding, and count as 0.
_SMALLEST = 1e-6


def with_moduli(operator: LinearOperator) -> LinearOperator:
    """The operator whose entries are the moduli; only a matrix knows its entries, others are taken to have no negative ones."""
    return (
        operator._replace({"matrix": operator.matrix.abs()})
        if isinstance(operator, Matrix)
        else operator
    )


def row_sums(problem: Problem) -> Tensor:
    """``A 1`` of every item, shaped like the measurements.

    Raises:
        InputError: where a sum is clearly negative: the operator has negative entries.
    """
    A = cast(LinearOperator, problem.operator)
    sums = with_moduli(A)(torch.ones_like(problem.zeros()))
    largest = float(sums.abs().max())
    if float(sums.min()) < -1e-4 * largest:
        raise InputError(
            f"{A} has negative entries (a row sum is {float(sums.min()):.3g}), so its row sums are no weights; "
            "use it.solvers.CGLS() or LSMR()"
        )
    return cast(Tensor, sums)


def inverse_or_zero(sums: Tensor) -> Tensor:
    """``1 / sums``, and 0 where a sum is 0."""
    least = _SMALLEST * sums.flatten(1).amax(1).clamp_min(torch.finfo(sums.dtype).tiny)
    usable = sums > least.view(-1, *[1] * (sums.ndim - 1))
    return torch.where(
        usable, 1 / torch.where(usable, sums, torch.ones_like(sums)), torch.zeros_like(sums)
    )
