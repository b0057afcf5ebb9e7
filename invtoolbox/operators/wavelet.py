"""Orthogonal wavelet transform, exactly orthogonal at every size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range, to_shape
from invtoolbox.errors import InputError, check_name
from invtoolbox.operators.elementary import Unitary


class Wavelet(Unitary):
    """Coefficients ``A x = W x`` of an orthogonal wavelet, in the shape of the image.

    The approximation lies in the first corner, the details around it, coarse to fine; see
    `OrthogonalWavelet`. Channels are transformed one by one, and any number of channels is
    accepted. The adjoint is the inverse. ``L1() @ Wavelet(...)`` penalizes all coefficients;
    `it.priors.WaveletL1` leaves the approximation free. `StationaryWavelet` has the details of all
    shifts.

    Args:
        shape: shape ``(channel, *space)``.
        wavelet: name of an orthogonal wavelet in PyWavelets.
        levels: number of times that the approximation is split.

    >>> A = Wavelet((1, 4), "haar", levels=1)
    >>> A(torch.tensor([[[1.0, 3.0, 5.0, 5.0]]])).round(decimals=3)
    tensor([[[ 2.8280,  7.0710, -1.4140,  0.0000]]])
    """

    channelwise = True

    def __init__(self, shape: Sequence[int], wavelet: str = "db4", levels: int = 3) -> None:
        self.domain_shape = self.range_shape = to_shape(self, shape=shape)
        self.basis = OrthogonalWavelet(wavelet, levels)

    def _forward(self, x: Tensor) -> Tensor:
        return self.basis.transform(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.basis.inverse(y)

    def __repr__(self) -> str:
        return f"Wavelet({self.domain_shape}, {self.basis.wavelet!r}, levels={self.basis.levels})"


class OrthogonalWavelet:
    """Periodised, separable discrete wavelet transform along every spatial axis (Mallat 1989).

    Images may have any size. Two rules make the transform exactly orthogonal at every size: an axis
    that is shorter than the filter is not split any further, and if the length of an axis is odd,
    its last sample is set aside: it is neither filtered along this axis nor split at coarser
    levels. Sizes that are multiples of ``2^levels`` set no sample aside.

    Args:
        wavelet: name of an orthogonal wavelet in PyWavelets: ``"haar"``, ``"db4"``, ``"sym8"``,
            ``"coif2"``, ...
        levels: number of times that the approximation is split.
    """

    # This is a separate implementation with PyWavelets' filters: orthogonality at every size makes
    # adjoint and prox exact, and a further package (ptwt) would add only the products with the
    # filters.

    def __init__(self, wavelet: str, levels: int) -> None:
        check_range(self, "[1, inf)", levels=levels)
        self.wavelet, self.levels = wavelet, int(levels)
        self._low, self._high = orthogonal_filters(wavelet)

    def transform(self, x: Tensor) -> Tensor:
        """Compute ``W x``, of the shape of ``x (batch, channel, *space)``.

        The approximation lies in the first corner.
        """
        coefficients = x.clone()
        for lengths, axes in self.plan(tuple(x.shape[2:])):
            block = values = first_corner(coefficients, lengths, 2)
            for axis in axes:
                values = self._analyze(values, axis + 2)
            block.copy_(values)
        return coefficients

    def inverse(self, coefficients: Tensor) -> Tensor:
        """Compute ``W^T c``, which is the inverse."""
        x = coefficients.clone()
        for lengths, axes in reversed(self.plan(tuple(x.shape[2:]))):
            block = values = first_corner(x, lengths, 2)
            for axis in axes:
                values = self._synthesize(values, axis + 2)
            block.copy_(values)
        return x

    def details(self, space: tuple[int, ...], device: torch.device | None = None) -> Tensor:
        """Return a mask of the coefficients that are details, of shape ``space``.

        The other coefficients are the approximation and the samples set aside.
        """
        details = torch.zeros(space, dtype=torch.bool, device=device)
        for lengths, axes in self.plan(space):
            mask = first_corner(details, lengths, 0)
            for axis in axes:
                half = lengths[axis] // 2
                mask.narrow(axis, half, half).fill_(True)
        return details

    def plan(self, lengths: tuple[int, ...]) -> list[tuple[tuple[int, ...], list[int]]]:
        """Return the size of the block that is split per level, finest first, and the axes."""
        plan = []
        for _ in range(self.levels):
            axes = [k for k, n in enumerate(lengths) if n >= len(self._low)]
            if not axes:
                break
            plan.append((lengths, axes))
            lengths = tuple(n // 2 if k in axes else n for k, n in enumerate(lengths))
        return plan

    def _analyze(self, x: Tensor, axis: int) -> Tensor:
        """Compute one level along an axis: low, high, and the last sample of an odd length."""
        n = x.shape[axis]
        half, reach = n // 2, len(self._low) // 2 - 1
        x, aside = x.split([2 * half, n - 2 * half], axis)
        x = x.roll(reach, axis)
        pairs = x.unflatten(axis, (half, 2))
        # Even and odd samples are separate and continued periodically: every pass below then reads
        # neighbours in memory.
        even, odd = (torch.cat([p, p.narrow(axis, 0, reach)], axis) for p in pairs.unbind(axis + 1))
        low = self._low[0] * even.narrow(axis, 0, half)
        high = self._high[0] * even.narrow(axis, 0, half)
        for k in range(1, len(self._low)):
            samples = (odd if k % 2 else even).narrow(axis, k // 2, half)
            low.add_(samples, alpha=self._low[k])
            high.add_(samples, alpha=self._high[k])
        return torch.cat([low, high, aside], axis)

    def _synthesize(self, coefficients: Tensor, axis: int) -> Tensor:
        """Apply the transpose of `_analyze`."""
        n = coefficients.shape[axis]
        half, reach = n // 2, len(self._low) // 2 - 1
        low, high, aside = coefficients.split([half, half, n - 2 * half], axis)
        shape = list(coefficients.shape)
        shape[axis] = half + reach
        even, odd = coefficients.new_zeros(shape), coefficients.new_zeros(shape)
        for k in range(len(self._low)):
            samples = (odd if k % 2 else even).narrow(axis, k // 2, half)
            samples.add_(low, alpha=self._low[k]).add_(high, alpha=self._high[k])
        for samples in (even, odd):
            samples.narrow(axis, 0, reach).add_(samples.narrow(axis, half, reach))
        pairs = torch.stack([even.narrow(axis, 0, half), odd.narrow(axis, 0, half)], axis + 1)
        return torch.cat([pairs.flatten(axis, axis + 1).roll(-reach, axis), aside], axis)

    def __repr__(self) -> str:
        return f"OrthogonalWavelet({self.wavelet!r}, levels={self.levels})"


def orthogonal_filters(name: str) -> tuple[list[float], list[float]]:
    """Return the low and the high filter of an orthogonal wavelet.

    Their values are in the order in which they meet the samples.
    """
    import pywt

    names = pywt.wavelist(kind="discrete")
    check_name("wavelet", name, names)
    wavelet = pywt.Wavelet(name)
    low, high = [float(v) for v in wavelet.dec_lo[::-1]], [float(v) for v in wavelet.dec_hi[::-1]]
    # A wavelet that a library calls orthogonal may be so to few digits only (dmey); then the
    # inverse would not be the adjoint.
    error = max(
        abs(sum(a * b for a, b in zip(low[shift:], low)) - (shift == 0))
        for shift in range(0, len(low), 2)
    )
    if not wavelet.orthogonal or error > 1e-7:
        raise InputError(
            f"the wavelet {name!r} is not orthogonal, so its adjoint is not its inverse; use haar, "
            "db, sym or coif"
        )
    return low, high


def first_corner(tensor: Tensor, lengths: tuple[int, ...], first: int) -> Tensor:
    """Return a view of the first ``lengths`` places along the axes from ``first`` on."""
    for k, n in enumerate(lengths):
        tensor = tensor.narrow(first + k, 0, n)
    return tensor
