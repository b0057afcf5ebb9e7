"""Bilevel learning: exactness of hypergradients, cost of adaptive accuracy, learned filters.

    python benchmarks/bilevel.py [--only gradients|accuracy|filters] [--steps 120] [--patches 40]

gradients   smoothed total variation of 4 patches of 16x16 pixels, noise 0.1: the derivative of the
            loss in the logarithm of the weight, by conjugate gradients, by a Neumann series of K
            terms and by an unrolled solver, compared with differences.
accuracy    the same prior on 16 patches of 32x32 pixels, from (-5, -5) in the logarithms of
            weight (of ``1/2 |x - y|^2``) and smoothing: loss at the end, and cost (iterations of
            the inner solver and products with the Hessian) until the loss is within 1 % of the
            least of all runs, for adaptive accuracy from several first accuracies and for
            schedules.
filters     smoothed total variation whose weight and smoothing are learned from patches of
            BSD400, and fields of experts (8 filters of 5x5 in 4 pairs) that start from it and learn
            by Adam, at most five minutes of one core in all: PSNR on unseen patches and on whole
            pictures of BSD68.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from common import data_folder, machine, run_script, verdict
from skimage import data
from skimage.io import imread
from torch import Tensor

import invtoolbox as it
from invtoolbox.priors import FieldsOfExperts
from invtoolbox.training import PriorParameters, learn_prior

SIGMA = 0.1


def denoising(truth: Tensor, seed: int) -> it.Problem:
    A = it.operators.Identity(tuple(truth.shape[1:]))
    y = A.simulate(truth, noise=SIGMA, seed=seed)
    return it.Problem(y, A, it.data_terms.LeastSquares(noise_std=SIGMA))


def patches(side: int, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return patches of skimage's cameraman on a regular grid."""
    image = torch.from_numpy(data.camera()).to(dtype) / 255
    grid = range(40, 440, 400 // round(count**0.5))
    cut = [image[a : a + side, b : b + side] for a in grid for b in grid]
    return torch.stack(cut[:count])[:, None]


def gradients() -> None:
    truth = patches(16, 4, torch.float64)
    problem, n = denoising(truth, 0), truth.numel()

    def loss_of(x: Tensor) -> Tensor:
        return 0.5 * (x.reshape(1, -1) - truth.reshape(1, -1)).square().sum() / n

    def prior(shift: float = 0.0) -> FieldsOfExperts:
        found = FieldsOfExperts.total_variation(weight=2.0 * math.exp(shift), smoothing=0.05)
        for name in ("filters", "log_weights", "log_smoothing"):
            leaf = getattr(found, name)
            leaf.data = leaf.data.double()
        found.log_weights.data.fill_(math.log(2.0) + shift)
        return found

    def implicit(**how: Any) -> float:
        unknown = PriorParameters(prior(), [problem], accuracy=1e-10, curvature=100.0, **how)
        parameters = {k: v.requires_grad_(True) for k, v in unknown.initial().items()}
        value = loss_of(unknown.decode(parameters))
        return float(torch.autograd.grad(value, list(parameters.values()))[0])

    def unrolled(steps: int) -> float:
        R = prior()
        step = 1 / (SIGMA**-2 + float(R.curvature().detach()))
        network = it.unroll(
            it.solvers.GradientDescent(step_size=step), problem, steps, R, learn=("network",)
        )
        value = loss_of(network(problem.y))
        leaves = [p for p in network.parameters() if p.requires_grad and p.numel() == 1]
        return float(torch.autograd.grad(value, leaves)[0])

    def at(shift: float) -> float:
        unknown = PriorParameters(prior(shift), [problem], curvature=100.0)
        return float(loss_of(unknown.decode_to(unknown.initial(), 1e-10).x))

    step = 1e-4
    exact = (at(step) - at(-step)) / (2 * step)

    def report(name: str, found: float, most: float) -> None:
        error = abs(found / exact - 1)
        print(f"{name}: {error:.1e} from differences {verdict(error <= most, f'{most:g}')}")

    report("conjugate gradients", implicit(), 1e-4)
    for terms, most in ((5, 0.12), (20, 0.01), (50, 1e-3)):
        report(f"Neumann series, {terms} terms", implicit(neumann=terms), most)
    report("unrolled, 400 steps", unrolled(400), 1e-4)


class Counted(PriorParameters):
    """Parameters of a prior that count the iterations and products of every evaluation."""

    spent = 0

    def decode_to(self, *arguments: Any, **named: Any) -> Any:
        found = super().decode_to(*arguments, **named)
        Counted.spent += found.steps
        return found

    def pull_back(self, *arguments: Any, **named: Any) -> Any:
        found = super().pull_back(*arguments, **named)
        Counted.spent += found.steps
        return found

    def multiply_hessian(self, *arguments: Any) -> Tensor:
        Counted.spent += 1
        return super().multiply_hessian(*arguments)


def accuracy() -> None:
    truth = patches(32, 16, torch.float64)
    problem = denoising(truth, 0)
    prior = FieldsOfExperts.total_variation(weight=math.exp(-5) / SIGMA**2, smoothing=math.exp(-5))
    y = truth.reshape(1, -1)
    outer = it.Problem(
        y,
        it.operators.Identity((y.shape[1],)),
        it.data_terms.LeastSquares(noise_std=y.shape[1] ** 0.5),
    )
    runs: dict[str, it.solvers.Solver] = {
        f"adaptive from {first:g}": it.solvers.AdaptiveAccuracy(first=first)
        for first in (1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5)
    }
    for schedule in ("cubic", "quadratic"):
        runs[schedule] = it.solvers.ScheduledAccuracy(schedule=schedule)
    curves, ends = {}, {}
    for name, solver in runs.items():
        Counted.spent = 0
        rows: list[tuple[int, float]] = []
        note: Callable[[Any], None] = lambda state, rows=rows: rows.append(  # noqa: E731
            (Counted.spent, float(state.objective[0]))
        )
        solution = it.solve(
            outer,
            Counted(prior, [problem]),
            solver,
            1.0,
            max_iterations=80,
            callbacks=[note],
            check=False,
            progress=False,
        )
        curves[name], ends[name] = rows, solution
        print(
            f"{name}: {solution.status[0]} after {int(solution.iterations)} steps and "
            f"{Counted.spent} inner iterations, loss {rows[-1][1]:.6f}",
            flush=True,
        )
    best = min(value for rows in curves.values() for _, value in rows)
    cost = {
        name: next((spent for spent, value in rows if value <= 1.01 * best), math.inf)
        for name, rows in curves.items()
    }
    print("cost until within 1 %: " + ", ".join(f"{name} {c}" for name, c in cost.items()))
    adaptive = [cost[name] for name in cost if name.startswith("adaptive")]
    last = [rows[-1][1] for name, rows in curves.items() if name.startswith("adaptive")]
    stops = all(s.status[0] == "converged" for n, s in ends.items() if n.startswith("adaptive"))
    apart = max(last) / min(last) - 1
    print(f"losses at the end {apart:.2%} apart {verdict(apart <= 0.003, 'at most 0.3 %')}")
    ratio = max(adaptive) / min(adaptive)
    print(f"largest over least cost {ratio:.1f} {verdict(ratio <= 5, 'at most 5')}")
    other = min(cost["cubic"], cost["quadratic"])
    share = min(adaptive) / other
    print(f"least cost over the best schedule {share:.2f} {verdict(share <= 1.2, 'at most 1.2')}")
    print(f"adaptive accuracy stops {verdict(stops, 'always')}")


def pictures(folder: str, names: list[str]) -> list[Tensor]:
    return [
        torch.from_numpy(imread(data_folder() / folder / name)).float()[None, None] / 255
        for name in names
    ]


def cut(images: list[Tensor], side: int, each: int, seed: int) -> Tensor:
    generator, found = torch.Generator().manual_seed(seed), []
    for image in images:
        for _ in range(each):
            a, b = (int(torch.randint(n - side, (), generator=generator)) for n in image.shape[2:])
            found.append(image[..., a : a + side, b : b + side])
    return torch.cat(found)


def filters(steps: int, count: int) -> None:
    every = sorted(p.name for p in (data_folder() / "bsd400_gray180").glob("*.png"))
    train = cut(pictures("bsd400_gray180", every[:count]), 32, 1, 0)
    unseen = cut(pictures("bsd400_gray180", every[200:240]), 32, 1, 1)
    whole = pictures(
        "bsd68_gray", sorted(p.name for p in (data_folder() / "bsd68_gray").glob("*.png"))[:5]
    )
    problem = denoising(train, 0)
    began = time.process_time()
    start = FieldsOfExperts.total_variation(weight=5.0, smoothing=0.02)
    variation = learn_prior(start, problem, train, max_iterations=40, progress=False)
    first = time.process_time() - began
    print(f"total variation: {variation.solution.status[0]} after {first:.0f} s of a core")
    learned_start: Any = variation.prior.terms[0].prior
    learned = learn_prior(
        learned_start.extend(3, 5),
        problem,
        train,
        it.solvers.Adam(learning_rate=0.02),
        accuracy=3e-3,
        max_iterations=steps,
        progress=False,
    )
    seconds = time.process_time() - began
    print(
        f"fields of experts: {int(learned.solution.iterations)} steps, {seconds:.0f} s in all "
        + verdict(seconds <= 300, "5 minutes of a core")
    )
    rows = {}
    for name, prior in (("total variation", variation.prior), ("fields of experts", learned.prior)):
        psnr = []
        for truths in ([unseen], whole):
            values = []
            for k, truth in enumerate(truths):
                task = denoising(truth, 10 + k)
                x = it.solve(task, prior, regularization=1.0, progress=False).x
                values.append(it.metrics.psnr(x, truth))
            psnr.append(float(torch.cat(values).mean()))
        rows[name] = psnr
        print(f"{name}: {psnr[0]:.2f} dB on unseen patches, {psnr[1]:.2f} dB on whole pictures")
    for k, what in enumerate(("unseen patches", "whole pictures")):
        gain = rows["fields of experts"][k] - rows["total variation"][k]
        print(f"gain on {what} {gain:+.2f} dB {verdict(gain >= 0.4, '+0.4 dB')}")


def main(
    only: Literal["gradients", "accuracy", "filters"] | None = None,
    steps: int = 120,
    patches: int = 40,
) -> None:
    """Run the benchmark.

    Args:
        steps: steps of Adam for the filters
        patches: number of patches to learn from
    """
    torch.set_num_threads(1)
    print(machine())
    if only in (None, "gradients"):
        gradients()
    if only in (None, "accuracy"):
        accuracy()
    if only in (None, "filters"):
        filters(steps, patches)


if __name__ == "__main__":
    run_script(main)
