"""Options for training a diffusion prior, each against plain score matching with the same draws.

    python benchmarks/score_training.py [--only perturbation,dispersive,physics]

perturbation  Ning et al., "Input perturbation reduces exposure bias in diffusion models" (ICML
              2023): the input has noise in addition, 0.1 of the level. Data on a circle in a plane
              of 16 dimensions, so that all that leaves the plane is noise: its root mean square
              along 40 steps of sampling, relative to the noise level of the step. Next to it the
              variant whose wanted output stays clean.
dispersive    Wang and He, "Diffuse and disperse" (2025): middle features of different items repel
              each other. The same points in 16 dimensions; loss on 20,000 unseen draws, and root
              mean square distance of 2,000 draws of the flow from the circle.
physics       Bastek, Sun and Kochmann, "Physics-informed diffusion models" (ICLR 2025): the residual
              of an equation of the denoised point, here ``|x|^2 = 1``, joins the loss of levels
              below 0.05. Data on the circle in the plane; mean ``| |x| - 1 |`` of 2,000 draws, and
              the entropy of their angles in 36 bins, 1 if all are equally full.

None of them is in the toolbox: their gains are below the bars, or absent.
`score_regularizers.py` has two more options.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import pairwise

import torch
from common import machine, run_script, verdict
from torch import Generator, Tensor, nn

from invtoolbox.training import Loss, Pairs, ScoreMatching, Stage, train


def main(only: str = "perturbation,dispersive,physics") -> None:
    rows = {
        "perturbation": perturbation,
        "dispersive": dispersive,
        "physics": physics,
    }
    chosen = only.split(",")
    torch.set_num_threads(1)
    print(f"# {machine()}")
    for name in chosen:
        began = time.process_time()
        torch.manual_seed(0)
        rows[name]()
        print(f"    {name}: {time.process_time() - began:.0f} s of processor time", flush=True)


class Circle(Pairs):
    """Points on the unit circle in a plane, as pixels of images, with noise of every level.

    Args:
        size: number of dimensions.
        levels: range of the noise levels.
        added: noise in addition, relative to the level.
        keep: whether the wanted output keeps this addition, as Ning et al. have it.
    """

    def __init__(
        self, size: int, levels: tuple[float, float], added: float = 0.0, keep: bool = False
    ) -> None:
        self.size, self.levels, self.added, self.keep = size, levels, added, keep

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        angle = 2 * math.pi * torch.rand(count, generator=generator)
        x = torch.zeros(count, self.size, 1, 1)
        x[:, 0, 0, 0], x[:, 1, 0, 0] = angle.cos(), angle.sin()
        low, high = self.levels
        share = torch.rand(count, 2, generator=generator).mean(1).view(-1, 1, 1, 1)
        level = low * (high / low) ** share
        noise = level * torch.randn(x.shape, generator=generator)
        more = self.added * level * torch.randn(x.shape, generator=generator)
        return torch.cat([x + noise + more, level], 1), x + more if self.keep else x


class Points(nn.Module):
    """Denoiser of points: three hidden layers, with the preconditioning of EDM or bare."""

    def __init__(self, size: int, bare: bool) -> None:
        super().__init__()
        self.s, self.bare = size**-0.5, bare
        layers = [[nn.Linear(a, b), nn.SiLU()] for a, b in pairwise((size + 1, 64, 64, 64))]
        self.inner = nn.Sequential(*(m for layer in layers for m in layer), nn.Linear(64, size))

    def input(self, shown: Tensor) -> Tensor:
        y, level = shown[:, :-1, 0, 0], shown[:, -1:, 0, 0]
        return torch.cat([y / (level**2 + self.s**2).sqrt(), level.log() / 4], 1)

    def forward(self, shown: Tensor) -> Tensor:
        y, level = shown[:, :-1, 0, 0], shown[:, -1:, 0, 0]
        total = (level**2 + self.s**2).sqrt()
        out = self.inner(self.input(shown))
        if not self.bare:
            out = (self.s / total) ** 2 * y + level * self.s / total * out
        return out[..., None, None]


def sampling(
    network: nn.Module, size: int, levels: tuple[float, float], fresh: float, count: int = 2000
) -> list[tuple[float, Tensor]]:
    """Return the levels and points of 40 steps, the clean ones last (see `solvers.PiGDM`)."""
    generator = Generator().manual_seed(0)
    low, high = levels[0] ** (1 / 7), levels[1] ** (1 / 7)
    schedule = [(high + k / 39 * (low - high)) ** 7 for k in range(40)] + [0.0]
    x, found = levels[1] * torch.randn(count, size, 1, 1, generator=generator), []
    with torch.no_grad():
        for level, following in pairwise(schedule):
            clean = network(torch.cat([x, torch.full((count, 1, 1, 1), level)], 1))
            drawn = fresh * following * (1 - (following / level) ** 2) ** 0.5
            kept = (following**2 - drawn**2) ** 0.5
            x = clean + kept / level * (x - clean)
            x = x + drawn * torch.randn(x.shape, generator=generator)
            found.append((following, x[..., 0, 0]))
    return found


def perturbation() -> None:
    levels, biases = (0.01, 5.0), {}
    for added, keep in ((0.0, False), (0.1, True), (0.1, False)):
        torch.manual_seed(0)
        stage = Stage(ScoreMatching(0.25), 2000, 3e-3, 128, decay="linear")
        source = Circle(16, levels, added, keep)
        network = train(Points(16, bare=False), source, [stage], seed=1, progress=False).network
        for name, fresh in (("ancestral", 1.0), ("flow", 0.0)):
            path = sampling(network, 16, levels, fresh)[:-1]
            away = [float(x[:, 2:].square().mean().sqrt()) / level - 1 for level, x in path]
            biases[added, keep, name] = (sum(v**2 for v in away) / len(away)) ** 0.5
    for name in ("ancestral", "flow"):
        plain, paper = biases[0.0, False, name], biases[0.1, True, name]
        clean = biases[0.1, False, name]
        print(
            f"input perturbation 0.1, {name}: noise of the images is off by {plain:.3f} without, "
            f"{paper:.3f} with it ({paper / plain - 1:+.0%}), {clean:.3f} with clean wanted "
            f"outputs ({clean / plain - 1:+.0%}) "
            + verdict(min(paper, clean) <= 0.7 * plain, "30 % lower"),
            flush=True,
        )


@dataclass(frozen=True)
class Dispersed(Loss):
    """Score matching and ``weight log mean exp(-|z_i - z_j|^2 / n)``, z the middle features."""

    loss: Loss
    weight: float

    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor:
        return self.loss(result, wanted)

    def of_network(
        self, network: nn.Module, shown: Tensor, wanted: Tensor, generator: Generator
    ) -> Tensor:
        z = network.inner[:4](network.input(shown))
        away = (z[:, None] - z[None]).square().mean(2)
        judged = self.loss.of_network(network, shown, wanted, generator)
        return judged + self.weight * away.neg().exp().mean().log()


def dispersive() -> None:
    levels, plain = (0.01, 5.0), ScoreMatching(0.25)
    source = Circle(16, levels)
    shown, wanted = source.draw(20_000, Generator().manual_seed(9))
    found = {}
    for weight in (0.0, 0.05, 0.5):
        torch.manual_seed(0)
        loss = Dispersed(plain, weight) if weight else plain
        stage = Stage(loss, 2000, 3e-3, 128, decay="linear")
        network = train(Points(16, bare=False), source, [stage], seed=1, progress=False).network
        with torch.no_grad():
            unseen = float(plain.of_network(network, shown, wanted, Generator()).mean())
        path = sampling(network, 16, levels, 0.0)
        x = path[-1][1]
        away = float(((x[:, :2].norm(dim=1) - 1).square() + x[:, 2:].square().sum(1)).mean().sqrt())
        found[weight] = (unseen, away)
    without = found.pop(0.0)
    print(
        f"dispersive loss: loss on unseen draws {without[0]:.4f} without, "
        + ", ".join(f"{v[0]:.4f} with weight {w:g}" for w, v in found.items())
        + f"; draws are off by {without[1]:.4f} without, "
        + ", ".join(f"{v[1]:.4f}" for v in found.values())
        + " with it "
        + verdict(min(v[1] for v in found.values()) <= 0.9 * without[1], "10 % nearer"),
        flush=True,
    )


@dataclass(frozen=True)
class OnTheCircle(Loss):
    """Score matching and the squared residual ``(|x|^2 - 1)^2`` over the variance of the noise."""

    loss: Loss
    weight: float
    below: float

    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor:
        return self.loss(result, wanted)

    def of_network(
        self, network: nn.Module, shown: Tensor, wanted: Tensor, generator: Generator
    ) -> Tensor:
        clean, level = network(shown), shown[:, -1, 0, 0]
        judged = self.loss.of_network(lambda _: clean, shown, wanted, generator)  # type: ignore[arg-type]
        residual = clean.flatten(1).square().sum(1) - 1
        return judged + self.weight * (residual / level).square() * (level < self.below)


def physics() -> None:
    levels, plain = (0.01, 10.0), ScoreMatching(2**-0.5)
    for steps in (2500, 10_000):
        found = []
        for loss in (plain, OnTheCircle(plain, 10.0, 0.05)):
            torch.manual_seed(0)
            stages = [Stage(plain, 1500, 2e-3, 128), Stage(loss, steps, 2e-3, 128, decay="linear")]
            network = train(
                Points(2, bare=True), Circle(2, levels), stages, seed=1, progress=False
            ).network
            x = sampling(network, 2, levels, 0.0)[-1][1]
            share = torch.histc(torch.atan2(x[:, 1], x[:, 0]), 36, -math.pi, math.pi) / len(x)
            entropy = float(-(share * share.clamp_min(1e-9).log()).sum()) / math.log(36)
            found.append((float((x.norm(dim=1) - 1).abs().mean()), entropy))
        (without, spread), (residual, also) = found
        print(
            f"physics, {1500 + steps} steps: residual {without:.4f} without, {residual:.4f} with it, "
            f"{without / residual:.1f} times lower; entropy of the angles {spread:.3f} and "
            f"{also:.3f} {verdict(without >= 10 * residual, '10 times')}",
            flush=True,
        )


if __name__ == "__main__":
    run_script(main)
