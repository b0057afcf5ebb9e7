"""X-ray projection of volumes along the rays of a cone, onto a flat or a curved panel.

X-ray projection of volumes with any pose of source and panel in every view.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.operators.tomography.feldkamp import feldkamp
from invtoolbox.operators.tomography.scan_3d import Scan3D
from invtoolbox.operators.tomography.scan_checks import (
    check_angles,
    finite,
    lengths,
    numbers,
    positive_everywhere,
)
from invtoolbox.operators.tomography.trajectories import PARTS, cone_vectors


class ConeBeam(Scan3D):
    r"""Line integrals along rays from a point source that turns around the object together with its panel.

    Values are length times density, in the one unit of all lengths; the adjoint is exact to rounding.

    World coordinates are those of ASTRA's 3D geometries: ``x`` along the columns of the volume, ``y`` along its rows (a larger row
    index lies at a larger ``y``, unlike the 2D scans, whose ``y`` points upwards), ``z`` along the slices; the origin is the centre of
    the volume, and the axis of rotation is ``z``. At angle ``t`` the source is at ``source_origin * (sin t, -cos t, 0)``, the panel on
    the other side, its columns grow along ``u = (cos t, sin t, 0)`` and its rows along ``v = (0, 0, 1)``. These are the conventions of
    ASTRA's ``cone`` geometry. See docs/conventions.md.

    Args:
        volume_shape: (slices, rows, columns), or (channels, ...); any number of channels is accepted in a call.
        angles: radians, shape (views,): tensor, array or list, in any order and spacing.
        detector_shape: (rows, columns) of the panel.
        source_origin: distance from the source to the axis of rotation; or one length a view.
        source_detector: distance from the source to the panel, along the central ray; or one length a view.
        voxel_size: one length, or three (slice, row, column).
        detector_spacing: distance between the centres of neighbouring cells on the panel; one length, or (between rows, between
            columns).
        detector_shift: **(u, v)**, how far the panel's centre lies from the foot of the central ray, along its rows and along its
            columns, lengths; or (views, 2).
        pitch: how far source and panel rise in one turn: a helix, level with the volume's centre at angle 0, so angles from
            ``-n pi`` to ``n pi`` are centred. May have many turns.
        tilt: radians by which the central ray comes down out of the plane of rotation: laminography.
        curved: the panel is an arc around the source, straight along its columns; ``detector_spacing`` between columns is then the
            length of arc.
        axis_shift: how far the axis of rotation lies from the central ray, along ``u`` at the object.
        source_shift: (u, v, n), displacement of the source alone, lengths along the rows and columns of the panel and along the
            central ray; or (views, 3).
        detector_rotation: (about u, about v, in plane), radians by which the panel is turned about its centre: ``v`` towards the
            central ray, ``u`` towards the central ray, ``u`` towards ``v``; or (views, 3).
        views_per_chunk: how many views are worked on at a time in `normal`, `pseudo_inverse` and `chunks`; chosen where not given.

    All of these but the shapes, ``voxel_size``, ``detector_spacing`` and ``curved`` are the operator's parameters, differentiable, and
    may differ from item to item (`with_parameters`). Where a pose has no such form, see `from_vectors`.

    Raises:
        InputError: angles that look like degrees, a source inside the volume, a panel nearer to the source than the axis, rays that
            miss the volume.

    >>> import torch
    >>> A = ConeBeam((5, 5, 5), [0.0], (3, 3), source_origin=10.0, source_detector=20.0, detector_spacing=3.0)
    >>> A(torch.ones(1, 1, 5, 5, 5))[0, 0, 0, 1, 1]
    tensor(5.)
    """

    _components: ClassVar[dict[str, int]] = {
        "angles": 0,
        "source_origin": 0,
        "source_detector": 0,
        "detector_shift": 2,
        "axis_shift": 0,
        "pitch": 0,
        "tilt": 0,
        "source_shift": 3,
        "detector_rotation": 3,
    }
    angles: Tensor
    source_origin: Tensor
    source_detector: Tensor
    detector_shift: Tensor
    axis_shift: Tensor
    pitch: Tensor
    tilt: Tensor
    source_shift: Tensor
    detector_rotation: Tensor

    def __init__(
        self,
        volume_shape: Sequence[int],
        angles: Any,
        detector_shape: Sequence[int],
        source_origin: Any,
        source_detector: Any,
        voxel_size: float | Sequence[float] = 1.0,
        detector_spacing: float | Sequence[float] = 1.0,
        detector_shift: Any = (0.0, 0.0),
        pitch: Any = 0.0,
        tilt: Any = 0.0,
        curved: bool = False,
        axis_shift: Any = 0.0,
        source_shift: Any = (0.0, 0.0, 0.0),
        detector_rotation: Any = (0.0, 0.0, 0.0),
        views_per_chunk: int | None = None,
    ) -> None:
        self.curved = bool(curved)
        self.detector_spacing: tuple[float, float] = lengths(
            "detector_spacing", detector_spacing, ("between rows", "between columns")
        )
        pitch = finite("pitch", pitch)
        super().__init__(
            volume_shape,
            detector_shape,
            voxel_size,
            {
                "angles": check_angles(angles, helical=bool((pitch != 0).any())),
                "source_origin": positive_everywhere("source_origin", source_origin),
                "source_detector": positive_everywhere("source_detector", source_detector),
                "detector_shift": finite("detector_shift", detector_shift),
                "axis_shift": finite("axis_shift", axis_shift),
                "pitch": pitch,
                "tilt": finite("tilt", tilt),
                "source_shift": finite("source_shift", source_shift),
                "detector_rotation": finite("detector_rotation", detector_rotation),
            },
            views_per_chunk,
        )
        if bool((self.source_detector < self.source_origin).any()):
            raise InputError(
                f"source_detector ({float(self.source_detector.min()):.4g}) is the distance from the source to the panel: at "
                f"least source_origin ({float(self.source_origin.max()):.4g})"
            )
        if self.curved and bool((self.detector_shift[..., 1] != 0).any()):
            raise InputError(
                "a curved panel cannot be shifted along its columns (the second number of detector_shift); use a flat one, or "
                "move the volume"
            )
        if float(self.tilt.detach().abs().max()) > 1.6:
            raise InputError(
                f"tilt is in radians, at most pi / 2, got {float(self.tilt.detach().abs().max()):.4g}"
            )
        self._check_view()

    @staticmethod
    def from_vectors(
        volume_shape: Sequence[int],
        vectors: Any,
        detector_shape: Sequence[int],
        voxel_size: float | Sequence[float] = 1.0,
        curved: bool = False,
        views_per_chunk: int | None = None,
    ) -> VectorScan:
        """A cone beam with any pose in every view: vectors (V, 12) of ASTRA's ``cone_vec``, which are its parameters. See `VectorScan`."""
        return VectorScan(
            volume_shape, vectors, detector_shape, voxel_size, False, curved, views_per_chunk
        )

    def _vectors(self, p: dict[str, Tensor]) -> Tensor:
        return cone_vectors(
            p["angles"],
            p["source_origin"],
            p["source_detector"],
            self.detector_spacing,
            p["detector_shift"],
            p["axis_shift"],
            p["pitch"],
            p["tilt"],
            p["source_shift"],
            p["detector_rotation"],
            self.curved,
        )

    def _invert(
        self, y: Tensor, parameters: dict[str, Tensor], views: slice, filter: str, cutoff: float
    ) -> Tensor:
        return feldkamp(y, self, parameters, views, filter, cutoff)


