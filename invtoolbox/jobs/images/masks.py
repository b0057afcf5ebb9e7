"""Which pixels of a picture are known: by a mask in black and white, or by the picture itself."""

from __future__ import annotations

import torch
from torch import Tensor

from invtoolbox.datasets.volumes.pictures import Original
from invtoolbox.errors import InputError


def known_by_mask(mask: Tensor, size: tuple[int, ...], place: str) -> Tensor:
    """Return the pixels that are black in a mask, ``(1, rows, columns)`` booleans.

    Args:
        mask: the mask, ``(channel, rows, columns)``, of two values; pixels of the larger one are
            missing.
        size: rows and columns of the picture.
        place: file of the mask, for errors.

    Raises:
        InputError: the mask has another size, more values or colors, or leaves no pixel unknown or
            known.

    >>> known_by_mask(torch.tensor([[[0.0, 1.0]]]), (1, 2), "mask.png")
    tensor([[[ True, False]]])
    """
    rows, columns = mask.shape[1:]
    if (rows, columns) != size:
        raise InputError(
            f"the mask {place} has {rows} x {columns} pixels, and the picture {size[0]} x {size[1]}; "
            "draw it on a copy of the picture"
        )
    count = len(mask.unique())
    if count > 2 or not bool((mask == mask[:1]).all()):
        raise InputError(
            f"the mask {place} has {'colors' if count < 3 else f'{count} values'}; save it in black "
            "and white alone, without smooth edges and not as JPEG: white pixels are missing"
        )
    is_known = mask[:1] < (mask.max() if count > 1 else 0.5)
    if bool(is_known.all()):
        raise InputError(f"the mask {place} is black, so no pixel is missing; make those white")
    return _require_any(is_known, place)


def refuse_inverted(is_known: Tensor, picture: Tensor, place: str) -> Tensor:
    """Return the known pixels, or raise an `InputError` if they are empty in a picture with content.

    Args:
        is_known: known pixels, ``(1, rows, columns)``.
        picture: the picture, ``(batch, channel, rows, columns)``.
        place: file of the mask, for errors.

    >>> refuse_inverted(torch.tensor([[[True, False]]]), torch.tensor([[[[0.0, 0.3]]]]), "mask.png")
    Traceback (most recent call last):
        ...
    invtoolbox.errors.InputError: all pixels that are black in the mask mask.png are empty in the \
picture, and others are not; white pixels are missing, so invert the mask
    """
    at_known, at_missing = picture[..., is_known[0]], picture[..., ~is_known[0]]
    if not bool(at_known.any()) and bool(at_missing.any()):
        raise InputError(
            f"all pixels that are black in the mask {place} are empty in the picture, and others are "
            "not; white pixels are missing, so invert the mask"
        )
    return is_known


def known_by_picture(original: Original | None, source: str) -> Tensor:
    """Return the pixels that are neither NaN nor wholly transparent, ``(1, rows, columns)``.

    Args:
        original: file of the picture; None for other data.
        source: name of the data, for errors.

    Raises:
        InputError: all pixels are known, or none.
    """
    is_known = None if original is None else torch.as_tensor(original.known())[None]
    if is_known is None or bool(is_known.all()):
        raise InputError(
            f"{source} has no pixels that are transparent or NaN, so nothing is missing; give a mask "
            "whose white pixels are missing"
        )
    return _require_any(is_known, source)


def _require_any(known: Tensor, place: str) -> Tensor:
    if not bool(known.any()):
        raise InputError(f"all pixels of {place} are missing, so nothing determines the picture")
    return known
