"""Pictures, pages and views of scene flow: directions, colors, what is shown and what is refused."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from invtoolbox.errors import InputError, MissingDependency
from invtoolbox.metrics import evaluate
from invtoolbox.metrics.flow_evaluation import pool
from invtoolbox.plotting import (
    SweepPicture,
    SweepResult,
    SweepView,
    birds_eye,
    birds_eye_figure,
    view_flow,
    write_flow_report,
)
from invtoolbox.plotting.birds_eye import birds_eye_pixels, flow_colors, full_speed_of
from tests.metrics.test_scene_flow import labelled
from tests.plotting.test_report import Page, assert_self_contained


def luminance(colors: np.ndarray) -> np.ndarray:
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def test_every_direction_has_its_color_and_is_as_light_as_any_other() -> None:
    angles = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    colors = flow_colors(np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1), 1.0)
    assert colors.min() >= 0 and colors.max() <= 1
    assert np.ptp(luminance(colors)) < 0.12
    apart = np.linalg.norm(colors[:, None] - colors[None], axis=-1)[~np.eye(36, dtype=bool)]
    assert apart.min() > 0.02
    assert np.linalg.norm(colors[0] - colors[18]) > 0.5  # ahead and back
    grey = flow_colors(np.zeros((1, 3)), 1.0)[0]
    assert np.ptp(grey) < 0.01
    faster = [
        np.ptp(flow_colors(np.array([[v, 0.0, 0.0]]), 1.0)) for v in (0.0, 0.3, 0.6, 1.0, 5.0)
    ]
    assert faster == sorted(faster) and faster[-1] == faster[-2]


def test_the_full_speed_is_round() -> None:
    assert full_speed_of(np.array([])) == 0.2 and full_speed_of(np.array([0.01, np.nan])) == 0.2
    assert full_speed_of(np.array([9.0])) == 10.0 and full_speed_of(np.array([1.05])) == 1.2


def test_ahead_is_up_and_left_is_left() -> None:
    points = torch.tensor(
        [[40.0, 0.0, 0.0], [0.0, 40.0, 0.0], [0.0, -40.0, 0.0], [float("nan"), 0.0, 0.0]]
    )
    flow = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    pixels = birds_eye_pixels(points, flow, radius=50).astype(float) / 255
    ahead = flow_colors(flow[:1].numpy().astype(float), 1.0)[0]
    assert np.abs(pixels[90, 450] - ahead).max() < 0.02
    rest = pixels.mean(-1)
    for column in (90, 810):
        assert (
            rest[449:452, column - 1 : column + 2].max()
            > 0.25
            > 0.1
            > rest[435:440, column - 1 : column + 2].max()
        )
    assert pixels.shape == (900, 900, 3)


def test_what_moves_lies_on_top_and_the_png_is_one() -> None:
    points = torch.zeros(1001, 3)
    points[:, 0] = 20
    flow = torch.zeros(1001, 3)
    flow[500, 1] = 1.0
    pixels = birds_eye_pixels(points, flow).astype(float) / 255
    assert np.abs(pixels[270, 450] - flow_colors(np.array([[0.0, 1.0]]), 1.0)[0]).max() < 0.02
    with Image.open(io.BytesIO(birds_eye(points, flow, title="A sweep"))) as picture:
        assert picture.format == "PNG" and picture.size == (900, 934)
    assert birds_eye(points, flow) == birds_eye(points, flow)
    assert Image.open(io.BytesIO(birds_eye(torch.zeros(0, 3)))).size == (900, 900)


def test_pictures_leave_pyplot_alone() -> None:
    sys.modules.pop("matplotlib.pyplot", None)
    birds_eye_figure(torch.rand(5, 3))
    assert "matplotlib.pyplot" not in sys.modules


def test_pictures_of_what_does_not_belong_together_are_refused() -> None:
    with pytest.raises(InputError, match=r"expected \(N, 3\)"):
        birds_eye(torch.zeros(3, 2))
    with pytest.raises(InputError, match="one vector for each"):
        birds_eye(torch.zeros(3, 3), torch.zeros(2, 3))
    with pytest.raises(InputError, match="one for each of 3 points"):
        birds_eye(torch.zeros(3, 3), torch.zeros(3, 3), torch.zeros(3))
    with pytest.raises(InputError, match="radius"):
        birds_eye(torch.zeros(3, 3), radius=0)


def results() -> list[SweepResult]:
    sweep, E, _ = labelled()
    assert sweep.labels is not None
    errors = [evaluate(sweep.labels.flow + d, sweep, E) for d in (0.1, 0.2)]
    return [
        SweepResult("000000", 0.5, errors[0], 200, 1.0),
        SweepResult("000001", 1.5, errors[1], 210, 1.1),
        SweepResult("<b>2", failed="2.bin: truncated, 10 of 20 bytes & more"),
    ]


def test_a_page_of_a_sequence(tmp_path: Path) -> None:
    sweep, _, residual = labelled()
    taken = []

    def pictures() -> Iterator[SweepPicture]:
        for name in ("000000", "000001"):
            taken.append(name)
            yield SweepPicture(
                name, sweep.points, residual, None, residual if name == "000000" else None
            )

    page = Page(
        write_flow_report(
            tmp_path / "flow.html",
            "A <street>",
            results(),
            pictures(),
            {"method": "toy"},
        )
    )
    assert_self_contained(page)
    assert taken == ["000000", "000001"] and len(page.sources) == 3 + 1
    for words in (
        "A &lt;street&gt;",
        "&lt;b&gt;2",
        "10 of 20 bytes &amp; more",
        "3 sweeps, 1 failed, 1.00 s per sweep",
        "1 of 3",
        "Pedestrian",
        "over points",
        "over frames",
        ">0.1732<",
        ">sweep<",
        "all, every point alike",
        "toy",
        "Wheeled vru",
    ):
        assert words in page.text, words
    relative = pool([r.errors for r in results() if r.errors is not None]).bucketed.mean().dynamic
    assert f"Error of {relative:.2f} relative to the speed." in page.text
    assert ('class="verdict good"' in page.text) == (relative < 1)
    assert page.text.count("<polyline") >= 4 and "iteration" not in page.text
    with pytest.raises(InputError, match=r"flow\.html"):
        write_flow_report(tmp_path / "flow.html", "Again", results(), overwrite=False)


def test_a_page_without_labels_and_without_success(tmp_path: Path) -> None:
    failed = [SweepResult(name, failed="no points") for name in "01"]
    page = Page(write_flow_report(tmp_path / "a.html", "None", failed))
    assert (
        "Errors" not in page.text and "2 of 2" in page.text and "Over the sequence" not in page.text
    )
    many = [SweepResult(str(k), 0.1, results()[0].errors) for k in range(45)]
    text = Page(write_flow_report(tmp_path / "b.html", "Many", many)).text
    assert "The first 40 of 45 sweeps are listed" in text


class Rerun:
    """Records what is sent to the viewer."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.ViewCoordinates = SimpleNamespace(RIGHT_HAND_Z_UP="z up")

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            self.calls.append((name, args, named))
            return name, args, named

        return call

    def logged(self, path: str) -> list[Any]:
        return [args[1] for name, args, _ in self.calls if name == "log" and args[0] == path]