class VectorScan(Scan3D):
    """Line integrals along the rays of a cone or a parallel beam whose source and panel stand anywhere in every view.

    World coordinates are those of `ConeBeam`. Cell (r, c) of the panel is centred at
    ``detector + (c - (columns - 1) / 2) u + (r - (rows - 1) / 2) v``.

    Args:
        volume_shape: (slices, rows, columns), or (channels, ...); any number of channels is accepted in a call.
        vectors: (V, 12) as ASTRA's ``cone_vec`` and ``parallel3d_vec``: source (for parallel beams the direction of the rays, of any
            length), centre of the panel, vector from a cell to its neighbour in the row (u), and in the column (v); (x, y, z) each.
            `invtoolbox.operators.tomography.trajectories` makes them.
        detector_shape: (rows, columns) of the panel.
        voxel_size: one length, or three (slice, row, column).
        parallel: the rays of a view are parallel.
        curved: the panel is an arc around the source, with ``u`` tangent to it at the panel's centre.
        views_per_chunk: how many views are worked on at a time in `normal` and `chunks`; chosen where not given.

    ``source``, ``detector``, ``u`` and ``v``, (V, 3) each, are the operator's parameters, differentiable, so that any pose can be
    calibrated.

    Raises:
        InputError: vectors of another shape, not finite or of length 0, rays that miss the volume.

    >>> from invtoolbox.operators.tomography.trajectories import circular
    >>> A = VectorScan((5, 5, 5), circular([0.0, 1.0], 10.0, 20.0, detector_spacing=3.0), (3, 3))
    >>> A(torch.ones(1, 1, 5, 5, 5))[0, 0, 0, 1, 1]
    tensor(5.)
    """

    _components: ClassVar[dict[str, int]] = dict.fromkeys(PARTS, 3)
    source: Tensor
    detector: Tensor
    u: Tensor
    v: Tensor

    def __init__(
        self,
        volume_shape: Sequence[int],
        vectors: Any,
        detector_shape: Sequence[int],
        voxel_size: float | Sequence[float] = 1.0,
        parallel: bool = False,
        curved: bool = False,
        views_per_chunk: int | None = None,
    ) -> None:
        table = numbers("vectors", vectors)
        if table.ndim not in (2, 3) or table.shape[-1] != 12 or 0 in table.shape:
            raise InputError(
                f"vectors must have the shape (views, 12): source, detector, u, v with (x, y, z) each; got "
                f"{tuple(table.shape)}"
            )
        if not bool(torch.isfinite(table).all()):
            raise InputError(
                f"vectors must be finite, but row {int((~torch.isfinite(table)).nonzero()[0][-2])} is not"
            )
        if parallel and curved:
            raise InputError(
                "a curved panel is an arc around the source, which a parallel beam does not have; leave curved=False"
            )
        self.parallel, self.curved = bool(parallel), bool(curved)
        parts = dict(zip(PARTS, table.split(3, -1)))
        for name in ("u", "v", *(("source",) if parallel else ())):
            if not bool((parts[name].detach() != 0).any(-1).all()):
                raise InputError(
                    f"{'the direction of the rays' if name == 'source' else name} has the length 0 in some view"
                )
        super().__init__(volume_shape, detector_shape, voxel_size, parts, views_per_chunk)
        self._check_view()

    def _vectors(self, parameters: dict[str, Tensor]) -> Tensor:
        return torch.cat(torch.broadcast_tensors(*(parameters[name] for name in PARTS)), -1)
