"""Support of a kernel: crop the part of its array in which next to nothing of it lies."""

from __future__ import annotations

import torch
from torch import Tensor

#: Share of the sum of moduli that a crop may lose. It changes a blurred picture by at most this share
#: of its largest value, a quarter of a grey level of 8 bits.
LOST = 1e-3
#: Share of its entries that a cropped kernel may keep; a crop that saves less is not worth a change.
_WORTH = 0.5


def crop_kernel(kernel: Tensor, lost: float = LOST) -> Tensor:
    """Crop a kernel around its middle, and keep its sum.

    Arrays of measured point spread functions are often as large as the stack, which makes every
    tile of a deconvolution as large. The middle of an axis of length n is n // 2, and lengths
    become odd.

    Args:
        kernel: kernel of any number of axes.
        lost: share of the sum of moduli that may be lost.

    Returns:
        The smaller kernel, or the kernel itself if half of its entries or more would stay.

    >>> kernel = torch.zeros(64, 64); kernel[31:34, 32] = 1 / 3
    >>> crop_kernel(kernel).shape
    torch.Size([3, 1])
    """
    moduli, axes = kernel.abs().double(), range(kernel.ndim)
    reach = [n // 2 for n in kernel.shape]
    for axis in axes:
        profile = moduli.sum([k for k in axes if k != axis])
        away = (torch.arange(len(profile), device=profile.device) - reach[axis]).abs()
        # Mass at each distance from the middle, and mass beyond it.
        rings = profile.new_zeros(int(away.max()) + 1).index_add(0, away, profile)
        beyond = rings.flip(0).cumsum(0).flip(0) - rings
        within = beyond <= lost / kernel.ndim * profile.sum()
        reach[axis] = int(within.nonzero()[0])
    starts = [max(n // 2 - r, 0) for n, r in zip(kernel.shape, reach)]
    stops = [min(n // 2 + r + 1, n) for n, r in zip(kernel.shape, reach)]
    cropped = kernel[tuple(slice(a, b) for a, b in zip(starts, stops))]
    if cropped.numel() > _WORTH * kernel.numel() or not bool(cropped.sum() != 0):
        return kernel
    if any(b - a != 2 * r + 1 for a, b, r in zip(starts, stops, reach)):
        return kernel  # an axis of even length in which the outermost entry counts
    return cropped * (kernel.sum() / cropped.sum())
