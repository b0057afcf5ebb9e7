"""Base classes of scans, and of 2D scans: parameters, channels, views, and geometry checks."""

from __future__ import annotations

import copy
import math
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.kernels.tomography.joseph import backproject, project
from invtoolbox.kernels.tomography.rays import Rays
from invtoolbox.operators.base import LinearOperator
from invtoolbox.operators.tomography.scan_checks import (
    check_angles,
    finite,
    lengths,
    positive,
    shape_of,
    whole,
)


class Scan(LinearOperator):
    """Base of the 2D and 3D scans, which treat every channel alike."""

    channelwise = True

    def coarsen(self) -> Self | None:
        """Return the scan with half the pixels and half the detector cells along every axis.

        Both are twice as large, so a measurement is the mean of two cells. ``None`` if a number is
        odd, or for other scans than 2D scans.
        """
        return None

    def refine(self) -> Self | None:
        """Return the scan of an image with twice the pixels along every axis, of half the size.

        ``None`` for other scans than 2D and 3D scans of one machine.

        >>> import invtoolbox as it
        >>> it.operators.ParallelBeam((4, 6), [0.0], 7).refine()
        ParallelBeam(8x12, 1 views, 7 detectors)
        """

    def enlarge(self, rows: int, columns: int) -> Self:
        """Return the scan of an image with some more rows and columns on either side.

        Args:
            rows: number of rows above, and of rows below.
            columns: number of columns on the left, and on the right.
        """
        scan = copy.copy(self)
        scan._set_image(
            (
                *self.domain_shape[:-2],
                self.domain_shape[-2] + 2 * rows,
                self.domain_shape[-1] + 2 * columns,
            )
        )
        return scan

    def widen(self, cells: int) -> Self:
        """Return the scan of a detector with some more cells at either end of its rows.

        Args:
            cells: number of cells at the first end, and at the last one.

        >>> import invtoolbox as it
        >>> it.operators.ParallelBeam((4, 4), [0.0], 7).widen(2).range_shape
        (1, 1, 11)
        """
        scan, shape = copy.copy(self), cast(tuple[int, ...], self.range_shape)
        scan._set_cells(shape[-1] + 2 * cells)
        return scan

    def _set_cells(self, count: int) -> None:
        """Set the number of cells in a row of the detector, whose centre stays where it is."""
        raise InputError(f"{self} has no detector that can be widened")

    def _set_image(self, shape: tuple[int, ...]) -> None:
        """Set the shape of the image."""
        self.domain_shape = shape

    def plot(self) -> Any:
        """Plot the geometry: source path, detector, object and direction of rotation.

        Returns:
            the picture, a ``matplotlib.figure.Figure``.
        """
        from invtoolbox.plotting.scan_geometry import geometry_figure

        return geometry_figure(self)


