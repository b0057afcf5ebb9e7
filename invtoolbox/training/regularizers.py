"""Regularizers of a training that have shown a gain for networks that reconstruct.

`benchmarks/training_regularizers.py` prints the gain of each of them, and of those that have none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError
from invtoolbox.training.losses import L2, Loss, Penalized


@dataclass(frozen=True)
class WorstDirection(Penalized):
    r"""Loss with a penalty on the largest answer of a network to a change of its input.

    ``loss + weight |f(y + d) - f(y)|^2 / (n s^2)`` with n values of the answer. d is the direction
    of the largest change near y, with the root mean square s. One step of gradient ascent from a
    random direction finds d, which stays constant in the derivative (as in virtual adversarial
    training, Miyato, Maeda, Koyama and Ishii, IEEE TPAMI 41, 2019). The network then amplifies
    errors of the measurements less. A step costs about four times as much as one without the
    penalty.

    Args:
        weight: weight of the penalty.
        size: s, in the units of the measurements; the standard deviation of their noise is usual.
        loss: loss to which the penalty is added; any loss of a network that returns an image.

    Raises:
        InputError: The weight or the size is not positive.

    >>> network = nn.Linear(3, 3, bias=False)
    >>> with torch.no_grad():
    ...     _ = network.weight.copy_(2 * torch.eye(3))
    >>> y = torch.zeros(2, 3)
    >>> loss = WorstDirection(weight=0.5, size=0.1)
    >>> loss.of_network(network, y, y, Generator().manual_seed(0)).detach()
    tensor([2.0000, 2.0000])
    """

    weight: float
    size: float
    loss: Loss = field(default_factory=L2)

    def __post_init__(self) -> None:
        check_range(self, "(0, inf]", "weight", "size")

    def penalty(self, network: nn.Module, x: Tensor, generator: Generator) -> Tensor:
        """Return ``|f(x + d) - f(x)|^2 / (n s^2)`` per item, ``(count,)``."""
        if x.is_complex():
            raise InputError("WorstDirection takes real measurements, and these are complex")
        # A network that knows the weight of a prior gets one per item, as from `EveryWeight`.
        draw: Any = getattr(network, "draw", None)
        weight = () if draw is None else (draw(len(x), generator),)
        drawn = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        before = network(x, *weight)
        if not isinstance(before, Tensor):
            raise InputError(
                "WorstDirection takes networks that return a tensor, and "
                f"{type(network).__name__} returns a {type(before).__name__}"
            )
        with torch.enable_grad():
            perturbed = (x.detach() + self._scale(drawn)).requires_grad_(True)
            change = (network(perturbed, *weight) - before.detach()).square().sum()
            (uphill,) = torch.autograd.grad(change, perturbed)
        change = network(x + self._scale(uphill), *weight) - before
        return change.flatten(1).square().mean(1) / self.size**2

    def _scale(self, d: Tensor) -> Tensor:
        """Return a direction with the root mean square s per item."""
        length = d.flatten(1).square().mean(1).sqrt()
        # A network that is constant near y has no direction.
        factor = self.size / torch.where(length > 0, length, torch.inf)
        return d * factor.view(-1, *[1] * (d.ndim - 1))
