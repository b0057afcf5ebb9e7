"""MM in a generalized Krylov subspace, against minimizers that were found without it."""

from __future__ import annotations

import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.core.pytrees import tree_leaves
from invtoolbox.errors import InputError
from invtoolbox.objective.initial_guess import first_guess
from invtoolbox.objective.objective import Objective
from invtoolbox.operators.base import LinearOperator, item_norm
from invtoolbox.priors import ExplicitPrior, GraphLaplacian, GroupL1, SmoothedNorm
from invtoolbox.solve import bind
from invtoolbox.solvers import KrylovMM

SHAPE = (1, 8, 8)


class Matrix(LinearOperator):
    """A dense matrix on images of ``SHAPE``."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.domain_shape, self.range_shape = SHAPE, (matrix.shape[0],)

    def _forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.T

    def _adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.matrix).view(-1, *SHAPE)


def blurred(
    batch: int = 1, dtype: torch.dtype = torch.float64, rows: int = 60, std: float = 0.02
) -> tuple[Matrix, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    distance = torch.arange(64, dtype=torch.float64)
    smooth = torch.exp(
        -(
            ((distance // 8)[:, None] - (distance // 8)) ** 2
            + ((distance % 8)[:, None] - distance % 8) ** 2
        )
        / 2
    )
    matrix = smooth[torch.randperm(64, generator=generator)[:rows]]
    x = torch.zeros(batch, *SHAPE, dtype=torch.float64)
    for k in range(batch):
        x[k, :, 2 + k % 3 : 6, 1:5] = 1.0 + 0.5 * k
    noise = torch.randn(batch, rows, generator=generator, dtype=torch.float64)
    y = x.flatten(1) @ matrix.T + std * torch.arange(1, batch + 1).double().view(-1, 1) * noise
    return Matrix(matrix.to(dtype)), y.to(dtype), x.to(dtype)


@lru_cache
def minimizer(name: str, weight: float) -> Tensor:
    """Return the minimizer of the blurred picture under one of the priors, for every basis."""
    A, y, _ = blurred()
    problem = it.Problem(y, A, it.data_terms.LeastSquares(0.02))
    # torch has no rule for all rows of a Hessian at once behind the gathers of a graph.
    return newton_minimizer(problem, PRIORS[name], weight, at_once=name != "graph")


def newton_minimizer(
    problem: it.Problem, prior: ExplicitPrior, weight: float, at_once: bool = False
) -> Tensor:
    """The minimizer of a smooth objective by Newton's method with a line search on dense Hessians, one item."""
    objective, _, _ = bind(problem, prior.as_sum(), weight)

    def value(x: Tensor) -> Tensor:
        return objective.value(x.view(1, *SHAPE)).sum()

    x = torch.zeros(64, dtype=torch.float64)
    for _ in range(200):
        gradient = objective.evaluate(x.view(1, *SHAPE)).gradient.flatten()
        if float(gradient.norm()) < 1e-11:
            break
        hessian = torch.autograd.functional.hessian(value, x, vectorize=at_once)
        step = torch.linalg.solve(hessian + 1e-12 * torch.eye(64, dtype=torch.float64), -gradient)
        t = 1.0
        while float(value(x + t * step)) > float(value(x)) and t > 1e-8:
            t /= 2
        x = x + t * step
    return x.view(1, *SHAPE)


def differences() -> LinearOperator:
    return it.operators.FiniteDifference(SHAPE)


PRIORS = {
    "anisotropic tv": SmoothedNorm(1.0, 0.05) @ differences(),
    "isotropic tv": SmoothedNorm(1.0, 0.05, GroupL1(2)) @ differences(),
    "q = 1.5": SmoothedNorm(1.5, 0.5) @ differences(),
    "identity": SmoothedNorm(1.0, 0.05),
    "graph": GraphLaplacian(first=blurred()[2], radius=2),
}


