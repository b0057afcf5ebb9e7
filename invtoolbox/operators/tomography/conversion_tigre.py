"""Conversion of scans from and to TIGRE's geometries, by attributes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from invtoolbox.errors import InputError, MissingDependency
from invtoolbox.operators.base import LinearOperator
from invtoolbox.operators.tomography.cone_beam import ConeBeam
from invtoolbox.operators.tomography.conversion_poses import Grid, plain_scan, scan_of
from invtoolbox.operators.tomography.parallel_beam import ParallelBeam3D
from invtoolbox.operators.tomography.scan_3d import Scan3D
from invtoolbox.operators.tomography.trajectories import cone_vectors


def from_tigre(geometry: Any, angles: Any) -> Scan3D:
    """Convert a TIGRE geometry (Python; the attributes of its versions 2 and 3) to a scan.

    Volumes (z, y, x) and projections (view, v, u) have the same axes in both packages. TIGRE's
    source is at positive x at angle 0, so its angles are smaller by a quarter turn.

    Args:
        geometry: object with the attributes ``DSO``, ``DSD``, ``nVoxel``, ``dVoxel``,
            ``nDetector``, ``dDetector``, and optionally ``offOrigin``, ``offDetector``,
            ``rotDetector``, ``COR`` and ``mode``.
        angles: angles in radians, (V,), or (V, 3) Euler angles z, y, z.

    >>> from types import SimpleNamespace
    >>> geometry = SimpleNamespace(DSO=100.0, DSD=150.0, nVoxel=[4, 8, 8], dVoxel=[1.0, 1.0, 1.0],
    ...                            nDetector=[8, 16], dDetector=[1.0, 1.0], mode="cone")
    >>> from_tigre(geometry, [0.0, 1.0])
    ConeBeam(4x8x8, 2 views, panel 8x16)
    """
    if not hasattr(geometry, "DSO") or hasattr(angles, "DSO"):
        raise InputError(
            "from_tigre takes a geometry and the angles in radians, in this order, got "
            f"{type(geometry).__name__} and {type(angles).__name__}"
        )
    euler = np.asarray(angles, dtype=np.float64)
    euler = np.stack([euler, 0 * euler, 0 * euler], 1) if euler.ndim == 1 else euler
    views = len(euler)
    near, far = (_per_view(geometry, name, views, 0)[:, 0] for name in ("DSO", "DSD"))
    height, across = _per_view(geometry, "offDetector", views, 2)[:, :2].T
    roll, pitch, yaw = _per_view(geometry, "rotDetector", views, 3).T
    offset = _per_view(geometry, "offOrigin", views, 3)[:, ::-1]
    axis = _per_view(geometry, "COR", views, 0)[:, 0]
    shape, cell = tuple(int(n) for n in geometry.nVoxel), tuple(float(s) for s in geometry.dVoxel)
    panel = tuple(int(n) for n in geometry.nDetector)
    spacing = tuple(float(s) for s in geometry.dDetector)
    parallel = getattr(geometry, "mode", None) == "parallel"
    turned, shift = np.stack([-pitch, yaw, roll], 1), np.stack([across, height], 1)
    # TIGRE's source is at +x at angle 0, ours at -y: a quarter turn.
    z = euler[:, 0] + math.pi / 2
    if (
        not parallel
        and not (euler[:, 1:].any() or offset.any())
        and all(np.ptp(t, axis=0).max() == 0 for t in (near, far, axis))
    ):
        return ConeBeam(
            shape,
            z,
            panel,
            source_origin=near[0],
            source_detector=far[0],
            voxel_size=cell,
            detector_spacing=spacing,
            detector_shift=_drop_repeats(shift),
            axis_shift=-axis[0],
            detector_rotation=_drop_repeats(turned),
        )
    import torch

    to = torch.from_numpy
    vectors = cone_vectors(
        to(np.full(views, math.pi / 2)),
        to(near),
        to(far),
        (spacing[0], spacing[1]),
        to(shift),
        detector_rotation=to(turned),
    ).numpy()
    poses = [
        view @ rotation for view, rotation in zip(vectors.reshape(views, 4, 3), _euler_zyz(euler))
    ]
    source, detector, u, v = np.stack(poses, 1)
    sideways = axis[:, None] * np.stack([-np.sin(euler[:, 0]), np.cos(euler[:, 0]), 0 * axis], 1)
    source, detector = source - offset + sideways, detector - offset + sideways
    if parallel:
        # The rays run along the normal of the panel before its rotation, through the centre of the
        # volume.
        source = np.stack([np.array([-1.0, 0.0, 0.0]) @ rotation for rotation in _euler_zyz(euler)])
    return scan_of(
        np.concatenate([source, detector, u, v], 1),
        Grid(shape, cell, (0.0, 0.0, 0.0)),
        (panel[0], panel[1]),
        parallel,
    )


def to_tigre(A: LinearOperator, geometry: Any = None) -> tuple[Any, Any]:
    """Convert a circular `ConeBeam` or a `ParallelBeam3D` to TIGRE's ``geometry, angles``.

    Args:
        A: the scan.
        geometry: object to fill; by default a new ``tigre.geometry()``, for which TIGRE must be
            installed.

    Raises:
        InputError: if the scan has a pitch, tilt, curved panel or shift of the source, which
            TIGRE's geometry does not have.
    """
    if not isinstance(A, ConeBeam | ParallelBeam3D) or A.curved:
        raise InputError(
            f"to_tigre takes a ConeBeam with a flat panel or a ParallelBeam3D, got {A}"
        )
    if geometry is None:
        try:
            import tigre
        except ImportError as error:
            raise MissingDependency(
                "to_tigre creates a tigre.geometry(); install TIGRE, or pass an object to fill"
            ) from error
        geometry = tigre.geometry(mode="parallel" if A.parallel else "cone")
    cone = isinstance(A, ConeBeam)
    allowed = (
        ("detector_shift", "detector_rotation", "axis_shift")
        if cone
        else ("detector_shift", "detector_rotation")
    )
    p = plain_scan(A, "TIGRE", allowed, per_view=True)
    size = float(np.linalg.norm(np.multiply(A.volume_shape, A.voxel_size)))
    geometry.mode = "cone" if cone else "parallel"
    geometry.DSO = _number(p["source_origin"]) if cone else size
    geometry.DSD = _number(p["source_detector"]) if cone else 2 * size
    geometry.nVoxel, geometry.dVoxel = np.array(A.volume_shape), np.array(A.voxel_size)
    geometry.sVoxel = geometry.nVoxel * geometry.dVoxel
    geometry.nDetector = np.array(A.detector_shape)
    geometry.dDetector = np.array(A.detector_spacing)
    geometry.sDetector = geometry.nDetector * geometry.dDetector
    geometry.offOrigin = np.zeros(3)
    geometry.offDetector = np.flip(p["detector_shift"], -1).copy()
    turned = p["detector_rotation"]
    geometry.rotDetector = np.stack([turned[..., 2], -turned[..., 0], turned[..., 1]], -1)
    geometry.COR = -_number(p["axis_shift"]) if cone else 0.0
    geometry.accuracy, geometry.filter = 0.5, None
    return geometry, p["angles"] - math.pi / 2


def _euler_zyz(euler: Any) -> Any:
    """Return the transposes of the rotations: a product of rows with them rotates the rows."""
    a, b, c = euler.T
    first, second, third = _about_z(a), np.zeros((len(euler), 3, 3)), _about_z(c)
    second[:, 0, 0] = second[:, 2, 2] = np.cos(b)
    second[:, 1, 1] = 1
    second[:, 0, 2], second[:, 2, 0] = np.sin(b), -np.sin(b)
    return np.swapaxes(first @ second @ third, 1, 2)


def _about_z(angle: Any) -> Any:
    turn = np.zeros((len(angle), 3, 3))
    turn[:, 0, 0] = turn[:, 1, 1] = np.cos(angle)
    turn[:, 1, 0], turn[:, 0, 1] = np.sin(angle), -np.sin(angle)
    turn[:, 2, 2] = 1
    return turn


def _per_view(geometry: Any, name: str, views: int, parts: int) -> Any:
    """Return an attribute as (V, parts or 1): TIGRE stores one value, or one per view."""
    value = getattr(geometry, name, None)
    array = np.asarray(0.0 if value is None else value, dtype=np.float64)
    if parts and array.ndim <= 1:
        array = np.broadcast_to(array, (max(parts, array.size),))[None]
    array = array.reshape(-1, 1) if not parts else array
    if len(array) not in (1, views):
        raise InputError(
            f"{name} of the TIGRE geometry has {len(array)} entries for {views} angles"
        )
    return np.broadcast_to(array, (views, array.shape[1])).copy()


def _drop_repeats(values: Any) -> Any:
    return values[0] if np.ptp(values, axis=0).max() == 0 else values


def _number(value: Any) -> Any:
    """Return a Python number, or an array with one number per view, as TIGRE expects."""
    return float(value) if np.ndim(value) == 0 else np.asarray(value)
