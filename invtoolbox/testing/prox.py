"""Does a proximal operator minimise what it says?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from invtoolbox.operators.base import expand, inner, item_norm
from invtoolbox.testing.common import randn_like
from invtoolbox.testing.report import Checklist


def check_minimises(
    check: Checklist,
    what: str,
    energy: Callable[[Tensor], Tensor],
    p: Tensor,
    x: Tensor,
    step: Tensor,
    convex: bool | None,
    tolerance: float,
    seed: int,
    gradient: Callable[[Tensor], Tensor] | None = None,
) -> None:
    r"""Compare ``p`` with other candidates for ``argmin_u phi(u)``, ``phi(u) = R(u) + |u - x|^2 / (2 step)``.

    For a convex R, phi is strongly convex and every u satisfies :math:`\phi(u) \ge \phi(p) + |u - p|^2 / (2\,step)`,
    which is sharper than :math:`\phi(u) \ge \phi(p)`, the condition for any other R. Candidates lie on the line to
    ``x``, in random directions of several lengths, at a scaled ``p``, and down the slope of phi where there is one.
    The figure is by how much the condition is violated, relative to the size of phi.
    """

    def phi(u: Tensor) -> Tensor:
        misfit = u - x
        return energy(u) + inner(misfit, misfit) / (2 * step)

    at_p, length = phi(p), item_norm(p - x)
    # Where nothing moves there is nothing to lose: the image itself sets the scale.
    reach = torch.maximum(length, 1e-3 * item_norm(x))
    candidates = [p + t * (x - p) for t in (1.0, 0.1, 0.01, -0.1, -0.01)] + [
        p * (1 + t) for t in (0.01, -0.01)
    ]
    for k, size in enumerate((1e-3, 1e-1, 1.0)):
        direction = randn_like(x, seed + 10 + k)
        candidates.append(p + expand(size * reach / item_norm(direction), direction) * direction)
    if gradient is not None:
        slope = gradient(p) + (p - x) / expand(step, x)
        candidates += [p - expand(t * step, slope) * slope for t in (1.0, 0.1, 0.01)]
    violation = torch.full_like(at_p, -torch.inf)
    for u in candidates:
        excess = at_p - phi(u)
        if convex:
            moved = u - p
            excess = excess + inner(moved, moved) / (2 * step)
        # A constraint's energy is infinite outside: such a candidate is no better.
        violation = torch.maximum(
            violation, torch.where(torch.isfinite(phi(u)), excess, -torch.inf)
        )
    scale = torch.maximum(at_p.abs(), reach.square() / (2 * step)).clamp_min(
        torch.finfo(x.dtype).tiny
    )
    check.at_most(
        f"{what} minimises",
        violation / scale,
        tolerance,
        f"{what} does not minimise R(u) + |u - x|^2 / (2 step): another image is better by {{figure:.1e}} of it",
    )