def test_an_item_of_odd_size_has_the_same_bits_alone() -> None:
    x = torch.rand(3, 1, 31, 33, generator=torch.Generator().manual_seed(0))
    A = it.operators.Blur(torch.ones(3, 3) / 9, (31, 33))

    def run(y: torch.Tensor) -> torch.Tensor:
        prior = it.priors.TotalVariation()
        return it.solve(
            it.Problem(y, A), prior, "krylov-mm", 0.01, max_iterations=3, progress=False
        ).x

    y = A.simulate(x)
    together = run(y)
    assert all(torch.equal(run(y[k : k + 1].clone())[0], together[k]) for k in range(3))


@pytest.mark.parametrize("weight", [1e-3, 1e-2, 1e-1])
def test_an_item_has_the_same_bits_alone_after_a_restart(weight: float) -> None:
    A = it.operators.HadamardSensing(image_shape=(23, 23), measurements=41, seed=0)
    A = A.to(torch.float64)
    x = torch.rand(3, 1, 23, 23, generator=torch.Generator().manual_seed(0)).double()
    y = A.simulate(x, 0.05, seed=0)

    def run(y: torch.Tensor) -> torch.Tensor:
        prior = it.priors.Tikhonov("gradient")
        return it.solve(
            it.Problem(y, A), prior, "krylov-mm", weight, max_iterations=40, progress=False
        ).x

    together = run(y)
    assert all(torch.equal(run(y[k : k + 1].clone())[0], together[k]) for k in range(3))


@pytest.mark.parametrize("name", list(PRIORS))
@pytest.mark.parametrize("basis_size", [6, 30])
def test_finds_the_minimizer(name: str, basis_size: int) -> None:
    A, y, _ = blurred()
    problem = it.Problem(y, A, it.data_terms.LeastSquares(0.02))
    weight = 2e3 if name == "graph" else 20.0
    expected = minimizer(name, weight)
    solution = it.solve(
        problem,
        PRIORS[name],
        KrylovMM(basis_size=basis_size),
        weight,
        max_iterations=5000,
        tolerance=1e-9,
        progress=False,
    )
    assert solution.status == ("converged",)
    objective, _, _ = bind(problem, PRIORS[name].as_sum(), weight)
    assert torch.allclose(objective.value(solution.x), objective.value(expected), rtol=1e-11)
    # An image that the blur maps to nearly nothing is found by its objective alone.
    assert float((solution.x - expected).norm() / expected.norm()) < (
        1e-3 if name == "identity" else 1e-5
    )


