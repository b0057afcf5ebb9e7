"""The range of intensities of an image, so that a setting can be a fraction of it whatever its unit is."""

from __future__ import annotations

import torch
from torch import Tensor


def intensity_range(image: Tensor, pooling: int = 4, tail: float = 0.005) -> Tensor:
    """Difference between the upper and the lower quantile ``tail`` of block means of ``pooling`` pixels, ``(batch,)``.

    Block means hold little of the noise of a first reconstruction, and quantiles little of a few bright
    pixels. An image without contrast gives its largest modulus, an image of zeros 1.

    >>> intensity_range(torch.tensor([0., 1.]).repeat_interleave(64).view(1, 1, 128))
    tensor([1.])
    """
    values = image.detach()
    for axis in range(2, values.ndim):
        blocks = values.shape[axis] // pooling
        if blocks >= pooling:
            values = (
                values.narrow(axis, 0, blocks * pooling)
                .unflatten(axis, (blocks, pooling))
                .mean(axis + 1)
            )
    ordered = values.flatten(1).sort(dim=1).values
    cut = int(tail * ordered.shape[1])
    spread = ordered[:, ordered.shape[1] - 1 - cut] - ordered[:, cut]
    largest = image.detach().abs().flatten(1).amax(1)
    spread = torch.where(spread > 1e-6 * largest, spread, largest)
    return torch.where(spread > 0, spread, torch.ones_like(spread))
