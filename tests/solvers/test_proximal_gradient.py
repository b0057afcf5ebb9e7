"""Proximal gradient and FISTA: closed forms, monotonicity, and the same minimizer as other methods."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.objective.coarse_grids import coarsen
from invtoolbox.objective.initial_guess import first_guess
from invtoolbox.operators.base import LinearOperator, Operator
from invtoolbox.priors import ExplicitPrior
from invtoolbox.solvers import FISTA, LBFGS, ProximalGradient


class Matrix(LinearOperator):
    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.range_shape, self.domain_shape = (1, matrix.shape[0]), (1, matrix.shape[1])

    def _forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix.T

    def _adjoint(self, y: Tensor) -> Tensor:
        return y @ self.matrix


def lasso(batch: int = 3) -> it.Problem:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(20, 30, generator=generator, dtype=torch.float64)
    y = (
        torch.randn(batch, 1, 20, generator=generator, dtype=torch.float64)
        * torch.tensor([1.0, 10.0, 0.1])[:batch, None, None]
    )
    return it.Problem(y, Matrix(matrix))


@pytest.mark.parametrize("solver", [ProximalGradient(), FISTA()], ids=lambda s: type(s).__name__)
def test_lasso_meets_its_optimality_conditions(solver: it.solvers.Solver) -> None:
    problem, weight = lasso(), torch.tensor([1.0, 20.0, 0.3], dtype=torch.float64)
    solution = it.solve(
        problem, it.priors.L1(), solver, regularization=weight, tolerance=1e-9, max_iterations=20000
    )
    assert solution.status == ("converged",) * 3
    slope = problem.operator.adjoint(problem.y - problem.operator(solution.x))
    bound = weight.view(-1, 1, 1)
    active = solution.x.abs() > 1e-8
    assert bool(
        ((slope.abs() - bound).clamp_min(0) <= 1e-5 * bound).all()
    )  # |A^T r| <= w everywhere,
    difference = torch.where(active, slope - bound * solution.x.sign(), torch.zeros_like(slope))
    assert float((difference.abs() / bound).max()) < 1e-5  # and w sign(x) where x is not 0
    assert bool(active.flatten(1).any(1).all())


def test_proximal_gradient_never_increases_the_objective() -> None:
    values = it.solve(
        lasso(), it.priors.L1(), ProximalGradient(), regularization=1.0, max_iterations=200
    ).history["objective"]
    steps = values.diff(dim=0)
    assert bool((steps[~steps.isnan()] <= 1e-10).all())


def test_acceleration_pays() -> None:
    counts = [
        it.solve(
            lasso(),
            it.priors.L1(),
            solver,
            regularization=1.0,
            tolerance=1e-4,
            max_iterations=20000,
        ).iterations.max()
        for solver in (ProximalGradient(), FISTA())
    ]
    assert 3 * counts[1] < counts[0]


def test_smooth_priors_join_the_gradient() -> None:
    class LogCosh(ExplicitPrior):
        is_convex = True

        def energy(self, x: Tensor) -> Tensor:
            return torch.log(torch.cosh(x)).flatten(1).sum(1)

    problem = lasso()
    reference = it.solve(problem, LogCosh(), LBFGS(tolerance=1e-9), regularization=5.0).x
    for solver in (ProximalGradient(tolerance=1e-7, max_iterations=20000), FISTA(tolerance=1e-7)):
        x = it.solve(problem, LogCosh(), solver, regularization=5.0).x
        assert float((x - reference).norm() / reference.norm()) < 1e-5


def test_items_alone_and_in_company() -> None:
    problem, weight = lasso(), torch.tensor([1.0, 20.0, 0.3], dtype=torch.float64)
    whole = it.solve(
        problem, it.priors.L1(), FISTA(), regularization=weight, max_iterations=40, tolerance=0
    )
    again = it.solve(
        problem, it.priors.L1(), FISTA(), regularization=weight, max_iterations=40, tolerance=0
    )
    assert torch.equal(whole.x, again.x)
    for k in range(3):
        lone = it.solve(
            problem.select(torch.tensor([k])),
            it.priors.L1(),
            FISTA(),
            regularization=weight[k],
            max_iterations=40,
            tolerance=0,
        )
        assert float((lone.x[0] - whole.x[k]).norm() / lone.x.norm()) < 1e-10


def test_a_nonlinear_operator_is_searched_too() -> None:
    class Square(Operator):
        domain_shape = range_shape = (1, 4)

        def _forward(self, x: Tensor) -> Tensor:
            return x.square()

    y = torch.tensor([[[4.0, 9.0, 1.0, 0.25]]])
    for solver in (ProximalGradient(), FISTA()):
        x = it.solve(
            it.Problem(y, Square()),
            it.priors.NonNegative(),
            solver,
            initial=torch.ones(1, 1, 4),
            tolerance=1e-6,
        ).x
        torch.testing.assert_close(x, y.sqrt(), rtol=1e-3, atol=1e-3)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(InputError, match="total variation and bounds count as one"):
        it.solve(lasso(), it.priors.L1() + it.priors.NonNegative(), FISTA(), regularization=1.0)


def test_the_search_is_not_lost_in_rounding() -> None:
    # A misfit of many thousand hides a bend of 1e-4 in float32; the step must not shrink because of
    # it.
    x = torch.zeros(1, 1, 24, 20)
    x[..., 5:15, 4:12] = 1.0
    A = it.operators.Blur(torch.ones(5, 3) / 15, (24, 20))
    problem = it.Problem(A.simulate(x, 0.02, seed=0), A, it.data_terms.LeastSquares(noise_std=0.02))
    solution = it.solve(
        problem,
        it.priors.WaveletL1("haar", 2),
        FISTA(),
        regularization=2.0,
        tolerance=1e-6,
        progress=False,
    )
    assert solution.status == ("converged",)


def scan(batch: int = 1) -> it.Problem:
    A = it.operators.ParallelBeam((1, 24, 24), torch.arange(18) * torch.pi / 18, 35)
    disc = (
        (torch.arange(24.0) - 11.5) ** 2 + (torch.arange(24.0)[:, None] - 11.5) ** 2 < 60
    ).float()
    x = torch.stack([disc, disc * (torch.arange(24) > 10)])[:batch, None]
    return it.Problem(A.simulate(x, noise=0.1, seed=0), A)


def test_it_is_the_choice_for_a_scan_with_total_variation() -> None:
    problem, tv = scan(), it.priors.TotalVariation()
    arguments = {"regularization": 0.5, "max_iterations": 1, "progress": False}

    def chosen(prior: it.priors.base.Prior, **changes: object) -> str:
        return it.solve(problem, prior, **(arguments | changes)).solver.partition("(")[0]

    assert chosen(tv) == "FISTA"
    assert chosen(it.priors.TotalVariation(lower=0.0)) == "FISTA"
    assert chosen(tv, regularization="discrepancy") == "PDHG"  # it finds the weight by itself
    assert chosen(tv + it.priors.NonNegative()) == "FISTA"
    assert chosen(tv + it.priors.L1()) == "PDHG"
    problem.y.requires_grad_()
    with pytest.warns(UserWarning):
        assert chosen(tv, differentiate="implicit") == "PDHG"


def test_a_scan_starts_at_its_filtered_back_projection_and_needs_fewer_steps() -> None:
    problem, tv = scan(), it.priors.TotalVariation()
    ours = it.solve(problem, tv, regularization=0.5, progress=False)
    theirs = it.solve(problem, tv, it.solvers.PDHG(), 0.5, progress=False)
    assert ours.status == theirs.status == ("converged",)
    assert 2 * int(ours.iterations) < int(theirs.iterations)
    assert float(ours.history["objective"][-1]) < 1.001 * float(theirs.history["objective"][-1])


def test_the_start_leaves_out_views_without_weight() -> None:
    problem = scan()
    used = torch.tensor([k for k in range(18) if k % 6 != 3])
    weights = torch.zeros(1, 1, 18, 1)
    weights[:, :, used] = 1.0
    term = it.data_terms.LeastSquares(weights=weights)
    spoilt = problem.y.clone()
    spoilt[:, :, 3::6] = 1e3
    guess = first_guess(it.Problem(spoilt, problem.operator, term), inverse=True)
    A = problem.operator.subset(used)
    assert torch.equal(guess, A.pseudo_inverse(problem.y[:, :, used]))


def test_items_of_a_scan_choose_their_weight_alone_as_in_company() -> None:
    problem = scan(2)
    both = it.solve(problem, it.priors.TotalVariation(), progress=False)
    assert "FISTA" in both.solver
    for k in range(2):
        one = it.solve(
            problem.select(torch.tensor([k])), it.priors.TotalVariation(), progress=False
        )
        assert torch.equal(one.regularization, both.regularization[k : k + 1])
        assert torch.equal(one.x, both.x[k : k + 1])


def disc_scan(size: int, cells: int, batch: int = 1) -> tuple[it.Problem, Tensor]:
    A = it.operators.FanBeam((size, size), torch.arange(20) * 0.05, cells, 3.0 * size, 4.0 * size)
    line = torch.arange(float(size)) - size / 2 + 0.5
    x = (line.square() + line[:, None].square() < (0.35 * size) ** 2).float()[None, None]
    x = torch.cat([x, x * (line > -3)])[:batch]
    return it.Problem(A.simulate(x, noise=0.5, seed=0), A), x


def test_a_coarse_scan_sees_the_means() -> None:
    problem, x = disc_scan(32, 56)
    coarse = coarsen(problem)
    assert coarse is not None and coarse.operator.domain_shape == (1, 16, 16)
    means = problem.operator(x).unflatten(-1, (28, 2)).mean(-1)
    seen = coarse.operator(torch.nn.functional.avg_pool2d(x, 2))
    assert float((seen - means).norm() / means.norm()) < 0.03
    assert coarsen(disc_scan(32, 57)[0]) is None
    pixels = it.data_terms.LeastSquares(weights=torch.ones(1, 1, 20, 56))
    assert coarsen(problem.with_data_term(pixels)) is None


def test_a_large_scan_starts_at_the_answer_on_a_coarse_grid() -> None:
    problem, tv = disc_scan(128, 192, batch=2)[0], it.priors.TotalVariation()
    solver = FISTA(max_iterations=20)
    arguments = {"solver": solver, "regularization": 2.0, "progress": False}
    both = it.solve(problem, tv, **arguments)
    start = first_guess(problem, inverse=True)
    plain = it.solve(problem, tv, initial=start, **arguments)
    assert bool((both.history["objective"][-1] < 0.9 * plain.history["objective"][-1]).all())
    alone = it.solve(problem.select(torch.tensor([1])), tv, **arguments)
    assert torch.equal(alone.x, both.x[1:])
