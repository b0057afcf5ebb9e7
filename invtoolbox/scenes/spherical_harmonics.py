"""Real spherical harmonics: how a colour depends on the direction that it is seen from."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.errors import InputError


def spherical_harmonics(directions: Tensor, degree: int) -> Tensor:
    """The basis functions up to a degree of 0 to 3, at unit vectors: ``(..., 3) -> (..., (degree + 1)^2)``, differentiable.

    Orthonormal on the sphere, in the order and with the signs that Plenoxels, 3D Gaussian splatting and gsplat store
    coefficients in: degree by degree, and within degree 1 ``-y, z, -x``.

    >>> spherical_harmonics(torch.tensor([[0.0, 0.0, 1.0]]), 1)
    tensor([[0.2821, -0.0000, 0.4886, -0.0000]])
    """
    if degree not in (0, 1, 2, 3):
        raise InputError(f"spherical harmonics go up to a degree of 0 to 3, got {degree}")
    x, y, z = directions.unbind(-1)
    parts = [torch.full_like(x, 0.28209479177387814)]
    if degree >= 1:
        parts += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        parts += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (2 * zz - xx - yy),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (xx - yy),
        ]
    if degree >= 3:
        parts += [
            -0.5900435899266435 * y * (3 * xx - yy),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4 * zz - xx - yy),
            0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
            -0.4570457994644658 * x * (4 * zz - xx - yy),
            1.445305721320277 * z * (xx - yy),
            -0.5900435899266435 * x * (xx - 3 * yy),
        ]
    return torch.stack(parts, dim=-1)
