"""Unitary discrete Fourier transform, and its centred form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from invtoolbox.core.guards import to_shape
from invtoolbox.errors import InputError
from invtoolbox.operators.elementary import Unitary
from invtoolbox.operators.mri.noise_level import outer_noise_std


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
