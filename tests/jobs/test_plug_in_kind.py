"""A kind of scene in a package of its own, by one entry point and without any other edit."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import invtoolbox as it
from tests.command_line import Run, one_sentence

MODULE = '''
"""Blur a picture: a kind of scene in one file."""

from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from invtoolbox.catalogue.documents import CheckedScene, FilePath, Table
from invtoolbox.datasets import write_png
from invtoolbox.jobs.command import SceneCommand
from invtoolbox.jobs.kind import Inputs, Kind, SceneTables
from invtoolbox.operators import Blur


class BlurTable(Table):
    picture: FilePath = Field(description="a picture as .npy")
    width: int = Field(3, ge=1, description="side of the square kernel, in pixels")


class BlurScene(SceneTables):
    blur: BlurTable


def read(file: CheckedScene[BlurScene]) -> Inputs:
    return {"picture": torch.from_numpy(np.load(file.locate(file.scene.blur.picture)))}


def compute(file: CheckedScene[BlurScene], inputs: Inputs, progress: bool) -> torch.Tensor:
    width, picture = file.scene.blur.width, inputs["picture"].float()
    A = Blur(torch.full((width, width), width**-2.0), tuple(picture.shape))
    return A(picture[None, None])[0, 0]


def measure(blurred: torch.Tensor, inputs: Inputs) -> dict[str, float]:
    return {"contrast": float(blurred.std() / inputs["picture"].std())}


KIND = Kind(
    BlurScene,
    "a picture to blur",
    read,
    compute,
    measure,
    {
        "npy": ("blurred.npy", lambda path, x, inputs: np.save(path, x.numpy())),
        "png": ("blurred.png", lambda path, x, inputs: write_png(path, x, overwrite=True)),
    },
    usual=("npy", "png"),
    units={"contrast": "of the picture"},
    command=SceneCommand(
        description="Blur a picture with a square kernel.",
        positional={"PICTURE": "blur.picture"},
        options={"--width": "blur.width"},
        examples=("blur picture.npy --width 5 --output blurred.npy",),
        outputs=("{stem}_blurred.npy",),
    ),
)
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with the entry point, as pip leaves it, and a picture."""
    site = tmp_path / "site"
    (site / "blurring-1.0.dist-info").mkdir(parents=True)
    (site / "blurring.py").write_text(MODULE)
    about = site / "blurring-1.0.dist-info"
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: blurring\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[invtoolbox.jobs]\nblur = blurring:KIND\nlist = blurring:KIND\ndenoise = blurring:KIND\n"
        "gone = gone:KIND\nother = blurring:BlurTable\n"
    )
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "blurring", raising=False)
    monkeypatch.chdir(tmp_path)
    np.save("picture.npy", np.random.default_rng(0).random((16, 20), np.float32))
    Path("scene.toml").write_text('[blur]\npicture = "picture.npy"\nwidth = 5\n')
    return tmp_path


def test_a_kind_of_a_plug_in_runs_everywhere(run: Run, installed: Path) -> None:
    assert len(MODULE.splitlines()) <= 120
    outcome = it.run("scene.toml", output="out", progress=False)
    assert outcome.metrics["contrast"] < 0.5 and outcome.result.shape == (16, 20)
    names = {path.name for path in Path("out").iterdir()}
    assert names == {"scene.json", "metrics.json", "report.html", "blurred.npy", "blurred.png"}
    page = Path("out/report.html").read_text()
    assert "contrast" in page and "blur.width" in page and "data:image/png" in page

    ran = run("run", "scene.toml", "--set", "blur.width=1", "--output", "one")
    assert ran.code == 0 and "contrast       1 of the picture" in ran.out, ran.err
    assert "finished already" in run("run", "scene.toml", "--output", "out", "--resume").out
    sentence = one_sentence(run("run", "scene.toml", "--set", "blur.wide=1", "--output", "no"))
    assert "did you mean 'width'?" in sentence


def test_its_command_is_listed_and_works(run: Run, installed: Path) -> None:
    assert "blur " in run("--help").out
    assert "side of the square kernel" in run("blur", "--help").out
    ran = run("blur", "picture.npy", "--width", "5", "--output", "out", "--save-scene", "s.toml")
    assert ran.code == 0, ran.err
    assert run("run", "s.toml", "--output", "again", "-q").code == 0
    assert np.array_equal(np.load("out/blurred.npy"), np.load("again/blurred.npy"))
    assert run("blur", "picture.npy", "--output", "b.npy", "b.json", "-q").code == 0
    assert json.loads(Path("b.json").read_text())["contrast"] < 1
    assert "--width is" in one_sentence(run("blur", "picture.npy", "--width", "0"))


def test_a_plug_in_replaces_no_command_and_its_faults_are_named(run: Run, installed: Path) -> None:
    assert "remove the noise" in run("denoise", "--help").out.lower()
    assert "square kernel" not in run("list", "--help").out
    sentence = one_sentence(run("gone", "picture.npy"))
    assert "the plug-in 'gone' of the package blurring (gone:KIND) cannot be loaded" in sentence
    assert "is an invtoolbox.jobs.kind.Kind" in one_sentence(run("other", "picture.npy"))
