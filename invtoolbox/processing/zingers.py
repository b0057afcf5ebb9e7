"""Zingers: single readings far above their surroundings, from photons that hit the camera directly."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.errors import InputError
from invtoolbox.processing.median import local_median


def remove_zingers(
    counts: Tensor, threshold: float = 8.0, excess: float = 0.1, size: int = 3
) -> tuple[Tensor, Tensor]:
    r"""Replace readings that stand out above the median of their surroundings by that median; and tell which.

    A reading is a zinger where it exceeds the median m of the ``size x size`` readings about it (over the last two axes: view and
    cell of a sinogram, row and cell of a projection) by more than ``threshold`` standard deviations of the noise **and** by more than
    ``excess * m``. The noise is taken as that of counting, ``s sqrt(m)``, with s from the median of ``|counts - m| / sqrt(m)`` over
    the item, so one threshold serves bright and dark parts.

    Args:
        counts: detector counts or transmissions ``(batch, channel, view, *detector)``, before the logarithm.
        threshold: in standard deviations.
        excess: least relative excess; it protects edges where there is hardly any noise.
        size: of the surroundings, odd.

    Returns:
        the counts, in their unit, and a boolean mask of what was replaced.

    >>> counts = torch.full((1, 1, 5, 5), 100.0)
    >>> counts[0, 0, 2, 2] = 900.0
    >>> clean, found = remove_zingers(counts)
    >>> float(clean.max()), int(found.sum())
    (100.0, 1)
    """
    if not threshold > 0 or not excess >= 0:
        raise InputError(
            f"remove_zingers takes a positive threshold and an excess of at least 0, got {threshold} and {excess}"
        )
    if counts.ndim < 3:
        raise InputError(
            f"remove_zingers takes counts (batch, channel, view, *detector), got shape {tuple(counts.shape)}"
        )
    values = counts if counts.is_floating_point() else counts.to(torch.float32)
    middle = local_median(values, (size, size))
    scale = middle.clamp_min(torch.finfo(values.dtype).tiny).sqrt()
    above = values - middle
    # The median of |n| is 0.6745 standard deviations; that the middle itself is noisy makes it a little more.
    spread = (above / scale).abs().flatten(1).median(1).values / 0.6744897501960817
    limit = threshold * spread.view(-1, *[1] * (values.ndim - 1)) * scale
    found = (above > limit) & (above > excess * middle.abs())
    return torch.where(found, middle, values), found
