"""Records of decisions: their sentences, and their numbers in parts of a batch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

import invtoolbox as it
from invtoolbox.core.decision import Decision, join_decisions, render, select_decisions


def note(sentence: str, item: int | None = None, **fields: object) -> Decision:
    return Decision(step="check", item=item, sentence=sentence, **fields)  # type: ignore[arg-type]


def test_a_sentence_has_the_number_of_its_item_in_its_place() -> None:
    decision = note("the residual{item} is white", 2)
    assert decision.text(batch=3) == "the residual of item 2 is white"
    assert decision.text(batch=1) == "the residual is white"
    assert note("the residual{item} is white").text(batch=3) == "the residual is white"


def test_a_sentence_without_a_place_has_the_number_in_front() -> None:
    assert (
        note("two cells are dead", 1).text(batch=2) == "measurements of item 1: two cells are dead"
    )
    assert note("two cells are dead", 0).text(batch=1) == "two cells are dead"


def test_a_record_concerns_its_item_or_all() -> None:
    assert [note("", 1).concerns(k) for k in range(3)] == [False, True, False]
    assert all(note("").concerns(k) for k in range(3))


@pytest.mark.parametrize(
    ("outcome", "is_note"),
    [
        ("taken", True),
        ("kept", True),
        ("late", True),
        ("noted", True),
        ("off", False),
        ("not applicable", False),
    ],
)
def test_reasons_why_a_step_was_not_asked_are_no_notes(outcome: str, is_note: bool) -> None:
    record = note("because", outcome=outcome)
    assert record.is_note == is_note
    assert render([record], 1) == (("because",) if is_note else ())


def test_what_has_no_sentence_and_the_choice_of_the_solver_are_no_notes() -> None:
    assert not note("").is_note
    assert not Decision(step="solver", sentence="CGLS suits squares").is_note


def test_a_record_with_evidence_was_compared() -> None:
    assert note("", evidence="error of held-out views").is_compared and not note("").is_compared


def test_equal_sentences_are_one_note_with_all_of_their_items() -> None:
    records = [
        note("dead cells", 2),
        note("other"),
        note("dead cells", 0),
        note("is{item} white", 1),
    ]
    assert render(records, 4) == (
        "measurements of item 0, of item 2: dead cells",
        "other",
        "is of item 1 white",
    )


def test_a_note_on_every_item_has_no_number() -> None:
    assert render([note("dead{item} cells", k) for k in range(3)], 3) == ("dead cells",)
    assert render([note("dead cells", 0), note("dead cells")], 3) == ("dead cells",)
    assert render([note("dead{item} cells", 0)], 1) == ("dead cells",)


def test_a_note_on_many_items_lists_eight() -> None:
    (text,) = render([note("dead{item} cells", k) for k in range(11)], 12)
    assert text == f"dead{','.join(f' of item {k}' for k in range(8))} and 3 others cells"


def test_records_of_some_items_have_their_numbers_among_these() -> None:
    records = [note("all"), *(note("one", k) for k in range(4))]
    assert [d.item for d in select_decisions(records, [3, 1])] == [None, 1, 0]
    assert [d.sentence for d in select_decisions(records, [])] == ["all"]


def test_records_of_groups_have_the_numbers_of_the_batch() -> None:
    groups = [([2, 0], [note("a", 1), note("b")]), ([1], [note("c")])]
    joined = join_decisions(groups, 3)
    assert [(d.sentence, d.item) for d in joined] == [("a", 0), ("b", 0), ("b", 2), ("c", 1)]


def test_a_record_that_all_items_share_is_one_with_the_time_of_all_groups() -> None:
    groups = [
        ([0, 2], [note("same", seconds=2.0)]),
        ([1], [note("same", seconds=1.0)]),
    ]
    (record,) = join_decisions(groups, 3)
    assert record == note("same", seconds=3.0)


def test_records_that_differ_in_their_evidence_stay_apart() -> None:
    groups = [([k], [note("same", before=1.0, after=float(k))]) for k in range(2)]
    assert [(d.item, d.after) for d in join_decisions(groups, 2)] == [(0, 0.0), (1, 1.0)]


def test_parts_of_a_batch_are_joined_to_the_records_of_the_batch() -> None:
    records = (note("a", 0), note("a", 3), note("b", 2))
    parts = [(places, select_decisions(records, places)) for places in ([0, 2], [3, 1])]
    assert set(join_decisions(parts, 4)) == set(records)


def test_a_file_holds_the_records(tmp_path: Path) -> None:
    records = (
        Decision(
            step="finer-grid",
            item=1,
            outcome="taken",
            question="do smaller pixels predict more?",
            before=1.0,
            after=0.25,
            evidence="error of held-out views",
            seconds=0.5,
            sentence="pixels{item} are smaller",
        ),
        Decision(step="gains", outcome="off", sentence="automatic='none'"),
        Decision(step="solver", sentence="CGLS suits squares"),
        Decision(step="weight", item=0, sentence="the weight{item} was chosen"),
    )
    problem = it.Problem(torch.ones(2, 1, 4, 4), it.operators.Identity((1, 4, 4)))
    solution = it.solve(problem, solver="cgls", progress=False)
    solution = dataclasses.replace(solution, decisions=records)
    loaded = it.Solution.load(solution.save(tmp_path / "solution.h5"))
    assert loaded.decisions == records
    assert loaded.notes == ("pixels of item 1 are smaller", "the weight of item 0 was chosen")
    assert loaded.reason == "CGLS suits squares"
    assert loaded.weight_choice == "the weight of item 0 was chosen"


def test_a_remark_is_appended_as_a_record() -> None:
    problem = it.Problem(torch.ones(1, 1, 4, 4), it.operators.Identity((1, 4, 4)))
    solution = it.solve(problem, solver="cgls", progress=False)
    noted = solution.note("a remark", note("a finding"))
    assert noted.notes == (*solution.notes, "a remark", "a finding")
    assert [d.step for d in noted.decisions[-2:]] == ["run", "check"]
    assert noted.decisions[:-2] == solution.decisions
