"""A compressive autoencoder that fits one CPU, and the densities of its latents.

`MeanScaleHyperprior` is the autoencoder. The densities are convolved with the box of width 1: they
are the distributions of a latent that is rounded, or blurred by uniform noise. All are logarithms
in nats, stable far out in the tails, so that gradients never vanish there and no floor is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from invtoolbox.errors import InputError

#: Least standard deviation of a latent; below it the latent is determined up to its rounding.
LEAST_STD = 0.1

#: Share of latents that are not normal but Laplace distributed, and the scale of that distribution.
#: They cost nats in proportion to their distance; a normal tail costs hundreds and disturbs the
#: training.
_ODD, _FAR = 1e-4, 2.0


class HyperpriorNetwork(nn.Module):
    """Base class of compressive autoencoders with latents z and h.

    A subclass writes ``encode``, ``decode`` and ``energy``, and has a second decoder ``deviation``.
    """

    stride = 32
    deviation: nn.Module

    def log_std(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the log standard deviation of every pixel around `decode`.

        The second decoder computes it.
        """
        # It is near e^-4 = 0.02 at first, and never so small that one pixel outweighs all others.
        result: Tensor = -4 + 3 * torch.tanh(self.deviation(self._squash(z)) / 3)
        return result[..., : size[0], : size[1]]

    def forward(self, x: Tensor, generator: Generator | None = None) -> Coded:
        """Encode, blur by uniform noise as wide as rounding, and decode."""
        network: Any = self
        z, h = (with_uniform_noise(latent, generator) for latent in network.encode(x))
        size = (x.shape[-2], x.shape[-1])
        x = network.decode(z, size)
        return Coded(x, network.energy(z, h), self.log_std(z.detach(), size))

    def _squash(self, z: Tensor) -> Tensor:
        """Return latents as the networks take them."""
        return z


