"""Robust data terms: known answers of their proximal operators, what outliers do to them, and deblurring with salt and pepper."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.data_terms import L1, DataTerm, Huber, LeastSquares, Student
from invtoolbox.errors import InputError
from invtoolbox.testing import check_data_term

WEIGHTS = torch.linspace(0, 2, 20).view(1, 1, 4, 5)
TERMS: dict[str, Callable[[], DataTerm]] = {
    "huber": Huber,
    "huber-items": lambda: Huber(0.3, noise_std=torch.tensor([0.5, 2.0]), weights=WEIGHTS),
    "l1": L1,
    "l1-items": lambda: L1(noise_std=torch.tensor([0.5, 2.0]), weights=WEIGHTS),
    "student": Student,
    "student-items": lambda: Student(1.0, noise_std=torch.tensor([0.05, 2.0]), weights=WEIGHTS),
}


def drawn(seed: int, complex_: bool = False) -> Tensor:
    shape = (2, 1, 4, 5, 2) if complex_ else (2, 1, 4, 5)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.view_as_complex(values) if complex_ else values


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("complex_", [False, True])
def test_value_gradient_prox_and_curvature_agree(name: str, complex_: bool) -> None:
    check_data_term(TERMS[name](), drawn(0, complex_), drawn(1, complex_))


@pytest.mark.parametrize("name", TERMS)
def test_batch_equals_items_bitwise(name: str) -> None:
    term, p, y = TERMS[name](), drawn(0).float(), drawn(1).float()
    step = torch.tensor([0.3, 5.0])
    for k in range(2):
        alone, i = term.select(torch.tensor([k])), slice(k, k + 1)
        assert torch.equal(alone.value(p[i], y[i]), term.value(p, y)[i])
        assert torch.equal(alone.grad(p[i], y[i]), term.grad(p, y)[i])
        assert torch.equal(alone.prox(p[i], y[i], step[i]), term.prox(p, y, step)[i])


@pytest.mark.parametrize("nu", [0.3, 1.0, 4.0, 300.0])
def test_the_prox_of_student_is_the_global_minimizer(nu: float) -> None:
    """Against a fine grid, through the range of steps in which the objective has two minima."""
    term, y = Student(nu), torch.zeros(1, 1, 1, dtype=torch.float64)
    grid = torch.linspace(0, 1, 20001, dtype=torch.float64)
    for size in (1e-6, 0.1, 1.0, 3.0, 10.0, 100.0, 1e4):
        for step in (1e-4, 0.1, 1.0, 7.0, 30.0, 1e3, 1e6):
            p = torch.full_like(y, size)

            def objective(v: Tensor, size: float = size, step: float = step) -> Tensor:
                return 0.5 * (nu + 1) * torch.log1p(v * v / nu) + (v - size).square() / (2 * step)

            found = term.prox(p, y, step).flatten()
            assert 0 <= float(found) <= size
            best = float(objective(grid * size).min())
            assert float(objective(found)) <= best + 1e-12 * max(1.0, best)
            single = term.prox(p.float(), y.float(), step).double().flatten()
            assert float(objective(single)) <= best + 1e-5 * max(1e-3, best)


def test_huber_lies_between_least_squares_and_the_modulus() -> None:
    p, y = drawn(0), drawn(1)
    torch.testing.assert_close(Huber(1e6, noise_std=0.3).value(p, y), LeastSquares(0.3).value(p, y))
    torch.testing.assert_close(Huber(1e-9).value(p, y) / 1e-9, L1().value(p, y), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        Huber(1e6, noise_std=0.3).prox(p, y, 0.7), LeastSquares(0.3).prox(p, y, 0.7)
    )
    torch.testing.assert_close(
        Student(1e9, noise_std=0.3).value(p, y), LeastSquares(0.3).value(p, y), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(
    "make", [lambda s: Huber(noise_std=s), lambda s: L1(s), lambda s: Student(noise_std=s)]
)
def test_the_discrepancy_does_not_see_outliers(make: Callable[[float], DataTerm]) -> None:
    generator = torch.Generator().manual_seed(0)
    y, noise = torch.zeros(2, 1, 100, 100), 0.2 * torch.randn(2, 1, 100, 100, generator=generator)
    noise[1].flatten()[::20] = 1e6
    term = make(0.2)
    expected = term.expected_discrepancy(y)
    assert expected is not None and expected.tolist() == [100, 100]
    bulk = term.discrepancy(noise, y)
    if isinstance(term, Student):  # its own quantile is wider than that of a Gaussian
        bulk = bulk * 0.7407 / 0.6745
    torch.testing.assert_close(bulk, expected, rtol=0.08, atol=0)
    masked = type(term)(noise_std=0.2, weights=(noise.abs() < 100).float())  # type: ignore[call-arg]
    torch.testing.assert_close(masked.discrepancy(noise, y)[0], term.discrepancy(noise, y)[0])
    count = masked.expected_discrepancy(y)
    assert count is not None and float(count[1]) == pytest.approx(math.sqrt(9500))


@pytest.mark.parametrize("name", ["L1", "Huber", "Student"])
def test_the_discrepancy_of_any_number_of_measurements_grows_with_its_root(name: str) -> None:
    """Residuals of one size, of which 0, 1, 2, 3 and 64 have a weight, one number per item."""
    counts = torch.tensor([0, 1, 2, 3, 64])
    weights = (torch.arange(64) < counts[:, None]).float().view(5, 1, 8, 8)
    term = getattr(it.data_terms, name)(noise_std=0.2, weights=weights)
    discrepancy = term.discrepancy(torch.full((5, 1, 8, 8), 0.3), torch.zeros(5, 1, 8, 8))
    assert float(discrepancy[-1]) > 8
    torch.testing.assert_close(discrepancy, discrepancy[-1] * (counts / 64).sqrt())


def salt_and_pepper() -> tuple[Tensor, it.operators.Operator, Tensor]:
    from skimage import data

    truth = torch.from_numpy(data.camera()[100:196, 180:276].copy()).float()[None, None] / 255
    A = it.operators.Blur(torch.ones(3, 3) / 9, (1, 96, 96))
    generator = torch.Generator().manual_seed(0)
    y = A(truth) + 0.005 * torch.randn(truth.shape, generator=generator)
    hit = torch.rand(truth.shape, generator=generator)
    return truth, A, torch.where(hit < 0.075, 0.0, torch.where(hit > 0.925, 1.0, y))


def best_psnr(
    term: DataTerm, weights: list[float], prior: it.priors.Prior, solver: str = "pdhg"
) -> float:
    truth, A, y = salt_and_pepper()
    n = len(weights)
    problem = it.Problem(y.expand(n, -1, -1, -1), A, term)
    x = it.solve(
        problem, prior, solver, torch.tensor(weights), max_iterations=400, progress=False
    ).x
    return float(it.metrics.psnr(x, truth.expand(n, -1, -1, -1)).max())


@pytest.mark.slow
def test_l1_deblurs_salt_and_pepper_where_least_squares_does_not() -> None:
    """15 % of the pixels are black or white; each term at the best of its weights."""
    tv = it.priors.TotalVariation()
    squares = best_psnr(LeastSquares(), [0.02, 0.05, 0.1, 0.2], tv)
    modulus = best_psnr(L1(), [0.01, 0.03, 0.1], tv)
    huber = best_psnr(Huber(0.02), [0.0003, 0.001, 0.003], tv)
    assert modulus > squares + 4
    assert huber > squares + 4


@pytest.mark.parametrize(
    "make",
    [
        lambda: Huber(0.0),
        lambda: Huber(noise_std=-1.0),
        lambda: Student(0.0),
        lambda: L1(weights=torch.tensor([-1.0])),
        lambda: L1().weighted(torch.zeros(1)),
        lambda: LeastSquares().residual_weights(torch.zeros(1), torch.zeros(1)),
    ],
)
def test_bad_input_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        make()


def test_solvers_that_follow_gradients_refuse_the_modulus() -> None:
    problem = it.Problem(drawn(1), it.operators.Identity((1, 4, 5)), L1())
    for solver in (it.solvers.LBFGS(), it.solvers.FISTA(), it.solvers.GradientDescent()):
        with pytest.raises(InputError, match="differentiable data term"):
            it.solve(problem, it.priors.Tikhonov(), solver, 1.0, progress=False)
    solution = it.solve(
        problem, it.priors.Tikhonov(), regularization=0.5, tolerance=1e-6, progress=False
    )
    torch.testing.assert_close(solution.x, problem.y.clamp(-2, 2), rtol=0, atol=1e-4)


def test_a_misfit_that_is_not_convex_goes_to_a_solver_that_descends() -> None:
    problem = it.Problem(drawn(1), it.operators.Identity((1, 4, 5)), Student())
    solution = it.solve(problem, it.priors.TotalVariation(), regularization=0.5, progress=False)
    assert "ProximalGradient" in solution.reason
    values = solution.history["objective"].nan_to_num(nan=-torch.inf)
    assert bool((values[1:] <= values[:-1] * (1 + 1e-9)).all())


# The estimate of the noise counts the outliers.
@pytest.mark.filterwarnings("ignore:noise_std = 0.005 is 1 / 8.44 of the noise estimated")
@pytest.mark.filterwarnings("ignore:.*its highlights are cut off")  # white outliers
def test_the_discrepancy_principle_finds_a_weight_in_spite_of_outliers() -> None:
    truth, A, y = salt_and_pepper()
    found = it.solve(
        it.Problem(y, A, Huber(noise_std=0.005)),
        it.priors.HuberTV(0.01),
        max_iterations=200,
        progress=False,
    )
    assert float(it.metrics.psnr(found.x, truth)) > 28


@pytest.mark.parametrize("make", [LeastSquares, L1])
def test_a_noise_level_of_the_wrong_length_is_one_sentence(make: Callable[..., DataTerm]) -> None:
    A, y = it.operators.Identity((1, 4)), torch.ones(2, 1, 4)
    with pytest.raises(InputError, match=r"has 3 values, and the measurements have 2 items;"):
        it.Problem(y, A, make(torch.tensor([0.1, 0.2, 0.3])))
    with pytest.raises(InputError, match=r"has 4 values"):
        it.Problem(y, A, make(torch.full((1, 1, 4), 0.1)))
    for fitting in (0.1, torch.tensor([0.1]), torch.tensor([0.1, 0.2])):
        it.Problem(y, A, make(fitting))
