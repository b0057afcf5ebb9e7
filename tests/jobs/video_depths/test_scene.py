"""Scenes of the depths of a video: from files, simulated, resumed, and their faults."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import invtoolbox as it
from invtoolbox.cli import main
from invtoolbox.datasets.output import write_png
from invtoolbox.datasets.views.transforms import write_transforms
from invtoolbox.errors import InputError
from tests.jobs.video_depths.test_align import SCALE, SHIFT, maps_of, scene


def test_maps_of_a_folder_are_aligned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cameras, truth = scene((32, 40))
    names = tuple(f"view{k}.png" for k in range(4))
    write_transforms(tmp_path / "transforms.json", replace(cameras, names=names))
    Path("maps").mkdir()
    for name, depth in zip(names, maps_of(truth, 0.0)):
        write_png(name, torch.zeros(32, 40))
        twice = depth.repeat_interleave(2, 0).repeat_interleave(2, 1)  # before shrink
        np.save(f"maps/{Path(name).stem}.npy", twice)
    Path("own.toml").write_text(
        '[video]\npath = "transforms.json"\nmaps = "maps"\n[alignment]\nconsistency = 0\n'
    )
    assert main(["run", "own.toml", "--output", "out"]) == 0
    assert "noise" in capsys.readouterr().out
    with np.load("out/depths.npz") as found:
        assert float(np.abs(found["scale"] / SCALE.numpy() - 1).max()) < 0.02
        assert float(np.abs(found["shift"] - SHIFT.numpy()).max()) < 0.05
        assert found["depths"].shape == (4, 32, 40) and tuple(found["names"]) == names
    again: Any = it.run("own.toml", {}, "out", resume=True, progress=False)
    assert again.result is None
    assert again.metrics == json.loads(Path("out/metrics.json").read_text())
    for changes, message in (
        ({"video.simulate": {"noise": 0.1}}, "either maps"),
        ({"video.maps": "none"}, "none"),
        ({"video.maps": "."}, "view0.png: a picture of 8 bits, and a depth map"),
        ({"video.names": ["view1.png"]}, "view"),
    ):
        with pytest.raises(InputError, match=message):
            it.run("own.toml", changes, "no", progress=False)
    Path("maps/view0.npy").unlink()
    Image.fromarray((1000 * truth[0]).round().numpy().astype(np.uint16)).save("maps/view0.png")
    known = it.datasets.read_depth("maps/view0.png")
    assert torch.allclose(known, (1000 * truth[0]).round().float())  # millimetres
    np.save("maps/view0.npy", np.ones((70, 80)))
    with pytest.raises(InputError, match="before or after shrink"):
        it.run("own.toml", {}, "no", progress=False)
    text = Path("own.toml").read_text().replace('maps = "maps"', "simulate = {}")
    Path("simulated.toml").write_text(text)
    with pytest.raises(InputError, match="RGB-D"):
        it.run("simulated.toml", {}, "no", progress=False)


@pytest.mark.slow
@pytest.mark.data
def test_the_scene_of_a_living_room_runs(tmp_path: Path, data_dir: Path) -> None:
    changes = {
        "video.names": ["00000.jpg", "00009.jpg", "00018.jpg"],
        "video.shrink": 8,
        "video.simulate.noise": 0.0,
        "alignment.consistency": 0,
    }
    found: Any = it.run("depths-livingroom", changes, tmp_path, progress=False)
    assert found.metrics["scale error"] < 0.1 and found.metrics["shift error"] < 0.1
