"""Solvers as networks on deblurring: gain of the training, and its memory.

    python benchmarks/unrolled.py [--steps 4000] [--only unrolled|equilibrium|memory]

Photographs of scikit-image, a Gaussian blur, noise 0.02. Solvers with total variation, with the
best of five weights by the truth. Solvers with a denoiser that was trained alone for the same
number of steps, with the best of three or four steps or penalties. Proximal gradient and ADMM,
unrolled for ten iterations and trained as a whole: every iteration has a network of its own, which
starts at the denoiser. The fixed point of proximal gradient with the trained prior lpn-natural-0.1,
which is trained further, for an eightieth of the steps; a network predicts its start. Test pictures
do not belong to the training data.

The memory is the growth of the peak of a process over one forward and one backward pass, eight
images of 128x128, ten iterations.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
import warnings
from typing import Literal, cast

import torch
from common import machine, run_script, verdict
from torch import nn

import invtoolbox as it
from invtoolbox.training import (
    L2,
    Loss,
    MeasuredPairs,
    NoisyPairs,
    SkipLoss,
    Stage,
    keep_freed_memory,
    train,
)
from invtoolbox.unrolling import Equilibrium

NOISE, CROP, ITERATIONS = 0.02, 32, 10
SEEN = ("coins", "brick", "grass", "gravel", "moon", "astronaut")
HELD_OUT = ("camera", "cat")
S = it.solvers


def blur(size: int) -> it.operators.Blur:
    r = torch.arange(-3, 4.0)
    kernel = torch.exp(-(r[:, None] ** 2 + r[None, :] ** 2) / (2 * 1.3**2))
    return it.operators.Blur(kernel / kernel.sum(), (size, size))


def template(size: int) -> it.Problem:
    return it.Problem(torch.zeros(1, 1, size, size), blur(size), it.data_terms.LeastSquares())


def pictures(names: tuple[str, ...]) -> list[torch.Tensor]:
    return [it.datasets.photograph(name)[:, :1] for name in names]


def test_set(size: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    crops = [
        p[..., a : a + size, b : b + size]
        for p in pictures(HELD_OUT)
        for a, b in ((60, 60), (100, 180), (180, 90))
    ]
    truth = torch.cat(crops)
    return blur(size).simulate(truth, noise=NOISE, seed=list(range(len(truth)))), truth


def solver(kind: str) -> S.Solver:
    return S.ProximalGradient(step_size=1.0) if kind == "pg" else S.ADMM(rho=0.1)


def denoiser() -> it.priors.Denoiser:
    torch.manual_seed(0)
    return it.priors.Denoiser(it.priors.DnCNN(depth=4, width=16), sigma=0.03)


def unrolled(kind: str, size: int, prior: it.priors.Denoiser) -> nn.Module:
    return it.unroll(solver(kind), template(size), ITERATIONS, prior, per_iteration=True)


def equilibrium(size: int, predicts: bool = True) -> Equilibrium:
    torch.manual_seed(0)
    return it.equilibrium(
        S.ProximalGradient(),
        template(size),
        it.priors.load("lpn-natural-0.1", {"within_theorem": True}),
        skip=it.priors.DnCNN(depth=4, width=16) if predicts else None,
        max_iterations=300,
        tolerance=1e-3,
        adjoint_tolerance=1e-2,
        adjoint_iterations=20,
    )


def psnr(x: torch.Tensor, truth: torch.Tensor) -> float:
    return float(it.metrics.psnr(x.detach(), truth).mean())


def train_on(network: nn.Module, loss: Loss, steps: int, rate: float) -> nn.Module:
    pairs = MeasuredPairs(pictures(SEEN), blur(CROP), NOISE)
    stage = Stage(loss, steps, rate, 8, iterate="last", clip=1.0, decay="linear")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return train(network, pairs, [stage], progress=False).network


def resized(network: nn.Module, trained: nn.Module) -> nn.Module:
    """Return a network for images of another size with trained weights."""
    network.load_state_dict(trained.state_dict())
    return network.requires_grad_(False)


def compare_unrolled(steps: int) -> None:
    y, truth = test_set()
    problem = it.Problem(y, blur(y.shape[-1]), it.data_terms.LeastSquares())
    variation, by_denoiser = {}, {}
    for kind in ("pg", "admm"):
        best = max(
            (
                psnr(
                    it.solve(
                        problem,
                        it.priors.TotalVariation(),
                        S.FISTA() if kind == "pg" else S.ADMM(),
                        w,
                        max_iterations=60,
                        progress=False,
                    ).x,
                    truth,
                ),
                w,
            )
            for w in (3e-4, 1e-3, 2e-3, 4e-3, 8e-3)
        )
        variation[kind] = best[0]
        print(f"  TV, {kind}: {best[0]:.2f} dB, weight {best[1]:g}", flush=True)
    noisy = NoisyPairs(pictures(SEEN), noise_std=0.03, crop=CROP)
    stage = Stage(L2(), steps, 2e-3, 8, iterate="last", decay="linear")
    alone = it.priors.Denoiser(
        train(denoiser().network, noisy, [stage], progress=False).network, sigma=0.03
    )
    tried = {
        "pg": [S.ProximalGradient(step_size=t) for t in (0.3, 1.0, 1.9)],
        "admm": [S.ADMM(rho=r) for r in (0.03, 0.1, 0.3, 1.0)],
    }
    for kind in ("pg", "admm"):
        best = max(
            (psnr(it.solve(problem, alone, s, max_iterations=60, progress=False).x, truth), k)
            for k, s in enumerate(tried[kind])
        )
        by_denoiser[kind] = best[0]
        print(f"  denoiser trained alone, {kind}: {best[0]:.2f} dB", flush=True)
    for kind in ("pg", "admm"):
        began = time.perf_counter()
        trained = train_on(unrolled(kind, CROP, alone), L2(), steps, 1e-3)
        network = resized(unrolled(kind, y.shape[-1], alone), trained)
        quality = psnr(network(y), truth)
        gain = quality - variation[kind]
        print(
            f"  {kind}, {ITERATIONS} iterations: {quality:.2f} dB after "
            f"{time.perf_counter() - began:.0f} s of training, {gain:+.2f} dB over TV "
            f"{verdict(gain >= 0.5, '0.5 dB')}, {quality - by_denoiser[kind]:+.2f} dB over the "
            "denoiser trained alone",
            flush=True,
        )


def fit_start(network: Equilibrium, count: int = 128, steps: int = 400) -> None:
    """Train the network of the start to predict the fixed points of crops."""
    skip = cast(nn.Module, network.skip).requires_grad_(True)
    y, _ = MeasuredPairs(pictures(SEEN), blur(CROP), NOISE).draw(
        count, torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        first, wanted = network.start_of(network.objective_of(y)), network.settle(y).x
    adam = torch.optim.Adam(skip.parameters(), 2e-3)
    for _ in range(steps):
        adam.zero_grad()
        (skip(first) - wanted).square().mean().backward()
        adam.step()
    skip.requires_grad_(False)


def compare_equilibrium(steps: int) -> None:
    y, truth = test_set()
    began = time.perf_counter()
    before = psnr(equilibrium(y.shape[-1]).settle(y).x, truth)
    trained = train_on(equilibrium(CROP), SkipLoss(L2(), 0.1), steps, 2e-4)
    fit_start(cast(Equilibrium, trained))
    network = cast(Equilibrium, resized(equilibrium(y.shape[-1]), trained))
    predicted = network.settle(y)
    network.skip = None
    plain = network.settle(y)
    saved = 1 - float(predicted.iterations.sum() / plain.iterations.sum())
    apart = psnr(predicted.x, truth) - psnr(plain.x, truth)
    print(
        f"  equilibrium: {before:.2f} dB before and {psnr(plain.x, truth):.2f} dB after {steps} "
        f"steps of training ({time.perf_counter() - began:.0f} s)"
    )
    print(
        f"  the predicted start saves {saved:.0%} of {float(plain.iterations.float().mean()):.1f} "
        f"iterations, PSNR {apart:+.3f} dB {verdict(saved >= 0.15 and abs(apart) <= 0.05, '15 %')}",
        flush=True,
    )


def _peak(kind: str, recompute: bool, answer: multiprocessing.Queue) -> None:
    torch.set_num_threads(1)
    prior = it.priors.load("lpn-natural-0.1")  # the same network in every run
    n = 1 if kind == "one iteration" else ITERATIONS
    network = (
        equilibrium(128, predicts=kind.endswith("start"))
        if kind.startswith("equilibrium")
        else it.unroll(S.ProximalGradient(), template(128), n, prior, recompute=recompute)
    )
    y = torch.rand(8, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network(y).sum().backward()
    answer.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def memory() -> dict[str, float]:
    context, found = multiprocessing.get_context("spawn"), {}
    for name, kind, recompute in (
        ("unrolled", "pg", False),
        ("unrolled, recompute", "pg", True),
        ("one iteration", "one iteration", False),
        ("equilibrium", "equilibrium", False),
        ("equilibrium with a predicted start", "equilibrium with a predicted start", False),
    ):
        answer = context.Queue()
        process = context.Process(target=_peak, args=(kind, recompute, answer))
        process.start()
        found[name] = answer.get(timeout=500)
        process.join()
        print(f"  {name}: {found[name]:.0f} MB", flush=True)
    return found


def main(
    steps: int = 4000,
    threads: int = 1,
    only: Literal["unrolled", "equilibrium", "memory"] | None = None,
) -> None:
    keep_freed_memory()
    torch.set_num_threads(threads)
    print(machine())
    if only in (None, "unrolled"):
        print(f"PSNR of held-out pictures, mean; {steps} steps of training each")
        compare_unrolled(steps)
    if only in (None, "equilibrium"):
        compare_equilibrium(max(1, steps // 80))
    if only in (None, "memory"):
        print("memory of one forward and one backward pass")
        kept = memory()
        share = kept["equilibrium"] / kept["one iteration"]
        print(f"equilibrium / one iteration: {share:.2f} {verdict(share <= 1.3, 'at most 1.3')}")


if __name__ == "__main__":
    run_script(main)
