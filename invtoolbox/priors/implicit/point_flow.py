"""Implicit priors of the flow of points.

`FreeFlow` has a free vector at every point: no prior, but the control of those that are.
`NeuralSceneFlow` is a network of position, whose weights are the unknown. `PointFlow` is their base
class.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Generator, Tensor

from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.core.pytrees import map_items
from invtoolbox.priors.base import ImplicitPrior, Problem
from invtoolbox.priors.motion.flow_prior import flow_points
from invtoolbox.priors.settings import replace, require_bound


class PointFlow(ImplicitPrior):
    """Base class of priors of the flow of a problem's points.

    The flow is forward, or forward and backward under `operators.PointWarpBothWays`.
    """

    item_fields: ClassVar[tuple[str, ...]] = ("points",)
    points: Tensor | None = None  # ``(1 or batch, N, 3)``, of a prior that is bound to a problem
    both_ways: bool = False

    def prepare(self, problem: Problem, solve: Any) -> Self:
        return replace(
            self,
            points=flow_points(problem, repr(self)),
            both_ways=isinstance(problem.operator.domain_shape[0], tuple),
        )

    def _ways(self) -> tuple[str, ...]:
        return ("forward", "backward") if self.both_ways else ("forward",)


class NeuralSceneFlow(PointFlow):
    """Neural scene flow prior ``f(p) = MLP(p)``: a ReLU network of position, one per item.

    The positions are raw coordinates in metres. Li, Pontes and Lucey, "Neural scene flow prior"
    (NeurIPS 2021): such a network learns smooth functions first, and this is the prior; it is
    optimized from random weights for each pair of sweeps. Under `operators.PointWarp` x is the flow
    ``(batch, N, 3)``. Under `operators.PointWarpBothWays` it is ``(forward, backward)``: a second
    network, at the start a copy of the first, gives the flow back at the points that have arrived,
    and both learn from the error of their return.

    An item is computed by the same products alone and in a batch, so its result is bitwise the
    same.

    Args:
        width: width of the hidden layers.
        depth: number of hidden layers.
        initialization: ``"default"`` as in the paper (uniform within ``1 / sqrt(inputs)``, weights
            and offsets), or ``"xavier"`` with offsets of 0 (Li et al., "Fast neural scene flow",
            ICCV 2023).
        seed: seed of the first weights, which are the same for every item. In raw metres and with
            the large steps of the papers, a draw occasionally dies (every unit of a layer at 0):
            its objective does not fall, and another seed helps.

    >>> import invtoolbox as it
    >>> points = torch.rand(2, 5, 3)
    >>> problem = it.Problem(points + 0.1, it.operators.PointWarp(points), it.data_terms.Chamfer())
    >>> prior = NeuralSceneFlow(width=16, depth=2).prepare(problem, it.solve)
    >>> prior.decode({k: t.expand(2, *t.shape[1:]) for k, t in prior.initial().items()}).shape
    torch.Size([2, 5, 3])
    """

    def __init__(
        self,
        width: int = 128,
        depth: int = 8,
        initialization: Literal["default", "xavier"] = "default",
        seed: int = 0,
    ) -> None:
        check_range(self, "[1, inf)", width=width, depth=depth)
        check_choice(self, ("default", "xavier"), initialization=initialization)
        self.width, self.depth, self.initialization, self.seed = width, depth, initialization, seed

    def initial(self) -> dict[str, Tensor]:
        points = require_bound(self, self.points)
        generator = torch.Generator().manual_seed(self.seed)
        sizes = [points.shape[-1], *[self.width] * self.depth, points.shape[-1]]
        drawn: dict[str, Tensor] = {}
        for k, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
            xavier = self.initialization == "xavier"
            bound = math.sqrt(6 / (n_in + n_out)) if xavier else 1 / math.sqrt(n_in)
            drawn[f"weight{k}"] = (
                bound * (2 * torch.rand(1, n_in, n_out, generator=generator) - 1)
            ).to(points)
            offset = bound * (2 * torch.rand(1, n_out, generator=generator) - 1)
            drawn[f"bias{k}"] = (torch.zeros_like(offset) if xavier else offset).to(points)
        return {
            f"{name}_{leaf}": value.clone()
            for name in self._ways()
            for leaf, value in drawn.items()
        }

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Any:
        batch = parameters["forward_weight0"].shape[0]
        points = require_bound(self, self.points)
        points = points.expand(batch, *points.shape[1:])
        forward = self._network(parameters, "forward", points)
        # Not detached: the forward network learns from the way back too.
        return (
            (forward, self._network(parameters, "backward", points + forward))
            if self.both_ways
            else forward
        )

    def flow_at(self, parameters: dict[str, Tensor], points: Tensor) -> Tensor:
        """Return the flow of any points, without derivatives.

        The shapes are ``(batch or 1, n, 3) -> (batch, n, 3)``.
        """
        batch = parameters["forward_weight0"].shape[0]
        points = points.to(parameters["forward_weight0"]).expand(batch, *points.shape[1:])
        with torch.no_grad():
            return self._network(parameters, "forward", points)

    def _network(self, parameters: dict[str, Tensor], name: str, points: Tensor) -> Tensor:
        names = [f"{name}_{kind}{k}" for k in range(self.depth + 1) for kind in ("bias", "weight")]
        return map_items(self._apply, points, *(parameters[n] for n in names))

    def _apply(self, points: Tensor, *layers: Tensor) -> Tensor:
        """Apply the layers, each a bias and a weight, to ``(batch, n, 3)``."""
        at_once = _AT_ONCE if points.device.type == "cpu" else max(1, points.shape[1])
        flows = []
        for item, of_item in enumerate(points):
            for hidden in of_item.split(at_once):
                for k, (bias, weight) in enumerate(zip(layers[::2], layers[1::2])):
                    hidden = torch.addmm(bias[item], hidden, weight[item])
                    if k < self.depth:
                        hidden = hidden.relu_()  # in place: the derivative needs no earlier value
                flows.append(hidden)
        return torch.cat(flows).view(points.shape)

    def __repr__(self) -> str:
        return (
            f"NeuralSceneFlow(width={self.width}, depth={self.depth}, "
            f"initialization={self.initialization!r}, seed={self.seed})"
        )


class FreeFlow(PointFlow):
    """Independent flow of every point, from 0: no prior at all.

    ``x = z``, or ``x = (z_forward, z_backward)`` under `operators.PointWarpBothWays`. It reaches a
    lower misfit than any prior, because points move onto their nearest neighbours, which is not
    where they went. Together with explicit priors of motion (rigidity of neighbourhoods) it is as
    good a parametrization as others.

    >>> import invtoolbox as it
    >>> points = torch.rand(1, 5, 3)
    >>> A = it.operators.PointWarp(points)
    >>> problem = it.Problem(points + 0.01, A, it.data_terms.Chamfer())
    >>> solver = it.solvers.Adam(learning_rate=1e-3)
    >>> solution = it.solve(problem, FreeFlow(), solver, max_iterations=100, progress=False)
    >>> bool(((solution.x - 0.01).abs() < 2e-3).all())
    True
    """

    def initial(self) -> dict[str, Tensor]:
        return {name: torch.zeros_like(require_bound(self, self.points)) for name in self._ways()}

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Any:
        return (
            (parameters["forward"], parameters["backward"])
            if self.both_ways
            else parameters["forward"]
        )


#: Number of points that pass all layers together on the CPU: 1 MB per layer at the default width,
#: which stays in the cache and is allocated without new pages. Forward and backward pass of 24,000
#: points take 0.22 s instead of 0.35 s (one core).
_AT_ONCE = 2048
