"""The discrepancy principle: its target, its first weight, and the search for the weight between steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.objective.initial_guess import first_guess
from invtoolbox.operators.base import item_norm
from invtoolbox.parameter_choice import DiscrepancyPrinciple, rule_named
from invtoolbox.parameter_choice.discrepancy import first_weight
from invtoolbox.priors import SmoothedNorm
from invtoolbox.problem import fitted_back_projection
from invtoolbox.solve import bind

N = 32


def picture() -> Tensor:
    grid = torch.linspace(-1, 1, N)
    x = ((grid[:, None] ** 2 + grid**2) < 0.6) * (1 + 0.4 * grid)
    return torch.stack([x, x + (grid > 0.3) * 0.5])[:, None]


def scan() -> it.Problem:
    A = it.operators.ParallelBeam((1, N, N), torch.arange(30) * torch.pi / 30, 47)
    clean = A(picture())
    std = torch.tensor([0.03, 0.06]) * clean.flatten(1).square().mean(1).sqrt()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    return it.Problem(clean + std.view(-1, 1, 1, 1) * noise, A, it.data_terms.LeastSquares(std))


def noisy() -> it.Problem:
    y = picture() + 0.1 * torch.randn(2, 1, N, N, generator=torch.Generator().manual_seed(1))
    return it.Problem(y, it.operators.Identity((1, N, N)), it.data_terms.LeastSquares(0.1))


SMOOTH_TV = SmoothedNorm(1.0, 0.05) @ it.operators.FiniteDifference((1, N, N))
SEARCHES = [
    (it.solvers.FISTA(), it.priors.TotalVariation()),
    (it.solvers.ADMM(), it.priors.TotalVariation()),
    (it.solvers.LBFGS(), SMOOTH_TV),
    (it.solvers.GradientDescent(), SMOOTH_TV),
    (it.solvers.FISTA(), it.priors.Tikhonov()),
    (it.solvers.LBFGS(), it.priors.Tikhonov()),
    (it.solvers.ConjugateGradient(), it.priors.Tikhonov()),
]


@pytest.mark.parametrize("make", [scan, noisy])
@pytest.mark.parametrize(
    ("solver", "prior"), SEARCHES, ids=[f"{type(s).__name__} {p!r}" for s, p in SEARCHES]
)
def test_every_item_meets_the_target_whatever_the_solver(
    make: Any, solver: Any, prior: Any
) -> None:
    problem = make()
    solution = it.solve(problem, prior, solver, "discrepancy", max_iterations=1000, progress=False)
    assert solution.status == ("converged", "converged")
    misfit = problem.data_term.discrepancy(problem.operator(solution.x), problem.y)
    target = 1.01 * problem.y0[0].numel() ** 0.5
    assert torch.allclose(misfit, torch.full((2,), target), rtol=0.01)
    # The weight belongs to the minimizer: a solve with it returns the same image.
    again = it.solve(
        problem, prior, solver, solution.regularization, max_iterations=2000, progress=False
    )
    assert bool((item_norm(again.x - solution.x) < 0.03 * item_norm(solution.x)).all())


def test_the_search_alone_on_a_lagging_discrepancy() -> None:
    """A solver that goes a tenth of the way in every step, with a different curve for every item."""
    problem = noisy()
    objective = bind(problem, it.priors.Tikhonov().as_sum())[0]
    rule = DiscrepancyPrinciple()
    state = rule.init(objective, first_guess(problem))
    exponent, scale = torch.tensor([0.1, 0.9]), torch.tensor([40.0, 0.02])
    discrepancy = torch.tensor([1.0, 500.0])
    for k in range(400):
        limit = scale * state.weight**exponent
        discrepancy = discrepancy + 0.1 * (limit - discrepancy)
        state = rule.update(state, discrepancy, torch.full((2,), 1e-3), k)
    assert torch.allclose(discrepancy, state.target, rtol=0.005)
    assert bool(rule.satisfied(state, discrepancy).all())


def test_a_weight_stays_for_at_least_four_steps_and_at_most_sixty() -> None:
    """The first item has settled in every step, and the certificate of the second one never holds."""
    problem = noisy()
    rule = DiscrepancyPrinciple()
    state = rule.init(bind(problem, it.priors.Tikhonov().as_sum())[0], first_guess(problem))
    steps: list[list[int]] = [[], []]
    for k in range(130):
        before = state.weight
        state = rule.update(state, torch.full((2,), 1e9), torch.tensor([1e-3, 1.0]), k)
        for item in (state.weight != before).nonzero().flatten().tolist():
            steps[item].append(k + 1)
    assert steps[0][:5] == [4, 8, 12, 16, 20]
    assert steps[1] == [60, 120]


def test_targets_in_the_units_of_the_data_term() -> None:
    y, A = torch.ones(2, 1, 8, 8), it.operators.Identity((1, 8, 8))

    def target(term: Any, rule: DiscrepancyPrinciple) -> list[float]:
        objective = bind(it.Problem(y, A, term), it.priors.Tikhonov().as_sum(), 1.0)[0]
        return [float(t) for t in rule.target(objective)]

    terms = it.data_terms
    assert target(terms.LeastSquares(0.5), DiscrepancyPrinciple()) == pytest.approx([8.08, 8.08])
    assert target(terms.LeastSquares(), DiscrepancyPrinciple(noise_std=0.5)) == pytest.approx(
        [4.04, 4.04]
    )
    assert target(terms.LeastSquares(0.25), DiscrepancyPrinciple(noise_std=0.5)) == pytest.approx(
        [16.16, 16.16]
    )
    assert target(
        terms.LeastSquares(), DiscrepancyPrinciple(1.0, torch.tensor([0.5, 2.0]))
    ) == pytest.approx([4.0, 16.0])
    assert target(terms.Sobolev(-1.0), DiscrepancyPrinciple(1.0, noise_std=0.5)) == pytest.approx(
        [4.0, 4.0]
    )
    weights = torch.ones(1, 1, 8, 8)
    weights[..., :4] = 0
    assert target(terms.LeastSquares(0.5, weights), DiscrepancyPrinciple(1.0)) == pytest.approx(
        [32**0.5] * 2
    )


def test_an_unknown_level_is_estimated_and_named() -> None:
    problem = it.Problem(noisy().y, it.operators.Identity((1, N, N)))
    solution = it.solve(problem, it.priors.Tikhonov(), regularization="discrepancy", progress=False)
    assert any("estimated from the data" in note for note in solution.notes)
    residual = item_norm(solution.x - problem.y)
    assert torch.allclose(
        residual, torch.full((2,), 1.01 * 0.1 * N), rtol=0.2
    )  # small, full of edges


def test_measurements_without_noise_still_have_a_target() -> None:
    flat = torch.ones(1, 1, 8, 8)
    objective = bind(
        it.Problem(flat, it.operators.Identity((1, 8, 8))), it.priors.Tikhonov().as_sum()
    )[0]
    assert float(DiscrepancyPrinciple().target(objective)) == pytest.approx(1.01 * 8 * 1e-4)


def test_the_first_weight_changes_with_the_units() -> None:
    """y -> c y with an unknown noise level: D goes with c^2, TV with c, so the weight has to go with c."""
    y = noisy().y
    A = it.operators.Identity((1, N, N))
    weights = []
    for c in (1.0, 1000.0):
        problem = it.Problem(c * y, A)
        objective, rule, _ = bind(
            problem, it.priors.TotalVariation().as_sum(), DiscrepancyPrinciple()
        )
        assert rule is not None
        weights.append(rule.init(objective, first_guess(problem)).weight)
    assert torch.allclose(1000 * weights[0], weights[1], rtol=1e-3)


def test_a_start_without_variation_has_the_first_weight_of_the_back_projection() -> None:
    """The total variation of zeros is 0, and one such item in a batch does not change the other."""
    problem = noisy()
    objective = bind(problem, it.priors.TotalVariation().as_sum(), DiscrepancyPrinciple())[0]
    image = fitted_back_projection(problem)
    start = torch.cat([torch.zeros_like(image[:1]), 2 * image[1:]])
    expected = first_weight(objective, image)
    assert bool((expected != 1).all())
    torch.testing.assert_close(first_weight(objective, torch.zeros_like(image)), expected)
    torch.testing.assert_close(first_weight(objective, start)[0], expected[0])
    assert float(first_weight(objective, start)[1]) == pytest.approx(0.5 * float(expected[1]))


def test_names() -> None:
    assert rule_named("discrepancy") == DiscrepancyPrinciple()
    with pytest.raises(InputError, match="did you mean 'discrepancy'"):
        rule_named("discrepency")
    with pytest.raises(InputError, match="tau"):
        DiscrepancyPrinciple(tau=0.0)


def test_a_data_term_without_a_level_is_refused() -> None:
    class Modulus(it.data_terms.DataTerm):
        def value(self, prediction: Tensor, y: Tensor) -> Tensor:
            return (prediction - 2 * y).abs().flatten(1).sum(1)  # no residual

    problem = it.Problem(torch.ones(1, 1, 8, 8), it.operators.Identity((1, 8, 8)), Modulus())
    with pytest.raises(InputError, match="regularization= a number"):
        it.solve(problem, it.priors.Tikhonov(), regularization="discrepancy", progress=False)


def test_whose_noise_level_it_is() -> None:
    """Counts know theirs, so that nothing was given."""
    A = it.operators.Identity((1, 8, 8))
    y = torch.full((1, 1, 8, 8), 4.0)
    for term, rule, words in (
        (it.data_terms.Poisson(), "discrepancy", "noise level of Poisson"),
        (it.data_terms.LeastSquares(2.0), "discrepancy", "noise level of LeastSquares"),
        (
            it.data_terms.LeastSquares(),
            DiscrepancyPrinciple(noise_std=2.0),
            "noise level that was given",
        ),
    ):
        solution = it.solve(
            it.Problem(y, A, term),
            it.priors.TotalVariation(),
            regularization=rule,
            max_iterations=1,
            progress=False,
        )
        assert words in " ".join(solution.notes)
