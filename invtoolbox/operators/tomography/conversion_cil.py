"""Conversion of scans from and to geometries of the Core Imaging Library (CIL), by attributes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from invtoolbox.errors import InputError, MissingDependency
from invtoolbox.operators.base import LinearOperator
from invtoolbox.operators.tomography.cone_beam import ConeBeam, VectorScan
from invtoolbox.operators.tomography.conversion_poses import (
    Grid,
    plain_scan,
    refuse_items,
    scan_of,
    scan_of_2d,
)
from invtoolbox.operators.tomography.fan_beam import FanBeam
from invtoolbox.operators.tomography.parallel_beam import ParallelBeam, ParallelBeam3D
from invtoolbox.operators.tomography.scan_2d import Scan2D
from invtoolbox.operators.tomography.scan_3d import Scan3D


def from_cil(acquisition: Any, image: Any) -> Scan2D | Scan3D:
    """Convert CIL's geometries to a scan.

    The attributes are those of versions 21 to 26. Parallel and cone beams in 2D and 3D, and
    ``Cone3D_Flex`` are supported. In 3D, volumes (vertical, horizontal_y, horizontal_x) and
    projections (angle, vertical, horizontal) have the same axes in both packages. In 2D, CIL's row
    0 lies at the lowest y, and in this package it is on top: **flip the rows of images**
    (``x.flip(-2)``); sinograms are the same. CIL turns the object, and this package the source, so
    angles have the opposite sign.

    Args:
        acquisition: an ``AcquisitionGeometry``.
        image: an ``ImageGeometry``; its centre need not be 0 in 3D.

    Raises:
        InputError: if the source of a 2D fan faces the axis at a slant, or if the beam is neither
            parallel nor a cone.
    """
    system, panel = acquisition.config.system, acquisition.config.panel
    kind = str(getattr(system, "geometry", "")).lower()
    if "parallel" not in kind and "cone" not in kind:
        raise InputError(
            "from_cil takes an AcquisitionGeometry of a parallel or cone beam, got "
            f"{type(system).__name__}"
        )
    pixels, sizes = [int(n) for n in panel.num_pixels], [float(s) for s in panel.pixel_size]
    origin = str(panel.origin)
    # The origin is the corner of the first pixel: from there, columns and rows may run backwards.
    wide = sizes[0] * (-1 if "right" in origin else 1)
    tall = sizes[1] * (-1 if "top" in origin else 1)
    if not hasattr(system.detector, "position"):
        return _from_flexible(system, image, (pixels[1], pixels[0]), wide, tall)
    parallel, angles = "parallel" in kind, acquisition.config.angles
    # CIL turns the object: the source turns the other way.
    degrees = "degree" in str(getattr(angles.angle_unit, "value", angles.angle_unit)).lower()
    turned = float(angles.initial_angle) + np.asarray(angles.angle_data, dtype=np.float64)
    turned = -(np.deg2rad(turned) if degrees else turned)
    flat = len(np.ravel(system.detector.position)) == 2
    first, detector, u, v = _align(system, parallel)
    vectors = np.concatenate(
        [_about_z(turned, vector) for vector in (first, detector, u * wide, v * tall)], 1
    )
    if flat:
        grid = Grid(
            (image.voxel_num_y, image.voxel_num_x),
            (image.voxel_size_y, image.voxel_size_x),
            (image.center_x, image.center_y),
        )
        return scan_of_2d(vectors[:, [0, 1, 3, 4, 6, 7]], grid, pixels[0], parallel)
    return scan_of(vectors, _grid(image, np.zeros(3)), (pixels[1], pixels[0]), parallel)


def to_cil(A: LinearOperator) -> tuple[Any, Any]:
    """Convert a scan to CIL's ``(AcquisitionGeometry, ImageGeometry)``; CIL must be installed.

    The scan is circular, a parallel or cone beam, 2D or 3D, or a `VectorScan` of a cone
    (``Cone3D_Flex``). In 2D the rows of images are flipped, see `from_cil`.

    Raises:
        InputError: if the scan has a pitch, tilt, curved panel or other parameter that CIL's
            systems do not have, or one that differs from view to view.
    """
    if not isinstance(
        A, ParallelBeam | FanBeam | ParallelBeam3D | ConeBeam | VectorScan
    ) or getattr(A, "curved", False):
        raise InputError(f"to_cil takes a parallel or cone beam with a flat panel, got {A}")
    if isinstance(A, VectorScan):
        return _to_flexible(A)
    p = plain_scan(A, "CIL", ("detector_shift", "axis_shift"))
    AcquisitionGeometry, ImageGeometry = _geometries()
    if isinstance(A, Scan2D):
        near, far = (float(getattr(A, name, 0.0)) for name in ("source_origin", "source_detector"))
        shift, axis = [float(p["detector_shift"]), 0.0], 0.0
        image = ImageGeometry(
            voxel_num_x=A.image_shape[1],
            voxel_num_y=A.image_shape[0],
            voxel_size_x=A.pixel_size[1],
            voxel_size_y=A.pixel_size[0],
        )
        panel, sizes, dimensions = (A.num_detectors, 1), (A.detector_spacing, A.detector_spacing), 2
    else:
        shift, axis = [float(s) for s in p["detector_shift"]], float(p.get("axis_shift", 0.0))
        near, far = float(p.get("source_origin", 0.0)), float(p.get("source_detector", 0.0))
        image = _image(A, ImageGeometry)
        panel, sizes, dimensions = A.detector_shape[::-1], A.detector_spacing[::-1], 3
    centre = [shift[0], far - near, shift[1]][:dimensions]
    turn = 0.0
    if isinstance(A, FanBeam | ConeBeam):
        make = (
            AcquisitionGeometry.create_Cone3D
            if dimensions == 3
            else AcquisitionGeometry.create_Cone2D
        )
        acquisition = make(
            [0.0, -near, 0.0][:dimensions],
            centre,
            rotation_axis_position=[axis, 0.0, 0.0][:dimensions],
        )
        # CIL counts angles from the view in which the line from the source to the panel's centre
        # runs along y.
        turn = math.atan2(shift[0], far)
    else:
        make = (
            AcquisitionGeometry.create_Parallel3D
            if dimensions == 3
            else AcquisitionGeometry.create_Parallel2D
        )
        acquisition = make([0.0, 1.0, 0.0][:dimensions], centre)
    acquisition = acquisition.set_angles(
        np.rad2deg(turn - p["angles"]), angle_unit="degree"
    ).set_panel(panel, pixel_size=sizes)
    return acquisition, image


def _from_flexible(
    system: Any, image: Any, panel: tuple[int, int], wide: float, tall: float
) -> Scan3D:
    """Convert a system with a source and a detector per view, around an arbitrary centre."""
    vectors = np.concatenate(
        [
            np.array([_three(pose.position) for pose in system.source]),
            np.array([_three(pose.position) for pose in system.detector]),
            np.array([_three(pose.direction_x) for pose in system.detector]) * wide,
            np.array([_three(pose.direction_y) for pose in system.detector]) * tall,
        ],
        1,
    )
    return scan_of(
        vectors, _grid(image, _three(system.volume_centre.position)), panel, parallel=False
    )


def _grid(image: Any, centre: Any) -> Grid:
    x, y, z = image.center_x + centre[0], image.center_y + centre[1], image.center_z + centre[2]
    return Grid(
        (image.voxel_num_z, image.voxel_num_y, image.voxel_num_x),
        (image.voxel_size_z, image.voxel_size_y, image.voxel_size_x),
        (float(x), float(y), float(z)),
    )


def _to_flexible(A: VectorScan) -> tuple[Any, Any]:
    refuse_items(A)
    vectors = A.vectors.detach().cpu().numpy()
    source, detector, u, v = np.split(vectors, 4, 1)
    wide, tall = np.linalg.norm(u, axis=1), np.linalg.norm(v, axis=1)
    if A.parallel or np.ptp(wide) > 1e-6 * wide[0] or np.ptp(tall) > 1e-6 * tall[0]:
        raise InputError(
            "poses of every view in CIL must be those of a cone beam with the same cells in every "
            f"view, which {A} is not"
        )
    AcquisitionGeometry, ImageGeometry = _geometries()
    acquisition = AcquisitionGeometry.create_Cone3D_Flex(
        source_position_set=source,
        detector_position_set=detector,
        detector_direction_x_set=u / wide[:, None],
        detector_direction_y_set=v / tall[:, None],
    )
    return acquisition.set_panel(
        A.detector_shape[::-1], pixel_size=(float(wide[0]), float(tall[0]))
    ), _image(A, ImageGeometry)


def _geometries() -> tuple[Any, Any]:
    try:
        from cil.framework import AcquisitionGeometry, ImageGeometry
    except ImportError as error:
        raise MissingDependency(
            "to_cil creates CIL's geometries; install CIL (conda install -c ccpi cil)"
        ) from error
    return AcquisitionGeometry, ImageGeometry


def _image(A: Scan3D, ImageGeometry: Any) -> Any:
    depth, rows, columns = A.volume_shape
    return ImageGeometry(
        voxel_num_x=columns,
        voxel_num_y=rows,
        voxel_num_z=depth,
        voxel_size_x=A.voxel_size[2],
        voxel_size_y=A.voxel_size[1],
        voxel_size_z=A.voxel_size[0],
    )


def _align(system: Any, parallel: bool) -> tuple[Any, Any, Any, Any]:
    """Rotate a system so that the axis is z and the rays run along y.

    This is CIL's ``align_reference_frame("cil")``, without changing the system. The axis of
    rotation passes the origin, and the line from the source to the panel's centre runs along y. The
    result is source or ray, centre of the panel, and its two directions.
    """
    axis = _three(system.rotation_axis.position)
    detector = _three(system.detector.position) - axis
    u = _three(system.detector.direction_x)
    flat = len(np.ravel(system.detector.position)) == 2
    v = np.array([0.0, 0.0, 1.0]) if flat else _three(system.detector.direction_y)
    first = _three(system.ray.direction) if parallel else _three(system.source.position) - axis
    upwards = np.array([0.0, 0.0, 1.0]) if flat else _three(system.rotation_axis.direction)
    upright = _to_z(upwards / np.linalg.norm(upwards))
    first, detector, u, v = (upright @ vector for vector in (first, detector, u, v))
    along = first if parallel else detector - first
    angle = math.atan2(along[0], along[1])
    first, detector, u, v = (
        _about_z(np.array([angle]), vector)[0] for vector in (first, detector, u, v)
    )
    return first, detector, u / np.linalg.norm(u), v / np.linalg.norm(v)


def _three(vector: Any) -> Any:
    """Extend a vector by zeros to three components."""
    values = np.ravel(np.asarray(vector, dtype=np.float64))
    return np.concatenate([values, np.zeros(3 - len(values))])


def _to_z(unit: Any) -> Any:
    """Return the shortest rotation of a unit vector to z (half a turn about x from -z)."""
    x, y, z = unit
    if z < -1 + 1e-12:
        return np.diag([1.0, -1.0, -1.0])
    # Rodrigues' formula for the axis unit x z, by 1 / (1 + cos) = (1 - cos) / sin^2.
    skew = np.array([[0.0, 0.0, -x], [0.0, 0.0, -y], [x, y, 0.0]])
    return np.eye(3) + skew + skew @ skew / (1 + z)


def _about_z(angles: Any, vector: Any) -> Any:
    """Rotate a vector anticlockwise about z by every angle, (V, 3)."""
    cos, sin = np.cos(angles), np.sin(angles)
    return np.stack(
        [cos * vector[0] - sin * vector[1], sin * vector[0] + cos * vector[1], 0 * cos + vector[2]],
        1,
    )
