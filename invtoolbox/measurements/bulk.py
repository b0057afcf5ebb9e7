"""Attenuation of the bulk of an object, to which metal is compared."""

from __future__ import annotations

from torch import Tensor

#: Attenuation of metal relative to the bulk of the object: about 3000 HU in a patient.
METAL = 4.0
#: The object has at least this number of pixels per pixel of metal, and this multiple of the noise of air.
_RARE, _NOISE = 3, 5.0


def bulk(image: Tensor) -> Tensor:
    """Return the median of the object in an image: of the values above Otsu's threshold.

    If few pixels lie far above the rest, the threshold separates metal from the object. Then the values
    below it are divided once more.

    Args:
        image: values of any shape.

    >>> import torch
    >>> image = torch.zeros(100)
    >>> image[:40], image[40:45] = 2.0, 90.0
    >>> float(bulk(image))
    2.0
    """
    ordered = image.detach().flatten().sort().values
    level = _otsu(ordered)
    above, below = ordered[ordered > level], ordered[ordered <= level]
    if not len(above):
        return ordered[-1]
    rest = below[below > _otsu(below)]
    if len(rest) > _RARE * len(above):
        noise = -below[: max(1, int((below < 0).sum()))].median()
        if noise * _NOISE < rest.median() < above.median() / METAL:
            return rest.median()
    return above.median()


def _otsu(ordered: Tensor) -> float:
    """Return Otsu's threshold of ascending values, of which 1 % at both ends are cut off."""
    from skimage.filters import threshold_otsu

    low, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.01, 0.99))
    if not bool(high > low):
        return float(low)
    return float(threshold_otsu(ordered.clamp(low, high).cpu().numpy()))
