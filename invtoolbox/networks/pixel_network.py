"""Autoregressive network: the distribution of every pixel, given the pixels before it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.networks.denoisers import draw_weights

#: Scale of the densities at 0 and 1 in units of a level, of which 99 % then lie within the level.
_NARROW = 0.1


class PixelNetwork(nn.Module):
    r"""Parameters of a mixture of logistic densities per pixel, from the pixels before it.

    The pixels of a grey image are ordered by rows. One stream of features sees the rows above, a
    second one also the pixels to the left, so that no pixel before is left out (van den Oord et al.,
    "Conditional image generation with PixelCNN decoders", NeurIPS 2016; Salimans et al.,
    "PixelCNN++", ICLR 2017, of which this is a small version without downsampling). Two further
    densities lie at 0 and at 1 and are narrower than a level, for pictures that saturate.

    Args:
        width: number of features of each stream.
        depth: number of residual layers; each widens the seen context by one row and two columns.
        mixture: number of logistic densities per pixel.
        seed: seed of the first weights.

    >>> network = PixelNetwork(width=4, depth=2, mixture=3)
    >>> x = torch.rand(2, 1, 6, 6)
    >>> logits, means, log_scales = network(x)
    >>> changed = x.clone()
    >>> changed[:, :, 3, 2:] = 0  # pixels from (3, 2) on do not reach the mixture of (3, 2)
    >>> changed[:, :, 4:] = 0
    >>> means.shape, torch.equal(means[:, :, 3, :3], network(changed)[1][:, :, 3, :3])
    (torch.Size([2, 3, 6, 6]), True)
    """

    def __init__(self, width: int = 24, depth: int = 6, mixture: int = 5, seed: int = 0) -> None:
        super().__init__()
        check_range(self, "[1, inf)", width=width, depth=depth, mixture=mixture)
        self.mixture = mixture
        self.above = nn.Conv2d(2, width, (2, 3))
        self.left = nn.Conv2d(2, width, (1, 2))
        self.down = nn.ModuleList([nn.Conv2d(width, 2 * width, (2, 3)) for _ in range(depth)])
        self.right = nn.ModuleList([nn.Conv2d(width, 2 * width, (1, 3)) for _ in range(depth)])
        self.link = nn.ModuleList([nn.Conv2d(width, 2 * width, 1) for _ in range(depth)])
        self.last = nn.Conv2d(width, 3 * mixture + 2, 1)
        draw_weights(self, seed)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, ``(batch, mixture + 2, rows, columns)``, means and logarithms of scales.

        The last two logits are those of the densities at 0 and 1.
        """
        if x.ndim != 4 or x.shape[1] != 1:
            raise InputError(
                f"PixelNetwork takes grey images (batch, 1, rows, columns), got {tuple(x.shape)}"
            )
        scaled = 2 * x - 1
        # A channel of ones distinguishes the margin from black pixels.
        marked = torch.cat([scaled, torch.ones_like(scaled)], 1)
        above = self.above(F.pad(marked, (1, 1, 2, 0)))[:, :, :-1]
        left = above + self.left(F.pad(marked, (2, 0, 0, 0)))[..., :-1]
        for down, right, link in zip(self.down, self.right, self.link):
            above = above + _gate(down(F.pad(F.elu(above), (1, 1, 1, 0))))
            left = left + _gate(right(F.pad(F.elu(left), (2, 0, 0, 0))) + link(F.elu(above)))
        sizes = [self.mixture + 2, self.mixture, self.mixture]
        logits, means, log_scales = self.last(F.elu(left)).split(sizes, 1)
        return logits, 0.5 + 0.5 * means, log_scales.clamp_min(-7.0) - 1.5


def _gate(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return a * b.sigmoid()


def mixture_log_probability(
    parameters: tuple[Tensor, Tensor, Tensor], x: Tensor, width: float, edges: bool = False
) -> Tensor:
    r"""Return the logarithm of the probability of intervals around x, ``(batch, rows, columns)``.

    For a logistic density with the distribution function ``s((x - mean) / scale)``,

    .. math:: s(b) - s(a) = s(b) \, s(-a) \, (1 - e^{a - b}),

    which is exact for intervals of any length.

    Args:
        parameters: result of `PixelNetwork`.
        x: centres of the intervals, ``(batch, 1, rows, columns)``.
        width: length of the intervals.
        edges: whether the intervals of 0 and 1 reach to infinity, so that the probabilities of all
            levels add to 1.
    """
    logits, means, log_scales = parameters
    ends = means.new_tensor([0.0, 1.0]).view(1, 2, 1, 1).expand(len(means), -1, *means.shape[2:])
    means = torch.cat([means, ends], 1)
    log_scales = torch.cat([log_scales, torch.full_like(ends, math.log(_NARROW * width))], 1)
    per = (-log_scales).exp()
    low, high = per * (x - means - 0.5 * width), per * (x - means + 0.5 * width)
    below, above = F.logsigmoid(high), F.logsigmoid(-low)
    inside = below + above + torch.log(-torch.expm1(-per * width))
    if edges:
        inside = torch.where(x < 0.5 * width, below, inside)
        inside = torch.where(x > 1 - 0.5 * width, above, inside)
    return (logits.log_softmax(1) + inside).logsumexp(1)
