"""Walk-back training of a denoiser whose chain samples from a distribution: no gain.

    python benchmarks/walkback.py

Points on a spiral in the plane, noise 0.1; a dense denoiser with two hidden layers of 64, trained by
the plain loss and by walk-back with five steps, for the same number of calls of the network (2,500
steps of 128 points, and 500). Chains ``x <- f(x) + noise`` of 200 steps start at uniform points of a
square that is three times as wide as the spiral. Printed: share of the answers at the end that are
within 0.15 of the spiral, their mean distance from it, and the share of 20 pieces of the spiral on
which at least a quarter of the expected number of chains lies.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from common import machine, verdict
from torch import Generator, Tensor, nn

from invtoolbox.training import L2, Loss, Pairs, Stage, keep_freed_memory, train

NOISE = 0.1


def spiral(share: Tensor) -> Tensor:
    """Return points ``(n, 2)`` of a spiral from the centre to radius 1; 0 to 1 is its length."""
    angle = 4 * math.pi * share.sqrt()
    return torch.stack([angle.cos(), angle.sin()], 1) * share.sqrt()[:, None]


class Points(Pairs):
    """Points of the spiral with noise, and without."""

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        x = spiral(torch.rand(count, generator=generator))
        return x + NOISE * torch.randn(x.shape, generator=generator), x


def learn(loss: Any, steps: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2)]
    stage = Stage(loss, steps, 3e-3, 128, decay="linear")
    return train(nn.Sequential(*layers), Points(), [stage], seed=seed, progress=False).network


@dataclass(frozen=True)
class WalkBack(Loss):
    """L2 of the answers along the chain ``y <- f(y) + noise``, without derivatives through it.

    Algorithm 1 of Bengio, Yao, Alain and Vincent, "Generalized denoising auto-encoders as
    generative models", NeurIPS 2013.
    """

    noise_std: float
    steps: int = 5

    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor:
        return (result - wanted).flatten(1).square().mean(1)

    def of_network(
        self, network: nn.Module, shown: Tensor, wanted: Tensor, generator: Generator
    ) -> Tensor:
        total = torch.zeros(len(wanted))
        for _ in range(self.steps):
            answer = network(shown)
            total = total + self(answer, wanted) / self.steps
            noise = torch.randn(answer.shape, generator=generator)
            shown = answer.detach() + self.noise_std * noise
        return total


def judge(network: nn.Module, seed: int) -> tuple[float, float, float]:
    draw = Generator().manual_seed(100 + seed)
    x = 6 * torch.rand(2000, 2, generator=draw) - 3
    with torch.no_grad():
        for _ in range(200):
            x = network(x + NOISE * torch.randn(x.shape, generator=draw))
    curve = spiral(torch.linspace(0, 1, 2001))
    distance, nearest = torch.cdist(x, curve).min(1)
    pieces = (nearest[distance < 0.15] // 100.05).long()
    counts = torch.bincount(pieces, minlength=20)
    return (
        float((distance < 0.15).float().mean()),
        float(distance.mean()),
        float((counts >= 0.25 * len(x) / 20).float().mean()),
    )


def main() -> None:
    keep_freed_memory()
    print(machine())
    means = {}
    for name, loss, steps in (("plain", L2(), 2500), ("walk-back", WalkBack(NOISE, 5), 500)):
        began = time.process_time()
        rows = torch.tensor([judge(learn(loss, steps, seed), seed) for seed in range(3)])
        means[name] = rows.mean(0).tolist()
        near, away, covered = means[name]
        print(
            f"  {name:10} {near:.1%} near the spiral, distance {away:.3f}, {covered:.0%} of it "
            f"covered, {time.process_time() - began:.0f} s",
            flush=True,
        )
    print(
        "  "
        + verdict(
            means["walk-back"][0] > means["plain"][0], "more of the chains end near the spiral"
        )
    )


if __name__ == "__main__":
    main()
