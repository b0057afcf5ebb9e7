"""Find the nearest of many points: by a tree on the CPU, by blocks of all distances on a GPU."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.kernels.native import run_on_threads

#: Number of distances that are in memory at once on a GPU: 256 MB in float32.
_AT_ONCE = 1 << 26
#: Number of points below which a second thread costs more than it saves.
_PER_THREAD = 2000


class Tree:
    """Search structure for the nearest neighbours in a fixed cloud of points, built once.

    On the CPU it is a k-d tree: pykdtree's if it is installed (the extra ``lidar``), otherwise
    SciPy's, which takes twice as long. On CUDA all distances are computed, block by block. Ties are
    broken in a way that depends on the points alone.

    Args:
        points: finite points, ``(M, dimension)``, at least one; they are not differentiated.

    Raises:
        InputError: if the points have another shape, or there are none.

    >>> tree = Tree(torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]]))
    >>> tree.query(torch.tensor([[1.0, 0.0, 0.0], [3.0, 4.0, 0.0]]))
    (tensor([1., 4.]), tensor([0, 1]))
    """

    def __init__(self, points: Tensor) -> None:
        if points.ndim != 2 or not len(points):
            raise InputError(
                "nearest neighbours are looked up among points (M, dimension), at least one; "
                f"got {tuple(points.shape)}"
            )
        self.points = points.detach()
        self._tree = None if points.is_cuda else _cpu_tree(self.points.contiguous().numpy())

    def __reduce__(self) -> tuple[Any, ...]:
        return Tree, (self.points,)  # the index follows from the points

    def query(self, points: Tensor, bound: float | None = None) -> tuple[Tensor, Tensor]:
        """Return the distance to the nearest point and its index, both ``(N,)``.

        The distance is infinite and the index 0 if no point lies within the bound, and for a point
        that is not finite, which a diverging optimization may produce.

        Args:
            points: query points, ``(N, dimension)``; converted to the precision and the device of
                the tree's points.
            bound: largest distance to search; None for no bound.
        """
        points = points.detach().to(self.points)
        far = ~points.isfinite().all(1)
        points = points.masked_fill(far[:, None], 0.0)
        if self._tree is None:
            least = [block.min(1) for block in _distances(points, self.points)]
            distance, index = (torch.cat(parts) for parts in zip(*least))
        else:
            distances, indices = _by_tree(self._tree, points.contiguous(), 1, bound)
            distance, index = distances[:, 0], indices[:, 0]
        if bound is not None:
            # Also true for NaN.
            far |= ~(distance <= bound)
        # A tree returns this index if it finds nothing, as for distances that overflow.
        far |= index >= len(self.points)
        return distance.masked_fill(far, float("inf")), index.masked_fill(far, 0)

    def neighbours(self, points: Tensor, count: int) -> Tensor:
        """Return the indices of the nearest ``count`` points, nearest first, ``(N, count)``.

        A tree with fewer points gives fewer columns.
        """
        points, count = points.detach().to(self.points), min(count, len(self.points))
        if self._tree is not None:
            return _by_tree(self._tree, points.contiguous(), count, None)[1]
        blocks = _distances(points, self.points)
        return torch.cat([block.topk(count, 1, largest=False).indices for block in blocks])


def _cpu_tree(points: np.ndarray) -> Any:
    try:
        from pykdtree.kdtree import KDTree
    except ImportError:
        from scipy.spatial import cKDTree

        return cKDTree(points)
    return KDTree(points)


def _by_tree(tree: Any, points: Tensor, count: int, bound: float | None) -> tuple[Tensor, Tensor]:
    """Return the distances and indices of the nearest ``count`` points, both ``(N, count)``."""
    shape = (len(points), count)
    distance, index = points.new_empty(shape), torch.empty(shape, dtype=torch.long)
    queried, nearest, which = points.numpy(), distance.numpy(), index.numpy()
    # A slightly larger bound, so that rounding inside the tree loses no point at the bound.
    limit = np.inf if bound is None else bound * (1 + 1e-6)

    def search(first: int, last: int) -> None:
        _one_thread()
        # Trees drop the axis of the neighbours if count is 1.
        pair = tree.query(queried[first:last], k=count, distance_upper_bound=limit)
        nearest[first:last], which[first:last] = (
            np.reshape(array, (last - first, count)) for array in pair
        )

    _in_parts(len(points), search)
    return distance, index


def _in_parts(count: int, part: Callable[[int, int], None]) -> None:
    """Call ``part(first, last)`` for parts of the rows 0 to ``count``, on torch's threads."""
    threads = min(torch.get_num_threads(), max(1, count // _PER_THREAD))
    edges = [count * k // threads for k in range(threads + 1)]
    if threads == 1:
        part(0, count)
    else:
        run_on_threads(threads, pairwise(edges), part)


def _distances(points: Tensor, among: Tensor) -> Iterator[Tensor]:
    """Yield the distances of all points to all others, for blocks of the points."""
    for block in points.split(max(1, _AT_ONCE // len(among))):
        # Not by a product of matrices, which loses the digits of distances that are small compared
        # with the coordinates.
        yield torch.cdist(block, among, compute_mode="donot_use_mm_for_euclid_dist")


def _one_thread() -> None:
    """Keep pykdtree from starting threads in addition to torch's: the calling thread searches."""
    library = _openmp_of_pykdtree()
    if library is not None:
        library.omp_set_num_threads(1)


@cache
def _openmp_of_pykdtree() -> Any | None:
    """Return the OpenMP runtime that pykdtree's wheel brings along, if it is loaded."""
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
