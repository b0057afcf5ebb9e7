"""PALM: the image and the operator's unknowns by turns; and the simplex, the prior of a blur kernel."""

from __future__ import annotations

import pytest
import torch

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.testing import check_prior


def picture(n: int = 32) -> torch.Tensor:
    grid = torch.linspace(-1, 1, n)
    disc = (torch.hypot(grid[:, None], grid[None, :]) < 0.6).float()
    return (0.2 + 0.6 * disc + 0.2 * ((grid[:, None] > 0.2) & (grid[None, :] > -0.1)).float())[
        None, None
    ]


KERNEL = (
    torch.tensor([[0.0, 0.1, 0.0, 0.0, 0.0], [0.0, 0.2, 0.2, 0.1, 0.0], [0.0, 0.0, 0.2, 0.1, 0.1]])
    / 1.0
)


def blind(noise: float = 0.002) -> it.Problem:
    y = it.operators.Blur(KERNEL, (32, 32)).simulate(picture(), noise, seed=0)
    start = torch.full((3, 5), 1 / 15)
    return it.Problem(
        y,
        it.operators.Blur(start, (32, 32)),
        it.data_terms.LeastSquares(noise_std=noise),
        unknown={"kernel": it.priors.Simplex()},
    )


def test_simplex_contract() -> None:
    x = torch.randn(3, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    assert check_prior(it.priors.Simplex(), x).ok


def test_the_projection_is_the_nearest_point() -> None:
    x = torch.randn(2, 2, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    p = it.priors.Simplex(2.0).prox(x, 1.0)
    assert bool((p >= 0).all())
    torch.testing.assert_close(p.sum(2), torch.full((2, 2), 2.0, dtype=torch.float64))
    # <x - p, q - p> <= 0 for every q of the simplex: it is enough to look at its corners.
    for corner in 2.0 * torch.eye(6, dtype=torch.float64):
        assert bool((((x - p) * (corner - p)).sum(2) <= 1e-12).all())


def test_a_blind_kernel_is_found_and_nothing_ever_increases() -> None:
    problem = blind()
    solution = it.solve(
        problem,
        it.priors.TotalVariation(lower=0.0),
        regularization=60.0,
        max_iterations=300,
        progress=False,
    )
    assert "PALM was chosen" in solution.reason
    objective = solution.history["objective"][:, 0]
    assert bool((objective.diff() <= 1e-4 * objective[:-1].abs()).all())
    assert solution.parameters is not None and solution.problem is not None
    kernel = solution.parameters["kernel"][0, 0]
    assert float(kernel.min()) >= 0 and abs(float(kernel.sum()) - 1) < 1e-5
    start = torch.full((3, 5), 1 / 15)
    assert float((kernel - KERNEL).norm()) < 0.5 * float((start - KERNEL).norm())
    assert (
        float(it.metrics.psnr(solution.x, picture()))
        > float(it.metrics.psnr(problem.y, picture())) + 1.5
    )


def test_items_do_not_mix() -> None:
    both = it.Problem(
        blind().y.repeat(2, 1, 1, 1) * torch.tensor([1.0, 0.5]).view(2, 1, 1, 1),
        blind().operator,
        it.data_terms.LeastSquares(noise_std=torch.tensor([0.002, 0.001])),
        unknown={"kernel": it.priors.Simplex()},
    )
    settings = dict(
        prior=it.priors.TotalVariation(),
        solver=it.solvers.PALM(),
        regularization=60.0,
        max_iterations=5,
        progress=False,
    )
    together = it.solve(both, **settings)
    for k in range(2):
        alone = it.solve(both.select(torch.tensor([k])), **settings)
        torch.testing.assert_close(alone.x, together.x[k : k + 1], rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_is_told() -> None:
    known = it.Problem(blind().y, blind().operator)
    with pytest.raises(InputError, match="use ProximalGradient"):
        it.solve(
            known, it.priors.TotalVariation(), it.solvers.PALM(), regularization=1.0, progress=False
        )
    with pytest.raises(InputError, match="one prior of x by its proximal operator"):
        it.solve(
            blind(),
            it.priors.TotalVariation() + it.priors.NonNegative(),
            it.solvers.PALM(),
            regularization=1.0,
            progress=False,
        )
