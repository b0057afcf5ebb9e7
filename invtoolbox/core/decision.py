"""Records of what was decided during a run, from which the sentences for a user are rendered."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["taken", "kept", "late", "off", "not applicable", "noted"]

#: Place of the words that name the item within a sentence; `Decision.text` fills it in.
ITEM = "{item}"
#: Outcomes that a user reads as notes; the others are rows of the table of decisions alone.
_NOTED = ("taken", "kept", "late", "noted")
#: Number of items that a note on several items lists.
_LISTED = 8


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One step that was decided: what was asked, what came out, on which evidence, at which cost.

    Attributes:
        step: name of the step, such as ``"finer-grid"`` or ``"weight"``; ``invtoolbox list decisions``
            shows those that can be turned off.
        item: number of the item of the batch; None for all items.
        outcome: ``"taken"``, ``"kept"`` (the answer stays as it was), ``"late"`` (the time limit ended
            the comparison), ``"off"``, ``"not applicable"``, or ``"noted"`` (a remark or a finding).
        question: what was asked.
        before: error of the answer before the step, in the measure that ``evidence`` names.
        after: error of the answer that was proposed, in the same measure.
        evidence: name of the measure.
        seconds: wall-clock time of the step.
        sentence: sentence for the user, in which ``{item}`` stands for the words that name the item;
            the reason if the step is off or not applicable. Empty if there is nothing to add.

    >>> Decision(step="residual", item=2, sentence="the residual{item} is white").text(batch=3)
    'the residual of item 2 is white'
    """

    step: str
    item: int | None = None
    outcome: Outcome = "noted"
    question: str = ""
    before: float | None = None
    after: float | None = None
    evidence: str = ""
    seconds: float = 0.0
    sentence: str = ""

    def concerns(self, item: int) -> bool:
        """Return whether the record is about an item, or about all.

        Args:
            item: number of the item.
        """
        return self.item is None or self.item == item

    @property
    def is_note(self) -> bool:
        """Whether a user reads the sentence as a note; that of the solver is `Solution.reason`."""
        return self.step != "solver" and self.outcome in _NOTED and self.sentence != ""

    @property
    def is_compared(self) -> bool:
        """Whether two answers were compared by a measure."""
        return self.evidence != ""

    def text(self, batch: int) -> str:
        """Return the sentence with the number of the item.

        Args:
            batch: number of items; a single one is not numbered.
        """
        return _number(self.sentence, [] if self.item is None or batch == 1 else [self.item])


def render(decisions: Iterable[Decision], batch: int) -> tuple[str, ...]:
    """Return the sentences for a user, each once, with the items that it is about.

    Args:
        decisions: the records, of which those without a note are left out.
        batch: number of items.
    """
    items: dict[str, set[int]] = {}
    for decision in decisions:
        if not decision.is_note:
            continue
        places = range(batch) if decision.item is None else [decision.item]
        items.setdefault(decision.sentence, set()).update(places)
    return tuple(
        _number(sentence, [] if len(places) == batch else sorted(places))
        for sentence, places in items.items()
    )


def _number(sentence: str, items: Sequence[int]) -> str:
    """Return a sentence with the numbers of its items, in its place for them or in front of it."""
    if not items:
        return sentence.replace(ITEM, "")
    listed = ",".join(f" of item {k}" for k in items[:_LISTED])
    more = f" and {len(items) - _LISTED} others" if len(items) > _LISTED else ""
    numbered = sentence.replace(ITEM, listed + more)
    return f"measurements{listed}{more}: {sentence}" if numbered == sentence else numbered


def select_decisions(decisions: Iterable[Decision], items: Sequence[int]) -> tuple[Decision, ...]:
    """Return the records of some items of a batch, with their numbers among these.

    Args:
        decisions: the records of the batch.
        items: places of the items.

    >>> [d.item for d in select_decisions([Decision(step="check", item=k) for k in range(3)], [2, 0])]
    [1, 0]
    """
    places = {item: place for place, item in enumerate(items)}
    return tuple(
        decision
        if decision.item is None
        else dataclasses.replace(decision, item=places[decision.item])
        for decision in decisions
        if decision.item is None or decision.item in places
    )


def join_decisions(
    groups: Iterable[tuple[Sequence[int], Iterable[Decision]]], batch: int
) -> tuple[Decision, ...]:
    """Return the records of a batch whose items were solved in groups.

    A record of a whole group becomes one per item. Records that all items share become one again,
    with the time of all groups.

    Args:
        groups: places of the items of every group, and its records.
        batch: number of items.
    """
    rows: dict[Decision, dict[int, float]] = {}
    for items, decisions in groups:
        for decision in decisions:
            places = range(len(items)) if decision.item is None else [decision.item]
            key = dataclasses.replace(decision, item=None, seconds=0.0)
            times = rows.setdefault(key, {})
            for place in places:
                share = decision.seconds / len(places)
                times[items[place]] = times.get(items[place], 0.0) + share
    joined = []
    for decision, times in rows.items():
        if len(times) == batch:
            joined.append(dataclasses.replace(decision, seconds=sum(times.values())))
            continue
        joined += [
            dataclasses.replace(decision, item=item, seconds=seconds)
            for item, seconds in sorted(times.items())
        ]
    return tuple(joined)
