"""Blur: convolution with a kernel, channel by channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from invtoolbox.core.guards import as_tensor, check_choice, check_range, to_shape
from invtoolbox.errors import InputError
from invtoolbox.operators.base import LinearOperator, expand
from invtoolbox.operators.imaging import fft_convolution as fft

BOUNDARIES = ("reflect", "periodic", "valid", "zero")
#: Half-precision types: FFTs do not support them on a CPU, and are too inaccurate on a GPU.
_HALF = (torch.float16, torch.bfloat16)


class Blur(LinearOperator):
    r"""Convolution of every channel with a kernel.

    .. math:: (A x)[i] = \sum_k \mathrm{kernel}[k] \, x[i + c - k], \qquad c = (k_h // 2, k_w // 2)

    This is a convolution, not a correlation: a point of light is replaced by the kernel in its
    orientation, with the kernel's entry ``c`` at the point. It agrees with `scipy.ndimage.convolve`
    for odd and even kernels.

    Args:
        kernel: the kernel, ``(kh, kw)``; or ``(batch, kh, kw)`` or ``(batch, channel, kh, kw)`` for
            one kernel per item (or per channel). It is not normalized: a kernel that sums to 1
            keeps the brightness.
        image_shape: shape ``(row, column)``, or ``(channel, row, column)``. If all channels share a
            kernel, any number of channels is accepted, so a color photograph passes through an
            operator of one channel.
        boundary: values that are assumed beyond the edge of ``x``:
            ``"reflect"`` mirrors about the edge pixel, which is not repeated (numpy's "reflect",
            SciPy's "mirror");
            ``"periodic"`` wraps around;
            ``"zero"`` is dark;
            ``"valid"`` assumes nothing: it keeps only the ``(row - kh + 1, column - kw + 1)``
            outputs that need no value from beyond the edge.
        tile: FFT length of the tiles that a large image is cut into (overlap-save; the same result
            to rounding). ``None`` cuts above 1 megapixel on a CPU (384) and 16 megapixels on a GPU
            (2048), so that the memory in addition to ``x`` and ``A x`` stays below about four
            planes of one channel.

    Raises:
        InputError: if the kernel is all zero, not finite, not real, larger than the image, or of a
            wrong shape.

    The adjoint is exact for every boundary: with "reflect" it is the transpose of the mirroring,
    not a second mirrored convolution. With "periodic" there are closed forms: `norm`,
    `normal_resolvent`.

    >>> A = Blur(torch.tensor([[1., 2., 3.]]), (1, 5), boundary="zero")
    >>> A(torch.tensor([[[[0., 0., 1., 0., 0.]]]])).flatten().round().abs().tolist()
    [0.0, 1.0, 2.0, 3.0, 0.0]
    """

    # deepinv's Blur and BlurFFT are correct: they agree with SciPy for odd and even kernels, and
    # pass the dot test. But on one core, with a 19x19 kernel and reflection, their FFT takes 8.6
    # and 8.5 ms for A and its adjoint at 512x512, compared with 3.0 and 3.1 here (fast FFT lengths,
    # a kept kernel spectrum), and 164 and 154 ms at 2048x2048, compared with 28 and 36 (tiles).
    # Their memory is not bounded either. Therefore this is a separate implementation.

    has_batch_axis = True
    cache_fields = ("_spectra",)

    def __init__(
        self,
        kernel: Any,
        image_shape: Sequence[int],
        boundary: str = "reflect",
        tile: int | None = None,
    ) -> None:
        check_choice(self, BOUNDARIES, boundary=boundary)
        shape = to_shape(self, image_shape=image_shape)
        if len(shape) not in (2, 3) or min(shape) < 1:
            raise InputError(
                f"the image_shape of a Blur is (row, column) or (channel, row, column), got {shape}"
            )
        check_range(self, "[8, inf)", tile=tile)
        self.boundary, self.tile = boundary, tile
        self.domain_shape = shape if len(shape) == 3 else (1, *shape)
        self.kernel = check_kernel(_four_axes(as_tensor(kernel)), self.domain_shape, "Blur")
        self._kernel_size = kh, kw = (self.kernel.shape[-2], self.kernel.shape[-1])
        # Rows above, rows below, columns left and columns right that an output pixel needs.
        self.margins = (
            (0, 0, 0, 0)
            if boundary == "valid"
            else (kh - 1 - kh // 2, kh // 2, kw - 1 - kw // 2, kw // 2)
        )
        lost = (kh - 1, kw - 1) if boundary == "valid" else (0, 0)
        self.range_shape = (self.domain_shape[0], shape[-2] - lost[0], shape[-1] - lost[1])
        top, bottom, left, right = self.margins
        self._padded_size = (shape[-2] + top + bottom, shape[-1] + left + right)
        self.channelwise = self.kernel.shape[1] == 1
        self.items = self.kernel.shape[0] if self.kernel.shape[0] > 1 else None
        self._spectra: dict[Any, Tensor] = {}

    @property
    def _beyond(self) -> tuple[int, int, int, int]:
        """Rows above and below, and columns left and right, of x around the measurements."""
        kh, kw = self._kernel_size
        sides = (kh - 1 - kh // 2, kh // 2, kw - 1 - kw // 2, kw // 2)
        return sides if self.boundary == "valid" else (0, 0, 0, 0)

    def crop(self, x: Tensor) -> Tensor:
        """Return the part of an image that lies under the measurements, all but for "valid"."""
        top, bottom, left, right = self._beyond
        return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]

    def pad(self, y: Tensor) -> Tensor:
        """Return measurements in the size of the image, continued by the values at their edges."""
        top, bottom, left, right = self._beyond
        return torch.nn.functional.pad(y, (left, right, top, bottom), mode="replicate")

    def without_edges(self, image: Tensor) -> Tensor:
        """Return images without the pixels at the edges that depend on what lies beyond.

        Small images, and those of the periodic boundary, stay as they are.

        Args:
            image: ``(batch, channel, rows, columns)``.
        """
        if self.boundary == "periodic":
            return image
        for axis, n in zip((-2, -1), self.kernel.shape[-2:]):
            size = image.shape[axis]
            edge = n // 2 + 1 if size > 2 * n + 4 else 0
            image = image.narrow(axis, edge, size - 2 * edge)
        return image

    # -- parameters --------------------------------------------------------------------------------

    def parameters(self) -> dict[str, Tensor]:
        """``kernel``, of shape ``(1 or batch, 1 or channel, kh, kw)``."""
        return {"kernel": self.kernel}

    def _replace(self, parameters: dict[str, Tensor]) -> Self:
        blur = super()._replace({})
        if "kernel" in parameters:
            kernel = _four_axes(parameters["kernel"])
            if kernel.shape[-2:] != self.kernel.shape[-2:]:
                raise InputError(
                    f"{self} holds kernels of {tuple(self.kernel.shape[-2:])} pixels, "
                    f"got {tuple(kernel.shape[-2:])}; create a new Blur"
                )
            blur.kernel, blur._spectra = kernel, {}
            blur.items = kernel.shape[0] if kernel.shape[0] > 1 else None
        return blur

    def to(
        self,
        target: torch.device | torch.dtype | str | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        blur = super().to(target, device=device, dtype=dtype)
        blur._spectra = {}
        return blur

    # -- the operator ------------------------------------------------------------------------------

    def _forward(self, x: Tensor) -> Tensor:
        return self._apply(x, transpose=False)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._apply(y, transpose=True)

    def _apply(self, x: Tensor, transpose: bool) -> Tensor:
        if x.dtype in _HALF:
            return self._apply(x.float(), transpose).to(x.dtype)
        if x.is_complex():
            return torch.complex(self._apply(x.real, transpose), self._apply(x.imag, transpose))
        if self._wraps(x):
            multiplier = self._transfer(x).conj() if transpose else self._transfer(x)
            return _by_groups(
                x,
                x.shape[-2:],
                lambda planes, b, c: fft.apply_multiplier(planes, _take(multiplier, b, c)),
            )
        # Padding and a valid convolution, whose transposes in turn are the adjoint.
        cut = fft.plan(self._padded_size, self._kernel_size, self.tile, x.device)
        spectrum = self._spectrum(x, cut.length)

        def convolve(planes: Tensor, b: slice, c: slice) -> Tensor:
            padded = fft.pad(planes, self.margins, self.boundary)
            return fft.valid_convolution(padded, _take(spectrum, b, c), self._kernel_size, cut)

        def correlate(planes: Tensor, b: slice, c: slice) -> Tensor:
            full = fft.valid_transpose(planes, _take(spectrum, b, c), self._kernel_size, cut)
            return fft.pad_transpose(full, self.margins, self.boundary)

        return _by_groups(x, cut.length, correlate if transpose else convolve)

    # -- closed forms ------------------------------------------------------------------------------

    def _known_norm(self) -> Tensor | None:
        """Return the peak of the transfer function, which is exact for the periodic boundary."""
        if self.boundary != "periodic":
            return None
        return self.transfer_function().abs().flatten(1).amax(1)

    def transfer_function(self) -> Tensor:
        """Compute the transform of the centred kernel on the image grid.

        The layout is that of ``rfft2``: ``(1 or batch, 1 or channel, ...)``.
        """
        kernel = self.kernel.float() if self.kernel.dtype in _HALF else self.kernel
        return fft.transfer(kernel, (self.domain_shape[-2], self.domain_shape[-1]))

    def normal_symbol(self) -> tuple[Tensor, bool]:
        transfer = self._transfer(self.kernel, (self.domain_shape[-2], self.domain_shape[-1]))
        return transfer.real.square() + transfer.imag.square(), self.boundary == "periodic"

    @property
    def has_normal_resolvent(self) -> bool:
        return self.boundary == "periodic"

    def normal_resolvent(
        self, v: Tensor, rho: float | Tensor, weight: float | Tensor = 1.0
    ) -> Tensor:
        """Compute ``(weight A^T A + rho I)^{-1} v`` by FFT, for the periodic boundary.

        ``rho`` and ``weight`` are numbers, or one number per item. Planes are transformed as a
        whole, without tiles.
        """
        if self.boundary != "periodic":
            return super().normal_resolvent(v, rho, weight)
        if v.is_complex():
            return torch.complex(
                self.normal_resolvent(v.real, rho, weight),
                self.normal_resolvent(v.imag, rho, weight),
            )
        multiplier = self._transfer(v)
        strength, damping = expand(weight, v), expand(rho, v)

        def solve(planes: Tensor, b: slice, c: slice) -> Tensor:
            power = _take(multiplier, b, c)
            power = power.real.square() + power.imag.square()
            return fft.apply_multiplier(
                planes, 1 / (_take(strength, b, c) * power + _take(damping, b, c))
            )

        return _by_groups(v, v.shape[-2:], solve)

    def pseudo_inverse(self, y: Tensor, regularization: float | Tensor = 1e-3) -> Tensor:
        r"""Apply the Wiener filter :math:`\bar K / (|K|^2 + \text{regularization} \, \max |K|^2)`.

        K is the transfer function. For "periodic" the result is exact least squares with a Tikhonov
        term. For the other boundaries it is an approximation: ``y`` is extended by mirroring (by
        twice the kernel's size on every side, and by the pixels that "valid" lost), filtered
        periodically and cropped.

        Args:
            y: measurements, ``(batch, *range_shape)``.
            regularization: noise-to-signal power ratio, a number or one number per item.
        """
        self._check_measurements("pseudo-inverse", y)
        if y.is_complex():
            return torch.complex(
                self.pseudo_inverse(y.real, regularization),
                self.pseudo_inverse(y.imag, regularization),
            )
        size, start, crop = [], [], []
        for domain, k in zip(self.domain_shape[-2:], self._kernel_size):
            lost = k - 1 - k // 2 if self.boundary == "valid" else 0
            margin = 0 if self.boundary == "periodic" else 2 * k
            start.append(margin + lost)
            crop.append(slice(margin, margin + domain))
            size.append(
                domain if self.boundary == "periodic" else fft.fast_length(domain + 2 * margin)
            )
        multiplier = self._transfer(y, (size[0], size[1]))
        damping = expand(regularization, y)

        def wiener(planes: Tensor, b: slice, c: slice) -> Tensor:
            k = _take(multiplier, b, c)
            power = k.real.square() + k.imag.square()
            floor = _take(damping, b, c) * power.amax((-2, -1), keepdim=True)
            restored = fft.apply_multiplier(
                _extend(planes, start, size), k.conj() / (power + floor)
            )
            return restored[..., crop[0], crop[1]]

        return _by_groups(y, (size[0], size[1]), wiener)

    # -- helpers -----------------------------------------------------------------------------------

    def _wraps(self, x: Tensor) -> bool:
        """Whether one product in the Fourier domain suffices: a periodic image without tiles."""
        small = self.tile is None and x.shape[-2] * x.shape[-1] <= fft.whole_limit(x.device)
        return self.boundary == "periodic" and small

    def _transfer(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        at = size or (x.shape[-2], x.shape[-1])
        return self._transform("transfer", at, x, lambda kernel: fft.transfer(kernel, at))

    def _spectrum(self, x: Tensor, length: tuple[int, int]) -> Tensor:
        return self._transform("spectrum", length, x, lambda kernel: fft.spectrum(kernel, length))

    def _transform(
        self, kind: str, size: tuple[int, int], x: Tensor, make: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the kernel's transform, computed once.

        It would be a third of the work of a call. The transform follows from the kernel alone, so
        keeping it changes no result. It is computed again if a graph is recorded, if the kernel was
        written to, and for images so large that keeping it would cost memory.
        """
        kernel = self.kernel.to(x.dtype)
        if (
            self.kernel.requires_grad
            or self.kernel.is_inference()
            or size[0] * size[1] > fft.whole_limit(x.device)
        ):
            return make(kernel)
        key = (kind, size, x.dtype, self.kernel._version)
        if key not in self._spectra:
            self._spectra[key] = make(kernel)
        return self._spectra[key]

    def __repr__(self) -> str:
        kh, kw = self._kernel_size
        count = f"{self.items} kernels of " if self.items else ""
        return f"Blur({count}{kh}x{kw}, {self.domain_shape}, boundary={self.boundary!r})"


def _four_axes(kernel: Tensor) -> Tensor:
    """Return the kernel with the axes ``(1 or batch, 1 or channel, kh, kw)``."""
    if kernel.ndim not in (2, 3, 4):
        raise InputError(
            "the kernel of a Blur is (kh, kw), (batch, kh, kw) or (batch, channel, kh, kw), "
            f"got shape {tuple(kernel.shape)}"
        )
    if kernel.ndim == 2:
        return kernel[None, None]
    return kernel[:, None] if kernel.ndim == 3 else kernel


def check_kernel(kernel: Tensor, domain: tuple[int, ...], name: str) -> Tensor:
    """Return a real kernel; raise an `InputError` if it does not fit the image.

    Args:
        kernel: kernel with all axes, ``(1 or batch, 1 or channel, *size)``.
        domain: shape ``(channel, *space)`` of the image.
        name: name of the operator, for error messages.
    """
    if kernel.is_complex():
        raise InputError(f"the kernel of a {name} is real, got a complex one")
    if not kernel.is_floating_point():
        kernel = kernel.to(torch.float32)
    channels, *size = kernel.shape[1:]
    if any(k > n for k, n in zip(size, domain[1:])):
        raise InputError(
            f"the kernel of a {name} has {'x'.join(map(str, size))} pixels, which is larger than "
            f"the image of {'x'.join(map(str, domain[1:]))}; crop the kernel"
        )
    if channels not in (1, domain[0]):
        raise InputError(
            f"the kernel of a {name} has {channels} channels and the image {domain[0]}; give one "
            "kernel for all channels, or one per channel"
        )
    wrong = int((~kernel.isfinite()).sum())
    if wrong:
        raise InputError(f"the kernel of a {name} has {wrong} entries that are NaN or infinite")
    empty = (kernel == 0).flatten(1).all(1)
    if bool(empty.any()):
        which = f" of item {int(empty.nonzero()[0])}" if len(empty) > 1 else ""
        raise InputError(
            f"the kernel{which} of a {name} is zero everywhere, so the measurements would hold no "
            "information"
        )
    return kernel


def _take(value: Tensor, b: slice, c: slice) -> Tensor:
    """Take a group of a tensor of shape ``(1 or batch, 1 or channel, ...)``, or of a number."""
    if value.ndim == 0:
        return value
    return value[b if value.shape[0] > 1 else slice(None), c if value.shape[1] > 1 else slice(None)]


def _by_groups(
    x: Tensor, area: Sequence[int], work: Callable[[Tensor, slice, slice], Tensor]
) -> Tensor:
    """Apply ``work`` to groups of planes that fit into fast memory, and join the results."""
    out: Tensor | None = None
    for b, c in fft.groups(x, area[0] * area[1]):
        piece = work(x[b, c], b, c)
        if piece.shape[:2] == x.shape[:2]:
            return piece.contiguous()
        if out is None:
            out = piece.new_empty(*x.shape[:2], *piece.shape[2:])
        out[b, c] = piece
    return x if out is None else out


def _extend(y: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    """Extend ``y`` by mirroring to an image of ``size`` in which it begins at ``start``."""
    for axis in (0, 1):
        n = y.shape[axis - 2]
        index = torch.arange(size[axis], device=y.device) - start[axis]
        index = index.abs() % max(2 * n - 2, 1)
        y = y.index_select(axis - 2, torch.where(index < n, index, 2 * n - 2 - index))
    return y
