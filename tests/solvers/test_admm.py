"""ADMM: the same minimizers as other methods, and what plug-and-play promises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.priors import ExplicitPrior
from invtoolbox.solvers import ADMM, FISTA
from invtoolbox.solvers.linear_systems import apply_multiplier
from invtoolbox.testing import check_solver


def blurred(boundary: str = "periodic", noise_std: float = 0.02) -> tuple[it.Problem, Tensor]:
    x = torch.zeros(2, 1, 24, 20)
    x[0, :, 5:15, 4:12], x[1, :, 8:20, 8:18] = 1.0, 0.5
    kernel = torch.outer(torch.tensor([1.0, 2.0, 3.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 1.0]))
    A = it.operators.Blur(kernel / kernel.sum(), (24, 20), boundary=boundary)
    y = A.simulate(x, noise_std, seed=1)
    return it.Problem(y, A, it.data_terms.LeastSquares(noise_std=noise_std)), x


# Each prior and each boundary once; the other pairs join paths that these test.
@pytest.mark.parametrize(
    ("prior", "boundary"),
    [
        (it.priors.L1(), "periodic"),
        (it.priors.TotalVariation(tolerance=1e-4), "reflect"),
        pytest.param(it.priors.L1(), "reflect", marks=pytest.mark.slow),
        pytest.param(it.priors.TotalVariation(tolerance=1e-4), "periodic", marks=pytest.mark.slow),
    ],
    ids=["l1-periodic", "tv-reflect", "l1-reflect", "tv-periodic"],
)
def test_agrees_with_fista(prior: ExplicitPrior, boundary: str) -> None:
    problem, _ = blurred(boundary)
    weight = torch.tensor([30.0, 100.0])
    # A blur hides differences between minimizers, so what is compared is the objective.
    values = []
    for solver in (
        FISTA(max_iterations=600, tolerance=1e-4),
        ADMM(max_iterations=1500, tolerance=1e-4),
    ):
        x = it.solve(problem, prior, solver, regularization=weight).x
        values.append(
            problem.data_term.value(problem.operator(x), problem.y) + weight * prior.energy(x)
        )
    torch.testing.assert_close(values[1], values[0], rtol=1e-3, atol=0)


def test_several_priors_and_a_constraint_hold_exactly() -> None:
    problem, _ = blurred()
    prior = it.priors.NonNegative() + 3.0 * it.priors.TotalVariation()
    solution = it.solve(problem, prior, ADMM(max_iterations=2000), tolerance=1e-4)
    bounded = 3.0 * it.priors.TotalVariation(lower=0.0, tolerance=1e-7)
    reference = it.solve(problem, bounded, FISTA(max_iterations=3000), tolerance=1e-5).x
    assert solution.status == ("converged",) * 2 and float(solution.x.min()) >= 0
    assert float((solution.x - reference).norm() / reference.norm()) < 1e-2


class Shrink(ExplicitPrior):
    """The denoiser of a Gaussian density of unit variance: x / (1 + sigma^2); plug-and-play with it is Tikhonov."""

    def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return x / (1 + torch.as_tensor(sigma, dtype=x.dtype) ** 2).reshape(-1, *[1] * (x.ndim - 1))


def test_a_denoiser_works_at_its_own_level_and_the_weight_is_the_strength() -> None:
    problem, _ = blurred()
    prior, weight = Shrink(), torch.tensor([4.0, 40.0])
    prior.sigma = 0.5
    solution = it.solve(problem, prior, ADMM(), weight, tolerance=1e-6, max_iterations=3000)
    # prox_{t w R} = denoise(., sqrt(t w) sigma), so w R = w sigma^2 / 2 |x|^2.
    quadratic = it.solve(
        problem, it.priors.Tikhonov(), regularization=weight * 0.25, tolerance=1e-7
    ).x
    assert float((solution.x - quadratic).norm() / quadratic.norm()) < 1e-3


def test_items_alone_and_in_company_and_twice() -> None:
    problem, _ = blurred("reflect")
    weight = torch.tensor([3.0, 10.0])

    def run(p: it.Problem, w: Tensor) -> Tensor:
        x: Tensor = it.solve(
            p, it.priors.TotalVariation(), ADMM(), regularization=w, max_iterations=30, tolerance=0
        ).x
        return x

    whole = run(problem, weight)
    assert torch.equal(whole, run(problem, weight))
    for k in range(2):
        lone = run(problem.select(torch.tensor([k])), weight[k : k + 1])
        assert torch.equal(lone[0], whole[k])


def test_what_does_not_fit_is_said() -> None:
    y = torch.ones(1, 1, 4)
    poisson = it.Problem(y, it.operators.Identity((1, 4)), it.data_terms.Poisson())
    with pytest.raises(InputError, match="ADMM needs a quadratic data term"):
        it.solve(poisson, it.priors.L1(), ADMM(), regularization=1.0)


@pytest.mark.parametrize("periodic", [True, False], ids=["closed", "preconditioned"])
def test_the_first_line_is_solved_in_the_fourier_domain(periodic: bool) -> None:
    problem, _ = blurred("periodic" if periodic else "reflect")
    problem = it.Problem(problem.y, problem.operator, it.data_terms.Sobolev(-0.5, noise_std=0.02))
    weight = torch.tensor([3.0, 10.0])
    prior = it.priors.TotalVariation(periodic=periodic, tolerance=1e-6)
    ours = it.solve(problem, prior, ADMM(max_iterations=1000), weight, tolerance=1e-4)
    theirs = it.solve(problem, prior, FISTA(max_iterations=5000), weight, tolerance=1e-4)

    def objective(x: Tensor) -> Tensor:
        return problem.data_term.value(problem.operator(x), problem.y) + weight * prior.energy(x)

    assert ours.status == ("converged",) * 2
    torch.testing.assert_close(objective(ours.x), objective(theirs.x), rtol=1e-3, atol=0)


@pytest.mark.parametrize("shape", [(1, 8, 6), (2, 5, 7), (1, 9), (1, 4, 5, 6)], ids=str)
def test_symbols_are_the_eigenvalues(shape: tuple[int, ...]) -> None:
    x = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    axes = tuple(range(2, x.ndim))
    operators = [it.operators.Identity(shape), it.operators.FiniteDifference(shape, periodic=True)]
    if len(shape) == 3:
        kernel = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        operators.append(it.operators.Blur(kernel, shape, boundary="periodic"))
    for A in operators:
        symbol, exact = A.normal_symbol()
        filtered = torch.fft.irfftn(torch.fft.rfftn(x, dim=axes) * symbol, s=x.shape[2:], dim=axes)
        assert exact
        torch.testing.assert_close(filtered, A.normal(x), atol=1e-9, rtol=0)
    for term in (
        it.data_terms.LeastSquares(noise_std=torch.tensor([0.5, 2.0])),
        it.data_terms.Sobolev(0.7, noise_std=0.3),
    ):
        symbol, exact = term.symbol(x)
        filtered = torch.fft.irfftn(torch.fft.rfftn(x, dim=axes) * symbol, s=x.shape[2:], dim=axes)
        assert exact
        torch.testing.assert_close(filtered, term.weighted(x), atol=1e-9, rtol=0)


def test_check_solver() -> None:
    problem, _ = blurred()
    assert check_solver(
        ADMM(), problem, 10.0 * it.priors.TotalVariation() + it.priors.NonNegative()
    ).ok


def test_transforms_give_an_item_the_same_bits_alone() -> None:
    x = torch.randn(3, 1, 15, 16, dtype=torch.float64)
    multiplier = torch.rand(1, 1, 15, 9, dtype=torch.float64)
    together = apply_multiplier(x, multiplier)
    assert torch.equal(apply_multiplier(x[1:2], multiplier), together[1:2])


def test_large_items_are_the_same_in_company() -> None:
    x = torch.zeros(2, 1, 192, 192)
    x[0, :, 40:150, 30:100], x[1, :, 80:120, 60:170] = 1.0, 0.5
    A = it.operators.Blur(torch.ones(5, 5) / 25, (192, 192))
    problem = it.Problem(A.simulate(x, 0.02, seed=0), A)
    prior, weight = it.priors.TotalVariation() + it.priors.NonNegative(), torch.tensor([1.0, 3.0])
    both, again = (
        it.solve(problem, prior, ADMM(), weight, max_iterations=6, tolerance=0) for _ in range(2)
    )
    assert torch.equal(both.x, again.x) and float(both.x.min()) >= 0
    for k in range(2):
        lone = it.solve(
            problem.select(torch.tensor([k])),
            prior,
            ADMM(),
            weight[k : k + 1],
            max_iterations=6,
            tolerance=0,
        )
        assert torch.equal(both.x[k], lone.x[0])