def test_total_variation_is_smoothed_as_asked() -> None:
    # Denoising has an exact answer, the prox; the minimum of the smoothed objective is at most
    # lambda eps pixels above.
    y = blurred()[2] + 0.05 * torch.randn(
        1, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    prior = it.priors.TotalVariation(tolerance=1e-9, max_iterations=20000)
    objective, _, _ = bind(it.Problem(y, it.operators.Identity(SHAPE)), prior.as_sum(), 0.1)
    exact = float(objective.value(prior.prox(y, 0.1)))
    values = [
        float(
            objective.value(
                it.solve(
                    it.Problem(y, it.operators.Identity(SHAPE)),
                    prior,
                    KrylovMM(smoothing=eps),
                    0.1,
                    tolerance=1e-6,
                    max_iterations=3000,
                    progress=False,
                ).x
            )
        )
        for eps in (1e-1, 1e-2, 1e-3)
    ]
    assert values[0] > values[1] > values[2] >= exact - 1e-7
    assert values[2] - exact < 0.1 * 1e-3 * 64 * 2


def test_quadratic_prior_in_closed_form() -> None:
    A, y, _ = blurred()
    target = torch.full((1, *SHAPE), 0.3, dtype=torch.float64)
    problem = it.Problem(y, A, it.data_terms.LeastSquares(0.5))
    D = torch.stack(
        [differences()(e.view(1, *SHAPE)).flatten() for e in torch.eye(64, dtype=torch.float64)], 1
    )
    matrix = 4 * A.matrix.T @ A.matrix + 0.7 * D.T @ D

    class Differences(ExplicitPrior):
        def quadratic(self) -> tuple[LinearOperator, Tensor]:
            return differences(), differences()(target * torch.arange(8, dtype=torch.float64))

        def energy(self, x: Tensor) -> Tensor:
            operator, shift = self.quadratic()
            return 0.5 * item_norm(operator(x) - shift).square()

    right = 4 * A.adjoint(y) + 0.7 * differences().adjoint(Differences().quadratic()[1])
    expected = torch.linalg.solve(matrix, right.flatten()).view(1, *SHAPE)
    solution = it.solve(problem, Differences(), KrylovMM(), 0.7, tolerance=1e-10, progress=False)
    assert torch.allclose(solution.x, expected, atol=1e-7)
    objective, _, _ = bind(problem, Differences().as_sum(), 0.7)
    assert torch.allclose(solution.history["objective"][-1], objective.value(solution.x), rtol=1e-9)


def test_sobolev_and_weighted_misfit() -> None:
    A, y, _ = blurred()
    weights = torch.ones(1, 60, dtype=torch.float64)
    weights[:, ::7] = 0
    spoiled = y.clone()
    spoiled[:, ::7] = 1e3
    problem = it.Problem(spoiled, A, it.data_terms.LeastSquares(0.02, weights=weights))
    expected = newton_minimizer(problem, PRIORS["anisotropic tv"], 20.0)
    x = it.solve(
        problem,
        PRIORS["anisotropic tv"],
        KrylovMM(),
        20.0,
        tolerance=1e-9,
        max_iterations=5000,
        progress=False,
    ).x
    assert float((x - expected).norm() / expected.norm()) < 1e-5

    noisy = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    problem = it.Problem(noisy, it.operators.Identity(SHAPE), it.data_terms.Sobolev(-0.5))
    x = it.solve(
        problem,
        SmoothedNorm(1.0, 0.1),
        KrylovMM(),
        0.1,
        tolerance=1e-9,
        max_iterations=5000,
        progress=False,
    ).x
    objective, _, _ = bind(problem, SmoothedNorm(1.0, 0.1).as_sum(), 0.1)
    assert float(objective.evaluate(x).gradient.norm()) < 1e-7


def test_nonconvex_power_reaches_a_stationary_point_and_never_increases() -> None:
    A, y, _ = blurred()
    problem, prior = it.Problem(y, A), SmoothedNorm(0.5, 0.1) @ differences()
    solution = it.solve(
        problem,
        prior,
        KrylovMM(basis_size=6),
        0.02,
        tolerance=1e-8,
        max_iterations=5000,
        progress=False,
    )
    assert solution.status == ("converged",)
    objective, _, _ = bind(problem, prior.as_sum(), 0.02)
    assert float(objective.evaluate(solution.x).gradient.norm()) < 1e-6 * float(A.adjoint(y).norm())
    values = solution.history["objective"][:, 0]
    assert bool((values.diff() <= 1e-12 * values[0]).all())


def scan(batch: int, dtype: torch.dtype = torch.float32) -> tuple[it.Problem, Tensor]:
    """A scan of discs with a slope, with other noise in every item."""
    A = it.operators.ParallelBeam((1, 32, 32), torch.arange(48) * torch.pi / 48, 47)
    grid = torch.linspace(-1, 1, 32, dtype=dtype)
    radius = torch.hypot(grid[:, None], grid[None, :])
    disc = torch.hypot(grid[:, None] - 0.2, grid + 0.1) < 0.3
    x = torch.stack([(radius < 0.8) * (1 + 0.5 * grid) + k * disc for k in range(batch)])[:, None]
    clean = A(x)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(7), dtype=dtype)
    std = (0.02 + 0.02 * torch.arange(batch)) * clean.flatten(1).square().mean(1).sqrt()
    return it.Problem(
        clean + std.view(-1, 1, 1, 1).to(dtype) * noise, A, it.data_terms.LeastSquares(std)
    ), x


