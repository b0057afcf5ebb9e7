"""Scene files of events: a recording or a simulation, the flow of a slice of it, its pictures.

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

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from invtoolbox.catalogue.documents import CheckedScene, FilePath, Table
from invtoolbox.datasets import read_events, read_intrinsics
from invtoolbox.geometry.lens import Lens
from invtoolbox.jobs.command import SceneCommand
from invtoolbox.jobs.events.event_flow import MOST, EventFlow, event_flow
from invtoolbox.jobs.kind import (
    Compared,
    Inputs,
    Kind,
    SceneTables,
    arrays_of,
    write_figure,
    write_solution,
)
from invtoolbox.plotting.birds_eye import flow_colors
from invtoolbox.plotting.canvas import new_figure
from invtoolbox.simulation.events import simulate_events


class EventsTable(Table):
    """Slice of a recording, or simulated events."""

    path: FilePath | None = Field(None, description="the recording")
    reader: str | None = Field(
        None, description="reader of the file, in place of the automatic choice"
    )
    start: float | None = Field(
        None, description="seconds after the first event at which the slice begins; 0 by default"
    )
    duration: float | None = Field(
        None, gt=0, description="length of the slice in seconds; by default, the motion gives it"
    )
    count: int = Field(
        MOST,
        ge=2,
        description="largest number of events; the slice ends earlier if its motion is clear",
    )
    simulated: bool = Field(False, description="simulate events in place of a recording")
    seed: int = Field(0, description="seed of the simulation")
    whole: bool = Field(False, description="round the places of simulated events to whole pixels")

    @model_validator(mode="after")
    def _one_source(self) -> EventsTable:
        if (self.path is not None) == self.simulated:
            raise ValueError("give either a path or simulated = true")
        return self


class CameraTable(Table):
    """Intrinsics of the camera, in pixels, and the distortion of its lens."""

    intrinsics: list[list[float]] | None = Field(None, description="matrix, three rows")
    path: FilePath | None = Field(
        None,
        description="file with the matrix of the intrinsics, three lines of three numbers, in pixels, "
        "with the centre of the first pixel at (0, 0)",
    )
    radial: list[float] = Field(
        [], description="coefficients k1, k2, ... of the distortion of the lens"
    )
    tangential: tuple[float, float] = Field(
        (0.0, 0.0), description="coefficients p1 and p2 of the distortion"
    )

    @model_validator(mode="after")
    def _one_matrix(self) -> CameraTable:
        if (self.intrinsics is None) == (self.path is None):
            raise ValueError("give either intrinsics or the path of a file with the matrix")
        return self


class FlowTable(Table):
    """Settings of `it.event_flow`."""

    controls: tuple[int, int, int] = Field(
        (4, 5, 5), description="number of control points of the flow in time, rows and columns"
    )
    smooth: tuple[float, float] = Field(
        (0.1, 1e-4),
        description="weights of second differences of the control points in time and in place",
    )
    epipolar: float = Field(
        0.05, ge=0, description="weight of the squared distances from the epipolar lines"
    )
    iterations: int = Field(200, ge=3, description="number of iterations")


class EventScene(SceneTables):
    """Scene file of events."""

    events: EventsTable
    camera: CameraTable | None = None
    flow: FlowTable = Field(default_factory=FlowTable)

    @model_validator(mode="after")
    def _camera_of_a_recording(self) -> EventScene:
        if self.events.simulated and self.camera is not None:
            raise ValueError("simulated events come with their camera; leave [camera] out")
        return self


def _read(file: CheckedScene[EventScene]) -> Inputs:
    """Return the events without distortion, the intrinsics, and the truth of a simulation."""
    table, camera = file.scene.events, file.scene.camera
    if table.simulated:
        truth = simulate_events(table.seed, min(table.count, 12_000), whole=table.whole)
        return {"events": truth.events, "intrinsics": truth.intrinsics, "truth": truth}
    path = file.locate(str(table.path))
    events = read_events(path, table.reader, table.start, table.duration, table.count)
    if camera is None:
        return {"events": events, "intrinsics": None, "truth": None}
    if camera.path is None:
        K = torch.tensor(camera.intrinsics, dtype=torch.float64)
    else:
        K = read_intrinsics(file.locate(camera.path)).double()
    lens = Lens(radial=tuple(camera.radial), tangential=camera.tangential)
    if lens.distorts:
        events = events.undistort(K, lens)
    return {"events": events, "intrinsics": K, "truth": None}


def _compute(file: CheckedScene[EventScene], inputs: Inputs, progress: bool) -> EventFlow:
    settings = file.scene.flow.model_dump()
    return event_flow(inputs["events"], inputs["intrinsics"], progress=progress, **settings)


def _measure(flow: EventFlow, inputs: Inputs) -> dict[str, float]:
    """Return gain of contrast and median speed, and the errors of a simulation.

    "error" is the error of the flow over the flow, "direction" the angle of the velocity.
    """
    truth = inputs["truth"]
    metrics = {
        "gain": float(flow.gain[0]),
        "speed": float(flow.flow[0].norm(dim=-1).median()),
    }
    if truth is not None:
        error = (flow.at_events() - truth.flow).norm(dim=1).mean()
        metrics["error"] = float(error / truth.flow.norm(dim=1).mean())
        v = flow.twist[0, flow.twist.shape[1] // 2, :3].double()
        cosine = v @ truth.twist[:3] / truth.twist[:3].norm()
        metrics["direction"] = float(torch.rad2deg(torch.arccos(cosine.clamp(-1, 1))))
    return metrics


def _compare(file: CheckedScene[EventScene], flow: EventFlow, inputs: Inputs) -> Compared:
    """Return how the flow compares with events that stay where they are, the simple answer."""
    measures = _measure(flow, inputs)
    words = f"{measures['gain']:.3g} times the contrast of events that stay where they are."
    is_good = measures["gain"] > 1
    if "error" in measures:
        words = (
            f"Error {100 * measures['error']:.3g} % of the flow, 100 % if nothing moves; {words}"
        )
        is_good = is_good and measures["error"] < 1
    return Compared({}, "", words=words, is_good=is_good)


def _describe(flow: EventFlow) -> tuple[str]:
    """Return the motion of the camera in words."""
    twist = flow.twist[0]
    v, w = twist[len(twist) // 2, :3].tolist(), twist.mean(0)[3:].tolist()
    direction = f"({', '.join(f'{c:.2f}' for c in v)})" if any(v) else "unknown"
    rotation = ", ".join(f"{c:.2f}" for c in w)
    return (f"camera: direction {direction}, rotation ({rotation}) radians per second",)


def _arrays(flow: EventFlow, inputs: Inputs) -> dict[str, Any]:
    """Return flow, twist and the times of the twist of the first item."""
    twist = flow.twist[0]
    times = np.linspace(0.0, flow.durations[0], len(twist))
    return {"flow": flow.flow[0], "twist": twist, "twist_times": times}


def _write_picture(path: Path, flow: EventFlow, inputs: Inputs) -> None:
    """Write still and warped events and the flow of the first item as PNG."""
    still, warped = flow.pictures()
    write_figure(path, event_figure(still[0], warped[0], flow.flow[0]))


COMMAND = SceneCommand(
    description="Estimate the flow of the picture and the motion of the camera from a slice of a "
    "recording of an event camera:\nAEDAT4, Prophesee DAT and RAW (EVT2, EVT3), HDF5 of DSEC, MVSEC "
    "or Prophesee, a ROS bag, .npz, or text with lines t x y polarity.\nThe slice ends where its "
    "motion is clear.",
    positional={"FILE": "events.path"},
    options={
        "--camera": "camera.path",
        "--radial": "camera.radial",
        "--tangential": "camera.tangential",
        "--start": "events.start",
        "--duration": "events.duration",
        "--count": "events.count",
        "--reader": "events.reader",
        "--iterations": "flow.iterations",
    },
    examples=(
        "events recording.aedat4 --camera K.txt --start 1.5 --output flow.npz flow.png",
        "events drive.h5 --camera K.txt --radial -0.09 0.05 --duration 0.02",
    ),
    outputs=("{stem}_flow.npz", "{stem}_flow.png"),
)

KIND = Kind(
    EventScene,
    "events",
    _read,
    _compute,
    _measure,
    {
        "npz": ("flow.npz", arrays_of(_arrays)),
        "png": ("flow.png", _write_picture),
        "h5": ("solution.h5", write_solution),
    },
    usual=("npz", "png", "h5"),
    units={"gain": "-fold contrast", "speed": "pixels per second", "direction": "degrees"},
    compare=_compare,
    describe=_describe,
    command=COMMAND,
)


def event_figure(still: Tensor, warped: Tensor, flow: Tensor, every: int | None = None) -> Any:
    """Draw still events, events that their flow carries to one time, and the flow.

    The result is a ``matplotlib.figure.Figure``. Both pictures have one scale, so that the sharper
    one is darker. The hue of the flow is its direction, and grey stands for no motion.

    Args:
        still: number of events at every pixel, ``(rows, columns)``.
        warped: picture of the warped events, ``(rows, columns)``.
        flow: flow in pixels per second, ``(rows, columns, 2)``, columns first.
        every: pixels between two arrows; by default 16 arrows along the shorter side.
    """
    figure = new_figure((12, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    pictures = [picture.detach().cpu().numpy() for picture in (still, warped)]
    top = max(float(np.quantile(picture[picture > 0], 0.99)) for picture in pictures)
    for axis, picture, name in zip(axes, pictures, ("events", "events along their flow")):
        axis.imshow(picture, cmap="gray_r", vmin=0, vmax=top)
        axis.set_title(name)
    field = flow.detach().cpu().numpy().astype(float)
    speed = np.linalg.norm(field, axis=2)
    full = max(float(np.quantile(speed, 0.95)), 1e-9)
    axes[2].imshow(flow_colors(np.concatenate([field, 0 * field[..., :1]], 2), full))
    step = every or max(1, min(field.shape[:2]) // 16)
    row, column = (np.arange(step // 2, side, step) for side in field.shape[:2])
    arrows = field[step // 2 :: step, step // 2 :: step].transpose(2, 0, 1)
    if arrows.any():  # the scale of arrows without length is undefined
        axes[2].quiver(column, row, *arrows, angles="xy", color="black", width=0.003)
    axes[2].set_title(f"flow, median {np.median(speed):.3g} pixels per second")
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    return figure
