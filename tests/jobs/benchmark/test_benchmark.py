"""Standard tables: splits, the user's methods, failures that mark an item, and resumption."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.catalogue import shelves
from invtoolbox.errors import InputError
from invtoolbox.jobs.benchmark.run import read_seconds
from invtoolbox.jobs.benchmark.summary import TUNED
from invtoolbox.jobs.benchmark.tables import overlap, read_table
from invtoolbox.jobs.study import read_result
from tests import test_splits
from tests.command_line import Run, one_sentence, run

__all__ = ["run"]

ROOT = Path(__file__).resolve().parents[3]
TABLE = """# Three small pictures.
title = "Three pictures"
system = "pictures"
methods = ["tikhonov"]

[chosen_on]
denoiser-natural = ["mine:2"]
others = ["elsewhere"]

[[rows]]
name = "mine at 25"
reported_on = ["mine:1..3"]
path = "pictures"
noise = 25

[[published]]
method = "BM3D"
row = "mine at 25"
mean = 30.5
source = "a paper"
"""
MODULE = """import os, signal
import invtoolbox as it

prior = it.priors.Tikhonov()
solver = it.solvers.PDHG()
number = 3

class Half:
    def __call__(self, y, physics):
        return 0.5 * y + 0.5 * physics.A_adjoint(y)

class Share(Half):
    def __init__(self, share):
        self.share = share

def half(y, physics):
    return 0.5 * y + 0.5 * physics.A_adjoint(y)

def fails_on_the_second(y, physics):
    if y.shape[-1] == 20:
        raise ValueError("no pictures of 20 columns")
    return y

def wrong_shape(y, physics):
    return y[..., 1:]

