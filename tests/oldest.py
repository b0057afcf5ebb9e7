"""Print the oldest versions that pyproject.toml allows, one requirement per line.

    python tests/oldest.py > build/oldest.txt

Tools of the tests alone (pytest, ruff, mypy and their like) are left at their newest version.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

#: Extras whose packages the toolbox itself uses and the tests need.
USED = ("medical", "lidar", "events", "cluster")


def oldest(project: dict) -> list[str]:
    """Return the requirements ``name==least version`` of the dependencies and of `USED`."""
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for extra in USED for line in extras[extra])]
    # A list of constraints takes no extras.
    return [re.sub(r"(\[.*\])?>=\s*([0-9.]+).*", r"==\2", line) for line in lines]


if __name__ == "__main__":
    content = tomllib.loads(
        (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    )
    print("\n".join(oldest(content["project"])))
