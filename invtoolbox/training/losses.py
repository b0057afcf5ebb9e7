"""Losses of a network: how far what it gives is from what it should give, one number a pair."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from invtoolbox.errors import InputError


class Loss(ABC):
    """``loss(result, wanted) -> (count,)`` for pairs ``(count, channel, *space)``."""

    @abstractmethod
    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor: ...

    def of_network(
        self, network: nn.Module, shown: Tensor, wanted: Tensor, generator: Generator
    ) -> Tensor:
        """The loss of what a network makes of what it is shown, ``(count,)``.

        This is what training calls; a loss that looks at more than the result (at a part of the network, say) overrides it. Draws come
        from the generator.
        """
        return self(network(shown).to(wanted.dtype), wanted)


@dataclass(frozen=True)
class L2(Loss):
    """The mean of squares; its minimiser is the mean of what may have been the clean image."""

    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor:
        return (result - wanted).flatten(1).square().mean(1)


@dataclass(frozen=True)
class L1(Loss):
    """The mean of absolute values; its minimiser is the median, pixel by pixel."""

    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor:
        return (result - wanted).flatten(1).abs().mean(1)


@dataclass(frozen=True)
class ProximalMatching(Loss):
    r"""``1 - exp(-|e|^2 / (gamma^2 n))`` of the error e of a whole item of n values.

    As gamma falls to 0 the minimiser becomes the mode of what may have been the clean image x, given ``y = x + sigma v``: the proximal
    operator of ``-sigma^2 log p`` (Fang, Buchanan and Sulam, ICLR 2024, theorem 3.2; their constant factor is left out). Far from the
    mode the gradient is 0, so a network is brought near it first, by `L1` and by larger gamma.

    Args:
        gamma: the size of an error that counts, root mean square over the item: 0.08 at the end for images in [0, 1].
    """

    gamma: float

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise InputError(f"ProximalMatching needs a positive gamma, got {self.gamma}")

    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor:
        # Of the item as a whole: a product over pixels, not a sum.
        return -torch.expm1(-(result - wanted).flatten(1).square().mean(1) / self.gamma**2)
