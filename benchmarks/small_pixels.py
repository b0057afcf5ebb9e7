"""Scans whose edges lie between pixels: the default answer against its grid, and against FBP.

    python benchmarks/small_pixels.py [--first 100] [--count 100] [--prior tv]

Objects of 28 to 71 pixels (squares, rings, photographs, ellipses) are measured on pixels of a sixth of
the size, in 60 to 159 views, parallel or of a fan, with noise of 0.03 to 6 % of the largest line
integral. Every fifth object is an image of the pixels themselves. Printed: the RMSE of
``it.reconstruct(y, A)`` and of a solve on the grid alone, in dB relative to the filtered
back-projection, and which grid was taken. Seeds 0 to 39 served to choose when smaller pixels are taken.
"""

from __future__ import annotations

import math
import time
import warnings

import numpy as np
import torch
from common import machine, run_script, verdict
from skimage import data, transform
from torch import Tensor

import invtoolbox as it

#: Number of fine pixels along a pixel.
FINE = 6
#: Photographs of scikit-image for seeds below 100, and for others.
CHOSEN_ON, REPORTED_ON = ("camera", "coins", "moon", "page"), ("brick", "cat", "gravel", "rocket")
KINDS = ("squares", "rings", "photograph", "ellipses", "image of the pixels")


def main(first: int = 100, count: int = 100, prior: str = "tv") -> None:
    """Print errors of the default and of the grid of the image alone.

    Args:
        first: first seed
        count: number of objects
        prior: name of the prior
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # about readings that the default mends or names
    print(f"{machine()}; prior {prior}, seeds {first} to {first + count - 1}")
    rows = []
    for seed in range(first, first + count):
        kind, A, y, truth = scan(seed)
        simple = error(A.pseudo_inverse(y), truth)
        start = time.process_time()
        default = it.reconstruct(y, A, prior, progress=False)
        middle = time.process_time()
        alone = it.solve(it.Problem(y, A), prior, progress=False, check=False)
        seconds = (middle - start) / (time.process_time() - middle)
        losses = [20 * math.log10(error(s.x, truth) / simple) for s in (default, alone)]
        taken = [
            name
            for words, name in (("half the size", "smaller pixels"), ("x is the filtered", "FBP"))
            if any(words in note for note in default.notes)
        ]
        rows.append((kind, *losses, seconds))
        print(
            f"{seed} {kind}, {truth.shape[-1]} pixels, {A.blocks} views: default {losses[0]:6.2f} dB, "
            f"its grid alone {losses[1]:6.2f} dB; {' and '.join(taken) or 'the grid'}, "
            f"{seconds:.1f} times the seconds"
        )
    for name in ("all", *KINDS):
        some = [row for row in rows if name in ("all", row[0])]
        if some:
            _, default, alone, seconds = map(np.array, zip(*some))
            print(
                f"{name}: default {default.mean():.2f} dB (worst {default.max():.2f}), its grid alone "
                f"{alone.mean():.2f} dB (worst {alone.max():.2f}); the default is at most "
                f"{max(0.0, (default - alone).max()):.2f} dB behind the grid; {np.median(seconds):.1f} "
                "times the seconds"
            )
    losses = np.array([row[1] for row in rows])
    print(f"worst loss against FBP {verdict(losses.max() <= 1.0, '1 dB')}")


def error(x: Tensor, truth: Tensor) -> float:
    return float((x - truth).square().mean().sqrt())


def scan(seed: int) -> tuple[str, it.operators.Operator, Tensor, Tensor]:
    """Return the kind of an object, its scan, the measurements, and the means per pixel."""
    draw = np.random.default_rng([77, seed])
    n, views, is_fan = int(draw.integers(28, 72)), int(draw.integers(60, 160)), draw.uniform() < 0.4
    kind = KINDS[seed % len(KINDS)]
    values = fine_image(kind, FINE * n, seed, draw)
    truth = torch.from_numpy(values.reshape(n, FINE, n, FINE).mean((1, 3))).float()[None, None]
    cells = int(n * draw.uniform(0.9, 1.5))
    turn = torch.arange(views, dtype=torch.float64) / views + 0.1
    spacing = 1.1 * n / cells

    def operator(side: int, pixel: float) -> it.operators.Operator:
        if is_fan:
            return it.operators.FanBeam(
                (side, side),
                2 * math.pi * turn,
                cells,
                3.0 * n,
                5.0 * n,
                pixel_size=pixel,
                detector_spacing=spacing * 5 / 3,
            )
        return it.operators.ParallelBeam(
            (side, side), math.pi * turn, cells, pixel_size=pixel, detector_spacing=spacing
        )

    A = operator(n, 1.0)
    if kind == KINDS[-1]:
        y = A(truth)
    else:
        y = operator(FINE * n, 1 / FINE)(torch.from_numpy(values).float()[None, None])
    level = math.exp(draw.uniform(math.log(3e-4), math.log(0.06))) * float(y.max())
    return kind, A, y + level * torch.from_numpy(draw.standard_normal(y.shape)).float(), truth


def fine_image(kind: str, side: int, seed: int, draw: np.random.Generator) -> np.ndarray:
    """Return an object on fine pixels, inside of a circle."""
    axis = 2 * (np.arange(side) + 0.5) / side - 1
    v, u = np.meshgrid(axis, axis, indexing="ij")
    values = np.zeros((side, side))
    if kind == "rings":
        radius = np.hypot(u - 0.1, v + 0.05)
        values += (radius < 0.8) & (radius > 0.6)
        values += 0.5 * (radius < 0.6) + 0.3 * ((radius < 0.3) & (radius > 0.25))
    elif kind == "photograph":
        names = CHOSEN_ON if seed < 100 else REPORTED_ON
        photograph = getattr(data, names[seed // len(KINDS) % len(names)])() / 255
        grey = photograph.mean(2) if photograph.ndim == 3 else photograph
        values += transform.resize(grey, (side, side), anti_aliasing=True)
    else:
        for _ in range(int(draw.integers(1, 6))):
            (right, down), halves = draw.uniform(-0.45, 0.45, 2), draw.uniform(0.06, 0.4, 2)
            turn, height = draw.uniform(0, math.pi), draw.uniform(0.2, 1)
            along = (u - right) * math.cos(turn) + (v - down) * math.sin(turn)
            across = (v - down) * math.cos(turn) - (u - right) * math.sin(turn)
            a, b = abs(along) / halves[0], abs(across) / halves[1]
            values += height * ((a**2 + b**2 if kind == "ellipses" else np.maximum(a, b)) <= 1)
    return values * (np.hypot(u, v) < 0.92)


if __name__ == "__main__":
    run_script(main)
