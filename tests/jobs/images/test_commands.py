"""What `ct` and `deblur` have from their tables: saved scenes, --set, folders, several files, resumption."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.jobs.images import run as job
from invtoolbox.jobs.images.decisions.case import Case, solve_case
from invtoolbox.jobs.images.decisions.order import off_words
from tests.command_line import CONE, Run, one_sentence

CT = "ct sinogram.npy --geometry geometry.toml --max-iterations 4 --regularization 0.05"
DEBLUR = "deblur photo.png --kernel kernel.png --boundary reflect --max-iterations 4 --regularization 0.001"


@pytest.fixture
def volumes(here: Path) -> Path:
    """The user's folder with a stack, its point spread function and a cone-beam scan too."""
    generator = torch.Generator().manual_seed(0)
    for name, shape in (("cells.tif", (6, 9, 10)), ("psf.tif", (3, 3, 3))):
        values = torch.rand(1, 1, *shape, generator=generator)
        it.datasets.write(name, it.datasets.VolumeInMemory(values, it.datasets.Grid()))
    Path("cone.toml").write_text(CONE)
    A = it.datasets.read_geometry("cone.toml").operator()
    y = A.simulate(torch.ones(1, *A.domain_shape), noise=0.02, seed=0)[0, 0]
    it.datasets.write_hdf5("projections.h5", {"projections": y})
    return here


@pytest.mark.parametrize(
    "line",
    [
        f"{CT} --center 11 --views=1:-1:2 --image-shape 12 14 --pixel-size 1.1 --noise-std 0.1",
        f"{CT} --prior tikhonov --initial fbp --set measurements.center=auto",
        "ct sinogram.npy --geometry geometry.toml --fbp",
        f"{DEBLUR} --boundary valid --solver admm",
        f"{DEBLUR} --tile 9 --noise-std 0.01",
        f"{DEBLUR.replace('kernel.png', 'gaussian:0.8')} --prior tv --set prior.tv.weight=2",
        f"{DEBLUR.replace('photo.png', 'cells.tif').replace('kernel.png', 'psf.tif')}",
        "ct projections.h5 --geometry cone.toml --fbp --views ::3 --volume-shape 5 8 8 --voxel-size 1",
    ],
)
def test_a_saved_scene_gives_the_results_of_its_command(run: Run, volumes: Path, line: str) -> None:
    Path("scenes").mkdir()
    ran = run(*line.split(), "-o", "x.npy", "--save-scene", "scenes/s.toml", "--quiet")
    assert ran.code == 0 and not ran.out, ran.err
    assert run("run", "scenes/s.toml", "--output", "out", "--quiet").code == 0
    x = it.Solution.load("out/solution.h5").x
    assert np.array_equal(np.load("x.npy"), x[0, 0] if x.ndim == 5 else x[0])
    assert "scenes/s.toml: there is a file" in one_sentence(
        run(*line.split(), "-o", "y.npy", "--save-scene", "scenes/s.toml", "--quiet")
    )
    assert not Path("y.npy").exists()


@pytest.mark.parametrize("line", [f"{CT} --reference truth.npy", f"{DEBLUR} --reference truth.npy"])
def test_a_folder_gets_everything_and_is_resumed(run: Run, here: Path, line: str) -> None:
    assert run(*line.split(), "--output", "out").code == 0
    names = {path.name for path in Path("out").iterdir()}
    assert names >= {"scene.json", "metrics.json", "solution.h5", "reconstruction.png"}
    assert "report.html" in names
    assert set(json.loads(Path("out/metrics.json").read_text())) == {"psnr", "rmse", "ssim"}
    assert "--resume" in one_sentence(run(*line.split(), "--output", "out"))
    longer = (*line.replace("4", "9", 1).split(), "--quiet")
    assert run(*longer, "--output", "out", "--resume").code == 0
    assert run(*longer, "--output", "whole.npy").code == 0
    x = it.Solution.load("out/solution.h5").x
    assert np.array_equal(x[0], np.load("whole.npy"))
    assert "another seed" in one_sentence(
        run(*longer, "--output", "out", "--resume", "--set", "seed=1")
    )
    assert "leave the other outputs out" in one_sentence(
        run(*line.split(), "--output", "new", "--report", "r.html")
    )
    assert not Path("r.html").exists()


