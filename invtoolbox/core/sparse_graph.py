"""Sparse graphs as SciPy's graph routines take them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def sparse_graph(edges: Tensor, lengths: Tensor, count: int) -> Any:
    """Return SciPy's sparse matrix of a graph, for its searches of shortest paths.

    Indices have 32 bits. SciPy 1.11 prints an error for indices of 64 bits, and returns arrays that
    it has not filled.

    Args:
        edges: both ends of the edges, ``(2, E)``.
        lengths: lengths of the edges, ``(E,)``.
        count: number of points.
    """
    from scipy.sparse import coo_array

    i, j = edges.cpu().numpy().astype(np.int32)
    return coo_array((lengths.cpu().numpy(), (i, j)), shape=(count, count)).tocsr()


def connected_components(edges: Tensor, count: int) -> Tensor:
    """Return the number of the connected component of each point, int64 ``(count,)``, from 0.

    Args:
        edges: both ends of the edges, ``(2, E)``.
        count: number of points.

    >>> connected_components(torch.tensor([[0, 3], [1, 4]]), 5)
    tensor([0, 0, 1, 2, 2])
    """
    from scipy.sparse import csgraph

    graph = sparse_graph(edges, torch.ones(edges.shape[1]), count)
    label = csgraph.connected_components(graph, directed=False)[1]
    return torch.from_numpy(label.astype(np.int64)).to(edges.device)
