"""Conversion of clouds, meshes and cameras to the objects of Open3D: `to_open3d`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from invtoolbox.core.environment import open3d
from invtoolbox.errors import InputError
from invtoolbox.geometry.cameras import Cameras
from invtoolbox.geometry.gaussians import HARMONIC_0, Splats
from invtoolbox.geometry.meshes import Body, Mesh, points_of
from invtoolbox.geometry.sweeps import Sweep


def to_open3d(obj: Any, colors: Any = None) -> Any:
    """Convert points, a mesh, a sweep, Gaussians or cameras to an object of Open3D.

    ========================================  ======================================================
    ``obj``                                   result
    ========================================  ======================================================
    points ``(N, 3)``, a cloud of trimesh     ``PointCloud``
    `geometry.Mesh`, ``(vertices, faces)``    ``TriangleMesh``
    `Sweep`                                   ``PointCloud`` of its finite points
    `geometry.Splats` of one scene            ``PointCloud`` of the centres, with their colors
    `geometry.Cameras`                        ``PinholeCameraTrajectory``, one entry per camera
    ========================================  ======================================================

    The result belongs to ``open3d.geometry`` or ``open3d.camera``, and holds float64 copies on the
    CPU. Open3D counts pixels from the centre of the first one, so its principal point is smaller by
    0.5 than ours. Open3D needs the extra ``[3d]``.

    Args:
        obj: object to convert.
        colors: colors of the points or vertices, ``(N, 3)`` in [0, 1], or one color ``(3,)``; by
            default those of the object.

    Raises:
        InputError: if the object is none of these, or the colors do not fit.
        MissingDependency: if Open3D is not installed.
    """
    if isinstance(obj, Cameras):
        return _trajectory(obj)
    if isinstance(obj, Sweep):
        return _cloud(obj.points[obj.finite], colors)
    if isinstance(obj, Splats):
        if len(obj.means) != 1:
            raise InputError(f"to_open3d takes Splats of one scene, got {len(obj.means)}")
        return _cloud(obj.means[0], _colors(obj) if colors is None else colors)
    body = Body.of(obj)
    if body.faces is None:
        points, stored = points_of(obj)
        return _cloud(points, stored if colors is None else colors)
    mesh = Mesh.of(obj)
    o3d = open3d()
    triangles = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(_rows(mesh.vertices)),
        o3d.utility.Vector3iVector(mesh.faces.cpu().numpy().astype(np.int32)),
    )
    tints = mesh.colors if colors is None else colors
    if tints is not None:
        triangles.vertex_colors = o3d.utility.Vector3dVector(_tints(tints, len(mesh.vertices)))
    return triangles


def _cloud(points: Tensor, colors: Any) -> Any:
    o3d = open3d()
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(_rows(points)))
    if colors is not None:
        cloud.colors = o3d.utility.Vector3dVector(_tints(colors, len(points)))
    return cloud


def _trajectory(cameras: Cameras) -> Any:
    o3d = open3d()
    height, width = cameras.size
    trajectory = o3d.camera.PinholeCameraTrajectory()
    entries = []
    for K, pose in zip(_rows(cameras.intrinsics), _rows(cameras.world_to_camera)):
        entry = o3d.camera.PinholeCameraParameters()
        # The centre of the first pixel is (0.5, 0.5) here, and (0, 0) in Open3D.
        K = K - 0.5 * np.array([[0, 0, 1], [0, 0, 1], [0, 0, 0]])
        entry.intrinsic = o3d.camera.PinholeCameraIntrinsic(width, height, K)
        entry.extrinsic = pose
        entries.append(entry)
    trajectory.parameters = entries
    return trajectory


def _colors(splats: Splats) -> Tensor | None:
    """Return the colors that do not depend on the direction, if there are three channels."""
    colors = splats.colors[0]
    if colors.ndim == 3:
        # Y_00 c + 1/2, without the harmonics of higher degree.
        return (HARMONIC_0 * colors[:, 0] + 0.5).clamp(0, 1)
    return colors if colors.shape[-1] == 3 else None


def _rows(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().contiguous().numpy()


def _tints(colors: Any, count: int) -> np.ndarray:
    # One color serves all points.
    tints = _rows(torch.as_tensor(colors))
    if tints.shape not in ((3,), (count, 3)):
        raise InputError(
            f"colors for Open3D are (3,), or (N, 3) for {count} points, got {tints.shape}"
        )
    return np.broadcast_to(tints, (count, 3)).copy()
