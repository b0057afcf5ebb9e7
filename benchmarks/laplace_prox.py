"""Learned proximal operators of the Laplace density: only proximal matching finds its log prior.

After Fang, Buchanan & Sulam, "What's in a prior? Learned proximal networks for inverse problems"
(ICLR 2024), section 4. Numbers x have the density ``exp(-|x|) / 2`` and noise of standard deviation
1: the prox of the log prior is soft thresholding at 1, and R is ``|x|``. A convex network learns
from noisy numbers, by l2, by l1, and then by proximal matching with gamma from 0.5 down to 0.1.

    python benchmarks/laplace_prox.py [--full] [--seed 1] [--threads 1] [--folder CHECKPOINTS]

Full: 64,000 steps of 2000 numbers, with the stages of the paper's code. The learning rates are the
paper's except for gamma 0.2 and 0.1, where rates ten times and three times as large end nearer
(with the paper's: 0.175 for the prox, 0.068 for R). Reduced: 11,800 steps of 500 numbers, with
larger rates for small gamma, because there are few steps. Every stage ends with the average of its
steps.

Printed: the largest error of f compared with soft thresholding on [-3.5, 3.5], f(0.9), the mean
error of R compared with ``|x|`` on [-2.5, 2.5] (R with least value 0), R(2), and the distance of f
from the posterior mean in closed form, which l2 should give.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from common import machine, run_script, verdict
from torch import Generator, Tensor

from invtoolbox.priors import ConvexDense, LearnedProximal
from invtoolbox.training import (
    L1,
    L2,
    Loss,
    Pairs,
    ProximalMatching,
    Stage,
    keep_freed_memory,
    train,
)

#: Steps and learning rates of l2 and l1, and of proximal matching for each gamma.
FULL_WARM = [(10_000, 1e-3), (10_000, 1e-4)]
FULL = {
    0.5: [(2000, 1e-3), (2000, 1e-4)],
    0.4: [(4000, 1e-4)],
    0.3: [(4000, 1e-4)],
    0.2: [(4000, 1e-4)],
    0.1: [(4000, 3e-5), (4000, 3e-6)],
}
REDUCED_L2, REDUCED_L1 = [(2000, 1e-3), (2000, 1e-4)], [(1500, 1e-3), (1500, 1e-4)]
REDUCED = {
    0.5: [(800, 1e-3)],
    0.3: [(1200, 1e-3)],
    0.2: [(1200, 5e-4)],
    0.15: [(800, 2e-4)],
    0.1: [(800, 3e-5)],
}


class LaplaceNumbers(Pairs):
    """Numbers of the Laplace density, and the numbers with Gaussian noise of standard deviation 1.

    Each draw is a lattice in the unit square with a random shift, mapped to both densities by their
    quantiles. Every pair has the right density, and a draw covers it more evenly than independent
    pairs, of which few count for small gamma.
    """

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        shift = torch.rand(2, 1, generator=generator, dtype=torch.float64)
        # The plastic number gives the most even additive sequence known in the plane (Roberts
        # 2018).
        steps = torch.tensor([[0.7548776662466927], [0.5698402909980532]], dtype=torch.float64)
        u, v = ((torch.arange(count, dtype=torch.float64) * steps + shift) % 1).clamp(
            1e-9, 1 - 1e-9
        )
        x = -(2 * u - 1).sign() * torch.log1p(-(2 * u - 1).abs())
        return (x + torch.special.ndtri(v)).float()[:, None], x.float()[:, None]

    def __repr__(self) -> str:
        return "LaplaceNumbers()"


@dataclass(frozen=True)
class Errors:
    """Errors of a network.

    They are the largest error of f, f(0.9), the mean error of R, R(2), and the largest distance to
    the posterior mean.
    """

    prox: float
    at_09: float
    prior: float
    at_2: float
    to_mean: float


def errors(network: ConvexDense) -> Errors:
    precise = LearnedProximal(network).to(torch.float64)
    y = torch.linspace(-3.5, 3.5, 281, dtype=torch.float64)[:, None]
    f = precise.prox(y)
    soft = y.sign() * (y.abs() - 1).clamp_min(0)
    x = torch.linspace(-2.5, 2.5, 101, dtype=torch.float64)[:, None]
    found = precise.inverse(x, tolerance=1e-6)
    R = found.energy - found.energy.min()
    at_2 = found.energy[(x[:, 0] - 2).abs().argmin()] - found.energy.min()
    at_09 = precise.prox(torch.full((1, 1), 0.9, dtype=torch.float64))
    if float(found.residual.max()) > 1e-3:
        print(f"  (the inversion misses a point by {float(found.residual.max()):.1e})")
    return Errors(
        float((f - soft).abs().max()),
        float(at_09),
        float((R - x[:, 0].abs()).abs().mean()),
        float(at_2),
        float((f - posterior_mean(y)).abs().max()),
    )


def posterior_mean(y: Tensor) -> Tensor:
    """Compute E[x | y] from the two halves of the density, each a truncated Gaussian."""
    right, left = (-y).exp() * torch.special.ndtr(y - 1), y.exp() * torch.special.ndtr(-y - 1)
    return ((y - 1) * right + (y + 1) * left) / (right + left)


def stages(loss: Loss, schedule: list[tuple[int, float]], full: bool) -> list[Stage]:
    return [Stage(loss, steps, rate, 2000 if full else 500) for steps, rate in schedule]


def main(full: bool = False, seed: int = 1, threads: int = 1, folder: Path | None = None) -> None:
    """Run the benchmark.

    Args:
        full: all steps, which take several minutes
        folder: folder of checkpoints, from which a later run continues
    """
    keep_freed_memory()
    torch.set_num_threads(threads)
    print(machine())
    l2, l1, matching = (FULL_WARM, FULL_WARM, FULL) if full else (REDUCED_L2, REDUCED_L1, REDUCED)
    plan: list[tuple[str, Loss, list[tuple[int, float]]]] = [("l2", L2(), l2), ("l1", L1(), l1)]
    plan += [
        (f"gamma {gamma:g}", ProximalMatching(gamma), schedule)
        for gamma, schedule in matching.items()
    ]
    first = network = ConvexDense(1, seed=seed)
    found: dict[str, Errors] = {}
    began, cpu = time.perf_counter(), time.process_time()
    print(
        f"{'':10} {'prox max':>9} {'f(0.9)':>7} {'R mean':>7} {'R(2)':>6} {'to mean':>8} "
        f"{'seconds':>8}"
    )
    for name, loss, schedule in plan:
        trained = train(
            first if name in ("l2", "l1") else network,
            LaplaceNumbers(),
            stages(loss, schedule, full),
            seed=seed,
            folder=folder and folder / name.replace(" ", "-"),
            progress=False,
        )
        assert isinstance(trained.network, ConvexDense)
        network, found[name] = trained.network, errors(trained.network)
        e = found[name]
        print(
            f"{name:10} {e.prox:9.3f} {e.at_09:7.3f} {e.prior:7.3f} {e.at_2:6.3f} {e.to_mean:8.3f} "
            f"{trained.seconds:8.1f}",
            flush=True,
        )
    seconds = time.perf_counter() - began
    last, absolute, square = found["gamma 0.1"], found["l1"], found["l2"]
    bars = (0.17, 0.055, 600) if full else (0.21, 0.075, 60)
    print(
        f"{seconds:.0f} s, of which {time.process_time() - cpu:.0f} s on the processor",
        verdict(seconds < bars[2], f"under {bars[2]} s idle"),
    )
    print(
        "prox: l2 > l1 > proximal matching",
        verdict(square.prox > absolute.prox > last.prox, "this order"),
    )
    print(
        "R: l2 > l1 > proximal matching",
        verdict(square.prior > absolute.prior > last.prior, "this order"),
    )
    print(f"largest error of the prox {last.prox:.3f}", verdict(last.prox <= bars[0], f"{bars[0]}"))
    print(f"mean error of R {last.prior:.3f}", verdict(last.prior <= bars[1], f"{bars[1]}"))
    print(
        f"l2 against the posterior mean {square.to_mean:.3f}",
        verdict(square.to_mean <= 0.02, "0.02"),
    )


if __name__ == "__main__":
    run_script(main)
