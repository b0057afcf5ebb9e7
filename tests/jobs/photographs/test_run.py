"""Scene files of photographs, and the command that runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import invtoolbox as it
from invtoolbox.cli import main
from invtoolbox.datasets import read_splats
from invtoolbox.datasets.models.gaussians import read_voxels
from invtoolbox.errors import InputError
from invtoolbox.jobs.photographs.run import ViewOutcome
from invtoolbox.jobs.photographs.scene import read_view_scene
from tests.jobs.photographs.conftest import write_photographs


def ran(scene: str, *overrides: str, **settings: object) -> ViewOutcome:
    outcome = it.run(scene, overrides, progress=False, **settings)  # type: ignore[arg-type]
    assert isinstance(outcome, ViewOutcome)
    return outcome


@pytest.mark.parametrize("scene", ["voxels", "gaussians"])
def test_a_scene_of_photographs_leaves_model_pictures_and_metrics(here: Path, scene: str) -> None:
    outcome = ran(f"{scene}.toml", "evaluation.every=0.2")
    folder = Path("results") / scene
    assert (
        outcome.folder == folder
        and outcome.held_out
        and outcome.names == ("r_2.png", "r_6.png", "r_9.png")
    )
    assert outcome.mean("psnr") > 17 and len(outcome.metrics["ssim"]) == 3
    content = json.loads((folder / "metrics.json").read_text())
    assert (
        content["mean"]["psnr"] == outcome.mean("psnr")
        and content["is_complete"]
        and content["views"] == list(outcome.names)
    )
    page = (folder / "report.html").read_text()
    assert page.count("<b>Nearest training photograph</b>") == 3
    assert not any("nearest training photograph" in note for note in outcome.notes)
    assert sorted(p.name for p in (folder / "held-out").iterdir()) == [
        "r_2.png",
        "r_6.png",
        "r_9.png",
    ]
    assert outcome.solution is not None
    if scene == "voxels":
        assert torch.equal(
            read_voxels(folder / "model.safetensors").density, outcome.solution.x.density
        )
    else:
        assert len(read_splats(folder / "model.ply")) == int(
            (outcome.solution.x.opacities > 1e-6).sum()
        )
    with pytest.raises(InputError, match="holds results already"):
        ran(f"{scene}.toml")
    again = ran(f"{scene}.toml", resume=True)
    assert again.solution is None and again.metrics == outcome.metrics and not again.files


def test_a_finished_run_goes_on_with_a_larger_budget_only(here: Path) -> None:
    short = ran("gaussians.toml", "stage=[{}]", "solver.time_limit=0.3", "output.formats=[]")
    with pytest.raises(InputError, match=r"another prior\.0\.count"):
        ran("gaussians.toml", "stage=[{}]", "solver.time_limit=0.3", "prior.count=99", resume=True)
    longer = ran(
        "gaussians.toml", "stage=[{}]", "solver.time_limit=1.2", "output.formats=[]", resume=True
    )
    assert short.solution is not None and longer.solution is not None
    assert (
        longer.solution.reports[0].iterations > short.solution.reports[0].iterations
        and 1.2 <= longer.solution.seconds < 5
    )
    anew = ran("gaussians.toml", "stage=[{iterations = 2}]", overwrite=True)
    assert anew.solution is not None and anew.solution.reports[0].iterations == 2


def test_presets_are_sets_of_changes(here: Path) -> None:
    with Path("voxels.toml").open("a") as file:
        file.write('[presets.tiny]\n"views.scale" = 0.5\n"prior.voxel-grid.resolution" = 4\n')
    read = read_view_scene("voxels.toml", {"preset": "tiny", "views.hold_out": 3})
    assert (
        read.scene.views.scale == 0.5
        and read.scene.prior[0].settings["resolution"] == 4
        and read.scene.views.hold_out == 3
    )
    assert read_view_scene("voxels.toml").scene.views.scale == 1
    with pytest.raises(
        InputError, match="there is no preset in voxels.toml named 'tinny'; did you mean 'tiny'"
    ):
        read_view_scene("voxels.toml", ["preset=tinny"])


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("views.path=gone", "no file gone"),
        ("views.dataset=nerf-lego", "either a dataset or a path"),
        ("views.hold_out=1", r"voxels\.toml: \[views\]: all 12 views are held out"),
        ("views.hold_ot=3", "did you mean 'hold_out'"),
        ("prior.voxel-grid.name=voxel-gri", "needs one prior that represents it"),
        ("prior.voxel-grid.resolutio=3", r"\[prior\]: VoxelModel has no setting 'resolutio'"),
        ("prior.voxel-grid.weight=3", "takes no weight"),
        ("prior.voxel-grid.low=[9, 9, 9]", "in no box"),
        ("prior.voxel-grid.low=3", "is a point, three numbers"),
        ("operator.stp=3", "no such setting"),
        ("operator.stop=1e-3", None),
        ("data_term=photometri", r"\[data_term\]: .*did you mean 'photometric'"),
        ("stage=[{iterations = 2, prior = {resolutio = 3}}]", "no setting 'resolutio'"),
        ("stage=[{}]", "stage 1 has no end"),
    ],
)
def test_faults_are_named_before_anything_is_computed(
    here: Path, override: str, fault: str | None
) -> None:
    if fault is None:
        assert ran("voxels.toml", override, "stage=[{iterations = 1}]").solution is not None
        return
    with pytest.raises(InputError, match=fault):
        ran("voxels.toml", override)
    assert not Path("results/voxels/metrics.json").exists()


def test_a_box_that_no_camera_sees_is_refused(here: Path) -> None:
    with pytest.raises(InputError, match="none of the 9 cameras sees anything of the box"):
        ran(
            "voxels.toml", "prior.voxel-grid.low=[50, 50, 50]", "prior.voxel-grid.high=[51, 51, 51]"
        )


def test_what_is_missing_or_empty_is_said(here: Path) -> None:
    Path("photographs/r_5.png").unlink()
    outcome = ran("gaussians.toml", "views.hold_out=0", "stage=[{iterations = 1}]")
    assert (
        "1 of 12 photographs have no file or no camera and were skipped: ./r_5" in outcome.notes[0]
        and "no view is held out" in outcome.notes[1]
    )
    empty = ran("voxels.toml", "prior.voxel-grid.alpha=1e-6", "stage=[{iterations = 1}]")
    assert "nothing is visible in any of the views" in empty.notes[-1]


def test_the_command_says_what_was_done(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [
                "reconstruct",
                "gaussians.toml",
                "--set",
                "stage=[{iterations = 3}]",
                "--output",
                "out",
            ]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert (
        "on average over 3 held-out views" in said
        and "out/model.ply" in said
        and "iterations: 3" in said
    )
    assert (
        main(
            [
                "run",
                "gaussians.toml",
                "--set",
                "stage=[{iterations = 3}]",
                "--output",
                "out",
                "--resume",
            ]
        )
        == 0
    )
    assert "was finished already" in capsys.readouterr().out
    assert (
        main(["reconstruct", "deblur-camera"]) == 2
        and "no table [views]" in capsys.readouterr().err
    )
    assert (
        main(["run", "gaussians.toml", "--workers", "2"]) == 2
        and "takes no --items" in capsys.readouterr().err
    )
    assert (
        main(["run", "gaussians.toml", "voxels.toml"]) == 2
        and "run it by itself" in capsys.readouterr().err
    )


def test_the_scene_is_shown_while_it_is_found_and_at_the_end(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from invtoolbox.plotting import SceneServer

    versions = []
    monkeypatch.setattr(SceneServer, "wait", lambda server: versions.append(server.version))
    short = ["--set", "stage=[{iterations = 3}]", "--output", "out"]
    assert main(["reconstruct", "gaussians.toml", *short, "--live", "--view"]) == 0
    assert main(["reconstruct", "gaussians.toml", *short, "--resume", "--view"]) == 0
    assert versions[0] >= 2 and versions[1] == 1
    assert "the scene is shown at http://127.0.0.1:" in capsys.readouterr().out


def test_a_mesh_of_gaussians_is_refused_without_open3d_before_anything_is_computed(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    assert main(["reconstruct", "gaussians.toml", "--mesh", "--output", "out"]) == 2
    assert "[3d]" in capsys.readouterr().err and not Path("out/model.ply").exists()


def test_a_folder_of_photographs_is_a_scene(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = ["--set", "views.largest_side=12", "--set", "stage=[{iterations = 2}]"]
    assert main(["reconstruct", "photographs", "--set", "prior.count=50", *some]) == 0
    assert (
        "on average over 1 held-out views" in capsys.readouterr().out
        and Path("results/photographs/model.ply").exists()
    )
    assert (
        main(
            [
                "reconstruct",
                "photographs",
                "--model",
                "voxel-grid",
                "--set",
                "prior.voxel-grid.resolution=8",
                *some,
                "-o",
                "v",
            ]
        )
        == 0
    )
    assert (
        "12 x 12 pixels" in Path("v/report.html").read_text()
        and Path("v/model.safetensors").exists()
    )
    capsys.readouterr()
    assert (
        main(["reconstruct", "photographs", "--model", "voxels"]) == 2
        and "did you mean 'voxel-grid'" in capsys.readouterr().err
    )
    assert (
        main(["reconstruct", "voxels.toml", "--model", "gaussians"]) == 2
        and "leave --model out" in capsys.readouterr().err
    )
    Path("empty").mkdir()
    assert main(["reconstruct", "empty"]) == 2 and "empty holds no" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("photographs", "--model", "voxel-grid", "--mesh"),
        ("photographs", "--set", "prior.count=50"),
        ("scenes/points.toml", "--preset", "few"),
    ],
)
def test_a_saved_scene_gives_the_model_of_its_command(here: Path, words: tuple[str, ...]) -> None:
    Path("scenes").mkdir()
    points = "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\n"
    points += "property float z\nend_header\n0 0 0\n0.5 0 0\n"
    Path("scenes/points.ply").write_text(points)
    scene = Path("gaussians.toml").read_text().replace("count = 150", 'points = "points.ply"')
    preset = '[presets.few]\n"prior.most" = 60\n'
    Path("scenes/points.toml").write_text(scene + preset)
    some = ["--set", "views.largest_side=12", "--set", "stage=[{iterations = 2}]", "--quiet"]
    if "voxel-grid" in words:  # few and dense, so that there is a surface
        some += ["--set", "prior.voxel-grid.resolution=8", "--set", "prior.voxel-grid.alpha=0.9"]
    command = ["reconstruct", *words, *some, "--save-scene", "saved.toml", "--output"]
    assert main([*command, "first"]) == 0
    assert main(["run", "saved.toml", "--output", "second", "--quiet"]) == 0
    files = [*Path("first").glob("model.*"), *Path("first").glob("held-out/*.png")]
    files += Path("first").glob("mesh.obj")
    assert len(files) >= 2 + ("--mesh" in words)
    for file in files:
        again = Path("second", *file.parts[1:])
        if file.suffix == ".safetensors":  # its header has no order
            one, two = load_file(file), load_file(again)
            assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
        else:
            assert file.read_bytes() == again.read_bytes(), file
    assert main([*command, "first", "--resume", "--overwrite"]) == 2
    assert main(["reconstruct", "saved.toml", "--output", "second", "--resume", "--quiet"]) == 0


def test_a_run_stopped_by_ctrl_c_says_how_to_go_on(here: Path) -> None:
    """A real signal to a real process."""
    options = ["--set", "stage=[{iterations = 100000}]", "--set", "evaluation.every=0.2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "invtoolbox", "reconstruct", "gaussians.toml", *options],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 300  # on a busy machine the start takes its time
    while (
        not Path("results/gaussians/stages.json").exists()
        and time.monotonic() < deadline
        and process.poll() is None
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (
        process.returncode == 130 and "--resume goes on from it" in error and error.count("\n") == 1
    )
    spent = json.loads(Path("results/gaussians/stages.json").read_text())["seconds"]
    assert spent > 0.2 and Path("results/gaussians/checkpoint-0.safetensors").exists()
    outcome = ran(
        "gaussians.toml", "stage=[{iterations = 100000}]", "solver.time_limit=0.1", resume=True
    )
    assert outcome.solution is not None and outcome.solution.seconds >= spent


@pytest.mark.data
@pytest.mark.parametrize(
    ("scene", "changes", "least"),
    [
        (
            "lego-voxels",
            {
                "views.scale": 0.125,
                "stage": [{"iterations": 30, "prior": {"resolution": 12}}, {"iterations": 30}],
                "prior.voxel-grid.resolution": 24,
                "solver.subset_size": 2048,
                "solver.time_limit": 600,
            },
            16.0,
        ),
        (
            "lego-gaussians",
            {
                "views.scale": 0.125,
                "stage": [{"iterations": 120}],
                "prior.count": 500,
                "prior.most": 800,
                "prior.length": 120,
                "solver.time_limit": 600,
            },
            13.0,
        ),
        (
            "lego-8-views",
            {
                "views.scale": 0.125,
                "stage": [{"iterations": 30, "prior": {"resolution": 12}}, {"iterations": 30}],
                "prior.voxel-grid.resolution": 24,
                "solver.time_limit": 600,
            },
            14.0,
        ),
    ],
)
def test_the_scenes_of_lego_in_short(
    scene: str,
    changes: dict,
    least: float,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("INVTOOLBOX_DATA", str(data_dir))
    read = read_view_scene(scene)
    assert len(read.photographs().train) == (
        8 if scene == "lego-8-views" else 90
    ) and read.stages()[-1].iterations in (None, 8000)
    outcome = it.run(scene, {"preset": "short", **changes}, tmp_path / "out", progress=False)
    assert isinstance(outcome, ViewOutcome) and len(outcome.names) == 10
    assert outcome.mean("psnr") > least  # white alone has 10.5 dB


def test_write_photographs_says_what_cameras_see(tmp_path: Path) -> None:
    """The pictures of these tests are not empty."""
    found = it.datasets.open_views(write_photographs(tmp_path))
    assert 0.02 < float(found.alpha.mean()) < 0.5
