"""Denoising of BSD68 and of color photographs at 15, 25 and 50 of 255, by name and by one network call.

    python benchmarks/bsd68.py [--every 14] [--only tv,lpn-natural]

White noise of one seed per picture, without clipping, whole pictures, PSNR with peak 1. "the network"
is one call of ``denoiser-natural`` with the true level, on all 68 pictures; KAIR's DnCNN, which was
trained for 25 alone, has its row at 25. The rows "in color" are eight photographs that no network here was
trained on: every tenth frame of a hand-held capture, and three views of a street, four times
smaller. KAIR's network treats their channels one by one. The rows by name are
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
import torch.nn.functional as F
from common import Kept, data_folder, machine, run_script
from PIL import Image
from torch import Tensor

import invtoolbox as it

LEVELS = (15, 25, 50)
NETWORK, NAMES = "the network", ("tv", "lpn-natural", "denoiser-natural")
KAIR = "KAIR's DnCNN"
COLOR, KAIR_COLOR = "the network in color", "KAIR's DnCNN in color"
COLOR_PICTURES = 8
PUBLISHED = {"BM3D": (31.07, 28.57, 25.62), "DnCNN, one per level": (31.73, 29.23, 26.23)}
RESULTS = Path(__file__).parent / "results"


@cache
def denoiser() -> it.priors.Denoiser:
    return it.priors.load("denoiser-natural")


@cache
def kair() -> torch.nn.Module:
    return it.priors.load_dncnn(data_folder() / "weights" / "kair_dncnn" / "dncnn_25.pth")


def grey_picture(number: int) -> Tensor:
    """Return a picture of BSD68, from 1 on, ``(1, 1, rows, columns)``."""
    with Image.open(data_folder() / "bsd68_gray" / f"test{number:03}.png") as picture:
        return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None, None]


def color_picture(number: int) -> Tensor:
    """Return a photograph, from 1 on, ``(1, 3, rows, columns)``."""
    folder = data_folder()
    frames = sorted((folder / "ngp_fox_270x480" / "images").iterdir())[::10]
    street = sorted((folder / "opensfm_berlin" / "images").iterdir())
    path = [*frames, *street][number - 1]
    with Image.open(path) as picture:
        values = torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255)
    truth = values.permute(2, 0, 1)[None]
    return F.avg_pool2d(truth, 4) if path in street else truth


def measure(number: int, level: int, method: str) -> tuple[float, float]:
    """Return the PSNR of a picture and the processor seconds."""
    truth = (color_picture if method in (COLOR, KAIR_COLOR) else grey_picture)(number)
    noise_std = level / 255
    A = it.operators.Identity(tuple(truth.shape[1:]))
    y = A.simulate(truth, noise_std, seed=number)
    began = time.process_time()
    x: Tensor
    if method in (NETWORK, COLOR):
        x = denoiser().denoise(y, torch.tensor([noise_std]))
    elif method in (KAIR, KAIR_COLOR):
        with torch.no_grad():
            x = kair()(y.transpose(0, 1)).transpose(0, 1)
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
    rows: dict[str, tuple[range, tuple[int, ...]]] = {
        NETWORK: (range(1, 69), LEVELS),
        KAIR: (range(1, 69), (25,)),
        COLOR: (range(1, COLOR_PICTURES + 1), LEVELS),
        KAIR_COLOR: (range(1, COLOR_PICTURES + 1), (25,)),
        **{name: (range(1, 69, every), LEVELS) for name in NAMES},
    }
    print(f"python benchmarks/bsd68.py --every {every}; {machine()}")
    for method, (numbers, levels) in rows.items():
        base = COLOR if method == KAIR_COLOR else NETWORK
        for level in levels if not only or method in only.split(",") else ():
            values = [
                kept.result(f"{method}, {level}, {k}", partial(measure, k, level, method))
                for k in numbers
            ]
            psnr, seconds = zip(*values)
            losses = [kept.known[f"{base}, {level}, {k}"][0] - p for k, p in zip(numbers, psnr)]
            print(
                f"{method}, noise {level}: {mean(psnr):.2f} dB on {len(numbers)} pictures, worst "
                f"{min(psnr):.2f} dB; {mean(seconds):.1f} s of processor time"
                + f"; {mean(losses):.2f} dB below the network, at most {max(losses):.2f} dB"
                * (method not in (NETWORK, COLOR))
            )
    for name, published in PUBLISHED.items():
        print(f"published, {name}: {', '.join(f'{value:.2f}' for value in published)} dB")


if __name__ == "__main__":
    run_script(main)
