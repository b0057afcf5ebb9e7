"""One network for every weight of ridge regression, compared with the exact answers.

    python benchmarks/every_weight.py

60 random measurements of 20 values, a linear network: relative error of its answers to unseen
measurements, the largest over 21 weights. A polynomial of degree 1 (self-tuning networks) for
weights within a factor of 1.5 of one weight, and of degree 5 for a hundredfold range. Degrees and
learning rate were chosen on another seed.
"""

from __future__ import annotations

import time

import torch
from common import machine, verdict
from torch import nn

import invtoolbox as it
from invtoolbox.training import (
    EveryWeight,
    Measurements,
    Pairs,
    Stage,
    keep_freed_memory,
    train,
)
from invtoolbox.unrolling import Conditioned


def fit(network: nn.Module, pairs: Pairs, loss: EveryWeight, steps: int, rate: float) -> nn.Module:
    stage = Stage(loss, steps, rate, 8, decay="linear")
    return train(network, pairs, [stage], progress=False).network


def ridge() -> None:
    draw = torch.Generator().manual_seed(1)
    A = torch.randn(60, 20, generator=draw) / 60**0.5
    y = torch.randn(2000, 1, 60, generator=draw)
    unseen = torch.randn(100, 1, 60, generator=draw)
    loss = EveryWeight(it.as_operator(A), it.priors.Tikhonov())
    for name, degree, (low, high) in (
        ("near one weight", 1, (0.3 / 1.5, 0.3 * 1.5)),
        ("range of 100", 5, (0.03, 3.0)),
    ):
        torch.manual_seed(0)
        network = Conditioned(nn.Linear(60, 20, bias=False), (low, high), degree)
        began = time.process_time()
        trained = fit(network, Measurements(y), loss, 2000, 3e-3)
        seconds = time.process_time() - began
        errors = []
        for share in torch.linspace(0, 1, 21):
            weight = low * (high / low) ** float(share)
            exact = unseen @ A @ torch.linalg.inv(A.T @ A + weight * torch.eye(20))
            with torch.no_grad():
                errors.append(float((trained(unseen, weight) - exact).norm() / exact.norm()))
        print(
            f"  {name}, {low:.2g} to {high:.2g}, degree {degree}: error at most {max(errors):.2%}, "
            f"{seconds:.0f} s " + verdict(max(errors) <= 0.05, "5 %"),
            flush=True,
        )


def main() -> None:
    keep_freed_memory()
    print(machine())
    ridge()


if __name__ == "__main__":
    main()
