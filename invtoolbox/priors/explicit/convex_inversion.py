"""The inverse of the gradient of a convex network, and the prior's value, by one convex problem an item."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from invtoolbox.operators.identity import Identity
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.explicit.convex_network import ConvexNetwork, item_sum


class Inversion(NamedTuple):
    """Where a learned prox comes from.

    Attributes:
        y: with ``f(y) = x``, shaped like x.
        energy: ``R(x)``, ``(batch,)``; a lower bound of it where ``y`` was not reached.
        residual: ``|f(y) - x|``, ``(batch,)``.
        converged: whether the gradient fell to the tolerance, ``(batch,)``.
    """

    y: Tensor
    energy: Tensor
    residual: Tensor
    converged: Tensor


class BeyondSquare(ExplicitPrior):
    """``psi(y) - 1/2 |y|^2``; with the misfit ``1/2 |y - x|^2`` it makes ``psi(y) - <x, y> + 1/2 |x|^2``, with least value ``-R(x)``."""

    is_smooth = True

    def __init__(self, network: ConvexNetwork) -> None:
        self.network = network

    def energy(self, x: Tensor) -> Tensor:
        return self.network.potential(x) - 0.5 * item_sum(x.square())


def invert(network: ConvexNetwork, x: Tensor, tolerance: float, max_iterations: int) -> Inversion:
    """``y`` with ``f(y) = x``, in float64 by L-BFGS from ``y = x``; without a graph."""
    import invtoolbox  # what stands behind its names lies above priors

    precise = network if x.dtype == torch.float64 else copy.deepcopy(network).double()
    target = x.detach().double()
    problem = invtoolbox.Problem(target, Identity(target.shape[1:]))
    solution = invtoolbox.solve(
        problem,
        BeyondSquare(precise),
        "lbfgs",
        regularization=1.0,
        initial=target,
        tolerance=tolerance,
        max_iterations=max_iterations,
        progress=False,
    )
    y = solution.x
    with torch.no_grad():
        psi, reached = precise.potential_and_gradient(y)
    # psi* is at least this for any y, so rounding and early stops make R smaller, never larger.
    energy = item_sum(target * y) - psi - 0.5 * item_sum(target.square())
    converged = torch.tensor([status == "converged" for status in solution.status], device=x.device)
    return Inversion(
        y.to(x.dtype),
        energy.to(x.dtype),
        item_sum((reached - target).square()).sqrt().to(x.dtype),
        converged,
    )