@pytest.mark.parametrize(
    "prior",
    [
        GraphLaplacian(first="fbp"),
        pytest.param(GraphLaplacian(first="tv"), marks=pytest.mark.slow),  # as over "fbp"
        it.priors.TotalVariation(),
        it.priors.Tikhonov(),
    ],
    ids=repr,
)
def test_the_discrepancy_is_met_by_every_item(prior: ExplicitPrior) -> None:
    problem, _ = scan(3)
    solution = it.solve(problem, prior, KrylovMM(), "discrepancy", progress=False)
    assert set(solution.status) == {"converged"}
    target = 1.01 * problem.y0[0].numel() ** 0.5
    misfit = problem.data_term.discrepancy(problem.operator(solution.x), problem.y)
    assert torch.allclose(misfit, torch.full((3,), target), rtol=2e-3)
    # The weight that it reports is the one at which the minimizer has that discrepancy.
    again = it.solve(
        problem, prior, KrylovMM(), solution.regularization, tolerance=1e-5, progress=False
    )
    assert bool((item_norm(again.x - solution.x) < 2e-2 * item_norm(solution.x)).all())


def test_a_target_out_of_reach_ends_all_the_same() -> None:
    problem, x = scan(1)
    # The null space of this graph holds the true image and little else: no weight raises the
    # discrepancy to 1.01 |noise|.
    flat = it.Problem(
        problem.operator((x > 0).float()) + problem.y - problem.operator(x),
        problem.operator,
        problem.data_term,
    )
    exact = it.solve(
        flat, GraphLaplacian(first=(x > 0).float()), KrylovMM(), max_iterations=300, progress=False
    )
    assert float((exact.x - (x > 0).float()).norm() / (x > 0).float().norm()) < 0.02
    rule = it.parameter_choice.DiscrepancyPrinciple(tau=50.0)  # more than all of y
    solution = it.solve(
        problem, it.priors.TotalVariation(), KrylovMM(), rule, max_iterations=60, progress=False
    )
    assert bool(torch.isfinite(solution.x).all())
    tight = it.solve(
        problem,
        it.priors.TotalVariation(),
        KrylovMM(),
        it.parameter_choice.DiscrepancyPrinciple(tau=1e-3),
        max_iterations=60,
        progress=False,
    )
    assert bool(torch.isfinite(tight.x).all())


def test_an_item_gives_the_same_alone_permuted_and_twice() -> None:
    problem, _ = scan(3)
    prior = GraphLaplacian(first="fbp")

    def run(p: it.Problem) -> Tensor:
        x: Tensor = it.solve(
            p, prior, KrylovMM(), 0.05, max_iterations=15, tolerance=0.0, progress=False
        ).x
        return x

    together = run(problem)
    assert torch.equal(run(problem), together)
    order = torch.tensor([2, 0, 1])
    assert torch.equal(run(problem.select(order)), together[order])
    for k in range(3):
        assert torch.equal(run(problem.select(torch.tensor([k])))[0], together[k])


def test_weights_that_are_tried_at_once_share_one_graph() -> None:
    A, y, x = blurred()
    one = it.Problem(y, A)
    rule = it.parameter_choice.SURE(noise_std=0.02, points=3, sections=0)
    solution = it.solve(
        one, GraphLaplacian(first=x, radius=2), KrylovMM(), rule, max_iterations=20, progress=False
    )
    assert solution.x.shape == x.shape and solution.weight_search.weights.shape[1] >= 3


def test_an_image_of_zeros_and_measurements_of_zeros() -> None:
    problem, _ = scan(2)
    silent = it.Problem(
        torch.cat([problem.y0[:1], torch.zeros_like(problem.y0[:1])]), problem.operator
    )
    solution = it.solve(silent, it.priors.TotalVariation(), KrylovMM(), 0.1, progress=False)
    assert solution.status[1] == "converged" and not bool(solution.x[1].any())
    assert bool(solution.x[0].any())


def bound(problem: it.Problem, prior: ExplicitPrior) -> Objective:
    return bind(problem, prior.as_sum())[0]


