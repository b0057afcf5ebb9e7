"""Total variation of voxels."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from invtoolbox.errors import InputError, unknown_name
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.scenes.voxels import Voxels

Field = Literal["density", "colour"]


class VoxelVariation(ExplicitPrior):
    r"""``R(x) = mean over nodes of sqrt(|D_x v|^2 + |D_y v|^2 + |D_z v|^2 + smoothing^2) - smoothing``, summed over what a node holds.

    v is the raw density, or every raw coefficient of the colour; D are differences to the next kept node, in the unit of v a cell, zero
    where there is none. The mean makes weights that suit one resolution suit others.

    Source: Fridovich-Keil, Yu et al., "Plenoxels", CVPR 2022, equation 4.

    Args:
        of: ``"density"`` or ``"colour"``.
        smoothing: differences well below it cost their square.

    >>> from invtoolbox.scenes.voxels import VoxelSpace
    >>> space = VoxelSpace.box((2, 2, 2), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    >>> step = Voxels(torch.tensor([[0.0] * 4 + [4.0] * 4]), torch.zeros(1, 8, 1, 3), space)
    >>> VoxelVariation("density", smoothing=0.0).energy(step)  # 4 of 8 nodes have a neighbour along x, 4 higher
    tensor([2.])
    """

    is_smooth = True

    def __init__(self, of: Field = "density", smoothing: float = 1e-2) -> None:
        if of not in ("density", "colour"):
            raise unknown_name("field of VoxelVariation", of, ("density", "colour"))
        if not smoothing >= 0:
            raise InputError(f"the smoothing of VoxelVariation is not negative, got {smoothing}")
        self.of, self.smoothing = of, smoothing

    def energy(self, x: Any) -> Tensor:
        voxels = checked_voxels(x, self)
        values = (voxels.density if self.of == "density" else voxels.colour).flatten(
            2 if self.of == "colour" else 1
        )
        values = values if values.ndim == 3 else values[..., None]
        total: Tensor = _Variation.apply(values, voxels.space.following(), self.smoothing)
        return total

    def __repr__(self) -> str:
        return f"VoxelVariation({self.of!r})"


class _Variation(torch.autograd.Function):
    """With its gradient by gathers alone: scattering would take several times as long."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, rows: tuple[tuple[Tensor, Tensor], ...], smoothing: float
    ) -> Tensor:
        slopes = [values.index_select(1, after).sub_(values) for after, _ in rows]
        norm = slopes[0].square()
        for slope in slopes[1:]:
            norm.addcmul_(slope, slope)
        norm = norm.add_(smoothing**2).sqrt_()
        total = norm.flatten(1).sum(1).div_(values.shape[1]) - smoothing * values.shape[2]
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
            # A node without one before it looks at the row behind the last one, where nothing pulls.
            total.add_(
                torch.cat([pull, torch.zeros_like(pull[:, :1])], dim=1).index_select(1, before)
            )
        return total, None, None


def checked_voxels(x: Any, prior: ExplicitPrior) -> Voxels:
    """The scene that a prior of voxels was given."""
    if not isinstance(x, Voxels):
        raise InputError(
            f"{prior!r} takes Voxels, as priors.VoxelGrid() makes them, got {type(x).__name__}"
        )
    return x
