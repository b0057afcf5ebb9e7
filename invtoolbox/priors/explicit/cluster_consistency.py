"""Clusters that move as one: every point of a cluster has the cluster's flow."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.kernels.sparse_product import SparseProduct
from invtoolbox.priors.explicit.flow_prior import FlowPrior, smoothed_norm
from invtoolbox.priors.flow_points import checked_labels, labels_of
from invtoolbox.settings import Settings


class _Clusters(Settings):
    """How points belong to clusters: `means` takes values of points to those of clusters, `members` takes them back."""

    def __init__(self, labels: Tensor, dtype: torch.dtype) -> None:
        self.count, self.inside = len(labels), (labels >= 0).nonzero()[:, 0]
        number, size = labels[self.inside].unique(return_inverse=True, return_counts=True)[1:]
        n, k = len(self.inside), len(size)
        here = torch.arange(n, device=labels.device)
        self.means = SparseProduct(
            number, self.inside, (1.0 / size)[number].to(dtype), (k, self.count)
        )
        self.members = SparseProduct(
            here, number, torch.ones(n, dtype=dtype, device=labels.device), (n, k)
        )

    def __len__(self) -> int:
        return self.count


class ClusterConsistency(FlowPrior):
    r"""``R(x) = 1/n sum_i |x_i - mean of x over the cluster of i|`` over the n points that belong to a cluster.

    A mean over points, in metres: large clusters count for more. Turning costs about half of what it moves; where that
    matters, use `ARAP` or `RigidClusters`. The norm is smoothed, ``sqrt(|v|^2 + smoothing^2) - smoothing``.

    Source: the cluster loss of Hoffmann et al., "Floxels", CVPR 2025, where it carries most of the method.

    Args:
        labels: the cluster of each point, whole numbers ``(N,)`` or ``(batch, N)``; those of negative ones are free.
        squared: ``1/2 |v|^2`` in place of the norm: a mean of squares, which outliers of a cluster pull at.
        smoothing: metres.

    >>> labels = torch.tensor([0, 0, 1, -1])
    >>> flow = torch.tensor([[[1.0, 0, 0], [3, 0, 0], [5, 0, 0], [7, 0, 0]]])
    >>> ClusterConsistency(labels, smoothing=1e-6).energy(flow)  # (1 + 1 + 0) / 3
    tensor([0.6667])
    """

    is_convex = True

    def __init__(self, labels: Tensor, squared: bool = False, smoothing: float = 1e-3) -> None:
        super().__init__()
        if not smoothing > 0:
            raise InputError(f"the smoothing of ClusterConsistency is positive, got {smoothing}")
        self.labels, self.squared, self.smoothing = (
            checked_labels(labels, "ClusterConsistency"),
            squared,
            smoothing,
        )
        rows = self.labels if self.labels.ndim == 2 else self.labels[None]
        self.pieces = tuple(_Clusters(row, torch.float32) for row in rows)

    def _piece(self, points: Tensor, item: int) -> _Clusters:
        labels = labels_of(self.labels, item)
        assert labels is not None
        if len(labels) != len(points):
            raise InputError(
                f"ClusterConsistency has labels of {len(labels)} points, and the problem moves {len(points)}"
            )
        return _Clusters(labels.to(points.device), points.dtype)

    def _item_energy(self, piece: _Clusters, flow: Tensor) -> Tensor:
        if not len(piece.inside):
            return 0.0 * flow.sum()
        strayed = flow.index_select(0, piece.inside) - piece.members(piece.means(flow))
        return (
            0.5 * strayed.square().sum(-1).mean()
            if self.squared
            else smoothed_norm(strayed, self.smoothing).mean()
        )

    def __repr__(self) -> str:
        return f"ClusterConsistency(squared={self.squared})"
