"""Thickness of a phantom from one picture with fringes: the filter of Paganin.

    python benchmarks/phase.py

Five phantoms, spheres and a rod of one material, delta = 6e-7 and beta = 4e-10 (about a polymer at 20 keV), are
propagated by Fresnel's formula on pixels of a quarter of the detector's. Nothing was chosen by a
result. A row gives the root mean square error of the thickness, relative to that of the true
thickness, without the outer 5 % of the picture, and the error without a filter, whose thickness is
``-log(I) / mu``. The Fresnel number is ``pixel^2 / (wavelength z)``; the filter
is for large ones. The cone has a magnification of 4. The last row compares the filter of intensities
with `algotom.prep.filtering.fresnel_filter`, on pictures padded beforehand, because algotom's own
padding stretches its frequencies.
"""

from __future__ import annotations

import math
from statistics import mean

import numpy as np
import torch
from common import machine, run_script, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.processing import filter_phase
from invtoolbox.simulation import propagate, x_ray_wavelength

ENERGY, DELTA, BETA = 20.0, 6e-7, 4e-10
PIXEL, FINE = 0.005, 4


def main(pixels: int = 512, count: int = 5, threads: int = 1) -> None:
    """Print one row per beam, distance and noise, and the comparison with algotom.

    Args:
        pixels: rows and columns of the detector
        count: number of phantoms
        threads: number of torch's threads
    """
    torch.set_num_threads(threads)
    print(f"{machine()}; {count} phantoms, {pixels} x {pixels} pixels of 5 um, {ENERGY:g} keV")
    mu = 4 * math.pi * BETA / (1e-6 * x_ray_wavelength(ENERGY))
    phantoms = [phantom(pixels, seed) for seed in range(count)]
    for name, distance, source in (
        ("parallel beam, 25 mm", 25.0, math.inf),
        ("parallel beam, 50 mm", 50.0, math.inf),
        ("cone beam, 150 mm behind 50 mm", 150.0, 50.0),
        ("parallel beam, 200 mm", 200.0, math.inf),
    ):
        magnification = 1 + distance / source
        number = PIXEL**2 / (1e-6 * x_ray_wavelength(ENERGY) * distance / magnification)
        pictures = [intensity(fine, distance / magnification) for _, fine in phantoms]
        for noise, bar in ((0.0, 0.01), (0.01, 0.05)):
            errors, plain = [], []
            for seed, (picture, (truth, _)) in enumerate(zip(pictures, phantoms)):
                generator = torch.Generator().manual_seed(seed)
                draw = torch.randn(picture.shape, generator=generator, dtype=torch.float64)
                noisy = picture + noise * draw
                y = filter_phase(
                    noisy[None, None, None],
                    DELTA / BETA,
                    energy=ENERGY,
                    distance=distance,
                    pixel_size=PIXEL * magnification,
                    source_distance=source,
                )
                errors.append(relative_error(y[0, 0, 0] / mu, truth))
                plain.append(relative_error(-noisy.log() / mu, truth))
            # At 200 mm, a pixel at the edge of a sphere sees several fringes; no bar is set there.
            words = verdict(max(errors) <= bar, f"{bar:.0%}") if number > 4 else ""
            print(
                f"{name}, Fresnel number {number:.1f}, noise {noise:.0%}: error of the thickness "
                f"{mean(errors):.2%} on average, {max(errors):.2%} at worst; without the filter "
                f"{mean(plain):.0%} {words}",
                flush=True,
            )
    compare(pictures)
    scan()


