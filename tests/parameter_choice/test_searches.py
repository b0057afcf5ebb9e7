"""Rules that compare several solutions: GCV, SURE, the L-curve, quasi-optimality, and a user's own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.errors import InputError
from invtoolbox.objective.initial_guess import first_guess
from invtoolbox.parameter_choice import (
    GCV,
    SURE,
    CompensatedDiscrepancy,
    EvidenceBound,
    LCurve,
    QuasiOptimality,
    ScoreSearch,
    Trials,
    Validation,
)
from invtoolbox.parameter_choice.curve_rules import _chord, _curvature, lowest
from invtoolbox.parameter_choice.divergence import fits
from invtoolbox.parameter_choice.score_rules import grid, refine
from invtoolbox.solve import bind

N = 32
NAMES = ("gcv", "sure", "l-curve", "quasi-optimality", "compensated-discrepancy", "validation")
QUICK = [
    GCV(points=5, sections=1),
    SURE(points=5, sections=1),
    LCurve(per_decade=2),
    QuasiOptimality(per_decade=2),
    CompensatedDiscrepancy(),
    Validation(),
]


def picture() -> Tensor:
    grid_ = torch.linspace(-1, 1, N)
    x = ((grid_[:, None] ** 2 + grid_**2) < 0.6) * (1 + 0.4 * grid_)
    return torch.stack([x, x + (grid_ > 0.3) * 0.5])[:, None]


def blurred(std: tuple[float, ...] = (0.02, 0.1)) -> it.Problem:
    A = it.operators.Blur(torch.ones(3, 3) / 9, (N, N), boundary="periodic")
    noise = torch.randn(2, 1, N, N, generator=torch.Generator().manual_seed(1))
    level = torch.tensor(std)
    return it.Problem(
        A(picture()) + level.view(-1, 1, 1, 1) * noise, A, it.data_terms.LeastSquares(level)
    )


def trials(problem: it.Problem, prior: it.priors.ExplicitPrior) -> Trials:
    def attempt(some: it.Problem, priors: Any, weight: Tensor, items: Tensor) -> Any:
        settings = {"progress": False, "tolerance": 1e-4, "check": False}
        return it.solve(some, priors, regularization=weight, **settings)

    return Trials(
        bind(problem, prior.as_sum(), 1.0)[0],
        problem,
        prior.as_sum(),
        first_guess(problem),
        attempt,
    )


@dataclass(frozen=True)
class Oracle(ScoreSearch):
    """A user's rule; it knows the truth."""

    truth: Any = None

    def score(self, trials: Trials, log_weight: Tensor, items: Tensor) -> Tensor:
        return trials(
            log_weight, lambda _, s: -it.metrics.psnr(s.x, self.truth.expand_as(s.x)), items
        )

    def describe(self, objective: Any) -> str:
        return "the truth chooses"


# -- the line search -------------------------------------------------------------------------------


def test_grid_and_golden_sections_find_the_minimum_of_every_item() -> None:
    lowest = torch.tensor(
        [0.3, -1.7, 9.0], dtype=torch.float64
    )  # the last lies far beyond the grid

    def values(t: Tensor, items: Tensor) -> Tensor:
        return torch.cosh(t - lowest[items])

    line = refine(values, grid(values, torch.zeros(3, dtype=torch.float64), 1.0, 5), 12)
    assert torch.allclose(line.best, lowest, atol=0.01)
    seen = line.positions.isfinite().sum(0)
    assert seen.tolist() == [
        17,
        19,
        25,
    ]  # the second went on once and the third four times, by themselves
    for k in range(3):
        found = line.positions[: int(seen[k]), k]
        assert bool((found.diff() > 0).all())


def test_values_that_are_not_finite_are_never_chosen() -> None:
    def values(t: Tensor, items: Tensor) -> Tensor:
        return torch.where(t < 0, torch.nan, (t - 1).abs())

    line = refine(values, grid(values, torch.zeros(1), 1.0, 5), 3)
    assert float(line.best) == pytest.approx(1.0, abs=0.3)
    assert float(
        grid(lambda t, i: t * torch.nan, torch.full((1,), 0.7), 1.0, 5).best
    ) == pytest.approx(0.7)


# -- degrees of freedom ----------------------------------------------------------------------------


