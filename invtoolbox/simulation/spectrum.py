"""X-rays of many energies: the spectrum of a tube, attenuation of materials, counts of a scan.

A real tube emits photons of many energies, and matter absorbs the soft ones first. Line integrals
of dense matter therefore are too small, which shows as dark bands between pieces of metal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError, check_name

#: Energies of the tables in keV.
_ENERGIES = (10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0, 150.0)
#: Density in g/cm^3, and mass attenuation in cm^2/g with coherent scattering at these energies.
#: Source: Hubbell and Seltzer, NIST Standard Reference Database 126; bone is ICRU-44 cortical bone.
_MATERIALS = {
    "water": (1.0, (5.329, 1.673, 0.8096, 0.3756, 0.2683, 0.2269, 0.2059, 0.1837, 0.1707, 0.1505)),
    "bone": (1.92, (28.51, 9.032, 4.001, 1.331, 0.6655, 0.4242, 0.3148, 0.2229, 0.1855, 0.1480)),
    "aluminium": (
        2.699,
        (26.23, 7.955, 3.441, 1.128, 0.5685, 0.3681, 0.2778, 0.2018, 0.1704, 0.1378),
    ),
    "titanium": (4.54, (110.7, 35.87, 15.85, 4.972, 2.214, 1.213, 0.7661, 0.4052, 0.2721, 0.1649)),
    "iron": (7.874, (170.6, 57.08, 25.68, 8.176, 3.629, 1.958, 1.205, 0.5952, 0.3717, 0.1964)),
}


@dataclass(frozen=True)
class Spectrum:
    """Spectrum of the photons of an X-ray beam.

    Attributes:
        energies: energies in keV, ``(K,)``.
        shares: share of the photons at each energy, ``(K,)``, with the sum 1.
    """

    energies: Tensor
    shares: Tensor


def tube_spectrum(kilovolts: float = 120.0, aluminium: float = 5.0, count: int = 50) -> Spectrum:
    """Compute the spectrum of a tube by the law of Kramers, behind a filter of aluminium.

    The number of photons at the energy E is proportional to ``(E_max - E) / E`` before the filter.
    Characteristic lines are left out.

    Args:
        kilovolts: voltage of the tube, from 20 to 150.
        aluminium: thickness of the filter in mm.
        count: number of energies, evenly spaced from 10 keV.

    Source: Kramers, Philosophical Magazine 46, 1923.

    >>> spectrum = tube_spectrum(100.0)
    >>> round(float((spectrum.energies * spectrum.shares).sum()))
    51
    """
    check_range("tube_spectrum", "[20, 150]", kilovolts=kilovolts)
    check_range("tube_spectrum", "[0, inf)", aluminium=aluminium)
    check_range("tube_spectrum", "[2, inf)", count=count)
    step = (kilovolts - 10.0) / count
    energies = 10.0 + step * (torch.arange(count, dtype=torch.float64) + 0.5)
    photons = (kilovolts - energies) / energies
    photons = photons * torch.exp(-aluminium * attenuation("aluminium", energies))
    return Spectrum(energies, photons / photons.sum())


def attenuation(material: str, energies: Tensor | float) -> Tensor:
    """Compute the linear attenuation of a material in 1/mm.

    Values between the energies of the table are interpolated in logarithms.

    Args:
        material: ``"water"``, ``"bone"``, ``"aluminium"``, ``"titanium"`` or ``"iron"`` (steel).
        energies: energies in keV, from 10 to 150, of any shape.

    Source: Hubbell & Seltzer, NIST Standard Reference Database 126, and the densities given there.

    >>> round(float(attenuation("water", 60.0)), 5)
    0.02059
    """
    check_name("material", material, _MATERIALS)
    energies = torch.as_tensor(energies, dtype=torch.float64)
    check_range("attenuation", "[10, 150]", energies=energies)
    density, table = _MATERIALS[material]
    logarithms = np.interp(np.log(energies.numpy()), np.log(_ENERGIES), np.log(table))
    return torch.as_tensor(np.exp(logarithms)) * (density / 10)


def simulate_counts(
    paths: Mapping[str, Tensor], spectrum: Spectrum, photons: float | None = None, seed: int = 0
) -> Tensor:
    r"""Simulate the transmission of an object of several materials for a spectrum.

    .. math:: I = \sum_k s_k \exp\Big(-\sum_m \mu_m(E_k) \, t_m\Big)

    Args:
        paths: length of every ray in every material in mm, ``A(density)`` for a map of the density
            relative to the material's, all of one shape.
        spectrum: spectrum of the beam.
        photons: number of photons per ray without object, for counting noise; None for none.
        seed: seed of the noise.

    Returns:
        Transmissions, without unit, of the shape of the paths. With `photons`, they are at least half a
        photon, so that their logarithm exists.

    >>> spectrum = Spectrum(torch.tensor([60.0]), torch.tensor([1.0]))
    >>> counts = simulate_counts({"water": torch.tensor([0.0, 100.0])}, spectrum)
    >>> counts.log()
    tensor([ 0.0000, -2.0590])
    """
    if not paths or len({tuple(path.shape) for path in paths.values()}) != 1:
        shapes = {name: tuple(path.shape) for name, path in paths.items()}
        raise InputError(
            f"simulate_counts takes paths of one shape, one per material, got {shapes}"
        )
    first = next(iter(paths.values()))
    mu = {name: attenuation(name, spectrum.energies).to(first) for name in paths}
    total = torch.zeros_like(first)
    for k, share in enumerate(spectrum.shares.tolist()):
        exponent = sum(mu[name][k] * path for name, path in paths.items())
        total = total + share * torch.exp(-exponent)  # type: ignore[arg-type]
    if photons is None:
        return total
    check_range("simulate_counts", "(0, inf)", photons=photons)
    generator = torch.Generator(total.device).manual_seed(seed)
    return torch.poisson(photons * total, generator=generator).clamp_min(0.5) / photons
