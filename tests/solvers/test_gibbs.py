"""Gibbs sampling against closed forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.core.reductions import independent_items
from invtoolbox.solve import bind
from invtoolbox.solvers.gibbs import Numbers


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_inverse_gaussian_draws_have_their_moments() -> None:
    problem = it.Problem(torch.zeros(1, 1, 4), it.operators.Identity((1, 4)))
    objective, _, _ = bind(problem, it.priors.L1().as_sum(), 1.0)
    numbers = Numbers(objective, 1)
    mean, shape = torch.full((1, 200_000), 1.5), torch.full((1, 200_000), 2.0)
    draws = numbers.inverse_gaussian(mean, shape)
    assert float(draws.mean()) == pytest.approx(1.5, rel=0.01)
    assert float(draws.var()) == pytest.approx(1.5**3 / 2.0, rel=0.04)  # m^3 / shape
    assert float((1 / draws).mean()) == pytest.approx(1 / 1.5 + 1 / 2.0, rel=0.01)
    extreme = numbers.inverse_gaussian(torch.tensor([[1e8, 1e-8]]), torch.ones(1, 2))
    assert bool((extreme > 0).all() and extreme.isfinite().all())


def test_a_gaussian_is_drawn_exactly() -> None:
    """With fixed weight and noise the image has the density of the exact posterior."""
    A: Any = it.operators.Blur(torch.tensor([[0.25, 0.5, 0.25]]), (1, 5))
    y = normal(1, 1, 1, 5)
    problem = it.Problem(y, A, it.data_terms.LeastSquares(noise_std=0.3))
    prior = it.priors.Tikhonov(reference=torch.full((1, 1, 1, 5), 0.5))
    exact = it.solve(problem, prior, regularization=4.0, progress=False)
    solver = it.solvers.Gibbs(
        fixed_weight=4.0, max_iterations=900, burn_in=10, tolerance=1e-9, inner_iterations=7
    )
    drawn = it.solve(problem, prior, solver, progress=False)
    assert exact.posterior is not None and drawn.posterior is not None
    std = exact.posterior.std
    assert float(((drawn.x - exact.x) / std).abs().max()) < 0.1
    torch.testing.assert_close(drawn.posterior.std, std, rtol=0.06, atol=0)
    assert bool(drawn.posterior.noise_std.isnan().all() and drawn.posterior.weight.isnan().all())


def test_norms_are_drawn_exactly() -> None:
    """Without measurements the l1 norm gives the Laplace density, of variance 2 / w^2."""
    A = it.operators.Identity((1, 500))
    problem = it.Problem(torch.zeros(1, 1, 500), A, it.data_terms.LeastSquares(noise_std=1e3))
    solver = it.solvers.Gibbs(fixed_weight=3.0, max_iterations=200, burn_in=20, tolerance=1e-9)
    drawn = it.solve(problem, it.priors.L1(), solver, progress=False)
    assert drawn.posterior is not None
    assert float(drawn.posterior.std.square().mean()) == pytest.approx(2 / 9, rel=0.05)
    # Groups of two: the radius has the gamma density of shape 2, so E r^2 = 6 / w^2.
    plane = it.operators.Identity((2, 500))
    problem = it.Problem(torch.zeros(1, 2, 500), plane, it.data_terms.LeastSquares(noise_std=1e3))
    drawn = it.solve(problem, it.priors.GroupL1(2), solver, progress=False)
    assert drawn.posterior is not None
    assert float(drawn.posterior.std.square().mean()) == pytest.approx(3 / 9, rel=0.05)


def test_noise_level_and_weight_of_a_walk() -> None:
    """Items of their own numbers: intervals hold the truth, measurements without weight do not count."""
    steps, noise = normal(8, 1, 400), normal(8, 1, 400, seed=1)
    weights = torch.ones(8, 1, 400)
    weights[:, :, ::4] = 0
    y = steps.cumsum(-1) + 2 * noise + 100 * (1 - weights)
    term = it.data_terms.LeastSquares(weights=weights)
    problem = it.Problem(y, it.operators.Identity((1, 400)), term)
    solver = it.solvers.Gibbs(burn_in=100, max_iterations=500)
    with independent_items():
        solution = it.solve(problem, it.priors.Tikhonov("gradient"), solver, progress=False)
    posterior: Any = solution.posterior
    assert float((posterior.noise_std / 2).log().abs().mean()) < 0.06
    for name, truth in (("noise_std", 2.0), ("weight", 1.0)):
        low, high = posterior.interval_of(name, 0.99)
        assert int(((low < truth) & (truth < high)).sum()) >= 7
    assert {"noise level", "weight of the prior"} <= set(posterior.diagnose().functionals)


def test_total_variation_of_a_blurred_square() -> None:
    truth = torch.zeros(1, 1, 16, 16)
    truth[..., 4:12, 5:11] = 1
    A = it.operators.Blur(torch.ones(3, 3) / 9, (16, 16))
    y = A(truth) + 0.05 * normal(1, 1, 16, 16)
    solver = it.solvers.Gibbs(burn_in=20, max_iterations=60, chains=2)
    solution = it.solve(it.Problem(y, A), it.priors.TotalVariation(), solver, progress=False)
    posterior: Any = solution.posterior
    assert float(posterior.noise_std) == pytest.approx(0.05, rel=0.2)
    assert float(it.metrics.psnr(solution.x, truth)) > float(it.metrics.psnr(y, truth)) + 2
    # Twice and in a batch: the same bits, also of few draws.
    few = it.solvers.Gibbs(burn_in=3, max_iterations=10, chains=2)
    pair = it.Problem(torch.cat([y, 0.5 * y.flip(-1)]), A)
    once, again, both = (
        it.solve(problem, it.priors.TotalVariation(), few, progress=False).x
        for problem in (it.Problem(y, A), it.Problem(y, A), pair)
    )
    assert torch.equal(again, once) and torch.equal(both[:1], once)


def test_what_cannot_be_drawn_is_refused() -> None:
    problem = it.Problem(torch.rand(1, 1, 8, 8), it.operators.Identity((1, 8, 8)))
    tv, gibbs = it.priors.TotalVariation(), it.solvers.Gibbs()
    # The number of directions that a prior weighs is not known for every operator.
    masked = it.priors.L1() @ it.operators.Inpainting(torch.ones(8, 8), (8, 8))
    for prior in (tv + it.priors.Tikhonov(), it.priors.TotalVariation(lower=0.0), masked):
        with pytest.raises(it.InputError, match="one prior, which is Tikhonov, L1 or total"):
            it.solve(problem, prior, gibbs, progress=False)
    with pytest.raises(it.InputError, match="no rule can choose"):
        it.solve(problem, tv, gibbs, regularization="gcv", progress=False)
    counts = it.Problem(problem.y, problem.operator, it.data_terms.Poisson())
    with pytest.raises(it.InputError, match="LeastSquares and a linear operator"):
        it.solve(counts, tv, gibbs, progress=False)
    for settings in ({"fixed_weight": 0.0}, {"inner_tolerance": 2.0}, {"chains": 0}):
        with pytest.raises(it.InputError):
            it.solvers.Gibbs(**settings)
    solution = it.solve(problem, tv, it.solvers.Gibbs(max_iterations=8, burn_in=2), progress=False)
    posterior: Any = solution.posterior
    with pytest.raises(it.InputError, match="noise_std, weight"):
        posterior.interval_of("sigma")
    assert bool(posterior.weight.isfinite().all())
