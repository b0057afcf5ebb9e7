"""Regularizers of training: the gain of each for a network that reconstructs, or for an autoencoder.

    python benchmarks/training_regularizers.py [--only network|autoencoder|surrogate] [--seed 0]
                                               [--names plain,worst]

network      photographs behind a blur of 5x5 pixels, noise 0.03; proximal gradient unrolled for four
             iterations with a DnCNN, 150 steps. Printed: PSNR on other photographs; adversarial gain,
             the largest ``|f(y + d) - f(y)| / |d|`` for d as long as the noise, by 20 steps of
             gradient ascent.
autoencoder  digits of MNIST at 14x14 pixels, a dense autoencoder with 64 latents, 1,500 steps.
             Printed: the mean squared error on unseen digits with all latents, and the number of
             live latents: the others are fixed at their mean, those of the least deviation first, until
             the error is 5 % above that of the plain autoencoder with all latents.
surrogate    a network learns a nonlinear operator on digits, ``sin(2 P x)`` with 80 random rows P,
             from 500 pairs, and digits are found from their measurements through it. Printed: error
             of the network, and of the digits, on unseen digits; the exact operator next to it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from common import data_folder, machine, run_script
from torch import Generator, Tensor, nn
from torch.func import functional_call

import invtoolbox as it
from invtoolbox.training import (
    L2,
    Loss,
    MeasuredPairs,
    Pairs,
    Stage,
    WorstDirection,
    keep_freed_memory,
    train,
)
from invtoolbox.training.losses import Penalized

LATENTS = 64


@dataclass(frozen=True)
class Regularized(Penalized):
    """L2 with a penalty times a weight."""

    weight: float
    loss: Loss = field(default_factory=L2)


class LocalLinearity(Regularized):
    """ELLE: ``|f(c) - a f(p) - (1 - a) f(q)|^2`` for a point c between two points p and q near y."""

    radius = 0.1

    def penalty(self, network: nn.Module, x: Tensor, generator: Generator) -> Tensor:
        p, q = (
            x + self.radius * (2 * torch.rand(x.shape, generator=generator) - 1) for _ in range(2)
        )
        a = torch.rand(len(x), 1, 1, 1, generator=generator)
        bent = network(a * p + (1 - a) * q) - a * network(p) - (1 - a) * network(q)
        return bent.flatten(1).square().mean(1)


class NormLoss(Regularized):
    """``(1 - |w|)^2`` over the filters of every convolution (norm loss)."""

    def penalty(self, network: nn.Module, x: Tensor, generator: Generator) -> Tensor:
        filters = [p.flatten(1).norm(dim=1) for p in network.parameters() if p.ndim == 4]
        return (1 - torch.cat(filters)).square().mean()


@dataclass(frozen=True)
class ModelPerturbation(Loss):
    """Adversarial model perturbation: the loss at weights that are moved uphill by ``weight``."""

    weight: float
    loss: Loss = field(default_factory=L2)

    def __call__(self, result: Tensor, wanted: Tensor) -> Tensor:
        return self.loss(result, wanted)

    def of_network(
        self, network: nn.Module, shown: Tensor, wanted: Tensor, generator: Generator
    ) -> Tensor:
        own = {n: p.detach().requires_grad_(True) for n, p in network.named_parameters()}
        with torch.enable_grad():
            value = self.loss(functional_call(network, own, (shown,)), wanted).mean()
            uphill = torch.autograd.grad(value, list(own.values()))
        size = torch.cat([g.flatten() for g in uphill]).norm().clamp_min(1e-12)
        moved = {
            n: p + self.weight * g / size
            for (n, p), g in zip(network.named_parameters(), uphill, strict=True)
        }
        return self.loss(functional_call(network, moved, (shown,)), wanted)


def reconstruction(seed: int, beginnings: str) -> None:
    A = it.operators.Blur(torch.ones(5, 5) / 25, (32, 32))

    def crops(names: tuple[str, ...]) -> MeasuredPairs:
        return MeasuredPairs([it.datasets.photograph(n)[:, :1] for n in names], A, noise_std=0.03)

    seen = crops(("coins", "brick", "grass", "moon", "astronaut"))
    y, truth = crops(("camera", "cat")).draw(16, Generator().manual_seed(1))
    for name, loss, spectral in (
        ("plain", L2(), False),
        ("spectral norm", L2(), True),
        ("norm loss 1e-3", NormLoss(1e-3), False),
        ("local linearity 10", LocalLinearity(10.0), False),
        ("worst direction 1e-3", WorstDirection(1e-3, 0.03), False),
        ("worst direction 3e-3", WorstDirection(3e-3, 0.03), False),
        ("model perturbation 0.02", ModelPerturbation(0.02), False),
    ):
        if not name.startswith(tuple(beginnings.split(","))):
            continue
        torch.manual_seed(seed)
        body = it.priors.DnCNN(depth=3, width=12)
        if spectral:
            for k, layer in enumerate(body.model):
                if isinstance(layer, nn.Conv2d):
                    body.model[k] = nn.utils.parametrizations.spectral_norm(layer).eval()
        prior = it.priors.Denoiser(body, sigma=0.05)
        solver = it.solvers.ProximalGradient(step_size=1.0)
        network = it.unroll(solver, it.Problem(torch.zeros(1, 1, 32, 32), A), 4, prior)
        began = time.process_time()
        stage = Stage(loss, 150, 3e-3, 8, decay="linear")
        trained = train(network, seen, [stage], seed=seed, progress=False).network
        seconds = time.process_time() - began
        with torch.no_grad():
            value = float(it.metrics.psnr(trained(y), truth, data_range=1.0).mean())
        print(
            f"  {name:24} {value:.2f} dB, gain {adversarial_gain(trained, y):.2f}, {seconds:.0f} s",
            flush=True,
        )


def adversarial_gain(network: nn.Module, y: Tensor, length: float = 0.03) -> float:
    d = torch.randn(y.shape, generator=Generator().manual_seed(2))
    with torch.no_grad():
        before = network(y)
    for _ in range(20):
        d = length * d / d.flatten(1).square().mean(1).sqrt().view(-1, 1, 1, 1)
        moved = (y + d).requires_grad_(True)
        change = (network(moved) - before).flatten(1).square().sum(1)
        gain = (change / d.flatten(1).square().sum(1)).sqrt()
        (d,) = torch.autograd.grad(change.sum(), moved)
    return float(gain.detach().mean())


class Digits(Pairs):
    def __init__(self, x: Tensor) -> None:
        self.x = x

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        x = self.x[torch.randint(len(self.x), (count,), generator=generator)]
        return x, x


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(196, 128), nn.ELU(), nn.Linear(128, LATENTS))
        first, last = nn.Linear(LATENTS, 128), nn.Linear(128, 196)
        self.decoder = nn.Sequential(first, nn.ELU(), last)

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x.flatten(1))

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z).view(-1, 1, 14, 14)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


class LeastVolume(Regularized):
    """Least volume: geometric mean of the latents' deviations; the decoder may not stretch."""

    def penalty(self, network: nn.Module, x: Tensor, generator: Generator) -> Tensor:
        part: Any = network
        z = part.encode(x)
        volume = torch.log(z.std(0) + 0.01).mean().exp()
        first, last = (part.decoder[k].weight for k in (0, 2))
        return volume * torch.linalg.matrix_norm(first, 2) * torch.linalg.matrix_norm(last, 2)


