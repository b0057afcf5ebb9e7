"""Descriptors of images that do not depend on the modality (MIND)."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, avg_pool3d, pad

#: Edge of a patch, in pixels.
_PATCH = 3
#: Bounds of the local variance relative to its mean over the image.
_LEAST, _LARGEST = 1e-3, 1e3


def describe(image: Tensor) -> Tensor:
    r"""Return the modality independent neighbourhood descriptor of an image.

    ``MIND(x, r) = 1/n exp(-D(x, x + r) / V(x))`` for the neighbours r of a pixel along the axes,
    with the sum of squared differences D of the patches around x and x + r. V is the mean of D over
    the neighbours, and n scales the largest entry of a pixel to 1 (Heinrich et al., Med. Image
    Anal. 16, 2012). It is a map of edges and corners in which gain and contrast do not matter, in
    units of its standard deviation.

    Args:
        image: image ``(batch, channel, *space)`` with 2 or 3 axes of space.

    Returns:
        descriptor ``(batch, 2 d channel, *space)``.

    >>> image = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    >>> (describe(5 - 2 * image) - describe(image)).abs().max() < 1e-4
    tensor(True)
    """
    space = range(2, image.ndim)
    widths = [1] * (2 * len(space))
    padded = pad(image, widths, mode="replicate")
    mean = cast(Callable[..., Tensor], avg_pool2d if image.ndim == 4 else avg_pool3d)
    distances = []
    for axis in space:
        for step in (0, 2):
            neighbour = padded
            for k in space:
                neighbour = neighbour.narrow(k, step if k == axis else 1, image.shape[k])
            squares = (image - neighbour).square()
            distances.append(mean(squares, _PATCH, 1, _PATCH // 2, count_include_pad=False))
    D = torch.stack(distances, 2)
    V = D.mean(2, keepdim=True)
    typical = V.mean(tuple(range(2, V.ndim)), keepdim=True).clamp_min(1e-30)
    entries = (-D / V.maximum(_LEAST * typical).minimum(_LARGEST * typical)).exp()
    entries = (entries / entries.amax(2, keepdim=True)).flatten(1, 2)
    spread = entries.flatten(1).std(1, correction=0).clamp_min(1e-6)
    return entries / spread.view(-1, *[1] * (entries.ndim - 1))
