"""The order of the steps: what is off decides nothing, and a further step is one class."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import invtoolbox as it
from invtoolbox.core.decision import Decision
from invtoolbox.core.interrupts import OutOfTime
from invtoolbox.jobs.images.decisions import order
from invtoolbox.jobs.images.decisions.case import STAY, Case, Proposal, Step, Trait

#: Steps that are left out unless the user names them.
ASKED_FOR = {"repairs", "metal"}
#: Steps that apply to blurred pictures.
OF_BLURS = ("bad-readings", "kernel-width", "open-edges", "simple-answer")


def picture(side: int) -> Tensor:
    x = torch.zeros(1, 1, side, side)
    x[..., side // 4 : side // 2, side // 3 : 3 * side // 4] = 1.0
    return x


def noisy(A: it.operators.Operator, std: float) -> it.Problem:
    x = picture(A.domain_shape[-1])
    return it.Problem(A.simulate(x, std, seed=0), A)


def scan() -> it.Problem:
    angles = torch.arange(60) * (math.pi / 60)
    return noisy(it.operators.ParallelBeam((24, 24), angles, 36), 0.1)


def blur() -> it.Problem:
    return noisy(it.operators.Blur(torch.ones(3, 3) / 9, (1, 32, 32)), 0.05)


def gaps() -> it.Problem:
    mask = torch.rand(32, 32, generator=torch.Generator().manual_seed(0)) > 0.4
    return noisy(it.operators.Inpainting(mask, (1, 32, 32)), 0.05)


def noise() -> it.Problem:
    return noisy(it.operators.Identity((1, 32, 32)), 0.1)


PROBLEMS = (scan, blur, gaps, noise)


def reconstruct(problem: it.Problem, automatic: str, **settings: Any) -> it.Solution:
    settings = {"prior": "tv", "max_iterations": 10, "progress": False, **settings}
    return it.reconstruct(problem.y0, problem.operator, automatic=automatic, **settings)


@cache
def answer(pose: Callable[[], it.Problem], automatic: str) -> it.Solution:
    return reconstruct(pose(), automatic)


def outcomes(solution: it.Solution) -> dict[str, str]:
    return {d.step: d.outcome for d in solution.decisions if d.step in order.STEPS}


def without_time(solution: it.Solution, steps: set[str]) -> list[Decision]:
    return [dataclasses.replace(d, seconds=0.0) for d in solution.decisions if d.step in steps]


@pytest.mark.parametrize("pose", PROBLEMS)
@pytest.mark.parametrize("prior", ["tv", "tikhonov", None])
def test_without_steps_the_answer_is_that_of_solve(
    pose: Callable[[], it.Problem], prior: str | None
) -> None:
    problem = pose()
    ours = reconstruct(problem, "none", prior=prior)
    plain = it.solve(problem, prior, max_iterations=10, progress=False)
    assert torch.equal(ours.x, plain.x) and torch.equal(ours.regularization, plain.regularization)
    assert ours.notes == plain.notes and ours.status == plain.status
    assert (ours.reason, ours.weight_choice) == (plain.reason, plain.weight_choice)
    assert set(outcomes(ours).values()) == {"off"} and set(outcomes(ours)) == set(order.STEPS)


@pytest.mark.parametrize("pose", PROBLEMS)
def test_every_step_is_recorded_in_its_order(pose: Callable[[], it.Problem]) -> None:
    whole = answer(pose, "all")
    asked = [d.step for d in whole.decisions if d.step in order.STEPS]
    assert asked == list(order.STEPS)
    assert {name for name, outcome in outcomes(whole).items() if outcome == "off"} == ASKED_FOR
    for decision in whole.decisions:
        if decision.step in order.STEPS:
            assert decision.question == order.STEPS[decision.step].question
            assert decision.sentence or decision.outcome in ("taken", "kept")


@pytest.mark.parametrize(
    ("pose", "name"),
    [*((scan, name) for name in order.STEPS), *((blur, name) for name in OF_BLURS)],
)
def test_a_word_turns_one_step_off_and_changes_none_before(
    pose: Callable[[], it.Problem], name: str
) -> None:
    whole, part = answer(pose, "all"), answer(pose, f"-{name}")
    assert outcomes(part)[name] == "off"
    before = set(list(order.STEPS)[: list(order.STEPS).index(name)])
    assert without_time(part, before) == without_time(whole, before)
    (record,) = [d for d in part.decisions if d.step == name]
    assert record.sentence not in part.notes


def test_words_turn_steps_off() -> None:
    every = set(order.STEPS)
    assert set(order.off_words("all")) == ASKED_FOR
    assert set(order.off_words("none")) == every
    assert set(order.off_words("-gains,-counts")) == ASKED_FOR | {"gains", "counts"}
    assert set(order.off_words("all, -gains, +metal")) == {"repairs", "gains"}
    assert set(order.off_words("+gains")) == every - {"gains"}
    assert set(order.off_words("+repairs,+gains")) == every - {"gains", "repairs"}
    assert set(order.off_words("none,+gains")) == every - {"gains"}
    assert set(order.off_words("+gains,-gains")) == every


def test_the_reason_names_the_word() -> None:
    off = order.off_words("-gains")
    assert off == {
        "gains": "automatic='-gains'",
        **dict.fromkeys(ASKED_FOR, "only if it is asked for"),
    }


@pytest.mark.parametrize(
    ("word", "near"),
    [("-finer-gird", "finer-grid"), ("+simple-anser", "simple-answer"), ("gains", "gains")],
)
def test_an_unknown_word_is_refused_with_a_near_name(word: str, near: str) -> None:
    for automatic in (word, f"-counts,{word}"):
        with pytest.raises(it.InputError, match=f"got '{word}'.*{near}".replace("+", r"\+")):
            reconstruct(noise(), automatic)


@pytest.mark.parametrize("word", ["off", "-", "-all", "all,none"])
def test_other_words_are_refused(word: str) -> None:
    with pytest.raises(it.InputError, match="invtoolbox list decisions"):
        order.off_words(word)


@pytest.mark.parametrize("automatic", ["none", "-prior-choice", "+gains"])
def test_a_prior_is_not_chosen_without_its_step(automatic: str) -> None:
    with pytest.raises(it.InputError, match=r"add '\+prior-choice'"):
        reconstruct(noise(), automatic, prior="auto")


def test_the_words_of_earlier_versions_still_count() -> None:
    mending = {step.name for step in order.MEND}
    problem = scan()
    kept = reconstruct(problem, "all", repair=False)
    assert {name for name, o in outcomes(kept).items() if o == "off"} == mending
    mended = reconstruct(problem, "all", repair=True)
    assert outcomes(mended)["repairs"] == "kept" and outcomes(mended)["metal"] == "off"
    assert torch.equal(mended.x, answer(scan, "all").x)


class Brighten(Step):
    """Double the answer of dark items."""

    name = "brighten"
    question = "is the answer dark?"
    evidence = "distance of the mean from 1"
    price = "none"
    needs = (Trait("there are channels", lambda case: case.answer.x.shape[1] == 1),)

    def propose(self, case: Case) -> list[Proposal]:
        means = case.answer.x.flatten(1).mean(1).tolist()
        bright = case.with_answer(dataclasses.replace(case.answer, x=2 * case.answer.x))
        return [
            Proposal(bright, "the answer{item} was dark", 1 - mean, 1 - 2 * mean)
            if mean < 0.4
            else STAY
            for mean in means
        ]


def with_step(patch: pytest.MonkeyPatch, step: Step) -> None:
    patch.setattr(order, "ANSWER", (*order.ANSWER, step))
    patch.setattr(order, "STEPS", {**order.STEPS, step.name: step})


def levels() -> it.Problem:
    """Return three pictures, of which the first and the last are dark."""
    y = torch.tensor([0.2, 0.6, 0.3]).view(-1, 1, 1, 1).expand(-1, 1, 24, 24).contiguous()
    return it.Problem(y, it.operators.Identity((1, 24, 24)))


def test_a_new_step_is_asked_and_applied_to_its_items(monkeypatch: pytest.MonkeyPatch) -> None:
    with_step(monkeypatch, Brighten())
    problem = levels()
    plain = reconstruct(problem, "none", prior="tikhonov", regularization=0.1)
    done = reconstruct(problem, "+brighten", prior="tikhonov", regularization=0.1)
    assert torch.equal(done.x, plain.x * torch.tensor([2.0, 1.0, 2.0]).view(-1, 1, 1, 1))
    records = sorted((d for d in done.decisions if d.step == "brighten"), key=lambda d: d.item)
    assert [(d.item, d.outcome) for d in records] == [(0, "taken"), (1, "kept"), (2, "taken")]
    means = plain.x.flatten(1).mean(1).tolist()
    for record, mean in zip(records, means):
        assert record.is_compared == (record.item != 1)
        if record.is_compared:
            assert (record.before, record.after) == pytest.approx((1 - mean, 1 - 2 * mean))
            assert record.evidence == Brighten.evidence and record.question == Brighten.question
    assert "the answer of item 0, of item 2 was dark" in done.notes
    for k in range(3):
        item = it.Problem(problem.y0[[k]], problem.operator)
        alone = reconstruct(item, "+brighten", prior="tikhonov", regularization=0.1)
        assert torch.equal(alone.x[0], done.x[k])


def test_a_new_step_that_is_off_or_does_not_apply_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_step(monkeypatch, Brighten())
    settings = {"prior": "tikhonov", "regularization": 0.1}
    assert outcomes(reconstruct(levels(), "-brighten", **settings))["brighten"] == "off"
    y = 0.2 * torch.ones(1, 3, 24, 24)
    colours = it.Problem(y, it.operators.Identity((3, 24, 24)))
    solution = reconstruct(colours, "+brighten", **settings)
    (record,) = [d for d in solution.decisions if d.step == "brighten"]
    assert (record.outcome, record.sentence) == ("not applicable", "there are channels")
    assert torch.equal(solution.x, reconstruct(colours, "none", **settings).x)


def test_a_step_that_runs_out_of_time_keeps_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Brighten):
        def propose(self, case: Case) -> list[Proposal]:
            raise OutOfTime

    with_step(monkeypatch, Slow())
    settings = {"prior": "tikhonov", "regularization": 0.1}
    solution = reconstruct(levels(), "+brighten", **settings)
    assert outcomes(solution)["brighten"] == "late"
    assert "the time limit left no time for the step brighten" in solution.notes
    assert torch.equal(solution.x, reconstruct(levels(), "none", **settings).x)