def test_degrees_of_freedom_are_the_trace_of_the_influence_matrix() -> None:
    """Periodic blur and squared periodic differences: the trace is a sum over frequencies."""
    problem, n = blurred((0.1, 0.1)), N
    prior = it.priors.Tikhonov(it.operators.FiniteDifference((1, n, n), True))
    weight = torch.tensor([1.0, 30.0])
    fit = fits(
        trials(problem, prior),
        weight.log().view(2, 1, 1).expand(2, 2, 1),
        torch.arange(2),
        probes=40,
        step=1.0,
        seed=0,
    )
    power = (
        torch.fft.fft2(torch.nn.functional.pad(torch.ones(3, 3) / 9, (0, n - 3, 0, n - 3)))
        .abs()
        .square()
    )
    frequency = 2 * torch.pi * torch.fft.fftfreq(n)
    laplacian = (2 - 2 * frequency.cos())[:, None] + 2 - 2 * frequency.cos()
    for k in range(2):
        trace = (power / (power + 0.1**2 * weight[k] * laplacian).clamp_min(1e-12)).sum()
        assert torch.allclose(fit.degrees[k].float(), trace.expand(2), rtol=0.03)
    assert float(fit.measured[0, 0]) == n * n


def test_degrees_of_freedom_of_a_soft_threshold_are_the_values_kept() -> None:
    y = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    problem = it.Problem(y, it.operators.Identity((1, 64, 64)), it.data_terms.LeastSquares(1.0))
    fit = fits(
        trials(problem, it.priors.L1()),
        torch.zeros(1, 1, 1),
        torch.arange(1),
        probes=4,
        step=0.05,
        seed=0,
    )
    assert float(fit.degrees) == pytest.approx(float((y.abs() > 1).sum()), rel=0.05)


def test_sure_is_unbiased() -> None:
    """Its mean over draws of the noise is the true risk of the prediction, about a tenth of the residual."""
    A = it.operators.Blur(torch.ones(3, 3) / 9, (N, N), boundary="periodic")
    clean = A(picture()[:1]).expand(6, -1, -1, -1)
    y = clean + 0.1 * torch.randn(6, 1, N, N, generator=torch.Generator().manual_seed(2))
    problem = it.Problem(y, A, it.data_terms.LeastSquares(0.1))
    tries = trials(problem, it.priors.TotalVariation(periodic=True))
    log_weight = torch.tensor([2.0]).log().view(1, 1, 1).expand(1, 6, 1)
    estimate = SURE(probes=3, step=0.1).score(tries, log_weight, torch.arange(6))
    true = tries(
        log_weight, lambda o, s: (o.problem.operator(s.x) - clean).flatten(1).square().mean(1)
    )
    assert float(estimate.mean()) == pytest.approx(float(true.mean()), rel=0.15)
    assert float(true.mean()) < 0.5 * 0.1**2


# -- the rules in solve ----------------------------------------------------------------------------


@lru_cache
def best_quality() -> Tensor:
    """Return the PSNR of both pictures at the best of five weights, one item per weight."""
    weights = (4.0, 8.0, 16.0, 32.0, 64.0)
    problem = blurred((0.03, 0.1)).select(torch.arange(2).repeat(len(weights)))
    x = it.solve(
        problem,
        it.priors.TotalVariation(periodic=True),
        regularization=torch.tensor(weights).repeat_interleave(2),
        progress=False,
    ).x
    quality = it.metrics.psnr(x, picture().repeat(len(weights), 1, 1, 1))
    return quality.view(len(weights), 2).amax(0)


@pytest.mark.parametrize(
    "rule",
    [GCV(points=5, sections=2), SURE(points=5, sections=2), CompensatedDiscrepancy()],
    ids=["gcv", "sure", "compensated-discrepancy"],
)
def test_close_to_the_best_weight(rule: Any) -> None:
    problem, prior = blurred((0.03, 0.1)), it.priors.TotalVariation(periodic=True)
    x = it.solve(problem, prior, regularization=rule, progress=False).x
    assert bool((it.metrics.psnr(x, picture()) > best_quality() - 0.5).all())


