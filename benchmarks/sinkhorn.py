"""Least squares and the Sinkhorn divergence: the basin of a position, and seconds of a value.

    python benchmarks/sinkhorn.py

Basin: the unknown is the position of a Gaussian blob of width 2 pixels in an image of 64x64. The
measured blob is 2 to 40 pixels away, along a diagonal. L-BFGS (at most 30 iterations) and gradient
descent (at most 50) find the position by least squares, or by the Sinkhorn divergence with a blur
of 1 or 3 pixels. A position within 0.1 pixels counts as found. The largest distance is printed up to
which every position was found. With a constant background of 0.1 % of the peak in both images, a
blur of 3 pixels only.
Seconds: one value with its gradient, of two smooth random images. All seconds are processor time of
one thread.
"""

from __future__ import annotations

import time

import torch
from common import machine
from torch import Tensor

import invtoolbox as it
from invtoolbox.data_terms import DataTerm, LeastSquares, Sinkhorn

#: Pixels per side, width of the blob, and distances between start and truth, in pixels.
SIDE, WIDTH, DISTANCES = 64, 2.0, (2, 3, 4, 5, 6, 8, 10, 15, 20, 25, 30, 35, 40)
TERMS = {
    "least squares": LeastSquares(),
    "Sinkhorn, blur 1": Sinkhorn(1.0),
    "Sinkhorn, blur 3": Sinkhorn(3.0),
}
SOLVERS = {
    "L-BFGS": it.solvers.LBFGS(max_iterations=30),
    "gradient descent": it.solvers.GradientDescent(max_iterations=50),
}


def blob(place: Tensor, background: float) -> Tensor:
    """Return images ``(batch, 1, side, side)`` of blobs at places ``(batch, 1, 1, 2)``."""
    axis = torch.arange(SIDE, dtype=place.dtype)
    squared = (axis - place[..., :1]).square()[..., None] + (axis - place[..., 1:]).square()
    return torch.exp(-squared.view(-1, 1, SIDE, SIDE) / (2 * WIDTH**2)) + background


def basin(term: DataTerm, solver: it.solvers.Solver, background: float) -> tuple[int, float, int]:
    """Return the largest distance of a run of successes, its error, and its iterations."""
    A = it.as_operator(lambda z: blob(z, background), (1, 1, 2))
    direction = torch.tensor([0.8, 0.6], dtype=torch.float64)
    reached = (0, 0.0, 0)
    for distance in DISTANCES:
        start = torch.full((2,), 31.5, dtype=torch.float64) - direction * distance / 2
        truth = start + direction * distance
        problem = it.Problem(blob(truth.view(1, 1, 1, 2), background), A, term)
        solution = it.solve(
            problem, solver=solver, initial=start.view(1, 1, 1, 2), progress=False, check=False
        )
        error = float((solution.x.flatten() - truth).norm())
        if not error < 0.1:
            break
        reached = (distance, error, int(solution.iterations.max()))
    return reached


def smooth(side: int, seed: int) -> Tensor:
    noise = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(seed)).square()
    return torch.nn.functional.avg_pool2d(noise, 9, 1, 4)


def main() -> None:
    torch.set_num_threads(1)
    print(machine())
    for background in (0.0, 0.001):
        print(f"background {background:g} of the peak")
        for name, term in TERMS.items():
            if background and name == "Sinkhorn, blur 1":
                continue
            for method, solver in SOLVERS.items():
                began = time.process_time()
                distance, error, iterations = basin(term, solver, background)
                print(
                    f"  {name}, {method}: found from {distance} pixels, error {error:.4f}, "
                    f"{iterations} iterations; {time.process_time() - began:.1f} s for all distances",
                    flush=True,
                )
    for side in (64, 256):
        p, y = smooth(side, 0), smooth(side, 1)
        for name, term in TERMS.items():
            began = time.process_time()
            term.value_and_grad(p, y)
            print(f"{side}x{side}, {name}: {time.process_time() - began:.4f} s", flush=True)


if __name__ == "__main__":
    main()
