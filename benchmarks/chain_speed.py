"""SK-ROCK against MYULA on a deblurring with total variation: effective draws per operator application.

    python benchmarks/chain_speed.py [--size 128] [--budget 36000] [--stages 15]

The photograph of a cameraman with a box blur of 5 pixels (periodic) and noise of 0.5 %, the weight
0.6 / noise_std of total variation. Both chains have the density of one envelope, l = 1 / L. The
slow directions are the Fourier modes that the blur passes least, ten of them as a cosine and a
sine, 20 directions: along them the data have the least curvature. The effective sample size of a
direction is that of its coefficient at every step after a quarter of the budget. An application is
one of A or of A^T, counted at the operator. The bias is that of the mean of the squares of the
coefficients, relative to their mean over both runs.
"""

from __future__ import annotations

import time

import torch
from common import machine, run_script, verdict
from torch import Tensor

import invtoolbox as it
from invtoolbox.posteriors.diagnostics import effective_sample_size, standard_error


class Counted(it.operators.Blur):
    """A blur that counts its applications and those of its adjoint."""

    count = 0

    def _forward(self, x: Tensor) -> Tensor:
        type(self).count += len(x)
        return super()._forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        type(self).count += len(y)
        return super()._adjoint(y)


def main(
    size: int = 128, budget: int = 36_000, stages: int = 15, share: float = 0.8, threads: int = 1
) -> None:
    """Print one row per chain, and the ratio.

    Args:
        size: number of rows and columns of the picture
        budget: number of applications of the operator or its adjoint per chain
        stages: stages of SK-ROCK
        share: step of SK-ROCK in its longest stable step
        threads: number of torch's threads
    """
    torch.set_num_threads(threads)
    print(f"{machine()}; {size} x {size}, {budget} applications per chain")
    truth = it.datasets.photograph("camera")
    corner = (truth.shape[-1] - size) // 2
    truth = truth[..., corner : corner + size, corner : corner + size]
    noise_std = 0.005
    A = Counted(torch.ones(5, 5) / 25, (size, size), boundary="periodic")
    y = A.simulate(truth, noise=noise_std, seed=0)
    problem = it.Problem(y, A, it.data_terms.LeastSquares(noise_std=noise_std))
    prior, weight = it.priors.TotalVariation(), 0.6 / noise_std
    start = it.solve(problem, prior, regularization=weight, progress=False).x
    directions = slow_modes(A, size)
    from invtoolbox.solvers.moreau_yosida import chebyshev

    stiffest = 2 * float(A.norm()) ** 2 / noise_std**2
    rows = {}
    for name, solver, steps in (
        ("MYULA", it.solvers.MYULA(burn_in=0, tolerance=0.0), budget // 2),
        (
            "SK-ROCK",
            it.solvers.SKROCK(
                burn_in=0,
                tolerance=0.0,
                stages=stages,
                step_size=share * chebyshev(stages).longest / stiffest,
            ),
            budget // (2 * (stages + 1)),
        ),
    ):
        values: list[Tensor] = []
        moments: list[Tensor] = []

        def record(
            progress: it.Progress, values: list[Tensor] = values, moments: list[Tensor] = moments
        ) -> None:
            values.append(directions @ progress.x.flatten().double())
            moments.append(progress.x.flatten())

        Counted.count, begun = 0, time.perf_counter()
        it.solve(
            problem,
            prior,
            solver,
            weight,
            initial=start,
            max_iterations=steps,
            progress=False,
            callbacks=[record],
        )
        seconds, applications = time.perf_counter() - begun, Counted.count
        draws = torch.stack(values[steps // 4 :])[None]
        numbers = effective_sample_size(draws)
        deviation = torch.stack(moments[steps // 4 :: max(1, steps // 500)]).std(0).mean()
        rows[name] = (draws, numbers, applications, float(deviation))
        print(
            f"{name}: {steps} steps, {applications} applications, {seconds:.0f} s; effective draws of "
            f"the 20 directions: least {float(numbers.min()):.1f}, median "
            f"{float(numbers.median()):.1f}; mean deviation of a pixel {float(deviation):.5f}",
            flush=True,
        )
    (slow, n_slow, a_slow, d_slow), (fast, n_fast, a_fast, d_fast) = rows.values()
    ratio = float(n_fast.min() / a_fast) / float(n_slow.min() / a_slow)
    squares = [(draws - start_of(slow, fast)).square() for draws in (slow, fast)]
    means = [square.mean() for square in squares]
    error = sum(standard_error(square).square().sum() for square in squares).sqrt() / 20
    bias = float((means[1] - means[0]).abs() / (0.5 * (means[0] + means[1])))
    print(
        f"least effective draws per application: SK-ROCK {ratio:.1f} times those of MYULA "
        f"{verdict(ratio >= 5, 'at least 5')}"
    )
    print(
        f"mean square of the coefficients: {100 * bias:.1f} % apart, Monte-Carlo error "
        f"{100 * float(error / means[0]):.1f} % {verdict(bias <= 0.01, 'at most 1 %')}"
    )
    # The norm of 20 coefficients of a picture, in the norm of their mean.
    centres = [draws.mean((0, 1)) for draws in (slow, fast)]
    spread = slow.flatten(0, 1).std(0).norm()
    print(
        f"mean of the coefficients: {100 * float((centres[1] - centres[0]).norm() / spread):.1f} % "
        "of their deviation apart"
    )
    print(f"deviation of a pixel: SK-ROCK {d_fast / d_slow:.2f} times that of MYULA")


def start_of(*draws: Tensor) -> Tensor:
    """Return the mean of the coefficients over both chains."""
    return torch.stack([draw.mean((0, 1)) for draw in draws]).mean(0)


def slow_modes(A: it.operators.Blur, size: int) -> Tensor:
    """Return the 20 directions of the ten frequencies that the blur passes least, ``(20, n)``."""
    impulse = torch.zeros(1, 1, size, size)
    impulse[..., 0, 0] = 1
    gain = torch.fft.fft2(A(impulse))[0, 0].abs()
    # One of each pair of opposite frequencies; without the columns 0 and size / 2.
    inner = gain[:, 1 : size // 2]
    places = inner.flatten().argsort()[:10]
    rows, columns = places // inner.shape[1], places % inner.shape[1] + 1
    grid = torch.arange(size, dtype=torch.float64) * (2 * torch.pi / size)
    modes = []
    for row, column in zip(rows, columns):
        phase = grid[:, None] * row + grid[None, :] * column
        modes += [phase.cos().flatten(), phase.sin().flatten()]
    directions = torch.stack(modes)
    return directions / directions.norm(dim=1, keepdim=True)


if __name__ == "__main__":
    run_script(main)
