"""The command line as a whole: help, versions, lists, faults of usage."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from invtoolbox import __version__
from invtoolbox.catalogue import registry
from invtoolbox.catalogue import shelves as catalogue
from invtoolbox.cli import listing
from tests.command_line import Run, one_sentence


@pytest.mark.parametrize(
    "command",
    ["run", "ct", "deblur", "flow", "normals", "register", "train", "list", "info", "demo"],
)
def test_every_command_has_a_help_with_an_example(run: Run, command: str) -> None:
    ran = run(command, "--help")
    assert ran.code == 0 and "example" in ran.out and f"  invtoolbox {command}" in ran.out
    assert command in run("--help").out


def test_version(run: Run) -> None:
    assert run("--version").out.strip() == f"invtoolbox {__version__}"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["reconstruct"],
        ["run"],
        ["deblur", "x.png"],
        ["ct", "x", "--item", "a"],
        ["list", "prior"],
    ],
)
def test_faults_of_usage_are_one_sentence_that_names_the_help(
    run: Run, arguments: list[str]
) -> None:
    assert "--help" in one_sentence(run(*arguments))


def test_list_shows_every_name_with_what_it_is(run: Run) -> None:
    whole = run("list")
    assert whole.code == 0
    for kind in listing.KINDS:
        ran = run("list", kind)
        lines = [line.split(maxsplit=1) for line in ran.out.splitlines()[1:]]
        assert all(len(line) == 2 for line in lines), ran.out
        assert ran.out.strip() in whole.out
        names = {line[0] for line in lines}
        if kind in registry.KINDS:
            assert set(registry.names(kind)) <= names
            assert "cannot be loaded" not in ran.out
        if kind in catalogue.SHELVES:
            assert set(catalogue.entries(kind)) <= names


def test_samplers_that_lose_are_marked_in_the_list(run: Run) -> None:
    lines = {line.split()[0]: line for line in run("list", "solvers").out.splitlines() if line}
    marked = {name for name, line in lines.items() if "below total variation" in line}
    assert 1 <= len(marked) <= 3 and "daps" in marked


def test_info_shows_versions_devices_and_extras(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from invtoolbox.core import environment

    monkeypatch.setattr(
        environment,
        "extras",
        lambda: {"test": {"pytest": "9"}, "3d": {"open3d": None, "trimesh": "1"}},
    )
    ran = run("info")
    assert ran.code == 0 and __version__ in ran.out and "threads" in ran.out and "cuda" in ran.out
    line = next(line for line in ran.out.splitlines() if line.strip().startswith("3d"))
    assert (
        "missing open3d" in line
        and "trimesh" not in line
        and "pip install" in line
        and "[3d]" in line
    )


def test_python_m_and_its_exit_code() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "invtoolbox", "run", "ct-smal"],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 2 and ran.stdout == ""
    assert ran.stderr.strip().startswith(
        "invtoolbox: there is no scene named 'ct-smal'; did you mean 'ct-small'"
    )
    assert "Traceback" not in ran.stderr


def test_debug_shows_where_an_error_came_from(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setenv("INVTOOLBOX_DEBUG", "1")
    with pytest.raises(ValueError, match="ct-smal"):
        run("run", "ct-smal")


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m invtoolbox list scenes | true"
    ran = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert ran.returncode == 0 and ran.stderr == ""


@pytest.mark.parametrize("command", ["run", "reconstruct"])
@pytest.mark.parametrize("word", ["foto/", "foto", "./foto"])
def test_a_mistyped_folder_is_answered_with_the_nearest_and_no_list_of_scenes(
    run: Run, here: Path, command: str, word: str
) -> None:
    (here / "photos").mkdir()
    sentence = one_sentence(run(command, word))
    assert f"{word}: there is no such file or folder" in sentence and "'photos'" in sentence
    assert "known:" not in sentence


def test_a_path_without_a_near_one_is_no_scene(run: Run, here: Path) -> None:
    assert "invtoolbox list scenes" in one_sentence(run("run", "xyz/qqq"))
    assert "there is no scene named 'xyz'" in one_sentence(run("run", "xyz"))
    assert "did you mean 'photo.png'" in one_sentence(
        run("deblur", "foto.png", "--kernel", "kernel.png")
    )


@pytest.mark.parametrize(
    ("change", "near"),
    [
        ("solvr.max_iterations=3", "solver"),
        ("solver.max_iteratons=3", "max_iterations"),
        ("prior.tv.wieght=3", "weight"),
        ("prior.tv.isotropc=true", "isotropic"),
        ("operator.num_detector=3", "num_detectors"),
        ("regularization.tua=3", "tau"),
    ],
)
def test_a_mistyped_setting_is_answered_with_the_nearest(
    run: Run, here: Path, change: str, near: str
) -> None:
    assert f"did you mean '{near}'" in one_sentence(run("run", "ct-small", "--set", change))


def test_a_mistyped_option_is_answered_with_the_nearest(run: Run) -> None:
    assert one_sentence(run("flow", "street", "--itms=3")).startswith(
        "invtoolbox: there is no option --itms; did you mean '--items'"
    )
    # By what it means first.
    meant = one_sentence(run("denoise", "photo.png", "--weight", "0.1"))
    assert meant.startswith(
        "invtoolbox: there is no option --weight; did you mean '--regularization'"
    )


def test_the_commands_of_pictures_are_listed(run: Run) -> None:
    listed = run("--help").out
    for command in ("denoise", "deblur", "superresolve", "inpaint"):
        assert f"    {command} " in listed
        assert "folder of pictures" in run(command, "--help").out


def test_a_mistyped_command_or_choice_is_answered_with_the_nearest(run: Run) -> None:
    assert "did you mean 'reconstruct'" in one_sentence(run("reconstrct", "x"))
    wrong = run("deblur", "x.png", "--kernel", "gaussian:1", "--boundary", "reflekt")
    assert "did you mean 'reflect'" in one_sentence(wrong)
    assert "there is no command 'zzzzzz'; see" in one_sentence(run("zzzzzz"))


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_script_completes_commands_and_options(run: Run, shell: str) -> None:
    pytest.importorskip("shtab")
    script = run("--completion", shell).out
    assert "register" in script and "--time-limit" in script


@pytest.mark.parametrize("start", ["import invtoolbox", "run_module('invtoolbox')"])
def test_an_older_python_is_told_in_one_sentence(start: str) -> None:
    code = f"from runpy import run_module; import sys; sys.version_info = (3, 10, 4); {start}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = ended.stderr.strip().splitlines()[-1]
    assert ended.returncode == 1
    assert "invtoolbox needs Python 3.11 or later, and this is Python 3.10" in last
    source = Path(catalogue.__file__).parents[1] / "__init__.py"
    ast.parse(source.read_text(), feature_version=(3, 7))


def test_an_unknown_home_is_one_sentence(run: Run) -> None:
    assert "give the whole path" in one_sentence(run("denoise", "~nobody-of-this-name/x.png"))


def test_a_command_without_output_streams_works(tmp_path: Path) -> None:
    code = "import sys; sys.stdout = sys.stderr = None\nfrom invtoolbox.cli import main\nmain(['list', 'tables'])"
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=120)
    assert ran.returncode == 0


def test_one_path_too_many_and_files_of_another_kind_are_one_sentence(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.ply", "b.ply"):
        (tmp_path / name).write_text("ply")
    assert "b.ply: one path too many; put files" in one_sentence(run("flow", "a.ply", "b.ply"))
    assert "- is no path" in one_sentence(run("flow", "a.ply", "--output", "-"))
    assert "does not write files of this kind" in one_sentence(run("register", "a.ply", "b.ply"))
