"""What settings were chosen on and what is reported are apart, or pages say "tuned here"."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.test_figures import PAGES, RESULTS, ROOT, figures, sections

#: Words of a results file that reports a quality.
QUALITY = re.compile(r"\bdB\b|Matthews|PSNR|SSIM|IoU|\bEPE\b|end-point|RMSE|coverage of|Fr.chet")
TABLE = tomllib.loads((ROOT / "benchmarks" / "splits.toml").read_text(encoding="utf-8"))
NO_QUALITY = TABLE.pop("no_quality")


def splits(name: str) -> list[dict[str, Any]]:
    """Return the splits of a results file, one or several."""
    entry = TABLE.get(name, [])
    return entry if isinstance(entry, list) else [entry]


def expand(identifiers: list[str]) -> set[tuple[str, int | None]]:
    """Return the cases of identifiers: ``set12:1..3`` are three, and ``set12`` is the whole."""
    cases: set[tuple[str, int | None]] = set()
    for identifier in identifiers:
        if match := re.fullmatch(r"(.+):(\d+)(?:\.\.(\d+))?", identifier):
            first, last = int(match[2]), int(match[3] or match[2])
            assert first <= last, identifier
            cases |= {(match[1], number) for number in range(first, last + 1)}
        else:
            cases.add((identifier, None))
    return cases


def overlap(split: dict[str, Any]) -> bool:
    """State whether a case was chosen on and reported, or what was chosen on is unknown."""
    chosen, reported = expand(split["chosen_on"]), expand(split["reported_on"])
    whole = {name for name, number in chosen | reported if number is None}
    return (
        bool(chosen & reported)
        or ("unknown", None) in chosen
        or bool({name for name, _ in chosen} & {name for name, _ in reported} & whole)
    )


@cache
def quoted(page: Path) -> list[tuple[str, set[str]]]:
    """Return the blocks of a page with figures, and the results files that each names.

    A block without a name belongs to the files of its section, which then carries the words.
    """
    pairs = []
    for section, blocks in sections(page.read_text(encoding="utf-8")):
        for block in blocks:
            names = set(named(block))
            pairs += [(block if names else section, names or set(named(section)))] * any(
                True for _ in figures(block)
            )
    return pairs


def named(text: str) -> Iterator[str]:
    for pair in re.findall(r"benchmarks/(?:results/)?([\w-]+)\.\w+|`([\w-]+)\.py`", text):
        yield "".join(pair)
    for listed in re.findall(r"<!-- figures: ([\w, -]+) -->", text):
        yield from listed.split(", ")


def missing_words(text: str, split: dict[str, Any]) -> list[str]:
    """Return the words that a text with figures of a split lacks."""
    needed = {
        "tuned here": split.get("tuned_here", False),
        "one case": len(expand(split["reported_on"])) == 1,
    }
    return [
        words for words, needs in needed.items() if needs and words not in " ".join(text.split())
    ]


def test_every_results_file_has_a_split_or_reports_no_quality() -> None:
    files = {path.stem for path in RESULTS.iterdir() if path.suffix in (".txt", ".md")}
    assert files - set(TABLE) - set(NO_QUALITY) == set()
    assert set(TABLE) & set(NO_QUALITY) == set() and set(TABLE) | set(NO_QUALITY) <= files
    for name in NO_QUALITY:
        text = "".join(path.read_text(encoding="utf-8") for path in RESULTS.glob(f"{name}.*"))
        assert not QUALITY.search(text), name


@pytest.mark.parametrize("name", TABLE)
def test_cases_that_settings_were_chosen_on_are_not_reported(name: str) -> None:
    for split in splits(name):
        assert set(split) <= {"rows", "chosen_on", "reported_on", "tuned_here"}
        assert split["reported_on"] and overlap(split) == split.get("tuned_here", False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_say_which_figures_were_tuned_here(page: Path) -> None:
    lacking = {
        f"{name}: {words}: {' '.join(text.split())[:100]}"
        for text, names in quoted(page)
        for name in names
        for split in splits(name)
        if re.search(split.get("rows", ""), text)
        for words in missing_words(text, split)
    }
    assert lacking == set()


@pytest.mark.parametrize(
    ("chosen_on", "reported_on", "tuned"),
    [
        (["set12:1..3"], ["set12:4..6"], False),
        (["set12:1..4"], ["set12:4..6"], True),
        (["set12"], ["set12:4"], True),
        (["unknown"], ["set12:4"], True),
        ([], ["set12:4"], False),
    ],
)
def test_overlaps_are_found(chosen_on: list[str], reported_on: list[str], tuned: bool) -> None:
    assert overlap({"chosen_on": chosen_on, "reported_on": reported_on}) == tuned


def test_a_page_without_the_words_is_named() -> None:
    split = {"chosen_on": ["tooth"], "reported_on": ["tooth"], "tuned_here": True}
    assert missing_words("| 2 dB | `tooth.py` |", split) == ["tuned here", "one case"]
    assert missing_words("| 2 dB (one case, tuned here) | `tooth.py` |", split) == []