def test_several_files_by_their_suffixes(run: Run, here: Path) -> None:
    words = (*CT.split(), "--output", "a.npy", "b.png", "m.json", "r.html", "--quiet")
    assert "without a reference" in one_sentence(run(*words))
    words = (*words, "--reference", "truth.npy")
    assert run(*words).code == 0
    assert json.loads(Path("m.json").read_text())["psnr"][0] > 5
    assert (
        "Metrics" in Path("r.html").read_text()
        and "CT of sinogram.npy" in Path("r.html").read_text()
    )
    assert "a.npy exists; give --overwrite" in one_sentence(run(*words))
    assert "holds no settings" in one_sentence(run(*words, "--resume"))
    assert "one picture or slice, and no volume" in one_sentence(
        run(*CT.split(), "--output", "v.mha")
    )


def test_errors_name_the_option_and_not_the_key(run: Run, here: Path) -> None:
    for option, value, sentence in (
        ("--views", "::0", "--views.step is '0'"),
        ("--item", "7", "--item 7: sinogram.npy has 1 items"),
        ("--time-limit", "0", "--time-limit is 0.0"),
        ("--set", "solver.speed=2", "speed is a setting of some solver"),
        ("--set", "measurement.item=2", "did you mean 'measurements'"),
        ("--initial", "zero", "invalid choice"),
    ):
        assert sentence in one_sentence(run(*CT.split(), option, value)), sentence
    weighted = (*DEBLUR.split(), "--set", "prior.weight=2")
    assert "without weight and settings; name a prior" in one_sentence(run(*weighted))
    assert "set --tile to 0" in one_sentence(run(*DEBLUR.split(), "--tile", "9", "--prior", "none"))
    assert not list(here.glob("*reconstruction*")) and not list(here.glob("*deblurred*"))


def test_a_large_picture_is_cut_into_tiles_unless_its_checkpoint_exists(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def record(tile: int) -> Callable[[Case], it.Solution]:
        sizes.append(tile)
        return solve_case

    monkeypatch.setattr(job, "LARGE", 100)
    monkeypatch.setattr(job, "InTiles", record)
    for k, more in enumerate(("", "--resume", "--time-limit 50", "--tile 0", "--tile 7")):
        words = (*DEBLUR.split(), *more.split(), "--output", f"x{k}.npy", "-q")
        assert run(*words).code == 0
    assert sizes == [512, 512, 7]
    Path("x.npy.checkpoint").write_bytes(b"")
    assert "is not resumed" in one_sentence(
        run(*DEBLUR.split(), "--tile", "7", "--output", "x.npy", "--resume")
    )


def test_words_take_the_place_of_repair() -> None:
    for word, repair in (("all,+repairs", True), (job._NO_REPAIR, False)):
        assert set(off_words(word)) == set(off_words("all", repair))


def test_a_killed_item_of_a_study_goes_on(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sinogram = np.load("sinogram.npy")
    np.save("scan.npy", np.stack([sinogram, sinogram[::-1]]))
    line = CT.replace("sinogram.npy", "scan.npy") + " --prior tikhonov --solver gradient-descent"
    words = (*line.split(), "--items", "all", "--quiet")
    assert run(*words, "--output", "whole").code == 0
    step, steps = it.solvers.GradientDescent.step, []

    def interrupted(self: Any, objective: Any, state: Any) -> Any:
        steps.append(1)
        if len(steps) == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, objective, state)

    monkeypatch.setattr(it.solvers.GradientDescent, "step", interrupted)
    ran = run(*words, "--output", "out")
    assert ran.code == 130 and "--resume" in ran.err
    monkeypatch.setattr(it.solvers.GradientDescent, "step", step)
    assert run(*words, "--output", "out", "--resume").code == 0
    for name in ("item-0000.h5", "item-0001.h5"):
        assert Path("out", name).read_bytes() == Path("whole", name).read_bytes()
    several = (*words, "--output", "a", "b")
    assert "further outputs are for one item" in one_sentence(run(*several))
    assert "to a folder, or to a volume" in one_sentence(run(*words, "--output", "a.png"))
