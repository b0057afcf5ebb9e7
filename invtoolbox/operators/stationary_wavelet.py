"""Stationary (undecimated) wavelet transform: the details at all shifts of the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from invtoolbox.core.guards import check_range, to_shape
from invtoolbox.operators.base import LinearOperator
from invtoolbox.operators.wavelet import first_corner, orthogonal_filters


class StationaryWavelet(LinearOperator):
    """Details of the stationary wavelet transform, for priors that do not depend on a grid.

    Level j of `OrthogonalWavelet` keeps every ``2^j``-th place along each of d axes. Which places
    depends on where the image begins, and that leaves blocks. This transform keeps all places ("à
    trous", Holschneider et al. 1989) and divides a detail of level j by their number ``2^(d j)``.
    So ``|A x|_1`` is the mean of the l1 norms of the details over all shifts of the image (Coifman
    & Donoho 1995). A detail whose support leaves the image is 0: nothing wraps around.

    Args:
        shape: shape ``(channel, *space)`` of the image. The result has the shape
            ``(levels * channel * bands, *space)`` with ``2^d - 1`` bands, ordered (level, channel,
            band). Band b holds the high frequencies of the axes that are the bits of ``b + 1``, the
            last axis first.
        wavelet: name of an orthogonal wavelet in PyWavelets.
        levels: number of levels. An axis that is shorter than the support of a detail is not split.

    >>> A = StationaryWavelet((1, 4), "haar", levels=1)
    >>> A(torch.tensor([[[1.0, 3.0, 5.0, 5.0]]])).round(decimals=3)
    tensor([[[-0.7070, -0.7070,  0.0000,  0.0000]]])
    """

    def __init__(self, shape: Sequence[int], wavelet: str = "haar", levels: int = 2) -> None:
        check_range(self, "[1, inf)", levels=levels)
        self.domain_shape = to_shape(self, shape=shape)
        self.wavelet, self.levels = wavelet, int(levels)
        # One factor 1/sqrt(2) keeps the norm of a line, another one is the mean over shifts.
        self._low, self._high = ([v / 2 for v in taps] for taps in orthogonal_filters(wavelet))
        self.bands = 2 ** (len(self.domain_shape) - 1) - 1
        channels = self.levels * self.domain_shape[0] * self.bands
        self.range_shape = (channels, *self.domain_shape[1:])

    def _forward(self, x: Tensor) -> Tensor:
        details = x.new_zeros(x.shape[0], self.levels, x.shape[1], self.bands, *x.shape[2:])
        smooth = x
        for level, lengths in enumerate(self._plan()):
            bands = [smooth]
            for axis, length in enumerate(lengths, start=2):
                bands = [band for x in bands for band in self._analyze(x, axis, length, 2**level)]
            smooth = bands[0]
            for k, band in enumerate(bands[1:]):
                first_corner(details[:, level, :, k], lengths, 2).copy_(band)
        return details.flatten(1, 3)

    def _adjoint(self, y: Tensor) -> Tensor:
        channels, space = self.domain_shape[0], self.domain_shape[1:]
        details = y.unflatten(1, (self.levels, channels, self.bands))
        plan = self._plan()
        smooth = first_corner(y.new_zeros(y.shape[0], channels, *space), plan[-1], 2)
        for level in range(self.levels - 1, -1, -1):
            before = plan[level - 1] if level else space
            bands = [smooth]
            for k in range(self.bands):
                bands.append(first_corner(details[:, level, :, k], plan[level], 2))
            for axis in range(len(space) + 1, 1, -1):
                bands = [
                    self._synthesize(low, high, axis, before[axis - 2], 2**level)
                    for low, high in zip(bands[::2], bands[1::2])
                ]
            smooth = bands[0]
        return smooth

    def _plan(self) -> list[tuple[int, ...]]:
        """Return the numbers of places along the axes per level."""
        reach, lengths, plan = len(self._low) - 1, self.domain_shape[1:], []
        for level in range(self.levels):
            lengths = tuple(n - reach * 2**level if n > reach * 2**level else n for n in lengths)
            plan.append(lengths)
        return plan

    def _analyze(self, x: Tensor, axis: int, length: int, step: int) -> tuple[Tensor, Tensor]:
        """Compute low and high frequencies along an axis, with ``step`` between the samples."""
        if length == x.shape[axis]:  # too short to be split
            return x, torch.zeros_like(x)
        first = x.narrow(axis, 0, length)
        low, high = self._low[0] * first, self._high[0] * first
        for k in range(1, len(self._low)):
            samples = x.narrow(axis, k * step, length)
            low.add_(samples, alpha=self._low[k])
            high.add_(samples, alpha=self._high[k])
        return low, high

    def _synthesize(self, low: Tensor, high: Tensor, axis: int, n: int, step: int) -> Tensor:
        """Apply the transpose of `_analyze`; n is the length of its argument."""
        length = low.shape[axis]
        if length == n:
            return low
        shape = list(low.shape)
        shape[axis] = n
        x = low.new_zeros(shape)
        for k in range(len(self._low)):
            samples = x.narrow(axis, k * step, length)
            samples.add_(low, alpha=self._low[k]).add_(high, alpha=self._high[k])
        return x

    def _known_norm(self) -> Tensor:
        # A bound, which the highest frequencies of a large image reach: |A|^2 <= 1/2 per axis that is
        # split, because the transform of a line keeps the norm, and a detail of the first level is
        # divided by sqrt(2) per axis.
        split = sum(n < before for n, before in zip(self._plan()[0], self.domain_shape[1:]))
        return torch.tensor([2 ** (-split / 2) if split else 0.0], dtype=torch.float64)

    def normal_symbol(self) -> tuple[Tensor, bool]:
        """Return the symbol of ``A^T A`` for an image that wraps around."""
        space = self.domain_shape[1:]
        total = torch.zeros(1, dtype=torch.float64)
        smooth = torch.ones(1, dtype=torch.float64)
        before: Sequence[int] = space
        for level, lengths in enumerate(self._plan()):
            both = low = torch.ones(1, dtype=torch.float64)
            for axis, n in enumerate(space):
                if lengths[axis] == before[axis]:
                    continue
                last = axis == len(space) - 1
                angles = torch.arange(n // 2 + 1 if last else n, dtype=torch.float64)
                angles = angles * (2 * torch.pi * 2**level / n)
                taps = torch.tensor(self._low, dtype=torch.float64)
                phases = angles[:, None] * torch.arange(len(taps), dtype=torch.float64)
                response = (taps * phases.cos()).sum(1) ** 2 + (taps * phases.sin()).sum(1) ** 2
                shape = [-1 if k == axis else 1 for k in range(len(space))]
                # |low|^2 + |high|^2 = 1/2 at every frequency.
                low, both = low * response.view(shape), both * 0.5
            total, smooth, before = total + smooth * (both - low), smooth * low, lengths
        half = (*space[:-1], space[-1] // 2 + 1)
        return total.expand(1, 1, *half), False

    def __repr__(self) -> str:
        return f"StationaryWavelet({self.domain_shape}, {self.wavelet!r}, levels={self.levels})"
