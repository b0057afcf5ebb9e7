"""Weight of ridge regression with ten times more values than measurements, by bounds of the evidence.

    python benchmarks/evidence.py

100 measurements of 1,000 values; the features have the standard deviations 1/k, the noise is 0.1 or
0.3. The validated weight has the least error on 4,000 other measurements. The test likelihood is
that of 4,000 further measurements. Six draws of everything.
"""

from __future__ import annotations

import math

import torch
from common import machine, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.parameter_choice import GCV, EvidenceBound

M, N, OTHER = 100, 1000, 4000


def draw(noise: float, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Return features and measurements for training, validation and test."""
    generator = torch.Generator().manual_seed(seed)
    scale = 1 / torch.arange(1, N + 1, dtype=torch.float64)
    scale = scale / scale.norm()
    x = torch.randn(N, generator=generator, dtype=torch.float64)
    sets = []
    for count in (M, OTHER, OTHER):
        A = scale * torch.randn(count, N, generator=generator, dtype=torch.float64)
        y = A @ x + noise * torch.randn(count, generator=generator, dtype=torch.float64)
        sets.append((A, y))
    return sets


def main() -> None:
    torch.set_num_threads(1)
    print(machine())
    rules = {
        "emphasised": EvidenceBound(points=13, sections=10),
        "plain": EvidenceBound(emphasis=False, points=13, sections=10),
        "gcv": GCV(points=13, sections=10),
    }
    ratios: dict[str, list[float]] = {name: [] for name in rules}
    errors: dict[str, list[float]] = {name: [] for name in rules}
    losses: dict[str, list[float]] = {name: [] for name in rules}
    for noise in (0.1, 0.3):
        for seed in range(3):
            (A, y), validation, test = draw(noise, seed)
            problem = it.Problem(
                y[None, None], it.as_operator(A), it.data_terms.LeastSquares(noise)
            )
            U, s, Vh = torch.linalg.svd(A / noise, full_matrices=False)
            coefficients = s * (U.T @ (y / noise))

            def error(weight: float, other: tuple[Tensor, Tensor]) -> float:
                x = Vh.T @ (coefficients / (s.square() + weight))  # noqa: B023
                return float((other[0] @ x - other[1]).square().mean())

            grid = torch.logspace(-4, 4, 801, dtype=torch.float64).tolist()
            best = min(grid, key=lambda weight: error(weight, validation))
            for name, rule in rules.items():
                found = it.solve(
                    problem, it.priors.Tikhonov(), regularization=rule, progress=False
                ).regularization
                weight = float(found)
                share = error(weight, test) / error(best, test)
                # Mean of -log p(y) with the known noise, compared with the validated weight.
                lost = (error(weight, test) - error(best, test)) / (2 * noise**2)
                ratios[name].append(weight / best)
                errors[name].append(share)
                losses[name].append(lost)
            row = ", ".join(
                f"{name} {ratios[name][-1]:.2f} / {errors[name][-1]:.3f}" for name in rules
            )
            print(f"noise {noise}, draw {seed}: weight / test error over the validated ones: {row}")
    for name in rules:
        spread = math.exp(sum(math.log(r) for r in ratios[name]) / len(ratios[name]))
        print(
            f"{name}: geometric mean of the weight {spread:.2f}, mean test error "
            f"{sum(errors[name]) / len(errors[name]):.3f} (worst {max(errors[name]):.3f}), "
            f"-log likelihood {sum(losses[name]) / len(losses[name]):+.3f} per measurement"
        )
    mean = sum(errors["emphasised"]) / len(errors["emphasised"])
    apart = max(abs(r - 1) for r in ratios["emphasised"])
    print(f"emphasised bound: weights up to {apart:.0%} away ", end="")
    print(verdict(apart <= 0.05, "within 5 % of the validated one"))
    print(f"emphasised bound: test error {mean:.3f} ", end="")
    print(verdict(mean <= 1.05, "within 5 % of the validated one"))
    plain = sum(losses["plain"]) / len(losses["plain"])
    print(f"plain bound: test likelihood lower by {1 - math.exp(-plain):.0%} ", end="")
    print(verdict(math.exp(-plain) <= 0.9, "at least 10 % worse"))


if __name__ == "__main__":
    main()
