"""Learned conjugate directions on Poisson's equation: trained on 32x32 pixels, used on 64x64 too.

    python benchmarks/learned_direction.py [--items 8] [--steps 700 200] [--folder CHECKPOINTS]
                                           [--threads 1]

After Kaneda et al., "A deep conjugate direction method for iteratively solving linear systems"
(ICML 2023). The equation integrates slopes g, ``D^T D x = D^T g``, with the differences D of
neighbours and 0 outside of the image (Dirichlet), so that D^T D is the five-point Laplacian. A
network learns directions from Ritz vectors of that system alone. Then, from 0, in float64 with the
network in float32, iterations are counted until the residual of the normal equations has fallen to
1e-4 (and 1e-8) of its initial value, as the mean over several right-hand sides of one kind:

- random: white noise;
- smooth: white noise, each sine weighted by one over its eigenvalue;
- two sources: two pixels of opposite sign.

Rows: conjugate gradients, the learned direction conjugate to the last 2 directions, to the last 5,
and to none. "A-norm" states whether the error decreased in the norm of the system at every step.
Seconds are processor seconds, with all items as one batch.
"""

from __future__ import annotations

import time
from pathlib import Path

import scipy.fft
import torch
import torch.nn.functional as F
from common import machine, run_script, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.operators import LinearOperator
from invtoolbox.solvers import ConjugateGradient, LearnedDirection

SIZES = (32, 64)
KINDS = ("random", "smooth", "two sources")


class SlopesToZero(LinearOperator):
    """Differences along rows and columns of an image with zeros outside.

    They map ``(1, n, n)`` to ``(1, 2 n^2 + 2 n)``.
    """

    def __init__(self, n: int) -> None:
        self.n, self.domain_shape, self.range_shape = n, (1, n, n), (1, 2 * n * (n + 1))

    def _forward(self, x: Tensor) -> Tensor:
        return torch.cat(
            [
                F.pad(x, (0, 0, 1, 1)).diff(dim=2).flatten(2),
                F.pad(x, (1, 1)).diff(dim=3).flatten(2),
            ],
            2,
        )

    def _adjoint(self, y: Tensor) -> Tensor:
        down, right = y.split(self.n * (self.n + 1), 2)
        return -down.unflatten(2, (self.n + 1, self.n)).diff(dim=2) - right.unflatten(
            2, (self.n, self.n + 1)
        ).diff(dim=3)


def eigenvalues(n: int) -> Tensor:
    line = 2 - 2 * torch.cos(torch.pi * torch.arange(1, n + 1, dtype=torch.float64) / (n + 1))
    return line[:, None] + line


def in_sines(x: Tensor, weights: Tensor) -> Tensor:
    """Weigh the sines of an image, which are the eigenvectors of the Laplacian."""
    spectrum = torch.from_numpy(scipy.fft.dstn(x.numpy(), type=1, axes=(2, 3), norm="ortho"))
    return torch.from_numpy(
        scipy.fft.dstn((spectrum * weights).numpy(), type=1, axes=(2, 3), norm="ortho")
    )


def right_sides(kind: str, n: int, items: int) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    if kind == "two sources":
        b = torch.zeros(items, n * n, dtype=torch.float64)
        places = torch.stack([torch.randperm(n * n, generator=generator)[:2] for _ in range(items)])
        return b.scatter(
            1, places, torch.tensor([1.0, -1.0], dtype=torch.float64).expand(items, 2)
        ).view(items, 1, n, n)
    b = torch.randn(items, 1, n, n, generator=generator, dtype=torch.float64)
    return b if kind == "random" else in_sines(b, 1 / eigenvalues(n))


