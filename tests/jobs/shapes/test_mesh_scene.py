"""Scenes of meshes: handles and sparse vertices, what is written, and what is wrong with a scene."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.cli import main
from invtoolbox.datasets.models.meshes import read_mesh, write_mesh
from invtoolbox.errors import InputError
from invtoolbox.geometry import Mesh
from invtoolbox.jobs.kind import SceneOutcome


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A strip of triangles that bends, its handles, and two scenes."""
    x, y = torch.meshgrid(torch.arange(12.0), torch.arange(4.0), indexing="ij")
    flat = torch.stack([x.flatten(), y.flatten(), 0 * x.flatten()], 1).double()
    i = (torch.arange(11)[:, None] * 4 + torch.arange(3)).flatten()[:, None]
    faces = torch.cat([i + torch.tensor([0, 4, 1]), i + torch.tensor([1, 4, 5])])
    write_mesh(tmp_path / "strip.obj", Mesh(flat, faces))
    angle = flat[:, 0] / 8
    bent = torch.stack([8 * angle.sin(), flat[:, 1], 8 - 8 * angle.cos()], 1)
    np.savez(
        tmp_path / "strip.npz", vertices=torch.stack([flat, bent]).numpy(), faces=faces.numpy()
    )
    np.save(
        tmp_path / "groups.npy",
        torch.where(flat[:, 0] < 1, 0, torch.where(flat[:, 0] > 10, 1, -1)).numpy(),
    )
    (tmp_path / "held.toml").write_text(
        '[mesh]\npath = "strip.obj"\n[handles]\npath = "groups.npy"\n[[handles.move]]\ngroup = 1\n'
        "turn = [0.0, -60.0, 0.0]\nshift = [-2.0, 0.0, 4.0]\n"
    )
    (tmp_path / "seen.toml").write_text(
        '[mesh]\npath = "strip.npz"\n[observed]\nframe = 1\nshare = 0.3\nrelative_noise = 0.001\n'
        '[prior]\nname = "arap"\nweight = 1e3\n[output]\nformats = ["obj", "html"]\n'
    )
    return tmp_path


def test_handles_hold_and_the_mesh_is_written(folder: Path) -> None:
    outcome: Any = it.run(folder / "held.toml", output=folder / "out", progress=False)
    assert isinstance(outcome, SceneOutcome) and outcome.solution.status == ("converged",)
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "mesh.ply",
        "mesh.png",
        "metrics.json",
        "report.html",
        "scene.json",
        "solution.h5",
    ]
    rest, moved = read_mesh(folder / "strip.obj"), read_mesh(folder / "out" / "mesh.ply")
    assert torch.equal(moved.faces, rest.faces)
    held = rest.vertices[:, 0] < 1
    assert torch.allclose(moved.vertices[held], rest.vertices[held], atol=1e-5)
    end = rest.vertices[:, 0] > 10
    shift = moved.vertices[end].mean(0) - rest.vertices[end].mean(0)
    assert torch.allclose(shift, torch.tensor([-2.0, 0.0, 4.0], dtype=torch.float64), atol=1e-5)
    with pytest.raises(InputError, match="holds results already"):
        it.run(folder / "held.toml", output=folder / "out", progress=False)
    before = (folder / "out" / "mesh.ply").read_bytes()
    again = it.run(folder / "held.toml", output=folder / "out", resume=True, progress=False)
    assert again.files == () and torch.equal(again.solution.x, outcome.solution.x)
    it.run(folder / "held.toml", output=folder / "out", overwrite=True, progress=False)
    assert (folder / "out" / "mesh.ply").read_bytes() == before


def test_sparse_vertices_are_followed_from_the_command_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(folder / "seen.toml"), "--output", str(folder / "out"), "--quiet"]) == 0
    metrics = json.loads((folder / "out" / "metrics.json").read_text())
    assert metrics["unseen"] < 0.1 * metrics["at_rest"]
    page = (folder / "out" / "report.html").read_text()
    assert f"{metrics['unseen']:.3g} % of the diagonal from the truth" in page
    assert f"{metrics['at_rest']:.3g} % at rest" in page and "verdict good" in page
    assert (folder / "out" / "mesh.obj").is_file() and not (folder / "out" / "mesh.png").exists()
    assert main(["run", str(folder / "seen.toml"), "--output", str(folder / "out")]) == 2
    assert (
        main(
            [
                "run",
                str(folder / "seen.toml"),
                "--output",
                str(folder / "two"),
                "--set",
                "prior.graph=uniform",
            ]
        )
        == 0
    )
    assert "unseen" in capsys.readouterr().out


def test_what_is_wrong_with_a_scene_is_said(folder: Path) -> None:
    scene = folder / "held.toml"
    with pytest.raises(InputError, match="names group 7, and there are 0, 1"):
        it.run(scene, {"handles.move.0.group": 7}, folder / "out", progress=False)
    with pytest.raises(InputError, match="either \\[handles\\].* or \\[observed\\]"):
        it.run(scene, {"observed.frame": 1}, folder / "out", progress=False)
    with pytest.raises(InputError, match="no frame 9"):
        it.run(folder / "seen.toml", {"observed.frame": 9}, folder / "out", progress=False)
    with pytest.raises(InputError, match="weights"):
        it.run(folder / "seen.toml", {"prior.graph": "gaussian"}, folder / "out", progress=False)
    with pytest.raises(InputError, match="run it by itself"):
        it.run([scene, folder / "seen.toml"])
    assert not (folder / "out").exists()


@pytest.mark.data
@pytest.mark.parametrize("name", ["knight-arap", "horse-sparse"])
def test_the_scenes_of_the_catalogue_run(name: str, tmp_path: Path, data_dir: Path) -> None:
    outcome = it.run(
        name,
        {"output.formats": ["obj"], "solver.max_iterations": 40},
        tmp_path / "out",
        progress=False,
    )
    assert outcome.metrics["moved"] > 1 and (tmp_path / "out" / "mesh.obj").is_file()
    if name == "horse-sparse":
        assert outcome.metrics["unseen"] < 0.25 * outcome.metrics["at_rest"]
