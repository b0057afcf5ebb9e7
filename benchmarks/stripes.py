"""Removal of stripes from sinograms, against the filters of algotom.

    python benchmarks/stripes.py [--picture sarepy.png]

Stripes of every kind are added to clean sinograms: parallel views of real chest slices with the noise
of 2e5 photons, and real fan views of the Helsinki challenge. An error is the norm of the difference to the
clean sinogram, relative to the norm of that. The sizes of algotom's filters are chosen per kind on
the tuning sinograms, as are the thresholds of ours; other patients and another disc are
reported. The bar is the best of algotom's filters for a kind and a sinogram, on average over the draws;
a row also counts the draws in which ours is at most the best of that draw. The last rows have no bar:
small gains of every cell, where `remove_rings` is the method, and stripes with a smooth profile.
The picture shows a neutron sinogram with stripes of every kind, which has no truth.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from common import data_folder, machine, run_script, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.processing import remove_rings, remove_stripes

KINDS = ("full", "partial", "dead", "large", "fluctuating")
MORE = ("gains", "blurred")
TUNING = ("chest 10", "chest 20", "chest 40", "htc ta")
REPORTED = ("chest 47", "chest 55", "htc tb")
Filter = Callable[[Tensor], Tensor]


def main(seeds: int = 3, picture: str = "", threads: int = 1) -> None:
    """Print one row per kind of stripes and sinogram, and the change of clean sinograms.

    Args:
        seeds: number of draws of stripes per sinogram
        picture: file of the picture of the neutron sinogram, none if empty
        threads: number of torch's threads
    """
    torch.set_num_threads(threads)
    print(f"{machine()}; chosen on {', '.join(TUNING)}, {seeds} draws of stripes")
    if picture:
        draw(Path(picture))
    tuning, reported = ({n: sinogram(n) for n in names} for names in (TUNING, REPORTED))
    filters = algotom()
    for kind in (*KINDS, *MORE):
        chosen = {
            name: min(sizes, key=lambda size: mean(errors(sizes[size], tuning, kind, range(1))))
            for name, sizes in filters.items()
        }
        for name, clean in reported.items():
            case = {name: clean}
            ours = errors(
                lambda y: remove_stripes(y[None, None])[0][0, 0], case, kind, range(seeds)
            )
            gains = errors(lambda y: remove_rings(y[None, None])[0][0, 0], case, kind, range(seeds))
            none = mean(errors(lambda y: y, case, kind, range(seeds)))
            theirs = {
                f"{label} {chosen[label]}": errors(sizes[chosen[label]], case, kind, range(seeds))
                for label, sizes in filters.items()
            }
            best = min(theirs, key=lambda label: mean(theirs[label]))
            won = sum(o <= min(t) for o, *t in zip(ours, *theirs.values()))
            holds = mean(ours) <= mean(theirs[best])
            bar = verdict(holds, "algotom's best") if kind in KINDS else ""
            print(
                f"{kind}, {name}: error {mean(ours):.2%}, {max(ours):.2%} at worst; algotom's best "
                f"{mean(theirs[best]):.2%} ({best}); remove_rings {mean(gains):.2%}; striped "
                f"{none:.2%}; {won} of {seeds} draws at most the best of every draw {bar}",
                flush=True,
            )
    for name, clean in reported.items():
        change = relative(remove_stripes(clean[None, None])[0][0, 0], clean)
        rest = {
            label: relative(next(iter(sizes.values()))(clean), clean)
            for label, sizes in filters.items()
        }
        words = ", ".join(f"{label} {value:.1%}" for label, value in rest.items())
        bar = verdict(change <= 0.005, "0.5%")
        print(f"no stripe, {name}: change {change:.2%} {bar}; algotom's: {words}", flush=True)


def sinogram(name: str) -> Tensor:
    """Return a clean sinogram, ``(view, cell)``."""
    folder, (source, item) = data_folder(), name.split()
    if source == "htc":
        return it.datasets.open(folder / "htc2022" / f"htc2022_{item}_full.mat")[0].y[0, 0]
    data, k = np.load(folder / "ct_slices" / "ct_hu_256.npz"), int(item)
    x = 0.02 * (torch.from_numpy(data["hu"][k].astype(np.float32)) / 1000 + 1).clamp_min(0)
    size = float(data["pixel_mm"][k])
    angles = torch.arange(360) * (math.pi / 360)
    A = it.operators.ParallelBeam((256, 256), angles, 367, pixel_size=size, detector_spacing=size)
    photons = 2e5 * torch.exp(-A(x[None, None])[0, 0])
    counts = torch.poisson(photons, generator=torch.Generator().manual_seed(k))
    return -(counts.clamp_min(1) / 2e5).log()


def add_stripes(clean: Tensor, kind: str, seed: int) -> Tensor:
    """Return the sinogram with stripes of a kind, whose sizes are shares of its bright readings."""
    draws = np.random.default_rng(seed)
    views, cells = clean.shape
    striped, bright = clean.clone(), float(clean.quantile(0.98))
    low, high = cells // 8, cells - cells // 8

    def sizes(count: int, least: float, most: float) -> Tensor:
        values = draws.uniform(least, most, count) * draws.choice([-1, 1], count)
        return bright * torch.from_numpy(values).to(clean)

    if kind == "gains":
        return clean + bright * torch.from_numpy(draws.normal(0, 0.005, cells)).to(clean)
    if kind in ("full", "partial"):
        places = draws.choice(np.arange(low, high), cells // 25, replace=False)
        for place, size in zip(places, sizes(len(places), 0.01, 0.06)):
            length = views if kind == "full" else int(draws.uniform(0.15, 0.6) * views)
            first = int(draws.integers(0, views - length + 1))
            striped[first : first + length, place] += size
    elif kind in ("dead", "fluctuating"):
        for place in draws.choice(np.arange(low, high, 3), cells // 60, replace=False):
            if kind == "dead":
                striped[:, place] = bright * draws.uniform(0, 1.2)
            else:
                noise = torch.from_numpy(draws.normal(0, 0.15, views)).to(clean)
                striped[:, place] += bright * noise + sizes(1, 0, 0.05)
    elif kind in ("large", "blurred"):
        middles = np.linspace(low, high - 16, 4).astype(int) + draws.integers(-8, 8, 4)
        for first, size in zip(middles, sizes(4, 0.03, 0.12)):
            width = int(draws.integers(6, 13))
            if kind == "large":
                striped[:, first : first + width] += size
            else:
                line = torch.arange(cells).to(clean) - first
                striped += size * torch.exp(-line.square() / (2 * (width / 4) ** 2))
    return striped


def errors(remove: Filter, cases: dict[str, Tensor], kind: str, seeds: range) -> list[float]:
    return [
        relative(remove(add_stripes(clean, kind, seed)), clean)
        for clean in cases.values()
        for seed in seeds
    ]


def relative(y: Tensor, clean: Tensor) -> float:
    return float((y - clean).norm() / clean.norm())


def algotom() -> dict[str, dict[object, Filter]]:
    """Return algotom's filters by name and size."""
    from algotom.prep import removal

    def call(function: Callable[..., np.ndarray], **settings: object) -> Filter:
        def remove(y: Tensor) -> Tensor:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.from_numpy(np.array(function(y.numpy(), **settings))).to(y)

        return remove

    sizes = (5, 11, 21, 31)
    return {
        "sorting": {n: call(removal.remove_stripe_based_sorting, size=n) for n in sizes},
        "filtering": {n: call(removal.remove_stripe_based_filtering, size=n) for n in sizes},
        "2d filtering and sorting": {
            n: call(removal.remove_stripe_based_2d_filtering_sorting, size=n) for n in sizes
        },
        "interpolation": {
            n: call(removal.remove_stripe_based_interpolation, size=n) for n in (31, 51)
        },
        "dead": {n: call(removal.remove_dead_stripe, size=n) for n in (31, 51)},
        "all": {
            (n, m): call(removal.remove_all_stripe, la_size=n, sm_size=m)
            for n in (31, 51)
            for m in (5, 11, 21)
        },
    }


