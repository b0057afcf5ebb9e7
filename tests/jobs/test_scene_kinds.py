"""Scenes of normal maps and of registrations: simulated, from files, resumed, and their faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.cli import main
from invtoolbox.datasets.output import write_png
from invtoolbox.errors import InputError
from invtoolbox.jobs.kind import SceneOutcome
from invtoolbox.simulation.beating_ring import simulate_ring
from invtoolbox.simulation.ramp import simulate_ramp


def test_a_scene_of_normals_keeps_the_cliffs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found: Any = it.run("normals-simulated", {}, "out", progress=False)
    smooth: Any = it.run("normals-simulated", {"preset": "smooth"}, "smooth", progress=False)
    assert isinstance(found, SceneOutcome) and found.metrics["error"] < 0.5
    assert smooth.metrics["error"] > 3 * found.metrics["error"]
    names = {path.name for path in Path("out").iterdir()}
    assert names == {
        "scene.json",
        "metrics.json",
        "report.html",
        "depth.npz",
        "depth.png",
        "mesh.obj",
    }
    # The report shows least squares beside the surface, with both errors.
    page, error = Path("out/report.html").read_text(), found.metrics["error"]
    plain = smooth.metrics["error"]
    assert f"Mean error {error:.3g}, and {plain:.3g} by least squares." in page
    assert "verdict good" in page and page.count('class="swipe"') == 2
    assert "least squares" not in Path("smooth/report.html").read_text()
    again: Any = it.run("normals-simulated", {}, "out", resume=True, progress=False)
    assert again.result is None and again.files == () and again.metrics == found.metrics
    # The same map from a file, with a pixel of 2 units.
    normals, depth = simulate_ramp()
    np.save("map.npy", normals.numpy())
    np.save("depth.npy", 2 * depth.numpy())
    Path("own.toml").write_text(
        '[normals]\npath = "map.npy"\ntruth = "depth.npy"\npixel_size = 2.0\n'
        '[output]\nformats = ["npz"]\n'
    )
    assert main(["run", "own.toml", "--output", "own"]) == 0
    assert "error" in capsys.readouterr().out
    own = json.loads(Path("own/metrics.json").read_text())
    assert own["error"] == pytest.approx(2 * found.metrics["error"], rel=1e-3)
    np.save("depth.npy", depth.numpy()[1:])
    for changes, message in (
        ({"normals.simulated": True}, "either a path or simulated"),
        ({"normals.intrinsics": "K.txt"}, "no pixel_size"),
        ({"normals.prior": ["depth.npy", "depth.npy"]}, "one prior per side"),
        ({"normals.mask": "no.png"}, "no.png"),
        ({}, "true depth has .69, 96. pixels"),
    ):
        with pytest.raises(InputError, match=message):
            it.run("own.toml", changes, "no", progress=False)
    np.save("depth.npy", np.full((70, 96), np.nan))
    with pytest.raises(InputError, match="no pixel has a true depth"):
        it.run("own.toml", {"integration.k": 0}, "no", progress=False)


def test_a_scene_of_two_images_finds_the_motion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found: Any = it.run("registration-simulated", {}, "out", progress=False)
    assert isinstance(found, SceneOutcome)
    assert found.metrics["error"] < 0.3 and found.metrics["folding"] == 0
    assert {path.name for path in Path("out").iterdir()} == {
        "scene.json",
        "metrics.json",
        "report.html",
        "motion.npz",
        "warped.npy",
        "transform.h5",
        "registration.png",
    }
    page = Path("out/report.html").read_text()
    before, after = (found.metrics[f"correlation {name}"] for name in ("before", "after field"))
    words = f"The correlation with the fixed image is {after:.3f}, and was {before:.3f} before."
    assert words in page and page.index('alt="Moving, after') < page.index('alt="Fixed')
    short = {"registration.max_iterations": 3, "output.formats": []}
    usual: Any = it.run("registration-simulated", short, "usual", progress=False)
    free: Any = it.run("registration-simulated", {**short, "prior": []}, "free", progress=False)
    assert not torch.equal(free.result.displacement, usual.result.displacement)
    again: Any = it.run("registration-simulated", {}, "out", resume=True, progress=False)
    assert again.result is None and again.metrics == found.metrics
    ring = simulate_ring()
    for name, image in (("before", ring.moving), ("after", ring.fixed)):
        write_png(f"{name}.png", image, (-0.2, 1.4), bit_depth=16)
    Path("own.toml").write_text(
        '[registration]\nmoving = "before.png"\nfixed = "after.png"\nspacing = 0.5\n'
        '[[prior]]\nname = "bending"\n[output]\nformats = ["npz"]\n'
    )
    assert main(["run", "own.toml", "--output", "own", "-q"]) == 0
    with np.load("own/motion.npz") as file:
        off = torch.from_numpy(file["displacement"]) / 0.5 - ring.displacement[0]
    assert float(off.norm(dim=0)[ring.inside].mean()) < 0.3
    for changes, message in (
        ({"registration.simulated": True}, "either both moving and fixed"),
        ({"registration.loss": "sum"}, "loss"),
        ({"registration.fixed": "no.png"}, "no.png"),
        ({"prior.name": "tv"}, "no usual weight|total-variation|displacement"),
    ):
        with pytest.raises(InputError, match=message):
            it.run("own.toml", changes, "no", progress=False)
    with pytest.raises(InputError, match="run it by itself"):
        it.run(["own.toml", "registration-simulated"], progress=False)


@pytest.mark.data
def test_the_scenes_with_data_run(tmp_path: Path, data_dir: Path) -> None:
    cat: Any = it.run("normals-cat", {"output.formats": []}, tmp_path / "cat", progress=False)
    assert cat.metrics["error"] < 0.1
    short = {
        "motion.film.frames": 4,
        "motion.film.unseen": [2],
        "motion.film.points": 100,
        "solver.max_iterations": 3,
        "output.formats": [],
    }
    horse: Any = it.run("bending-horse", short, tmp_path / "horse", progress=False)
    assert horse.moving.times == 3 and len(horse.metrics["unseen error"]) == 1


def test_a_run_whose_files_could_not_be_written_is_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metrics mark a finished run, so they are written after everything else."""
    changes = {"integration.max_iterations": 2, "output.formats": ["npz", "obj"]}
    with monkeypatch.context() as patch:
        full = OSError(28, "no space left")
        patch.setattr(np, "savez_compressed", lambda *_, **__: (_ for _ in ()).throw(full))
        with pytest.raises((OSError, InputError)):
            it.run("normals-simulated", changes, tmp_path / "out", progress=False)
    assert not (tmp_path / "out" / "metrics.json").exists()
    outcome: Any = it.run(
        "normals-simulated", changes, tmp_path / "out", resume=True, progress=False
    )
    assert outcome.result is not None and (tmp_path / "out" / "depth.npz").exists()
    again: Any = it.run("normals-simulated", changes, tmp_path / "out", resume=True, progress=False)
    assert again.result is None and again.metrics == outcome.metrics
