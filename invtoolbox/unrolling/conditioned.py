"""A network that answers for every weight of a prior at once (`Conditioned`)."""

from __future__ import annotations

import copy
import math

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

from invtoolbox.core.guards import check_range
from invtoolbox.core.pytrees import map_items
from invtoolbox.errors import InputError


class Conditioned(nn.Module):
    r"""Network ``f(y, weight)`` whose parameters are polynomials of the logarithm of a weight.

    It learns the answer of an inverse problem for all weights of its prior, by
    `training.EveryWeight`, which needs no true images. The weight then is a knob: another image
    costs one call, and the image has a derivative with respect to it. Each parameter of the given
    network becomes

    .. math:: \theta(t) = \theta_0 + \sum_{k=1}^{d} T_k(t) \, \theta_k,

    T_k the Chebyshev polynomials, and t the logarithm of the weight, from -1 to 1 over the range.
    With ``degree=1`` it is the best response of self-tuning networks (MacKay et al., ICLR 2019),
    which holds near one weight only.

    Args:
        network: network from measurements to images; it is copied.
        weights: range ``(low, high)`` of the weight.
        degree: d; the network has ``d + 1`` times as many parameters.

    Raises:
        InputError: The range is not positive, or the degree is below 1.

    >>> network = Conditioned(nn.Linear(3, 2), weights=(0.01, 1.0))
    >>> network(torch.ones(4, 3), 0.1).shape, network(torch.ones(2, 3), [0.01, 0.1]).shape
    (torch.Size([4, 2]), torch.Size([2, 2]))
    """

    def __init__(self, network: nn.Module, weights: tuple[float, float], degree: int = 4) -> None:
        super().__init__()
        low, high = weights
        check_range("Conditioned", "[1, inf)", degree=degree)
        if not 0 < low < high < math.inf:
            raise InputError(
                f"Conditioned needs a range (low, high) of positive weights, got {tuple(weights)}"
            )
        self.network = copy.deepcopy(network).requires_grad_(True)
        self.weights, self.degree = (float(low), float(high)), degree
        self.changes = nn.ParameterList(
            nn.Parameter(torch.zeros(degree, *p.shape, dtype=p.dtype, device=p.device))
            for p in self.network.parameters()
        )

    def forward(self, y: Tensor, weight: float | list[float] | Tensor) -> Tensor:
        """Return the images for a weight, one for all items or one per item.

        Args:
            y: measurements ``(batch, ...)``.
            weight: a number, or ``(batch,)``; with ``requires_grad`` it gets a derivative.
        """
        like = next(self.network.parameters())
        values = torch.as_tensor(weight, dtype=like.real.dtype, device=like.device)
        low, high = self.weights
        # The ends of the range may be missed by the rounding of a float32.
        inside = (values.detach() >= low * (1 - 1e-6)) & (values.detach() <= high * (1 + 1e-6))
        if not bool(inside.all()) or values.ndim > 1 or values.shape not in ((), (len(y),)):
            raise InputError(
                f"this network knows weights from {low:g} to {high:g}, one or one per item of "
                f"{len(y)}, got {weight}; train it for another range"
            )
        if values.ndim:
            return torch.cat([self._answer(y[k : k + 1], values[k]) for k in range(len(y))])
        if self.training:
            return self._answer(y, values)
        return map_items(lambda item: self._answer(item, values), y)

    def draw(self, count: int, generator: Generator) -> Tensor:
        """Draw weights from the range, ``(count,)``.

        t is the cosine of a uniform angle, the density under which the polynomials are orthogonal.
        Uniform draws of t would leave the answers near the ends of the range undetermined.
        """
        low, high = self.weights
        angle = math.pi * torch.rand(count, generator=generator, device=generator.device)
        return low * (high / low) ** (0.5 + 0.5 * torch.cos(angle))

    def _answer(self, y: Tensor, weight: Tensor) -> Tensor:
        low, high = self.weights
        # T_0 = 1, T_1 = t, T_k = 2 t T_{k-1} - T_{k-2}, and theta = theta_0 + sum_k T_k(t) theta_k.
        t = 2 * torch.log(weight / low) / math.log(high / low) - 1
        chebyshev = [torch.ones_like(t), t]
        while len(chebyshev) <= self.degree:
            chebyshev.append(2 * t * chebyshev[-1] - chebyshev[-2])
        factors = torch.stack(chebyshev[1:])
        parameters = {
            name: p + torch.tensordot(factors.to(p.dtype), change, 1)
            for (name, p), change in zip(self.network.named_parameters(), self.changes)
        }
        return functional_call(self.network, parameters, (y,))

    def extra_repr(self) -> str:
        return f"weights={self.weights}, degree={self.degree}"
