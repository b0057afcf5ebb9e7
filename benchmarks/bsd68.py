"""Denoising of BSD68 at 15, 25 and 50 of 255: total variation, a learned proximal network, a denoiser.

    python benchmarks/bsd68.py [--every 14] [--only tv,lpn-natural]

White noise of one seed per picture, without clipping, whole pictures, PSNR with peak 1. "the network"
is one call of ``denoiser-natural`` with the true level, on all 68 pictures. The rows by name are
``it.reconstruct(y, A, prior=NAME, noise_std=level)`` with nothing else chosen, on every
``--every``-th picture from the first one on. No network of the toolbox was trained on BSD68. But the
rule for the weight and the factor of learned proximal networks were chosen on some of its pictures, so
that the rows by name are tuned here. The published figures, of the same 68 pictures, are those of
Zhang et al., "Beyond a Gaussian denoiser" (IEEE TIP 2017).

Every picture is kept in ``results/bsd68.json``, from which a later call continues.
"""

from __future__ import annotations

import time
from functools import cache, partial
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from common import Kept, data_folder, machine, run_script
from PIL import Image
from torch import Tensor

import invtoolbox as it

LEVELS = (15, 25, 50)
NETWORK, NAMES = "the network", ("tv", "lpn-natural", "denoiser-natural")
PUBLISHED = {"BM3D": (31.07, 28.57, 25.62), "DnCNN, one per level": (31.73, 29.23, 26.23)}
RESULTS = Path(__file__).parent / "results"


@cache
def denoiser() -> it.priors.Denoiser:
    return it.priors.load("denoiser-natural")


def measure(number: int, level: int, method: str) -> tuple[float, float]:
    """Return the PSNR of a picture and the processor seconds."""
    with Image.open(data_folder() / "bsd68_gray" / f"test{number:03}.png") as picture:
        truth = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None, None]
    noise_std = level / 255
    A = it.operators.Identity(tuple(truth.shape[1:]))
    y = A.simulate(truth, noise_std, seed=number)
    began = time.process_time()
    if method == NETWORK:
        x: Tensor = denoiser().denoise(y, torch.tensor([noise_std]))
    else:
        x = it.reconstruct(y, A, prior=method, noise_std=noise_std, progress=False).x
    seconds = time.process_time() - began
    return float(it.metrics.psnr(x, truth, data_range=1.0)), seconds


def main(every: int = 14, only: str = "") -> None:
    """Measure, and print the table.

    Args:
        every: the rows by name take every such picture.
        only: rows to measure, separated by commas.
    """
    torch.set_num_threads(1)
    kept = Kept(RESULTS / "bsd68.json")
    rows = {NETWORK: range(1, 69), **{name: range(1, 69, every) for name in NAMES}}
    print(f"python benchmarks/bsd68.py --every {every}; {machine()}")
    for method, numbers in rows.items():
        for level in LEVELS if not only or method in only.split(",") else ():
            values = [
                kept.result(f"{method}, {level}, {k}", partial(measure, k, level, method))
                for k in numbers
            ]
            psnr, seconds = zip(*values)
            losses = [kept.known[f"{NETWORK}, {level}, {k}"][0] - p for k, p in zip(numbers, psnr)]
            print(
                f"{method}, noise {level}: {mean(psnr):.2f} dB on {len(numbers)} pictures, worst "
                f"{min(psnr):.2f} dB; {mean(seconds):.1f} s of processor time"
                + f"; {mean(losses):.2f} dB below the network, at most {max(losses):.2f} dB"
                * (method != NETWORK)
            )
    for name, published in PUBLISHED.items():
        print(f"published, {name}: {', '.join(f'{value:.2f}' for value in published)} dB")


if __name__ == "__main__":
    run_script(main)
