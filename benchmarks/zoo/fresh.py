"""Items that did not exist when the code was written: their indices begin at the digest of a commit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import invtoolbox

ROOT = Path(__file__).parents[2]
#: Every run of fresh items is kept here.
FOLDER = ROOT / "benchmarks" / "results" / "fresh"


def _git(folder: Path, *words: str) -> str:
    """Return what a git command prints in a folder."""
    finished = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True)
    if finished.returncode:
        raise SystemExit(f"git {' '.join(words)} in {folder}: {finished.stderr.strip()}")
    return finished.stdout.strip()


def full_hash(revision: str) -> str:
    """Return the digest of a commit of this repository."""
    return _git(ROOT, "rev-parse", "--verify", f"{revision}^{{commit}}")


def first_index(commit: str) -> int:
    """Return the index of the first fresh item of every job, far above those of the zoo's halves.

    >>> first_index("9f047fee2cbb6d8f0a1f")
    175082443881067
    """
    return int(commit[:12], 16)


def measured_code() -> str:
    """Return the commit of the package that is imported, with a plus if its files were changed."""
    folder = Path(invtoolbox.__file__).parent
    is_changed = bool(_git(folder, "status", "--porcelain", "--", "."))
    return _git(folder, "rev-parse", "--short=12", "HEAD") + ("+" if is_changed else "")


def results_file(commit: str) -> Path:
    """Return the file of a run: the commit of its items, and the commit of the code."""
    return FOLDER / f"{commit[:12]}-by-{measured_code()}.jsonl"