class Quantized(Autoencoder):
    """Latent quantization: each latent takes the nearest of a few values of its own, which learn."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.linspace(-1, 1, count).repeat(LATENTS, 1))

    def encode(self, x: Tensor) -> Tensor:
        z = super().encode(x)
        nearest = (z.detach()[..., None] - self.values.detach()).abs().argmin(2)
        value = self.values.expand(len(z), -1, -1).gather(2, nearest[..., None])[..., 0]
        return value + (z - z.detach())  # the encoder learns through the rounding


class Committed(Regularized):
    """Commitment to the values, and decay of the weights, as latent quantization has them."""

    def penalty(self, network: nn.Module, x: Tensor, generator: Generator) -> Tensor:
        part: Any = network
        z = part.encoder(x.flatten(1))
        apart = (z - part.encode(x).detach()).square().mean(1)
        return apart + 1e-2 * sum(p.square().sum() for p in network.parameters())


class GradientNorm(Regularized):
    """Norm of the gradient of the loss in the weights (surrogate gradient norm)."""

    def penalty(self, network: nn.Module, x: Tensor, generator: Generator) -> Tensor:
        if not torch.is_grad_enabled():
            return x.new_zeros(len(x))
        value = self.loss(network(x), sine(x)).mean()
        slopes = torch.autograd.grad(value, list(network.parameters()), create_graph=True)
        return torch.cat([g.flatten() for g in slopes]).square().sum().add(1e-12).sqrt()


def sine(x: Tensor) -> Tensor:
    """Compute 80 nonlinear measurements of digits, ``(batch, 80)``."""
    rows = torch.randn(196, 80, generator=Generator().manual_seed(3)) / 196**0.5
    return torch.sin(2 * x.flatten(1) @ rows)


class Sines(Digits):
    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        x, _ = super().draw(count, generator)
        return x, sine(x)


def surrogate() -> None:
    digits = read_digits()
    seen, unseen = digits[:500], digits[8000:8064]
    y = sine(unseen)

    def invert(operator: Any) -> float:
        x = seen.mean(0).expand_as(unseen).clone().requires_grad_(True)
        adam = torch.optim.Adam([x], 0.02)
        for _ in range(400):
            adam.zero_grad()
            ((operator(x) - y).square().mean() + 1e-4 * x.square().mean()).backward()
            adam.step()
        return float((x.detach() - unseen).square().mean())

    print(f"  exact operator: error of the digits {invert(sine):.4f}")
    for name, loss in (
        ("plain", L2()),
        ("gradient norm 1e-3", GradientNorm(1e-3)),
        ("gradient norm 1e-2", GradientNorm(1e-2)),
    ):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Flatten(), nn.Linear(196, 128), nn.ELU(), nn.Linear(128, 128), nn.ELU()
        )
        network.append(nn.Linear(128, 80))
        stage = Stage(loss, 1500, 2e-3, 64, decay="linear")
        trained = train(network, Sines(seen), [stage], progress=False).network
        with torch.no_grad():
            error = float((trained(unseen) - y).square().mean())
        trained.requires_grad_(False)
        print(f"  {name:24} error {error:.4f}, of the digits {invert(trained):.4f}", flush=True)


def autoencoder() -> None:
    digits = read_digits()
    seen, unseen = digits[:8000], digits[8000:9500]
    limit = None
    for name, loss, network in (
        ("plain", L2(), Autoencoder()),
        ("least volume 1e-4", LeastVolume(1e-4), Autoencoder()),
        ("least volume 1e-3", LeastVolume(1e-3), Autoencoder()),
        ("8 values per latent", L2(), Quantized(8)),
        ("8 values, decay 1e-4", Committed(1e-4), Quantized(8)),
        ("8 values, decay 1e-3", Committed(1e-3), Quantized(8)),
    ):
        began = time.process_time()
        stage = Stage(loss, 1500, 2e-3, 64, decay="linear")
        trained: Any = train(network, Digits(seen), [stage], progress=False).network
        seconds = time.process_time() - began
        with torch.no_grad():
            z = trained.encode(unseen)
            error = float((trained.decode(z) - unseen).square().mean())
            limit = 1.05 * error if limit is None else limit
            order, live = z.std(0).argsort(), LATENTS
            kept = z.clone()
            for index in order:
                kept[:, index] = z[:, index].mean()
                if float((trained.decode(kept) - unseen).square().mean()) > limit:
                    break
                live -= 1
        print(
            f"  {name:24} error {error:.5f}, {live} of {LATENTS} latents live, {seconds:.0f} s",
            flush=True,
        )


def read_digits() -> Tensor:
    """Return the test digits of MNIST at 14x14 pixels, ``(10000, 1, 14, 14)``."""
    import gzip

    file = next((data_folder() / "mnist_t10k").glob("*images*"))
    raw = file.read_bytes()
    raw = gzip.decompress(raw) if file.suffix == ".gz" else raw
    x = torch.frombuffer(bytearray(raw[16:]), dtype=torch.uint8).view(-1, 1, 28, 28).float() / 255
    return F.avg_pool2d(x, 2)


def main(
    only: Literal["network", "autoencoder", "surrogate"] | None = None,
    seed: int = 0,
    names: str = "",
) -> None:
    """Run the benchmark.

    Args:
        seed: seed of weights and draws
        names: beginnings of names, by commas
    """
    keep_freed_memory()
    print(machine())
    if only in (None, "network"):
        print("network")
        reconstruction(seed, names)
    if only in (None, "autoencoder"):
        print("autoencoder")
        autoencoder()
    if only in (None, "surrogate"):
        print("surrogate")
        surrogate()


if __name__ == "__main__":
    run_script(main)
