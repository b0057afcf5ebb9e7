"""PDHG: known answers, agreement with other methods, the discrepancy constraint, items that do not mix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator, inner, item_norm
from invtoolbox.priors import ExplicitPrior
from invtoolbox.solvers import FISTA, PDHG
from invtoolbox.solvers.pdhg_steps import raise_norm
from invtoolbox.testing import check_solver


def blurred(
    batch: int = 2, noise_std: float | None = 0.02, size: tuple[int, int] = (24, 20)
) -> tuple[it.Problem, Tensor]:
    x = torch.zeros(batch, 1, *size)
    for k in range(batch):
        x[k, :, 5 + k % 3 : 15, 4 : 12 + k % 4] = 1.0 - 0.1 * (k % 5)
    kernel = torch.outer(torch.tensor([1.0, 2.0, 3.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 1.0]))
    A = it.operators.Blur(kernel / kernel.sum(), size)
    level = 0.02 if noise_std is None else noise_std
    y = A.simulate(x, level, seed=list(range(batch)))
    return it.Problem(y, A, it.data_terms.LeastSquares(noise_std=noise_std)), x


def objective(problem: it.Problem, prior: Any, x: Tensor) -> Tensor:
    return problem.data_term.value(problem.operator(x), problem.y) + prior.as_sum().energy(x)


# -- known answers ---------------------------------------------------------------------------------


def test_one_jump_in_one_dimension_has_a_closed_form() -> None:
    # Denoising two plateaus by TV moves each by weight / length, until they meet.
    x = torch.zeros(3, 1, 12)
    x[..., 4:] = 8.0
    weight = torch.tensor([0.5, 4.0, 100.0])
    problem = it.Problem(x, it.operators.Identity((1, 12)))
    solution = it.solve(problem, it.priors.TotalVariation(), PDHG(), weight, tolerance=1e-4)
    low, high = weight / 4, 8 - weight / 8
    mean = x.mean((1, 2))
    expected = torch.where(
        torch.arange(12) < 4, torch.minimum(low, mean)[:, None], torch.maximum(high, mean)[:, None]
    )
    assert solution.status == ("converged",) * 3
    torch.testing.assert_close(solution.x[:, 0], expected, atol=2e-3, rtol=0)


def test_denoising_is_the_prox_of_total_variation() -> None:
    problem, _ = blurred(noise_std=None)
    problem = it.Problem(problem.y, it.operators.Identity((1, 24, 20)))
    weight = torch.tensor([0.05, 0.2])
    prior = it.priors.TotalVariation(tolerance=1e-7)
    x = it.solve(problem, prior, PDHG(), weight, tolerance=1e-5).x
    torch.testing.assert_close(x, prior.prox(problem.y, weight), atol=1e-3, rtol=0)


def test_lasso_with_an_orthogonal_operator() -> None:
    Q, _ = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(0)))
    A = it.operators.Matrix(Q, (1, 12), (1, 12))
    y = torch.randn(2, 1, 12, generator=torch.Generator().manual_seed(1))
    weight = torch.tensor([0.3, 1.0])
    x = it.solve(
        it.Problem(y, A), it.priors.L1(), PDHG(), weight, tolerance=1e-6, max_iterations=5000
    ).x
    torch.testing.assert_close(x, it.priors.L1().prox(A.adjoint(y), weight), atol=1e-4, rtol=0)


# -- agreement -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prior",
    [
        0.8 * it.priors.TotalVariation(tolerance=1e-7),
        2.0 * it.priors.WaveletL1("haar", 2),
        3.0 * it.priors.Tikhonov("gradient"),
    ],
    ids=["tv", "wavelet", "h1"],
)
def test_agrees_with_fista(prior: Any) -> None:
    problem, _ = blurred(noise_std=0.2)
    ours = it.solve(problem, prior, PDHG(max_iterations=5000), tolerance=1e-4)
    theirs = it.solve(problem, prior, FISTA(max_iterations=3000), tolerance=1e-5)
    assert ours.status == ("converged",) * 2
    values = objective(problem, prior, ours.x), objective(problem, prior, theirs.x)
    torch.testing.assert_close(values[0], values[1], rtol=1e-3, atol=0)
    torch.testing.assert_close(
        ours.history["objective"][int(ours.iterations[0]) - 1, 0], values[0][0], rtol=1e-4, atol=0
    )


def test_constraints_hold_exactly_and_several_priors_add() -> None:
    problem, _ = blurred(noise_std=0.2)
    prior = 0.8 * it.priors.TotalVariation() + it.priors.Box(0.0, 0.9) + 0.5 * it.priors.L1()
    solution = it.solve(problem, prior, PDHG(max_iterations=5000), tolerance=1e-4)
    assert solution.status == ("converged",) * 2
    assert float(solution.x.min()) >= 0 and float(solution.x.max()) <= 0.9
    # Inside the box the l1 norm is the sum of the values, so FISTA can take it as a smooth prior.
    reference = it.solve(
        problem,
        0.8 * it.priors.TotalVariation(lower=0.0, upper=0.9, tolerance=1e-7) + 0.5 * Sum(),
        FISTA(max_iterations=3000),
        tolerance=1e-5,
    )
    torch.testing.assert_close(solution.x, reference.x, atol=1e-2, rtol=0)
    torch.testing.assert_close(
        objective(problem, prior, solution.x),
        objective(problem, prior, reference.x),
        rtol=1e-3,
        atol=0,
    )


class Sum(ExplicitPrior):
    """The sum of all values."""

    is_smooth = True

    def energy(self, x: Tensor) -> Tensor:
        return x.flatten(1).sum(1)


class NoProx(it.data_terms.LeastSquares):
    """Least squares that hides its prox."""

    @property
    def offers(self) -> frozenset[str]:
        return super().offers - {"prox"}


def test_a_misfit_without_a_prox_enters_by_its_gradient() -> None:
    problem, _ = blurred()
    prior = 0.8 * it.priors.TotalVariation() + it.priors.NonNegative()
    hidden = it.Problem(problem.y, problem.operator, NoProx(noise_std=0.02))
    with_gradient = it.solve(hidden, prior, PDHG(max_iterations=5000), tolerance=3e-4)
    with_prox = it.solve(problem, prior, PDHG(max_iterations=5000), tolerance=3e-4)
    assert with_gradient.status == ("converged",) * 2
    torch.testing.assert_close(
        objective(problem, prior, with_gradient.x),
        objective(problem, prior, with_prox.x),
        rtol=1e-3,
        atol=0,
    )


def test_stacked_measurements_are_summands_of_their_own() -> None:
    problem, _ = blurred()
    A, y = problem.operator, problem.y
    mean = it.operators.FiniteDifference((1, 24, 20))
    both = it.operators.stack([A, mean])
    stacked = it.Problem(
        (y, mean(y)),
        both,
        it.data_terms.Stack(
            it.data_terms.LeastSquares(), it.data_terms.LeastSquares(), weights=(1.0, 0.5)
        ),
    )
    prior = 0.01 * it.priors.TotalVariation()
    solution = it.solve(stacked, prior, PDHG(max_iterations=5000), tolerance=1e-4)
    reference = it.solve(
        stacked,
        0.01 * it.priors.TotalVariation(tolerance=1e-7),
        FISTA(max_iterations=3000),
        tolerance=1e-6,
    )
    torch.testing.assert_close(
        objective(stacked, prior, solution.x),
        objective(stacked, prior, reference.x),
        rtol=1e-3,
        atol=0,
    )


def test_complex_images() -> None:
    x = torch.zeros(2, 1, 12, 10, dtype=torch.complex64)
    x[..., 3:9, 2:7] = 1 + 1j
    problem = it.Problem(
        x + 0.1 * torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0)),
        it.operators.Identity((1, 12, 10)),
    )
    prior = it.priors.TotalVariation(tolerance=1e-7)
    solution = it.solve(problem, prior, PDHG(), 0.2, tolerance=1e-4)
    torch.testing.assert_close(solution.x, prior.prox(problem.y, 0.2), atol=2e-3, rtol=0)


# -- the discrepancy principle ---------------------------------------------------------------------


def test_the_discrepancy_is_met_inside_the_step_and_the_weight_it_is_worth_gives_the_same_image() -> (
    None
):
    problem, x = blurred()
    prior = it.priors.TotalVariation() + it.priors.NonNegative()
    solution = it.solve(problem, prior, PDHG(max_iterations=5000), "discrepancy", tolerance=1e-4)
    target = 1.01 * (24 * 20) ** 0.5
    discrepancy = problem.data_term.discrepancy(problem.operator(solution.x), problem.y)
    assert solution.status == ("converged",) * 2
    torch.testing.assert_close(discrepancy, torch.full((2,), target), rtol=1e-3, atol=0)
    weighted = it.solve(
        problem, prior, PDHG(max_iterations=5000), solution.regularization, tolerance=1e-4
    )
    torch.testing.assert_close(weighted.x, solution.x, atol=5e-3, rtol=0)
    assert bool((item_norm(solution.x - x) < item_norm(problem.y - x)).all())


def test_weight_and_image_do_not_depend_on_the_unit_of_the_measurements() -> None:
    problem, _ = blurred()
    unitless = it.Problem(
        50 * problem.y, problem.operator, it.data_terms.LeastSquares(noise_std=50 * 0.02)
    )
    ours, theirs = (
        it.solve(p, it.priors.TotalVariation(), PDHG(), tolerance=1e-3) for p in (problem, unitless)
    )
    torch.testing.assert_close(theirs.x / 50, ours.x, atol=1e-3, rtol=0)
    torch.testing.assert_close(theirs.regularization * 50, ours.regularization, rtol=1e-2, atol=0)


# -- the certificate and the steps -----------------------------------------------------------------


class SlowPower(LinearOperator):
    """A diagonal whose power method ends 10 % below the norm: the tops lie close, and the start hardly sees the largest."""

    def __init__(self) -> None:
        self.domain_shape = self.range_shape = (1, 64)
        self.diagonal = torch.linspace(0.5, 1.0, 64)

    def _forward(self, x: Tensor) -> Tensor:
        return x * self.diagonal

    def _adjoint(self, y: Tensor) -> Tensor:
        return y * self.diagonal

    def norm(self, **settings: Any) -> Tensor:
        return torch.full((1,), 0.5)


def test_a_norm_that_was_estimated_too_small_is_found_out() -> None:
    A = SlowPower()
    y = A(torch.ones(1, 1, 64)) + 0.1 * torch.randn(
        1, 1, 64, generator=torch.Generator().manual_seed(0)
    )
    problem = it.Problem(y, A)
    solution = it.solve(
        problem, it.priors.TotalVariation(), PDHG(max_iterations=5000), 0.1, tolerance=1e-5
    )
    reference = it.solve(
        problem,
        it.priors.TotalVariation(tolerance=1e-7),
        FISTA(max_iterations=3000),
        0.1,
        tolerance=1e-6,
    )
    assert solution.status == ("converged",)
    torch.testing.assert_close(solution.x, reference.x, atol=1e-3, rtol=0)


def test_the_certificate_bounds_the_distance_to_optimality() -> None:
    problem, _ = blurred()
    prior = 0.8 * it.priors.TotalVariation()
    best = objective(
        problem, prior, it.solve(problem, prior, PDHG(max_iterations=5000), tolerance=1e-4).x
    )
    gaps = []
    for tolerance in (1e-1, 1e-2, 1e-3):
        x = it.solve(problem, prior, PDHG(max_iterations=5000), tolerance=tolerance).x
        gaps.append(float(((objective(problem, prior, x) - best) / best).max()))
    assert gaps[0] > gaps[1] > gaps[2] and gaps[2] < 1e-3


# -- a batch is its items --------------------------------------------------------------------------


def varied(batch: int = 5) -> tuple[it.Problem, Any]:
    problem, _ = blurred(batch)
    levels = torch.linspace(0.01, 0.05, batch)
    y = problem.operator.simulate(problem.y, 0.0) + levels.view(-1, 1, 1, 1) * torch.randn(
        problem.y.shape, generator=torch.Generator().manual_seed(5)
    )
    weights = torch.logspace(-1, 1, batch)
    prior = weights * it.priors.TotalVariation() + it.priors.NonNegative()
    return it.Problem(y, problem.operator, it.data_terms.LeastSquares(noise_std=levels)), prior


def alone(problem: it.Problem, prior: Any, k: int) -> tuple[it.Problem, Any]:
    index = torch.tensor([k])
    return problem.select(index), prior.select(index)


@pytest.mark.parametrize("rule", [False, True], ids=["weights", "discrepancy"])
def test_batch_equals_items(rule: bool) -> None:
    problem, prior = varied()
    how: dict[str, Any] = {}
    if rule:
        prior = it.priors.TotalVariation() + it.priors.NonNegative()
        how = {"regularization": "discrepancy"}
    fixed = it.solve(problem, prior, PDHG(), max_iterations=60, tolerance=0, **how)
    stopped = it.solve(problem, prior, PDHG(), tolerance=1e-2, **how)
    assert len(set(stopped.iterations.tolist())) > 1
    for k in range(5):
        own = alone(problem, prior, k)
        lone = it.solve(*own, PDHG(), max_iterations=60, tolerance=0, **how)
        assert float((fixed.x[k] - lone.x[0]).norm() / lone.x.norm()) <= 1e-5
        lone = it.solve(*own, PDHG(), tolerance=1e-2, **how)
        assert float((stopped.x[k] - lone.x[0]).norm() / lone.x.norm()) <= 1e-3
        assert int(stopped.iterations[k]) == int(lone.iterations[0])


def test_twice_is_bitwise_the_same_and_a_permuted_batch_is_permuted() -> None:
    problem, prior = varied()
    first, second = (
        it.solve(problem, prior, PDHG(), max_iterations=50, tolerance=0) for _ in range(2)
    )
    assert torch.equal(first.x, second.x) and torch.equal(
        first.history["objective"], second.history["objective"]
    )
    order = torch.tensor([3, 1, 4, 0, 2])
    permuted = it.solve(
        problem.select(order), prior.select(order), PDHG(), max_iterations=50, tolerance=0
    )
    torch.testing.assert_close(permuted.x, first.x[order], rtol=0, atol=1e-6)


def test_an_item_that_diverges_leaves_its_neighbours_alone() -> None:
    problem, prior = varied()
    weights = torch.ones(5)
    poisoned = Poison(torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]))
    solution = it.solve(problem, prior + poisoned, PDHG(), max_iterations=40, tolerance=0)
    clean = it.solve(
        problem, prior + Poison(torch.zeros(5)), PDHG(), max_iterations=40, tolerance=0
    )
    assert solution.status[2] == "diverged" and bool(torch.isfinite(solution.x).all())
    keep = torch.tensor([0, 1, 3, 4])
    assert torch.equal(solution.x[keep], clean.x[keep]) and weights.isfinite().all()


class Poison(ExplicitPrior):
    """Zero, whose prox turns the items in ``bad`` into NaN after the tenth iteration."""

    is_convex = True
    is_smooth = False
    item_fields = ("bad",)

    def __init__(self, bad: Tensor, iteration: int = 0) -> None:
        self.bad, self.iteration = bad, iteration

    def at(self, iteration: int) -> Poison:
        return Poison(self.bad, iteration)

    def energy(self, x: Tensor) -> Tensor:
        return torch.zeros(x.shape[0])

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        if self.iteration < 10:
            return x
        return torch.where(self.bad.view(-1, 1, 1, 1) > 0, torch.full_like(x, float("nan")), x)


def test_resumed_is_bitwise_undisturbed(tmp_path: Path) -> None:
    problem, prior = varied()
    whole = it.solve(problem, prior, PDHG(), max_iterations=60, tolerance=1e-2)
    path = tmp_path / "run.ckpt"
    it.solve(
        problem,
        prior,
        PDHG(),
        max_iterations=25,
        tolerance=1e-2,
        checkpoint=it.Checkpoint(path, every=0),
    )
    resumed = it.solve(
        problem,
        prior,
        PDHG(),
        max_iterations=60,
        tolerance=1e-2,
        checkpoint=it.Checkpoint(path, every=0),
    )
    assert torch.equal(resumed.x, whole.x) and torch.equal(resumed.iterations, whole.iterations)


def test_steps_of_denoising_follow_the_strong_convexity_of_the_misfit() -> None:
    generator = torch.Generator().manual_seed(0)
    square = torch.zeros(1, 1, 24, 24)
    square[..., 6:16, 8:20] = 1
    y = square + 0.1 * torch.randn(square.shape, generator=generator)
    problem = it.Problem(y, it.operators.Identity((1, 24, 24)))
    solver = PDHG(tolerance=1e-4, max_iterations=1000)
    solution = it.solve(problem, it.priors.TotalVariation(), solver, 0.1, progress=False)
    # 187 iterations; 384 if the misfit counts as one without strong convexity.
    assert solution.status == ("converged",) and int(solution.iterations) < 280


def test_check_solver() -> None:
    problem, prior = varied(3)
    assert check_solver(PDHG(), problem, prior).ok


# -- what does not fit -----------------------------------------------------------------------------


class Kink(Sum):
    is_smooth = False


def test_misfits_are_named() -> None:
    problem, _ = blurred()
    with pytest.raises(InputError, match="relaxation between 0 and 2"):
        it.solve(problem, it.priors.TotalVariation(), PDHG(relaxation=2.5), 1.0)
    with pytest.raises(InputError, match=r"proximal operator of every prior.*Kink\(\) has none"):
        it.solve(problem, Kink(), PDHG(), 1.0)
    assert float(inner(problem.y, problem.y).sum()) > 0


def test_counts_behind_long_rays_leave_the_start_of_zeros() -> None:
    # The start is 0 because counts are no line integrals, and pixels are 7 units long.
    angles = torch.linspace(0, torch.pi, 31)[:-1]
    A = it.operators.ParallelBeam((24, 24), angles, 34, pixel_size=7.0, detector_spacing=7.0)
    x = torch.zeros(1, 1, 24, 24)
    x[..., 6:18, 8:16] = 0.01
    counts = torch.poisson(1e4 * torch.exp(-A(x)), generator=torch.Generator().manual_seed(0))
    problem = it.Problem(counts, A, it.data_terms.PoissonTransmission(1e4))
    solution = it.solve(problem, it.priors.TotalVariation(), "pdhg", progress=False)
    assert solution.status == ("converged",)
    assert float((solution.x - x).norm() / x.norm()) < 0.2


def test_a_weight_that_removes_the_picture_is_converged_under_l1() -> None:
    draws = torch.Generator().manual_seed(0)
    A = it.operators.Matrix(torch.randn(40, 36, generator=draws), domain_shape=(1, 6, 6))
    y = torch.randn(1, 1, 40, generator=draws)
    problem = it.Problem(y, A, it.data_terms.L1())
    solution = it.solve(problem, it.priors.L1(), "pdhg", 1e3, progress=False)
    assert solution.status == ("converged",) and not solution.x.any()


def test_an_image_that_has_stopped_moving_raises_no_norm() -> None:
    norm, size = torch.tensor([1.0, 1.0]), torch.tensor([10.0, 10.0])
    # |K d| = 0.2 of a step 0.1 is a larger norm; |K d| = 1e-6 next to |K u| = 10 is rounding.
    raised = raise_norm(norm, torch.tensor([0.2, 1e-6]), torch.tensor([0.1, 1e-12]), size)
    assert raised.tolist() == pytest.approx([2.02, 1.0])
