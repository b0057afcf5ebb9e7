"""The nuclear norm of a Jacobian on a problem with a known answer: the indicator of a disc.

    python benchmarks/jacobian_ball.py [--weight 0.25] [--steps 300] [--last 1000] [--seed 0]

The least of ``1/2 |f - 1_B|^2 + weight * integral of |grad f|`` for the unit disc B of the plane is
``1 - 2 weight`` in the disc and 0 outside (Rudin, Osher and Fatemi). The integrand of the penalty
is the nuclear norm of the Jacobian of f. A network ``f = g(h(x))`` is trained with
`training.JacobianNuclearNorm`, as by Scarvelis and Solomon (NeurIPS 2024): Fourier features of the
position, an MLP to a code of 8 numbers, an MLP to one number. On the square of side 7 the constant
outside is ``2 pi weight / (49 - pi)``, 0.034 at a weight of 0.25.

The weight rises in steps to its value, and the learning rate falls in three stages at the end.
Positions are drawn one per cell of a grid. Neither depends on the answer.
"""

from __future__ import annotations

import itertools
import math
import time

import torch
from common import machine, run_script, verdict
from torch import Generator, Tensor, nn

from invtoolbox.training import L2, JacobianNuclearNorm, Pairs, Stage, train

#: Half of the side of the square.
HALF = 3.5


class Disc(Pairs):
    """Positions in the square, one per cell of a grid, and the indicator of the unit disc."""

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        side = math.isqrt(count)
        cell = torch.cartesian_prod(torch.arange(side), torch.arange(side))
        places = HALF * (2 * (cell + torch.rand(side**2, 2, generator=generator)) / side - 1)
        return places, indicator(places)[:, None].float()


class FourierFeatures(nn.Module):
    """Sines and cosines of the position with fixed random frequencies."""

    frequencies: Tensor

    def __init__(self, count: int, scale: float, generator: Generator) -> None:
        super().__init__()
        drawn = 2 * math.pi * scale * torch.randn(2, count, generator=generator)
        self.register_buffer("frequencies", drawn)

    def forward(self, places: Tensor) -> Tensor:
        phase = places @ self.frequencies
        return torch.cat([phase.sin(), phase.cos()], 1)


def indicator(places: Tensor) -> Tensor:
    return places.norm(dim=1) < 1


def mlp(*widths: int) -> list[nn.Module]:
    """Return the layers of an MLP, with an ELU between two of them."""
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.ELU()]
    return layers[:-1]


def build(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    features = FourierFeatures(64, 1.0, Generator().manual_seed(seed))
    return nn.Sequential(
        nn.Sequential(features, *mlp(128, 64, 64, 8)), nn.Sequential(*mlp(8, 64, 64, 1))
    )


def schedule(weight: float, steps: int, last: int) -> list[Stage]:
    """Return the stages: the weight in fifths, then three learning rates."""

    def loss(share: float) -> JacobianNuclearNorm:
        # L2 is the mean of squares, twice the data term, and the penalty is divided by the two
        # values of a position.
        return JacobianNuclearNorm(L2(), 4 * share * weight)

    return [Stage(loss(k / 5), steps, 2e-3, 1000) for k in range(1, 5)] + [
        Stage(loss(1.0), last, rate, 1000) for rate in (2e-3, 6e-4, 2e-4)
    ]


def main(weight: float = 0.25, steps: int = 300, last: int = 1000, seed: int = 0) -> None:
    """Run the benchmark.

    Args:
        steps: steps per weight of the warm-up
        last: steps per rate at the last weight
    """
    torch.set_num_threads(1)
    print(machine())
    began = time.process_time()
    stages = schedule(weight, steps, last)
    network = train(build(seed), Disc(), stages, seed=seed, progress=False).network
    seconds = time.process_time() - began
    side = torch.linspace(-HALF, HALF, 281)
    places = torch.cartesian_prod(side, side).requires_grad_()
    found = network(places)[:, 0]
    slope = torch.autograd.grad(found.sum(), places)[0].norm(dim=1)
    disc, area = indicator(places.detach()), 4 * HALF**2
    found = found.detach()

    def energy(f: Tensor, variation: float) -> float:
        return float((f - disc.float()).square().mean()) * area / 2 + weight * variation

    inside, outside = float(found[disc].mean()), float(found[~disc].mean())
    level, ground = 1 - 2 * weight, 2 * math.pi * weight / (area - math.pi)
    best = energy(torch.where(disc, level, ground), 2 * math.pi * (level - ground))
    print(
        f"unit disc, weight {weight:g}, seed {seed}, "
        f"{sum(stage.steps for stage in stages)} steps, {seconds:.0f} s of processor time\n"
        f"mean inside {inside:.3f}, exact {level:.3f} "
        f"{verdict(abs(inside - level) <= 0.05, 'within 0.05')}\n"
        f"mean outside {outside:.3f}, exact {ground:.3f} {verdict(outside < 0.05, 'below 0.05')}\n"
        f"objective {energy(found, float(slope.mean()) * area):.3f}, exact {best:.3f}"
    )


if __name__ == "__main__":
    run_script(main)
