"""Scenes of surveys: a model and a SEG-Y file, resumed, and their faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import invtoolbox as it
from invtoolbox.cli import main
from invtoolbox.jobs.kind import SceneOutcome
from invtoolbox.jobs.waves.scene import KIND
from tests.datasets import test_segy

pytest.importorskip("deepwave")

SCENE = """
[survey.simulate]
path = "model.npy"
cell = 5.0
shots = 2
receivers = 9
samples = 120
noise_std = 0.01

[inversion]
spacing = 10.0
frequency = 15.0
velocities = [1400.0, 2000.0]
time_step = 1.5e-3
start = "smooth"
smooth = 30.0
bands = [8.0, 15.0]
max_iterations = 3
"""


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    model = np.full((24, 42), 1550.0)
    model[12:, :] = 1750.0
    np.save("model.npy", model)
    Path("survey.toml").write_text(SCENE)
    return Path("survey.toml")


def test_a_model_is_found_and_a_finished_run_is_read(
    scene: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(scene), "--output", "out"]) == 0
    shown = capsys.readouterr().out
    assert "start error" in shown and "up to 15 Hz the objective fell to" in shown
    names = {"scene.json", "metrics.json", "report.html", "velocity.npy", "velocity.png"}
    names |= {"solution.h5"}
    assert {path.name for path in Path("out").iterdir()} == names
    found = json.loads(Path("out/metrics.json").read_text())
    assert found["error"] < found["start error"] and found["misfit"] < 0.3
    assert np.load("out/velocity.npy").shape == (12, 21)
    page = Path("out/report.html").read_text()
    words = f"Error {found['error']:.3g} m/s, and {found['start error']:.3g} m/s at the start."
    assert words in page and "verdict good" in page and page.count('class="swipe"') == 2
    again: Any = it.run(scene, {}, "out", resume=True, progress=False)
    assert isinstance(again, SceneOutcome) and again.files == () and again.metrics == found
    changes = {"inversion.start": [1500.0, 1800.0], "inversion.order": -1, "inversion.length": 0.2}
    line: Any = it.run(scene, {**changes, "output.formats": ["npy"]}, "line", progress=False)
    assert line.metrics["start error"] != found["start error"]


def test_records_of_a_file(scene: Path) -> None:
    test_segy.write(Path("line.sgy"), samples=80)
    text = SCENE[SCENE.index("[inversion]") :].replace("time_step = 1.5e-3\n", "")
    text = text.replace('"smooth"', "[1500.0, 1600.0]").replace("2000.0", "1800.0")
    scene.write_text('[survey]\npath = "line.sgy"\nrows = 4\n' + text)
    found: Any = it.run(scene, {}, "out", progress=False)
    assert found.solution.x.shape == (1, 1, 4, 6) and list(found.metrics) == ["misfit"]
    for changes, message in (
        ({"inversion.start": "smooth"}, "'smooth' smooths the model of a simulation"),
        ({"inversion.start": [100.0, 1600.0]}, "start has velocities from 100 to 1600 m/s"),
        ({"inversion.bands": [8.0, 5.0]}, "rising order"),
        ({"survey.path": "no.sgy"}, "no.sgy"),
    ):
        with pytest.raises(it.InputError, match=message):
            it.run(scene, changes, "no", progress=False)


def test_unequal_shots_a_table_and_a_window(scene: Path) -> None:
    """Two shots of 3 and 2 receivers, whose places a table states, and offsets up to 15 m."""
    content = test_segy.write(Path("line.sgy"), samples=80).read_bytes()
    Path("line.sgy").write_bytes(content[: -(240 + 4 * 80)])
    rows = [f"{shot},{25 * shot},{10 * k}" for shot in (0, 1) for k in range(3 - shot)]
    Path("places.csv").write_text("\n".join(["shot,source_x,receiver_x", *rows]))
    text = SCENE[SCENE.index("[inversion]") :].replace("time_step = 1.5e-3\n", "")
    text = text.replace('"smooth"', "[1500.0, 1600.0]").replace("2000.0", "1800.0")
    table = '[survey]\npath = "line.sgy"\ngeometry = "places.csv"\nrows = 4\n'
    scene.write_text(table + text + "\n[window]\noffsets = [0.0, 15.0]\n")
    inputs = KIND.read(KIND.check(scene))
    assert inputs["records"].shape == (1, 1, 2, 3, 80)
    # Offsets 0, 10, 20 m of the first shot; 25 and 15 m of the second, which has two receivers.
    assert inputs["weights"].amax(-1)[0, 0].tolist() == [[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]]
    changes = {"inversion.bands": [15.0], "inversion.max_iterations": 1}
    outcome: Any = it.run(scene, changes, "out", progress=False)
    assert outcome.solution.x.shape == (1, 1, 4, 4)
    assert any("2 to 3 receivers" in note for note in outcome.notes)
    for change, message in (
        ({"survey.rows": None, "survey.path": None}, "either a path or the table"),
        ({"window.offsets": [50.0, 60.0]}, "the window mutes every sample"),
        ({"window.arrivals": [0.1, 0.2], "window.begin": [0.0, 1500.0]}, "give either arrivals"),
        ({"window.arrivals": [-0.2, 0.1]}, "with a positive sum"),
        ({"survey.geometry": "no.csv"}, "no.csv"),
    ):
        with pytest.raises(it.InputError, match=message):
            it.run(scene, change, "no", progress=False)


def test_first_arrivals_are_a_start(scene: Path) -> None:
    changes = {
        "inversion.start": "first arrivals",
        "inversion.bands": [15.0],
        "inversion.max_iterations": 1,
        "survey.simulate.samples": 260,
        "survey.simulate.noise_std": 0.0,
        "window.arrivals": [0.05, 0.2],
        "window.taper": 0.02,
    }
    outcome: Any = it.run(scene, changes, "out", progress=False)
    assert outcome.metrics["start error"] < 150 and outcome.solution.x.shape == (1, 1, 12, 21)
    assert any("records have a pick" in note for note in outcome.notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inversion.spacing": 7.0}, "cannot have cells of 7 m"),
        ({"survey.geometry": "places.csv"}, "a geometry replaces the places of a file"),
        ({"survey.path": "line.sgy"}, "either a path or the table"),
        ({"inversion.order": -1.0}, "needs its length in seconds"),
        ({"survey.simulate.rows": [23, 24]}, "no cell is left"),
        ({"survey.simulate.rows": [0, 40]}, r"rows \[0, 40\] .* no part of a model"),
        ({"survey.simulate.columns": [-5, 10]}, r"columns \[-5, 10\] are no part"),
        ({"survey.simulate.path": "holes.npy"}, "holes.npy: the model holds NaN"),
        ({"inversion.time_step": 0.1}, "time steps of 0.1 s are unstable"),
        ({"inversion.start": "start.npy"}, r"start.npy: the start has the shape \(3,\)"),
        ({"inversion.start": "pair.npz"}, "pair.npz: the start is one array"),
    ],
)
def test_faults(scene: Path, changes: dict[str, Any], message: str) -> None:
    np.save("start.npy", np.zeros(3))
    np.save("holes.npy", np.full((24, 42), np.nan))
    np.savez("pair.npz", a=np.zeros(3), b=np.zeros(3))
    with pytest.raises(it.InputError, match=message):
        it.run(scene, changes, "no", progress=False)
