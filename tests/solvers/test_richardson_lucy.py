"""Richardson-Lucy: its own recursion, scikit-image, the rule for its end, acceleration and priors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.data_terms.poisson import expected_deviance
from invtoolbox.solvers import OSEM, PDHG, RichardsonLucy
from invtoolbox.testing import check_solver

KERNEL = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0])
KERNEL = KERNEL[:, None] * KERNEL / KERNEL.sum() ** 2


def counts(
    peak: float = 100.0, seeds: tuple[int, ...] = (0, 1), background: float = 0.0
) -> it.Problem:
    A = it.operators.Blur(KERNEL, (24, 24), boundary="zero")
    clean = (peak * A(boxes()) + background).clamp_min(0)
    y = torch.cat([torch.poisson(clean, generator=torch.Generator().manual_seed(s)) for s in seeds])
    return it.Problem(y, A, it.data_terms.Poisson(background))


def boxes() -> Tensor:
    x = torch.zeros(1, 1, 24, 24)
    x[..., 6:16, 5:9], x[..., 9:12, 14:20] = 1.0, 0.5
    return x


def run(problem: it.Problem, solver: RichardsonLucy, **settings: object) -> it.Solution:
    return it.solve(problem, solver=solver, progress=False, check=False, **settings)


def test_the_recursion_in_float64() -> None:
    problem = counts(background=0.5).to(dtype=torch.float64)
    A, y = problem.operator, problem.y
    x = torch.ones_like(y)
    for _ in range(30):
        x = x * A.adjoint(y / (A(x) + 0.5)) / A.adjoint(torch.ones_like(y))
    start = torch.ones_like(x)
    for solver in (RichardsonLucy(tau=0), OSEM()):
        ours = run(problem, solver, initial=start, max_iterations=30, tolerance=0.0).x
        torch.testing.assert_close(ours, x, rtol=1e-12, atol=0)
    single = run(counts(background=0.5), RichardsonLucy(tau=0), max_iterations=30, tolerance=0.0)
    plain = run(problem, RichardsonLucy(tau=0), max_iterations=30, tolerance=0.0)
    assert float((single.x - plain.x).abs().max() / plain.x.max()) < 1e-5


def test_agrees_with_scikit_image_far_from_the_border() -> None:
    restoration = pytest.importorskip("skimage.restoration")
    generator = torch.Generator().manual_seed(0)
    kernel = torch.rand(3, 3, 3, generator=generator)
    kernel = kernel / kernel.sum()
    y = torch.rand(1, 1, 24, 24, 24, generator=generator) + 0.1
    theirs = restoration.richardson_lucy(y[0, 0].numpy(), kernel.numpy(), num_iter=4, clip=False)
    problem = it.Problem(
        y, it.operators.Blur3D(kernel, (24, 24, 24), "zero"), it.data_terms.Poisson()
    )
    start = torch.full_like(y, 0.5)
    ours = run(problem, RichardsonLucy(tau=0), initial=start, max_iterations=4, tolerance=0.0).x
    inner = (slice(9, -9),) * 3
    np.testing.assert_allclose(ours[0, 0].numpy()[inner], theirs[inner], rtol=1e-4)


def test_expected_deviance_is_that_of_draws() -> None:
    mean = torch.tensor([0.01, 0.3, 1.0, 5.0, 29.0, 31.0, 200.0], dtype=torch.float64)[:, None]
    y = torch.poisson(mean.expand(-1, 200_000), generator=torch.Generator().manual_seed(0))
    drawn = 2 * (mean - y + torch.xlogy(y, y) - torch.xlogy(y, mean)).mean(1)
    torch.testing.assert_close(expected_deviance(mean)[:, 0], drawn, rtol=2e-2, atol=1e-3)
    assert float(expected_deviance(torch.zeros(1))) == 0


@pytest.mark.parametrize("peak", [3.0, 300.0])
def test_it_stops_at_the_deviance_of_the_noise(peak: float) -> None:
    problem = counts(peak)
    solution = run(problem, RichardsonLucy(max_iterations=2000))
    assert solution.status == ("early_stopping", "early_stopping")
    late = run(problem, RichardsonLucy(tau=0), max_iterations=600, tolerance=0.0).x
    errors = [(x / peak - boxes()).flatten(1).norm(dim=1) for x in (solution.x, late)]
    assert bool((errors[0] < errors[1]).all())


def test_acceleration_needs_fewer_iterations() -> None:
    problem = counts(300.0)
    plain = run(problem, RichardsonLucy(tau=0), max_iterations=200, tolerance=0.0)
    fast = run(problem, RichardsonLucy(tau=0, accelerated=True), max_iterations=50, tolerance=0.0)
    assert bool((fast.history["objective"][-1] < plain.history["objective"][-1]).all())
    assert float(fast.x.min()) >= 0


def test_damping_leaves_flat_parts_flat() -> None:
    A = it.operators.Blur(KERNEL, (24, 24), boundary="reflect")
    clean = torch.full((1, 1, 24, 24), 50.0)
    y = torch.poisson(clean, generator=torch.Generator().manual_seed(0))
    problem = it.Problem(y, A, it.data_terms.Poisson())
    plain, damped = (
        run(problem, RichardsonLucy(tau=0, damping=d), max_iterations=50, tolerance=0.0).x
        for d in (0.0, 3.0)
    )
    assert float(damped.std()) < 0.3 * float(plain.std())


def test_total_variation_lowers_its_objective() -> None:
    problem, weight = counts(100.0), 0.03
    prior = it.priors.TotalVariation()
    solver = RichardsonLucy(tau=0, max_iterations=250)
    ours = it.solve(problem, prior, solver, weight, tolerance=0.0, progress=False).x
    bounded = prior + it.priors.NonNegative()
    wanted = it.solve(problem, bounded, PDHG(tolerance=1e-3), weight, progress=False).x
    plain = run(problem, RichardsonLucy(tau=0, max_iterations=250), tolerance=0.0).x
    values, least, before = (
        problem.data_term.value(problem.operator(x), problem.y) + weight * prior.energy(x)
        for x in (ours, wanted, plain)
    )
    assert bool((values < least + 0.1 * (before - least)).all())


@pytest.mark.parametrize(
    "prior",
    [
        it.priors.TotalVariation() + it.priors.TotalVariation(isotropic=False),
        it.priors.TotalVariation(coupled=True),
        it.priors.TotalVariation(upper=5.0),
    ],
)
def test_other_variations_go_to_another_solver(prior: it.priors.Prior) -> None:
    A = it.operators.Blur3D(torch.ones(1, 3, 3) / 9, (1, 12, 12))
    y = torch.poisson(
        torch.full((1, 1, 1, 12, 12), 9.0), generator=torch.Generator().manual_seed(0)
    )
    problem = it.Problem(y, A, it.data_terms.Poisson())
    with pytest.raises(it.InputError, match="takes one total variation"):
        it.solve(problem, prior, RichardsonLucy(), 0.1, progress=False)
    chosen = it.solve(problem, prior, regularization=0.1, max_iterations=3, progress=False)
    assert "RichardsonLucy" not in chosen.solver


def test_short_steps_under_a_strong_variation_are_no_convergence() -> None:
    """Steps without acceleration are short where the bound is steep, far from the minimum."""
    y = torch.full((1, 1, 1, 16, 16), 2.0)
    y[..., 4:12, 4:12] = 40.0
    A = it.operators.Blur3D(torch.ones(1, 1, 1), (1, 16, 16))
    problem, prior = it.Problem(y, A, it.data_terms.Poisson()), it.priors.TotalVariation()
    near, far = (
        it.solve(problem, prior, solver, 0.5, max_iterations=count, progress=False)
        for solver, count in (
            (RichardsonLucy(tau=0, accelerated=True), 400),
            (RichardsonLucy(tau=0, tolerance=1e-3), 200),
        )
    )
    assert float((far.x - near.x).norm() / near.x.norm()) > 0.2
    assert far.status == ("limit",)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(it.InputError, match="no prior but NonNegative and TotalVariation"):
        it.solve(counts(), it.priors.L1(), RichardsonLucy(), 1.0)
    with pytest.raises(it.InputError, match="tau, damping and smoothing that are not"):
        it.solve(counts(), solver=RichardsonLucy(tau=-1.0))
    least_squares = it.Problem(torch.ones(1, 1, 4), it.operators.Identity((1, 4)))
    with pytest.raises(it.InputError, match="Poisson data term of emission"):
        it.solve(least_squares, solver=RichardsonLucy())


@pytest.mark.parametrize("solver", [RichardsonLucy(), RichardsonLucy(0, 0.0, 0, True, 2.0)])
def test_check_solver(solver: RichardsonLucy) -> None:
    assert check_solver(solver, counts(), it.priors.NonNegative(), iterations=12).ok
