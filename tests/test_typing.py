"""Types and style, as mypy and ruff see them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    "command", [["mypy"], ["ruff", "check", "--no-cache", "."]], ids=["mypy", "ruff"]
)
def test_nothing_to_complain_about(command: list[str]) -> None:
    """mypy is strict, for the whole package; see pyproject.toml."""
    ran = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr


def test_the_types_travel_with_the_package() -> None:
    assert (ROOT / "invtoolbox" / "py.typed").is_file()
