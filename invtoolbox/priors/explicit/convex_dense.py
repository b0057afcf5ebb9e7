"""A convex network of fully connected layers, for numbers and short vectors."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invtoolbox.errors import InputError
from invtoolbox.priors.explicit.convex_network import ConvexNetwork, item_sum, smooth_ramp


class ConvexDense(ConvexNetwork):
    r"""``psi(x) = <w, z_K> + <h, x> + alpha/2 |x|^2`` with ``z_k = g(W_k z_{k-1} + H_k x + b_k)``, ``z_1 = g(H_1 x + b_1)``.

    The entries of ``W_k`` and of w are nonnegative, g is a softplus (Amos, Xu and Kolter, "Input convex neural networks", ICML 2017;
    Fang, Buchanan and Sulam, "What's in a prior? Learned proximal networks for inverse problems", ICLR 2024). An item of any shape with
    ``size`` values is one vector x.

    Args:
        size: values of an item.
        width: of the hidden layers.
        depth: how many hidden layers, K.
        beta: of the softplus; it bends within about ``1 / beta``.
        strong_convexity: ``alpha``.
        seed: of the first weights.

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
        if min(size, width, depth) < 1 or not beta > 0 or not strong_convexity >= 0:
            raise InputError(
                f"ConvexDense needs a positive size, width, depth and beta and a strong_convexity that is not negative, got "
                f"size={size}, width={width}, depth={depth}, beta={beta:g}, strong_convexity={strong_convexity:g}"
            )
        self.size, self.beta, self.strong_convexity = size, beta, strong_convexity
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape: int) -> nn.Parameter:
            # Uniform within 1 / sqrt(inputs), as torch's linear layers are.
            return nn.Parameter(
                (2 * torch.rand(shape, generator=generator) - 1) / math.sqrt(shape[-1])
            )

        # Of all layers together: one product of a matrix is faster than several of slim ones.
        self.skips = drawn(depth, width, size)
        self.biases = drawn(depth, width)
        self.weights = nn.ParameterList(
            [nn.Parameter(drawn(width, width).detach().clamp_min(0)) for _ in range(depth - 1)]
        )
        self.readout = nn.Parameter(drawn(1, width).detach().clamp_min(0))
        self.slope = drawn(1, size)
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
        # Back through the layers: the transposes of the maps, and the slopes of the softplus where it was.
        pulls = [self.readout * slopes[-1]]
        for k in range(len(slopes) - 1, 0, -1):
            pulls.insert(0, (pulls[0] @ self.weights[k - 1]) * slopes[k - 1])
        gradient = torch.addmm(self.slope, torch.cat(pulls, 1), self.skips.flatten(0, 1))
        return gradient + self.strong_convexity * v if self.strong_convexity else gradient

    def _layers(self, v: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The last layer, and the slopes of every one."""
        slopes: list[Tensor] = []
        z = v
        seen = F.linear(v, self.skips.flatten(0, 1), self.biases.flatten()).split(
            self.biases.shape[1], 1
        )
        for k, before in enumerate(seen):
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
                f"a ConvexDense of size {self.size} takes items of so many values, got a batch of shape {tuple(x.shape)}"
            )
        return x.flatten(1)
