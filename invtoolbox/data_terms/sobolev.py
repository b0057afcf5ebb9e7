"""Sobolev H^s: a misfit that weights frequencies, and the cosine transform that it uses.

The cosine transform is the Fourier transform of signals that are mirrored at their edges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor

from invtoolbox.core.guards import check_choice, check_range
from invtoolbox.core.pytrees import map_items
from invtoolbox.data_terms.base import Problem, ResidualTerm
from invtoolbox.errors import InputError
from invtoolbox.operators.base import expand

Boundary = Literal["periodic", "neumann"]
Unit = Literal["wavenumber", "sample"]


class Sobolev(ResidualTerm):
    r"""Squared Sobolev norm ``D(p, y) = 1/2 |p - y|^2_{H^s} / noise_std^2`` of the residual.

    The norm is ``|r|^2_{H^s} = <r, W r>`` with ``W = c (1 - Laplacian)^s``. W multiplies the
    Fourier coefficient at frequency ``xi`` by ``w(xi) = c (1 + |length_scale xi|^2)^s`` for any
    real ``s`` (Zhu, Hu, Lou & Yang, arXiv 2109.06255, section 2). ``s < 0`` trusts low frequencies
    more and is robust to noise of high frequency; ``s > 0`` trusts high frequencies more and is
    robust to noise of low frequency; ``s = 0`` is least squares. In Bayesian terms the noise has
    the covariance ``noise_std^2 W^-1``.

    The constant ``c`` makes the mean of ``w`` over all frequencies 1, so that the weight of a prior
    has the same meaning for every ``s``: white noise, and noise of that covariance, then both have
    an expected misfit of 1/2 per measurement.

    The unit of ``xi`` matters more than the order: at the highest frequency of a 256x256 image,
    ``w`` is ``3e4^s`` in integer wavenumbers and ``20^s`` in radians per sample, up to ``c``.

    Args:
        order: the exponent ``s``.
        length_scale: length at which the weights turn, in the unit below; from the frequency
            ``1 / length_scale`` on they differ much from a constant.
        noise_std: noise level in the units of ``y``, a number or one number per item; see above.
        axes: axes of ``y`` that are transformed, counted with the batch as axis 0; ``None`` for all
            axes behind the channel. For a sinogram ``(batch, channel, angle, detector)``, ``(-1,)``
            is the detector alone.
        homogeneous: whether the weights are ``|length_scale xi|^(2s)``. Frequency 0 then has weight
            0, so the mean of the data has no influence.
        boundary: boundary rule, ``"periodic"`` (FFT), or ``"neumann"`` (cosine transform DCT-II:
            mirrored at the edges), which does not treat the jump from one edge to the other as a
            detail.
        unit: unit of ``xi``: ``"wavenumber"``, periods over the length of each axis, whatever that
            length is (the domain is then ``[0, 2 pi]`` in every axis), or ``"sample"``, radians per
            sample, so that ``length_scale`` is a number of samples.

    >>> y = torch.zeros(1, 1, 8)
    >>> wave = torch.cos(2 * torch.pi * torch.arange(8) / 8 * 3).view(1, 1, 8)
    >>> smooth, strict = Sobolev(-1.0), Sobolev(1.0)
    >>> bool(smooth.value(wave, y) < Sobolev(0.0).value(wave, y) < strict.value(wave, y))
    True
    """

    is_quadratic = True

    def __init__(
        self,
        order: float,
        length_scale: float = 1.0,
        noise_std: float | Tensor | None = None,
        axes: Sequence[int] | None = None,
        homogeneous: bool = False,
        boundary: Boundary = "periodic",
        unit: Unit = "wavenumber",
    ) -> None:
        if not math.isfinite(order):
            raise InputError(f"the order of Sobolev must be a finite number, got {order}")
        check_range(self, "(0, inf)", length_scale=length_scale)
        check_choice(self, ("periodic", "neumann"), boundary=boundary)
        check_choice(self, ("wavenumber", "sample"), unit=unit)
        super().__init__(noise_std)
        self.order, self.length_scale = float(order), float(length_scale)
        self.axes = tuple(axes) if axes is not None else None
        self.homogeneous, self.boundary, self.unit = homogeneous, boundary, unit
        self._prepared: Tensor | None = None

    # -- the misfit --------------------------------------------------------------------------------

    def weighted(self, residual: Tensor) -> Tensor:
        return self._filter(residual, self._weights(residual) * self._precision(residual))

    def prox(self, prediction: Tensor, y: Tensor, step: float | Tensor) -> Tensor:
        """Move the coefficient at frequency ``xi`` by ``t w / (1 + t w)`` towards that of ``y``."""
        t = self._precision(prediction) * expand(step, prediction)
        pull = self._weights(prediction) * t
        return prediction + self._filter(y - prediction, pull / (1 + pull))

    def symbol(self, y: Tensor) -> tuple[Tensor, bool] | None:
        if self._axes(y.ndim) != tuple(range(2, y.ndim)) or self.boundary != "periodic":
            return None
        return self._weights(y).narrow(-1, 0, y.shape[-1] // 2 + 1) * self._precision(y), True

    def curvature(self, y: Tensor) -> Tensor:
        largest = self._weights(y).amax().reshape(1)
        return largest * self._precision(largest)

    def expected_discrepancy(self, y: Tensor) -> Tensor | None:
        """Return ``sqrt(m)`` for m measurements."""
        if self.noise_std is None:
            return None
        count = y.numel() // y.shape[0] * (2 if y.is_complex() else 1)
        return torch.full((y.shape[0],), math.sqrt(count), device=y.device)

    # -- the weights -------------------------------------------------------------------------------

    def frequency_weights(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Compute ``w`` for data of a shape, batch included; the mean of ``w`` is 1.

        The transformed axes are frequencies, in the order of `torch.fft.fftfreq` or of the cosine
        transform; the other axes have length 1.

        >>> Sobolev(1.0).frequency_weights((1, 1, 4)).flatten()
        tensor([0.4000, 0.8000, 2.0000, 0.8000], dtype=torch.float64)
        """
        axes = self._axes(len(shape))
        squared = torch.zeros([1] * len(shape), dtype=torch.float64, device=device)
        for axis in axes:
            n = shape[axis]
            if self.boundary == "periodic":
                wavenumber = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64, device=device)
            else:
                wavenumber = torch.arange(n, dtype=torch.float64, device=device) / 2
            xi = wavenumber if self.unit == "wavenumber" else wavenumber * (2 * math.pi / n)
            along = [n if k == axis else 1 for k in range(len(shape))]
            squared = squared + (self.length_scale * xi).square().view(along)
        if self.homogeneous:
            # A norm of negative order is infinite at frequency 0; weight 0 suits residuals of mean
            # zero.
            weights = torch.where(
                squared > 0, torch.where(squared > 0, squared, 1.0).pow(self.order), 0.0
            )
        else:
            weights = (1 + squared).pow(self.order)
        if not bool(weights.any()):
            raise InputError(
                "a homogeneous Sobolev norm needs a transformed axis with more than one sample"
            )
        return (weights / weights.mean()).to(dtype)

    def prepare(self, problem: Problem, solve: Any) -> Self:
        y = problem.y0
        return self._replace(_prepared=self.frequency_weights(y.shape, y.real.dtype, y.device))

    def subset(self, index: Any, y: Tensor) -> Self:
        if 2 in self._axes(y.ndim):
            raise InputError(
                f"{self!r} transforms the axis along which subsets are taken; give it other axes="
            )
        return self

    def _weights(self, like: Tensor) -> Tensor:
        w = self._prepared
        axes = self._axes(like.ndim)
        shape = [n if k in axes else 1 for k, n in enumerate(like.shape)]
        real = like.real.dtype
        if w is not None and list(w.shape) == shape and w.dtype == real and w.device == like.device:
            return w
        return self.frequency_weights(like.shape, real, like.device)

    def _axes(self, ndim: int) -> tuple[int, ...]:
        """Return the transformed axes, counted from 0, in ascending order."""
        if self.axes is None:
            return tuple(range(2, ndim))
        axes = tuple(sorted({a % ndim if -ndim <= a < ndim else 0 for a in self.axes}))
        if not axes or axes[0] == 0 or len(axes) != len(self.axes):
            raise InputError(
                "axes of Sobolev must be distinct axes of y other than the batch (0); "
                f"y has {ndim} axes, got {self.axes}"
            )
        return axes

    def _filter(self, residual: Tensor, weights: Tensor) -> Tensor:
        """Multiply the coefficient of every frequency by its weight."""
        axes = self._axes(residual.ndim)
        if not axes:
            return residual * weights
        if self.boundary == "neumann":
            coefficients = residual
            for axis in axes:
                coefficients = cosine_transform(coefficients, axis)
            coefficients = coefficients * weights
            for axis in axes:
                coefficients = inverse_cosine_transform(coefficients, axis)
            return coefficients

        def apply(x: Tensor, weights: Tensor) -> Tensor:
            if x.is_complex():
                return torch.fft.ifftn(torch.fft.fftn(x, dim=axes) * weights, dim=axes)
            half = torch.fft.rfftn(x, dim=axes)
            half = half * weights.narrow(axes[-1], 0, half.shape[axes[-1]])
            return torch.fft.irfftn(half, s=[x.shape[a] for a in axes], dim=axes)

        return map_items(apply, residual, weights)

    def __repr__(self) -> str:
        return self._describe(f"{self.order:g}")


