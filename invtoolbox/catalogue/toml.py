"""Text of a TOML document from plain values; Python's `tomllib` only reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def as_toml(content: Mapping[str, Any], table: str = "") -> str:
    """Return values, tables and lists of tables as TOML; keys with the value None are left out.

    Args:
        content: the values; tables may hold further tables.
        table: dotted name of the table that holds them.

    >>> print(as_toml({"seed": 1, "stage": [{"loss": "l1"}], "data": {"crop": {"rows": 8}}}), end="")
    seed = 1
    <BLANKLINE>
    [[stage]]
    loss = "l1"
    <BLANKLINE>
    [data.crop]
    rows = 8
    """
    lines: list[str] = []
    tables: list[str] = []
    for key, value in content.items():
        name = f"{table}.{_key(key)}" if table else _key(key)
        if isinstance(value, Mapping):
            body = as_toml(value, name)
            # A table that holds tables alone needs no line of its own.
            header = "" if body.startswith("\n") else f"\n[{name}]\n"
            tables.append(header + body)
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], Mapping):
            tables += [f"\n[[{name}]]\n{as_toml(entry, name)}" for entry in value]
        elif value is not None:
            lines.append(f"{_key(key)} = {json.dumps(value, ensure_ascii=False)}\n")
    text = "".join(lines + tables)
    return text if table or lines else text.removeprefix("\n")


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() else json.dumps(name)
