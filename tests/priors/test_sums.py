"""Sums with constraints: every solver that takes several priors at once finds the same minimizer, and the constraint holds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.priors import L1, Box, GroupL1, NuclearNorm, Prior, TotalVariation
from invtoolbox.solve import bind

SHAPE = (2, 6, 7)


def problem() -> it.Problem:
    generator = torch.Generator().manual_seed(0)
    truth = torch.zeros(2, *SHAPE, dtype=torch.float64)
    truth[..., 1:4, 2:6] = torch.tensor([1.0, 1.4]).view(2, 1, 1, 1)
    A = it.operators.Blur(torch.ones(3, 3, dtype=torch.float64) / 9, SHAPE)
    return it.Problem(
        A(truth) + 0.1 * torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64), A
    )


SUMS: dict[str, Prior] = {
    "tv + box + l1": 0.1 * TotalVariation() + Box(0.0, 1.1) + 0.02 * L1(),
    "coupled tv + box + l1": 0.1 * TotalVariation(coupled=True)
    + Box(0.0, torch.tensor([0.9, 1.2]))
    + 0.02 * L1(),
    "nuclear + group + box": 0.2 * NuclearNorm() + 0.05 * GroupL1() + Box(0.0, None),
}

#: Other solvers that say they take any number of priors with a prox.
SOLVERS = [
    it.solvers.ADMM(relaxation=1.6),
    it.solvers.CondatVu(),
    it.solvers.PDHG(relaxation=1.0, adaptive=False),
]


def reference(prior: Prior) -> Tensor:
    x = it.solve(
        problem(),
        prior,
        it.solvers.PDHG(),
        1.0,
        tolerance=1e-6,
        max_iterations=4000,
        progress=False,
    ).x
    return x


# The coupled variation is another term of the same sum.
@pytest.mark.parametrize(
    "name",
    [pytest.param(k, marks=pytest.mark.slow if "coupled" in k else ()) for k in SUMS],
)
def test_every_solver_finds_the_same_minimizer(name: str) -> None:
    prior = SUMS[name]
    expected = reference(prior)
    objective, _, _ = bind(problem(), prior.as_sum(), 1.0)
    best = objective.value(expected)
    assert bool(best.isfinite().all())
    for solver in SOLVERS:
        assert solver.unsupported_reason(objective) is None, solver
        x = it.solve(
            problem(), prior, solver, 1.0, tolerance=1e-5, max_iterations=3000, progress=False
        ).x
        torch.testing.assert_close(
            x, expected, rtol=0, atol=2e-3, msg=lambda text, s=solver: f"{s}: {text}"
        )
        assert bool((objective.value(x) <= best + 1e-5 * best.abs()).all())


def test_nothing_near_is_better() -> None:
    """The reference itself, against feasible neighbours: towards the data, towards 0, and anywhere."""
    prior = SUMS["tv + box + l1"]
    x = reference(prior)
    objective, _, _ = bind(problem(), prior.as_sum(), 1.0)
    best = objective.value(x)
    generator = torch.Generator().manual_seed(1)
    for size in (1e-3, 1e-2, 0.1):
        for other in (
            problem().y,
            torch.zeros_like(x),
            *(torch.randn(x.shape, generator=generator, dtype=x.dtype) for _ in range(10)),
        ):
            assert bool(
                (objective.value((x + size * (other - x)).clamp(0.0, 1.1)) >= best - 1e-6).all()
            )


def test_a_joint_prox_and_the_sum_are_one_problem() -> None:
    """Bounds that are a setting of the prior, against the same bounds as a prior of their own."""
    for joint, parts in (
        (TotalVariation(lower=0.0, upper=1.1, tolerance=1e-7), TotalVariation() + Box(0.0, 1.1)),
        (L1(0.0, 1.1), L1() + Box(0.0, 1.1)),
    ):
        x = it.solve(
            problem(),
            joint,
            it.solvers.FISTA(),
            0.1,
            tolerance=1e-6,
            max_iterations=300,
            progress=False,
        ).x
        y = it.solve(
            problem(),
            parts,
            it.solvers.PDHG(),
            0.1,
            tolerance=1e-6,
            max_iterations=3000,
            progress=False,
        ).x
        torch.testing.assert_close(x, y, rtol=0, atol=1e-3)
        assert float(x.min()) >= 0 and float(x.max()) <= 1.1


def test_one_prox_is_one_prox() -> None:
    """A solver with room for one prior without derivative says so, and names what to do."""
    with pytest.raises(it.errors.InputError, match="bounds count as one"):
        it.solve(problem(), L1() + Box(0, 1), it.solvers.FISTA(), 0.1, progress=False)


@pytest.mark.parametrize("upper", [1.1, torch.tensor([0.9, 1.2])])
def test_total_variation_and_bounds_are_one_prox(upper: float | Tensor) -> None:
    """Proximal gradient solves the sum as one prior, and finds what PDHG finds for two."""
    prior = 0.1 * TotalVariation(lower=0.2) + Box(None, upper)
    x = it.solve(
        problem(),
        prior,
        it.solvers.FISTA(max_iterations=2000),
        tolerance=1e-7,
        progress=False,
    ).x
    y = it.solve(
        problem(),
        0.1 * TotalVariation() + Box(0.2, upper),
        it.solvers.PDHG(max_iterations=5000),
        tolerance=1e-6,
        progress=False,
    ).x
    torch.testing.assert_close(x, y, rtol=0, atol=2e-3)
    limit = torch.as_tensor(upper, dtype=x.dtype).view(-1, 1, 1, 1)
    assert float(x.min()) >= 0.2 and bool((x <= limit + 1e-12).all())


@pytest.mark.filterwarnings("ignore:3 readings are hot")  # rays along the edge of a half plane
def test_bounds_per_pixel_are_kept_from_coarser_grids() -> None:
    """A tensor of the user has the shape of his grid, so a solver that coarsens leaves it alone."""
    A = it.operators.ParallelBeam((128, 128), torch.linspace(0, 3, 20), 128)
    upper = torch.full((1, 1, 128, 128), 0.5)
    upper[..., :64] = 0
    y = A(upper)
    prior = 0.1 * TotalVariation() + Box(0.0, upper)
    solution = it.solve(it.Problem(y, A), prior, max_iterations=3, progress=False)
    assert solution.solver.startswith("PDHG")
    assert bool((solution.x <= upper + 1e-4).all())
