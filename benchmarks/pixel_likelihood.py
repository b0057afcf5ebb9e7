"""Likelihood of digits by a mixture of logistics per pixel, and by a table of 256 probabilities.

    python benchmarks/pixel_likelihood.py [--steps 500]

9,000 digits of MNIST, averaged to 14x14 pixels of 256 levels, train two autoregressive networks of
the same number of weights: `PixelNetwork`, and a reference, PixelCNN (van den Oord, Kalchbrenner
and Kavukcuoglu, ICML 2016), whose masked convolutions give 256 logits per pixel. Both have the same
draws, steps and rates. Bits per pixel are those of 1,000 other digits, which then get noise of
rising level: the negative logarithm of their density must rise.
"""

from __future__ import annotations

import gzip
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import data_folder, machine, run_script, verdict
from torch import Generator, Tensor, nn

from invtoolbox.priors import PixelDensity, PixelNetwork
from invtoolbox.training import BitsPerPixel, Loss, Pairs, Stage, train


def digits() -> Tensor:
    with gzip.open(data_folder() / "mnist_t10k" / "t10k-images-idx3-ubyte.gz") as file:
        raw = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    return F.avg_pool2d(torch.from_numpy(raw.astype(np.float32)), 2).round() / 255


class Pictures(Pairs):
    """Whole pictures, as input and as output."""

    def __init__(self, pictures: Tensor) -> None:
        self.pictures = pictures

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        x = self.pictures[torch.randint(len(self.pictures), (count,), generator=generator)]
        return x, x


class Masked(nn.Conv2d):
    """Convolution that does not see the pixels that follow, nor the middle if it is the first."""

    def __init__(self, before: int, after: int, size: int, first: bool = False) -> None:
        super().__init__(before, after, size, padding=size // 2)
        mask, middle = torch.ones(size, size), size // 2
        mask[middle, middle + (not first) :] = 0
        mask[middle + 1 :] = 0
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


class PixelCNN(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.first = Masked(1, 2 * width, 7, first=True)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(2 * width, width, 1),
                nn.ReLU(),
                Masked(width, width, 3),
                nn.ReLU(),
                nn.Conv2d(width, 2 * width, 1),
            )
            for _ in range(depth)
        )
        self.last = nn.Sequential(nn.ReLU(), nn.Conv2d(2 * width, 256, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(2 * x - 1)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


class TableBits(Loss):
    """Bits per pixel of a table of probabilities."""

    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor:
        levels = (255 * wanted[:, 0]).round().long()
        return F.cross_entropy(result, levels, reduction="none").flatten(1).mean(1) / math.log(2)


def weights(network: nn.Module) -> int:
    """Return the number of weights that are used, masked ones not counted."""
    hidden = sum(
        int((1 - part.mask).sum()) * part.weight[:, :, 0, 0].numel()
        for part in network.modules()
        if isinstance(part, Masked)
    )
    return sum(p.numel() for p in network.parameters()) - hidden


def fit(network: nn.Module, pairs: Pairs, loss: Any, steps: int, rate: float) -> nn.Module:
    stage = Stage(loss, steps, rate, 32, decay="linear")
    return train(network, pairs, [stage], seed=0, progress=False).network


def main(steps: int = 500) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(machine())
    every = digits()
    pairs, unseen = Pictures(every[:9000]), every[9000:]
    ours = PixelNetwork(width=20, depth=4)
    width = next(w for w in range(8, 200) if weights(PixelCNN(w, 4)) >= weights(ours))
    theirs = PixelCNN(width, 4)
    print(f"{weights(ours)} weights, reference {weights(theirs)}; {steps} steps of 32 digits")
    density = PixelDensity(fit(ours, pairs, BitsPerPixel(), steps, 3e-3))
    table = fit(theirs, pairs, TableBits(), steps, 3e-3)
    with torch.no_grad():
        bits = float(density.bits(unseen).mean())
        reference = float(TableBits()(table(unseen), unseen).mean())
        print(f"bits per pixel of unseen digits: {bits:.3f}, reference {reference:.3f}, ", end="")
        print(f"ratio {bits / reference:.3f} {verdict(bits <= 1.05 * reference, 'at most 1.05')}")
        noise = torch.randn(unseen.shape, generator=torch.Generator().manual_seed(1))
        levels = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
        found = torch.stack([density.energy(unseen[:200] + s * noise[:200]) for s in levels], 1)
    print("R at noise " + ", ".join(f"{s:g}: {r:.0f}" for s, r in zip(levels, found.mean(0))))
    rising = bool((found.mean(0).diff() > 0).all())
    share = float((found.diff(dim=1) > 0).all(1).float().mean())
    print(f"R rises at every step, for {share:.0%} of the digits {verdict(rising, 'in the mean')}")


if __name__ == "__main__":
    run_script(main)
