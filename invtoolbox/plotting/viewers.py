"""Interactive viewers: scene flow in Rerun, and scenes of Gaussians or voxels in viser or Rerun.

Both packages are optional.
"""

from __future__ import annotations

import os
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.guards import check_choice
from invtoolbox.errors import InputError, MissingDependency
from invtoolbox.geometry.cameras import Cameras, upwards
from invtoolbox.geometry.gaussians import HARMONIC_0, Splats
from invtoolbox.geometry.rigid import inverse
from invtoolbox.geometry.rotations import rotation_matrices
from invtoolbox.geometry.sweeps import MOVES
from invtoolbox.geometry.voxels import Voxels
from invtoolbox.plotting.birds_eye import flow_colors
from invtoolbox.plotting.web_viewer import Shown, shown_splats, shown_voxels

#: Largest number of arrows per sweep; more arrows hide each other.
ARROWS = 3000
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
    with _programs_of_python():
        rr.init(f"invtoolbox: {title}", spawn=save is None)
    if save is not None:
        rr.save(str(Path(save).expanduser()))


@contextmanager
def _programs_of_python() -> Iterator[None]:
    """Put the folder of Python's programs on PATH: Rerun searches its window there.

    The folder is not on PATH if an environment is used without being activated.
    """
    before = os.environ.get("PATH")
    folders = [sysconfig.get_path("scripts"), *([before] if before else [])]
    os.environ["PATH"] = os.pathsep.join(folders)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PATH"]
        else:
            os.environ["PATH"] = before


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
    try:
        import rerun
    except ImportError as error:
        from invtoolbox.core.environment import how_to_get

        raise MissingDependency(
            f"the viewer Rerun is not installed; {how_to_get('view')}"
        ) from error
    return rerun


VIEWERS = ("viser", "rerun")


def view_scene(
    x: Splats | Voxels,
    cameras: Cameras | None = None,
    title: str = "scene",
    viewer: str | None = None,
    save: str | os.PathLike[str] | None = None,
    port: int = 8080,
    report: Callable[[str], None] = print,
    wait: bool = True,
) -> Any:
    """Show a scene and the cameras of its photographs.

    viser shows Gaussians in a browser, Rerun shows points of the size of the Gaussians.

    Args:
        x: a scene; of a batch, the first one. Colors are the part that does not depend on the
            direction.
        cameras: cameras of the photographs.
        title: title of the recording.
        viewer: ``"viser"`` or ``"rerun"``; by default the first one that is installed.
        save: a file ``.rrd``, which Rerun opens later, in place of a window.
        port: port of viser.
        report: function that receives a sentence with the address of the page.
        wait: serve the page until Ctrl-C; otherwise viser's server is returned.

    Raises:
        MissingDependency: neither package is installed; the error names the extra that installs
            Rerun.
        InputError: an unknown viewer.
    """
    check_choice("view_scene", (None, *VIEWERS), viewer=viewer)
    shown = shown_splats(x) if isinstance(x, Splats) else shown_voxels(x)
    if save is None and viewer != "rerun":
        try:
            import viser
        except ImportError as error:
            if viewer == "viser":
                raise MissingDependency(
                    "the viewer viser is not installed; pip install viser"
                ) from error
        else:
            return _show_in_viser(viser, shown, cameras, port, report, wait)
    _show_in_rerun(rerun_module(), shown, cameras, title, save)
    return None


def _colors(shown: Shown) -> np.ndarray:
    """Return the colors that do not depend on the direction, ``(N, 3)`` from 0 to 1."""
    constant = HARMONIC_0 * shown.harmonics[:, 0]
    return (
        (constant.sigmoid() if shown.squashed else (constant + 0.5).clamp(0, 1))
        .detach()
        .cpu()
        .numpy()
    )


def show_splats(server: Any, shown: Shown) -> None:
    """Add Gaussians to a server of viser, in place of earlier ones.

    Args:
        server: the server.
        shown: the Gaussians.
    """
    axes = rotation_matrices(shown.quats) * shown.scales[:, None]
    covariances = (axes @ axes.transpose(1, 2)).detach().cpu().numpy()
    server.scene.add_gaussian_splats(
        "/scene",
        shown.places.detach().cpu().numpy(),
        covariances,
        _colors(shown),
        shown.opacities.detach().cpu().numpy()[:, None],
    )


def _show_in_viser(
    viser: Any,
    shown: Shown,
    cameras: Cameras | None,
    port: int,
    report: Callable[[str], None],
    wait: bool,
) -> Any:
    from kornia.geometry.conversions import rotation_matrix_to_quaternion

    server = viser.ViserServer(port=port, verbose=False)
    show_splats(server, shown)
    if cameras is not None and len(cameras):
        server.scene.set_up_direction(tuple(upwards(cameras).tolist()))
        poses = inverse(cameras.world_to_camera.double()).cpu()
        height, width = cameras.size
        for k, pose in enumerate(poses):
            angle = 2 * float(np.arctan(height / 2 / float(cameras.intrinsics[k, 1, 1])))
            server.scene.add_camera_frustum(
                f"/cameras/{_name(cameras, k)}",
                fov=angle,
                aspect=width / height,
                scale=0.1,
                wxyz=rotation_matrix_to_quaternion(pose[:3, :3]).numpy(),
                position=pose[:3, 3].numpy(),
            )
    report(f"look at http://localhost:{server.get_port()}; Ctrl-C ends it")
    if not wait:
        return server
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        server.stop()
    return None


def _show_in_rerun(
    rr: Any, shown: Shown, cameras: Cameras | None, title: str, save: str | os.PathLike[str] | None
) -> None:
    _start(rr, title, save)
    solid = shown.opacities > 0.1
    colors = (255 * _colors(shown)).round().astype(np.uint8)[solid.cpu().numpy()]
    rr.log(
        "world/scene",
        rr.Points3D(
            shown.places[solid].detach().cpu().numpy(),
            colors=colors,
            radii=shown.scales[solid].mean(1).detach().cpu().numpy(),
        ),
        static=True,
    )
    if cameras is None:
        return
    poses = inverse(cameras.world_to_camera.double()).cpu()
    for k, pose in enumerate(poses):
        where = f"world/cameras/{_name(cameras, k)}"
        rr.log(
            where,
            rr.Transform3D(translation=pose[:3, 3].numpy(), mat3x3=pose[:3, :3].numpy()),
            static=True,
        )
        rr.log(
            where,
            rr.Pinhole(
                image_from_camera=cameras.intrinsics[k].cpu().numpy(),
                width=cameras.size[1],
                height=cameras.size[0],
            ),
            static=True,
        )


def _name(cameras: Cameras, k: int) -> str:
    return Path(cameras.names[k]).stem if cameras.names else str(k)
