"""A network's weights as the unknown of a problem: what makes `solve` the loop of training too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from invtoolbox.data_terms.base import DataTerm
from invtoolbox.errors import InputError
from invtoolbox.operators.identity import Identity
from invtoolbox.priors.base import ImplicitPrior
from invtoolbox.priors.explicit.convex_network import ConvexNetwork
from invtoolbox.problem import Problem
from invtoolbox.training.losses import Loss
from invtoolbox.training.pairs import Pairs


class NetworkWeights(ImplicitPrior):
    """Parameters are the weights; what they decode to is the loss of every pair of a draw, ``(1, count)``.

    The network itself is never written to. Without a generator, the draw is always the same one, of ``validation``.

    Args:
        network: a module without running statistics (batch normalisation), which would be state beside the weights.
        pairs: what it learns from.
        loss: of a pair.
        count: pairs of a draw.
        validation: pairs to judge it by; those it learns from where there are none.
        mixed_precision: run the network in bfloat16 on a GPU; weights and loss stay in float32.
    """

    def __init__(
        self,
        network: nn.Module,
        pairs: Pairs,
        loss: Loss,
        count: int,
        validation: Pairs | None = None,
        mixed_precision: bool = False,
    ) -> None:
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules()):
            raise InputError(
                f"{type(network).__name__} has batch normalisation, whose running statistics are no weights; train it without"
            )
        if count < 1:
            raise InputError(f"a draw needs at least one pair, got {count}")
        self.network, self.pairs, self.loss, self.count = network, pairs, loss, count
        self.validation, self.mixed_precision = validation, mixed_precision

    def initial(self) -> dict[str, Tensor]:
        return {name: value.detach()[None] for name, value in self.network.named_parameters()}

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Tensor:
        weights = {f"network.{name}": value[0] for name, value in parameters.items()}
        device = next(iter(weights.values())).device
        drawing = torch.Generator(device).manual_seed(0) if generator is None else generator
        pairs = self.pairs if generator is not None or self.validation is None else self.validation
        shown, wanted = pairs.draw(self.count, drawing)
        with torch.autocast(
            device.type, torch.bfloat16, enabled=self.mixed_precision and device.type == "cuda"
        ):
            losses: Tensor = torch.func.functional_call(
                _Judged(self.network, self.loss), weights, (shown, wanted, drawing)
            )
        return losses[None]

    def projected(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        """Convex networks, alone or as parts of a larger one, stay convex."""
        for prefix, part in self.network.named_modules():
            if isinstance(part, ConvexNetwork):
                place = f"{prefix}." if prefix else ""
                own = {
                    name.removeprefix(place): value
                    for name, value in parameters.items()
                    if name.startswith(place)
                }
                parameters = {
                    **parameters,
                    **{place + name: value for name, value in part.projected(own).items()},
                }
        return parameters

    @property
    def is_constrained(self) -> bool:
        return any(isinstance(part, ConvexNetwork) for part in self.network.modules())

    def __repr__(self) -> str:
        shapes = ", ".join(str(tuple(p.shape)) for p in self.network.parameters())
        name = f"{type(self.network).__name__}({self.network.extra_repr()})"
        return f"NetworkWeights({name} {shapes}; {self.pairs!r}, {self.loss!r}, count={self.count})"


class _Judged(nn.Module):
    """A network and its loss as one module, so that whatever the loss looks at has the weights that are being tried."""

    def __init__(self, network: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, shown: Tensor, wanted: Tensor, generator: Generator) -> Tensor:
        return self.loss.of_network(self.network, shown, wanted, generator)


class MeanLoss(DataTerm):
    """The mean of predicted losses; the measurements, 0, are what they should be."""

    def value(self, prediction: Any, y: Any) -> Tensor:
        mean: Tensor = prediction.mean(1)
        return mean

    def __repr__(self) -> str:
        return "MeanLoss()"


def training_problem(count: int, like: Tensor) -> Problem:
    """The problem whose unknown are weights: ``count`` losses that should be 0."""
    return Problem(like.new_zeros(1, count), Identity((count,)), MeanLoss())
