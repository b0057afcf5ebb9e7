"""The ablation leaves out one rule at a time, and its verdicts are those that its page states."""

from __future__ import annotations

import pytest

import invtoolbox as it
from invtoolbox.jobs.images.decisions.order import STEPS
from tests.test_zoo import load

decisions = load("decisions")


def test_a_step_that_changed_an_answer_is_left_out_in_another_solve() -> None:
    call = it.reconstruct
    row = decisions.ablate("denoising", 0, "tv")
    assert it.reconstruct is call
    assert set(row["asked"]) <= set(STEPS)
    assert set(row["without"]) >= set(row["taken"])


def test_a_taken_step_has_another_answer_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # No estimate of the risk is that small, so the simple answer is taken.
    monkeypatch.setattr(decisions.by_noise, "LEAST_RESIDUAL", 1e9)
    row = decisions.ablate("denoising", 0, "tv")
    assert row["taken"] == ["simple-answer"] and row["loss"] == 0.0
    assert row["without"]["simple-answer"]["error"] != row["error"]
    # Without the doubt the estimate of the risk decides.
    assert row["without"]["removed half"]["error"] == row["without"]["simple-answer"]["error"]


@pytest.mark.parametrize(
    ("gains", "unmarked", "share", "asked", "verdict"),
    [
        ([], 0, 0.0, 5, "changed nothing"),
        ([0.05] * 30, 0, 0.0, 30, "goes"),
        ([0.05] * 29, 0, 0.0, 29, "gains too little, on few items"),
        ([0.05] * 30, 1, 0.0, 30, "stays"),
        ([2.0] * 30, 0, 0.6, 300, "too dear"),
        ([2.0] * 30, 0, 0.4, 300, "stays"),
    ],
)
def test_verdicts(
    gains: list[float], unmarked: int, share: float, asked: int, verdict: str
) -> None:
    assert decisions._verdict(gains, unmarked, share, asked) == verdict