def test_a_sequence_is_sent_to_rerun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    viewer = Rerun()
    monkeypatch.setitem(sys.modules, "rerun", viewer)
    points = torch.rand(10_000, 3)
    points[0] = torch.nan
    flow = torch.zeros(10_000, 3)
    flow[:8000, 0] = 1.0
    sent = view_flow(
        [SweepView("a", points, flow, pose=torch.eye(4)), SweepView("b", points)],
        save=tmp_path / "x.rrd",
    )
    assert (
        sent == 2
        and [c[0] for c in viewer.calls[:2]] == ["init", "save"]
        and viewer.calls[0][2] == {}
    )
    moving, none = viewer.logged("world/sensor/moving")
    assert moving[1][0].shape == (7999, 3) and none[1][0].shape == (0, 3)
    assert moving[2]["colors"].dtype == np.uint8
    assert [len(p[1][0]) for p in viewer.logged("world/sensor/standing")] == [2000, 9999]
    arrows = viewer.logged("world/sensor/flow")[0][2]
    assert len(arrows["origins"]) == len(arrows["vectors"]) <= 3000
    assert len(viewer.logged("world/sensor")) == 1
    assert [
        c[2]["sequence"] for c in viewer.calls if c[0] == "set_time" and "sequence" in c[2]
    ] == [0, 1]
    with pytest.raises(InputError, match=r"ends in \.rrd"):
        view_flow([], save=tmp_path / "x.html")


def test_a_window_that_does_not_open_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "rerun", Rerun())
    monkeypatch.setattr("sysconfig.get_path", lambda kind: str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        with pytest.raises(InputError, match="install rerun-sdk again"):
            view_flow([])
    (tmp_path / "rerun").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "rerun").chmod(0o755)
    with pytest.raises(InputError, match="does not open"):
        view_flow([])


def test_without_rerun_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(MissingDependency, match=r"Rerun is not installed; .*\[view\]"):
        view_flow([])
