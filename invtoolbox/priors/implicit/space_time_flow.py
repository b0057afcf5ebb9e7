"""A network of place and time that says how things move through a whole sequence."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Generator, Tensor

from invtoolbox.errors import InputError
from invtoolbox.priors.base import ImplicitPrior
from invtoolbox.priors.flow_points import sequence_of
from invtoolbox.scenes.flow_field import FlowField

if TYPE_CHECKING:
    from invtoolbox.problem import Problem


@dataclass(frozen=True, eq=False)
class NetworkField(FlowField):
    """A `FlowField` by a ReLU network of ``(x, y, z, t, direction)``, t from -1/2 to 1/2 over the sequence."""

    parameters: dict[str, Tensor]
    first: float  # the time of the first sweep
    duration: float

    def displacement(self, points: Tensor, time: Tensor, direction: Tensor) -> Tensor:
        batch, n, _ = points.shape
        place = torch.stack([(time - self.first) / self.duration - 0.5, direction], dim=-1)
        hidden = torch.cat([points, place.expand(batch, n, 2)], dim=-1)
        layers = len(self.parameters) // 2
        hidden = hidden.expand(self.parameters["weight0"].shape[0], -1, -1)
        for k in range(layers):
            hidden = torch.baddbmm(
                self.parameters[f"bias{k}"], hidden, self.parameters[f"weight{k}"]
            )
            if k < layers - 1:
                hidden = torch.relu(hidden)
        return hidden


class SpaceTimeFlow(ImplicitPrior):
    r"""``x = F``, a field of flow over a whole sequence: one network ``F(x, y, z, t, direction)`` for all sweeps.

    What moves alike in neighbouring places and at neighbouring times comes from the same weights: a body that is hidden in one
    sweep is known from the others. It is decoded to a `scenes.flow_field.FlowField`, which `operators.EulerRollout` carries points along.

    Source: Vedder et al., "Neural Eulerian scene flow fields", ICLR 2025: 8 or 18 hidden layers of 128, Xavier's initialisation,
    positions in metres as they are.

    Args:
        width, depth: of the hidden layers.
        first_scale: a factor on the last layer at the start; with a small one, the world starts nearly at rest.
        seed: of the first weights.
    """

    def __init__(
        self, width: int = 128, depth: int = 8, first_scale: float = 1.0, seed: int = 0
    ) -> None:
        if width < 1 or depth < 1 or not first_scale > 0:
            raise InputError(
                f"SpaceTimeFlow needs a positive width, depth and first_scale, got {width}, {depth} and {first_scale}"
            )
        self.width, self.depth, self.first_scale, self.seed = width, depth, first_scale, seed
        self.first, self.duration = 0.0, 0.0
        self.like = torch.zeros(1)

    def prepare(self, problem: Problem, solve: Any) -> Self:
        sweeps, times = sequence_of(problem, repr(self))
        other = copy.copy(self)
        other.first, other.duration, other.like = (
            times[0],
            max(times[-1] - times[0], 1.0),
            sweeps[0].new_zeros(1),
        )
        return other

    def initial(self) -> dict[str, Tensor]:
        if not self.duration:
            raise InputError(
                f"{self!r} knows no sequence yet: it.solve tells it, or call prior.prepare(problem, it.solve)"
            )
        generator = torch.Generator().manual_seed(self.seed)
        parameters: dict[str, Tensor] = {}
        for k, (n_in, n_out) in enumerate(itertools.pairwise([5, *[self.width] * self.depth, 3])):
            bound = math.sqrt(6.0 / (n_in + n_out)) * (self.first_scale if k == self.depth else 1.0)
            parameters[f"weight{k}"] = (
                bound * (2 * torch.rand(1, n_in, n_out, generator=generator) - 1)
            ).to(self.like)
            parameters[f"bias{k}"] = torch.zeros(1, 1, n_out).to(self.like)
        return parameters

    def decode(
        self, parameters: dict[str, Tensor], generator: Generator | None = None
    ) -> NetworkField:
        return NetworkField(parameters, self.first, self.duration)

    def __repr__(self) -> str:
        return f"SpaceTimeFlow(width={self.width}, depth={self.depth})"
