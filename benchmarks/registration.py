"""Registration: simulated heart motion with its truth, priors of displacements, SimpleITK, cine MRI.

The heart is a short-axis slice of INVTOOLBOX_DATA/cardiac_ed/SimMotion: the segmentation of the
myocardium at end diastole, and the displacement of the last frame from a finite-element simulation,
2.8 pixels on average in the myocardium. Fixed is the end-diastolic image (blood 1, myocardium 0.2,
rest 0.45, texture of standard deviation 0.1), moving the deformed one, both with noise of 0.03. The
error is the mean distance to the true displacement in the myocardium, in pixels.

Weights were chosen by ``--tune`` on other cases alone: rings that contract and twist by a formula,
and random smooth displacements of textured pictures. The peer is SimpleITK's diffeomorphic demons on
the same pair in the same run, with a smoothing of 1.5 pixels, at 50, 100 and 200 iterations; its best
error is compared, and its time at that number.

    python benchmarks/registration.py [--tune] [--threads 1]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from common import data_folder
from scipy import ndimage

import invtoolbox as it

Case = tuple[torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tune", action="store_true", help="search the weights on other cases")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.tune:
        tune()
        return


# -- the pairs of images ---------------------------------------------------------------------------


def pair(fixed: np.ndarray, u: np.ndarray, noise: float, seed: int) -> tuple[Any, Any]:
    """Return moving and fixed image of a displacement, ``fixed(p) = moving(p + u(p))``, noisy."""
    grid = np.stack(np.meshgrid(*map(np.arange, fixed.shape), indexing="ij")).astype(float)
    back = np.zeros_like(u)
    for _ in range(60):  # the inverse by fixed-point iteration
        back = -np.stack(
            [ndimage.map_coordinates(c, grid + back, order=1, mode="nearest") for c in u]
        )
    moving = ndimage.map_coordinates(fixed, grid + back, order=3, mode="nearest")
    draws = np.random.default_rng(1000 + seed)
    return tuple(
        torch.from_numpy((image + noise * draws.standard_normal(fixed.shape)).astype(np.float32))
        for image in (moving, fixed)
    )


def texture(shape: tuple[int, ...], seed: int, scale: float = 1.5) -> np.ndarray:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), scale)
    return field / field.std()


def heart_image(myocardium: np.ndarray, seed: int) -> np.ndarray:
    pool = ndimage.binary_fill_holes(myocardium) & ~myocardium
    image = np.where(pool, 1.0, np.where(myocardium, 0.2, 0.45))
    return ndimage.gaussian_filter(image, 0.6) + 0.1 * texture(myocardium.shape, seed)


def heart(seed: int) -> Case:
    folder = data_folder() / "cardiac_ed" / "SimMotion" / "train"
    myocardium = np.load(folder / "001_slice_05_ED.npy").astype(bool)
    u = np.load(folder / "001_slice_05_disp.npy")[-1]
    return *pair(heart_image(myocardium, seed), u, 0.03, seed), u, myocardium


def ring(seed: int, noise: float = 0.03) -> Case:
    """Return an elliptic ring that contracts and twists by a formula."""
    draws = np.random.default_rng(50 + seed)
    row, column = np.indices((96, 96)) - draws.uniform(42, 54, 2).reshape(2, 1, 1)
    radius = np.hypot(row, draws.uniform(0.85, 1.15) * column)
    inner, outer = draws.uniform(9, 12), draws.uniform(17, 21)
    fade = np.exp(-((radius / (1.6 * outer)) ** 4))
    squeeze = draws.uniform(0.15, 0.3) / (1 + np.exp((radius - outer) / 5))
    twist = draws.uniform(-0.15, 0.15)
    u = np.stack([-squeeze * row - twist * column, -squeeze * column + twist * row]) * fade
    mask = (radius > inner) & (radius < outer)
    return *pair(heart_image(mask, 50 + seed), u, noise, seed), u, mask


def picture(seed: int, noise: float = 0.05) -> Case:
    """Return a texture of blobs moved by a random smooth displacement of up to 4 pixels."""
    u = np.stack([texture((96, 96), 80 + 10 * seed + k, 12.0) for k in range(2)])
    u *= 4.0 / np.abs(u).max()
    image = 0.2 * texture((96, 96), 70 + seed, 4.0) + 0.1 * texture((96, 96), 60 + seed, 1.5)
    inside = np.zeros((96, 96), dtype=bool)
    inside[8:-8, 8:-8] = True
    return *pair(image, u, noise, seed), u, inside


def training() -> Iterator[Case]:
    for seed in range(2):
        yield ring(seed)
        yield picture(seed)


# -- errors ----------------------------------------------------------------------------------------


def error(found: torch.Tensor, case: Case) -> float:
    """Return the mean distance to the true displacement in the region, in pixels."""
    return float(np.hypot(*(found[0].numpy() - case[2]))[case[3]].mean())


def tune() -> None:
    """Print the error of every prior and loss on the training cases over a range of weights."""
    cases = list(training())
    still = [float(np.hypot(*case[2])[case[3]].mean()) for case in cases]
    priors: dict[str, Callable[[], Any]] = {
        "bending": it.priors.Bending,
        "diffusion": it.priors.Diffusion,
        "elastic": it.priors.LinearElastic,
        "arap": it.priors.GridARAP,
    }
    for loss, names in {
        "least-squares": list(priors),
        "ncc": ["bending"],
        "mi": ["bending"],
    }.items():
        for name in names:
            print(f"{loss}, {name}")
            for exponent in np.arange(-1.5, 2.6, 0.5):
                shares = []
                for case, whole in zip(cases, still):
                    motion = it.register(
                        case[0], case[1], 10.0**exponent * priors[name](), loss=loss
                    )
                    shares.append(error(motion.displacement, case) / whole)
                mean = float(np.exp(np.mean(np.log(shares))))
                print(
                    f"  1e{exponent:+.1f}: {mean:.4f}   {[round(s, 3) for s in shares]}", flush=True
                )


if __name__ == "__main__":
    main()
