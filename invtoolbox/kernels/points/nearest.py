"""The nearest of many points: a tree for the CPU, blocks of all distances on a GPU."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.kernels.launch import run_on_threads

#: Distances that are held at once on a GPU: 256 MB in float32.
_AT_ONCE = 1 << 26
#: Points below which a second thread costs more than it brings.
_PER_THREAD = 2000


class Tree:
    """Points in which nearest neighbours are looked up, built once for a cloud that stays as it is.

    On the CPU a k-d tree (pykdtree where it is installed, which is the extra ``lidar``, else SciPy's, which takes twice as long); on
    CUDA all distances, block by block. Ties are broken in a way that depends on the points alone.

    Args:
        points: ``(M, dimension)``, at least one, finite; they are not differentiated.

    >>> Tree(torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]])).query(torch.tensor([[1.0, 0.0, 0.0], [3.0, 4.0, 0.0]]))
    (tensor([1., 4.]), tensor([0, 1]))
    """

    def __init__(self, points: Tensor) -> None:
        if points.ndim != 2 or not len(points):
            raise InputError(
                f"nearest neighbours are looked up among points (M, dimension), at least one; got {tuple(points.shape)}"
            )
        self.points = points.detach()
        self._tree = None if points.is_cuda else _cpu_tree(self.points.contiguous().numpy())

    def query(self, points: Tensor, bound: float | None = None) -> tuple[Tensor, Tensor]:
        """The distance to the nearest point and which it is, ``(N,)`` both.

        Args:
            points: ``(N, dimension)``; taken in the precision and on the device of the tree's.
            bound: how far to look. Where nothing is as near, the distance is infinite and the index 0; so they are for a point that is
                not finite, which one that runs away in an optimisation becomes.
        """
        points = points.detach().to(self.points)
        far = ~points.isfinite().all(1)
        points = points.masked_fill(far[:, None], 0.0)
        if self._tree is None:
            distance, index = _by_blocks(points, self.points)
        else:
            distance, index = _by_tree(self._tree, points.contiguous(), bound)
        if bound is not None:
            far |= ~(distance <= bound)
        far |= index >= len(
            self.points
        )  # what a tree says where it finds nothing, as at distances that overflow
        return distance.masked_fill(far, float("inf")), index.masked_fill(far, 0)

    def neighbours(self, points: Tensor, count: int) -> Tensor:
        """The nearest ``count`` points, nearest first, as indices ``(N, count)``; fewer columns where the tree holds fewer."""
        points, count, tree = (
            points.detach().to(self.points),
            min(count, len(self.points)),
            self._tree,
        )
        if tree is None:
            rows = max(1, _AT_ONCE // len(self.points))
            blocks = [
                torch.cdist(block, self.points, compute_mode="donot_use_mm_for_euclid_dist")
                .topk(count, 1, largest=False)
                .indices
                for block in points.split(rows)
            ]
            return (
                torch.cat(blocks)
                if blocks
                else torch.zeros(0, count, dtype=torch.long, device=points.device)
            )
        index = torch.empty(len(points), count, dtype=torch.long)
        queried, which = points.contiguous().numpy(), index.numpy()

        def part(first: int, last: int) -> None:
            _one_thread()
            which[first:last] = np.asarray(tree.query(queried[first:last], k=count)[1]).reshape(
                last - first, count
            )

        _in_parts(len(points), part)
        return index


def _cpu_tree(points: np.ndarray) -> Any:
    try:
        from pykdtree.kdtree import KDTree
    except ImportError:
        from scipy.spatial import cKDTree

        return cKDTree(points)
    return KDTree(points)


def _by_tree(tree: Any, points: Tensor, bound: float | None) -> tuple[Tensor, Tensor]:
    distance, index = torch.empty_like(points[:, 0]), torch.empty(len(points), dtype=torch.long)
    queried, nearest, which = points.numpy(), distance.numpy(), index.numpy()

    def part(first: int, last: int) -> None:
        _one_thread()
        # A bound a little beyond, so that rounding inside the tree loses no point at the bound itself.
        limit = np.inf if bound is None else bound * (1 + 1e-6)
        nearest[first:last], which[first:last] = tree.query(
            queried[first:last], distance_upper_bound=limit
        )

    _in_parts(len(points), part)
    return distance, index


def _in_parts(count: int, part: Callable[[int, int], None]) -> None:
    """Do rows 0 to ``count`` in pieces, on torch's threads."""
    threads = min(torch.get_num_threads(), max(1, count // _PER_THREAD))
    edges = [count * k // threads for k in range(threads + 1)]
    if threads == 1:
        part(0, count)
    else:
        run_on_threads(threads, pairwise(edges), part)


def _by_blocks(points: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    rows = max(1, _AT_ONCE // len(among))
    found = []
    for block in points.split(rows):
        # Not by the product of matrices, which loses the digits of distances that are small beside the coordinates.
        found.append(torch.cdist(block, among, compute_mode="donot_use_mm_for_euclid_dist").min(1))
    if not found:
        return points.new_zeros(0), torch.zeros(0, dtype=torch.long, device=points.device)
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def _one_thread() -> None:
    """Keep pykdtree from starting threads of its own beside torch's: the calling thread searches alone."""
    library = _openmp_of_pykdtree()
    if library is not None:
        library.omp_set_num_threads(1)


@cache
def _openmp_of_pykdtree() -> Any | None:
    """The OpenMP runtime that pykdtree's wheel brings along, where it is loaded."""
    no_load = getattr(os, "RTLD_NOLOAD", None)
    try:
        import pykdtree
    except ImportError:
        return None
    if no_load is None or pykdtree.__file__ is None:
        return None
    for path in sorted((Path(pykdtree.__file__).parent.parent / "pykdtree.libs").glob("libgomp*")):
        try:
            return ctypes.CDLL(str(path), mode=no_load | os.RTLD_NOW)
        except OSError:
            continue
    return None
