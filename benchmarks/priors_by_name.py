"""Weight of every prior by name, chosen by its default rule, against the best weight.

    python benchmarks/priors_by_name.py [--half 1] [--count 10] [--stated 1,0.5]

Problems of the zoo: noise, blur, gaps and parallel beams, ``count`` of each. The best weight is the
best of 13 of `it.solve`, within three decades of the chosen one, by the error against the truth.
Loss: PSNR of the best weight minus that of the chosen weight, in dB, by `it.reconstruct`, which
compares its answer with the simple one, and by `it.solve`, which does not. Rules are chosen on half
0 and reported on half 1. With ``stated``, the noise level is given to `it.solve`, multiplied by each
of the factors in turn.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

import torch
from common import machine, run_script, verdict
from torch import Tensor
from zoo import item
from zoo.items import Item

import invtoolbox as it
from invtoolbox.catalogue.presets import prior_named

JOBS = ("denoising", "deblurring", "inpainting pixels", "ct parallel")
PRIORS = "tv,wavelet,tgv,tikhonov,graph-laplacian,denoiser-natural"
FACTORS = [10.0 ** (k / 2) for k in range(-6, 7)]


def main(
    half: int = 1,
    count: int = 10,
    priors: str = PRIORS,
    jobs: str = ",".join(JOBS),
    stated: str = "",
    threads: int = 1,
) -> None:
    """Print one row per problem, and one summary per prior.

    Args:
        half: 0 for the items on which rules are chosen, 1 for the others
        count: number of problems per job
        priors: names of priors, separated by commas
        jobs: names of jobs, separated by commas
        stated: factors of the true noise level that is given, separated by commas; none if empty
        threads: number of torch's threads
    """
    torch.set_num_threads(threads)
    print(f"{machine()}; half {half}, {count} problems per job")
    factors = [float(factor) for factor in stated.split(",")] if stated else [None]
    names = priors.split(",")
    rows: dict[str, list[tuple[float, float]]] = {}
    for job in jobs.split(","):
        for index in range(half, half + 2 * count, 2):
            problem = item(job, index)
            if problem.noise_std == 0 and stated:
                continue
            words = []
            for name in names:
                chosen, weight, status = solve(problem, name, None)
                by_reconstruct = reconstruct(problem, name)
                best = max(chosen, best_of(problem, name, weight))
                rows.setdefault(f"{name} by reconstruct", []).append(
                    (best - by_reconstruct, by_reconstruct)
                )
                words.append(f"{name} by reconstruct {by_reconstruct:.1f}")
                for factor in factors:
                    if factor is not None:
                        level = factor * problem.noise_std
                        chosen, _, status = solve(problem, name, level)
                    key = name if factor is None else f"{name}, level times {factor:g}"
                    rows.setdefault(key, []).append((best - chosen, chosen))
                    words.append(f"{key} {chosen:.1f} ({best:.1f}){status}")
            print(f"{job} {index}, {problem.about}: {'; '.join(words)}", flush=True)
    for key, losses in rows.items():
        middle, worst = (call(loss for loss, _ in losses) for call in (statistics.median, max))
        bar = verdict(middle <= 0.5 and worst <= 1.5, "median 0.5, worst 1.5")
        print(f"{key}: loss {middle:.2f} dB in the median, {worst:.2f} at worst {bar}")
    for call in ("", " by reconstruct"):
        graphs, tvs = rows.get(f"graph-laplacian{call}"), rows.get(f"tv{call}")
        if graphs and tvs:
            gain = statistics.mean(graph - tv for (_, graph), (_, tv) in zip(graphs, tvs))
            bar = verdict(gain >= 0.5, "+0.5")
            print(f"the graph over TV{call}: {gain:+.2f} dB in the mean {bar}")


def solve(
    problem: Item, name: str, level: float | None, weight: Any = "auto"
) -> tuple[float, Any, str]:
    """Return the PSNR in dB, the weight, and the status unless it is a good one."""
    posed = it.Problem(problem.y, problem.A, it.data_terms.LeastSquares(noise_std=level))
    solution = it.solve(posed, prior_named(name), regularization=weight, progress=False)
    status = solution.status[0]
    shown = "" if status in ("converged", "early_stopping", "limit") else f" {status}"
    return psnr(problem, solution.x), solution.regularization, shown


def reconstruct(problem: Item, name: str) -> float:
    """Return the PSNR in dB of the one-line call."""
    return psnr(problem, it.reconstruct(problem.y, problem.A, prior=name, progress=False).x)


def best_of(problem: Item, name: str, weight: Tensor) -> float:
    """Return the largest PSNR of the weights about one, which is that of no noise level."""
    return max(
        solve(problem, name, None, float(weight.flatten()[0]) * factor)[0] for factor in FACTORS
    )


def psnr(problem: Item, x: Tensor) -> float:
    span = float(problem.truth.abs().amax() - problem.truth.abs().amin())
    error = max(problem.error(x), problem.finest)
    return 20 * math.log10(span / error) if math.isfinite(error) else -math.inf


if __name__ == "__main__":
    run_script(main)
