"""Scenes of moving objects: a simulated bar, pictures in folders, and faults of a scene."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import invtoolbox as it
from invtoolbox.cli import main
from invtoolbox.datasets.models.gaussians import read_splats, write_splats
from invtoolbox.datasets.output import write_png
from invtoolbox.datasets.views.transforms import write_transforms
from invtoolbox.errors import InputError
from invtoolbox.geometry.rigid import rotation
from invtoolbox.jobs.shapes.moving import MovingOutcome
from invtoolbox.operators import GaussianRenderer
from invtoolbox.simulation.bending import SIZE, bar, bend, cameras_around

SHORT = {
    "motion.simulate.times": 2,
    "motion.simulate.held_out": 1,
    "solver.max_iterations": 12,
    "output.formats": [],
}


def run(folder: Path, overrides: dict[str, object] | None = None, **how: bool) -> MovingOutcome:
    outcome = it.run("bending-bar", {**SHORT, **(overrides or {})}, folder, progress=False, **how)
    assert isinstance(outcome, MovingOutcome)
    return outcome


@pytest.mark.parametrize("motion", ["bend", "s-and-twist"])
def test_the_bar_keeps_its_length_and_its_ends_are_flat(motion: str) -> None:
    x = torch.linspace(-2, 2, 401)
    line = torch.stack([x, 0 * x, 0 * x], 1)
    moved = line + bend(line, motion, 1.0)  # type: ignore[arg-type]
    assert abs(float(moved.diff(dim=0).norm(dim=1).sum()) - SIZE[0]) < 0.01
    end = torch.tensor([[2.0, 0.4, 0.4], [2.0, -0.4, 0.4], [2.0, -0.4, -0.4]])
    there = end + bend(end, motion, 0.7)  # type: ignore[arg-type]
    assert torch.allclose(torch.cdist(there, there), torch.cdist(end, end), atol=1e-5)


def test_rigidity_finds_a_motion_that_no_prior_misses(tmp_path: Path) -> None:
    changes = {"motion.simulate.motion": "bend", "motion.simulate.times": 6} | {
        "motion.simulate.held_out": 2,
        "solver.max_iterations": 20,
    }
    rigid = run(tmp_path / "rigid", changes)
    free = run(tmp_path / "free", {**changes, "preset": "none"})
    assert rigid.mean("error") < 0.5 * free.mean("error")
    assert rigid.mean("psnr") > free.mean("psnr") + 3 and rigid.held_out
    content = json.loads((tmp_path / "rigid" / "metrics.json").read_text())
    assert content["metrics"]["psnr"] == rigid.metrics["psnr"]


def test_a_resumed_run_goes_on_after_the_last_time(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", {"motion.simulate.cameras": 2})
    again = run(tmp_path / "whole", {"motion.simulate.cameras": 2}, resume=True)
    assert again.files == () and torch.equal(again.moving.displacements, whole.moving.displacements)
    # The state of a run that was stopped after the first of its times.
    state = tmp_path / "whole" / "motion.safetensors"
    first = {n: t[:, :1].contiguous() for n, t in load_file(state).items()}
    part = tmp_path / "part"
    part.mkdir()
    shutil.copy(tmp_path / "whole" / "scene.json", part)
    save_file(first, part / "motion.safetensors")
    went_on = run(part, {"motion.simulate.cameras": 2}, resume=True)
    assert went_on.metrics == whole.metrics
    with pytest.raises(InputError, match="another .*motion"):
        run(part, {"motion.simulate.cameras": 3}, resume=True)
    with pytest.raises(InputError, match="holds results already"):
        run(part)


def test_pictures_in_one_folder_per_time_are_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rest, cameras = bar((6, 2, 2)), cameras_around(3, (24, 30), -2.0, 0.4)
    write_splats(tmp_path / "rest.ply", rest)
    shift = torch.tensor([0.05, 0.1, 0.0])
    A = GaussianRenderer(cameras)
    for k in (1, 2):
        place = tmp_path / f"time-{k}"
        place.mkdir()
        names = tuple(f"camera_{c}.png" for c in range(3))
        moved = replace(rest, means=rest.means + k * shift)
        for c, name in enumerate(names):
            write_png(place / name, A(moved)[0, :, c], (0.0, 1.0))
        write_transforms(place / "transforms.json", replace(cameras, names=names))
    scene = tmp_path / "own.toml"
    scene.write_text(
        '[motion]\nrest = "rest.ply"\npictures = "time-*"\nhold_out = ["camera_2"]\n'
        "[solver]\nmax_iterations = 30\n"
    )
    assert main(["run", str(scene), "--output", str(tmp_path / "out")]) == 0
    assert "dB of held-out views, mean of 2 times" in capsys.readouterr().out
    found = read_splats(tmp_path / "out" / "models" / "time_0001.ply").means - rest.means
    assert float((found - 2 * shift).norm(dim=-1).mean()) < 0.2 * float((2 * shift).norm())
    assert (tmp_path / "out" / "motion.png").is_file()
    with pytest.raises(InputError, match="no folder matches moment-"):
        it.run(scene, {"motion.pictures": "moment-*"}, tmp_path / "no", progress=False)
    with pytest.raises(InputError, match="either both rest and pictures, or the table"):
        it.run(scene, {"motion.simulate.times": 2}, tmp_path / "no", progress=False)
    with pytest.raises(InputError, match="time-1: .*camera_7"):
        it.run(scene, {"motion.hold_out": ["camera_7"]}, tmp_path / "no", progress=False)
    assert not (tmp_path / "no").exists()


@pytest.fixture
def hinge(tmp_path: Path) -> Path:
    """Scene of a tube whose right half turns about its middle by up to 0.8 radians."""
    ring = 0.35 * torch.tensor([[0.0, 1, 0], [0, 0, 1], [0, -1, 0], [0, 0, -1]])
    along = torch.linspace(-2, 2, 25)[:, None, None] * torch.tensor([1.0, 0, 0])
    tube = (along + ring).flatten(0, 1)
    frames = []
    for angle in torch.linspace(0, 0.8, 5):
        R = rotation(torch.tensor([0.0, 0.0, 1.0]) * angle)
        frames.append(torch.where(tube[:, :1] > 0, tube @ R.T, tube))
    i = torch.arange(96)
    faces = torch.stack([i, i // 4 * 4 + (i + 1) % 4, i + 4], 1)
    np.savez(tmp_path / "hinge.npz", vertices=torch.stack(frames).numpy(), faces=faces.numpy())
    scene = tmp_path / "hinge.toml"
    scene.write_text(
        "[motion]\nbones = 2\n"
        '[motion.film]\npath = "hinge.npz"\npoints = 100\nframes = 5\nunseen = [2, 4]\n'
        "markers = 4\ncameras = 2\nheld_out = 2\nsize = [24, 30]\n"
        '[[prior]]\nname = "as-isometric-as-possible"\nneighbours = 5\nweight = 1.0\n'
        '[solver]\nname = "adam"\nlearning_rate = 2e-2\nmax_iterations = 40\n'
    )
    return scene


def test_bones_from_pictures_take_poses_that_no_camera_saw(hinge: Path, tmp_path: Path) -> None:
    outcome = it.run(hinge, {}, tmp_path / "out", progress=False)
    assert isinstance(outcome, MovingOutcome)
    assert outcome.moving.times == 3 and len(outcome.metrics["unseen psnr"]) == 2
    # At rest the error is 7 %.
    assert outcome.mean("unseen error") < 2
    lifted = outcome.moving.at_pose(outcome.moving.skeleton().pose({1: (0.0, 0.0, 0.3)}))
    assert lifted.means.shape == (1, 100, 3)
    again = it.run(hinge, {}, tmp_path / "out", resume=True, progress=False)
    assert isinstance(again, MovingOutcome) and again.files == ()
    assert torch.equal(again.moving.displacements, outcome.moving.displacements)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"motion.film.unseen": [5]}, "frame 5 cannot be unseen"),
        ({"motion.film.points": 101}, "101 points of 100 vertices"),
        ({"motion.film.frames": 6}, "has no frame 5"),
        ({"motion.bones": None}, "only bones have poses that were not seen"),
        ({"motion.nodes": 4}, "either nodes or bones"),
        ({"motion.simulate.times": 2}, "or the table"),
    ],
)
def test_faults_of_a_filmed_mesh(
    hinge: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        it.run(hinge, changes, tmp_path / "no", progress=False)
