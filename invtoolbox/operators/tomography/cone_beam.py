"""X-ray projection of volumes: `ConeBeam`, and `VectorScan` with any pose in every view."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from invtoolbox.errors import InputError
from invtoolbox.kernels.tomography.voxel_backprojection import voxel_backproject
from invtoolbox.operators.tomography.feldkamp import (
    ADVICE,
    cell_centres,
    filter_rows,
    panel_margins,
    plane_weights,
    redundancy,
    voxel_views,
    without_source_shift,
)
from invtoolbox.operators.tomography.filtered_backprojection import arc_weights
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
    r"""Line integrals along the rays of a source and a panel that turn around the object.

    All lengths have one unit, and values are length times density in that unit. The adjoint is
    exact to rounding.

    World coordinates are those of ASTRA's 3D geometries: ``x`` along the columns of the volume,
    ``y`` along its rows, ``z`` along the slices. A larger row index lies at a larger ``y``, unlike
    in the 2D scans, whose ``y`` points upwards. The origin is the centre of the volume, and the
    axis of rotation is ``z``. At angle ``t`` the source is at
    ``source_origin * (sin t, -cos t, 0)``, the panel on the other side; its columns grow along
    ``u = (cos t, sin t, 0)`` and its rows along ``v = (0, 0, 1)``. These are the conventions of
    ASTRA's ``cone`` geometry. See docs/conventions.md.

    Args:
        volume_shape: shape (slices, rows, columns), or (channels, ...); any number of channels is
            accepted in a call.
        angles: angles of the views in radians, shape (views,): tensor, array or list, in any order
            and spacing.
        detector_shape: shape (rows, columns) of the panel.
        source_origin: distance from the source to the axis of rotation, one length or one length
            per view.
        source_detector: distance from the source to the panel along the central ray, one length or
            one length per view.
        voxel_size: size of a voxel, one length or three (slice, row, column).
        detector_spacing: distance between the centres of neighbouring cells on the panel; one
            length, or (between rows, between columns).
        detector_shift: **(u, v)**, offset of the panel's centre from the foot of the central ray,
            along the rows and along the columns of the panel, lengths; or (views, 2).
        pitch: length by which source and panel rise in one turn: a helix. They are level with the
            volume's centre at angle 0, so angles from ``-n pi`` to ``n pi`` are centred. A helix
            may have many turns.
        tilt: angle in radians by which the central ray comes down out of the plane of rotation:
            laminography.
        curved: whether the panel is an arc around the source, straight along its columns;
            ``detector_spacing`` between columns is then a length of arc.
        axis_shift: offset of the axis of rotation from the central ray, a length along ``u`` at the
            object.
        source_shift: shift (u, v, n), displacement of the source alone, lengths along the rows and
            columns of the panel and along the central ray; or (views, 3).
        detector_rotation: rotation angles (about u, about v, in plane), radians by which the panel
            is turned about its centre: ``v`` towards the central ray, ``u`` towards the central
            ray, ``u`` towards ``v``; or (views, 3).
        views_per_chunk: number of views processed at a time in `normal`, `pseudo_inverse` and
            `chunks`; chosen automatically if ``None``.

    All arguments except the shapes, ``voxel_size``, ``detector_spacing`` and ``curved`` are the
    operator's parameters. They are differentiable, and may differ from item to item
    (`with_parameters`). For poses that cannot be expressed in this form, see `from_vectors`.

    Raises:
        InputError: if angles look like degrees, if the source is inside the volume, if the panel is
            nearer to the source than the axis, or if the rays miss the volume.

    >>> import torch
    >>> A = ConeBeam((5, 5, 5), [0.0], (3, 3), 10.0, source_detector=20.0, detector_spacing=3.0)
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
                f"source_detector ({float(self.source_detector.min()):.4g}) is the distance from "
                "the source to the panel: it must be at least source_origin "
                f"({float(self.source_origin.max()):.4g})"
            )
        if self.curved and bool((self.detector_shift[..., 1] != 0).any()):
            raise InputError(
                "a curved panel cannot be shifted along its columns (the second number of "
                "detector_shift); use a flat panel, or move the volume"
            )
        largest = float(self.tilt.detach().abs().max())
        if largest > 1.6:
            raise InputError(f"tilt must be in radians and at most pi / 2, got {largest:.4g}")
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
        """Create a cone beam with any pose in every view.

        Args:
            volume_shape: shape (slices, rows, columns), or (channels, ...).
            vectors: poses, (V, 12), as ASTRA's ``cone_vec``; they are the parameters of the scan.
                See `VectorScan`.
            detector_shape: shape (rows, columns) of the panel.
            voxel_size: size of a voxel, one length or three (slice, row, column).
            curved: whether the panel is an arc around the source.
            views_per_chunk: number of views processed at a time; chosen automatically if ``None``.
        """
        return VectorScan(
            volume_shape,
            vectors,
            detector_shape,
            voxel_size,
            curved=curved,
            views_per_chunk=views_per_chunk,
        )

    def _vectors(self, parameters: dict[str, Tensor]) -> Tensor:
        return cone_vectors(spacing=self.detector_spacing, curved=self.curved, **parameters)

    def _invert(
        self, y: Tensor, parameters: dict[str, Tensor], views: slice, filter: str, cutoff: float
    ) -> Tensor:
        """Compute the contribution of some views of a circular cone beam to the volume.

        The formula and its sources are those of `invtoolbox.operators.tomography.feldkamp`. The
        back-projection follows small rotations of the panel and shifts of the source that differ
        between views; the weights leave them out. A common shift of the source is exact: it changes
        the distance, the shift of the axis and the foot of the central ray.

        Raises:
            InputError: a helix, laminography, or a short scan whose panel sees too little of one
                side.
        """
        p = {name: value.detach() for name, value in parameters.items()}
        for name in ("pitch", "tilt"):
            if bool((p[name] != 0).any()):
                raise InputError(
                    f"Feldkamp's method is for a circle around the object, and {self} has a "
                    f"{name}; {ADVICE}"
                )
        vectors, angles = self._vectors(p), p["angles"]
        if not self.curved:
            p = without_source_shift(p)
        columns = cell_centres(self.detector_shape[1], self.detector_spacing[1], angles)
        columns = columns + p["detector_shift"][:, :1]
        lateral = columns / p["source_detector"][:, None]
        gamma = lateral if self.curved else lateral.atan()
        # Relative to the ray through the axis, a ray and the same ray from behind have opposite
        # angles.
        from_axis = gamma - (p["axis_shift"] / p["source_origin"]).atan()[:, None]
        arc = arc_weights(angles, 2 * math.pi)
        radius = min(n * size for n, size in zip(self.volume_shape[1:], self.voxel_size[1:])) / 2
        edge = float(torch.asin((radius / p["source_origin"].min()).clamp(max=1.0)))
        begin = (angles - arc.start) % (2 * math.pi)
        weights = redundancy(from_axis, arc, begin, edge, str(self)) * arc.weights[:, None]
        margins = panel_margins(from_axis, arc, edge)
        # The weights are functions of all views; from here on only some views are needed.
        p = {name: value[views] if len(value) > 1 else value for name, value in p.items()}
        columns = columns[views] if len(columns) > 1 else columns
        rows = cell_centres(self.detector_shape[0], self.detector_spacing[0], angles)
        plane = plane_weights(columns, rows + p["detector_shift"][:, 1:], p, self.curved)
        weighted = y * plane.to(y) * weights[views][:, None].to(y)
        # The distance of cells at the axis or, on a curved panel, the angle between them.
        near, far = p["source_origin"], p["source_detector"]
        spacing = self.detector_spacing[1] / (far if self.curved else far / near)
        filtered = filter_rows(pad(weighted, margins), spacing, filter, cutoff, self.curved)
        if self.curved:
            filtered = filtered / near[:, None, None].to(y)
        return voxel_backproject(filtered, voxel_views(self, vectors[views], near, far, margins))


