"""Priors of voxel scenes.

`VoxelVariation` is total variation, `VoxelSparsity` favors empty space, and `DensityCorrelation`
ties the density of an edited scene to a reference.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.core.reductions import sum_items
from invtoolbox.errors import InputError
from invtoolbox.geometry.voxels import Voxels
from invtoolbox.priors.base import ExplicitPrior

Field = Literal["density", "color"]


class VoxelVariation(ExplicitPrior):
    """Total variation of voxels, a mean over nodes.

    ``R(x) = mean over nodes of sqrt(|D_x v|^2 + |D_y v|^2 + |D_z v|^2 + smoothing^2) - smoothing``,
    summed over the values of a node. v is the raw density, or every raw coefficient of the color. D
    are differences to the next kept node, in the unit of v per cell, and zero if there is no such
    node. Because of the mean, weights that suit one resolution suit others.

    Source: Fridovich-Keil, Yu et al., "Plenoxels", CVPR 2022, equation 4.

    Args:
        of: field that is penalized, ``"density"`` or ``"color"``.
        smoothing: differences well below it cost their square.

    >>> from invtoolbox.geometry.voxels import VoxelSpace
    >>> space = VoxelSpace.box((2, 2, 2), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    >>> step = Voxels(torch.tensor([[0.0] * 4 + [4.0] * 4]), torch.zeros(1, 8, 1, 3), space)
    >>> # 4 of 8 nodes have a neighbour along x, which is 4 higher
    >>> VoxelVariation("density", smoothing=0.0).energy(step)
    tensor([2.])
    """

    is_smooth = True

    def __init__(self, of: Field = "density", smoothing: float = 1e-2) -> None:
        check_choice(self, ("density", "color"), of=of)
        check_range(self, "[0, inf]", smoothing=smoothing)
        self.of, self.smoothing = of, smoothing

    def energy(self, x: Any) -> Tensor:
        voxels = check_voxels(x, self)
        # (batch, nodes, values of a node)
        of_density = self.of == "density"
        values = voxels.density[..., None] if of_density else voxels.color.flatten(2)
        return _Variation.apply(values, voxels.space.neighbour_rows, self.smoothing)

    def __repr__(self) -> str:
        return f"VoxelVariation({self.of!r})"


class VoxelSparsity(ExplicitPrior):
    """Cauchy penalty on the optical thickness of cells, which favors empty space.

    ``R(x) = mean over kept nodes of log(1 + (tau / scale)^2)`` with ``tau = cell * density``. tau
    is the optical thickness of a cell with the node's density, so 1 means that the cell stops 63 %
    of the light. Thin haze costs its square, and an opaque cell costs hardly more if it becomes
    more opaque. So surfaces stay while floaters vanish.

    Source: Fridovich-Keil, Yu et al., "Plenoxels", CVPR 2022, equation 6, which applies it to the
    samples of rays with ``scale = 1 / sqrt(2)``; after Hedman et al., "Baking neural radiance
    fields", ICCV 2021.

    Args:
        scale: thickness beyond which more of it costs little.

    >>> import math, torch
    >>> from invtoolbox.geometry.voxels import Voxels, VoxelSpace
    >>> space = VoxelSpace.box((2, 2, 2), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    >>> one = math.log(math.e - 1)  # its softplus is 1
    >>> voxels = Voxels(torch.full((1, 8), one), torch.zeros(1, 8, 1, 3), space)
    >>> bool((VoxelSparsity().energy(voxels) - math.log(3)).abs() < 1e-6)
    True
    """

    is_smooth = True

    def __init__(self, scale: float = 2**-0.5) -> None:
        check_range(self, "(0, inf]", scale=scale)
        self.scale = scale

    def energy(self, x: Any) -> Tensor:
        voxels = check_voxels(x, self)
        thickness = functional.softplus(voxels.density) * (
            voxels.space.scale * max(voxels.space.cell) / self.scale
        )
        return thickness.square().log1p().mean(1)

    def __repr__(self) -> str:
        return f"VoxelSparsity(scale={self.scale:.4g})"


class DensityCorrelation(ExplicitPrior):
    """Correlation of the density with a reference: ``R(x) = 1 - Cov(f, g) / sqrt(Var f Var g)``.

    f is the density of x over the nodes and g the density of the reference; R lies between 0 and 2.
    Colors are free, and densities are free up to a factor and an offset. So the prior ties a scene
    to a reference without holding single voxels: a scene that score distillation edits under it
    keeps its shape unless the score favors another one (see `ScoreDistillation`). A constant
    density has no correlation, and costs 1.

    Source: Sella et al., "Vox-E: text-guided voxel editing of 3D objects", ICCV 2023, equation 3.

    Args:
        reference: voxels with the same nodes as x; of one item, or one per item.
        of: ``"raw"`` densities, as in the paper, for which empty space counts as much as occupied
            space; or ``"activated"`` densities, after the softplus, for which opaque cells count.

    Raises:
        InputError: The voxels have other nodes than the reference.

    >>> from invtoolbox.geometry.voxels import VoxelSpace
    >>> space = VoxelSpace.box((2, 2, 2), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    >>> one = Voxels(torch.arange(8.0)[None], torch.zeros(1, 8, 1, 3), space)
    >>> prior, density = DensityCorrelation(one), one.density[0]
    >>> several = one._replace(density=torch.stack([3 * density - 1, -density, 0 * density]))
    >>> [round(e, 4) + 0.0 for e in prior.energy(several).tolist()]
    [0.0, 2.0, 1.0]
    """

    is_smooth = True

    def __init__(self, reference: Voxels, of: Literal["raw", "activated"] = "raw") -> None:
        check_choice(self, ("raw", "activated"), of=of)
        self.reference, self.of = check_voxels(reference, self), of

    def energy(self, x: Any) -> Tensor:
        voxels, reference = check_voxels(x, self), self.reference
        if not _same_nodes(voxels, reference) or len(reference.density) not in (
            1,
            len(voxels.density),
        ):
            raise InputError(
                f"{self!r} compares {len(reference.density)} items at "
                f"{reference.density.shape[1]} nodes with {len(voxels.density)} at "
                f"{voxels.density.shape[1]}; give it a reference at the same nodes"
            )
        f, g = self._centre(voxels.density), self._centre(reference.density.to(voxels.density))
        # Sums instead of means, as the factor cancels; a flat density has no direction and no
        # correlation.
        f_squared, g_squared = f.square().sum(1), g.square().sum(1)
        flat, squares = (f_squared == 0) | (g_squared == 0), f_squared * g_squared
        return 1 - torch.where(flat, 0.0, (f * g).sum(1) / torch.where(flat, 1.0, squares).sqrt())

    def _centre(self, density: Tensor) -> Tensor:
        values = density if self.of == "raw" else functional.softplus(density)
        apart = values - values.mean(1, keepdim=True)
        # The residual of a flat density is the rounding error of its mean.
        rounding = 8 * torch.finfo(values.dtype).eps * values.detach().abs().amax(1, keepdim=True)
        return torch.where(
            apart.detach().abs().amax(1, keepdim=True) <= rounding, 0.0 * apart, apart
        )

    def select(self, index: Tensor) -> DensityCorrelation:
        density, color, space = self.reference
        if len(density) == 1:
            return self
        return DensityCorrelation(
            Voxels(density.index_select(0, index), color.index_select(0, index), space), self.of
        )

    def __repr__(self) -> str:
        return f"DensityCorrelation({self.of!r})"


def check_voxels(x: Any, prior: ExplicitPrior) -> Voxels:
    """Return x, or raise `InputError` if it is not `Voxels`."""
    if not isinstance(x, Voxels):
        raise InputError(
            f"{prior!r} takes Voxels, as priors.VoxelGrid() makes them, got {type(x).__name__}"
        )
    return x


class _Variation(torch.autograd.Function):
    """Total variation whose gradient only gathers; scattering would take several times as long."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, rows: tuple[tuple[Tensor, Tensor], ...], smoothing: float
    ) -> Tensor:
        slopes = [values.index_select(1, after).sub_(values) for after, _ in rows]
        norm = slopes[0].square()
        for slope in slopes[1:]:
            norm.addcmul_(slope, slope)
        norm = norm.add_(smoothing**2).sqrt_()
        total = sum_items(norm).div_(values.shape[1]) - smoothing * values.shape[2]
        ctx.rows = rows
        ctx.save_for_backward(norm, *slopes)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        norm, *slopes = ctx.saved_tensors
        inverse = torch.where(norm > 0, 1 / norm, torch.zeros_like(norm)).mul_(
            (grad / norm.shape[1]).view(-1, 1, 1)
        )
        total = torch.zeros_like(norm)
        for (_, before), slope in zip(ctx.rows, slopes):
            pull = slope * inverse
            total.sub_(pull)
            # A node without a predecessor reads the row of zeros behind the last one.
            total.add_(
                torch.cat([pull, torch.zeros_like(pull[:, :1])], dim=1).index_select(1, before)
            )
        return total, None, None


def _same_nodes(x: Voxels, reference: Voxels) -> bool:
    """Return whether the rows stand for the same nodes, which equal shapes do not imply."""
    a, b = x.space.numbers, reference.space.numbers
    if x.space.shape != reference.space.shape or (a is None) != (b is None):
        return False
    return a is b or (a is not None and b is not None and torch.equal(a, b))
