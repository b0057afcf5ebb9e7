"""Options of the benchmarks are the parameters of their `main`."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run_script():
    spec = importlib.util.spec_from_file_location("common", ROOT / "benchmarks" / "common.py")
    common = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:  # the module sets a folder of data
        patch.setenv("INVTOOLBOX_DATA", "")
        spec.loader.exec_module(common)
    return common.run_script


CALLS = []


def main(
    names: Sequence[str] = ("cow",),
    /,
    steps: int = 3,
    rate: float | None = None,
    pair: tuple[int, int] = (1, 2),
    part: Literal["one", "two"] = "one",
    only: Sequence[Annotated[str, ["a", "b"]]] | None = None,
    seeds: Annotated[list[int], lambda text: [int(n) for n in text.split(",")]] = (0,),
    again: bool = False,
    peer_: bool = True,
    out_folder: Path = Path("build"),
) -> None:
    """Record the options.

    Args:
        steps: number of steps
        peer_: leave the peer out
    """
    CALLS.append(dict(locals()))


def test_options_have_names_types_and_defaults(run_script, monkeypatch):
    words = "cat dog --steps 5 --rate 1e-2 --pair 3 4 --part two --only b --seeds 1,2 --again"
    monkeypatch.setattr(sys, "argv", ["x.py", *words.split(), "--no-peer", "--out-folder", "here"])
    run_script(main)
    assert CALLS.pop() == {
        "names": ["cat", "dog"],
        "steps": 5,
        "rate": 0.01,
        "pair": [3, 4],
        "part": "two",
        "only": ["b"],
        "seeds": [1, 2],
        "again": True,
        "peer_": False,
        "out_folder": Path("here"),
    }
    monkeypatch.setattr(sys, "argv", ["x.py"])
    run_script(main)
    defaults = CALLS.pop()
    assert defaults["names"] == ("cow",) and defaults["rate"] is None and defaults["peer_"]


@pytest.mark.parametrize(
    "words", ["--steps many", "--part three", "--only c", "--peer", "--pair 1"]
)
def test_wrong_options_are_refused(run_script, monkeypatch, words):
    monkeypatch.setattr(sys, "argv", ["x.py", *words.split()])
    with pytest.raises(SystemExit):
        run_script(main)
    assert not CALLS


def test_help_is_that_of_the_docstrings(run_script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x.py", "--help"])
    with pytest.raises(SystemExit):
        run_script(main)
    shown = capsys.readouterr().out
    assert "number of steps" in shown and "Options of the benchmarks" in shown
    assert "--no-peer" in shown and "--out-folder" in shown
