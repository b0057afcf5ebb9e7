"""Losses of a network, one number per pair.

`L2`, `L1` and `ProximalMatching` compare an output with the target. `SkipLoss` also trains the
predicted start of an equilibrium, `RateDistortion` and `PixelLikelihood` train compressive
autoencoders, `BitsPerPixel` trains a density, and `JacobianNuclearNorm` adds a penalty that needs
no Jacobian.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.networks.convex_network import ConvexNetwork
from invtoolbox.networks.pixel_network import mixture_log_probability
from invtoolbox.operators.base import inner


class Loss(ABC):
    """Base class of losses ``loss(result, wanted) -> (count,)``.

    Pairs are ``(count, channel, *space)``.
    """

    @abstractmethod
    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor: ...

    def of_network(
        self, network: nn.Module, shown: Tensor, wanted: Tensor, generator: Generator
    ) -> Tensor:
        """Return the loss of a network's output for an input, ``(count,)``.

        Training calls this method. A loss that needs more than the output (such as a part of the
        network) overrides it. Draws come from the generator.
        """
        result: Tensor = network(shown)
        # A complex result keeps its imaginary part, which is an error if the target is real.
        return self(result if result.is_complex() else result.to(wanted.dtype), wanted)


@dataclass(frozen=True)
class L2(Loss):
    """Mean of squares; its minimizer is the posterior mean of the clean image."""

    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor:
        return mean_square(result - wanted)


@dataclass(frozen=True)
class L1(Loss):
    """Mean of absolute values; its minimizer is the posterior median of every pixel."""

    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor:
        return (result - wanted).flatten(1).abs().mean(1)


@dataclass(frozen=True)
class ProximalMatching(Loss):
    """Loss ``1 - exp(-|e|^2 / (gamma^2 n))`` of the error e of a whole item of n values.

    As gamma falls to 0 the minimizer becomes the mode of the clean image x, given
    ``y = x + sigma v``: the proximal operator of ``-sigma^2 log p`` (Fang, Buchanan and Sulam, ICLR
    2024, theorem 3.2; their constant factor is left out). Far from the mode the gradient is 0, so a
    network is brought near it first, by `L1` and by larger gamma.

    Args:
        gamma: size of an error that counts, root mean square over the item: 0.08 at the end for
            images in [0, 1].
    """

    gamma: float

    def __post_init__(self) -> None:
        check_range(self, "(0, inf]", "gamma")

    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor:
        # The loss is a product over the pixels of an item, not a sum.
        return -torch.expm1(-mean_square(result - wanted) / self.gamma**2)


@dataclass(frozen=True)
class SkipLoss(Loss):
    """Loss of an `it.equilibrium` with ``skip=``, which also trains its predicted start.

    ``loss(z*, wanted) + weight |z_0 - z*|^2 / n``, z* the fixed point and z_0 the predicted start.
    z* is a constant in the second term: the start learns the end of the iterations, not the other
    way round (Pal, Edelman and Rackauckas, "Continuous deep equilibrium models", HPEC 2023). A
    start near the fixed point saves iterations, in training and after it.

    Args:
        loss: loss of the answer.
        weight: weight of the second term.
    """

    loss: Loss = field(default_factory=L2)
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_range(self, "(0, inf]", "weight")

    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor:
        return self.loss(result, wanted)

    def of_network(
        self, network: nn.Module, shown: Tensor, wanted: Tensor, generator: Generator
    ) -> Tensor:
        if getattr(network, "skip", None) is None:
            raise InputError(
                "SkipLoss trains the start of an it.equilibrium(..., skip=...), "
                f"and {type(network).__name__} predicts none"
            )
        settled = cast(Any, network).settle(shown)
        apart = mean_square(settled.start - settled.x.detach())
        return self.loss(settled.x, wanted) + self.weight * apart


@dataclass(frozen=True)
class RateDistortion(Loss):
    """Loss ``bitrate * 255^2 * MSE + bits per pixel`` of a compressive autoencoder.

    Pictures lie in [0, 1] and latents are blurred by uniform noise. Times the number of pixels and
    ``log 2`` it is the negative evidence bound of a variational autoencoder whose posterior is
    uniform of width 1 and whose decoder has the noise `decoder_std` (Balle et al. 2018, section 2).

    Args:
        bitrate: alpha; 0.0035 to 0.18 are usual, larger values give finer pictures and more bits.

    >>> round(255 * RateDistortion(0.0483).decoder_std, 2)
    3.86
    """

    bitrate: float

    def __post_init__(self) -> None:
        check_range(self, "(0, inf]", "bitrate")

    @property
    def decoder_std(self) -> float:
        """The standard deviation of a pixel for which the loss is the evidence bound.

        It is the deviation of a pixel around its decoded value.
        """
        return 1 / (255 * math.sqrt(2 * math.log(2) * self.bitrate))

    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor:
        """Return the distortion alone."""
        return self.bitrate * 255**2 * (result - wanted).flatten(1).square().mean(1)

    def of_network(
        self, network: nn.Module, shown: Tensor, wanted: Tensor, generator: Generator
    ) -> Tensor:
        coded = network(shown, generator)
        pixels = wanted.shape[-2] * wanted.shape[-1]
        return self(coded.x.to(wanted.dtype), wanted) + coded.nats / (math.log(2) * pixels)


@dataclass(frozen=True)
class PixelLikelihood(Loss):
    """Loss ``-log N(wanted; decoded, std^2)`` per value, in nats, for the second decoder alone.

    The second decoder learns the error of the decoded picture.
    """

    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor:
        """Return the loss for a standard deviation of 1."""
        return 0.5 * (result - wanted).flatten(1).square().mean(1)

    def of_network(
        self, network: nn.Module, shown: Tensor, wanted: Tensor, generator: Generator
    ) -> Tensor:
        coded = network(shown, generator)
        log_std = coded.log_std.to(wanted.dtype)
        away = (coded.x.detach().to(wanted.dtype) - wanted) * torch.exp(-log_std)
        return (0.5 * away.square() + log_std).flatten(1).mean(1)


@dataclass(frozen=True)
class BitsPerPixel(Loss):
    """Bits per pixel that a `PixelNetwork` needs for a picture, for `priors.PixelDensity`.

    Pairs are pictures twice, such as `Crops`, with values that are levels in [0, 1]. Black and white
    count as intervals like all other levels: if these reached to infinity, as in PixelCNN++, the
    density would rise beyond black, and noise would lower the energy.

    Args:
        levels: number of levels of a pixel.
    """

    levels: int = 256

    def __post_init__(self) -> None:
        check_range(self, "[2, inf)", "levels")

    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor:
        raise InputError("BitsPerPixel judges the network itself; train calls of_network")

    def of_network(
        self, network: nn.Module, shown: Tensor, wanted: Tensor, generator: Generator
    ) -> Tensor:
        width = 1 / (self.levels - 1)
        log_probability = mixture_log_probability(network(shown), wanted, width)
        return -log_probability.flatten(1).mean(1) / math.log(2)


class Penalized(Loss):
    """Base class of ``loss + weight * penalty``, whose penalty judges the network itself."""

    loss: Loss
    weight: float

    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor:
        """Return the loss alone."""
        return self.loss(result, wanted)

    def of_network(
        self, network: nn.Module, shown: Tensor, wanted: Tensor, generator: Generator
    ) -> Tensor:
        judged = self.loss.of_network(network, shown, wanted, generator)
        penalty = self._weight_of(shown) * self.penalty(network, shown, generator)
        return judged + penalty.to(judged.dtype)

    @abstractmethod
    def penalty(self, network: nn.Module, x: Tensor, generator: Generator) -> Tensor:
        """Return the penalty per input, ``(count,)``."""

    def _weight_of(self, shown: Tensor) -> float:
        return self.weight


@dataclass(frozen=True)
class JacobianNuclearNorm(Penalized):
    """Loss with a penalty on the nuclear norm of the Jacobian: ``loss + weight * |J_f(x)|_* / n``.

    n is the number of values of an input x of the network f. The penalty makes f respond to few
    directions. For a network that is a composition ``f = g(h(x))`` it is
    ``1/2 (|J_h(x)|_F^2 + |J_g(h(x))|_F^2)``. This is never below the nuclear norm, and equals it
    for the best composition, which training finds (Scarvelis and Solomon, "Nuclear norm
    regularization for deep learning", NeurIPS 2024). Squared Frobenius norms are estimated by
    differences along random directions, ``|h(x + step e) - h(x)|^2 / step^2``. The Jacobian of a
    `ConvexNetwork` is symmetric and has no negative eigenvalue, so its nuclear norm is the trace,
    ``<e, f(x + step e) - f(x)> / step``.

    A network whose input and target are noisy images (`Crops` of them) learns by `L2` to
    denoise if the weight is ``2 noise_std^2``: the sum then is the unbiased estimate of the risk
    (Stein 1981), with the nuclear norm in place of the trace.

    Args:
        loss: loss to which the penalty is added.
        weight: weight of the penalty.
        step: step of the differences, in the units of the image; in float32 a large network needs a
            longer one.
        probes: number of directions per item, orthogonal to each other; with as many directions as
            an item, and a code, has values, a linear f is measured exactly.

    >>> network = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    >>> weight = torch.diag(torch.tensor([2.0, 1.0, 0.5]))
    >>> with torch.no_grad():
    ...     _ = [layer.weight.copy_(weight) for layer in network]
    >>> from invtoolbox.training import L2
    >>> loss, generator = JacobianNuclearNorm(L2(), 1.0, probes=3), torch.Generator().manual_seed(0)
    >>> penalty = loss.penalty(network, torch.zeros(1, 3), generator)
    >>> round(float(penalty.detach()), 3)  # 4 + 1 + 1/4
    5.25
    """

    loss: Loss
    weight: float
    step: float = 1e-3
    probes: int = 1

    def __post_init__(self) -> None:
        check_range(self, "(0, inf]", "weight", "step")
        check_range(self, "[1, inf]", "probes")

    def _weight_of(self, shown: Tensor) -> float:
        return self.weight / shown[0].numel()

    def penalty(self, network: nn.Module, x: Tensor, generator: Generator) -> Tensor:
        """Return the estimate of ``|J_f(x)|_*``, or of its upper bound, ``(count,)``.

        Raises:
            InputError: The network is no composition of two halves.
        """
        if isinstance(network, ConvexNetwork):
            return self._mean(network, network(x), x, generator, lambda change, e: inner(change, e))
        encode, decode = halves(network)
        code = encode(x)
        first = self._mean(encode, code, x, generator, lambda change, e: inner(change, change))
        return 0.5 * (
            first
            + self._mean(
                decode, decode(code), code, generator, lambda change, e: inner(change, change)
            )
        )

    def _mean(
        self,
        f: Callable[[Tensor], Tensor],
        value: Tensor,
        x: Tensor,
        generator: Generator,
        measure: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Return the mean of a measure of the derivatives along the probes."""
        directions = _directions(x, min(self.probes, x[0].numel()), generator)
        return torch.stack(
            [measure((f(x + self.step * e) - value) / self.step, e) for e in directions]
        ).mean(0)


def mean_square(x: Tensor) -> Tensor:
    """Compute the mean of squares per item, ``(count,)``; of a complex value, of both parts."""
    return as_real(x).flatten(1).square().mean(1)


def as_real(x: Tensor) -> Tensor:
    """Return the real values of a tensor; the two parts of complex values lie on a last axis."""
    return torch.view_as_real(x) if x.is_complex() else x


def halves(network: nn.Module) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Return h and g of a network ``g(h(x))``.

    They are its methods ``encode`` and ``decode``, or the two modules of an ``nn.Sequential``.
    """
    if isinstance(network, nn.Sequential) and len(network) == 2:
        return network[0], network[1]
    encode, decode = getattr(network, "encode", None), getattr(network, "decode", None)
    if callable(encode) and callable(decode):
        return encode, decode
    raise InputError(
        "the nuclear norm of a Jacobian is penalized by the two halves of a network, and "
        f"{type(network).__name__} has none; a connection around its middle, as in a network that "
        "predicts the noise, prevents it. Give one with methods encode and decode (Bottleneck), an "
        "nn.Sequential of two modules, or a ConvexNetwork"
    )


def _directions(x: Tensor, count: int, generator: Generator) -> Tensor:
    """Draw orthogonal directions of length ``sqrt(n)``, ``(count, *x.shape)``.

    With this length, squares of derivatives along them have the right mean.
    """
    n = x[0].numel()
    drawn = torch.randn(
        len(x), n, count, generator=generator, dtype=torch.float32, device=x.device
    ).to(x.dtype)
    frame = drawn / drawn.norm(dim=1, keepdim=True) if count == 1 else torch.linalg.qr(drawn)[0]
    return (math.sqrt(n) * frame).movedim(2, 0).reshape(count, *x.shape)
