"""Waves: the wavelet of a source, and the propagation that turns phase into intensity."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range
from invtoolbox.errors import InputError


def x_ray_wavelength(energy: float) -> float:
    """Compute the wavelength of a photon in nanometres, ``h c / E``.

    Args:
        energy: energy of the photon in keV.

    >>> round(x_ray_wavelength(12.398419843), 6)
    0.1
    """
    check_range("x_ray_wavelength", "(0, inf)", energy=energy)
    # h c = 1.239841984 keV nm, exact in the SI of 2019.
    return 1.2398419843320026 / energy


def propagate(
    wave: Tensor, wavelength: float, distance: float, pixel_size: float, axes: int = 2
) -> Tensor:
    r"""Propagate a wave through empty space in the approximation of Fresnel.

    .. math:: \hat u_z(f) = \exp(-i \pi \lambda z |f|^2) \, \hat u_0(f)

    without the phase that all points share. The picture is periodic. A wave behind a thin object of
    thickness T is ``exp(-(2 pi / wavelength) (beta + i delta) T)``; its intensity is ``|u|^2``.

    Args:
        wave: complex amplitudes ``(..., *space)``.
        wavelength: wavelength, in the unit of ``pixel_size``.
        distance: distance, in the unit of ``pixel_size``.
        pixel_size: distance between samples.
        axes: number of axes of space, the last ones; 1 if nothing changes along the other axis.

    Returns:
        The amplitudes behind the distance, of the shape and the type of ``wave``.

    Source: Paganin, Coherent X-Ray Optics, 2006, section 1.4.

    >>> wave = torch.ones(1, 8, 8, dtype=torch.complex128)
    >>> bool(torch.allclose(propagate(wave, 1e-10, 0.1, 1e-6), wave))
    True
    """
    check_range("propagate", "(0, inf)", wavelength=wavelength, pixel_size=pixel_size)
    if not wave.is_complex() or axes not in (1, 2) or wave.ndim < axes:
        raise InputError(
            "propagate takes a complex wave and 1 or 2 axes of space, got "
            f"{wave.dtype} of shape {tuple(wave.shape)} and axes={axes}"
        )
    real = wave.real.dtype
    square = torch.zeros((), dtype=real, device=wave.device)
    for axis in range(-axes, 0):
        f = torch.fft.fftfreq(wave.shape[axis], pixel_size, dtype=real, device=wave.device)
        square = square + f.square().view(-1, *[1] * (-1 - axis))
    phase = -math.pi * wavelength * distance * square
    places = tuple(range(-axes, 0))
    spectrum = torch.fft.fftn(wave, dim=places) * torch.polar(torch.ones_like(phase), phase)
    return torch.fft.ifftn(spectrum, dim=places)


def ricker(frequency: float, time_step: float, samples: int, delay: float | None = None) -> Tensor:
    r"""Return a Ricker wavelet, the negative second derivative of a Gaussian, ``(samples,)``.

    .. math:: w(t) = (1 - 2 \pi^2 f^2 (t - t_0)^2) \exp(-\pi^2 f^2 (t - t_0)^2)

    Args:
        frequency: frequency of its largest amplitude, Hz.
        time_step: seconds between two samples.
        samples: number of samples.
        delay: time t_0 of its peak, seconds; 1.2 periods by default, so that it begins near 0.

    Raises:
        InputError: a frequency, time step or number of samples that is not positive.

    >>> ricker(10.0, 0.02, 12).round(decimals=2)[3:10]
    tensor([-0.1700, -0.4400,  0.1400,  1.0000,  0.1400, -0.4400, -0.1700])
    """
    check_range("ricker", "(0, inf]", frequency=frequency, time_step=time_step, samples=samples)
    delay = 1.2 / frequency if delay is None else delay
    time = torch.arange(samples, dtype=torch.float64) * time_step - delay
    phase = (math.pi * frequency * time).square()
    return ((1 - 2 * phase) * torch.exp(-phase)).float()
