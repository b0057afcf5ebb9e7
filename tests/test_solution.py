"""Solutions: statuses that a user can act on, and what `explain` says about a run."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.plotting.explanation import describe_ending


def blurred(noise_std: float | None = None) -> it.Problem:
    x = torch.zeros(1, 1, 24, 24)
    x[..., 5:15, 8:20] = 1.0
    A = it.operators.Blur(torch.ones(3, 3) / 9, (24, 24))
    y = A.simulate(x, 0.02, seed=0)
    return it.Problem(y, A, it.data_terms.LeastSquares(noise_std))


def scan(side: int) -> it.Problem:
    x = torch.zeros(1, 1, side, side)
    x[..., side // 4 : side // 2, side // 3 : 2 * side // 3] = 1.0
    A = it.operators.ParallelBeam((side, side), torch.linspace(0, math.pi, 41)[:-1], side + 8)
    return it.Problem(A.simulate(x, 0.5, seed=0), A)


def solve(problem: it.Problem, *args: Any, **settings: Any) -> it.Solution:
    return it.solve(problem, *args, progress=False, check=False, **settings)


def test_a_budget_that_is_used_up_is_a_limit_and_a_callback_stops() -> None:
    problem, prior = blurred(), it.priors.TotalVariation()
    few = solve(problem, prior, regularization=0.01, max_iterations=3)
    slow = solve(problem, prior, regularization=0.01, tolerance=0, time_limit=0.05)
    stopped = solve(problem, prior, regularization=0.01, callbacks=[lambda _: True])
    assert few.status == slow.status == ("limit",) and stopped.status == ("stopped",)


def test_methods_that_end_by_design_say_so() -> None:
    # The finest grid of a large scan has 64 steps of its own.
    tv = it.priors.TotalVariation()
    chosen = solve(scan(160), tv, regularization=1e-3)
    assert chosen.status == ("early_stopping",) and int(chosen.iterations) == 64
    assert solve(scan(160), tv, regularization=1e-3, max_iterations=5).status == ("limit",)
    # The levels of DPIR.
    denoiser = it.priors.Denoiser(lambda x, sigma: x / (1 + expanded(sigma, x)), sigma=0.05)
    problem = blurred(0.02)
    assert solve(problem, denoiser).status == ("early_stopping",)
    fixed = it.solvers.HalfQuadratic(max_iterations=3, penalty=1.0, tolerance=1e-9)
    assert solve(problem, tv, fixed, 0.1).status == ("limit",)


def expanded(sigma: Tensor, x: Tensor) -> Tensor:
    return torch.as_tensor(sigma).to(x).reshape(-1, *[1] * (x.ndim - 1))


def test_the_outlook_follows_the_trend_of_the_certificate() -> None:
    problem, prior = blurred(), it.priors.TotalVariation()
    settings: dict[str, Any] = {"regularization": 0.01, "tolerance": 1e-4}
    part = solve(problem, prior, max_iterations=200, **settings)
    assert part.status == ("limit",) and describe_ending(part, 0) in str(part)
    # 1 / k^2 meets 1e-4 at k = 100.
    falling = torch.arange(1, 41, dtype=torch.float64).pow(-2).unsqueeze(1)
    exact = dataclasses.replace(
        part, history={**part.history, "certificate": falling}, iterations=torch.tensor([40])
    )
    assert 95 <= outlook(exact) <= 105
    # What it says in the middle of a run is right within a factor of two.
    whole = solve(problem, prior, max_iterations=1000, **settings)
    assert whole.status == ("converged",)
    assert 0.5 < outlook(part) / int(whole.iterations) < 2


def outlook(solution: it.Solution) -> int:
    match = re.search(r"about (\d+) iterations in all", solution.explain())
    assert match is not None
    return int(match[1])


def test_a_certificate_that_stalls_is_not_extrapolated() -> None:
    solution = solve(blurred(), it.priors.TotalVariation(), regularization=0.01, max_iterations=40)
    flat = {**solution.history, "certificate": torch.full((40, 1), 0.5)}
    text = dataclasses.replace(solution, history=flat).explain()
    assert "no longer falls" in text and "iterations in all" not in text


def test_a_solver_that_gave_up_is_not_told_to_go_on() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(32, 32, generator=generator))[0] for _ in range(2))
    A = it.operators.Matrix((left * torch.logspace(0, -3, 32)) @ right.T)
    problem = it.Problem(A(torch.ones(1, 1, 32)), A)
    solution = solve(problem, solver="conjugate-gradient", tolerance=1e-9, max_iterations=20_000)
    assert solution.status == ("stopped",)
    text = solution.explain()
    assert "dtype=torch.float64 may meet the tolerance" in text
    assert "iterations in all" not in text and "few more iterations" not in text
    # Far from the optimum, L-BFGS alone gives up because of a gradient.
    far = {**solution.history, "certificate": torch.full((40, 1), 0.5)}
    assert "gradient is wrong" not in dataclasses.replace(solution, history=far).explain()


def test_explain_names_noise_weight_alternatives_and_remedies() -> None:
    tv = it.priors.TotalVariation()
    rule = it.parameter_choice.SURE(points=3, sections=0)
    stated = solve(blurred(0.02), tv, regularization=rule).explain()
    assert "Noise: the stated level of LeastSquares(noise_std=0.02)" in stated
    assert re.search(r"Compared: \d+ weights from .* to .* by sure", stated)
    assert "noise_std=" not in stated.splitlines()[-1]
    estimated = solve(blurred(), tv, regularization="discrepancy")
    text = estimated.explain()
    assert re.search(r"Noise: noise_std = 0\.0\d+ estimated from the data", text)
    assert f"Weight: {float(estimated.regularization):.4g} times TotalVariation()" in text
    assert "the discrepancy principle chooses the weight" in text and "noise_std=" in text
    without = solve(blurred(), solver="cgls", max_iterations=2).explain()
    assert "Weight" not in without and "max_iterations= more iterations" in without
    with pytest.raises(it.InputError, match="no item 1 among 1"):
        estimated.explain(1)


def test_an_interpolation_that_replaced_the_answer_is_named() -> None:
    waves = torch.sin(torch.arange(32.0) / 5)
    mask = (torch.rand(32, 32, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    A = it.operators.Inpainting(mask, (32, 32))
    y = A((waves[:, None] * waves)[None, None])
    solution = it.reconstruct(y, A, prior="tv", progress=False)
    assert any(": x is the interpolation" in note for note in solution.notes)
    compared = next(s for s in solution.explain().splitlines() if s.startswith("Compared"))
    assert "x is the interpolation" in compared


def test_a_loaded_solution_explains_itself_in_the_same_words(tmp_path: Path) -> None:
    for name, solution in (
        ("limit", solve(blurred(), "tv", regularization=0.01, max_iterations=50)),
        ("search", solve(blurred(), "tv")),
    ):
        path = solution.save(tmp_path / f"{name}.h5")
        assert it.Solution.load(path).explain() == solution.explain()


def test_files_of_earlier_versions_open_with_todays_words(tmp_path: Path) -> None:
    path = solve(blurred(), "tv", regularization=0.01, max_iterations=20).save(tmp_path / "old.h5")
    with h5py.File(path, "r+") as file:
        words = json.loads(file.attrs["settings"])
        words["status"] = ["max_iterations"]
        for name in ("data_term", "tolerance", "decisions"):
            del words[name]
        words["reason"], words["notes"] = "TV was asked for", ["the weight was given", "a remark"]
        file.attrs["settings"] = json.dumps(words)
    old = it.Solution.load(path)
    assert old.status == ("limit",) and old.tolerance is None
    assert old.reason == "TV was asked for" and old.weight_choice == ""
    assert old.notes == ("the weight was given", "a remark")
    assert "It reached its limit after 20 iterations" in old.explain()


@pytest.mark.parametrize("has_choice", [False, True])
def test_sentences_of_earlier_versions_become_records(tmp_path: Path, has_choice: bool) -> None:
    path = solve(blurred(), "tv", regularization=0.01, max_iterations=2).save(tmp_path / "old.h5")
    with h5py.File(path, "r+") as file:
        words = json.loads(file.attrs["settings"])
        del words["decisions"]
        if has_choice:
            words["weight_choice"], words["notes"] = "the rule", ["the rule", "a remark"]
        file.attrs["settings"] = json.dumps(words)
    old = it.Solution.load(path)
    assert old.reason == ""
    assert old.weight_choice == ("the rule" if has_choice else "")
    assert old.notes == (("the rule", "a remark") if has_choice else ())


def test_the_report_shows_the_explanation(tmp_path: Path) -> None:
    solution = solve(blurred(), "tv", regularization=0.01, max_iterations=50)
    page = solution.report(tmp_path / "report.html").read_text()
    assert "What was done" in page and "iterations in all meet it" in page
    assert "Reached its limit of iterations or time; more may improve it." in page


def test_an_answer_that_runs_away_while_it_is_finite_has_diverged() -> None:
    A = it.operators.Identity((1, 16, 16))
    y = torch.poisson(torch.full((2, 1, 16, 16), 9.0), generator=torch.Generator().manual_seed(0))
    problem = it.Problem(y, A, it.data_terms.Poisson(background=1.0))
    growing = it.priors.Denoiser(lambda x, sigma: 30 * x + 1, sigma=0.1)
    solver = it.solvers.ProximalGradient(step_size=1e-3, max_iterations=6)
    solution = solve(problem, growing, solver, 1.0)
    assert bool(solution.x.isfinite().all()) and solution.status == ("diverged",) * 2
    shrinking = it.priors.Denoiser(lambda x, sigma: 0.9 * x, sigma=0.1)
    assert "diverged" not in solve(problem, shrinking, solver, 1.0).status


def test_the_text_of_results_names_shapes_and_no_values() -> None:
    A = it.operators.Identity((1, 8, 8))
    solution = it.solve(it.Problem(torch.ones(1, 1, 8, 8), A), progress=False)
    assert repr(solution) == str(solution) and "tensor(" not in repr(solution)
    image = torch.zeros(16, 16)
    image[4:9, 5:10] = 1
    text = repr(it.register(image, image, stages=("translation",)))
    assert "displacement=Tensor (1, 2, 16, 16)" in text and "tensor(" not in text
