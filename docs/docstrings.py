"""Griffe extension that turns docstrings, written for `help()`, into Markdown for the site."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Convert the docstring of every object."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """Fence examples, formulas and tables; turn the double colon before code into one colon."""
    lines, out, k = text.split("\n"), [], 0
    while k < len(lines):
        line = lines[k]
        indent = " " * (len(line) - len(line.lstrip()))
        if line.lstrip().startswith(">>> "):
            block, k = take(lines, k, lambda each: bool(each.strip()))
            out += ["", f"{indent}```pycon", *block, f"{indent}```", ""]
        elif line.lstrip().startswith(".. math::"):
            first = line.split("::", 1)[1].strip()
            block, k = take(
                lines, k + 1, lambda each, i=indent: each.startswith(i + "    ") or not each.strip()
            )
            formula = [first, *(each.strip() for each in block)]
            out += [
                "",
                f"{indent}```text",
                *(indent + each for each in formula if each),
                f"{indent}```",
                "",
            ]
        elif re.fullmatch(r"\s*=+(\s+=+)+\s*", line):
            block, k = take(lines, k, lambda each: bool(each.strip()))
            out += ["", f"{indent}```text", *block, f"{indent}```", ""]
        else:
            # The indented block below is code in Markdown too.
            out.append(re.sub(r"::$", ":", line).replace(":math:", ""))
            k += 1
    return "\n".join(out)


def take(lines: list[str], start: int, belongs: Any) -> tuple[list[str], int]:
    """Return the lines from ``start`` on that belong together, and the index after the last one."""
    end = start
    while end < len(lines) and belongs(lines[end]):
        end += 1
    return lines[start:end], end
