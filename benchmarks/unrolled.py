"""Solvers as networks on deblurring: gain of the training, and its memory.

    python benchmarks/unrolled.py [--steps 500] [--only table|memory]

Photographs of scikit-image, a Gaussian blur, noise 0.02. Solvers with total variation, with the
best of five weights by the truth. Solvers with a denoiser that was trained alone for the same
number of steps, with the best of three or four steps or penalties. Proximal gradient and ADMM,
unrolled for eight iterations and trained as a whole from untrained weights. The fixed point of
proximal gradient with the trained prior lpn-natural-0.1, which is trained further, for a twentieth
of the steps. Test pictures do not belong to the training data.

The memory is the growth of the peak of a process over one forward and one backward pass, eight
images of 128x128, ten iterations.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
import warnings

import torch
from common import machine, verdict
from torch import nn

import invtoolbox as it
from invtoolbox.training import (
    L2,
    MeasuredPairs,
    NoisyPairs,
    SkipLoss,
    Stage,
    keep_freed_memory,
    train,
)

NOISE, CROP = 0.02, 32
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
    return it.priors.Denoiser(it.priors.DnCNN(depth=4, width=16), sigma=0.05)


def networks(kind: str, size: int, n: int = 8, recompute: bool = False) -> nn.Module:
    if kind == "equilibrium":
        return it.equilibrium(
            S.ProximalGradient(),
            template(size),
            it.priors.load("lpn-natural-0.1"),
            skip="step",
            max_iterations=60,
            tolerance=1e-2,
            adjoint_tolerance=1e-2,
            adjoint_iterations=20,
        )
    return it.unroll(solver(kind), template(size), n, denoiser(), recompute=recompute)


def psnr(x: torch.Tensor, truth: torch.Tensor) -> float:
    return float(it.metrics.psnr(x, truth).mean())


def reconstructed(network: nn.Module, y: torch.Tensor, kind: str) -> torch.Tensor:
    """Reconstruct with trained weights, on images of another size than in training."""
    larger = networks(kind, y.shape[-1])
    larger.load_state_dict(network.state_dict())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result: torch.Tensor = larger(y)
    return result


def table(steps: int) -> dict[str, float]:
    y, truth = test_set()
    images = pictures(SEEN)
    problem = it.Problem(y, blur(y.shape[-1]), it.data_terms.LeastSquares())
    found = {"blurred": psnr(y, truth)}
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
        found[f"TV, {kind}"] = best[0]
        print(f"  TV, {kind}: {best[0]:.2f} dB, weight {best[1]:g}", flush=True)
    noisy = NoisyPairs(images, noise_std=0.03, crop=CROP)
    alone = it.priors.Denoiser(
        train(denoiser().network, noisy, [Stage(L2(), steps, 2e-3, 8)], progress=False).network,
        sigma=0.03,
    )
    tried = {
        "pg": [S.ProximalGradient(step_size=t) for t in (0.3, 1.0, 1.9)],
        "admm": [S.ADMM(rho=r) for r in (0.03, 0.1, 0.3, 1.0)],
    }
    for kind in ("pg", "admm"):
        best = max(
            (psnr(it.solve(problem, alone, s, max_iterations=60, progress=False).x, truth), repr(s))
            for s in tried[kind]
        )
        found[f"denoiser alone, {kind}"] = best[0]
        print(f"  denoiser trained alone, {kind}: {best[0]:.2f} dB, {best[1]}", flush=True)
    pairs = MeasuredPairs(images, blur(CROP), NOISE)
    for kind in ("pg", "admm", "equilibrium"):
        began, loss = time.perf_counter(), SkipLoss(L2(), 0.1) if kind == "equilibrium" else L2()
        count, rate = (steps, 2e-3) if kind != "equilibrium" else (max(1, steps // 20), 2e-4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trained = train(
                networks(kind, CROP), pairs, [Stage(loss, count, rate, 8, clip=1.0)], progress=False
            )
        found[kind] = psnr(reconstructed(trained.network, y, kind), truth)
        print(
            f"  {kind}: {found[kind]:.2f} dB, {count} steps of training in "
            f"{time.perf_counter() - began:.0f} s",
            flush=True,
        )
    return found


def _peak(kind: str, recompute: bool, answer: multiprocessing.Queue) -> None:
    torch.set_num_threads(1)
    prior = it.priors.load("lpn-natural-0.1")  # the same network in both runs
    network = (
        networks(kind, 128)
        if kind == "equilibrium"
        else it.unroll(S.ProximalGradient(), template(128), 10, prior, recompute=recompute)
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
        ("equilibrium", "equilibrium", False),
    ):
        answer = context.Queue()
        process = context.Process(target=_peak, args=(kind, recompute, answer))
        process.start()
        found[name] = answer.get(timeout=500)
        process.join()
        print(f"  {name}: {found[name]:.0f} MB", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=("table", "memory"))
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    print(machine())
    if options.only != "memory":
        print(f"PSNR of held-out pictures, mean; {options.steps} steps of training each")
        found = table(options.steps)
        for kind in ("pg", "admm"):
            hand = max(found[f"TV, {kind}"], found[f"denoiser alone, {kind}"])
            gain = found[kind] - hand
            print(
                f"unrolled {kind}: {gain:+.2f} dB over the better of the two priors tuned by hand "
                f"{verdict(gain > 0, 'not below')}"
            )
    if options.only != "table":
        print("memory of one forward and one backward pass")
        kept = memory()
        share = kept["equilibrium"] / kept["unrolled"]
        print(f"equilibrium / unrolled: {share:.2f} {verdict(share < 1, 'below 1')}")


if __name__ == "__main__":
    main()
