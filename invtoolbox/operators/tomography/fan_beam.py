"""X-ray projection of images along the rays of a fan, onto a flat or a curved detector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from invtoolbox.errors import InputError
from invtoolbox.kernels.tomography.pixel_backprojection import PixelViews, pixel_backproject
from invtoolbox.operators.tomography.feldkamp import panel_margins, redundancy
from invtoolbox.operators.tomography.filtered_backprojection import (
    arc_weights,
    filter_projections,
    parker_weights,
)
from invtoolbox.operators.tomography.scan_2d import Scan2D
from invtoolbox.operators.tomography.scan_checks import positive


class FanBeam(Scan2D):
    r"""Line integrals along the rays of a source and a detector that turn around the object.

    The integrals are discretized by Joseph's method (`invtoolbox.kernels.tomography.joseph`), with
    an adjoint that is exact to rounding. All lengths have one unit; values are length times density
    in that unit.

    The origin is the centre of the image and of rotation; ``x`` points along the columns, ``y``
    against the rows (upwards). At angle ``t`` the source is at ``source_origin * (sin t, -cos t)``,
    the detector on the other side, and detector coordinates grow along ``(cos t, sin t)``; angles
    count anticlockwise. Cell ``k`` lies at
    ``s = (k - (num_detectors - 1) / 2) * detector_spacing + detector_shift``. On a flat detector
    ``s`` is the distance from the foot of the central ray (the ray through the origin). A curved
    detector is an arc around the source: ``s`` is then the length of arc from the foot, so the
    ray's angle is ``s / source_detector``. These are the conventions of ASTRA's ``fanflat``
    geometry; see docs/conventions.md.

    Args:
        image_shape: shape (rows, columns) or (channels, rows, columns); any number of channels is
            accepted in a call.
        angles: angles of the views in radians, shape (views,): tensor, array or list, in any order
            and spacing.
        num_detectors: number of detector cells.
        source_origin: distance from the source to the centre of rotation, a length.
        source_detector: distance from the source to the detector along the central ray, a length.
        pixel_size: size of a pixel, one length or a pair (row, column).
        detector_spacing: distance between the centres of neighbouring cells, a length on the
            detector (not at the object).
        detector_shift: offset of the detector's centre from the foot of the central ray, a length
            on the detector, or one length per view. If the centre of rotation projects to cell
            ``c``, the shift is ``((num_detectors - 1) / 2 - c) * detector_spacing``.
        curved: whether the detector is an arc around the source.

    ``angles`` and ``detector_shift`` are the operator's parameters; both are differentiable.

    Raises:
        InputError: if angles look like degrees or are not finite, if the source is inside the
            image, if the detector is nearer to the source than the origin, or if the field of view
            misses the image's centre.

    >>> A = FanBeam((5, 5), [0.0], 3, 10.0, source_detector=20.0, detector_spacing=3.0)
    >>> A(torch.ones(1, 1, 5, 5))
    tensor([[[[5.0559, 5.0000, 5.0559]]]])
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        angles: Any,
        num_detectors: int,
        source_origin: float,
        source_detector: float,
        pixel_size: float | Sequence[float] = 1.0,
        detector_spacing: float = 1.0,
        detector_shift: Any = 0.0,
        curved: bool = False,
    ) -> None:
        super().__init__(
            image_shape, angles, num_detectors, pixel_size, detector_spacing, detector_shift
        )
        self.source_origin = positive("source_origin", source_origin)
        self.source_detector = positive("source_detector", source_detector)
        self.curved = bool(curved)
        radius = math.hypot(*(n * size for n, size in zip(self.image_shape, self.pixel_size))) / 2
        if self.source_origin <= radius:
            raise InputError(
                f"the source turns inside the image: source_origin is {self.source_origin:.4g} "
                f"but the image's corners are {radius:.4g} from the centre; check pixel_size "
                f"and source_origin (one unit of length)"
            )
        if self.source_detector < self.source_origin:
            raise InputError(
                f"source_detector ({self.source_detector:.4g}) is the distance from the source to "
                f"the detector: it must be at least source_origin ({self.source_origin:.4g})"
            )
        self._check_view()

    def _fan_angle(self, s: Tensor) -> Tensor:
        """Compute the angle between a ray and the central ray from its detector coordinate."""
        return s / self.source_detector if self.curved else (s / self.source_detector).atan()

    def _lines(
        self, angles: Tensor, shift: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        s, cos, sin = self._detector(shift), angles.cos(), angles.sin()
        if self.curved:
            along, across = self._fan_angle(s).cos(), self._fan_angle(s).sin()
        else:
            along, across = torch.ones_like(s), s / self.source_detector
        # The central ray runs along (-sin, cos), the detector along (cos, sin). The point of a ray
        # nearest to the origin has small coordinates, which keeps the ray's offset accurate.
        source = (self.source_origin * sin, -self.source_origin * cos)
        direction = (across * cos - along * sin, across * sin + along * cos)
        distance = self.source_origin * along / (along.square() + across.square())
        return (source[0] + distance * direction[0], source[1] + distance * direction[1]), direction

    def _view_limits(self) -> tuple[float, float]:
        shift, half = (
            self.detector_shift.detach().double(),
            self.num_detectors * self.detector_spacing / 2,
        )
        edges = torch.stack([shift.min() - half, shift.max() + half])
        angles = self._fan_angle(edges).clamp(-math.pi / 2, math.pi / 2)
        low, high = (self.source_origin * angles.sin()).tolist()
        return low, high

    def _invert(
        self, y: Tensor, angles: Tensor, shift: Tensor, filter: str, cutoff: float
    ) -> Tensor:
        # Kak and Slaney, "Principles of Computerized Tomographic Imaging", 3.4.1 (curved) and
        # 3.4.2 (flat), with the flat detector moved to the origin. All lengths are divided by
        # `source_origin`.
        angles, shift = angles.detach().double()[:, None], shift.detach().double()[:, None]
        s = self._detector(shift)
        gamma = self._fan_angle(s)
        arc = arc_weights(angles[:, 0], 2 * torch.pi)
        # A full turn measures every ray twice, with an offset detector the inner ones; a short scan
        # some of them twice; a shorter arc some once.
        edge = math.asin(min(1.0, self._inner_radius / self.source_origin))
        begin = (angles - arc.start) % (2 * torch.pi)
        counts = (
            redundancy(gamma, arc, begin[:, 0], edge, str(self))
            if arc.closed
            else parker_weights(begin, gamma, arc.length)
        )
        margins = panel_margins(gamma, arc, edge)
        weighted = pad(y * (gamma.cos() * counts * arc.weights[:, None]).to(y), margins)
        scale = self.source_detector if self.curved else self.source_detector / self.source_origin
        filtered = filter_projections(
            weighted, self.detector_spacing / scale, filter, cutoff, self.curved
        )
        if self.curved:
            filtered = filtered / self.source_origin
        return pixel_backproject(filtered, self._pixel_views(angles[:, 0], shift[:, 0], margins[0]))

    def _pixel_views(self, angles: Tensor, shift: Tensor, margin: int = 0) -> PixelViews:
        """Tabulate where pixels project, on a detector with some more cells on the left.

        Lateral / depth is the tangent of the fan angle; the depth is 1 at the origin.
        """
        height, width = (size / self.source_origin for size in self.pixel_size)
        cos, sin = angles.cos(), angles.sin()
        ones, zeros = torch.ones_like(angles), torch.zeros_like(angles)
        # Units of `source_origin`; from the source, along the detector and along the central ray.
        lateral = torch.stack([zeros, width * cos, -height * sin])
        depth = torch.stack([ones, -width * sin, -height * cos])
        cells = self.source_detector / self.detector_spacing
        first = self._detector(shift[:, None])[:, 0].expand_as(angles) / self.detector_spacing
        first = first - margin
        if not self.curved:
            lateral = cells * lateral - first * depth
        table = torch.cat([lateral, depth, torch.stack([-first, cells * ones])])
        return PixelViews(table.T.contiguous(), self.image_shape, self.curved)

    def __repr__(self) -> str:
        return super().__repr__()[:-1] + (", curved)" if self.curved else ")")
