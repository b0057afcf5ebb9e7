"""The documentation: its code runs, its pictures are made, and the site builds without a warning."""

from __future__ import annotations

import ast
import importlib
import os
import re
import runpy
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from invtoolbox.measurements import findings

ROOT = Path(__file__).resolve().parent.parent
GALLERY = ROOT / "docs" / "gallery"
#: More than about four seconds on one core; the build of the site runs them too.
SLOW = {
    "batch",
    "blind_deblurring",
    "calibration",
    "choosing_the_weight",
    "cone_beam",
    "ct_slice",
    "inverted_network",
    "mri",
    "deblurring",
    "gated_ct",
    "limited_angle",
    "posterior",
    "registration",
    "waves",
}
#: Pages and scripts that start from a wrong geometry or faulty cells, and the warning that they cause.
WARNED = {
    "what_is_decided": "2 cells of the detector are dead",
    "calibrate": "the axis of rotation projects to cell",
    "calibration": "the axis of rotation projects to cell",
}


def run_warned(program: Path) -> None:
    """Run a program that causes its warning, if it has one."""
    name = program.stem
    with pytest.warns(match=WARNED[name]) if name in WARNED else nullcontext():
        runpy.run_path(str(program))


def pages(folder: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / "docs" / folder).glob("*.md"))


@pytest.mark.parametrize("page", pages("how_do_i"))
def test_the_code_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "how_do_i" / f"{page}.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert blocks
    if any(re.search(r"^import deepinv", block, re.MULTILINE) for block in blocks):
        pytest.importorskip("deepinv")
    # A check that a page registers ends with it.
    monkeypatch.setattr(findings, "_CHECKS", list(findings._CHECKS))
    monkeypatch.chdir(tmp_path)
    program = tmp_path / f"{page}.py"
    program.write_text("\n".join(blocks))
    run_warned(program)


def test_the_steps_are_those_of_the_list_and_explain_themselves_as_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "how_do_i" / "what_is_decided.md").read_text()
    fill = runpy.run_path(str(ROOT / "docs" / "decision_tables.py"))["fill"]
    assert text == fill(text), "run: python docs/decision_tables.py"
    program = tmp_path / "what_is_decided.py"
    program.write_text(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[0])
    run_warned(program)
    printed = without_numbers(capsys.readouterr().out)
    (shown,) = re.findall(r"^```text\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    for line in re.split(r"\n(?=\S)", shown):
        assert without_numbers(line) in printed


def without_numbers(text: str) -> str:
    """Return a text in one line, with one sign in place of every number."""
    return re.sub(r"\d+(\.\d+)?", "#", " ".join(text.split()))


def test_the_table_of_priors_is_the_one_that_was_printed_last() -> None:
    printed = (ROOT / "benchmarks" / "results" / "deblurring_table.md").read_text().strip()
    assert printed in (ROOT / "docs" / "how_do_i" / "which_prior_deblurs.md").read_text()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(path.stem, marks=pytest.mark.slow if path.stem in SLOW else ())
        for path in sorted(GALLERY.glob("*.py"))
    ],
)
def test_a_gallery_script_makes_its_picture(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    threads = torch.get_num_threads()
    run_warned(GALLERY / f"{name}.py")
    assert torch.get_num_threads() == threads
    from PIL import Image

    with Image.open(tmp_path / f"{name}.png") as picture:
        greys = np.unique(np.asarray(picture.convert("L").resize((64, 32))))
        assert picture.width > 500 and len(greys) > 20, "the picture is blank"


def test_every_gallery_script_and_package_has_a_page() -> None:
    listed = (ROOT / "docs" / "site_pages.py").read_text()
    navigation = (ROOT / "mkdocs.yml").read_text()
    for path in GALLERY.glob("*.py"):
        assert f'"{path.stem}"' in listed and f"gallery/{path.stem}.md" in navigation
    for page in pages("how_do_i"):
        assert f"how_do_i/{page}.md" in navigation
    packages = (
        "operators",
        "data_terms",
        "priors",
        "solvers",
        "parameter_choice",
        "datasets",
        "processing",
        "metrics",
        "geometry",
        "jobs.flow",
        "jobs.photographs",
        "jobs.study",
        "networks",
        "posteriors",
        "simulation",
        "testing",
    )
    for package in packages:
        page = f"reference/{package.replace('.', '_')}.md"
        assert f'"{package}":' in listed and page in navigation


def test_names_that_the_pages_speak_of_exist() -> None:
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for module, name in re.findall(r"\bit\.([a-z_]+)\.([A-Za-z_0-9]+)", path.read_text()):
            if name in ("toml", "md", "py"):
                continue
            assert hasattr(importlib.import_module(f"invtoolbox.{module}"), name), (
                f"{path.name} speaks of it.{module}.{name}"
            )


def test_every_results_file_names_the_script_that_printed_it() -> None:
    text = (ROOT / "docs" / "site_pages.py").read_text()
    renamed = ast.literal_eval(re.findall(r"^RESULT_OF = (\{.*\})$", text, re.MULTILINE)[0])
    results = [path for path in (ROOT / "benchmarks" / "results").glob("*.*") if path.is_file()]
    names = {path.stem for path in results if path.suffix in (".txt", ".md")}
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert names
    assert not {renamed.get(name, name) for name in names} - scripts


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package, reason="the site needs the extra [docs]: make docs")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--strict",
            "--quiet",
            "--site-dir",
            str(tmp_path / "site"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    start = (tmp_path / "site" / "index.html").read_text()
    assert "fonts.googleapis" not in start and 'src="http' not in start
    operators = (tmp_path / "site" / "reference" / "operators.html").read_text()
    assert 'id="invtoolbox.operators.FanBeam"' in operators and "source_detector" in operators


def test_the_page_of_scene_files_describes_their_keys() -> None:
    pytest.importorskip("mkdocs")
    from invtoolbox.jobs.flow.scene import PreparationTable, SweepTable
    from invtoolbox.jobs.kinds import KINDS
    from invtoolbox.jobs.photographs.scene import ViewTable

    text = runpy.run_path(str(ROOT / "docs" / "site_pages.py"))["scene_files_page"]()
    assert all(f"has the table `[{name}]`" in text for name in KINDS)
    for table in (SweepTable, PreparationTable, ViewTable):
        for name, field in table.model_fields.items():
            assert field.description
            assert re.search(rf"\| `{name}` \|.*\| {re.escape(field.description)} \|", text), name
    assert "| `window` | whole number, ≥ 2, ≤ 13 | `5` |" in text


def test_joined_modules_are_where_the_page_names_them() -> None:
    """Every former path is free, and every present one is a module."""
    page = (ROOT / "docs" / "how_do_i" / "what_moved.md").read_text()
    rows = page.partition("## Modules that were joined")[2].partition("\n## ")[0]
    names = [re.findall(r"`([\w.]+)`", row) for row in rows.splitlines() if "`" in row]
    paths = [
        [ROOT / "invtoolbox" / f"{name.replace('.', '/')}.py" for name in row] for row in names
    ]
    assert len(paths) > 20
    assert all(row[-1].exists() and not any(p.exists() for p in row[:-1]) for row in paths)
