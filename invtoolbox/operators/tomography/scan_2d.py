"""What the 2D scans have in common: parameters, channels, views, and the checks of a geometry."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.kernels.tomography.joseph import backproject, project
from invtoolbox.kernels.tomography.rays import Rays
from invtoolbox.operators.base import LinearOperator, check_shape


class Scan2D(LinearOperator):
    """A 2D scan along straight rays: line integrals of ``(batch, C, H, W)`` as ``(batch, C, V, D)``.

    A subclass says where the rays run (`_lines`) and how to invert analytically. Any number of channels is
    accepted.

    Attributes:
        angles: (V,), or (items, V) where every item of the batch has its own.
        detector_shift: (1,) or (V,); (items, 1) or (items, V). A length.
    """

    channelwise = True
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
        channels, self.image_shape = _image_shape(image_shape)
        self.angles = _angles(angles)
        self.num_detectors = _whole("num_detectors", num_detectors)
        self.pixel_size = _pixel_size(pixel_size)
        self.detector_spacing = positive("detector_spacing", detector_spacing)
        self.detector_shift = _shift(detector_shift, self.angles)
        self.domain_shape = (channels, *self.image_shape)
        self.range_shape = (channels, self.angles.shape[-1], self.num_detectors)
        self.items = _items(self.angles, self.detector_shift)

    # -- what a subclass says
    # -------------------------------------------------------------------------------------

    @abstractmethod
    def _lines(
        self, angles: Tensor, shift: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """A point and a direction ``(x, y)`` of every ray, each broadcastable to (V, D), from (V,) and (V or
        1,)."""

    @abstractmethod
    def _seen(self) -> tuple[float, float]:
        """The signed distances from the centre of rotation of the detector's two outermost edges' rays."""

    @abstractmethod
    def _invert(
        self, y: Tensor, angles: Tensor, shift: Tensor, filter: str, cutoff: float
    ) -> Tensor:
        """Filtered back-projection of ``(N, V, D)``."""

    # -- the operator
    # ---------------------------------------------------------------------------------------------

    def parameters(self) -> dict[str, Tensor]:
        return {"angles": self.angles, "detector_shift": self.detector_shift}

    def _replace(self, parameters: dict[str, Tensor]) -> Self:
        other = super()._replace(parameters)
        shift = other.detector_shift
        other.detector_shift = shift.reshape(1) if shift.ndim == 0 else shift
        views = other.angles.shape[-1]
        if (
            other.angles.ndim not in (1, 2)
            or other.detector_shift.ndim not in (1, 2)
            or other.detector_shift.shape[-1] not in (1, views)
        ):
            raise InputError(
                f"{self} takes angles of shape (views,) or (items, views) and detector_shift of "
                f"shape (1,), (views,), (items, 1) or (items, views); got "
                f"{tuple(other.angles.shape)} and {tuple(shift.shape)}"
            )
        other.items = _items(other.angles, other.detector_shift)
        other.range_shape = (self.domain_shape[0], views, self.num_detectors)
        other.__dict__.pop("_rays", None)
        return other

    def to(
        self,
        target: torch.device | torch.dtype | str | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        other = super().to(target, device=device, dtype=dtype)
        # Traced afresh from the moved angles, so that the copy does not depend on what was called before.
        other.__dict__.pop("_rays", None)
        return other

    def select(self, index: Tensor) -> Self:
        if self.items is None:
            return self
        # Only what has an axis of items: two views are not two items.
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
        """The scan of some of the views, for ordered-subset methods: ``A.subset(i)(x) = A(x)[:, :, i]``.

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
        """The table of rays; kept while the geometry is not being differentiated, as it is a function of
        it."""
        if self.items is not None:
            raise InputError(f"{self} has other rays for every item of the batch")
        if self.angles.requires_grad or self.detector_shift.requires_grad:
            return self._trace(self.angles, self.detector_shift)
        kept = self.__dict__.get("_rays")
        key = (_version(self.angles), _version(self.detector_shift))
        if kept is None or kept[0] != key:
            # What is kept must also serve calls that record gradients.
            with torch.inference_mode(False):
                kept = self.__dict__["_rays"] = (key, self._trace(self.angles, self.detector_shift))
        rays: Rays = kept[1]
        return rays

    def _trace(self, angles: Tensor, shift: Tensor) -> Rays:
        points, directions = self._lines(angles.double()[:, None], shift.double()[:, None])
        ones = torch.ones(
            angles.shape[0], self.num_detectors, dtype=torch.float64, device=angles.device
        )
        points = (points[0] * ones, points[1] * ones)
        return Rays.through(points, directions, self.image_shape, self.pixel_size)

    def _detector(self, shift: Tensor) -> Tensor:
        """Coordinates of the detector's cells, (V or 1, D)."""
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
        """Filtered back-projection, ``(batch, C, V, D) -> (batch, C, H, W)``; differentiable in ``y``.

        Args:
            filter: "ram-lak", "shepp-logan", "cosine", "hamming" or "hann".
            cutoff: fraction of the Nyquist frequency above which nothing passes, in (0, 1].
        """
        what = f"the pseudo-inverse of {self} takes y"
        check_shape(y, self.range_shape, what, self.channelwise, self.items)
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
        """Apply to (N, ...) with the channels in the batch; item by item where the geometry differs."""
        if self.items is None:
            flat = function(value.flatten(0, 1), None, None)
            result: Tensor = flat.unflatten(0, value.shape[:2])
            return result
        angles = self.angles.expand(self.items, self.angles.shape[-1])
        shift = self.detector_shift.expand(self.items, self.detector_shift.shape[-1])
        return torch.stack([function(item, angles[k], shift[k]) for k, item in enumerate(value)])

    def _check_view(self) -> None:
        """Raise where the detector does not see the object's centre, warn where it does not see all of it."""
        height, width = (n * size for n, size in zip(self.image_shape, self.pixel_size))
        inner, outer = min(height, width) / 2, math.hypot(height, width) / 2
        low, high = self._seen()
        name = type(self).__name__
        sees = f"the detector sees distances {low:.4g} to {high:.4g} from the centre of rotation"
        if low > outer or high < -outer:
            raise InputError(
                f"no ray of this {name} meets the image: {sees}, the image reaches {outer:.4g}; "
                f"check detector_shift, detector_spacing and pixel_size (one unit of length)"
            )
        if low > 0 or high < 0:
            raise InputError(
                f"this {name} never sees the centre of the image: {sees}; "
                f"check detector_shift (a length, not cells)"
            )
        # A cell's width of slack: an image as wide as its detector is the common case.
        slack = self.detector_spacing
        if low > -inner + slack or high < inner - slack:
            warnings.warn(
                f"the field of view of this {name} cuts the object off: {sees}, the image has an "
                f"inner radius of {inner:.4g}",
                stacklevel=4,
            )

    def plot(self) -> Any:
        """A picture of the geometry, a ``matplotlib.figure.Figure``: source path, detector, image, direction of rotation."""
        from invtoolbox.plotting.scan_geometry import geometry_figure

        return geometry_figure(self)

    def __repr__(self) -> str:
        height, width = self.image_shape
        views = self.angles.shape[-1]
        return f"{type(self).__name__}({height}x{width}, {views} views, {self.num_detectors} detectors)"


