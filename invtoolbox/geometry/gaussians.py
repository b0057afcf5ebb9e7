"""Scenes of 3D Gaussians, and real spherical harmonics for colors that depend on the direction."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.geometry.rotations import rotation_matrices


@dataclass(frozen=True, eq=False)
class Splats:
    """N Gaussians in each of B scenes; smaller scenes are padded with Gaussians of opacity 0.

    Attributes:
        means: centres in the world, ``(B, N, 3)``.
        quats: orientations as quaternions w x y z, of any length except 0, ``(B, N, 4)``.
        scales: standard deviations along their axes, ``(B, N, 3)``.
        opacities: opacities from 0 to 1, ``(B, N)``.
        colors: coefficients of spherical harmonics, ``(B, N, K, 3)`` with K = 1, 4, 9 or 16; or
            colors ``(B, N, D)``.

    >>> Splats.of_points(torch.zeros(2, 5, 3), torch.ones(2, 5, 3), 0.1, 0.5)
    Splats of 2 scenes, 5 Gaussians each, degree 0
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor

    def __post_init__(self) -> None:
        lead = self.means.shape[:2]
        fits = (
            self.means.ndim == 3
            and all(getattr(self, f.name).shape[:2] == lead for f in fields(self))
            and self.colors.ndim in (3, 4)
        )
        ends = (self.means.shape[-1], self.quats.shape[-1], self.scales.shape[-1])
        if (
            not fits
            or ends != (3, 4, 3)
            or (self.colors.ndim == 4 and self.colors.shape[2] not in (1, 4, 9, 16))
        ):
            shapes = ", ".join(
                f"{f.name} {tuple(getattr(self, f.name).shape)}" for f in fields(self)
            )
            raise InputError(
                "Splats takes means (B, N, 3), quats (B, N, 4), scales (B, N, 3), opacities (B, N) "
                f"and colors (B, N, D) or (B, N, 1 or 4 or 9 or 16, 3), got {shapes}"
            )

    @classmethod
    def of_points(
        cls, points: Tensor, colors: Tensor, scale: float | Tensor, opacity: float
    ) -> Splats:
        """Create round Gaussians of a color that does not depend on the direction.

        Args:
            points: centres, ``(B, N, 3)``.
            colors: colors in [0, 1], ``(B, N, 3)``.
            scale: standard deviation: a number, or ``(B, N)``.
            opacity: opacity of all Gaussians.
        """
        ones = torch.ones_like(points[..., 0])
        # The quaternion (1, 0, 0, 0) is no rotation.
        quats = torch.zeros(*points.shape[:2], 4, dtype=points.dtype, device=points.device)
        quats[..., 0] = 1
        return cls(
            points,
            quats,
            (scale * ones)[..., None].expand_as(points).contiguous(),
            opacity * ones,
            colors_to_harmonics(colors),
        )

    @property
    def covariances(self) -> Tensor:
        """Covariances of the Gaussians, ``(B, N, 3, 3)``."""
        # Sigma = R S S^T R^T (Kerbl et al. 2023, equation 6); the columns of R S are the axes.
        axes = rotation_matrices(self.quats) * self.scales[..., None, :]
        return axes @ axes.transpose(-1, -2)

    @property
    def degree(self) -> int | None:
        """Degree of the spherical harmonics; None if colors are given."""
        return None if self.colors.ndim == 3 else int(self.colors.shape[2] ** 0.5) - 1

    def __len__(self) -> int:
        """Return the number N of Gaussians."""
        return int(self.means.shape[1])

    def __repr__(self) -> str:
        kind = (
            f"degree {self.degree}"
            if self.degree is not None
            else f"{self.colors.shape[-1]} channels"
        )
        return f"Splats of {self.means.shape[0]} scenes, {len(self)} Gaussians each, {kind}"


def effective_rank(log_scales: Tensor) -> Tensor:
    """Compute the effective rank of Gaussians, from 1 for a needle to 2 for a disk, 3 for a ball.

    It is the exponential of the entropy of the shares of the variances (Roy and Vetterli, "The
    effective rank", 2007).

    Args:
        log_scales: logarithms of the standard deviations, ``(..., 3)``.

    >>> effective_rank(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, -20.0], [0.0, -20.0, -20.0]]))
    tensor([3., 2., 1.])
    """
    # The variances are exp(2 log_scales), so the softmax of 2 log_scales is their shares p, and the
    # rank is exp(-sum p log p).
    shares = (2 * log_scales).log_softmax(-1)
    return (-(shares.exp() * shares).sum(-1)).exp()


def spherical_harmonics(directions: Tensor, degree: int) -> Tensor:
    """Evaluate the basis functions up to a degree of 0 to 3 at unit vectors, differentiably.

    The shapes are ``(..., 3) -> (..., (degree + 1)^2)``. The functions are orthonormal on the
    sphere, in the order and with the signs of the coefficients of Plenoxels, 3D Gaussian splatting
    and gsplat: degree by degree, and within degree 1 ``-y, z, -x``.

    >>> spherical_harmonics(torch.tensor([[0.0, 0.0, 1.0]]), 1)
    tensor([[0.2821, -0.0000, 0.4886, -0.0000]])
    """
    if degree not in (0, 1, 2, 3):
        raise InputError(f"spherical harmonics go up to a degree of 0 to 3, got {degree}")
    x, y, z = directions.unbind(-1)
    # Y_00 = sqrt(1 / (4 pi)).
    basis = [torch.full_like(x, HARMONIC_0)]
    if degree >= 1:
        # sqrt(3 / (4 pi)), with the sign (-1)^m of Condon and Shortley.
        basis += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        # sqrt(15 / (4 pi)), sqrt(5 / (16 pi)) and sqrt(15 / (16 pi)), m = -2 to 2.
        basis += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (2 * zz - xx - yy),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (xx - yy),
        ]
    if degree >= 3:
        # sqrt(35 / (32 pi)), sqrt(105 / (4 pi)), sqrt(21 / (32 pi)), sqrt(7 / (16 pi)) and
        # sqrt(105 / (16 pi)), m = -3 to 3.
        basis += [
            -0.5900435899266435 * y * (3 * xx - yy),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4 * zz - xx - yy),
            0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
            -0.4570457994644658 * x * (4 * zz - xx - yy),
            1.445305721320277 * z * (xx - yy),
            -0.5900435899266435 * x * (xx - 3 * yy),
        ]
    return torch.stack(basis, dim=-1)


#: Value of the spherical harmonic of degree 0, which is constant.
HARMONIC_0 = 0.28209479177387814


def colors_to_harmonics(colors: Tensor) -> Tensor:
    """Compute coefficients of degree 0, ``(..., 1, 3)``, of colors in [0, 1]; the offset is 1/2."""
    return ((colors - 0.5) / HARMONIC_0)[..., None, :]
