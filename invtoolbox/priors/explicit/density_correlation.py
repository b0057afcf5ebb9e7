"""Correlation of densities: a scene that is edited keeps the volume of the one it came from."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from invtoolbox.errors import InputError, unknown_name
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.explicit.voxel_variation import checked_voxels
from invtoolbox.scenes.voxels import Voxels


class DensityCorrelation(ExplicitPrior):
    r"""``R(x) = 1 - Cov(f, g) / sqrt(Var f Var g)`` over the nodes, f the density of x and g that of a reference; 0 to 2.

    It leaves colours free, and densities up to a factor and an offset, so it ties a scene to a reference without holding single voxels:
    what score distillation edits under it keeps its shape where the score does not ask for another (see `ScoreDistillation`). A
    density that is the same everywhere correlates with nothing, and costs 1.

    Source: Sella et al., "Vox-E: text-guided voxel editing of 3D objects", ICCV 2023, equation 3.

    Args:
        reference: voxels with the same nodes as x; of one item, or one an item.
        of: ``"raw"`` densities, as the paper has it, where empty space counts as much as what is in it; or ``"activated"`` ones,
            after the softplus, where what is opaque counts.

    Raises:
        InputError: for voxels at other nodes than those of the reference.

    >>> from invtoolbox.scenes.voxels import VoxelSpace
    >>> space = VoxelSpace.box((2, 2, 2), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    >>> one = Voxels(torch.arange(8.0)[None], torch.zeros(1, 8, 1, 3), space)
    >>> prior = DensityCorrelation(one)
    >>> energies = prior.energy(one._replace(density=torch.stack([3 * one.density[0] - 1, -one.density[0], 0 * one.density[0]])))
    >>> [round(e, 4) + 0.0 for e in energies.tolist()]
    [0.0, 2.0, 1.0]
    """

    is_smooth = True

    def __init__(self, reference: Voxels, of: Literal["raw", "activated"] = "raw") -> None:
        if of not in ("raw", "activated"):
            raise unknown_name("density of DensityCorrelation", of, ("raw", "activated"))
        self.reference, self.of = checked_voxels(reference, self), of

    def energy(self, x: Any) -> Tensor:
        voxels, reference = checked_voxels(x, self), self.reference
        if not _same_nodes(voxels, reference) or len(reference.density) not in (
            1,
            len(voxels.density),
        ):
            raise InputError(
                f"{self!r} compares {len(reference.density)} items at {reference.density.shape[1]} nodes with "
                f"{len(voxels.density)} at {voxels.density.shape[1]}; give it a reference at the same nodes"
            )
        f, g = self._centred(voxels.density), self._centred(reference.density.to(voxels.density))
        # Sums and not means, as the factor cancels; a flat density has no direction, and correlates with nothing.
        flat, squares = (
            (f.square().sum(1) == 0) | (g.square().sum(1) == 0),
            f.square().sum(1) * g.square().sum(1),
        )
        return 1 - torch.where(flat, 0.0, (f * g).sum(1) / torch.where(flat, 1.0, squares).sqrt())

    def _centred(self, density: Tensor) -> Tensor:
        values = density if self.of == "raw" else functional.softplus(density)
        apart = values - values.mean(1, keepdim=True)
        # What is left of a flat density is the rounding of its mean.
        rounding = 8 * torch.finfo(values.dtype).eps * values.detach().abs().amax(1, keepdim=True)
        return torch.where(
            apart.detach().abs().amax(1, keepdim=True) <= rounding, 0.0 * apart, apart
        )

    def select(self, index: Tensor) -> DensityCorrelation:
        density, colour, space = self.reference
        if len(density) == 1:
            return self
        return DensityCorrelation(
            Voxels(density.index_select(0, index), colour.index_select(0, index), space), self.of
        )

    def __repr__(self) -> str:
        return f"DensityCorrelation({self.of!r})"


def _same_nodes(x: Voxels, reference: Voxels) -> bool:
    """Whether rows stand for the same nodes; the shape alone does not say so, where some are left out."""
    a, b = x.space.numbers, reference.space.numbers
    if x.space.shape != reference.space.shape or (a is None) != (b is None):
        return False
    return a is b or (a is not None and b is not None and torch.equal(a, b))
