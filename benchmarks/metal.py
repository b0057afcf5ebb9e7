"""Metal in chest slices: normalized reduction, and a fit without the rays through metal.

    python benchmarks/metal.py [--picture metal.png]

Two steel discs of 10 mm radius lie in real chest slices, at places drawn within soft tissue. Photons
of a tube of 120 kV behind 5 mm of aluminium, 2e6 per ray, pass through water, bone and iron; the line
integrals are corrected for the beam hardening of water. The truth has the attenuation at 65 keV;
the image has 256 x 256 pixels, the scan 360 parallel views. Errors are root mean squares to the truth,
outside of the metal and its neighbouring pixels; those of the scan without metal are the noise and
the sharpness of a filtered back-projection. The thresholds of the reduction and the weight 0.1 of
total variation in the fit were chosen on other patients and places.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from statistics import mean

import numpy as np
import torch
import torch.nn.functional as F
from common import data_folder, machine, run_script, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.processing import fit_beam_hardening, reduce_metal
from invtoolbox.processing.flat_field import interpolate
from invtoolbox.simulation import attenuation, simulate_counts, tube_spectrum

TUNING, REPORTED = (10, 20, 40, 47, 55), (51, 57)
RADIUS, PHOTONS, ENERGY, WEIGHT = 10.0, 2e6, 65.0, 0.1


def main(draws: int = 3, picture: str = "", iterations: int = 300, threads: int = 1) -> None:
    """Print one row per slice and draw of the places of the discs, and the mean and the worst.

    Args:
        draws: number of places of the discs per slice
        picture: file of a picture of the first draw of every slice, none if empty
        iterations: number of iterations of the fit
        threads: number of torch's threads
    """
    torch.set_num_threads(threads)
    print(f"{machine()}; chosen on slices {', '.join(map(str, TUNING))}")
    rows, names = [], []
    shares: dict[str, list[float]] = {}
    for k in REPORTED:
        clean, A, _, _ = scan(k, None)
        same = reduce_metal(clean, A)
        is_same = torch.equal(same.y, clean) and not bool(same.metal.any())
        unaffected = A.pseudo_inverse(clean)
        print(f"slice {k} without metal: returned {verdict(is_same, 'bitwise')}", flush=True)
        for draw in range(draws):
            y, A, truth, metal = scan(k, draw)
            began = time.perf_counter()
            reduction = reduce_metal(y, A)
            seconds = time.perf_counter() - began
            fit = it.reconstruct(
                y,
                A,
                prior="tv,nonnegative",
                regularization=WEIGHT,
                max_iterations=iterations,
                metal=True,
                repair=False,
                progress=False,
            ).x
            images = {
                "back-projection": reduction.image,
                "linear": A.pseudo_inverse(interpolate(y, ~reduction.hidden)),
                "reduced": A.pseudo_inverse(reduction.y),
                "fit": fit,
                "without metal": unaffected,
            }
            rmse = {name: error(x, truth, metal) for name, x in images.items()}
            base = rmse["back-projection"]
            values = {
                "reduced over back-projection": rmse["reduced"] / base,
                "reduced over linear": rmse["reduced"] / rmse["linear"],
                "fit over back-projection": rmse["fit"] / base,
            }
            for name, value in values.items():
                shares.setdefault(name, []).append(value)
            words = ", ".join(f"{name} {1e3 * value:.2f}" for name, value in rmse.items())
            ratios = ", ".join(f"{name} {value:.2f}" for name, value in values.items())
            print(
                f"slice {k}, draw {draw}: errors in 1/m {words}; {ratios}; {int(reduction.metal.sum())} "
                f"metal pixels of {int((metal > 0).sum())}, {seconds:.1f} s",
                flush=True,
            )
            if draw == 0:
                rows.append([truth, *images.values()])
                names = ["truth", *images]
    for (name, values), bar in zip(shares.items(), (0.5, 0.8, 0.4)):
        mean_share = mean(values)
        print(
            f"{name}: {mean_share:.2f} on average, {max(values):.2f} at worst "
            f"{verdict(mean_share <= bar, f'{bar} on average')}"
        )
    if picture:
        draw_images(Path(picture), rows, names)


def scan(k: int, draw: int | None) -> tuple[Tensor, it.operators.ParallelBeam, Tensor, Tensor]:
    """Return line integrals, operator, true attenuation in 1/mm, and the share of metal per pixel.

    Args:
        k: number of the slice
        draw: number of the places of the discs; None for no metal
    """
    data = np.load(data_folder() / "ct_slices" / "ct_hu_256.npz")
    density = (torch.from_numpy(data["hu"][k].astype(np.float32)) / 1000 + 1).clamp_min(0)
    size, n = float(data["pixel_mm"][k]), 256
    metal = torch.zeros(n, n)
    line = ((torch.arange(4 * n) + 0.5) / 4 - n / 2) * size
    for row, column in [] if draw is None else places(density, size, 1000 * k + draw):
        disc = torch.hypot(line[:, None] - row, line[None, :] - column) < RADIUS
        metal += F.avg_pool2d(disc.float()[None], 4)[0]
    # From 100 to 500 HU, tissue turns from water to bone of the same attenuation at 65 keV.
    bone = ((density - 1.1) / 0.4).clamp(0, 1)
    water_level = float(attenuation("water", ENERGY))
    ratio = water_level / float(attenuation("bone", ENERGY))
    angles = torch.arange(360) * (math.pi / 360)
    A = it.operators.ParallelBeam((n, n), angles, 367, pixel_size=size, detector_spacing=size)
    spectrum = tube_spectrum(kilovolts=120.0, aluminium=5.0, count=40)
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


def places(density: Tensor, size: float, seed: int) -> list[tuple[float, float]]:
    """Draw the middles of two discs in mm, where tissue fills most of a disc, 40 to 120 mm apart."""
    generator, n = torch.Generator().manual_seed(seed), len(density)
    radius = RADIUS / size
    reach = math.ceil(radius)
    line = torch.arange(-reach, reach + 1.0)
    disc = (torch.hypot(line[:, None], line[None, :]) <= radius).float()
    tissue = (density > 0.8).float()[None, None]
    share = F.conv2d(tissue, disc[None, None], padding=reach)[0, 0] / disc.sum()
    inside = (share > 0.9).nonzero()
    while True:
        pair = inside[torch.randint(len(inside), (2,), generator=generator)].double()
        if 40 < float((pair[0] - pair[1]).norm()) * size < 120:
            return [
                ((float(r) - (n - 1) / 2) * size, (float(c) - (n - 1) / 2) * size) for r, c in pair
            ]


def error(x: Tensor, truth: Tensor, metal: Tensor) -> float:
    outside = F.max_pool2d((metal > 0).float(), 3, 1, 1) == 0
    return float((x - truth)[outside].square().mean().sqrt())


def draw_images(path: Path, rows: list[list[Tensor]], names: list[str]) -> None:
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
