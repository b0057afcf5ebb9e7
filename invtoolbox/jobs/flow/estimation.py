"""Scene flow of a pair of sweeps, for every point of the first sweep."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.pytrees import tree_map
from invtoolbox.datasets.sweeps.flow_files import residual_flow
from invtoolbox.errors import InputError, naming_arguments
from invtoolbox.geometry.meshes import is_cloud, points_of
from invtoolbox.geometry.rigid import check_motion, inverse, transform
from invtoolbox.geometry.sweeps import MOVES, Sweep
from invtoolbox.jobs.flow.clusters import Cloud
from invtoolbox.jobs.flow.methods import Method, Pair, method_named, uses_window
from invtoolbox.jobs.flow.preparation import Preparation, PreparedPair, prepare_pair
from invtoolbox.jobs.flow.window import Neighbour, place, prepare_neighbours


@dataclass(frozen=True, eq=False)
class FlowEstimate:
    """Flow of the N points of a sweep, with intermediate results.

    Attributes:
        flow: displacement of every point, float32 ``(N, 3)`` in metres: its position at the next
            sweep, in the frame of that sweep, minus its position now. The motion of the sensor is
            included; NaN in rows that are not measurements.
        ego_motion: E, float64 ``(4, 4)``: static points move by ``E p - p``.
        dynamic: points that move in the world by at least `geometry.sweeps.MOVES`, bool ``(N,)``.
        ground: points on the ground, bool ``(N,)``.
        instance: number of the rigid body of every point, int64 ``(N,)``; -1 for none.
        valid: rows that are measurements, bool ``(N,)``.
        method: name of the method.
        seconds: seconds of the whole computation, including the preparation.
        notes: choices that were made, with reasons.
    """

    flow: Tensor
    ego_motion: Tensor
    dynamic: Tensor
    ground: Tensor
    instance: Tensor
    valid: Tensor
    method: str
    seconds: float
    notes: tuple[str, ...]

    def residual(self, points: Tensor) -> Tensor:
        """Return the flow without the motion of the sensor, ``flow - (E p - p)``.

        Args:
            points: points of the sweep, ``(N, 3)``.
        """
        return residual_flow(self.flow, points, self.ego_motion)


def estimate(
    source: Sweep,
    target: Sweep,
    method: str | Method = "default",
    preparation: Preparation | None = None,
    seed: int = 0,
    guess: Tensor | None = None,
    device: torch.device | str | None = None,
    window: Sequence[Sweep] = (),
) -> FlowEstimate:
    """Estimate the flow of every point of a sweep, with intermediate results.

    Args:
        source: first sweep.
        target: second sweep.
        method: name of `motion.methods.METHODS`, or a callable ``method(pair, seed) -> Motion``.
        preparation: settings of ego motion, deskewing, ground and crops.
        seed: seed of methods that draw random numbers.
        guess: ego motion of the previous pair, the initial guess of a registration.
        device: device of the method. The preparation and the result are always on the CPU, which is
            also the default of the method.
        window: further sweeps before and after the pair, with timestamps, for methods that use
            them (`methods.uses_window`). A sweep that cannot be used is left out, with a note.

    Raises:
        InputError: if a sweep is empty or holds no measurement, or the two do not overlap; the
            sentence names the sweep. If a window is given and the pair has no timestamps.
    """
    start = time.monotonic()
    estimator = method_named(method) if isinstance(method, str) else method
    _check_window(window)
    # A method without a window does not pay for the preparation of further sweeps.
    source, target, *further = (
        tree_map(lambda tensor: tensor.cpu(), sweep)
        for sweep in (source, target, *(window if uses_window(estimator) else ()))
    )
    pair = prepare_pair(source, target, preparation, guess)
    settings = replace(preparation or Preparation(), vehicle=pair.vehicle)
    neighbours, notes = prepare_neighbours(pair, source, target, further, settings)
    pair = replace(pair, notes=pair.notes + notes)
    estimated = estimate_prepared(pair, neighbours, estimator, seed, device)
    name = method if isinstance(method, str) else estimated.method
    return replace(estimated, method=name, seconds=time.monotonic() - start)


def estimate_prepared(
    pair: PreparedPair,
    neighbours: Sequence[Neighbour],
    estimator: Method,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> FlowEstimate:
    """Estimate the flow of every point of the first sweep of a prepared pair.

    Args:
        pair: the pair.
        neighbours: further sweeps in the frame of the pair, in the order of time.
        estimator: the method.
        seed: see `estimate`.
        device: see `estimate`.
    """
    start = time.monotonic()
    # The caller's graph is not extended: fits inside a method enable derivatives themselves.
    with torch.no_grad():
        motion = estimator(_pair(pair, neighbours, device), seed)
    # The n prepared points are rows of the N points of the sweep: ground and far points are static
    # and belong to no body.
    residual, instance = motion.flow.cpu(), torch.full((len(pair.valid),), -1, dtype=torch.long)
    instance[pair.index] = motion.instance.cpu()
    # The residual decides, because the flow of points at rest is the motion of the sensor.
    dynamic = torch.zeros(len(pair.valid), dtype=torch.bool)
    dynamic[pair.index] = residual.norm(dim=1) >= MOVES
    return FlowEstimate(
        flow=pair.flow(residual),
        ego_motion=pair.given_ego_motion,
        dynamic=dynamic,
        ground=pair.ground,
        instance=instance,
        valid=pair.valid,
        method=repr(estimator),
        seconds=time.monotonic() - start,
        notes=pair.notes,
    )


@overload
def scene_flow(
    source: np.ndarray,
    target: Sweep | Tensor | np.ndarray,
    method: str | Method = "default",
    *,
    window: Sequence[Sweep] = (),
    ego_motion: str | Tensor | np.ndarray = "auto",
    ground: str = "auto",
    max_range: float | None = None,
    sensor_origin: Sequence[float] | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> np.ndarray: ...


@overload
def scene_flow(
    source: Sweep | Tensor,
    target: Sweep | Tensor | np.ndarray,
    method: str | Method = "default",
    *,
    window: Sequence[Sweep] = (),
    ego_motion: str | Tensor | np.ndarray = "auto",
    ground: str = "auto",
    max_range: float | None = None,
    sensor_origin: Sequence[float] | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Tensor: ...


@naming_arguments
def scene_flow(
    source: Sweep | Tensor | np.ndarray,
    target: Sweep | Tensor | np.ndarray,
    method: str | Method = "default",
    *,
    window: Sequence[Sweep] = (),
    ego_motion: str | Tensor | np.ndarray = "auto",
    ground: str = "auto",
    max_range: float | None = None,
    sensor_origin: Sequence[float] | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Tensor | np.ndarray:
    """Estimate the flow of every point of a lidar sweep to the next sweep.

    Args:
        source: first sweep: points ``(N, 3)``, a tensor or an array, in metres, x forward, y left,
            z up, in the frame of the sensor; or a `Sweep`, which may also hold a pose and times; or
            a cloud or a mesh of Open3D, trimesh or PyTorch3D.
        target: second sweep, ``(M, 3)`` points in the frame of its own sensor pose, of any of these
            types.
        method: ``"default"``, or a published method; see ``invtoolbox list methods``.
        window: further sweeps before and after the pair, in any order, with timestamps, and with
            poses if the pair has poses. The default method follows bodies through all of them, so
            it finds smaller and slower bodies than in a pair.
        ego_motion: ``"auto"`` (from the poses of the sweeps, else by registration), ``"poses"``,
            ``"icp"``, ``"none"`` (the points are in one frame already), or the motion itself: a
            matrix ``(4, 4)`` with ``p1 = E p0`` for static points.
        ground: ``"auto"`` detects it, ``"labels"`` takes the labels of the sweeps, ``"none"`` keeps
            it as part of the scene.
        max_range: distance in metres beyond which points move with the static world; None for no
            limit.
        sensor_origin: place of the sensor in the frame of the points, x, y and z in metres, if it
            is not the origin; by default it is estimated, see `Preparation`.
        seed: seed of methods that draw random numbers.
        device: device that the method computes on.

    Returns:
        Displacement of every point, ``(N, 3)`` in metres: its position at the second sweep, in the
        frame of that sweep, minus its position in the first. The motion of the sensor is included.
        An array if the source is an array or an object of Open3D or trimesh, else a tensor on the
        device of the source; NaN in rows whose point is not finite.

    >>> import invtoolbox as it
    >>> street = it.simulation.street(sweeps=2, points=4000)
    >>> flow = it.scene_flow(street[0], street[1])
    >>> bool(it.metrics.end_point_error(flow, street[0].labels.flow) < 0.1)
    True
    """
    first, second = as_sweep(source, "source"), as_sweep(target, "target")
    if not isinstance(ego_motion, str):
        # A motion E that the caller gives is passed on as two poses, 1 and E^-1, because E =
        # pose1^-1 pose0.
        motion = check_motion(torch.as_tensor(ego_motion).cpu(), "ego_motion")
        first = replace(first, pose=torch.eye(4, dtype=torch.float64))
        second = replace(second, pose=inverse(motion))
        ego_motion = "poses"
    preparation = Preparation(
        ego_motion=ego_motion,  # type: ignore[arg-type]
        ground=ground,  # type: ignore[arg-type]
        max_range=max_range,
        sensor_origin=None if sensor_origin is None else tuple(map(float, sensor_origin)),  # type: ignore[arg-type]
    )
    flow = estimate(first, second, method, preparation, seed, device=device, window=window).flow
    return flow.numpy() if _holds_arrays(source) else flow.to(first.points.device)


def _pair(
    pair: PreparedPair, neighbours: Sequence[Neighbour], device: torch.device | str | None
) -> Pair:
    here = place(pair.first.cloud, 0.0, pair.ego_motion)
    still = torch.eye(4, dtype=torch.float64)
    there = None if pair.second is None else place(pair.second.cloud, 1.0, still)
    times = None
    if here.times is not None and (there is None or there.times is not None):
        times = (here.times, here.times[:0] if there is None else there.times)
    whole = Pair(
        source=here.points,
        target=pair.target,
        ground=transform(pair.ego_motion, pair.first.cloud.ground.double()).float(),
        times=times,  # type: ignore[arg-type]
        period=pair.period,
        ego_motion=pair.ego_motion,
        window=tuple(neighbours),
        # E moves the origin, where the sensor was at the first sweep, to its translation.
        origin=here.origin,
        scans=(here, there),
    )
    if device is None or torch.device(device).type == "cpu":
        return whole
    # The clouds go along, because surfaces in the frame of the pair would be slightly different.
    bare = replace(
        whole,
        window=tuple(map(_without_trees, neighbours)),
        scans=(_without_trees(here), None if there is None else _without_trees(there)),
    )
    return tree_map(lambda tensor: tensor.to(device), bare)


def _without_trees(neighbour: Neighbour) -> Neighbour:
    """Return a sweep without the trees and normals of its cloud, which stay on their device."""
    cloud = neighbour.cloud
    bare = None if cloud is None else Cloud(cloud.points, cloud.times, cloud.ground)
    return replace(neighbour, cloud=bare)


def _holds_arrays(source: Any) -> bool:
    """Return whether the points are an array, or an object of Open3D or trimesh."""
    if isinstance(source, (np.ndarray, Sweep)):
        return isinstance(source, np.ndarray)
    # PyTorch3D's objects hold lists of tensors.
    return is_cloud(source) and not any(hasattr(source, f"{n}_list") for n in ("points", "verts"))


def as_sweep(points: Any, what: str) -> Sweep:
    """Return points of any type as a sweep; a sweep is returned unchanged."""
    if isinstance(points, Sweep):
        return points
    if is_cloud(points):
        points = points_of(points)[0]
    if not isinstance(points, Tensor):
        points = np.asarray(points)
        # Kinds of NumPy: signed and unsigned integers, and floating-point numbers.
        if points.dtype.kind not in "iuf":
            raise InputError(
                f"{what} holds {points.dtype}; expected points (N, 3), x, y and z in metres, or a "
                "Sweep"
            )
        # A copy, because the array may have negative strides or be read-only.
        dtype = np.float64 if points.dtype == np.float64 else np.float32
        points = torch.from_numpy(np.array(points, dtype=dtype))
    cloud: Tensor = points
    if cloud.ndim != 2 or cloud.shape[1] != 3:
        hint = ""
        if cloud.ndim == 2 and 3 < cloud.shape[1] < 12:
            hint = "; if its first columns are x, y and z, pass points[:, :3]"
        elif cloud.ndim == 2 and len(cloud) == 3:
            hint = "; pass points.T"
        raise InputError(
            f"{what} has the shape {tuple(cloud.shape)}; expected points (N, 3), x, y and z in "
            f"metres, or a Sweep{hint}"
        )
    cloud = cloud.detach()
    # Coordinates in a map need double precision until the sensor's place is subtracted.
    return Sweep(cloud if cloud.dtype == torch.float64 else cloud.float(), source=f"the {what}")


def _check_window(window: Any) -> None:
    is_list = isinstance(window, (list, tuple))
    if not is_list or not all(isinstance(sweep, Sweep) for sweep in window):
        types = [type(sweep).__name__ for sweep in window] if is_list else type(window).__name__
        raise InputError(
            "a window is a list of Sweeps, whose timestamps are the times of measurement; got "
            f"{types}"
        )
