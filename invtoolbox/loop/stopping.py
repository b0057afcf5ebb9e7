"""Decide which items are converged: by the certificate, and by the gap of the objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from invtoolbox.operators.base import item_norm

#: The objective of a converged item is within this share of its minimum, unless the tolerance is
#: larger.
LARGEST_GAP = 1e-3
#: Number of steps below which the distance between iterates is no estimate.
_FEW = 8


@dataclass
class Travel:
    """Estimate of the distance to the minimizer, from the distance between iterates.

    It is a bound if the distance falls at least like 1 / k: it is then at most
    ``|x_k - x_a| a / (k - a)``, where a is an earlier iteration. The first steps do not show how
    it falls, so the estimate then is at least ``|x_k|``.
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
        """Return the estimate after the update of this iteration, ``(batch,)``."""
        anchor, size = 1 << (iteration.bit_length() - 1), item_norm(x)
        if iteration < _FEW:
            return torch.maximum(self.before, size)
        distance = self.before
        if iteration > anchor:
            factor = max(1.0, anchor / (iteration - anchor))
            distance = torch.minimum(distance, factor * item_norm(x - self.anchor))
        # An iterate that does not move, as after a failed line search, shows no distance.
        return torch.where(distance > 8 * torch.finfo(size.dtype).eps * size, distance, size)


def is_grid(iteration: int, every: int) -> bool:
    """Whether items within the tolerance are decided again: 8 times while iterations double."""
    count = iteration // every
    return count % (1 << max(0, count.bit_length() - 4)) == 0


def is_due(iteration: int, every: int) -> bool:
    """Whether the gap is evaluated for its own sake: at powers of two."""
    count = iteration // every
    return count >= 16 and count & (count - 1) == 0


def accept(
    gap: Tensor, decided: Tensor, certificate: Tensor, tolerance: float, alone: bool
) -> tuple[Tensor, Tensor]:
    """Return which items are converged, and the certificate, ``(batch,)`` each.

    Items whose certificate is within the tolerance also need a gap within `LARGEST_GAP` or the
    tolerance, whichever is larger. A gap below the square of the tolerance is enough alone: a
    relative residual has nothing to compare with if a quantity vanishes at the minimizer. The
    certificate is then the root of the gap.

    Args:
        gap: relative gap of the objective; it decides nothing if it is not finite.
        decided: items whose certificate is within the tolerance, and which are decided now.
        certificate: certificate of the solver.
        tolerance: bound of the certificate.
        alone: whether the gap may be enough alone.
    """
    accepted = decided & ~(gap.isfinite() & (gap > max(tolerance, LARGEST_GAP)))
    enough = gap < tolerance**2
    if not alone:
        return accepted, certificate
    rescued = enough & ~(certificate <= tolerance)
    return accepted | enough, torch.where(rescued, gap.sqrt(), certificate)
