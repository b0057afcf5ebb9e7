"""Galerkin transformer: cost, equality with the explicit product, and an inverse coefficient.

    python benchmarks/galerkin.py [--only cost|product|inverse] [--threads 1] [--steps 800]

cost      processor time of one evaluation, over the number of samples, 2,048 to 32,768.
product   attention of 500 positions against (Q K^T) V / n, computed in this order.
inverse   -(a u')' = 1 on the unit interval, u = 0 at both ends; the network computes the coefficient
          a from u at 128 points with 1 % noise. log a is a random sum of twelve cosines. 1,024 pairs
          for the training and 256 for the test; mean relative error, compared with dense networks
          of three hidden layers, trained for as many steps and for as much processor time, the
          better of two widths.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Literal

import torch
from common import alternating, machine, run_script, verdict
from torch import Tensor, nn

import invtoolbox as it
from invtoolbox.networks.galerkin import GalerkinAttention
from invtoolbox.training import L2, Examples, GalerkinTransformer, Stage, train

SAMPLES = 128


def cost() -> None:
    network = GalerkinTransformer().eval()
    lengths = [2**k for k in range(11, 16)]
    inputs = {n: torch.rand(1, 1, n) for n in lengths}
    with torch.no_grad():
        seconds = alternating(
            {str(n): (lambda x=x: network(x)) for n, x in inputs.items()}, 3, time.process_time
        )
    x = torch.tensor(lengths).double().log()
    y = torch.tensor([seconds[str(n)] for n in lengths]).double().log()
    x, y = x - x.mean(), y - y.mean()
    exponent = float((x * y).sum() / x.square().sum())
    row = ", ".join(f"{n}: {1e3 * seconds[str(n)]:.0f} ms" for n in lengths)
    print(f"cost {row}; exponent {exponent:.2f}", verdict(exponent <= 1.15, "1.15"), flush=True)


def product() -> None:
    torch.manual_seed(0)
    attention = GalerkinAttention(32, heads=4)
    x, places = torch.randn(2, 500, 32), torch.rand(1, 500, 1)
    with torch.no_grad():
        q, k, v = attention.project(x, places)
        explicit = attention.join((q @ k.mT) @ v / 500)
        error = float((attention(x, places) - explicit).norm() / explicit.norm())
    print(f"against the explicit product: {error:.1e}", verdict(error <= 1e-5, "1e-5"))


def simulate(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return noisy solutions and coefficients, ``(count, 1, SAMPLES)`` each."""
    draw = torch.Generator().manual_seed(seed)
    x = (torch.arange(SAMPLES, dtype=torch.float64) + 0.5) / SAMPLES
    k = torch.arange(1, 13, dtype=torch.float64)
    weights = torch.randn(count, 12, generator=draw, dtype=torch.float64) / (1 + (k / 3) ** 2)
    a = torch.exp(0.9 * weights @ torch.cos(math.pi * k[:, None] * x))
    # a u' = c - x, and c is such that the integral of u' is 0.
    constant = (x / a).mean(1, keepdim=True) / (1 / a).mean(1, keepdim=True)
    slope = (constant - x) / a
    u = (slope.cumsum(1) - slope / 2) / SAMPLES
    noise = torch.randn(u.shape, generator=draw, dtype=torch.float64)
    u = u + 0.01 * u.std(1, keepdim=True) * noise
    return u[:, None].float(), a[:, None].float()


class Dense(nn.Module):
    """Dense network from all samples to all samples."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(SAMPLES, width), nn.GELU()]
        for _ in range(2):
            layers += [nn.Linear(width, width), nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, SAMPLES))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(x)
        return result


@dataclass(frozen=True)
class Relative(L2):
    """Squared error relative to the square of the truth."""

    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor:
        return super().__call__(result, wanted) / wanted.flatten(1).square().mean(1)


def inverse(steps: int) -> None:
    u, a = simulate(1024, 0)
    u_test, a_test = simulate(256, 1)
    scale = u.std()
    pairs = Examples(u / scale, a)

    def fit(network: nn.Module, steps: int) -> tuple[float, float]:
        began = time.process_time()
        stage = Stage(Relative(), steps, 1e-3, 16, decay="linear", clip=1.0)
        trained = train(network, pairs, [stage], progress=False).network
        seconds = time.process_time() - began
        with torch.no_grad():
            apart = (trained(u_test / scale) - a_test).flatten(1).norm(dim=1)
        error = float((apart / a_test.flatten(1).norm(dim=1)).mean())
        weights = sum(p.numel() for p in network.parameters())
        print(
            f"  {type(network).__name__}, {weights} weights, {steps} steps, {seconds:.0f} s: "
            f"{error:.3f}",
            flush=True,
        )
        return error, seconds

    mean = a.mean(0, keepdim=True)
    apart = (a_test - mean).flatten(1).norm(dim=1) / a_test.flatten(1).norm(dim=1)
    print(f"inverse coefficient; the mean of the training: {float(apart.mean()):.3f}")
    own, seconds = fit(GalerkinTransformer(), steps)
    errors: dict[str, list[float]] = {"steps": [], "time": []}
    for width in (128, 256):
        torch.manual_seed(0)
        error, spent = fit(Dense(width), steps)
        errors["steps"].append(error)
        torch.manual_seed(0)
        errors["time"].append(fit(Dense(width), round(steps * seconds / spent))[0])
    for equal, found in errors.items():
        ratio = own / min(found)
        print(f"  {ratio:.2f} of the dense networks' error at equal {equal}", end=" ")
        print(verdict(ratio <= 0.5, "0.5"))


def main(
    only: Literal["cost", "product", "inverse"] | None = None, threads: int = 1, steps: int = 800
) -> None:
    torch.set_num_threads(threads)
    it.training.keep_freed_memory()
    print(machine(), flush=True)
    if only in (None, "cost"):
        cost()
    if only in (None, "product"):
        product()
    if only in (None, "inverse"):
        inverse(steps)


if __name__ == "__main__":
    run_script(main)
