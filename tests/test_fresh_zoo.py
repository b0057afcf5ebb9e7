"""Fresh items of the zoo: functions of a commit, of kinds that the halves do not hold."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from tests.test_zoo import load, run, zoo

fresh = load("zoo.fresh")
NEW = [name for name, job in zoo.JOBS.items() if job.is_new]
#: Index of a first item, as large as the digest of a commit makes it.
FIRST = int("f" * 12, 16)


def test_there_are_twelve_kinds_and_300_items() -> None:
    assert len(NEW) >= 12
    assert sum(zoo.JOBS[name].count for name in NEW) >= 300


@pytest.mark.parametrize("name", NEW)
def test_an_item_is_a_function_of_its_index(name: str) -> None:
    torch.set_num_threads(1)
    first, second, other = zoo.item(name, FIRST), zoo.item(name, FIRST), zoo.item(name, FIRST + 1)
    assert torch.equal(first.y, second.y) and torch.equal(first.truth, second.truth)
    assert first.about == second.about != other.about
    assert first.truth.shape == first.simple.shape
    assert bool(first.truth.isfinite().all() and first.simple.isfinite().all())
    assert first.loss(first.simple) == 0.0 and first.loss(first.truth) < 0.0


def test_fresh_items_are_of_new_kinds_and_of_one_commit() -> None:
    keys = run.plan(None, "tv,default", "even", 3, fresh.first_index("00000000000a" + 28 * "0"))
    assert {name for name, *_ in keys} == set(NEW)
    assert {index for _, index, _ in keys} == {10, 11, 12}
    assert not {name for name, *_ in run.plan(None, "all", "both", None)} & set(NEW)


def test_a_revision_without_a_commit_is_refused() -> None:
    with pytest.raises(SystemExit, match="rev-parse --verify no-such-revision"):
        fresh.full_hash("no-such-revision")


def test_a_comparison_counts_alarms_of_items_without_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = (
        '{"job": "a", "prior": "tv", "index": %d, "loss": %s, "marks": %s, "notes": [], '
        '"left_out": false, "fault": "%s", "seconds": 1.0, "about": "item %d"}\n'
    )
    before, after = tmp_path / "before.jsonl", tmp_path / "after.jsonl"
    before.write_text(row % (1, 0.0, "[]", "", 1) + row % (2, -1.0, "[]", "gains", 2))
    after.write_text(row % (1, 2.0, '["doubt"]', "", 1) + row % (2, -1.0, '["gains"]', "gains", 2))
    monkeypatch.setattr(sys, "argv", ["zoo", "--compare", str(before), str(after)])
    run.main()
    _, first, second, _, change = capsys.readouterr().out.splitlines()
    assert first.split() == ["tv", "before", "2", "-0.50", *["0", "0", "0", "0", "of", "1", "1.00"]]
    assert second.split() == ["tv", "after", "2", "0.50", *["1", "0", "1", "1", "of", "1", "1.00"]]
    assert change.strip() == "0.00 to    2.00 dB, a, tv: item 1"
