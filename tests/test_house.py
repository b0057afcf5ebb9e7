"""The source keeps its bounds: calls by position, names, comments, circles, files per job."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def house() -> Any:
    spec = importlib.util.spec_from_file_location("house", ROOT / "benchmarks" / "house.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_long_calls_name_their_arguments(house: Any) -> None:
    calls = house.calls_by_position()
    assert len(calls) <= 5, "\n".join(calls)


def test_functions_fit_on_a_page(house: Any) -> None:
    functions = house.long_functions()
    assert len(functions) <= 8 and sum(code > 100 for code, _, _ in functions) == 0, functions


def test_names_say_what_they_hold(house: Any) -> None:
    names = house.assigned_names()
    assert sum(names[word] for word in house.EMPTY_WORDS) <= 20


def test_numerical_folders_name_their_equations(house: Any) -> None:
    shares = {folder: house.comment_share(folder) for folder in house.NUMERIC}
    assert min(shares.values()) >= 0.09, shares


def test_imports_form_few_circles(house: Any) -> None:
    assert len(house.circles()) <= 4, house.circles()


def test_options_are_named_somewhere(house: Any) -> None:
    """What remains are fields of records, which the package itself fills."""
    assert len(house.unnamed_options()) <= 9, house.unnamed_options()


@pytest.mark.parametrize("job, most", [("normals", 5), ("registration", 7), ("events", 5)])
def test_a_job_is_a_folder_that_one_person_can_hold_in_the_head(job: str, most: int) -> None:
    files = [path.name for path in (ROOT / "invtoolbox" / "jobs" / job).glob("*.py")]
    assert len(set(files) - {"__init__.py"}) <= most, files


def test_the_counts_are_right(house: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions above count what they say, on a package of two modules."""
    monkeypatch.setattr(house, "PACKAGE", tmp_path)
    (tmp_path / "a.py").write_text(
        '"""Module."""\n\nfrom invtoolbox.b import g\n\n\ndef f(*found):\n    # a comment\n'
        "    own, x = 1, 2  # another\n    return g(1, 2, 3, 4, 5, 6, 7, *found)\n"
    )
    (tmp_path / "b.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import invtoolbox.a\n"
        "def g(*numbers):\n    from invtoolbox.a import f\n    return f(1, 2, 3, 4, 5, 6)\n"
    )
    assert house.statements() == 5 + 6
    assert house.calls_by_position() == ["a.py:9 g(7)"]
    monkeypatch.setattr(house, "LONG", 3)
    assert house.long_functions() == [(2, 4, "a.py:6 f")]
    assert house.assigned_names()["own"] == 1 and house.assigned_names()["found"] == 0
    assert house.comment_share("") == 2 / (4 + 6)
    assert house.circles() == [["invtoolbox.a", "invtoolbox.b"]]
