"""Masks of measurements, compared with the measurements that are there."""

from __future__ import annotations

import torch
from torch import Tensor

#: Least share of the places of a mask at which measurements are not zero, if the mask is theirs.
_FILLED = 0.5


def explain_mismatch(y: Tensor, mask: Tensor) -> str | None:
    """Return the change of a mask that explains which measurements are zero or not finite.

    The stated mask is right if no measurement lies outside of it, and a whole picture, with values
    everywhere, contradicts no mask.

    Args:
        y: measurements ``(batch, channel, *space)``.
        mask: true at the measurements that were taken; it broadcasts against ``y``.

    Returns:
        Words for the change, or None if the mask is not contradicted, or by all candidates.

    >>> mask = torch.eye(4, dtype=torch.bool)[:, [1, 2, 0, 3]]
    >>> explain_mismatch(torch.ones(4, 4) * mask.mT, mask)
    'if its rows and columns are exchanged (mask.mT)'
    >>> explain_mismatch(torch.ones(4, 4), mask), explain_mismatch(torch.ones(4, 4) * mask, mask)
    (None, None)
    """
    measured = (y != 0) & y.isfinite()
    if bool(measured.all()) or not bool((measured & ~mask).any()):
        return None
    space = tuple(range(2 - y.ndim, 0)) if y.ndim > 2 else (-2, -1)
    candidates = {
        "if it is inverted (~mask, 1 at measured places)": ~mask,
        "if its frequency zero lies in the middle (torch.fft.fftshift(mask))": torch.fft.fftshift(
            mask, dim=[axis for axis in space if mask.shape[axis] > 1]
        ),
        "if its rows are reversed (mask.flip(-2))": mask.flip(-2),
        "if its columns are reversed (mask.flip(-1))": mask.flip(-1),
    }
    if mask.shape[-1] == mask.shape[-2] or y.shape[-1] == y.shape[-2]:
        candidates["if its rows and columns are exchanged (mask.mT)"] = mask.mT
    for words, candidate in candidates.items():
        count = int(candidate.expand(measured.shape).sum())
        if not bool((measured & ~candidate).any()) and int(measured.sum()) >= _FILLED * count:
            return words
    return None
