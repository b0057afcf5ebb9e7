"""Write the tables of the page on automatic decisions from the list of steps.

    python docs/decision_tables.py

Every table stands between two comments of `docs/how_do_i/what_is_decided.md`. A test compares them
with the list.
"""

from __future__ import annotations

import re
from pathlib import Path

from invtoolbox.jobs.images.decisions import default_prior
from invtoolbox.jobs.images.decisions.case import Step
from invtoolbox.jobs.images.decisions.order import ANSWER, MEND, POSE, STEPS
from invtoolbox.jobs.images.tiles import OFF_IN_TILES

PAGE = Path(__file__).resolve().parent / "how_do_i" / "what_is_decided.md"


def main() -> None:
    """Rewrite the tables of the page."""
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def fill(page: str) -> str:
    """Return the text of the page with its tables as the list of steps makes them.

    Args:
        page: text of the page.
    """
    for name, table in tables().items():
        begin, end = f"<!-- table: {name} -->", f"<!-- end: {name} -->"
        before, _, rest = page.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"{PAGE.name} has no table between {begin.strip()} and {end}")
        page = f"{before}{begin}{table}{end}{after}"
    return page


def tables() -> dict[str, str]:
    """Return the Markdown text of every table by its name."""
    steps = [
        "| step | it asks | what it does, and by which measure | cost in addition to the solve |",
        "|---|---|---|---|",
    ]
    for title, group in (
        ("the measurements are mended", MEND),
        ("the problem is posed", POSE),
        ("the answer is compared with others", ANSWER),
    ):
        steps += [f"| **{title}** | | | |", *map(_row, group)]
    priors = ["| kind of problem | default prior |", "|---|---|"]
    priors += [f"| {kind} | `{name}` |" for kind, name in default_prior.TABLE.items()]
    in_tiles = " and ".join(f"`{name}`" for name in STEPS if name not in OFF_IN_TILES)
    return {
        "steps": _block(steps),
        "default-prior": _block(priors),
        "tiles": in_tiles,
    }


def _block(lines: list[str]) -> str:
    """Return lines as a block of their own between comments."""
    return "\n" + "\n".join(lines) + "\n"


def _row(step: Step) -> str:
    """Return the row of one step, from the attributes and the first line of its class."""
    summary = (type(step).__doc__ or "").partition("\n")[0].replace("``", "`")
    asked_for = " (only if asked for)" if step.is_asked_for else ""
    # A factor of the price is no measured figure.
    factors = re.findall(r"(\d+) (?:or (\d+) )?times", step.price)
    numbers = [number for pair in factors for number in pair if number]
    remark = f" <!-- settings: {', '.join(numbers)} -->" if numbers else ""
    measure = f" Measure: {step.evidence}." if step.evidence else ""
    cells = (
        f"`{step.name}`{asked_for}",
        step.question,
        summary + measure,
        step.price + remark,
    )
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
