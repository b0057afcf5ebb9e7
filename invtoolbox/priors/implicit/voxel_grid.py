"""A grid of voxels, between whose nodes the scene is interpolated."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Generator, Tensor
from torch.nn import functional

from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.errors import InputError
from invtoolbox.geometry.voxels import Voxels, VoxelSpace, resample
from invtoolbox.priors.base import ImplicitPrior
from invtoolbox.priors.settings import replace


class VoxelGrid(ImplicitPrior):
    """A scene on a grid of voxels: ``x = (density, color)`` at the nodes, raw.

    See `geometry.voxels.Voxels`. Only interpolation ties places together, so the resolution is the
    strength of the prior, and scenes are found coarse to fine: `refine` gives a finer grid and its
    initial guess, without the cells that turned out to be empty. Only nodes of occupied cells are
    kept, optimized and counted in the cost.

    Sources: Fridovich-Keil, Yu et al., "Plenoxels", CVPR 2022 (kept nodes, spherical harmonics);
    Sun, Sun and Chen, "Direct voxel grid optimization", CVPR 2022, and Karnewar et al., "ReLU
    fields", SIGGRAPH 2022 (the activation comes after the interpolation).

    Args:
        space: the grid, such as ``VoxelSpace.box(64, low, high)``.
        degree: degree of the spherical harmonics of the color, 0 to 2; 0 for colors that do not
            depend on the direction.
        channels: number of channels of the color.
        alpha: share of the light that a cell stops at the start.
        color_rate: factor on the step of the color.
        view_rate: further factor on the step of the coefficients that depend on the direction.

    >>> import invtoolbox as it
    >>> from invtoolbox.geometry.cameras import look_at
    >>> camera = look_at(torch.tensor([[0.0, 0.0, -4.0]]), size=(4, 4), field_of_view=20.0)
    >>> A = it.operators.VoxelRenderer(camera)
    >>> grid = VoxelGrid(VoxelSpace.box(5, (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0)))
    >>> problem = it.Problem(0.3 * torch.ones(1, *A.range_shape), A)
    >>> solver = it.solvers.Adam(learning_rate=0.1)
    >>> found = it.solve(problem, grid, solver, max_iterations=100, progress=False)
    >>> bool((A(found.x) - 0.3).abs().max() < 0.05)
    True
    """

    def __init__(
        self,
        space: VoxelSpace,
        degree: int = 0,
        channels: int = 3,
        alpha: float = 1e-3,
        color_rate: float = 1.0,
        view_rate: float = 0.2,
    ) -> None:
        check_choice(self, (0, 1, 2), degree=degree)
        check_range(self, "[1, inf)", channels=channels)
        check_range(self, "(0, 1)", alpha=alpha)
        check_range(self, "(0, inf]", color_rate=color_rate, view_rate=view_rate)
        self.space, self.degree, self.channels, self.alpha = space, degree, channels, alpha
        self.color_rate, self.view_rate = color_rate, view_rate
        self.like = torch.zeros(1)

    def prepare(self, problem: Any, solve: Any) -> Self:
        return replace(self, like=problem.y0.new_zeros(1))

    def initial(self) -> dict[str, Tensor]:
        """Return the density, the color and, for a positive degree, the view leaf.

        The shapes are ``density (1, rows)``, ``color (1, rows, 1, channels)`` and
        ``view (1, rows, 3 or 8, channels)``.
        """
        # 1 - exp(-density cell) = alpha, and the inverse of the softplus, log(exp(t) - 1).
        thin = -math.log1p(-self.alpha) / (max(self.space.cell) * self.space.scale)
        rows, bases = self.space.rows, (self.degree + 1) ** 2
        leaves = {
            "density": self.like.new_full((1, rows), math.log(math.expm1(thin))),
            "color": self.like.new_zeros(1, rows, 1, self.channels),
        }
        if bases > 1:
            leaves["view"] = self.like.new_zeros(1, rows, bases - 1, self.channels)
        return leaves

    def learning_rates(self, parameters: dict[str, Tensor]) -> dict[str, float]:
        return {
            "density": 1.0,
            "color": self.color_rate,
            "view": self.color_rate * self.view_rate,
        }

    def decode(self, parameters: dict[str, Tensor], generator: Generator | None = None) -> Voxels:
        color = parameters["color"]
        return Voxels(
            parameters["density"],
            torch.cat([color, parameters["view"]], dim=2) if "view" in parameters else color,
            self.space,
        )

    def refine(
        self,
        parameters: dict[str, Tensor],
        shape: int | tuple[int, int, int] | None = None,
        least_alpha: float = 1e-2,
        margin: int = 1,
    ) -> tuple[VoxelGrid, dict[str, Tensor]]:
        """Return a grid of this or another resolution without empty cells, and its initial guess.

        Args:
            parameters: solution on this grid.
            shape: number of nodes along each axis, or along the longest; None for the same grid.
            least_alpha: share of the light below which a cell is empty, if its densest node filled
                the whole cell.
            margin: number of empty cells that are kept around the others, in cells of the old grid.
        """
        space = self.space
        to = space.shape if shape is None else VoxelSpace.box(shape, space.low, space.high).shape
        density = space.spread(parameters["density"], fill=-1e4)
        thick = (functional.softplus(density) * space.scale * max(space.cell)).amax(0)[None, None]
        # Per cell: the largest of the 8 nodes, then the margin. A cell of the optical thickness t
        # stops the share 1 - exp(-t).
        full = (functional.max_pool3d(thick, 2, stride=1) > -math.log1p(-least_alpha)).float()
        if not bool(full.any()):
            raise InputError(
                f"no cell of {self!r} stops a share of {least_alpha:g} of the light, so nothing "
                "would be left; solve for longer or lower least_alpha"
            )
        if margin:
            full = functional.max_pool3d(full, 2 * margin + 1, stride=1, padding=margin)
        occupied = _cells_at(full[0, 0], tuple(n - 1 for n in to))
        finer = VoxelSpace.box(to, space.low, space.high, space.scale).keep_cells(occupied)
        start = {}
        for name, leaf in parameters.items():
            # Nodes that were not kept take the value of the emptiest kept node.
            fill = float(leaf.min()) if name == "density" else 0.0
            start[name] = finer.gather(resample(space.spread(leaf, fill), to)).contiguous()
        return replace(self, space=finer), start

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.space.shape))
        return f"VoxelGrid({shape}, {self.space.rows} nodes, degree={self.degree})"


def _cells_at(full: Tensor, cells: tuple[int, ...]) -> Tensor:
    """Return the cells of another resolution that touch a full one."""
    for axis, count in enumerate(cells):
        old = full.shape[axis]
        low = torch.arange(count) * old // count
        high = ((torch.arange(count) + 1) * old + count - 1) // count - 1
        picked = full.index_select(axis, low.to(full.device))
        for step in range(1, int((high - low).max()) + 1):
            picked = torch.maximum(
                picked, full.index_select(axis, torch.minimum(low + step, high).to(full.device))
            )
        full = picked
    return full > 0