class Scan2D(Scan):
    """2D scan along straight rays: line integrals of ``(batch, C, H, W)`` as ``(batch, C, V, D)``.

    A subclass implements the position of the rays (`_lines`) and the analytic inversion
    (`_invert`). Any number of channels is accepted.

    Attributes:
        angles: angles of the views in radians, (V,), or (items, V) if every batch item has its own
            angles.
        detector_shift: offset of the detector, a length; (1,) or (V,), or (items, 1) or (items, V).
    """

    cache_fields = ("_rays",)
    angles: Tensor
    detector_shift: Tensor
    pixel_size: tuple[float, float]
    num_detectors: int
    detector_spacing: float

    def __init__(
        self,
        image_shape: Sequence[int],
        angles: Any,
        num_detectors: int,
        pixel_size: float | Sequence[float],
        detector_spacing: float,
        detector_shift: Any,
    ) -> None:
        channels, self.image_shape = shape_of("image_shape", image_shape, ("rows", "columns"))
        self.angles = check_angles(angles)
        self.num_detectors = whole("num_detectors", num_detectors)
        self.pixel_size = lengths("pixel_size", pixel_size, ("row", "column"))
        self.detector_spacing = positive("detector_spacing", detector_spacing)
        self.detector_shift = _check_shift(detector_shift, self.angles)
        self.domain_shape = (channels, *self.image_shape)
        self.range_shape = (channels, self.angles.shape[-1], self.num_detectors)
        self.items = _items(self.angles, self.detector_shift)

    def _set_cells(self, count: int) -> None:
        self.num_detectors, self.range_shape = count, (*self.range_shape[:-1], count)
        self.__dict__.pop("_rays", None)

    # -- for subclasses to implement ---------------------------------------------------------------

    @abstractmethod
    def _lines(
        self, angles: Tensor, shift: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return a point and a direction ``(x, y)`` of every ray.

        Each broadcasts to (V, D). ``angles`` has the shape (V, 1), ``shift`` (V, 1) or (1, 1).
        """

    @abstractmethod
    def _view_limits(self) -> tuple[float, float]:
        """Return the signed distances of the two outermost rays from the centre of rotation."""

    @abstractmethod
    def _invert(
        self, y: Tensor, angles: Tensor, shift: Tensor, filter: str, cutoff: float
    ) -> Tensor:
        """Compute the filtered back-projection of ``(N, V, D)``."""

    # -- the operator ------------------------------------------------------------------------------

    def coarsen(self) -> Self | None:
        (height, width), cells = self.image_shape, self.num_detectors
        if height % 2 or width % 2 or cells % 2:
            return None
        scan = copy.copy(self)
        scan.num_detectors = cells // 2
        scan.pixel_size = (2 * self.pixel_size[0], 2 * self.pixel_size[1])
        scan.detector_spacing = 2 * self.detector_spacing
        scan.range_shape = (*self.range_shape[:-1], scan.num_detectors)
        scan._set_image((self.domain_shape[0], height // 2, width // 2))
        return scan

    def refine(self) -> Self:
        scan = copy.copy(self)
        scan.pixel_size = (self.pixel_size[0] / 2, self.pixel_size[1] / 2)
        scan._set_image((self.domain_shape[0], *(2 * n for n in self.image_shape)))
        return scan

    def _set_image(self, shape: tuple[int, ...]) -> None:
        self.domain_shape, self.image_shape = shape, shape[1:]
        self.__dict__.pop("_rays", None)

    def parameters(self) -> dict[str, Tensor]:
        return {"angles": self.angles, "detector_shift": self.detector_shift}

    def _replace(self, parameters: dict[str, Tensor]) -> Self:
        scan = super()._replace(parameters)
        shift = scan.detector_shift
        scan.detector_shift = shift.reshape(1) if shift.ndim == 0 else shift
        views = scan.angles.shape[-1]
        if (
            scan.angles.ndim not in (1, 2)
            or scan.detector_shift.ndim not in (1, 2)
            or scan.detector_shift.shape[-1] not in (1, views)
        ):
            raise InputError(
                f"{self} takes angles of shape (views,) or (items, views) and detector_shift of "
                f"shape (1,), (views,), (items, 1) or (items, views); got "
                f"{tuple(scan.angles.shape)} and {tuple(shift.shape)}"
            )
        scan.items = _items(scan.angles, scan.detector_shift)
        scan.range_shape = (self.domain_shape[0], views, self.num_detectors)
        scan.__dict__.pop("_rays", None)
        return scan

    def to(
        self,
        target: torch.device | torch.dtype | str | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        scan = super().to(target, device=device, dtype=dtype)
        # The copy traces its rays again from the moved angles, so it does not depend on earlier
        # calls.
        scan.__dict__.pop("_rays", None)
        return scan

    def select(self, index: Tensor) -> Self:
        if self.items is None:
            return self
        # Select only along an axis of items: two views are not two items.
        return self._replace(
            {
                name: value.index_select(0, index)
                for name, value in self.parameters().items()
                if value.ndim == 2 and value.shape[0] > 1
            }
        )._with_items(len(index))

    @property
    def blocks(self) -> int:
        """The number of views."""
        return int(self.angles.shape[-1])

    def subset(self, index: Tensor | slice | Sequence[int]) -> Self:
        """Return the scan of some views: ``A.subset(i)(x) = A(x)[:, :, i]``.

        >>> from invtoolbox.operators.tomography.parallel_beam import ParallelBeam
        >>> A = ParallelBeam((4, 4), torch.linspace(0, 3, 6), 7)
        >>> A.subset([0, 2]).range_shape
        (1, 2, 7)
        """
        if not isinstance(index, (slice, Tensor)):
            index = torch.as_tensor(index, device=self.angles.device)
        shift = self.detector_shift
        return self._replace(
            {
                "angles": self.angles[..., index],
                "detector_shift": shift if shift.shape[-1] == 1 else shift[..., index],
            }
        )

    @property
    def rays(self) -> Rays:
        """Table of rays.

        The table is a function of the geometry, and is kept unless the geometry is being
        differentiated.
        """
        if self.items is not None:
            raise InputError(f"{self} has different rays for every item of the batch")
        if self.angles.requires_grad or self.detector_shift.requires_grad:
            return self._trace(self.angles, self.detector_shift)
        cached = self.__dict__.get("_rays")
        key = (_version(self.angles), _version(self.detector_shift))
        if cached is None or cached[0] != key:
            # The kept table must also serve calls that record gradients.
            with torch.inference_mode(False):
                cached = self.__dict__["_rays"] = (
                    key,
                    self._trace(self.angles, self.detector_shift),
                )
        return cached[1]

    def _trace(self, angles: Tensor, shift: Tensor) -> Rays:
        points, directions = self._lines(angles.double()[:, None], shift.double()[:, None])
        ones = torch.ones(
            angles.shape[0], self.num_detectors, dtype=torch.float64, device=angles.device
        )
        points = (points[0] * ones, points[1] * ones)
        return Rays.through(points, directions, self.image_shape, self.pixel_size)

    def _detector(self, shift: Tensor) -> Tensor:
        """Return the coordinates of the detector's cells, (V or 1, D)."""
        cells = torch.arange(self.num_detectors, dtype=shift.dtype, device=shift.device)
        return (cells - (self.num_detectors - 1) / 2) * self.detector_spacing + shift

    def _forward(self, x: Tensor) -> Tensor:
        return self._each_item(
            lambda item, angles, shift: project(
                item, self.rays if angles is None else self._trace(angles, shift)
            ),
            x,
        )

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._each_item(
            lambda item, angles, shift: backproject(
                item, self.rays if angles is None else self._trace(angles, shift)
            ),
            y,
        )

    def pseudo_inverse(self, y: Tensor, filter: str = "ram-lak", cutoff: float = 1.0) -> Tensor:
        """Compute the filtered back-projection; differentiable in ``y``.

        Args:
            y: projections, ``(batch, C, V, D)``.
            filter: "ram-lak", "shepp-logan", "cosine", "hamming" or "hann".
            cutoff: fraction of the Nyquist frequency above which nothing passes, in (0, 1].

        Returns:
            images, ``(batch, C, H, W)``.
        """
        self._check_measurements("pseudo-inverse", y)
        if y.is_complex():
            parts = (self.pseudo_inverse(part, filter, cutoff) for part in (y.real, y.imag))
            return torch.complex(*parts)
        return self._each_item(
            lambda item, angles, shift: self._invert(
                item,
                self.angles if angles is None else angles,
                self.detector_shift if shift is None else shift,
                filter,
                cutoff,
            ),
            y,
        )

    def _each_item(self, function: Any, value: Tensor) -> Tensor:
        """Apply ``function`` with the channels in the batch, or per item if geometries differ."""
        if self.items is None:
            flat = function(value.flatten(0, 1), None, None)
            return flat.unflatten(0, value.shape[:2])
        angles = self.angles.expand(self.items, self.angles.shape[-1])
        shift = self.detector_shift.expand(self.items, self.detector_shift.shape[-1])
        return torch.stack([function(item, angles[k], shift[k]) for k, item in enumerate(value)])

    @property
    def _inner_radius(self) -> float:
        """Radius of the circle inside of the image."""
        return min(n * size for n, size in zip(self.image_shape, self.pixel_size)) / 2

    @property
    def sees_whole_image(self) -> bool:
        """Whether every view measures the circle inside of the image."""
        low, high = self._view_limits()
        # The slack is the width of a cell: an image as wide as its detector is the common case.
        return max(low, -high) <= self.detector_spacing - self._inner_radius

    def _check_view(self) -> None:
        """Raise if the detector misses the object's centre, warn if it misses other parts."""
        height, width = (n * size for n, size in zip(self.image_shape, self.pixel_size))
        inner, outer = self._inner_radius, math.hypot(height, width) / 2
        low, high = self._view_limits()
        name = type(self).__name__
        sees = f"the detector sees distances {low:.4g} to {high:.4g} from the centre of rotation"
        if low > outer or high < -outer:
            raise InputError(
                f"no ray of this {name} meets the image: {sees}, but the image reaches "
                f"{outer:.4g}; check detector_shift, detector_spacing and pixel_size (one unit of "
                "length)"
            )
        if low > 0 or high < 0:
            raise InputError(
                f"this {name} never sees the centre of the image: {sees}; "
                f"check detector_shift (a length, not cells)"
            )
        if not self.sees_whole_image:
            warnings.warn(
                f"the field of view of this {name} cuts the object off: {sees}, the image has an "
                f"inner radius of {inner:.4g}",
                stacklevel=4,
            )

    def __repr__(self) -> str:
        height, width = self.image_shape
        name, views = type(self).__name__, self.angles.shape[-1]
        return f"{name}({height}x{width}, {views} views, {self.num_detectors} detectors)"


def _version(tensor: Tensor) -> int:
    """Count the in-place changes, so that a kept table never outlives its angles."""
    return 0 if tensor.is_inference() else tensor._version


def _check_shift(shift: Any, angles: Tensor) -> Tensor:
    """Return the detector shift as a tensor, (1,) or (V,), after checking it."""
    tensor: Tensor = shift
    if not isinstance(shift, Tensor):
        tensor = torch.as_tensor(shift, dtype=torch.float64, device=angles.device)
    tensor = tensor.reshape(1) if tensor.ndim == 0 else tensor
    if tensor.ndim != 1 or tensor.shape[0] not in (1, angles.shape[0]):
        raise InputError(
            f"detector_shift must be a number or have one entry per view ({angles.shape[0]}), "
            f"got shape {tuple(tensor.shape)}"
        )
    return finite("detector_shift", tensor)


def _items(angles: Tensor, shift: Tensor) -> int | None:
    """Return the number of batch items of the parameters; ``None`` if they are shared."""
    counts = [t.shape[0] for t in (angles, shift) if t.ndim == 2]
    if not counts:
        return None
    items = max(counts)
    if any(count not in (1, items) for count in counts):
        raise InputError(f"angles are for {counts[0]} items and detector_shift for {counts[1]}")
    return items
