"""Ordered subsets: OS-SART for least squares, OSEM for emission counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from torch import Tensor

from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import LinearOperator, item_norm
from invtoolbox.priors.images.constraints import NonNegative
from invtoolbox.problem import Problem
from invtoolbox.solvers.base import Solver, State, implicit_reason
from invtoolbox.solvers.linear_systems import relative
from invtoolbox.solvers.preconditioner import inverse_or_zero, row_sums, with_moduli
from invtoolbox.solvers.richardson_lucy import emission_reason, multiply, start_of_counts
from invtoolbox.solvers.sirt import (
    algebraic_reason,
    constrain,
    weighted_note,
)


def subset_indices(problem: Problem, subset_size: int | None) -> list[Tensor]:
    """Return the blocks of every subset.

    Each subset is spread evenly over all blocks, so that every subset covers the whole image.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.ones(1, 1, 5), it.operators.Matrix(torch.ones(5, 2)))
    >>> [index.tolist() for index in subset_indices(problem, 2)]
    [[0, 3], [1, 4], [2]]
    """
    # Subset k has the blocks k, k + count, k + 2 count, ...
    blocks = cast(int, problem.operator.blocks)
    count = 1 if subset_size is None else -(-blocks // subset_size)
    return [torch.arange(k, blocks, count, device=problem.y0.device) for k in range(count)]


def subset_reason(objective: Objective, name: str, subset_size: int | None) -> str | None:
    """Return why subsets of this size cannot be taken, or ``None``."""
    blocks = objective.problem.operator.blocks
    if subset_size is None and name == "OSEM":
        return None
    if blocks is None:
        return (
            f"{name} needs measurements that fall into blocks (views of a scan, rows of a matrix), "
            f"and those of {objective.problem.operator} do not"
        )
    if subset_size is None or not 1 <= subset_size <= blocks:
        return (
            f"{name} needs a subset_size from 1 to the {blocks} blocks of "
            f"{objective.problem.operator}, got {subset_size}"
        )
    return None


def shuffle(objective: Objective, count: int) -> list[int]:
    """Return an order of the subsets, a function of seed and iteration, the same for every item."""
    # A new order in every pass, because the last subset of a pass has the largest influence.
    generator = objective.generator()
    return torch.randperm(count, generator=generator, device=generator.device).tolist()


@dataclass(kw_only=True)
class OSSARTState(State):
    """Weights of rows and columns, and the number of passes."""

    rows: Tensor  # R
    columns: Tensor  # C
    passes: Tensor  # (batch,)


@dataclass(frozen=True)
class OSSART(Solver):
    r"""OS-SART with constraints; one iteration is one pass over the subsets.

    Andersen and Kak 1984 for one view per subset; Wang and Jiang 2004::

        for every subset s, in an order drawn anew for every pass:
            x = P(x + relaxation_k C A_s^T R_s W_s (y_s - A_s x))

    R holds the inverse row sums of A and W the weights of the data term, as in `SIRT`. C is the
    same for all subsets, the inverse of the largest column sum of any ``A_s^T W_s``: for a pixel
    that has the same weight in every view this is the choice of SART, and a pixel that few views
    meet is not changed too much. ``subset_size=1`` is SART; all views in one subset are SIRT. A
    pass costs as much as an iteration of SIRT (plus one forward projection for the objective at its
    end) and gains about as much as one such iteration per subset.

    With ``decay > 0`` the relaxation is ``relaxation / (1 + decay k)`` in pass k, and the method
    converges to a minimizer of ``<Ax - y, R W (Ax - y)>`` over the box (Ahn and Fessler 2003; an
    incremental gradient method in the metric ``C^-1``). With a constant relaxation in (0, 2) it
    converges if the measurements are consistent. Otherwise it ends in a cycle around the minimizer
    whose size falls with the relaxation; stop it early. Certificate: the length by which a pass
    changes x, over the relaxation and relative to x.

    Args:
        subset_size: number of views (blocks of the operator) per subset, each subset spread evenly
            over all views.
        relaxation: relaxation in (0, 2).
        decay: see above.

    >>> import invtoolbox as it
    >>> A = it.operators.Matrix(torch.tensor([[1.0, 1.0], [0.0, 2.0]]))
    >>> problem = it.Problem(torch.tensor([[[3.0, 2.0]]]), A)
    >>> it.solve(problem, solver=OSSART(subset_size=1), tolerance=1e-6, progress=False).x.round(
    ...     decimals=3
    ... )
    tensor([[[2., 1.]]])
    """

    max_iterations: int = 50
    tolerance: float = 1e-3
    subset_size: int = 10
    relaxation: float = 1.0
    decay: float = 0.0

    certificate_name: ClassVar[str] = "relative length of a pass"
    starts_at_zero: ClassVar[bool] = True

    def unsupported_reason(self, objective: Objective) -> str | None:
        if not 0 < self.relaxation < 2:
            return f"OSSART needs a relaxation between 0 and 2, got {self.relaxation}"
        if self.decay < 0:
            return f"OSSART needs a decay that is not negative, got {self.decay}"
        return (
            implicit_reason(objective, "OSSART")
            or algebraic_reason(objective, "OSSART")
            or subset_reason(objective, "OSSART", self.subset_size)
        )

    def init(self, objective: Objective, start: Tensor) -> OSSARTState:
        problem = objective.problem
        sums = row_sums(problem)
        rows = inverse_or_zero(sums)
        # 1 / C = max_s A_s^T W_s 1, without the rays that miss the image.
        hits = rows * sums
        largest = torch.zeros_like(start)
        for index in subset_indices(problem, self.subset_size):
            subset = problem.subset(index)
            weights = subset.data_term.weighted(hits[:, :, index])
            largest = largest.maximum(with_moduli(_linear(subset)).adjoint(weights))
        x = constrain(objective, start)
        value, discrepancy = objective.value_at(x, problem.operator(x))
        return OSSARTState(
            x=x,
            value=value,
            discrepancy=discrepancy,
            certificate=objective.nan().fill_(torch.inf),
            rows=rows,
            columns=inverse_or_zero(largest),
            passes=torch.zeros_like(objective.regularization),
        )

    def step(self, objective: Objective, state: OSSARTState) -> OSSARTState:
        problem, x = objective.problem, state.x
        indices = subset_indices(problem, self.subset_size)
        relaxation = self.relaxation / (1 + self.decay * state.passes)
        # relaxation_k C with relaxation_k = relaxation / (1 + decay k) in pass k.
        step = relaxation.view(-1, *[1] * (x.ndim - 1)) * state.columns
        for k in shuffle(objective, len(indices)):
            # x = P(x + relaxation C A_s^T R_s W_s (y_s - A_s x))
            subset = problem.subset(indices[k])
            residual = subset.data_term.weighted(subset.y - subset.operator(x))
            update = _linear(subset).adjoint(state.rows[:, :, indices[k]] * residual)
            x = constrain(objective, torch.addcmul(x, step, update))
        certificate = relative(item_norm(x - state.x) / relaxation, item_norm(x))
        value, discrepancy = objective.value_at(x, problem.operator(x))
        return replace(
            state,
            x=x,
            value=value,
            discrepancy=discrepancy,
            certificate=certificate,
            passes=state.passes + 1,
        )

    def remark(self, objective: Objective) -> str | None:
        return weighted_note("OSSART")


@dataclass(kw_only=True)
class OSEMState(State):
    """The sensitivity image of every subset."""

    sensitivities: tuple[Tensor, ...]  # A_s^T 1 of every subset


@dataclass(frozen=True)
class OSEM(Solver):
    r"""Expectation maximization for emission counts: MLEM, and OSEM over subsets.

    Shepp and Vardi 1982 for MLEM; Hudson and Larkin 1994 for OSEM::

        x = x / (A_s^T 1) * A_s^T (y_s / (A_s x + background_s))

    for a `Poisson` data term and an operator without negative entries. ``subset_size=None`` is
    MLEM, which is `RichardsonLucy` without a rule for its end; otherwise one iteration is one pass
    over all subsets, in an order drawn anew for every pass. x stays nonnegative, and a pixel that
    starts at 0 stays there; a start of zeros is replaced by a constant that explains the total of
    the counts.

    MLEM never increases the objective and converges to a maximizer of the likelihood (Vardi, Shepp
    and Kaufman 1985). OSEM is faster by a factor of about the number of subsets, and ends in a
    cycle. Both fit the noise in the end: stop early (`Solution.iterations`), or use `PDHG` with a
    prior. Certificate: ``|x_new - x| / |x|``; for MLEM ``x_new - x`` is the scaled gradient,
    ``-x grad D / (A^T 1)``.

    Args:
        subset_size: number of views (blocks of the operator) per subset, each subset spread evenly
            over all views.

    >>> import invtoolbox as it
    >>> A = it.operators.Matrix(torch.tensor([[1.0, 1.0], [0.0, 2.0]]))
    >>> problem = it.Problem(torch.tensor([[[3.0, 2.0]]]), A, it.data_terms.Poisson())
    >>> it.solve(problem, solver=OSEM(), progress=False).x.round(decimals=2)
    tensor([[[2., 1.]]])
    """

    max_iterations: int = 100
    tolerance: float = 1e-4
    subset_size: int | None = None

    certificate_name: ClassVar[str] = "relative change of the image"
    starts_at_zero: ClassVar[bool] = True

    def unsupported_reason(self, objective: Objective) -> str | None:
        return emission_reason(objective, "OSEM", (NonNegative,)) or subset_reason(
            objective, "OSEM", self.subset_size
        )

    def init(self, objective: Objective, start: Tensor) -> OSEMState:
        problem = objective.problem
        x = start_of_counts(problem, start)
        # A_s^T 1: what the subset counts per unit of activity in a pixel.
        sensitivities = tuple(
            _linear(subset).adjoint(torch.ones_like(subset.y))
            for _, subset in self._subsets(problem)
        )
        value, discrepancy = objective.value_at(x, problem.operator(x))
        return OSEMState(
            x=x,
            value=value,
            discrepancy=discrepancy,
            certificate=objective.nan().fill_(torch.inf),
            sensitivities=sensitivities,
        )

    def step(self, objective: Objective, state: OSEMState) -> OSEMState:
        problem, x = objective.problem, state.x
        subsets = dict(self._subsets(problem))
        for k in shuffle(objective, len(subsets)):
            # x = x / (A_s^T 1) A_s^T (y_s / (A_s x + background_s)). The gradient is 1 - y / mean,
            # so this is the ratio; the data term handles a mean of 0.
            subset = subsets[k]
            ratio = 1 - subset.data_term.grad(subset.operator(x), subset.y)
            # A pixel that no ray of the subset meets stays unchanged.
            x = multiply(x, _linear(subset).adjoint(ratio), state.sensitivities[k])
        value, discrepancy = objective.value_at(x, problem.operator(x))
        return replace(
            state,
            x=x,
            value=value,
            discrepancy=discrepancy,
            certificate=relative(item_norm(x - state.x), item_norm(x)),
        )

    def _subsets(self, problem: Problem) -> Iterator[tuple[int, Problem]]:
        if self.subset_size is None:
            yield 0, problem
            return
        for k, index in enumerate(subset_indices(problem, self.subset_size)):
            yield k, problem.subset(index)


def _linear(problem: Problem) -> LinearOperator:
    return cast(LinearOperator, problem.operator)