class VectorScan(Scan3D):
    """Line integrals of a cone or parallel beam with any pose of source and panel in every view.

    World coordinates are those of `ConeBeam`. Cell (r, c) of the panel is centred at
    ``detector + (c - (columns - 1) / 2) u + (r - (rows - 1) / 2) v``.

    Args:
        volume_shape: shape (slices, rows, columns), or (channels, ...); any number of channels is
            accepted in a call.
        vectors: poses, (V, 12), as ASTRA's ``cone_vec`` and ``parallel3d_vec``: source (for
            parallel beams the direction of the rays, of any length), centre of the panel, vector
            from a cell to its neighbour in the row (u), and in the column (v); (x, y, z) each.
            `invtoolbox.operators.tomography.trajectories` computes such vectors.
        detector_shape: shape (rows, columns) of the panel.
        voxel_size: size of a voxel, one length or three (slice, row, column).
        parallel: whether the rays of a view are parallel.
        curved: whether the panel is an arc around the source, with ``u`` tangent to it at the
            panel's centre.
        views_per_chunk: number of views processed at a time in `normal` and `chunks`; chosen
            automatically if ``None``.

    ``source``, ``detector``, ``u`` and ``v``, (V, 3) each, are the operator's parameters. They are
    differentiable, so any pose can be calibrated.

    Raises:
        InputError: if vectors have another shape, are not finite or have the length 0, or if the
            rays miss the volume.

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
                "vectors must have the shape (views, 12): source, detector, u, v with (x, y, z) "
                f"each; got {tuple(table.shape)}"
            )
        if not bool(torch.isfinite(table).all()):
            raise InputError(
                "vectors must be finite, but row "
                f"{int((~torch.isfinite(table)).nonzero()[0][-2])} is not"
            )
        if parallel and curved:
            raise InputError(
                "a curved panel is an arc around the source, but a parallel beam has no source; "
                "leave curved=False"
            )
        self.parallel, self.curved = bool(parallel), bool(curved)
        parts = dict(zip(PARTS, table.split(3, -1)))
        for name in ("u", "v", *(("source",) if parallel else ())):
            if not bool((parts[name].detach() != 0).any(-1).all()):
                vector = "the direction of the rays" if name == "source" else name
                raise InputError(f"{vector} has the length 0 in some view")
        super().__init__(volume_shape, detector_shape, voxel_size, parts, views_per_chunk)
        self._check_view()

    def _vectors(self, parameters: dict[str, Tensor]) -> Tensor:
        return torch.cat(torch.broadcast_tensors(*(parameters[name] for name in PARTS)), -1)
