"""A coordinate network: the image is a function of position, and the weights are the unknown."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Generator, Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.pytrees import map_items
from invtoolbox.errors import InputError
from invtoolbox.operators.base import item_norm
from invtoolbox.priors.base import ImplicitPrior, Problem
from invtoolbox.priors.settings import replace, require_bound


class CoordinateNetwork(ImplicitPrior):
    """Network of position: ``x(p) = offset + scale * MLP([cos 2 pi B p, sin 2 pi B p])``.

    p lies in ``[-1/2, 1/2]`` along the longest axis. The inputs are random Fourier features (Tancik
    et al. 2020) with ``B ~ N(0, bandwidth^2)``, followed by a ReLU network, one per item. The
    bandwidth, in cycles across the image, is the strength of the prior: faster oscillations are
    learned late. Offset and scale are the mean and the standard deviation of a few CGLS steps, so
    that the weights are of order 1 for any unit of ``x``.

    Args:
        features: number of frequencies.
        width: width of the hidden layers.
        depth: number of hidden layers.
        bandwidth: standard deviation of the frequencies, in cycles across the image.
        seed: seed of the frequencies and of the first weights, which are the same for every item.

    Raises:
        InputError: a setting that is not positive; or, when the problem is known, complex images.

    >>> import invtoolbox as it
    >>> problem = it.Problem(torch.rand(2, 1, 8, 8), it.operators.Identity((1, 8, 8)))
    >>> prior = CoordinateNetwork(features=8, width=16).prepare(problem, it.solve)
    >>> prior.decode({k: t.expand(2, *t.shape[1:]) for k, t in prior.initial().items()}).shape
    torch.Size([2, 1, 8, 8])
    """

    item_fields: ClassVar[tuple[str, ...]] = ("scale", "offset")

    def __init__(
        self,
        features: int = 128,
        width: int = 128,
        depth: int = 3,
        bandwidth: float = 8.0,
        seed: int = 0,
    ) -> None:
        check_range(self, "[1, inf)", features=features, width=width, depth=depth)
        check_range(self, "(0, inf)", bandwidth=bandwidth)
        self.features, self.width, self.depth = features, width, depth
        self.bandwidth, self.seed = bandwidth, seed
        self.inputs: Tensor | None = None
        self.image_shape: tuple[int, ...] = ()
        self.scale = self.offset = torch.ones(1)

    def prepare(self, problem: Problem, solve: Any) -> Self:
        if problem.zeros().is_complex():
            raise InputError(f"{type(self).__name__} makes real images, and the problem is complex")
        dtype, device = problem.y0.dtype, problem.y0.device
        axes = [
            (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) / max(problem.image_shape[1:])
            for n in problem.image_shape[1:]
        ]
        positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)
        inputs = self._features(positions).to(dtype=dtype, device=device)
        offset = torch.zeros(1, dtype=dtype, device=device)
        scale = torch.ones(1, dtype=dtype, device=device)
        if problem.is_linear and problem.data_term.is_quadratic:
            guess = solve(problem, solver="cgls", max_iterations=5, progress=False).x.flatten(1)
            offset = guess.mean(1)
            # Not std(): it rounds an item of a batch otherwise than the item alone.
            spread = item_norm(guess - offset[:, None]) / math.sqrt(max(guess.shape[1] - 1, 1))
            scale = torch.where(spread > 0, spread, torch.ones_like(spread))
        return replace(
            self, image_shape=problem.image_shape, inputs=inputs, offset=offset, scale=scale
        )

    def _features(self, positions: Tensor) -> Tensor:
        """Compute the inputs of the network at positions ``(n, axes)``."""
        generator = torch.Generator().manual_seed(self.seed)
        frequencies = self.bandwidth * torch.randn(
            positions.shape[1], self.features, generator=generator, dtype=torch.float64
        )
        phase = 2 * math.pi * positions @ frequencies
        return torch.cat([phase.cos(), phase.sin()], dim=1)

    def initial(self) -> dict[str, Tensor]:
        """Draw the weights by He initialization.

        The last layer starts near 0, so that the image starts at its offset.
        """
        inputs = require_bound(self, self.inputs)
        sizes = [2 * self.features, *[self.width] * self.depth, self.image_shape[0]]
        return draw_layers(sizes, 0.1, self.seed + 1, inputs)

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Tensor:
        assert self.inputs is not None
        batch = parameters["weight0"].shape[0]
        values = self._network(parameters, self.inputs.expand(batch, *self.inputs.shape))
        image = values.transpose(1, 2).reshape(batch, *self.image_shape)
        shape = (-1, *[1] * (image.ndim - 1))
        return self.offset.view(shape) + self.scale.view(shape) * image

    def _network(self, parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return apply_layers(parameters, inputs, torch.relu)

    def __repr__(self) -> str:
        return (
            f"CoordinateNetwork(features={self.features}, width={self.width}, depth={self.depth}, "
            f"bandwidth={self.bandwidth:g}, seed={self.seed})"
        )


def draw_layers(
    sizes: Sequence[int], last_gain: float, seed: int, like: Tensor
) -> dict[str, Tensor]:
    """Draw the weights and biases of dense layers by He initialization.

    Args:
        sizes: number of values before the first layer and after every layer.
        last_gain: factor on the weights of the last layer.
        seed: seed of the draws.
        like: tensor with the precision and the device of the weights.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters: dict[str, Tensor] = {}
    for k, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        gain = math.sqrt(2.0 / n_in) * (last_gain if k == len(sizes) - 2 else 1.0)
        weight = gain * torch.randn(1, n_in, n_out, generator=generator)
        parameters[f"weight{k}"] = weight.to(like)
        parameters[f"bias{k}"] = torch.zeros(1, 1, n_out).to(like)
    return parameters


def apply_layers(
    parameters: dict[str, Tensor], x: Tensor, activation: Callable[[Tensor], Tensor]
) -> Tensor:
    """Apply dense layers ``weight0``, ``bias0``, ... to ``(batch, n, values)``."""
    layers = len(parameters) // 2
    for k in range(layers):
        x = apply_layer(parameters, k, x)
        x = activation(x) if k < layers - 1 else x
    return x


def apply_layer(parameters: dict[str, Tensor], k: int, x: Tensor) -> Tensor:
    """Apply the dense layer ``weightk``, ``biask`` to ``(batch, n, values)``."""
    weight, bias = parameters[f"weight{k}"], parameters[f"bias{k}"]
    if min(weight.shape[1:]) > 1 or x.device.type != "cpu":
        return map_items(torch.baddbmm, bias, x, weight)
    # A product of a batch of one with a vector rounds otherwise than a product of two matrices.
    return map_items(lambda b, v, w: torch.addmm(b[0], v[0], w[0])[None], bias, x, weight)
