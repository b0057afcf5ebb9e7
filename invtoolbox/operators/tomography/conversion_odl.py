"""Conversion of scans from and to geometries of the Operator Discretization Library (ODL)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from invtoolbox.core.environment import optional_package
from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator
from invtoolbox.operators.tomography.cone_beam import ConeBeam
from invtoolbox.operators.tomography.conversion_poses import Grid, plain_scan, scan_of, scan_of_2d
from invtoolbox.operators.tomography.fan_beam import FanBeam
from invtoolbox.operators.tomography.parallel_beam import ParallelBeam, ParallelBeam3D
from invtoolbox.operators.tomography.scan_2d import Scan2D
from invtoolbox.operators.tomography.scan_3d import Scan3D


def from_odl(geometry: Any, space: Any) -> Scan2D | Scan3D:
    """Convert an ODL geometry (versions 0.7 to 1.0) on a uniform space to a scan.

    World coordinates and angles are the same in both packages. ODL's arrays are indexed (x, y, z),
    and its projections (angle, u, v):

    - 3D: ``volume = array.transpose(2, 1, 0)``, ``projections = array.transpose(0, 2, 1)``;
    - 2D: ``image = numpy.rot90(array)`` (columns along x, row 0 at the largest y), sinograms are
      the same.

    Args:
        geometry: ``Parallel2dGeometry``, ``FanBeamGeometry``, ``Parallel3dAxisGeometry``,
            ``ConeBeamGeometry``; with a flat detector, or a curved one around the source.
        space: the ``DiscretizedSpace`` of volumes, as returned by ``odl.uniform_discr``; it need
            not be centred.

    Raises:
        InputError: if a curved detector is not around the source, or if 2D views cannot be
            expressed by `FanBeam` and `ParallelBeam`.
    """
    if not hasattr(space, "partition") or not hasattr(geometry, "det_partition"):
        raise InputError(
            "from_odl takes a geometry and the space of the volumes, in this order, got "
            f"{type(geometry).__name__} and {type(space).__name__}"
        )
    partition = space.partition
    centre = (np.asarray(partition.min_pt) + np.asarray(partition.max_pt)) / 2
    grid = Grid(
        tuple(int(n) for n in partition.shape[::-1]),
        tuple(float(s) for s in partition.cell_sides[::-1]),
        tuple(centre),
    )
    angles, panel = geometry.angles, geometry.det_partition
    if np.ndim(angles) != 1:
        raise InputError(
            f"from_odl takes geometries with one angle per view, got {type(geometry).__name__} "
            f"with {np.shape(angles)[0]}"
        )
    cells, widths = [int(n) for n in panel.shape], [float(w) for w in panel.cell_sides]
    middle = geometry.det_params.mid_pt
    middle = float(np.ravel(middle)[0]) if len(cells) == 1 else middle
    radius = getattr(geometry.detector, "radius", None)
    if radius is not None:
        return _from_curved(geometry, grid, float(radius), cells, widths)
    # A fan has positions of the source, a parallel beam has directions to the source.
    parallel = not hasattr(geometry, "src_position")
    first = (
        -_rows(geometry.det_to_src(angles, middle))
        if parallel
        else _rows(geometry.src_position(angles))
    )
    detector = _rows(geometry.det_point_position(angles, middle))
    if len(cells) == 1:
        along = _rows(geometry.det_axis(angles)) * widths[0]
        return scan_of_2d(np.concatenate([first, detector, along], 1), grid, cells[0], parallel)
    axes = np.moveaxis(np.asarray(geometry.det_axes(angles)), -2, 0)
    vectors = np.concatenate([first, detector, axes[0] * widths[0], axes[1] * widths[1]], 1)
    return scan_of(vectors, grid, (cells[1], cells[0]), parallel)


def to_odl(A: LinearOperator) -> tuple[Any, Any]:
    """Convert a scan to ODL's ``(geometry, space)``; ODL must be installed.

    The scan is circular or helical, a parallel or cone beam, 2D or 3D. ODL's own ASTRA backend for
    a CPU ignores the shift of a parallel detector in 2D (version 1.0), although its geometry holds
    it.

    Raises:
        InputError: if angles do not grow from view to view, or if the scan has a tilt or another
            parameter that ODL's geometries do not have, or one that differs from view to view.
    """
    if not isinstance(A, ParallelBeam | FanBeam | ParallelBeam3D | ConeBeam):
        raise InputError(f"to_odl takes a parallel, fan or cone beam, got {A}")
    p = plain_scan(A, "ODL", ("detector_shift", "pitch"))
    three = isinstance(A, Scan3D)
    if len(p["angles"]) > 1 and np.diff(p["angles"]).min() <= 0:
        raise InputError(
            "the angles of an ODL geometry must grow from view to view; take "
            "A.subset(A.angles.argsort())"
        )
    need = "to_odl creates the geometries of ODL, which is not installed;"
    odl = optional_package("odl", need, "interop")
    tomo = optional_package("odl.applications.tomo", need, "interop")
    views = (
        odl.nonuniform_partition(p["angles"])
        if len(p["angles"]) > 1
        else odl.uniform_partition(p["angles"][0] - 0.5, p["angles"][0] + 0.5, 1)
    )
    curved = getattr(A, "curved", False)
    near, far = (
        float(p.get(name, getattr(A, name, 0.0))) for name in ("source_origin", "source_detector")
    )
    if isinstance(A, Scan3D):
        count, shift = A.detector_shape[::-1], np.array(p["detector_shift"])
        spacing = np.array(A.detector_spacing[::-1])
        shape, cell = A.volume_shape[::-1], np.array(A.voxel_size[::-1])
    else:
        count, shift = (A.num_detectors,), np.array([float(p["detector_shift"])])
        spacing = np.array([A.detector_spacing])
        shape, cell = A.image_shape[::-1], np.array(A.pixel_size[::-1])
    if curved:
        spacing, shift = spacing.copy(), shift.copy()
        spacing[0], shift[0] = spacing[0] / far, shift[0] / far
    reach = np.array(count) * spacing / 2
    panel = odl.uniform_partition(shift - reach, shift + reach, count)
    bounds = np.array(shape) * cell / 2
    space = odl.uniform_discr(-bounds, bounds, shape)
    if isinstance(A, ConeBeam):
        bend = {"det_curvature_radius": (far, None)} if curved else {}
        return tomo.ConeBeamGeometry(
            views, panel, near, far - near, pitch=float(p["pitch"]), **bend
        ), space
    if isinstance(A, FanBeam):
        return tomo.FanBeamGeometry(
            views, panel, near, far - near, **({"det_curvature_radius": far} if curved else {})
        ), space
    return (tomo.Parallel3dAxisGeometry if three else tomo.Parallel2dGeometry)(views, panel), space


def _from_curved(
    geometry: Any, grid: Grid, radius: float, cells: list[int], widths: list[float]
) -> Scan2D | Scan3D:
    near, far = float(geometry.src_radius), float(geometry.src_radius + geometry.det_radius)
    angles = np.asarray(geometry.angles, dtype=np.float64)
    start = np.atleast_2d(geometry.src_position(float(angles[0])))[0]
    along = np.atleast_2d(
        geometry.det_axis(float(angles[0]))
        if len(cells) == 1
        else geometry.det_axes(float(angles[0]))
    )[0]
    plain = np.allclose(along[:2], [np.cos(angles[0]), np.sin(angles[0])]) and np.allclose(
        start[:2], near * np.array([np.sin(angles[0]), -np.cos(angles[0])]), atol=1e-6 * near
    )
    if abs(radius - far) > 1e-6 * far or not plain or any(abs(c) > 1e-9 * far for c in grid.centre):
        raise InputError(
            f"a curved ODL detector must be around the source (radius {far:.6g}, not {radius:.6g}),"
            " in the standard configuration, with a centred space"
        )
    # ODL's cells of a curved detector are angles; here they are lengths of arc.
    shift = float(np.ravel(geometry.det_params.mid_pt)[0]) * far
    if len(cells) == 1:
        return FanBeam(
            grid.shape,
            angles,
            cells[0],
            source_origin=near,
            source_detector=far,
            pixel_size=grid.cell,
            detector_spacing=widths[0] * far,
            detector_shift=shift,
            curved=True,
        )
    return ConeBeam(
        grid.shape,
        torch.from_numpy(angles),
        (cells[1], cells[0]),
        source_origin=near,
        source_detector=far,
        voxel_size=grid.cell,
        detector_spacing=(widths[1], widths[0] * far),
        detector_shift=(shift, float(np.ravel(geometry.det_params.mid_pt)[1])),
        pitch=float(geometry.pitch),
        curved=True,
    )


def _rows(vectors: Any) -> Any:
    return np.atleast_2d(np.asarray(vectors, dtype=np.float64))
