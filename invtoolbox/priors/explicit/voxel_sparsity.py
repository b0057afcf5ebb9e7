"""Sparsity of the density of voxels: space is empty where nothing says otherwise."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from invtoolbox.errors import InputError
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.explicit.voxel_variation import checked_voxels


class VoxelSparsity(ExplicitPrior):
    r"""``R(x) = mean over kept nodes of log(1 + (tau / scale)^2)`` with ``tau = cell * density``, a Cauchy penalty.

    tau is the optical thickness of a cell with the node's density, so 1 means that it stops 63 % of the light. Thin haze costs its
    square, and what is opaque costs hardly more for being more so, so that surfaces stay while floaters vanish.

    Source: Fridovich-Keil, Yu et al., "Plenoxels", CVPR 2022, equation 6, which has it of the samples of rays with
    ``scale = 1 / sqrt(2)``; after Hedman et al., "Baking neural radiance fields", ICCV 2021.

    Args:
        scale: the thickness beyond which more of it costs little.

    >>> import math, torch
    >>> from invtoolbox.scenes.voxels import Voxels, VoxelSpace
    >>> space = VoxelSpace.box((2, 2, 2), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    >>> one = math.log(math.e - 1)  # softplus of it is 1
    >>> bool((VoxelSparsity().energy(Voxels(torch.full((1, 8), one), torch.zeros(1, 8, 1, 3), space)) - math.log(3)).abs() < 1e-6)
    True
    """

    is_smooth = True

    def __init__(self, scale: float = 2**-0.5) -> None:
        if not scale > 0:
            raise InputError(f"the scale of VoxelSparsity is positive, got {scale}")
        self.scale = scale

    def energy(self, x: Any) -> Tensor:
        voxels = checked_voxels(x, self)
        thickness = functional.softplus(voxels.density) * (
            voxels.space.scale * max(voxels.space.cell) / self.scale
        )
        return thickness.square().log1p().mean(1)

    def __repr__(self) -> str:
        return f"VoxelSparsity(scale={self.scale:.4g})"