def test_the_residual_lacks_what_the_image_fits() -> None:
    """|A x - y|^2 = sigma^2 (m - df), df of the image of Morozov's weight, by the trace that is a sum over frequencies."""
    problem, n = blurred((0.1, 0.1)), N
    prior = it.priors.Tikhonov(it.operators.FiniteDifference((1, n, n), True))
    morozov = it.solve(
        problem,
        prior,
        regularization=it.parameter_choice.DiscrepancyPrinciple(tau=1.0, tolerance=1e-3),
        progress=False,
    )
    solution = it.solve(
        problem, prior, regularization=CompensatedDiscrepancy(probes=40), progress=False
    )
    power = (
        torch.fft.fft2(torch.nn.functional.pad(torch.ones(3, 3) / 9, (0, n - 3, 0, n - 3)))
        .abs()
        .square()
    )
    frequency = 2 * torch.pi * torch.fft.fftfreq(n)
    laplacian = (2 - 2 * frequency.cos())[:, None] + 2 - 2 * frequency.cos()
    residual = (problem.operator(solution.x) - problem.y).flatten(1).square().sum(1) / 0.1**2
    for k in range(2):
        degrees = (
            power / (power + 0.1**2 * morozov.regularization[k] * laplacian).clamp_min(1e-12)
        ).sum()
        assert float(residual[k]) == pytest.approx(n * n - float(degrees), rel=0.02)
    assert bool((solution.regularization < morozov.regularization).all())


def test_many_measurements_of_few_numbers_do_not_take_the_weight_to_zero() -> None:
    """With m >> n the exact equation has no solution for half of the draws of the noise; the rounds stop at a target that is met."""
    A = it.operators.Matrix(torch.randn(400, 6, generator=torch.Generator().manual_seed(0)))
    for seed in range(4):
        y = A.simulate(torch.linspace(1, 2, 6)[None, None], 0.3, seed=seed)
        problem = it.Problem(y, A, it.data_terms.LeastSquares(0.3))
        solution = it.solve(
            problem,
            it.priors.Tikhonov(),
            regularization=CompensatedDiscrepancy(rounds=3),
            progress=False,
        )
        plain = it.solve(
            problem,
            it.priors.Tikhonov(),
            regularization=it.parameter_choice.DiscrepancyPrinciple(tau=1.0),
            progress=False,
        )
        assert bool((solution.regularization > 0.5 * plain.regularization).all())


def test_the_corners_of_known_curves() -> None:
    t = torch.linspace(-3, 3, 25, dtype=torch.float64).unsqueeze(1)
    # x y = 1 between equal ends: furthest from the chord, and most bent, where x = y = 1.
    assert float(lowest(t, _chord(t.exp(), (-t).exp()))) == pytest.approx(0.0, abs=1e-3)
    assert float(lowest(t, -_curvature(t.exp(), (-t).exp(), 0.25))) == pytest.approx(0.0, abs=1e-3)
    angle = torch.linspace(0, 3, 25, dtype=torch.float64).unsqueeze(1)
    bend = _curvature(2 * angle.cos(), 2 * angle.sin(), 0.125)
    assert bool(bend[:2].isnan().all() and bend[-2:].isnan().all())
    assert torch.allclose(bend[2:-2], torch.full_like(bend[2:-2], 0.5), rtol=0.02)


@pytest.mark.parametrize("rule", QUICK, ids=NAMES)
def test_the_solution_is_that_of_the_weight_and_says_so(rule: Any) -> None:
    problem, prior = blurred(), it.priors.Tikhonov("gradient")
    solution = it.solve(problem, prior, regularization=rule, progress=False)
    again = it.solve(problem, prior, regularization=solution.regularization, progress=False)
    assert torch.equal(solution.x, again.x)
    assert torch.equal(solution.x, it.solve(problem, prior, regularization=rule, progress=False).x)
    curve = solution.weight_search
    assert curve is not None and curve.rule == rule.name
    assert torch.equal(curve.chosen, solution.regularization)
    assert curve.weights.shape == curve.scores.shape and len(curve.weights) == 2
    assert any("chooses the weight" in note for note in solution.notes)
    assert again.weight_search is None


@pytest.mark.parametrize("rule", QUICK, ids=NAMES)
def test_an_item_chooses_alone_as_in_company(rule: Any) -> None:
    problem, prior = blurred((0.05, 0.1)), it.priors.Tikhonov("gradient")
    both = it.solve(problem, prior, regularization=rule, progress=False)
    for k in range(2):
        one = it.solve(
            problem.select(torch.tensor([k])), prior, regularization=rule, progress=False
        )
        assert torch.allclose(one.regularization, both.regularization[k], rtol=1e-3)


