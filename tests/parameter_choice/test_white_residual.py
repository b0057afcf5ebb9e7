"""Default weights of learned and graph priors: noise levels that are wrong, models that are not right."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.parameter_choice import Validation, WhiteResidual
from invtoolbox.parameter_choice.held_out import hold_out
from invtoolbox.parameter_choice.noise import correct_level

N = 40
STD = 0.02


def normal(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def picture() -> Tensor:
    grid = torch.linspace(-1, 1, N)
    return (((grid[:, None] ** 2 + grid**2) < 0.6) * (0.6 + 0.3 * grid))[None, None]


def blurred(kernel: Tensor | None = None, stated: float | None = None) -> it.Problem:
    """Return a picture blurred by a box of 3 pixels; another kernel may be given as the model."""
    box = torch.ones(3, 3) / 9
    A = it.operators.Blur(box, (N, N), boundary="periodic")
    y = A(picture()) + STD * normal((1, 1, N, N))
    model = A if kernel is None else it.operators.Blur(kernel, (N, N), boundary="periodic")
    return it.Problem(y, model, it.data_terms.LeastSquares(noise_std=stated))


def psnr(x: Tensor) -> float:
    return float(it.metrics.psnr(x, picture(), data_range=1.0))


def denoise(problem: it.Problem) -> it.Solution:
    return it.solve(problem, it.priors.load("denoiser-natural"), progress=False)


def test_a_right_model_keeps_the_usual_weight_of_a_denoiser() -> None:
    solution = denoise(blurred(stated=STD))
    assert solution.weight_search is not None and solution.weight_search.rule == WhiteResidual.name
    assert solution.regularization == solution.weight_search.weights[0, 0]
    assert not any("whiter" in note and "times" in note for note in solution.notes)


def test_the_weight_rises_while_the_residual_becomes_whiter() -> None:
    scores = iter([1.0, 0.6, 0.4, 0.39])  # the last one is not 13 % smaller

    class Trials:
        batch, every = 1, torch.arange(1)
        objective = type("Bound", (), {"regularization": torch.ones(1)})

        def __call__(self, weight: Tensor, measure: object, items: Tensor) -> Tensor:
            return torch.full((1, 1, 1), next(scores))

    curve = WhiteResidual(first=torch.tensor([2.0])).choose(Trials())  # type: ignore[arg-type]
    assert float(curve.chosen) == pytest.approx(2.0 * 1.69**2)
    assert curve.weights.shape == (1, 4) and "2.86 times" in curve.remarks[0].sentence


def test_a_stated_level_that_the_measurements_contradict_is_replaced() -> None:
    right = denoise(blurred(stated=STD))
    for factor in (0.4, 2.5):
        wrong = denoise(blurred(stated=factor * STD))
        assert abs(psnr(wrong.x) - psnr(right.x)) < 1, factor
        assert any("does not fit measurements with noise" in note for note in wrong.notes)


def test_texture_is_not_taken_for_noise_that_was_stated_too_small() -> None:
    A = it.operators.Identity((1, N, N))
    problem = it.Problem(
        picture() + 0.2 * normal((1, 1, N, N)), A, it.data_terms.LeastSquares(noise_std=0.05)
    )
    assert correct_level(problem, is_reliable=False) == (None, "")
    level, words = correct_level(problem, is_reliable=True)
    assert level is not None and float(level) == pytest.approx(0.2, rel=0.1) and "0.05" in words


def scan() -> it.Problem:
    angles = torch.arange(24) * torch.pi / 24
    A = it.operators.ParallelBeam((N, N), angles, 60)
    return it.Problem(A(picture()) + 0.2 * normal((1, 1, 24, 60)), A)


def test_the_graph_of_a_scan_is_chosen_by_validation_and_sees_no_held_out_view() -> None:
    problem = scan()
    solution = it.solve(problem, it.priors.GraphLaplacian(radius=1), progress=False)
    assert solution.weight_search is not None and solution.weight_search.rule == Validation.name
    bound = it.priors.GraphLaplacian(radius=1).prepare(problem, it.solve)
    term = hold_out(problem, 0)
    changed = problem.y0 + 3 * term.held * normal(tuple(problem.y0.shape), seed=5)
    guesses = [
        bound.unbind().prepare(problem.with_measurements(y).with_data_term(term), it.solve).guess
        for y in (problem.y0, changed)
    ]
    assert guesses[0] is not None and guesses[1] is not None
    torch.testing.assert_close(*guesses, rtol=0, atol=0)


def test_the_graph_of_a_picture_follows_its_noise() -> None:
    graph = it.priors.GraphLaplacian(radius=1)
    assert it.solve(blurred(), graph, max_iterations=10, progress=False).weight_search is None
    noise = it.Problem(blurred().y, it.operators.Identity((1, N, N)))
    search = it.solve(noise, graph, max_iterations=10, progress=False).weight_search
    assert search is not None and search.rule == "sure"
