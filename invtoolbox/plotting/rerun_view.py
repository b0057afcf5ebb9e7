"""Scene flow in the viewer Rerun, where it is installed: sweep after sweep, in the world where poses are known."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.errors import InputError, MissingDependency
from invtoolbox.plotting.flow_colours import flow_colours
from invtoolbox.scenes.sweep import MOVES

#: Arrows that are drawn of one sweep; more hide each other.
ARROWS = 3000
_GREY = np.array([110, 116, 122], dtype=np.uint8)


@dataclass(frozen=True, eq=False)
class SweepView:
    """One sweep to look at, N points.

    Attributes:
        name: of the sweep.
        points: ``(N, 3)``, metres, in the sensor's frame.
        residual: their flow without the sensor's own motion, ``(N, 3)``, metres a sweep; None for the last sweep of a sequence.
        dynamic: boolean ``(N,)``, which points move; by default those faster than 0.05 m a sweep.
        pose: the sensor's frame in the world, ``(4, 4)``; None shows every sweep in the sensor's own frame.
        timestamp: seconds.
    """

    name: str
    points: Tensor
    residual: Tensor | None = None
    dynamic: Tensor | None = None
    pose: Tensor | None = None
    timestamp: float = 0.0


def view_flow(
    sweeps: Iterable[SweepView],
    save: str | os.PathLike[str] | None = None,
    title: str = "scene flow",
    full_speed: float = 1.5,
) -> int:
    """Show sweeps in Rerun: points in grey, what moves in the colours of `birds_eye` and with arrows.

    Args:
        sweeps: in the order of time; each is sent and forgotten, so that a generator keeps one in memory.
        save: a file ``.rrd`` that Rerun opens later (also on another machine), in place of a window now.
        title: of the recording.
        full_speed: the speed of the fullest colour, metres a sweep.

    Returns:
        How many sweeps were sent.

    Raises:
        MissingDependency: Rerun is not installed; names the extra that brings it.
    """
    rr = rerun_module()
    if save is not None and Path(save).suffix != ".rrd":
        raise InputError(f"{save}: a recording of Rerun ends in .rrd")
    rr.init(f"invtoolbox: {title}", spawn=save is None)
    if save is not None:
        rr.save(str(Path(save).expanduser()))
    rr.log("world", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
    count = 0
    for sweep in sweeps:
        _send(rr, sweep, count, full_speed)
        count += 1
    return count


def _send(rr: Any, sweep: SweepView, index: int, full_speed: float) -> None:
    rr.set_time("sweep", sequence=index)
    rr.set_time("time", duration=float(sweep.timestamp))
    if sweep.pose is not None:
        pose = sweep.pose.detach().cpu().to(torch.float64).numpy()
        rr.log("world/sensor", rr.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]))
    points = sweep.points.detach().cpu().to(torch.float32).numpy()
    flow = (
        np.zeros_like(points)
        if sweep.residual is None
        else sweep.residual.detach().cpu().to(torch.float32).numpy()
    )
    if flow.shape != points.shape:
        raise InputError(
            f"{sweep.name}: the flow has shape {flow.shape} for {len(points)} points; expected one vector for each"
        )
    shown, known = np.isfinite(points).all(1), np.isfinite(flow).all(1)
    fast = np.linalg.norm(np.where(known[:, None], flow, 0), axis=1) >= MOVES
    moves = shown & known & (fast if sweep.dynamic is None else sweep.dynamic.cpu().numpy())
    still, colours = (
        points[shown & ~moves],
        (255 * flow_colours(flow[moves], full_speed)).round().astype(np.uint8),
    )
    rr.log("world/sensor/standing", rr.Points3D(still, colors=_GREY, radii=0.03))
    rr.log("world/sensor/moving", rr.Points3D(points[moves], colors=colours, radii=0.05))
    # Every k-th, so that a call twice shows the same arrows.
    some = slice(None, None, max(1, -(-int(moves.sum()) // ARROWS)))
    rr.log(
        "world/sensor/flow",
        rr.Arrows3D(origins=points[moves][some], vectors=flow[moves][some], colors=colours[some]),
    )
    rr.log("name", rr.TextLog(sweep.name))


def rerun_module() -> Any:
    """The package, where it is installed."""
    try:
        import rerun
    except ImportError as error:
        from invtoolbox.environment import how_to_get

        raise MissingDependency(
            f"the viewer Rerun is not installed; {how_to_get('view')}"
        ) from error
    return rerun
