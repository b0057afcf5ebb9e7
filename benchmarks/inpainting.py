"""Gaps in pictures: every prior by name against its best weight, and against biharmonic interpolation.

    python benchmarks/inpainting.py

27 cases of 64 x 64 pixels with values in [0, 1]: 30, 50 and 80 % missing as pixels, lines or blocks
(3 to 16 pixels wide), noise of standard deviation 0, 0.01 and 0.05. The pictures are the
four kinds of `zoo.pictures`, drawn by a seed that the zoo does not use. Natural ones are crops of
the half of the pictures on which nothing was chosen. The best weight is the best of nine, 1e-4 to 1
times the range, by the error against the truth. Losses in dB.
"""

from __future__ import annotations

import numpy as np
import torch
from common import machine, run_script, verdict
from skimage.restoration import inpaint_biharmonic
from zoo.pictures import KINDS, Array, picture

import invtoolbox as it

SHAPE = (64, 64)
PRIORS = ("tv", "wavelet", "denoiser-natural")
WEIGHTS = np.logspace(-4, 0, 9)


def main(threads: int = 1, seed: int = 2026) -> None:
    """Print one row per case, and one verdict per prior.

    Args:
        threads: number of torch's threads
        seed: seed of pictures, gaps and noise
    """
    torch.set_num_threads(threads)
    print(
        f"{machine()}; seed {seed}; PSNR in dB: biharmonic; per prior chosen weight (best weight)"
    )
    losses: dict[str, list[float]] = {prior: [] for prior in PRIORS}
    gains: dict[str, list[float]] = {prior: [] for prior in PRIORS}
    for kind in ("pixels", "lines", "blocks"):
        for share in (0.3, 0.5, 0.8):
            for level in (0.0, 0.01, 0.05):
                draw = np.random.default_rng([seed, len(losses["tv"])])
                name = KINDS[len(losses["tv"]) % len(KINDS)]
                truth = picture(draw, name, SHAPE, half=1)[0]
                mask = gaps(draw, kind, share)
                noisy = mask * (truth + level * draw.standard_normal(SHAPE))
                simple = psnr(inpaint_biharmonic(noisy, mask == 0), truth)
                row = f"{kind:6s} {share:.0%}, noise {level:4.2f}, {name:8s}: {simple:5.1f}; "
                for prior in PRIORS:
                    automatic = reconstruct(noisy, mask, prior, "auto")
                    chosen = psnr(automatic, truth)
                    best = max(
                        psnr(reconstruct(noisy, mask, prior, float(w)), truth) for w in WEIGHTS
                    )
                    losses[prior].append(best - chosen)
                    gains[prior].append(chosen - simple)
                    row += f" {prior} {chosen:5.1f} ({best:5.1f})"
                print(row, flush=True)
    for prior in PRIORS:
        worst, mean = max(losses[prior]), float(np.mean(losses[prior]))
        print(
            f"{prior}: below its best weight by {mean:.2f} in the mean, {worst:.2f} at worst "
            + verdict(worst <= 1, "1 dB in every case")
        )
        worst, mean = min(gains[prior]), float(np.mean(gains[prior]))
        print(
            f"{prior}: above biharmonic interpolation by {mean:.2f} in the mean, {worst:.2f} at worst "
            + verdict(mean >= -0.3 and worst >= -1, "-0.3 dB in the mean, -1 dB in every case")
        )


def gaps(draw: np.random.Generator, kind: str, share: float) -> Array:
    """Return a mask whose zeros are a share of the pixels, or some more."""
    if kind == "pixels":
        return (draw.uniform(size=SHAPE) >= share).astype(float)
    mask = np.ones(SHAPE)
    while (mask == 0).mean() < share:
        if kind == "lines":
            mask[draw.integers(SHAPE[0])] = 0
        else:
            side = int(draw.integers(3, 17))
            row, column = draw.integers(0, SHAPE[0] - side, 2)
            mask[row : row + side, column : column + side] = 0
    return mask


def reconstruct(noisy: Array, mask: Array, prior: str, regularization: str | float) -> Array:
    """Return the picture by a prior, with its weight chosen or given."""
    A = it.operators.Inpainting(torch.from_numpy(mask).float(), SHAPE)
    solution = it.reconstruct(
        noisy.astype(np.float32), A, prior, regularization=regularization, progress=False
    )
    return solution.x[0, 0].double().numpy()


def psnr(x: Array, truth: Array) -> float:
    """Compute the PSNR of all pixels, at most 60 dB."""
    return float(-10 * np.log10(max(np.mean((x - truth) ** 2), 1e-6)))


if __name__ == "__main__":
    run_script(main)