def cosine_transform(x: Tensor, axis: int) -> Tensor:
    """Compute the DCT-II along an axis, by an FFT of the same length (Makhoul 1980).

    >>> cosine_transform(torch.ones(4), 0)
    tensor([4., 0., 0., 0.])
    """
    if x.is_complex():
        return torch.complex(cosine_transform(x.real, axis), cosine_transform(x.imag, axis))
    x = x.movedim(axis, -1)
    n = x.shape[-1]
    spectrum = torch.fft.fft(torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], -1), dim=-1)
    return (spectrum * _twiddle(n, x)).real.movedim(-1, axis)


def inverse_cosine_transform(x: Tensor, axis: int) -> Tensor:
    """Compute the inverse of `cosine_transform`."""
    if x.is_complex():
        return torch.complex(
            inverse_cosine_transform(x.real, axis), inverse_cosine_transform(x.imag, axis)
        )
    x = x.movedim(axis, -1)
    n = x.shape[-1]
    mirrored = torch.cat([torch.zeros_like(x[..., :1]), x[..., 1:].flip(-1)], -1)
    samples = torch.fft.ifft(torch.complex(x, -mirrored) * _twiddle(n, x).conj(), dim=-1).real
    even = (n + 1) // 2
    result = torch.empty_like(x)
    result[..., ::2], result[..., 1::2] = samples[..., :even], samples[..., even:].flip(-1)
    return result.movedim(-1, axis)


def _twiddle(n: int, like: Tensor) -> Tensor:
    angle = torch.arange(n, dtype=like.dtype, device=like.device) * (-math.pi / (2 * n))
    return torch.polar(torch.ones_like(angle), angle)
