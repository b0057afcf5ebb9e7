"""Flow and camera motion from events: exact simulations, batches, scenes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import invtoolbox as it
from invtoolbox.cli import main
from invtoolbox.errors import InputError
from invtoolbox.geometry import Events
from invtoolbox.geometry.epipolar import epipolar_residual
from invtoolbox.jobs.kind import SceneOutcome
from invtoolbox.simulation import simulate_events


def error(found: it.jobs.events.event_flow.EventFlow, truth: Any, item: int = 0) -> float:
    wrong = (found.at_events(item) - truth.flow).norm(dim=1).mean()
    return float(wrong / truth.flow.norm(dim=1).mean())


def test_the_flow_and_the_camera_of_a_simulation_are_found() -> None:
    truth = simulate_events(11, count=4000, points=80, size=(40, 44))
    found = it.event_flow(truth.events, truth.intrinsics, iterations=60)
    assert error(found, truth) < 0.12
    assert found.flow.shape == (1, 40, 44, 2) and found.status == ("limit",)
    dense = (found.flow[0] - truth.picture_flow).norm(dim=-1).mean()
    assert float(dense / truth.picture_flow.norm(dim=-1).mean()) < 0.15
    v = found.twist[0, 2, :3].double()
    assert float(v @ truth.twist[:3] / truth.twist[:3].norm()) > 0.9
    assert float(found.gain[0]) > 1.5
    still, warped = found.pictures()
    assert still.shape == (1, 40, 44) and float(warped.var()) > 1.5 * float(still.var())


def test_simulated_events_fulfil_the_epipolar_constraint() -> None:
    truth = simulate_events(5, count=1000)
    flow = truth.flow / truth.intrinsics[0, 0]
    residual = epipolar_residual(truth.rays, 0.05 * flow, 0.05 * truth.twist)
    assert float(residual.abs().max()) < 1e-8
    again = simulate_events(5, count=1000)
    assert torch.equal(again.events.places, truth.events.places)
    whole = simulate_events(5, count=1000, whole=True).events.places
    assert torch.equal(whole, whole.round())


def test_an_item_of_a_batch_has_the_flow_that_it_has_alone() -> None:
    pair = [simulate_events(k, count=n, points=40, size=(24, 28)) for k, n in ((1, 500), (2, 400))]
    K = pair[0].intrinsics
    both = it.event_flow([one.events for one in pair], K, iterations=8)
    for k, one in enumerate(pair):
        alone = it.event_flow(one.events, K, iterations=8)
        assert torch.equal(both.flow[k], alone.flow[0])
        assert torch.equal(both.twist[k], alone.twist[0])
        assert both.at_events(k).shape == (len(one.events), 2)


def test_a_camera_that_only_turns_has_no_velocity() -> None:
    generator = torch.Generator().manual_seed(0)
    which = torch.randint(40, (900,), generator=generator)
    at = torch.rand(900, generator=generator).double().sort()[0]
    start = 28 * torch.rand(40, 2, generator=generator)
    # About the axis by 0.2 radians within 0.1 s, seen from the middle of the time.
    turn = 0.2 * (at - 0.5)
    x, y = (start[which] - 13.5).double().unbind(1)
    moved = torch.stack([turn.cos() * x - turn.sin() * y, turn.sin() * x + turn.cos() * y], 1)
    events = Events.of(*(moved + 15.5).unbind(1), 0.1 * at, size=(32, 32))
    K = np.array([[30.0, 0, 15.5], [0, 30, 15.5], [0, 0, 1]])
    found = it.event_flow(events, K, iterations=80)
    assert not bool(found.twist[0, :, :3].any()) and "rotation explains" in found.notes[0]
    expected = torch.tensor([0.0, 0.0, -2.0])  # the picture turns against the camera
    assert torch.allclose(found.twist[0, 0, 3:], expected, atol=0.3)


def test_bad_input_is_one_sentence() -> None:
    truth = simulate_events(0, count=300)
    K = truth.intrinsics
    for words, arguments in {
        "no camera": (truth.events, None),
        "at least 200": (truth.events[:199], K),
        "at least one slice": ([], K),
        "read_events reads a file": (torch.zeros(300, 4), K),
        "does not fit": (truth.events, K * torch.tensor([[3.0], [3.0], [1.0]])),
        "one sensor": ([truth.events, simulate_events(0, 300, size=(32, 32)).events], K),
    }.items():
        with pytest.raises(InputError, match=words) as caught:
            it.event_flow(*arguments)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


def test_a_scene_and_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = {"flow.iterations": 6, "events.count": 600}
    outcome: Any = it.run("events-simulated", small, output="out", progress=False)
    assert isinstance(outcome, SceneOutcome) and {"error", "direction"} <= set(outcome.metrics)
    names = {path.name for path in Path("out").iterdir()}
    assert names == {
        "flow.npz",
        "flow.png",
        "metrics.json",
        "report.html",
        "scene.json",
        "solution.h5",
    }
    error, gain = outcome.metrics["error"], outcome.metrics["gain"]
    page = Path("out/report.html").read_text()
    assert f"Error {100 * error:.3g} % of the flow, 100 % if nothing moves;" in page
    assert f"{gain:.3g} times the contrast of events that stay where they are" in page
    assert ("verdict good" in page) == (gain > 1 and error < 1)
    again: Any = it.run("events-simulated", small, output="out", resume=True, progress=False)
    assert again.files == () and again.metrics == outcome.metrics
    # The same events as a recording, with a lens to take out.
    truth = simulate_events(0, count=600)
    it.datasets.write_events("recording.npz", truth.events)
    np.savetxt("K.txt", truth.intrinsics.numpy())
    words = ["events", "recording.npz", "--camera", "K.txt", "--iterations", "6"]
    assert main([*words, "--radial", "0.01", "--output", "flow.npz"]) == 0
    assert "radians per second" in capsys.readouterr().out
    with np.load("flow.npz") as file:
        assert file["flow"].shape == (64, 64, 2) and file["twist"].shape == (5, 6)
    assert main([*words, "--output", "flow.npz"]) == 2
    assert main(["events", "recording.npz"]) == 2
    said = capsys.readouterr().err
    assert "flow.npz exists" in said and "no camera" in said
    Path("own.toml").write_text(
        '[events]\npath = "recording.npz"\n[camera]\npath = "K.txt"\n'
        '[flow]\niterations = 3\n[output]\nformats = ["npz"]\n'
    )
    assert main(["run", "own.toml", "-q"]) == 0
    Path("own.toml").write_text("[events]\nseed = 1\n")
    with pytest.raises(InputError, match="either a path or simulated"):
        it.run("own.toml", progress=False)
