"""Learned directions: exact steps whatever the network says, conjugate gradients and a direct solver as special cases, and training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.solve import bind
from invtoolbox.solvers import ConjugateGradient, DirectionNetwork, LearnedDirection
from invtoolbox.solvers.conjugate_gradient import right_side
from invtoolbox.testing import check_solver
from invtoolbox.training import NormalEquations, RitzVectors, train_direction

SMOOTH = it.priors.Tikhonov(it.operators.FiniteDifference((1, 12, 12)))
WEIGHT = 100.0


def problem(batch: int = 2, size: int = 12, dtype: torch.dtype = torch.float64) -> it.Problem:
    """With `SMOOTH`, a system of condition 800."""
    y = torch.randn(
        batch, 1, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).to(dtype)
    return it.Problem(y, it.operators.Identity((1, size, size)))


class Function(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, r: Tensor) -> Tensor:
        return self.function(r)  # type: ignore[operator]


def matrix(p: it.Problem, prior: it.priors.ExplicitPrior, weight: float) -> Tensor:
    system = NormalEquations(p.select(torch.tensor([0])), prior, weight)
    n = p.y[0].numel()
    return system(torch.eye(n, dtype=torch.float64).view(n, *p.image_shape)).view(n, n)


def test_the_residual_as_direction_is_conjugate_gradients() -> None:
    p = problem()
    for conjugations in (1, 2, 5):
        learned = ConjugateGradient(direction=LearnedDirection(nn.Identity(), conjugations))
        for steps in (1, 7, 20):
            one, other = (
                it.solve(
                    p, SMOOTH, solver, WEIGHT, max_iterations=steps, tolerance=0.0, progress=False
                ).x
                for solver in (ConjugateGradient(), learned)
            )
            torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_a_perfect_network_needs_one_step() -> None:
    p = problem()
    H = matrix(p, SMOOTH, WEIGHT)
    perfect = Function(
        lambda r: -3.0 * torch.linalg.solve(H, r.flatten(1).T).T.view_as(r)
    )  # neither length nor sign count
    solution = it.solve(
        p,
        SMOOTH,
        ConjugateGradient(direction=LearnedDirection(perfect)),
        WEIGHT,
        tolerance=1e-9,
        progress=False,
    )
    assert solution.iterations.tolist() == [1, 1]
    objective, _, _ = bind(p, SMOOTH.as_sum(), WEIGHT)
    torch.testing.assert_close(
        solution.x, torch.linalg.solve(H, right_side(objective).flatten(1).T).T.view_as(p.y)
    )


def noise(r: Tensor) -> Tensor:
    return torch.randn(r.shape, generator=torch.Generator().manual_seed(0)).to(r)


@pytest.mark.parametrize(
    "network",
    [
        DirectionNetwork(width=4, levels=3, seed=1),
        Function(noise),
        Function(torch.zeros_like),
        Function(lambda r: r.roll(1, -1) - r.roll(-1, -1)),
    ],
    ids=["untrained", "noise", "nothing", "orthogonal"],
)
def test_it_converges_whatever_the_network_says(network: nn.Module) -> None:
    p = problem()
    H = matrix(p, SMOOTH, WEIGHT)
    exact = torch.linalg.solve(H, p.y.flatten(1).T).T
    errors: list[Tensor] = []

    def watch(state: it.loop.Progress) -> None:
        e = state.x.flatten(1) - exact[state.running]
        errors.append(((e @ H) * e).sum(1))

    solver = ConjugateGradient(direction=LearnedDirection(network))
    solution = it.solve(
        p,
        SMOOTH,
        solver,
        WEIGHT,
        tolerance=0.0,
        max_iterations=60,
        callbacks=(watch,),
        progress=False,
    )
    decrease = torch.stack(errors)
    assert bool((decrease[1:] <= decrease[:-1] + 1e-14 * decrease[0]).all())
    assert bool((decrease[1:10] < decrease[:9]).all())  # strictly, while there is something left
    if not isinstance(network, DirectionNetwork):
        return
    precise = ConjugateGradient(direction=solver.direction.to(torch.float64))  # type: ignore[union-attr]  # the same alone and in a batch
    check_solver(precise, p, SMOOTH, regularization=WEIGHT, tolerance=1e-3, max_iterations=300)
    assert solution.certificate == "relative residual of the normal equations"


def test_a_rule_that_moves_the_weight_starts_anew() -> None:
    p = problem()
    truth = torch.zeros_like(p.y) + torch.linspace(0, 1, 12, dtype=torch.float64)
    noisy = it.Problem(truth + 0.1 * p.y, p.operator, it.data_terms.LeastSquares(noise_std=0.1))
    one, other = (
        it.solve(
            noisy,
            SMOOTH,
            solver,
            "discrepancy",
            tolerance=1e-8,
            max_iterations=2000,
            progress=False,
        )
        for solver in (
            ConjugateGradient(),
            ConjugateGradient(direction=LearnedDirection(nn.Identity())),
        )
    )
    assert other.status == ("converged", "converged")
    torch.testing.assert_close(one.x, other.x, rtol=0, atol=1e-4)


def test_ritz_vectors_are_eigenvectors_where_there_are_as_many() -> None:
    system = NormalEquations(
        problem(1, 6), it.priors.Tikhonov(it.operators.FiniteDifference((1, 6, 6))), 2.0
    )
    pairs = RitzVectors(system, vectors=100)
    assert len(pairs.values) == 36 and float(pairs.values[0]) == pytest.approx(1.0)
    torch.testing.assert_close(
        system(pairs.vectors), pairs.values.view(-1, 1, 1, 1) * pairs.vectors, rtol=0, atol=1e-8
    )
    Q = pairs.vectors.flatten(1)
    torch.testing.assert_close(Q @ Q.T, torch.eye(36, dtype=torch.float64), rtol=0, atol=1e-10)
    b, _ = pairs.draw(50, torch.Generator().manual_seed(0))
    share = (b.flatten(1) @ Q[:20].T).square().sum(1)  # of 0.55 * 36 vectors, 81 times the power
    torch.testing.assert_close(b.flatten(1).norm(dim=1), torch.ones(50, dtype=torch.float64))
    assert float(share.mean()) == pytest.approx(20 * 81 / (20 * 81 + 16), abs=0.01)
    few = RitzVectors(system, vectors=12)
    assert len(few.values) == 12 and float(few.values[-1]) == pytest.approx(
        float(pairs.values[-1]), rel=1e-2
    )


def test_a_trained_direction_saves_iterations_also_on_larger_images(tmp_path: Path) -> None:
    weight = 5.0  # a condition of 40, which is learned in seconds
    learned = train_direction(
        problem(1),
        SMOOTH,
        weight,
        DirectionNetwork(levels=3),
        stages=[(200, 2e-3)],
        count=16,
        progress=False,
    )
    large = it.priors.Tikhonov(it.operators.FiniteDifference((1, 24, 24)))
    for p, prior in ((problem(), SMOOTH), (problem(2, 24), large)):
        plain, quick, loose = (
            it.solve(p, prior, solver, weight, tolerance=1e-4, progress=False).iterations.max()
            for solver in (
                ConjugateGradient(),
                ConjugateGradient(direction=learned),
                ConjugateGradient(direction=LearnedDirection(learned.network, conjugations=0)),
            )
        )
        assert quick <= 0.5 * plain and quick <= loose, (plain, quick, loose)
    path = learned.save(tmp_path / "smooth.safetensors")
    again = LearnedDirection.load(path)
    r = torch.randn(1, 1, 7, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.proposal(r), learned.proposal(r)) and repr(again) == repr(learned)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    p = problem()
    direction = LearnedDirection(DirectionNetwork(width=2, levels=1))
    fourier = it.Problem(
        torch.zeros(1, 1, 4, 4, dtype=torch.complex64), it.operators.Fourier((1, 4, 4))
    )
    for solver, q, said in (
        (ConjugateGradient(direction=direction, preconditioner="fourier"), p, "has both"),
        (ConjugateGradient(direction=direction), fourier, "complex"),
        (ConjugateGradient(direction=nn.Identity()), p, "is a LearnedDirection"),
    ):  # type: ignore[arg-type]
        with pytest.raises(InputError, match=said):
            it.solve(q, SMOOTH if q is p else None, solver, progress=False)
    with pytest.raises(InputError, match="keep the shape"):
        LearnedDirection(nn.Flatten()).proposal(p.y)
    with pytest.raises(InputError, match="spatial axes"):
        direction.proposal(torch.zeros(1, 1, 4))
    with pytest.raises(InputError, match="this problem has 2"):
        train_direction(p, SMOOTH)
    with pytest.raises(InputError, match="needs quadratic priors"):
        train_direction(problem(1), it.priors.TotalVariation())
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="not the weights of a DirectionNetwork"):
        LearnedDirection.load(tmp_path / "other.pth")
    for bad in (
        lambda: LearnedDirection(3),
        lambda: LearnedDirection(nn.Identity(), -1),
        lambda: DirectionNetwork(levels=0),  # type: ignore[arg-type]
        lambda: RitzVectors(NormalEquations(problem(1)), 0),
    ):
        with pytest.raises(InputError):
            bad()
