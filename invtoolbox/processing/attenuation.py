"""Hounsfield units: attenuation relative to water and air.

Beam hardening: soft X-rays are absorbed first, so that long paths seem too transparent; corrected by a polynomial.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from invtoolbox.errors import InputError


def to_hounsfield(attenuation: Tensor, water: float, air: float = 0.0) -> Tensor:
    """``1000 (mu - mu_water) / (mu_water - mu_air)``, in HU: water is 0, air -1000.

    Args:
        attenuation: linear attenuation, of any shape, in 1/length.
        water: that of water at the energy of the scan, in the same unit; `water_attenuation` measures it in an image.
        air: that of air; 0, or what a reconstruction shows outside the object.

    >>> to_hounsfield(torch.tensor([0.0, 0.02, 0.04]), water=0.02)
    tensor([-1000.,     0.,  1000.])
    """
    _check(water, air)
    return 1000 * (attenuation - water) / (water - air)


def from_hounsfield(hounsfield: Tensor, water: float, air: float = 0.0) -> Tensor:
    """``mu_water + HU (mu_water - mu_air) / 1000``, in the unit of ``water`` (1/length): the inverse of `to_hounsfield`.

    Nothing is clamped: noise below air becomes negative attenuation (`it.datasets.hounsfield_to_attenuation` clamps).

    >>> from_hounsfield(torch.tensor([-1000.0, 0.0, 1000.0]), water=0.02)
    tensor([0.0000, 0.0200, 0.0400])
    """
    _check(water, air)
    return water + hounsfield * ((water - air) / 1000)


def water_attenuation(image: Tensor, region: Tensor) -> Tensor:
    """The median attenuation in a region of water, ``(batch,)``, in the unit of the image (1/length).

    Args:
        image: ``(batch, channel, *space)``.
        region: True where there is water, broadcast against ``image``.

    >>> water_attenuation(torch.tensor([[[0.02, 0.021, 0.022, 0.5]]]), torch.tensor([True, True, True, False]))
    tensor([0.0210])
    """
    inside = region.expand_as(image)
    if not bool(inside.flatten(1).any(1).all()):
        raise InputError("the region of water holds no pixel of some item")
    return torch.stack([values[chosen].median() for values, chosen in zip(image, inside)])


@dataclass(frozen=True)
class BeamHardening:
    """``p(y) = a_1 y + ... + a_n y^n``: what a beam of one energy would have measured, of what was measured (Herman 1979).

    Attributes:
        coefficients: ``(a_1, ..., a_n)``, without unit.
        largest: up to which line integral it was fitted; beyond it goes on along its tangent.

    >>> BeamHardening((1.0, 0.5), largest=2.0).apply(torch.tensor([0.0, 1.0, 2.0, 3.0]))
    tensor([0.0000, 1.5000, 4.0000, 7.0000])
    """

    coefficients: tuple[float, ...]
    largest: float

    def apply(self, y: Tensor) -> Tensor:
        """Corrected line integrals, without unit, shaped like ``y``; zero stays zero."""
        inside = y.clamp_max(self.largest)
        return self._value(inside) + self._slope(self.largest) * (y - inside)

    def _value(self, y: Tensor) -> Tensor:
        result = torch.zeros_like(y)
        for a in reversed(self.coefficients):
            result = (result + a) * y
        return result

    def _slope(self, y: float) -> float:
        return sum(k * a * y ** (k - 1) for k, a in enumerate(self.coefficients, start=1))


def fit_beam_hardening(
    y: Tensor,
    path: Tensor,
    degree: int = 3,
    attenuation: float | None = None,
    weights: Tensor | None = None,
) -> BeamHardening:
    """The polynomial that makes the line integrals of a homogeneous object proportional to the lengths of the paths through it.

    Least squares of ``p(y) - mu path``, without a constant term, over all rays at once.

    Args:
        y: measured line integrals, without unit, of any shape.
        path: length of every ray inside the object, in the unit of length of the geometry, shaped like ``y``: ``A(mask)``, where
            the mask is 1 inside.
        degree: of the polynomial; 3 serves one material.
        attenuation: mu in 1/length; by default that of short paths, at which ``p(y)`` has the slope 1 (nothing changes there).
        weights: nonnegative, shaped like ``y``; 0 for rays that are unusable.

    Raises:
        InputError: fewer different paths than coefficients, or a polynomial that falls somewhere: lower the degree.

    >>> path = torch.linspace(0, 4, 50, dtype=torch.float64)
    >>> measured = path - 0.05 * path ** 2
    >>> fit = fit_beam_hardening(measured, path, degree=5, attenuation=1.0)
    >>> bool((fit.apply(measured) - path).abs().max() < 1e-3)
    True
    """
    if y.shape != path.shape or degree < 1:
        raise InputError(
            f"fit_beam_hardening takes line integrals and paths of one shape and a degree of at least 1, got "
            f"{tuple(y.shape)}, {tuple(path.shape)} and {degree}"
        )
    values, lengths = y.detach().flatten().double(), path.detach().flatten().double()
    root = torch.ones_like(values) if weights is None else weights.flatten().double().sqrt()
    kept = (root > 0) & (lengths > 0) & values.isfinite()
    values, lengths, root = values[kept], lengths[kept], root[kept]
    if len(values) <= degree or float(values.max() - values.min()) <= 1e-6 * float(
        values.abs().max()
    ):
        raise InputError(
            f"{len(values)} rays pass through the object, too few of different length for a polynomial of degree {degree}"
        )
    largest = float(values.max())
    powers = torch.stack([(values / largest) ** k for k in range(1, degree + 1)], 1) * root[:, None]
    # With the unit of y as that of the powers, the matrix is well scaled.
    raw = torch.linalg.lstsq(
        powers, (root * lengths).unsqueeze(1), driver="gelsd"
    ).solution.squeeze(1)
    scaled = [float(c) / largest**k for k, c in enumerate(raw, start=1)]
    mu = (
        attenuation if attenuation is not None else 1 / scaled[0] if scaled[0] > 0 else float("nan")
    )
    fit = BeamHardening(tuple(mu * c for c in scaled), largest)
    slopes = [fit._slope(largest * k / 100) for k in range(101)]
    if not min(slopes) > 0:
        raise InputError(
            f"the polynomial of degree {degree} is not increasing between 0 and {largest:.3g}, so that it confuses long "
            "paths with short ones; lower the degree, or give weight 0 to rays at the object's edge"
        )
    return fit


def _check(water: float, air: float) -> None:
    if not float(water) > float(air):
        raise InputError(
            f"Hounsfield units need water to attenuate more than air, got {water} and {air}"
        )