def dies_on_the_second(y, physics):
    if y.shape[-1] == 20 and not os.path.exists("alive"):
        open("alive", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return 0.9 * y
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a user, with three pictures of 16, 20 and 24 columns, a table and a module."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    draw = np.random.default_rng(0)
    for k in range(3):
        image = torch.full((1, 1, 16, 16 + 4 * k), 0.3)
        image[..., 4 : draw.integers(9, 14), 4 : draw.integers(9, 14)] = 0.7
        it.datasets.write_png(tmp_path / "pictures" / f"{k}.png", image, (0.0, 1.0))
    (tmp_path / "mine.toml").write_text(TABLE)
    (tmp_path / "my_methods.py").write_text(MODULE)
    return tmp_path


def bench(*arguments: Any, **options: Any) -> it.Benchmark:
    return it.benchmark("mine.toml", *arguments, progress=False, **options)


def stops_on_the_second(y: torch.Tensor, physics: Any) -> torch.Tensor:
    if y.shape[-1] == 20 and not Path("go on").exists():
        raise KeyboardInterrupt
    return 0.9 * y


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.h5"))}


def test_a_table_states_mean_worst_items_split_and_published_figures(mine: Path) -> None:
    result = bench(["tikhonov", "denoiser-natural"], output="out")
    simple, smooth, denoiser = result.rows[0].methods
    assert [m.name for m in result.rows[0].methods] == [
        "measurements",
        "tikhonov",
        "denoiser-natural",
    ]
    assert len(smooth.items) == 3 and smooth.split == "elsewhere" and not smooth.is_tuned_here
    assert denoiser.is_tuned_here and denoiser.marks == TUNED
    # The simple answer is the measurements, of which PSNR is known: noise of 25/255.
    assert simple.mean("PSNR [dB]") == pytest.approx(20 * np.log10(255 / 25), abs=0.7)
    scores = smooth.scores["PSNR [dB]"]
    assert smooth.worst("PSNR [dB]") == (min(scores), smooth.items[scores.index(min(scores))])
    table = json.loads((mine / "out" / "table.json").read_text())
    row = table["rows"][0]
    assert row["reported_on"] == ["mine:1..3"] and row["published"][0]["mean"] == 30.5
    assert row["methods"][1]["scores"]["PSNR [dB]"] == scores and row["methods"][2][TUNED]
    text = (mine / "out" / "table.md").read_text()
    assert "| BM3D | 30.5 |" in text and "published: a paper" in text and TUNED in text
    page = (mine / "out" / "report.html").read_text()
    assert page.count("<img") >= 4 and "published: a paper" in page and "<b>Truth</b>" in page


def test_the_best_method_has_no_mark(mine: Path) -> None:
    """A method that was tuned on the row, or failed on an item, is not ranked first."""

    def cheat(y: torch.Tensor, physics: Any) -> torch.Tensor:
        if y.shape[-1] == 20:
            raise ValueError("no")
        return 0.8 * y + 0.1

    result = bench(["denoiser-natural"], {"cheat": cheat}, output="out")
    row = result.rows[0]
    assert row.methods[1].marks == TUNED and row.methods[2].marks == "failed on 1 of 3"
    means = [method.mean("PSNR [dB]") for method in row.methods]
    best = row.best(result.table.system)
    assert means[0] < min(means[1:]) and best is not None and best.name == "measurements"
    page = (mine / "out" / "report.html").read_text()
    # The mean ranks, so the mean is bold.
    assert re.findall(r'class="number best">([^<]+)<', page) == [f"{means[0]:.4g}"]
    assert "No unmarked method is better than measurements." in page and "verdict bad" in page
    assert page.index('alt="measurements') < page.index('alt="Truth')


def test_priors_solvers_and_functions_join_by_their_place(mine: Path, run: Run) -> None:
    words = [f"--with=my_methods:{name}" for name in ("prior", "solver")]
    ran = run(
        "benchmark",
        "mine.toml",
        *words,
        "--with=my_methods.py:half",
        "--with=my_methods:Half",
        "--quick",
        "--output=out",
    )
    assert ran.code == 0 and "the first of 3" in ran.out, ran
    table = json.loads((mine / "out" / "table.json").read_text())["rows"][0]
    by_name = {method["method"]: method for method in table["methods"]}
    named, prior = (by_name[name]["scores"] for name in ("tikhonov", "my_methods:prior"))
    assert named == prior and by_name["my_methods:prior"]["settings chosen on"] is None
    simple, half = (by_name[n]["scores"] for n in ("measurements", "my_methods.py:half"))
    assert by_name["my_methods:Half"]["scores"] == half
    assert (
        simple["PSNR [dB]"] == pytest.approx(half["PSNR [dB]"]) and "my_methods:solver" in by_name
    )


def test_a_model_of_deepinv_and_a_reconstructor_join_as_objects(mine: Path) -> None:
    import deepinv

    extra = {
        "model": it.as_reconstructor("tikhonov", regularization=10.0),
        "denoiser": deepinv.models.MedianFilter(),
        "prior": it.priors.Tikhonov("gradient"),
    }
    result = bench([], extra, output="out", limit=1)
    assert [m.name for m in result.rows[0].methods[1:]] == [
        "own:model",
        "own:denoiser",
        "own:prior",
    ]
    assert not result.study.failed
    kept = bench([], extra, output="out", limit=1, resume=True)
    assert {report.outcome for report in kept.study.reports} == {"kept"}


def test_an_item_on_which_a_method_raises_is_marked_and_the_table_goes_on(
    mine: Path, run: Run
) -> None:
    names = ("fails_on_the_second", "wrong_shape")
    words = [f"--with=my_methods:{name}" for name in names]
    ran = run("benchmark", "mine.toml", *words, "--output=out")
    assert ran.code == 1 and "no pictures of 20 columns" in ran.err and "shape" in ran.err
    row = json.loads((mine / "out" / "table.json").read_text())["rows"][0]
    _, smooth, fails, wrong = row["methods"]
    assert len(smooth["items"]) == 3 and len(fails["items"]) == 2 and wrong["items"] == []
    assert "ValueError: no pictures of 20 columns" in fails["failed"]["item 1"]
    assert "(1, 1, 16, 16), got (1, 1, 16, 15)" in wrong["failed"]["item 0"]
    assert wrong["mean"] == {} and wrong["worst"] is None
    assert "failed on 1 of 3" in ran.out
    assert "no pictures of 20 columns" in (mine / "out" / "report.html").read_text()


def test_an_interrupted_table_is_resumed_bit_for_bit(mine: Path) -> None:
    method = {"stops": stops_on_the_second}
    with pytest.raises(it.jobs.study.Interrupted, match=r"3 of 6 results"):
        bench([], method, output="cut")
    (mine / "go on").touch()
    result = bench([], method, output="cut", resume=True)
    assert [report.outcome for report in result.study.reports] == ["kept"] * 3 + ["done"] * 3
    bench([], method, output="whole")
    assert contents(mine / "cut") == contents(mine / "whole") and len(contents(mine / "cut")) == 6


@pytest.mark.slow
def test_a_killed_table_is_resumed_bit_for_bit(mine: Path) -> None:
    words = ["benchmark", "mine.toml", "--with", "my_methods:dies_on_the_second", "--output", "cut"]
    command = [sys.executable, "-m", "invtoolbox", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(command, env=environment, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    before = contents(mine / "cut")
    assert 0 < len(before) < 9
    result = bench(["tikhonov"], ["my_methods:dies_on_the_second"], output="cut", resume=True)
    outcomes = [report.outcome for report in result.study.reports]
    assert outcomes.count("kept") == len(before) and outcomes.count("done") == 9 - len(before)
    bench(["tikhonov"], ["my_methods:dies_on_the_second"], output="whole")
    assert contents(mine / "cut") == contents(mine / "whole")
    assert set(read_seconds(mine / "cut")) == set(read_seconds(mine / "whole"))


def test_methods_may_be_added_and_what_changed_is_computed_anew(mine: Path) -> None:
    bench(["tikhonov"], output="out", limit=1)
    with pytest.raises(InputError, match="--resume"):
        bench(["tikhonov"], output="out")
    added = bench(["tikhonov", "denoiser-natural"], output="out", resume=True)
    outcomes = {report.name: report.outcome for report in added.study.reports}
    assert outcomes["mine-at-25-0000-tikhonov"] == "kept"
    assert (
        outcomes["mine-at-25-0000-denoiser-natural"]
        == outcomes["mine-at-25-0001-tikhonov"]
        == "done"
    )
    changed = bench(["tikhonov"], output="out", resume=True, overrides={"rows.0.noise": 10})
    assert {report.outcome for report in changed.study.reports} == {"done"}
    # Another picture under the same name is another item.
    picture = mine / "pictures" / "0.png"
    it.datasets.write_png(picture, torch.rand(1, 1, 16, 16), (0.0, 1.0), overwrite=True)
    again = bench(["tikhonov"], output="out", resume=True, overrides={"rows.0.noise": 10})
    assert {report.outcome for report in again.study.reports} == {"done"}


def test_another_code_of_a_function_is_computed_anew(mine: Path) -> None:
    bench([], {"f": lambda y, physics: 0.5 * y}, output="out", limit=1)
    again = bench([], {"f": lambda y, physics: 0.4 * y}, output="out", limit=1, resume=True)
    assert [report.outcome for report in again.study.reports] == ["kept", "done"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("denoisin", "did you mean 'denoising'"),
        ("mine.toml --methods=tvv", "did you mean 'tv'"),
        ("mine.toml --rows=other", "known: mine at 25"),
        ("mine.toml --with=no_such_package:prior", "no_such_package cannot be imported"),
        ("mine.toml --with=my_methods:priori", "did you mean 'prior'"),
        ("mine.toml --with=my_methods:number", "a int, and a method is a prior, a solver or a"),
        ("mine.toml --with=my_methods:Share", "name an object of it, such as method = Share(...)"),
        ("mine.toml --with=my_methods", "write package.module:name or file.py:name"),
        ("mine.toml --with=none.py:f", "there is no such file"),
        ("mine.toml --with=my_methods:half --with=my_methods:half", "two methods are named"),
        ("mine.toml --limit=0", "limit of benchmark must be at least 1"),
        ("mine.toml --set rows.0.path=none", "none"),
        ("mine.toml --set system=pictur", "did you mean 'pictures'"),
        ("mine.toml --set published.0.row=none", "no row in published of mine.toml named 'none'"),
        ("normals --with=my_methods:prior", "is a function (normals, mask, intrinsics) -> depth"),
    ],
)
def test_bad_input_is_one_sentence(mine: Path, run: Run, words: str, sentence: str) -> None:
    assert sentence in one_sentence(run("benchmark", *words.split()))
    assert not (mine / "results").exists()


@pytest.mark.parametrize(
    ("table", "address"),
    [
        ("denoising", "github.com/cszn/DnCNN"),
        ("deblurring", "github.com/cszn/KAIR"),
        ("chest-ct", "doi.org/10.7937"),
        ("limited-angle", "zenodo.7418878"),
        ("mri", "github.com/ANTsX"),
        ("normals", "bilateral_normal_integration"),
    ],
)
def test_missing_data_are_named_with_folder_and_address(
    mine: Path, run: Run, monkeypatch: pytest.MonkeyPatch, table: str, address: str
) -> None:
    monkeypatch.setenv("INVTOOLBOX_DATA", str(mine / "data"))
    sentence = one_sentence(run("benchmark", table))
    for part in (address, str(mine / "data"), "invtoolbox data "):
        assert part in sentence


def test_a_row_without_data_is_left_out_with_a_note(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INVTOOLBOX_DATA", str(mine / "data"))
    with pytest.warns(UserWarning, match="'heart' are left out: .*heart-motion"):
        result = it.benchmark("registration", [], limit=1, output="out", progress=False)
    assert [row.row.name for row in result.rows] == ["ring"]


@pytest.mark.parametrize("name", sorted(shelves.entries("tables")))
def test_every_table_of_the_toolbox_states_its_splits(name: str) -> None:
    table = read_table(name)
    for method in table.content.methods:
        table.system.check(method)
    for row in table.content.rows:
        for method in table.content.methods:
            chosen = table.split(method)
            assert chosen is not None
            split = {"chosen_on": chosen, "reported_on": row.reported_on}
            assert overlap(chosen, row.reported_on) == test_splits.overlap(split)


def test_overlaps_of_ranges_wholes_and_unknown_items_are_found() -> None:
    assert overlap(["a:1..5"], ["a:5"]) and not overlap(["a:1..5"], ["a:6"])
    assert overlap(["a"], ["a:3"]) and overlap(["unknown"], ["b"]) and not overlap([], ["b"])


def test_result_files_hold_the_picture_in_the_window_of_the_truth(mine: Path) -> None:
    result = bench([], {"black": lambda y, physics: torch.zeros_like(y)}, output="out", limit=1)
    names = [report.name for report in result.study.reports]
    simple, black = (read_result(mine / "out" / f"{name}.h5") for name in names)
    assert simple.arrays["truth"].shape == simple.arrays["x"].shape == (16, 16)
    assert black.arrays["x"].max() == 0 and simple.arrays["truth"].max() > 100
