"""Seconds for mean and standard deviation of a picture: VBLE, and PnP-ULA at the same certainty.

The centre of the first picture of BSD68, Gaussian blur of standard deviation 1 and noise 7.65
(units of 1/255). VBLE: 150 steps and 100 samples, whose standard deviation has a Monte-Carlo error
of 7 %. PnP-ULA: a chain with a denoiser as the score, ``priors/dncnn-natural`` or, with ``--network
kair``, KAIR's DnCNN of level 25/255, which takes five times as long; at the default step. It runs
for a fixed number of steps. The Monte-Carlo error of its standard deviation is measured from the
spread of blocks of the chain, and the time to an error of 10 % is extrapolated, because the error
falls with the square root of the steps. A chain that is shorter than its correlation time
underestimates its error, so the figure is a lower bound.

    python benchmarks/posterior_time.py [--sizes 64,256] [--steps 4000,600] [--iterations 300]
                                        [--network kair] [--threads 2]
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Literal

import torch
from common import data_folder, machine, run_script, verdict
from vble import SETTINGS, case, pictures

import invtoolbox as it

PROBLEM = "g1-7.65"
WANTED = 0.1


def main(
    sizes: str = "64,256",
    steps: str = "4000,600",
    burn_in: int = 200,
    iterations: int = 150,
    network: Literal["natural", "kair"] = "natural",
    threads: int = torch.get_num_threads(),
) -> None:
    """Run the benchmark.

    Args:
        steps: steps of the chain, one number per size
        iterations: iterations of VBLE
    """
    torch.set_num_threads(threads)
    folder = data_folder()
    print(f"# {machine()}")
    for size, count in zip(map(int, sizes.split(",")), map(int, steps.split(","))):
        _compare(
            size,
            count,
            burn_in,
            iterations,
            _denoiser(network, folder),
            folder,
        )


def _denoiser(name: str, folder: Path) -> it.priors.ExplicitPrior:
    if name == "kair":
        return it.priors.Denoiser(
            it.priors.load_dncnn(folder / "weights" / "kair_dncnn" / "dncnn_25.pth"),
            sigma=25 / 255,
            level="none",
        )
    return it.priors.load("dncnn-natural")


def _compare(
    size: int,
    steps: int,
    burn_in: int,
    iterations: int,
    denoiser: it.priors.ExplicitPrior,
    folder: Path,
) -> None:
    one = case(PROBLEM, pictures(folder, [1], size), [1], folder)
    scale, weight = SETTINGS[PROBLEM]
    prior = it.priors.load("cae-natural", {"rate_scale": scale})
    solver = it.solvers.VariationalLatent(max_iterations=iterations)
    began = time.perf_counter()
    solution = it.solve(one.problem, prior, solver, regularization=weight, progress=False)
    fitted = time.perf_counter() - began
    mean, std = solution.posterior.mean, solution.posterior.std
    vble = time.perf_counter() - began
    print(
        f"{size}x{size} VBLE: {vble:.1f} s ({fitted:.1f} s to fit, {vble - fitted:.1f} s for mean "
        f"and standard deviation of {solution.posterior.number} samples), "
        f"{float(it.metrics.psnr(mean, one.truth)):.2f} dB, mean standard deviation "
        f"{float(std.mean()):.4f}",
        flush=True,
    )
    chain = it.solvers.UnadjustedLangevin(burn_in=burn_in, bounds=(-1.0, 2.0), tolerance=0.0)
    began = time.perf_counter()
    # Half of the steps and then all of them: if the estimated error does not fall by sqrt(2), the
    # chain is too short for its estimate.
    told: list[tuple[int, float]] = []

    def listen(progress: it.Progress) -> None:
        if progress.iteration in (burn_in + steps // 2, burn_in + steps):
            told.append((progress.iteration, float(progress.certificate)))

    solution = it.solve(
        one.problem,
        denoiser,
        chain,
        max_iterations=burn_in + steps,
        callbacks=(listen,),
        progress=False,
    )
    seconds = (time.perf_counter() - began) / (burn_in + steps)
    posterior = solution.posterior
    relative = float((posterior.std_error.square().sum() / posterior.std.square().sum()).sqrt())
    needed = burn_in + steps * (relative / WANTED) ** 2
    total = needed * seconds
    halves = (
        " then ".join(
            f"{100 * error:.0f} % after {number}" for number, error in told if math.isfinite(error)
        )
        or "too few to tell"
    )
    print(
        f"{size}x{size} PnP-ULA: {1e3 * seconds:.0f} ms a step, {solution.status[0]} after {steps} "
        f"steps and {burn_in} of burn-in; effective samples of the mean "
        f"{float(posterior.effective_number):.0f}, error of the standard deviation "
        f"{100 * relative:.0f} % ({halves}), so {needed:.0f} steps or {total:.0f} s for 10 %; "
        f"{float(it.metrics.psnr(posterior.mean, one.truth)):.2f} dB, mean standard deviation "
        f"{float(posterior.std.mean()):.4f}"
    )
    print(
        f"{size}x{size}: VBLE is {total / vble:.0f} times as fast "
        f"{verdict(total > 10 * vble, '10 times')}",
        flush=True,
    )


if __name__ == "__main__":
    run_script(main)
