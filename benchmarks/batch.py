"""A batch of 16 different problems compared with 16 single runs: equal answers, and the time.

    python benchmarks/batch.py

Every item has its own noise level and its own weight. TV deblurring and TV tomography at 64x64 and
256x256 by PDHG, FISTA and ADMM: with a fixed number of iterations, and with a stopping test per
item. Single runs and batch take turns; the median counts.
"""

from __future__ import annotations

import torch
from common import alternating, machine, verdict

import invtoolbox as it

ITEMS = 16


def problems(kind: str, size: int) -> tuple[it.Problem, torch.Tensor]:
    """Create 16 discs of different radii, each with its own noise level and weight."""
    grid = torch.linspace(-1, 1, size)
    radius = torch.hypot(grid[:, None], grid[None, :])
    x = torch.stack(
        [(radius < 0.3 + 0.03 * k).float() + 0.5 * (radius < 0.2) for k in range(ITEMS)]
    )[:, None]
    if kind == "blur":
        line = torch.linspace(-1, 1, 9)
        kernel = torch.exp(-2 * (line[:, None] ** 2 + line[None, :] ** 2))
        A = it.operators.Blur(kernel / kernel.sum(), (size, size))
    else:
        A = it.operators.ParallelBeam((size, size), torch.arange(60) * torch.pi / 60, size * 3 // 2)
    clean = A(x)
    noise_std = (0.005 + 0.002 * torch.arange(ITEMS)) * clean.flatten(1).amax(1)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    problem = it.Problem(
        clean + noise_std.view(-1, 1, 1, 1) * noise,
        A,
        it.data_terms.LeastSquares(noise_std=noise_std),
    )
    return problem, torch.logspace(0, 1.5, ITEMS)


def main() -> None:
    torch.set_num_threads(2)
    print(machine())
    prior = it.priors.TotalVariation()
    for kind, size, bar in (
        ("blur", 64, 0.5),
        ("CT", 64, 0.5),
        ("blur", 256, 1.0),
        ("CT", 256, 1.0),
    ):
        problem, weight = problems(kind, size)
        lone = [problem.select(torch.tensor([k])) for k in range(ITEMS)]
        for solver in (it.solvers.PDHG(), it.solvers.FISTA(), it.solvers.ADMM()):
            # At 256x256 an iteration of FISTA or ADMM, with its inner iteration, costs ten times
            # PDHG's.
            steps = 30 if size == 64 or isinstance(solver, it.solvers.PDHG) else 6

            def together(
                iterations: int,
                tolerance: float,
                solver: it.solvers.Solver = solver,
                problem: it.Problem = problem,
                weight: torch.Tensor = weight,
            ) -> torch.Tensor:
                return it.solve(
                    problem,
                    prior,
                    solver,
                    regularization=weight,
                    max_iterations=iterations,
                    tolerance=tolerance,
                    progress=False,
                ).x

            def apart(
                iterations: int,
                tolerance: float,
                solver: it.solvers.Solver = solver,
                lone: list[it.Problem] = lone,
                weight: torch.Tensor = weight,
            ) -> torch.Tensor:
                return torch.cat(
                    [
                        it.solve(
                            p,
                            prior,
                            solver,
                            regularization=w,
                            max_iterations=iterations,
                            tolerance=tolerance,
                            progress=False,
                        ).x
                        for p, w in zip(lone, weight)
                    ]
                )

            name = f"{kind:4s} {size:3d}x{size:<3d} {type(solver).__name__:5s}"
            fixed = difference(together(steps, 0.0), apart(steps, 0.0))
            print(
                f"{name} largest relative difference: {fixed:.1e} at {steps} iterations "
                f"{verdict(fixed <= 1e-5, '1e-5')}",
                end="",
            )
            if size == 64 or (kind == "blur" and steps == 30):
                stopped = difference(together(1000, 1e-3), apart(1000, 1e-3))
                print(
                    f", {stopped:.1e} with stopping "
                    f"{verdict(stopped <= 1e-2, '10 tolerances, 1e-2')}",
                    end="",
                )
            print(flush=True)
            seconds = alternating(
                {"batch": lambda n=steps: together(n, 0.0), "apart": lambda n=steps: apart(n, 0.0)},
                repeats=3,
            )
            ratio = seconds["batch"] / seconds["apart"]
            print(
                f"{name} {steps} iterations: batch {seconds['batch']:.2f} s, apart "
                f"{seconds['apart']:.2f} s, ratio {ratio:.2f} "
                f"{verdict(ratio <= bar, f'at most {bar}')}",
                flush=True,
            )


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(((a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).max())


if __name__ == "__main__":
    main()