def draw(path: Path) -> None:
    """Draw the neutron sinogram and its filtered back-projection, before and after."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import tifffile

    counts = tifffile.imread(
        data_folder() / "sarepy_neutron" / "sinogram_360_neutron_image.tif"
    ).astype(np.float32)
    beam = float(np.quantile(counts, 0.99))
    y = -torch.from_numpy(np.clip(counts, 1, None) / beam).log()
    repaired, dead = remove_stripes(y[None, None])
    views, cells = y.shape
    angles = torch.arange(views) * (2 * math.pi / views)
    A = it.operators.ParallelBeam((cells, cells), angles, cells)
    problem = it.Problem(repaired, A)
    axis = it.measurements.findings.Subject(problem).axis
    if axis is not None:
        shift = torch.tensor([(cells - 1) / 2 - axis.cell])
        A = A.with_parameters(detector_shift=shift)
    figure, axes = plt.subplots(2, 2, figsize=(13, 12))
    for column, lines in enumerate((y[None, None], repaired)):
        shown = lines[0, 0].numpy()
        low, high = np.quantile(repaired.numpy(), (0.01, 0.995))
        axes[0, column].imshow(shown, cmap="gray", vmin=low, vmax=high, aspect="auto")
        x = A.pseudo_inverse(lines)[0, 0].numpy()
        if column == 0:
            window = np.quantile(x, (0.02, 0.995))
        axes[1, column].imshow(x, cmap="gray", vmin=window[0], vmax=window[1])
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    print(f"neutrons: {int(dead.sum())} of {cells} cells interpolated; picture in {path.name}")


if __name__ == "__main__":
    run_script(main)
