"""Point spread functions of microscopes: Gibson and Lanni's scalar and a vectorial model.

Everything is a plain function of tensors, by Gauss-Legendre quadrature over the pupil, and
differentiable in the numerical aperture, the wavelength, the depth and the refractive indices.
Lengths have one unit, micrometres by convention.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.errors import InputError

#: Refractive indices of immersion media at about 550 nm and 23 degrees.
MEDIA = {"air": 1.0, "water": 1.333, "glycerol": 1.47, "silicone": 1.406, "oil": 1.515}
#: Quadrature points per radian of phase, and in addition to them.
_PER_RADIAN, _LEAST = 0.6, 32


@dataclass(frozen=True)
class Pupil:
    """Light that an objective gathers from a point, or focuses into one.

    Attributes:
        na: numerical aperture.
        wavelength: wavelength in vacuum.
        immersion: refractive index of the immersion medium.
        sample: refractive index of the medium around the point.
        depth: distance of the point from the coverslip.
        coverslip: refractive index of the coverslip; its thickness is that of the design.
        vectorial: whether polarization counts (Richards and Wolf 1959; Toeroek and Varga 1997).
    """

    na: Tensor
    wavelength: Tensor
    immersion: Tensor
    sample: Tensor
    depth: Tensor
    coverslip: float = 1.515
    vectorial: bool = False

    def intensity(self, z: Tensor, r: Tensor) -> Tensor:
        r"""Compute the intensity at the planes z and the distances r from the axis, ``(Z, R)``.

        Scalar (Gibson and Lanni, JOSA A 9, 1992), with the pupil's radius ``s``:

        .. math:: \Bigl| \int_0^1 J_0(k\, NA\, r s)\, e^{i k W(s, z)}\, s \, ds \Bigr|^2

        The path difference W for the depth d of the point is

        .. math:: W = (d - z - n_i d / n_s) \sqrt{n_i^2 - NA^2 s^2} + d \sqrt{n_s^2 - NA^2 s^2}

        Unpolarized vectorial light has ``|I_0|^2 + 2 |I_1|^2 + |I_2|^2`` in its place, with the
        Fresnel coefficients of both interfaces, averaged over the directions of a dipole.

        Args:
            z: planes that are in focus by the stage, relative to the coverslip, ``(Z,)``.
            r: distances, ``(R,)``.
        """
        wavenumber = 2 * math.pi / self.wavelength
        reach = float(self.na) * float(r.max()) + _angular_range(self, z)
        nodes, weights = _quadrature(_LEAST + int(_PER_RADIAN * float(wavenumber) * reach))
        s, ds = nodes.to(z), weights.to(z)
        transverse = (self.na * s).to(
            torch.complex128 if z.dtype == torch.float64 else torch.complex64
        )
        # The root has a positive imaginary part where waves are evanescent, so that they decay.
        inside, outside = (
            (n * n - transverse * transverse).sqrt() for n in (self.sample, self.immersion)
        )
        shift = self.depth - z - self.immersion * self.depth / self.sample
        phase = 1j * wavenumber * (shift[:, None] * outside + self.depth * inside)
        waves = torch.exp(phase) * (s * ds)
        radius = wavenumber * self.na * r * s[:, None]
        if not self.vectorial:
            field = waves @ bessel_j(0, radius).to(waves)
            return field.abs().square()
        by_s, by_p = self._transmission(transverse, inside, outside)
        first, second, third = (bessel_j(order, radius) for order in range(3))
        cosine = inside / self.sample
        # s ds = sin cos d(angle); the apodization of an aplanatic lens is the root of the cosine.
        waves = waves / outside.sqrt()
        fields = (
            (waves * (by_s + by_p * cosine)) @ first.to(waves),
            (waves * by_p * transverse / self.sample) @ second.to(waves),
            (waves * (by_s - by_p * cosine)) @ third.to(waves),
        )
        even, axial, odd = (field.abs().square() for field in fields)
        return even + 2 * axial + odd

    def _transmission(
        self, transverse: Tensor, inside: Tensor, outside: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the Fresnel coefficients of s and p waves from the immersion into the sample.

        By reciprocity, a dipole sends as much light to a place of the pupil as it receives from it.
        """
        glass = (self.coverslip**2 - transverse * transverse).sqrt()
        by_s = by_p = torch.ones_like(glass)
        media: list[tuple[Any, Tensor]] = [
            (self.immersion, outside),
            (self.coverslip, glass),
            (self.sample, inside),
        ]
        for (n1, c1), (n2, c2) in itertools.pairwise(media):
            # c is the index times the cosine of the angle.
            by_s = by_s * 2 * c1 / (c1 + c2)
            by_p = by_p * 2 * n1 * n2 * c1 / (n2 * n2 * c1 + n1 * n1 * c2)
        return by_s, by_p


