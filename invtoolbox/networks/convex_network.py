"""Networks that are convex in their input, and whose output is the gradient of the potential.

Such a gradient is a proximal operator by construction. `ConvexNetwork` is the base class,
`ConvexDense` has fully connected layers, for numbers and short vectors.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError


class ConvexNetwork(nn.Module, ABC):
    """Convex potential ``psi(x)`` with a continuous gradient ``f(x) = grad psi(x)``, the output.

    A continuous map is the proximal operator of some function R, convex or not, exactly if it is
    the gradient of a convex function (Gribonval and Nikolova, "A characterization of proximity
    operators", 2020). So f is a prox for any weights, trained or not, if the weights that must not
    be negative are not; `project` ensures this.

    A subclass writes `potential`; f then comes from autograd. A subclass with a closed form of its
    gradient writes `potential_and_gradient` instead, which spares training a second derivative by
    autograd.

    Attributes:
        strong_convexity: ``alpha`` of a term ``alpha/2 |x|^2`` in psi. If it is positive, f is
            invertible and R finite everywhere.
        nonnegative: names of the parameters that must not be negative for psi to be convex.

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
        """Return ``psi(x)``, shape ``(batch,)``, preferably in float64: `item_sum`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``f(x) = grad psi(x)``, shaped like x."""
        return self.potential_and_gradient(x)[1]

    def potential_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the potential and its gradient from one pass."""
        learn = torch.is_grad_enabled() and (
            x.requires_grad or any(p.requires_grad for p in self.parameters())
        )
        with torch.enable_grad():
            # Never the caller's own tensor.
            free = x if x.requires_grad else x.detach().requires_grad_(True)
            psi = self.potential(free)
            (gradient,) = torch.autograd.grad(psi.sum(), free, create_graph=learn)
        return (psi, gradient) if learn else (psi.detach(), gradient)

    def project(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the nearest parameters for which psi is convex; training calls this every step."""
        return {
            name: value.clamp_min(0) if name in self.nonnegative else value
            for name, value in parameters.items()
        }

    def check_convex(self) -> None:
        """Raise an `InputError` if a weight has the wrong sign."""
        for name in self.nonnegative:
            least = float(self.get_parameter(name).detach().min())
            if not least >= 0:
                raise InputError(
                    f"the weights {name!r} of {type(self).__name__} go down to {least:.3g}, so its "
                    "potential is not convex and its gradient no prox; "
                    "load_state_dict(network.project(network.state_dict())) mends that"
                )


class ConvexDense(ConvexNetwork):
    """Convex network of fully connected layers.

    ``psi(x) = <w, z_K> + <h, x> + alpha/2 |x|^2`` with ``z_k = g(W_k z_{k-1} + H_k x + b_k)`` and
    ``z_1 = g(H_1 x + b_1)``. The entries of ``W_k`` and of w are nonnegative, g is a softplus
    (Amos, Xu and Kolter, "Input convex neural networks", ICML 2017; Fang, Buchanan and Sulam,
    "What's in a prior? Learned proximal networks for inverse problems", ICLR 2024). An item of any
    shape with ``size`` values is one vector x.

    Args:
        size: number of values of an item.
        width: width of the hidden layers.
        depth: number of hidden layers, K.
        beta: sharpness of the softplus; it bends within about ``1 / beta``.
        strong_convexity: ``alpha``.
        seed: seed of the first weights.

    >>> ConvexDense(3, width=8, depth=2)(torch.zeros(5, 1, 3)).shape
    torch.Size([5, 1, 3])
    """

    def __init__(
        self,
        size: int,
        width: int = 50,
        depth: int = 4,
        beta: float = 10.0,
        strong_convexity: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_range(self, "[1, inf)", size=size, width=width, depth=depth)
        check_range(self, "(0, inf]", beta=beta)
        check_range(self, "[0, inf]", strong_convexity=strong_convexity)
        self.size, self.beta, self.strong_convexity = size, beta, strong_convexity
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> nn.Parameter:
            # Uniform within 1 / sqrt(inputs), as torch's linear layers are.
            return nn.Parameter(
                (2 * torch.rand(shape, generator=generator) - 1) / math.sqrt(shape[-1])
            )

        # For all layers together: one matrix product is faster than several of slim matrices.
        self.skips = draw(depth, width, size)
        self.biases = draw(depth, width)
        self.weights = nn.ParameterList(
            [nn.Parameter(draw(width, width).detach().clamp_min(0)) for _ in range(depth - 1)]
        )
        self.readout = nn.Parameter(draw(1, width).detach().clamp_min(0))
        self.slope = draw(1, size)
        self.nonnegative = (*(f"weights.{k}" for k in range(depth - 1)), "readout")

    def potential(self, x: Tensor) -> Tensor:
        v = self._vectors(x)
        return self._potential(v, self._layers(v)[0])

    def forward(self, x: Tensor) -> Tensor:
        v = self._vectors(x)
        return self._gradient(v, self._layers(v)[1]).view_as(x)

    def potential_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        v = self._vectors(x)
        z, slopes = self._layers(v)
        return self._potential(v, z), self._gradient(v, slopes).view_as(x)

    def _gradient(self, v: Tensor, slopes: list[Tensor]) -> Tensor:
        # Backward through the layers: the transposes of the maps, and the slopes of the softplus.
        pulls = [self.readout * slopes[-1]]
        for k in range(len(slopes) - 1, 0, -1):
            pulls.insert(0, (pulls[0] @ self.weights[k - 1]) * slopes[k - 1])
        gradient = torch.addmm(self.slope, torch.cat(pulls, 1), self.skips.flatten(0, 1))
        return gradient + self.strong_convexity * v if self.strong_convexity else gradient

    def _layers(self, v: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the last layer, and the slopes of all layers."""
        slopes: list[Tensor] = []
        z = v
        skipped = F.linear(v, self.skips.flatten(0, 1), self.biases.flatten())
        for k, before in enumerate(skipped.split(self.biases.shape[1], 1)):
            z, slope = smooth_ramp(
                before if k == 0 else torch.addmm(before, z, self.weights[k - 1].T), self.beta
            )
            slopes.append(slope)
        return z, slopes

    def _potential(self, v: Tensor, z: Tensor) -> Tensor:
        psi = item_sum(z * self.readout) + item_sum(v * self.slope)
        return (
            psi + 0.5 * self.strong_convexity * item_sum(v.square())
            if self.strong_convexity
            else psi
        )

    def extra_repr(self) -> str:
        return f"size={self.size}, beta={self.beta:g}, strong_convexity={self.strong_convexity:g}"

    def _vectors(self, x: Tensor) -> Tensor:
        if x.ndim < 2 or x[0].numel() != self.size:
            raise InputError(
                f"a ConvexDense of size {self.size} takes items with {self.size} values, "
                f"got a batch of shape {tuple(x.shape)}"
            )
        return x.flatten(1)


def smooth_ramp(x: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return the softplus ``log(1 + exp(beta x)) / beta``, and its derivative."""
    value, slope = _SmoothRamp.apply(x, beta)
    return value, slope


class _SmoothRamp(torch.autograd.Function):
    """Softplus and derivative from one exponential, with one backward pass for both."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, beta: float) -> tuple[Tensor, Tensor]:
        slope = (beta * x).sigmoid_()
        ctx.save_for_backward(slope)
        ctx.beta = beta
        # Beyond 40 the softplus equals its argument to the precision of float64.
        return F.softplus(x, beta, 40.0), slope

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        of_value, of_slope = gradients
        return torch.addcmul(of_value, of_slope, 1 - slope, value=ctx.beta).mul_(slope), None


def item_sum(x: Tensor) -> Tensor:
    """Return the sum over each item in float64.

    Potentials of whole pictures differ by less than float32 resolves at their size.
    """
    return x.flatten(1).sum(1, dtype=torch.float64)
