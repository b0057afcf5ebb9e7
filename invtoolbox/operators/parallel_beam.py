"""X-ray projection of images along parallel rays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from invtoolbox.kernels.pixel_backprojection import PixelViews, pixel_backproject
from invtoolbox.operators.filtered_backprojection import arc_weights, filter_projections
from invtoolbox.operators.scan_2d import Scan2D


class ParallelBeam(Scan2D):
    r"""Line integrals along parallel rays, the discrete Radon transform.

    .. math:: (A x)(\theta, s) = \int x(s \cos\theta - t \sin\theta, \; s \sin\theta + t \cos\theta) \, dt

    discretised by Joseph's method (`invtoolbox.kernels.joseph`), with an adjoint that is exact to rounding.
    Values are length times density, in the unit of ``pixel_size``.

    The origin is the centre of the image and of rotation. ``x`` points along the columns (to the right),
    ``y`` against the rows (upwards), as in a plotted picture whose row 0 is on top. At angle 0 the rays run
    downwards and the detector points along ``x``; angles count anticlockwise. Cell ``k`` lies at
    ``s = (k - (num_detectors - 1) / 2) * detector_spacing + detector_shift``. These are the conventions of
    ASTRA's ``parallel`` geometry; see docs/conventions.md.

    Args:
        image_shape: (rows, columns) or (channels, rows, columns); any number of channels is accepted in a
        call. angles: radians, shape (views,): tensor, array or list, in any order and spacing.
        num_detectors: number of detector cells.
        pixel_size: one length, or a pair (row, column).
        detector_spacing: distance between the centres of neighbouring cells, a length.
        detector_shift: how far the detector's centre lies from the projection of the centre of rotation, a
            length; or one length a view. If the centre of rotation is seen at cell ``c`` (counted from 0,
            fractions allowed), it is ``((num_detectors - 1) / 2 - c) * detector_spacing``.

    ``angles`` and ``detector_shift`` are the operator's parameters; both are differentiable.

    Raises:
        InputError: angles that look like degrees or are not finite, a field of view that misses the image's
            centre.

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
        s, cos, sin = self._detector(shift), angles.cos(), angles.sin()
        return (s * cos, s * sin), (sin, -cos)

    def _seen(self) -> tuple[float, float]:
        shift, half = self.detector_shift.detach(), self.num_detectors * self.detector_spacing / 2
        return float(shift.min()) - half, float(shift.max()) + half

    def _invert(
        self, y: Tensor, angles: Tensor, shift: Tensor, filter: str, cutoff: float
    ) -> Tensor:
        angles, shift = angles.detach().double(), shift.detach().double()
        arc = arc_weights(angles, torch.pi)
        filtered = filter_projections(y, self.detector_spacing, filter, cutoff)
        filtered = filtered * arc.weights.to(y)[:, None]
        # Cell of a pixel: ((c w cos - r h sin) - first cell) / spacing, where pixels measure h by w.
        height, width = self.pixel_size
        first = self._detector(shift)[..., 0].expand_as(angles)
        one, zero = torch.ones_like(angles), torch.zeros_like(angles)
        lateral = (
            torch.stack([-first, angles.cos() * width, -angles.sin() * height])
            / self.detector_spacing
        )
        table = torch.cat([lateral, torch.stack([one, zero, zero, zero, zero])]).T.contiguous()
        return pixel_backproject(filtered, PixelViews(table, self.image_shape))
