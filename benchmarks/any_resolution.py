"""Smooth noise for a diffusion prior of any resolution: trained at 64 and 128 pixels, used at 256.

    python benchmarks/any_resolution.py [--steps 400]

White noise averages out on a finer grid, so a denoiser without a grid of its own meets other
problems there. Noise that is smoothed by a Gaussian of a fixed length is a function that any grid
samples (Bond-Taylor and Willcocks, "infinity-Diff: infinite resolution diffusion with subsampled
mollified states", ICLR 2024); the pictures are smoothed alike. Two spectral networks learn the
training slices of `priors/diffusion-ct` at 64 and 128 pixels, with white and with smooth noise of
one pixel of the coarse grid. Printed for both is the loss on crops of the slices of four unseen
patients, at 64, 128 and 256 pixels, and the PSNR of the smoothed slices themselves: no sampler that
follows the smooth prior returns more detail than they have.

The option is not in the toolbox.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from common import data_folder, machine, run_script, verdict
from torch import Generator, Tensor, nn

import invtoolbox as it
from invtoolbox.training import Pairs, ScoreMatching, Stage, train

#: Sides of the slices in training, and the side that training does not see.
COARSE, FINE = (64, 128), 256
LEVELS, SIGMA_DATA = (0.05, 2.0), 0.3


def main(steps: int = 400, count: int = 512, threads: int = 1) -> None:
    """Print the losses of both networks at every resolution.

    Args:
        steps: training steps per network
        count: number of crops per loss
        threads: number of torch's threads
    """
    torch.set_num_threads(threads)
    print(f"{machine()}; {threads} thread; {steps} steps")
    hounsfield = np.load(data_folder() / "ct_slices" / "ct_hu_256.npz")["hu"]
    slices = torch.from_numpy(hounsfield).float().view(-1, 1, FINE, FINE)
    slices = ((slices + 1024) / 2048).clamp(0, 1)
    training, unseen = slices[:49], slices[51:]
    for name, width in (("white", 0.0), ("smooth", 1.0)):
        began = time.process_time()
        torch.manual_seed(0)
        stage = Stage(ScoreMatching(SIGMA_DATA), steps, 2e-3, 8, decay="linear")
        pairs = AnyGridPairs(training, COARSE, width)
        network = train(AnyGrid(), pairs, [stage], seed=1, progress=False).network
        seconds = time.process_time() - began
        losses = [
            loss_of(network, AnyGridPairs(unseen, (side,), width), count)
            for side in (*COARSE, FINE)
        ]
        ratio = losses[-1] / losses[-2]
        words = ", ".join(f"{loss:.4f} at {side}" for loss, side in zip(losses, (*COARSE, FINE)))
        print(
            f"{name} noise: loss {words} pixels; at {FINE} over {COARSE[-1]} {ratio:.3f} "
            f"{verdict(abs(ratio - 1) <= 0.05, 'equal within 5 %')}; {seconds:.0f} s of processor "
            "time",
            flush=True,
        )
    smoothed = smooth(unseen, FINE / COARSE[0])
    quality = it.metrics.psnr(smoothed, unseen, data_range=1.0)
    print(
        f"unseen slices of {FINE} pixels, smoothed as the smooth prior knows them: "
        f"{float(quality.mean()):.1f} dB in the mean, {float(quality.min()):.1f} at worst"
    )


def smooth(x: Tensor, width: float) -> Tensor:
    """Return images smoothed by a Gaussian, periodic; 0 pixels change nothing."""
    if not width:
        return x
    frequencies = (torch.fft.fftfreq(n) * 2 * torch.pi for n in x.shape[-2:])
    gains = [torch.exp(-0.5 * (width * k) ** 2) for k in frequencies]
    return torch.fft.ifft2(torch.fft.fft2(x) * gains[0][:, None] * gains[1]).real


class AnyGridPairs(Pairs):
    """Noisy crops of half a slice, at one of several resolutions per draw.

    Args:
        slices: slices of the finest resolution.
        sides: sides of the slices, pixels.
        width: length of the smoothing, in pixels of the coarsest grid.
    """

    def __init__(self, slices: Tensor, sides: Sequence[int], width: float) -> None:
        self.sides, self.width = sides, width
        self.slices = [
            smooth(F.avg_pool2d(slices, FINE // side), width * side / COARSE[0]) for side in sides
        ]

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        which = int(torch.randint(len(self.sides), (1,), generator=generator))
        slices, side = self.slices[which], self.sides[which]
        items = torch.randint(len(slices), (count,), generator=generator)
        corners = (torch.rand(count, 2, generator=generator) * (side // 2 + 1)).long().tolist()
        clean = torch.stack(
            [
                slices[k, :, i : i + side // 2, j : j + side // 2]
                for k, (i, j) in zip(items.tolist(), corners)
            ]
        )
        low, high = LEVELS
        level = (low * (high / low) ** torch.rand(count, generator=generator)).view(-1, 1, 1, 1)
        # Smooth noise of variance 1 in every pixel.
        noise = smooth(torch.randn(clean.shape, generator=generator), self.width * side / COARSE[0])
        noise = noise / noise.square().mean().sqrt()
        return torch.cat([clean + level * noise, level.expand_as(clean)], 1), clean


class Spectral(nn.Module):
    """Convolution by weights of the lowest frequencies, and one in every pixel."""

    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        self.weight = nn.Parameter(torch.randn(2, 2, width, width, modes, modes) / width)
        self.point = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        m, (low, high) = self.modes, torch.complex(self.weight[0], self.weight[1])
        f = torch.fft.rfft2(x, norm="forward")
        product = torch.zeros_like(f)
        product[:, :, :m, :m] = torch.einsum("bixy,ioxy->boxy", f[:, :, :m, :m], low)
        product[:, :, -m:, :m] = torch.einsum("bixy,ioxy->boxy", f[:, :, -m:, :m], high)
        return self.point(x) + torch.fft.irfft2(product, s=x.shape[-2:], norm="forward")


class AnyGrid(nn.Module):
    """Fourier neural operator in the preconditioning of EDM; the last channel is the level."""

    def __init__(self, width: int = 16, modes: int = 8, depth: int = 3) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(2, width, 1), nn.Conv2d(width, 1, 1)
        self.layers = nn.ModuleList(Spectral(width, modes) for _ in range(depth))

    def forward(self, shown: Tensor) -> Tensor:
        y, level = shown[:, :1], shown[:, 1:]
        total = (level**2 + SIGMA_DATA**2).sqrt()
        h = self.first(torch.cat([y / total, level.log() / 4], 1))
        for layer in self.layers:
            h = h + F.gelu(layer(h))
        return (SIGMA_DATA / total) ** 2 * y + level * SIGMA_DATA / total * self.last(h)


def loss_of(network: nn.Module, pairs: Pairs, count: int) -> float:
    """Return the mean loss on crops of the same places and levels at every resolution."""
    shown, clean = pairs.draw(count, Generator().manual_seed(5))
    loss = ScoreMatching(SIGMA_DATA)
    with torch.no_grad():
        losses = [
            loss.of_network(network, shown[k : k + 32], clean[k : k + 32], Generator())
            for k in range(0, count, 32)
        ]
    return float(torch.cat(losses).mean())


if __name__ == "__main__":
    run_script(main)