def _version(tensor: Tensor) -> int:
    """Counts changes in place, so that a kept table never outlives its angles."""
    return 0 if tensor.is_inference() else tensor._version


# -- checks of the arguments
# -----------------------------------------------------------------------------------


def positive(name: str, value: Any) -> float:
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise InputError(f"{name} must be a positive number, got {value}")
    return number


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or int(value) != value or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1, got {value}")
    return int(value)


def _image_shape(shape: Sequence[int]) -> tuple[int, tuple[int, int]]:
    sizes = tuple(shape)
    if len(sizes) not in (2, 3):
        raise InputError(
            f"image_shape must be (rows, columns) or (channels, rows, columns), got {sizes}"
        )
    channels, height, width = (_whole("every entry of image_shape", n) for n in (1, *sizes)[-3:])
    return channels, (height, width)


def _pixel_size(size: float | Sequence[float]) -> tuple[float, float]:
    pair = (size, size) if isinstance(size, (int, float)) else tuple(size)
    if len(pair) != 2:
        raise InputError(f"pixel_size must be one length or a pair (row, column), got {size}")
    return positive("pixel_size", pair[0]), positive("pixel_size", pair[1])


def _angles(angles: Any) -> Tensor:
    tensor = (
        angles
        if isinstance(angles, Tensor)
        else torch.from_numpy(np.array(angles, dtype=np.float64))
    )
    if not tensor.is_floating_point():
        tensor = tensor.double()
    if tensor.ndim != 1 or tensor.numel() == 0:
        raise InputError(
            f"angles must have shape (views,) with at least one view, got {tuple(tensor.shape)}"
        )
    finite = torch.isfinite(tensor)
    if not bool(finite.all()):
        raise InputError(
            f"angles must be finite: {int((~finite).sum())} of {tensor.numel()} are not, the "
            f"first at view {int((~finite).nonzero()[0])}"
        )
    largest = float(tensor.detach().abs().max())
    if largest > 4 * math.pi + 1e-3:
        raise InputError(
            f"angles look like degrees (up to {largest:.4g}): pass torch.deg2rad(angles); "
            f"radians of more than two turns can be given as angles % (2 * pi)"
        )
    return tensor


def _shift(shift: Any, angles: Tensor) -> Tensor:
    tensor: Tensor = shift
    if not isinstance(shift, Tensor):
        tensor = torch.as_tensor(shift, dtype=torch.float64, device=angles.device)
    tensor = tensor.reshape(1) if tensor.ndim == 0 else tensor
    if tensor.ndim != 1 or tensor.shape[0] not in (1, angles.shape[0]):
        raise InputError(
            f"detector_shift must be a number or have one entry a view ({angles.shape[0]}), "
            f"got shape {tuple(tensor.shape)}"
        )
    if not bool(torch.isfinite(tensor).all()):
        raise InputError("detector_shift must be finite")
    return tensor


def _items(angles: Tensor, shift: Tensor) -> int | None:
    counts = [t.shape[0] for t in (angles, shift) if t.ndim == 2]
    if not counts:
        return None
    items = max(counts)
    if any(count not in (1, items) for count in counts):
        raise InputError(f"angles are for {counts[0]} items and detector_shift for {counts[1]}")
    return items
