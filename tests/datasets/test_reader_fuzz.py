"""Damaged files of every format in a child of limited memory; benchmarks/reader_fuzz.py does the same at length."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.datasets.fuzzing import FILE_READERS, SEEDS

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "reader_fuzz.py"


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="the limit of memory is set by what Linux tells"
)
def test_damaged_files_of_every_format_are_refused_or_read(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), "--count", "12", "--keep", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{len(SEEDS)} seeds" in ran.stdout and ran.stdout.count(" 0 faults") == len(SEEDS) + 1


def test_every_reader_has_a_seed() -> None:
    from invtoolbox.datasets import READERS

    assert {reader for reader, _ in SEEDS.values()} == {*READERS, *FILE_READERS}
