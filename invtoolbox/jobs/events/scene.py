"""Scene files of events: a recording or a simulation, and the flow of a slice of it.

The tables::

    title
    [events]      path, reader, start, duration, count: a slice of a recording;
                  or simulated = true, with seed, count and whole
    [camera]      intrinsics (three rows) or path of a file with the matrix;
                  radial, tangential: distortion that is taken out of the events
    [flow]        controls, smooth, epipolar, iterations
    [output]      folder, formats

``--set events.start=1.5`` changes a key by its dotted name, as in every scene.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from invtoolbox.catalogue.documents import CheckedScene, Table
from invtoolbox.datasets.events.opening import read_events
from invtoolbox.datasets.output import write_bytes, writing
from invtoolbox.datasets.volumes.normal_maps import read_intrinsics
from invtoolbox.geometry.events import Events
from invtoolbox.geometry.lens import Lens
from invtoolbox.jobs.events.event_flow import EventFlow, event_flow
from invtoolbox.jobs.job import Request, SceneJob, read_json, write_json
from invtoolbox.simulation.events import SimulatedEvents, simulate_events
from invtoolbox.solution import Solution


class EventsTable(Table):
    """Slice of a recording, or simulated events."""

    path: str | None = None
    reader: str | None = None
    start: float | None = None
    duration: float | None = Field(None, gt=0)
    count: int = Field(30_000, ge=2)
    simulated: bool = False
    seed: int = 0
    whole: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> EventsTable:
        if (self.path is not None) == self.simulated:
            raise ValueError("give either a path or simulated = true")
        return self


class CameraTable(Table):
    """Intrinsics of the camera, in pixels, and the distortion of its lens."""

    intrinsics: list[list[float]] | None = None
    path: str | None = None
    radial: list[float] = Field([])
    tangential: tuple[float, float] = (0.0, 0.0)

    @model_validator(mode="after")
    def _one_matrix(self) -> CameraTable:
        if (self.intrinsics is None) == (self.path is None):
            raise ValueError("give either intrinsics or the path of a file with the matrix")
        return self


class FlowTable(Table):
    """Settings of `it.event_flow`."""

    controls: tuple[int, int, int] = (4, 5, 5)
    smooth: tuple[float, float] = (0.1, 1e-4)
    epipolar: float = Field(0.05, ge=0)
    iterations: int = Field(240, ge=3)


class EventOutput(Table):
    """Folder and formats of the results; npz holds flow and twist, h5 the solution."""

    folder: str | None = None
    formats: list[Literal["npz", "png", "h5"]] = Field(["npz", "png", "h5"])


class EventScene(Table):
    """Scene file of events."""

    title: str | None = None
    events: EventsTable
    camera: CameraTable | None = None
    flow: FlowTable = Field(default_factory=FlowTable)
    output: EventOutput = Field(default_factory=EventOutput)

    @model_validator(mode="after")
    def _camera_of_a_recording(self) -> EventScene:
        if self.events.simulated and self.camera is not None:
            raise ValueError("simulated events come with their camera; leave [camera] out")
        return self


class EventSceneFile(CheckedScene[EventScene]):
    """Checked scene of events."""


@dataclass(frozen=True)
class EventOutcome:
    """Flow and camera motion of a slice of events, and the files.

    Attributes:
        solution: solution of the last stage of `it.event_flow`.
        flow: the result; None if an earlier run was finished.
        folder: folder of the results.
        metrics: "gain", the contrast of warped events relative to still ones, and "speed", the
            median speed in pixels per second; of simulated events also "error", the error of the
            flow over the flow, and "direction", the angle of the velocity in degrees.
        files: files that were written; empty if an earlier run was finished.
    """

    solution: Solution | None
    flow: EventFlow | None
    folder: Path
    metrics: dict[str, float]
    files: tuple[Path, ...]


def read_event_scene(
    scene: str | Path, overrides: Mapping[str, Any] | Iterable[str] = ()
) -> EventSceneFile:
    """Read and check a scene file of events.

    The errors are those of `invtoolbox.jobs.images.tables.read_scene`.

    >>> read_event_scene("events-simulated", {"events.seed": 3}).scene.events.seed
    3
    """
    return EventSceneFile.read(EventScene, scene, overrides)


def prepare(scene: str | Path, request: Request) -> EventJob:
    """Read and check a scene of events, and return its job."""
    return EventJob.prepare(read_event_scene(scene, request.overrides), request)


@dataclass(frozen=True)
class EventJob(SceneJob[EventScene]):
    """Run of one scene of events."""

    files: ClassVar = ("scene.json", "metrics.json", "flow.npz", "flow.png", "solution.h5")
    free: ClassVar = ("title", "output")
    file: EventSceneFile

    def run(self, progress: bool = True) -> EventOutcome:
        """Find the flow and write the results, or read those of a finished run."""
        folder, scene = self.folder, self.file.scene
        finished, measures = folder / "solution.h5", folder / "metrics.json"
        events, K, truth = _events(self.file)
        content = self.check_content(events=events, intrinsics=K)
        if self.resume and measures.exists():
            solution = Solution.load(finished) if finished.exists() else None
            return EventOutcome(solution, None, folder, read_json(measures), ())
        settings = scene.flow.model_dump()
        found = event_flow(events, K, progress=progress, **settings)
        solution, metrics = found.solution, _metrics(found, truth)
        self.start(content)
        write_json(measures, metrics)
        written = [measures]
        for kind in dict.fromkeys(scene.output.formats):
            path = finished if kind == "h5" else folder / f"flow.{kind}"
            if kind == "h5":
                solution.save(path, overwrite=True)
            elif kind == "npz":
                write_event_flow(path, found, overwrite=True)
            else:
                write_event_picture(path, found, overwrite=True)
            written.append(path)
        return EventOutcome(solution, found, folder, metrics, tuple(written))


def write_event_flow(path: Path, found: EventFlow, overwrite: bool = False) -> None:
    """Write flow, twist and the times of the twist of the first item as .npz.

    Args:
        path: path of the file.
        found: result of `it.event_flow`.
        overwrite: replace a file that exists.
    """
    twist = found.twist[0].cpu().numpy()
    times = np.linspace(0.0, found.durations[0], len(twist))
    with writing(path, overwrite) as stream:
        np.savez_compressed(
            stream, flow=found.flow[0].cpu().numpy(), twist=twist, twist_times=times
        )


def write_event_picture(path: Path, found: EventFlow, overwrite: bool = False) -> None:
    """Write the picture of still and of warped events and of the flow of the first item as PNG.

    Args:
        path: path of the file.
        found: result of `it.event_flow`.
        overwrite: replace a file that exists.
    """
    from invtoolbox.jobs.events.event_pictures import event_figure

    still, warped = found.pictures()
    buffer = io.BytesIO()
    event_figure(still[0], warped[0], found.flow[0]).savefig(buffer, format="png", dpi=110)
    write_bytes(path, buffer.getvalue(), overwrite=overwrite)


def undistort(events: Events, K: Tensor, radial: list[float], tangential: Any) -> Events:
    """Return events without the distortion of a perspective lens, or the events themselves.

    Args:
        events: events.
        K: intrinsics, ``(3, 3)``.
        radial: coefficients k1, k2, ...
        tangential: coefficients p1, p2.
    """
    lens = Lens(radial=tuple(radial), tangential=tuple(tangential))
    return events.undistort(K, lens) if lens.distorts else events


def _events(file: EventSceneFile) -> tuple[Events, Any, SimulatedEvents | None]:
    table, camera = file.scene.events, file.scene.camera
    if table.simulated:
        truth = simulate_events(table.seed, min(table.count, 12_000), whole=table.whole)
        return truth.events, truth.intrinsics, truth
    assert table.path is not None
    place = file.locate(table.path)
    events = read_events(place, table.reader, table.start, table.duration, table.count)
    if camera is None:
        return events, None, None
    K = (
        torch.tensor(camera.intrinsics, dtype=torch.float64)
        if camera.path is None
        else read_intrinsics(file.locate(camera.path)).double()
    )
    return undistort(events, K, camera.radial, camera.tangential), K, None


def _metrics(found: EventFlow, truth: SimulatedEvents | None) -> dict[str, float]:
    measures = {
        "gain": float(found.gain[0]),
        "speed": float(found.flow[0].norm(dim=-1).median()),
    }
    if truth is not None:
        wrong = (found.at_events() - truth.flow).norm(dim=1).mean()
        measures["error"] = float(wrong / truth.flow.norm(dim=1).mean())
        v = found.twist[0, found.twist.shape[1] // 2, :3].double()
        cosine = v @ truth.twist[:3] / truth.twist[:3].norm()
        measures["direction"] = float(torch.rad2deg(torch.arccos(cosine.clamp(-1, 1))))
    return measures
