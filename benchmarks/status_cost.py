"""What true statuses cost: steps and seconds of 20 ordinary problems after their certificate is met.

    python benchmarks/status_cost.py [--size 96]

A solve ends when its certificate is within the tolerance and the bound of the objective is within
0.1 % (`Solver.gap`). Per problem: the status, the number of steps, the step at which the
certificate was first within the tolerance, and the share of the seconds that went into the bound.
Pictures are cuts of scikit-image's camera, noise is 2 % (counts of at most 100 for `Poisson`), and
the weights are those of a quick look. The solver is the one that `solve` chooses, unless named.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from common import machine, run_script
from torch import Tensor

import invtoolbox as it
from invtoolbox.solvers.base import Solver

Case = tuple[str, Any, Any, Any, float, Any]


def picture(size: int, place: int) -> Tensor:
    """Return a cut of a picture with values from 0 to 1."""
    from skimage import data

    rows = torch.as_tensor(data.camera()[20 * place :, 120:][: 2 * size, : 2 * size] / 255)
    return rows.float().unflatten(0, (-1, 2)).unflatten(2, (-1, 2)).mean((1, 3))[None, None]


def cases(size: int) -> list[Case]:
    """Return name, operator, data term, prior, weight and solver of every problem."""
    O, P, D, S = it.operators, it.priors, it.data_terms, it.solvers
    shape = (size, size)
    draw = torch.Generator().manual_seed(0)
    blur = O.Blur(torch.ones(5, 5) / 25, shape)
    noise = O.Identity((1, *shape))
    gaps = O.Inpainting(torch.rand(shape, generator=draw) > 0.5, shape)
    scan = O.ParallelBeam(shape, torch.linspace(0, math.pi, 61)[:-1], math.ceil(1.5 * size))
    lines = (torch.rand(size, 1, generator=draw) > 0.6).float().expand(shape).clone()
    lines[size // 2 - 6 : size // 2 + 6] = 1
    k_space = O.CartesianMRI(lines, shape)
    half = O.Downsampling(shape, 2)
    squares, counts = D.LeastSquares(), D.Poisson(1.0)
    return [
        ("denoising tv", noise, squares, P.TotalVariation(), 0.05, None),
        ("denoising wavelet", noise, squares, P.WaveletL1("haar", 3), 0.03, None),
        ("denoising tv l1", noise, D.L1(), P.TotalVariation(), 0.5, None),
        ("deblurring tv", blur, squares, P.TotalVariation(), 2e-3, None),
        ("deblurring wavelet", blur, squares, P.WaveletL1("haar", 3), 2e-3, None),
        ("deblurring tikhonov", blur, squares, P.Tikhonov("gradient"), 1e-2, None),
        ("deblurring huber tv", blur, squares, P.HuberTV(0.01), 2e-3, None),
        ("deblurring l-bfgs", blur, squares, P.HuberTV(0.01), 2e-3, S.LBFGS()),
        ("deblurring nonnegative", blur, squares, P.TotalVariation() + P.NonNegative(), 2e-3, None),
        ("inpainting tv", gaps, squares, P.TotalVariation(), 0.02, None),
        ("inpainting tv, FISTA", gaps, squares, P.TotalVariation(), 0.02, S.FISTA()),
        ("inpainting wavelet", gaps, squares, P.WaveletL1("haar", 3), 0.02, None),
        ("super-resolution tv", half, squares, P.TotalVariation(), 5e-3, None),
        ("counts tv", blur, counts, P.TotalVariation(), 0.1, None),
        ("counts, no prior, bounds", blur, counts, P.NonNegative(), 1.0, None),
        ("ct tv", scan, squares, P.TotalVariation(), 0.5, None),
        ("ct tv, PDHG", scan, squares, P.TotalVariation(), 0.5, S.PDHG()),
        ("ct tikhonov", scan, squares, P.Tikhonov("gradient"), 5.0, None),
        ("ct least squares, LSMR", scan, squares, None, 0.0, S.LSMR()),
        ("mri tv", k_space, squares, P.TotalVariation(), 0.02, None),
    ]


def measure(case: Case, size: int, place: int) -> tuple[Any, float, float]:
    """Return the solution, its seconds, and the seconds of the bounds."""
    _, A, term, prior, weight, solver = case
    truth = picture(size, place)
    if isinstance(term, it.data_terms.Poisson):
        mean = A(100 * truth).clamp_min(0) + 1
        y = torch.poisson(mean, generator=torch.Generator().manual_seed(place))
    else:
        y = A.simulate(
            truth.to(torch.complex64) if case[0] == "mri tv" else truth, 0.02, seed=place
        )
    spent = 0.0
    plain: Callable[..., Tensor] | None = None

    def timed(self: Solver, *arguments: Any) -> Tensor:
        nonlocal spent
        began = time.process_time()
        assert plain is not None
        gap = plain(self, *arguments)
        spent += time.process_time() - began
        return gap

    problem = it.Problem(y, A, term)
    settings: dict[str, Any] = {"progress": False, "check": False}
    chosen = it.solve(problem, prior, solver, weight, max_iterations=1, **settings)
    name = str(chosen.solver).split("(")[0]
    kind = next(k for k in type(getattr(it.solvers, name)()).__mro__ if "gap" in vars(k))
    plain = kind.gap
    kind.gap = timed  # type: ignore[method-assign, assignment]
    try:
        began = time.process_time()
        solution = it.solve(problem, prior, solver, weight, **settings)
        return solution, time.process_time() - began, spent
    finally:
        kind.gap = plain  # type: ignore[method-assign]


def main(size: int = 96, place: int = 0) -> None:
    """Run the benchmark.

    Args:
        size: rows and columns of the pictures
        place: place of the cut, and seed of the noise
    """
    torch.set_num_threads(1)
    print(f"{machine()}; cut and seed {place}")
    total = later = bounds = 0.0
    met = converged = 0
    for case in cases(size):
        solution, seconds, spent = measure(case, size, place)
        count = int(solution.iterations[0])
        certificates = solution.history["certificate"][:count, 0]
        within = (certificates <= solution.tolerance).nonzero().flatten()
        first = int(within[0]) + 1 if len(within) else count
        met += bool(len(within))
        converged += solution.status[0] == "converged"
        total, bounds = total + seconds, bounds + spent
        later += seconds * (count - first) / max(count, 1)
        print(
            f"{case[0]:26s} {str(solution.solver).split('(')[0]:18s} {solution.status[0]:10s} "
            f"{count:5d} steps, certificate met at {first if len(within) else '-':>5}, "
            f"{seconds:6.2f} s, bound {100 * spent / seconds:4.1f} %"
        )
    print(
        f"{total:.1f} s in all: {100 * later / total:.1f} % in steps after the certificate was met, "
        f"{100 * bounds / total:.1f} % in bounds; {converged} of {met} that met it are converged"
    )


if __name__ == "__main__":
    run_script(main)