def phantom(pixels: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the thickness in mm of spheres and a rod on the detector's pixels, and on finer ones."""
    generator = torch.Generator().manual_seed(100 + seed)
    count = pixels * FINE
    line = (torch.arange(count, dtype=torch.float64) - (count - 1) / 2) * PIXEL / FINE
    y, x = line[:, None], line[None, :]
    half = pixels * PIXEL / 2
    thickness = torch.zeros(count, count, dtype=torch.float64)
    for radius in (0.4, 0.3, 0.15):
        row, column = (0.85 - radius) * (2 * torch.rand(2, generator=generator) - 1).double()
        square = (y - row * half).square() + (x - column * half).square()
        thickness += 2 * ((radius * half) ** 2 - square).clamp_min(0).sqrt()
    slope, shift = (2 * torch.rand(2, generator=generator) - 1).double()
    distance = (y + slope * x - 0.4 * shift * half) / math.hypot(1, float(slope))
    ends = ((x - slope * y).abs() < 0.6 * half).double()
    thickness += 2 * ends * ((0.06 * half) ** 2 - distance.square()).clamp_min(0).sqrt()
    return bin_pixels(thickness), thickness


def bin_pixels(fine: Tensor) -> Tensor:
    return fine.unflatten(-1, (-1, FINE)).mean(-1).unflatten(-2, (-1, FINE)).mean(-2)


def intensity(thickness: Tensor, distance: float) -> Tensor:
    """Return the intensity on the detector's pixels behind a distance in mm."""
    wavelength = 1e-6 * x_ray_wavelength(ENERGY)
    exponent = -2 * math.pi / wavelength * thickness
    wave = torch.polar((BETA * exponent).exp(), DELTA * exponent)
    return bin_pixels(propagate(wave, wavelength, distance, PIXEL / FINE).abs().square())


def relative_error(thickness: Tensor, truth: Tensor) -> float:
    border = truth.shape[-1] // 20
    inside = (..., slice(border, -border), slice(border, -border))
    return float((thickness - truth)[inside].norm() / truth[inside].norm())


def compare(pictures: list[Tensor]) -> None:
    """Compare the filter of intensities with algotom's, for projections and sinograms."""
    from algotom.prep.filtering import fresnel_filter

    distance, pad = 50.0, 256
    ratio = math.pi * 1e-6 * x_ray_wavelength(ENERGY) * distance * DELTA / BETA / PIXEL**2
    for name, axes in (("projections", 2), ("sinograms", 1)):
        largest = 0.0
        for picture in pictures:
            views = picture[None, None] if axes == 1 else picture[None, None, None]
            y = filter_phase(views, DELTA / BETA, ENERGY, distance, PIXEL)
            widths = ((pad, pad) if axes == 2 else (0, 0), (pad, pad))
            padded = np.pad(picture.numpy(), widths, mode="edge")
            theirs = fresnel_filter(padded, ratio, dim=axes, pad=0, apply_log=False)
            theirs = theirs[pad:-pad, pad:-pad] if axes == 2 else theirs[:, pad:-pad]
            difference = ((-y).exp().view(picture.shape) - torch.from_numpy(theirs)).abs()
            border = picture.shape[-1] // 20
            largest = max(largest, float(difference[border:-border, border:-border].max()))
        print(
            f"algotom's fresnel_filter, {name}, ratio {ratio:.0f}: largest difference {largest:.1e} "
            f"{verdict(largest <= 1e-4, '1e-4')}"
        )


def scan() -> None:
    """Print the error of filtered back-projections of rods, which do not change along the axis."""
    mu = 4 * math.pi * BETA / (1e-6 * x_ray_wavelength(ENERGY))
    side, views = 192, 240
    line = torch.arange(4 * side, dtype=torch.float64) - (4 * side - 1) / 2
    y, x = line[:, None] / (4 * side), line[None, :] / (4 * side)
    rods = ((x.square() + 0.7 * y.square()).sqrt() < 0.35).double()
    rods[torch.hypot(x - 0.1, y + 0.12) < 0.1] = 0
    rods[torch.hypot(x + 0.15, y - 0.1) < 0.05] = 0
    angles = torch.arange(views, dtype=torch.float64) * math.pi / views
    fine = it.operators.ParallelBeam(
        (4 * side, 4 * side), angles, 4 * 288, pixel_size=PIXEL / 4, detector_spacing=PIXEL / 4
    )
    wavelength = 1e-6 * x_ray_wavelength(ENERGY)
    exponent = -2 * math.pi / wavelength * fine(rods[None, None])
    wave = torch.polar((BETA * exponent).exp(), DELTA * exponent)
    light = propagate(wave, wavelength, 50.0, PIXEL / 4, axes=1).abs().square()
    light = light.unflatten(-1, (-1, 4)).mean(-1)
    generator = torch.Generator().manual_seed(0)
    light = light + 0.01 * torch.randn(light.shape, generator=generator, dtype=torch.float64)
    A = it.operators.ParallelBeam(
        (side, side), angles, 288, pixel_size=PIXEL, detector_spacing=PIXEL
    )
    truth = mu * bin_pixels(rods)
    errors = []
    sharp = mu * fine(rods[None, None]).unflatten(-1, (-1, 4)).mean(-1)
    for lines in (-light.log(), filter_phase(light, DELTA / BETA, ENERGY, 50.0, PIXEL), sharp):
        errors.append(float((A.pseudo_inverse(lines)[0, 0] - truth).norm() / truth.norm()))
    print(
        f"filtered back-projection of rods at 50 mm, {views} views, noise 1%: error {errors[1]:.1%} with "
        f"the filter, {errors[0]:.0%} without, {errors[2]:.1%} of lines without fringes and noise "
        f"{verdict(errors[1] < 0.5 * errors[0], 'half')}"
    )


if __name__ == "__main__":
    run_script(main)
