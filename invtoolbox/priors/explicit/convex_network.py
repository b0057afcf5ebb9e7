"""Networks that are convex in their input, and whose output is the gradient: proximal operators by construction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invtoolbox.errors import InputError


class ConvexNetwork(nn.Module, ABC):
    r"""A convex potential ``psi(x)`` with a continuous gradient; calling the network gives ``f(x) = grad psi(x)``.

    A continuous map is the proximal operator of some function R, convex or not, exactly where it is the gradient of a convex one
    (Gribonval and Nikolova, "A characterization of proximity operators", 2020). So f is a prox whatever the weights are, trained or
    not, as long as those that must not be negative are not; `projected` sees to that.

    A subclass writes `potential`; f then comes from autograd. One that knows its gradient in closed form writes
    `potential_and_gradient` instead, which spares training a second derivative by autograd.

    Attributes:
        strong_convexity: ``alpha`` of a term ``alpha/2 |x|^2`` in psi. Positive, f is invertible and R finite everywhere.
        nonnegative: names of the parameters without whose sign psi is not convex.

    >>> class Quadratic(ConvexNetwork):
    ...     def potential(self, x):
    ...         return 0.25 * x.flatten(1).square().sum(1)
    >>> Quadratic()(torch.ones(1, 1, 2))
    tensor([[[0.5000, 0.5000]]])
    """

    strong_convexity: float = 0.0
    nonnegative: tuple[str, ...] = ()

    @abstractmethod
    def potential(self, x: Tensor) -> Tensor:
        """``psi(x)``, shape ``(batch,)``, better in float64: `item_sum`."""

    def forward(self, x: Tensor) -> Tensor:
        """``f(x) = grad psi(x)``, shaped like x."""
        return self.potential_and_gradient(x)[1]

    def potential_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both from one pass."""
        learn = torch.is_grad_enabled() and (
            x.requires_grad or any(p.requires_grad for p in self.parameters())
        )
        with torch.enable_grad():
            free = (
                x if x.requires_grad else x.detach().requires_grad_(True)
            )  # never the caller's own tensor
            psi = self.potential(free)
            (gradient,) = torch.autograd.grad(psi.sum(), free, create_graph=learn)
        return (psi, gradient) if learn else (psi.detach(), gradient)

    def projected(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        """The nearest parameters with which psi is convex: what training does after every step."""
        return {
            name: value.clamp_min(0) if name in self.nonnegative else value
            for name, value in parameters.items()
        }

    def check_convex(self) -> None:
        """Raise an `InputError` where a weight has the wrong sign."""
        for name in self.nonnegative:
            least = float(self.get_parameter(name).detach().min())
            if not least >= 0:
                raise InputError(
                    f"the weights {name!r} of {type(self).__name__} go down to {least:.3g}, so its potential is not convex "
                    "and its gradient no prox; load_state_dict(network.projected(network.state_dict())) mends that"
                )


def smooth_ramp(x: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """The softplus ``log(1 + exp(beta x)) / beta``, convex and increasing, and its derivative."""
    value, slope = _SmoothRamp.apply(x, beta)
    return value, slope


class _SmoothRamp(torch.autograd.Function):
    """Both from one exponential, and with one pass back for both."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, beta: float) -> tuple[Tensor, Tensor]:
        slope = (beta * x).sigmoid_()
        ctx.save_for_backward(slope)
        ctx.beta = beta
        # Beyond 40 the softplus is its argument to more digits than float64 has.
        return F.softplus(x, beta, 40.0), slope

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        of_value, of_slope = gradients
        return torch.addcmul(of_value, of_slope, 1 - slope, value=ctx.beta).mul_(slope), None


def item_sum(x: Tensor) -> Tensor:
    """The sum over each item in float64: potentials of whole pictures differ by less than float32 resolves of their size."""
    return x.flatten(1).sum(1, dtype=torch.float64)