def test_a_rule_of_ones_own() -> None:
    problem = blurred()
    solution = it.solve(
        problem.select(torch.tensor([0])),
        it.priors.TotalVariation(),
        regularization=Oracle(truth=picture()[:1], sections=2),
        progress=False,
    )
    curve = solution.weight_search
    assert curve is not None
    assert float(curve.scores.nan_to_num(torch.inf).min()) == pytest.approx(
        -float(it.metrics.psnr(solution.x, picture()[:1]))
    )


@pytest.mark.slow
def test_several_weights() -> None:
    """Noise on a ramp plus a square: two priors, of which one fits; each gets a weight of its own."""
    problem = blurred((0.05, 0.1))
    sum_of_two = (
        it.priors.TotalVariation(periodic=True) + it.priors.Tikhonov() + it.priors.NonNegative()
    )
    joint = it.solve(problem, sum_of_two, regularization=SURE(points=5, sections=1), progress=False)
    each = it.solve(
        problem,
        sum_of_two,
        regularization=SURE(points=5, sections=1, separate=True, cycles=1),
        progress=False,
    )
    assert joint.weight_search is not None and each.weight_search is not None
    assert each.weight_search.chosen.shape == (2, 2)
    assert bool(
        (
            each.weight_search.scores.nan_to_num(torch.inf).amin(1)
            <= joint.weight_search.scores.nan_to_num(torch.inf).amin(1)
        ).all()
    )
    assert torch.allclose(each.weight_search.chosen[:, 0], each.regularization)
    assert bool((it.metrics.psnr(each.x, picture()) > it.metrics.psnr(joint.x, picture())).all())
    parts = each.weight_search.chosen.unbind(1)
    again = it.solve(
        problem,
        parts[0] * it.priors.TotalVariation(periodic=True)
        + parts[1] * it.priors.Tikhonov()
        + it.priors.NonNegative(),
        progress=False,
    )
    assert torch.allclose(again.x, each.x, atol=1e-4)


def test_auto_takes_the_l_curve_if_no_noise_level_is_known() -> None:
    class Modulus(it.data_terms.DataTerm):
        def value(self, prediction: Tensor, y: Tensor) -> Tensor:
            relative = (prediction - y).square() / (1 + y.square())
            return (relative + 1e-2).sqrt().flatten(1).sum(1)

    known = blurred()
    problem = it.Problem(known.y, known.operator, Modulus())
    solution = it.solve(
        problem, it.priors.Tikhonov("gradient"), "lbfgs", max_iterations=40, progress=False
    )
    assert any("no noise level can be had" in note and "L-curve" in note for note in solution.notes)
    with pytest.raises(InputError, match="white noise in one tensor"):
        it.solve(
            problem, it.priors.Tikhonov("gradient"), "lbfgs", regularization="gcv", progress=False
        )


def test_a_checkpoint_keeps_the_weight(tmp_path: Path) -> None:
    problem, prior, path = blurred(), it.priors.TotalVariation(), tmp_path / "run.ckpt"
    settings: dict[str, Any] = {"regularization": GCV(points=3, sections=0)}
    whole = it.solve(problem, prior, progress=False, **settings)
    part = it.solve(
        problem,
        prior,
        callbacks=[lambda progress: progress.iteration == 12],
        checkpoint=it.Checkpoint(path, 0),
        progress=False,
        **settings,
    )
    assert part.status == ("stopped", "stopped")
    rest = it.solve(problem, prior, checkpoint=path, progress=False, **settings)
    assert torch.equal(rest.x, whole.x) and torch.equal(rest.regularization, whole.regularization)
    assert rest.weight_search is None  # the weight was read back, not sought again


def test_the_curve_is_saved(tmp_path: Path) -> None:
    solution = it.solve(
        blurred(), it.priors.Tikhonov("gradient"), regularization=QUICK[0], progress=False
    )
    assert solution.weight_search is not None
    loaded = it.Solution.load(solution.save(tmp_path / "s.h5"))
    page = loaded.report(tmp_path / "s.html").read_text()
    assert "score of gcv" in page and f"{float(solution.weight_search.weights[0, 0]):.4g}" in page
    assert loaded.weight_search is not None and solution.weight_search is not None
    assert loaded.weight_search.rule == "gcv"
    assert torch.equal(
        loaded.weight_search.scores.nan_to_num(), solution.weight_search.scores.nan_to_num()
    )


