"""Blur of a volume, for deconvolution microscopy with a point spread function measured on beads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from invtoolbox.core.guards import as_tensor, check_choice, check_range, to_shape
from invtoolbox.core.pytrees import map_items
from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator, expand
from invtoolbox.operators.imaging import fft_convolution as fft
from invtoolbox.operators.imaging.blur import BOUNDARIES, check_kernel


class Blur3D(LinearOperator):
    r"""Convolution of a volume ``(batch, channel, slice, row, column)`` with a kernel; see `Blur`.

    .. math:: (A x)[i] = \sum_k \mathrm{kernel}[k] \, x[i + c - k],
              \qquad c = (k_d // 2, k_h // 2, k_w // 2)

    Whole volumes are transformed, padded to fast lengths; the memory in addition to ``x`` and
    ``A x`` is about three padded volumes.

    Args:
        kernel: the kernel, ``(kd, kh, kw)``, or ``(batch, kd, kh, kw)`` for one kernel per item. It
            is not normalized: divide a measured kernel by its sum (`measured_psf`).
        volume_shape: shape ``(slice, row, column)``; any number of channels is accepted.
        boundary: boundary rule, ``"reflect"``, ``"periodic"``, ``"zero"`` or ``"valid"``, as in
            `Blur`.

    Raises:
        InputError: if the kernel is all zero, not finite, not real, larger than the volume, or of a
            wrong shape.

    >>> A = Blur3D(torch.ones(3, 1, 1) / 3, (4, 2, 2), boundary="zero")
    >>> A(torch.ones(1, 1, 4, 2, 2))[0, 0, :, 0, 0].round(decimals=4)
    tensor([0.6667, 1.0000, 1.0000, 0.6667])
    """

    channelwise = True
    has_batch_axis = True

    def __init__(self, kernel: Any, volume_shape: Sequence[int], boundary: str = "reflect") -> None:
        check_choice(self, BOUNDARIES, boundary=boundary)
        shape = to_shape(self, volume_shape=volume_shape)
        if len(shape) != 3 or min(shape) < 1:
            raise InputError(f"the volume_shape of a Blur3D is (slice, row, column), got {shape}")
        self.boundary = boundary
        self.domain_shape = (1, *shape)
        kernel = _five_axes(as_tensor(kernel))
        self.kernel = check_kernel(kernel, self.domain_shape, "Blur3D")
        sizes = self.kernel.shape[-3:]
        lost = [k - 1 if boundary == "valid" else 0 for k in sizes]
        self.range_shape = (1, *(n - m for n, m in zip(shape, lost)))
        self.margins = tuple(
            (0, 0) if boundary == "valid" else (k - 1 - k // 2, k // 2) for k in sizes
        )
        # Lengths of the transforms: the volume with its margins, or a periodic volume itself.
        self._length = tuple(
            n if boundary == "periodic" else fft.fast_length(n + sum(m))
            for n, m in zip(shape, self.margins)
        )
        self.items = len(self.kernel) if len(self.kernel) > 1 else None

    def parameters(self) -> dict[str, Tensor]:
        """``kernel``, of shape ``(1 or batch, 1, kd, kh, kw)``."""
        return {"kernel": self.kernel}

    def _replace(self, parameters: dict[str, Tensor]) -> Self:
        if "kernel" not in parameters:
            return super()._replace(parameters)
        kernel = _five_axes(parameters["kernel"])
        if kernel.shape[-3:] != self.kernel.shape[-3:]:
            raise InputError(
                f"{self} holds kernels of {tuple(self.kernel.shape[-3:])} voxels, got "
                f"{tuple(kernel.shape[-3:])}; create a new Blur3D"
            )
        blur = super()._replace({"kernel": kernel})
        return blur._with_items(len(kernel) if len(kernel) > 1 else None)

    # -- the operator ------------------------------------------------------------------------------

    def _spectrum(self, like: Tensor) -> Tensor:
        """Compute the transform of the kernel.

        Its first entry lies at the origin; for the periodic boundary its centre does.
        """
        kernel = self.kernel.to(like.dtype)
        if self.boundary == "periodic":
            padding = [
                p
                for n, k in zip(reversed(self._length), reversed(kernel.shape[-3:]))
                for p in (0, n - k)
            ]
            kernel = F.pad(kernel, padding).roll(
                [-(k // 2) for k in self.kernel.shape[-3:]], (-3, -2, -1)
            )
        return map_items(
            lambda item: torch.fft.rfftn(item, s=self._length, dim=(-3, -2, -1)), kernel
        )

    def _forward(self, x: Tensor) -> Tensor:
        if x.is_complex():
            return torch.complex(self._forward(x.real), self._forward(x.imag))
        if self.boundary == "periodic":
            return self._filter(x, self._spectrum(x))
        mode = fft.PAD_MODES.get(self.boundary, "constant")
        padded = (
            F.pad(x, [m for pair in reversed(self.margins) for m in pair], mode=mode)
            if any(map(any, self.margins))
            else x
        )
        wrapped = self._filter(padded, self._spectrum(x))
        # The first kernel - 1 values of a periodic convolution have wrapped around.
        for axis, (k, n) in enumerate(zip(self.kernel.shape[-3:], padded.shape[2:]), start=2):
            wrapped = wrapped.narrow(axis, k - 1, n - k + 1)
        return wrapped.contiguous()

    def _adjoint(self, y: Tensor) -> Tensor:
        if y.is_complex():
            return torch.complex(self._adjoint(y.real), self._adjoint(y.imag))
        if self.boundary == "periodic":
            return self._filter(y, self._spectrum(y).conj())
        # The transposes of the steps of `_forward`, backwards: zeros for what is cut off, the
        # correlation, and the fold of the padding.
        before = [k - 1 for k in self.kernel.shape[-3:]]
        padding = [
            p
            for b, n, length in zip(reversed(before), reversed(y.shape[2:]), reversed(self._length))
            for p in (b, length - n - b)
        ]
        full = self._filter(F.pad(y, padding), self._spectrum(y).conj())
        for axis, (n, margin) in enumerate(zip(self.domain_shape[1:], self.margins), start=2):
            full = fft.fold(full.narrow(axis, 0, n + sum(margin)), axis, *margin, self.boundary)
        return full.contiguous()

    def _filter(self, x: Tensor, multiplier: Tensor) -> Tensor:
        dims = (-3, -2, -1)

        def apply(x: Tensor, multiplier: Tensor) -> Tensor:
            half = torch.fft.rfftn(x, s=self._length, dim=dims) * multiplier
            return torch.fft.irfftn(half, s=self._length, dim=dims)

        return map_items(apply, x, multiplier)

    # -- closed forms ------------------------------------------------------------------------------

    def _known_norm(self) -> Tensor | None:
        """Return the peak of the transfer function, which is exact for the periodic boundary."""
        if self.boundary != "periodic":
            return None
        return self._spectrum(self.kernel).abs().flatten(1).amax(1)

    def normal_symbol(self) -> tuple[Tensor, bool] | None:
        if self.boundary == "periodic":
            return self._spectrum(self.kernel).abs().square(), True
        periodic = Blur3D(self.kernel[:, 0], self.domain_shape[1:], "periodic")
        return periodic._spectrum(self.kernel).abs().square(), False

    @property
    def has_normal_resolvent(self) -> bool:
        return self.boundary == "periodic"

    def normal_resolvent(
        self, v: Tensor, rho: float | Tensor, weight: float | Tensor = 1.0
    ) -> Tensor:
        """Compute ``(weight A^T A + rho I)^{-1} v`` by FFT, for the periodic boundary."""
        if self.boundary != "periodic":
            return super().normal_resolvent(v, rho, weight)
        if v.is_complex():
            return torch.complex(
                self.normal_resolvent(v.real, rho, weight),
                self.normal_resolvent(v.imag, rho, weight),
            )
        power = self._spectrum(v).abs().square()
        return self._filter(v, 1 / (expand(weight, v) * power + expand(rho, v)))

    def pseudo_inverse(self, y: Tensor, regularization: float | Tensor = 1e-3) -> Tensor:
        """Apply the Wiener filter, as in `Blur`; for the periodic boundary only."""
        self._check_measurements("pseudo-inverse", y)
        if self.boundary != "periodic":
            return super().pseudo_inverse(y)
        transfer = self._spectrum(y)
        power = transfer.abs().square()
        floor = expand(regularization, y) * power.amax((-3, -2, -1), keepdim=True)
        return self._filter(y, transfer.conj() / (power + floor))

    def __repr__(self) -> str:
        size = "x".join(map(str, self.kernel.shape[-3:]))
        count = f"{self.items} kernels of " if self.items else ""
        return f"Blur3D({count}{size}, {self.domain_shape}, boundary={self.boundary!r})"


def measured_psf(
    stack: Any, background: float | None = None, size: Sequence[int] | None = None
) -> Tensor:
    """Compute a kernel ``(slice, row, column)`` from the image of a bead.

    The background is subtracted, the brightest voxel lies in the middle, and the sum is 1.

    Args:
        stack: the measured image ``(slice, row, column)``.
        background: value without a bead; the median of the border by default. Values below it
            become 0.
        size: size of the kernel, which is cut out around the brightest voxel; the size of the stack
            by default. Voxels outside of the stack are 0.

    >>> bead = torch.ones(5, 5, 5); bead[1, 2, 3] = 3
    >>> float(measured_psf(bead, size=(3, 3, 3))[1, 1, 1])
    1.0
    """
    values = as_tensor(stack)
    values = values if values.is_floating_point() else values.to(torch.float32)
    if values.ndim != 3 or not bool(values.isfinite().all()):
        raise InputError(
            "a measured point spread function must be a finite stack (slice, row, column), got "
            f"shape {tuple(values.shape)}"
        )
    if background is None:
        border = torch.ones_like(values, dtype=torch.bool)
        border[tuple(slice(1, -1) if n > 2 else slice(None) for n in values.shape)] = False
        background = float(values[border].median()) if bool(border.any()) else 0.0
    values = (values - background).clamp_min(0)
    if not bool((values > 0).any()):
        raise InputError(
            "the measured point spread function is nowhere above its background; give background="
        )
    sizes = tuple(values.shape) if size is None else tuple(int(n) for n in size)
    peak = [int(p) for p in torch.unravel_index(values.argmax(), values.shape)]
    for axis, (p, n) in enumerate(zip(peak, sizes)):
        start = p - n // 2
        before, after = max(-start, 0), max(start + n - values.shape[axis], 0)
        padding = [0, 0] * (2 - axis) + [before, after]
        values = F.pad(values, padding).narrow(axis, start + before, n)
    return values / values.sum()


def _five_axes(kernel: Tensor) -> Tensor:
    """Return the kernel with the axes ``(1 or batch, 1, kd, kh, kw)``."""
    if kernel.ndim == 5 and kernel.shape[1] == 1:
        return kernel
    if kernel.ndim not in (3, 4):
        raise InputError(
            "the kernel of a Blur3D is (kd, kh, kw) or (batch, kd, kh, kw), got shape "
            f"{tuple(kernel.shape)}"
        )
    return kernel[None, None] if kernel.ndim == 3 else kernel[:, None]


#: Least correlation of a bead with the median of all, and least number of beads for a median.
_ALIKE, _ENOUGH = 0.8, 3


def psf_from_beads(
    stack: Any, size: Sequence[int], threshold: float = 0.2, saturation: float | None = None
) -> Tensor:
    """Compute a kernel ``(slice, row, column)`` from a stack with several beads; its sum is 1.

    Beads are local maxima. A bead is left out if it lies near the border, has a neighbour within
    ``size``, is saturated, or resembles the median of the others with a correlation below 0.8. The
    rest is shifted to the centroids of their cores, to a fraction of a voxel, and averaged with the
    same weight; noise falls with the root of their number.

    Args:
        stack: image of the beads, ``(slice, row, column)``.
        size: odd numbers of slices, rows and columns of the kernel.
        threshold: least height of a bead above the background, relative to the highest one.
        saturation: value from which a reading is clipped; the largest value of an integer type by
            default, and none for floating point.

    Raises:
        InputError: no bead is left; the sentence counts the reasons.

    >>> beads = torch.zeros(9, 40, 20); beads[4, 10, 10] = beads[4, 28, 9] = 1000
    >>> psf_from_beads(beads, (5, 7, 7)).argmax() == (5 * 7 * 7) // 2
    tensor(True)
    """
    field = as_tensor(stack)
    sizes = tuple(int(n) for n in size)
    check_range("psf_from_beads", "(0, 1)", threshold=threshold)
    if field.ndim != 3 or len(sizes) != 3 or any(n % 2 == 0 or n < 1 for n in sizes):
        raise InputError(
            "psf_from_beads takes a stack (slice, row, column) and three odd sizes, got shape "
            f"{tuple(field.shape)} and size {sizes}"
        )
    if any(n > m for n, m in zip(sizes, field.shape)):
        raise InputError(
            f"a kernel of {sizes} does not fit a stack of {tuple(field.shape)}; give a smaller size"
        )
    if saturation is None and not field.is_floating_point():
        saturation = float(torch.iinfo(field.dtype).max)
    values = field.double()
    values = values - values.median()
    highest = F.max_pool3d(values[None], sizes, 1, tuple(n // 2 for n in sizes))[0]
    peaks = ((values == highest) & (values >= threshold * values.max())).nonzero()
    cuts, lost = [], {"near the border": 0, "saturated": 0, "with a neighbour": 0}
    for peak in peaks:
        low = [int(p) - n // 2 for p, n in zip(peak, sizes)]
        if any(a < 0 or a + n > m for a, n, m in zip(low, sizes, field.shape)):
            lost["near the border"] += 1
            continue
        window = tuple(slice(a, a + n) for a, n in zip(low, sizes))
        is_near = ((peaks - peak).abs() < torch.tensor(sizes)).all(1)
        # A clipped bead has several maxima.
        if saturation is not None and float(field[window].max()) >= saturation:
            lost["saturated"] += 1
        elif int(is_near.sum()) > 1:
            lost["with a neighbour"] += 1
        else:
            cuts.append(_centred(values[window]))
    beads = torch.stack(cuts) if cuts else values.new_zeros(0, *sizes)
    if len(beads) >= _ENOUGH:
        flat = F.normalize((beads - beads.mean((1, 2, 3), keepdim=True)).flatten(1))
        middle = beads.median(0).values
        alike = flat @ F.normalize((middle - middle.mean()).flatten(), dim=0) >= _ALIKE
        lost["unlike the others"] = int((~alike).sum())
        beads = beads[alike]
    if not len(beads):
        reasons = ", ".join(f"{count} {reason}" for reason, count in lost.items() if count)
        raise InputError(
            f"no bead is left for a kernel of {sizes}, of maxima {reasons or 'none'}; give a smaller "
            "size or threshold, or measure sparser beads"
        )
    return measured_psf(beads.mean(0), size=sizes).to(torch.float32)


def _centred(bead: Tensor) -> Tensor:
    """Shift a bead by the phase of its transform so that the centroid of its core is the middle.

    The result has the sum 1.
    """
    dims = tuple(range(bead.ndim))
    middle = [n // 2 for n in bead.shape]
    core = bead.clamp_min(0)
    core = torch.where(core >= 0.5 * core.max(), core, 0.0)
    phase = torch.zeros_like(bead, dtype=torch.complex128)
    for axis, (n, m) in enumerate(zip(bead.shape, middle)):
        place = torch.arange(n, dtype=bead.dtype)
        along = core.sum([d for d in dims if d != axis])
        shift = m - float((place * along).sum() / along.sum())
        ramp = -2j * torch.pi * torch.fft.fftfreq(n, dtype=bead.dtype) * shift
        phase = phase + ramp.view([n if d == axis else 1 for d in dims])
    shifted = torch.fft.ifftn(torch.fft.fftn(bead) * phase.exp()).real
    return shifted / shifted.sum()
