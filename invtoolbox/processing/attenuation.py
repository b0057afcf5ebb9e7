"""Hounsfield units and beam hardening.

Hounsfield units express attenuation relative to water and air. Beam hardening makes long paths
appear too transparent, because soft X-rays are absorbed first; a polynomial corrects it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.errors import InputError


def to_hounsfield(attenuation: Tensor, water: float, air: float = 0.0) -> Tensor:
    """Convert attenuation to Hounsfield units: water is 0 HU, air -1000 HU.

    The formula is ``1000 (mu - mu_water) / (mu_water - mu_air)``.

    Args:
        attenuation: linear attenuation, of any shape, in 1/length.
        water: attenuation of water at the energy of the scan, in the same unit;
            `water_attenuation` measures it in an image.
        air: attenuation of air, in the same unit; 0, or the value of a reconstruction outside the
            object.

    >>> to_hounsfield(torch.tensor([0.0, 0.02, 0.04]), water=0.02)
    tensor([-1000.,     0.,  1000.])
    """
    _check(water, air)
    return 1000 * (attenuation - water) / (water - air)


def from_hounsfield(hounsfield: Tensor, water: float, air: float = 0.0) -> Tensor:
    """Convert Hounsfield units to attenuation, the inverse of `to_hounsfield`.

    The formula is ``mu_water + HU (mu_water - mu_air) / 1000``, in the unit of ``water``
    (1/length). Values are not clamped: noise below air becomes negative attenuation
    (`it.datasets.hounsfield_to_attenuation` clamps).

    >>> from_hounsfield(torch.tensor([-1000.0, 0.0, 1000.0]), water=0.02)
    tensor([0.0000, 0.0200, 0.0400])
    """
    _check(water, air)
    return water + hounsfield * ((water - air) / 1000)


def water_attenuation(image: Tensor, region: Tensor) -> Tensor:
    """Measure the median attenuation in a region of water, ``(batch,)``.

    Args:
        image: linear attenuation ``(batch, channel, *space)``; its unit (1/length) is the unit of
            the result.
        region: boolean mask, true in the water, broadcast against ``image``.

    >>> water = torch.tensor([True, True, True, False])
    >>> water_attenuation(torch.tensor([[[0.02, 0.021, 0.022, 0.5]]]), water)
    tensor([0.0210])
    """
    inside = region.expand_as(image)
    if not len(image) or not bool(inside.flatten(1).any(1).all()):
        raise InputError("the region of water holds no pixel of some item; widen the region")
    return torch.stack([values[water].median() for values, water in zip(image, inside)])


@dataclass(frozen=True)
class BeamHardening:
    """Polynomial correction of beam hardening, ``p(y) = a_1 y + ... + a_n y^n`` (Herman 1979).

    It maps a measured line integral to the line integral of a beam of one energy.

    Attributes:
        coefficients: coefficients ``(a_1, ..., a_n)``, without unit.
        largest: largest line integral of the fit; beyond it, the polynomial is continued by its
            tangent.

    >>> BeamHardening((1.0, 0.5), largest=2.0).apply(torch.tensor([0.0, 1.0, 2.0, 3.0]))
    tensor([0.0000, 1.5000, 4.0000, 7.0000])
    """

    coefficients: tuple[float, ...]
    largest: float

    def apply(self, y: Tensor) -> Tensor:
        """Correct line integrals, without unit, of any shape; zero stays zero."""
        inside = y.clamp_max(self.largest)
        return self._value(inside) + self._slope(self.largest) * (y - inside)

    @property
    def slopes(self) -> tuple[float, ...]:
        """Derivatives of the polynomial at 101 evenly spaced values from 0 to `largest`."""
        return tuple(self._slope(self.largest * k / 100) for k in range(101))

    def _value(self, y: Tensor) -> Tensor:
        # Horner's scheme, without a constant term.
        total = torch.zeros_like(y)
        for a in reversed(self.coefficients):
            total = (total + a) * y
        return total

    def _slope(self, y: float) -> float:
        return sum(k * a * y ** (k - 1) for k, a in enumerate(self.coefficients, start=1))


def fit_beam_hardening(
    y: Tensor,
    path: Tensor,
    degree: int = 3,
    attenuation: float | None = None,
    weights: Tensor | None = None,
) -> BeamHardening:
    """Fit the polynomial that corrects beam hardening in a homogeneous object.

    Corrected line integrals are proportional to the lengths of the paths through the object. The
    fit minimizes the squares of ``p(y) - mu path`` over all rays at once, without a constant term.

    Args:
        y: measured line integrals, without unit, of any shape.
        path: length of every ray inside the object, in the unit of length of the geometry, of the
            shape of ``y``. It is ``A(mask)`` for a mask that is 1 inside the object.
        degree: degree of the polynomial; 3 is enough for one material.
        attenuation: attenuation ``mu`` of the object in 1/length; by default the attenuation of
            short paths, for which ``p(y)`` has the slope 1 and short paths do not change.
        weights: nonnegative weights of the rays, of the shape of ``y``; 0 for unusable rays.

    Raises:
        InputError: if there are fewer different paths than coefficients, or if the polynomial
            decreases somewhere; lower the degree.

    >>> path = torch.linspace(0, 4, 50, dtype=torch.float64)
    >>> measured = path - 0.05 * path ** 2
    >>> fit = fit_beam_hardening(measured, path, degree=5, attenuation=1.0)
    >>> bool((fit.apply(measured) - path).abs().max() < 1e-3)
    True
    """
    if y.shape != path.shape or degree < 1:
        raise InputError(
            f"fit_beam_hardening takes line integrals and paths of one shape and a degree of at "
            f"least 1, got {tuple(y.shape)}, {tuple(path.shape)} and {degree}"
        )
    readings, lengths = y.detach().flatten().double(), path.detach().flatten().double()
    root = torch.ones_like(readings) if weights is None else weights.flatten().double().sqrt()
    usable = (root > 0) & (lengths > 0) & readings.isfinite()
    readings, lengths, root = readings[usable], lengths[usable], root[usable]
    if len(readings) <= degree or float(readings.max() - readings.min()) <= 1e-6 * float(
        readings.abs().max()
    ):
        raise InputError(
            f"{len(readings)} rays pass through the object, too few of different length for a "
            f"polynomial of degree {degree}; lower the degree"
        )
    largest = float(readings.max())
    powers = (
        torch.stack([(readings / largest) ** k for k in range(1, degree + 1)], 1) * root[:, None]
    )
    # Powers of y / largest keep the matrix well scaled.
    raw = torch.linalg.lstsq(
        powers, (root * lengths).unsqueeze(1), driver="gelsd"
    ).solution.squeeze(1)
    scaled = [float(c) / largest**k for k, c in enumerate(raw, start=1)]
    mu = (
        attenuation if attenuation is not None else 1 / scaled[0] if scaled[0] > 0 else float("nan")
    )
    fit = BeamHardening(tuple(mu * c for c in scaled), largest)
    if not min(fit.slopes) > 0:
        raise InputError(
            f"the polynomial of degree {degree} is not increasing between 0 and {largest:.3g}, so "
            "that it confuses long paths with short ones; lower the degree, or give weight 0 to "
            "rays at the object's edge"
        )
    return fit


def _check(water: float, air: float) -> None:
    if not float(water) > float(air):
        raise InputError(
            f"Hounsfield units need water to attenuate more than air, got {water} and {air}"
        )
