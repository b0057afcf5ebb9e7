"""The order of everything that is decided automatically, and the one loop that decides."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from invtoolbox.core.decision import Decision, Outcome
from invtoolbox.core.interrupts import OutOfTime
from invtoolbox.errors import InputError, nearest, suggest
from invtoolbox.jobs.images.decisions.bad_readings import BadReadings, EmptyViews
from invtoolbox.jobs.images.decisions.case import Case, Proposal, Step
from invtoolbox.jobs.images.decisions.counts import Counts
from invtoolbox.jobs.images.decisions.finer_grid import FinerGrid
from invtoolbox.jobs.images.decisions.gains import Gains
from invtoolbox.jobs.images.decisions.join import join
from invtoolbox.jobs.images.decisions.kernel_width import KernelWidth
from invtoolbox.jobs.images.decisions.longer_views import LongerViews
from invtoolbox.jobs.images.decisions.metal import Metal
from invtoolbox.jobs.images.decisions.open_edges import OpenEdges
from invtoolbox.jobs.images.decisions.prior_choice import PriorChoice
from invtoolbox.jobs.images.decisions.repairs import Repairs
from invtoolbox.jobs.images.decisions.short_arc import ShortArc
from invtoolbox.jobs.images.decisions.simple_answer import SimpleAnswer
from invtoolbox.jobs.images.decisions.smooth_noise import ConstantPicture, SmoothNoise
from invtoolbox.jobs.images.decisions.trained_range import TrainedRange
from invtoolbox.jobs.images.decisions.wide_grid import WideGrid
from invtoolbox.priors.automatic import Auto
from invtoolbox.solution import Solution

#: First, faults of the measurements are mended.
MEND: tuple[Step, ...] = (Repairs(), EmptyViews(), BadReadings(), KernelWidth(), Gains(), Metal())
#: Then the problem is posed: its grid, prior, misfit and bounds.
POSE: tuple[Step, ...] = (
    WideGrid(),
    PriorChoice(),
    SmoothNoise(),
    ConstantPicture(),
    Counts(),
    ShortArc(),
    TrainedRange(),
)
#: It is solved, and other answers are compared with its answer.
ANSWER: tuple[Step, ...] = (OpenEdges(), LongerViews(), FinerGrid(), SimpleAnswer())
STEPS = {step.name: step for step in (*MEND, *POSE, *ANSWER)}


def off_words(automatic: str, repair: bool | None = None) -> dict[str, str]:
    """Return the steps that are off, and why.

    Args:
        automatic: ``"all"``, ``"none"``, or names of steps with a sign and commas between them. A list
            starts from all steps if its first word has a minus, and from none if it has a plus.
        repair: word of earlier versions: mend everything that can be mended, or nothing.

    Raises:
        InputError: for a word that is no step.

    >>> sorted(off_words("+gains,+metal"))[:3], "gains" in off_words("-gains")
    (['bad-readings', 'constant-picture', 'counts'], True)
    """
    words = [word.strip() for word in automatic.split(",") if word.strip()]
    first = words[0] if words else automatic
    starts_empty = first == "none" or first.startswith("+")
    on = set() if starts_empty else {name for name, s in STEPS.items() if not s.is_asked_for}
    for word in words[first in ("all", "none") :]:
        sign, name = word[0], word[1:]
        if sign not in "+-" or name not in STEPS:
            near = suggest(nearest(word.lstrip("+-"), STEPS, 2, 0.6))
            raise InputError(
                f"automatic is 'all', 'none', or steps with a sign, such as '-finer-grid,-gains' or "
                f"'+metal', got {word!r}{near}; `invtoolbox list decisions` shows the steps"
            )
        on = on | {name} if sign == "+" else on - {name}
    if repair is not None:
        mending = {step.name for step in MEND} - {"metal"}
        on = on | {"repairs"} if repair else on - mending
    return {
        name: "only if it is asked for" if step.is_asked_for else f"automatic={automatic!r}"
        for name, step in STEPS.items()
        if name not in on
    }


def leave_out_all(reason: str) -> tuple[Decision, ...]:
    """Return the records of a run that cannot afford any step.

    Args:
        reason: why it cannot.
    """
    return tuple(_record(step, "off", sentence=reason) for step in STEPS.values())


def decide(case: Case, off: Mapping[str, str]) -> Solution:
    """Solve a case by all steps in their order, except those that are off.

    Args:
        case: the problem of a batch.
        off: names of the steps that are off, and why; see `off_words`.

    Raises:
        InputError: in the cases of `invtoolbox.solve`, or if a prior is to be chosen and
            ``prior-choice`` is off.
    """
    start_time = time.monotonic()
    if isinstance(case.prior, Auto) and "prior-choice" in off:
        raise InputError(
            "prior 'auto' chooses a prior, and automatic leaves the step 'prior-choice' out; name a "
            "prior, or add '+prior-choice'"
        )
    posed = _ask_all((*MEND, *POSE), [case], off)
    answered = [done for some in posed for done in _answer(some, off)]
    solution = join(case.problem, [(done.places, done.restore()) for done in answered])
    return dataclasses.replace(solution, seconds=time.monotonic() - start_time)


def _ask_all(steps: Sequence[Step], cases: list[Case], off: Mapping[str, str]) -> list[Case]:
    """Return the cases that all steps leave, which may be more than there were."""
    for step in steps:
        cases = [changed for case in cases for changed in ask(step, case, off)]
    return cases


def _answer(case: Case, off: Mapping[str, str]) -> list[Case]:
    """Solve a case, and let every step compare another answer."""
    try:
        solution = case.method(case)
        decisions = (*case.decisions, *solution.decisions)
        solution = dataclasses.replace(solution, decisions=decisions)
        solved = dataclasses.replace(case, solution=solution, decisions=())
        return _ask_all(ANSWER, [solved], off)
    except (InputError, RuntimeError) as refusal:  # a prior for the grid of the user
        if case.fallback is None:
            raise
        sentence = f"the object reaches beyond the image, and no larger grid was taken: {refusal}"
        former = case.fallback.note(_record(STEPS["wide-grid"], "kept", sentence=sentence))
    posed = _ask_all(POSE[1:], [former], off)
    return [done for some in posed for done in _answer(some, off)]


def ask(step: Step, case: Case, off: Mapping[str, str]) -> list[Case]:
    """Return the cases of the items that a step changes alike, and of those that it leaves.

    Args:
        step: the step.
        case: some items of a batch.
        off: names of the steps that are off, and why.
    """
    if (reason := off.get(step.name, "")) or (reason := step.misses(case)):
        outcome: Outcome = "off" if step.name in off else "not applicable"
        return [case.note(_record(step, outcome, sentence=reason))]
    start_time = time.monotonic()
    try:
        with torch.no_grad():
            proposals = step.propose(case)
    except OutOfTime:
        sentence = f"the time limit left no time for the step {step.name}"
        return [case.note(_record(step, "late", sentence=sentence))]
    seconds = (time.monotonic() - start_time) / max(1, case.batch)
    return [_apply(step, case, proposals, items, seconds) for items in _alike(proposals)]


def _apply(
    step: Step, case: Case, proposals: Sequence[Proposal], items: Tensor, seconds: float
) -> Case:
    """Return the case of items that share a proposed case, with a record per item."""
    changed = proposals[int(items[0])].case
    group = case if changed is None else changed
    if group.batch != len(items):
        group = group.select(items.to(case.places.device))
    for item, k in enumerate(items.tolist()):
        proposal = proposals[k]
        is_compared = proposal.after is not None or proposal.sentence != ""
        record = _record(
            step,
            "kept" if changed is None or proposal.is_kept else "taken",
            item=item,
            before=proposal.before,
            after=proposal.after,
            evidence=step.evidence if is_compared else "",
            seconds=seconds,
            sentence=proposal.sentence,
        )
        group = group.note(*proposal.records, record)
    return group


def _alike(proposals: Sequence[Proposal]) -> list[Tensor]:
    """Return the places of the items that share a case, in the order of their first items."""
    groups: dict[int, list[int]] = {}
    for k, proposal in enumerate(proposals):
        groups.setdefault(id(proposal.case), []).append(k)
    return [torch.tensor(items) for items in groups.values()]


def _record(step: Step, outcome: Outcome, **fields: object) -> Decision:
    return Decision(step=step.name, outcome=outcome, question=step.question, **fields)  # type: ignore[arg-type]
