"""Decide which items are converged: by the certificate, and by the gap of the objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from invtoolbox.operators.base import item_norm
from invtoolbox.solvers.duality import LARGEST_GAP

#: Number of steps below which the distance between iterates is no estimate.
_FEW = 8


@dataclass
class Travel:
    """Estimate of the distance to the minimizer, from the distance between iterates.

    It is a bound if the distance falls at least like 1 / k: it is then at most
    ``|x_k - x_a| a / (k - a)``, where a is an earlier iteration. If it falls linearly, as the
    certificate c does, it is ``|x_k - x_a| c_k / (c_a - c_k)``, which is large if the certificate
    has not fallen: the values of a gap may then move on with the same small steps. The larger of
    the two is the estimate, at most ``|x_k|`` by the second. The first steps do not show how the
    distance falls, so the estimate then is at least ``|x_k|``.
    """

    anchor: Tensor  # the iterate of the latest iteration that is a power of two
    before: Tensor  # (batch,) distance of the anchor from the anchor before it
    certificate: Tensor  # (batch,) certificate at the anchor
    earlier: Tensor  # (batch,) certificate at the anchor before it
    flatness: Tensor  # (batch,) distance per fall of the certificate, at the last move

    @classmethod
    def start(cls, x: Tensor) -> Self:
        infinite = torch.full_like(item_norm(x), torch.inf)
        # Certificates are relative to the start or to 0.
        ones = torch.ones_like(infinite)
        return cls(x, infinite, ones, ones, infinite)

    def update(self, x: Tensor, certificate: Tensor, iteration: int) -> Self:
        """Return the anchor for the next iterations; call it at every iteration."""
        if iteration & (iteration - 1):
            return self
        moved_by = item_norm(x - self.anchor)
        fallen = self.certificate - certificate
        flatness = torch.where(fallen > 0, moved_by / fallen, torch.inf)
        flatness = torch.where(moved_by > _rounding_of(x), flatness, self.flatness)
        return type(self)(x, moved_by, certificate, self.certificate, flatness)

    def distance(self, x: Tensor, certificate: Tensor, iteration: int) -> Tensor:
        """Return the estimate after the update of this iteration, ``(batch,)``."""
        anchor, size = 1 << (iteration.bit_length() - 1), item_norm(x)
        if iteration < _FEW:
            return torch.maximum(self.before, size)
        is_rounding = certificate <= 4 * torch.finfo(size.dtype).eps
        # Where neither x nor the certificate changes by more than rounding, the last move counts.
        # Without a fall since then, a certificate at its rounding has fallen from 1, its value at 0.
        flatness = torch.where(is_rounding & self.flatness.isinf(), size, self.flatness)
        still = torch.where(certificate > 0, flatness * certificate, 0.0).minimum(size)

        def extrapolate(moved_by: Tensor, factor: float, certificate_before: Tensor) -> Tensor:
            fallen = certificate_before - certificate
            ratio = torch.where(fallen > 0, certificate / fallen, torch.inf)
            linear = torch.where(is_rounding, still, torch.minimum(ratio * moved_by, size))
            return torch.maximum(factor * moved_by, linear)

        distance = extrapolate(self.before, 1.0, self.earlier)
        if iteration > anchor:
            step = item_norm(x - self.anchor)
            factor = max(1.0, anchor / (iteration - anchor))
            distance = torch.minimum(distance, extrapolate(step, factor, self.certificate))
        return torch.where(distance > _rounding_of(x), distance, still)


def _rounding_of(x: Tensor) -> Tensor:
    """Return the length of a move that may be rounding, ``(batch,)``."""
    size = item_norm(x)
    return 8 * torch.finfo(size.dtype).eps * size


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
