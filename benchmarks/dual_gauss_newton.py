"""Gauss-Newton steps of a network with few measurements: the dual system and conjugate gradients.

    python benchmarks/dual_gauss_newton.py [--threads 1]

A coordinate network of 1e5 weights has 64 measurements with 1 % noise: samples of a signal of 128
values behind a Gaussian blur (width 2 % of its length), or random sums of a picture of 32 x 32
pixels. The blur makes the system ill conditioned, the random sums do not. The third step of
Levenberg-Marquardt is computed in float64 by the dual system, and by conjugate gradients whose
residual falls to 1e-8 or, by default, to 1e-2. Printed are the processor time of a step and its
relative distance from the dual step, then the misfit in units of the noise after some steps.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from statistics import median

import torch
from common import machine, run_script, verdict

import invtoolbox as it
from invtoolbox.solve import bind

MEASUREMENTS, EXACT = 64, "conjugate gradients to 1e-8"
NETWORK = it.priors.CoordinateNetwork(features=128, width=170, depth=3, bandwidth=4.0)
SOLVERS = {
    "dual system": it.solvers.LevenbergMarquardt(inner="dual"),
    EXACT: it.solvers.LevenbergMarquardt(inner_tolerance=1e-8, inner_iterations=1000),
    "conjugate gradients to 1e-2": it.solvers.LevenbergMarquardt(),
}


def blurred_signal() -> it.Problem:
    place = (torch.arange(128, dtype=torch.float64) + 0.5) / 128
    signal = torch.sin(4 * torch.pi * place) + ((place > 0.4) & (place < 0.6)).double()
    samples = (torch.arange(MEASUREMENTS, dtype=torch.float64) + 0.5) / MEASUREMENTS
    kernel = torch.exp(-0.5 * ((samples[:, None] - place) / 0.02) ** 2)
    return measure(
        it.operators.Matrix(kernel / kernel.sum(1, keepdim=True), (1, 128)), signal[None, None]
    )


def random_sums() -> it.Problem:
    picture = it.datasets.photograph("camera")[..., ::16, ::16].double()
    g = torch.Generator().manual_seed(0)
    matrix = torch.randn(MEASUREMENTS, picture.numel(), generator=g, dtype=torch.float64) / 32
    return measure(it.operators.Matrix(matrix, (1, 32, 32)), picture)


def measure(A: it.operators.Operator, x: torch.Tensor) -> it.Problem:
    clean = A(x)
    std = 0.01 * float(clean.std())
    return it.Problem(
        A.simulate(x, noise=std, seed=0), A, it.data_terms.LeastSquares(noise_std=std)
    )


def seconds(call: Callable[[], object], repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return median(times)


def compare_steps(name: str, problem: it.Problem) -> tuple[float, float]:
    """Print a step of every solver; return distance and speed against the exact one."""
    objective, _, _ = bind(problem, NETWORK.as_sum(), 1.0)
    assert objective.layout is not None and objective.prior.implicit is not None
    start = objective.layout.pack(objective.prior.implicit.initial())
    state = SOLVERS["dual system"].init(objective, start)
    for _ in range(2):
        state = SOLVERS["dual system"].step(objective, state)
    print(f"{name}: {MEASUREMENTS} measurements, {start.shape[1]} weights, one step")
    moved, spent = {}, {}
    for label, solver in SOLVERS.items():
        moved[label] = solver.step(objective, dataclasses.replace(state)).x - state.x
        spent[label] = seconds(lambda s=solver: s.step(objective, dataclasses.replace(state)))
    dual = moved["dual system"]
    apart = {label: float((d - dual).norm() / dual.norm()) for label, d in moved.items()}
    for label in SOLVERS:
        print(f"  {label:28} {spent[label]:6.3f} s, {apart[label]:.1e} from the dual step")
    return apart[EXACT], spent[EXACT] / spent["dual system"]


def compare_runs(problem: it.Problem) -> None:
    for label, solver in SOLVERS.items():
        began = time.process_time()
        solution = it.solve(problem, NETWORK, solver, max_iterations=20, progress=False)
        misfit = solution.history["discrepancy"][:, 0] / MEASUREMENTS**0.5
        last = len(misfit) - 1
        row = ", ".join(f"{float(misfit[min(k, last)]):.2f}" for k in (5, 10, 20))
        print(
            f"  {label:28} misfit after 5, 10, 20 steps: {row}; "
            f"{time.process_time() - began:.1f} s",
            flush=True,
        )


def main(threads: int = 1) -> None:
    torch.set_num_threads(threads)
    print(machine(), flush=True)
    apart, ratio = compare_steps("blurred signal", blurred_signal())
    print(
        f"  the same step {ratio:.1f} times as fast",
        verdict(apart <= 1e-6 and ratio >= 3, "within 1e-6, 3 times as fast"),
        flush=True,
    )
    compare_runs(blurred_signal())
    _, ratio = compare_steps("random sums", random_sums())
    print(f"  the same step {ratio:.1f} times as fast", flush=True)
    compare_runs(random_sums())


if __name__ == "__main__":
    run_script(main)
