"""The probability simplex: what a blur kernel lies in."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.explicit.constraints import check_real


class Simplex(ExplicitPrior):
    """``x >= 0`` and ``sum x = total`` in every channel of every item, over all axes behind the channel.

    The prox is the projection, by sorting (Held, Wolfe and Crowder 1974; Duchi, Shalev-Shwartz, Singer and Chandra 2008). As the
    prior of a blur kernel it keeps the brightness of the picture: ``Problem(y, Blur(...), unknown={"kernel": Simplex()})``.

    Args:
        total: what the values add up to; positive.

    >>> Simplex().prox(torch.tensor([[[0.5, 0.9, -1.0]]]), 1.0)
    tensor([[[0.3000, 0.7000, 0.0000]]])
    """

    is_convex = True
    is_smooth = False
    is_constraint = True

    def __init__(self, total: float = 1.0) -> None:
        if not (0 < total < float("inf")):
            raise InputError(f"the total of a Simplex is positive and finite, got {total}")
        self.total = float(total)

    def energy(self, x: Tensor) -> Tensor:
        """0 inside to rounding, infinite elsewhere; shape ``(batch,)``."""
        check_real(x)
        values = x.flatten(2).detach()
        slack = 8 * torch.finfo(x.dtype).eps * self.total * max(1.0, values.shape[-1] ** 0.5)
        inside = (values.amin(2) >= -slack) & ((values.sum(2) - self.total).abs() <= slack)
        value = torch.where(inside.all(1), 0.0, float("inf")).to(x.dtype)
        # The energy is flat inside; adding nothing keeps it part of the graph.
        return (
            value + 0 * x.flatten(1)[:, 0] if x.requires_grad and torch.is_grad_enabled() else value
        )

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        """The nearest point of the simplex: ``max(x - threshold, 0)``, the threshold such that the sum is right."""
        check_real(x)
        values = x.flatten(2)
        falling = values.sort(dim=2, descending=True).values
        count = torch.arange(1, values.shape[2] + 1, dtype=x.dtype, device=x.device)
        excess = (falling.cumsum(2) - self.total) / count
        # The last place at which the sorted value is above the threshold of its prefix.
        kept = (falling > excess).sum(2, keepdim=True).clamp_min(1)
        return (values - excess.gather(2, kept - 1)).clamp_min(0).view_as(x)

    def __repr__(self) -> str:
        return "Simplex()" if self.total == 1 else f"Simplex({self.total:g})"
