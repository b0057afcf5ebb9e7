"""Densities convolved with the box of width 1: what a latent that is rounded, or blurred by uniform noise, is distributed like.

All are logarithms in nats, stable far out in the tails, so that gradients never vanish there and nothing needs a floor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def log_box_normal(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """``log(Phi((z - mean + 1/2) / std) - Phi((z - mean - 1/2) / std))``, in the shape of ``z``.

    >>> round(float(log_box_normal(torch.zeros(1), torch.zeros(1), torch.tensor([0.01])).exp()), 3)
    1.0
    """
    away = (
        z - mean
    ).abs()  # the density is even, and the lower tail is the one without cancellation
    upper = torch.special.log_ndtr((0.5 - away) / std)
    return upper + _log_one_minus_exp(torch.special.log_ndtr((-0.5 - away) / std) - upper)


def _log_one_minus_exp(x: Tensor) -> Tensor:
    """``log(1 - exp(x))`` for negative x; 0 itself, where two numbers have rounded to one, counts as the smallest there is."""
    return torch.log(-torch.expm1(x.clamp_max(-1e-7)))


class FactorizedDensity(nn.Module):
    r"""A density of its own for every channel, learned without a form: the derivative of a monotone network (Balle, Minnen, Singh, Hwang
    and Johnston, "Variational image compression with a scale hyperprior", ICLR 2018, appendix 6.1), convolved with the box.

    The cumulative distribution is ``sigmoid(f(x))``, f a chain of ``x -> g(softplus(H) x + b)`` with ``g(x) = x + tanh(a) tanh(x)`` but for
    the last one, so that it rises everywhere.

    Args:
        channels: of the latents.
        widths: of the layers within the chain.
        scale: how far the density reaches at first.
        seed: of the first weights.

    >>> FactorizedDensity(2)(torch.zeros(3, 2, 4, 4)).shape
    torch.Size([3])
    """

    def __init__(
        self, channels: int, widths: Sequence[int] = (3, 3, 3), scale: float = 10.0, seed: int = 0
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        sizes = [1, *widths, 1]
        step = scale ** (1 / (len(sizes) - 1))
        raw = [math.log(math.expm1(1 / (step * n))) for n in sizes[1:]]
        self.matrices = nn.ParameterList(
            [
                nn.Parameter(torch.full((channels, n_out, n_in), value))
                for n_in, n_out, value in zip(sizes, sizes[1:], raw)
            ]
        )
        self.offsets = nn.ParameterList(
            [nn.Parameter(torch.rand(channels, n, 1, generator=generator) - 0.5) for n in sizes[1:]]
        )
        self.bends = nn.ParameterList(
            [nn.Parameter(torch.zeros(channels, n, 1)) for n in sizes[1:-1]]
        )

    def forward(self, h: Tensor) -> Tensor:
        """``-log p(h)`` in nats, latents ``(batch, channel, *space) -> (batch,)``."""
        rows = h.transpose(0, 1).flatten(1)[:, None]  # (channel, 1, batch * places)
        upper, lower = self._logits(rows + 0.5), self._logits(rows - 0.5)
        # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u))
        log_p = F.logsigmoid(upper) + F.logsigmoid(-lower) + _log_one_minus_exp(lower - upper)
        total: Tensor = -log_p.view(h.shape[1], h.shape[0], -1).sum((0, 2))
        return total

    def _logits(self, x: Tensor) -> Tensor:
        last = len(self.matrices) - 1
        for k, (matrix, offset) in enumerate(zip(self.matrices, self.offsets)):
            x = torch.baddbmm(offset, F.softplus(matrix), x)
            if k < last:
                x = x + self.bends[k].tanh() * x.tanh()
        return x
