"""Row and column sums of an operator, and preconditioners of the normal equations.

The sums are the weights of algebraic reconstruction and of diagonal preconditioners. A
preconditioner is a diagonal, in the image or in the Fourier domain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import LinearOperator, expand
from invtoolbox.operators.finite_difference import FiniteDifference
from invtoolbox.operators.matrix import Matrix
from invtoolbox.problem import Problem
from invtoolbox.solvers.linear_systems import apply_multiplier, system_symbol

#: Sums below this fraction of the item's largest are rounding, and count as 0.
_SMALLEST = 1e-6


def with_moduli(operator: LinearOperator) -> LinearOperator:
    """Return the operator whose entries are the moduli.

    Only a matrix knows its entries; other operators are assumed to have no negative ones.
    """
    return (
        operator._replace({"matrix": operator.matrix.abs()})
        if isinstance(operator, Matrix)
        else operator
    )


def row_sums(problem: Problem) -> Tensor:
    """Return ``A 1`` of every item, shaped like the measurements.

    Raises:
        InputError: if a sum is clearly negative, because the operator has negative entries.
    """
    A = cast(LinearOperator, problem.operator)
    sums = with_moduli(A)(torch.ones_like(problem.zeros()))
    largest = float(sums.abs().max())
    if float(sums.min()) < -1e-4 * largest:
        raise InputError(
            f"{A} has negative entries (a row sum is {float(sums.min()):.3g}), so its row sums are "
            "no weights; use it.solvers.CGLS() or LSMR()"
        )
    return cast(Tensor, sums)


def inverse_or_zero(sums: Tensor, largest: Tensor | None = None) -> Tensor:
    """Return ``1 / sums``, and 0 for a sum of 0.

    Args:
        sums: the sums, or a part of them.
        largest: largest sum of every item, ``(batch,)``, if these are a part.
    """
    # Relative to the largest sum of the item, because a sum that should be 0 is rounding.
    largest = sums.flatten(1).amax(1) if largest is None else largest
    least = _SMALLEST * largest.clamp_min(torch.finfo(sums.dtype).tiny)
    usable = sums > least.view(-1, *[1] * (sums.ndim - 1))
    return torch.where(
        usable, 1 / torch.where(usable, sums, torch.ones_like(sums)), torch.zeros_like(sums)
    )


Kind = Literal["auto", "diagonal", "fourier"]

#: Entries of a diagonal below this fraction of the item's largest are raised to it.
_FLOOR = 1e-3


@dataclass
class Preconditioner:
    """An approximate inverse of ``A^T W A + sum_i w_i L_i^T L_i``.

    It is symmetric and positive definite.
    """

    diagonal: Tensor | None = None  # shaped like x, multiplies it
    spectrum: Tensor | None = None  # multiplies its `torch.fft.rfftn`; the batch is the first axis

    def __call__(self, residual: Tensor) -> Tensor:
        if self.diagonal is not None:
            return residual * self.diagonal
        return residual if self.spectrum is None else apply_multiplier(residual, self.spectrum)


def preconditioner(objective: Objective, kind: Kind | None) -> Preconditioner | None:
    """Return the preconditioner of a quadratic objective.

    ``"fourier"`` divides by the eigenvalues of the periodic convolution next to the system (Chan
    1988), if operator, data term and priors know theirs (`normal_symbol`). ``"diagonal"`` divides
    by the diagonal if operators know theirs (`normal_diagonal`). For an operator without negative
    entries it divides by the row sums ``A^T W A 1``, which bound the system from above (the
    separable surrogate of Erdogan and Fessler 1999). ``"auto"`` takes the first of the two that
    exists.

    Raises:
        InputError: if the requested kind does not exist.
    """
    if kind is None:
        return None
    x = objective.problem.zeros()
    if kind in ("auto", "fourier"):
        penalties = [(weight, prior.quadratic()[0]) for weight, prior in objective.terms]
        # The eigenvalues of the periodic convolution next to the system, exact or not.
        symbol, _ = system_symbol(objective, penalties, x)
        if symbol is not None:
            return Preconditioner(spectrum=(1 / symbol).expand(len(x), *symbol.shape[1:]).clone())
        if kind == "fourier":
            raise InputError(
                f"there is no Fourier preconditioner here, because {objective.problem.operator}, "
                "the data term or a prior is not like a convolution; use preconditioner='diagonal'"
            )
    diagonal = _data_diagonal(objective, x)
    for weight, prior in objective.terms:
        L, _ = prior.quadratic()
        of_prior = torch.ones_like(x) if L is None else _diagonal(L, x)
        if of_prior is not None:
            diagonal = torch.addcmul(diagonal, expand(weight, x), of_prior)
    # A floor, because pixels that nothing determines would get an infinite factor.
    largest = diagonal.flatten(1).amax(1)
    raised = diagonal.maximum(expand(_FLOOR * largest, diagonal))
    return Preconditioner(
        diagonal=torch.where(raised > 0, 1 / torch.where(raised > 0, raised, 1.0), 1.0)
    )


def _data_diagonal(objective: Objective, x: Tensor) -> Tensor:
    """Return the diagonal of ``A^T W A``, or its row sums."""
    problem = objective.problem
    A, D = objective.linear_operator, problem.data_term
    diagonal = A.normal_diagonal()
    curvature = cast(Tensor, D.curvature(problem.y))
    if diagonal is not None:
        return diagonal.to(x) * expand(curvature, x)
    # For entries >= 0, diag(A^T W A 1) - A^T W A is diagonally dominant, so the sums bound the
    # system.
    positive = with_moduli(A)
    return positive.adjoint(D.weighted(positive(torch.ones_like(x)))).real.clamp_min(0).to(x)


def _diagonal(L: LinearOperator, x: Tensor) -> Tensor | None:
    """Return the diagonal of ``L^T L``, or ``None`` if it is not known."""
    diagonal = L.normal_diagonal()
    if diagonal is not None:
        return diagonal.to(x).expand_as(x)
    if isinstance(L, FiniteDifference):
        total = torch.zeros_like(x)
        for axis in range(2, x.ndim):
            n = x.shape[axis]
            # A pixel belongs to the difference that starts at it and to the one that ends at it.
            count = torch.full([n], 2.0, dtype=x.dtype, device=x.device)
            if not L.periodic:
                count[0] -= 1
                count[-1] -= 1
            if L.spacing is not None:
                count /= L.spacing[axis - 2] ** 2
            total += count.view([-1 if k == axis else 1 for k in range(x.ndim)])
        return total
    return None
