"""Sparsity in an orthogonal wavelet basis."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.errors import InputError, unknown_name
from invtoolbox.priors.base import ExplicitPrior
from invtoolbox.priors.explicit.sparsity import L1


class WaveletL1(ExplicitPrior):
    r"""``R(x) = sum of |wavelet coefficients|``, of the details only: the coarse approximation is free.

    The transform ``W`` is the periodised, separable discrete wavelet transform along every spatial axis
    (Mallat 1989), and exactly orthogonal at every size, so the prox is ``W^T soft(W x, step)``. Two rules
    make it so: an axis that is shorter than the filter is not split any further, and where the length of an
    axis is odd its last sample is set aside: it is neither filtered along this axis nor split at coarser
    levels. Sizes that are multiples of ``2^levels`` set nothing aside.

    Args:
        wavelet: the name of an orthogonal wavelet in PyWavelets: ``"haar"``, ``"db4"``, ``"sym8"``,
            ``"coif2"``, ...
        levels: how often the approximation is split.

    >>> prior = WaveletL1("haar", levels=1)
    >>> x = torch.tensor([[[1.0, 3.0, 5.0, 5.0]]])
    >>> prior.energy(x)
    tensor([1.4142])
    >>> prior.prox(x, 10.0)
    tensor([[[2.0000, 2.0000, 5.0000, 5.0000]]])
    """

    is_convex = True

    def __init__(self, wavelet: str = "db4", levels: int = 3) -> None:
        if levels < 1:
            raise InputError(f"a wavelet transform has at least one level, got {levels}")
        self.wavelet, self.levels = wavelet, levels
        self._low, self._high = _filters(wavelet)

    def energy(self, x: Tensor) -> Tensor:
        coefficients, details = self.transform(x)
        return (coefficients.abs() * details).flatten(1).sum(1)

    def prox(self, x: Tensor, step: float | Tensor) -> Tensor:
        coefficients, details = self.transform(x)
        return self.inverse(torch.where(details, L1().prox(coefficients, step), coefficients))

    def transform(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``W x``, shaped like ``x``, its approximation in the first corner, and which entries are detail."""
        coefficients = x.clone()
        details = torch.zeros(x.shape[2:], dtype=torch.bool, device=x.device)
        for lengths, axes in self._plan(tuple(x.shape[2:])):
            block, mask = _corner(coefficients, lengths, 2), _corner(details, lengths, 0)
            values = block
            for axis in axes:
                values = self._analyse(values, axis + 2)
                half = lengths[axis] // 2
                mask.narrow(axis, half, half).fill_(True)
            block.copy_(values)
        return coefficients, details

    def inverse(self, coefficients: Tensor) -> Tensor:
        """``W^T c``, which is the inverse."""
        x = coefficients.clone()
        for lengths, axes in reversed(self._plan(tuple(x.shape[2:]))):
            block = _corner(x, lengths, 2)
            values = block
            for axis in axes:
                values = self._synthesise(values, axis + 2)
            block.copy_(values)
        return x

    def _plan(self, lengths: tuple[int, ...]) -> list[tuple[tuple[int, ...], list[int]]]:
        """For every level the size of the block that is split, and along which axes."""
        plan = []
        for _ in range(self.levels):
            axes = [k for k, n in enumerate(lengths) if n >= len(self._low)]
            if not axes:
                break
            plan.append((lengths, axes))
            lengths = tuple(n // 2 if k in axes else n for k, n in enumerate(lengths))
        return plan

    def _analyse(self, x: Tensor, axis: int) -> Tensor:
        """One level along an axis: ``(low, high)``, then the sample that is set aside, where there is one."""
        n = x.shape[axis]
        half, reach = n // 2, len(self._low) // 2 - 1
        x, aside = x.narrow(axis, 0, 2 * half).roll(reach, axis), x.narrow(axis, 2 * half, n - 2 * half)
        pairs = x.unflatten(axis, (half, 2))
        # Even and odd samples by themselves, continued periodically: every pass below then reads neighbours
        # in memory.
        even, odd = (torch.cat([p, p.narrow(axis, 0, reach)], axis) for p in pairs.unbind(axis + 1))
        low, high = self._low[0] * even.narrow(axis, 0, half), self._high[0] * even.narrow(axis, 0, half)
        for k in range(1, len(self._low)):
            part = (odd if k % 2 else even).narrow(axis, k // 2, half)
            low.add_(part, alpha=self._low[k])
            high.add_(part, alpha=self._high[k])
        return torch.cat([low, high, aside], axis)

    def _synthesise(self, coefficients: Tensor, axis: int) -> Tensor:
        """The transpose of `_analyse`."""
        n = coefficients.shape[axis]
        half, reach = n // 2, len(self._low) // 2 - 1
        low, high, aside = coefficients.split([half, half, n - 2 * half], axis)
        shape = list(coefficients.shape)
        shape[axis] = half + reach
        even, odd = coefficients.new_zeros(shape), coefficients.new_zeros(shape)
        for k in range(len(self._low)):
            part = (odd if k % 2 else even).narrow(axis, k // 2, half)
            part.add_(low, alpha=self._low[k]).add_(high, alpha=self._high[k])
        for samples in (even, odd):
            samples.narrow(axis, 0, reach).add_(samples.narrow(axis, half, reach))
        pairs = torch.stack([even.narrow(axis, 0, half), odd.narrow(axis, 0, half)], axis + 1)
        return torch.cat([pairs.flatten(axis, axis + 1).roll(-reach, axis), aside], axis)

    def __repr__(self) -> str:
        return f"WaveletL1({self.wavelet!r}, levels={self.levels})"


def _filters(name: str) -> tuple[list[float], list[float]]:
    """The filters of an orthogonal wavelet, in the order in which they meet the samples."""
    import pywt

    known = pywt.wavelist(kind="discrete")
    if name not in known:
        raise unknown_name("wavelet", name, known)
    wavelet = pywt.Wavelet(name)
    low, high = [float(v) for v in wavelet.dec_lo[::-1]], [float(v) for v in wavelet.dec_hi[::-1]]
    # What a library calls orthogonal may be so to few digits only (dmey), and then the prox would not be one.
    error = max(abs(sum(a * b for a, b in zip(low[shift:], low)) - (shift == 0))
                for shift in range(0, len(low), 2))
    if not wavelet.orthogonal or error > 1e-7:
        raise InputError(f"the wavelet {name!r} is not orthogonal, so its prox has no closed form; "
                         "use haar, db, sym or coif")
    return low, high


def _corner(tensor: Tensor, lengths: tuple[int, ...], first: int) -> Tensor:
    for k, n in enumerate(lengths):
        tensor = tensor.narrow(first + k, 0, n)
    return tensor