def _angular_range(pupil: Pupil, z: Tensor) -> float:
    """Return the range of the path difference over the pupil, in the unit of length."""
    na, ni, ns, depth = (float(v) for v in (pupil.na, pupil.immersion, pupil.sample, pupil.depth))
    swing = ni - math.sqrt(max(ni**2 - na**2, 0.0))
    inside = ns - math.sqrt(max(ns**2 - na**2, 0.0))
    return swing * (float((z - depth).abs().max()) + ni * depth / ns) + inside * depth


@functools.lru_cache(maxsize=32)
def _quadrature(count: int) -> tuple[Tensor, Tensor]:
    """Return nodes and weights of Gauss and Legendre on [0, 1], in float64."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)


def bessel_j(order: int, x: Tensor) -> Tensor:
    r"""Compute the Bessel function ``J_0``, ``J_1`` or ``J_2``, differentiable to any order.

    The midpoint rule of Bessel's integral converges faster than any power for periodic integrands
    (Trefethen and Weideman, SIAM Review 56, 2014), here to 1e-14. `torch.special` is correct to 5e-7
    only and has no derivatives.

    .. math:: J_n(x) = \frac{1}{\pi} \int_0^\pi \cos(n t - x \sin t) \, dt

    Args:
        order: 0, 1 or 2.
        x: arguments.

    >>> bessel_j(0, torch.tensor([0.0, 2.404826])).round(decimals=4).abs()
    tensor([1., 0.])
    """
    largest = float(x.detach().abs().max()) if x.numel() else 0.0
    count = math.ceil((largest + 40) / 4)  # of a quarter of the circle
    total = torch.zeros_like(x)
    for k in range(count):
        sine = math.sin(math.pi * (k + 0.5) / (2 * count))
        if order == 1:
            total = total + sine * torch.sin(sine * x)
        else:
            total = total + (1.0 if order == 0 else 1 - 2 * sine**2) * torch.cos(sine * x)
    return total / count


def refractive_index(medium: str | float) -> float:
    """Return the refractive index of a medium by its name, or a number as it is.

    >>> refractive_index("oil")
    1.515
    """
    if isinstance(medium, str):
        if medium not in MEDIA:
            raise InputError(
                f"the immersion {medium!r} is unknown; give {', '.join(MEDIA)}, or a refractive index"
            )
        return MEDIA[medium]
    return float(medium)


def on_grid(pupil: Pupil, shape: Sequence[int], spacing: Sequence[float]) -> Tensor:
    """Compute the intensity of a pupil at the voxels around the nominal focus, ``shape``.

    Args:
        pupil: the pupil.
        shape: numbers of slices, rows and columns; the point lies at ``n // 2`` of each.
        spacing: distances of voxels along slices, rows and columns.
    """
    planes, rows, columns = (
        (torch.arange(n, dtype=torch.float64) - n // 2) * h for n, h in zip(shape, spacing)
    )
    squares = (rows.square()[:, None] + columns.square()).flatten()
    # Voxels at one distance from the axis share a value; rounding may not tell them apart.
    distances, place = torch.unique((squares * 1e9).round() / 1e9, return_inverse=True)
    like = pupil.depth
    values = pupil.intensity(planes.to(like) + pupil.depth, distances.sqrt().to(like))
    return values[:, place.to(values.device)].unflatten(1, tuple(shape[1:]))
