"""Graphs of neighbouring points: what rigidity is measured along."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from invtoolbox.errors import InputError, unknown_name
from invtoolbox.kernels.sparse_product import SparseProduct
from invtoolbox.settings import Settings

Weights = Literal["uniform", "gaussian"]


@dataclass(frozen=True, eq=False)
class NeighbourGraph(Settings):
    r"""N points in space and E directed edges between them: those of a cloud, the vertices of a mesh, centres of Gaussians.

    Attributes:
        positions: at rest, ``(N, 3)``.
        edges: ``(2, E)`` whole numbers: the point that an edge belongs to, and its neighbour.
        weights: of the edges, ``(E,)``, not negative.
        differences: the sparse matrix ``(E, N)`` with ``(differences(v))_e = v_i - v_j`` for the edge e from i to j.

    >>> graph = NeighbourGraph.of_points(torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0]]), neighbours=1)
    >>> graph.edges
    tensor([[0, 1, 2],
            [1, 0, 1]])
    >>> graph.vectors[2]
    tensor([2., 0., 0.])
    """

    positions: Tensor
    edges: Tensor
    weights: Tensor
    differences: SparseProduct = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n, e = len(self.positions), self.edges.shape[-1]
        if self.positions.ndim != 2 or self.edges.shape != (2, e) or self.weights.shape != (e,):
            raise InputError(f"a NeighbourGraph takes positions (N, d), edges (2, E) and weights (E,), got {tuple(self.positions.shape)}, "
                             f"{tuple(self.edges.shape)} and {tuple(self.weights.shape)}")
        if not bool((self.weights >= 0).all()):
            raise InputError("the weights of a NeighbourGraph are not negative, and some here are")
        ends, one = torch.arange(e, device=self.edges.device), torch.ones_like(self.weights)
        matrix = SparseProduct(ends.repeat(2), self.edges.flatten(), torch.cat([one, -one]), (e, n))
        object.__setattr__(self, "differences", matrix)

    @classmethod
    def of_points(cls, points: Tensor, neighbours: int | None = 10, radius: float | None = None, labels: Tensor | None = None,
                  weights: Weights = "uniform", scale: float | None = None, symmetric: bool = False) -> Self:
        r"""The graph of the nearest neighbours of each point.

        Args:
            points: finite, ``(N, 3)``.
            neighbours: how many of the nearest points each is joined to; None joins all within the radius.
            radius: neighbours further away than this are left out; in the unit of the points.
            labels: whole numbers ``(N,)``; edges join points of one label only, and points of a negative one have none.
            weights: ``"uniform"``: 1; ``"gaussian"``: ``exp(-d^2 / (2 scale^2))`` at the distance d.
            scale: of Gaussian weights; the median length of the edges where not given.
            symmetric: where one point is a neighbour of another, join that one to it too.
        """
        cloud = _checked(points, neighbours, radius, labels, weights, scale)
        members = np.arange(len(cloud)) if labels is None else (labels >= 0).nonzero()[:, 0].cpu().numpy()
        cloud = cloud[members]
        if labels is not None:
            cloud = _apart(cloud, labels.cpu().numpy()[members])
        pairs = _within(cloud, radius) if neighbours is None and radius is not None else _nearest(cloud, neighbours or 1, radius)
        if labels is not None and len(pairs):
            pairs = pairs[cloud[pairs[:, 0], 3] == cloud[pairs[:, 1], 3]]
        if symmetric:
            pairs = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
        edges = torch.from_numpy(np.ascontiguousarray(members[pairs].T)).to(points.device)
        length = (points[edges[0]] - points[edges[1]]).norm(dim=1)
        if weights == "gaussian" and len(length):
            width = float(length.median()) if scale is None else scale
            return cls(points, edges, torch.exp(-0.5 * (length / max(width, 1e-12)).square()))
        return cls(points, edges, torch.ones_like(length))

    @property
    def vectors(self) -> Tensor:
        """The edges at rest, ``positions_i - positions_j``: ``(E, d)``."""
        return self.positions[self.edges[0]] - self.positions[self.edges[1]]

    def __len__(self) -> int:
        return len(self.positions)


def _checked(points: Tensor, neighbours: int | None, radius: float | None, labels: Tensor | None, weights: str,
             scale: float | None) -> np.ndarray:
    if points.ndim != 2 or not bool(points.isfinite().all()):
        raise InputError(f"a NeighbourGraph is built from finite points (N, 3), got {tuple(points.shape)}"
                         + ("" if points.ndim != 2 else " with some that are NaN or infinite"))
    if neighbours is None and radius is None:
        raise InputError("a NeighbourGraph needs a number of neighbours, a radius, or both")
    if neighbours is not None and neighbours < 1:
        raise InputError(f"every point has at least 1 neighbour, got neighbours={neighbours}")
    for name, value in (("radius", radius), ("scale", scale)):
        if value is not None and not value > 0:
            raise InputError(f"the {name} of a NeighbourGraph is positive, got {value}")
    if labels is not None and labels.shape != points.shape[:1]:
        raise InputError(f"{len(points)} points take labels of shape ({len(points)},), got {tuple(labels.shape)}")
    if weights not in ("uniform", "gaussian"):
        raise unknown_name("weights", weights, ("uniform", "gaussian"))
    cloud: np.ndarray = points.detach().double().cpu().numpy()
    return cloud


def _apart(cloud: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Points with a further coordinate that puts those of different labels further apart than any of one label are."""
    size = float(np.linalg.norm(np.ptp(cloud, axis=0))) if len(cloud) else 0.0
    number = np.unique(labels, return_inverse=True)[1].reshape(-1)
    return np.concatenate([cloud, number[:, None] * (2 * size + 1.0)], axis=1)


def _nearest(cloud: np.ndarray, neighbours: int, radius: float | None) -> np.ndarray:
    from scipy.spatial import cKDTree

    n = len(cloud)
    if n < 2:
        return np.zeros((0, 2), dtype=np.int64)
    bound = np.inf if radius is None else np.nextafter(radius, np.inf)
    distance, index = cKDTree(cloud).query(cloud, k=min(neighbours + 1, n), distance_upper_bound=bound)
    own = index == np.arange(n)[:, None]
    # Of many points at one place the point itself may not be among its nearest; then the last one gives way.
    own[~own.any(1), -1] = True
    kept = ~own & np.isfinite(distance)
    return np.stack([np.nonzero(kept)[0], index[kept]], axis=1).astype(np.int64)


def _within(cloud: np.ndarray, radius: float) -> np.ndarray:
    from scipy.spatial import cKDTree

    half = cKDTree(cloud).query_pairs(radius, output_type="ndarray").astype(np.int64) if len(cloud) else np.zeros((0, 2), np.int64)
    both = np.concatenate([half, half[:, ::-1]])
    return both[np.lexsort((both[:, 1], both[:, 0]))]
