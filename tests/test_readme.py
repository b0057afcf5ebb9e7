"""What the README shows is run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from invtoolbox.cli import parser
from invtoolbox.jobs.images.parts import measure
from invtoolbox.jobs.images.tables import read_scene

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec("\n".join(blocks("python")), names)
    assert "converged" in capsys.readouterr().out and (tmp_path / "ct.html").exists()
    solution = names["solution"]
    assert solution.status == ("converged",) and "Smoothness" in solution.prior  # type: ignore[attr-defined]


def test_the_scene_is_one(tmp_path: Path) -> None:
    (toml,) = blocks("toml")
    path = tmp_path / "scene.toml"
    path.write_text(toml)
    assert measure(read_scene(path)).y.shape == (1, 1, 120, 192)


def test_the_commands_are_those_of_the_command_line() -> None:
    lines = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("invtoolbox ")]
    assert len(commands) >= 5
    for command in commands:
        assert callable(parser().parse_args(command).command)


def test_the_files_it_points_to_are_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (Path(__file__).resolve().parent.parent / target).exists(), target


def test_the_index_of_torch_for_the_cpu_is_stated() -> None:
    assert "--extra-index-url https://download.pytorch.org/whl/cpu" in README


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_an_old_python_ends_in_one_sentence(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parent.parent
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(root / name, tmp_path)
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = project["requires-python"].removeprefix(">=")
    assert f"Python {oldest} or later" in README
    # The interpreter evaluates the condition of the Makefile as Python 3.10 would.
    (tmp_path / "python3.10").write_text(
        "#!/bin/sh\ncode=$(echo \"$2\" | sed 's/sys.version_info/(3, 10)/')\n"
        f'exec {sys.executable} -c "$code"\n'
    )
    (tmp_path / "python3.10").chmod(0o755)
    ran = subprocess.run(
        ["make", "--no-print-directory", f"PYTHON={tmp_path / 'python3.10'}", "venv"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ran.returncode != 0 and not (tmp_path / ".venv").exists()
    assert ran.stdout.splitlines() == [
        f"invtoolbox needs Python {oldest} or later: make PYTHON=python3.12"
    ]
