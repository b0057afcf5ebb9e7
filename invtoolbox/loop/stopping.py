"""Decide which items are converged: by the certificate, and by the gap of the objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import item_norm
from invtoolbox.solvers.base import Solver

#: The objective of a converged item is within this share of its minimum, unless the tolerance is
#: larger.
LARGEST_GAP = 1e-3


@dataclass
class Travel:
    """How far the iterates move: a bound of the distance to the minimizer.

    If the distance falls at least like 1 / k, it is at most ``|x_k - x_a| a / (k - a)``, a being an
    earlier iteration.
    """

    anchor: Tensor  # the iterate of the latest iteration that is a power of two
    before: Tensor  # (batch,) distance of the anchor from the anchor before it

    @classmethod
    def start(cls, x: Tensor) -> Self:
        return cls(x, torch.full_like(item_norm(x), torch.inf))

    def update(self, x: Tensor, iteration: int) -> Self:
        """Return the anchor for the next iterations; call it at every iteration."""
        if iteration & (iteration - 1):
            return self
        return type(self)(x, item_norm(x - self.anchor))

    def distance(self, x: Tensor, iteration: int) -> Tensor:
        """Return the bound after the update of this iteration, ``(batch,)``."""
        anchor = 1 << (iteration.bit_length() - 1)
        if iteration == anchor:
            return self.before
        factor = max(1.0, anchor / (iteration - anchor))
        return torch.minimum(self.before, factor * item_norm(x - self.anchor))


def converged(
    objective: Objective,
    solver: Solver,
    state: Any,
    travel: Travel | None,
    previous: Tensor,
    iteration: int,
    every: int,
    tolerance: float,
    last: bool,
) -> tuple[Tensor, Tensor]:
    """Return which items are converged, and the certificate, ``(batch,)`` each.

    If there is a gap, the certificate must be within the tolerance and the gap within `LARGEST_GAP`
    or the tolerance, whichever is larger. A gap below the square of the tolerance is enough alone:
    a relative residual has nothing to compare with if a quantity vanishes at the minimizer. The
    certificate is then the root of the gap.

    The gap is evaluated when the certificate comes within the tolerance, from then on 16 times
    while the number of iterations doubles, and for its own sake at powers of two.

    Args:
        objective: objective of the latest step.
        solver: the solver.
        state: its state after that step.
        travel: bound of the distance to the minimizer; None if there is no gap.
        previous: certificate at the decision before, NaN if there is none, ``(batch,)``.
        iteration: number of steps done.
        every: number of steps per decision.
        tolerance: bound of the certificate.
        last: whether no decision follows.
    """
    within, certificate = solver.converged(state, tolerance), state.certificate
    if travel is None:
        return within, certificate
    count = iteration // every
    on_grid = count % (1 << max(0, count.bit_length() - 5)) == 0
    alone = last or (count >= 8 and count & (count - 1) == 0)
    due = within if on_grid or last else within & ~(previous <= tolerance)
    if not alone and not bool(due.any()):
        return due, certificate
    gap = solver.gap(objective, state, travel.distance(state.x, iteration))
    # A gap that is not finite decides nothing.
    accepted = due & ~(gap.isfinite() & (gap > max(tolerance, LARGEST_GAP)))
    if alone:
        enough = gap < tolerance**2
        certificate = torch.where(enough & ~within, gap.sqrt(), certificate)
        accepted = accepted | enough
    return accepted, certificate
