"""Conversion of scans from and to ASTRA's geometries, which are plain dictionaries.

ASTRA is not imported.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from invtoolbox.errors import InputError, check_name
from invtoolbox.operators.base import LinearOperator
from invtoolbox.operators.tomography.cone_beam import ConeBeam
from invtoolbox.operators.tomography.conversion_poses import Grid, refuse_items, scan_of, scan_of_2d
from invtoolbox.operators.tomography.fan_beam import FanBeam
from invtoolbox.operators.tomography.parallel_beam import ParallelBeam, ParallelBeam3D
from invtoolbox.operators.tomography.scan_2d import Scan2D
from invtoolbox.operators.tomography.scan_3d import Scan3D

_TYPES = (
    "parallel",
    "parallel_vec",
    "fanflat",
    "fanflat_vec",
    "parallel3d",
    "parallel3d_vec",
    "cone",
    "cone_vec",
    "cyl_cone_vec",
)


def from_astra(proj_geom: dict[str, Any], vol_geom: dict[str, Any]) -> Scan2D | Scan3D:
    """Convert a pair of ASTRA geometries to a scan.

    The types are those of version 2.5 of ASTRA's documentation, all but ``sparse_matrix``. Volumes
    and images have the same axes in both packages, and so have 2D sinograms. ASTRA stores 3D
    projections as (rows, views, columns), this package as (views, rows, columns):
    ``torch.from_numpy(data).movedim(0, 1)``. A circle or helix becomes a `ConeBeam`, an upright
    panel in parallel rays a `ParallelBeam3D`, and other views become a `VectorScan`.

    Args:
        proj_geom: projection geometry, as returned by ``astra.create_proj_geom``.
        vol_geom: volume geometry, as returned by ``astra.create_vol_geom``; its window gives the
            size of the cells, and need not be centred.

    Raises:
        InputError: if the type is unknown, if the window has the wrong size, or if 2D views cannot
            be expressed by `FanBeam` and `ParallelBeam`.

    >>> window = {"WindowMinX": -2.0, "WindowMaxX": 2.0, "WindowMinY": -2.0, "WindowMaxY": 2.0}
    >>> projections = {"type": "parallel", "DetectorWidth": 1.0, "DetectorCount": 6,
    ...                "ProjectionAngles": [0.0, 1.0]}
    >>> from_astra(projections, {"GridRowCount": 4, "GridColCount": 4, "option": window})
    ParallelBeam(4x4, 2 views, 6 detectors)
    """
    if "type" not in proj_geom:
        raise InputError(
            "the first argument of from_astra is the geometry of the projections, with the key "
            f"'type', and the second that of the volume; got {', '.join(map(str, proj_geom))}"
        )
    try:
        return _convert(proj_geom, vol_geom)
    except KeyError as missing:
        keys = ", ".join(map(str, (*proj_geom, *vol_geom)))
        raise InputError(
            f"the ASTRA geometries have no key {missing}, which 'type' {proj_geom['type']!r} needs; "
            f"they have {keys}; astra.create_proj_geom and create_vol_geom write them"
        ) from None


def _convert(proj_geom: dict[str, Any], vol_geom: dict[str, Any]) -> Scan2D | Scan3D:
    kind = proj_geom["type"]
    check_name("ASTRA geometry", kind, _TYPES)
    grid = _grid(vol_geom, 2 if kind in _TYPES[:4] else 3)
    simple = not any(grid.centre)
    if kind == "parallel" and simple:
        return ParallelBeam(
            grid.shape,
            proj_geom["ProjectionAngles"],
            proj_geom["DetectorCount"],
            grid.cell,
            proj_geom["DetectorWidth"],
        )
    if kind == "fanflat" and simple:
        near = proj_geom["DistanceOriginSource"]
        return FanBeam(
            grid.shape,
            proj_geom["ProjectionAngles"],
            proj_geom["DetectorCount"],
            source_origin=near,
            source_detector=near + proj_geom["DistanceOriginDetector"],
            pixel_size=grid.cell,
            detector_spacing=proj_geom["DetectorWidth"],
        )
    if kind in _TYPES[:4]:
        return scan_of_2d(
            _vectors(proj_geom, 2),
            grid,
            int(proj_geom["DetectorCount"]),
            kind.startswith("parallel"),
        )
    panel = (int(proj_geom["DetectorRowCount"]), int(proj_geom["DetectorColCount"]))
    if kind in ("parallel3d", "cone") and simple:
        spacing = (proj_geom["DetectorSpacingY"], proj_geom["DetectorSpacingX"])
        if kind == "parallel3d":
            return ParallelBeam3D(
                grid.shape, proj_geom["ProjectionAngles"], panel, grid.cell, spacing
            )
        near = proj_geom["DistanceOriginSource"]
        return ConeBeam(
            grid.shape,
            proj_geom["ProjectionAngles"],
            panel,
            source_origin=near,
            source_detector=near + proj_geom["DistanceOriginDetector"],
            voxel_size=grid.cell,
            detector_spacing=spacing,
        )
    vectors = _vectors(proj_geom, 3)
    if kind == "cyl_cone_vec":
        reach = np.linalg.norm(vectors[:, 3:6] - vectors[:, :3], axis=1)
        if not np.allclose(reach, vectors[:, 12], rtol=1e-5):
            raise InputError(
                "the cylinder of this cyl_cone_vec is not around the source: its radius must be "
                "the distance from the source to the panel's centre"
            )
    return scan_of(
        vectors[:, :12], grid, panel, kind.startswith("parallel"), kind == "cyl_cone_vec"
    )


def to_astra(A: LinearOperator) -> tuple[dict[str, Any], dict[str, Any]]:
    """Convert a scan to ASTRA's pair ``(proj_geom, vol_geom)``.

    The dictionaries are those that ``create_proj_geom`` and ``create_vol_geom`` would return.

    Raises:
        InputError: if the scan is a curved fan beam, if its geometry differs from item to item, or
            if the operator is not a scan.

    >>> A = FanBeam((4, 4), [0.0, 1.0], 6, source_origin=10.0, source_detector=15.0)
    >>> to_astra(A)[0]["DistanceOriginDetector"]
    5.0
    """
    refuse_items(A)
    if isinstance(A, Scan2D):
        return _projections_2d(A), _window(A.image_shape, A.pixel_size)
    if isinstance(A, Scan3D):
        return _projections_3d(A), _window(A.volume_shape, A.voxel_size)
    raise InputError(f"to_astra takes a 2D or 3D scan, got {A}")


def _projections_2d(A: Scan2D) -> dict[str, Any]:
    angles = A.angles.detach().double().cpu().numpy()
    shift = A.detector_shift.detach().double().cpu().numpy() * np.ones_like(angles)
    cos, sin, width = np.cos(angles), np.sin(angles), A.detector_spacing
    simple = not shift.any()
    if isinstance(A, FanBeam):
        if A.curved:
            raise InputError(
                f"ASTRA has no curved detector in 2D; convert a volume of one slice instead of {A} "
                "(it.operators.ConeBeam)"
            )
        near, behind = A.source_origin, A.source_detector - A.source_origin
        if simple:
            return {
                "type": "fanflat",
                "DetectorWidth": width,
                "DetectorCount": A.num_detectors,
                "ProjectionAngles": angles,
                "DistanceOriginSource": near,
                "DistanceOriginDetector": behind,
            }
        first = near * np.stack([sin, -cos])
        centre = behind * np.stack([-sin, cos]) + shift * np.stack([cos, sin])
    else:
        if simple:
            return {
                "type": "parallel",
                "DetectorWidth": width,
                "DetectorCount": A.num_detectors,
                "ProjectionAngles": angles,
            }
        first, centre = np.stack([sin, -cos]), shift * np.stack([cos, sin])
    return {
        "type": "fanflat_vec" if isinstance(A, FanBeam) else "parallel_vec",
        "DetectorCount": A.num_detectors,
        "Vectors": np.concatenate([first, centre, width * np.stack([cos, sin])]).T.copy(),
    }


def _projections_3d(A: Scan3D) -> dict[str, Any]:
    rows, columns = A.detector_shape
    if isinstance(A, ConeBeam | ParallelBeam3D) and _is_plain(A):
        angles = A.angles.detach().double().cpu().numpy()
        common = {
            "DetectorSpacingX": A.detector_spacing[1],
            "DetectorSpacingY": A.detector_spacing[0],
            "DetectorRowCount": rows,
            "DetectorColCount": columns,
            "ProjectionAngles": angles,
        }
        if isinstance(A, ParallelBeam3D):
            return {"type": "parallel3d", **common}
        near, far = float(A.source_origin[0]), float(A.source_detector[0])
        return {
            "type": "cone",
            **common,
            "DistanceOriginSource": near,
            "DistanceOriginDetector": far - near,
        }
    vectors = A.vectors.detach().cpu().numpy()
    kind = "parallel3d_vec" if A.parallel else "cone_vec"
    if A.curved:
        kind = "cyl_cone_vec"
        radius = np.linalg.norm(vectors[:, 3:6] - vectors[:, :3], axis=1, keepdims=True)
        vectors = np.concatenate([vectors, radius], 1)
    return {"type": kind, "DetectorRowCount": rows, "DetectorColCount": columns, "Vectors": vectors}


def _is_plain(A: ConeBeam | ParallelBeam3D) -> bool:
    """Whether only angles and distances are set, and all views share the distances."""
    return not A.curved and all(
        value.shape[0] == 1
        if name.startswith("source_") and value.ndim == 1
        else not bool((value != 0).any())
        for name, value in A.parameters().items()
        if name != "angles"
    )


def _vectors(geometry: dict[str, Any], dimensions: int) -> Any:
    """Return the vectors of every view: source or direction, centre of the detector, u and v."""
    if "Vectors" in geometry:
        return np.asarray(geometry["Vectors"], dtype=np.float64)
    angles = np.asarray(geometry["ProjectionAngles"], dtype=np.float64)
    cos, sin, zero = np.cos(angles), np.sin(angles), np.zeros_like(angles)
    near = geometry.get("DistanceOriginSource", 1.0)
    behind = geometry.get("DistanceOriginDetector", 0.0)
    wide = geometry["DetectorWidth" if dimensions == 2 else "DetectorSpacingX"]
    # At angle t the source is at near (sin t, -cos t), and u points along (cos t, sin t).
    vectors = [[near * sin, -near * cos], [-behind * sin, behind * cos], [wide * cos, wide * sin]]
    if dimensions == 3:
        vectors = [[*vector, zero] for vector in vectors]
        vectors.append([zero, zero, zero + geometry["DetectorSpacingY"]])
    return np.stack([component for vector in vectors for component in vector], 1)


def _grid(geometry: dict[str, Any], dimensions: int) -> Grid:
    """Read the grid of a volume geometry: sizes, cells and centre."""
    names = ("GridColCount", "GridRowCount", "GridSliceCount")[:dimensions]
    if any(name not in geometry for name in names) or (
        dimensions == 2 and "GridSliceCount" in geometry
    ):
        raise InputError(
            f"the volume of this projection geometry must have {dimensions} dimensions "
            f"({', '.join(names[::-1])}), got {', '.join(sorted(geometry))}"
        )
    counts = [int(geometry[name]) for name in names]
    ends = [
        (
            float(geometry["option"][f"WindowMin{axis}"]),
            float(geometry["option"][f"WindowMax{axis}"]),
        )
        for axis in "XYZ"[:dimensions]
    ]
    cells = [(high - low) / count for (low, high), count in zip(ends, counts)]
    centre = [(low + high) / 2 for low, high in ends]
    rounded = tuple(
        0.0 if abs(c) < 1e-9 * abs(high - low) else c for c, (low, high) in zip(centre, ends)
    )
    return Grid(tuple(counts[::-1]), tuple(cells[::-1]), rounded)


def _window(shape: tuple[int, ...], cell: tuple[float, ...]) -> dict[str, Any]:
    option: dict[str, float] = {}
    for axis, count, size in zip("XYZ", shape[::-1], cell[::-1]):
        option[f"WindowMin{axis}"], option[f"WindowMax{axis}"] = -count * size / 2, count * size / 2
    names = ("GridColCount", "GridRowCount", "GridSliceCount")
    return {**dict(zip(names, shape[::-1])), "option": option}
