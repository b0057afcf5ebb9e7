"""X-ray projection along parallel rays: of images (`ParallelBeam`), volumes (`ParallelBeam3D`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from invtoolbox.errors import InputError
from invtoolbox.kernels.tomography.pixel_backprojection import PixelViews, pixel_backproject
from invtoolbox.kernels.tomography.voxel_backprojection import voxel_backproject
from invtoolbox.operators.tomography.cone_beam import VectorScan
from invtoolbox.operators.tomography.feldkamp import (
    ADVICE,
    cell_centres,
    filter_rows,
    lopsided,
    panel_margins,
    redundancy,
    voxel_views,
)
from invtoolbox.operators.tomography.filtered_backprojection import arc_weights, filter_projections
from invtoolbox.operators.tomography.scan_2d import Scan2D
from invtoolbox.operators.tomography.scan_3d import Scan3D
from invtoolbox.operators.tomography.scan_checks import check_angles, finite, lengths
from invtoolbox.operators.tomography.trajectories import parallel_vectors


class ParallelBeam(Scan2D):
    r"""Line integrals along parallel rays: the discrete Radon transform.

    .. math:: (A x)(\theta, s) = \int x(s \cos\theta - t \sin\theta, \; s \sin\theta + t \cos\theta)
    \, dt

    The integrals are discretized by Joseph's method (`invtoolbox.kernels.tomography.joseph`), with
    an adjoint that is exact to rounding. Values are length times density, in the unit of
    ``pixel_size``.

    The origin is the centre of the image and of rotation. ``x`` points along the columns (to the
    right), ``y`` against the rows (upwards), as in a plotted picture whose row 0 is on top. At
    angle 0 the rays run downwards and the detector points along ``x``; angles count anticlockwise.
    Cell ``k`` lies at ``s = (k - (num_detectors - 1) / 2) * detector_spacing + detector_shift``.
    These are the conventions of ASTRA's ``parallel`` geometry; see docs/conventions.md.

    Args:
        image_shape: shape (rows, columns) or (channels, rows, columns); any number of channels is
            accepted in a call.
        angles: angles of the views in radians, shape (views,): tensor, array or list, in any order
            and spacing.
        num_detectors: number of detector cells.
        pixel_size: size of a pixel, one length or a pair (row, column).
        detector_spacing: distance between the centres of neighbouring cells, a length.
        detector_shift: offset of the detector's centre from the projection of the centre of
            rotation, a length, or one length per view. If the centre of rotation projects to cell
            ``c`` (counted from 0, fractions allowed), the shift is
            ``((num_detectors - 1) / 2 - c) * detector_spacing``.

    ``angles`` and ``detector_shift`` are the operator's parameters; both are differentiable.

    Raises:
        InputError: if angles look like degrees or are not finite, or if the field of view misses
            the image's centre.

    >>> import math
    >>> A = ParallelBeam((5, 5), [0.0, math.pi / 4], num_detectors=5)
    >>> A(torch.ones(1, 1, 5, 5))
    tensor([[[[5.0000, 5.0000, 5.0000, 5.0000, 5.0000],
              [3.0711, 5.0711, 7.0711, 5.0711, 3.0711]]]])
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        angles: Any,
        num_detectors: int,
        pixel_size: float | Sequence[float] = 1.0,
        detector_spacing: float = 1.0,
        detector_shift: Any = 0.0,
    ) -> None:
        super().__init__(
            image_shape, angles, num_detectors, pixel_size, detector_spacing, detector_shift
        )
        self._check_view()

    def _lines(
        self, angles: Tensor, shift: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        # The foot s (cos, sin) is the point of a ray nearest to the origin.
        s, cos, sin = self._detector(shift), angles.cos(), angles.sin()
        return (s * cos, s * sin), (sin, -cos)

    def _view_limits(self) -> tuple[float, float]:
        shift, half = self.detector_shift.detach(), self.num_detectors * self.detector_spacing / 2
        return float(shift.min()) - half, float(shift.max()) + half

    def _invert(
        self, y: Tensor, angles: Tensor, shift: Tensor, filter: str, cutoff: float
    ) -> Tensor:
        angles, shift = angles.detach().double(), shift.detach().double()
        columns, turn = self._detector(shift[:, None]), arc_weights(angles, 2 * torch.pi)
        margins = panel_margins(columns, turn, self._inner_radius)
        if any(margins):
            weights = redundancy(columns, turn, angles, self._inner_radius, str(self))
            weighted = pad(y * (weights * turn.weights[:, None]).to(y), margins)
            filtered = filter_projections(weighted, self.detector_spacing, filter, cutoff)
        else:
            arc = arc_weights(angles, torch.pi)  # a view from behind is the same view
            filtered = filter_projections(y, self.detector_spacing, filter, cutoff)
            filtered = filtered * arc.weights.to(y)[:, None]
        # Cell of a pixel: ((c w cos - r h sin) - first cell) / spacing, for pixels of h by w.
        height, width = self.pixel_size
        first = columns[:, 0].expand_as(angles) - margins[0] * self.detector_spacing
        ones, zeros = torch.ones_like(angles), torch.zeros_like(angles)
        lateral = (
            torch.stack([-first, angles.cos() * width, -angles.sin() * height])
            / self.detector_spacing
        )
        table = torch.cat([lateral, torch.stack([ones, zeros, zeros, zeros, zeros])]).T.contiguous()
        return pixel_backproject(filtered, PixelViews(table, self.image_shape))


class ParallelBeam3D(Scan3D):
    r"""Line integrals along parallel rays onto a panel that turns around the object.

    The geometry serves synchrotrons, electron tomography and laminography. World coordinates are
    those of `ConeBeam`: ``y`` grows with the row index, and the axis of rotation is ``z``. At angle
    ``t`` the rays run along ``(sin t, -cos t, 0)``, the columns of the panel grow along
    ``u = (cos t, sin t, 0)`` and its rows along ``v = (0, 0, 1)``: ASTRA's ``parallel3d``. Each
    slice of the volume is projected as by `ParallelBeam` with flipped rows.

    Args:
        volume_shape: shape (slices, rows, columns), or (channels, ...); any number of channels is
            accepted in a call.
        angles: angles of the views in radians, shape (views,): tensor, array or list, in any order
            and spacing.
        detector_shape: shape (rows, columns) of the panel.
        voxel_size: size of a voxel, one length or three (slice, row, column).
        detector_spacing: distance between the centres of neighbouring cells; one length, or
            (between rows, between columns).
        detector_shift: **(u, v)**, offset of the panel's centre from the projection of the volume's
            centre, along the rows and along the columns of the panel, lengths; or (views, 2). If
            the axis of rotation projects to column ``c`` (counted from 0), the first is
            ``((columns - 1) / 2 - c) * spacing``.
        tilt: angle in radians by which the rays leave the plane of rotation: laminography.
        detector_rotation: rotation angles (about u, about v, in plane), radians by which the panel
            is turned about its centre, as in `ConeBeam`; or (views, 3).
        views_per_chunk: number of views processed at a time in `normal`, `pseudo_inverse` and
            `chunks`; chosen automatically if ``None``.

    ``angles``, ``detector_shift``, ``tilt`` and ``detector_rotation`` are the operator's
    parameters. They are differentiable, and may differ from item to item.

    `pseudo_inverse` is filtered back-projection. It is exact up to sampling for a tilt of 0. For a
    full turn with a tilt it is exact up to the cone of frequencies around the axis that no view
    measures.

    Raises:
        InputError: if angles look like degrees, if ``tilt`` is not less than pi / 2, or if the rays
            miss the volume.

    >>> import torch
    >>> A = ParallelBeam3D((2, 5, 5), [0.0, 1.0], (2, 5))
    >>> A(torch.ones(1, 1, 2, 5, 5))[0, 0, 0]
    tensor([[5., 5., 5., 5., 5.],
            [5., 5., 5., 5., 5.]])
    """

    parallel = True
    _components: ClassVar[dict[str, int]] = {
        "angles": 0,
        "detector_shift": 2,
        "tilt": 0,
        "detector_rotation": 3,
    }
    angles: Tensor
    detector_shift: Tensor
    tilt: Tensor
    detector_rotation: Tensor

    def __init__(
        self,
        volume_shape: Sequence[int],
        angles: Any,
        detector_shape: Sequence[int],
        voxel_size: float | Sequence[float] = 1.0,
        detector_spacing: float | Sequence[float] = 1.0,
        detector_shift: Any = (0.0, 0.0),
        tilt: Any = 0.0,
        detector_rotation: Any = (0.0, 0.0, 0.0),
        views_per_chunk: int | None = None,
    ) -> None:
        self.detector_spacing: tuple[float, float] = lengths(
            "detector_spacing", detector_spacing, ("between rows", "between columns")
        )
        super().__init__(
            volume_shape,
            detector_shape,
            voxel_size,
            {
                "angles": check_angles(angles),
                "detector_shift": finite("detector_shift", detector_shift),
                "tilt": finite("tilt", tilt),
                "detector_rotation": finite("detector_rotation", detector_rotation),
            },
            views_per_chunk,
        )
        largest = float(self.tilt.detach().abs().max())
        if largest >= 1.6:
            raise InputError(f"tilt must be in radians and less than pi / 2, got {largest:.4g}")
        self._check_view()

    @staticmethod
    def from_vectors(
        volume_shape: Sequence[int],
        vectors: Any,
        detector_shape: Sequence[int],
        voxel_size: float | Sequence[float] = 1.0,
        views_per_chunk: int | None = None,
    ) -> VectorScan:
        """Create a parallel beam with any pose in every view.

        Args:
            volume_shape: shape (slices, rows, columns), or (channels, ...).
            vectors: poses, (V, 12), as ASTRA's ``parallel3d_vec``; see `VectorScan`.
            detector_shape: shape (rows, columns) of the panel.
            voxel_size: size of a voxel, one length or three (slice, row, column).
            views_per_chunk: number of views processed at a time; chosen automatically if ``None``.
        """
        return VectorScan(
            volume_shape,
            vectors,
            detector_shape,
            voxel_size,
            parallel=True,
            views_per_chunk=views_per_chunk,
        )

    def _vectors(self, parameters: dict[str, Tensor]) -> Tensor:
        return parallel_vectors(spacing=self.detector_spacing, **parameters)

    def _invert(
        self, y: Tensor, parameters: dict[str, Tensor], views: slice, filter: str, cutoff: float
    ) -> Tensor:
        """Compute the contribution of some views of a parallel beam to the volume.

        With a tilt, the ramp is multiplied by the cosine of the tilt, the Jacobian of the planes of
        frequencies that the views see.

        Raises:
            InputError: laminography of less than a full turn.
        """
        p = {name: value.detach() for name, value in parameters.items()}
        angles = p["angles"]
        tilted = bool((p["tilt"] != 0).any())
        turn = arc_weights(angles, 2 * math.pi)
        if tilted and not turn.closed:
            raise InputError(
                "filtered back-projection of laminography needs a full turn, and the views of "
                f"{self} cover {math.degrees(turn.length):.4g} degrees; {ADVICE}"
            )
        columns = cell_centres(self.detector_shape[1], self.detector_spacing[1], angles)
        columns = columns + p["detector_shift"][:, :1]
        edge = min(n * size for n, size in zip(self.volume_shape[1:], self.voxel_size[1:])) / 2
        margins = (0, 0)
        if tilted or (turn.closed and lopsided(columns, edge)):
            margins = panel_margins(columns, turn, edge)
            weights = redundancy(columns, turn, angles, edge, str(self)) * turn.weights[:, None]
        else:
            # A view from behind is the same view.
            weights = arc_weights(angles, math.pi).weights[:, None].expand(-1, columns.shape[1])
        weights = weights * p["tilt"].cos()[:, None]
        weighted = pad(y * weights[views][:, None].to(y), margins)
        filtered = filter_rows(weighted, torch.tensor([self.detector_spacing[1]]), filter, cutoff)
        # There is no source: the distances that scale a cone beam are 1.
        unit = angles.new_ones(1)
        return voxel_backproject(
            filtered, voxel_views(self, self._vectors(p)[views], unit, unit, margins)
        )
