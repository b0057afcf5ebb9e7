"""What a predicted start of an equilibrium learns from: where the iterations end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from torch import Generator, Tensor, nn

from invtoolbox.errors import InputError
from invtoolbox.training.losses import L2, Loss


@dataclass(frozen=True)
class SkipLoss(Loss):
    r"""``loss(z*, wanted) + weight |z_0 - z*|^2 / n`` of an `it.equilibrium` with ``skip=``.

    z* is the fixed point and z_0 the predicted start. The former is a constant in the second term: the start learns where the iterations
    end, and not the other way round (Pal, Edelman and Rackauckas, "Continuous deep equilibrium models", HPEC 2023). A start that lies
    near spares iterations, in training and after it.

    Args:
        loss: of the answer.
        weight: of the start.
    """

    loss: Loss = field(default_factory=L2)
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise InputError(f"SkipLoss needs a positive weight, got {self.weight}")

    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor:
        return self.loss(result, wanted)

    def of_network(
        self, network: nn.Module, shown: Tensor, wanted: Tensor, generator: Generator
    ) -> Tensor:
        if getattr(network, "skip", None) is None:
            raise InputError(
                f"SkipLoss teaches the start of an it.equilibrium(..., skip=...), and {type(network).__name__} predicts none"
            )
        settled = cast(Any, network).settle(shown)
        apart = (settled.start - settled.x.detach()).flatten(1).square().mean(1)
        return self.loss(settled.x, wanted) + self.weight * apart