class MeanScaleHyperprior(HyperpriorNetwork):
    """Compressive autoencoder: encoder, decoder and the density ``p(z, h) = p(z | h) p(h)``.

    Minnen, Balle and Toderici, "Joint autoregressive and hierarchical priors for learned image
    compression" (NeurIPS 2018), without the autoregressive part: ``z`` is normal given ``h`` with a
    mean and a scale per entry, ``h`` has the learned factorised density, both convolved with the
    unit box. ``z`` has one place per 8 by 8 pixels, ``h`` one per 32 by 32. The encoder has
    divisive normalization without the root (Johnston et al., "Computationally efficient neural
    image compression", 2019); its inverse in the decoder grows like a square, which made training
    diverge, so the decoder has leaky ramps. There is a residual block at the two coarser scales.

    A second decoder (Biquard et al., "Deep priors for satellite image restoration with accurate
    uncertainties", 2024) gives the standard deviation of a pixel around its decoded value.

    Pictures may have any size: they are extended by reflection to a multiple of 32 pixels, and
    cropped when decoded.

    Args:
        channels: number of channels of the pictures, 1 or 3.
        widths: channels at a half, a quarter and an eighth of the resolution.
        latents: channels of z.
        hyper: channels of h.
        seed: seed of the first weights.

    >>> network = MeanScaleHyperprior(widths=(4, 4, 8), latents=6, hyper=4)
    >>> z, h = network.encode(torch.rand(1, 1, 40, 70))
    >>> z.shape, h.shape
    (torch.Size([1, 6, 8, 12]), torch.Size([1, 4, 2, 3]))
    >>> network.decode(z, (40, 70)).shape, network.energy(z, h).shape
    (torch.Size([1, 1, 40, 70]), torch.Size([1]))
    """

    def __init__(
        self,
        channels: int = 1,
        widths: tuple[int, int, int] = (48, 64, 96),
        latents: int = 64,
        hyper: int = 48,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if len(widths) != 3 or min(channels, *widths, latents, hyper) < 1:
            raise InputError(
                "MeanScaleHyperprior needs positive channels, three widths, latents and hyper, got "
                f"{channels}, {tuple(widths)}, {latents} and {hyper}"
            )
        self.channels, self.latents = channels, latents
        fine, middle, coarse = widths
        # The modules draw their first weights from the global generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.analysis = nn.Sequential(
                down(channels, fine),
                DivisiveNormalization(fine),
                down(fine, middle),
                DivisiveNormalization(middle),
                Residual(middle),
                down(middle, coarse),
                Residual(coarse),
                nn.Conv2d(coarse, latents, 3, padding=1),
            )
            self.synthesis = nn.Sequential(
                nn.Conv2d(latents, coarse, 3, padding=1),
                Residual(coarse),
                up(coarse, middle),
                Residual(middle),
                nn.LeakyReLU(0.1),
                up(middle, fine),
                nn.LeakyReLU(0.1),
                up(fine, channels),
            )
            self.deviation = nn.Sequential(
                up(latents, fine),
                nn.LeakyReLU(),
                up(fine, fine // 2 or 1),
                nn.LeakyReLU(),
                up(fine // 2 or 1, channels),
            )
            self.hyper_analysis, self.hyper_synthesis = hyper_transforms(latents, hyper)
        self.density = FactorizedDensity(hyper, seed=seed)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(z, h)`` of pictures, not rounded."""
        rows, columns = x.shape[-2:]
        z = self.analysis(extend(2 * x - 1, -rows % self.stride, -columns % self.stride))
        return z, self.hyper_analysis(z)

    def decode(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        """Return pictures of ``size``, rows and columns."""
        x: Tensor = (self.synthesis(z) + 1) / 2
        return x[..., : size[0], : size[1]]

    def energy(self, z: Tensor, h: Tensor) -> Tensor:
        """Return ``-log p(z | h) - log p(h)`` in nats, ``(batch,)``."""
        mean, raw = self.hyper_synthesis(h).chunk(2, 1)
        nats_of_h: Tensor = self.density(h)
        std = LEAST_STD + F.softplus(raw)
        return nats_of_h - log_box_normal_or_odd(z, mean, std).flatten(1).sum(1)


@dataclass(frozen=True)
class Coded:
    """Result of an autoencoder in training.

    Attributes:
        x: decoded pictures.
        nats: ``-log p(z, h)`` of the blurred latents, ``(batch,)``.
        log_std: log standard deviation of every pixel, from the second decoder.
    """

    x: Tensor
    nats: Tensor
    log_std: Tensor


class FactorizedDensity(nn.Module):
    """Density of every channel, learned without a parametric form and convolved with the box.

    It is the derivative of a monotone network (Balle, Minnen, Singh, Hwang and Johnston,
    "Variational image compression with a scale hyperprior", ICLR 2018, appendix 6.1). The
    cumulative distribution is ``sigmoid(f(x))``, f a chain of ``x -> g(softplus(H) x + b)`` with
    ``g(x) = x + tanh(a) tanh(x)`` in all but the last one, so that it rises everywhere.

    Args:
        channels: number of channels of the latents.
        widths: widths of the layers within the chain.
        scale: first range of the density.
        seed: seed of the first weights.

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
        """Return ``-log p(h)`` in nats, latents ``(batch, channel, *space) -> (batch,)``."""
        rows = h.transpose(0, 1).flatten(1)[:, None]  # (channel, 1, batch * places)
        upper, lower = self._logits(rows + 0.5), self._logits(rows - 0.5)
        # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u))
        log_p = F.logsigmoid(upper) + F.logsigmoid(-lower) + _log_one_minus_exp(lower - upper)
        return -log_p.view(h.shape[1], h.shape[0], -1).sum((0, 2))

    def _logits(self, x: Tensor) -> Tensor:
        last = len(self.matrices) - 1
        for k, (matrix, offset) in enumerate(zip(self.matrices, self.offsets)):
            x = torch.baddbmm(offset, F.softplus(matrix), x)
            if k < last:
                x = x + self.bends[k].tanh() * x.tanh()
        return x


class DivisiveNormalization(nn.Module):
    """Normalization ``x / (b + G |x|)`` over the channels of a place, b and G positive."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.ones(channels))
        self.weight = nn.Parameter(
            torch.full((channels, channels), -6.0) + 3.75 * torch.eye(channels)
        )  # softplus: 0.1 and 0.0025

    def forward(self, x: Tensor) -> Tensor:
        return x / F.conv2d(
            x.abs(), F.softplus(self.weight)[..., None, None], self.offset.square() + 1e-4
        )


class Residual(nn.Module):
    """Residual block ``x + W_2 g(W_1 x)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.leaky_relu(self.first(x), 0.1))


def down(into: int, out: int) -> nn.Conv2d:
    """Return a convolution that halves the resolution."""
    return nn.Conv2d(into, out, 5, stride=2, padding=2)


def up(into: int, out: int) -> nn.ConvTranspose2d:
    """Return a transposed convolution that doubles the resolution."""
    return nn.ConvTranspose2d(into, out, 5, stride=2, padding=2, output_padding=1)


def hyper_transforms(latents: int, hyper: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Create the analysis of latents to hyper-latents, and the synthesis of means and deviations.

    The analysis divides the sides by four, and the synthesis multiplies them by four.
    """
    analysis = nn.Sequential(
        nn.Conv2d(latents, hyper, 3, padding=1),
        nn.LeakyReLU(),
        down(hyper, hyper),
        nn.LeakyReLU(),
        down(hyper, hyper),
    )
    synthesis = nn.Sequential(
        up(hyper, hyper),
        nn.LeakyReLU(),
        up(hyper, hyper),
        nn.LeakyReLU(),
        nn.Conv2d(hyper, 2 * latents, 3, padding=1),
    )
    return analysis, synthesis


def log_box_normal(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return ``log(Phi((z - mean + 1/2) / std) - Phi((z - mean - 1/2) / std))``, shaped as ``z``.

    >>> round(float(log_box_normal(torch.zeros(1), torch.zeros(1), torch.tensor([0.01])).exp()), 3)
    1.0
    """
    away = (z - mean).abs()  # the density is even, and its lower tail has no cancellation
    upper = torch.special.log_ndtr((0.5 - away) / std)
    return upper + _log_one_minus_exp(torch.special.log_ndtr((-0.5 - away) / std) - upper)


def log_box_normal_or_odd(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return `log_box_normal` of a mixture with one odd latent in ten thousand, shaped as ``z``."""
    normal = log_box_normal(z, mean, std) + math.log1p(-_ODD)
    odd = math.log(_ODD / (2 * _FAR)) - (z - mean).abs() / _FAR
    return torch.logaddexp(normal, odd)


def _log_one_minus_exp(x: Tensor) -> Tensor:
    """Return ``log(1 - exp(x))`` for negative x.

    If two numbers have rounded to one, x is 0; it counts as the smallest negative number.
    """
    return torch.log(-torch.expm1(x.clamp_max(-1e-7)))


def with_uniform_noise(z: Tensor, generator: Generator | None) -> Tensor:
    """Blur latents by uniform noise as wide as rounding."""
    return z + (torch.rand(z.shape, generator=generator, dtype=z.dtype, device=z.device) - 0.5)


def extend(x: Tensor, down: int, right: int) -> Tensor:
    """Extend pictures by reflection at the far edges.

    The reflection is repeated if a picture is smaller than the extension.
    """
    for axis, lack in ((-2, down), (-1, right)):
        while lack > 0:
            width = min(lack, max(1, x.shape[axis] - 1))
            mirrored = x.narrow(axis, max(0, x.shape[axis] - 1 - width), width).flip(axis)
            x, lack = torch.cat([x, mirrored], axis), lack - width
    return x
