"""Numbers of the steps, jobs/images/decisions/thresholds.py: where they may stand, and their splits."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from invtoolbox.jobs.images.decisions import thresholds

FOLDER = Path(thresholds.__file__).parent
RESULTS = Path(__file__).parents[4] / "benchmarks" / "results"
#: Numbers that count axes or channels, signs and halves.
PLAIN = {0, 1, 2, 3, 4}


def numbers(node: ast.AST) -> Iterator[int | float]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and type(part.value) in (int, float):
            yield part.value


def misplaced(source: str) -> list[int]:
    """Return the lines of constants that are numbers, and of comparisons with other than plain ones."""
    tree = ast.parse(source)
    lines = [
        node.lineno
        for node in tree.body
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        and isinstance(node.value, (ast.Constant, ast.BinOp, ast.Tuple))
        and list(numbers(node.value))
    ]
    comparisons = (node for node in ast.walk(tree) if isinstance(node, ast.Compare))
    return lines + [node.lineno for node in comparisons if set(numbers(node)) - PLAIN]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_numbers_stand_in_one_file(path: Path) -> None:
    if path.stem != "thresholds":
        assert misplaced(path.read_text()) == []


def test_misplaced_numbers_are_found() -> None:
    assert misplaced("_LEAST = 0.3\n\ndef rule(x):\n    return x > 5.5 and x < 2") == [1, 4]


def test_every_number_has_a_split_and_a_results_file() -> None:
    source = (FOLDER / "thresholds.py").read_text()
    names = {name for name, value in vars(thresholds).items() if type(value) is thresholds.Split}
    declared = 0
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and not isinstance(node.value, ast.Tuple):
            assert isinstance(node.value, ast.Call), f"line {node.lineno} declares no split"
            function = node.value.func
            assert isinstance(function, ast.Name)
            declared += function.id in names
    assert declared == sum(len(split.numbers) for split in thresholds.SPLITS)
    assert len(names) == len(thresholds.SPLITS)
    for split in thresholds.SPLITS:
        assert split.numbers and split.chosen_on
        assert (RESULTS / split.results).stat().st_size > 0