def solved(b: Tensor, solver: ConjugateGradient, tolerance: float) -> tuple[float, bool, float]:
    """Return mean iterations, whether the error always fell in the system's norm, and seconds."""
    n = b.shape[-1]
    A, exact = SlopesToZero(n), in_sines(b, 1 / eigenvalues(n))
    errors: list[tuple[Tensor, Tensor]] = []

    def watch(state: it.loop.Progress) -> None:
        errors.append((state.running, A(state.x - exact[state.running]).flatten(1).square().sum(1)))

    problem = it.Problem(A(exact), A)
    began = time.process_time()
    solution = it.solve(
        problem,
        None,
        solver,
        initial=torch.zeros_like(b),
        tolerance=tolerance,
        max_iterations=2000,
        progress=False,
    )
    seconds = time.process_time() - began
    it.solve(
        problem,
        None,
        solver,
        initial=torch.zeros_like(b),
        tolerance=tolerance,
        max_iterations=2000,
        progress=False,
        callbacks=(watch,),
    )
    last = torch.full((len(b),), torch.inf, dtype=torch.float64)
    decreases = True
    for k, (running, error) in enumerate(errors):
        going = solution.iterations[running] > k  # a finished item stays in the batch for a while
        decreases &= bool((error < last[running])[going].all())
        last[running] = error
    assert set(solution.status) == {"converged"}, solution.status
    return float(solution.iterations.double().mean()), decreases, seconds


def main(
    items: int = 8,
    steps: tuple[int, int] = (700, 200),
    folder: Path | None = None,
    threads: int = 1,
) -> None:
    """Run the benchmark.

    Args:
        steps: steps of the training, at learning rates 2e-3 and 2e-4
        folder: folder of checkpoints, from which a later run continues
    """
    torch.set_num_threads(threads)
    it.training.keep_freed_memory()
    print(machine(), flush=True)
    n = SIZES[0]
    began, cpu = time.perf_counter(), time.process_time()
    learned = it.training.train_direction(
        it.Problem(torch.zeros(1, 1, 2 * n * (n + 1)), SlopesToZero(n)),
        seed=1,
        folder=folder,
        stages=[(steps[0], 2e-3), (steps[1], 2e-4)],
        progress=False,
    )
    weights = sum(p.numel() for p in learned.network.parameters())
    print(
        f"trained on {n}x{n}: {weights} weights, {sum(steps)} steps, "
        f"{time.perf_counter() - began:.0f} s, of which {time.process_time() - cpu:.0f} s on the "
        "processor",
        flush=True,
    )
    rows = {
        "conjugate gradients": ConjugateGradient(),
        "learned": ConjugateGradient(direction=learned),
    }
    for count in (5, 0):
        rows[f"learned, conjugate to {count or 'none'}"] = ConjugateGradient(
            direction=LearnedDirection(learned.network, count)
        )
    columns = [f"{kind} {size}" for size in SIZES for kind in KINDS]
    found: dict[tuple[str, float], list[tuple[float, bool, float]]] = {}
    for tolerance in (1e-4, 1e-8):
        print(
            f"{f'iterations to {tolerance:g}':32}" + "".join(f"{column:>18}" for column in columns)
        )
        for name, solver in rows.items():
            cells = [
                solved(right_sides(kind, size, items), solver, tolerance)
                for size in SIZES
                for kind in KINDS
            ]
            found[name, tolerance] = cells
            print(
                f"{name:32}"
                + "".join(f"{f'{steps:.1f} ({seconds:.2f} s)':>18}" for steps, _, seconds in cells),
                flush=True,
            )
    plain, quick = found["conjugate gradients", 1e-4], found["learned", 1e-4]
    for k, column in enumerate(columns):
        share = quick[k][0] / plain[k][0]
        print(
            f"{column}: {share:.2f} of the iterations of conjugate gradients",
            verdict(share <= 0.25, "at most a quarter"),
        )
    for tolerance in (1e-4, 1e-8):
        pairs = list(
            zip(found["learned, conjugate to none", tolerance], found["learned", tolerance])
        )
        more = sum(loose[0] > tight[0] for loose, tight in pairs)
        print(
            f"to {tolerance:g}, without conjugation: more iterations in {more} of {len(pairs)} "
            "columns",
            verdict(more == len(pairs), "in every one"),
        )
    print(
        "error in the norm of the system",
        verdict(
            all(row[1] for cells in found.values() for row in cells), "decreases at every step"
        ),
    )


if __name__ == "__main__":
    run_script(main)
