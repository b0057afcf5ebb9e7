"""Noise level of k-space, from its outermost samples."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.errors import InputError


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
