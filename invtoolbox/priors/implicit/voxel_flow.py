"""A grid of flow vectors, between which the flow of a point is interpolated."""

from __future__ import annotations

import functools
from typing import Any, Self

import torch
from torch import Generator, Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.core.settings import Settings
from invtoolbox.errors import InputError
from invtoolbox.kernels.points.sparse_product import SparseProduct
from invtoolbox.priors.base import ImplicitPrior, Problem
from invtoolbox.priors.motion.flow_prior import flow_points
from invtoolbox.priors.settings import replace, require_bound


class VoxelFlow(ImplicitPrior):
    """Trilinear interpolation of flow vectors at the corners of a grid of voxels.

    ``x(p) = sum_levels sum_corners w_c(p) v_c``. Only corners of voxels that hold a point are kept,
    in a sparse matrix ``(N, corners)``. All start at zero. With several levels, each twice as
    coarse as the next one, the flow is their sum; finer levels have smaller steps, so that the
    common motion of a neighbourhood is found by the coarse levels first. Points within a voxel move
    alike except for a linear change: this, with few iterations, is the strength of the prior. For
    rigidity add another prior (`ARAP`, `ClusterConsistency`).

    Source: the grid is that of Hoffmann et al., "Floxels", CVPR 2025 (0.5 m, one level, Adam at
    0.05).

    Args:
        cell: edge of the smallest voxels, metres.
        levels: number of grids that are summed.
        rate: factor on the step from one level to the next finer one.

    >>> import invtoolbox as it
    >>> points = torch.rand(1, 100, 3) * 10
    >>> problem = it.Problem(points + 1.0, it.operators.PointWarp(points))  # all move by (1, 1, 1)
    >>> prior, solver = VoxelFlow(cell=2.0), it.solvers.Adam(learning_rate=0.05)
    >>> x = it.solve(problem, prior, solver, max_iterations=200, progress=False).x
    >>> bool((x - 1).abs().max() < 0.01)
    True
    """

    def __init__(self, cell: float = 0.5, levels: int = 1, rate: float = 0.5) -> None:
        check_range(self, "(0, inf]", cell=cell, rate=rate)
        check_range(self, "[1, inf)", levels=levels)
        self.cell, self.levels, self.rate = float(cell), int(levels), float(rate)
        #: Level by level, of one item that all share or of each item.
        self.touched: tuple[_Touched, ...] = ()

    def prepare(self, problem: Problem, solve: Any) -> Self:
        return self.bind(flow_points(problem, repr(self)))

    def bind(self, points: Tensor) -> Self:
        """Return a copy for the points ``(1 or batch, N, 3)``."""
        return replace(
            self,
            touched=tuple(
                _Touched(cloud, self._cell(level))
                for level in range(self.levels)
                for cloud in points
            ),
        )

    def _cell(self, level: int) -> float:
        """Return the edge of the voxels; level 0 is the coarsest."""
        return self.cell * 2.0 ** (self.levels - 1 - level)

    def initial(self) -> dict[str, Tensor]:
        """Return the vectors at corners, ``(1 or batch, corners, 3)`` per level.

        Items with fewer corners leave the last ones unused.
        """
        leaves = {}
        for level, items in enumerate(self._by_level()):
            like = items[0].interpolation.values
            leaves[f"level{level}"] = like.new_zeros(
                len(items), max(len(item.keys) for item in items), 3
            )
        return leaves

    def learning_rates(self, parameters: dict[str, Tensor]) -> dict[str, float]:
        return {f"level{level}": self.rate**level for level in range(self.levels)}

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Tensor:
        flows = []
        for level, items in enumerate(self._by_level()):
            vectors = parameters[f"level{level}"]
            if len(items) == 1:
                flows.append(items[0].interpolation(vectors[:, : len(items[0].keys)]))
            else:
                pairs = zip(items, vectors)
                by_item = [item.interpolation(v[: len(item.keys)]) for item, v in pairs]
                flows.append(torch.stack(by_item))
        return functools.reduce(torch.add, flows)

    def flow_at(self, parameters: dict[str, Tensor], points: Tensor, item: int = 0) -> Tensor:
        """Return the flow of other points ``(n, 3)`` under the parameters of an item: ``(n, 3)``.

        If some corners of a voxel are unknown, because no point of the problem touched them, the
        others are used in their proportions; if all are unknown, the level adds nothing.
        """
        total = torch.zeros_like(points)
        for level, items in enumerate(self._by_level()):
            touched = items[item if len(items) > 1 else 0].keys
            keys, weights = _corners(points, self._cell(level))
            place = torch.searchsorted(touched, keys).clamp_max(len(touched) - 1)
            weights = weights * (touched[place] == keys)
            vectors = parameters[f"level{level}"][item][place]
            total = total + (weights[..., None] * vectors).sum(1) / weights.sum(
                1, keepdim=True
            ).clamp_min(1e-6)
        return total

    def select(self, index: Tensor) -> Self:
        if len(self.touched) <= self.levels:
            return self
        return replace(
            self, touched=tuple(items[k] for items in self._by_level() for k in index.tolist())
        )

    def _by_level(self) -> list[tuple[_Touched, ...]]:
        require_bound(self, self.touched)
        items = len(self.touched) // self.levels
        return [self.touched[level * items : (level + 1) * items] for level in range(self.levels)]

    def __repr__(self) -> str:
        return f"VoxelFlow(cell={self.cell:g}, levels={self.levels})"


_BITS = 21  # bits of each coordinate in the number of a corner


class _Touched(Settings):
    """Corners of the voxels in which the points of an item lie."""

    def __init__(self, points: Tensor, cell: float) -> None:
        keys, weights = _corners(points, cell)
        self.keys, place = keys.unique(return_inverse=True)  # (M,) sorted numbers of the corners
        rows = torch.arange(len(points), device=points.device).repeat_interleave(8)
        self.interpolation = SparseProduct(
            rows, place.flatten(), weights.flatten(), (len(points), len(self.keys))
        )


def _corners(points: Tensor, cell: float) -> tuple[Tensor, Tensor]:
    """Return the numbers of the 8 corners around each point, and their weights: ``(N, 8)`` both."""
    scaled = points.double() / cell
    base = scaled.floor()
    if bool((base.abs() >= 2 ** (_BITS - 1) - 1).any()):
        raise InputError(
            f"points lie further than {cell * 2 ** (_BITS - 1):.3g} m from the origin, "
            f"beyond a grid of cells of {cell:g} m"
        )
    steps = torch.tensor(
        [[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], device=points.device
    )
    share = (scaled - base)[:, None]
    weights = torch.where(steps.bool(), share, 1 - share).prod(-1)
    x, y, z = (base.long()[:, None] + steps + 2 ** (_BITS - 1)).unbind(-1)
    return (x << 2 * _BITS) | (y << _BITS) | z, weights.to(points.dtype)
