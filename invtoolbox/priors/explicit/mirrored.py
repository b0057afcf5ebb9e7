"""Images that go on beyond their edges as in a mirror, and the transpose of that."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def mirrored(image: Tensor, reach: int) -> Tensor:
    """The image and ``reach`` pixels beyond, the outermost ones repeated in reverse order; 0 beyond an image smaller than that."""
    for axis in (2, 3):
        n = image.shape[axis]
        m = min(reach, n)
        image = torch.cat(
            [image.narrow(axis, 0, m).flip(axis), image, image.narrow(axis, n - m, m).flip(axis)],
            axis,
        )
        if m < reach:
            image = F.pad(
                image, (reach - m, reach - m) if axis == 3 else (0, 0, reach - m, reach - m)
            )
    return image


def mirrored_back(padded: Tensor, reach: int) -> Tensor:
    """The transpose of `mirrored`."""
    for axis in (3, 2):
        n = padded.shape[axis] - 2 * reach
        m = min(reach, n)
        inside = padded.narrow(axis, reach, n).clone()
        inside.narrow(axis, 0, m).add_(padded.narrow(axis, reach - m, m).flip(axis))
        inside.narrow(axis, n - m, m).add_(padded.narrow(axis, reach + n, m).flip(axis))
        padded = inside
    return padded
