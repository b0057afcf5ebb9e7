"""Statuses on a part of the random convex problems of `benchmarks/convex_problems.py`, even half."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = str(Path(__file__).resolve().parent.parent / "benchmarks")
SPLITTING = ("ADMM", "PDHG", "FISTA", "DouglasRachford", "LBFGS")
SMOOTH = ("KrylovMM", "Reweighted", "GaussNewton", "LevenbergMarquardt", "NonlinearADMM")


@pytest.mark.parametrize(("number", "names"), [(0, SPLITTING), (8, SMOOTH), (58, ("PDHG",))])
def test_converged_is_true_and_an_exact_answer_is_converged(
    number: int, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cvxpy")
    monkeypatch.setattr(sys, "path", [BENCHMARKS, *sys.path])
    problems = importlib.import_module("convex_problems")
    monkeypatch.setattr(problems, "SECONDS", 600)
    group = problems.draw(number)
    least = group.value(group.scale * group.minimizers(), group.scale)
    assert bool((least.isfinite() & (least >= 0)).all()) and least.dtype == torch.float64
    for solver in (s for s in problems.SOLVERS if type(s).__name__ in names):
        rows = problems.run(group, solver, least)
        assert len(rows) == problems.ITEMS
        for status, iterations, excess, certificate in rows:
            words = f"{solver}: {status} after {iterations}, excess {excess}"
            assert problems.judge(status, excess, certificate, solver.tolerance) == "", words
            assert status == "converged", words
