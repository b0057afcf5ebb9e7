"""Every figure of the README and the documentation is in the results file that its text names.

A figure is a number with a unit, or a number with decimals, outside of code. The files are those
that its paragraph, list item or table row names, or else those of its section: `benchmarks/NAME.py`
and `benchmarks/results/NAME.txt`, or NAME in the comment `<!-- figures: NAME -->`. A section without
files may have lengths and angles, which are geometry, but no figure of another unit.

Two more comments serve the text around them: `<!-- 0.56 = 2.82 / 5.03 -->` computes a figure from
numbers of the file, and `<!-- settings: 0.15 -->` lists numbers that are no measurements.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = sorted({ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")})

NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e-?\d+)?"
# Factors from the unit of a page to units in which results files print the same quantity.
UNITS = {
    "dB": (),
    "%": (0.01,),
    "times": (),
    **dict.fromkeys(("ms",), (1e-3,)),
    **dict.fromkeys(("s", "seconds"), (1e3, 1 / 60)),
    **dict.fromkeys(("minutes", "minute"), (60,)),
    "mm": (1e-3, 0.1),
    "cm": (1e-2, 10),
    "m": (1e2, 1e3),
    "MB": (1e-3,),
    "GB": (1e3,),
    "MiB": (),
}
GEOMETRY = ("mm", "cm", "m", "")
FIGURE = re.compile(
    rf"(?<![\w.,/-])({NUMBER}(?:(?:, and |, | and | to | or ){NUMBER})*)(?![\w]|\.\d)"
    rf"(?: ?({'|'.join(UNITS)})(?![\w/-]))?"
)
OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def sections(page: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the text of every section, and its paragraphs, list items and table rows."""
    text = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    for section in re.split(r"\n(?=#+ )", text):
        yield section, re.split(r"\n\s*\n|\n(?=\||- )", section)


def named_results(text: str) -> str:
    """Return the content of the results files that a text names, one after the other."""
    names = re.findall(r"benchmarks/(?:results/)?([\w-]+)\.\w+|`([\w-]+)\.py`", text)
    listed = re.findall(r"<!-- figures: ([\w, -]+) -->", text)
    stems = {name for pair in names for name in pair} | set(re.split(", ", ", ".join(listed)))
    paths = [RESULTS / f"{stem}{suffix}" for stem in sorted(stems) for suffix in (".txt", ".md")]
    return "\n".join(path.read_text() for path in paths if path.exists())


def figures(block: str) -> Iterator[tuple[str, str]]:
    """Yield the figures of a block: the digits as they are printed, and the unit."""
    text = re.sub(r"`[^`]*`|<!--.*?-->|\]\([^)]*\)", "", block, flags=re.DOTALL)
    for numbers, unit in FIGURE.findall(" ".join(text.split())):
        for number in re.findall(NUMBER, numbers):
            if unit or "." in number:
                yield number, unit


def numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in re.findall(NUMBER, text)]


def half_digit(number: str) -> float:
    """Return half a unit of the last printed digit, the largest error of rounding."""
    mantissa, _, exponent = number.replace(",", "").partition("e")
    return 0.50001 * 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def printed(number: str, unit: str, measured: list[float]) -> bool:
    """State whether a number is one of the measured ones, rounded to its digits."""
    figure, half = float(number.replace(",", "")), half_digit(number)
    return any(
        abs(value - figure * factor) <= half * factor
        for factor in (1.0, *UNITS.get(unit, ()))
        for value in measured
    )


def compute(node: ast.expr) -> float:
    """Evaluate the right side of a computed figure: sums, products, and means of numbers."""
    if isinstance(node, ast.Constant):
        return float(node.value)
    if isinstance(node, ast.BinOp):
        return OPERATIONS[type(node.op)](compute(node.left), compute(node.right))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "mean":
        return mean(compute(argument) for argument in node.args)
    raise ValueError(f"not a sum, product or mean of numbers: {ast.unparse(node)}")


def computed(block: str, measured: list[float]) -> tuple[list[str], list[str]]:
    """Return the figures that the comments of a block compute, and the wrong computations."""
    right, wrong = [], []
    for comment in re.findall(r"<!-- (.*?) -->", block, flags=re.DOTALL):
        for number, formula in re.findall(rf"({NUMBER}) = ([^;]+)", comment):
            value = abs(compute(ast.parse(formula.strip(), mode="eval").body))
            operands = [n for n in re.findall(NUMBER, formula) if n not in ("1", "100")]
            exact = abs(value - float(number.replace(",", ""))) <= 1.02 * half_digit(number)
            if exact and all(printed(n, "", measured) for n in operands):
                right.append(number)
            else:
                wrong.append(f"{number} = {formula.strip()}")
    return right, wrong


def settings(block: str) -> list[str]:
    return re.findall(NUMBER, " ".join(re.findall(r"<!-- settings: (.*?) -->", block)))


def missing(page: str) -> list[str]:
    """Return the figures of a page that no results file has, each with the start of its text."""
    differing = []
    for section, blocks in sections(page):
        for block in blocks:
            results = named_results(block) or named_results(section)
            measured = numbers(results)
            right, wrong = computed(block, measured)
            exempt = [*right, *settings(block)]
            for number, unit in figures(block):
                if not results and unit in GEOMETRY:
                    continue
                if number not in exempt and not printed(number, unit, measured):
                    wrong.append(f"{number} {unit}".strip())
            differing += [f"{figure}: {' '.join(block.split())[:80]}" for figure in wrong]
    return differing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_figures_are_in_the_results_files_that_their_text_names(page):
    assert missing(page.read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "A prox takes 184 ms, 41.9 times less (`benchmarks/lpn_prox_speed.py`).",
        "| a prox | 42 times; 26.75 and 21.6 dB | `lpn_prox_speed.py` |",
        "The gain is 5.20 dB. <!-- figures: lpn_prox_speed -->",
        "The gain is 0.8 dB. <!-- figures: lpn_prox_speed; --> <!-- 0.8 = 21.55 / 26.75 -->"
        " `benchmarks/lpn_prox_speed.py`",
        "A grid of 0.5 m, seen from 30 m.",
        "Noise of 2 % <!-- settings: 2 -->",
    ],
)
def test_a_figure_that_is_in_its_file_passes(text):
    assert missing(text) == []


@pytest.mark.parametrize(
    ("text", "figure"),
    [
        ("A prox takes 41.8 times less (`benchmarks/lpn_prox_speed.py`).", "41.8 times"),
        ("| a prox | 42 times; 26.75 and 21.7 dB | `lpn_prox_speed.py` |", "21.7 dB"),
        ("The gain is 5.20 dB.", "5.20 dB"),
        ("| gain |\n|---|\n| 5.20 dB |", "5.20 dB"),
        (
            "The gain is 5.1 dB <!-- 5.1 = 26.75 - 21.55 --> `benchmarks/lpn_prox_speed.py`",
            "5.1 dB",
        ),
        ("A gain of 1.3 dB <!-- 1.3 = 3 - 1.7 --> `benchmarks/lpn_prox_speed.py`", "1.3 dB"),
    ],
)
def test_a_figure_that_differs_from_its_file_is_named(text, figure):
    assert any(line.startswith(figure) for line in missing(text))
