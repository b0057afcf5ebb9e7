"""Interactive viewer of scene flow: sweeps with arrows in Rerun, an optional package."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.environment import optional_package
from invtoolbox.errors import InputError
from invtoolbox.geometry.sweeps import MOVES
from invtoolbox.plotting.birds_eye import flow_colors

#: Largest number of arrows per sweep; more arrows hide each other.
ARROWS = 3000
#: Address at which the window listens, and the number of seconds that it has to open.
_LOCAL, _PATIENCE = "127.0.0.1", 20.0
_GREY = np.array([110, 116, 122], dtype=np.uint8)


@dataclass(frozen=True, eq=False)
class SweepView:
    """Sweep of N points to be shown.

    Attributes:
        name: name of the sweep.
        points: points in the sensor's frame, metres, ``(N, 3)``.
        residual: flow without the motion of the sensor, metres per sweep, ``(N, 3)``; None for the
            last sweep of a sequence.
        dynamic: which points move, boolean ``(N,)``; by default points faster than 0.05 m per
            sweep.
        pose: the sensor's frame in the world, ``(4, 4)``; None to show the sweep in the sensor's
            frame.
        timestamp: time, seconds.
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
    """Show sweeps in Rerun.

    Static points are grey; moving points have the colors of `birds_eye` and arrows.

    Args:
        sweeps: sweeps in the order of time; each is sent before the next is read, so a generator
            keeps one in memory.
        save: a file ``.rrd``, which Rerun opens later (also on another machine), in place of a
            window.
        title: title of the recording.
        full_speed: speed with the most saturated color, metres per sweep.

    Returns:
        The number of sweeps.

    Raises:
        MissingDependency: Rerun is not installed; the error names the extra that installs it.
    """
    rr = rerun_module()
    _start(rr, title, save)
    rr.log("world", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
    count = 0
    for sweep in sweeps:
        _send(rr, sweep, count, full_speed)
        count += 1
    return count


def _start(rr: Any, title: str, save: str | os.PathLike[str] | None) -> None:
    """Begin a recording, in a file or in a window."""
    if save is not None and Path(save).suffix != ".rrd":
        raise InputError(f"{save}: a recording of Rerun ends in .rrd")
    rr.init(f"invtoolbox: {title}")
    if save is not None:
        rr.save(str(Path(save).expanduser()))
        return
    # `rerun.spawn` would listen on all addresses of this machine.
    with socket.create_server((_LOCAL, 0)) as free:
        port = free.getsockname()[1]
    words = [_program(), "--bind", _LOCAL, "--port", str(port)]
    window = subprocess.Popen(words, start_new_session=True)
    end = time.monotonic() + _PATIENCE
    while window.poll() is None and time.monotonic() < end:
        with suppress(OSError), socket.create_connection((_LOCAL, port), 1):
            rr.connect_grpc(f"rerun+http://{_LOCAL}:{port}/proxy")
            return
        time.sleep(0.1)
    raise InputError("the window of Rerun does not open; write a file instead, with save=")


def _program() -> str:
    """Return the path of the window's program, which an environment may have outside of PATH."""
    folders = [sysconfig.get_path("scripts"), os.environ.get("PATH", "")]
    program = shutil.which("rerun", path=os.pathsep.join(folders))
    if program is None:
        raise InputError("the program rerun is not installed; install rerun-sdk again")
    return program


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
            f"{sweep.name}: the flow has shape {flow.shape} for {len(points)} points; expected one "
            "vector for each"
        )
    drawn, has_flow = np.isfinite(points).all(1), np.isfinite(flow).all(1)
    fast = np.linalg.norm(np.where(has_flow[:, None], flow, 0), axis=1) >= MOVES
    moves = drawn & has_flow & (fast if sweep.dynamic is None else sweep.dynamic.cpu().numpy())
    colors = (255 * flow_colors(flow[moves], full_speed)).round().astype(np.uint8)
    rr.log("world/sensor/standing", rr.Points3D(points[drawn & ~moves], colors=_GREY, radii=0.03))
    rr.log("world/sensor/moving", rr.Points3D(points[moves], colors=colors, radii=0.05))
    # Every k-th arrow, so that two calls show the same arrows.
    some = slice(None, None, max(1, -(-int(moves.sum()) // ARROWS)))
    rr.log(
        "world/sensor/flow",
        rr.Arrows3D(origins=points[moves][some], vectors=flow[moves][some], colors=colors[some]),
    )
    rr.log("name", rr.TextLog(sweep.name))


def rerun_module() -> Any:
    """Return the package of Rerun; a `MissingDependency` if it is not installed."""
    return optional_package("rerun", "the viewer Rerun is not installed;", "view")
