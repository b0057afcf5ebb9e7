"""Metal in chest slices: normalized reduction, and a fit without the rays through metal.

    python benchmarks/metal.py [--picture metal.png]

Two steel discs of 10 mm radius lie in real chest slices. Counts of a tube of 120 kV behind 5 mm of
aluminium, 5e5 photons per ray, pass through water, bone and iron; the line integrals are corrected for
the beam hardening of water. The truth has the attenuation at 65 keV, the image of 256 x 256 pixels 360
parallel views. Errors are root mean squares outside of the metal and its neighbouring pixels, relative to
those of the filtered back-projection. The thresholds of the reduction, the difference in place of the
quotient, and the weight 0.01 of total variation were chosen on the tuning slices, with the discs at one
place; other patients, and discs at other places, are reported.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import data_folder, machine, run_script, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.processing import fit_beam_hardening, reduce_metal
from invtoolbox.processing.flat_field import interpolate
from invtoolbox.simulation import attenuation, simulate_counts, tube_spectrum

TUNING = (5, 10, 20, 40)
REPORTED = {47: ((-30.0, -70.0), (-15.0, 60.0)), 55: ((20.0, -55.0), (-35.0, 45.0))}
PLACES = ((-45.0, 20.0), (50.0, -10.0))
RADIUS, PHOTONS, ENERGY, WEIGHT = 10.0, 5e5, 65.0, 0.01


def main(slices: str = "", picture: str = "", iterations: int = 300, threads: int = 1) -> None:
    """Print one row per slice and method.

    Args:
        slices: numbers of slices, separated by commas; those that are reported if empty
        picture: file of a picture of the images, none if empty
        iterations: number of iterations of the fits
        threads: number of torch's threads
    """
    torch.set_num_threads(threads)
    numbers = [int(n) for n in slices.split(",")] if slices else list(REPORTED)
    print(f"{machine()}; chosen on slices {', '.join(map(str, TUNING))}")
    rows = []
    for k in numbers:
        y, A, truth, metal = scan(k, REPORTED.get(k, PLACES))
        began = time.perf_counter()
        reduction = reduce_metal(y, A)
        seconds = time.perf_counter() - began
        linear = A.pseudo_inverse(interpolate(y, ~reduction.hidden))
        reduced = A.pseudo_inverse(reduction.y)
        fit, whole = (
            it.reconstruct(
                y,
                A,
                prior="tv,nonnegative",
                regularization=WEIGHT,
                max_iterations=iterations,
                metal=is_reduced,
                progress=False,
            ).x
            for is_reduced in (True, False)
        )
        clean, *_ = scan(k, ())
        images = {
            "filtered back-projection": reduction.image,
            "linear interpolation": linear,
            "normalized reduction": reduced,
            "fit without the rays": fit,
            "fit with all rays": whole,
            "scan without metal": A.pseudo_inverse(clean),
        }
        rmse = {name: error(x, truth, metal) for name, x in images.items()}
        base, line = rmse["filtered back-projection"], rmse["linear interpolation"]
        bars = {
            "normalized reduction": verdict(
                rmse["normalized reduction"] <= min(0.5 * base, 0.8 * line), "0.5, 0.8 of linear"
            ),
            "fit without the rays": verdict(rmse["fit without the rays"] <= 0.4 * base, "0.4"),
        }
        for name, value in rmse.items():
            print(
                f"slice {k}, {name}: error {value / base:.3f} of the filtered back-projection's, "
                f"{value / line:.3f} of linear interpolation's, {value:.2e}/mm {bars.get(name, '')}"
            )
        same = reduce_metal(clean, A)
        is_same = torch.equal(same.y, clean) and not bool(same.metal.any())
        print(
            f"slice {k}: {int(reduction.metal.sum())} metal pixels of {int((metal > 0).sum())}, "
            f"{float(reduction.hidden.double().mean()):.1%} of the rays, {seconds:.1f} s; without metal "
            f"{verdict(is_same, 'bitwise')}",
            flush=True,
        )
        rows.append([truth, *images.values()])
    if picture:
        draw(Path(picture), rows, ["truth", *images])


def scan(k: int, places: tuple) -> tuple[Tensor, it.operators.ParallelBeam, Tensor, Tensor]:
    """Return line integrals, operator, true attenuation in 1/mm, and the share of metal per pixel."""
    data = np.load(data_folder() / "ct_slices" / "ct_hu_256.npz")
    density = (torch.from_numpy(data["hu"][k].astype(np.float32)) / 1000 + 1).clamp_min(0)
    size, n = float(data["pixel_mm"][k]), 256
    metal = torch.zeros(n, n)
    line = ((torch.arange(4 * n) + 0.5) / 4 - n / 2) * size
    for row, column in places:
        disc = torch.hypot(line[:, None] - row, line[None, :] - column) < RADIUS
        metal += F.avg_pool2d(disc.float()[None], 4)[0]
    # From 100 to 500 HU, tissue turns from water to bone of the same attenuation at 65 keV.
    bone = ((density - 1.1) / 0.4).clamp(0, 1)
    water_level = float(attenuation("water", ENERGY))
    ratio = water_level / float(attenuation("bone", ENERGY))
    angles = torch.arange(360) * (math.pi / 360)
    A = it.operators.ParallelBeam((n, n), angles, 367, pixel_size=size, detector_spacing=size)
    spectrum = tube_spectrum(120.0, aluminium=5.0, count=40)
    maps = {
        "water": density * (1 - bone) * (1 - metal),
        "bone": density * bone * ratio * (1 - metal),
        "iron": metal,
    }
    paths = {name: A(values[None, None]) for name, values in maps.items()}
    y = -simulate_counts(paths, spectrum, PHOTONS, seed=k).log()
    lengths = torch.linspace(0, 400, 400, dtype=torch.float64)
    water = -simulate_counts({"water": lengths}, spectrum).log()
    y = fit_beam_hardening(water, lengths, degree=5, attenuation=water_level).apply(y)
    truth = water_level * density * (1 - metal)
    return y, A, truth[None, None], metal[None, None]


def error(x: Tensor, truth: Tensor, metal: Tensor) -> float:
    outside = F.max_pool2d((metal > 0).float(), 3, 1, 1) == 0
    return float((x - truth)[outside].square().mean().sqrt())


def draw(path: Path, rows: list[list[Tensor]], names: list[str]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(rows), len(names), figsize=(3.2 * len(names), 3.4 * len(rows)))
    for images, line in zip(rows, axes.reshape(len(rows), -1)):
        for x, name, panel in zip(images, names, line):
            panel.imshow(x[0, 0], cmap="gray", vmin=0, vmax=0.04)
            panel.set_title(name, fontsize=8)
            panel.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=70)


if __name__ == "__main__":
    run_script(main)
