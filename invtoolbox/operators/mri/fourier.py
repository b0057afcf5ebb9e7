"""Unitary discrete Fourier transform, its centred form, and the noise level of k-space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from invtoolbox.core.guards import to_shape
from invtoolbox.errors import InputError
from invtoolbox.operators.elementary import Unitary


def outer_noise_std(y: Tensor, mask: Tensor | None = None, share: float = 0.2) -> Tensor:
    """Estimate the noise level of k-space, ``(batch,)``, from its outermost samples.

    The spectrum of an image decays, so the samples at the border are mostly noise. The median of
    the modulus of complex noise with the standard deviation s in either part is ``s sqrt(2 ln 2)``.
    An image that is sharp to the pixel has structure at the border too, so its noise is
    overestimated.

    Args:
        y: k-space ``(batch, coil, row, column)``, frequency zero in the middle.
        mask: mask of the sampled frequencies, broadcast against ``y``; nonzero entries of ``y`` by
            default.
        share: share of all samples that are used, the outermost ones.

    >>> generator = torch.Generator().manual_seed(0)
    >>> noise = torch.randn(1, 2, 64, 64, dtype=torch.complex64, generator=generator)
    >>> round(float(outer_noise_std(0.1 * noise)), 2)  # 0.1 / sqrt(2) in either part
    0.07
    """
    used = (y != 0) if mask is None else (mask.to(y.device) != 0).expand_as(y)
    rows, columns = (torch.arange(n, device=y.device) - n // 2 for n in y.shape[-2:])
    radius = torch.hypot(rows[:, None] / y.shape[-2], columns / y.shape[-1]).expand_as(y)
    return torch.stack(
        [
            outer_level(values, distance, mask, share)
            for values, distance, mask in zip(y.abs(), radius, used)
        ]
    )


def outer_level(values: Tensor, radius: Tensor, used: Tensor, share: float = 0.2) -> Tensor:
    """Estimate the standard deviation of complex noise in the outermost samples of one item.

    Args:
        values: moduli of the samples.
        radius: distances from frequency zero, of the same shape.
        used: mask of the samples that were taken.
        share: share of the samples that are used, the outermost ones.
    """
    if not bool(used.any()):
        raise InputError(
            "the noise level of k-space cannot be estimated, because no frequency is sampled"
        )
    # A part of the samples suffices for the quantile, which sorts them.
    beyond = radius >= torch.quantile(
        radius[used][:: max(1, int(used.sum()) // 100_000)].double(), 1 - share
    )
    # sqrt(2 ln 2)
    return values[used & beyond].median() / 1.1774100225154747


class Fourier(Unitary):
    r"""Unitary DFT along the last axes, ``(channel, *space) -> (channel, *space)``, complex.

    .. math:: (A x)[k] = N^{-1/2} \sum_n x[n] \, e^{-2 \pi i \langle k - c, (n - c) / N \rangle},
              \qquad c = N // 2

    Frequency zero lies at index ``n // 2`` of every axis, as does the origin of the image; with
    ``centred=False`` both lie at index 0. The adjoint is the inverse. Images may be real or
    complex; spectra, and the results of the adjoint, are complex.

    Args:
        shape: shape ``(channel, *space)``; any number of channels is accepted.
        axes: number of the last axes that are transformed; all axes of space by default.
        centred: whether frequency zero and the origin of the image lie in the middle of every axis.

    >>> A = Fourier((1, 4))
    >>> A(torch.ones(1, 1, 4)).real
    tensor([[[0., 0., 2., 0.]]])
    """

    channelwise = True

    def __init__(self, shape: Sequence[int], axes: int | None = None, centred: bool = True) -> None:
        self.domain_shape = self.range_shape = to_shape(self, shape=shape)
        self.axes = check_axes(axes, len(self.domain_shape) - 1, "Fourier")
        self.centred = centred

    def _forward(self, x: Tensor) -> Tensor:
        if self.centred:
            return centred_fft(x, self.axes)
        return torch.fft.fftn(x, dim=tuple(range(-self.axes, 0)), norm="ortho")

    def _adjoint(self, y: Tensor) -> Tensor:
        if self.centred:
            return centred_ifft(y, self.axes)
        return torch.fft.ifftn(y, dim=tuple(range(-self.axes, 0)), norm="ortho")

    def estimate_noise_std(self, y: Tensor, weights: Tensor | None = None) -> Tensor | None:
        """Estimate the noise level from the outermost samples; see `outer_noise_std`."""
        if self.axes < 2 or not y.is_complex():
            return None
        mask = None if weights is None else (weights != 0).expand_as(y)
        if not self.centred:
            # `outer_noise_std` takes frequency zero in the middle.
            y = torch.fft.fftshift(y, dim=(-2, -1))
            mask = mask if mask is None else torch.fft.fftshift(mask, dim=(-2, -1))
        return outer_noise_std(y, mask)

    def __repr__(self) -> str:
        axes = "" if self.axes == len(self.domain_shape) - 1 else f", axes={self.axes}"
        return f"Fourier({self.domain_shape}{axes})"


def centred_fft(x: Tensor, axes: int) -> Tensor:
    """Compute the unitary DFT of the last ``axes`` axes, origin and frequency 0 at ``n // 2``."""
    last = tuple(range(-axes, 0))
    return torch.fft.fftshift(
        torch.fft.fftn(torch.fft.ifftshift(x, dim=last), dim=last, norm="ortho"), dim=last
    )


def centred_ifft(y: Tensor, axes: int) -> Tensor:
    """Compute the inverse of `centred_fft`, which is its adjoint."""
    last = tuple(range(-axes, 0))
    return torch.fft.fftshift(
        torch.fft.ifftn(torch.fft.ifftshift(y, dim=last), dim=last, norm="ortho"), dim=last
    )


def check_axes(axes: int | None, space: int, name: str) -> int:
    """Return the number of axes that are transformed, ``space`` by default."""
    count = space if axes is None else int(axes)
    if not 1 <= count <= space:
        raise InputError(f"{name} transforms between 1 and {space} axes of space, got {axes}")
    return count


def complex_dtype(x: Tensor) -> torch.dtype:
    """Return the complex dtype of the precision of ``x``."""
    return torch.complex128 if x.dtype in (torch.float64, torch.complex128) else torch.complex64