def test_the_state_is_what_the_loop_relies_on() -> None:
    problem, _ = scan(2)
    objective, solver = bound(problem, it.priors.TotalVariation()), KrylovMM(basis_size=5)
    state: Any = solver.init(objective, first_guess(problem))
    shapes = {name: leaf.shape for name, leaf in tree_leaves(state)}
    assert all(shape[0] == 2 for shape in shapes.values())
    for _ in range(12):
        before, kept = state.x, state.x.clone()
        state = solver.step(objective, state)
        assert torch.equal(before, kept)
        assert {name: leaf.shape for name, leaf in tree_leaves(state)} == shapes
    basis = state.basis[:, : int(state.size[0])].double()
    gram = basis @ basis.mT
    assert torch.allclose(
        gram, torch.eye(gram.shape[1], dtype=torch.float64).expand_as(gram), atol=1e-5
    )
    assert torch.allclose(
        state.measured[:, 0].view_as(problem.y),
        problem.operator(state.basis[:, 0].view_as(state.x)),
        atol=1e-3,
    )


def test_stopped_and_resumed_is_the_same(tmp_path: Path) -> None:
    problem, _ = scan(2)
    prior, path = it.priors.TotalVariation(), tmp_path / "run.ckpt"
    settings: dict[str, Any] = {"regularization": 0.05, "tolerance": 0.0, "progress": False}
    whole = it.solve(problem, prior, KrylovMM(), max_iterations=18, **settings)
    it.solve(problem, prior, KrylovMM(), max_iterations=7, checkpoint=path, **settings)
    rest = it.solve(problem, prior, KrylovMM(), max_iterations=18, checkpoint=path, **settings)
    assert torch.equal(rest.x, whole.x)


def test_what_it_cannot_do_it_says() -> None:
    problem, _ = scan(1)
    objective = bound(problem, it.priors.TotalVariation())
    two = bind(problem, it.priors.TotalVariation() + it.priors.Tikhonov())[0]
    assert "one explicit prior" in str(KrylovMM().unsupported_reason(two))
    assert "norm of a linear operator" in str(
        KrylovMM().unsupported_reason(bound(problem, it.priors.NonNegative()))
    )
    assert KrylovMM().unsupported_reason(objective) is None
    assert not KrylovMM().suits(objective)  # it would change the prior by smoothing it
    with pytest.raises(InputError, match="power"):
        SmoothedNorm(2.5)


def test_settings_are_not_changed_by_a_run() -> None:
    problem, _ = scan(1)
    solver, prior = KrylovMM(), GraphLaplacian(first="fbp")
    before = copy.deepcopy(vars(prior))
    it.solve(problem, prior, solver, max_iterations=3, progress=False)
    assert solver == KrylovMM() and before.keys() == vars(prior).keys()
    assert prior.guess is None


@pytest.mark.parametrize(
    ("prior", "weight"),
    [
        (GraphLaplacian(first="fbp"), 1e6),
        (it.priors.TotalVariation(), 30.0),
        # A quadratic prior takes the path of total variation, with weights of 1.
        pytest.param(it.priors.Tikhonov(), 30.0, marks=pytest.mark.slow),
    ],
    ids=repr,
)
def test_keeps_the_contracts(prior: ExplicitPrior, weight: float) -> None:
    it.testing.check_solver(KrylovMM(), scan(2)[0], prior, regularization=weight)


def test_little_noise_makes_a_fixed_weight_as_strict_as_the_discrepancy_principle() -> None:
    """The gradient of the data term is small long before little noise is reached."""
    row, column = torch.meshgrid(
        torch.linspace(-1, 1, 48), torch.linspace(-1, 1, 48), indexing="ij"
    )
    x = ((row**2 + column**2 < 0.5).float() + (row.abs() + column.abs() < 0.3).float())[None, None]
    A = it.operators.ParallelBeam((48, 48), torch.linspace(0, 3.1, 30), 70)
    noise_std = 1e-3 * float(A(x).square().mean().sqrt())
    problem = it.Problem(A.simulate(x, noise_std), A, it.data_terms.LeastSquares(noise_std))
    prior = it.priors.TotalVariation(isotropic=False)
    found, long = (
        it.solve(problem, prior, KrylovMM(tolerance=tolerance), 300.0, max_iterations=400)
        for tolerance in (KrylovMM().tolerance, 0.0)
    )
    assert found.status == ("converged",)
    objective = found.history["objective"][-1], long.history["objective"][-1]
    assert float(objective[0]) <= 1.01 * float(objective[1])
