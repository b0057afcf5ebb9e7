"""Types and style, as mypy and ruff see them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


#: The script is not checked with NumPy 1, whose arrays have no default type.
SCRIPTS = [] if np.lib.NumpyVersion(np.__version__) < "2.0.0" else ["tests/user_script.py"]


@pytest.mark.parametrize(
    "command",
    [
        # Two minutes; `make lint typecheck` of the workflow checks the types of every change.
        pytest.param(["mypy", "invtoolbox", *SCRIPTS], marks=pytest.mark.slow),
        ["ruff", "check", "--no-cache", "."],
        ["ruff", "format", "--check", "--no-cache", "."],
    ],
    ids=["mypy", "ruff", "ruff format"],
)
def test_nothing_to_complain_about(command: list[str]) -> None:
    """mypy is strict, for the whole package and a user's script; see pyproject.toml."""
    ran = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr


def test_the_typed_script_runs() -> None:
    subprocess.run(
        [sys.executable, ROOT / "tests" / "user_script.py"], cwd=ROOT, timeout=300, check=True
    )


def test_the_types_travel_with_the_package() -> None:
    assert (ROOT / "invtoolbox" / "py.typed").is_file()