def test_graphs_are_made_anew_for_shifted_measurements() -> None:
    problem = blurred()
    prior = it.priors.GraphLaplacian(first=it.solve(problem, "tikhonov", progress=False).x)
    rule = GCV(points=3, sections=0)
    solution = it.solve(problem, prior, regularization=rule, max_iterations=30, progress=False)
    assert bool(solution.regularization.isfinite().all())


def test_what_does_not_fit_is_refused() -> None:
    problem = blurred()
    fixed = it.priors.Denoiser(lambda x: 0.9 * x)
    with pytest.raises(InputError, match="one noise level only"):
        it.solve(problem, fixed, "admm", regularization="gcv", progress=False)
    with pytest.raises(InputError, match="needs an explicit prior"):
        it.solve(problem, it.priors.NonNegative(), regularization="gcv", progress=False)
    with pytest.raises(InputError, match="energy of every prior"):
        it.solve(
            problem,
            it.priors.Denoiser(lambda x, sigma: x / (1 + sigma)),
            "admm",
            regularization="l-curve",
            progress=False,
        )
    with pytest.raises(InputError, match="one weight"):
        LCurve(separate=True)
    with pytest.raises(InputError, match="LeastSquares, whose noise is white"):
        it.solve(
            it.Problem(problem.y, problem.operator, it.data_terms.Sobolev(-1.0, noise_std=0.05)),
            it.priors.Tikhonov(),
            regularization="compensated-discrepancy",
            progress=False,
        )
    with pytest.raises(InputError, match="one weight"):
        CompensatedDiscrepancy(separate=True)
    with pytest.raises(InputError, match="rounds"):
        CompensatedDiscrepancy(rounds=0)
    with pytest.raises(InputError, match="points"):
        GCV(points=2)
    with pytest.raises(InputError, match="probes"):
        SURE(probes=0)
    with pytest.raises(InputError, match="corner"):
        LCurve(corner="sharp")  # type: ignore[arg-type]


def wide_ridge(copies: int = 1) -> tuple[it.Problem, Tensor, Tensor]:
    """Return 50 measurements of 500 values, and features and values of 500 others."""
    draw = torch.Generator().manual_seed(0)
    scale = 1 / torch.arange(1, 501, dtype=torch.float64)
    A, other = (scale * torch.randn(n, 500, generator=draw, dtype=torch.float64) for n in (50, 500))
    x = torch.randn(1, 1, 500, generator=draw, dtype=torch.float64)
    operator = it.as_operator(A)
    y = torch.cat([operator.simulate(x, 0.1, seed=seed) for seed in range(copies)])
    problem = it.Problem(y, operator, it.data_terms.LeastSquares(0.1))
    return problem, other, x[0, 0]


def test_the_emphasised_bound_predicts_where_the_plain_bound_smooths_too_much() -> None:
    problem, other, x = wide_ridge()
    grid_ = torch.logspace(-2, 4, 13)

    def error(weight: Any) -> float:
        found = it.solve(problem, it.priors.Tikhonov(), regularization=weight, progress=False)
        return float((other @ (found.x[0, 0] - x)).square().mean()) + 0.1**2

    best = min(error(float(weight)) for weight in grid_)
    assert error(EvidenceBound()) < 1.05 * best
    assert error(EvidenceBound(emphasis=False)) > 1.1 * best


def test_the_bound_of_the_evidence_depends_on_the_noise_and_not_on_where_it_is_given() -> None:
    problem, *_ = wide_ridge(2)
    plain = it.Problem(problem.y, problem.operator, it.data_terms.LeastSquares())
    rule = EvidenceBound(points=3, sections=3)
    given = EvidenceBound(noise_std=0.1, points=3, sections=3)

    def weight(problem: it.Problem, rule: EvidenceBound, factor: float = 1.0) -> Tensor:
        prior = factor * it.priors.Tikhonov()
        return it.solve(problem, prior, regularization=rule, progress=False).regularization

    found = weight(problem, rule)
    torch.testing.assert_close(weight(plain, given), found * 0.1**2, rtol=0.5, atol=0.0)
    torch.testing.assert_close(weight(problem, rule, 4.0), found / 4, rtol=0.5, atol=0.0)
    alone = it.Problem(problem.y[1:], problem.operator, problem.data_term)
    assert torch.equal(weight(alone, rule), found[1:])
    with pytest.raises(InputError, match="Tikhonov\\(\\) alone"):
        it.solve(problem, it.priors.L1(), regularization=rule, progress=False)
