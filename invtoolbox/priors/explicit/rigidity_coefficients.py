"""Rigidity coefficients: edges within a part keep their length, edges at joints less so."""

from __future__ import annotations

import dataclasses
from typing import Literal

from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.priors.explicit.graph_prior import Graphs
from invtoolbox.priors.explicit.isometry import Edges, Isometry
from invtoolbox.scenes.neighbour_graph import NeighbourGraph, Weights
from invtoolbox.scenes.skinning import blend_weights, farthest_points, rigidity_coefficients


class RigidityCoefficients(Isometry):
    r"""``R(x) = 1/W sum_ij w_ij c_ij rho(|p'_i - p'_j| - |p_i - p_j|)``, W the sum of the ``w_ij c_ij``: an `Isometry` with a rigidity of
    each edge.

    The coefficients c follow from how much the points follow B bones (`scenes.skinning.rigidity_coefficients`): 1 within a part, ``floor``
    where a point follows many bones alike. Without a floor nothing holds joints that were not observed.

    After the dynamic rigid loss of LIMR (Zhang et al., "Learning implicit representation for reconstructing articulated objects",
    ICLR 2024), in a form of our own; that it beats even weights has not been seen to hold in general.

    Args:
        skinning: how much each point follows each bone, ``(N, B)``, not negative; where not given, ``bones`` of the points, far
            from each other, with Gaussian weights.
        bones: see there.
        floor: the least coefficient.
        neighbours, radius, labels, weights, scale, symmetric, graph, norm, smoothing: see `Isometry`.

    >>> import torch
    >>> p = torch.rand(1, 50, 3, generator=torch.Generator().manual_seed(0))
    >>> prior = RigidityCoefficients(bones=4).bind(p)
    >>> bool(prior.energy(torch.ones_like(p)) < 1e-10), bool(prior.energy(0.1 * p) > 1e-4)
    (True, True)
    """

    def __init__(
        self,
        skinning: Tensor | None = None,
        bones: int = 16,
        floor: float = 0.05,
        neighbours: int | None = 20,
        radius: float | None = None,
        labels: Tensor | None = None,
        weights: Weights = "uniform",
        scale: float | None = None,
        symmetric: bool = False,
        graph: Graphs | None = None,
        norm: Literal["l1", "l2"] = "l2",
        smoothing: float = 1e-3,
    ) -> None:
        super().__init__(
            neighbours, radius, labels, weights, scale, symmetric, graph, norm, smoothing
        )
        if bones < 1:
            raise InputError(f"RigidityCoefficients needs at least one bone, got {bones}")
        self.skinning, self.bones, self.floor = skinning, int(bones), float(floor)

    def _rest(self, graph: NeighbourGraph) -> Edges:
        points = graph.positions
        if self.skinning is not None:
            if len(self.skinning) != len(points):
                raise InputError(
                    f"there are skinning weights of {len(self.skinning)} points, and the problem moves {len(points)}"
                )
            follows = self.skinning.to(points)
        else:
            count = min(self.bones, len(points))
            index, share = blend_weights(points, points[farthest_points(points, count)], count)
            follows = points.new_zeros(len(points), count).scatter(1, index, share)
        coefficients = rigidity_coefficients(follows, graph.edges, self.floor)
        return Edges(dataclasses.replace(graph, weights=graph.weights * coefficients))
