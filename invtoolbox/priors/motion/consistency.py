"""Priors of flows that are consistent within a cluster.

`ClusterConsistency` favors one flow for all points of a cluster. `SpatialConsistency` keeps the
distances between the points of one body.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.settings import Settings
from invtoolbox.errors import InputError
from invtoolbox.geometry.neighbour_graph import NeighbourGraph
from invtoolbox.kernels.points.sparse_product import SparseProduct
from invtoolbox.priors.motion.flow_prior import FlowPrior, check_labels, smooth_norm


class ClusterConsistency(FlowPrior):
    """Mean deviation of the flow of a point from the mean flow of its cluster.

    ``R(x) = 1/n sum_i |x_i - mean of x over the cluster of i|`` over the n points that belong to a
    cluster. It is a mean over points, in metres: large clusters count for more. A rotation costs
    about half of the distance that it moves points; if that matters, use `ARAP` or `RigidClusters`.
    The norm is smoothed, ``sqrt(|v|^2 + smoothing^2) - smoothing``.

    Source: the cluster loss of Hoffmann et al., "Floxels", CVPR 2025, which contributes most to
    their method.

    Args:
        labels: cluster of each point, whole numbers ``(N,)`` or ``(batch, N)``; points of a
            negative label are free.
        squared: whether ``1/2 |v|^2`` replaces the norm: a mean of squares, on which outliers of a
            cluster have more influence.
        smoothing: smoothing of the norm, in metres.

    >>> labels = torch.tensor([0, 0, 1, -1])
    >>> flow = torch.tensor([[[1.0, 0, 0], [3, 0, 0], [5, 0, 0], [7, 0, 0]]])
    >>> ClusterConsistency(labels, smoothing=1e-6).energy(flow)  # (1 + 1 + 0) / 3
    tensor([0.6667])
    """

    is_convex = True

    def __init__(self, labels: Tensor, squared: bool = False, smoothing: float = 1e-3) -> None:
        super().__init__()
        check_range(self, "(0, inf]", smoothing=smoothing)
        self.labels = check_labels(labels, "ClusterConsistency")
        self.squared, self.smoothing = squared, smoothing
        rows = self.labels if self.labels.ndim == 2 else self.labels[None]
        self.pieces = tuple(_Clusters(row, torch.float32) for row in rows)

    def _piece(self, points: Tensor, item: int) -> _Clusters:
        labels = self._labels_for(points, item)
        assert labels is not None
        return _Clusters(labels.to(points.device), points.dtype)

    def _item_energy(self, piece: _Clusters, flow: Tensor) -> Tensor:
        if not len(piece.inside):
            return 0.0 * flow.sum()
        strayed = flow.index_select(0, piece.inside) - piece.members(piece.means(flow))
        return (
            0.5 * strayed.square().sum(-1).mean()
            if self.squared
            else smooth_norm(strayed, self.smoothing).mean()
        )

    def __repr__(self) -> str:
        return f"ClusterConsistency(squared={self.squared})"


class SpatialConsistency(FlowPrior):
    r"""Mean over groups of points of a cost that keeps the distances within a group.

    ``R(x) = mean over groups of -log(lambda / n)``, where lambda is the largest eigenvalue of the n
    by n matrix

    .. math:: A_{ij} = \max\left(0,\ 1 - (|p_i - p_j| - |p'_i - p'_j|)^2 / \tau^2\right),
              \qquad p' = p + x.

    ``lambda / n`` is 1 if every distance within the group is kept. Otherwise it is near the share
    of the points that keep their distances among each other: points that do not belong to the body
    have little influence. Groups are the clusters of ``labels`` if these are given (Vidanapathirana
    et al., "Multi-body neural scene flow", 3DV 2024), otherwise each point with its nearest
    neighbours (Vacek et al., "Let it flow", 2024). A mirrored body costs nothing here. A flow that
    changes distances by more than tau has no gradient, so start from a flow that does not. The
    energy is not convex.

    The eigenvector is computed by ``iterations`` of the power method and is held fixed in the
    gradient, which is exact once the method has converged.

    Args:
        labels: cluster of each point, whole numbers ``(N,)`` or ``(batch, N)``; negative for none.
        neighbours: number of neighbours of each point in its group, if there are no labels.
        tau: largest change of a distance, metres.
        largest: number of points to which larger clusters are thinned, by draws with the seed; a
            matrix has the square of it as its size.
        smallest: number of points below which a cluster is left out.
        iterations: number of iterations of the power method.
        seed: seed of the draws.

    >>> p = torch.rand(1, 30, 3, generator=torch.Generator().manual_seed(0))
    >>> prior = SpatialConsistency(neighbours=8).bind(p)
    >>> prior.energy(torch.full_like(p, 0.5)).abs().round(decimals=3)
    tensor([0.])
    >>> bool(prior.energy(0.1 * p) > 0.1)
    True
    """

    def __init__(
        self,
        labels: Tensor | None = None,
        neighbours: int = 16,
        tau: float = 0.03,
        largest: int = 3000,
        smallest: int = 4,
        iterations: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_range(self, "(0, inf]", tau=tau)
        check_range(self, "[1, inf)", neighbours=neighbours, iterations=iterations)
        if not 2 <= smallest <= largest:
            raise InputError(
                "SpatialConsistency needs 2 <= smallest <= largest, "
                f"got smallest={smallest}, largest={largest}"
            )
        self.labels = None if labels is None else check_labels(labels, "SpatialConsistency")
        self.neighbours, self.tau, self.largest, self.smallest = neighbours, tau, largest, smallest
        self.iterations, self.seed = iterations, seed

    def _piece(self, points: Tensor, item: int) -> _Groups:
        labels = self._labels_for(points, item)
        if labels is None:
            # If there are fewer other points than neighbours, every group contains all points.
            k = min(self.neighbours, len(points) - 1)
            near = NeighbourGraph.of_points(points, max(k, 1)).edges[1].view(-1, max(k, 1))
            centre = torch.arange(len(points), device=points.device)[: len(near), None]
            return _Groups(points, [torch.cat([centre, near], dim=1)] if k else [])
        generator = torch.Generator().manual_seed(self.seed)
        members = []
        for label in labels[labels >= 0].unique().tolist():
            index = (labels == label).nonzero()[:, 0].to(points.device)
            if len(index) > self.largest:
                drawn = torch.randperm(len(index), generator=generator)[: self.largest]
                index = index[drawn.sort().values.to(index.device)]
            if len(index) >= self.smallest:
                members.append(index[None])
        return _Groups(points, members)

    def _item_energy(self, piece: _Groups, flow: Tensor) -> Tensor:
        total = 0.0 * flow.sum()
        for index in piece.members:
            arrived = piece.points + flow
            arrived = arrived.index_select(0, index.flatten()).unflatten(0, index.shape)
            total = total + _Cost.apply(arrived, piece.points[index], self.tau, self.iterations)
        return total / max(piece.total, 1)

    def __repr__(self) -> str:
        groups = "labels" if self.labels is not None else f"neighbours={self.neighbours}"
        return f"SpatialConsistency({groups}, tau={self.tau:g})"


class _Clusters(Settings):
    """Clusters of points: `means` averages point values per cluster, `members` maps them back."""

    def __init__(self, labels: Tensor, dtype: torch.dtype) -> None:
        self.count, self.inside = len(labels), (labels >= 0).nonzero()[:, 0]
        number, size = labels[self.inside].unique(return_inverse=True, return_counts=True)[1:]
        n, k = len(self.inside), len(size)
        row = torch.arange(n, device=labels.device)
        self.means = SparseProduct(
            number, self.inside, (1.0 / size)[number].to(dtype), (k, self.count)
        )
        self.members = SparseProduct(
            row, number, torch.ones(n, dtype=dtype, device=labels.device), (n, k)
        )

    def __len__(self) -> int:
        return self.count


class _Groups(Settings):
    """Groups of points that are one body each, and the points at rest.

    Groups of one size are stored together, as ``(groups, size)`` indices.
    """

    def __init__(self, points: Tensor, members: list[Tensor]) -> None:
        self.points, self.members = points, members
        self.total = sum(len(index) for index in members)

    def __len__(self) -> int:
        return len(self.points)


#: Number of matrix entries that are computed together, so that they stay in a cache.
_AT_ONCE = 1 << 19


class _Cost(torch.autograd.Function):
    """Sum over groups of ``-log(lambda / n)``.

    The gradient is computed in the forward pass, while the matrices are in memory.
    """

    @staticmethod
    def forward(context: Any, moved: Tensor, rest: Tensor, tau: float, iterations: int) -> Tensor:
        size, slopes, total = moved.shape[1], [], moved.new_zeros(())
        chunk = max(1, _AT_ONCE // size**2)
        for p, q in zip(moved.split(chunk), rest.split(chunk)):
            p = p - p[:, :1]  # near the origin, sums lose no digits
            distance = _distances(p)
            change = (distance - _distances(q)) / tau
            A = torch.addcmul(torch.ones_like(change), change, change, value=-1).clamp_min_(0)
            v = torch.full_like(A[..., :1], size**-0.5)
            for _ in range(iterations):
                v = A @ v
                v = v / v.norm(dim=-2, keepdim=True)
            score = (v * (A @ v)).sum((-1, -2), keepdim=True) / size
            total += -score.log().sum()
            # The derivative of -log(v A v / n) in the distances, divided by the distances, gives
            # the weights of springs between the points.
            springs = torch.where((A > 0) & (distance > 0), change / distance.clamp_min(1e-12), 0.0)
            springs *= (2 / (tau * size)) * (v / score) * v.transpose(-1, -2)
            slopes.append(2 * (springs.sum(-1, keepdim=True) * p - springs @ p))
        context.save_for_backward(torch.cat(slopes))
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return gradients[0] * context.saved_tensors[0], None, None, None


def _distances(points: Tensor) -> Tensor:
    """Return the distances of all pairs, ``(groups, n, 3) -> (groups, n, n)``.

    They are computed from differences, since products lose the small ones.
    """
    squares: Tensor | None = None
    for c in points.unbind(-1):
        apart = c[..., :, None] - c[..., None, :]
        squares = apart * apart if squares is None else squares.addcmul_(apart, apart)
    assert squares is not None
    return squares.sqrt_()
